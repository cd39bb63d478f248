"""Non-uniform scalar quantiser: one set of centres for all latents (Liu et al. 2020, 3.2).

Q(z) is the centre nearest to z. The centres come from K-means over unquantised latents of training
signals and are stored as float32 with the model, so a decoder only looks values up.
"""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

MAX_LEVELS = 128  # indices travel as int8
_PRICED_ROUNDS = 30


def thin_out(indices: NDArray[np.int8]) -> NDArray[np.int8]:
    """Integer latents [S, C] with a tenth of the nonzero ones (at least one), those of the highest
    channels, set to 0."""
    out = indices.copy()
    steps, channels = np.nonzero(out)
    order = np.argsort(-channels, kind="stable")
    drop = order[: max(len(order) // 10, 1)]
    out[steps[drop], channels[drop]] = 0
    return out


class Quantiser(nn.Module):
    """Indices 0..levels-1 <-> values; moves between devices with the model that owns it."""

    centres: Tensor
    borders: Tensor

    def __init__(self, centres: NDArray[np.floating]) -> None:
        """centres: [levels], finite and strictly increasing in float32; else raises ValueError."""
        super().__init__()
        values = np.asarray(centres, np.float32)
        if values.ndim != 1 or not 2 <= len(values) <= MAX_LEVELS:
            raise ValueError(f"a quantiser has 2 to {MAX_LEVELS} centres")
        if not np.isfinite(values).all() or not (np.diff(values) > 0).all():
            raise ValueError("quantiser centres must be finite and strictly increasing")
        self.register_buffer("centres", torch.from_numpy(values.copy()), persistent=False)
        middles = (values[:-1].astype(np.float64) + values[1:]) / 2.0
        self.register_buffer(
            "borders", torch.from_numpy(middles.astype(np.float32)), persistent=False
        )

    @property
    def levels(self) -> int:
        return len(self.centres)

    @property
    def reach(self) -> float:
        """The largest magnitude of any centre."""
        return float(self.centres.abs().max())

    @property
    def zero_level(self) -> int:
        """Index of the centre nearest to zero."""
        return int(self.centres.abs().argmin())

    def index(self, z: Tensor) -> Tensor:
        """Indices of the nearest centres, int64, same shape as z; a tie goes to the lower one."""
        return torch.bucketize(z.float().contiguous(), self.borders)

    def value(self, indices: Tensor) -> Tensor:
        """Centres of integer indices of any shape. Raises ValueError outside 0..levels-1."""
        if indices.numel() and not (0 <= int(indices.min()) <= int(indices.max()) < self.levels):
            raise ValueError(f"quantiser indices must lie in 0..{self.levels - 1}")
        return self.centres[indices.long()]

    def forward(self, z: Tensor) -> Tensor:
        """Q(z): every value replaced by its nearest centre."""
        return self.centres[self.index(z)]

    def thin_out(self, indices: NDArray[np.int8]) -> NDArray[np.int8]:
        """Move the outermost 2 % of the indices (at least one) one level towards zero."""
        out = indices.copy()
        flat = out.reshape(-1)
        distance = flat.astype(np.int64) - self.zero_level
        movable = int(np.count_nonzero(distance))
        farthest = np.argsort(-np.abs(distance), kind="stable")[: min(len(flat) // 50 + 1, movable)]
        flat[farthest] -= np.sign(distance[farthest]).astype(flat.dtype)
        return out


def fit_centres(latents: NDArray[np.floating], levels: int, seed: int = 0) -> NDArray[np.float32]:
    """K-means centres of all values of `latents` (any shape), increasing, float32 [levels].

    Raises ValueError for values that are not finite or form fewer clusters than levels.
    """
    from sklearn.cluster import KMeans

    values = np.asarray(latents, np.float64).reshape(-1, 1)
    if not np.isfinite(values).all() or len(np.unique(values)) < levels:
        raise ValueError(f"need at least {levels} different finite values for {levels} centres")
    # In one dimension a good start is near the optimum, so one run is enough.
    start = _companded(values[:, 0], levels)[:, None]
    found = KMeans(levels, init=start, n_init=1, max_iter=300, tol=0.0, random_state=seed).fit(
        values
    )
    centres = np.sort(found.cluster_centers_[:, 0]).astype(np.float32)
    if not (np.diff(centres) > 0).all():
        raise ValueError("the latents fall into fewer clusters than levels")
    return centres


def fit_priced_centres(
    latents: NDArray[np.floating], start: NDArray[np.floating], price: float
) -> NDArray[np.float32]:
    """Centres of the lowest squared error and price of the levels' bits, float32 [levels].

    Entropy-constrained K-means (Chou, Lookabaugh & Gray 1989) over all values of `latents`, from
    increasing centres `start`: plain K-means sets most levels where most latents are, and their
    codes get long. A level that nothing chooses stays where it is.
    """
    values = np.asarray(latents, np.float64).reshape(-1)
    centres = np.asarray(start, np.float64).copy()
    chosen = np.abs(values[:, None] - centres).argmin(1)
    for _ in range(_PRICED_ROUNDS):
        counts = np.bincount(chosen, minlength=len(centres))
        sums = np.bincount(chosen, values, len(centres))
        used = counts > 0
        centres[used] = sums[used] / counts[used]
        # Half a count for levels that nothing chose.
        bits = -np.log2(np.maximum(counts, 0.5) / len(values))
        chosen = ((values[:, None] - centres) ** 2 + price * bits).argmin(1)
    return np.sort(centres).astype(np.float32)


def _companded(values: NDArray[np.float64], levels: int) -> NDArray[np.float64]:
    """Initial centres, as dense as the cube root of the values' density (Panter & Dite 1951).

    Quantiles are too dense at the peak, and Lloyd's iteration moves many centres slowly. The
    density is estimated from 2**10 bins of equal counts.
    """
    edges = np.unique(np.quantile(values, np.linspace(0.0, 1.0, min(1024, len(values)) + 1)))
    counts, _ = np.histogram(values, edges)
    widths = np.diff(edges)
    share = np.cbrt(counts / widths) * widths
    below = np.concatenate(([0.0], np.cumsum(share)))
    wanted = (np.arange(levels) + 0.5) / levels * below[-1]
    start: NDArray[np.float64] = np.interp(wanted, below, edges)
    return start
