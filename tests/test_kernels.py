"""Kernels that are compiled where no cache can be written."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

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
