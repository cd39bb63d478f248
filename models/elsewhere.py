"""Functions that are called for many items on other machines."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Any

# elsewhere(function of a module, items): its results in the order of the items, and a string, which
# says why, where there is none.
Elsewhere = Callable[[Callable[[Any], Any], Sequence[Any]], Iterator[Any]]
