"""What `sotto check` has found: for people, at any width, and for programs, without names."""

from __future__ import annotations

import contextlib
import getpass
import os
import re
import socket
import textwrap
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from enum import Enum
from pathlib import Path
from typing import Any

FORM = 1  # of the JSON object; a change of what a key means raises it
_NARROWEST = 20
_INDENT = "  "
_SHORTEST_NAME = 2

# What names people and machines wherever it stands: "anna@nova", "Anna's headset", addresses of
# networks and of Bluetooth.
_TELLING = (
    (re.compile(r"[^\s@]+@[^\s@]+"), "(user)@(host)"),
    (re.compile(r"\b\w+(?=['’]s\b)"), "(user)"),
    (re.compile(r"\b(?:[0-9a-f]{2}[:_-]){5}[0-9a-f]{2}\b", re.IGNORECASE), "(address)"),
    (re.compile(r"\b\d{1,3}(?:\.\d{1,3}){3}\b"), "(address)"),
    (re.compile(r"(?<![\w:])(?:[0-9a-f]{0,4}:){2,7}[0-9a-f]{1,4}(?![\w:])", re.I), "(address)"),
)


class Verdict(Enum):
    """How a step went. FAILED: calls will not work so; NOTE: they will, but there is a hint."""

    OK = "ok"
    NOTE = "note"
    FAILED = "failed"
    LEFT_OUT = "left out"


@dataclass(frozen=True)
class Finding:
    """What one step has found. lines: for people; figures: plain values, for programs."""

    step: str
    verdict: Verdict
    lines: tuple[str, ...] = ()
    figures: Mapping[str, Any] = field(default_factory=dict)

    def to_text(self, width: int) -> str:
        """Lines of at most `width` characters, where words allow it."""
        width = max(width, _NARROWEST)
        wrapped = [
            textwrap.fill(
                line,
                width,
                initial_indent=_INDENT,
                subsequent_indent=2 * _INDENT,
                break_on_hyphens=False,
                break_long_words=False,
            )
            for line in self.lines
        ]
        return "\n".join([f"{self.step}: {self.verdict.value}", *wrapped])


def to_json(findings: Sequence[Finding], names: Anonymous) -> dict[str, Any]:
    """All findings as plain values, without what `names` hides."""
    return {
        "form": FORM,
        "failed": any_failed(findings),
        "steps": {
            finding.step: {
                "verdict": finding.verdict.value,
                "lines": [names.hidden(line) for line in finding.lines],
                **names.hidden_in(finding.figures),
            }
            for finding in findings
        },
    }


def any_failed(findings: Iterable[Finding]) -> bool:
    """Whether something keeps calls from working."""
    return any(finding.verdict is Verdict.FAILED for finding in findings)


class Anonymous:
    """Replaces what names people and machines.

    users, hosts: names, whole words of which are replaced in any case; folders: whose path becomes
    `~`, with whatever it is called.
    """

    def __init__(
        self,
        users: Iterable[str] = (),
        hosts: Iterable[str] = (),
        folders: Iterable[str] = (),
    ) -> None:
        paths = sorted({path.rstrip("/") for path in folders} - {""}, key=len, reverse=True)
        self._rules = [(re.compile(re.escape(path) + r"(?![\w.-])"), "~") for path in paths]
        self._rules += _TELLING
        for names, instead in ((hosts, "(host)"), (users, "(user)")):
            for name in sorted(set(names), key=len, reverse=True):
                if len(name) >= _SHORTEST_NAME:
                    pattern = rf"(?<!\w){re.escape(name)}(?!\w)"
                    self._rules.append((re.compile(pattern, re.IGNORECASE), instead))

    def hidden(self, text: str) -> str:
        """The text without names."""
        for pattern, instead in self._rules:
            text = pattern.sub(instead, text)
        return text

    def hidden_in(self, value: Any) -> Any:
        """Plain values with every text in them so; keys stay."""
        if isinstance(value, str):
            return self.hidden(value)
        if isinstance(value, Mapping):
            return {key: self.hidden_in(each) for key, each in value.items()}
        if isinstance(value, list | tuple):
            return [self.hidden_in(each) for each in value]
        return value


def this_machine() -> Anonymous:
    """Hides the names of this machine, of its user, and of the folders that belong to it."""
    hosts = {socket.gethostname()}
    hosts |= {host.partition(".")[0] for host in hosts}
    users: set[str] = set()
    folders = {os.environ.get(name, "") for name in ("HOME", "SOTTO_HOME", "XDG_CONFIG_HOME")}
    with contextlib.suppress(RuntimeError, KeyError):
        folders.add(str(Path.home()))
    with contextlib.suppress(OSError, KeyError, ImportError):
        users.add(getpass.getuser())
    with contextlib.suppress(OSError, KeyError, ImportError):
        import pwd

        about = pwd.getpwuid(os.getuid())
        real = about.pw_gecos.partition(",")[0]
        users |= {about.pw_name, real, *real.split()}
    return Anonymous(users, hosts, {path for path in folders if os.path.isabs(path)})
