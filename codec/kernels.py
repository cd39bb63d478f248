"""Compilation of inner loops with numba, and the place of their compiled form.

Importing this module imports numba, which takes longer than a short decode: import it only where a
kernel is used.
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
    """Give numba a cache folder where it would find none, as in a service without a home directory.

    That is the one beside this file, or one for this process only. Without any, numba refuses to
    compile cached kernels; so call this before importing a library that has some.
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

    The compiled form is kept in numba's cache. options: numba's.
    """
    choose_cache()
    decorator: Callable[..., Any] = njit(signature, cache=True, boundscheck=False, **options)
    return decorator
