"""Speech to normalised log-mel frames, and back from mel bands to linear-frequency magnitudes.

One frame is 128 hops of 128 samples (1.024 s at 16 kHz) seen through 128 mel bands of *magnitude*
(not power). Magnitudes are scaled so that a full-scale sine peaks at 1 (0 dB) in its bin; they are
mapped to [-1, 1] by a logarithm with a soft floor, so that digital silence is exactly -1.

The short-time transform is a 1024-point FFT under a 512-sample Hann window: the zero padding
doubles the redundancy the phase reconstruction works with, at no cost in bits.
"""

from __future__ import annotations

from functools import lru_cache
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from codec.signal.samples import SAMPLE_RATE, FloatArray

HOP = 128
WINDOW = 512
N_FFT = 1024
N_BINS = N_FFT // 2 + 1
N_MELS = 128
FRAME_HOPS = 128
FRAME_SAMPLES = FRAME_HOPS * HOP
STEP_HOPS = 8  # columns of a latent step, the unit in which packets are counted
STEP_SAMPLES = STEP_HOPS * HOP
LEAD = (WINDOW - HOP) // 2  # samples that a column sees before, and after, its own hop

LOUDEST = 4.0  # samples beyond are clipped

FLOOR_DB = -100.0
CEILING_DB = 10.0
FLOOR = 10.0 ** (FLOOR_DB / 20.0)
_HALF_RANGE_DB = (CEILING_DB - FLOOR_DB) / 2.0
_MID_DB = (CEILING_DB + FLOOR_DB) / 2.0


def cleaned(samples: FloatArray) -> FloatArray:
    """Samples of any shape as float32, fit to be analysed: what is not finite becomes silence, the
    rest lies within ±LOUDEST."""
    samples = np.asarray(samples, np.float32)
    if samples.size and np.abs(samples).max() <= LOUDEST:  # false with NaN
        return samples.copy()
    samples = np.nan_to_num(samples, nan=0.0, posinf=0.0, neginf=0.0)
    return np.clip(samples, -LOUDEST, LOUDEST)


@lru_cache(maxsize=1)
def hann() -> FloatArray:
    """The periodic Hann analysis window, shape [WINDOW]."""
    n = np.arange(WINDOW)
    return (0.5 - 0.5 * np.cos(2 * np.pi * n / WINDOW)).astype(np.float32)


@lru_cache(maxsize=1)
def mel_filters() -> FloatArray:
    """Triangular mel filterbank with unit peaks, shape [N_MELS, N_BINS]."""
    from codec.kernels import choose_cache

    choose_cache()  # librosa has kernels, too
    import librosa  # only encoders need it, and it takes a second to import

    return librosa.filters.mel(
        sr=SAMPLE_RATE, n_fft=N_FFT, n_mels=N_MELS, fmin=0.0, fmax=SAMPLE_RATE / 2, norm=None
    ).astype(np.float32)


@lru_cache(maxsize=1)
def mel_inverse() -> FloatArray:
    """Pseudo-inverse of `mel_filters`, shape [N_BINS, N_MELS].

    Shipped as data: it is part of what a stream decodes to, and decoding starts sooner so.
    """
    return np.load(Path(__file__).parent / "data" / "mel_inverse.npy", allow_pickle=False)


def stft_columns(samples: FloatArray) -> NDArray[np.complex64]:
    """Spectra of all whole windows in `samples`.

    samples: [(T - 1) * HOP + WINDOW], 16 kHz, full scale 1. Returns [T, N_BINS] complex; column t
    sees samples [t*HOP, t*HOP + WINDOW). The phase reference is the window's first sample.
    """
    if len(samples) < WINDOW:
        return np.zeros((0, N_BINS), np.complex64)
    windows = np.lib.stride_tricks.sliding_window_view(samples, WINDOW)[::HOP]
    spectra = np.fft.rfft(windows * hann(), N_FFT, axis=1) * (2.0 / hann().sum())
    return spectra.astype(np.complex64)


def magnitudes_to_mel(magnitudes: FloatArray) -> FloatArray:
    """[T, N_BINS] linear magnitudes to [T, N_MELS] mel magnitudes."""
    return magnitudes @ mel_filters().T


def mel_to_magnitudes(mel: FloatArray) -> FloatArray:
    """[T, N_MELS] mel magnitudes to non-negative [T, N_BINS] linear magnitudes."""
    return np.maximum(mel @ mel_inverse().T, 0.0)


def normalise(mel: FloatArray) -> FloatArray:
    """Mel magnitudes to normalised log magnitudes in [-1, 1]; 0 maps to -1."""
    decibel = 20.0 * np.log10(mel + FLOOR)
    return np.clip((decibel - _MID_DB) / _HALF_RANGE_DB, -1.0, 1.0).astype(np.float32)


def denormalise(log_mel: FloatArray) -> FloatArray:
    """Inverse of `normalise`; -1 maps to exactly 0."""
    decibel = np.clip(log_mel, -1.0, 1.0) * _HALF_RANGE_DB + _MID_DB
    mel = np.maximum(10.0 ** (decibel / 20.0) - FLOOR, 0.0)
    return np.where(log_mel > -1.0, mel, 0.0).astype(np.float32)


def log_mel(samples: FloatArray) -> FloatArray:
    """Normalised log-mel columns of all whole windows: [(T-1)*HOP + WINDOW] -> [T, N_MELS]."""
    return normalise(magnitudes_to_mel(np.abs(stft_columns(samples))))
