"""The named operating points of the speech codec; importing them loads no networks."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

from codec.errors import BadInput
from codec.search.methods import Method

EntropyName = Literal["range", "huffman"]


@dataclass(frozen=True)
class Preset:
    """A bit rate and how to reach it.

    model: folder of its weights; rate: bits per second of its packets, headers included; quality:
    usual rate point (in eighths); iterations: default search steps of a frame; price: scale of the
    trained bit price in the search; entropy: default coder; method: default search.
    """

    name: str
    model: str
    rate: float
    quality: int
    iterations: int = 60
    price: float = 0.48
    entropy: EntropyName = "range"
    method: Method = "mean-field"

    @property
    def family(self) -> str:
        """The kind of model that it needs: "speech" or "paper", as the shipped ones are called."""
        return PRESETS[self.name].model


PRESETS: dict[str, Preset] = {
    preset.name: preset
    for preset in (
        Preset("1k2", "speech", 1262.5, 0),
        Preset("2k", "speech", 1998.5, 8),
        Preset("3k6", "speech", 3592.5, 16),
        Preset("paper", "paper", 2062.5, 0, price=1.0, entropy="huffman", method="admm"),
    )
}
DEFAULT_PRESET = "2k"


def find_preset(name: str, model: str | Path | None = None) -> Preset:
    """The preset of that name; BadInput naming the known ones otherwise.

    model: a model folder to use in place of the shipped weights.
    """
    try:
        preset = PRESETS[name]
    except KeyError:
        raise BadInput(f"unknown preset {name!r} (known: {', '.join(PRESETS)})") from None
    # An absolute path is used as it is, instead of being looked up as a model's name.
    return preset if model is None else replace(preset, model=str(Path(model).absolute()))


def presets_of(family: str) -> tuple[str, ...]:
    """The names of the presets that one kind of model serves."""
    return tuple(name for name, preset in PRESETS.items() if preset.family == family)
