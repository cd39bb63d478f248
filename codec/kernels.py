"""How the package's inner loops are compiled with numba, and where their compiled form is kept.

Importing this module imports numba, which takes longer than a short decode: where a kernel is only
sometimes wanted, import it late.
"""

from __future__ import annotations

import atexit
import functools
import os
import shutil
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numba
from numba import njit
from numba.misc.appdirs import AppDirs


def _writable(folder: Path) -> bool:
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=folder):
            return True
    except OSError:
        return False


@functools.cache
def choose_cache() -> None:
    """Give numba a place where it would find none, as for a service without a home: beside this
    file, or for this process only.

    To be called before another library with kernels of its own is imported: numba refuses to
    compile for the cache without a place for one.
    """
    user = Path(AppDirs(appname="numba", appauthor=False).user_cache_dir)
    if os.environ.get("NUMBA_CACHE_DIR") or _writable(user):
        return
    folder = Path(__file__).parent / "__pycache__"
    if not _writable(folder):
        folder = Path(tempfile.mkdtemp(prefix="sotto-numba-"))
        atexit.register(shutil.rmtree, folder, ignore_errors=True)
    numba.config.CACHE_DIR = str(folder)  # type: ignore[attr-defined]


def kernel(
    signature: str | None = None, **options: Any
) -> Callable[[Callable[..., Any]], Callable[..., Any]]:
    """A decorator that compiles without bounds checks: at once for `signature`, else when called.

    The compiled form is kept where numba keeps such (NUMBA_CACHE_DIR, beside the source, the user's
    cache). Where none of them can be written, every process compiles anew. options: numba's.
    """
    choose_cache()
    compiled: Callable[[Callable[..., Any]], Callable[..., Any]] = njit(
        signature, cache=True, boundscheck=False, **options
    )
    return compiled
