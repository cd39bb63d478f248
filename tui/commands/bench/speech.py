"""`sotto bench speech DIR`: sotto and the installed peers on the same clips."""

from __future__ import annotations

import argparse
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from codec.arguments import add_device, amount, positive_count
from codec.console import Bar, note
from tui.commands.bench import output
from tui.terminal.errors import UsageError

if TYPE_CHECKING:
    from models.evaluation.coding import Step
    from tui.commands import Subparsers

_SECONDS = amount("seconds", 0.5, 3600)


def add_parser(subjects: Subparsers) -> None:
    """Add the subject to the parser."""
    parser = subjects.add_parser(
        "speech",
        help="sotto and the other speech codecs that are installed, on a folder of clips",
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
        "--live", action="store_true", help="also measure the encoder of a call, driven as in one"
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
        "--timeout", type=_SECONDS, default=900.0, help="seconds a clip may take (900)"
    )
    parser.set_defaults(measure=measure)


def measure(args: argparse.Namespace) -> int:
    """Measure, print, and write what was asked for."""
    from models.evaluation import speech

    settings = speech.Settings(
        presets=args.presets or (),
        iterations=args.iterations or (),
        peers=_peers(args.peers),
        clips=args.clips,
        max_seconds=args.max_seconds,
        live=args.live,
        ablation=args.ablation,
        with_phones=not args.no_phones,
        device=args.device,
        workers=args.workers,
        timeout_s=args.timeout,
    )
    output.check(args.json, args.plot, plots=args.plot is not None)
    benchmark = speech.benchmark(Path(args.folder), settings)
    for name, reason in benchmark.skipped.items():
        note(f"{name} left out: {reason}")
    with _progress(benchmark.work) as step:
        benchmark.run(step)
    benchmark.print(output.screen(args.json))
    output.write_json(benchmark.as_dict(), args.json)
    if args.plot is not None:
        output.draw(benchmark.panels(), args.plot, size=(15, 9), columns=3, shared_legend=True)
        if benchmark.points:
            path = Path(args.plot)
            beside = path.with_name(f"{path.stem}-tradeoff{path.suffix}")
            output.draw([speech.tradeoff.panel(benchmark.points)], beside, size=(9, 6))
    return 0


def _peers(text: str) -> list[str] | None:
    from models.evaluation.peers import peer_names

    if text in ("all", "none"):
        return None if text == "all" else []
    names = _names(text.lower())
    for name in names:
        if name not in peer_names():
            raise UsageError(f"unknown peer {name!r}: choose from {', '.join(peer_names())}")
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
    done = 0
    with Bar("", total, "{task.completed:.0f}/{task.total:.0f}") as bar:

        def step(name: str) -> None:
            nonlocal done
            done += 1
            bar.describe(name)
            bar.update(done)

        yield step
