"""The speech codec: samples to packets and back, streaming and offline."""

from __future__ import annotations

import io
from collections.abc import Callable
from dataclasses import dataclass, replace

import numpy as np
import torch
from numpy.typing import NDArray

from codec.container import ContainerReader, ContainerWriter, Lost, StreamHeader
from codec.device import choose_device
from codec.errors import BadInput, BadStream
from codec.packet import Packet, unpack
from codec.search.admm import Method, SearchSettings, search, threads_for
from codec.signal import analysis
from codec.signal.samples import FloatArray
from codec.signal.synthesis import SpeechSynthesiser
from codec.speech.engine import SpeechEngine
from codec.speech.frame_coder import SILENT, EntropyName, FrameCoder
from codec.speech.frame_decoder import FrameDecoder
from codec.speech.presets import DEFAULT_PRESET, PRESETS, find_preset
from codec.speech.ratecontrol import Plan

__all__ = ["PRESETS", "SpeechCodec", "SpeechDecoder", "SpeechEncoder"]


GROUP = 8  # frames searched side by side offline
_LEAD = (analysis.WINDOW - analysis.HOP) // 2


class SpeechCodec(SpeechEngine):
    """One preset with its networks loaded: `encode` and `decode`, or streaming halves of each."""

    @classmethod
    def load(cls, preset: str = DEFAULT_PRESET, device: str = "auto") -> SpeechCodec:
        """The codec of a preset. Raises BadInput for an unknown preset, device or broken model."""
        return cls(find_preset(preset), choose_device(device))

    def header(self) -> StreamHeader:
        return StreamHeader(preset=self.preset, model_id=self.model_id)

    def encoder(
        self,
        iterations: int | None = None,
        budget: float | None = None,
        search: bool = True,
        entropy: EntropyName | None = None,
        group: int = 1,
        method: Method = "polished",
    ) -> SpeechEncoder:
        """A streaming encoder. `budget`: seconds per frame; `group`: frames searched at once."""
        return SpeechEncoder(self, iterations, budget, method if search else "none", entropy, group)

    def decoder(self) -> SpeechDecoder:
        """A streaming decoder."""
        return SpeechDecoder(self)

    def encode(
        self,
        samples: FloatArray,
        sample_rate: int,
        *,
        iterations: int | None = None,
        budget: float | None = None,
        search: bool = True,
        entropy: EntropyName | None = None,
        method: Method = "polished",
        group: int = GROUP,
    ) -> bytes:
        """Samples [n] or [n, channels], full scale 1, any rate -> a whole `.sotto` container.

        `group` frames are searched side by side; 1 works as a live encoder does.
        """
        mono = to_speech(samples, sample_rate)
        encoder = self.encoder(iterations, budget, search, entropy, group, method)
        out = io.BytesIO()
        writer = ContainerWriter(out, self.header())
        for packet in [*encoder.push(mono), *encoder.finish()]:
            writer.write(packet)
        writer.finish(len(mono))
        return out.getvalue()

    def decode(self, data: bytes) -> FloatArray:
        """A `.sotto` container -> samples [n] at 16 kHz. Damaged frames are concealed.

        Raises BadStream, WrongVersion or WrongModel when the container cannot be used at all.
        """
        reader = ContainerReader(io.BytesIO(data))
        reader.require_model(self.model_id, self.preset)
        decoder = self.decoder()
        parts: list[FloatArray] = []
        for item in reader:
            if isinstance(item, Lost):
                parts += [decoder.push(None) for _ in range(item.count)]
            else:
                try:
                    parts.append(decoder.push_packet(item))
                except BadStream:
                    parts.append(decoder.push(None))
        parts.append(decoder.finish())
        samples = np.concatenate(parts)
        return samples if reader.total_samples is None else samples[: reader.total_samples]


def to_speech(samples: FloatArray, sample_rate: int) -> FloatArray:
    """Mix [n, channels] down and resample to 16 kHz mono; NaN and infinities become silence.

    Raises BadInput for no channels, other shapes and sample rates out of range.
    """
    import soxr

    samples = np.asarray(samples, np.float32)
    if samples.ndim not in (1, 2) or (samples.ndim == 2 and samples.shape[1] == 0):
        raise BadInput(f"samples must be [n] or [n, channels], not {list(samples.shape)}")
    if not 1_000 <= sample_rate <= 768_000:
        raise BadInput(f"sample rate {sample_rate} Hz is out of range")
    # Before they are mixed and resampled, where numbers too large would sum to infinities.
    samples = analysis.cleaned(samples)
    if samples.ndim == 2:
        samples = samples.mean(axis=1)
    if sample_rate != analysis.SAMPLE_RATE:
        samples = soxr.resample(samples, sample_rate, analysis.SAMPLE_RATE, quality="HQ")
    return analysis.cleaned(samples)


@dataclass(frozen=True)
class FrameReport:
    """What became of one encoded frame, for statistics."""

    quality: int
    payload_bits: int
    allowed_bits: float
    iterations: int
    cost: float
    start_cost: float


class SpeechEncoder:
    """Samples in, packets out: one packet per whole frame of 16 384 samples."""

    def __init__(
        self,
        codec: SpeechEngine,
        iterations: int | None,
        budget: float | None,
        method: Method,
        entropy: EntropyName | None,
        group: int,
    ) -> None:
        preset = codec.settings
        steps = preset.iterations if iterations is None else iterations
        if budget is not None and iterations is None:
            steps = 10_000
        self._codec = codec
        self._settings = SearchSettings(
            method=method, iterations=steps, penalty=codec.networks.penalty
        )
        self._budget = budget
        self._coder = FrameCoder(codec, preset, entropy)
        self._group = max(group, 1)
        self._samples = np.zeros(_LEAD, np.float32)
        self._frames: list[FloatArray] = []
        self.on_frame: Callable[[FrameReport], None] | None = None

    def push(self, samples: FloatArray) -> list[bytes]:
        """Take 16 kHz mono samples [n], full scale 1; return the packets that became ready.

        What is not finite becomes silence.
        """
        held = np.concatenate((self._samples, analysis.cleaned(samples)))
        packets: list[bytes] = []
        needed = analysis.FRAME_SAMPLES + analysis.WINDOW - analysis.HOP
        at = 0
        while at + needed <= len(held):
            self._frames.append(analysis.log_mel(held[at : at + needed]))
            at += analysis.FRAME_SAMPLES
            if len(self._frames) >= self._group:
                packets += self._encode_group()
        self._samples = held[at:].copy()
        return packets

    def finish(self) -> list[bytes]:
        """The packets of what is left, the last frame filled up with silence."""
        packets: list[bytes] = []
        while len(self._samples) > _LEAD or self._frames:
            rest = len(self._samples) - _LEAD
            if rest <= 0:
                packets += self._encode_group()
                break
            needed = analysis.FRAME_SAMPLES + analysis.WINDOW - analysis.HOP
            fill = np.zeros(max(needed - len(self._samples), 0), np.float32)
            last = rest <= analysis.FRAME_SAMPLES
            packets += self.push(fill)
            if last:
                self._samples = self._samples[:0]
        self._samples = np.zeros(_LEAD, np.float32)
        return packets

    def _encode_group(self) -> list[bytes]:
        frames, self._frames = self._frames, []
        x = torch.from_numpy(np.stack(frames)).to(self._codec.device)
        with threads_for(x):
            indices, plans, reports = self._search(x)
        packets, taken = [], []
        for row, plan in enumerate(plans):
            payload, quality = b"", plan.quality
            if float(frames[row].max()) > SILENT:
                payload, quality = self._coder.code(x[row : row + 1], indices[row], plan)
            packets.append(self._coder.packet(payload, quality))
            taken.append(8.0 * len(payload))
            report = replace(reports[row], payload_bits=8 * len(payload))
            if self.on_frame is not None:
                self.on_frame(report)
        self._coder.rate_control.settle(taken)
        return packets

    def _search(self, x: torch.Tensor) -> tuple[NDArray[np.int8], list[Plan], list[FrameReport]]:
        codec, coder = self._codec, self._coder
        plans = [coder.plan(row) for row in coder.bits(x)]
        target = coder.target(plans)
        settings = self._settings
        if self._budget is not None:
            settings = replace(settings, budget=self._budget * len(x))
        result = search(
            codec.searchable,
            codec.distance,
            x,
            target.rate,
            target.weight,
            settings,
            start=coder.start(x, target.rate, target.limit),
            allowed_bits=target.limit,
        )
        reports = [
            FrameReport(plan.quality, 0, plan.allowed, result.iterations, float(c), float(s))
            for plan, c, s in zip(plans, result.cost, result.start_cost, strict=True)
        ]
        return codec.networks.indices_of(result.indices), plans, reports


class SpeechDecoder:
    """Packets in, samples out; lost frames are concealed."""

    def __init__(self, codec: SpeechEngine) -> None:
        self._codec = codec
        self._frames = FrameDecoder(codec)
        self._synthesiser = SpeechSynthesiser()

    def push(self, packet: bytes | None) -> FloatArray:
        """Decode one packet, or conceal one lost frame (None); returns samples ready so far.

        Raises BadStream for a damaged packet, WrongModel for one of another model; the decoder
        stays usable, and the caller may conceal the frame instead.
        """
        if packet is None:
            return self._synthesiser.push(self._frames.conceal())
        return self.push_packet(unpack(packet))

    def push_packet(self, packet: Packet) -> FloatArray:
        """Like `push`, for a packet that is already unpacked."""
        return self._synthesiser.push(self._frames.decode(packet).columns)

    def finish(self) -> FloatArray:
        """The samples still inside; afterwards the decoder is as new."""
        self._frames = FrameDecoder(self._codec)
        return self._synthesiser.finish()
