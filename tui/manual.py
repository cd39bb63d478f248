"""The manual page, made from the same parsers that read the command line.

`python -m tui.manual` prints it in roff's man macros (groff_man(7)); `make manual` keeps it as
docs/sotto.1, which the wheel installs.
"""

from __future__ import annotations

import argparse
import re
import sys
from collections.abc import Iterator

_INTRODUCTION = """\
.SH NAME
sotto \\- speech at 2 kbit/s
.SH SYNOPSIS
.B sotto
.I COMMAND
.RI [ ARGUMENT " ...]"
.SH DESCRIPTION
A generative codec for speech, live calls by it, and the same for pictures. A file name of
.B \\-
is standard input or output. A file that exists is replaced only if it is a .sotto or .stim file, or
with
.BR \\-\\-force ;
what a command reads is never replaced.
"""

_REST = """\
.SH EXIT STATUS
0 success; 1 failure, with the reason in one line on standard error; 2 wrong usage; 128 and the
number of a signal that ended it.
.SH ENVIRONMENT
.TP
.B SOTTO_HOME
the folder of keys and known peers, in place of ~/.config/sotto
.TP
.B SOTTO_THEME
colours of the screen of a call: dark or light
.TP
.B SOTTO_DEBUG
if set, an unexpected error shows where it was raised
.TP
.BR LC_ALL ", " LC_CTYPE ", " LANG
where they name the locale of C, or none, signs are written in ASCII
.SH FILES
.TP
.I ~/.config/sotto/key
the private key of secured calls, beside it the public one
.TP
.I ~/.config/sotto/known-peers
who may call, and who may be called
"""


def page() -> str:
    """The manual page of all commands, in roff."""
    from tui.cli import build_parser, sotto_version

    parser = build_parser()
    parts = [f'.TH SOTTO 1 "" "sotto {sotto_version()}" "User Commands"', _INTRODUCTION.rstrip()]
    parts += [".SH OPTIONS", *_entries(parser), ".SH COMMANDS"]
    for words, summary, command in _commands(parser, ""):
        parts += [f".SS {_text(words)}", *_section(words, summary, command)]
    return "\n".join([*parts, _REST.rstrip()]) + "\n"


def _commands(
    parser: argparse.ArgumentParser, before: str
) -> Iterator[tuple[str, str, argparse.ArgumentParser]]:
    """(words, summary, parser) of each command that takes arguments of its own."""
    for action in parser._actions:
        if not isinstance(action, argparse._SubParsersAction):
            continue
        summaries = {each.dest: each.help or "" for each in action._choices_actions}
        for name, subparser in action.choices.items():
            words = f"{before}{name}"
            yield words, summaries.get(name, ""), subparser
            yield from _commands(subparser, f"{words} ")


def _section(words: str, summary: str, parser: argparse.ArgumentParser) -> Iterator[str]:
    yield f".B sotto {_text(words)}"
    for action in parser._actions:
        if not action.option_strings and not isinstance(action, argparse._SubParsersAction):
            yield f".I {_text(_operand(action))}"
    yield ".PP"
    description = parser.description or summary
    yield _line(description[:1].upper() + description[1:].rstrip(".") + ".")
    yield from _entries(parser)


def _entries(parser: argparse.ArgumentParser) -> Iterator[str]:
    """Arguments and options with what they are for; --help, which every command has, is left out
    of theirs."""
    for action in parser._actions:
        if isinstance(action, argparse._SubParsersAction | argparse._HelpAction):
            continue
        if action.help == argparse.SUPPRESS:
            continue
        names = ", ".join(rf"\fB{_text(name)}\fR" for name in action.option_strings)
        operand = rf"\fI{_text(_operand(action))}\fR" if action.nargs != 0 else ""
        yield ".TP"
        yield " ".join(filter(None, [names, operand]))
        yield _line(_help(parser, action)) if action.help else r"\&"


def _help(parser: argparse.ArgumentParser, action: argparse.Action) -> str:
    values = {**vars(action), "prog": parser.prog}
    if action.choices is not None:
        values["choices"] = ", ".join(map(str, action.choices))
    return (action.help or "") % values


def _operand(action: argparse.Action) -> str:
    """What an argument's value is called, as often as it may come."""
    if action.metavar is not None:
        name = action.metavar if isinstance(action.metavar, str) else " ".join(action.metavar)
    elif action.choices is not None:
        name = "{" + ",".join(map(str, action.choices)) + "}"
    else:
        name = action.dest.upper()
    forms = {"?": f"[{name}]", "*": f"[{name} ...]", "+": f"{name} [{name} ...]"}
    if isinstance(action.nargs, str):
        return forms.get(action.nargs, name)
    return name


def _line(text: str) -> str:
    """A line of text, which is no request to roff whatever it begins with."""
    words = _text(" ".join(text.split()))
    return rf"\&{words}" if words[:1] in (".", "'") else words


def _text(text: str) -> str:
    """Text as roff shows it: hyphens that can be copied, backslashes, and quotes as they are."""
    marks = {"\\": r"\e", "-": r"\-", "'": r"\(aq", "`": r"\(ga", "^": r"\(ha", "~": r"\(ti"}
    return re.sub(r"[\\'`^~-]", lambda found: marks[found[0]], text)


if __name__ == "__main__":
    sys.stdout.write(page())
