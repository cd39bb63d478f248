"""`sotto decode IN.sotto OUT.wav`: container to audio, with simulated loss if asked for."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import TYPE_CHECKING

from codec.arguments import between, number
from tui.terminal import options

if TYPE_CHECKING:
    from tui.commands import Subparsers
    from tui.speech_files import Codec
    from tui.terminal.progress import Reporter

SUFFIX = ".wav"


def add_parser(subparsers: Subparsers) -> None:
    """Add the command to the parser."""
    parser = subparsers.add_parser(
        "decode",
        help="a .sotto file to audio",
        description="Decode a .sotto file, pipe ('-') or directory of .sotto files. The suffix of "
        "the output chooses its format; '-' and directories get WAV.",
    )
    parser.add_argument("input", metavar="IN.sotto", help="file, '-' or directory")
    parser.add_argument("output", metavar="OUT.wav", help="audio file, '-', or directory")
    parser.add_argument(
        "--loss-rate",
        type=between(0, 1),
        default=0.0,
        metavar="P",
        help="simulate the loss of this share of the frames (0..1) and conceal them",
    )
    parser.add_argument(
        "--burst",
        type=_burst,
        default=1.0,
        metavar="L",
        help="mean number of frames lost in a row (default: 1)",
    )
    parser.add_argument(
        "--seed", type=options.count, default=0, metavar="S", help="which frames (default: 0)"
    )
    options.add_device(parser)
    parser.set_defaults(run=run)


def _burst(text: str) -> float:
    value = number(text)
    if value < 1:
        raise argparse.ArgumentTypeError(f"{text} is not at least 1")
    return value


def run(args: argparse.Namespace) -> int:
    """Decode; 0 if all of it went well."""
    from codec.errors import BadInput
    from codec.files.audio import audio_format
    from codec.packet_loss import transitions
    from tui.batch import check_paths, coded_seconds, mirrored, run_batch
    from tui.terminal.errors import UsageError
    from tui.terminal.progress import Progress

    try:
        transitions(args.loss_rate, args.burst)
    except BadInput as error:
        raise UsageError(str(error)) from error
    check_paths(args.input, args.output)
    job = _Job(args)
    if Path(args.input).is_dir():
        pairs = mirrored(args.input, args.output, audio=False, suffix=SUFFIX)
        return run_batch("decode", pairs, job.decode)
    audio_format(args.output)
    with Progress("decode", coded_seconds(args.input)) as progress:
        job.decode(args.input, args.output, progress)
    return 0


class _Job:
    """Decodes files with the codecs their headers ask for, each loaded once."""

    def __init__(self, args: argparse.Namespace) -> None:
        self._args = args
        self._codecs: dict[str, Codec] = {}

    def decode(self, source: str, target: str, progress: Reporter) -> None:
        """One file or pipe into another."""
        from codec.container import ContainerReader
        from codec.files.audio import AudioWriter
        from codec.files.paths import PIPE, display_name, open_input, os_errors
        from codec.packet_loss import losses
        from tui.batch import coded_samples
        from tui.speech_files import decode_stream, open_speech

        args = self._args
        name = "standard input" if source == PIPE else display_name(source)
        with open_input(source) as file, os_errors("read", source):
            total = coded_samples(source, file)
            reader = ContainerReader(file)
            codec = self._codec(open_speech(reader, name).preset)
            reader.require_model(codec.model_id, codec.preset)
            lost = losses(args.loss_rate, args.burst, args.seed) if args.loss_rate else None
            with AudioWriter(target) as writer:
                done = decode_stream(codec, reader, writer.write, progress.advance, lost, total)
        if not reader.intact:
            progress.note(f"{name}: {reader.integrity()}; lost frames concealed")
        if lost is not None:
            progress.note(f"{name}: {done.simulated} of {done.frames} frames dropped and concealed")

    def _codec(self, preset: str) -> Codec:
        from tui.speech_files import load_codec

        if preset not in self._codecs:
            self._codecs[preset] = load_codec(preset, self._args.device)
        return self._codecs[preset]
