"""Where the training of the paper's image system starts: the most important lapped functions."""

from __future__ import annotations

import torch
from torch import Tensor

from models.networks.photo import mean_channels
from models.networks.photo_paper import PaperImageEncoder, PaperImageGenerator
from models.training.image.start import lapped_channels

_USED = 0.15  # of the reach: the standard deviation of latents


@torch.no_grad()
def start_linear_image(
    encoder: PaperImageEncoder, generator: PaperImageGenerator, x: Tensor
) -> None:
    """Set both linear parts from training pictures x [N, 3, H, W] in [0, 1].

    Every latent has the same levels, so each should matter the same: the functions, scaled to
    powers in proportion to their deviations (the best there is against white noise of a given
    level), are mixed by a rotation, as in `models.networks.speech_paper.start_linear`.
    """
    shape = encoder.shape
    channels = lapped_channels(x, shape.channels)
    power = (_USED * shape.reach) ** 2 * channels.spread / channels.spread.mean()
    scale = power.sqrt() / channels.spread
    random = torch.randn(shape.channels, shape.channels, generator=torch.Generator().manual_seed(0))
    rotation, _ = torch.linalg.qr(random)
    for part in (encoder, generator):
        part.basis.copy_(channels.bases)
    encoder.mixing.copy_(rotation.T * scale)
    generator.mixing.copy_(rotation / scale[:, None])
    generator.signs.copy_(channels.signs)
    generator.smooth.copy_(mean_channels(channels.bases).float())
