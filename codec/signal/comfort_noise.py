"""Comfort noise: the background noise of a pause, in ten bytes per frame.

While nobody speaks, a frame's spectrum is described by its level in dB at ten mel bands. The
receiver draws noise of these levels, column by column, with the fluctuations that Gaussian noise
has under this analysis, so that a pause sounds natural. From where synthesis textures whatever is
not voiced, the levels are left smooth: noise that fluctuates twice sputters.

A room is as loud as its levels say up to a limit, so that no payload can hurt an ear.
"""

from __future__ import annotations

from functools import lru_cache
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from codec.errors import BadInput, BadStream
from codec.signal import analysis
from codec.signal.phase import ComplexArray, analyse
from codec.signal.samples import SAMPLE_RATE, FloatArray
from codec.signal.texture import LOOP, UNVOICED_HZ, endless_noise

# Mel bands whose levels are coded; the others are interpolated. Room noise is steep at low
# frequencies, hence the spacing.
NODES = (0, 4, 9, 16, 26, 39, 56, 76, 101, 127)
PAYLOAD_BYTES = len(NODES)
LEAST_COLUMNS = 8
# dB of full scale: what louder levels are lowered to. Quiet rooms have -80 to -60, and noise only
# 5 dB below speech that is well turned up -30.
LOUDEST_DB = -30.0
DB_PER_STEP = 0.5  # of a payload byte; 0 stands for FLOOR_DB, silence
DB_PER_UNIT = (analysis.CEILING_DB - analysis.FLOOR_DB) / 2.0
_SMOOTHNESS = 0.1  # weight of the levels' curvature against the bands' misfit, where bands are few


@lru_cache(maxsize=1)
def _interpolation() -> FloatArray:
    """Weights of the nodes in each band, [N_MELS, nodes]."""
    bands = np.arange(analysis.N_MELS)
    weights = [np.interp(bands, NODES, row) for row in np.eye(len(NODES))]
    return np.stack(weights, axis=1).astype(np.float32)


@lru_cache(maxsize=1)
def _fit() -> FloatArray:
    """Least-squares levels at the nodes from those of the bands, [nodes, N_MELS]."""
    weights = _interpolation().astype(np.float64)
    curvature = _SMOOTHNESS * np.diff(np.eye(len(NODES)), 2, axis=0)
    inverse = np.linalg.pinv(np.concatenate([weights, curvature]))
    return inverse[:, : analysis.N_MELS].astype(np.float32)


def encode_noise(columns: FloatArray) -> bytes:
    """Payload of a comfort-noise packet, PAYLOAD_BYTES, from log-mel columns [T, N_MELS].

    It describes the median over time, which a click or a word does not change. Raises BadInput when
    T is less than LEAST_COLUMNS, or for another shape.
    """
    columns = np.asarray(columns, np.float32)
    if columns.ndim != 2 or columns.shape[1] != analysis.N_MELS or len(columns) < LEAST_COLUMNS:
        raise BadInput(
            f"comfort noise is measured on at least {LEAST_COLUMNS} columns of"
            f" {analysis.N_MELS} bands, not {list(columns.shape)}"
        )
    clean = np.clip(np.nan_to_num(columns, nan=-1.0), -1.0, 1.0)
    levels = np.median(clean, axis=0).astype(np.float32)
    decibel = (_fit() @ levels + 1.0) * DB_PER_UNIT
    steps = np.rint(decibel / DB_PER_STEP)
    return bytes(np.clip(steps, 0, 255).astype(np.uint8))


def decode_levels(payload: bytes) -> FloatArray:
    """The level of each band in normalised log-mel units, [N_MELS], from a payload.

    Noise of these levels has LOUDEST_DB at most: all bands of louder noise are lowered alike.
    Raises BadStream when the payload has another length than PAYLOAD_BYTES.
    """
    if len(payload) != PAYLOAD_BYTES:
        raise BadStream(
            f"comfort noise of {len(payload)} bytes, where there must be {PAYLOAD_BYTES}"
        )
    decibel = np.frombuffer(payload, np.uint8).astype(np.float32) * DB_PER_STEP
    levels = np.clip(_interpolation() @ decibel / DB_PER_UNIT - 1.0, -1.0, 1.0).astype(np.float32)
    if (excess := loudness(levels) - LOUDEST_DB) > 0.0:
        levels = np.maximum(levels - np.float32(excess / DB_PER_UNIT), np.float32(-1.0))
    return levels


def loudness(levels: FloatArray) -> float:
    """About how loud noise of these levels [N_MELS] is, dB of full scale, -100 at least."""
    relative = (analysis.denormalise(levels) / _typical()).astype(np.float64)
    power = float(np.square(relative) @ _shares())
    return 10.0 * np.log10(max(power, 1e-10))


@lru_cache(maxsize=1)
def _filters() -> list[tuple[int, int, FloatArray]]:
    """First bin, last bin + 1 and weights of each mel filter.

    Computed from the pseudo-inverse of the filters, which decoders have loaded.
    """
    inverse = analysis.mel_inverse().astype(np.float64)
    filters = np.linalg.solve(inverse.T @ inverse, inverse.T).astype(np.float32)
    spans = [np.flatnonzero(np.abs(row) > 1e-5)[[0, -1]].tolist() for row in filters]
    return [
        (first, last + 1, row[first : last + 1].copy())
        for (first, last), row in zip(spans, filters, strict=True)
    ]


def _mel(magnitudes: FloatArray) -> FloatArray:
    """Mel magnitudes [T, N_MELS] of linear ones [T, N_BINS].

    Band by band: a large product would wait for threads on cores that an encoder keeps busy.
    """
    bands = [magnitudes[:, first:end] @ weights for first, end, weights in _filters()]
    return np.stack(bands, axis=1).astype(np.float32)


@lru_cache(maxsize=1)
def _typical() -> FloatArray:
    """Measured median mel magnitudes of Gaussian white noise of variance 1, [N_MELS]."""
    path = Path(__file__).parent / "data" / "noise_median.npy"
    return np.load(path, allow_pickle=False).astype(np.float32)


@lru_cache(maxsize=1)
def _shares() -> NDArray[np.float64]:
    """The share of white noise's power that is nearest to each band, [N_MELS]; their sum is 1."""
    spread = np.zeros((analysis.N_MELS, analysis.N_BINS))
    for row, (first, last, weights) in zip(spread, _filters(), strict=True):
        row[first:last] = np.maximum(weights, 0.0)
    spread /= np.maximum(spread.sum(axis=0), 1e-9)
    shares: NDArray[np.float64] = spread.sum(axis=1)
    return shares / shares.sum()


class NoiseTexture:
    """The fluctuations of the bands of Gaussian noise, endless and without repetition.

    They come from noise under the codec's own analysis: neighbouring columns and bands are
    correlated as in a recording, and low bands, which see few bins, fluctuate more than high ones.
    """

    def __init__(self, seed: int = 0) -> None:
        self._random = np.random.default_rng(seed)
        self._samples = self._draw(analysis.WINDOW - analysis.HOP)

    def next(self, count: int) -> FloatArray:
        """The next `count` columns of magnitudes over their median, [count, N_MELS], positive."""
        fresh = self._draw(count * analysis.HOP)
        samples = np.concatenate([self._samples, fresh])
        self._samples = samples[count * analysis.HOP :].copy()
        mel = _mel(np.abs(analysis.stft_columns(samples)))
        return (np.maximum(mel, 1e-9) / _typical()).astype(np.float32)

    def _draw(self, count: int) -> FloatArray:
        return self._random.standard_normal(count, dtype=np.float32)


@lru_cache(maxsize=1)
def _middles() -> NDArray[np.float64]:
    """The bin in the middle of each band, a fraction: [N_MELS]."""
    return np.array(
        [weights @ np.arange(first, end) / weights.sum() for first, end, weights in _filters()]
    )


@lru_cache(maxsize=1)
def _endless() -> ComplexArray:
    """Spectra [LOOP, N_BINS] of a noise of variance 1 that comes round, as `analyse` gives them."""
    return analyse(endless_noise())


def noise_spectra(levels: FloatArray, first: int) -> ComplexArray:
    """Spectra [n, N_BINS], as `codec.signal.phase.analyse` gives them, of noise with these smooth
    log-mel levels [n, N_MELS]. Silence (-1) stays silence.

    It is a white noise, filtered: no phases have to be found for it. first: the number of the first
    column, on which the noise depends.
    """
    constant = bool((levels == levels[0]).all())
    relative = analysis.denormalise(levels[:1] if constant else levels) / _typical()
    bins = np.arange(analysis.N_BINS)
    gains = np.stack([np.interp(bins, _middles(), row) for row in relative]).astype(np.float32)
    return _endless()[np.arange(first, first + len(levels)) % LOOP] * gains


@lru_cache(maxsize=1)
def _below() -> FloatArray:
    """The share of the fluctuations in each band that synthesis does not add, [N_MELS]."""
    begin, whole = UNVOICED_HZ
    hertz = _middles() * SAMPLE_RATE / analysis.N_FFT
    return np.clip((whole - hertz) / (whole - begin), 0.0, 1.0).astype(np.float32)


def textured(levels: FloatArray, texture: FloatArray, share: FloatArray) -> FloatArray:
    """Smooth log-mel levels [T, N_MELS] with the fluctuations of a `texture` of that shape.

    share: [T, 1] in 0..1, how strong the fluctuations are. Silence (-1) stays silence.
    """
    return analysis.normalise(analysis.denormalise(levels) * texture ** (share * _below()))
