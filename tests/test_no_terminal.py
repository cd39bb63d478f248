"""A call where no screen can be drawn: it ends at once, says why, and draws nothing."""

from __future__ import annotations

import contextlib
import fcntl
import os
import pty
import select
import signal
import struct
import subprocess
import sys
import termios
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).resolve().parents[1]
# The program, whose calls are faked, and where loading anything is a failure.
PROGRAM = """
import sys
import stream.call.call
from tests.fake_call import SCENES
from tests.test_live import Running, load
from tui import live
from tui.cli import main

class Ending(Running):
    made = []

    def hang_up(self):
        super().hang_up()
        self.scene = SCENES["ended"]

stream.call.call.Call = Ending
live._load = load if "loaded" in sys.argv[1] else lambda args: sys.exit(99)
sys.exit(main(sys.argv[2:]))
"""
COMMANDS = (
    ["listen", "--bind", "127.0.0.1:0"],
    ["listen", "--bind", "127.0.0.1:0", "--seconds", "1"],
    ["call", "127.0.0.1:9", "--send-file", str(ROOT / "tests/clips/librispeech-672.flac")],
)
SILENT = ["--insecure", "--output", "none"]
ESCAPE = b"\x1b"


def command(words: list[str], loaded: str = "") -> list[str]:
    silent = SILENT if "--send-file" in words else [*SILENT, "--input", "none"]
    return [sys.executable, "-c", PROGRAM, loaded, *words, *silent]


def environment(**more: str) -> dict[str, str]:
    return {**os.environ, "PYTHONPATH": str(ROOT), "TERM": "xterm-256color", **more}


def read(descriptor: int, process: subprocess.Popen[bytes], seconds: float = 60.0) -> bytes:
    """All that is written to a terminal until the program ends. Fails if it does not."""
    written, limit = b"", time.monotonic() + seconds
    while time.monotonic() < limit:
        if select.select([descriptor], [], [], 0.05)[0]:
            try:
                written += os.read(descriptor, 65536)
            except OSError:  # the other end is closed
                break
        elif process.poll() is not None:
            break
    else:
        process.kill()
        pytest.fail(f"still running after {seconds} s: {written[-200:]!r}")
    process.wait(timeout=60)
    return written


@pytest.mark.parametrize("words", COMMANDS, ids=lambda words: " ".join(words[:1] + words[3:4]))
def test_without_any_terminal(words: list[str]) -> None:
    done = subprocess.run(
        command(words),
        env=environment(),
        stdin=subprocess.DEVNULL,
        capture_output=True,
        timeout=60,
    )
    assert done.returncode == 2
    assert done.stderr.endswith(b"there is no terminal to show the call on: add --headless\n")
    assert ESCAPE not in done.stdout + done.stderr
    assert done.stderr.count(b"\n") == 1


@pytest.mark.parametrize("lacking", ["stdin", "stderr", "closed stdin", "closed stderr"])
def test_with_part_of_a_terminal(lacking: str) -> None:
    """As in `sotto listen 2> log`, `sotto call < script`, and in programs that close both."""
    above, here = pty.openpty()
    streams: dict[str, Any] = {"stdin": here, "stdout": here, "stderr": here}
    words = command(list(COMMANDS[0]))
    if lacking.startswith("closed"):
        closing = "0<&-" if lacking.endswith("stdin") else "2>&-"
        words = ["sh", "-c", f'exec "$@" {closing}', "sh", *words]
    else:
        streams[lacking] = subprocess.DEVNULL
    with subprocess.Popen(words, env=environment(), **streams) as process:
        os.close(here)
        written = read(above, process)
    os.close(above)
    assert process.returncode == 2
    assert ESCAPE not in written


@pytest.mark.parametrize("name", ["", "dumb"])
def test_on_a_terminal_that_draws_nothing(name: str) -> None:
    above, here = pty.openpty()
    streams: dict[str, Any] = {"stdin": here, "stdout": here, "stderr": here}
    words = command(list(COMMANDS[0]))
    with subprocess.Popen(words, env=environment(TERM=name), **streams) as process:
        os.close(here)
        written = read(above, process)
    os.close(above)
    assert process.returncode == 2
    assert b"add --headless" in written and ESCAPE not in written


def test_without_a_terminal_headless_calls_go_on() -> None:
    done = subprocess.run(
        command([*COMMANDS[0], "--headless", "--seconds", "0.2"], "loaded"),
        env=environment(),
        stdin=subprocess.DEVNULL,
        capture_output=True,
        timeout=60,
    )
    assert done.returncode == 0
    assert ESCAPE not in done.stderr


def test_on_a_terminal_so_many_seconds_are_enough() -> None:
    """No key is pressed."""
    above, here = pty.openpty()
    streams: dict[str, Any] = {"stdin": here, "stdout": here, "stderr": here}
    words = command([*COMMANDS[0], "--seconds", "0.5"], "loaded")
    with subprocess.Popen(words, env=environment(), **streams) as process:
        os.close(here)
        written = read(above, process)
    os.close(above)
    assert process.returncode == 0
    assert ESCAPE in written  # there was a screen


@contextlib.contextmanager
def drawn(hang_up_is: signal.Handlers) -> Iterator[tuple[int, subprocess.Popen[bytes]]]:
    """A call with a screen whose voices move; its terminal, from this side, and its program."""
    above, here = pty.openpty()
    fcntl.ioctl(here, termios.TIOCSWINSZ, struct.pack("HHHH", 40, 140, 0, 0))
    streams: dict[str, Any] = {"stdin": here, "stdout": here, "stderr": here}
    words = [sys.executable, "-m", "tests.fake_call", "talking"]
    before = signal.signal(signal.SIGHUP, hang_up_is)  # which the program inherits
    try:
        process = subprocess.Popen(words, env=environment(), start_new_session=True, **streams)
    finally:
        signal.signal(signal.SIGHUP, before)
        os.close(here)
    try:
        seen = b""
        while b"latency" not in seen:
            assert select.select([above], [], [], 60.0)[0]
            seen += os.read(above, 65_536)
        yield above, process
    finally:
        process.kill()
        process.wait()
        with contextlib.suppress(OSError):
            os.close(above)


def test_a_terminal_that_stands_still_keeps_no_program_from_ending() -> None:
    with drawn(signal.SIG_DFL) as (_, process):
        time.sleep(6.0)  # nobody reads: all buffers are full by now
        process.terminate()
        assert process.wait(30.0) == 128 + signal.SIGTERM


def test_a_program_whose_terminal_has_gone_ends_though_nobody_says_so() -> None:
    with drawn(signal.SIG_IGN) as (above, process):  # as nohup does
        os.close(above)
        assert process.wait(30.0) == 128 + signal.SIGHUP
