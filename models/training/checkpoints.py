"""Checkpoints: a folder of safetensors parts of at most 16 MiB and one JSON file; never pickled.

`checkpoint-00001200/` holds `state.json` (numbers, and the parts of every tensor) and
`part-000.safetensors` and so on. The folder gets this name once it is complete, so a checkpoint is
either whole or absent.
"""

from __future__ import annotations

import json
import os
import re
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from torch.optim import Optimizer

from codec.errors import BadInput

PART_BYTES = 16 << 20
_ROOM = 256 << 10  # reserved in a part for its header
_MAX_PARTS = 4096
_MAX_STATE_BYTES = 16 << 20
_KEEP = 2
_DAMAGES = (
    OSError, AttributeError, IndexError, OverflowError, RuntimeError, TypeError, ValueError,
    SafetensorError,
)  # fmt: skip
_NAME = re.compile(r"checkpoint-(\d{8})")


def save_checkpoint(
    folder: Path, step: int, tensors: dict[str, Tensor], numbers: dict[str, Any]
) -> Path:
    """Write `folder/checkpoint-STEP` and delete all but the newest two. Returns its path."""
    target = folder / f"checkpoint-{step:08d}"
    draft = folder / f"{target.name}.draft"
    shutil.rmtree(draft, ignore_errors=True)
    draft.mkdir(parents=True)
    try:
        layout: dict[str, dict[str, Any]] = {}
        part: dict[str, Tensor] = {}
        size, parts = 0, 0

        def flush() -> None:
            nonlocal part, size, parts
            if part:
                save_file(part, draft / f"part-{parts:03d}.safetensors")
                part, size, parts = {}, 0, parts + 1

        for name, tensor in tensors.items():
            flat = tensor.detach().cpu().contiguous().reshape(-1)
            most = (PART_BYTES - _ROOM) // flat.element_size()
            pieces = flat.split(most) if flat.numel() else (flat,)
            layout[name] = {"shape": list(tensor.shape), "parts": []}
            for number, piece in enumerate(pieces):
                bytes_ = piece.numel() * piece.element_size()
                if size + bytes_ > PART_BYTES - _ROOM or len(part) >= 1000:
                    flush()
                part[f"{name}#{number}"] = piece.clone()
                size += bytes_
                layout[name]["parts"].append(parts)
        flush()
        state = {"step": step, "parts": parts, "tensors": layout, "numbers": numbers}
        (draft / "state.json").write_text(json.dumps(state) + "\n")
        for file in draft.iterdir():
            _sync(file)
        if target.exists():
            shutil.rmtree(target)
        os.replace(draft, target)
    except BaseException:
        shutil.rmtree(draft, ignore_errors=True)
        raise
    for old in _all(folder)[:-_KEEP]:
        shutil.rmtree(old, ignore_errors=True)
    return target


def latest_checkpoint(folder: Path) -> Path | None:
    """The newest complete checkpoint of a folder."""
    found = _all(folder)
    return found[-1] if found else None


def load_checkpoint(path: Path) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """(tensors, numbers) of a checkpoint. Raises BadInput if it is damaged."""
    with resuming(path):
        if (path / "state.json").stat().st_size > _MAX_STATE_BYTES:
            raise BadInput(f"{path}: state.json is too large")
        state = json.loads((path / "state.json").read_text())
        count = int(state["parts"])
        if not 0 <= count <= _MAX_PARTS:
            raise BadInput(f"{path}: {count} parts")
        parts = []
        for number in range(count):
            file = path / f"part-{number:03d}.safetensors"
            if file.stat().st_size > PART_BYTES:
                raise BadInput(f"{file}: larger than the limit for a part")
            parts.append(load_file(file))
        tensors = {}
        for name, where in state["tensors"].items():
            pieces = [parts[p][f"{name}#{k}"] for k, p in enumerate(where["parts"])]
            tensors[name] = torch.cat(pieces).reshape(where["shape"])
        return tensors, dict(state["numbers"])


def newest_checkpoint(
    folder: Path, advice: str = "train first"
) -> tuple[Path, dict[str, Tensor], dict[str, Any]]:
    """The newest checkpoint's path, tensors and numbers. Raises BadInput if there is none."""
    path = latest_checkpoint(folder)
    if path is None:
        raise BadInput(f"{folder} holds no checkpoint: {advice}")
    return path, *load_checkpoint(path)


@contextmanager
def resuming(path: Path) -> Iterator[None]:
    """Turn whatever a damaged checkpoint raises inside the block into BadInput."""
    try:
        yield
    except KeyError as error:
        raise BadInput(f"cannot resume from {path}: it lacks {error}") from error
    except _DAMAGES as error:
        raise BadInput(f"cannot resume from {path}: {' '.join(str(error).split())}") from error


def module_tensors(prefix: str, module: nn.Module) -> dict[str, Tensor]:
    """The weights and buffers of a module under `prefix.`."""
    return {f"{prefix}.{name}": value for name, value in module.state_dict().items()}


def load_module(prefix: str, module: nn.Module, tensors: dict[str, Tensor]) -> None:
    """Load the weights under `prefix.` into a module. Raises BadInput if they do not fit."""
    cut = len(prefix) + 1
    state = {n[cut:]: v for n, v in tensors.items() if n.startswith(f"{prefix}.")}
    try:
        module.load_state_dict(state)
    except RuntimeError as error:
        reason = " ".join(str(error).split())[:200]
        raise BadInput(f"the checkpoint is of other networks: {reason}") from error


def optimiser_tensors(prefix: str, optimiser: Optimizer, module: nn.Module) -> dict[str, Tensor]:
    """An optimiser's moments and counters, by the names of the weights they belong to."""
    names: dict[Tensor, str] = {p: name for name, p in module.named_parameters()}
    return {
        f"{prefix}.{names[parameter]}.{key}": torch.as_tensor(value)
        for parameter, state in optimiser.state.items()
        for key, value in state.items()
    }


def load_optimiser(
    prefix: str, optimiser: Optimizer, module: nn.Module, tensors: dict[str, Tensor]
) -> None:
    """Restore moments and counters. Raises BadInput if they do not fit."""
    parameters = dict(module.named_parameters())
    cut = len(prefix) + 1
    for full, value in tensors.items():
        if full.startswith(f"{prefix}."):
            name, _, key = full[cut:].rpartition(".")
            parameter = parameters.get(name)
            counts = key == "step"
            if parameter is None or value.shape != (() if counts else parameter.shape):
                raise BadInput(f"the checkpoint is of other networks: {full}")
            if counts:
                # On the CPU, except where a fused kernel reads them.
                fused = optimiser.defaults.get("fused")
                value = value.clone().to(parameter.device if fused else "cpu")
            else:
                # A fused kernel wants moments laid out as their weights are.
                value = torch.empty_like(parameter, requires_grad=False).copy_(value)
            optimiser.state[parameter][key] = value


def _all(folder: Path) -> list[Path]:
    if not folder.is_dir():
        return []
    return sorted(p for p in folder.iterdir() if p.is_dir() and _NAME.fullmatch(p.name))


def _sync(file: Path) -> None:
    descriptor = os.open(file, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
