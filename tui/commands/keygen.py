"""`sotto keygen [FILE]`: a key pair for secured calls."""

from __future__ import annotations

import argparse
import json


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Describe the command and add its arguments."""
    parser.description = (
        "Make a key pair. The private key is written to FILE, for you alone; give the "
        "public one, FILE.pub, to those you talk to."
    )
    parser.add_argument("file", metavar="FILE", nargs="?", help="default: ~/.config/sotto/key")
    parser.add_argument("--force", action="store_true", help="replace a pair that is there")
    parser.add_argument("--name", default="", help="what to call you beside the public key")
    parser.add_argument("--json", action="store_true", help="for programs")
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    """Make a pair; 0 once both files are written."""
    from codec.files.paths import PIPE, display_name
    from stream.link.keys import default_key_path, generate, public_path, write_key_pair
    from tui.terminal.errors import UsageError

    if args.file == PIPE:
        raise UsageError("a private key is written to a file only")
    path = default_key_path() if args.file is None else args.file
    pair = generate()
    write_key_pair(pair, path, force=args.force, name=args.name)
    if args.json:
        answer = {
            "public": pair.public,
            "fingerprint": pair.fingerprint,
            "file": str(path),
            "public_file": str(public_path(path)),
        }
        print(json.dumps(answer, indent=2))
        return 0
    print(f"public key   {pair.public}")
    print(f"fingerprint  {pair.fingerprint}")
    private, public = display_name(path), display_name(public_path(path))
    print(f"written to   {private} (keep it secret) and {public} (give it away)")
    return 0
