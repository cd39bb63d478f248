"""`sotto bench link`: a call between two processes on this machine, in good and in bad times."""

from __future__ import annotations

import argparse
import json
import os
import shutil
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from codec.errors import BadInput, SottoError
from codec.files.paths import atomic_output, display_name, os_errors
from codec.speech.codec import SpeechCodec
from models.evaluation.clips import Clip
from stream.bench import material, measures, report, runs
from stream.bench.laboratory import Setup
from stream.bench.scenarios import SCENARIOS, SHORT, Scenario, find_scenario

_CLIPS = Path(__file__).resolve().parents[2] / "tests" / "clips"


def main(argv: Sequence[str]) -> int:
    """Run `sotto bench link` with its arguments (after the word `link`).

    Returns 0; 1 if a scenario could not run and on failure (one line on stderr); 2 for wrong usage.
    A bar that is missed is no failure: the table says so. KeyboardInterrupt and BrokenPipeError
    pass: `tui.cli` has an exit status for each.
    """
    try:
        options = _parser().parse_args(list(argv))
    except SystemExit as stop:
        return int(stop.code or 0)
    if options.list:
        for scenario in SCENARIOS:
            print(f"{scenario.name:14} {scenario.title}")
        return 0
    try:
        return _run(options)
    except SottoError as error:
        print(f"sotto: {error}", file=sys.stderr)
        return 1


def _run(options: argparse.Namespace) -> int:
    if options.json not in (None, "-") and not Path(options.json).resolve().parent.is_dir():
        raise BadInput(f"cannot write {options.json}: there is no such folder")
    if options.keep is not None:
        # Before the minutes that a scenario takes.
        with os_errors("write", options.keep):
            os.makedirs(options.keep, exist_ok=True)
            tempfile.TemporaryFile(dir=options.keep).close()
    clips = material.read_clips(Path(options.clips))
    setup = Setup(options.preset, options.iterations, options.tail, options.threads)
    offline = measures.Offline(lambda: SpeechCodec.load(setup.preset, "cpu"))
    screen = sys.stderr if options.json == "-" else sys.stdout
    outcomes: list[report.Outcome] = []
    for scenario in _chosen(options):
        outcome = _one(scenario, setup, clips, offline, options)
        report.print_outcome(outcome, screen)
        screen.flush()
        outcomes.append(outcome)
    about = {
        "preset": setup.preset,
        "iterations": setup.iterations,
        "tail": setup.tail,
        "threads": setup.threads,
        "clips": [clip.name for clip in clips],
    }
    text = json.dumps(report.as_dict(outcomes, about), indent=1) + "\n"
    if options.json == "-":
        sys.stdout.write(text)
        sys.stdout.flush()
    elif options.json is not None:
        with atomic_output(options.json) as file:
            file.write(text.encode())
    return 1 if any(outcome.failure for outcome in outcomes) else 0


def _one(
    scenario: Scenario,
    setup: Setup,
    clips: Sequence[Clip],
    offline: measures.Offline,
    options: argparse.Namespace,
) -> report.Outcome:
    """Run and judge one scenario in a folder of its own."""
    begun = time.monotonic()

    def step(text: str) -> None:
        if sys.stderr is not None and sys.stderr.isatty():
            print(f"{scenario.name}: {text} ({time.monotonic() - begun:.0f} s)", file=sys.stderr)

    folder = Path(tempfile.mkdtemp(prefix="sotto-bench-"))
    try:
        run = runs.run(scenario, setup, clips, folder, step)
        step("measuring")
        return measures.outcome(run, offline)
    except SottoError as error:
        return report.Outcome(scenario, failure=str(error))
    finally:
        try:
            if options.keep is not None:
                _keep(folder, Path(options.keep) / scenario.name)
        finally:
            shutil.rmtree(folder, ignore_errors=True)


def _keep(folder: Path, to: Path) -> None:
    """Copy what a scenario has left behind. Raises BadInput."""
    with os_errors("write", to):
        try:
            shutil.copytree(folder, to, dirs_exist_ok=True)
        except shutil.Error as error:  # of several files; one reason is enough
            raise BadInput(f"cannot write {display_name(to)}: {error.args[0][0][2]}") from error


def _chosen(options: argparse.Namespace) -> list[Scenario]:
    names = options.scenario or SHORT
    chosen = [find_scenario(name) for name in dict.fromkeys(names)]
    if options.minutes is None:
        return chosen
    return [
        replace(scenario, seconds=60.0 * options.minutes) if scenario.soak else scenario
        for scenario in chosen
    ]


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="sotto bench link",
        description="Latency, quality and endurance of the live link: two processes on virtual "
        "sound cards (PulseAudio) and, as root, in two network namespaces. Without options all "
        "scenarios but the soak.",
    )
    names = [scenario.name for scenario in SCENARIOS]
    parser.add_argument(
        "--scenario",
        action="extend",
        nargs="+",
        choices=names,
        metavar="NAME",
        help=f"what to try: {', '.join(names)}",
    )
    parser.add_argument("--list", action="store_true", help="say what the scenarios are")
    parser.add_argument(
        "--minutes", type=_minutes, help="how long the soak takes (60)", metavar="N"
    )
    parser.add_argument("--clips", default=str(_CLIPS), metavar="DIR", help="speech to be said")
    parser.add_argument("--preset", default="2k", help="what both ends code with (2k)")
    parser.add_argument("--iterations", type=int, metavar="N", help="search steps per frame")
    parser.add_argument(
        "--tail", type=float, metavar="SECONDS", help="search after a frame's last sample"
    )
    parser.add_argument(
        "--threads", type=int, default=1, metavar="N", help="threads of each end's networks (1)"
    )
    parser.add_argument("--json", metavar="FILE", help="write all figures; - is stdout")
    parser.add_argument("--keep", metavar="DIR", help="keep recordings, logs and statistics there")
    return parser


def _minutes(text: str) -> float:
    try:
        value = float(text)
    except ValueError:
        value = 0.0
    if not 0.5 <= value <= 24 * 60:
        raise argparse.ArgumentTypeError(f"{text!r} is not a number of minutes from 0.5 to 1440")
    return value
