"""Networks of the `photo` preset: encoder, generator and entropy prior of photographs.

Notation: B images in a batch, cells are squares of STRIDE = 16 pixels, h x w of them, C latent
channels. Latents are maps [B, C, h, w]; their quantised form holds integers.

The generator starts from a *linear* synthesis, the lapped orthogonal transform (Malvar 1989) of the
principal colours, and learns the residual. One set of weights serves all rates: a rate point r in
[0, 3] scales the latents channel by channel (log-linear between four trained anchors) and
conditions the networks. The prior sees earlier cells and earlier channel groups of the same cell.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from codec.entropy.context_model import MAX_VALUE
from codec.entropy.image_context import ANCHORS, NEAR, NEIGHBOURS, ImageCoder, ImageContext
from codec.image.container import STRIDE
from models.model import PriorModel
from models.networks.common import Gains, MaskedPrior, hats, start_at_zero
from models.stored import Arrays, names_of

if TYPE_CHECKING:
    from typing_extensions import Self

    from codec.image.presets import Tune
    from models.networks.image_distance import ImageDistance

HALF = STRIDE // 2
COLOURS = 3
LOG_SCALES = (-3.4, 4.0)
BANDS = 54  # of channels of similar frequency, whose magnitudes the prior sees as a sum
MAX_BAND = 31.75


@dataclass(frozen=True)
class TransformShape:
    """Sizes of encoder and generator; stored with the weights."""

    channels: int = 384
    deep: int = 256  # width at one position per cell
    deep_blocks: int = 2
    width: int = 192  # width at four positions per cell
    blocks: int = 5
    encoder_width: int = 192
    encoder_blocks: int = 6

    def __post_init__(self) -> None:
        """Raise ValueError unless the sizes are bounded."""
        sizes = self.channels, self.deep, self.width, self.encoder_width
        if not all(1 <= size <= 1024 for size in sizes):
            raise ValueError("image network sizes are out of range")
        if not all(0 <= n <= 32 for n in (self.deep_blocks, self.blocks, self.encoder_blocks)):
            raise ValueError("image network depths are out of range")


@dataclass(frozen=True)
class PhotoShape(TransformShape):
    """Sizes of the networks of preset `photo`; stored with the weights."""

    prior_values: int = 96  # channels whose values in the near cells the prior sees
    prior_unit: int = 80
    prior_groups: tuple[int, ...] = (2, 2, 4, 8, 8, 12, 16, 24, 36, 56, 88, 128)

    def __post_init__(self) -> None:
        """Raise ValueError unless the sizes fit together and are bounded."""
        super().__post_init__()
        if not all(1 <= size <= 1024 for size in (self.prior_unit, *self.prior_groups)):
            raise ValueError("image network sizes are out of range")
        if not 0 <= self.prior_values <= self.channels:
            raise ValueError("the prior sees more channels than there are")
        # More hidden units could sum beyond the 32 bits of `codec.entropy.image_context`.
        if not 1 <= self.prior_unit * len(self.prior_groups) <= 1000:
            raise ValueError("the prior's hidden units are out of range")


def anchor_weights(rate: Tensor) -> Tensor:
    """Hat functions of the rate point: [B] in [0, 3] -> [B, 4] that sum to one."""
    return hats(rate, ANCHORS)


def mirrored(x: Tensor) -> Tensor:
    """x [B, 3, H, W] with half a cell of its mirror image around it."""
    x = torch.cat((x[..., :HALF].flip(-1), x, x[..., -HALF:].flip(-1)), dim=-1)
    return torch.cat((x[..., :HALF, :].flip(-2), x, x[..., -HALF:, :].flip(-2)), dim=-2)


class Block(nn.Module):
    """Residual block: a 3x3 convolution scaled and shifted by the rate point, then a mix."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.taps = nn.Conv2d(width, width, 3, padding=1)
        self.condition = nn.Linear(ANCHORS, 2 * width)
        self.mix = nn.Conv2d(width, width, 1)
        start_at_zero(self.condition)
        start_at_zero(self.mix)

    def forward(self, x: Tensor, where: Tensor) -> Tensor:
        """x: [B, width, h, w], where: [B, ANCHORS] -> the shape of x."""
        scale, shift = self.condition(where)[:, :, None, None].chunk(2, dim=1)
        h = F.relu(self.taps(x) * (1.0 + scale) + shift)
        y: Tensor = x + self.mix(h)
        return y


class _Transform(nn.Module):
    """A lapped transform: its functions, the standard deviations of their latents, and gains."""

    spread: Tensor

    def __init__(self, shape: TransformShape) -> None:
        super().__init__()
        self.shape, channels = shape, shape.channels
        self.basis = nn.Parameter(torch.zeros(channels, COLOURS * STRIDE * STRIDE, 2, 2))
        self.register_buffer("spread", torch.ones(channels))
        self.gains = Gains(channels, steps=(0.49, 0.2, 0.08, 0.03), shape=(channels, 1, 1))


class PhotoEncoder(_Transform):
    """E(x): image to scaled latents, the warm start of the search."""

    def __init__(self, shape: TransformShape) -> None:
        super().__init__(shape)
        self.enter = nn.Conv2d(COLOURS * HALF * HALF, shape.encoder_width, 1)
        self.blocks = nn.ModuleList(Block(shape.encoder_width) for _ in range(shape.encoder_blocks))
        self.leave = nn.Conv2d(4 * shape.encoder_width, shape.channels, 1)
        start_at_zero(self.leave)

    @property
    def sight(self) -> int:
        """How many cells away a pixel can make a difference."""
        return 1 + -(-self.shape.encoder_blocks // 2)

    def forward(self, x: Tensor, rate: Tensor) -> Tensor:
        """x: [B, 3, 16h, 16w] in [0, 1], rate: [B] -> indices before rounding [B, C, h, w]."""
        x = x - 0.5
        # In half precision the mean colours of cells would be off by whole steps at high rates.
        with torch.autocast(x.device.type, enabled=False):
            linear = lapped_analysis(x, self.basis)
        h = self.enter(F.pixel_unshuffle(x, HALF))
        where = anchor_weights(rate)
        for block in self.blocks:
            h = block(h, where)
        correction = self.leave(F.pixel_unshuffle(h, 2)) * self.spread[:, None, None]
        return (linear + correction).float() * self.gains(rate)


class PhotoGenerator(_Transform):
    """G(z): latents to an image; a linear synthesis plus a learned residual."""

    signs: Tensor

    def __init__(self, shape: TransformShape) -> None:
        super().__init__(shape)
        self.register_buffer("signs", torch.ones(2, shape.channels))
        self.enter = nn.Conv2d(shape.channels, shape.deep, 1)
        self.deep = nn.ModuleList(Block(shape.deep) for _ in range(shape.deep_blocks))
        self.rise = nn.Conv2d(shape.deep, 4 * shape.width, 1)
        self.image = nn.Conv2d(COLOURS * HALF * HALF, shape.width, 1)
        self.blocks = nn.ModuleList(Block(shape.width) for _ in range(shape.blocks))
        self.leave = nn.Conv2d(shape.width, COLOURS * HALF * HALF, 1)
        start_at_zero(self.leave)

    @property
    def sight(self) -> int:
        """How many cells away a latent can make a difference."""
        return 1 + self.shape.deep_blocks + -(-self.shape.blocks // 2)

    def forward(self, z: Tensor, rate: Tensor) -> Tensor:
        """z: [B, C, h, w] in index units, rate: [B] -> [B, 3, 16h, 16w] image, nominally in [0, 1].

        The image beyond the outermost cells is taken for its mirror image.
        """
        z = z / self.gains(rate).to(z.dtype)
        linear = self.linear(z)
        where = anchor_weights(rate).to(self.basis.dtype)
        h = self.enter(z / self.spread[:, None, None])
        for block in self.deep:
            h = block(h, where)
        h = F.pixel_shuffle(self.rise(h), 2)
        h = h + self.image(F.pixel_unshuffle(linear, HALF))
        for block in self.blocks:
            h = block(h, where)
        return (linear + F.pixel_shuffle(self.leave(h), HALF)).float() + 0.5

    def linear(self, z: Tensor) -> Tensor:
        """The lapped synthesis alone: latents in signal units [B, C, h, w] -> [B, 3, 16h, 16w]."""
        return lapped_synthesis(z, self.basis, self.signs)

    def smoothed(self, z: Tensor) -> Tensor:
        """Latents [B, C, h, w] that keep the mean colours of their cells and nothing else."""
        return torch.where(mean_channels(self.basis)[:, None, None], z, 0.0)


def lapped_synthesis(z: Tensor, basis: Tensor, signs: Tensor) -> Tensor:
    """Coefficients [B, C, h, w] of functions [C, 768, 2, 2] as a picture [B, 3, 16h, 16w].

    Beyond the outermost cells it is its own mirror image; signs [2, C]: whether each function is
    symmetric (1) or antisymmetric (-1) across and down.
    """
    across, down = signs[0][:, None, None], signs[1][:, None, None]
    z = torch.cat((z[..., :1] * across, z, z[..., -1:] * across), dim=-1)
    z = torch.cat((z[..., :1, :] * down, z, z[..., -1:, :] * down), dim=-2)
    cells = F.conv_transpose2d(z, basis)[..., 1:-1, 1:-1]
    return F.pixel_shuffle(cells, STRIDE)[..., HALF:-HALF, HALF:-HALF]


def lapped_analysis(x: Tensor, basis: Tensor) -> Tensor:
    """Coefficients [B, C, h, w] of a picture around zero [B, 3, 16h, 16w]."""
    return F.conv2d(F.pixel_unshuffle(mirrored(x), STRIDE), basis)


def mean_channels(basis: Tensor) -> Tensor:
    """Which functions [C, 768, 2, 2] the mean colours of cells are made of: bool [C].

    Of the others little is left when they are averaged over the pixels they are drawn on.
    """
    means = basis.reshape(len(basis), COLOURS, -1).sum(2).abs().sum(1)
    return means > 0.5 * means.max()


def neighbour_cells(height: int, width: int, device: torch.device) -> Tensor:
    """Where each cell finds its neighbours: [h * w, 6] flat indices; h * w stands for none.

    In the order of `NEIGHBOURS`. Of the four near ones, one outside the image is replaced by the
    one to the left, or else by the one above.
    """
    rows, columns = (torch.arange(size, device=device) for size in (height, width))
    row, column = torch.meshgrid(rows, columns, indexing="ij")
    none = height * width
    found = []
    for up, left in NEIGHBOURS:
        r, c = row - up, column - left
        inside = (r >= 0) & (c >= 0) & (c < width)
        found.append(torch.where(inside, r * width + c, none).reshape(-1))
    spare = torch.where(found[0] < none, found[0], found[1])
    for k in range(NEAR):
        found[k] = torch.where(found[k] < none, found[k], spare)
    return torch.stack(found, dim=1)


def magnitude_feature(d: Tensor) -> Tensor:
    """log2(1 + |d|) in quarters, of whole numbers; the gradient is that without rounding."""
    exact = torch.log2(1.0 + d.abs())
    return (torch.round(4.0 * exact) / 4.0).detach() + (exact - exact.detach())


class Prior(MaskedPrior):
    """Autoregressive entropy model of the latents, causal over cells and channel groups.

    Its context are six earlier cells relative to a linear prediction of the cell: values of the
    first channels of the near cells, and magnitudes summed over bands of similar frequency.
    """

    bands: Tensor

    def __init__(self, shape: PhotoShape) -> None:
        channels = shape.channels
        inputs = NEAR * shape.prior_values + len(NEIGHBOURS) * BANDS + ANCHORS
        super().__init__(shape.prior_groups, shape.prior_unit, channels, inputs)
        self.shape = shape
        self.register_buffer("bands", torch.zeros(channels, dtype=torch.long))
        self.predict = nn.Parameter(torch.zeros(NEAR, channels))
        self.log_scale = nn.Parameter(torch.zeros(ANCHORS, channels))  # before the network's part
        with torch.no_grad():
            for layer in (self.past, self.within):
                layer.weight *= 0.5

    def forward(self, q: Tensor, rate: Tensor) -> tuple[Tensor, Tensor]:
        """q: [B, C, h, w] whole indices, rate: [B] -> location and log scale, each [B, C, h, w].

        Differentiable in q, so that a search can see what an index does to those after it.
        """
        batch, channels, height, width = q.shape
        cells = neighbour_cells(height, width, q.device)
        flat = q.permute(0, 2, 3, 1).reshape(batch, height * width, channels).float()
        padded = F.pad(flat, (0, 0, 0, 1))
        near = [padded[:, cells[:, k]] for k in range(NEAR)]
        predicted = torch.zeros_like(flat)
        for k in range(NEAR):
            predicted = predicted + near[k] * self.predict[k].float()
        whole = torch.floor(predicted.detach() + 0.5)
        sums = F.one_hot(self.bands, BANDS).to(flat.dtype)
        parts = []
        for k in range(len(NEIGHBOURS)):
            d = (near[k] if k < NEAR else padded[:, cells[:, k]]) - whole
            d = d.masked_fill((cells[:, k] == height * width)[:, None], 0.0)
            if k < NEAR:
                parts.append(d[..., : self.shape.prior_values].clamp(-MAX_VALUE, MAX_VALUE))
            parts.append((magnitude_feature(d) @ sums).clamp(max=MAX_BAND))
        own = flat - whole
        features = torch.cat((own.clamp(-MAX_VALUE, MAX_VALUE), magnitude_feature(own)), -1)
        where = anchor_weights(rate)[:, None]
        past = torch.cat((*parts, where.expand(-1, height * width, -1)), dim=-1)
        location, log_scale = self.predicted(past, features)
        location = predicted + location
        log_scale = (log_scale + where @ self.log_scale.float()).clamp(*LOG_SCALES)
        shape = (batch, height, width, channels)
        return (
            location.reshape(shape).permute(0, 3, 1, 2),
            log_scale.reshape(shape).permute(0, 3, 1, 2),
        )


class PhotoModel(PriorModel):
    """Encoder, generator and prior of preset `photo`.

    coder: made of `context` when a model is loaded; log_prices: of a bit per pixel, in squared
    errors of pixels in [0, 1].
    """

    kind = "image"
    title = "photo"
    hashed = names_of("context", ImageContext)
    shape_type = PhotoShape
    context_type = ImageContext
    shape: PhotoShape
    context: ImageContext
    coder: ImageCoder

    def __init__(self, shape: PhotoShape) -> None:
        super().__init__()
        self.shape = shape
        self.encoder = PhotoEncoder(shape)
        self.generator = PhotoGenerator(shape)
        # Shared: two sets of gains could only move together.
        self.encoder.gains = self.generator.gains
        self.prior = Prior(shape)
        self.log_prices = [-math.log(v * 255**2) for v in (0.0004, 0.003, 0.025, 0.2)]

    @classmethod
    def restored(cls, description: dict[str, Any], tables: Arrays) -> Self:
        model = super().restored(description, tables)
        model.coder = ImageCoder(model.context)
        return model

    def price(self, rate: Tensor) -> Tensor:
        """Price of a bit per pixel at rate points [B], in mean squared error: [B]."""
        prices = torch.tensor(self.log_prices, device=rate.device, dtype=rate.dtype)
        return torch.exp(anchor_weights(rate) @ prices)

    def picture_distance(self, tune: Tune, price: float) -> ImageDistance:
        """F, which the search lowers, where a bit per pixel costs so much squared error."""
        from models.networks.image_distance import ImageDistance

        return ImageDistance(tune, price)
