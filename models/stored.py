"""The arrays of a model folder and what they describe, read and checked without PyTorch."""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
from collections.abc import Iterator, Mapping
from dataclasses import fields
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import numpy as np
from numpy.typing import NDArray
from safetensors import SafetensorError, safe_open
from safetensors.numpy import load_file

from codec.errors import BadInput
from codec.files.paths import display_name
from codec.files.paths import reason as os_reason
from models.description import check_file

if TYPE_CHECKING:
    from _typeshed import DataclassInstance

    from codec.entropy.context_model import ContextModel

    Context = TypeVar("Context", bound=ContextModel)

MAX_FILE_BYTES = 64 << 20
ENTROPY, GENERATOR = "entropy.safetensors", "generator.safetensors"

Arrays = dict[str, NDArray[Any]]
Record = TypeVar("Record")


@contextlib.contextmanager
def loading(what: str, folder: Path) -> Iterator[None]:
    """Turn whatever the reading of a broken model folder raises into BadInput with one line."""
    try:
        yield
    except (
        OSError, LookupError, TypeError, ValueError, AttributeError, ArithmeticError, RuntimeError,
        MemoryError, SafetensorError,
    ) as error:  # fmt: skip
        if isinstance(error, OSError) and error.strerror:
            name = Path(os.fsdecode(error.filename or folder)).name
            reason = f"{display_name(name)}: {os_reason(error)}"
        else:
            # torch explains itself over many lines.
            reason = " ".join(str(error).split()) or type(error).__name__
        raise BadInput(f"cannot load {what} from {display_name(folder)}: {reason}") from error


def read_arrays(path: Path, most: int = MAX_FILE_BYTES) -> Arrays:
    """The arrays of one file of a model folder, all of them numbers.

    Raises OSError, ValueError or SafetensorError if it is damaged, missing or above `most` bytes.
    """
    check_file(path, most)
    arrays = load_file(path)
    for name, array in arrays.items():
        if np.iscomplexobj(array) or not np.isfinite(array).all():
            raise ValueError(f"{path.name}: {name} holds values that are no finite real numbers")
    return arrays


def identity(folder: Path, description: Mapping[str, Any], hashed: tuple[str, ...] | None) -> str:
    """The model id of a folder, 16 hex digits; hashed: see `models.model.Model`."""
    digest = hashlib.sha256(json.dumps(description["shape"], sort_keys=True).encode())
    digest.update((folder / GENERATOR).read_bytes())
    tables = folder / ENTROPY
    if hashed is None:
        digest.update(tables.read_bytes())
    else:
        with safe_open(tables, "numpy") as file:
            for name in hashed:
                digest.update(file.get_tensor(name).tobytes())
    return digest.hexdigest()[:16]


def check_identity(
    folder: Path, description: Mapping[str, Any], hashed: tuple[str, ...] | None
) -> str:
    """The model id that a folder states. Raises BadInput if it is not that of what is in it."""
    stated = str(description["model_id"])
    if identity(folder, description, hashed) != stated:
        raise BadInput(f"{display_name(folder)} is damaged: its weights do not match its model id")
    return stated


def sizes(description: Mapping[str, Any]) -> dict[str, Any]:
    """The sizes in a description, lists as tuples. Raises LookupError, TypeError or ValueError."""
    return {
        key: tuple(value) if isinstance(value, list) else value
        for key, value in dict(description["shape"]).items()
    }


def finite(numbers: Any, count: int) -> list[float]:
    """Numbers of a description, checked. Raises TypeError or ValueError when they are others."""
    found = [float(v) for v in numbers]
    if len(found) != count or not np.isfinite(found).all():
        raise ValueError(f"found {len(found)} numbers, not {count} finite ones")
    return found


def arrays_of(prefix: str, record: DataclassInstance) -> Arrays:
    """A dataclass of arrays as tables of an `entropy.safetensors`."""
    return {
        f"{prefix}.{field.name}": np.ascontiguousarray(getattr(record, field.name))
        for field in fields(record)
    }


def names_of(prefix: str, record: type[DataclassInstance]) -> tuple[str, ...]:
    """The names of these tables."""
    return tuple(f"{prefix}.{field.name}" for field in fields(record))


def record_of(record: type[Record], prefix: str, tables: Mapping[str, NDArray[Any]]) -> Record:
    """Inverse of `arrays_of`. Raises LookupError when a table is missing."""
    names = [field.name for field in fields(record)]  # type: ignore[arg-type]
    return record(**{name: tables[f"{prefix}.{name}"] for name in names})


def context_of(kind: type[Context], tables: Mapping[str, NDArray[Any]], channels: int) -> Context:
    """The context model of networks with so many channels. Raises LookupError or ValueError."""
    context = record_of(kind, "context", tables)
    if context.channels != channels:
        raise ValueError("context model and networks disagree about the channels")
    return context
