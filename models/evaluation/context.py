"""Bits saved by using the previous frame as context of the entropy model.

Frames are coded independently: the two steps before a frame are treated as unknown. If the prior
is given the last two steps of the previous frame instead, it needs fewer bits. The difference is
what chaining frames would save, at the price that losing a frame also loses the next one.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from codec.device import choose_device
from models.evaluation.clips import Clip
from models.evaluation.frames import frames_of
from models.folder import load_speech_model, search_networks

_PAST = 2  # steps the prior looks back


@dataclass(frozen=True)
class ContextGain:
    """Mean bits of a frame with a predecessor: on its own, and with that frame as context."""

    frames: int
    alone: float
    chained: float

    @property
    def saved(self) -> float:
        """The share of the bits that the context saves."""
        return 1.0 - self.chained / self.alone

    def __str__(self) -> str:
        return (
            f"Context of the previous frame: {self.alone:.0f} bits a frame without, "
            f"{self.chained:.0f} with ({100 * self.saved:.1f} % saved, {self.frames} frames)"
        )


@torch.no_grad()
def measure(clips: Sequence[Clip], quality: int = 8, device: str = "auto") -> ContextGain | None:
    """Bits of the encoder's rounded latents of all clips at a rate point (in eighths).

    None if no clip has two frames.
    """
    where = choose_device(device)
    networks = search_networks(load_speech_model("speech").to(where))
    alone, chained = [], []
    for clip in clips:
        frames = frames_of(clip.samples).to(where)
        if len(frames) < 2:
            continue
        rate = torch.full((len(frames),), quality / 8.0, device=where)
        latents = networks.quantise(networks.encoder(frames, rate), 0.0)
        alone.append(_bits(networks.prior.bits(latents[1:], rate[1:])))
        joined = torch.cat((latents[:-1, -_PAST:], latents[1:]), dim=1)
        chained.append(_bits(networks.prior.bits(joined, rate[1:])[:, _PAST:]))
    if not alone:
        return None
    one, other = torch.cat(alone), torch.cat(chained)
    return ContextGain(len(one), float(one.mean()), float(other.mean()))


def _bits(bits: Tensor) -> Tensor:
    return bits.sum((1, 2)).cpu()
