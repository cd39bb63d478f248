"""The subcommands: one module each, with `add_arguments(parser)` and `run(args) -> int`.

Modules here import nothing heavy at the top: the help of a command must appear at once.
"""

from __future__ import annotations

import argparse
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    Subparsers = argparse._SubParsersAction[argparse.ArgumentParser]

# What the help says of each, in its order: it is printed without reading their modules.
COMMANDS = {
    "encode": "audio to a .sotto file",
    "decode": "a .sotto file to audio",
    "transcode": "encode and decode, and report bitrate, quality and speed",
    "info": "what a .sotto file holds",
    "image": "pictures to .stim files and back",
    "listen": "wait for a voice call",
    "call": "call a machine that listens",
    "keygen": "make a key pair for secured calls",
    "peers": "whom we know: list, add, rename, verify, forget",
    "devices": "audio devices and the rates they accept",
    "check": "try microphone, ears, speed and ports before a call",
    "train": "train the networks",
    "export": "the networks in another format",
    "bench": "quality, bitrate and speed against other codecs; latency of the live link",
    "completion": "a script by which a shell completes commands and options",
}
