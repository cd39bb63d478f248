"""What runs in a worker: one function, made once and called for task after task.

Light to import: workers limit their threads before they load libraries that start some.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from codec.errors import SottoError

Do = Callable[[Any], Any]
Make = Callable[[], Do]

_THREADS = ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS")
_NO_GPU = "CUDA_VISIBLE_DEVICES"


@dataclass(frozen=True)
class Failed:
    """A task that came to nothing, and why in one line."""

    reason: str


class Worker:
    """Makes its function in `begin` and then does tasks.

    make: gives the function, which loads what it needs once; it is pickled, so it is a function of
    a module, or a partial of one. threads: of the numerical libraries; gpu: whether they see one.
    """

    def __init__(self, make: Make, threads: int, gpu: bool = True) -> None:
        self._make, self._threads, self._gpu = make, threads, gpu
        self._do: Do | None = None

    def here(self) -> None:
        """Nothing: who gets an answer knows that the worker has started."""

    def begin(self) -> Failed | None:
        """Make the function; why that cannot be done, if it cannot."""
        for name in _THREADS:
            os.environ[name] = str(self._threads)
        if not self._gpu:
            os.environ[_NO_GPU] = ""
        try:
            self._do = self._make()
        except Exception as error:
            return Failed(in_a_line(error))
        if "torch" in sys.modules:
            sys.modules["torch"].set_num_threads(self._threads)
        return None

    def do(self, task: Any) -> Any:
        """What the function makes of a task, or `Failed`: one bad file must not stop the rest."""
        assert self._do is not None, "begin comes first"
        try:
            return self._do(task)
        except Exception as error:
            return Failed(in_a_line(error))


def in_a_line(error: BaseException) -> str:
    """Why something failed; errors that are not sotto's own also name their type."""
    text = " ".join(str(error).split())
    if isinstance(error, SottoError):
        return text
    if isinstance(error, MemoryError):
        return "out of memory"
    return f"unexpected {type(error).__name__}: {text}"


def always(do: Do) -> Do:
    """A `Make`, as functools.partial(always, do), of a function that needs nothing loaded."""
    return do
