"""`sotto encode IN OUT.sotto`: audio to container, one file, a pipe or a whole directory."""

from __future__ import annotations

import argparse
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tui.terminal import options

if TYPE_CHECKING:
    from codec.speech.codec import SpeechCodec
    from tui.terminal.progress import Progress


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Describe the command and add its arguments."""
    parser.description = "Encode any audio file, pipe ('-') or directory of audio files."
    parser.add_argument("input", metavar="IN", help="audio file, '-' or directory")
    parser.add_argument("output", metavar="OUT.sotto", help="file, '-', or directory")
    options.add_encoding(parser)
    parser.add_argument("--denoise", action="store_true", help="lower noise and rumble first")
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    """Encode. Returns 1 if files of a directory failed."""
    from tui.batch import check_paths, mirrored, run_batch, stored_seconds
    from tui.terminal.progress import Progress

    encoding = options.encoding(args)
    check_paths(args.input, args.output)
    pairs, total = [], None
    if folder := Path(args.input).is_dir():
        pairs = mirrored(args.input, args.output, audio=True, suffix=".sotto")
    else:
        # Before the model: a misspelt name should not take seconds to be noticed.
        total = stored_seconds(args.input)

    if args.denoise:
        from stream.audio.frontend import check_available

        check_available()

    from codec.speech.codec import SpeechCodec  # only here: this imports torch

    codec = SpeechCodec.load(args.preset, args.device, args.model)
    encode = partial(_encode, codec, encoding, args.denoise)
    if folder:
        return run_batch("encode", pairs, stored_seconds, encode)
    with Progress("encode", total) as progress:
        encode(args.input, args.output, progress)
    return 0


def _encode(
    codec: SpeechCodec,
    encoding: dict[str, Any],
    denoise: bool,
    source: str,
    target: str,
    progress: Progress,
) -> None:
    from codec.files.audio import AudioReader
    from codec.files.paths import atomic_output
    from codec.speech.streams import GROUP, encode_stream

    with AudioReader(source, warn=progress.note) as reader, atomic_output(target) as sink:
        encoder = codec.encoder(**encoding, group=GROUP)
        blocks = progress.follow(reader)
        if denoise:
            from stream.audio.frontend import denoised

            blocks = denoised(blocks)
        encode_stream(encoder, codec.header(encoding["steps"]), blocks, sink)
