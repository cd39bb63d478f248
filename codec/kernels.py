"""How the package's inner loops are compiled with numba, with or without a place to keep them.

Importing this module imports numba, which takes longer than a short decode: where a kernel is only
sometimes wanted, import it late.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from numba import njit


def kernel(
    signature: str | None = None, **options: Any
) -> Callable[[Callable[..., Any]], Callable[..., Any]]:
    """A decorator that compiles without bounds checks: at once for `signature`, else when called.

    The compiled form is kept where numba keeps such (NUMBA_CACHE_DIR, beside the source, the user's
    cache). Where none of them can be written, as for a service without a home, every process
    compiles anew; numba itself would refuse. options: numba's.
    """

    def compiled(function: Callable[..., Any], cache: bool) -> Callable[..., Any]:
        done: Callable[..., Any] = njit(signature, cache=cache, boundscheck=False, **options)(
            function
        )
        return done

    def wrap(function: Callable[..., Any]) -> Callable[..., Any]:
        try:
            return compiled(function, cache=True)
        except RuntimeError:  # no place is writable
            return compiled(function, cache=False)

    return wrap
