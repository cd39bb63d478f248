"""Options of benchmarks: lists as their values, and the settings that they stand for."""

from __future__ import annotations

import argparse
import dataclasses
from collections.abc import Callable, Collection
from typing import TypeVar

from codec.packet import DELAYS
from tui.terminal.arguments import number

T = TypeVar("T")


def settings(kind: type[T], args: argparse.Namespace) -> T:
    """A dataclass whose fields are named like the options; those that are None keep defaults."""
    names = [field.name for field in dataclasses.fields(kind)]  # type: ignore[arg-type]
    return kind(**{name: value for name in names if (value := getattr(args, name)) is not None})


def names(text: str, known: Collection[str] | None = None) -> list[str]:
    """Names between commas, each once; of `known`, if that is given."""
    found = [name.strip() for name in text.split(",")]
    if not all(found):
        raise argparse.ArgumentTypeError(f"{text!r} is not a list of names")
    if known is not None and not set(found) <= set(known):
        raise argparse.ArgumentTypeError(f"{text}: known are {', '.join(known)}")
    return list(dict.fromkeys(found))


def delays(text: str) -> list[int]:
    """Lengths of packets in milliseconds between commas."""
    return [int(name) for name in names(text, [str(delay) for delay in DELAYS])]


def numbers(low: float, high: float, least: int = 0) -> Callable[[str], tuple[float, ...]]:
    """Numbers between commas, `least` or more, each from `low` to `high`."""

    def check(text: str) -> tuple[float, ...]:
        values = tuple(number(part) for part in text.split(",") if part)
        if len(values) < least or not all(low <= value <= high for value in values):
            raise argparse.ArgumentTypeError(f"{text} are not numbers from {low:g} to {high:g}")
        return values

    return check
