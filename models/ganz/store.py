"""The GANZ model on disk: safetensors weights, the quantiser's centres and counts, a description.

A model folder holds `model.json` (shape, licence, model id), `generator.safetensors` (half
precision: the trained first layer, the convolutional module and the scales of the random layer)
and `entropy.safetensors` (centres and counts of the coded form). The model id is a hash of all
that decides what a file decodes to.
"""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors.numpy import save_file as save_numpy
from safetensors.torch import save_file
from torch import Tensor

from codec.entropy.quantiser import Quantiser
from codec.entropy.static import SymbolCounts
from codec.errors import BadInput
from models.family import loading, read_description, read_part
from models.folder import WEIGHTS
from models.networks.ganz import GanzShape, Generator, RandomFirstLayer


@dataclass(frozen=True)
class GanzModel:
    """A frozen generator and what the random first layers and the coded form need.

    scales: [n * 64] (`RandomFirstLayer`); quantiser, counts: of latents over their tile's size.
    """

    generator: Generator
    scales: Tensor
    quantiser: Quantiser
    counts: SymbolCounts
    model_id: str

    def first_layer(self, latents: int, chosen: Tensor | None = None) -> RandomFirstLayer:
        """The random first layer of d_c latents; chosen: which numbers they reach
        (`RandomFirstLayer`). Raises ValueError when there is none."""
        mean, spread = self.generator.first.mean.detach(), self.generator.body.spread
        layer = RandomFirstLayer(latents, self.scales, mean, spread, chosen)
        return layer.to(self.scales.device)

    def to(self, device: torch.device) -> GanzModel:
        """The same model elsewhere."""
        return GanzModel(
            self.generator.to(device), self.scales.to(device), self.quantiser.to(device),
            self.counts, self.model_id,
        )  # fmt: skip


def save_ganz_model(
    generator: Generator,
    scales: Tensor,
    quantiser: Quantiser,
    counts: SymbolCounts,
    folder: Path,
    about: dict[str, Any],
) -> str:
    """Write a model folder and return its model id (16 hex digits). Weights become float16."""
    folder.mkdir(parents=True, exist_ok=True)
    state = {k: v.detach().half().contiguous().cpu() for k, v in generator.state_dict().items()}
    state["scales"] = scales.detach().half().contiguous().cpu()
    save_file(state, folder / "generator.safetensors")
    entropy = {"centres": quantiser.centres.cpu().numpy(), "counts": counts.counts}
    save_numpy(entropy, folder / "entropy.safetensors")
    description = {"kind": "ganz", "shape": generator.shape.to_json(), **about}
    description["model_id"] = ganz_model_id(folder, description)
    (folder / "model.json").write_text(json.dumps(description, indent=2) + "\n")
    return str(description["model_id"])


def ganz_model_id(folder: Path, description: dict[str, Any]) -> str:
    """Hash of shape, weights, centres and counts: 16 hex digits."""
    digest = hashlib.sha256(json.dumps(description["shape"], sort_keys=True).encode())
    for name in ("generator", "entropy"):
        digest.update((folder / f"{name}.safetensors").read_bytes())
    return digest.hexdigest()[:16]


def load_ganz_model(family: str, folder: Path | None = None) -> GanzModel:
    """The shipped (or given) model folder, checked. Raises BadInput when it cannot be used."""
    folder = folder or WEIGHTS / family
    with loading(f"image model {family!r}", folder):
        description = read_description(folder)
        if description.get("kind") != "ganz":
            raise BadInput(f"{folder} holds no GANZ model")
        given = dict(description["shape"])
        given["widths"] = tuple(int(v) for v in given["widths"])
        generator = Generator(GanzShape(**given))
        state = {k: v.float() for k, v in read_part(folder / "generator.safetensors").items()}
        scales = state.pop("scales")
        generator.load_state_dict(state)
        finite = all(bool(torch.isfinite(v).all()) for v in (scales, *state.values()))
        if scales.shape != (generator.shape.features,) or not finite or scales.min() <= 0:
            raise ValueError("weights out of range")
        entropy = read_part(folder / "entropy.safetensors")
        quantiser = Quantiser(entropy["centres"].numpy())
        counts = SymbolCounts(np.ascontiguousarray(entropy["counts"].numpy()))
        counts.check()
        if counts.levels != quantiser.levels:
            raise ValueError("as many counts as centres are needed")
        if ganz_model_id(folder, description) != description["model_id"]:
            raise BadInput(f"{folder}: weights do not match their model id; reinstall the model")
    generator.requires_grad_(False).eval()
    return GanzModel(generator, scales, quantiser, counts, str(description["model_id"]))
