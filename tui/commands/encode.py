"""`sotto encode IN... OUT.sotto`: audio to container, one file or pipe, several, or directories."""

from __future__ import annotations

import argparse
from functools import partial
from typing import TYPE_CHECKING, Any

from tui.terminal import options
from tui.terminal.outputs import add_paths

if TYPE_CHECKING:
    from codec.speech.codec import SpeechCodec
    from tui.terminal.progress import Progress


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Describe the command and add its arguments."""
    parser.description = "Encode any audio file, pipe ('-') or directory of audio files."
    add_paths(parser, "IN", "OUT.sotto", "audio file")
    options.add_encoding(parser)
    parser.add_argument("--denoise", action="store_true", help="lower noise and rumble first")
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    """Encode. Returns 1 if some of several files failed."""
    from tui.batch import Work, run_batch, stored_seconds
    from tui.terminal.progress import Progress

    encoding = options.encoding(args)
    work = Work(args, ".sotto")
    # Before the model: a misspelt name should not take seconds to be noticed.
    total = stored_seconds(work.pairs[0][0]) if work.single else None

    if args.denoise:
        from stream.audio.frontend import check_available

        check_available()

    from codec.speech.codec import SpeechCodec  # only here: this imports torch

    codec = SpeechCodec.load(args.preset, args.device, args.model)
    encode = partial(_encode, codec, encoding, args)
    if not work.single:
        return run_batch("encode", work.pairs, stored_seconds, encode)
    with Progress("encode", total) as progress:
        encode(*work.pairs[0], progress)
    return 0


def _encode(
    codec: SpeechCodec,
    encoding: dict[str, Any],
    args: argparse.Namespace,
    source: str,
    target: str,
    progress: Progress,
) -> None:
    from codec.files.audio import AudioReader
    from codec.files.paths import atomic_output
    from codec.speech.streams import GROUP, encode_stream

    with (
        AudioReader(source, warn=progress.note) as reader,
        atomic_output(target, force=args.force) as sink,
    ):
        encoder = codec.encoder(**encoding, group=GROUP)
        blocks = progress.follow(reader)
        if args.denoise:
            from stream.audio.frontend import denoised

            blocks = denoised(blocks)
        encode_stream(encoder, codec.header(encoding["steps"]), blocks, sink)
