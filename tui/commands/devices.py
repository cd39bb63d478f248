"""`sotto devices`: the sound cards, the rates they accept, and which are taken by default."""

from __future__ import annotations

import argparse
import json
from dataclasses import asdict
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from stream.audio.devices import DeviceInfo


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Describe the command and add its arguments."""
    parser.description = (
        "List the audio devices of this machine. --input and --output of the live "
        "link take the number or a part of the name."
    )
    parser.add_argument("--json", action="store_true", help="for programs")
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    """List; that there is nothing to list is no failure."""
    from stream.audio.devices import list_devices

    devices = list_devices(probe=True)
    if args.json:
        print(json.dumps([asdict(device) for device in devices], indent=2))
        return 0
    if not devices:
        print("this machine has no audio devices")
        return 0
    print(as_text(devices))
    return 0


def as_text(devices: tuple[DeviceInfo, ...]) -> str:
    """The answer for people; '>' marks the default input, '<' the default output."""
    rows = [("", "", "name", "sound system", "in", "out", "rates accepted (kHz)", "native")]
    for d in devices:
        marks = (">" if d.default_input else " ") + ("<" if d.default_output else " ")
        rates = []
        if d.inputs:
            rates.append("in " + _kilohertz(d.input_rates))
        if d.outputs:
            rates.append("out " + _kilohertz(d.output_rates))
        native = f"{d.native_rate / 1000:g}"
        shown = "; ".join(rates)
        rows.append(
            (marks, str(d.index), d.name, d.host_api, str(d.inputs), str(d.outputs), shown, native)
        )
    widths = [max(len(row[k]) for row in rows) for k in range(len(rows[0]))]
    lines = ["  ".join(f"{row[k]:<{widths[k]}}" for k in range(len(row))).rstrip() for row in rows]
    return "\n".join([*lines, "> default input   < default output"])


def _kilohertz(rates: tuple[int, ...]) -> str:
    return " ".join(f"{rate / 1000:g}" for rate in rates) or "none"
