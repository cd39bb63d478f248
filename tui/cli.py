"""The `sotto` command line: reads it, runs the command, and turns what happens into a status.

0 done; 1 failed, with one line on stderr that says why; 2 the command line makes no sense; 130
interrupted, 141 the reader of our output has gone, 129 our terminal has gone, 143 terminated (128 +
the signal's number, as shells do it).
"""

from __future__ import annotations

import argparse
import contextlib
import importlib
import io
import os
import signal
import sys
import warnings
from collections.abc import Sequence
from types import ModuleType

from codec.console import note
from codec.errors import SottoError
from codec.files.paths import display_name, reason
from tui.commands import NAMES
from tui.terminal.errors import UsageError
from tui.terminal.process import prepare
from tui.terminal.signals import unwinding

DONE, FAILED, USAGE = 0, 1, 2
INTERRUPTED = 128 + signal.SIGINT
READER_GONE = 128 + 13
DEBUG = "SOTTO_DEBUG"
_SERVICES = {"call", "listen"}  # run for days: their memory is left to the allocator's care


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command; argv without the program's name. Returns the exit status."""
    arguments = list(sys.argv[1:] if argv is None else argv)
    if not _SERVICES.intersection(arguments[:1]):
        prepare()
    try:
        with unwinding(), warnings.catch_warnings():
            if not sys.warnoptions:
                # What libraries tell programmers is not for whoever encodes a file.
                warnings.simplefilter("ignore")
            _spell_out()
            try:
                status = _dispatch(arguments)
            except SystemExit as error:
                status = _status(error)
            # Here, where it can still be said that the disk is full.
            if sys.stdout is not None:
                sys.stdout.flush()
            return status
    except KeyboardInterrupt:
        note("interrupted")
        status = INTERRUPTED
    except BrokenPipeError:
        status = READER_GONE
    except SottoError as error:
        note(str(error))
        status = FAILED
    except MemoryError:
        note("out of memory")
        status = FAILED
    except OSError as error:
        where = display_name(error.filename) + ": " if error.filename is not None else ""
        note(where + reason(error))
        status = FAILED
    except Exception as error:
        if os.environ.get(DEBUG):
            raise
        text = " ".join(str(error).split())
        note(f"unexpected {type(error).__name__}: {text} (set {DEBUG}=1 to see where)")
        status = FAILED
    _drop_stdout()
    return status


def build_parser() -> argparse.ArgumentParser:
    """The parser of every command."""
    parser = argparse.ArgumentParser(prog="sotto", description="Speech at 2 kbit/s.")
    parser.add_argument("--version", action="version", version=f"sotto {_version()}")
    subparsers = parser.add_subparsers(dest="command", metavar="COMMAND", required=True)
    for name in NAMES:
        _command(name).add_parser(subparsers)
    return parser


def _dispatch(arguments: list[str]) -> int:
    if len(arguments) > 1 and arguments[0] in NAMES:
        command = _command(arguments[0])
        if arguments[1] in getattr(command, "SUBJECTS", ()):
            # Not through argparse: it would take the other program's options for its own.
            delegated: int = command.delegate(arguments[1:])
            return delegated
    parser = build_parser()
    args = parser.parse_args(arguments)
    try:
        status: int = args.run(args)
    except UsageError as error:
        parser.exit(USAGE, f"sotto {args.command}: {error}\n")
    return status


def _command(name: str) -> ModuleType:
    return importlib.import_module(f"tui.commands.{name}")


def _version() -> str:
    from importlib.metadata import PackageNotFoundError, version

    try:
        return version("sotto")
    except PackageNotFoundError:
        return "(not installed)"


def _status(error: SystemExit) -> int:
    if error.code is None:
        return DONE
    if isinstance(error.code, int):
        return error.code
    note(str(error.code))
    return FAILED


def _spell_out() -> None:
    """Characters that standard output cannot write become escapes, as on stderr, and no error."""
    if isinstance(sys.stdout, io.TextIOWrapper) and sys.stdout.errors == "strict":
        sys.stdout.reconfigure(errors="backslashreplace")


def _drop_stdout() -> None:
    """Forget what was not written: Python would try again on exit and complain."""
    if sys.stdout is None:
        return
    try:
        sys.stdout.flush()
    except (OSError, ValueError):
        with contextlib.suppress(OSError, ValueError):
            nowhere = os.open(os.devnull, os.O_WRONLY)
            os.dup2(nowhere, sys.stdout.fileno())
            os.close(nowhere)


if __name__ == "__main__":
    sys.exit(main())
