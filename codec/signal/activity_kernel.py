"""The decisions of voice activity detection, compiled ahead of time."""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray

from codec.kernels import kernel
from codec.kernels.ahead import ahead_of_time

SMOOTH = 3  # steps averaged into the energies that are compared with the floors
SLOT = 50  # steps whose minimum is kept together
TRUSTED_SLOTS = 5  # minima that must be known before a floor is above the lowest possible
TOP = 3  # bands that have to exceed their floors together
RISE_DB = 7.0  # ... by this much on average
QUIETEST_DB = -78.0  # all bands together below this, in dB of full scale, are silence
_EMPTY = 1e-12


@ahead_of_time("f4[:,::1]", "i8", "f8[:,::1]", "f8[::1]", "f8[:,::1]", "b1[::1]", "f8[::1]")
@kernel(nogil=True)
def decide(
    power: NDArray[np.float32],
    steps: int,
    recent: NDArray[np.float64],
    minimum: NDArray[np.float64],
    minima: NDArray[np.float64],
    speech: NDArray[np.bool_],
    rise: NDArray[np.float64],
) -> None:
    """Tell which steps are speech: `speech` [n], from the band powers of each, [n, bands].

    steps: number of those before. Kept from one call to the next, and changed: recent, the latest
    powers [steps averaged into what the floors follow, bands]; minimum, of the present slot, and
    minima, of those before [slots, bands], infinite where there is none yet. rise: working memory
    [bands].
    """
    slow, bands = recent.shape
    for row in range(len(power)):
        for band in range(bands):
            recent[steps % slow, band] = power[row, band]
        known = min(steps + 1, slow)
        smooth = min(known, SMOOTH)
        steps += 1
        total = 0.0
        trusted = (steps // SLOT) >= TRUSTED_SLOTS
        for band in range(bands):
            now = 0.0
            for back in range(1, smooth + 1):
                now += recent[(steps - back) % slow, band]
            now /= smooth
            total += now
            followed = now
            if known == slow:
                followed = 0.0
                for back in range(slow):
                    followed += recent[back, band]
                followed /= slow
            minimum[band] = min(minimum[band], followed)
            if steps % SLOT == 0:
                minima[(steps // SLOT) % len(minima), band] = minimum[band]
                minimum[band] = np.inf
            floor = 0.0
            if trusted:
                floor = minimum[band]
                for slot in range(len(minima)):
                    floor = min(floor, minima[slot, band])
            rise[band] = 10.0 * math.log10((now + _EMPTY) / (floor + _EMPTY))
        over = 0.0
        for _ in range(TOP):
            highest = np.argmax(rise)
            over += rise[highest] / TOP
            rise[highest] = -np.inf
        speech[row] = 10.0 * math.log10(total + _EMPTY) > QUIETEST_DB and over > RISE_DB
