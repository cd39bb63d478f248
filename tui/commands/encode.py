"""`sotto encode IN OUT.sotto`: audio to container, one file, a pipe or a whole directory."""

from __future__ import annotations

import argparse
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

from tui.terminal import options

if TYPE_CHECKING:
    from tui.commands import Subparsers
    from tui.speech_files import Codec, EncodeOptions
    from tui.terminal.progress import Reporter

SUFFIX = ".sotto"


def add_parser(subparsers: Subparsers) -> None:
    """Add the command to the parser."""
    parser = subparsers.add_parser(
        "encode",
        help="audio to a .sotto file",
        description="Encode any audio file, pipe ('-') or directory of audio files.",
    )
    parser.add_argument("input", metavar="IN", help="audio file, '-' or directory")
    parser.add_argument("output", metavar="OUT.sotto", help="file, '-', or directory")
    options.add_encoding(parser)
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    """Encode; 0 if all of it went well."""
    from tui.batch import check_paths, mirrored, run_batch, stored_seconds
    from tui.speech_files import EncodeOptions, load_codec
    from tui.terminal.progress import Progress

    options.check_encoding(args)
    check_paths(args.input, args.output)
    choice = EncodeOptions.of(args)
    if Path(args.input).is_dir():
        pairs = mirrored(args.input, args.output, audio=True, suffix=SUFFIX)
        codec = load_codec(args.preset, args.device)
        return run_batch("encode", pairs, _one(codec, choice))
    # Before the model: a misspelt name should not take seconds to be noticed.
    total = stored_seconds(args.input)
    codec = load_codec(args.preset, args.device)
    with Progress("encode", total) as progress:
        _one(codec, choice)(args.input, args.output, progress)
    return 0


def _one(codec: Codec, choice: EncodeOptions) -> Callable[[str, str, Reporter], None]:
    def encode(source: str, target: str, progress: Reporter) -> None:
        from codec.files.audio import AudioReader
        from codec.files.paths import atomic_output
        from tui.speech_files import encode_stream

        with AudioReader(source, warn=progress.note) as reader, atomic_output(target) as sink:
            encode_stream(codec, reader, sink, choice, progress.advance)

    return encode
