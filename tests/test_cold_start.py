"""What decoding or describing a file loads: nothing that only encoding, calls, screens or
measurements need."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from codec import SpeechCodec

ROOT = Path(__file__).resolve().parents[1]
# Each takes a hundredth of a second to import, or more, or belongs to another part of the product.
UNNEEDED = (
    "asyncio", "av", "importlib.metadata", "librosa", "livekit", "ltfatpy", "matplotlib",
    "models.evaluation", "models.training", "numba", "onnx", "onnxruntime", "PIL", "ray", "rich",
    "scipy", "shtab", "sklearn", "sounddevice", "soundfile", "soxr", "stream", "textual", "torch",
    "zmq",
)  # fmt: skip
PROGRAM = """
import sys
from tui.cli import main

assert main(sys.argv[1:]) == 0
print(*sorted(sys.modules), sep="\\n")
"""
MODEL = str(ROOT / "models" / "weights" / "speech")


@pytest.fixture(scope="module")
def coded(tmp_path_factory: pytest.TempPathFactory) -> str:
    """A coded second of sound, for which all kernels that decode it are compiled."""
    file = tmp_path_factory.mktemp("coded") / "talk.sotto"
    noise = np.random.default_rng(0).normal(0.0, 0.1, 16_000).astype(np.float32)
    data = SpeechCodec.load("2k").encode(noise, 16_000, search=False)
    file.write_bytes(data)
    SpeechCodec.load("2k", decoding=True).decode(data)
    return str(file)


@pytest.mark.parametrize(
    "words", [["decode", "CODED", "talk.wav"], ["info", "--model", MODEL, "CODED"]],
    ids=["decode", "info"],
)  # fmt: skip
def test_only_what_is_needed_is_loaded(tmp_path: Path, coded: str, words: list[str]) -> None:
    words = [coded if word == "CODED" else word for word in words]
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM, *words], cwd=tmp_path, capture_output=True, text=True,
        check=True, env={**os.environ, "PYTHONPATH": str(ROOT)},
    )  # fmt: skip
    loaded = set(done.stdout.split())
    assert "codec.kernels.ahead" in loaded
    found = {
        name for name in loaded for each in UNNEEDED if name == each or name.startswith(each + ".")
    }
    assert not found
