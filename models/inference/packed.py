"""Linear layers of frozen networks, with weights packed once for the CPU.

For one frame, laying out the weights in every call costs as much as the products. oneDNN's packed
form, where this PyTorch has it, is two to three times as fast; elsewhere the plain layers stay.
"""

from __future__ import annotations

import copy
from typing import Any, TypeVar

import torch
from torch import Tensor, nn

_ROWS = 32  # latent steps times fold: the batch the layout is chosen for

Net = TypeVar("Net", bound=nn.Module)


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


class HalfProduct:
    """x -> x Wᵀ + b in bfloat16, of a frozen weight, and the gradient with respect to x."""

    def __init__(self, weight: Tensor, bias: Tensor | None = None) -> None:
        weight = weight.detach().bfloat16()
        self._bias = None if bias is None else bias.detach().bfloat16()
        self._forward_weight, self._backward_weight = _pack(weight), _pack(weight.t())

    def __call__(self, x: Tensor) -> Tensor:
        """[..., in] -> [..., out], contiguous."""
        return _apply(x, self._forward_weight, self._bias)

    def back(self, slope: Tensor) -> Tensor:
        """[..., out] -> [..., in], contiguous."""
        return _apply(slope, self._backward_weight, None)


def packed(network: Net, *, differentiable: bool = False) -> Net:
    """A copy of a frozen network with its linear layers packed; its weights must not change."""
    out = copy.deepcopy(network)
    for module in list(out.modules()):
        for name, child in module.named_children():
            if isinstance(child, nn.Linear):
                setattr(module, name, PackedLinear(child, differentiable=differentiable))
    return out
