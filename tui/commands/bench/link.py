"""`sotto bench link`: a call between two processes on this machine, in good and in bad times."""

from __future__ import annotations

import argparse
import contextlib
import itertools
import os
import sys
import tempfile
import time
from dataclasses import asdict, replace
from pathlib import Path
from typing import TYPE_CHECKING

from codec.files.paths import os_errors
from stream.bench.scenarios import SCENARIOS, SHORT, Scenario, find_scenario
from tui.commands.bench import output
from tui.commands.bench.options import delays
from tui.terminal.arguments import amount, at_once, count, positive
from tui.terminal.options import CALL_DELAY

if TYPE_CHECKING:
    from tui.commands import Subparsers

_CLIPS = Path(__file__).resolve().parents[3] / "tests" / "clips"


def add_parser(subjects: Subparsers) -> None:
    """Add the subject to the parser."""
    parser = subjects.add_parser(
        "link",
        help="latency, quality and endurance of a call between two processes",
        description="Latency, quality and endurance of the live link: two processes on virtual "
        "sound cards (PulseAudio) and, as root, in two network namespaces. Without options all "
        "scenarios but the soak.",
    )
    names = [scenario.name for scenario in SCENARIOS]
    add = parser.add_argument
    add("--scenario", action="extend", nargs="+", choices=names, metavar="NAME",
        help=f"what to try: {', '.join(names)}")  # fmt: skip
    add("--list", action="store_true", help="describe the scenarios")
    add("--minutes", type=amount("minutes", 0.5, 1440), metavar="N",
        help="how long the soak takes (60)")  # fmt: skip
    add("--clips", default=str(_CLIPS), metavar="DIR", help="speech to be said")
    add("--delay", type=delays, default=[CALL_DELAY], metavar="MS,...",
        help=f"speech in a packet in milliseconds, a run for each ({CALL_DELAY})")  # fmt: skip
    add("--plot", metavar="FILE", help="draw delay, quality and wire rate as PNG")
    output.add_page(parser, "calls over time, figures, and what was heard")
    add("--preset", default="2k", help="what both ends code with (2k)")
    add("--iterations", type=count, metavar="N", help="search steps per frame")
    add("--tail", type=positive, metavar="SECONDS", help="search after a frame's last sample")
    add("--threads", type=at_once, default=1, metavar="N",
        help="threads of each end's networks (1)")  # fmt: skip
    add("--no-quality", action="store_false", dest="quality",
        help="leave out what is compared with offline coding, which takes minutes")  # fmt: skip
    output.add_json(parser, "write all figures; - is stdout")
    add("--keep", metavar="DIR", help="keep recordings, logs and statistics there, in new folders")
    parser.set_defaults(measure=measure)


def measure(args: argparse.Namespace) -> int:
    """Run the scenarios; 1 if one could not run. A missed bar is no failure: the table shows it."""
    if args.list:
        for scenario in SCENARIOS:
            print(f"{scenario.name:14} {scenario.title}")
        return 0
    from codec.speech.codec import SpeechCodec
    from stream.bench import measures, report
    from stream.bench.laboratory import Setup
    from stream.bench.talks import read_clips
    from tui.pages import site
    from tui.pages.link import LinkPage

    plots = args.plot is not None
    output.check(args.clips, args.json, args.plot, force=args.force, plots=plots, page=args.page)
    if args.page is not None:
        site.check(args.page, outputs=[args.keep], force=args.force)
    if args.keep is not None:
        with os_errors("write", args.keep):
            os.makedirs(args.keep, exist_ok=True)
            tempfile.TemporaryFile(dir=args.keep).close()
    clips = read_clips(Path(args.clips))
    setup = Setup(args.preset, CALL_DELAY, args.iterations, args.tail, args.threads)
    offline = measures.Offline(lambda: SpeechCodec.load(setup.preset, "cpu"))
    about = {
        **{key: asdict(setup)[key] for key in ("preset", "iterations", "tail", "threads")},
        "delays": args.delay,
        "clips": [clip.name for clip in clips],
    }
    results = []
    with contextlib.ExitStack() as stack:
        page = None
        if args.page is not None:
            page = LinkPage(stack.enter_context(output.new_page(args.page, force=args.force)))
        for scenario, delay in itertools.product(_chosen(args), args.delay):
            begun = time.monotonic()
            name = f"{scenario.name}, {delay} ms"

            def step(text: str, name: str = name, begun: float = begun) -> None:
                if sys.stderr is not None and sys.stderr.isatty():
                    print(f"{name}: {text} ({time.monotonic() - begun:.0f} s)", file=sys.stderr)

            result = measures.run_scenario(
                scenario,
                replace(setup, delay=delay),
                clips,
                offline if args.quality else None,
                keep=args.keep,
                sounds=page is not None,
                step=step,
            )
            report.print_result(result, output.screen(args.json))
            results.append(result)
            if page is not None:
                page.add(result)
        output.write_json(report.as_dict(results, about), args.json, force=args.force)
        if args.plot is not None:
            panels = report.panels(results)
            output.draw(panels, args.plot, force=args.force, size=(15, 4.5), columns=3)
        if page is not None:
            page.finish(about)
    return 1 if any(result.failure for result in results) else 0


def _chosen(args: argparse.Namespace) -> list[Scenario]:
    chosen = [find_scenario(name) for name in dict.fromkeys(args.scenario or SHORT)]
    if args.minutes is None:
        return chosen
    return [
        replace(scenario, seconds=60.0 * args.minutes) if scenario.soak else scenario
        for scenario in chosen
    ]
