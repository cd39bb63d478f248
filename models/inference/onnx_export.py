"""The networks of the speech model as ONNX files, for other runtimes.

What a runtime computes differs from PyTorch by rounding: by up to `TOLERANCE` of the largest value,
which is far below a quantisation step. The entropy coder does not run the prior but its form in
whole numbers in `entropy.safetensors`, so that packets are read the same everywhere.
"""

from __future__ import annotations

import contextlib
import logging
from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import onnx
import onnxscript  # noqa: F401 - what torch exports by
import torch
from torch import Tensor, nn

from codec.search.problem import RateModel
from models.networks.speech import SpeechModel

if TYPE_CHECKING:
    from onnx import ModelProto, ValueInfoProto

TOLERANCE = 1e-5
_BATCH = 65536
_Axis = str | int


@dataclass(frozen=True)
class Value:
    """An input or output: its name, axes (a word is a size that may vary) and meaning."""

    name: str
    shape: tuple[_Axis, ...]
    what: str


@dataclass(frozen=True)
class Network:
    """A network to be exported: the module, its meaning, inputs and outputs in order."""

    name: str
    module: nn.Module | RateModel
    what: str
    inputs: tuple[Value, ...]
    outputs: tuple[Value, ...]


def networks_of(model: SpeechModel) -> tuple[Network, ...]:
    """Encoder, generator and prior of a model, with their interfaces."""
    shape = model.shape
    hops = f"{shape.patch}*steps"
    rate = Value("rate", ("batch",), f"rate point, 0 to {model.qualities - 1}")
    frames = ("batch", hops, shape.mels)
    latents = ("batch", "steps", shape.channels)
    columns = "log-mel columns in [-1, 1], one for 128 samples at 16 kHz"
    return (
        Network(
            "encoder", model.encoder, "first guess of the latents of columns",
            (Value("columns", frames, columns), rate),
            (Value("latents", latents, "latents in quantisation steps, to be rounded"),),
        ),
        Network(
            "generator", model.generator, "columns of latents, which a vocoder makes heard",
            (Value("latents", latents, "latents in quantisation steps, rounded"), rate),
            (Value("columns", frames, columns),),
        ),
        Network(
            "prior", model.prior, "probability of each latent given those before it",
            (Value("latents", latents, "latents in quantisation steps, rounded"), rate),
            (
                Value("location", latents, "middle of a logistic distribution"),
                Value("log_scale", latents, "natural logarithm of its scale"),
            ),
        ),
    )  # fmt: skip


def export(network: Network) -> ModelProto:
    """The network as ONNX, checked, with its weights inside and axes named as described."""
    examples = tuple(_example(value) for value in network.inputs)
    module = network.module
    assert isinstance(module, nn.Module)
    with _quiet(), torch.no_grad():
        program = torch.onnx.export(
            module, examples, dynamo=True, verbose=False, external_data=False,
            input_names=[value.name for value in network.inputs],
            output_names=[value.name for value in network.outputs],
            dynamic_shapes=tuple(_varying(value) for value in network.inputs),
        )  # fmt: skip
    assert program is not None
    found = program.model_proto
    graph = found.graph
    for value, info in zip(network.inputs + network.outputs, [*graph.input, *graph.output],
                           strict=True):  # fmt: skip
        for axis, dimension in zip(value.shape, info.type.tensor_type.shape.dim, strict=True):
            if isinstance(axis, str):
                dimension.dim_param = axis
    graph.doc_string = network.what
    onnx.checker.check_model(found)
    return found


def described(network: Network, found: ModelProto, file: str) -> dict[str, Any]:
    """What the JSON beside the files says of one: its shapes and types are read from the file."""
    graph = found.graph
    return {
        "file": file,
        "what": network.what,
        "opset": next(each.version for each in found.opset_import if each.domain == ""),
        "inputs": _values(network.inputs, graph.input),
        "outputs": _values(network.outputs, graph.output),
    }


def _values(values: tuple[Value, ...], found: Any) -> list[dict[str, Any]]:
    return [
        {"name": info.name, "shape": _shape(info), "dtype": _type(info), "what": value.what}
        for value, info in zip(values, found, strict=True)
    ]


def _shape(info: ValueInfoProto) -> list[_Axis]:
    return [each.dim_param or each.dim_value for each in info.type.tensor_type.shape.dim]


def _type(info: ValueInfoProto) -> str:
    return str(onnx.helper.tensor_dtype_to_np_dtype(info.type.tensor_type.elem_type))


def _sizes(value: Value) -> Iterator[int]:
    """Sizes of an example; none is 1, which would be taken for one that never varies."""
    for axis in value.shape:
        if isinstance(axis, int):
            yield axis
        elif axis == "batch":
            yield 2
        else:
            yield 16 * _factor(axis)


def _factor(axis: str) -> int:
    return int(axis.partition("*")[0]) if "*" in axis else 1


def _example(value: Value) -> Tensor:
    return torch.zeros(tuple(_sizes(value)))


def _varying(value: Value) -> dict[int, Any]:
    """Which axes of an input may have other sizes, as torch wants to be told."""
    batch = torch.export.Dim("batch", min=1, max=_BATCH)
    steps = torch.export.Dim("steps", min=2, max=_BATCH)
    found: dict[int, Any] = {}
    for at, axis in enumerate(value.shape):
        if axis == "batch":
            found[at] = batch
        elif isinstance(axis, str):
            found[at] = _factor(axis) * steps if _factor(axis) > 1 else steps
    return found


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Without the exporter's remarks on packages that it could use."""
    before = logging.root.manager.disable
    logging.disable(logging.WARNING)
    try:
        yield
    finally:
        logging.disable(before)
