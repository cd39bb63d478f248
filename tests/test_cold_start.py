"""What decoding a file loads: nothing that only encoding, calls, screens or measurements need."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
# Each takes a tenth of a second to import, or more, or belongs to another part of the product.
UNNEEDED = (
    "av", "librosa", "livekit", "ltfatpy", "matplotlib", "models.evaluation", "models.training",
    "onnx", "onnxruntime", "PIL", "ray", "rich", "scipy.fft", "scipy.ndimage", "scipy.signal",
    "shtab", "sklearn", "sounddevice", "soxr", "stream", "sympy", "textual", "torch._dynamo",
    "torch._inductor", "torch.onnx", "zmq",
)  # fmt: skip
PROGRAM = """
import sys
from tui.cli import main

assert main(sys.argv[1:]) == 0
print(*sorted(sys.modules), sep="\\n")
"""


def test_decoding_loads_what_it_needs(tmp_path: Path) -> None:
    coded = ROOT / "tests" / "golden" / "speech_range.sotto"
    words = ["decode", "--device", "cpu", str(coded), str(tmp_path / "talk.wav")]
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM, *words], cwd=ROOT, capture_output=True, text=True,
        check=True,
    )  # fmt: skip
    loaded = set(done.stdout.split())
    assert {"torch", "numba"} <= loaded
    found = {
        name for name in loaded for each in UNNEEDED if name == each or name.startswith(each + ".")
    }
    assert not found
