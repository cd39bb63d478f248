"""What a microphone hears besides a voice nearby: noise, other talkers, the room, narrow bands.

Frames are disturbed as they are, as mel magnitudes: those of two sounds add with a phase between
them, and what is below the floor stays there. What is to be coded is the mixture.

Bands of Gaussian noise, and of the tail of a room, fluctuate about their level as they do under the
codec's analysis: by 3.17 dB, with a correlation of 0.4 to the next column and to the next band.
"""

from __future__ import annotations

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from codec.signal import analysis
from codec.signal.analysis import HOP
from codec.signal.samples import SAMPLE_RATE
from models.training.frames import amplitudes, log_amplitudes, moved

_SHARES = (0.4, 0.2, 0.25, 0.15)  # of noise, talkers, rooms and narrow bands
NOISE_DB = (-25.0, 0.0)  # its level over that of the frame
TALKER_DB = (-12.0, 0.0)
TAIL_DB = (-12.0, 3.0)
SLOPE_DB = (-9.0, 1.0)  # of noise, per octave
T60 = (0.2, 0.8)  # seconds
TELEPHONE_HZ = (300.0, 3400.0)
LOW_PASS_HZ = (4000.0, 7000.0)
_EDGE_DB = 90.0  # per octave beyond the edges of a narrow band
_QUIET_DB = -60.0  # half of the frames that are quieter stay as they are
_NEIGHBOUR = 0.5  # weight from which magnitudes get a correlation of 0.4
_MEDIAN = 1.18  # of such magnitudes
_NARROWED = 3.17 / 5.57  # exponent: magnitudes of one bin spread by 5.57 dB


class Disturbance:
    """Disturbs frames on a device."""

    def __init__(self, device: torch.device) -> None:
        import librosa  # takes a second to import

        self._device = device
        hertz = librosa.mel_frequencies(analysis.N_MELS + 2, fmin=0.0, fmax=8000.0)[1:-1]
        self._octave = self._moved(np.log2(hertz))
        self._width = self._moved(analysis.mel_filters().sum(1))  # bins of each band
        side = torch.tensor([_NEIGHBOUR, 1.0, _NEIGHBOUR])
        kernel = side[:, None] * side
        self._kernel = self._moved(kernel / kernel.square().sum().sqrt())[None, None]

    def __call__(
        self, x: Tensor, share: float, random: np.random.Generator, fields: torch.Generator
    ) -> Tensor:
        """Frames x [B, T, M] in [-1, 1] with a share of them disturbed.

        fields: draws what differs from band to band and column to column, on the device.
        """
        count = round(share * len(x))
        if not count:
            return x
        noisy, talking, roomy, narrow = (int(n) for n in random.multinomial(count, _SHARES))
        order = random.permutation(len(x))
        rows = moved(order[:count], self._device)
        voice = amplitudes(x[rows])
        added = torch.cat((
            self._noise(noisy, random).expand(-1, x.shape[1], -1),
            amplitudes(x[moved(order[::-1][:talking].copy(), self._device)]),
            self._tail(voice[noisy + talking : count - narrow], random),
        ))  # fmt: skip
        kinds = ((NOISE_DB, noisy), (TALKER_DB, talking), (TAIL_DB, roomy))
        gain_db = self._moved(np.concatenate([random.uniform(*ends, n) for ends, n in kinds]))
        level, near = self._level(voice), voice[: count - narrow]
        gain = 10.0 ** (gain_db / 20.0) * level[: len(near)] / self._level(added).clamp_min(1e-5)
        voices = slice(noisy, noisy + talking)
        gain[voices] = gain[voices].clamp_max(4.0)  # a pause of theirs stays a pause
        # Of all chosen frames, as libraries prepare themselves anew for every shape.
        waves = self.fluctuations(voice.shape, fields)
        strength, cosine = (each[: len(near)] for each in waves)
        # Another voice has fluctuations of its own.
        strength[voices] = 1.0
        added = added * strength * gain[:, None, None]
        power = near.square() + added.square() + 2.0 * cosine * near * added
        bands = voice[len(near) :] * self._narrow(narrow, random)
        mixed = log_amplitudes(torch.cat((power.clamp_min(0.0).sqrt(), bands)))
        loud = level > 10.0 ** (_QUIET_DB / 20.0)
        chosen = loud | (self._moved(random.random(count)) < 0.5)
        return x.index_copy(0, rows, torch.where(chosen[:, None, None], mixed, x[rows]))

    def _level(self, magnitudes: Tensor) -> Tensor:
        """Root of the power of mel magnitudes [N, T, M]: [N]."""
        return (magnitudes.square() / self._width).sum(-1).mean(-1).sqrt()

    def _noise(self, count: int, random: np.random.Generator) -> Tensor:
        """Magnitudes [count, 1, M] of steady noise."""
        slope = self._moved(random.uniform(*SLOPE_DB, count))[:, None, None]
        return self._width * 10.0 ** (slope * (self._octave - self._octave[-1]) / 20.0)

    def _tail(self, voice: Tensor, random: np.random.Generator) -> Tensor:
        """Magnitudes of the tail that a room adds to those of a voice [N, T, M]."""
        per_column = 6.0 * HOP / SAMPLE_RATE
        fall = self._moved(per_column / random.uniform(*T60, len(voice)))[:, None, None]
        column = torch.arange(voice.shape[1], device=self._device)
        after = column[:, None] - column
        response = torch.where(after > 0, 10.0 ** (-fall * after.clamp_min(0)), 0.0)
        return (response @ voice.square()).sqrt()

    def _narrow(self, count: int, random: np.random.Generator) -> Tensor:
        """Factors [count, 1, M] of a telephone's band, or of a low-pass filter."""
        low, high = TELEPHONE_HZ
        telephone = random.random(count) < 0.5
        edges = (
            np.where(telephone, low, 1.0),
            np.where(telephone, high, random.uniform(*LOW_PASS_HZ, count)),
        )
        first, last = (self._moved(np.log2(edge))[:, None, None] for edge in edges)
        beyond = (first - self._octave).clamp_min(0.0) + (self._octave - last).clamp_min(0.0)
        return 10.0 ** (-_EDGE_DB * beyond / 20.0)

    def fluctuations(self, shape: torch.Size, fields: torch.Generator) -> tuple[Tensor, Tensor]:
        """Fluctuations about 1, and cosines of a random phase, of noise: [N, T, M] each."""
        frames, *size = shape
        white = torch.randn(2 * frames, 1, *size, generator=fields, device=fields.device)
        waves = F.conv2d(white.to(self._device), self._kernel, padding=1)[:, 0]
        real, imaginary = waves.chunk(2)
        magnitude = (real.square() + imaginary.square()).sqrt().clamp_min(1e-3)
        return (magnitude / _MEDIAN) ** _NARROWED, real / magnitude

    def _moved(self, numbers: np.ndarray | Tensor) -> Tensor:
        return moved(torch.as_tensor(numbers).float(), self._device)
