"""Products with frozen weights, laid out once for the CPU.

For one frame, laying out the weights in every call costs as much as the products. oneDNN's packed
form, where this PyTorch has it, is two to three times as fast; elsewhere the plain layers stay. For
short pieces of a frame the time goes into fetching the weights: 8-bit integers, for gradients only,
take a quarter of it again.
"""

from __future__ import annotations

import copy
import warnings
from collections.abc import Callable
from functools import cached_property
from typing import Any, TypeVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn

_ROWS = 32  # latent steps times fold: the batch the layout is chosen for

Net = TypeVar("Net", bound=nn.Module)
Map = Callable[[Tensor], Tensor]


def can_pack() -> bool:
    """Whether oneDNN's packed linear layers are there and work."""
    try:
        weight = _pack(torch.eye(4))
        return bool(torch.equal(_apply(torch.eye(4), weight, None), torch.eye(4)))
    except (AttributeError, RuntimeError, NotImplementedError):
        return False


def _pack(weight: Tensor) -> Tensor:
    packed: Tensor = torch.ops.mkldnn._reorder_linear_weight(weight.contiguous(), _ROWS)
    return packed


def _apply(x: Tensor, packed: Tensor, bias: Tensor | None) -> Tensor:
    y: Tensor = torch.ops.mkldnn._linear_pointwise(x, packed, bias, "none", [], "")
    return y


class _FrozenLinear(torch.autograd.Function):
    """y = x Wᵀ + b with a gradient for x alone."""

    @staticmethod
    def forward(
        ctx: Any, x: Tensor, forward: Tensor, backward: Tensor, bias: Tensor | None
    ) -> Tensor:
        ctx.packed = backward
        return _apply(x, forward, bias)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None, None, None]:
        return _apply(gradients[0].contiguous(), ctx.packed, None), None, None, None


class PackedLinear(nn.Module):
    """A frozen `nn.Linear`; gradients reach its input only."""

    def __init__(self, linear: nn.Linear, *, differentiable: bool) -> None:
        super().__init__()
        weight = linear.weight.detach()
        self._bias = None if linear.bias is None else linear.bias.detach()
        self._forward_weight = _pack(weight)
        self._backward_weight = _pack(weight.t()) if differentiable else None

    def forward(self, x: Tensor) -> Tensor:
        """[..., in] -> [..., out]."""
        if self._backward_weight is not None and torch.is_grad_enabled():
            y: Tensor = _FrozenLinear.apply(
                x, self._forward_weight, self._backward_weight, self._bias
            )
            return y
        return _apply(x, self._forward_weight, self._bias)


def packed(network: Net, *, differentiable: bool = False) -> Net:
    """A copy of a frozen network with its linear layers packed; its weights must not change."""
    out = copy.deepcopy(network)
    for module in list(out.modules()):
        for name, child in module.named_children():
            if isinstance(child, nn.Linear):
                setattr(module, name, PackedLinear(child, differentiable=differentiable))
    return out


def can_quantise() -> bool:
    """Whether PyTorch's products with weights in 8-bit integers are there and work.

    A later PyTorch will do without them; searches then run in single precision, more slowly.
    """
    try:
        y = _byte_map(torch.eye(8), None)(torch.eye(8))
        return bool(torch.allclose(y, torch.eye(8), atol=0.02))
    except (AttributeError, RuntimeError, NotImplementedError):
        return False


def _byte_map(weight: Tensor, bias: Tensor | None) -> Map:
    """x -> x Wᵀ + b in 8-bit integers: W [out, in] with a scale for each row, x with one."""
    scales = (weight.abs().amax(dim=1) / 127.0).clamp_min(1e-9)
    zeros = torch.zeros(len(weight), dtype=torch.long)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # that they will go
        whole = torch.quantize_per_channel(weight.contiguous(), scales, zeros, 0, torch.qint8)
        laid_out = torch.ops.quantized.linear_prepack(whole, bias)
    multiply = torch.ops.quantized.linear_dynamic
    return lambda x: multiply(x, laid_out)


def _single_map(weight: Tensor, bias: Tensor | None) -> Map:
    """x -> x Wᵀ + b in single precision."""
    if can_pack():
        laid_out = _pack(weight)
        return lambda x: _apply(x, laid_out, bias)
    weight = weight.contiguous()
    return lambda x: F.linear(x, weight, bias)


class Product:
    """x -> x Wᵀ + b of a frozen weight, and the gradient with respect to x."""

    def __init__(self, weight: Tensor, bias: Tensor | None = None, *, bytes_: bool = False) -> None:
        """bytes_: in 8-bit integers, about 1.5 % off, where there are products of them."""
        self._make = _byte_map if bytes_ and can_quantise() else _single_map
        self._weight = weight.detach().float()
        self._forward = self._make(self._weight, None if bias is None else bias.detach().float())

    @cached_property
    def _backward(self) -> Map:
        return self._make(self._weight.t(), None)

    def __call__(self, x: Tensor) -> Tensor:
        """[..., in], contiguous -> [..., out]."""
        return self._forward(x)

    def back(self, slope: Tensor) -> Tensor:
        """[..., out], contiguous -> [..., in]."""
        return self._backward(slope)
