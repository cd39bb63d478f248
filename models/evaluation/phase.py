"""Our Gabor analysis, synthesis, phase slopes and phases beside those of ltfatpy.

ltfatpy is a port of the Large Time-Frequency Analysis Toolbox. It transforms a signal, inverts that
by the canonical dual window, and takes the phase's gradient from the signal itself, which is the
truth that `codec.signal.phase` estimates from magnitudes. It has no phase reconstruction: its
gradient is integrated by our own kernel, so that only the slopes differ.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass, fields
from typing import Any

import ltfatpy
import numpy as np
from numpy.typing import NDArray
from rich.console import Group

from codec.signal import analysis, phase
from codec.signal.analysis import HOP, LEAD, N_BINS, N_FFT, WINDOW
from codec.signal.samples import FloatArray
from models.evaluation.clips import Clip
from models.evaluation.tables import machine, number, table

Array = NDArray[np.float64]

_NO_TAIL = np.zeros(WINDOW - HOP, np.float32)
_FIRST = WINDOW // 2 // HOP  # ltfatpy's column that is our first
_LOUD = 0.1  # of the largest magnitude: where slopes are compared
_LEAST_LEVEL = 1e-12  # of the largest energy, below which ltfatpy's gradient is not trusted
_SILENT = 1e-20  # a ratio of energies of 0 is written as -200 dB


@dataclass(frozen=True)
class PhasePoint:
    """One clip.

    analysis_db, synthesis_db: energy of our difference from ltfatpy's transform and from its
    inverse, over the energy of the latter. hann_time to gaussian_frequency: energy of the errors of
    the slopes along time and frequency over that of the true slopes, where the energy is, under the
    codec's window and under the Gaussian for which the relations hold. true_db to random_db:
    spectral convergence, the energy by which the magnitudes of the samples miss those they were
    made from: phases integrated from ltfatpy's gradient, from our slopes, as the codec decodes
    (in blocks, with projections), and random ones.
    """

    clip: str
    analysis_db: float
    synthesis_db: float
    hann_time: float
    hann_frequency: float
    gaussian_time: float
    gaussian_frequency: float
    true_db: float
    ours_db: float
    codec_db: float
    random_db: float


# What the table prints: field, heading, digits.
_COLUMNS = (
    ("analysis_db", "analysis dB", 0),
    ("synthesis_db", "synthesis dB", 0),
    ("hann_time", "time, Hann", 3),
    ("hann_frequency", "freq, Hann", 3),
    ("gaussian_time", "time, Gauss", 3),
    ("gaussian_frequency", "freq, Gauss", 3),
    ("true_db", "true slopes dB", 1),
    ("ours_db", "our slopes dB", 1),
    ("codec_db", "codec dB", 1),
    ("random_db", "random dB", 1),
)


def window(length: int = N_FFT) -> Array:
    """The codec's window [length] as ltfatpy wants it: the middle first, zeros opposite."""
    found: Array = ltfatpy.fir2long(np.fft.ifftshift(analysis.hann().astype(np.float64)), length)
    return found


def gaussian(length: int) -> Array:
    """The window exp(-pi t^2 / GAMMA), t in samples, as ltfatpy wants it: [length]."""
    time = np.arange(length) - length // 2
    return np.fft.ifftshift(np.exp(-np.pi * time**2 / phase.GAMMA))


def dual_window_error() -> float:
    """Largest difference of our dual window from ltfatpy's, over its largest value."""
    hann = analysis.hann().astype(np.float64)
    squares = np.sum(hann.reshape(-1, HOP) ** 2, axis=0)
    ours = np.pad(hann / (N_FFT * np.tile(squares, WINDOW // HOP)), (N_FFT - WINDOW) // 2)
    dual = np.fft.fftshift(ltfatpy.gabdual(window(), HOP, N_FFT))
    return float(np.abs(dual - ours).max() / np.abs(dual).max())


def transform_errors(samples: FloatArray) -> tuple[float, float]:
    """Energies of our differences from ltfatpy's transform and from its inverse, relative.

    samples: [n], n a multiple of N_FFT, zero for a window's length at both ends, where ltfatpy
    wraps around.
    """
    columns = phase.analyse(samples)
    whole = _transform(samples)
    theirs = _scaled(whole)[: len(columns)]
    dual = ltfatpy.gabdual(window(), HOP, N_FFT)
    back, _ = ltfatpy.idgtreal(whole, dual, HOP, N_FFT, pt="timeinv")
    ours = _samples(columns)
    inside = slice(WINDOW, len(ours) - WINDOW)
    return _ratio(columns - theirs, theirs), _ratio(ours[inside] - back[inside], back[inside])


def slope_errors(samples: Array, longest: Array) -> tuple[float, float]:
    """Energies of the errors of both slopes where the energy is, over those of the true slopes.

    samples: [n], n a multiple of N_FFT; longest: a window [n]. The truth is the gradient that
    ltfatpy takes from the signal itself. Slopes of zero would have error 1, those of the wrong sign
    about 4.
    """
    size, true_time, true_frequency = _true_slopes(samples, longest)
    level = np.log(np.maximum(size, phase.FLOOR)).astype(np.float32)
    slope_time, slope_frequency = phase.phase_slopes(level)
    loud = size > _LOUD * size.max()
    loud[:2] = loud[-2:] = False  # the reference wraps around
    time = _ratio((slope_time - _carrier() - true_time)[loud], true_time[loud])
    frequency = _ratio((slope_frequency - true_frequency)[loud], true_frequency[loud])
    return time, frequency


def convergences(samples: FloatArray) -> tuple[float, float, float, float]:
    """Spectral convergence of four ways to find phases, as ratios of energies; see `PhasePoint`.

    samples: [n], n a multiple of N_FFT, zero for a window's length at both ends.
    """
    wide = samples.astype(np.float64)
    _, true_time, true_frequency = _true_slopes(wide, window(len(samples)))
    columns = np.abs(phase.analyse(samples))
    inside = slice(_FIRST, _FIRST + len(columns))
    level = np.log(np.maximum(columns, np.float32(phase.FLOOR)))
    true = (true_time + _carrier())[inside].astype(np.float32), true_frequency[inside]
    ours = phase.phase_slopes(level)
    found = [
        _samples(_with_phases(columns, _integrated(level, along, across.astype(np.float32))))
        for along, across in (true, ours)
    ]
    synthesiser = phase.PhaseSynthesiser()
    decoded = np.concatenate([synthesiser.push(columns), synthesiser.finish()])
    found.append(np.pad(decoded, (LEAD, len(samples) - len(decoded) - LEAD)))
    bins = np.arange(columns.size, dtype=np.uint64).reshape(columns.shape)
    found.append(_samples(_with_phases(columns, phase.random_phase(bins, phase.SEED))))
    wanted = np.abs(_transform(samples))
    missed = [_ratio(np.abs(_transform(each)) - wanted, wanted) for each in found]
    return missed[0], missed[1], missed[2], missed[3]


def measure(clip: Clip) -> PhasePoint:
    """All figures of a clip."""
    length = -(-(len(clip.samples) + 2 * WINDOW) // N_FFT) * N_FFT
    samples = np.pad(clip.samples, (WINDOW, length - len(clip.samples) - WINDOW))
    wide = samples.astype(np.float64)
    analysis_error, synthesis_error = transform_errors(samples)
    return PhasePoint(
        clip.name,
        _decibel(analysis_error),
        _decibel(synthesis_error),
        *slope_errors(wide, window(length)),
        *slope_errors(wide, gaussian(length)),
        *(_decibel(each) for each in convergences(samples)),
    )


def report(points: Sequence[PhasePoint]) -> Group:
    """A table of clips and their means, to be printed on a console."""
    found = table(
        f"Our phase beside ltfatpy {ltfatpy.__version__}: differences of the transforms, relative "
        "errors of the slopes, spectral convergence",
        ["clip"],
        [heading for _, heading, _ in _COLUMNS],
    )
    for point in points:
        found.add_row(
            point.clip, *(number(getattr(point, name), digits) for name, _, digits in _COLUMNS)
        )
    found.add_section()
    means = _means(points)
    found.add_row("mean", *(number(means[name], digits) for name, _, digits in _COLUMNS))
    error = dual_window_error()
    return Group(found, f"dual window: off by {error:.1e} of its largest value at most")


def as_dict(points: Sequence[PhasePoint]) -> dict[str, Any]:
    """Every measurement, as plain values."""
    return {
        "machine": machine(),
        "ltfatpy": ltfatpy.__version__,
        "dual_window_error": dual_window_error(),
        "means": _means(points),
        "clips": [asdict(point) for point in points],
    }


def _means(points: Sequence[PhasePoint]) -> dict[str, float]:
    names = [field.name for field in fields(PhasePoint) if field.name != "clip"]
    return {name: float(np.mean([getattr(point, name) for point in points])) for name in names}


def _transform(samples: FloatArray) -> NDArray[np.complex128]:
    """ltfatpy's transform of samples [n], n a multiple of N_FFT: [N_BINS, n / HOP]."""
    found: NDArray[np.complex128]
    found, _, _ = ltfatpy.dgtreal(samples.astype(np.float64), window(), HOP, N_FFT, pt="timeinv")
    return found


def _scaled(transform: NDArray[np.complex128]) -> NDArray[np.complex128]:
    """ltfatpy's transform as `phase.analyse` scales and places its columns: [T, N_BINS]."""
    # Column n of theirs is centred on sample n * HOP.
    columns: NDArray[np.complex128] = 2.0 / analysis.hann().sum() * transform.T[_FIRST:]
    return columns


def _true_slopes(samples: Array, longest: Array) -> tuple[Array, Array, Array]:
    """Magnitudes of ltfatpy's columns and both slopes of their phases, without the carrier, each
    [T, N_BINS]."""
    tgrad, fgrad, coefficients = ltfatpy.gabphasegrad(
        "dgt", samples, longest, HOP, N_FFT, minlvl=_LEAST_LEVEL
    )
    time = 2.0 * np.pi * HOP / len(samples) * tgrad.T[:, :N_BINS]
    frequency = -2.0 * np.pi / N_FFT * fgrad.T[:, :N_BINS]
    return np.abs(coefficients.T[:, :N_BINS]), time, frequency


def _carrier() -> Array:
    return np.linspace(0.0, np.pi * HOP, N_BINS)


def _integrated(level: FloatArray, along: FloatArray, across: FloatArray) -> Array:
    """Phases [T, N_BINS] by our integration of both slopes, random ones where it is too quiet."""
    from codec.signal.phase_kernels import integrate

    angles, known = np.zeros(level.shape), np.zeros(level.shape, np.bool_)
    threshold = float(np.float32(max(level.max() + np.log(phase.TOLERANCE), np.log(phase.FLOOR))))
    level, along, across = (each.astype(np.float32) for each in (level, along, across))
    integrate(level, along, across, threshold, angles, known)
    bins = np.arange(level.size, dtype=np.uint64).reshape(level.shape)
    return np.where(known, angles, phase.random_phase(bins, phase.SEED))


def _with_phases(columns: FloatArray, angles: Array) -> phase.ComplexArray:
    return (columns * np.exp(1j * angles)).astype(np.complex64)


def _samples(spectra: phase.ComplexArray) -> FloatArray:
    """Samples of all columns, zero where no window reaches."""
    total, weight = phase.overlap_add(spectra, _NO_TAIL, _NO_TAIL)
    return np.where(weight > 1e-6, total / np.maximum(weight, 1e-6), 0.0).astype(np.float32)


def _ratio(error: NDArray[Any], signal: NDArray[Any]) -> float:
    return float(np.sum(np.abs(error) ** 2) / np.sum(np.abs(signal) ** 2))


def _decibel(ratio: float) -> float:
    return 10.0 * float(np.log10(max(ratio, _SILENT)))
