"""The subcommands: one module each, with `add_parser(subparsers)` and `run(args) -> int`.

Modules here import nothing heavy at the top: all of them are read to build the help, and the help
must appear at once.
"""

from __future__ import annotations

import argparse
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    Subparsers = argparse._SubParsersAction[argparse.ArgumentParser]

# In the order the help lists them.
NAMES = (
    "encode",
    "decode",
    "transcode",
    "info",
    "image",
    "listen",
    "call",
    "keygen",
    "devices",
    "train",
    "bench",
)
