"""`sotto decode IN.sotto... OUT.wav`: container to audio, with simulated loss if asked for."""

from __future__ import annotations

import argparse
from functools import cache
from itertools import islice
from typing import TYPE_CHECKING

from tui.own_model import needing
from tui.terminal import options
from tui.terminal.arguments import between, number
from tui.terminal.outputs import add_paths

if TYPE_CHECKING:
    from codec.container import StreamHeader, StreamInfo
    from codec.speech.codec import SpeechCodec
    from tui.terminal.progress import Progress


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Describe the command and add its arguments."""
    parser.description = (
        "Decode a .sotto file, pipe ('-') or directory of .sotto files. The suffix of "
        "the output chooses its format; '-' and directories get WAV."
    )
    add_paths(parser, "IN.sotto", "OUT.wav", ".sotto file")
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
    options.add_model(parser)
    options.add_device(parser)
    parser.set_defaults(run=run)


def _burst(text: str) -> float:
    value = number(text)
    if value < 1:
        raise argparse.ArgumentTypeError(f"{text} is not at least 1")
    return value


def run(args: argparse.Namespace) -> int:
    """Decode. Returns 1 if some of several files failed."""
    from codec.errors import BadInput
    from codec.files.audio import audio_format
    from codec.packet_loss import transitions
    from tui.batch import Work, run_batch
    from tui.terminal.errors import UsageError
    from tui.terminal.progress import Progress

    try:
        transitions(args.loss_rate, args.burst)
    except BadInput as error:
        raise UsageError(str(error)) from error
    work = Work(args, ".wav")
    job = _Job(args)
    if not work.single:
        return run_batch("decode", work.pairs, job.seconds, job.decode)
    source, target = work.pairs[0]
    audio_format(target)
    with Progress("decode", job.seconds(source)) as progress:
        job.decode(source, target, progress)
    return 0


class _Job:
    """Decodes files with the codecs that their headers ask for, each loaded once."""

    def __init__(self, args: argparse.Namespace) -> None:
        self._args = args
        self._codec = cache(self._load)
        self._scanned = cache(_scanned)

    def seconds(self, source: str) -> float | None:
        """Duration of a .sotto file; None for pipes. Raises SottoError for other files."""
        found = self._scanned(source)
        return None if found is None else found.duration_s

    def decode(self, source: str, target: str, progress: Progress) -> None:
        """Decode one file or pipe into another."""
        from codec.container import ContainerReader
        from codec.errors import BadStream
        from codec.files.audio import audio_output
        from codec.files.paths import PIPE, display_name, open_input, os_errors
        from codec.packet_loss import losses
        from codec.speech.streams import decode_stream

        args = self._args
        name = "standard input" if source == PIPE else display_name(source)
        found = self._scanned(source)
        total = None if found is None else found.total_samples
        lost = losses(args.loss_rate, args.burst, args.seed) if args.loss_rate else None
        with open_input(source) as file, os_errors("read", source):
            reader = ContainerReader(file)
            _check_speech(reader.header, name)
            header = reader.header
            with needing(source, header.model_id, header.preset, args.model):
                codec = self._codec(header.preset)
            reader.require_model(codec.model_id, codec.preset)
            with audio_output(target, force=args.force) as writer:
                decoder = codec.decoder(reader.header.steps)
                blocks = decode_stream(decoder, reader, lost, total)
                for block in progress.follow(blocks):
                    writer.write(block)
                if not reader.frames:
                    raise BadStream("the stream holds no frames")
        if not reader.intact:
            progress.note(f"{name}: {reader.integrity()}; lost frames concealed")
        if lost is not None:
            received = reader.frames - reader.damaged_frames
            dropped = sum(islice(losses(args.loss_rate, args.burst, args.seed), received))
            progress.note(f"{name}: {dropped} of {reader.frames} frames dropped and concealed")

    def _load(self, preset: str) -> SpeechCodec:
        from codec.speech.codec import SpeechCodec  # only here: this imports torch

        return SpeechCodec.load(preset, self._args.device, self._args.model)


def _scanned(source: str) -> StreamInfo | None:
    """The contents of a .sotto file; None for pipes, which can be read only once."""
    from codec.container import scan
    from codec.files.paths import is_special, open_input, os_errors

    if is_special(source):
        return None
    with open_input(source) as file, os_errors("read", source):
        return scan(file)


def _check_speech(header: StreamHeader, name: str) -> None:
    """Raise BadInput unless the container `name` holds speech that can be decoded."""
    from codec.errors import BadInput
    from codec.signal.analysis import SAMPLE_RATE, STEP_SAMPLES

    if header.kind != "speech":
        raise BadInput(f"{name} holds an image, not speech")
    coded = header.sample_rate, header.frame_samples
    if coded != (SAMPLE_RATE, header.steps * STEP_SAMPLES):
        raise BadInput(
            f"{name} holds packets of {header.frame_samples} samples at {header.sample_rate} Hz, "
            "which cannot be decoded"
        )
