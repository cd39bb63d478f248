"""What a benchmark says: tables for the terminal, figures for a program, a plot for the eye."""

from __future__ import annotations

import math
import os
import platform
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, BinaryIO, TextIO

from rich.console import Console
from rich.table import Table

from models.evaluation.clips import Clip
from models.evaluation.metrics import SCORE_KEYS, mean_interval, ratio_interval

SYSTEMS = "Speech codecs"
SEARCH = "What the search gains"

_PIPE_WIDTH = 160
_HOW = {
    "intervals": "95 % percentile bootstrap over clips, 2000 resamples; ratios are pooled",
    "bit_rate": "bits of the codec's frames over the clip's duration; total adds frame or packet "
    "headers; file containers (Ogg, .sotto) and their stream headers are not counted",
    "alignment": "delay found within 0.2 s by correlation of band envelopes, refined on the "
    "waveform; level matched by RMS",
    "pesq": "ITU-T P.862.2 (WB) and P.862.1 (NB), both on 16 kHz signals; undefined clips are "
    "left out and counted as missing",
    "phone_error_rate": "PocketSphinx phone loop; against its own decoding of the original, and "
    "against transcripts of uncropped clips whose words are all in its dictionary",
    "real_time_factor": "seconds of computing per second of speech, one clip at a time, wall "
    "clock; for peers with the start of their program, for sotto after warm-up",
    "peak_memory": "sotto: peak resident memory of a process of its own (Python and libraries "
    "included); peers: of their program alone, sampled every millisecond below 10 MB",
}


@dataclass(frozen=True)
class ClipResult:
    """One system on one clip. Phone counts are NaN where there is no reference."""

    clip: str
    seconds: float
    payload_bits: int
    total_bits: int
    encode_s: float
    decode_s: float
    scores: Mapping[str, float]
    phone_errors: float
    phones: float
    text_phone_errors: float
    text_phones: float


@dataclass(frozen=True)
class SystemResult:
    """One system on all clips, in their order."""

    name: str
    family: str
    clips: Sequence[ClipResult]
    peak_bytes: int | None = None
    failure: str | None = None


@dataclass(frozen=True)
class Figure:
    """A mean or pooled ratio with its 95 % interval; `missing` clips were left out."""

    value: float
    low: float
    high: float
    missing: int

    @property
    def half_width(self) -> float:
        return (self.high - self.low) / 2

    def as_dict(self) -> dict[str, float | int | None]:
        return {
            "value": _plain(self.value),
            "low": _plain(self.low),
            "high": _plain(self.high),
            "missing": self.missing,
        }


def summary(result: SystemResult) -> dict[str, Figure]:
    """All figures of one system: rates, `SCORE_KEYS`, phone error rates, real-time factors."""
    clips = result.clips
    seconds = [clip.seconds for clip in clips]
    figures = {
        "payload_bits_per_s": ratio_interval([clip.payload_bits for clip in clips], seconds),
        "total_bits_per_s": ratio_interval([clip.total_bits for clip in clips], seconds),
        "encode_real_time_factor": ratio_interval([clip.encode_s for clip in clips], seconds),
        "decode_real_time_factor": ratio_interval([clip.decode_s for clip in clips], seconds),
        "phone_error_rate": ratio_interval(
            [clip.phone_errors for clip in clips], [clip.phones for clip in clips]
        ),
        "phone_error_rate_text": ratio_interval(
            [clip.text_phone_errors for clip in clips], [clip.text_phones for clip in clips]
        ),
    }
    for key in SCORE_KEYS:
        figures[key] = mean_interval([clip.scores.get(key, math.nan) for clip in clips])
    return {key: Figure(*values) for key, values in figures.items()}


def paired_gain(better: SystemResult, base: SystemResult) -> dict[str, Figure]:
    """Mean difference per clip of `SCORE_KEYS`, and of the total rate, of two systems."""
    pairs = list(zip(better.clips, base.clips, strict=True))
    gains = {
        key: mean_interval(
            [a.scores.get(key, math.nan) - b.scores.get(key, math.nan) for a, b in pairs]
        )
        for key in SCORE_KEYS
    }
    gains["total_bits_per_s"] = ratio_interval(
        [a.total_bits - b.total_bits for a, b in pairs], [a.seconds for a, _ in pairs]
    )
    return {key: Figure(*values) for key, values in gains.items()}


def search_gains(results: Sequence[SystemResult]) -> list[tuple[SystemResult, SystemResult]]:
    """(system, what it is compared with): each search against none, and against the one before it.

    The names are those of `systems.search_systems`: "PRESET: METHOD, STEPS".
    """
    by_name = {result.name: result for result in results}
    pairs = []
    for result in results:
        preset, _, variant = result.name.partition(": ")
        method, _, steps = variant.partition(", ")
        simpler = {"ADMM": "back-propagation", "ADMM and moves": "ADMM"}.get(method)
        for base in ("no search", f"{simpler}, {steps}"):
            other = by_name.get(f"{preset}: {base}")
            if other is not None and other is not result:
                pairs.append((result, other))
    return pairs


def as_dict(
    grouped: Mapping[str, Sequence[SystemResult]],
    absent: Mapping[str, str],
    skipped: Mapping[str, str],
    clips: Sequence[Clip],
    max_seconds: float,
) -> dict[str, Any]:
    """Everything measured, as plain values; undefined figures are None."""
    return {
        "how": _HOW,
        "machine": {
            "processor": platform.processor() or platform.machine(),
            "cores": os.cpu_count(),
            "system": platform.system(),
            "python": platform.python_version(),
        },
        "max_seconds": max_seconds,
        "clips": [
            {
                "name": clip.name,
                "speaker": clip.speaker,
                "corpus": clip.corpus,
                "seconds": clip.seconds,
                "transcript": clip.text is not None,
            }
            for clip in clips
        ],
        "skipped": dict(skipped),
        "missing": dict(absent),
        "systems": [
            {
                "section": title,
                "name": result.name,
                "family": result.family,
                "peak_bytes": result.peak_bytes,
                "summary": {key: figure.as_dict() for key, figure in summary(result).items()},
                "clips": [_clip_dict(clip) for clip in result.clips],
            }
            for title, results in grouped.items()
            for result in results
        ],
        "gains": [
            {
                "name": result.name,
                "over": base.name,
                "gain": {key: fig.as_dict() for key, fig in paired_gain(result, base).items()},
            }
            for result, base in search_gains(grouped.get(SEARCH, ()))
        ],
    }


def print_tables(
    grouped: Mapping[str, Sequence[SystemResult]],
    absent: Mapping[str, str],
    clips: Sequence[Clip],
    stream: TextIO,
) -> None:
    """Tables of every section, then what is missing and how things were counted."""
    console = Console(file=stream, highlight=False)
    if not console.is_terminal:
        console = Console(file=stream, highlight=False, width=_PIPE_WIDTH)
    speakers = len({clip.speaker for clip in clips})
    seconds = sum(clip.seconds for clip in clips)
    console.print(f"{len(clips)} clips of {speakers} speakers, {seconds:.0f} s of speech")
    for title, results in grouped.items():
        if results:
            console.print(_table(title, results))
    gains = search_gains(grouped.get(SEARCH, ()))
    if gains:
        console.print(_gain_table(gains))
    for name, reason in absent.items():
        console.print(f"{name}: {reason}", markup=False)
    for results in grouped.values():
        for result in results:
            lost = {key: summary(result)[key].missing for key in SCORE_KEYS}
            if any(lost.values()):
                counts = ", ".join(f"{key} on {count}" for key, count in lost.items() if count)
                console.print(f"{result.name}: undefined and left out: {counts} clips")
    console.print(
        "± is half a 95 % bootstrap interval. Rates are codec frames over clip duration, without "
        "file containers. PER: phone errors against the recogniser on the original, and against "
        "transcripts. RTF: computing time over speech time."
    )


def plot(results: Sequence[SystemResult], file: BinaryIO) -> None:
    """Quality against total bit rate as a PNG: one panel per measure, one line per family."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    panels = {
        "pesq_wb": "PESQ-WB",
        "pesq_nb": "PESQ-NB",
        "stoi": "STOI",
        "estoi": "ESTOI",
        "phone_error_rate": "Phone error rate (to original)",
        "encode_real_time_factor": "Encoding time / speech time",
    }
    families: dict[str, list[dict[str, Figure]]] = {}
    for result in results:
        if result.family != "original":
            families.setdefault(result.family, []).append(summary(result))
    figure, axes = pyplot.subplots(2, 3, figsize=(15, 9), layout="constrained")
    try:
        for axis, (key, title) in zip(axes.flat, panels.items(), strict=True):
            for at, (name, points) in enumerate(families.items()):
                ours = name.startswith("sotto")
                points = sorted(points, key=lambda point: point["total_bits_per_s"].value)
                rates = [point["total_bits_per_s"].value for point in points]
                values = [point[key].value for point in points]
                below = [max(point[key].value - point[key].low, 0.0) for point in points]
                above = [max(point[key].high - point[key].value, 0.0) for point in points]
                axis.errorbar(
                    rates,
                    values,
                    yerr=[below, above],
                    marker="o" if ours else "sv^D<>"[at % 6],
                    linewidth=2.5 if ours else 1.2,
                    linestyle="-" if ours else "--",
                    color=f"C{at % 10}",
                    capsize=2,
                    label=name,
                )
            axis.set_xscale("log")
            ticks = [600, 1000, 2000, 3000, 4000, 6000, 10_000, 16_000]
            axis.set_xticks(ticks, [f"{tick / 1000:g}k" for tick in ticks])
            axis.minorticks_off()
            axis.set_xlabel("bit/s")
            axis.set_title(title)
            axis.grid(alpha=0.3)
        axes.flat[-1].set_yscale("log")
        if families:
            names = axes.flat[0].get_legend_handles_labels()
            figure.legend(*names, loc="outside lower center", ncols=10)  # covers no points
        figure.savefig(file, format="png", dpi=110)
    finally:
        pyplot.close(figure)


def _table(title: str, results: Sequence[SystemResult]) -> Table:
    table = Table(title=title, title_justify="left")
    table.add_column("codec", no_wrap=True)
    heads = ("payload\nbit/s", "total\nbit/s", "PESQ-WB", "PESQ-NB", "STOI", "ESTOI")
    for head in (*heads, "PER to\noriginal", "PER to\ntext", "encode\nRTF", "decode\nRTF", "MB"):
        table.add_column(head, justify="right")
    for result in results:
        figures = summary(result)
        table.add_row(
            result.name,
            _number(figures["payload_bits_per_s"].value, 0),
            _number(figures["total_bits_per_s"].value, 0),
            _with_interval(figures["pesq_wb"], 2),
            _with_interval(figures["pesq_nb"], 2),
            _with_interval(figures["stoi"], 3),
            _with_interval(figures["estoi"], 3),
            _with_interval(figures["phone_error_rate"], 2),
            _with_interval(figures["phone_error_rate_text"], 2),
            _number(figures["encode_real_time_factor"].value, 3),
            _number(figures["decode_real_time_factor"].value, 3),
            "–" if result.peak_bytes is None else _number(result.peak_bytes / 1e6, 0),
        )
    return table


def _gain_table(gains: Sequence[tuple[SystemResult, SystemResult]]) -> Table:
    table = Table(title="Gain per clip", title_justify="left")
    for head in ("codec", "over"):
        table.add_column(head, no_wrap=True)
    for head in ("bit/s", "PESQ-WB", "PESQ-NB", "STOI", "ESTOI"):
        table.add_column(head, justify="right")
    for result, base in gains:
        gain = paired_gain(result, base)
        table.add_row(
            result.name,
            base.name,
            f"{gain['total_bits_per_s'].value:+.0f}",
            *(
                _with_interval(gain[key], 2 if key.startswith("pesq") else 3, "+")
                for key in SCORE_KEYS
            ),
        )
    return table


def _number(value: float, digits: int) -> str:
    return f"{value:.{digits}f}" if math.isfinite(value) else "–"


def _with_interval(figure: Figure, digits: int, sign: str = "") -> str:
    if not math.isfinite(figure.value):
        return "–"
    half = f"{figure.half_width:.{digits}f}".lstrip("0") or "0"
    return f"{figure.value:{sign}.{digits}f} ±{half}"


def _clip_dict(clip: ClipResult) -> dict[str, Any]:
    values: dict[str, Any] = {
        "clip": clip.clip,
        "seconds": clip.seconds,
        "payload_bits": clip.payload_bits,
        "total_bits": clip.total_bits,
        "encode_s": clip.encode_s,
        "decode_s": clip.decode_s,
        "phone_errors": _plain(clip.phone_errors),
        "phones": _plain(clip.phones),
        "text_phone_errors": _plain(clip.text_phone_errors),
        "text_phones": _plain(clip.text_phones),
    }
    return values | {key: _plain(value) for key, value in clip.scores.items()}


def _plain(value: float) -> float | None:
    return float(value) if math.isfinite(value) else None
