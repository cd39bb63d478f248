"""`sotto bench SUBJECT DIR`: measurements against the peers that are installed."""

from __future__ import annotations

import importlib
import importlib.util
import sys
from collections.abc import Sequence

# Each names a module with `main(argv) -> int`; imported late, since they load much.
_SUBJECTS = {"speech": "models.evaluation.bench", "image": "models.evaluation.image_bench"}


def main(argv: Sequence[str]) -> int:
    """Run a benchmark: argv is e.g. ["speech", "DIR", "--json", "out.json"].

    Returns the exit status: 0, 1 for a failure with one line on stderr, 2 for wrong usage.
    """
    subjects = {
        name: module for name, module in _SUBJECTS.items() if importlib.util.find_spec(module)
    }
    usage = f"usage: sotto bench {{{','.join(subjects)}}} DIR [options]"
    if argv and argv[0] in ("-h", "--help"):
        print(f"{usage}\n\nsotto bench speech --help tells the options.")
        return 0
    if not argv or argv[0] not in subjects:
        print(usage, file=sys.stderr)
        return 2
    try:
        benchmark = importlib.import_module(subjects[argv[0]])
    except ImportError as error:
        if (error.name or "").split(".")[0] in ("codec", "models"):
            raise
        print(f"sotto: {error}: install sotto with its bench extra, sotto[bench]", file=sys.stderr)
        return 1
    return int(benchmark.main(list(argv[1:])))


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
