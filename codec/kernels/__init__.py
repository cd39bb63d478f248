"""Inner loops that are compiled with numba: when they are called, or ahead of time (`ahead`).

numba takes longer to load than a short decode: it is imported where a kernel is compiled or called
through it, not with this module.
"""

from __future__ import annotations

import atexit
import functools
import os
import shutil
import signal
import tempfile
import threading
from collections.abc import Callable, Sequence
from functools import cached_property
from pathlib import Path
from types import FrameType, FunctionType, ModuleType
from typing import Any


def writable(folder: Path) -> bool:
    """Whether files can be made in a folder, which is made itself where there is none."""
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
    import numba
    from numba.misc.appdirs import AppDirs

    user = Path(AppDirs(appname="numba", appauthor=False).user_cache_dir)
    if os.environ.get("NUMBA_CACHE_DIR") or writable(user):
        return
    folder = Path(__file__).parent / "__pycache__"
    if not writable(folder):
        folder = Path(tempfile.mkdtemp(prefix="sotto-numba-"))
        atexit.register(shutil.rmtree, folder, ignore_errors=True)
    numba.config.CACHE_DIR = str(folder)  # type: ignore[attr-defined]


class SignalsHeld:
    """Lets signals wait that end programs from `start` to `end`, which may be nested.

    LLVM hands over what it has compiled in callbacks, out of which nothing can be raised. What a
    signal's handler raises there is printed and forgotten, so that the program goes on, and without
    the compiled code.
    """

    def __init__(self) -> None:
        self._depth = 0
        self._handlers: dict[int, Callable[[int, FrameType | None], Any]] = {}
        self._waiting: list[int] = []

    def start(self) -> None:
        """Only the main thread runs handlers: in others this does nothing."""
        if threading.current_thread() is not threading.main_thread():
            return
        self._depth += 1
        if self._depth > 1:
            return
        for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
            if callable(handler := signal.getsignal(number)):
                self._handlers[number] = handler
                signal.signal(number, lambda number, frame: self._waiting.append(number))

    def end(self) -> None:
        """Raises what the handlers of the signals raise that came meanwhile."""
        if threading.current_thread() is not threading.main_thread():
            return
        self._depth -= 1
        if self._depth:
            return
        for number in list(self._handlers):
            signal.signal(number, self._handlers.pop(number))
        waiting, self._waiting = self._waiting, []
        for number in waiting:
            signal.raise_signal(number)


@functools.cache
def _numba() -> ModuleType:
    import numba
    from numba.core import event

    class Listener(event.Listener):
        def __init__(self) -> None:
            self._held = SignalsHeld()

        def on_start(self, event: event.Event) -> None:
            self._held.start()

        def on_end(self, event: event.Event) -> None:
            self._held.end()

    choose_cache()
    event.register("numba:compiler_lock", Listener())
    return numba


class Kernel:
    """A function that numba compiles for the types that it is called with, without bounds checks.

    What is compiled is kept in numba's cache. Kernels may call others.

    function: as written; options: numba's.
    """

    def __init__(self, function: FunctionType, options: dict[str, Any]) -> None:
        functools.update_wrapper(self, function)
        self.function, self.options = function, options

    def __call__(self, *arguments: Any) -> Any:
        return self._dispatcher(*arguments)

    @cached_property
    def _dispatcher(self) -> Any:
        """numba's form of the function."""
        return self._prepared(cache=True)

    def _prepared(self, **options: Any) -> Any:
        # numba looks up by its name what a function calls, and knows its own functions only.
        names = self._globals()
        others = {n: v._dispatcher for n, v in names.items() if isinstance(v, Kernel)}
        seen = FunctionType(
            self.function.__code__,
            self.function.__globals__ | others,
            self.function.__name__,
            self.function.__defaults__,
        )
        seen.__qualname__, seen.__module__ = self.function.__qualname__, self.__module__
        return _numba().njit(seen, boundscheck=False, **self.options, **options)

    def _globals(self) -> dict[str, Any]:
        """What its code may refer to."""
        known = self.function.__globals__
        return {name: known[name] for name in self.function.__code__.co_names if name in known}

    def recipe(self) -> str:
        """What the compiled form depends on, save for types, compiler and processor."""
        code = self.function.__code__
        known = {
            name: value.recipe() if isinstance(value, Kernel) else _described(value)
            for name, value in self._globals().items()
        }
        parts = code.co_code, code.co_consts, code.co_names, code.co_varnames, known, self.options
        return repr(parts)

    def intermediate(self, types: Sequence[Any]) -> tuple[str, str]:
        """The optimised code in LLVM's language for arguments of these types, and its name in it.

        Types are numba's names of numbers, (name, dimensions) of contiguous arrays, and (class,
        types) of named tuples. The code has numba's calling convention.
        """
        # Without the functions by which Python and C would call it: these take numba at run time.
        dispatcher = self._prepared(no_cpython_wrapper=True, no_cfunc_wrapper=True)
        signature = tuple(_numba_type(each) for each in types)
        dispatcher.compile(signature)
        compiled = dispatcher.overloads[signature]
        return dispatcher.inspect_llvm(signature), compiled.fndesc.llvm_func_name


def _described(value: Any) -> str:
    return value.__name__ if isinstance(value, (ModuleType, type)) else repr(value)


def _numba_type(described: Any) -> Any:
    numba = _numba()
    if isinstance(described, str):
        return getattr(numba.types, described)
    kind, inner = described
    if isinstance(kind, str):
        return numba.types.Array(getattr(numba.types, kind), inner, "C")
    return numba.types.BaseTuple.from_types([_numba_type(each) for each in inner], kind)


def kernel(**options: Any) -> Callable[[Callable[..., Any]], Kernel]:
    """A decorator that makes a `Kernel` of a function; options: numba's."""

    def decorate(function: Callable[..., Any]) -> Kernel:
        assert isinstance(function, FunctionType)
        return Kernel(function, options)

    return decorate
