"""Model folders: safetensors weights and tables, a JSON description and a model id; no pickles.

A folder holds `model.json` (kind, shape, licence, model id), a `.safetensors` file for each part of
the model in half precision, and `entropy.safetensors` (tables of the entropy coders and the prior).
The model id is a hash of all that decides what a stream decodes to: shape, generator and tables.
"""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import tempfile
from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from codec.errors import BadInput
from codec.files.paths import display_name, os_errors
from models.description import DESCRIPTION, read_description
from models.description import WEIGHTS as WEIGHTS
from models.stored import ENTROPY, Arrays, check_identity, identity, loading, read_arrays

if TYPE_CHECKING:
    from codec.search.problem import Networks
    from models.inference.frame_generator import SpeechGenerator

    # Named as exports: annotations of the codec take them from here.
    from models.inference.search import Prepared as Prepared
    from models.model import FrameModel as FrameModel
    from models.model import Model as Model
    from models.networks.first_layer import FirstLayer as FirstLayer
    from models.networks.ganz import Convolutions as Convolutions
    from models.networks.ganz import GanzModel as GanzModel
    from models.networks.photo import PhotoGenerator as PhotoGenerator
    from models.networks.photo import PhotoModel as PhotoModel
    from models.networks.photo_paper import PaperImageModel as PaperImageModel

    M = TypeVar("M", bound=Model)


def load_speech_model(name: str, folder: Path | None = None) -> FrameModel:
    """The shipped (or given) model of a speech preset. Raises BadInput when it is unusable."""
    from models.networks.speech import SpeechModel
    from models.networks.speech_paper import PaperModel

    return _load(folder or WEIGHTS / name, SpeechModel, PaperModel)


def load_speech_generator(name: str) -> SpeechGenerator | None:
    """The part of a speech model that decodes on the CPU, read without PyTorch.

    None for a model of another family, of which there is no such part alone. Raises BadInput when
    it is unusable.
    """
    from models.inference.frame_generator import SpeechGenerator

    folder = WEIGHTS / name
    with loading("the speech model", folder):
        description = _described(folder)
        if description.get("kind") is not None:
            return None
        return SpeechGenerator.read(folder, description)


def model_folder(name: Path) -> Path:
    """The folder of a model: `name` itself, or else that of the shipped model of this name."""
    return name if name.exists() else WEIGHTS / str(name)


def load_photo_model(name: str, folder: Path | None = None) -> PhotoModel:
    """The shipped (or given) model of preset `photo`. Raises BadInput when it is unusable."""
    from models.networks.photo import PhotoModel

    return _load(folder or WEIGHTS / name, PhotoModel)


def load_photo_paper_model(name: str, folder: Path | None = None) -> PaperImageModel:
    """The shipped (or given) model of image preset `paper`. Raises BadInput when unusable."""
    from models.networks.photo_paper import PaperImageModel

    return _load(folder or WEIGHTS / name, PaperImageModel)


def load_ganz_model(name: str, folder: Path | None = None) -> GanzModel:
    """The shipped (or given) model of preset `ganz`. Raises BadInput when it is unusable."""
    from models.networks.ganz import GanzModel

    return _load(folder or WEIGHTS / name, GanzModel)


def prepared(model: FrameModel) -> Prepared:
    """A frozen speech model as encoder and decoder run it; see `models.inference.search`."""
    from models.inference.search import Prepared

    return Prepared(model)


def search_networks(model: FrameModel) -> Networks:
    """Its networks, for a search."""
    return prepared(model).networks


def _described(folder: Path) -> dict[str, Any]:
    if not folder.is_dir():
        raise BadInput(f"{display_name(folder)} is no folder with a model")
    return read_description(folder / DESCRIPTION)


def _load(folder: Path, *models: type[M]) -> M:
    """The model in a folder, frozen, which must be one of `models`."""
    from models.model import tensors_of, widened

    with loading(f"the {models[0].title} model", folder):
        description = _described(folder)
        kind = description.get("kind")
        found = [model for model in models if model.kind == kind]
        if not found:
            raise BadInput(f"{display_name(folder)} holds no {models[0].title} model")
        model = found[0].restored(description, read_arrays(folder / ENTROPY))
        for name in model.parts:
            arrays: Arrays = read_arrays(folder / f"{name}.safetensors")
            model.load_part(name, widened(tensors_of(arrays)))
        model.model_id = check_identity(folder, description, model.hashed)
    return model.requires_grad_(False).eval()


def save_model(model: Model, folder: Path, about: dict[str, Any]) -> str:
    """Write a model folder and return its model id (16 hex digits). Weights become float16."""
    from safetensors.numpy import save_file as save_arrays
    from safetensors.torch import save_file

    from models.model import halved

    folder.mkdir(parents=True, exist_ok=True)
    for name in model.parts:
        save_file(halved(model.part(name)), folder / f"{name}.safetensors")
    save_arrays(model.tables(), folder / ENTROPY)
    kind = {} if model.kind is None else {"kind": model.kind}
    description = {**kind, "shape": asdict(model.shape), **model.described(), **about}
    description["model_id"] = identity(folder, description, model.hashed)
    (folder / DESCRIPTION).write_text(json.dumps(description, indent=2) + "\n")
    return str(description["model_id"])


def refuse_no_model(out: Path) -> None:
    """Raise BadInput where a model written to `out` would replace anything else than a model."""
    if not os.path.lexists(out):
        return
    with os_errors("read", out):
        if not (out / DESCRIPTION).is_file():
            raise BadInput(f"{out} exists and is no model folder; give another --out")
        others = [f for f in out.iterdir() if f.name != DESCRIPTION and f.suffix != ".safetensors"]
    if others:
        name = display_name(min(others).name)
        raise BadInput(f"{out} holds {name}, which is no part of a model; give another --out")


@contextlib.contextmanager
def new_model_folder(out: Path) -> Iterator[Path]:
    """A folder to write a model into, which becomes `out` if the block ends well.

    An existing model is replaced only then. Raises BadInput, before and after the block, when `out`
    holds something else than a model.
    """
    refuse_no_model(out)
    out = Path(os.path.realpath(out))
    out.parent.mkdir(parents=True, exist_ok=True)
    draft = Path(tempfile.mkdtemp(prefix=f".{out.name}-", dir=out.parent))
    try:
        yield draft
        # Temporary files are private; a model is for all users of the machine.
        draft.chmod(0o755)
        for file in draft.iterdir():
            file.chmod(0o644)
        refuse_no_model(out)
        if out.exists():
            shutil.rmtree(out)
        draft.rename(out)
    finally:
        shutil.rmtree(draft, ignore_errors=True)
