"""The `sotto` command line.

Exit status: 0 done; 1 failed, with the reason in one line on stderr; 2 wrong usage; 128 + the
signal's number, as shells count: 130 interrupted, 143 terminated, 129 the terminal closed, 141 the
reader of our output gone.
"""

from __future__ import annotations

import argparse
import contextlib
import importlib
import io
import os
import sys
import warnings
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, Any, TextIO

from codec.errors import BadInput
from tui.commands import COMMANDS
from tui.terminal import signs
from tui.terminal.errors import UsageError
from tui.terminal.exit_status import DONE, USAGE, exit_status
from tui.terminal.process import prepare
from tui.terminal.signals import unwinding

if TYPE_CHECKING:
    from _typeshed import SupportsWrite

# Calls run for days: garbage is collected as usual. What is to be known of them is found out as
# they are run.
_SERVICES = {"call", "listen", "check"}


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command; argv without the program's name. Returns the exit status."""
    arguments = list(sys.argv[1:] if argv is None else argv)
    if not _SERVICES.intersection(arguments[:1]):
        prepare()
    status = exit_status(lambda: _run(arguments))
    if status != DONE:
        _drop_unwritten(sys.stdout)
    _drop_unwritten(sys.stderr)
    return status


def _run(arguments: list[str]) -> int:
    with unwinding(), warnings.catch_warnings():
        if not sys.warnoptions:
            # Libraries' warnings are for programmers, not for users of the codec.
            warnings.simplefilter("ignore")
        if sys.stdout is None:
            sys.stdout = _NoOutput()
        signs.choose()
        try:
            status = _dispatch(arguments)
        except SystemExit:
            _flush()
            raise
        _flush()
        return status


def _flush() -> None:
    """Write standard output while a full disk can still be reported."""
    sys.stdout.flush()


class _NoOutput(io.TextIOBase):
    """Standard output of a program that was started without one: an answer that is lost is an
    error."""

    closed = True

    def write(self, text: str) -> int:
        raise BadInput("standard output is closed")

    def flush(self) -> None:
        """There is nothing to write."""


_KEY_LENGTH = 40  # characters: for other options nothing of the link need be loaded


class _Parser(argparse.ArgumentParser):
    """argparse's, but help that cannot be written is an error, and a key never an option."""

    def _parse_optional(self, arg_string: str) -> Any:
        # Of 85 public keys one begins as options do.
        if arg_string.startswith("-") and len(arg_string) == _KEY_LENGTH:
            from stream.link.keys import looks_like_key

            name = arg_string.partition("=")[0]
            known = any(option.startswith(name) for option in self._option_string_actions)
            if looks_like_key(arg_string) and not known:
                return None
        return super()._parse_optional(arg_string)

    def print_help(self, file: SupportsWrite[str] | None = None) -> None:
        print(self.format_help(), end="", file=file)


class _Version(argparse.Action):
    """argparse's "version", which finds out the version only when it is asked for."""

    def __call__(self, parser: argparse.ArgumentParser, *about: object) -> None:
        print(f"sotto {sotto_version()}")
        parser.exit()


def build_parser(names: Iterable[str] = COMMANDS) -> argparse.ArgumentParser:
    """The parser of all commands, which knows the arguments of those in `names` alone."""
    parser = _Parser(prog="sotto", description="Speech at 2 kbit/s.")
    about = "show program's version number and exit"
    parser.add_argument("--version", action=_Version, nargs=0, help=about)
    subparsers = parser.add_subparsers(dest="command", metavar="COMMAND", required=True)
    commands = {name: subparsers.add_parser(name, help=text) for name, text in COMMANDS.items()}
    for name in names:
        importlib.import_module(f"tui.commands.{name}").add_arguments(commands[name])
    return parser


def _dispatch(arguments: list[str]) -> int:
    command = next((argument for argument in arguments if not argument.startswith("-")), None)
    parser = build_parser([command] if command in COMMANDS else [])
    args = parser.parse_args(arguments)
    try:
        status: int = args.run(args)
    except UsageError as error:
        parser.exit(USAGE, f"sotto {args.command}: {error}\n")
    return status


def sotto_version() -> str:
    from importlib.metadata import PackageNotFoundError, version

    try:
        return version("sotto")
    except PackageNotFoundError:
        return "(not installed)"


def _drop_unwritten(stream: TextIO | None) -> None:
    """Discard output that cannot be written, which Python would try again on exit and fail."""
    if stream is None:
        return
    try:
        stream.flush()
    except (OSError, ValueError):
        with contextlib.suppress(OSError, ValueError):
            nowhere = os.open(os.devnull, os.O_WRONLY)
            os.dup2(nowhere, stream.fileno())
            os.close(nowhere)


if __name__ == "__main__":
    sys.exit(main())
