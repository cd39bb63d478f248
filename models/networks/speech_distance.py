"""Distance F of log-mel frames, in loudness and in log magnitude.

Mel powers are gathered into critical bands and turned into specific loudness (Zwicker's law with
the constants of ITU-T P.862). F is the squared loudness difference, in which added energy weighs
more than lost energy (the asymmetry factor of P.862), plus the mean squared error of the log
magnitudes for the quiet parts. P.862's masking dead zone is left out on purpose: a search would
hide errors in it, which lowers F but does not raise quality.
"""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from codec.signal import analysis
from models.networks.common import SignalDistance

_SPEECH_DB_SPL = 79.0  # listening level of active speech, P.862
_QUIETEST_DB = -60.0  # frames below this level (re full scale) are not amplified to speech level
ZWICKER_POWER = 0.23
LOUDNESS_SCALE = 0.187
_BANDS = 48
SCALE = 24.0  # brings F near 0.6 at 2 kbit/s
LOUDNESS_SHARE = 0.01
ADDED_SHARE = 0.15
# The asymmetry factor of P.862: a power of the ratio of powers, both with an offset, and its bound.
OFFSET, MOST_RATIO, ASYMMETRY = 50.0, 12.0, 1.2
LOWEST, HIGHEST = -1.0, 1.05  # of log-mel values; what lies beyond counts as these


def _bark(hertz: np.ndarray) -> np.ndarray:
    """Critical-band rate (Traunmüller 1990)."""
    return 26.81 * hertz / (1960.0 + hertz) - 0.53


def _threshold_db(hertz: np.ndarray) -> np.ndarray:
    """Threshold in quiet, dB SPL (Terhardt 1979)."""
    k = np.maximum(hertz, 50.0) / 1000.0
    return 3.64 * k**-0.8 - 6.5 * np.exp(-0.6 * (k - 3.3) ** 2) + 1e-3 * k**4


class FrameDistance(SignalDistance):
    """F(x, y) of log-mel frames [B, T, 128]; differentiable in y."""

    gather: Tensor
    weight: Tensor
    threshold: Tensor

    def __init__(self, high_band_weight: float = 0.7) -> None:
        super().__init__()
        from codec.kernels import choose_cache

        choose_cache()  # librosa has kernels, too
        import librosa  # takes a second to import; decoders do without

        hertz = librosa.mel_frequencies(analysis.N_MELS + 2, fmin=0.0, fmax=8000.0)[1:-1]
        position = _bark(hertz)
        centres = np.linspace(position[0], position[-1], _BANDS)
        spacing = centres[1] - centres[0]
        gather = np.maximum(1.0 - np.abs(position[:, None] - centres[None]) / spacing, 0.0)
        centre_hertz = np.interp(centres, position, hertz)
        weight = np.full(_BANDS, spacing)
        weight[centre_hertz > 3800.0] *= high_band_weight
        threshold = 10.0 ** (_threshold_db(centre_hertz) / 10.0)
        for name, value in (("gather", gather), ("weight", weight), ("threshold", threshold)):
            self.register_buffer(name, torch.tensor(value, dtype=torch.float32), persistent=False)

    def _band_power(self, x: Tensor) -> Tensor:
        half = (analysis.CEILING_DB - analysis.FLOOR_DB) / 2.0
        middle = (analysis.CEILING_DB + analysis.FLOOR_DB) / 2.0
        amplitude = torch.exp((x.clamp(LOWEST, HIGHEST) * half + middle) * (np.log(10.0) / 20.0))
        return (amplitude - analysis.FLOOR).clamp_min(0.0).square() @ self.gather

    def _loudness(self, power: Tensor) -> Tensor:
        low = (self.threshold / 0.5) ** ZWICKER_POWER * LOUDNESS_SCALE
        ratio = 0.5 + 0.5 * power / self.threshold
        return (low * (ratio**ZWICKER_POWER - 1.0)).clamp_min(0.0)

    def reference(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """The target's part, computed once per search: x, level gain, band power and loudness."""
        power = self._band_power(x)
        total = power.sum(-1)
        loudest = total.amax(dim=1, keepdim=True).clamp_min(1e-12)
        active = (total > 1e-4 * loudest).float()
        level = (total * active).sum(1) / active.sum(1).clamp_min(1.0)
        level = level.clamp_min(10.0 ** (_QUIETEST_DB / 10.0))
        gain = (10.0 ** (_SPEECH_DB_SPL / 10.0) / level)[:, None, None]
        power = power * gain
        return x, gain, power, self._loudness(power)

    def against(self, reference: tuple[Tensor, ...], y: Tensor) -> Tensor:
        """F of the decoded frames y [B, T, 128] against a `reference`: [B]."""
        x, gain, target_power, target = reference
        power = self._band_power(y) * gain
        difference = self._loudness(power) - target
        changed = (difference * self.weight).square().sum(-1)
        ratio = (power + OFFSET) / (target_power + OFFSET)
        ratio = ratio.clamp(1.0 / MOST_RATIO, MOST_RATIO)
        added = (difference.square() * self.weight * ratio**ASYMMETRY).sum(-1)
        loudness = (changed + ADDED_SHARE * added).mean(1)
        return SCALE * (LOUDNESS_SHARE * loudness + (y - x).square().mean((1, 2)))
