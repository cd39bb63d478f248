"""Settings of the process for commands that run for seconds or minutes, not for services."""

from __future__ import annotations

import gc
import os

# New objects before a garbage collection: loading libraries makes a million of them and hardly any
# garbage.
_NEW_OBJECTS = 50_000

# Turns for which a thread waits for others before it sleeps (libgomp; its own default is 300 000).
_TURNS = "1000"


def prepare() -> None:
    """Collect garbage seldom and let waiting threads sleep soon; call before libraries are loaded.

    Where other programs keep the processors busy, threads that wait at full speed more than double
    the time of an encode.
    """
    if "OMP_WAIT_POLICY" not in os.environ:
        os.environ.setdefault("GOMP_SPINCOUNT", _TURNS)
    gc.set_threshold(_NEW_OBJECTS, 20, 20)
