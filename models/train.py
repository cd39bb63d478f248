"""`sotto train SUBJECT ...`; for several GPUs, `torchrun ... -m models.train SUBJECT ...`."""

from __future__ import annotations

import importlib
import importlib.util
import signal
import sys
from collections.abc import Sequence
from types import FrameType

# Each names a module with `main(argv) -> int`; imported late, since they load much.
_SUBJECTS = {
    "speech": "models.training.command",
    "paper": "models.training.paper_command",
    "image": "models.training.image.command",
}


def main(argv: Sequence[str]) -> int:
    """Train: argv is e.g. ["speech", "--data", "DIR", "--work", "DIR"].

    Returns the exit status: 0, 1 for a failure with one line on stderr, 2 for wrong usage, 128 plus
    the number of the signal that stopped it.
    """
    subjects = {
        name: module for name, module in _SUBJECTS.items() if importlib.util.find_spec(module)
    }
    usage = f"usage: sotto train {{{','.join(subjects)}}} [options]"
    if argv and argv[0] in ("-h", "--help"):
        print(f"{usage}\n\nsotto train speech --help tells the options.")
        return 0
    if not argv or argv[0] not in subjects:
        print(usage, file=sys.stderr)
        return 2
    try:
        subject = importlib.import_module(subjects[argv[0]])
    except ImportError as error:
        if (error.name or "").split(".")[0] in ("codec", "models"):
            raise
        print(f"sotto: {error}: install sotto with its train extra, sotto[train]", file=sys.stderr)
        return 1
    return int(subject.main(list(argv[1:])))


def _terminate(number: int, frame: FrameType | None) -> None:
    """SIGTERM unwinds the stack, so that half-written folders are removed."""
    raise SystemExit(128 + number)


if __name__ == "__main__":
    signal.signal(signal.SIGTERM, _terminate)
    sys.exit(main(sys.argv[1:]))
