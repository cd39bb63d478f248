"""`sotto export onnx FOLDER`: the networks of the speech model for other runtimes."""

from __future__ import annotations

import argparse
import json
import os
from pathlib import Path

from tui.terminal.arguments import new_folder
from tui.terminal.options import add_model
from tui.terminal.outputs import add_force, check_outputs

_NETWORKS = ("encoder", "generator", "prior")
_DESCRIPTION = "onnx.json"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Describe the command and add its arguments."""
    parser.description = "Write the networks in another format."
    formats = parser.add_subparsers(dest="format", metavar="FORMAT", required=True)
    onnx = formats.add_parser(
        "onnx",
        help="encoder, generator and prior of the speech model as ONNX",
        description="Write encoder.onnx, generator.onnx and prior.onnx of the speech model into a "
        f"folder, and {_DESCRIPTION}, which says what goes in and what comes out.",
    )
    onnx.add_argument("folder", type=new_folder, metavar="FOLDER", help="made if it is not there")
    add_model(onnx)
    add_force(onnx)
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    """Write the files; the description last, so that where it is all are."""
    from codec.errors import BadInput
    from codec.files.paths import atomic_output, display_name, os_errors
    from models.folder import load_speech_model
    from models.networks.speech import SpeechModel
    from tui.terminal.console import Bar
    from tui.terminal.exit_status import extra

    with extra("onnx"):
        from models.inference import onnx_export

    folder = args.folder
    files = {name: folder / f"{name}.onnx" for name in _NETWORKS}
    description = folder / _DESCRIPTION
    check_outputs([args.model], [*files.values(), description], force=args.force)
    model = load_speech_model("speech", args.model)
    if not isinstance(model, SpeechModel):
        raise BadInput(f"{display_name(args.model)} holds no model of the speech presets")
    with os_errors("write", folder):
        os.makedirs(folder, exist_ok=True)
    networks = []
    with Bar("", len(files), "{task.completed:.0f}/{task.total:.0f}") as bar:
        for done, network in enumerate(onnx_export.networks_of(model)):
            bar.describe(network.name)
            bar.update(done)
            found = onnx_export.export(network)
            file = files[network.name]
            with atomic_output(file, force=args.force) as target:
                target.write(found.SerializeToString())
            networks.append({
                "name": network.name, **onnx_export.described(network, found, file.name)
            })  # fmt: skip
    about = {
        "model_id": model.model_id,
        "licence": licence(args.model),
        "tolerance": onnx_export.TOLERANCE,
        "networks": networks,
    }
    with atomic_output(description, force=args.force) as target:
        target.write((json.dumps(about, indent=2) + "\n").encode())
    print(f"{display_name(folder)}: {', '.join([*(f.name for f in files.values()), _DESCRIPTION])}")
    return 0


def licence(folder: Path | None) -> str | None:
    """Of the model in a folder, else of the shipped one; None if it does not say."""
    from models.description import DESCRIPTION, WEIGHTS, read_description

    found = read_description((folder or WEIGHTS / "speech") / DESCRIPTION).get("licence")
    return None if found is None else str(found)
