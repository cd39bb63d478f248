"""ASCII signs for locales and terminals that have no others.

Screens, tables and messages use all of Unicode's signs. One that cannot be written is replaced as
it is encoded, by an ASCII sign of the same width, so that columns still line up. Other text, such
as names, is kept as far as possible, or escaped.
"""

from __future__ import annotations

import codecs
import contextlib
import io
import os
import sys
import unicodedata
from collections.abc import Callable, Iterator

_SIGNS = {
    **dict(zip("·»«–—…×±≤≥∞°µ", ".><--.x~<>-'u", strict=True)),
    **dict(zip("→←↑↓▲▼▸◂●○■□✓✗", "><^v!v><*o#.+x", strict=True)),
    **dict(zip("’‘“”", "''\"\"", strict=True)),
    # Bars that grow upward, and to the right; shades; of a halved cell its background is left.
    **dict(zip("▁▂▃▄▅▆▇█", "_.:-=+*#", strict=True)),
    **dict(zip("▉▊▋▌▍▎▏▐", "##==---|", strict=True)),
    **dict(zip("░▒▓▀▔▕", ".:% -|", strict=True)),
}
_LINES, _BYTES, _SCREEN = "sotto-lines", "sotto-bytes", "sotto-screen"
_REPLACED = ("strict", "surrogateescape", "backslashreplace")
# Of a serial line, or of a system console: their fonts end with Latin letters.
_PLAIN_TERMINALS = ("dumb", "vt", "ansi", "cons25", "sun")


def choose() -> None:
    """Have standard output and standard error write what their locale and terminal can show.

    Who sets PYTHONIOENCODING or PYTHONUTF8 decides; with error handlers other than Python's usual
    ones nothing is changed.
    """
    told = os.environ.get("PYTHONIOENCODING") or os.environ.get("PYTHONUTF8")
    for stream in (sys.stdout, sys.stderr):
        if not isinstance(stream, io.TextIOWrapper) or stream.errors not in _REPLACED:
            continue
        if not told and _plain_locale():
            stream.reconfigure(encoding="ascii", errors=_BYTES)
        elif not told and stream.isatty() and _plain_terminal():
            stream.reconfigure(encoding="ascii", errors=_LINES)
        elif stream.errors != "surrogateescape":
            stream.reconfigure(errors=_LINES)


@contextlib.contextmanager
def on_screen() -> Iterator[None]:
    """While a full screen is drawn on standard error: names keep their width, too."""
    stream = sys.stderr
    if not isinstance(stream, io.TextIOWrapper) or stream.errors not in (_LINES, _BYTES):
        yield
        return
    before = stream.errors
    stream.reconfigure(errors=_SCREEN)
    try:
        yield
    finally:
        stream.reconfigure(errors=before)


def sign(character: str) -> str | None:
    """The ASCII sign that takes the place of one character, None for what is not a sign."""
    if character in _SIGNS:
        return _SIGNS[character]
    if "\u2500" <= character <= "\u257f":
        name = unicodedata.name(character)
        upright = any(word in name for word in ("VERTICAL", "UP", "DOWN"))
        if upright and any(word in name for word in ("HORIZONTAL", "LEFT", "RIGHT")):
            return "+"
        return "|" if upright else "-"
    return None


def _plain_locale() -> bool:
    """Whether the locale is that of C, which knows ASCII only, or one that this system lacks.

    Python takes UTF-8 for the latter too, which its terminal, by the locale's name, does not show.
    """
    known = os.environ
    character_type = known.get("LC_CTYPE", "")
    if character_type.startswith(("C.", "UTF")) and not _given("LC_CTYPE"):
        character_type = ""  # Python put it there (PEP 538)
    named = known.get("LC_ALL") or character_type or known.get("LANG") or "C"
    encoding = named.partition(".")[2].partition("@")[0].lower().replace("-", "")
    lacking = bool(sys.flags.utf8_mode) and encoding not in ("", "utf8")
    return named in ("C", "POSIX") or lacking


def _given(name: str) -> bool:
    """Whether this process was started with the variable."""
    try:
        with open("/proc/self/environ", "rb") as file:
            return any(entry.startswith(name.encode() + b"=") for entry in file.read().split(b"\0"))
    except OSError:
        return True


def _plain_terminal() -> bool:
    return os.environ.get("TERM", "dumb").startswith(_PLAIN_TERMINALS)


def _handler(other: Callable[[str], str | bytes]) -> Callable[[UnicodeError], tuple[bytes, int]]:
    """An error handler that writes signs in ASCII, and what else there is by `other`."""

    def handle(error: UnicodeError) -> tuple[bytes, int]:
        if not isinstance(error, UnicodeEncodeError):
            raise error
        written = b""
        for character in error.object[error.start : error.end]:
            found = sign(character) or other(character)
            written += found if isinstance(found, bytes) else found.encode("ascii")
        return written, error.end

    return handle


def _escaped(character: str) -> bytes:
    return character.encode("ascii", "backslashreplace")


def _as_it_is(character: str) -> bytes:
    """The bytes of a name, which a file's name in the locale of C is."""
    try:
        return character.encode("utf-8", "surrogateescape")
    except UnicodeEncodeError:
        return _escaped(character)


def _of_its_width(character: str) -> bytes:
    """The letter beneath the accents, else an underscore for each cell."""
    letter = unicodedata.normalize("NFKD", character)[:1]
    if letter.isascii() and letter.isprintable():
        return letter.encode("ascii")
    if unicodedata.combining(character) or unicodedata.category(character) in ("Cf", "Mn", "Me"):
        return b""
    return b"__" if unicodedata.east_asian_width(character) in "FW" else b"_"


codecs.register_error(_LINES, _handler(_escaped))
codecs.register_error(_BYTES, _handler(_as_it_is))
codecs.register_error(_SCREEN, _handler(_of_its_width))
