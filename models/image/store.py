"""Shipped image models on disk: safetensors weights, integer tables, a JSON description.

A model folder holds `model.json` (shape, prices, licence, model id), `encoder.safetensors`,
`generator.safetensors` (half precision) and `entropy.safetensors` (the float prior that the search
descends and the integer context model that the bitstream is defined by). The model id is a hash of
everything that decides what a file decodes to: generator, context model and shape.
"""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

import numpy as np
from safetensors import safe_open
from safetensors.numpy import save_file as save_numpy
from safetensors.torch import save_file

from codec.entropy.image_context import ImageCoder, ImageContext
from codec.errors import BadInput
from models.family import finite, loading, read_description, read_part
from models.folder import WEIGHTS
from models.networks.photo import ANCHORS, ImageNetworks, ImageShape

_CONTEXT = tuple(field.name for field in fields(ImageContext))


@dataclass(frozen=True)
class ImageModel:
    """Networks for the search, the entropy coder of the bitstream, and the model's id."""

    networks: ImageNetworks
    coder: ImageCoder
    model_id: str


def shape_of(numbers: dict[str, Any]) -> ImageShape:
    """The shape in a description. Raises TypeError or ValueError if it is none."""
    given = dict(numbers)
    given["prior_groups"] = tuple(int(v) for v in given["prior_groups"])
    shape = ImageShape(**given)
    shape.check()
    return shape


def save_image_model(
    model: ImageNetworks, context: ImageContext, folder: Path, about: dict[str, Any]
) -> str:
    """Write a model folder and return its model id (16 hex digits). Weights become float16."""
    folder.mkdir(parents=True, exist_ok=True)
    for name in ("encoder", "generator"):
        state = getattr(model, name).state_dict()
        half = {k: v.half().contiguous() for k, v in state.items()}
        save_file(half, folder / f"{name}.safetensors")
    arrays = {f"context.{name}": np.ascontiguousarray(getattr(context, name)) for name in _CONTEXT}
    for key, value in model.prior.state_dict().items():
        number = value.half() if value.is_floating_point() else value
        arrays[f"prior.{key}"] = number.contiguous().numpy()
    save_numpy(arrays, folder / "entropy.safetensors")
    description = {
        "kind": "image",
        "shape": model.shape.to_json(),
        "log_prices": model.log_prices,
        **about,
    }
    description["model_id"] = image_model_id(folder, description)
    (folder / "model.json").write_text(json.dumps(description, indent=2) + "\n")
    return str(description["model_id"])


def image_model_id(folder: Path, description: dict[str, Any]) -> str:
    """Hash of generator weights, context model and shape: 16 hex digits."""
    digest = hashlib.sha256(json.dumps(description["shape"], sort_keys=True).encode())
    digest.update((folder / "generator.safetensors").read_bytes())
    with safe_open(folder / "entropy.safetensors", "numpy") as file:
        for name in _CONTEXT:
            digest.update(file.get_tensor(f"context.{name}").tobytes())
    return digest.hexdigest()[:16]


def load_image_model(family: str, folder: Path | None = None) -> ImageModel:
    """The shipped (or given) model folder of a family, checked. Raises BadInput when unusable."""
    folder = folder or WEIGHTS / family
    with loading(f"image model {family!r}", folder):
        description = read_description(folder)
        if description.get("kind") != "image":
            raise BadInput(f"{folder} holds no image model")
        networks = ImageNetworks(shape_of(description["shape"]))
        networks.log_prices = finite(description["log_prices"], ANCHORS)
        for name in ("encoder", "generator"):
            state = read_part(folder / f"{name}.safetensors")
            getattr(networks, name).load_state_dict({k: v.float() for k, v in state.items()})
        entropy = read_part(folder / "entropy.safetensors")
        prior = {
            k[6:]: v.float() if v.is_floating_point() else v
            for k, v in entropy.items()
            if k.startswith("prior.")
        }
        networks.prior.load_state_dict(prior)
        context = ImageContext(**{name: entropy[f"context.{name}"].numpy() for name in _CONTEXT})
        coder = ImageCoder(context)
        if context.channels != networks.shape.channels:
            raise ValueError("context model and networks disagree about the channels")
        if image_model_id(folder, description) != description["model_id"]:
            raise BadInput(f"{folder}: weights do not match their model id; reinstall the model")
    networks.requires_grad_(False)
    return ImageModel(networks.eval(), coder, str(description["model_id"]))
