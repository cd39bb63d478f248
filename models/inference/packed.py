"""Linear layers of frozen networks, with weights packed once for the CPU.

For one frame, laying out the weights in every call costs as much as the products. oneDNN's packed
form, where this PyTorch has it, is two to three times as fast; elsewhere the plain layers stay. For
short pieces of a frame the time goes into fetching the weights: 8-bit integers halve it again.
"""

from __future__ import annotations

import copy
import warnings
from collections.abc import Callable
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


def can_quantise() -> bool:
    """Whether PyTorch's linear layers in 8-bit integers are there and work.

    A later PyTorch will do without them; the search then runs in single precision, more slowly.
    """
    try:
        weight = _quantise(torch.eye(8), None)
        y = torch.ops.quantized.linear_dynamic(torch.eye(8), weight)
        return bool(torch.allclose(y, torch.eye(8), atol=0.02))
    except (AttributeError, RuntimeError, NotImplementedError):
        return False


def _quantise(weight: Tensor, bias: Tensor | None) -> Any:
    """A weight [out, in] in 8-bit integers, with a scale for each row."""
    scales = (weight.abs().amax(dim=1) / 127.0).clamp_min(1e-9)
    zeros = torch.zeros(len(weight), dtype=torch.long)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # that they will go
        whole = torch.quantize_per_channel(weight.contiguous(), scales, zeros, 0, torch.qint8)
        return torch.ops.quantized.linear_prepack(whole, bias)


class _ByteProduct(torch.autograd.Function):
    """y = x Wᵀ + b in 8-bit integers, scaled row by row, with a gradient of the same kind for x."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, forward: Any, backward: Any) -> Tensor:
        ctx.backward_weight = backward
        y: Tensor = torch.ops.quantized.linear_dynamic(x.contiguous(), forward)
        return y

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None, None]:
        slope = gradients[0].contiguous()
        return torch.ops.quantized.linear_dynamic(slope, ctx.backward_weight), None, None


class ByteLinear(nn.Module):
    """A frozen `nn.Linear` for searches: about 1.5 % off, in half the time; gradients reach its
    input only. On clips, searches of 6 to 60 steps lower the cost by as much as in single
    precision, within a tenth."""

    def __init__(self, linear: nn.Linear) -> None:
        super().__init__()
        weight = linear.weight.detach()
        bias = None if linear.bias is None else linear.bias.detach()
        self._weights = _quantise(weight, bias), _quantise(weight.t(), None)

    def forward(self, x: Tensor) -> Tensor:
        """[..., in] -> [..., out]."""
        y: Tensor = _ByteProduct.apply(x, *self._weights)
        return y


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
    return _replaced(network, lambda layer: PackedLinear(layer, differentiable=differentiable))


def quantised(network: Net) -> Net:
    """A copy of a frozen network with its linear layers in 8-bit integers, for gradients."""
    return _replaced(network, ByteLinear)


def _replaced(network: Net, layer: Callable[[nn.Linear], nn.Module]) -> Net:
    out = copy.deepcopy(network)
    for module in list(out.modules()):
        for name, child in module.named_children():
            if isinstance(child, nn.Linear):
                setattr(module, name, layer(child))
    return out
