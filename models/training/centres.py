"""Quantisation centres: K-means over the unrounded latents of a channel (Liu et al. 2020, 3.2).

Index k of a channel decodes to `centres[channel, k + MAX_INDEX]`, in quantisation steps. K-means
starts from the integers, so the clusters keep their order and 0 keeps its place.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike, NDArray
from sklearn.cluster import KMeans

from codec.entropy.speech_context import MAX_INDEX

LARGEST_SHIFT = 0.45  # of a centre from its integer: keeps the centres strictly increasing
SCARCE = 16.0  # the integer counts as this many latents of its cluster
_BINS = 64  # per unit: K-means on weighted bins is fast, and as good as on single latents


def kmeans_centres(
    latents: ArrayLike,
    *,
    iterations: int = 1,
    scarce: float = SCARCE,
) -> NDArray[np.float32]:
    """Centres [C, 2 * MAX_INDEX + 1] of unrounded latents [N, C] in index units, rows increasing.

    Each channel has one cluster for every integer that some latent rounds to. One iteration gives
    the centroids of the rounding cells; more iterations approach the least error for the number of
    levels, but cost more bits. A centre is pulled to its integer as if `scarce` latents lay there,
    so that rare indices decode almost to themselves. Raises ValueError for latents that are empty,
    not [N, C] or not finite.
    """
    values = np.asarray(latents, np.float64)
    if values.ndim != 2 or not values.size:
        raise ValueError(f"latents must be [N, C] and not empty, not {list(values.shape)}")
    if not np.isfinite(values).all():
        raise ValueError("latents are not finite")
    values = values.clip(-MAX_INDEX, MAX_INDEX)
    return np.stack([_channel(column, iterations, scarce) for column in values.T])


def _channel(values: NDArray[np.float64], iterations: int, scarce: float) -> NDArray[np.float32]:
    """Centres [2 * MAX_INDEX + 1] of one channel's latents [N]."""
    # Borders between integers lie at halves, which are also borders of bins.
    position = np.floor((values + MAX_INDEX) * _BINS).astype(np.int64)
    counts = np.bincount(position)
    sums = np.bincount(position, values)
    filled = np.flatnonzero(counts)
    points, weights = sums[filled] / counts[filled], counts[filled].astype(np.float64)
    seen = np.unique(np.rint(points))
    if len(seen) == 1:
        centres, sizes = np.array([values.mean()]), np.array([float(len(values))])
    else:
        found = KMeans(len(seen), init=seen[:, None], n_init=1, max_iter=iterations).fit(
            points[:, None], sample_weight=weights
        )
        order = np.argsort(found.cluster_centers_[:, 0])
        centres = found.cluster_centers_[order, 0]
        sizes = np.bincount(found.labels_, weights, minlength=len(seen))[order]
    drawn = (sizes * centres + scarce * seen) / (sizes + scarce)
    out = np.arange(-MAX_INDEX, MAX_INDEX + 1, dtype=np.float32)
    shift = np.clip(drawn, seen - LARGEST_SHIFT, seen + LARGEST_SHIFT)
    out[(seen + MAX_INDEX).astype(np.int64)] = shift
    return out
