"""`sotto info FILE`: describe a container without decoding it."""

from __future__ import annotations

import argparse
import json
from dataclasses import asdict
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from codec.container import StreamInfo


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Describe the command and add its arguments."""
    parser.description = "Describe a .sotto file or pipe."
    parser.add_argument("input", metavar="FILE", help=".sotto file or '-'")
    parser.add_argument("--json", action="store_true", help="for programs")
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    """Describe a container, damaged or not."""
    from codec.container import scan
    from codec.files.paths import open_input, os_errors

    with open_input(args.input) as file, os_errors("read", args.input):
        found = scan(file)
    values = asdict(found)
    flat = values.pop("header") | values  # the header's entries beside the figures
    print(json.dumps(flat, indent=2) if args.json else as_text(found))
    return 0


def as_text(found: StreamInfo) -> str:
    """The answer for people."""
    header = found.header
    rows = [("preset", header.preset), ("model", header.model_id), ("kind", header.kind)]
    if header.kind == "speech":
        rows += [
            ("duration", f"{found.duration_s:.3f} s"),
            ("payload", f"{found.payload_bits_per_s:.0f} bit/s ({found.payload_bytes} bytes)"),
            ("total", f"{found.total_bits_per_s:.0f} bit/s ({found.container_bytes} bytes)"),
        ]
    else:
        rows += [
            ("payload", f"{found.payload_bytes} bytes"),
            ("total", f"{found.container_bytes} bytes"),
        ]
    rows += [("frames", f"{found.frames}"), ("integrity", found.integrity)]
    return "\n".join(f"{name:<10} {value}" for name, value in rows)
