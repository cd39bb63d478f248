"""F for pictures: squared error and multi-scale structural similarity, in bits.

MS-SSIM as in Wang, Simoncelli & Bovik (2003): Gaussian window of 11 taps and σ = 1.5, five scales,
each colour on its own. Pictures too small for five scales use as many as fit.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from codec.image.container import STRIDE
from codec.image.presets import Tune
from models.networks.common import SignalDistance

TAPS = 11
_SIGMA = 1.5
_WEIGHTS = (0.0448, 0.2856, 0.3001, 0.2363, 0.1333)
_C1, _C2 = 0.01**2, 0.03**2
# At this many squared errors (of pixels in [0, 1]) per unit of 1 - MS-SSIM both cost about the
# same number of bits at the same rate: the ratio of the customary λ of the two measures.
SIMILARITY_SCALE = 0.02
# The weight of the squared error beside 1 - MS-SSIM; the paper leaves it open.
ALPHAS: dict[Tune, float] = {"psnr": 250.0, "visual": 50.0, "ms-ssim": 5.0}
_SHARES: dict[Tune, float] = {"psnr": 0.0, "ms-ssim": 0.97, "visual": 0.5}


def _window(like: Tensor) -> Tensor:
    n = torch.arange(TAPS, dtype=like.dtype, device=like.device) - TAPS // 2
    g = torch.exp(-n.square() / (2.0 * _SIGMA**2))
    return g / g.sum()


def _blur(x: Tensor) -> Tensor:
    """Valid Gaussian blur of [B, C, H, W]; a side shorter than the window is left as it is."""
    window, channels = _window(x), x.shape[1]
    if x.shape[2] >= TAPS:
        x = F.conv2d(x, window.reshape(1, 1, TAPS, 1).expand(channels, 1, -1, -1), groups=channels)
    if x.shape[3] >= TAPS:
        x = F.conv2d(x, window.reshape(1, 1, 1, TAPS).expand(channels, 1, -1, -1), groups=channels)
    return x


def scales_of(height: int, width: int) -> int:
    """How many scales fit, at least one."""
    count = 1
    while count < len(_WEIGHTS) and min(height, width) // 2**count >= TAPS:
        count += 1
    return count


def _halve(x: Tensor) -> Tensor:
    return F.avg_pool2d(x, 2, padding=(x.shape[2] % 2, x.shape[3] % 2), count_include_pad=False)


def similarity_reference(x: Tensor) -> tuple[Tensor, ...]:
    """What `ms_ssim` needs of the original [B, C, H, W] in [0, 1]: three maps per scale."""
    parts: list[Tensor] = []
    for level in range(scales_of(x.shape[2], x.shape[3])):
        if level:
            x = _halve(x)
        mean = _blur(x)
        parts += [x, mean, _blur(x * x) - mean * mean]
    return tuple(parts)


def ms_ssim_to(reference: tuple[Tensor, ...], y: Tensor) -> Tensor:
    """MS-SSIM of pictures y [B, C, H, W] to a `similarity_reference`: [B]."""
    scales = len(reference) // 3
    weights = torch.tensor(_WEIGHTS[:scales], dtype=y.dtype, device=y.device)
    weights = weights / weights.sum()
    total = torch.ones_like(y[:, :, 0, 0])
    for level in range(scales):
        if level:
            y = _halve(y)
        x, mean_x, variance_x = reference[3 * level : 3 * level + 3]
        mean_y = _blur(y)
        variance_y = _blur(y * y) - mean_y * mean_y
        covariance = _blur(x * y) - mean_x * mean_y
        structure = (2.0 * covariance + _C2) / (variance_x + variance_y + _C2)
        if level == scales - 1:
            luminance = (2.0 * mean_x * mean_y + _C1) / (mean_x.square() + mean_y.square() + _C1)
            structure = luminance * structure
        score = structure.mean((2, 3)).clamp_min(1e-6)
        total = total * score ** weights[level]
    return total.mean(1)


def ms_ssim(x: Tensor, y: Tensor) -> Tensor:
    """MS-SSIM of pictures [B, C, H, W] in [0, 1]: [B]."""
    return ms_ssim_to(similarity_reference(x), y)


class ImageDistance(SignalDistance):
    """F of pictures in bits, tuned for one measure or a mix of both.

    price: mean squared error that is worth a bit per pixel.
    """

    def __init__(self, tune: Tune, price: float) -> None:
        super().__init__()
        self.share, self.price = _SHARES[tune], price

    def reference(self, x: Tensor) -> tuple[Tensor, ...]:
        """The target's part, computed once: x [B, 3, H, W]."""
        return (x, *similarity_reference(x)) if self.share > 0 else (x,)

    def against(self, reference: tuple[Tensor, ...], y: Tensor) -> Tensor:
        """F of decoded pictures y [B, 3, H, W]: [B], in bits."""
        y = y.float()
        distance = (1.0 - self.share) * (y - reference[0]).square().mean((1, 2, 3))
        if self.share > 0:
            similarity = ms_ssim_to(reference[1:], y)
            distance = distance + self.share * SIMILARITY_SCALE * (1.0 - similarity)
        pixels = y.shape[2] * y.shape[3]
        return distance * (pixels / self.price)


class PaperDistance(SignalDistance):
    """F = L_MS-SSIM + α·MSE (Liu et al. 2020, section 4.1), times the number of cells.

    So scaled, what one latent changes does not depend on the size of the picture.
    """

    def __init__(self, alpha: float = ALPHAS["psnr"]) -> None:
        super().__init__()
        self.alpha = alpha

    def reference(self, x: Tensor) -> tuple[Tensor, ...]:
        """The target's part, computed once: x [B, 3, H, W] in [0, 1]."""
        return (x, *similarity_reference(x))

    def against(self, reference: tuple[Tensor, ...], y: Tensor) -> Tensor:
        """F of decoded pictures y [B, 3, H, W]: [B]."""
        y = y.float()
        error = (y - reference[0]).square().mean((1, 2, 3))
        dissimilarity = 1.0 - ms_ssim_to(reference[1:], y)
        cells = y.shape[2] * y.shape[3] / STRIDE**2
        return cells * (dissimilarity + self.alpha * error)
