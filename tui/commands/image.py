"""`sotto image encode|decode|info|sense`: pictures to .stim files and back."""

from __future__ import annotations

import argparse
import contextlib
import json
from typing import TYPE_CHECKING

from codec.search.methods import DESCENTS
from tui.commands.sense import add_sense
from tui.own_model import named, needing, place_of
from tui.terminal import options
from tui.terminal.errors import UsageError
from tui.terminal.outputs import add_force, check_outputs

if TYPE_CHECKING:
    from codec.image.container import ImageFile
    from codec.image.pictures import Picture
    from tui.commands import Subparsers

_MUCH_LESS = 0.9  # share of the room that was asked for: a file below it is told of

SUFFIX = ".stim"
TRAINING = "sotto train image"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Describe the command and add its arguments."""
    parser.description = "Code still pictures by latent search."
    actions = parser.add_subparsers(dest="action", metavar="ACTION", required=True)
    _add_encode(actions)
    decode = actions.add_parser(
        "decode", help="a .stim file to a picture", description="Decode a .stim file."
    )
    decode.add_argument("input", metavar="IN.stim", help="file or '-'")
    decode.add_argument("output", metavar="OUT.png", help="any picture format, or '-' for PNG")
    options.add_model(decode, TRAINING)
    options.add_device(decode)
    add_force(decode)
    decode.set_defaults(run=run_decode)
    info = actions.add_parser(
        "info", help="what a .stim file holds", description="Describe a .stim file."
    )
    info.add_argument("input", metavar="FILE", help="file or '-'")
    options.add_model(info, TRAINING)
    info.add_argument("--json", action="store_true", help="for programs")
    info.set_defaults(run=run_info)
    add_sense(actions)


def _add_encode(actions: Subparsers) -> None:
    parser = actions.add_parser(
        "encode",
        help="a picture to a .stim file",
        description="Encode any picture that Pillow reads. The file takes no more than asked.",
    )
    add = parser.add_argument
    add("input", metavar="IN", help="picture file or '-'")
    add("output", metavar="OUT.stim", help="file or '-'")
    size = parser.add_mutually_exclusive_group()
    size.add_argument(
        "--bpp", type=options.positive, metavar="B", help="bits per pixel (default: 0.29)"
    )
    size.add_argument(
        "--ratio", type=options.positive, metavar="R", help="times smaller than the raw pixels"
    )
    size.add_argument("--quality", type=_quality, metavar="Q", help="0 to 100, whatever it takes")
    add("--tune", choices=("psnr", "ms-ssim", "visual"), default="psnr",
        help="what the search minimises (default: psnr)")  # fmt: skip
    add("--iterations", type=options.count, metavar="N", help="steps of the search")
    add("--budget", type=options.positive, metavar="SECONDS", help="time for the search")
    add("--fast", action="store_true", help="a few steps only")
    add("--no-search", action="store_true", help="take the encoder's output as it is")
    options.add_method(
        parser, DESCENTS, "; the ganz preset has lbfgs (its default) and plain sgd from 0"
    )
    add("--preset", default="photo", metavar="NAME",
        help="the model: photo, paper or ganz (default: photo)")  # fmt: skip
    options.add_model(parser, TRAINING)
    add("--entropy", choices=("huffman", "range"),
        help="the coder of the paper preset (default: huffman), or of the ganz preset, whose "
        "latents are quantised then (default: 32-bit floats)")  # fmt: skip
    add("--places", choices=("chosen", "fixed", "dense", "keep", "none"),
        help="what the latents of the ganz preset reach: chosen for every tile (default); the same "
        "in all pictures; all of it, through a dense random layer, as in the paper; what the "
        "trained layer reaches; all of it, without a layer")  # fmt: skip
    add("--preview", metavar="PNG", help="write original, decoded and difference side by side")
    options.add_device(parser)
    add_force(parser)
    parser.set_defaults(run=run_encode)


def _quality(text: str) -> float:
    value = float(text) if text.replace(".", "", 1).isdigit() else -1.0
    if not 0 <= value <= 100:
        raise argparse.ArgumentTypeError(f"{text!r} is not between 0 and 100")
    return value


def run_encode(args: argparse.Namespace) -> int:
    """Encode; 0 if it went well."""
    from codec.files.paths import atomic_output
    from codec.image.base import ImageCodec
    from codec.image.pictures import read_picture
    from codec.image.presets import find_image_preset
    from codec.image.settings import EncodeSettings
    from tui.preview import preview_png
    from tui.terminal.console import Bar, note
    from tui.terminal.steps import show_search

    if args.no_search and (args.iterations is not None or args.budget is not None or args.fast):
        raise UsageError("--no-search leaves nothing for --iterations, --budget or --fast to limit")
    if args.no_search and args.method is not None:
        raise UsageError("--no-search leaves nothing to do by --method")
    if args.fast and (args.iterations is not None or args.budget is not None):
        raise UsageError("--fast is a number of iterations of its own")
    check_outputs([args.input, args.model], [args.output, args.preview], force=args.force)
    settings = EncodeSettings(
        bpp=args.bpp, ratio=args.ratio, quality=args.quality, iterations=args.iterations,
        budget=args.budget, fast=args.fast, search=not args.no_search, tune=args.tune,
        entropy=args.entropy, places=args.places, method=args.method,
    )  # fmt: skip
    # Before the model: a misspelt name should not take seconds to be noticed.
    find_image_preset(args.preset)
    picture = read_picture(args.input)
    for line in picture.notes:
        note(line)
    with contextlib.ExitStack() as outputs:
        # Opened before the search: a place that cannot be written to is no surprise at its end.
        file = outputs.enter_context(atomic_output(args.output, force=args.force))
        shown = args.preview and outputs.enter_context(
            atomic_output(args.preview, force=args.force)
        )
        codec = ImageCodec.load(args.preset, args.device, args.model)
        with Bar("encode") as bar:
            data = codec.encode(picture, settings, progress=lambda now: show_search(bar, now))
        file.write(data)
        if shown:
            shown.write(preview_png(picture, codec.decode(data)))
    asked = settings.bpp is not None or settings.ratio is not None
    allowed = settings.allowed_bytes(picture)
    if asked and allowed and len(data) < _MUCH_LESS * allowed:
        note(
            f"the file takes {len(data)} of the {allowed} bytes allowed: this preset has "
            "nothing closer for this picture"
        )
    return 0


def run_decode(args: argparse.Namespace) -> int:
    """Decode; 0 if it went well, damage that could be worked around included."""
    from codec.files.paths import atomic_output
    from codec.image.base import ImageCodec
    from codec.image.container import read_image
    from codec.image.pictures import left_out, picture_bytes, save_format
    from codec.image.presets import numbered_image_preset
    from tui.terminal.console import note

    check_outputs([args.input, args.model], [args.output], force=args.force)
    form = save_format(args.output)
    file = read_image(_read(args.input))
    header = file.header
    preset = numbered_image_preset(header.preset).name
    with needing(args.input, header.model_id, preset, args.model):
        codec = ImageCodec.load(preset, args.device, args.model)
    picture: Picture = codec.decode_file(file)
    image = picture.image()
    with atomic_output(args.output, force=args.force) as target:
        target.write(picture_bytes(image, form))
    for line in [*picture.notes, *left_out(image, form)]:
        note(line)
    return 0


def run_info(args: argparse.Namespace) -> int:
    """Describe; 0 if the file could be read, whatever state it is in."""
    from codec.image.container import read_image
    from codec.image.presets import IMAGE_PRESETS

    file = read_image(_read(args.input))
    found = as_dict(file)
    preset = IMAGE_PRESETS.get(str(found["preset"]))
    if args.model is not None and preset is not None:
        from codec.image.base import ImageCodec  # only here: this imports torch

        with needing(args.input, file.header.model_id, preset.name, args.model):
            ImageCodec.load(preset.name, "cpu", args.model).require_model(file)
    place = place_of(file.header.model_id, None if preset is None else preset.model, args.model)
    if args.json:
        print(json.dumps({**found, "model": place}, indent=2))
    else:
        found["model_id"] = named(file.header.model_id, place)
        print("\n".join(f"{name:<16} {value}" for name, value in found.items()))
    return 0


def as_dict(file: ImageFile) -> dict[str, object]:
    """The answer of `info`: one flat object."""
    from codec.errors import BadStream
    from codec.image.presets import numbered_image_preset

    header = file.header
    try:
        preset = numbered_image_preset(header.preset).name
    except BadStream:
        preset = f"number {header.preset}"
    known = [p for p in file.payloads if p is not None]
    return {
        "preset": preset,
        "model_id": header.model_id,
        "width": header.width,
        "height": header.height,
        "grey": header.grey,
        "alpha": header.alpha,
        "quality": max((p.quality for p in known), default=None),
        "entropy": ", ".join(sorted({p.entropy.name.lower() for p in known})) or None,
        "tiles": len(file.payloads),
        "damaged_tiles": file.damaged_tiles,
        "payload_bytes": sum(len(p.data) for p in known),
        "file_bytes": file.size,
        "bits_per_pixel": round(file.bits_per_pixel, 4),
        "integrity": ", ".join(file.notes) or "intact",
    }


def _read(path: str) -> bytes:
    from codec.files.paths import open_input, os_errors
    from codec.image.container import MAX_FILE

    with open_input(path) as file, os_errors("read", path):
        return file.read(MAX_FILE + 1)
