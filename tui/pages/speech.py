"""The page of `sotto bench speech`: its tables, its curves, and every clip to hear and to see.

All sounds of a clip are aligned with what was coded and brought to its level, as they were scored.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from codec.files.paths import display_name
from models.evaluation import tables
from tui.pages import sounds, spectrograms

if TYPE_CHECKING:
    from models.evaluation.scores import Samples
    from models.evaluation.speech import Benchmark
    from tui.pages.site import Site

# More would take minutes to write and hundreds of megabytes.
_MOST_CLIPS = 60
_MOST_DEGRADED = 4  # of each condition
_TICKS_HZ = (8, 6, 4, 2, 0)  # kHz
_ASSETS = ("base.css", "charts.css", "speech.css", "sounds.js", "player.js", "clips.js")
_CHARTS = ("vendor", "charts.js", "speech.js")
_ORIGINALS = ("original", "input")
_OWN = "sotto"


@dataclass(frozen=True)
class Column:
    """A column of figures. better: 1 if more is, -1 if less is, 0 if neither."""

    key: str
    head: str
    digits: int
    better: int = 0
    interval: bool = True


_COLUMNS = (
    Column("total_bits_per_s", "bit/s", 0, interval=False),
    Column("pesq_wb", "PESQ-WB", 2, 1),
    Column("pesq_nb", "PESQ-NB", 2, 1),
    Column("stoi", "STOI", 3, 1),
    Column("estoi", "ESTOI", 3, 1),
    Column("phone_error_rate", "PER to original", 2, -1),
    Column("phone_error_rate_text", "PER to text", 2, -1),
)
_COSTS = (
    _COLUMNS[0],
    Column("payload_bits_per_s", "payload, bit/s", 0, interval=False),
    Column("encode_real_time_factor", "encoding, RTF", 3, -1, interval=False),
    Column("decode_real_time_factor", "decoding, RTF", 3, -1, interval=False),
    Column("peak_mb", "memory, MB", 0, -1, interval=False),
)
_SHORT = ("total_bits_per_s", "pesq_wb", "pesq_nb", "stoi", "estoi", "phone_error_rate")
_CURVES = ("pesq_wb", "pesq_nb", "stoi", "estoi", "phone_error_rate")


def write(site: Site, benchmark: Benchmark) -> None:
    """Write the page of a benchmark that was run, and kept what it decoded."""
    values = tables.finite(benchmark.as_dict())
    judged = _judged(values["figures"])
    clips = []
    for number, shown in enumerate(_shown(benchmark)):
        clips.append(_clip(site, f"{number:03d}", shown, benchmark, values, judged))
    systems = values["systems"]
    count, speakers = len(values["clips"]), len({clip["speaker"] for clip in values["clips"]})
    curves = {
        "rate": _curves(systems, judged, "total_bits_per_s"),
        "delay": _curves([s for s in systems if s["delay_ms"]], judged, "delay_ms")
        if _has_delays(systems) else [],
    }  # fmt: skip
    site.add_assets(*_ASSETS, *(_CHARTS if curves["rate"] else ()))
    site.write("figures.json", tables.to_json(values))
    site.render(
        "speech.html",
        title="Speech codecs, to hear and to see",
        lead=f"{len([s for s in systems if s['name'] not in _ORIGINALS])} systems on "
        f"{_number(count, 'clip')} of {_number(speakers, 'speaker')}, "
        f"{sum(clip['seconds'] for clip in values['clips']):.0f}\N{NO-BREAK SPACE}s of speech.",
        tables=list(_tables(values, judged)),
        clips=[clip for clip in clips if clip["condition"] is None],
        conditions=[
            {
                "name": name,
                "how": condition["how"],
                "tables": [
                    _table(condition["systems"], _short(judged), f"After {name}")
                ],
                "clips": [clip for clip in clips if clip["condition"] == name],
            }
            for name, condition in values["conditions"].items()
        ],
        left_out={
            **{display_name(name): reason for name, reason in values["skipped"].items()},
            **values["missing"], **values["missing_judges"],
        },
        not_shown=count - min(count, _MOST_CLIPS),
        most_degraded=_MOST_DEGRADED,
        how=values["how"],
        judges=values["judges"],
        machine=values["machine"],
        delay_table=_delay_table(systems, judged),
        data={"curves": curves},
        khz=_TICKS_HZ,
    )  # fmt: skip


@dataclass(frozen=True)
class _Shown:
    """A clip on the page: its place in the benchmark, and the condition that it was coded under."""

    place: int
    condition: str | None = None


def _shown(benchmark: Benchmark) -> Iterator[_Shown]:
    count = len(benchmark.clips)
    for place in range(min(count, _MOST_CLIPS)):
        yield _Shown(place)
    few = min(count, _MOST_DEGRADED)
    for condition in benchmark.degraded:
        for k in range(few):
            yield _Shown(k * count // few, condition)


def _judged(figures: Sequence[Mapping[str, Any]]) -> list[Column]:
    """Ratios are of errors to words, where less is better."""
    return [
        Column(each["key"], " ".join(each["head"].split()), each["digits"],
               1 if each["over"] is None else -1)
        for each in figures
    ]  # fmt: skip


def _short(judged: Sequence[Column]) -> list[Column]:
    return [column for column in _COLUMNS if column.key in _SHORT] + list(judged)


def _clip(
    site: Site, name: str, shown: _Shown, benchmark: Benchmark, values: Mapping[str, Any],
    judged: Sequence[Column],
) -> dict[str, Any]:  # fmt: skip
    """Write the sounds and pictures of a clip; what the template needs of it."""
    place, condition = shown.place, shown.condition
    clip = benchmark.clips[place]
    heard: dict[str, Samples] = benchmark.heard(place, condition)
    if condition is not None:
        heard = {"original": clip.samples, **heard}
    results = values["systems"] if condition is None else values["conditions"][condition]["systems"]
    by_name = {result["name"]: result["clips"][place] for result in results}
    keys = {system: str(key) for key, system in enumerate(heard)}
    gain = sounds.common_gain(heard)
    signals = {keys[system]: samples for system, samples in heard.items()}
    site.write(f"sound/{name}.js", sounds.script(name, signals))
    for key, samples in signals.items():
        site.write(f"picture/{name}-{key}.webp", spectrograms.picture(samples * gain))
    facts = [f"{clip.seconds:.1f} s", clip.corpus, clip.language]
    if clip.speaker not in ("", clip.name):
        facts.insert(0, f"speaker {clip.speaker}")
    return {
        "id": name,
        "name": display_name(clip.name),
        "condition": condition,
        "facts": ", ".join(fact for fact in facts if fact),
        "seconds": clip.seconds,
        "ticks": _ticks(clip.seconds),
        "text": clip.text,
        "systems": [
            {"key": keys[system], "name": system, **_of_clip(by_name.get(system), judged)}
            for system in heard
        ],
        "table": _clip_table(results, place, judged, f"Figures of {display_name(clip.name)}"),
    }


def _of_clip(result: Mapping[str, Any] | None, judged: Sequence[Column]) -> dict[str, str]:
    """Rate and figures of a system on one clip, as text."""
    if result is None:
        return {"rate": "", "figures": ""}
    figures = []
    for column in (*_COLUMNS[1:5], *judged):
        value = result.get(column.key)
        if value is not None and column.better >= 0:
            figures.append(f"{column.head} {value:.{column.digits}f}")
    rate = result["total_bits"] / result["seconds"]
    return {"rate": f"{_kilo(rate)} kbit/s", "figures": ", ".join(figures)}


def _kilo(bits: float) -> str:
    return f"{bits / 1000:.2f}" if bits < 99_950 else f"{bits / 1000:.0f}"


def _ticks(seconds: float) -> list[tuple[int, float]]:
    """Whole seconds, and where they are along the clip in percent."""
    step = 1 if seconds <= 8 else 2
    return [(at, 100 * at / seconds) for at in range(0, math.ceil(seconds - 0.4), step)]


# --- tables --------------------------------------------------------------------------------------


def _tables(values: Mapping[str, Any], judged: Sequence[Column]) -> Iterator[dict[str, Any]]:
    systems = values["systems"]
    yield _table(systems, _COLUMNS, "Rate, quality and intelligibility")
    if judged:
        yield _table(systems, [_COLUMNS[0], *judged], "As judged")
    yield _table(systems, _COSTS, "What it costs")
    for language in systems[0].get("languages", {}):
        some = [{**system, "summary": system["languages"][language]} for system in systems]
        yield _table(some, _short(judged), f"Clips in {language}")


def _table(
    systems: Sequence[Mapping[str, Any]], columns: Sequence[Column], caption: str
) -> dict[str, Any]:
    """A table of estimates; columns without any value are left out."""
    estimates = [
        {
            **system["summary"],
            "peak_mb": {"value": None if not system["peak_bytes"] else system["peak_bytes"] / 1e6},
        }
        for system in systems
    ]
    names = [system["name"] for system in systems]
    columns = [c for c in columns if any(each[c.key]["value"] is not None for each in estimates)]
    best = {c.key: _best([each[c.key]["value"] for each in estimates], names, c) for c in columns}
    return {
        "caption": caption,
        "heads": [column.head for column in columns],
        "rows": [
            {
                "name": name,
                "cells": [
                    _cell(each[column.key], column, row == best[column.key]) for column in columns
                ],
            }
            for row, (name, each) in enumerate(zip(names, estimates, strict=True))
        ],
    }


def _best(values: Sequence[float | None], names: Sequence[str], column: Column) -> int | None:
    """The row of the best value among the codecs."""
    known = [
        (column.better * value, row)
        for row, (value, name) in enumerate(zip(values, names, strict=True))
        if value is not None and name not in _ORIGINALS
    ]
    return max(known)[1] if column.better and len(known) > 1 else None


def _cell(estimate: Mapping[str, Any], column: Column, best: bool) -> dict[str, Any]:
    value = estimate["value"]
    if value is None:
        return {"text": tables.UNKNOWN, "half": "", "best": False}
    half = ""
    if column.interval:
        width = (estimate["high"] - estimate["low"]) / 2
        half = f"{width:.{column.digits}f}".removeprefix("0")
    return {"text": f"{value:.{column.digits}f}", "half": half, "best": best}


def _clip_table(
    results: Sequence[Mapping[str, Any]], place: int, judged: Sequence[Column], caption: str
) -> dict[str, Any]:
    """The figures of one clip, without intervals."""
    systems = []
    for result in results:
        clip = result["clips"][place]
        summary = {column.key: {"value": clip.get(column.key)} for column in (*_COLUMNS, *judged)}
        summary["total_bits_per_s"] = {"value": clip["total_bits"] / clip["seconds"]}
        for key, top, bottom in (
            ("phone_error_rate", "phone_errors", "phones"),
            ("phone_error_rate_text", "text_phone_errors", "text_phones"),
            ("word_errors", "word_errors", "words"),
            ("text_word_errors", "text_word_errors", "text_words"),
        ):
            if clip.get(bottom) and clip.get(top) is not None:
                summary[key] = {"value": clip[top] / clip[bottom]}
        systems.append({"name": result["name"], "summary": summary, "peak_bytes": None})
    plain = [
        Column(c.key, c.head, c.digits, c.better, interval=False) for c in (*_COLUMNS, *judged)
    ]
    return _table(systems, plain, caption)


# --- curves --------------------------------------------------------------------------------------


def _has_delays(systems: Sequence[Mapping[str, Any]]) -> bool:
    return len({system["delay_ms"] for system in systems if system["delay_ms"]}) > 1


def _delay_line(system: Mapping[str, Any]) -> str:
    """What a system is called without its delay."""
    return str(system["name"]).replace(f", {system['delay_ms']} ms", "")


def _delay_table(
    systems: Sequence[Mapping[str, Any]], judged: Sequence[Column]
) -> dict[str, Any] | None:
    if not _has_delays(systems):
        return None
    some = [system for system in systems if system["delay_ms"]]
    some = sorted(some, key=lambda system: (_delay_line(system), system["delay_ms"]))
    named = [
        {**system, "name": f"{_delay_line(system)}, {system['delay_ms']} ms"} for system in some
    ]
    return _table(named, _short(judged), "Quality by the length of a packet")


def _curves(
    systems: Sequence[Mapping[str, Any]], judged: Sequence[Column], along: str
) -> list[dict[str, Any]]:
    """A chart of each measure for assets/charts.js, all with the same lines."""
    by_delay = along == "delay_ms"
    lines: dict[str, list[Mapping[str, Any]]] = {}
    for system in systems:
        if system["name"] not in _ORIGINALS:
            line = _delay_line(system) if by_delay else system["family"]
            lines.setdefault(line, []).append(system)

    def drawn(name: str, column: Column) -> dict[str, Any]:
        points = []
        for system in lines[name]:
            x = system[along] if by_delay else system["summary"][along]["value"] / 1000
            found = system["summary"][column.key]
            if found["value"] is not None:
                points.append(
                    {
                        "at": [round(x, 3), round(found["value"], column.digits + 1)],
                        "interval": [found["low"], found["high"]],
                        "name": system["name"],
                    }
                )
        points.sort(key=lambda point: point["at"][0])
        return {
            "name": name,
            "own": name.startswith(_OWN),
            "line": len(lines[name]) > 1,
            "points": [point["at"] for point in points],
            "intervals": [point["interval"] for point in points],
            "names": [point["name"] for point in points],
        }

    charts = []
    for column in (*_COLUMNS, *judged):
        if column.key in _CURVES or column in judged:
            found = [drawn(name, column) for name in lines]
            if any(line["points"] for line in found):
                x = "ms in a packet" if by_delay else "kbit/s"
                charts.append({"lines": found, "x": x, "y": column.head, "better": column.better})
    return charts


def _number(count: int, what: str) -> str:
    return f"{count} {what}{'s' * (count != 1)}"
