"""`sotto bench speech DIR`: sotto and the installed peers on the same clips, in one run.

Every system codes all clips first, alone, in a process of its own, so that its timing and peak
memory are not disturbed; the scores are computed afterwards, several clips at a time.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

from codec.arguments import add_device, amount, positive_count
from codec.console import note
from codec.errors import BadInput, SottoError
from codec.files.paths import atomic_output
from models.evaluation import context, report, tradeoff
from models.evaluation.clips import Clip, load_clips
from models.evaluation.coding import CLIP_TIMEOUT_S, Step, code_clips, one_line
from models.evaluation.peers import installed_peers, peer_families
from models.evaluation.scoring import score_codings
from models.evaluation.systems import (
    Original,
    System,
    default_presets,
    search_systems,
    sotto_systems,
)

_SECONDS = amount("seconds", 0.5, 3600)


def main(argv: Sequence[str]) -> int:
    """Run `sotto bench speech` with its arguments (after the word `speech`).

    Returns 0, 1 on failure or interruption (one line on stderr), 2 for wrong usage.
    """
    parser = _parser()
    try:
        options = parser.parse_args(list(argv))
        families = _families(parser, options.peers)
    except SystemExit as stop:
        return int(stop.code or 0)
    try:
        _run(options, families)
    except SottoError as error:
        note(one_line(error))
        return 1
    except BrokenPipeError:
        # The reader has gone; nothing more is to be written, at exit either.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 1
    except KeyboardInterrupt:
        note("interrupted")
        return 1
    return 0


def _run(options: argparse.Namespace, families: list[str] | None) -> None:
    for path in (options.json, options.plot):
        if path is not None and path != "-" and not Path(path).resolve().parent.is_dir():
            raise BadInput(f"cannot write {path}: there is no such folder")
    clips, skipped = load_clips(Path(options.folder), options.clips, options.max_seconds)
    for name, reason in skipped.items():
        note(f"{name} left out: {reason}")
    sections, absent = _sections(options, families)
    systems = [system for members in sections.values() for system in members]
    with_phones = not options.no_phones
    total = len(systems) * len(clips)
    total = 2 * total + (len(clips) if with_phones else 0)
    grid, points, gain = tradeoff.Grid(), [], None
    with _progress(total + (grid.work(len(clips)) if options.ablation else 0)) as step:
        if options.ablation:
            points = tradeoff.run(
                clips, grid, device=options.device, workers=options.workers, step=step
            )
            gain = _context_gain(clips, options.device)
        codings = []
        for system in systems:
            coding = code_clips(system, clips, timeout_s=options.timeout, step=step)
            if coding.failure is not None:
                absent[system.name] = coding.failure
            codings.append(coding)
        kept = [coding for coding in codings if coding.failure is None]
        results = score_codings(
            kept, clips, workers=options.workers, with_phones=with_phones, step=step
        )
    if not results:
        reasons = dict.fromkeys(f"{name}: {reason}" for name, reason in absent.items())
        raise SottoError(f"no system could run: {'; '.join(reasons)}")
    by_name = {result.name: result for result in results}
    grouped = {
        title: [by_name[system.name] for system in members if system.name in by_name]
        for title, members in sections.items()
    }
    answer = report.as_dict(grouped, absent, skipped, clips, options.max_seconds)
    if points:
        answer["trade_off"] = tradeoff.as_dict(points, grid)
    if gain is not None:
        answer["previous_frame_context"] = context.as_dict(gain)
    text = json.dumps(answer, indent=1, allow_nan=False) + "\n"
    to_pipe = options.json == "-"
    screen = sys.stderr if to_pipe else sys.stdout
    if points:
        tradeoff.print_table(points, screen)
    if gain is not None:
        context.print_line(gain, screen)
    report.print_tables(grouped, absent, clips, screen)
    if to_pipe:
        sys.stdout.write(text)
        sys.stdout.flush()
    elif options.json is not None:
        with atomic_output(options.json) as file:
            file.write(text.encode())
    if options.plot is not None:
        with atomic_output(options.plot) as file:
            report.plot(results, file)
        if points:
            with atomic_output(_beside(options.plot)) as file:
                tradeoff.plot(points, file)


def _context_gain(clips: Sequence[Clip], device: str) -> context.ContextGain | None:
    """None where all clips are shorter than two frames."""
    try:
        return context.measure(clips, device=device)
    except ValueError:
        return None


def _beside(plot: str) -> Path:
    """Where the plot of the trade-off goes: next to the other, with -tradeoff in its name."""
    path = Path(plot)
    return path.with_name(f"{path.stem}-tradeoff{path.suffix}")


def _sections(
    options: argparse.Namespace, families: list[str] | None
) -> tuple[dict[str, list[System]], dict[str, str]]:
    """Titled groups of systems to run, and {name: reason} for what cannot run."""
    presets = options.presets or default_presets()
    if options.ablation:
        search = [
            system
            for preset in presets
            for system in search_systems(
                preset, options.iterations or (10, 30, 100), options.device
            )
        ]
        return {report.SEARCH: search}, {}
    peers, absent = installed_peers(families)
    ours = sotto_systems(
        presets, options.iterations or (), live=options.live, device=options.device
    )
    return {report.SYSTEMS: [Original(), *ours, *peers]}, absent


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="sotto bench speech",
        description="Bit rate, quality, intelligibility, speed and memory of sotto and of the "
        "installed peers, on the same clips.",
    )
    parser.add_argument("folder", metavar="DIR", help="speech in any format, in any sub-folder")
    parser.add_argument("--presets", type=_names, help="presets of sotto, e.g. 2k,paper")
    parser.add_argument("--iterations", type=_counts, help="search steps to add, e.g. 10,30,100")
    parser.add_argument("--peers", default="all", help="all, none, or e.g. codec2,opus")
    parser.add_argument("--clips", type=positive_count, default=24, help="clips to use (24)")
    parser.add_argument(
        "--max-seconds", type=_SECONDS, default=15.0, help="longer clips are cropped (15)"
    )
    parser.add_argument(
        "--ablation",
        action="store_true",
        help="measure parts of sotto instead: latent size against levels, and what the search "
        "gains; --plot then also writes FILE with -tradeoff in its name",
    )
    parser.add_argument(
        "--live", action="store_true", help="also time sotto one frame at a time, as in a call"
    )
    parser.add_argument("--no-phones", action="store_true", help="leave out phone error rates")
    parser.add_argument("--json", metavar="FILE", help="write all figures; - is stdout")
    parser.add_argument("--plot", metavar="FILE", help="draw quality against rate as PNG")
    add_device(parser, "where sotto runs")
    parser.add_argument(
        "--workers",
        type=positive_count,
        default=min(os.cpu_count() or 1, 8),
        help="scoring processes",
    )
    parser.add_argument(
        "--timeout", type=_SECONDS, default=CLIP_TIMEOUT_S, help="seconds a clip may take (900)"
    )
    return parser


def _families(parser: argparse.ArgumentParser, text: str) -> list[str] | None:
    if text == "all":
        return None
    if text == "none":
        return []
    names = _names(text.lower())
    for name in names:
        if name not in peer_families():
            parser.error(f"unknown peer {name!r}: choose from {', '.join(peer_families())}")
    return names


def _names(text: str) -> list[str]:
    names = [name.strip() for name in text.split(",")]
    if not all(names):
        raise argparse.ArgumentTypeError(f"{text!r} is not a list of names")
    return list(dict.fromkeys(names))


def _counts(text: str) -> list[int]:
    return [positive_count(part) for part in _names(text)]


@contextmanager
def _progress(total: int) -> Iterator[Step]:
    """Progress on stderr if that is a terminal; nothing in a pipe."""
    console = Console(stderr=True)
    columns = (
        TextColumn("{task.description:28}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
    )
    with Progress(*columns, console=console, disable=not console.is_terminal) as progress:
        task = progress.add_task("", total=total)
        yield lambda name: progress.update(task, description=name, advance=1)
