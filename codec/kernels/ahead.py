"""Kernels compiled ahead of time, for types that are known: kept as object code, run without numba.

Decoding starts in half the time so. The object code lies where Python keeps its bytecode, or else
in the user's cache; LLVM links it into the process. It is made again for another processor or
compiler, and when the kernel has changed.

Types are written as numba's: "i8", "f4", "b1" for numbers, "f4[:,::1]" for contiguous arrays; named
tuples of these are `Record`s. Such kernels return nothing, raise nothing and allocate no memory:
what they work with is given to them.
"""

from __future__ import annotations

import contextlib
import ctypes
import functools
import hashlib
import os
import struct
import tempfile
import threading
from collections.abc import Callable, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
from llvmlite import __version__ as llvmlite_version
from llvmlite import binding as llvm

from codec.kernels import Kernel, writable

# How a number lies in a slot of eight bytes, and what makes a number of what is given.
_NUMBERS: dict[str, tuple[str, Callable[[Any], Any]]] = {
    "b1": ("?7x", bool), "i4": ("i4x", int), "i8": ("q", int), "f4": ("f4x", float),
    "f8": ("d", float),
}  # fmt: skip
_ENTRY = "kernel"
_FORM = 1  # of the object code: count up whenever it is called in another way
_DIGEST_BYTES = 32
_SLOT_BYTES = 8
_LOADING = threading.RLock()
# What frees an array that numba's code holds the last reference to. Ours are Python's, which it
# does not count.
_FREE = "NRT_MemInfo_call_dtor"


class _Number:
    def __init__(self, name: str) -> None:
        self.described = name
        self.slots, self._convert = _NUMBERS[name]

    def unpack(self, value: Any, into: list[Any]) -> None:
        into.append(self._convert(value))


class _Array:
    def __init__(self, name: str) -> None:
        code, dimensions = name[: name.index("[")], name.count(",") + 1
        self.described = code, dimensions
        self._dtype, self._dimensions = np.dtype(code), dimensions
        # As numba hands arrays over: owner, Python's object, number of values, bytes of one, where
        # they are, shape and strides.
        self.slots = "qqqqq" + 2 * dimensions * "q"

    def unpack(self, value: Any, into: list[Any]) -> None:
        flags = value.flags
        fits = value.dtype == self._dtype and value.ndim == self._dimensions
        if not fits or not flags.c_contiguous or not flags.aligned:
            raise TypeError(
                f"kernel takes contiguous {self._dtype} arrays of {self._dimensions} dimensions, "
                f"not {value.dtype} {list(value.shape)}"
            )
        into += 0, 0, value.size, value.itemsize, value.ctypes.data
        into += value.shape
        into += value.strides


class Record:
    """The types of a named tuple's fields."""

    described: tuple[Any, ...]
    slots: str

    def __init__(self, tuple_type: type, *types: str) -> None:
        self._fields = [_argument(each) for each in types]
        self.described = tuple_type, tuple(field.described for field in self._fields)
        self.slots = "".join(field.slots for field in self._fields)

    def unpack(self, value: Any, into: list[Any]) -> None:
        for field, part in zip(self._fields, value, strict=True):
            field.unpack(part, into)


_Argument = _Number | _Array | Record


def _argument(described: str | Record) -> _Argument:
    if isinstance(described, Record):
        return described
    return _Array(described) if "[" in described else _Number(described)


class AheadOfTime:
    """A kernel for arguments of known types; compiled, or read, when it is first called.

    beside: further functions in LLVM's language, which may call it as `@kernel(ptr %slots)`.
    """

    def __init__(self, kernel: Kernel, types: Sequence[str | Record], beside: str = "") -> None:
        functools.update_wrapper(self, kernel)
        self.kernel, self.name, self.beside = kernel, kernel.function.__name__, beside
        self.arguments = [_argument(each) for each in types]

    def __call__(self, *values: Any) -> None:
        """Raises TypeError for arrays of other types."""
        self.bound()(*values)

    def bound(self, *first: Any) -> Bound:
        """The kernel with its first arguments given, which are unpacked once for many calls."""
        return Bound(self.native, self.arguments, first)

    def load(self) -> None:
        """Compile or read the kernel now, before it has to be quick."""
        self.native  # noqa: B018

    def address(self, function: str) -> int:
        """Where one of the functions beside the kernel is, for as long as this object lives."""
        self.load()
        return int(self._engine.get_function_address(function))

    @cached_property
    def native(self) -> Callable[[int], int]:
        """Takes the address of the slots in which the arguments are; returns 0 if all went well."""
        with _LOADING:
            name = _file_name(self)
            code = _read(self.kernel, name) or _compiled(self, name)
            self._engine = llvm.create_mcjit_compiler(llvm.parse_assembly(""), _machine())
            self._engine.add_object_file(llvm.ObjectFileRef.from_data(code))
            self._engine.finalize_object()
        # Without the interpreter's lock only where that is asked for: getting it back takes long.
        free = self.kernel.options.get("nogil", False)
        form = ctypes.CFUNCTYPE if free else ctypes.PYFUNCTYPE
        return form(ctypes.c_int32, ctypes.c_void_p)(self._engine.get_function_address(_ENTRY))


class Bound:
    """A kernel with its first arguments given. Not thread safe."""

    def __init__(
        self,
        native: Callable[[int], int],
        arguments: Sequence[_Argument],
        first: tuple[Any, ...],
    ) -> None:
        self._native, self._rest = native, arguments[len(first) :]
        self._first = first  # kept, for the slots point into it
        given, slots = _packing(arguments[: len(first)]), _packing(self._rest)
        self._memory = ctypes.create_string_buffer(given.size + slots.size)
        self._at, self._begin = ctypes.addressof(self._memory), given.size
        self._pack = slots.pack_into
        given.pack_into(self._memory, 0, *_unpacked(arguments[: len(first)], first))

    @property
    def address(self) -> int:
        """Where its slots are, for as long as this object lives."""
        return self._at

    def __call__(self, *values: Any) -> None:
        self._pack(self._memory, self._begin, *_unpacked(self._rest, values))
        if self._native(self._at):
            raise RuntimeError("a kernel that was compiled ahead of time has failed")


def _packing(arguments: Sequence[_Argument]) -> struct.Struct:
    return struct.Struct("=" + "".join(argument.slots for argument in arguments))


def _unpacked(arguments: Sequence[_Argument], values: tuple[Any, ...]) -> list[Any]:
    into: list[Any] = []
    for argument, value in zip(arguments, values, strict=True):
        argument.unpack(value, into)
    return into


def ahead_of_time(*types: str | Record, beside: str = "") -> Callable[[Kernel], AheadOfTime]:
    """A decorator that has a `Kernel` compiled ahead of time for arguments of these types.

    beside: as `AheadOfTime` takes it.
    """
    return lambda kernel: AheadOfTime(kernel, types, beside)


def first_slots(types: Sequence[str | Record]) -> list[int]:
    """The number of the first slot of each argument. An array has, one after another: two that are
    0, how many values there are, bytes of one, where they are, its shape and its strides."""
    sizes = [_packing([_argument(each)]).size // _SLOT_BYTES for each in types]
    return [sum(sizes[:k]) for k in range(len(sizes))]


def _machine() -> llvm.TargetMachine:
    """This processor, as numba describes it to LLVM: only then is the code the same."""
    llvm.initialize_native_target()
    llvm.initialize_native_asmprinter()
    triple = llvm.get_process_triple()
    relocation = "static" if triple.startswith(("x86", "i386", "i686")) else "default"
    return llvm.Target.from_triple(triple).create_target_machine(
        cpu=llvm.get_host_cpu_name(), features=llvm.get_host_cpu_features().flatten(), opt=3,
        reloc=relocation, codemodel="jitdefault", jit=True,
    )  # fmt: skip


@functools.cache
def _compiler() -> str:
    """What object code depends on besides its kernel."""
    processor = llvm.get_host_cpu_name(), llvm.get_host_cpu_features().flatten()
    options = sorted(f"{k}={v}" for k, v in os.environ.items() if k.startswith("NUMBA_"))
    return repr((_FORM, llvmlite_version, llvm.get_process_triple(), processor, options))


def _compiled(ahead: AheadOfTime, name: str) -> bytes:
    """The object code of a kernel, which is kept where that can be done."""
    text, entry = ahead.kernel.intermediate([each.described for each in ahead.arguments])
    module = llvm.parse_assembly(text)
    taken = [str(argument.type) for argument in module.get_function(entry).arguments]
    if len(taken) - 2 != _packing(ahead.arguments).size // _SLOT_BYTES:
        raise RuntimeError(f"kernel {ahead.name} takes other arguments than it is given")
    module.link_in(llvm.parse_assembly(_from_slots(entry, taken)))
    if ahead.beside:
        module.link_in(llvm.parse_assembly(ahead.beside))
    if any(function.name == _FREE for function in module.functions):
        module.link_in(llvm.parse_assembly(f"define void @{_FREE}(ptr %owner) {{ ret void }}"))
    foreign = [
        function.name
        for function in module.functions
        if function.is_declaration and function.name.startswith(("NRT_", "numba_", "Py", "_Py"))
    ]
    if foreign:
        raise RuntimeError(f"kernel {ahead.name} cannot run without numba: {foreign[0]}")
    code: bytes = _machine().emit_object(module)
    _keep(ahead.kernel, name, code)
    return code


def _from_slots(function: str, types: Sequence[str]) -> str:
    """A function in LLVM's language that calls another one with the arguments in its slots.

    In front of them that one takes places for its result and for what it raises.
    """
    lines = ["%result = alloca ptr", "%error = alloca ptr"]
    for k, kind in enumerate(types[2:]):
        lines.append(f"%at{k} = getelementptr i64, ptr %slots, i64 {k}")
        if kind == "i1":
            lines.append(f"%byte{k} = load i8, ptr %at{k}")
            lines.append(f"%in{k} = trunc i8 %byte{k} to i1")
        else:
            lines.append(f"%in{k} = load {kind}, ptr %at{k}")
    given = "".join(f", {kind} %in{k}" for k, kind in enumerate(types[2:]))
    lines.append(f'%status = call i32 @"{function}"(ptr %result, ptr %error{given})')
    body = "\n".join([*lines, "ret i32 %status"])
    return (
        f'declare i32 @"{function}"({", ".join(types)})\n'
        f"define i32 @{_ENTRY}(ptr %slots) {{\n{body}\n}}\n"
    )


def _file_name(ahead: AheadOfTime) -> str:
    """Under which object code lies in a cache: by what it is for, and what it was made from."""
    kernel, types = ahead.kernel, [argument.described for argument in ahead.arguments]
    place = _digest(f"{_compiler()} {kernel.function.__code__.co_filename} {types}")
    recipe = _digest(kernel.recipe() + ahead.beside)
    return f"{kernel.__module__}.{ahead.name}.{place}.{recipe}.o"


def _digest(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def _caches(kernel: Kernel) -> list[Path]:
    """Folders in which object code is looked for, the best place first."""
    if chosen := os.environ.get("NUMBA_CACHE_DIR"):
        return [Path(chosen)]
    user = os.environ.get("XDG_CACHE_HOME") or os.path.expanduser("~/.cache")
    beside = Path(kernel.function.__code__.co_filename).parent / "__pycache__"
    return [beside, Path(user) / "sotto"]


def _read(kernel: Kernel, name: str) -> bytes | None:
    """Object code that was kept; None if there is none that is whole."""
    for cache in _caches(kernel):
        try:
            data = (cache / name).read_bytes()
        except OSError:
            continue
        digest, code = data[:_DIGEST_BYTES], data[_DIGEST_BYTES:]
        if code and hashlib.sha256(code).digest() == digest:
            return code
    return None


def _keep(kernel: Kernel, name: str, code: bytes) -> None:
    """Write object code where it is looked for, in place of what it was before, if anywhere."""
    for cache in _caches(kernel):
        if not writable(cache):
            continue
        with contextlib.suppress(OSError):
            descriptor, draft = tempfile.mkstemp(prefix=".", suffix=".o", dir=cache)
            try:
                with open(descriptor, "wb") as file:
                    file.write(hashlib.sha256(code).digest() + code)
                os.chmod(draft, 0o644)
                os.replace(draft, cache / name)
            except BaseException:
                os.unlink(draft)
                raise
            for former in cache.glob(f"{name.rsplit('.', 2)[0]}.*.o"):
                if former.name != name:
                    former.unlink(missing_ok=True)
            return
