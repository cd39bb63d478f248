"""What a command may write: never what it reads, and nothing of the user's without --force.

Looked at before the work, which may take hours; `codec.files.paths` holds the rule and asks again
when a file gets its name.
"""

from __future__ import annotations

import argparse
import os
from collections.abc import Collection, Iterable

from codec.errors import BadInput
from codec.files.paths import display_name, identities, is_special, refuse_replacing
from tui.terminal.errors import UsageError

# What logs and statistics are added to, if it is there already.
_LINES = frozenset({".log", ".txt", ".json", ".jsonl", ".ndjson"})

_SAME = "input and output are the same file: {} would replace what is read from {}"

Name = str | os.PathLike[str] | None


def add_force(parser: argparse._ActionsContainer) -> None:
    """--force: files that are there are replaced, whatever they are."""
    parser.add_argument("--force", action="store_true", help="replace files that exist")


def add_paths(parser: argparse.ArgumentParser, source: str, target: str, what: str) -> None:
    """The arguments `input`, one or several, and `output`, for `tui.batch.Work`; and --force.

    source, target: names of these in the help; what: an input is.
    """
    parser.add_argument(
        "input", nargs="+", metavar=source, help=f"{what}, several, '-', or a directory of them"
    )
    parser.add_argument(
        "output", metavar=target, help="file, '-', or directory (of several inputs: DIR/)"
    )
    add_force(parser)


def check_outputs(
    inputs: Collection[Name],
    outputs: Collection[Name],
    *,
    force: bool = False,
    known: Collection[str] = (),
) -> None:
    """Raise UsageError where an output is an input or another output, under whatever name.

    known: outputs that may be there, since whoever would replace one looks at it first.

    Raises BadInput if an output must not be replaced. None stands for a file not asked for. What is
    in a folder that is read counts as read, except for JSON that is no model's.
    """
    _tell_apart(inputs, outputs)
    for output in outputs:
        if output is not None and output not in known:
            refuse_replacing(output, force=force)


def check_lines(inputs: Collection[Name], outputs: Collection[Name]) -> None:
    """The same of files that lines are added to; BadInput if one is there that is no log."""
    _tell_apart(inputs, outputs)
    for output in outputs:
        if output is None or is_special(output) or not os.path.isfile(output):
            continue
        final = os.path.realpath(output)
        if os.path.getsize(final) and os.path.splitext(final)[1].lower() not in _LINES:
            raise BadInput(
                f"cannot add to {display_name(output)}: the file exists, and its name is not that "
                f"of a log ({' '.join(sorted(_LINES))})"
            )


def _tell_apart(inputs: Iterable[Name], outputs: Iterable[Name]) -> None:
    sources = [source for source in inputs if source is not None]
    read = {key: source for source in sources for key in identities(source)}
    folders = [source for source in sources if os.path.isdir(source)]
    written: set[tuple[object, ...]] = set()
    for output in outputs:
        if output is None:
            continue
        if not os.fspath(output):
            raise UsageError("the name of an output is empty")
        known = identities(output, output=True)
        for key in known & read.keys():
            raise UsageError(_SAME.format(display_name(output), display_name(read[key])))
        for folder in folders:
            if _is_in(folder, output):
                raise UsageError(_SAME.format(display_name(output), display_name(folder)))
        if known & written:
            raise UsageError(f"two outputs are the same file: {display_name(output)}")
        written |= known


def _is_in(folder: str | os.PathLike[str], file: str | os.PathLike[str]) -> bool:
    if not os.path.isfile(file):
        return False
    # Figures of a benchmark may lie beside its clips.
    is_model = os.path.exists(os.path.join(folder, "model.json"))
    if os.fsdecode(file).lower().endswith(".json") and not is_model:
        return False
    place = os.path.realpath(folder)
    return os.path.commonpath([place, os.path.realpath(file)]) == place
