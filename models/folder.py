"""Shipped models on disk: safetensors weights, integer tables, a JSON description; no pickles.

A model folder holds `model.json` (shape, rate points, licence, checksums), `encoder.safetensors`,
`generator.safetensors` (half precision) and `entropy.safetensors` (the float prior that the search
descends and the integer context model and tables that the bitstream is defined by). The model id is
a hash of everything that decides what a stream decodes to: generator, context model and shape.
"""

from __future__ import annotations

import copy
import hashlib
import json
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors import safe_open
from safetensors.numpy import save_file as save_numpy
from safetensors.torch import save_file
from torch import Tensor, nn

from codec.device import fast_in_half
from codec.entropy.huffman import HuffmanCoder, RunModel
from codec.entropy.latent_coder import LatentCoder
from codec.entropy.speech_context import QUALITIES, RangeCoder, SpeechContext
from codec.errors import BadInput
from codec.search.admm import Networks
from codec.search.admm import Prior as SearchPrior
from codec.search.rdoq import Neighbours
from models.family import CodecNetworks, Model, finite, loading, read_description, read_part
from models.inference.generator_bf16 import Sketch
from models.inference.packed import can_pack, packed
from models.inference.prior_bf16 import PriorSketch
from models.networks.speech import ANCHORS, Encoder, Generator, ModelShape, Prior

WEIGHTS = Path(__file__).parent / "weights"
_CONTEXT = (
    "groups", "past", "within", "offset", "middle", "middle_bias", "leave", "leave_bias", "tables",
)  # fmt: skip


class LatentModel(CodecNetworks):
    """Encoder, generator and prior of one model family, with what its description says of them."""

    encoder: Encoder
    generator: Generator
    prior: Prior

    def __init__(self, shape: ModelShape) -> None:
        super().__init__()
        self.shape = shape
        self.encoder = Encoder(shape)
        self.generator = Generator(shape)
        self.prior = Prior(shape)
        self.log_rate_weights = [-7.5, -8.0, -9.0]  # log lambda at the rate anchors

    def rate_weight(self, rate: float) -> float:
        """Lagrangian weight (cost per bit) the networks were trained for at rate point r."""
        anchors = np.arange(len(self.log_rate_weights))
        return float(np.exp(np.interp(rate, anchors, self.log_rate_weights)))

    def rescale(self, latents: Tensor, rate: Tensor, new_rate: Tensor) -> Tensor:
        """Latents [B, S, C] of rate points [B] in the steps of others, centres taken as even."""
        with torch.no_grad():
            gains = self.generator.gains
            return latents * (gains(new_rate) / gains(rate))


def save_model(
    model: LatentModel, context: SpeechContext, runs: RunModel, folder: Path, about: dict[str, Any]
) -> str:
    """Write a model folder and return its model id (16 hex digits). Weights become float16."""
    folder.mkdir(parents=True, exist_ok=True)
    for name in ("encoder", "generator"):
        state = getattr(model, name).state_dict()
        save_file(
            {k: v.half().contiguous() for k, v in state.items()}, folder / f"{name}.safetensors"
        )
    arrays = {f"context.{name}": np.ascontiguousarray(getattr(context, name)) for name in _CONTEXT}
    arrays |= {"huffman.runs": runs.runs, "huffman.values": runs.values}
    for key, value in model.prior.state_dict().items():
        arrays[f"prior.{key}"] = value.half().numpy()
    save_numpy(arrays, folder / "entropy.safetensors")
    description = {
        "shape": model.shape.to_json(),
        "log_rate_weights": model.log_rate_weights,
        **about,
    }
    description["model_id"] = model_id(folder, description)
    (folder / "model.json").write_text(json.dumps(description, indent=2) + "\n")
    return str(description["model_id"])


def model_id(folder: Path, description: dict[str, Any]) -> str:
    """Hash of generator weights, context model and shape: 16 hex digits."""
    digest = hashlib.sha256(json.dumps(description["shape"], sort_keys=True).encode())
    digest.update((folder / "generator.safetensors").read_bytes())
    with safe_open(folder / "entropy.safetensors", "numpy") as file:
        for name in _CONTEXT:
            digest.update(file.get_tensor(f"context.{name}").tobytes())
        for name in ("huffman.runs", "huffman.values"):
            digest.update(file.get_tensor(name).tobytes())
    return digest.hexdigest()[:16]


def load_model(family: str, folder: Path | None = None) -> Model:
    """The shipped (or given) model folder of a family, checked. Raises BadInput when unusable."""
    folder = folder or WEIGHTS / family
    with loading(f"model {family!r}", folder):
        description = read_description(folder)
        if description.get("kind") == "paper":
            from models import paper  # which needs this module

            return paper.load(folder, description)
        fields = dict(description["shape"])
        fields["prior_groups"] = tuple(fields["prior_groups"])
        shape = ModelShape(**fields)
        shape.check()
        networks = LatentModel(shape)
        networks.log_rate_weights = finite(description["log_rate_weights"], ANCHORS)
        for name in ("encoder", "generator"):
            part = getattr(networks, name)
            part.load_state_dict(
                {k: v.float() for k, v in read_part(folder / f"{name}.safetensors").items()}
            )
        entropy = read_part(folder / "entropy.safetensors")
        networks.prior.load_state_dict(
            {k[6:]: v.float() for k, v in entropy.items() if k.startswith("prior.")}
        )
        context = SpeechContext(**{name: entropy[f"context.{name}"].numpy() for name in _CONTEXT})
        runs = RunModel(entropy["huffman.runs"].numpy(), entropy["huffman.values"].numpy())
        (overhead,) = finite([description["huffman_overhead"]], 1)
        coders: dict[str, LatentCoder] = {
            "range": RangeCoder(context, shape.steps),
            "huffman": HuffmanCoder(context, runs, shape.steps, overhead),
        }
        if context.channels != shape.channels:
            raise ValueError("context model and networks disagree about the channels")
        if model_id(folder, description) != description["model_id"]:
            raise BadInput(f"{folder}: weights do not match their model id; reinstall the model")
    networks.requires_grad_(False)
    return Model(networks.eval(), coders, QUALITIES, str(description["model_id"]))


def neighbours(generator: nn.Module, prior: SearchPrior) -> Neighbours | None:
    """What moves of single indices need to know; None of models whose latents are no indices."""
    if not (isinstance(generator, Generator) and isinstance(prior, Prior | PriorSketch)):
        return None

    drawn = generator.basis.detach().square().sum(1)
    return Neighbours(prior.moves, lambda rate: drawn / generator.gains(rate).square())


def search_networks(model: CodecNetworks) -> Networks:
    """A frozen model as encoder and decoder run it, the sketch in bfloat16 where that is fast."""
    device = next(model.generator.parameters()).device
    encoder, generator, prior = model.encoder, model.generator, model.prior
    quick = fast_in_half(device)
    pack = device.type == "cpu" and can_pack()
    if pack:
        encoder, generator = packed(encoder), packed(generator)
        if isinstance(prior, Prior):
            prior = copy.deepcopy(prior)
            prior.fold_masks()
            exact = packed(prior, differentiable=not quick)
            prior = PriorSketch(prior, exact) if quick else exact

    @cache
    def sketch() -> Callable[[Tensor, Tensor], Tensor]:
        # Only once it is wanted: decoders never search.
        if pack and quick and isinstance(model.generator, Generator):
            return Sketch(model.generator)
        drawn = copy.deepcopy(model.generator).requires_grad_(False)
        number = torch.bfloat16 if quick else next(drawn.parameters()).dtype
        drawn = drawn.to(number)
        if pack:
            drawn = packed(drawn, differentiable=True)
        return lambda z, rate: drawn(z, rate.to(number)).float()

    return Networks(
        encoder,
        generator,
        prior,
        lambda z, rate: sketch()(z, rate),
        model.quantise,
        model.reach,
        neighbours(model.generator, prior),
    )
