"""`sotto info FILE`: describe a container without decoding it."""

from __future__ import annotations

import argparse
import json
from dataclasses import asdict
from typing import TYPE_CHECKING

from tui.own_model import named, needing, place_of
from tui.terminal import options

if TYPE_CHECKING:
    from codec.container import StreamHeader, StreamInfo
    from tui.own_model import Place


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Describe the command and add its arguments."""
    parser.description = "Describe a .sotto file or pipe."
    parser.add_argument("input", metavar="FILE", help=".sotto file or '-'")
    options.add_model(parser)
    parser.add_argument("--json", action="store_true", help="for programs")
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    """Describe a container, damaged or not."""
    from codec.container import scan
    from codec.files.paths import open_input, os_errors

    with open_input(args.input) as file, os_errors("read", args.input):
        found = scan(file)
    place = _place(args, found.header)
    values = asdict(found)
    flat = values.pop("header") | values | {"model": place}  # all beside the figures
    print(json.dumps(flat, indent=2) if args.json else as_text(found, place))
    return 0


def _place(args: argparse.Namespace, header: StreamHeader) -> Place:
    """Where the model of a stream is. Raises SottoError if --model is not that one."""
    from codec.speech.presets import PRESETS

    if args.model is not None and header.kind == "speech":
        from codec.speech.codec import SpeechCodec  # only here: this imports numba

        with needing(args.input, header.model_id, header.preset, args.model):
            codec = SpeechCodec.load(header.preset, "cpu", args.model, decoding=True)
        header.require_model(codec.model_id, codec.preset)
    preset = PRESETS.get(header.preset)
    shipped = None if preset is None else preset.model
    return place_of(header.model_id, shipped, args.model)


def as_text(found: StreamInfo, place: Place) -> str:
    """The answer for people."""
    header = found.header
    model = named(header.model_id, place)
    rows = [("preset", header.preset), ("model", model), ("kind", header.kind)]
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
