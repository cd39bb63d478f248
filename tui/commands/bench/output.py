"""Output of a benchmark: tables on the screen, figures and plots in files."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, TextIO

from codec.errors import BadInput
from codec.files.paths import PIPE, atomic_output

if TYPE_CHECKING:
    from models.evaluation.plots import Panel


def check(*files: str | None, plots: bool = False) -> None:
    """Raise before the minutes a benchmark takes: BadInput, or ImportError without matplotlib."""
    for file in files:
        if file not in (None, PIPE) and not Path(file).resolve().parent.is_dir():
            raise BadInput(f"cannot write {file}: there is no such folder")
    if plots:
        import matplotlib  # noqa: F401


def screen(json: str | None) -> TextIO:
    """Where tables go: standard output, or standard error if the figures go there."""
    return sys.stderr if json == PIPE else sys.stdout


def write_json(values: Any, file: str | None) -> None:
    """Write plain values, if a file was asked for; '-' is standard output."""
    from models.evaluation.tables import to_json

    if file == PIPE:
        print(to_json(values), end="", flush=True)
    elif file is not None:
        write(to_json(values).encode(), file)


def write(data: bytes, file: str) -> None:
    """Write a file whole or not at all."""
    with atomic_output(file) as target:
        target.write(data)


def draw(panels: Sequence[Panel], file: str | Path, **layout: Any) -> None:
    """Draw a plot as PNG; layout: see `models.evaluation.plots.draw`."""
    from models.evaluation import plots

    with atomic_output(file) as target:
        plots.draw(panels, target, **layout)
