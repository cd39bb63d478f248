"""Output of a benchmark: tables on the screen, figures and plots in files."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, TextIO

from codec.errors import BadInput
from codec.files.paths import PIPE, atomic_output
from tui.terminal.outputs import add_force, check_outputs

if TYPE_CHECKING:
    from models.evaluation.plots import Panel


def add_json(parser: argparse.ArgumentParser, what: str) -> None:
    """--json FILE, and --force for this and all other files of a benchmark."""
    parser.add_argument("--json", metavar="FILE", help=what)
    add_force(parser)


def check(source: str | Path, *files: str | Path | None, force: bool, plots: bool = False) -> None:
    """Raise before the minutes a benchmark takes: UsageError, BadInput, or ImportError without
    matplotlib.

    source: the folder that is read; files: those to be written, None for one not asked for.
    """
    check_outputs([source], files, force=force)
    for file in files:
        if file is not None and file != PIPE and not Path(file).resolve().parent.is_dir():
            raise BadInput(f"cannot write {file}: there is no such folder")
    if plots:
        import matplotlib  # noqa: F401


def screen(json: str | None) -> TextIO:
    """Where tables go: standard output, or standard error if the figures go there."""
    return sys.stderr if json == PIPE else sys.stdout


def write_json(values: Any, file: str | None, *, force: bool) -> None:
    """Write plain values, if a file was asked for; '-' is standard output."""
    from models.evaluation.tables import to_json

    if file == PIPE:
        print(to_json(values), end="", flush=True)
    elif file is not None:
        write(to_json(values).encode(), file, force=force)


def write(data: bytes, file: str, *, force: bool) -> None:
    """Write a file whole or not at all; force: replace one that is there."""
    with atomic_output(file, force=force) as target:
        target.write(data)


def draw(panels: Sequence[Panel], file: str | Path, *, force: bool, **layout: Any) -> None:
    """Draw a plot as PNG; layout: see `models.evaluation.plots.draw`."""
    from models.evaluation import plots

    with atomic_output(file, force=force) as target:
        plots.draw(panels, target, **layout)
