"""Speech to packets: the steps that every encoder shares, and the encoder of files."""

from __future__ import annotations

import copy
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import numpy as np
import torch
from numpy.typing import NDArray

from codec.errors import BadInput
from codec.packet import SEQUENCE_MODULUS, Entropy, Kind, Packet, short_id
from codec.search.admm import cheapen, search, threads_for
from codec.search.problem import Method, SearchSettings
from codec.signal import analysis
from codec.signal.analysis import FRAME_SAMPLES, LEAD
from codec.signal.samples import FloatArray
from codec.speech.presets import EntropyName, Preset
from codec.speech.ratecontrol import Bits, Plan, RateControl

if TYPE_CHECKING:
    from codec.speech.engine import SpeechEngine

SILENT = -0.98  # frames with nothing above this (1 dB over the floor) are coded as empty packets
_NEEDED = FRAME_SAMPLES + 2 * LEAD  # samples that the columns of one frame see
_TAIL_BITS = 34.0  # what whole 32-bit words cost at most beyond the ideal
_CERTAINTY = 1.01  # margin for the prior's estimate against the coder's integer tables
_RETRIES = 16  # cheaper warm starts tried for a frame that exceeds its allowance


@dataclass(frozen=True)
class Target:
    """Constraints of a search over B frames: rate points, bit prices and bit limits, each [B]."""

    rate: torch.Tensor
    weight: torch.Tensor
    limit: torch.Tensor


class FrameCoder:
    """Rate plans, warm starts and payloads of one stream; keeps its rate and packet numbers.

    Raises BadInput for an unknown entropy coder; None is that of the preset.
    """

    def __init__(self, codec: SpeechEngine, entropy: EntropyName | None = None) -> None:
        self.preset = codec.settings
        entropy = self.preset.entropy if entropy is None else entropy
        if entropy not in codec.coders:
            raise BadInput(f"unknown entropy coder {entropy!r} (range or huffman)")
        self._codec = codec
        self._coder = codec.coders[entropy]
        self._entropy = Entropy.HUFFMAN if entropy == "huffman" else Entropy.RANGE
        self._model_id = short_id(codec.model_id)
        self._sequence = 0
        self.rate_control = RateControl(
            self.preset.frame_bits, self.preset.quality, codec.qualities
        )

    def set_preset(self, preset: Preset) -> None:
        """Code the following frames at another rate, with the same model."""
        self.preset = preset
        self.rate_control.retarget(preset.frame_bits, preset.quality)

    @torch.no_grad()
    def bits(self, x: torch.Tensor) -> Bits:
        """Payload bits of the warm start of each frame at each quality, [B, qualities], rising."""
        networks = self._codec.networks
        every = np.arange(self._codec.qualities)
        probes = every[::4]
        rates = torch.tensor(probes / 8.0, dtype=torch.float32, device=x.device).repeat(len(x))
        q = networks.quantise(
            self._codec.searchable.encoder(x.repeat_interleave(len(probes), 0), rates)
        )
        bits = networks.prior.bits(q, rates).sum((1, 2)).reshape(len(x), -1).cpu().numpy()
        bits = np.maximum.accumulate(bits * self._coder.overhead, axis=1)
        return np.stack([np.interp(every, probes, row) for row in bits])

    def plan(self, bits: Bits, *, preview: bool = False) -> Plan:
        """Plan the next frame, which is expected to take `bits` [qualities].

        A preview leaves the rate control as it is.
        """
        control = copy.copy(self.rate_control) if preview else self.rate_control
        return control.plan(bits + _TAIL_BITS, (bits + 2 * _TAIL_BITS) * _CERTAINTY)

    def target(self, plans: list[Plan]) -> Target:
        """Constraints of the search over the frames with these plans."""
        codec = self._codec
        rates = [plan.quality / 8.0 for plan in plans]
        weights = [codec.networks.rate_weight(r) * self.preset.price for r in rates]
        limits = [max((plan.allowed - _TAIL_BITS) / self._coder.overhead, 1.0) for plan in plans]
        tensors = (torch.tensor(v, device=codec.device) for v in (rates, weights, limits))
        return Target(*tensors)

    def ideal_bits(self, latents: torch.Tensor, rate: torch.Tensor) -> float:
        """Expected payload bits of quantised latents [1, S, C], comparable with `bits`."""
        with torch.no_grad():
            bits = self._codec.searchable.prior.bits(latents, rate)
        return float(bits.sum()) * self._coder.overhead

    def start(self, x: torch.Tensor, rate: torch.Tensor, limit: torch.Tensor) -> torch.Tensor:
        """Warm starts [B, S, C] of the frames, made cheaper where they exceed their bit `limit`."""
        with torch.no_grad():
            start = self._codec.searchable.encoder(x, rate)
        return cheapen(self._codec.searchable, start, rate, limit)

    def code(self, x: torch.Tensor, indices: NDArray[np.int8], plan: Plan) -> tuple[bytes, int]:
        """Payload and quality of a frame x [1, T, M] whose search found `indices` [S, C].

        If the found latents exceed the allowance after all, ever cheaper warm starts at lower
        qualities replace them.
        """
        networks = self._codec.networks
        payload, quality = self._coder.encode(indices, plan.quality), plan.quality
        limit = (plan.allowed - _TAIL_BITS) / self._coder.overhead
        for _ in range(_RETRIES):
            if 8 * len(payload) <= plan.allowed:
                return payload, quality
            quality, limit = max(quality - 1, 0), 0.96 * limit
            rate = torch.tensor([quality / 8.0], device=x.device)
            start = self.start(x, rate, torch.tensor([limit], device=x.device))
            indices = networks.indices_of(networks.quantise(start)[0])
            payload = self._coder.encode(indices, quality)
        while 8 * len(payload) > plan.allowed:
            thinner = networks.thin_out(indices)
            if np.array_equal(thinner, indices):
                break
            indices = thinner
            payload = self._coder.encode(indices, quality)
        # A frame that nothing makes small enough is sent as silence; none was ever seen.
        return (payload if 8 * len(payload) <= plan.allowed else b""), quality

    def packet(self, payload: bytes, quality: int, kind: Kind = Kind.SPEECH) -> Packet:
        """The next packet of the stream."""
        sequence, self._sequence = self._sequence, (self._sequence + 1) % SEQUENCE_MODULUS
        return Packet(sequence, quality, payload, self._model_id, kind, self._entropy)


class SpeechEncoder:
    """Samples in, packets out: one packet per frame of 16 384 samples.

    iterations: search steps (None: the preset's, or as many as a `budget` of seconds per frame
    allows); entropy: the entropy coder (None: the preset's); group: frames searched side by side.
    """

    def __init__(
        self,
        codec: SpeechEngine,
        iterations: int | None = None,
        budget: float | None = None,
        method: Method = "rdoq",
        entropy: EntropyName | None = None,
        group: int = 1,
    ) -> None:
        if iterations is None:
            iterations = codec.settings.iterations if budget is None else 10_000
        self._codec = codec
        self._settings = SearchSettings(
            method=method, iterations=iterations, penalty=codec.networks.penalty
        )
        self._budget = budget
        self._coder = FrameCoder(codec, entropy)
        self._group = max(group, 1)
        self._samples = np.zeros(LEAD, np.float32)
        self._frames: list[FloatArray] = []

    def push(self, samples: FloatArray) -> list[Packet]:
        """Take 16 kHz mono samples [n], full scale 1; return the packets that became ready.

        NaN and infinities become silence.
        """
        held = np.concatenate((self._samples, analysis.cleaned(samples)))
        packets: list[Packet] = []
        at = 0
        while at + _NEEDED <= len(held):
            self._frames.append(analysis.log_mel(held[at : at + _NEEDED]))
            at += FRAME_SAMPLES
            if len(self._frames) >= self._group:
                packets += self._encode_group()
        self._samples = held[at:].copy()
        return packets

    def finish(self) -> list[Packet]:
        """The packets of the remaining samples, the last frame padded with silence."""
        frames = -(-(len(self._samples) - LEAD) // FRAME_SAMPLES)
        missing = frames * FRAME_SAMPLES + 2 * LEAD - len(self._samples)
        packets = self.push(np.zeros(missing, np.float32))
        if self._frames:
            packets += self._encode_group()
        self._samples = np.zeros(LEAD, np.float32)
        return packets

    def _encode_group(self) -> list[Packet]:
        frames, self._frames = self._frames, []
        x = torch.from_numpy(np.stack(frames)).to(self._codec.device)
        with threads_for(x):
            indices, plans = self._search(x)
        packets = []
        for row, plan in enumerate(plans):
            payload, quality = b"", plan.quality
            if float(frames[row].max()) > SILENT:
                payload, quality = self._coder.code(x[row : row + 1], indices[row], plan)
            packets.append(self._coder.packet(payload, quality))
        self._coder.rate_control.settle([8.0 * len(packet.payload) for packet in packets])
        return packets

    def _search(self, x: torch.Tensor) -> tuple[NDArray[np.int8], list[Plan]]:
        """Indices [B, S, C] of the frames x [B, T, M], and the plans they were searched for."""
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
        return codec.networks.indices_of(result.indices), plans
