"""Kernels that are compiled ahead of time."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pytest
from numpy.typing import NDArray

from codec.kernels import kernel
from codec.kernels.ahead import Record, ahead_of_time

ROOT = Path(__file__).parents[1]
Doubles = NDArray[np.float64]


class Line(NamedTuple):
    slopes: Doubles
    offset: float


@kernel()
def on_line(line: Line, k: int, x: float) -> float:
    return line.slopes[k] * x + line.offset


@ahead_of_time(Record(Line, "f8[::1]", "f8"), "f4[:,::1]", "f8[:,::1]", "i4", "b1")
@kernel()
def on_lines(line: Line, x: NDArray[np.float32], y: Doubles, first: int, negative: bool) -> None:
    for row in range(first, x.shape[0]):
        for k in range(x.shape[1]):
            found = on_line(line, k, x[row, k])
            y[row, k] = -found if negative else found


@ahead_of_time("f8[::1]")
@kernel()
def allocating(values: Doubles) -> None:
    turned = np.empty(len(values))
    for k in range(len(values)):
        turned[-1 - k] = values[k]
    for k in range(len(values)):
        values[k] = turned[k]


LINE = Line(np.array([1.0, -2.0, 0.5]), 0.25)
X = np.arange(12, dtype=np.float32).reshape(4, 3)


@pytest.mark.parametrize("negative", [False, True])
def test_arguments_of_all_kinds_arrive(negative: bool) -> None:
    y = np.zeros((4, 3))
    on_lines(LINE, X, y, np.int64(1), negative)
    expected = (LINE.slopes * X + LINE.offset) * (-1.0 if negative else 1.0)
    expected[0] = 0.0
    assert np.array_equal(y, expected)


def test_arguments_given_once_serve_many_calls() -> None:
    x, y = X.copy(), np.zeros((4, 3))
    call = on_lines.bound(LINE, x, y)
    call(3, False)
    assert not y[:3].any() and np.array_equal(y[3], LINE.slopes * X[3] + LINE.offset)
    x += 1.0
    call(0, False)
    assert np.array_equal(y, LINE.slopes * (X + 1.0) + LINE.offset)


@pytest.mark.parametrize(
    "x",
    [X.astype(np.float64), X.ravel(), np.asfortranarray(X), X[:, ::2], X[None]],
    ids=["type", "fewer", "order", "strides", "more"],
)
def test_arrays_of_other_types_are_refused(x: NDArray[np.floating]) -> None:
    with pytest.raises(TypeError, match="contiguous float32 arrays of 2 dimensions"):
        on_lines(LINE, x, np.zeros((4, 3)), 0, False)


@pytest.mark.parametrize("given", [(), (0,), (0, False, 1)])
def test_arguments_are_counted(given: tuple[int, ...]) -> None:
    with pytest.raises(ValueError, match="zip"):
        on_lines(LINE, X, np.zeros((4, 3)), *given)


def test_what_needs_numba_to_run_is_refused() -> None:
    with pytest.raises(RuntimeError, match="allocating cannot run without numba"):
        allocating(np.zeros(3))


def test_object_code_is_kept_until_it_is_of_no_use(tmp_path: Path) -> None:
    module, cache = tmp_path / "adding.py", tmp_path / "cache"
    written = (
        "from codec.kernels import kernel\n"
        "from codec.kernels.ahead import ahead_of_time\n"
        "WHAT = 1.0\n\n"
        '@ahead_of_time("f8[::1]")\n'
        "@kernel()\n"
        "def add(values):\n"
        "    for k in range(len(values)):\n"
        "        values[k] += WHAT\n"
    )
    program = (
        "import sys, numpy, adding\n"
        "values = numpy.zeros(2)\n"
        "adding.add(values)\n"
        "print(values.tolist(), 'numba' in sys.modules)\n"
    )
    environment = os.environ | {
        "NUMBA_CACHE_DIR": str(cache), "PYTHONPATH": f"{ROOT}:{tmp_path}",
        "NUMBA_OPT": "0", "PYTHONDONTWRITEBYTECODE": "1",
    }  # fmt: skip

    def run() -> str:
        return subprocess.run(
            [sys.executable, "-c", program], env=environment, capture_output=True, text=True,
            check=True,
        ).stdout  # fmt: skip

    def kept() -> Path:
        (found,) = cache.glob("adding.add.*.o")
        return found

    module.write_text(written)
    assert run() == "[1.0, 1.0] True\n"
    first = kept().read_bytes()
    assert run() == "[1.0, 1.0] False\n"
    kept().write_bytes(first[:-1])
    assert run() == "[1.0, 1.0] True\n"
    assert kept().read_bytes() == first
    module.write_text(written.replace("1.0", "2.0"))
    assert run() == "[2.0, 2.0] True\n"
    assert len(list(cache.glob("adding.*.o"))) == 1
