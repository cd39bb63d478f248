"""What a training gains on frames that it never sees, in whole frames and in the shortest packets.

Everything is fixed but the networks: the frames, the rate point and the price of a bit.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import torch
from torch import Tensor

from codec.errors import BadInput
from codec.search.problem import Distance, quantise
from models.evaluation.clips import load_clips
from models.evaluation.frames import frames_of
from models.networks.speech import SpeechModel
from models.training import sliding
from models.training.objectives import Prices

RATE = 1.0  # that of the default preset
_CLIPS, _SECONDS = 24, 3.5
_AT_ONCE = 16  # frames; more would only take more memory


def held_out_frames(clips: Path, note: Callable[[str], None] = lambda line: None) -> Tensor:
    """The whole frames [N, T, M] of the same few seconds of clips, balanced over speakers.

    Raises BadInput if no clip can be used, or none is as long as a frame.
    """
    chosen, skipped = load_clips(clips, _CLIPS, _SECONDS)
    if skipped:
        note(f"{len(skipped)} clips left out, first {next(iter(skipped.values()))}")
    # The last frame of a clip is mostly padding.
    frames = torch.cat([frames_of(clip.samples)[:-1] for clip in chosen])
    if not len(frames):
        raise BadInput(f"no clip of {clips} is as long as a frame")
    return frames


class HeldOut:
    """Frames x [N, T, M] to measure networks on. prices: as they are now, whatever becomes of them.

    distance: F, on the device of the networks.
    """

    def __init__(self, x: Tensor, distance: Distance, prices: Prices) -> None:
        self._x, self._distance = x, distance
        self._price = float(prices.of(torch.tensor([RATE])))

    @torch.no_grad()
    def figures(self, model: SpeechModel) -> dict[str, float]:
        """Mean distance, bits and cost (distance + price * bits) of a frame coded without search.

        The number at the end of a name is the latent steps of a packet: one, and a whole frame's.
        """
        found: dict[str, float] = {}
        device = next(model.parameters()).device
        for block in (1, model.shape.steps):
            distance = bits = 0.0
            for part in self._x.split(_AT_ONCE):
                x, rate = part.to(device), torch.full((len(part),), RATE, device=device)
                q = quantise(sliding.encode(model, x, rate, block))
                y = sliding.generate(model, q, rate, block)
                distance += float(self._distance.against(self._distance.reference(x), y).sum())
                bits += float(sliding.bits(model, q, rate, block).sum())
            distance, bits = distance / len(self._x), bits / len(self._x)
            figures = {"distance": distance, "bits": bits, "cost": distance + self._price * bits}
            found |= {f"held_out_{name}_{block}": value for name, value in figures.items()}
        return found
