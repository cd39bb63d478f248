"""What a packet's blocks may take, where their search starts, and the payload they become."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import torch
from numpy.typing import NDArray

from codec.errors import BadInput
from codec.packet import FRAME_STEPS, HEADER_BYTES, MAX_PAYLOAD, Entropy
from codec.search.engine import cheapen
from codec.search.problem import Distance, Networks, Problem
from codec.speech.presets import EntropyName, Preset
from codec.speech.ratecontrol import STEP_SECONDS, Bits, Plan, RateControl, longest_packet

if TYPE_CHECKING:
    from codec.speech.engine import SpeechEngine

TAIL_BITS = 8.0  # what whole bytes cost at most beyond the ideal
_CERTAINTY = 1.01  # margin for the prior's estimate against the coder's integer tables
_RETRIES = 16  # cheaper warm starts tried for a packet that exceeds its allowance


@dataclass(frozen=True)
class Target:
    """Constraints of a search over B blocks: rate points, bit prices and bit limits, each [B]."""

    rate: torch.Tensor
    weight: torch.Tensor
    limit: torch.Tensor

    def problem(self, networks: Networks, distance: Distance, x: torch.Tensor) -> Problem:
        """That of finding the latents of x [B, T, M]."""
        return Problem(networks, distance, x, self.rate, self.weight, self.limit)


class BlockCoder:
    """Rate plans, warm starts and payloads of one stream."""

    def __init__(
        self, codec: SpeechEngine, entropy: EntropyName | None, most_bytes: int | None
    ) -> None:
        """most_bytes: of a packet with its header. Raises BadInput for an unknown entropy coder;
        None is that of the preset."""
        self.preset = codec.settings
        entropy = self.preset.entropy if entropy is None else entropy
        if entropy not in codec.coders:
            raise BadInput(f"unknown entropy coder {entropy!r} (range or huffman)")
        self._codec = codec
        self._coder = codec.coders[entropy]
        self.entropy = Entropy.HUFFMAN if entropy == "huffman" else Entropy.RANGE
        self._most_bytes = most_bytes
        self._steps, self._header_bytes = FRAME_STEPS, HEADER_BYTES
        self.control = RateControl(self._payload_rate(), self.preset.quality, codec.qualities)

    @property
    def overhead(self) -> float:
        """What the entropy coder takes for a bit by the prior."""
        return self._coder.overhead

    def layout(self, steps: int, header_bytes: int) -> None:
        """Packets of `steps` follow, under headers of that size."""
        self._steps, self._header_bytes = steps, header_bytes
        self.control.retarget(self._payload_rate(), self.preset.quality)

    def set_preset(self, preset: Preset) -> None:
        """Code what follows at another rate, with the same model."""
        self.preset = preset
        self.control.retarget(self._payload_rate(), preset.quality)

    @property
    def most(self) -> float:
        """The most payload bits of a packet."""
        bound = longest_packet(self._steps * STEP_SECONDS) * self.control.rate
        limit = MAX_PAYLOAD
        if self._most_bytes is not None:
            limit = min(limit, self._most_bytes - self._header_bytes)
        return min(bound, 8.0 * limit)

    def _payload_rate(self) -> float:
        return self.preset.rate - 8 * self._header_bytes / (self._steps * STEP_SECONDS)

    @torch.no_grad()
    def bits(self, x: torch.Tensor, networks: Networks, steps: int) -> Bits:
        """Payload bits of the warm start at each quality, rising: [B, qualities].

        x: [B, T, M] columns, of which the newest `steps` are meant.
        """
        every = np.arange(self._codec.qualities)
        probes = every[::4]
        rates = torch.tensor(probes / 8.0, dtype=torch.float32, device=x.device).repeat(len(x))
        z = networks.encoder(x.repeat_interleave(len(probes), 0), rates)[:, -steps:]
        q = networks.quantise(z, 0.0)
        bits = networks.prior.bits(q, rates).sum((1, 2)).reshape(len(x), -1).cpu().numpy()
        bits = np.maximum.accumulate(bits * self._coder.overhead, axis=1)
        return np.stack([np.interp(every, probes, row) for row in bits])

    @torch.no_grad()
    def guess(
        self, x: torch.Tensor, networks: Networks, steps: int, quality: int
    ) -> tuple[torch.Tensor, float]:
        """The encoder network's latents [1, S, C] of the newest steps of x [1, T, M] at a quality,
        and the payload bits that they take, as `bits`."""
        rate = self.rate_of(quality)
        z = networks.encoder(x, rate)[:, -steps:]
        bits = networks.prior.bits(networks.quantise(z, 0.0), rate).sum()
        return z, float(bits) * self._coder.overhead

    def plan(self, bits: Bits, steps: int) -> Plan:
        """Plan the first block of a packet, which is expected to take `bits` [qualities]."""
        certain = (bits + 2 * TAIL_BITS) * _CERTAINTY
        if self._codec.qualities == 1:
            # What the warm start leaves of the average is for the search, as no quality can use it.
            certain = np.maximum(certain, self.control.rate * steps * STEP_SECONDS)
        return self.control.plan(bits + TAIL_BITS, certain, steps, self.most)

    def target(self, plans: list[Plan], steps: int) -> Target:
        """Constraints of the search over blocks of `steps` with these plans."""
        codec = self._codec
        rates = [plan.quality / 8.0 for plan in plans]
        # The price is that of a frame, over whose columns the distance is a mean.
        scale = self.preset.price * FRAME_STEPS / steps
        weights = [codec.networks.rate_weight(r) * scale for r in rates]
        limits = [self._limit(plan.allowed) for plan in plans]
        tensors = (torch.tensor(v, device=codec.device) for v in (rates, weights, limits))
        return Target(*tensors)

    def start(
        self,
        x: torch.Tensor,
        networks: Networks,
        steps: int,
        rate: torch.Tensor,
        limit: torch.Tensor,
    ) -> torch.Tensor:
        """Warm starts [B, S, C] of the newest steps, cheaper where they exceed their `limit`."""
        with torch.no_grad():
            start = networks.encoder(x, rate)[:, -steps:]
        return cheapen(networks, start, rate, limit)

    def payload(
        self, indices: NDArray[np.int8], quality: int, context: NDArray[np.int8] | None
    ) -> bytes:
        """The payload of indices [S, C]."""
        return self._coder.encode(indices, quality, context)

    def code(
        self,
        x: torch.Tensor,
        networks: Networks,
        context: NDArray[np.int8] | None,
        indices: NDArray[np.int8],
        plan: Plan,
    ) -> tuple[bytes, int, NDArray[np.int8]]:
        """Payload, quality and indices of a packet whose search found `indices` [S, C].

        x: [1, T, M], of which the packet is the newest part; plan.allowed: of the whole packet. If
        the found latents exceed it after all, ever cheaper warm starts at lower qualities replace
        them.
        """
        frozen, steps = self._codec.networks, len(indices)
        payload, quality = self.payload(indices, plan.quality, context), plan.quality
        limit, hopeless = self._limit(plan.allowed), False
        for _ in range(_RETRIES):
            if 8 * len(payload) <= plan.allowed:
                return payload, quality, indices
            if hopeless and quality == 0:
                break
            # What cannot be made cheap enough here cannot at the next quality: each try takes long.
            quality, limit = 0 if hopeless else max(quality - 1, 0), 0.96 * limit
            rate = self.rate_of(quality)
            start = self.start(x, networks, steps, rate, torch.tensor([limit], device=x.device))
            quantised = networks.quantise(start, 0.0)
            with torch.no_grad():
                hopeless = float(networks.prior.bits(quantised, rate).sum()) > limit
            indices = frozen.indices_of(quantised[0])
            payload = self.payload(indices, quality, context)
        while 8 * len(payload) > plan.allowed:
            thinner = frozen.thin_out(indices)
            if np.array_equal(thinner, indices):
                break
            indices = thinner
            payload = self.payload(indices, quality, context)
        # What nothing makes small enough becomes noise like it: clicks, under the shortest limits.
        return (payload if 8 * len(payload) <= plan.allowed else b""), quality, indices

    def rate_of(self, quality: int) -> torch.Tensor:
        """Rate point [1]."""
        return torch.tensor([quality / 8.0], device=self._codec.device)

    def _limit(self, allowed: float) -> float:
        return max((allowed - TAIL_BITS) / self._coder.overhead, 1.0)
