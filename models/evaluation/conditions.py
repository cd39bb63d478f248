"""What speech goes through before it is coded: noise, a room, a telephone, another talker.

A condition is a function of the clip and of its name, which seeds whatever is random in it: the
same clip always comes out the same, at its old length and without delay. Levels of speech are its
active level, `active_rms`. What would exceed full scale is scaled down as a whole to a peak of 1,
which changes no ratio; nothing else is scaled unless a condition says so. Silence stays silence.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray
from scipy.ndimage import maximum_filter1d
from scipy.signal import fftconvolve, firwin, lfilter, welch

from codec.errors import BadInput
from codec.files.paths import display_name
from codec.signal.samples import SAMPLE_RATE, FloatArray
from models.evaluation.clips import Clip

QUIET_DB = -26.0
TALKER_DB = -5.0
CLIPPED_DB = 6.0
TELEPHONE_HZ = (300.0, 3400.0)
REVERBERATION_S = 0.4  # T60
DIRECT_DB = 0.0

_ENVELOPE_S = 0.03
_HANGOVER_S = 0.2
_MARGIN_DB = 15.9
_THRESHOLDS = 15
_SPECTRUM = 1024
_TAPS = 511
_WALLS = 6
_WALLS_S = (0.002, 0.02)
_TAIL_S = 0.005
_TAIL_SHARE = 0.6

Samples = NDArray[np.float64]


@dataclass(frozen=True)
class Condition:
    """name: on the command line; how: what it does, in one line; apply: (clip, all clips of the
    benchmark) to samples [n] float32, as long as the clip.
    """

    name: str
    how: str
    apply: Callable[[Clip, Sequence[Clip]], FloatArray]


def degrade(clips: Sequence[Clip], name: str) -> list[Clip]:
    """The clips as the condition of that name leaves them, with the original ones as `clean`.

    Raises BadInput if the condition needs other clips than these.
    """
    condition = CONDITIONS[name]
    return [
        replace(clip, samples=condition.apply(clip, clips), clean=clip.original) for clip in clips
    ]


def active_rms(samples: FloatArray | Samples) -> float:
    """The level of speech without its pauses: root mean square of samples [n] at 16 kHz.

    ITU-T P.56 (method B): energy over the time for which the envelope, smoothed twice with a time
    constant of 30 ms and held for 200 ms, is above a threshold 15.9 dB below the level that
    results. The thresholds tried are 6 dB apart and relative to the peak, so that the level follows
    any gain exactly. Of what is too short for an envelope to rise, the plain RMS; 0 for silence.
    """
    signal = np.asarray(samples, np.float64)
    peak = float(np.max(np.abs(signal), initial=0.0))
    if peak == 0.0:
        return 0.0
    signal = signal / peak
    energy = float(np.sum(signal**2))
    keep = math.exp(-1 / (SAMPLE_RATE * _ENVELOPE_S))
    envelope = np.abs(signal)
    for _ in range(2):
        envelope = lfilter([1 - keep], [1, -keep], envelope)
    held = round(_HANGOVER_S * SAMPLE_RATE)
    # Each sample's own value and those of the 200 ms before it.
    envelope = maximum_filter1d(envelope, held + 1, mode="constant", origin=held // 2)
    levels: list[float] = []
    excesses: list[float] = []
    for threshold in 2.0 ** np.arange(-_THRESHOLDS, 0):
        active = int(np.count_nonzero(envelope >= threshold))
        if not active:
            break
        levels.append(10 * math.log10(energy / active))
        excesses.append(levels[-1] - 20 * math.log10(threshold))
        if excesses[-1] <= _MARGIN_DB:
            break
    if not levels:
        return peak * math.sqrt(energy / len(signal))
    # The last two are on either side of the margin; np.interp wants them to rise.
    level = float(np.interp(_MARGIN_DB, excesses[-1:-3:-1], levels[-1:-3:-1]))
    return peak * 10 ** (level / 20)


def noise(samples: FloatArray, snr_db: float, seed: int) -> FloatArray:
    """Add stationary noise with the long-term spectrum of the speech itself.

    snr_db: active level of the speech over the level of the noise. Noise of the talker's own
    spectrum is that of matrix tests of intelligibility (Hagerman, Scandinavian Audiology 11, 1982):
    it covers all of the speech equally well.
    """
    speech = np.asarray(samples, np.float64)
    level = active_rms(speech)
    if level == 0.0:
        return samples
    frequencies, power = welch(speech, SAMPLE_RATE, nperseg=min(_SPECTRUM, len(speech)))
    white = np.random.default_rng(seed).normal(size=len(speech))
    spectrum = np.fft.rfft(white)
    shape = np.interp(np.fft.rfftfreq(len(speech), 1 / SAMPLE_RATE), frequencies, np.sqrt(power))
    shaped = np.fft.irfft(spectrum * shape, len(speech))
    return _mixed(speech, shaped, _rms(shaped), level * _gain(-snr_db))


def room(samples: FloatArray) -> FloatArray:
    """Put the talker into the small hard room of `impulse_response`, at the old active level.

    The direct sound stays where it was; what rings on after the end is cut off.
    """
    speech = np.asarray(samples, np.float64)
    heard = fftconvolve(speech, impulse_response())[: len(speech)]
    level = active_rms(heard)
    return _in_range(heard * (active_rms(speech) / level) if level > 0 else heard)


@lru_cache(maxsize=1)
def impulse_response() -> Samples:
    """A room at 16 kHz [0.4 s]: always the same, in the form of Polack's model (1988).

    The direct sound is 1, at sample 0. First reflections of six walls follow within 2 to 20 ms,
    weaker as they have further to go, and from 5 ms on Gaussian noise that decays by 60 dB in
    0.4 s. All that follows the direct sound has its energy (a direct-to-reverberant ratio of 0 dB,
    as at a metre or so), 60 % of it in the noise.
    """
    rng = np.random.default_rng(0)
    time = np.arange(round(REVERBERATION_S * SAMPLE_RATE)) / SAMPLE_RATE
    tail = rng.normal(size=len(time)) * 10 ** (-3 * time / REVERBERATION_S)
    tail[time < _TAIL_S] = 0
    walls = np.zeros(len(time))
    delays = rng.uniform(*_WALLS_S, _WALLS)
    # Sound on a way twice as long is half as strong.
    walls[np.rint(delays * SAMPLE_RATE).astype(int)] = _WALLS_S[0] / delays
    after = walls * math.sqrt((1 - _TAIL_SHARE) / np.sum(walls**2))
    after += tail * math.sqrt(_TAIL_SHARE / np.sum(tail**2))
    response = after * _gain(-DIRECT_DB) / math.sqrt(np.sum(after**2))
    response[0] = 1
    response.setflags(write=False)
    return np.asarray(response)


def telephone(samples: FloatArray) -> FloatArray:
    """Keep 300 to 3400 Hz, the band of a telephone line (ITU-T G.712), at a gain of 1.

    A linear-phase FIR filter of 511 taps, its delay removed: 6 dB down at the edges of the band,
    more than 40 dB from 50 Hz outside.
    """
    taps = firwin(_TAPS, TELEPHONE_HZ, pass_zero=False, fs=SAMPLE_RATE)
    return _in_range(fftconvolve(np.asarray(samples, np.float64), taps, mode="same"))


def talker(samples: FloatArray, other: FloatArray, level_db: float = TALKER_DB) -> FloatArray:
    """Add another talker's samples [m], repeated or cut to the length of the first.

    level_db: active level of the other over that of the first.
    """
    speech = np.asarray(samples, np.float64)
    added = np.resize(np.asarray(other, np.float64), len(speech))
    return _mixed(speech, added, active_rms(added), active_rms(speech) * _gain(level_db))


def quiet(samples: FloatArray) -> FloatArray:
    """The same, 26 dB quieter."""
    return _in_range(np.asarray(samples, np.float64) * _gain(QUIET_DB))


def clipping(samples: FloatArray) -> FloatArray:
    """Cut off whatever exceeds the active level by more than 6 dB, as an overdriven input does.

    The level is not raised afterwards. Clean speech peaks some 15 to 20 dB above it; about
    one sample in twenty is cut.
    """
    limit = active_rms(samples) * _gain(CLIPPED_DB)
    return _in_range(np.clip(np.asarray(samples, np.float64), -limit, limit))


def _gain(decibels: float) -> float:
    return float(10 ** (decibels / 20))


def _rms(samples: Samples) -> float:
    return float(np.sqrt(np.mean(samples**2)))


def _mixed(speech: Samples, added: Samples, level: float, target: float) -> FloatArray:
    """The sum, with what is added scaled from one level to the other; nothing added if silent."""
    return _in_range(speech + added * (target / level) if level > 0 else speech)


def _in_range(samples: Samples) -> FloatArray:
    peak = float(np.max(np.abs(samples), initial=0.0))
    return np.asarray(samples / max(peak, 1.0), np.float32)


def _noisy(snr_db: float) -> Condition:
    def apply(clip: Clip, clips: Sequence[Clip]) -> FloatArray:
        # The same noise at every level, so that levels differ by nothing else.
        seed = hashlib.sha256(clip.name.encode("utf-8", "surrogateescape")).digest()[:8]
        return noise(clip.samples, snr_db, int.from_bytes(seed, "big"))

    how = f"stationary noise of the clip's own long-term spectrum, {snr_db:g} dB below the speech"
    return Condition(f"noise{snr_db:g}", how, apply)


def _beside(clip: Clip, clips: Sequence[Clip]) -> FloatArray:
    """Of the clips after this one, and then from the first on, the first of another speaker."""
    at = next(k for k, each in enumerate(clips) if each.name == clip.name)
    for other in (*clips[at + 1 :], *clips[:at]):
        if other.speaker != clip.speaker:
            return talker(clip.samples, other.samples)
    raise BadInput(
        f"there is no other speaker to talk at the same time as {display_name(clip.speaker)}"
    )


CONDITIONS = {
    condition.name: condition
    for condition in (
        *map(_noisy, (5.0, 10.0, 15.0)),
        Condition(
            "reverb",
            "a small hard room: T60 0.4 s, direct sound as strong as all that follows it",
            lambda clip, _: room(clip.samples),
        ),
        Condition("telephone", "300 to 3400 Hz", lambda clip, _: telephone(clip.samples)),
        Condition("talker", "another speaker at the same time, 5 dB below", _beside),
        Condition("quiet", "26 dB quieter", lambda clip, _: quiet(clip.samples)),
        Condition(
            "clipping",
            "cut off 6 dB above the level of the speech",
            lambda clip, _: clipping(clip.samples),
        ),
    )
}
