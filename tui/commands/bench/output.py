"""Output of a benchmark: tables on the screen, figures and plots in files."""

from __future__ import annotations

import argparse
import contextlib
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, TextIO

from codec.errors import BadInput
from codec.files.paths import PIPE, atomic_output, display_name
from tui.terminal.console import note
from tui.terminal.outputs import add_force, check_outputs

if TYPE_CHECKING:
    from models.evaluation.plots import Panel
    from tui.pages.site import Site


def add_json(parser: argparse.ArgumentParser, what: str) -> None:
    """--json FILE, and --force for this and all other files of a benchmark."""
    parser.add_argument("--json", metavar="FILE", help=what)
    add_force(parser)


def add_page(parser: argparse.ArgumentParser, what: str) -> None:
    """--page OUT."""
    parser.add_argument("--page", metavar="OUT",
        help=f"write a page for a browser into the folder OUT: {what}")  # fmt: skip


def check(
    source: str | Path | Sequence[str | Path | None],
    *files: str | Path | None,
    force: bool,
    plots: bool = False,
    page: str | Path | None = None,
) -> None:
    """Raise before the minutes a benchmark takes: UsageError, BadInput, or ImportError without
    matplotlib.

    source: what is read, a folder or several files and folders; files: those to be written; page:
    the folder of a page. None stands for one not given.
    """
    sources = [source] if isinstance(source, str | Path) else source
    check_outputs(sources, files, force=force)
    if page is not None:
        from tui.pages import site

        site.check(page, sources, files, force=force)
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


@contextlib.contextmanager
def new_page(folder: str | Path, *, force: bool) -> Iterator[Site]:
    """A page that appears when the block ends, and a line that says where."""
    from tui.pages.site import new_site

    with new_site(folder, force=force) as site:
        yield site
    note(f"look and listen: {display_name(Path(folder) / 'index.html')}")


def draw(panels: Sequence[Panel], file: str | Path, *, force: bool, **layout: Any) -> None:
    """Draw a plot as PNG; layout: see `models.evaluation.plots.draw`."""
    from models.evaluation import plots

    with atomic_output(file, force=force) as target:
        plots.draw(panels, target, **layout)
