"""Linear starts: networks begin as a linear transform that already is a working codec.

Speech starts from the principal components of patches, images from a lapped transform of the
principal colours, sorted by variance.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from sklearn.decomposition import PCA
from torch import Tensor

from codec.image.container import STRIDE
from models.networks.photo import COLOURS, PhotoModel, lapped_analysis, mean_channels
from models.networks.photo_paper import PaperImageEncoder, PaperImageGenerator
from models.networks.speech import SpeechModel
from models.networks.speech_paper import PaperEncoder, PaperGenerator, compress, expand

_MOST_OF_REACH = 0.95
_CORRELATION = 0.95  # of neighbouring pixels, for which the transform is optimal


def start_speech(model: SpeechModel, x: Tensor, seed: int) -> None:
    """Set encoder and generator to the principal components of patches of x [N, T, M].

    Raises ValueError when x has fewer patches than the model has channels.
    """
    shape = model.shape
    x = x.float().cpu()
    mean = x.mean((0, 1))
    patches = (x - mean).reshape(-1, shape.patch * shape.mels).numpy()
    found = PCA(shape.channels, svd_solver="randomized", random_state=seed).fit(patches)
    basis = torch.from_numpy(found.components_.astype("float32"))
    with torch.no_grad():
        for part in (model.encoder, model.generator):
            part.mean.copy_(mean)
        model.encoder.basis.copy_(basis.T)
        model.generator.basis.copy_(basis)


def lapped_basis(size: int = STRIDE, correlation: float = _CORRELATION) -> NDArray[np.float64]:
    """Optimal lapped orthogonal transform [size, 2 * size] of a first-order Markov source.

    Malvar & Staelin (1989): DCT functions of two blocks are combined into symmetric and
    antisymmetric functions of twice the length, then decorrelated. The first half of the rows is
    symmetric, the second antisymmetric; each half is sorted by variance.
    """
    n, k = np.arange(size), np.arange(size)[:, None]
    dct = np.sqrt(2.0 / size) * np.cos(np.pi * (2 * n + 1) * k / (2 * size))
    dct[0] /= np.sqrt(2.0)
    difference = dct[0::2] - dct[1::2]
    mirrored = difference[:, ::-1]
    start = 0.5 * np.block([[difference, mirrored], [difference, -mirrored]])
    lags = np.abs(np.subtract.outer(np.arange(2 * size), np.arange(2 * size)))
    covariance = start @ (correlation**lags) @ start.T
    half = size // 2
    rows = []
    for part in (slice(0, half), slice(half, size)):
        _, vectors = np.linalg.eigh(covariance[part, part])
        rows.append(vectors[:, ::-1].T @ start[part])
    basis: NDArray[np.float64] = np.concatenate(rows)
    return basis


def principal_colours(x: Tensor) -> NDArray[np.float64]:
    """Orthonormal colour axes [3, 3] (rows) of the high-passed images x [N, 3, H, W]."""
    detail = (x - F.avg_pool2d(x, 9, 1, 4, count_include_pad=False)).double()
    flat = detail.permute(1, 0, 2, 3).reshape(COLOURS, -1)
    _, vectors = np.linalg.eigh((flat @ flat.T / flat.shape[1]).numpy())
    axes: NDArray[np.float64] = vectors[:, ::-1].T
    return axes * np.sign(axes.sum(axis=1, keepdims=True) + 1e-9)


@dataclass(frozen=True)
class LappedChannels:
    """The functions of the lapped transform that matter most, the largest variance first.

    bases: [C, 768, 2, 2]; spread: their standard deviations [C]; signs: 1 if symmetric, -1 if
    antisymmetric, across and down [2, C]; bands: of similar frequency [C].
    """

    bases: Tensor
    spread: Tensor
    signs: Tensor
    bands: Tensor


def lapped_channels(x: Tensor, count: int) -> LappedChannels:
    """The `count` directions of the largest mean variance in images x [N, 3, H, W] in [0, 1]."""
    lapped, colours = lapped_basis(), principal_colours(x)
    symmetric = np.where(np.arange(STRIDE) < STRIDE // 2, 1.0, -1.0)
    functions, across, down, bands = [], [], [], []
    for c, colour in enumerate(colours):
        for i in range(STRIDE):
            for j in range(STRIDE):
                functions.append(np.einsum("c,y,x->cyx", colour, lapped[i], lapped[j]))
                down.append(symmetric[i])
                across.append(symmetric[j])
                bands.append(_band(c, _frequency(i), _frequency(j)))
    kernels = torch.from_numpy(np.array(functions)).float()
    bases = _as_cells(kernels)
    variance = lapped_analysis(x - 0.5, bases).var(dim=(0, 2, 3))
    chosen = variance.argsort(descending=True)[:count]
    signs = torch.tensor([across, down], dtype=torch.float32)[:, chosen]
    return LappedChannels(
        bases[chosen], variance[chosen].sqrt(), signs, torch.tensor(bands)[chosen]
    )


def start_image(model: PhotoModel, x: Tensor) -> None:
    """Set encoder and generator to the lapped transform of images x [N, 3, H, W] in [0, 1].

    The channels are the directions of the largest mean variance, the largest first.
    """
    channels = lapped_channels(x, model.shape.channels)
    spread = channels.spread
    with torch.no_grad():
        for part in (model.encoder, model.generator):
            part.basis.copy_(channels.bases)
            part.spread.copy_(spread)
        model.generator.signs.copy_(channels.signs)
        mean = spread / spread[0]
        # Smooth channels are predicted from their neighbours, the others are not.
        start = torch.tensor([0.6, 0.6, -0.3, 0.1])[:, None] * (mean > 0.5).float()
        model.prior.predict.copy_(start)
        model.prior.bands.copy_(channels.bands)
        log_scale = torch.log(0.4 * spread) + model.encoder.gains.log_gain
        model.prior.log_scale.copy_(log_scale.clamp(-2.2, 3.0))


@torch.no_grad()
def start_paper_speech(encoder: PaperEncoder, generator: PaperGenerator, x: Tensor) -> None:
    """Set both linear parts from training frames x [N, T, M], to principal components.

    The generator's inverse is a least-squares fit on the encoder's bounded latents.
    """
    s = encoder.shape
    mean = x.mean((0, 1))
    patches = (x - mean).reshape(-1, s.patch * s.mels)
    variances, vectors = torch.linalg.eigh(patches.T @ patches / len(patches))
    order = torch.arange(len(variances) - 1, len(variances) - 1 - s.channels, -1)
    scale, rotation = _mixing(variances[order].clamp_min(1e-8).sqrt(), 0.4 * s.reach)
    encoder.mean.copy_(mean)
    encoder.basis.copy_(vectors[:, order] * scale @ rotation)
    noise = len(patches) / 12.0  # of rounding to steps of one
    z = expand(compress(patches @ encoder.basis, s.reach), s.reach)
    inverse = torch.linalg.solve(z.T @ z + noise * torch.eye(s.channels), z.T @ patches)
    home = inverse.reshape(s.channels, s.patch, s.mels).transpose(1, 2)
    generator.mean.copy_(mean)
    generator.basis.zero_()
    generator.basis[:, :, s.patch // 2 : s.patch // 2 + s.patch] = home


@torch.no_grad()
def start_paper_image(
    encoder: PaperImageEncoder, generator: PaperImageGenerator, x: Tensor
) -> None:
    """Set both linear parts from training pictures x [N, 3, H, W] in [0, 1]: a lapped transform."""
    channels = lapped_channels(x, encoder.shape.channels)
    means = mean_channels(channels.bases)
    # So that cells all white or black are within reach.
    most = math.log(_MOST_OF_REACH * encoder.shape.reach / (0.5 * STRIDE * math.sqrt(COLOURS)))
    for part in (encoder, generator):
        part.basis.copy_(channels.bases)
        part.spread.copy_(channels.spread)
        part.gains.log_gain[:, means] = part.gains.log_gain[:, means].clamp_max(most)
    generator.signs.copy_(channels.signs)


def _mixing(deviations: Tensor, level: float) -> tuple[Tensor, Tensor]:
    """Scales [C] and a rotation [C, C] that make latents of given deviations equally important.

    Scaled, their powers are proportional to their deviations, the optimum against white noise;
    level: the root of the mean power.
    """
    power = level**2 * deviations / deviations.mean()
    random = torch.randn(len(power), len(power), generator=torch.Generator().manual_seed(0))
    return power.sqrt() / deviations, torch.linalg.qr(random)[0]


def _as_cells(kernels: Tensor) -> Tensor:
    """Reshape functions [N, 3, 32, 32] to [N, 3 * 256, 2, 2], over pixel-unshuffled cells."""
    count = len(kernels)
    split = kernels.reshape(count, COLOURS, 2, STRIDE, 2, STRIDE).permute(0, 1, 3, 5, 2, 4)
    return split.reshape(count, COLOURS * STRIDE * STRIDE, 2, 2).contiguous()


def _frequency(row: int) -> int:
    """Zero crossings of a row of `lapped_basis`, up to a constant."""
    half = STRIDE // 2
    return 2 * row if row < half else 2 * (row - half) + 1


def _band(colour: int, down: int, across: int) -> int:
    """The band of a basis function: 36 for the first colour, by octaves, 9 for each other."""
    if colour == 0:
        edges = np.array([1, 2, 3, 5, 8])
        first, second = np.searchsorted(edges, [down, across], side="right")
        return int(6 * first + second)
    first, second = np.searchsorted(np.array([1, 3]), [down, across], side="right")
    return int(36 + 9 * (colour - 1) + 3 * first + second)
