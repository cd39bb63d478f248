"""A program of several subjects, each a module with `main(argv) -> int` of its own."""

from __future__ import annotations

import importlib
import importlib.util
import sys
from collections.abc import Mapping, Sequence

from codec.console import note


def run_subject(
    command: str, subjects: Mapping[str, str], argv: Sequence[str], arguments: str = "[options]"
) -> int:
    """Run `sotto COMMAND SUBJECT ...`: argv is the subject and what is meant for it.

    subjects: the module of each, imported only when it is asked for, since they load much. Returns
    its status; 2 for no known subject; 1 if a package of the extra named like COMMAND is absent.
    """
    known = [name for name, module in subjects.items() if importlib.util.find_spec(module)]
    usage = f"usage: sotto {command} {{{','.join(known)}}} {arguments}"
    if argv and argv[0] in ("-h", "--help"):
        print(f"{usage}\n\nsotto {command} speech --help tells the options.")
        return 0
    if not argv or argv[0] not in known:
        print(usage, file=sys.stderr)
        return 2
    try:
        subject = importlib.import_module(subjects[argv[0]])
    except ImportError as error:
        if (error.name or "").split(".")[0] in ("codec", "models"):
            raise
        note(f"{error}: install sotto with its {command} extra, sotto[{command}]")
        return 1
    return int(subject.main(list(argv[1:])))
