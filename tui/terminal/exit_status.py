"""Exit status of a command, and the line on stderr that explains a failure."""

from __future__ import annotations

import contextlib
import os
import signal
from collections.abc import Callable, Iterator

from codec.errors import BadInput, SottoError
from codec.files.paths import display_name, reason
from tui.terminal.console import note

DONE, FAILED, USAGE = 0, 1, 2
INTERRUPTED = 128 + signal.SIGINT
READER_GONE = 128 + 13  # SIGPIPE, which not every system has
DEBUG = "SOTTO_DEBUG"
_OURS = ("codec", "models", "stream", "tui")


def exit_status(work: Callable[[], int]) -> int:
    """Do the work and return its exit status; whatever it raises becomes one.

    A command only raises: SottoError, OSError and MemoryError are failures, KeyboardInterrupt an
    interruption, SystemExit is its own status (128 + the number of the signal that ended it).
    """
    try:
        return work()
    except SystemExit as error:
        if error.code is None or isinstance(error.code, int):
            return error.code or DONE
        note(str(error.code))
    except KeyboardInterrupt:
        note("interrupted")
        return INTERRUPTED
    except BrokenPipeError:
        return READER_GONE
    except SottoError as error:
        note(str(error))
    except MemoryError:
        note("out of memory")
    except OSError as error:
        where = display_name(error.filename) + ": " if error.filename is not None else ""
        note(where + reason(error))
    except Exception as error:
        if os.environ.get(DEBUG):
            raise
        text = " ".join(str(error).split())
        note(f"unexpected {type(error).__name__}: {text} (set {DEBUG}=1 to see where)")
    return FAILED


@contextlib.contextmanager
def extra(name: str) -> Iterator[None]:
    """Around imports: BadInput names the extra of sotto that a missing package belongs to."""
    try:
        yield
    except ImportError as error:
        if (error.name or "").split(".")[0] in _OURS:
            raise
        raise BadInput(f"{error}: install sotto with its {name} extra, sotto[{name}]") from error
