"""Waveforms from magnitudes: phase reconstruction and overlap-add, offline and streaming.

The phase comes from the magnitudes alone. Its slopes follow from the slopes of the log magnitude
and are integrated from the loudest bins outward (PGHI: Prusa, Balazs, Sondergaard, IEEE/ACM TASLP
25(5), 2017), block by block, each block growing out of the last column of the one before
(RTPGHI: Prusa, Sondergaard, DAFx 2016). The result is then made more consistent by projections
of the spectrogram onto those that a signal can have (Griffin, Lim, IEEE TASSP 32(2), 1984).

Blocks lie on a fixed grid of columns, so the samples do not depend on how the columns were divided
into pushes. A live link has no such grid: there every push may be a block of its own.

Column k belongs to samples [k*HOP - LEAD, k*HOP - LEAD + WINDOW). Inside this module phases refer
to the middle of the window.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from codec.signal.analysis import HOP, LEAD, N_BINS, N_FFT, WINDOW, hann
from codec.signal.phase_kernels import integrate
from codec.signal.samples import FloatArray

ComplexArray = NDArray[np.complex64]

# Columns whose phases are found together. Longer blocks follow the loud ridges better; the codec
# decodes a frame of 128 columns at a time, so that shorter ones would not lower the delay.
BLOCK = 128
# Columns a block waits for beyond its last one, for a two-sided slope along time.
LOOK_AHEAD = 1
# Samples that live synthesis gives before all columns that reach them are there. Of the last 64 the
# beginning of one window is missing, and of the column before them only a one-sided slope is known.
# Over eight clips in packets of 64, 128 and 256 ms PESQ-WB changed by .00, .01 and .01; another 64
# samples would cost .02.
EARLY = LOOK_AHEAD * HOP + 64
# Consistency projections. On coded magnitudes (a quantised 2-D DCT of log-mel frames, PESQ-WB 2.4)
# three are worth 0.7 over none and 0.1 over one, and eight are no better. On unharmed magnitudes
# three are worth 0.2 through the mel bands and about 0.05 (median) on true ones.
PROJECTIONS = 3
# Bins this far below the loudest of a block get a random phase.
TOLERANCE = 1e-6
# Smaller magnitudes (-140 dB of full scale) are raised to this: zeros would be infinite slopes.
FLOOR = 1e-7
# Window constant: 0.25645 L^2 is that of the Gaussian nearest to a Hann window of length L (2017
# paper). A tenth less scored slightly higher in PESQ, on true and on mel-smoothed magnitudes.
GAMMA = 0.9 * 0.25645 * WINDOW**2
SEED = 1

_OVERLAPS = WINDOW // HOP
_TAIL = WINDOW - HOP
_HALF = WINDOW // 2
_LEAST_WEIGHT = 1e-6  # of the squared windows; only samples beyond the signal's ends have less
_LEAST_SIZE = 1e-30  # of a projected bin with a meaningful phase


def phase_slopes(level: FloatArray) -> tuple[FloatArray, FloatArray]:
    """Phase slopes from log magnitudes (the phase-magnitude relations of the 2017 paper).

    level: [T, N_BINS], natural logarithm of magnitudes. Returns the phase advance per column and
    per bin in radians, both [T, N_BINS], for phases that refer to the middle of the window. The
    slopes at the first and last column are one-sided.
    """
    ratio = HOP * N_FFT / GAMMA
    along_frequency = np.zeros_like(level)  # the spectrum is even at 0 Hz and at the upper end
    along_frequency[:, 1:-1] = 0.5 * (level[:, 2:] - level[:, :-2])
    along_time = np.zeros_like(level)
    if len(level) > 1:
        along_time[1:-1] = 0.5 * (level[2:] - level[:-2])
        along_time[0] = level[1] - level[0]
        along_time[-1] = level[-1] - level[-2]
    carrier = (2.0 * np.pi * HOP / N_FFT) * np.arange(N_BINS)
    slope_time = (ratio * along_frequency + carrier).astype(np.float32)
    slope_frequency = (-along_time / ratio).astype(np.float32)
    return slope_time, slope_frequency


def random_phase(bins: NDArray[np.uint64], seed: int) -> NDArray[np.float64]:
    """Uniform phases in [-pi, pi) that depend on the bin numbers and the seed only.

    bins: any shape; column * N_BINS + bin. The mixing is splitmix64 (Steele, Lea, Flood, OOPSLA
    2014), a counter-based generator, so that no draw depends on the ones before it.
    """
    mixed = bins + np.uint64(seed % 2**32) * np.uint64(2**32)
    mixed = (mixed + np.uint64(1)) * np.uint64(0x9E3779B97F4A7C15)
    mixed = (mixed ^ (mixed >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    mixed = (mixed ^ (mixed >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    mixed ^= mixed >> np.uint64(31)
    return ((mixed >> np.uint64(11)).astype(np.float64) * 2.0**-53 - 0.5) * (2.0 * np.pi)


def analyse(samples: FloatArray) -> ComplexArray:
    """Columns of all whole windows: [(T - 1) * HOP + WINDOW] -> [T, N_BINS], T >= 1.

    Scaled as `analysis.stft_columns`; phases refer to the middle of the window.
    """
    window = hann() * np.float32(2.0 / hann().sum())
    windows = np.lib.stride_tricks.sliding_window_view(samples, WINDOW)[::HOP] * window
    centred = np.zeros((len(windows), N_FFT), np.float32)
    centred[:, :_HALF] = windows[:, _HALF:]
    centred[:, -_HALF:] = windows[:, :_HALF]
    return np.fft.rfft(centred, axis=1).astype(np.complex64)


def overlap_add(
    spectra: ComplexArray, tail: FloatArray, weight: FloatArray
) -> tuple[FloatArray, FloatArray]:
    """Inverse transform, Hann window again, and overlapped sum, with the sum of squared windows.

    spectra: [T, N_BINS], as `analyse` gives them; tail, weight: [WINDOW - HOP], the sums that
    earlier columns left. Returns both sums, [T * HOP + WINDOW - HOP]. Their quotient is the
    least-squares signal: w / sum(w^2) is the canonical dual window of a Gabor frame whose window
    is no longer than its number of channels.
    """
    count = len(spectra)
    circular = np.fft.irfft(spectra, N_FFT, axis=1)
    window = hann()
    frames = np.concatenate([circular[:, -_HALF:], circular[:, :_HALF]], axis=1)
    frames *= window * np.float32(hann().sum() / 2.0)
    squares = (window * window).reshape(_OVERLAPS, HOP)
    total = np.zeros((count + _OVERLAPS - 1, HOP), np.float32)
    weights = np.zeros_like(total)
    total[: _OVERLAPS - 1] = tail.reshape(-1, HOP)
    weights[: _OVERLAPS - 1] = weight.reshape(-1, HOP)
    for part in range(_OVERLAPS):
        total[part : part + count] += frames[:, part * HOP : (part + 1) * HOP]
        weights[part : part + count] += squares[part]
    return total.ravel(), weights.ravel()


def _quotient(total: FloatArray, weight: FloatArray) -> FloatArray:
    samples = total / np.maximum(weight, np.float32(_LEAST_WEIGHT))
    return samples.astype(np.float32, copy=False)


class PhaseState:
    """What one block passes to the next."""

    def __init__(self) -> None:
        self.column = 0  # columns finished
        self.waiting = np.zeros((0, N_BINS), np.float32)  # columns not yet in a block
        self.spectra: ComplexArray | None = None  # of the same columns, where they are known
        self.past = np.zeros((0, N_BINS), np.float32)  # the last two finished, or fewer
        self.phase = np.zeros(N_BINS)  # of the last one
        self.known = np.zeros(N_BINS, np.bool_)  # where its phase is not random
        self.tail = np.zeros(_TAIL, np.float32)  # overlap-add sums not yet complete
        self.weight = np.zeros(_TAIL, np.float32)
        self.given = 0  # samples that those sums have been used for already
        self.skip = LEAD  # samples before the signal's start still to be dropped


class PhaseSynthesiser:
    """Streaming phase reconstruction and synthesis.

    After pushing T columns in all, (T - LOOK_AHEAD) * HOP - LEAD samples have come out if T is a
    multiple of BLOCK (320 samples, 20 ms, are still inside); `finish` gives the rest, so that T
    columns make exactly T * HOP samples. The samples are the same, bit for bit, however the columns
    were divided into pushes.

    With `variable`, for live use, every push ends a block, and its samples come out EARLY: after
    pushing T columns in all, (T - LOOK_AHEAD) * HOP - LEAD + EARLY samples have come out (none
    while T is at most LOOK_AHEAD), whatever the sizes of the pushes. Then the samples do depend on
    how the columns were divided; long blocks sound best.
    """

    def __init__(self, variable: bool = False) -> None:
        self.variable = variable
        self._early = EARLY if variable else 0
        self.state = PhaseState()

    def push(self, magnitudes: FloatArray) -> FloatArray:
        """Take magnitudes [n, N_BINS], scaled as `analysis.stft_columns`; give samples [m].

        Raises ValueError, and takes nothing, if the shape is another or a value is negative or
        not finite.
        """
        magnitudes = np.asarray(magnitudes, np.float32)
        if magnitudes.ndim != 2 or magnitudes.shape[1] != N_BINS:
            raise ValueError(f"magnitudes must be [n, {N_BINS}], not {list(magnitudes.shape)}")
        if not np.all((magnitudes >= 0.0) & (magnitudes < np.inf)):
            raise ValueError("magnitudes must be finite and not negative")
        state = self.state
        columns = magnitudes
        if len(state.waiting):
            columns = np.concatenate([state.waiting, magnitudes])
        samples = [np.zeros(0, np.float32)]
        start = 0
        while (take := self._next_block(len(columns) - start)) > 0:
            samples.append(self._block(columns[start : start + take + LOOK_AHEAD], take))
            start += take
        state.waiting, state.spectra = columns[start:].copy(), None
        return np.concatenate(samples)

    def push_spectra(self, spectra: ComplexArray) -> FloatArray:
        """Take spectra [n, N_BINS], n > 0, as `analyse` gives them; give samples [m].

        Their phases are taken as they are. For a `variable` synthesiser, whose other columns may
        come before and after; as many samples are ready as there would be of magnitudes.
        """
        state = self.state
        samples = [np.zeros(0, np.float32)]
        if state.spectra is not None:
            spectra = np.concatenate([state.spectra, spectra])
        elif len(state.waiting):
            columns = np.concatenate([state.waiting, np.abs(spectra[:1])])
            samples.append(self._block(columns, len(state.waiting)))
        take = len(spectra) - LOOK_AHEAD
        if take > 0:
            magnitudes = np.abs(spectra[max(take - 2, 0) : take])
            samples.append(self._add(spectra, magnitudes, take))
            state.known = np.ones(N_BINS, np.bool_)
        state.spectra = spectra[take:].copy()
        state.waiting = np.abs(state.spectra)
        return np.concatenate(samples)

    def finish(self) -> FloatArray:
        """The remaining samples; afterwards the synthesiser is as new."""
        state = self.state
        columns = state.waiting
        samples = [np.zeros(0, np.float32)]
        while len(columns):
            take = min(self._grid_block(), len(columns))
            samples.append(self._block(columns[: take + LOOK_AHEAD], take))
            columns = columns[take:]
        if state.column:
            end = slice(max(state.skip, state.given), LEAD)
            samples.append(_quotient(state.tail[end], state.weight[end]))
        self.state = PhaseState()
        return np.concatenate(samples)

    def _next_block(self, available: int) -> int:
        """Columns of the next block that `available` columns allow; 0 or less if none."""
        take = available - LOOK_AHEAD
        if self.variable:
            return take
        size = self._grid_block()
        return size if size <= take else 0

    def _grid_block(self) -> int:
        """Columns of the next block: the first is shorter, so that blocks end with the frames."""
        return BLOCK if self.state.column else BLOCK - LOOK_AHEAD

    def _block(self, magnitudes: FloatArray, take: int) -> FloatArray:
        """The samples of the first `take` columns; the others are the look-ahead."""
        state = self.state
        phase, known = self._phases(magnitudes)
        angle = np.remainder(phase, 2.0 * np.pi).astype(np.float32)
        spectra = np.empty(magnitudes.shape, np.complex64)
        spectra.real = magnitudes * np.cos(angle)
        spectra.imag = magnitudes * np.sin(angle)
        for _ in range(PROJECTIONS):
            spectra = self._project(spectra, magnitudes)
        samples = self._add(spectra, magnitudes[:take], take)
        state.known = known[take - 1].copy()
        return samples

    def _add(self, spectra: ComplexArray, magnitudes: FloatArray, take: int) -> FloatArray:
        """The samples of the first `take` spectra, and those that are given early.

        magnitudes: of the last two of these spectra, or more.
        """
        state = self.state
        total, weight = overlap_add(spectra[:take], state.tail, state.weight)
        ready = take * HOP
        samples = _quotient(total[:ready], weight[:ready])
        begin = max(state.skip, state.given)

        state.column += take
        state.past = np.concatenate([state.past, magnitudes])[-2:]
        state.phase = np.angle(spectra[take - 1]).astype(np.float64)
        state.tail = total[ready:].copy()
        state.weight = weight[ready:].copy()
        state.given = self._early
        state.skip = max(state.skip - ready, 0)
        if self._early:
            # From the spectra of the look-ahead as they seem now: for these samples alone.
            total, weight = overlap_add(spectra[take:], state.tail, state.weight)
            early = slice(self._early)
            samples = np.concatenate([samples, _quotient(total[early], weight[early])])
        return samples[begin:]

    def _project(self, spectra: ComplexArray, magnitudes: FloatArray) -> ComplexArray:
        """The phases of the signal that the columns add up to, with the given magnitudes."""
        total, weight = overlap_add(spectra, self.state.tail, self.state.weight)
        again = analyse(_quotient(total, weight))
        size = np.abs(again)
        sound = size > _LEAST_SIZE
        return np.where(sound, again * (magnitudes / np.where(sound, size, 1.0)), spectra)

    def _phases(self, magnitudes: FloatArray) -> tuple[NDArray[np.float64], NDArray[np.bool_]]:
        """Integrated phases of the block's columns, and which are not random."""
        state = self.state
        past = len(state.past)
        context = np.concatenate([state.past, magnitudes])
        phase = np.zeros(context.shape, np.float64)
        known = np.zeros(context.shape, np.bool_)
        loudest = float(context.max())
        if loudest == 0.0:
            return phase[past:], known[past:]
        if past:
            phase[past - 1] = state.phase
            known[past - 1] = state.known
        level = np.log(np.maximum(context, np.float32(FLOOR)))
        threshold = np.float32(np.log(max(TOLERANCE * loudest, FLOOR)))
        slope_time, slope_frequency = phase_slopes(level)

        # Two past columns serve the slopes, but only the last of them seeds the block.
        used = slice(max(past - 1, 0), None)
        level, slope_time, slope_frequency = level[used], slope_time[used], slope_frequency[used]
        integrate(level, slope_time, slope_frequency, float(threshold), phase[used], known[used])
        phase, known = phase[past:], known[past:]
        loose = np.flatnonzero(~known).astype(np.uint64)
        first = np.uint64(state.column * N_BINS)
        phase[~known] = random_phase(loose + first, SEED)
        return phase, known
