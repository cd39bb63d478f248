"""The systemd unit: its command line is valid, and it may write where it needs to."""

from __future__ import annotations

import re
import shlex
import shutil
import subprocess
from pathlib import Path

import pytest

from stream.link.proxy import CONNECTIONS
from tui.cli import build_parser

UNIT = Path(__file__).parents[1] / "docs" / "sotto-listen.service"


def values(key: str) -> list[str]:
    return re.findall(rf"^{key}=(.*)$", UNIT.read_text(), re.MULTILINE)


def test_its_command_line_is_understood() -> None:
    (line,) = values("ExecStart")
    args = build_parser().parse_args(shlex.split(line)[1:])
    assert args.command == "listen" and args.headless and args.keep
    # A file that grows by the second needs somebody who reads and bounds it.
    assert args.stats_json is None and args.record is None


def test_what_it_writes_has_a_place() -> None:
    assert values("ProtectSystem") == ["strict"]
    places = [f"/var/lib/{name}" for name in values("StateDirectory")]
    places += [f"/var/cache/{name}" for name in values("CacheDirectory")]
    variables = dict(value.split("=", 1) for value in values("Environment"))
    assert variables["SOTTO_HOME"] in places  # keys
    assert variables["NUMBA_CACHE_DIR"] in places  # compiled kernels
    assert values("PrivateTmp") == ["true"]  # the socket before the one that is reached


@pytest.mark.skipif(shutil.which("systemd-analyze") is None, reason="no systemd")
def test_systemd_understands_it(tmp_path: Path) -> None:
    unit = tmp_path / UNIT.name
    text, count = re.subn(r"^ExecStart=\S+", "ExecStart=/bin/true", UNIT.read_text(), flags=re.M)
    assert count == 1
    unit.write_text(text)
    done = subprocess.run(["systemd-analyze", "verify", unit], capture_output=True, timeout=60)
    assert done.returncode == 0
    assert UNIT.name.encode() not in done.stderr  # what it says of other units is not ours


def test_sound_remains_possible() -> None:
    assert values("SupplementaryGroups") == ["audio"]
    assert values("DeviceAllow") == ["char-alsa rw"]
    assert {*values("PrivateDevices"), *values("RestrictRealtime")} <= {"false", "no"}
    # Compiled kernels are written and then executed; their threads have priorities of their own.
    assert {*values("MemoryDenyWriteExecute")} <= {"false", "no"}
    assert not any("@resources" in value for value in values("SystemCallFilter"))


def test_there_are_descriptors_for_all_connections() -> None:
    (most,) = values("LimitNOFILE")
    assert int(most) > 2 * 3 * CONNECTIONS + 200  # on two ports, and for everything else
    assert {"AF_INET", "AF_INET6", "AF_UNIX"} <= {*values("RestrictAddressFamilies")[0].split()}


@pytest.mark.skipif(shutil.which("systemd-analyze") is None, reason="no systemd")
def test_what_it_is_exposed_to_is_little() -> None:
    command = ["systemd-analyze", "security", "--offline=true", "--threshold=25", str(UNIT)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60)
    if "unrecognized option" in done.stderr:
        pytest.skip("systemd-analyze knows no --offline (systemd before 250)")
    assert done.returncode == 0, done.stdout
