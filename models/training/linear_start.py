"""Linear starts: networks begin as a linear transform that already is a working codec.

Speech starts from the principal components of patches, images from a lapped transform of the
principal colours, sorted by variance. The paper's speech networks may start from those of the other
presets instead, with a linear transform of their latents.
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
from models.networks.speech import Encoder, Generator, SpeechModel, anchor_weights
from models.networks.speech_paper import PaperEncoder, PaperShape
from models.networks.speech_shape import FrameShape

_MOST_OF_REACH = 0.95
_SPREAD = 0.3  # deviation of each of the paper's latents, as a share of their reach
_FINEST = 2.0  # the rate point of the speech networks that others start from
_METRIC_FRAMES, _PROJECTIONS = 256, 4
_AT_ONCE = 16  # frames
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
def start_paper_speech(encoder: PaperEncoder, generator: Generator, x: Tensor) -> None:
    """Set both linear parts from training frames x [N, T, M], to principal components of
    patches."""
    mean = x.mean((0, 1))
    patches = (x - mean).reshape(-1, encoder.shape.patch * encoder.shape.mels).double()
    down, up = _mixed(patches.T @ patches / len(patches), encoder.shape)
    _at_one_rate(encoder, generator)
    for part in (encoder, generator):
        part.mean.copy_(mean)
    encoder.basis.copy_(down)
    generator.basis.copy_(up)


@torch.no_grad()
def take_speech_networks(
    encoder: PaperEncoder, generator: Generator, speech: SpeechModel, x: Tensor
) -> None:
    """Take the networks of a `speech` model, with fewer latents in longer steps.

    Those are made of the principal components of the speech model's latents of the steps joined,
    for training frames x [N, T, M], in the metric in which the drawn frames change with these.
    Raises ValueError for networks of other sizes.
    """
    own, old = encoder.shape, speech.shape
    joined = own.patch // old.patch
    fitting = own.patch % old.patch == 0 and own.channels <= joined * old.channels
    if not fitting or _inner(own) != _inner(old):
        raise ValueError(f"networks of {_inner(own)} cannot start from those of {_inner(old)}")
    rate = torch.tensor([_FINEST])
    latents = torch.cat([speech.encoder(part, rate) for part in x.split(_AT_ONCE)])
    metric = torch.block_diag(*[_metric(speech, latents[:_METRIC_FRAMES], rate)] * joined)
    values, vectors = torch.linalg.eigh(metric)
    root = vectors * values.clamp_min(1e-9 * values[-1]).sqrt() @ vectors.T
    flat = latents.double().reshape(-1, joined * old.channels)
    middle = flat.mean(0)
    flat = (flat - middle) @ root
    down, up = _mixed(flat.T @ flat / len(flat), own)
    down, up = root @ down, up @ torch.linalg.inv(root)  # from joined latents, and to them
    _at_one_rate(encoder, generator)
    for part, other in ((encoder, speech.encoder), (generator, speech.generator)):
        part.blocks.load_state_dict(other.blocks.state_dict())
        part.mean.copy_(other.mean)

    def together(weight: Tensor) -> Tensor:
        return torch.block_diag(*[weight.double()] * joined)

    def conditioned(part: Encoder | Generator) -> Tensor:
        return (anchor_weights(rate) @ part.condition.weight.T)[0]

    source, gains = speech.encoder, speech.encoder.gains(rate)[0, 0]
    encoder.basis.copy_(together(source.basis * gains) @ down)
    encoder.enter.weight.copy_(source.enter.weight)
    encoder.enter.bias.copy_(source.enter.bias + conditioned(source))
    encoder.leave.weight.copy_((together(source.leave.weight.T * gains) @ down).T)
    offset = (source.leave.bias * gains).double().repeat(joined) - middle
    encoder.leave.bias.copy_(offset @ down)

    drawn, gains = speech.generator, speech.generator.gains(rate)[0, 0]
    basis = together(drawn.basis / gains[:, None])
    generator.basis.copy_(up @ basis)
    enter = together(drawn.enter.weight.T / gains[:, None])
    generator.enter.weight.copy_((up @ enter).T)
    bias = drawn.enter.bias.repeat(joined) + conditioned(drawn).repeat(own.fold)
    generator.enter.bias.copy_(bias + middle @ enter)
    generator.norm.load_state_dict(drawn.norm.state_dict())
    generator.leave.weight.copy_(drawn.leave.weight)
    # The linear part has no bias: what the mean latents draw is left to the residual, row by row.
    rows = (middle @ basis).reshape(own.fold, -1).mean(0)
    generator.leave.bias.copy_(drawn.leave.bias + rows)


def _inner(shape: FrameShape) -> tuple[int, ...]:
    """The sizes on which the latents have no bearing."""
    return shape.width, shape.hidden, shape.encoder_blocks, shape.generator_blocks


def _at_one_rate(encoder: Encoder, generator: Generator) -> None:
    """Let the rate point make no difference."""
    for part in (encoder, generator):
        part.gains.log_gain.zero_()
        part.condition.weight.zero_()


def _mixed(covariance: Tensor, shape: PaperShape) -> tuple[Tensor, Tensor]:
    """Transform [N, C] to latents that are equally important, as equal levels for all of them
    require, and its inverse [C, N] on the principal components that it keeps.

    The components are scaled to powers proportional to their deviations, the optimum against white
    noise, and mixed by a rotation.
    """
    variances, vectors = torch.linalg.eigh(covariance)
    kept = variances.flip(0)[: shape.channels].clamp_min(1e-8 * float(variances[-1]))
    directions, deviations = vectors.flip(1)[:, : shape.channels], kept.sqrt()
    scale = _SPREAD * shape.reach / (deviations * deviations.mean()).sqrt()
    random = torch.randn(len(kept), len(kept), generator=torch.Generator().manual_seed(0))
    rotation = torch.linalg.qr(random.to(scale))[0]
    return directions * scale @ rotation, rotation.T @ (directions / scale).T


def _metric(speech: SpeechModel, latents: Tensor, rate: Tensor) -> Tensor:
    """How drawn frames change with the latents of a step, [C, C]: the mean product of the slopes of
    their random projections."""
    channels = latents.shape[2]
    total = torch.zeros(channels, channels, dtype=torch.float64)
    for part in latents.split(_AT_ONCE):
        z = part.clone().requires_grad_(True)
        with torch.enable_grad():
            y = speech.generator(z, rate)
            for _ in range(_PROJECTIONS):
                projected = (y * torch.randn_like(y)).sum()
                (slope,) = torch.autograd.grad(projected, z, retain_graph=True)
                total += torch.einsum("bsc,bsd->cd", slope, slope)
    return total


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
