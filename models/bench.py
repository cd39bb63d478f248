"""`sotto bench SUBJECT DIR`: measurements against the peers that are installed."""

from __future__ import annotations

import sys
from collections.abc import Sequence

from models.subjects import run_subject

_SUBJECTS = {
    "speech": "models.evaluation.bench",
    "image": "models.evaluation.image_bench",
    "ganz": "models.evaluation.ganz_bench",
}


def main(argv: Sequence[str]) -> int:
    """Run a benchmark: argv is e.g. ["speech", "DIR", "--json", "out.json"].

    Returns the exit status: 0, 1 for a failure with one line on stderr, 2 for wrong usage.
    """
    return run_subject("bench", _SUBJECTS, argv, "DIR [options]")


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
