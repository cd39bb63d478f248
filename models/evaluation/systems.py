"""What is measured: anything that codes 16 kHz speech and says what it cost.

A `System` is a name and a `run` method. Optional attributes and methods refine it: `family` (the
line it belongs to in a plot), `missing()` (why it cannot run here, or None) and `prepare()` (load
and warm up, outside the timing).
"""

from __future__ import annotations

import importlib
import inspect
import time
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from io import BytesIO
from typing import Any, Protocol, runtime_checkable

import numpy as np

from codec.container import ContainerReader
from codec.errors import SottoError
from codec.signal.samples import SAMPLE_RATE, FloatArray
from codec.speech.presets import PRESETS


@dataclass(frozen=True)
class Coded:
    """One clip through one system.

    decoded: [m] float32 at 16 kHz. payload_bits: what the codec itself wrote; total_bits: with the
    frame or packet headers it needs, without the file container around them. encode_s, decode_s:
    wall-clock seconds. peak_bytes: peak resident memory, where the system runs as another program
    (None: it runs in this process, which is measured as a whole).
    """

    decoded: FloatArray
    payload_bits: int
    total_bits: int
    encode_s: float
    decode_s: float
    peak_bytes: int | None = None


@runtime_checkable
class System(Protocol):
    """Codes speech. `run` takes [n] float32 samples at 16 kHz, full scale 1."""

    @property
    def name(self) -> str: ...

    def run(self, samples: FloatArray) -> Coded: ...


class Unavailable(SottoError):
    """This system cannot run here; the reason is one line."""


def family(system: System) -> str:
    """The plot line a system belongs to: its `family`, or its own name."""
    return str(getattr(system, "family", system.name))


def why_missing(system: System) -> str | None:
    """Why a system cannot run here, without loading it; None if nothing speaks against it."""
    ask = getattr(system, "missing", None)
    return ask() if ask is not None else None


def prepare(system: System) -> None:
    """Load and warm up a system, if it has anything to load."""
    ready = getattr(system, "prepare", None)
    if ready is not None:
        ready()


@dataclass(frozen=True)
class Original:
    """The clips themselves as 16-bit samples: the anchor of every score."""

    name: str = "original"
    family: str = "original"

    def run(self, samples: FloatArray) -> Coded:
        bits = 16 * len(samples)
        return Coded(samples, bits, bits, 0.0, 0.0)


@dataclass(frozen=True)
class SottoSystem:
    """A preset of sotto with encoder options, e.g. {"search": False} or {"iterations": 30}.

    The options are passed to `SpeechCodec.encode` as they are; `prepare` raises Unavailable if the
    preset cannot be loaded or the encoder does not know an option.
    """

    name: str
    preset: str
    options: Mapping[str, Any] = field(default_factory=dict)
    family: str = "sotto"
    device: str = "auto"

    def missing(self) -> str | None:
        try:
            importlib.import_module("codec.speech.codec")
        except ImportError as error:
            return f"the speech codec cannot be imported: {error}"
        return None

    def prepare(self) -> None:
        codec = _load(self.preset, self.device)
        known = inspect.signature(codec.encode).parameters
        for option in self.options:
            if option not in known:
                raise Unavailable(f"the encoder has no option {option!r}")
        noise = np.random.default_rng(0).normal(0, 0.05, SAMPLE_RATE).astype(np.float32)
        self.run(noise)

    def run(self, samples: FloatArray) -> Coded:
        codec = _load(self.preset, self.device)
        start = time.perf_counter()
        data = codec.encode(samples, SAMPLE_RATE, **self.options)
        encoded = time.perf_counter()
        decoded = codec.decode(data)
        done = time.perf_counter()
        payload, total = container_bits(data)
        return Coded(
            np.asarray(decoded, np.float32), payload, total, encoded - start, done - encoded
        )


def container_bits(data: bytes) -> tuple[int, int]:
    """(payload bits, bits with packet headers and checksums) of a `.sotto` container."""
    reader = ContainerReader(BytesIO(data))
    for _ in reader:
        pass
    return 8 * reader.payload_bytes, 8 * reader.packet_bytes


@lru_cache(maxsize=2)
def _load(preset: str, device: str) -> Any:
    try:
        speech = importlib.import_module("codec.speech.codec")
    except ImportError as error:
        raise Unavailable(f"the speech codec cannot be imported: {error}") from None
    return speech.SpeechCodec.load(preset, device)


def default_presets() -> list[str]:
    """The presets `codec.speech.codec.PRESETS` names; just "2k" where there is no such list."""
    try:
        names = getattr(importlib.import_module("codec.speech.codec"), "PRESETS", ())
    except ImportError:
        names = ()
    return [str(name) for name in names] or ["2k"]


def sotto_systems(
    presets: Iterable[str],
    iterations: Sequence[int] = (),
    *,
    without_search: bool = True,
    live: bool = False,
    device: str = "auto",
) -> list[System]:
    """Each preset with its own search, then with given iteration counts, then without search.

    live: also one frame at a time, as a live encoder must.
    """
    systems: list[System] = []
    for preset in presets:
        name = f"sotto {preset}"
        line = _line(preset)
        systems.append(SottoSystem(name, preset, {}, line, device=device))
        if live:
            label, alone = f"{name}, frame by frame", {"group": 1}
            systems.append(SottoSystem(label, preset, alone, f"{line}, live", device=device))
        for count in iterations:
            label = f"{name}, {count} steps"
            options = {"iterations": count}
            systems.append(
                SottoSystem(label, preset, options, f"{line}, {count} steps", device=device)
            )
        if without_search:
            systems.append(
                SottoSystem(
                    f"{name}, no search",
                    preset,
                    {"search": False},
                    f"{line}, no search",
                    device=device,
                )
            )
    return systems


def _line(preset: str) -> str:
    """The plot line of a preset: one for the presets that share the speech weights."""
    known = PRESETS.get(preset)
    return "sotto" if known is None or known.family == "speech" else f"sotto {preset}"


# The first paper compares its search, ADMM, with plain back-propagation followed by one rounding;
# ours ends with moves of single indices.
SEARCHES: Mapping[str, Mapping[str, Any]] = {
    "back-propagation": {"method": "backprop"},
    "ADMM": {"method": "admm"},
    "ADMM and moves": {},
}


def search_systems(
    preset: str, iterations: Sequence[int] = (10, 30, 100), device: str = "auto"
) -> list[System]:
    """No search, and each way of searching at the same iteration counts, for one preset."""
    systems: list[System] = [
        SottoSystem(f"{preset}: no search", preset, {"search": False}, "no search", device)
    ]
    for name, options in SEARCHES.items():
        for count in iterations:
            label, own = f"{preset}: {name}, {count}", {"iterations": count, **options}
            systems.append(SottoSystem(label, preset, own, name, device))
    return systems
