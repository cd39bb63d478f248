"""`sotto completion SHELL`: a script by which a shell completes our commands and options."""

from __future__ import annotations

import argparse
from collections.abc import Iterator
from typing import Any

SHELLS = ("bash", "zsh", "tcsh")
# What is completed by the names of files, by metavar.
_FILES = ("AUDIO", "FILE", "IN", "IN.sotto", "IN.stim", "MODEL", "OUT.png", "OUT.sotto", "OUT.stim",
          "OUT.wav", "PNG", "WAV")  # fmt: skip
_FOLDERS = ("DIR", "FOLDER")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Describe the command and add its arguments."""
    parser.description = (
        "Print a script that teaches a shell to complete commands, options and file names. For "
        "bash: sotto completion bash > ~/.local/share/bash-completion/completions/sotto; for zsh "
        "as _sotto into a folder of $fpath; for tcsh source it."
    )
    parser.add_argument("shell", metavar="SHELL", choices=SHELLS, help=", ".join(SHELLS))
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    """Print the script."""
    import shtab

    from tui.cli import build_parser

    parser = build_parser()
    for action in _actions(parser):
        mark(action, shtab.FILE, shtab.DIRECTORY)
    print(shtab.complete(parser, args.shell), end="")
    return 0


def mark(action: argparse.Action, file: Any, folder: Any) -> None:
    """Say of an argument that it is a file's name, or a folder's, as shtab wants to be told."""
    if action.nargs == 0:
        return
    if action.metavar in _FILES:
        action.complete = file  # type: ignore[attr-defined]
    elif action.metavar in _FOLDERS:
        action.complete = folder  # type: ignore[attr-defined]


def _actions(parser: argparse.ArgumentParser) -> Iterator[argparse.Action]:
    for action in parser._actions:
        if isinstance(action, argparse._SubParsersAction):
            for subparser in action.choices.values():
                yield from _actions(subparser)
        else:
            yield action
