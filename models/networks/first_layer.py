"""The first layers of GANZ: linear maps from latents z to features h0 on a grid of 8x8 positions.

- `PlacedFirstLayer`: d_c latents reach d_c numbers of h0's DCT over the grid, the same in all
  pictures;
- `ChosenFirstLayer`: d_c latents reach d_c entries of h0 and its details, chosen for one picture;
- `DenseFirstLayer`: any number d_c of latents reach all of h0, as in Smedemark-Margulies et al.
  (2020), who call it "square_linear" where d_c is the size of h0;
- `TrainedFirstLayer`: the d_t latents of the training, their "keep_linear";
- `NoFirstLayer`: h0 itself, their "no_linear".

The random ones with the same places in all pictures are diagonal in the DCT of h0, apart from the
mixing of latents, so that random latents give features that vary as slowly from position to
position as those of pictures. h0 has n channels; its numbers are [n * 64], channel by channel. The
*details* are further channels, which only chosen places reach: with h0 they are [c, 8, 8].
"""

from __future__ import annotations

import functools
import math
from abc import ABC, abstractmethod

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from models.networks.random_layer import RandomLayer

GRID = 8
SMOOTH = 12  # channels whose entries are those of their Haar transform, for places to choose
_SMALLEST = 1e-6  # singular value, relative to the largest, that counts as none
_BATCH = 256


def grid_dct() -> Tensor:
    """The orthonormal DCT-II matrix of the grid's side, [8, 8]."""
    n = torch.arange(GRID, dtype=torch.float64)
    matrix = math.sqrt(2.0 / GRID) * torch.cos(math.pi * (2 * n + 1) * n[:, None] / (2 * GRID))
    matrix[0] /= math.sqrt(2.0)
    return matrix.float()


def as_grid(spectrum: Tensor) -> Tensor:
    """DCT numbers of h0 [B, n * 64] to h0 [B, n, 8, 8]."""
    dct = grid_dct().to(spectrum.device)
    return dct.T @ spectrum.reshape(len(spectrum), -1, GRID, GRID) @ dct


def as_spectrum(h: Tensor) -> Tensor:
    """Inverse of `as_grid`."""
    dct = grid_dct().to(h.device)
    return (dct @ h @ dct.T).reshape(len(h), -1)


def grid_haar() -> Tensor:
    """The orthonormal Haar wavelet transform of the grid's side, of all levels: [8, 8]."""
    matrix, size = torch.eye(GRID), GRID
    while size > 1:
        half, level = size // 2, torch.eye(GRID)
        pairs = torch.eye(half).repeat_interleave(2, dim=1) / math.sqrt(2.0)
        signs = torch.tensor([1.0, -1.0]).repeat(half)
        level[:size, :size] = torch.cat((pairs, pairs * signs))
        matrix, size = level @ matrix, half
    return matrix


def as_entries(h: Tensor) -> Tensor:
    """Channels [B, c, 8, 8] as the entries [B, c * 64] that places are chosen from.

    They are the numbers of h0 and its details themselves, since edges are few places of it; but of
    the first channels, the smooth ones, those of the Haar transform over the grid.
    """
    haar = grid_haar().to(h.device)
    return torch.cat((haar @ h[:, :SMOOTH] @ haar.T, h[:, SMOOTH:]), 1).reshape(len(h), -1)


def from_entries(entries: Tensor) -> Tensor:
    """Inverse of `as_entries`."""
    haar = grid_haar().to(entries.device)
    e = entries.reshape(len(entries), -1, GRID, GRID)
    return torch.cat((haar.T @ e[:, :SMOOTH] @ haar, e[:, SMOOTH:]), 1)


def per_number(spread: Tensor) -> Tensor:
    """The spread [n] of h0's channels (`Convolutions.spread`) for each number: [n * 64]."""
    return spread.repeat_interleave(GRID * GRID)


def reach_order(scales: Tensor, spread: Tensor) -> Tensor:
    """The numbers of h0's DCT [n * 64] from the one that makes the most difference to pictures.

    scales: [n * 64], their standard deviations in photographs; spread: [n], of h0's channels.
    """
    # On the CPU and stable: the order is part of what a file means.
    weights = scales.cpu() * per_number(spread.cpu())
    return weights.argsort(descending=True, stable=True)


class FirstLayer(nn.Module, ABC):
    """A linear map from latents [B, d] to h0 [B, c, 8, 8], and what a search of latents needs.

    c is n, or more where the layer reaches details.

    latents: d. A search's variables are latents in *search units*, in which the error of pictures
    is about equally sensitive to all of them, as far as the layer can arrange it.
    """

    latents: int
    channels: int  # c

    @abstractmethod
    def forward(self, z: Tensor) -> Tensor:
        """-> [B, c, 8, 8]."""

    @abstractmethod
    def inverse(self, h: Tensor) -> Tensor:
        """The latents [B, d] whose picture by the linear synthesis is nearest to that of h."""

    def search_units(self, z: Tensor) -> Tensor:
        """Latents [B, d] to search units."""
        return z

    def from_search_units(self, w: Tensor) -> Tensor:
        """Inverse of `search_units`."""
        return w


class PlacedFirstLayer(FirstLayer):
    """A random layer of d_c latents, about 1 in size, that reach as many numbers of h0's DCT.

    They are those that make the most difference to photographs in general, scaled to the statistics
    of photographs. Search units are units of the picture.
    """

    scales: Tensor
    units: Tensor
    mean: Tensor
    where: Tensor

    def __init__(self, latents: int, scales: Tensor, mean: Tensor, spread: Tensor) -> None:
        """scales, mean: [n * 64], of h0's DCT; spread: [n], of its channels in `Convolutions`."""
        super().__init__()
        self.latents, self.channels = latents, len(spread)
        self.random = RandomLayer(latents)
        where = reach_order(scales, spread)[:latents]
        if len(where) != latents:
            raise ValueError(f"{latents} latents cannot reach {len(where)} numbers")
        self.register_buffer("where", where.to(scales.device))
        # Of the numbers reached, in the linear synthesis.
        self.register_buffer("units", per_number(spread)[self.where])
        self.register_buffer("scales", scales[self.where])
        self.register_buffer("mean", mean)

    def forward(self, z: Tensor) -> Tensor:
        moved = z.new_zeros(len(z), len(self.mean))
        moved = moved.index_copy(1, self.where, self.scales * self.random(z))
        return as_grid(moved + self.mean)

    def inverse(self, h: Tensor) -> Tensor:
        wanted = (as_spectrum(h) - self.mean)[:, self.where] / self.scales
        latents: Tensor = self.random.transposed(wanted)
        return latents

    def search_units(self, z: Tensor) -> Tensor:
        mixed: Tensor = self.random(z)
        return mixed * (self.scales * self.units)

    def from_search_units(self, w: Tensor) -> Tensor:
        return self.random.transposed(w / (self.scales * self.units))


class ChosenFirstLayer(FirstLayer):
    """A random layer of d_c latents that reach as many entries, chosen for one picture.

    They are scaled to equal units of the picture, so that the error of quantised latents is spread
    evenly; search units are these units, before the mixing.
    """

    units: Tensor
    mean: Tensor
    where: Tensor

    def __init__(self, flags: Tensor, mean: Tensor, spread: Tensor) -> None:
        """flags: [c * 64], of the entries reached (`as_entries`); mean: [n * 64], of h0's DCT;
        spread: [c], of the channels in `Convolutions`."""
        super().__init__()
        if len(flags) != GRID * GRID * len(spread):
            raise ValueError(f"{len(flags)} flags are not of {len(spread)} channels")
        where = flags.to(spread.device).nonzero()[:, 0]
        self.latents, self.channels = len(where), len(spread)
        self.random = RandomLayer(self.latents)
        self.register_buffer("where", where)
        self.register_buffer("units", per_number(spread)[where])
        h = as_grid(mean[None])
        self.register_buffer("mean", F.pad(h, (0, 0, 0, 0, 0, self.channels - h.shape[1])))

    def forward(self, z: Tensor) -> Tensor:
        entries = z.new_zeros(len(z), GRID * GRID * self.channels)
        return self.mean + from_entries(
            entries.index_copy(1, self.where, self.random(z) / self.units)
        )

    def inverse(self, h: Tensor) -> Tensor:
        return self.from_search_units(as_entries(h - self.mean)[:, self.where] * self.units)

    def search_units(self, z: Tensor) -> Tensor:
        mixed: Tensor = self.random(z)
        return mixed

    def from_search_units(self, w: Tensor) -> Tensor:
        mixed: Tensor = self.random.transposed(w)
        return mixed


class DenseFirstLayer(FirstLayer):
    """A random layer through which every latent reaches every number of h0.

    h0's DCT is mean + scales * W z, where W [n * 64, d_c] is d_c columns of a random orthogonal
    matrix (`RandomLayer`), so long that latents about 1 in size give h0 the statistics of
    photographs. Independent entries would span the same random subspaces, less evenly.
    """

    scales: Tensor
    weights: Tensor
    mean: Tensor

    def __init__(self, latents: int, scales: Tensor, mean: Tensor, spread: Tensor) -> None:
        """scales, mean, spread: as `PlacedFirstLayer` takes them."""
        super().__init__()
        if not 1 <= latents <= len(scales):
            raise ValueError(f"no dense layer of {latents} latents")
        self.latents, self.channels = latents, len(spread)
        self.random = RandomLayer(len(scales))
        self.register_buffer("scales", scales * math.sqrt(len(scales) / latents))
        self.register_buffer("weights", per_number(spread))
        self.register_buffer("mean", mean)

    def _mixed(self, z: Tensor) -> Tensor:
        """W z: [B, n * 64]. Transposed, the random layer also scatters the latents first."""
        padded = F.pad(z, (0, len(self.mean) - self.latents))
        mixed: Tensor = self.random.transposed(padded)
        return mixed

    def forward(self, z: Tensor) -> Tensor:
        return as_grid(self.mean + self.scales * self._mixed(z))

    def inverse(self, h: Tensor) -> Tensor:
        # The normal equations; a second pass takes away what rounding has left of their error.
        weights = self.scales * self.weights
        rest = (as_spectrum(h) - self.mean) * self.weights
        z = rest.new_zeros(len(rest), self.latents)
        for _ in range(2):
            slope = self.random((rest - weights * self._mixed(z)) * weights)[:, : self.latents]
            z = z + self.from_search_units(
                torch.linalg.solve_triangular(self._factor.T, slope, upper=True, left=False)
            )
        return z

    def search_units(self, z: Tensor) -> Tensor:
        return z @ self._factor

    def from_search_units(self, w: Tensor) -> Tensor:
        return torch.linalg.solve_triangular(self._factor, w, upper=False, left=False)

    @functools.cached_property
    @torch.no_grad()
    def _factor(self) -> Tensor:
        """L [d_c, d_c] with L L^T = W^T D^2 W, D the numbers' sizes in the picture: triangular.

        Only a search needs it; it takes seconds for thousands of latents.
        """
        squares = (self.scales * self.weights).square()
        gram = torch.cat(
            [
                self.random(squares * self._mixed(unit))[:, : self.latents]
                for unit in torch.eye(self.latents, device=squares.device).split(_BATCH)
            ]
        )
        gram.diagonal().add_(_SMALLEST * float(gram.diagonal().max()))
        factor: Tensor = torch.linalg.cholesky(gram)
        return factor


class TrainedFirstLayer(FirstLayer):
    """The layer that was trained with the generator, for latents [B, d_t] about in [-1, 1].

    Search units are orthonormal in the picture, as far as the layer's singular values allow it.
    """

    weight: Tensor
    weights: Tensor
    mean: Tensor
    axes: Tensor
    sizes: Tensor

    def __init__(self, weight: Tensor, mean: Tensor, spread: Tensor) -> None:
        """weight, mean: [n * 64, d_t] and [n * 64], of `LinearLayer`; spread: [n]."""
        super().__init__()
        self.latents, self.channels = weight.shape[1], len(spread)
        weights = per_number(spread)
        in_picture = (weight * weights[:, None]).double()
        squares, axes = torch.linalg.eigh(in_picture.T @ in_picture)
        sizes = squares.clamp_min(0.0).sqrt()
        self.register_buffer("weight", weight)
        self.register_buffer("weights", weights)
        self.register_buffer("mean", mean)
        self.register_buffer("axes", axes.float())
        self.register_buffer("sizes", sizes.clamp_min(_SMALLEST * sizes.max() + 1e-12).float())

    def forward(self, z: Tensor) -> Tensor:
        return as_grid(z @ self.weight.T + self.mean)

    def inverse(self, h: Tensor) -> Tensor:
        rest = (as_spectrum(h) - self.mean) * self.weights.square()
        return (rest @ self.weight @ self.axes / self.sizes.square()) @ self.axes.T

    def search_units(self, z: Tensor) -> Tensor:
        return z @ self.axes * self.sizes

    def from_search_units(self, w: Tensor) -> Tensor:
        return (w / self.sizes) @ self.axes.T


class NoFirstLayer(FirstLayer):
    """No layer: latents [B, n * 64] are h0, channel by channel.

    Search units are units of the picture.
    """

    weights: Tensor

    def __init__(self, spread: Tensor) -> None:
        super().__init__()
        self.latents, self.channels = len(spread) * GRID * GRID, len(spread)
        self.register_buffer("weights", per_number(spread))

    def forward(self, z: Tensor) -> Tensor:
        return z.reshape(len(z), -1, GRID, GRID)

    def inverse(self, h: Tensor) -> Tensor:
        return h.reshape(len(h), -1)

    def search_units(self, z: Tensor) -> Tensor:
        return z * self.weights

    def from_search_units(self, w: Tensor) -> Tensor:
        return w / self.weights
