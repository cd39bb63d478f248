"""`sotto train SUBJECT ...`; for several GPUs, `torchrun ... -m models.train SUBJECT ...`."""

from __future__ import annotations

import signal
import sys
from collections.abc import Sequence
from types import FrameType

from models.subjects import run_subject

_SUBJECTS = {
    "speech": "models.training.command",
    "paper": "models.training.paper_command",
    "image": "models.training.image.command",
    "image-paper": "models.training.image.paper_command",
    "ganz": "models.training.ganz_command",
}


def main(argv: Sequence[str]) -> int:
    """Train: argv is e.g. ["speech", "--data", "DIR", "--work", "DIR"].

    Returns the exit status: 0, 1 for a failure with one line on stderr, 2 for wrong usage, 128 plus
    the number of the signal that stopped it.
    """
    return run_subject("train", _SUBJECTS, argv)


def _terminate(number: int, frame: FrameType | None) -> None:
    """SIGTERM unwinds the stack, so that half-written folders are removed."""
    raise SystemExit(128 + number)


if __name__ == "__main__":
    signal.signal(signal.SIGTERM, _terminate)
    sys.exit(main(sys.argv[1:]))
