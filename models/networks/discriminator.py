"""Patch discriminator of log-mel frames and pictures, for adversarial training (hinge loss).

It judges overlapping patches of 46 hops by 46 bands, or 46x46 pixels (Isola et al. 2017), and is
thrown away when the training ends.
"""

from __future__ import annotations

from typing import cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.utils.parametrizations import weight_norm

_RESOLUTIONS = 3


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
        return self.maps(x)[-1]

    def maps(self, x: Tensor) -> list[Tensor]:
        """What each layer makes of x, and the scores."""
        grid = x[:, None] if x.ndim == 3 else x
        grid = grid.contiguous(memory_format=torch.channels_last)
        found: list[Tensor] = []
        for layer in self.body:
            grid = layer(grid)
            if isinstance(layer, nn.LeakyReLU):
                found.append(grid)
        return [*found, grid[:, 0].float()]


class Critics(nn.Module):
    """Patch discriminators at three resolutions, each half that of the one before.

    Wang et al. 2018, section 3.2; weight normalisation as in MelGAN (Kumar et al. 2019).
    """

    def __init__(self, planes: int) -> None:
        super().__init__()
        self.critics = nn.ModuleList(
            PatchDiscriminator((32, 64, 128), planes) for _ in range(_RESOLUTIONS)
        )
        for layer in self.critics.modules():
            if isinstance(layer, nn.Conv2d):
                weight_norm(layer)

    def forward(self, x: Tensor) -> list[list[Tensor]]:
        """The maps of each critic, its scores last, of x [B, planes, H, W]."""
        found = []
        for critic in self.critics:
            found.append(cast("PatchDiscriminator", critic).maps(x))
            x = F.avg_pool2d(x, 2)
        return found


def discriminator_loss(real: Tensor, generated: Tensor) -> Tensor:
    """Hinge loss of the discriminator, from its scores of real and generated frames."""
    return F.relu(1.0 - real).mean() + F.relu(1.0 + generated).mean()


def generator_loss(generated: Tensor) -> Tensor:
    """Hinge loss of the generator, from the discriminator's scores of its frames."""
    return -generated.mean()


def matching_loss(real: list[list[Tensor]], generated: list[list[Tensor]]) -> Tensor:
    """Mean absolute difference of the critics' maps (Wang et al. 2018, equation 4)."""
    differences = [
        (a.detach().float() - b.float()).abs().mean()
        for maps in zip(real, generated, strict=True)
        for a, b in zip(*(each[:-1] for each in maps), strict=True)
    ]
    return torch.stack(differences).mean()
