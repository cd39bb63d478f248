"""What is installed, from where: PyTorch by its script, everything else in wheels."""

from __future__ import annotations

import os
import re
import subprocess
from dataclasses import dataclass
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
(TORCH,) = re.findall(
    r"^torch=(\S+)$", (ROOT / "scripts" / "install-torch").read_text(), re.MULTILINE
)


def dependencies() -> list[str]:
    text = (ROOT / "pyproject.toml").read_text()
    (listed,) = re.findall(r"^dependencies = \[(.*?)^\]", text, re.MULTILINE | re.DOTALL)
    return re.findall(r'"([\w-]+)', listed)


def test_the_product_needs_nothing_that_is_compiled() -> None:
    names = dependencies()
    assert "torch" in names and "numpy" in names
    assert not {"ltfatpy", "pesq"} & set(names)


def test_the_product_does_without_the_reference() -> None:
    users = {
        path.relative_to(ROOT).as_posix()
        for layer in ("codec", "models", "stream", "tui")
        for path in (ROOT / layer).rglob("*.py")
        if re.search(r"^\s*(import|from) ltfatpy", path.read_text(encoding="utf-8"), re.MULTILINE)
    }
    assert users == {"models/evaluation/phase.py"}


# It writes down what pip is asked for, and says what it was told of torch and of the index.
INTERPRETER = """\
#!/bin/sh
case "$*" in
    *urllib*) exit "$NO_INDEX" ;;
    "-c import torch") exit "$NO_TORCH" ;;
    *" install "*) printf '%s\\n' "${*#* install }" >> "$ASKED" ;;
esac
"""
CARDS = """\
#!/bin/sh
[ "$CARDS" != 0 ] && echo "GPU 0: NVIDIA"
"""


@dataclass
class Machine:
    """Where PyTorch is to be installed."""

    folder: Path
    has_torch: bool = False
    has_card: bool = False
    reaches_index: bool = False

    def installed(self, **variables: str) -> list[str]:
        """What pip is asked to install."""
        for name, program in (("python", INTERPRETER), ("nvidia-smi", CARDS)):
            (self.folder / name).write_text(program)
            (self.folder / name).chmod(0o755)
        asked = self.folder / "asked"
        asked.write_text("")
        told = {
            "PATH": f"{self.folder}{os.pathsep}{os.environ['PATH']}",
            "ASKED": str(asked),
            "NO_TORCH": str(int(not self.has_torch)),
            "NO_INDEX": str(int(not self.reaches_index)),
            "CARDS": str(int(self.has_card)),
        }
        known = {key: value for key, value in os.environ.items() if key != "TORCH_INDEX"}
        script = [ROOT / "scripts" / "install-torch", self.folder / "python"]
        subprocess.run(script, env=known | told | variables, check=True, capture_output=True)
        return asked.read_text().splitlines()


def test_without_a_card_pytorch_comes_without_cuda_if_that_can_be_had(tmp_path: Path) -> None:
    assert Machine(tmp_path).installed() == [TORCH]
    (asked,) = Machine(tmp_path, reaches_index=True).installed()
    assert re.fullmatch(rf"--retries 1 --index-url \S+/cpu {TORCH}", asked)


def test_with_a_card_pytorch_comes_with_cuda(tmp_path: Path) -> None:
    machine = Machine(tmp_path, has_card=True, reaches_index=True)
    assert machine.installed() == [TORCH]


@pytest.mark.parametrize("has_card", [False, True])
def test_another_index_can_be_named(tmp_path: Path, has_card: bool) -> None:
    machine = Machine(tmp_path, has_card=has_card, reaches_index=True)
    index = "https://example.org/simple"
    assert machine.installed(TORCH_INDEX=index) == [f"--retries 1 --index-url {index} {TORCH}"]
    assert machine.installed(TORCH_INDEX="") == [TORCH]


def test_a_pytorch_that_is_there_stays(tmp_path: Path) -> None:
    machine = Machine(tmp_path, has_torch=True, has_card=True)
    assert machine.installed() == []
    assert machine.installed(TORCH_INDEX="https://example.org/simple") == []
