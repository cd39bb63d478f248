"""`sotto encode IN... OUT.sotto`: audio to container, one file or pipe, several, or directories."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import TYPE_CHECKING

from tui.corpora.options import add_workers, limit_threads, many
from tui.own_model import preset_id
from tui.terminal import options
from tui.terminal.outputs import add_paths

if TYPE_CHECKING:
    from tui.corpora.job import Made, Watch


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Describe the command and add its arguments."""
    parser.description = "Encode any audio file, pipe ('-') or directory of audio files."
    add_paths(parser, "IN", "OUT.sotto", "audio file")
    options.add_encoding(parser)
    parser.add_argument("--denoise", action="store_true", help="lower noise and rumble first")
    add_workers(parser)
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    """Encode. Returns 1 if some of several files failed."""
    from tui.batch import Work, run_batch, stored_seconds
    from tui.terminal.progress import Progress

    encoding = options.encoding(args)
    if args.denoise:
        from stream.audio.frontend import check_available

        check_available()
    if many(args):
        from tui.corpora.corpus import Coding, code_corpus, work_of

        shaping = {**encoding, "preset": args.preset, "denoise": args.denoise}
        model = preset_id(args.preset, args.model)
        return code_corpus(work_of(args, ".sotto"), Coding("encode", Job, args, model, shaping))
    work = Work(args, ".sotto")
    # Before the model: a misspelt name should not take seconds to be noticed.
    total = stored_seconds(work.pairs[0][0]) if work.single else None
    job = Job(args)
    if not work.single:
        return run_batch("encode", work.pairs, stored_seconds, job)
    with Progress("encode", total) as progress:
        job(*work.pairs[0], progress)
    return 0


class Job:
    """Encodes files with a codec that is loaded once."""

    def __init__(self, args: argparse.Namespace) -> None:
        """args: of this command. Raises BadInput if the codec cannot be loaded."""
        from codec.speech.codec import SpeechCodec  # only here: this imports torch

        self._args, self._encoding = args, options.encoding(args)
        self._codec = SpeechCodec.load(args.preset, args.device, args.model)
        limit_threads(args)

    def __call__(self, source: str, target: str, watch: Watch, draft: Path | None = None) -> Made:
        """Encode one file or pipe into another; draft: see `codec.files.paths.atomic_output`."""
        from codec.files.audio import AudioReader
        from codec.files.paths import atomic_output
        from codec.speech.streams import GROUP, encode_stream
        from tui.corpora.job import Length, Made

        args, codec, encoding = self._args, self._codec, self._encoding
        length = Length()
        with (
            AudioReader(source, warn=watch.note) as reader,
            atomic_output(target, force=args.force, draft=draft) as sink,
        ):
            encoder = codec.encoder(**encoding, group=GROUP)
            blocks = length.of(watch.follow(reader))
            if args.denoise:
                from stream.audio.frontend import denoised

                blocks = denoised(blocks)
            size = encode_stream(encoder, codec.header(encoding["steps"]), blocks, sink)
        return Made(8 * size, length.seconds, codec.model_id)
