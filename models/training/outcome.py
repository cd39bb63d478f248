"""How a benchmark ends: its exit status, and one line on stderr that says why."""

from __future__ import annotations

from collections.abc import Callable

from codec.console import note
from codec.errors import SottoError


def status_of(work: Callable[[], None]) -> int:
    """Do the work. 0, 1 failed, 130 interrupted."""
    try:
        work()
    except SottoError as error:
        note(str(error))
        return 1
    except OSError as error:
        where = f"{error.filename}: " if error.filename else ""
        note(f"{where}{error.strerror or error}")
        return 1
    except KeyboardInterrupt:
        note("interrupted")
        return 130
    return 0
