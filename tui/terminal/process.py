"""How the process uses memory and processors: seconds of arithmetic, not days of service."""

from __future__ import annotations

import contextlib
import ctypes
import gc
import os
import sys

_TRIM_THRESHOLD, _MMAP_THRESHOLD = -1, -3  # of mallopt(3)
_LARGE = 64 << 20  # bytes; what is larger goes back to the system at once
_KEPT = 1 << 30  # bytes freed that are kept for the next arrays

# Objects that must be new before they are searched for garbage: loading libraries makes a million
# of them and hardly any garbage.
_NEW_OBJECTS = 50_000

# Turns that a thread waits for others before it sleeps (libgomp; its own default is 300 000).
_TURNS = "1000"


def prepare() -> None:
    """To be called before libraries are loaded.

    Garbage is collected seldom, and freed memory kept for the arrays that come next: by default
    the allocator gives arrays of a megabyte back to the system and fetches and clears them anew,
    many times in each step of a search. Threads soon sleep while they wait for each other: where
    another program has one of the processors, the rest would wait for it at full speed.
    """
    if "OMP_WAIT_POLICY" not in os.environ:
        os.environ.setdefault("GOMP_SPINCOUNT", _TURNS)
    gc.set_threshold(_NEW_OBJECTS, 20, 20)
    if sys.platform == "linux":
        # Other C libraries than that of GNU have no such function, or ignore it.
        with contextlib.suppress(OSError, AttributeError):
            library = ctypes.CDLL(None)
            library.mallopt(_MMAP_THRESHOLD, _LARGE)
            library.mallopt(_TRIM_THRESHOLD, _KEPT)
