"""How a training or a benchmark ends: its exit status, and one line on stderr that says why."""

from __future__ import annotations

from collections.abc import Callable

from codec.console import note
from codec.errors import SottoError
from models.training.interruption import Interruption


def status_of(work: Callable[[], None], interruption: Interruption | None = None) -> int:
    """Do the work. 0, 1 failed, 130 interrupted at once, 128 + the signal that stopped it.

    interruption: what the work looks at between two steps, if it can be stopped that way.
    """
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
    if interruption is not None and interruption.number:
        note("stopped; the checkpoint is written, the same command goes on from it")
        return 128 + interruption.number
    return 0
