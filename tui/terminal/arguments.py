"""Types of command-line options.

Each is a `type=` of argparse and raises ArgumentTypeError, which ends the program with one line on
stderr and status 2.
"""

from __future__ import annotations

import argparse
import math
import os
from collections.abc import Callable
from pathlib import Path

from codec.device import DEVICES

_MOST = 1_000_000_000


def number(text: str) -> float:
    """A finite number."""
    try:
        value = float(text)
    except ValueError:
        raise argparse.ArgumentTypeError(f"{text!r} is not a number") from None
    if not math.isfinite(value):
        raise argparse.ArgumentTypeError(f"{text} is not a finite number")
    return value


def new_folder(text: str) -> Path:
    """A folder to be written; an empty name would be the present one."""
    if not text:
        raise argparse.ArgumentTypeError("the name is empty")
    return Path(text)


def positive(text: str) -> float:
    """A finite number above 0."""
    value = number(text)
    if value <= 0:
        raise argparse.ArgumentTypeError(f"{text} is not above 0")
    return value


def between(low: float, high: float) -> Callable[[str], float]:
    """A number from `low` to `high`, both allowed."""

    def check(text: str) -> float:
        value = number(text)
        if not low <= value <= high:
            raise argparse.ArgumentTypeError(f"{text} is not between {low:g} and {high:g}")
        return value

    return check


def amount(unit: str, low: float, high: float) -> Callable[[str], float]:
    """A number of seconds, minutes or the like, from `low` to `high`."""

    def check(text: str) -> float:
        try:
            value = float(text)
        except ValueError:
            value = math.nan
        if not low <= value <= high:
            raise argparse.ArgumentTypeError(
                f"{text!r} is not a number of {unit} from {low:g} to {high:g}"
            )
        return value

    return check


def whole(low: int, high: int = _MOST) -> Callable[[str], int]:
    """A whole number from `low` to `high`, both allowed."""

    def check(text: str) -> int:
        try:
            value = int(text)
        except ValueError:
            raise argparse.ArgumentTypeError(f"{text!r} is not a whole number") from None
        if not low <= value <= high:
            raise argparse.ArgumentTypeError(f"{text} is not between {low} and {high}")
        return value

    return check


count = whole(0)  # how many, perhaps none
positive_count = whole(1)  # how many, at least one
at_once = whole(1, 1024)  # threads or processes: more than that take all memory


def at_most_processors(threads: int) -> int:
    """So many threads, or one for each processor: more would wait for each other."""
    return min(threads, os.cpu_count() or 1)


def add_device(
    parser: argparse._ActionsContainer, explanation: str = "where the network runs"
) -> None:
    """--device, which `codec.device.choose_device` understands."""
    parser.add_argument("--device", choices=DEVICES, default="auto", help=explanation)
