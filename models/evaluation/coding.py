"""The measured speech codecs, each run in its own process.

The module imports little, since every measuring process imports it again.
"""

from __future__ import annotations

import multiprocessing
import os
import sys
import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import lru_cache
from io import BytesIO
from multiprocessing.connection import Connection
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from codec.container import ContainerReader
from codec.errors import SottoError
from codec.packet import FRAME_STEPS, SESSION_HEADER_BYTES, STEP_MS
from codec.signal.analysis import FRAME_SAMPLES, STEP_SAMPLES
from codec.signal.samples import SAMPLE_RATE, FloatArray
from codec.speech.presets import PRESETS
from models.elsewhere import Elsewhere
from models.evaluation.clips import Clip
from models.workers.processes import end, end_in_order, interrupts_blocked

if TYPE_CHECKING:
    from codec.speech.codec import SpeechCodec

CLIP_TIMEOUT_S = 900.0
START_TIMEOUT_S = 300.0
_ENDING_S = 10.0
_MIN_DECODED = 0.5
_PART = 8  # clips that are coded together elsewhere, since a codec has to be loaded first
_LIVE_CHUNK = SAMPLE_RATE // 25  # samples passed to a live encoder at a time, as in a call

Step = Callable[[str], None]


@dataclass(frozen=True)
class Coded:
    """One clip, coded and decoded by one codec.

    decoded: [m] float32 at 16 kHz; payload_bits: without headers; total_bits: with frame or packet
    headers, without the file container; encode_s, decode_s: wall-clock seconds; peak_bytes: peak
    resident memory of a codec that runs as another program.
    """

    decoded: FloatArray
    payload_bits: int
    total_bits: int
    encode_s: float
    decode_s: float
    peak_bytes: int | None = None


class Unavailable(SottoError):
    """This codec cannot run here; the reason is one line."""


@dataclass(frozen=True)
class Codec(ABC):
    """Anything that codes 16 kHz speech. line: the plot line that it belongs to."""

    name: str
    line: str

    @property
    def delay_ms(self) -> int | None:
        """Milliseconds of speech in a packet, if the codec can have packets of several lengths."""
        return None

    def missing(self) -> str | None:
        """Why it cannot run here, found without loading it; None if no reason is known."""
        return None

    def prepare(self) -> None:  # noqa: B027 - most have nothing to load
        """Load and warm up, outside the timing."""

    @abstractmethod
    def run(self, samples: FloatArray) -> Coded:
        """Encode and decode samples [n], float32 at 16 kHz, full scale 1."""


@dataclass(frozen=True)
class Original(Codec):
    """The clips themselves as 16-bit samples: the upper anchor of every score."""

    name: str = "original"
    line: str = "original"

    def run(self, samples: FloatArray) -> Coded:
        bits = 16 * len(samples)
        return Coded(samples, bits, bits, 0.0, 0.0)


@dataclass(frozen=True)
class Sotto(Codec):
    """A preset of sotto.

    options: keyword arguments of `SpeechCodec.encode`; model: a folder in place of its own.
    """

    preset: str
    options: Mapping[str, Any] = field(default_factory=dict)
    device: str = "auto"
    model: Path | None = None

    @property
    def delay_ms(self) -> int:
        return int(self.options.get("steps", FRAME_STEPS)) * STEP_MS

    def prepare(self) -> None:
        self.run(np.random.default_rng(0).normal(0, 0.05, SAMPLE_RATE).astype(np.float32))

    def run(self, samples: FloatArray) -> Coded:
        codec = _load(self.preset, self.device, self.model)
        begun = time.perf_counter()
        data = codec.encode(samples, SAMPLE_RATE, **self.options)
        encoded = time.perf_counter()
        decoded = codec.decode(data)
        ended = time.perf_counter()
        return Coded(decoded, *container_bits(data), encoded - begun, ended - encoded)


@dataclass(frozen=True)
class LiveSotto(Sotto):
    """The encoder of a call, which has little time for each block. steps: of a packet."""

    steps: int = 4

    @property
    def delay_ms(self) -> int:
        return self.steps * STEP_MS

    def run(self, samples: FloatArray) -> Coded:
        from codec.signal.synthesis import SpeechSynthesiser
        from codec.speech.decoder import PacketDecoder
        from codec.speech.encoder import live_encoder

        codec = _load(self.preset, self.device, self.model)
        encoder = live_encoder(codec, self.steps)
        padded = np.concatenate((samples, np.zeros(2 * FRAME_SAMPLES, np.float32)))
        encoded = [
            packet
            for chunk in np.array_split(padded, len(padded) // _LIVE_CHUNK)
            for packet in encoder.push(chunk)
            if packet.step * STEP_SAMPLES < len(samples)
        ]
        encode_s = sum(packet.seconds for packet in encoded)
        begun = time.perf_counter()
        decoder, synthesiser = PacketDecoder(codec), SpeechSynthesiser()
        parts = []
        for each in encoded:
            if each.packet is None:
                columns = decoder.conceal(each.steps)
            else:
                columns = decoder.decode(each.packet).columns
            parts.append(synthesiser.push(columns))
        parts.append(synthesiser.finish())
        decode_s = time.perf_counter() - begun
        decoded = np.concatenate(parts)[: len(samples)]
        sent = [each for each in encoded if each.packet is not None]
        payload = sum(each.payload_bits for each in sent)
        total = payload + 8 * SESSION_HEADER_BYTES * len(sent)
        return Coded(decoded, payload, total, encode_s, decode_s)


def container_bits(data: bytes) -> tuple[int, int]:
    """(payload bits, bits with packet headers and checksums) of a `.sotto` container."""
    reader = ContainerReader(BytesIO(data))
    for _ in reader:
        pass
    return 8 * reader.payload_bytes, 8 * reader.packet_bytes


@lru_cache(maxsize=1)
def _load(preset: str, device: str, model: Path | None) -> SpeechCodec:
    # Imported here, so that the processes of other codecs do not load torch.
    from codec.speech.codec import SpeechCodec

    return SpeechCodec.load(preset, device, model)


def sotto_codecs(
    presets: Iterable[str],
    iterations: Sequence[int] = (),
    *,
    delays: Sequence[int] = (),
    live: bool = False,
    device: str = "auto",
    model: Path | None = None,
) -> list[Codec]:
    """Each preset with its own search, then with given iteration counts, then without search.

    delays: packets of so many milliseconds (none: whole frames), those but the first with the
    preset's own search alone; live: also as encoded in a call; model: a folder in place of the
    presets' own.
    """
    codecs: list[Codec] = []
    for preset in presets:
        known = PRESETS.get(preset)
        name = f"sotto {preset}"
        # The presets that share the speech weights share a line.
        line = "sotto" if known is None or known.model == "speech" else name
        variants: dict[str, dict[str, Any]] = {
            "": {},
            **{f", {count} steps": {"iterations": count} for count in iterations},
            ", no search": {"search": False},
        }
        made: list[Codec] = [
            Sotto(name + suffix, line + suffix, preset, options, device, model)
            for suffix, options in variants.items()
        ]
        for delay in delays:
            short, steps = f", {delay} ms", delay // STEP_MS
            if steps != FRAME_STEPS:
                options = {"steps": steps}
                made.append(
                    Sotto(name + short, f"{line}, by delay", preset, options, device, model)
                )
            if live:
                suffix = f"{short}, live"
                made.append(
                    LiveSotto(name + suffix, f"{line}, live", preset, {}, device, model, steps)
                )
        codecs += made
    return codecs


# Liu et al. (2020) compare ADMM with back-propagation followed by rounding; ours ends with RDOQ.
SEARCHES: Mapping[str, Mapping[str, Any]] = {
    "back-propagation": {"method": "backprop"},
    "ADMM": {"method": "admm"},
    "ADMM and moves": {"method": "rdoq"},
    "mean field": {},
}


def search_codecs(
    preset: str, iterations: Sequence[int] = (10, 30, 100), device: str = "auto"
) -> list[Codec]:
    """No search, and each search method at the same iteration counts, for one preset."""
    codecs: list[Codec] = [
        Sotto(f"{preset}: no search", "no search", preset, {"search": False}, device)
    ]
    for name, options in SEARCHES.items():
        for count in iterations:
            chosen = {"iterations": count, **options}
            codecs.append(Sotto(f"{preset}: {name}, {count}", name, preset, chosen, device))
    return codecs


@dataclass
class Coding:
    """One codec's results for all clips, `coded` in clip order, or the reason for its failure."""

    name: str
    line: str
    coded: list[Coded] = field(default_factory=list)
    peak_bytes: int | None = None
    failure: str | None = None


def code_clips(
    codec: Codec,
    clips: Sequence[Clip],
    *,
    timeout_s: float = CLIP_TIMEOUT_S,
    step: Step = lambda name: None,
) -> Coding:
    """Run one codec over all clips, one after the other, in a fresh process.

    Peak memory is that of the process, or of the codec's own program. A codec that fails, dies or
    takes longer than `timeout_s` on a clip has no results but a one-line failure.
    """
    coding = Coding(codec.name, codec.line, failure=codec.missing())
    if coding.failure is not None:
        return coding
    try:
        with fresh_process(_serve, codec, [clip.samples for clip in clips]) as connection:
            # The first message says that the codec is loaded, which may take long and is not timed.
            receive(connection, START_TIMEOUT_S, "starting")
            for clip in clips:
                coded = receive(connection, timeout_s, clip.name)
                coding.coded.append(_checked(coded, clip.samples))
                step(codec.name)
            coding.peak_bytes = receive(connection, START_TIMEOUT_S, "ending")
    except SottoError as error:
        return Coding(codec.name, codec.line, failure=one_line(error))
    peaks = [coded.peak_bytes for coded in coding.coded if coded.peak_bytes is not None]
    coding.peak_bytes = max(peaks, default=coding.peak_bytes)
    return coding


@dataclass(frozen=True)
class _Part:
    """Some of the clips that a codec is to code."""

    codec: Codec
    clips: Sequence[Clip]
    timeout_s: float


def _code_part(part: _Part) -> Coding:
    return code_clips(part.codec, part.clips, timeout_s=part.timeout_s)


def code_elsewhere(
    codecs: Sequence[Codec],
    clips: Sequence[Clip],
    elsewhere: Elsewhere,
    *,
    timeout_s: float = CLIP_TIMEOUT_S,
    step: Step = lambda name: None,
) -> list[Coding]:
    """Run codecs over all clips on other machines, some clips at a time; see `code_clips`.

    Seconds and memory are then those of machines that do other things as well.
    """
    parts = [
        _Part(codec, clips[first : first + _PART], timeout_s)
        for codec in codecs
        for first in range(0, len(clips), _PART)
    ]
    codings = {codec.name: Coding(codec.name, codec.line) for codec in codecs}
    for part, result in zip(parts, elsewhere(_code_part, parts), strict=True):
        coding = codings[part.codec.name]
        failure = result if isinstance(result, str) else result.failure
        if failure is not None:
            coding.failure = coding.failure or failure
        else:
            coding.coded += result.coded
            peaks = [each.peak_bytes for each in (coding, result) if each.peak_bytes is not None]
            coding.peak_bytes = max(peaks, default=None)
        for _ in part.clips:
            step(part.codec.name)
    return [
        coding if coding.failure is None else Coding(name, coding.line, failure=coding.failure)
        for name, coding in codings.items()
    ]


@contextmanager
def fresh_process(serve: Callable[..., None], *arguments: object) -> Iterator[Connection]:
    """A process that runs serve(connection, *arguments); its connection is that of the other end.

    The process has ended when the context is left: by itself, or by force after an exception. It
    never sees Ctrl-C; ended by force, it removes its temporary files and ends its programs.
    """
    context = multiprocessing.get_context("spawn")
    here, there = context.Pipe()
    process = context.Process(target=_in_order, args=(serve, there, *arguments))
    with interrupts_blocked():
        process.start()
    there.close()
    try:
        yield here
        here.close()
        process.join(_ENDING_S)
    finally:
        here.close()
        end([process])


def _in_order(serve: Callable[..., None], *arguments: object) -> None:
    end_in_order()
    serve(*arguments)


@contextmanager
def silent() -> Iterator[None]:
    """Nothing inside is printed by this process, not even by libraries in C."""
    sys.stdout.flush()
    sys.stderr.flush()
    kept = [os.dup(stream) for stream in (1, 2)]
    null = os.open(os.devnull, os.O_WRONLY)
    try:
        for stream in (1, 2):
            os.dup2(null, stream)
        yield
    finally:
        # What is still in Python's buffers belongs to the inside.
        sys.stdout.flush()
        sys.stderr.flush()
        for stream, copy in enumerate(kept, 1):
            os.dup2(copy, stream)
            os.close(copy)
        os.close(null)


def receive(connection: Connection, timeout_s: float, where: str) -> Any:
    """The value of the next message (kind, value) of a measuring process.

    Raises Unavailable if it is an error, takes longer than `timeout_s`, or if the process died.
    """
    try:
        if not connection.poll(timeout_s):
            raise Unavailable(f"took longer than {timeout_s:g} s ({where})")
        kind, value = connection.recv()
    except (EOFError, ConnectionError):
        raise Unavailable(f"its process died ({where})") from None
    if kind == "error":
        raise Unavailable(value)
    return value


def _serve(connection: Connection, codec: Codec, clips: Sequence[FloatArray]) -> None:
    """The measuring process: load, code each clip, report the peak memory."""
    try:
        codec.prepare()
        connection.send(("ready", None))
        for samples in clips:
            connection.send(("coded", codec.run(samples)))
        connection.send(("peak", _own_peak_bytes()))
    except Exception as error:  # any failure of a codec becomes one line in the report
        connection.send(("error", one_line(error)))


def _own_peak_bytes() -> int:
    """Peak resident memory of this process.

    On Linux from VmHWM, since ru_maxrss carries over the peak of the parent process.
    """
    try:
        for line in Path("/proc/self/status").read_text().splitlines():
            if line.startswith("VmHWM:"):
                return int(line.split()[1]) * 1024
    except OSError:
        pass
    import resource

    scale = 1 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * scale


def _checked(coded: Coded, samples: FloatArray) -> Coded:
    decoded = np.asarray(coded.decoded)
    if decoded.ndim != 1 or len(decoded) < _MIN_DECODED * len(samples):
        raise Unavailable(f"decoded {decoded.shape} samples of {len(samples)}")
    if not np.isfinite(decoded).all():
        raise Unavailable("decoded samples that are not finite numbers")
    return coded


def one_line(error: BaseException) -> str:
    """An error message as a single line; errors that are not sotto's also name their type."""
    text = " ".join(str(error).split()) or type(error).__name__
    return text if isinstance(error, SottoError) else f"{type(error).__name__}: {text}"
