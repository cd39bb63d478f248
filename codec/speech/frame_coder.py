"""From log-mel frames to packets around a search: rate plans, warm starts, payloads."""

from __future__ import annotations

import copy
from dataclasses import dataclass
from typing import Literal

import numpy as np
import torch
from numpy.typing import NDArray

from codec.errors import BadInput
from codec.packet import SEQUENCE_MODULUS, Entropy, Kind, Packet, pack, short_id
from codec.search.admm import cheapen
from codec.speech.engine import SpeechEngine
from codec.speech.presets import Preset
from codec.speech.ratecontrol import Bits, Plan, RateControl

EntropyName = Literal["range", "huffman"]

SILENT = -0.98  # frames with nothing above this (1 dB over the floor) are coded as empty packets
_TAIL_BITS = 34.0  # what whole 32-bit words cost at most beyond the ideal
_CERTAINTY = 1.01  # margin for the prior's estimate against the coder's integer tables
_RETRIES = 16  # cheaper warm starts tried for a frame that exceeds its allowance


@dataclass(frozen=True)
class Target:
    """What a search of B frames is held to: rate points, bit prices and bit limits, each [B]."""

    rate: torch.Tensor
    weight: torch.Tensor
    limit: torch.Tensor


class FrameCoder:
    """The decisions and the bitstream of one encoder; keeps its rate and its packet numbers."""

    def __init__(self, codec: SpeechEngine, preset: Preset, entropy: EntropyName | None) -> None:
        entropy = preset.entropy if entropy is None else entropy
        if entropy not in codec.coders:
            raise BadInput(f"unknown entropy coder {entropy!r} (range or huffman)")
        self._codec = codec
        self.preset = preset
        self._coder = codec.coders[entropy]
        self._entropy = Entropy.HUFFMAN if entropy == "huffman" else Entropy.RANGE
        self._model_id = short_id(codec.model_id)
        self._sequence = 0
        self.rate_control = RateControl(preset.frame_bits, preset.quality, codec.qualities)

    def check_preset(self, preset: Preset) -> None:
        """Raise BadInput for a preset that frames of this stream cannot be coded at."""
        if preset.family != self.preset.family:
            raise BadInput(
                f"preset {preset.name!r} has another model than {self.preset.name!r}; "
                "it needs a new stream"
            )

    def set_preset(self, preset: Preset) -> None:
        """Code what follows at another rate. Raises BadInput for a preset of another model."""
        self.check_preset(preset)
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
        """Plan the next frame, of which `bits` [qualities] are expected.

        A preview says what the plan would be and promises nothing.
        """
        control = copy.copy(self.rate_control) if preview else self.rate_control
        return control.plan(bits + _TAIL_BITS, (bits + 2 * _TAIL_BITS) * _CERTAINTY)

    def target(self, plans: list[Plan]) -> Target:
        """What the search of the frames with these plans is held to."""
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

        When the searched latents exceed their allowance after all, ever cheaper warm starts at
        lower qualities take their place.
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

    def packet(self, payload: bytes, quality: int, kind: Kind = Kind.SPEECH) -> bytes:
        """The next packet of the stream."""
        packet = Packet(
            sequence=self._sequence,
            quality=quality,
            payload=payload,
            model_id=self._model_id,
            kind=kind,
            entropy=self._entropy,
        )
        self._sequence = (self._sequence + 1) % SEQUENCE_MODULUS
        return pack(packet)
