"""Virtual sound cards and two hosts on one machine, for tests and benchmarks.

Nothing in the live link needs this package; it needs PulseAudio, iproute2 and (for hosts) root.
"""

from __future__ import annotations

import contextlib
import os
import subprocess
from collections.abc import Sequence

from codec.errors import SottoError


class RigError(SottoError):
    """The rig cannot be set up on this machine."""


def end(process: subprocess.Popen[bytes]) -> None:
    """Terminate a process, kill it if it does not end, and collect it."""
    if process.poll() is None:
        with contextlib.suppress(ProcessLookupError):
            process.terminate()
        try:
            process.wait(10.0)
        except subprocess.TimeoutExpired:
            process.kill()
    process.wait()
    for pipe in (process.stdin, process.stdout, process.stderr):
        if pipe is not None:
            with contextlib.suppress(OSError):
                pipe.close()


def prefer(task: int) -> None:
    """Give a process or thread priority where that is allowed: nothing slows down a real card."""
    with contextlib.suppress(OSError):
        os.setpriority(os.PRIO_PROCESS, task, -11)


def command(argv: Sequence[str], env: dict[str, str] | None = None) -> str:
    """Run a short command and return what it prints. Raises RigError with its last line."""
    try:
        done = subprocess.run(argv, capture_output=True, text=True, timeout=60, env=env)
    except (OSError, subprocess.TimeoutExpired) as error:
        raise RigError(f"cannot run {argv[0]}: {error}") from error
    if done.returncode:
        said = (done.stderr or done.stdout).strip().splitlines()
        raise RigError(f"{' '.join(argv)}: {said[-1] if said else done.returncode}")
    return done.stdout
