"""Kernels that are compiled where no cache can be written, or while signals arrive."""

from __future__ import annotations

import os
import re
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]


def test_kernels_run_where_no_cache_can_be_written(tmp_path: Path) -> None:
    for package in ("codec", "models"):
        left_out = shutil.ignore_patterns("__pycache__", "weights")
        shutil.copytree(ROOT / package, tmp_path / package, ignore=left_out)
        for folder in (tmp_path / package).rglob("*/"):
            (folder / "__pycache__").touch()  # a file: nobody makes a folder of it
        (tmp_path / package / "__pycache__").touch()
    environment = {k: v for k, v in os.environ.items() if not k.startswith("NUMBA_")}
    nowhere = tmp_path / "codec" / "__pycache__" / "home"
    environment |= {"HOME": str(nowhere), "XDG_CACHE_HOME": str(nowhere)}
    environment["NUMBA_OPT"] = "0"  # compiled in less time; how fast they are does not matter
    # Two that are compiled when called, and one ahead of time.
    code = (
        "import numpy as np, codec\n"
        "from codec.entropy.range_coder import decode_flags, encode_flags\n"
        "from models.inference.kernels import gelu_ahead\n"
        "coded = encode_flags(np.array([1, 0, 1], np.uint8))\n"
        "gelu_ahead(np.zeros(1, np.float32), np.zeros(1, np.float32))\n"
        "print(codec.__file__, decode_flags(coded, 3).tolist())\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, cwd=tmp_path, env=environment
    )
    assert done.stdout.decode() == f"{tmp_path}/codec/__init__.py [1, 0, 1]\n", done.stderr


def test_every_kernel_is_compiled_the_same_way() -> None:
    users = [
        path.relative_to(ROOT)
        for package in ("codec", "models", "stream", "tui")
        for path in (ROOT / package).rglob("*.py")
        if re.search(r"^\s*(import|from) numba\b", path.read_text(), re.MULTILINE)
    ]
    assert users == [Path("codec/kernels/__init__.py")]


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_while_a_kernel_is_compiled_ends_the_program(
    tmp_path: Path, number: signal.Signals
) -> None:
    # As LLVM hands over what it has compiled, in a callback that nothing gets out of.
    code = (
        "import os, signal\n"
        "import numpy as np\n"
        "from numba.core.codegen import CPUCodeLibrary\n"
        "from tui.terminal.signals import unwinding\n"
        "handed = CPUCodeLibrary._object_compiled_hook.__func__\n"
        "def interrupted(cls, module, code):\n"
        f"    os.kill(os.getpid(), {int(number)})\n"
        "    handed(cls, module, code)\n"
        "CPUCodeLibrary._object_compiled_hook = classmethod(interrupted)\n"
        "from codec.entropy.range_coder import encode_flags\n"
        "with unwinding():\n"
        "    encode_flags(np.zeros(3, np.uint8))\n"
        "print('went on')\n"
    )
    environment = os.environ | {"NUMBA_CACHE_DIR": str(tmp_path), "NUMBA_OPT": "0"}
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, env=environment, capture_output=True, text=True
    )
    ended = 128 + number if number == signal.SIGTERM else -number
    assert (done.returncode, done.stdout) == (ended, ""), done.stderr
    assert "ignored" not in done.stderr
