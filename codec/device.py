"""Where networks run: the names that a person may give, and the torch device they stand for."""

from __future__ import annotations

from typing import TYPE_CHECKING

from codec.errors import BadInput

if TYPE_CHECKING:
    import torch

DEVICES = ("auto", "cpu", "cuda")


def choose_device(name: str) -> torch.device:
    """auto, cpu or cuda as a torch device. Raises BadInput when CUDA is asked for and absent."""
    # Only here: command lines offer the names without loading torch.
    import torch

    if name not in DEVICES:
        raise BadInput(f"unknown device {name!r} (auto, cpu or cuda)")
    if name == "cuda" and not torch.cuda.is_available():
        raise BadInput("no CUDA device is available")
    use_cuda = name != "cpu" and torch.cuda.is_available()
    return torch.device("cuda" if use_cuda else "cpu")
