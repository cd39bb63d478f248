"""A device that computes on the CPU but keeps its tensors separate, as a GPU does.

Without CUDA, this checks that code places its tensors on the right device: tensors made "elsewhere"
hold their values in CPU memory, report the device "meta", and cannot be combined with a CPU tensor,
converted to NumPy, or filled from a CPU generator. It does not cover the kernels, number formats
and speed of a real GPU.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode

DEVICE = torch.device("meta")
_aten = torch.ops.aten
_BETWEEN = {_aten._to_copy.default, _aten.copy_.default}
# A card takes indices from the CPU.
_INDEXING = {
    _aten.index.Tensor,
    _aten.index_put.default,
    _aten.index_put_.default,
    _aten._index_put_impl_.default,
    _aten._unsafe_index.Tensor,
}


class OtherDevice(RuntimeError):
    """Tensors of two devices met."""


class Elsewhere(Tensor):
    """A tensor that says it is on `DEVICE`; `held` are its values."""

    held: Tensor

    @staticmethod
    def __new__(cls, held: Tensor) -> Elsewhere:
        made: Elsewhere = Tensor._make_wrapper_subclass(
            cls,
            held.size(),
            strides=held.stride(),
            storage_offset=held.storage_offset(),
            dtype=held.dtype,
            device=DEVICE,
        )
        made.held = held
        return made

    def __repr__(self, *, tensor_contents: Any = None) -> str:  # type: ignore[override]
        return f"Elsewhere({self.held!r})"

    @classmethod
    def __torch_dispatch__(  # type: ignore[override]
        cls, func: Any, types: Any, args: Any = (), kwargs: Any = None
    ) -> Any:
        return _run(func, args, dict(kwargs or {}))


class _FromNumbers(TorchFunctionMode):
    """`torch.tensor`, and indexing by lists, fill a tensor before anything can be told of it."""

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = dict(kwargs or {})
        if func in (torch.tensor, torch.as_tensor):
            device = kwargs.pop("device", None)
            return func(*args, **kwargs).to(device)
        if func in (Tensor.__getitem__, Tensor.__setitem__):
            tensor, key, *value = args
            keys = key if isinstance(key, tuple) else (key,)
            keys = tuple(torch.tensor(k) if isinstance(k, list) else k for k in keys)
            return func(tensor, keys, *value)
        return func(*args, **kwargs)


class _Dispatch(TorchDispatchMode):
    @classmethod
    def _should_skip_dynamo(cls) -> bool:
        # Nothing is compiled here, and to see to that would take half the time of each operator.
        return False

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        return _run(func, args, dict(kwargs or {}))


def _each(value: Any, change: Callable[[Any], Any]) -> Any:
    """The value with every leaf of its lists, tuples and dictionaries changed.

    torch.utils._pytree does the same for more kinds of containers, and takes half the time of a
    training on this device for it.
    """
    if type(value) in (tuple, list):
        return type(value)([_each(item, change) for item in value])
    if type(value) is dict:
        return {key: _each(item, change) for key, item in value.items()}
    return change(value)


def _run(func: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    tensors: list[Tensor] = []

    def note(value: Any) -> None:
        if isinstance(value, Tensor):
            tensors.append(value)

    _each((args, kwargs), note)
    own = [t for t in tensors if isinstance(t, Elsewhere)]
    if own and func not in _BETWEEN:
        foreign = [t for t in tensors if not isinstance(t, Elsewhere) and t.dim()]
        if func in _INDEXING:
            foreign = [t for t in foreign if t is args[0]]
        if foreign:
            raise OtherDevice(f"{func} of tensors on {DEVICE} and {foreign[0].device}")
    there = bool(own)
    if kwargs.get("device") is not None:
        there = torch.device(kwargs["device"]) == DEVICE
        kwargs["device"] = torch.device("cpu")
    if there and kwargs.get("generator") is not None:
        raise OtherDevice(f"{func} on {DEVICE} with a generator of the CPU")
    wrappers = {id(t.held): t for t in own}

    def inner(value: Any) -> Any:
        return value.held if isinstance(value, Elsewhere) else value

    def outer(value: Any) -> Any:
        if not isinstance(value, Tensor) or isinstance(value, Elsewhere):
            return value
        known = wrappers.get(id(value))
        return Elsewhere(value) if known is None else known

    found = func(*_each(args, inner), **_each(kwargs, inner))
    if func is _aten.copy_.default:
        return args[0]
    return _each(found, outer) if there else found


@contextmanager
def accelerator() -> Iterator[torch.device]:
    """The device; inside, tensors can be made there and moved there."""
    future = torch.__future__
    before = future.get_overwrite_module_params_on_conversion()
    # Giving `.data` to a parameter would leave its `held` behind.
    future.set_overwrite_module_params_on_conversion(True)
    try:
        with _FromNumbers(), _Dispatch():
            yield DEVICE
    finally:
        future.set_overwrite_module_params_on_conversion(before)
