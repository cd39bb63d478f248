"""Running systems over clips: each alone and in a process of its own, for honest time and memory.

Kept small in what it imports, since every measuring process imports it again.
"""

from __future__ import annotations

import multiprocessing
import os
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from codec.errors import SottoError
from models.evaluation.clips import Clip
from models.evaluation.systems import Coded, System, Unavailable, prepare, why_missing

CLIP_TIMEOUT_S = 900.0
START_TIMEOUT_S = 300.0
_MIN_DECODED = 0.5

Step = Callable[[str], None]


@dataclass
class Coding:
    """What one system made of all clips: `coded` in their order, or the reason it could not."""

    system: System
    coded: list[Coded] = field(default_factory=list)
    peak_bytes: int | None = None
    failure: str | None = None


def code_clips(
    system: System,
    clips: Sequence[Clip],
    *,
    isolate: bool = True,
    timeout_s: float = CLIP_TIMEOUT_S,
    step: Step = lambda name: None,
) -> Coding:
    """Run one system over all clips, one after the other.

    isolate: in a fresh process, whose peak memory is reported (the peak of the codec's own program
    if it is one); otherwise here, without a memory figure. A system that fails, dies or takes
    longer than `timeout_s` on a clip is reported as failed, with one line, and never half.
    """
    reason = why_missing(system)
    if reason is not None:
        return Coding(system, failure=reason)
    coding = Coding(system)
    try:
        if isolate:
            _code_isolated(coding, clips, timeout_s, step)
        else:
            prepare(system)
            for clip in clips:
                coding.coded.append(_checked(system.run(clip.samples), clip.samples))
                step(system.name)
    except SottoError as error:
        return Coding(system, failure=one_line(error))
    peaks = [coded.peak_bytes for coded in coding.coded if coded.peak_bytes is not None]
    if peaks:
        coding.peak_bytes = max(peaks)
    return coding


def _code_isolated(coding: Coding, clips: Sequence[Clip], timeout_s: float, step: Step) -> None:
    context = multiprocessing.get_context("spawn")
    here, there = context.Pipe(duplex=False)
    samples = [clip.samples for clip in clips]
    process = context.Process(target=_serve, args=(there, coding.system, samples), daemon=False)
    process.start()
    there.close()
    try:
        # The first message says that the system is loaded: that may take long, and is not timed.
        _receive(here, START_TIMEOUT_S, "starting")
        for clip in clips:
            coded = _receive(here, timeout_s, clip.name)
            coding.coded.append(_checked(coded, clip.samples))
            step(coding.system.name)
        coding.peak_bytes = _receive(here, START_TIMEOUT_S, "ending")
    finally:
        here.close()
        if coding.peak_bytes is None:
            process.terminate()
        process.join(10)
        if process.is_alive():
            process.kill()
            process.join()


def _receive(connection: Connection, timeout_s: float, where: str) -> Any:
    try:
        if not connection.poll(timeout_s):
            raise Unavailable(f"took longer than {timeout_s:g} s ({where})")
        kind, value = connection.recv()
    except EOFError:
        raise Unavailable(f"its process died ({where})") from None
    if kind == "error":
        raise Unavailable(value)
    return value


def _serve(connection: Connection, system: System, clips: Sequence[NDArray[np.float32]]) -> None:
    """The measuring process: load, code each clip, say what memory it took."""
    try:
        prepare(system)
        connection.send(("ready", None))
        for samples in clips:
            connection.send(("coded", system.run(samples)))
        connection.send(("peak", _own_peak_bytes()))
    except Exception as error:  # any failure of a codec becomes one line in the report
        connection.send(("error", one_line(error)))
    except KeyboardInterrupt:
        os._exit(1)


def _own_peak_bytes() -> int:
    """Peak resident memory of this process.

    On Linux from VmHWM, which starts anew when a program starts; ru_maxrss would carry over the
    peak of the process that started this one.
    """
    try:
        for line in Path("/proc/self/status").read_text().splitlines():
            if line.startswith("VmHWM:"):
                return int(line.split()[1]) * 1024
    except OSError:
        pass
    import resource

    scale = 1 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * scale


def _checked(coded: Coded, samples: NDArray[np.float32]) -> Coded:
    decoded = np.asarray(coded.decoded)
    if decoded.ndim != 1 or len(decoded) < _MIN_DECODED * len(samples):
        raise Unavailable(f"decoded {decoded.shape} samples of {len(samples)}")
    if not np.isfinite(decoded).all():
        raise Unavailable("decoded samples that are not finite numbers")
    return coded


def one_line(error: BaseException) -> str:
    """What went wrong as a single line; errors that are not ours also name their type."""
    text = " ".join(str(error).split()) or type(error).__name__
    return text if isinstance(error, SottoError) else f"{type(error).__name__}: {text}"
