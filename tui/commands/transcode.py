"""`sotto transcode IN... OUT.wav`: encode, decode, and report rate, quality and speed."""

from __future__ import annotations

import argparse
import contextlib
import json
import math
import sys
import tempfile
import time
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tui.corpora.options import add_workers, limit_threads, many
from tui.own_model import preset_id
from tui.terminal import options
from tui.terminal.outputs import add_force, check_outputs

if TYPE_CHECKING:
    from codec.signal.samples import FloatArray
    from codec.speech.codec import SpeechCodec
    from tui.corpora.job import Made, Watch

# PESQ is made for utterances; its fixed tables overflow on long recordings.
SCORED_SECONDS = 30


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Describe the command and add its arguments."""
    parser.description = (
        "Encode and decode audio, and report bitrate, PESQ, STOI and speed. Quality "
        f"is scored on the first {SCORED_SECONDS} seconds."
    )
    parser.add_argument(
        "input",
        nargs="+",
        metavar="IN",
        help="audio file, several, '-', or with --jobs or --ray a directory",
    )
    parser.add_argument("output", metavar="OUT.wav", help="audio file or '-' (of several: DIR/)")
    add_force(parser)
    options.add_encoding(parser)
    parser.add_argument("--picture", metavar="OUT.png", help="spectrograms before and after")
    parser.add_argument(
        "--json", action="store_true", help="for programs: an object, of several inputs a line each"
    )
    add_workers(parser)
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    """Transcode and report. Returns 1 if some of several files failed."""
    from codec.files.audio import audio_format
    from codec.files.paths import PIPE, atomic_output
    from tui.batch import Work, run_batch, stored_seconds
    from tui.terminal.errors import UsageError
    from tui.terminal.progress import Progress

    encoding = options.encoding(args)
    if many(args):
        from tui.corpora.corpus import Coding, code_corpus, work_of

        if args.picture is not None:
            raise UsageError("--picture shows a single input")
        shaping = {**encoding, "preset": args.preset}
        model = preset_id(args.preset, args.model)
        work = work_of(args, ".wav", audio=True)
        return code_corpus(work, Coding("transcode", Job, args, model, shaping))
    work = Work(args, ".wav", folders=False)
    if args.picture is not None:
        if not work.single:
            raise UsageError("--picture shows a single input")
        read = [work.pairs[0][0], args.model]
        check_outputs(read, [args.output, args.picture], force=args.force)
    audio_format(work.pairs[0][1])
    if args.picture is not None and not args.picture.lower().endswith(".png"):
        raise UsageError("--picture writes a .png file")
    if work.single:
        total = stored_seconds(work.pairs[0][0])
    with contextlib.ExitStack() as outputs:
        # Before the work, which would be lost if the picture could not be made or written.
        if args.picture is not None:
            from tui.picture import spectrograms_png

            picture = outputs.enter_context(atomic_output(args.picture, force=args.force))

        job = Job(args)

        def transcode(source: str, target: str, progress: Progress) -> None:
            print(job(source, target, progress).report)

        if not work.single:
            return run_batch("transcode", work.pairs, stored_seconds, transcode)
        with Progress("transcode", None if total is None else 2 * total) as progress:
            report, before, after = job.transcode(*work.pairs[0], progress)
        text = json.dumps(report, indent=2) if args.json else _as_text(report)
        # With the audio on standard output, the report would land inside it.
        print(text, file=sys.stderr if args.output == PIPE else sys.stdout)
        # Last, so that a disk that is full by now costs no more than the picture.
        if args.picture is not None:
            picture.write(spectrograms_png(before, after))
    return 0


class Job:
    """Transcodes files with a codec that is loaded once."""

    def __init__(self, args: argparse.Namespace) -> None:
        """args: of this command. Raises BadInput if the codec cannot be loaded."""
        from codec.speech.codec import SpeechCodec  # only here: this imports torch

        self._args, self._encoding = args, options.encoding(args)
        self._codec = SpeechCodec.load(args.preset, args.device, args.model)
        limit_threads(args)
        _warm_up(self._codec)

    def __call__(self, source: str, target: str, watch: Watch, draft: Path | None = None) -> Made:
        """Transcode one file of several; draft: see `codec.files.paths.atomic_output`."""
        from codec.files.paths import display_name
        from tui.corpora.job import Made

        report, _, _ = self.transcode(source, target, watch, draft)
        if self._args.json:
            text = json.dumps({"input": source, "output": target, **report})
        else:
            text = f"{display_name(target)}\n{_as_text(report)}\n"
        seconds = report["duration_s"]
        bits = round(report["total_bits_per_s"] * seconds)
        return Made(bits, seconds, self._codec.model_id, text)

    def transcode(
        self, source: str, target: str, watch: Watch, draft: Path | None = None
    ) -> tuple[dict[str, Any], FloatArray, FloatArray]:
        """The report on one file, and the samples that were scored, before and after."""
        args = self._args
        return _transcode(self._codec, self._encoding, args.force, source, target, watch, draft)


def _transcode(
    codec: SpeechCodec,
    encoding: dict[str, Any],
    force: bool,
    source: str,
    target: str,
    watch: Watch,
    draft: Path | None,
) -> tuple[dict[str, Any], FloatArray, FloatArray]:
    """The report on one file, and the samples that were scored, before and after."""
    import numpy as np

    from codec.container import ContainerReader, scan
    from codec.files.audio import AudioReader, audio_output
    from codec.files.paths import os_errors
    from codec.speech.streams import GROUP, decode_stream, encode_stream

    original: list[FloatArray] = []
    decoded: list[FloatArray] = []
    with tempfile.TemporaryFile() as coded:
        with (
            AudioReader(source, warn=watch.note) as reader,
            os_errors("write", "a temporary file"),
        ):
            reading = _Timed(_kept(watch.follow(reader), original))
            started = time.perf_counter()
            encoder = codec.encoder(**encoding, group=GROUP)
            encode_stream(encoder, codec.header(encoding["steps"]), reading, coded)
            encode_seconds = time.perf_counter() - started - reading.seconds
        coded.seek(0)
        found = scan(coded)
        coded.seek(0)
        with audio_output(target, force=force, draft=draft) as writer:
            container, length = ContainerReader(coded), found.total_samples
            decoder = codec.decoder(encoding["steps"])
            decoding = _Timed(decode_stream(decoder, container, total_samples=length))
            for block in _kept(watch.follow(decoding), decoded):
                writer.write(block)
    before, after = np.concatenate(original), np.concatenate(decoded)
    seconds = found.duration_s
    report: dict[str, Any] = {
        "preset": codec.preset,
        "model_id": codec.model_id,
        "duration_s": seconds,
        "frames": found.frames,
        "payload_bits_per_s": found.payload_bits_per_s,
        "total_bits_per_s": found.total_bits_per_s,
        **_scores(before, after),
        "scored_s": min(seconds, float(SCORED_SECONDS)),
        "encode_real_time_factor": encode_seconds / seconds,
        "decode_real_time_factor": decoding.seconds / seconds,
    }
    return report, before, after


def _warm_up(codec: SpeechCodec) -> None:
    """Code one frame of silence, so that compiling is not counted as coding."""
    import numpy as np

    from codec.signal.analysis import FRAME_SAMPLES

    encoder, decoder = codec.encoder(iterations=1), codec.decoder()
    silence = np.zeros(FRAME_SAMPLES, np.float32)
    for encoded in [*encoder.push(silence), *encoder.finish()]:
        decoder.push(encoded.packet)
    decoder.finish()


class _Timed:
    """An iterator of blocks, and the seconds spent waiting for them."""

    def __init__(self, blocks: Iterable[FloatArray]) -> None:
        self._blocks = iter(blocks)
        self.seconds = 0.0

    def __iter__(self) -> _Timed:
        return self

    def __next__(self) -> FloatArray:
        started = time.perf_counter()
        try:
            return next(self._blocks)
        finally:
            self.seconds += time.perf_counter() - started


def _kept(blocks: Iterable[FloatArray], start: list[FloatArray]) -> Iterator[FloatArray]:
    """The same blocks; copies of the first SCORED_SECONDS at 16 kHz are added to `start`."""
    from codec.signal.samples import SAMPLE_RATE

    room = SCORED_SECONDS * SAMPLE_RATE
    for block in blocks:
        if room:
            start.append(block[:room].copy())
            room -= len(start[-1])
        yield block


def _scores(original: FloatArray, decoded: FloatArray) -> dict[str, float | str | None]:
    """PESQ and STOI, None where not defined (no speech, too short) or not installed."""
    names = ("pesq_nb", "pesq_wb", "stoi")
    try:
        from models.evaluation.scores import score
    except ModuleNotFoundError as error:
        return {**dict.fromkeys(names), "not_scored": f"{error.name} is not installed"}
    # The codec has no delay, so none is searched for.
    found = score(original, decoded, max_lag_s=0.0)
    values: dict[str, float | str | None] = {
        name: found[name] if math.isfinite(found[name]) else None for name in names
    }
    if None in values.values():
        return {**values, "not_scored": "too short, or no speech found"}
    return values


def _as_text(report: dict[str, Any]) -> str:
    def quality(name: str) -> str:
        value = report[name]
        return f"not scored ({report['not_scored']})" if value is None else f"{value:.3f}"

    part = report["scored_s"]
    scored = f" (first {part:.0f} s)" if part < report["duration_s"] else ""
    rows = [
        ("preset", f"{report['preset']} (model {report['model_id']})"),
        ("duration", f"{report['duration_s']:.3f} s, {report['frames']} frames"),
        ("payload", f"{report['payload_bits_per_s']:.0f} bit/s"),
        ("total", f"{report['total_bits_per_s']:.0f} bit/s"),
        ("PESQ-NB", quality("pesq_nb") + scored),
        ("PESQ-WB", quality("pesq_wb") + scored),
        ("STOI", quality("stoi") + scored),
        ("encode", _speed(report["encode_real_time_factor"])),
        ("decode", _speed(report["decode_real_time_factor"])),
    ]
    return "\n".join(f"{name:<10} {value}" for name, value in rows)


def _speed(factor: float) -> str:
    times = f", {1 / factor:.1f}x real time" if factor > 0 else ""
    return f"{factor:.3g} s per second of audio{times}"
