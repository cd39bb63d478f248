"""The device that networks run on, and whether it is fast in bfloat16."""

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


def fast_in_half(device: torch.device) -> bool:
    """Whether products in bfloat16 are the device's own, not emulated, and so worth it."""
    import torch

    if device.type == "cuda":
        # NVIDIA's cards have it since compute capability 8.0; older ones emulate it.
        return bool(torch.version.hip) or torch.cuda.get_device_capability(device) >= (8, 0)
    try:
        return bool(torch.ops.mkldnn._is_mkldnn_bf16_supported())
    except (AttributeError, RuntimeError):  # a PyTorch without oneDNN, or with another one
        return False
