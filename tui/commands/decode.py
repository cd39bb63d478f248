"""`sotto decode IN.sotto... OUT.wav`: container to audio, with simulated loss if asked for."""

from __future__ import annotations

import argparse
from functools import cache
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING

from tui.corpora.options import add_workers, limit_threads, many
from tui.own_model import folder_id, needing
from tui.terminal import options
from tui.terminal.arguments import between, number
from tui.terminal.outputs import add_paths

if TYPE_CHECKING:
    from codec.container import StreamHeader, StreamInfo
    from codec.speech.codec import SpeechCodec
    from tui.corpora.job import Made, Watch


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
    options.add_device(
        parser, "where the network runs (auto: preset paper on a GPU if there is one, else the CPU)"
    )
    add_workers(parser)
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
    if many(args):
        from tui.corpora.corpus import Coding, code_corpus, work_of

        shaping = {"loss_rate": args.loss_rate, "burst": args.burst, "seed": args.seed}
        model = "" if args.model is None else folder_id(args.model)
        return code_corpus(work_of(args, ".wav"), Coding("decode", Job, args, model, shaping))
    work = Work(args, ".wav")
    job = Job(args)
    if not work.single:
        return run_batch("decode", work.pairs, job.seconds, job)
    source, target = work.pairs[0]
    audio_format(target)
    with Progress("decode", job.seconds(source)) as progress:
        job(source, target, progress)
    return 0


class Job:
    """Decodes files with the codecs that their headers ask for, each loaded once."""

    def __init__(self, args: argparse.Namespace) -> None:
        """args: of this command."""
        self._args = args
        self._codec = cache(self._load)
        self._scanned = cache(_scanned)

    def seconds(self, source: str) -> float | None:
        """Duration of a .sotto file; None for pipes. Raises SottoError for other files."""
        found = self._scanned(source)
        return None if found is None else found.duration_s

    def __call__(self, source: str, target: str, watch: Watch, draft: Path | None = None) -> Made:
        """Decode one file or pipe into another; draft: see `codec.files.paths.atomic_output`."""
        from codec.container import ContainerReader
        from codec.errors import BadStream
        from codec.files.audio import audio_output
        from codec.files.paths import PIPE, display_name, open_input, os_errors
        from codec.packet_loss import losses
        from codec.speech.streams import decode_stream
        from tui.corpora.job import Length, Made

        args, length = self._args, Length()
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
            with audio_output(target, force=args.force, draft=draft) as writer:
                decoder = codec.decoder(reader.header.steps)
                blocks = decode_stream(decoder, reader, lost, total)
                for block in length.of(watch.follow(blocks)):
                    writer.write(block)
                if not reader.frames:
                    raise BadStream("the stream holds no frames")
        if not reader.intact:
            watch.note(f"{name}: {reader.integrity()}; lost frames concealed")
        if lost is not None:
            received = reader.frames - reader.damaged_frames
            dropped = sum(islice(losses(args.loss_rate, args.burst, args.seed), received))
            watch.note(f"{name}: {dropped} of {reader.frames} frames dropped and concealed")
        return Made(8 * reader.container_bytes, length.seconds, header.model_id)

    def _load(self, preset: str) -> SpeechCodec:
        from codec.speech.codec import SpeechCodec  # only here: this imports numba

        codec = SpeechCodec.load(preset, self._args.device, self._args.model, decoding=True)
        limit_threads(self._args)
        return codec


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
