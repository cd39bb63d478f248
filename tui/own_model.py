"""Which model a file needs, and what to say where another one is at hand."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from pathlib import Path
from typing import Literal

from codec.errors import BadInput
from codec.files.paths import PIPE, display_name

Place = Literal["shipped", "given", "elsewhere"]


def place_of(model_id: str, shipped: str | None, folder: Path | None) -> Place:
    """Where the model of a file is; shipped: the model of its preset; folder: one that holds it."""
    from models.description import shipped_id

    if folder is not None:
        return "given"
    if shipped is not None and shipped_id(shipped) == model_id:
        return "shipped"
    return "elsewhere"


def named(model_id: str, place: Place) -> str:
    """A model for people."""
    if place == "elsewhere":
        return f"{model_id} (not the shipped one: decoding takes its folder, --model FOLDER)"
    return f"{model_id} ({place})"


def preset_id(preset: str, folder: Path | None) -> str:
    """The id of the model that a preset codes with, found without loading it.

    Raises BadInput for an unknown preset, and if there is no such model.
    """
    from codec.speech.presets import find_preset
    from models.description import WEIGHTS

    found = find_preset(preset)
    return folder_id(folder or WEIGHTS / found.model)


def folder_id(folder: Path) -> str:
    """The id of the model in a folder. Raises BadInput if there is none."""
    from models.description import DESCRIPTION, read_description

    try:
        return str(read_description(folder / DESCRIPTION)["model_id"])
    except (OSError, LookupError, ValueError, RecursionError) as error:
        raise BadInput(f"{display_name(folder)} holds no model that can be read") from error


@contextlib.contextmanager
def needing(source: str, model_id: str, preset: str, folder: Path | None) -> Iterator[None]:
    """Around the loading of the model in `folder`: an error says which one a file needs."""
    try:
        yield
    except BadInput as error:
        if folder is None:
            raise
        name = "standard input" if source == PIPE else display_name(source)
        raise BadInput(
            f"{name} needs the folder of model {model_id} (preset {preset}): {error}"
        ) from error
