"""Benchmark of speech codecs: sotto and the installed peers on the same clips, in one run.

Every codec first codes all clips, alone in its own process, for undisturbed timing and peak memory;
scores are computed afterwards, for several clips at a time.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any, TextIO

from codec.errors import SottoError
from codec.packet import CALL_DELAY
from codec.signal.samples import FloatArray
from codec.speech.presets import PRESETS, presets_of
from models.elsewhere import Elsewhere
from models.evaluation import context, estimates, tables, tradeoff
from models.evaluation.clips import Clip, load_clips
from models.evaluation.coding import (
    CLIP_TIMEOUT_S,
    Codec,
    Coding,
    Original,
    Step,
    code_clips,
    code_elsewhere,
    search_codecs,
    sotto_codecs,
)
from models.evaluation.conditions import CONDITIONS, degrade
from models.evaluation.estimates import Estimate
from models.evaluation.judges import Judge, choose_judges, judge_codings
from models.evaluation.peers import installed_peers
from models.evaluation.plots import Line, Panel
from models.evaluation.scores import (
    SCORE_KEYS,
    CodecResult,
    Figure,
    Samples,
    aligned,
    score_codings,
)

CODECS = "Speech codecs"
SEARCH = "What the search gains"
SEARCH_STEPS = (10, 30, 100)

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
    "judges": "hear every decoded clip aligned and level-matched as above; clips without a score "
    "are left out and counted as missing; word error rates are pooled",
    "conditions": "applied to every clip before it is coded, by every codec; input is the degraded "
    "clip itself; delay, level, PESQ, STOI, ESTOI and judges with a reference compare with it, "
    "errors of phones and words with the recogniser on the clean original, and with transcripts",
    "real_time_factor": "seconds of computing per second of speech, one clip at a time, wall "
    "clock; for peers with the start of their program, for sotto after warm-up; live: the encoder "
    "of a call, which may search each block for milliseconds only",
    "peak_memory": "sotto: peak resident memory of a process of its own (Python and libraries "
    "included); peers: of their program alone, sampled every millisecond below 10 MB",
}
_PANELS = {
    "pesq_wb": "PESQ-WB",
    "pesq_nb": "PESQ-NB",
    "stoi": "STOI",
    "estoi": "ESTOI",
    "phone_error_rate": "Phone error rate (to original)",
    "encode_real_time_factor": "Encoding time / speech time",
}
_INPUT = "input"  # instead of "original", under a condition
_DENOISED = "-denoised"  # after a condition's name: its clips went through the front end as well
_CONDITIONS_NOTE = (
    "Under a condition, codecs are given the degraded input, and PESQ, STOI, ESTOI and judges with "
    "a reference compare with that; errors of phones and words are against the clean original."
)
_NO_LANGUAGE = "language not stated"
_TICKS = (600, 1000, 2000, 3000, 4000, 6000, 10_000, 16_000)  # bit/s


@dataclass(frozen=True)
class Settings:
    """What is measured.

    presets: all if empty, or those that the model serves; model: a folder in place of their own;
    iterations: further search steps; peers: lower-case names of codecs, None for all installed
    ones; delays: of packets, in milliseconds; clips: the most, each cropped to max_seconds; live:
    also the encoder of a call; ablation: parts of sotto instead; workers: scoring processes;
    timeout_s: for one clip; judges: their names, or "all" for those that are
    installed; whisper: folder or name of its model; nisqa: files of its weights; lyra: folder of
    its networks; conditions: names from `CONDITIONS`, or "all", under which everything is measured
    as well; front_end: what a microphone's sound goes through in a call, samples [n] to as many,
    with which every condition is measured once more; group: "language" for means by language, too;
    keep: what was decoded stays in memory, for `Benchmark.heard`.
    """

    presets: Sequence[str] = ()
    model: Path | None = None
    iterations: Sequence[int] = ()
    peers: Sequence[str] | None = None
    clips: int = 24
    max_seconds: float = 15.0
    delays: Sequence[int] = ()
    live: bool = False
    ablation: bool = False
    with_phones: bool = True
    device: str = "auto"
    workers: int = 2
    timeout_s: float = CLIP_TIMEOUT_S
    judges: Sequence[str] = ()
    whisper: str | None = None
    nisqa: Sequence[str] = ()
    lyra: str | None = None
    conditions: Sequence[str] = ()
    front_end: Callable[[FloatArray], FloatArray] | None = None
    group: str | None = None
    keep: bool = False


@dataclass
class Benchmark:
    """What to measure and, after `run`, the results.

    codecs: in titled groups; absent: why others cannot run; skipped: why clips were left out;
    judges, absent_judges: likewise; failed: those of absent and absent_judges that could run, as it
    seemed, and then did not; degraded: the clips after each condition; points, gain: of the
    ablation; results: of the clips as they are, by group; degraded_results: by condition, with the
    degraded clips themselves as "input"; codings: what was decoded, if it was to be kept, of the
    clips as they are and then of those after each condition.
    """

    settings: Settings
    clips: list[Clip]
    skipped: dict[str, str]
    codecs: dict[str, list[Codec]]
    absent: dict[str, str]
    grid: tradeoff.Grid | None = None
    judges: Sequence[Judge] = ()
    absent_judges: dict[str, str] = field(default_factory=dict)
    failed: dict[str, str] = field(default_factory=dict)
    degraded: Mapping[str, list[Clip]] = field(default_factory=dict)
    results: dict[str, list[CodecResult]] = field(default_factory=dict)
    degraded_results: dict[str, list[CodecResult]] = field(default_factory=dict)
    points: list[tradeoff.Point] = field(default_factory=list)
    gain: context.ContextGain | None = None
    codings: Sequence[Coding] = ()

    @property
    def work(self) -> int:
        """The number of times that `run` calls `step`."""
        count, clips = sum(map(len, self.codecs.values())), len(self.clips)
        coded = count * clips * (1 + len(self.degraded))
        total = (2 + len(self.judges)) * coded + (clips if self.settings.with_phones else 0)
        return total + (self.grid.work(clips) if self.grid else 0)

    def run(self, step: Step = lambda name: None, elsewhere: Elsewhere | None = None) -> None:
        """Code and score everything; elsewhere: on other machines, except for judges and ablation.

        Raises SottoError if no codec could run.
        """
        settings, clips = self.settings, self.clips
        if self.grid is not None:
            self.points = tradeoff.run(
                clips, self.grid, device=settings.device, workers=settings.workers, step=step
            )
            self.gain = context.measure(clips, device=settings.device)
        given = [*clips, *(clip for degraded in self.degraded.values() for clip in degraded)]
        codecs = [codec for group in self.codecs.values() for codec in group]
        limit: dict[str, Any] = {"timeout_s": settings.timeout_s, "step": step}
        if elsewhere is None:
            coded: Iterable[Coding] = (code_clips(codec, given, **limit) for codec in codecs)
        else:
            coded = code_elsewhere(codecs, given, elsewhere, **limit)
        codings = []
        for codec, coding in zip(codecs, coded, strict=True):
            if coding.failure is None:
                codings.append(coding)
            else:
                self.absent[codec.name] = self.failed[codec.name] = coding.failure
        found = score_codings(
            codings,
            given,
            workers=settings.workers,
            with_phones=settings.with_phones,
            step=step,
            elsewhere=elsewhere,
        )
        if not found:
            reasons = dict.fromkeys(f"{name}: {reason}" for name, reason in self.absent.items())
            raise SottoError(f"no codec could run: {'; '.join(reasons)}")
        found, failed = judge_codings(
            self.judges,
            codings,
            found,
            given,
            threads=settings.workers,
            timeout_s=settings.timeout_s,
            step=step,
        )
        self.absent_judges.update(failed)
        self.failed.update(failed)
        by_name = {result.name: _of_clips(result, range(len(clips))) for result in found}
        self.results = {
            title: [by_name[codec.name] for codec in group if codec.name in by_name]
            for title, group in self.codecs.items()
        }
        for k, name in enumerate(self.degraded, 1):
            part = range(k * len(clips), (k + 1) * len(clips))
            self.degraded_results[name] = [_as_input(_of_clips(result, part)) for result in found]
        if settings.keep:
            self.codings = codings

    def heard(self, place: int, condition: str | None = None) -> dict[str, Samples]:
        """What every codec made of one clip, [n] each at 16 kHz, aligned and level-matched as it
        was scored, under the names of the results; of what `run` kept.

        place: of the clip; condition: the one it was coded under.
        """
        clips = self.clips if condition is None else self.degraded[condition]
        turn = 0 if condition is None else 1 + list(self.degraded).index(condition)
        reference = clips[place].samples
        return {
            _INPUT if condition is not None and coding.line == Original.line else coding.name:
            aligned(reference, coding.coded[turn * len(self.clips) + place].decoded)[1]
            for coding in self.codings
        }  # fmt: skip

    def figures(self) -> Sequence[Figure]:
        """What the judges add to the scores."""
        return next(iter(self._all_results())).figures

    def as_dict(self) -> dict[str, Any]:
        """Everything measured, as plain values."""
        answer: dict[str, Any] = {
            "how": _HOW,
            "machine": tables.machine(),
            "max_seconds": self.settings.max_seconds,
            "clips": [
                {
                    "name": clip.name,
                    "speaker": clip.speaker,
                    "corpus": clip.corpus,
                    "language": clip.language,
                    "seconds": clip.seconds,
                    "transcript": clip.text is not None,
                }
                for clip in self.clips
            ],
            "skipped": self.skipped,
            "missing": self.absent,
            "judges": {
                judge.name: judge.how
                for judge in self.judges
                if judge.name not in self.absent_judges
            },
            "missing_judges": self.absent_judges,
            "failed": self.failed,
            "figures": [asdict(figure) for figure in self.figures()],
            "systems": [
                {"section": title, **self._system(result)}
                for title, results in self.results.items()
                for result in results
            ],
            "conditions": {
                name: {
                    "how": _how(name),
                    "systems": [self._system(result) for result in results],
                }
                for name, results in self.degraded_results.items()
            },
            "gains": [
                {
                    "name": result.name,
                    "over": base.name,
                    "gain": {key: asdict(each) for key, each in paired_gain(result, base).items()},
                }
                for result, base in search_gains(self.results.get(SEARCH, ()))
            ],
        }
        if self.grid is not None and self.points:
            answer["trade_off"] = tradeoff.as_dict(self.points, self.grid)
        if self.gain is not None:
            answer["previous_frame_context"] = {**asdict(self.gain), "saved": self.gain.saved}
        return answer

    def _system(self, result: CodecResult) -> dict[str, Any]:
        values = {
            "name": result.name,
            "family": result.line,
            "delay_ms": self._delays().get(result.name),
            "peak_bytes": result.peak_bytes,
            "summary": _plain_summary(result),
            "clips": [tables.flat(clip) for clip in result.clips],
        }
        if self.settings.group is not None:
            values["languages"] = {
                language: _plain_summary(_of_clips(result, part))
                for language, part in self._languages().items()
            }
        return values

    def _delays(self) -> dict[str, int | None]:
        codecs = [codec for group in self.codecs.values() for codec in group]
        return {codec.name: codec.delay_ms for codec in codecs}

    def _languages(self) -> dict[str, list[int]]:
        """The places of the clips of each language, if they are to be told apart."""
        found: dict[str, list[int]] = {}
        if self.settings.group is not None:
            for place, clip in enumerate(self.clips):
                found.setdefault(clip.language or _NO_LANGUAGE, []).append(place)
        return dict(sorted(found.items()))

    def print(self, stream: TextIO) -> None:
        """Print tables of every group and condition, then what is missing and how things were
        counted.
        """
        console = tables.console(stream)
        if self.points:
            tradeoff.print_table(self.points, console)
        if self.gain is not None:
            console.print(str(self.gain), soft_wrap=True)
        speakers = len({clip.speaker for clip in self.clips})
        seconds = sum(clip.seconds for clip in self.clips)
        console.print(f"{len(self.clips)} clips of {speakers} speakers, {seconds:.0f} s of speech")
        for title, results in self.results.items():
            if results:
                console.print(_table(title, results))
                self._print_more(title, results, console)
        if self.degraded_results:
            console.print(_CONDITIONS_NOTE)
        for name, results in self.degraded_results.items():
            console.print(_short_table(f"{name}: {_how(name)}", results))
            self._print_more(name, results, console)
        gains = search_gains(self.results.get(SEARCH, ()))
        if gains:
            console.print(_gain_table(gains))
        for name, reason in self.absent.items():
            console.print(f"{name}: {reason}", markup=False)
        if self.absent_judges:
            reasons = (f"{name} ({reason})" for name, reason in self.absent_judges.items())
            console.print(f"Judges left out: {', '.join(reasons)}", markup=False, soft_wrap=True)
        everything = [("", result) for result in self._all_results()]
        for name, results in self.degraded_results.items():
            everything += [(f"{name}, ", result) for result in results]
        for under, result in everything:
            # Pooled figures lack the clips without a transcript too, which is no failure.
            means = [figure.key for figure in result.figures if figure.over is None]
            lost = {key: summary(result)[key].missing for key in (*SCORE_KEYS, *means)}
            if any(lost.values()):
                counts = ", ".join(f"{key} on {count}" for key, count in lost.items() if count)
                console.print(f"{under}{result.name}: undefined and left out: {counts} clips")
        console.print(
            "± is half a 95 % bootstrap interval. Rates are codec frames over clip duration, "
            "without file containers. PER: phone errors against the recogniser on the original, "
            "and against transcripts. WER: the same of words. RTF: computing time over speech time."
        )

    def _print_more(
        self, title: str, results: Sequence[CodecResult], console: tables.Console
    ) -> None:
        """What judges say, and the means of each language."""
        judged = bool(results[0].figures)
        if judged:
            console.print(_judges_table(f"{title}, as judged", results))
        for language, part in self._languages().items():
            some = [_of_clips(result, part) for result in results]
            head = f"{title}, {language} ({len(part)} clip{'s' * (len(part) > 1)})"
            console.print(_short_table(head, some))
            if judged:
                console.print(_judges_table(f"{head}, as judged", some))

    def panels(self) -> list[Panel]:
        """Quality against total bit rate: a panel for each measure, with a line for each codec."""
        lines: dict[str, list[dict[str, Estimate]]] = {}
        for result in self._all_results():
            if result.line != Original.line:
                lines.setdefault(result.line, []).append(summary(result))
        panels = _PANELS | {each.key: " ".join(each.head.split("\n")) for each in self.figures()}
        return [
            Panel(
                [_plot_line(k, *line, key) for k, line in enumerate(lines.items())],
                "bit/s",
                title=title,
                ticks={tick: f"{tick / 1000:g}k" for tick in _TICKS},
                log_y=key == "encode_real_time_factor",
            )
            for key, title in panels.items()
        ]

    def _all_results(self) -> list[CodecResult]:
        return [result for results in self.results.values() for result in results]


def _presets(settings: Settings) -> Sequence[str]:
    """What is measured. Raises BadInput, before anything is, if the model cannot be used."""
    if settings.model is None:
        return settings.presets or list(PRESETS)
    from models.folder import load_speech_model  # only here: this imports torch

    family = load_speech_model("speech", settings.model.absolute()).family
    return settings.presets or presets_of(family)


def benchmark(folder: Path, settings: Settings) -> Benchmark:
    """Choose clips from a folder, and codecs. Raises BadInput if no clip can be used."""
    clips, skipped = load_clips(folder, settings.clips, settings.max_seconds)
    presets = _presets(settings)
    judges, absent_judges = choose_judges(settings.judges, settings.whisper, settings.nisqa)
    judging: dict[str, Any] = {"judges": judges, "absent_judges": absent_judges}
    if settings.ablation:
        steps = settings.iterations or SEARCH_STEPS
        groups = [search_codecs(preset, steps, settings.device) for preset in presets]
        found = {SEARCH: [codec for group in groups for codec in group]}
        return Benchmark(settings, clips, skipped, found, {}, tradeoff.Grid(), **judging)
    names = CONDITIONS if "all" in settings.conditions else settings.conditions
    degraded = {}
    for name in names:
        degraded[name] = degrade(clips, name)
        if settings.front_end is not None:
            denoised = [replace(c, samples=settings.front_end(c.samples)) for c in degraded[name]]
            degraded[name + _DENOISED] = denoised
    lyra = None if settings.lyra is None else Path(settings.lyra)
    peers, absent = installed_peers(settings.peers, lyra)
    ours = sotto_codecs(
        presets,
        settings.iterations,
        delays=settings.delays or ([CALL_DELAY] if settings.live else []),
        live=settings.live,
        device=settings.device,
        model=settings.model,
    )
    codecs = {CODECS: [Original(), *ours, *peers]}
    return Benchmark(settings, clips, skipped, codecs, absent, degraded=degraded, **judging)


def _how(condition: str) -> str:
    """What was done to the clips under a condition, for people."""
    how = CONDITIONS[condition.removesuffix(_DENOISED)].how
    return f"{how}, then denoised" if condition.endswith(_DENOISED) else how


def summary(result: CodecResult) -> dict[str, Estimate]:
    """All figures of one codec: rates, `SCORE_KEYS`, phone error rates, real-time factors, and
    those of the judges.
    """
    clips = result.clips

    def ratio(top: str, bottom: str = "seconds") -> Estimate:
        return estimates.ratio(
            [getattr(clip, top) for clip in clips], [getattr(clip, bottom) for clip in clips]
        )

    def scores(key: str) -> list[float]:
        return [clip.scores.get(key, math.nan) for clip in clips]

    def judged(figure: Figure) -> Estimate:
        if figure.over is None:
            return estimates.mean(scores(figure.key))
        return estimates.ratio(scores(figure.key), scores(figure.over))

    return {
        "payload_bits_per_s": ratio("payload_bits"),
        "total_bits_per_s": ratio("total_bits"),
        "encode_real_time_factor": ratio("encode_s"),
        "decode_real_time_factor": ratio("decode_s"),
        "phone_error_rate": ratio("phone_errors", "phones"),
        "phone_error_rate_text": ratio("text_phone_errors", "text_phones"),
        **{key: estimates.mean(scores(key)) for key in SCORE_KEYS},
        **{figure.key: judged(figure) for figure in result.figures},
    }


def _plain_summary(result: CodecResult) -> dict[str, Any]:
    return {key: asdict(each) for key, each in summary(result).items()}


def _of_clips(result: CodecResult, places: Sequence[int]) -> CodecResult:
    return replace(result, clips=[result.clips[place] for place in places])


def _as_input(result: CodecResult) -> CodecResult:
    """Under a condition, what is not coded is no original."""
    return replace(result, name=_INPUT) if result.line == Original.line else result


def paired_gain(better: CodecResult, base: CodecResult) -> dict[str, Estimate]:
    """Mean difference between two codecs per clip, of `SCORE_KEYS` and of the total rate."""
    pairs = list(zip(better.clips, base.clips, strict=True))
    gains = {
        key: estimates.mean(
            [a.scores.get(key, math.nan) - b.scores.get(key, math.nan) for a, b in pairs]
        )
        for key in SCORE_KEYS
    }
    gains["total_bits_per_s"] = estimates.ratio(
        [a.total_bits - b.total_bits for a, b in pairs], [a.seconds for a, _ in pairs]
    )
    return gains


def search_gains(results: Sequence[CodecResult]) -> list[tuple[CodecResult, CodecResult]]:
    """(codec, baseline) pairs: each search against none, and against the next simpler method.

    The names are those of `coding.search_codecs`: "PRESET: METHOD, STEPS".
    """
    by_name = {result.name: result for result in results}
    pairs = []
    for result in results:
        preset, _, variant = result.name.partition(": ")
        method, _, steps = variant.partition(", ")
        simpler = {
            "ADMM": "back-propagation",
            "ADMM and moves": "ADMM",
            "mean field": "ADMM and moves",
        }.get(method)
        for base in ("no search", f"{simpler}, {steps}"):
            other = by_name.get(f"{preset}: {base}")
            if other is not None and other is not result:
                pairs.append((result, other))
    return pairs


def _plot_line(at: int, name: str, points: list[dict[str, Estimate]], key: str) -> Line:
    ours = name.startswith("sotto")
    points = sorted(points, key=lambda point: point["total_bits_per_s"].value)
    values = [point[key] for point in points]
    return Line(
        name,
        [point["total_bits_per_s"].value for point in points],
        [each.value for each in values],
        (
            [max(each.value - each.low, 0.0) for each in values],
            [max(each.high - each.value, 0.0) for each in values],
        ),
        style={
            "marker": "o" if ours else "sv^D<>"[at % 6],
            "linewidth": 2.5 if ours else 1.2,
            "linestyle": "-" if ours else "--",
            "color": f"C{at % 10}",
        },
    )


def _table(title: str, results: Sequence[CodecResult]) -> tables.Table:
    heads = ("payload\nbit/s", "total\nbit/s", "PESQ-WB", "PESQ-NB", "STOI", "ESTOI")
    more = ("PER to\noriginal", "PER to\ntext", "encode\nRTF", "decode\nRTF", "MB")
    table = tables.table(title, ["codec"], [*heads, *more])
    for result in results:
        figures = summary(result)
        table.add_row(
            result.name,
            *(tables.number(figures[f"{key}_bits_per_s"].value, 0) for key in ("payload", "total")),
            *_scores(figures),
            tables.estimate(figures["phone_error_rate"], 2),
            tables.estimate(figures["phone_error_rate_text"], 2),
            tables.number(figures["encode_real_time_factor"].value, 3),
            tables.number(figures["decode_real_time_factor"].value, 3),
            tables.number(None if result.peak_bytes is None else result.peak_bytes / 1e6, 0),
        )
    return table


def _short_table(title: str, results: Sequence[CodecResult]) -> tables.Table:
    """The scores alone, for 100 columns."""
    heads = ("total\nbit/s", "PESQ-WB", "PESQ-NB", "STOI", "ESTOI", "PER to\noriginal")
    table = tables.table(title, ["codec"], heads)
    for result in results:
        figures = summary(result)
        table.add_row(
            result.name,
            tables.number(figures["total_bits_per_s"].value, 0),
            *_scores(figures),
            tables.estimate(figures["phone_error_rate"], 2),
        )
    return table


def _judges_table(title: str, results: Sequence[CodecResult]) -> tables.Table:
    heads = [figure.head for figure in results[0].figures]
    table = tables.table(title, ["codec"], ["total\nbit/s", *heads])
    for result in results:
        figures = summary(result)
        table.add_row(
            result.name,
            tables.number(figures["total_bits_per_s"].value, 0),
            *(tables.estimate(figures[each.key], each.digits) for each in result.figures),
        )
    return table


def _gain_table(gains: Sequence[tuple[CodecResult, CodecResult]]) -> tables.Table:
    heads = ("bit/s", "PESQ-WB", "PESQ-NB", "STOI", "ESTOI")
    table = tables.table("Gain per clip", ["codec", "over"], heads)
    for result, base in gains:
        gain = paired_gain(result, base)
        rate = f"{gain['total_bits_per_s'].value:+.0f}"
        table.add_row(result.name, base.name, rate, *_scores(gain, "+"))
    return table


def _scores(figures: Mapping[str, Estimate], sign: str = "") -> list[str]:
    return [
        tables.estimate(figures[key], 2 if key.startswith("pesq") else 3, sign)
        for key in SCORE_KEYS
    ]
