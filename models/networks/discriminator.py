"""Patch discriminator of log-mel frames and pictures, for adversarial training (hinge loss).

It judges overlapping patches of 46 hops by 46 bands, or 46x46 pixels (Isola et al. 2017), and is
thrown away when the training ends.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn


class PatchDiscriminator(nn.Module):
    """D(x): frames or pictures to one score per patch, positive for real ones."""

    def __init__(self, widths: tuple[int, int, int] = (24, 48, 96), planes: int = 1) -> None:
        super().__init__()
        first, second, third = widths
        layers: list[nn.Module] = []
        for before, after in ((planes, first), (first, second), (second, third)):
            layers.append(nn.Conv2d(before, after, 4, stride=2, padding=1))
            layers.append(nn.LeakyReLU(0.2))
        layers.append(nn.Conv2d(third, 1, 4, padding=1))
        self.body = nn.Sequential(*layers)

    def forward(self, x: Tensor) -> Tensor:
        """x: [B, H, W] frames or [B, planes, H, W] pictures -> scores [B, H/8 - 1, W/8 - 1]."""
        grid = x[:, None] if x.ndim == 3 else x
        grid = grid.contiguous(memory_format=torch.channels_last)
        scores: Tensor = self.body(grid)[:, 0].float()
        return scores


def discriminator_loss(real: Tensor, generated: Tensor) -> Tensor:
    """Hinge loss of the discriminator, from its scores of real and generated frames."""
    return F.relu(1.0 - real).mean() + F.relu(1.0 + generated).mean()


def generator_loss(generated: Tensor) -> Tensor:
    """Hinge loss of the generator, from the discriminator's scores of its frames."""
    return -generated.mean()
