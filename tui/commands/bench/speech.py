"""`sotto bench speech DIR`: sotto and the installed peers on the same clips."""

from __future__ import annotations

import argparse
import os
from collections.abc import Collection, Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from codec.errors import BadInput
from codec.files.paths import display_name
from tui.commands.bench import output
from tui.commands.bench.options import delays, names, settings
from tui.corpora.options import add_ray
from tui.corpora.pools import OnRay
from tui.terminal.arguments import add_device, amount, at_once, positive_count
from tui.terminal.console import Bar, note
from tui.terminal.errors import UsageError
from tui.terminal.exit_status import DONE, FAILED
from tui.terminal.options import add_model

if TYPE_CHECKING:
    from codec.signal.samples import FloatArray
    from models.evaluation.coding import Codec, Coding, Step
    from models.evaluation.speech import Benchmark
    from tui.commands import Subparsers
    from tui.pages.site import Site

_SECONDS = amount("seconds", 0.5, 3600)
_TESTS = {
    "mushra": "ratings after ITU-R BS.1534 (8 clips)",
    "ab": "which of two is preferred (12 clips)",
    "words": "sentences are typed as they are understood (24 clips with a transcript)",
}


def add_parser(subjects: Subparsers) -> None:
    """Add the subject to the parser."""
    parser = subjects.add_parser(
        "speech",
        help="sotto and the other speech codecs that are installed, on a folder of clips",
        description="Bit rate, quality, intelligibility, speed and memory of sotto and of the "
        "installed peers, on the same clips.",
    )
    add = parser.add_argument
    add("folder", metavar="DIR", help="speech in any format, in any sub-folder")
    add("--presets", type=names, help="presets of sotto, e.g. 2k,paper")
    add("--iterations", type=_counts, help="search steps to add, e.g. 10,30,100")
    add("--peers", type=_peers, help="all, none, or e.g. codec2,opus")
    add("--system", action="append", default=[], dest="systems", metavar="NAME",
        help="of these, only the one that the table calls so, e.g. 'sotto 2k, no search'; more "
        "than once for several")  # fmt: skip
    add("--clips", type=positive_count, help="clips to use (24)")
    add("--max-seconds", type=_SECONDS, help="longer clips are cropped (15; --mushra: 10)")
    add("--ablation", action="store_true",
        help="measure parts of sotto instead: latent size against levels, and what the search "
        "gains; --plot then also writes FILE with -tradeoff in its name")  # fmt: skip
    add("--delay", type=delays, default=[], dest="delays", metavar="MS,...",
        help="packets of so many milliseconds, e.g. 1024,256,64")  # fmt: skip
    add("--live", action="store_true",
        help="also measure the encoder of a call (at --delay, else 256 ms)")  # fmt: skip
    add("--no-phones", action="store_false", dest="with_phones", help="leave out phone error rates")
    add("--judges", type=_judges, metavar="NAME,...",
        help="judges of naturalness and intelligibility, of sotto's judges extra: all, none (the "
        "default: they take longer than all the rest), or e.g. dnsmos,whisper")  # fmt: skip
    add("--conditions", type=_conditions, default=[], metavar="NAME,...",
        help="also degrade the clips before they are coded, once for each: all, none (the "
        "default), or e.g. noise10,reverb")  # fmt: skip
    add("--denoise", action="store_const", const=_denoised, dest="front_end",
        help="under each condition, also lower noise as `sotto encode --denoise` does")  # fmt: skip
    add("--group", choices=["language"], help="also print means by the language of the clips")
    add("--whisper", metavar="MODEL",
        help="have words judged by this model: a folder, or a name to fetch (tiny.en)")  # fmt: skip
    add("--nisqa", action="append", default=[], metavar="FILE",
        help="have NISQA judge with these weights; more than once for several")  # fmt: skip
    add("--lyra", metavar="DIR", help="run Lyra by the TFLite networks in this folder")
    output.add_json(parser, "write all figures; - is stdout")
    add("--plot", metavar="FILE", help="draw quality against rate as PNG")
    output.add_page(parser, "the figures, and every clip to hear and to see")
    tests = parser.add_mutually_exclusive_group()
    for kind, what in _TESTS.items():
        tests.add_argument(f"--{kind}", action="store_const", const=kind, dest="listening",
            help=f"make the page a blind listening test: {what}")  # fmt: skip
    add_model(parser)
    add_device(parser, "where sotto runs")
    add("--workers", type=at_once, default=min(os.cpu_count() or 1, 8),
        help="scoring processes")  # fmt: skip
    add("--timeout", type=_SECONDS, dest="timeout_s", metavar="TIMEOUT",
        help="seconds a clip may take (900)")  # fmt: skip
    add_ray(parser, "code and score by the workers of a Ray cluster")
    parser.set_defaults(measure=measure)


def measure(args: argparse.Namespace) -> int:
    """Measure, print, and write what was asked for. Returns 1 if a system or a judge failed."""
    from models.evaluation import speech

    if args.ablation and args.model is not None:
        raise UsageError("--ablation measures the shipped model, not --model")
    if args.ablation and args.ray is not None:
        raise UsageError("--ablation measures on this machine, without --ray")
    if args.front_end is not None and not args.conditions:
        raise UsageError("--denoise is for --conditions: clean clips have no noise")
    if args.ablation and args.conditions:
        raise UsageError("--ablation measures clips as they are, without --conditions")
    if args.ablation and args.page is not None:
        raise UsageError("--ablation has no --page: it measures parts of sotto")
    if args.listening is not None:
        _prepare_test(args)
    beside = None
    if args.plot is not None and args.ablation:
        path = Path(args.plot)
        beside = path.with_name(f"{path.stem}-tradeoff{path.suffix}")
    read = [args.folder, args.model, args.lyra, *args.nisqa]
    output.check(
        read, args.json, args.plot, beside, force=args.force, plots=args.plot is not None,
        page=args.page,
    )  # fmt: skip
    args.keep = args.page is not None
    benchmark = speech.benchmark(Path(args.folder), settings(speech.Settings, args))
    for name, reason in benchmark.skipped.items():
        note(f"{name} left out: {reason}")
    if args.systems:
        _choose(benchmark, args.systems)
    if args.listening is not None:
        _announce_test(args.listening, benchmark)
    elsewhere = None if args.ray is None else OnRay(args.ray, note, args.device)
    if elsewhere is not None:
        note("speed and memory are those of machines that do several things at once")
    with _progress(benchmark.work) as step:
        benchmark.run(step, elsewhere)
    benchmark.print(output.screen(args.json))
    output.write_json(benchmark.as_dict(), args.json, force=args.force)
    if args.plot is not None:
        panels = benchmark.panels()
        output.draw(
            panels, args.plot, force=args.force, size=(15, 4.5 * -(-len(panels) // 3)), columns=3,
            shared_legend=True,
        )  # fmt: skip
        if benchmark.points and beside is not None:
            panel = speech.tradeoff.panel(benchmark.points)
            output.draw([panel], beside, force=args.force, size=(9, 6))
    if args.page is not None:
        with output.new_page(args.page, force=args.force) as site:
            if args.listening is not None:
                _write_test(site, args.listening, benchmark)
            else:
                from tui.pages import speech as page

                page.write(site, benchmark)
    for name, reason in benchmark.failed.items():
        note(f"{name} was not measured: {reason}")
    return FAILED if benchmark.failed else DONE


def _choose(benchmark: Benchmark, systems: Collection[str]) -> None:
    """Leave out all systems but the original and those of these names. Raises BadInput."""
    groups = benchmark.codecs.values()
    known = {name.casefold(): name for codecs in groups for name in _tested(codecs)}
    wanted = {name.strip().casefold() for name in systems}
    for name in systems:
        if name.strip().casefold() not in known:
            raise BadInput(
                f"no system is called {display_name(name)}: there are {'; '.join(known.values())}"
            )
    benchmark.codecs = {
        title: [
            codec for codec in codecs if not _tested([codec]) or codec.name.casefold() in wanted
        ]
        for title, codecs in benchmark.codecs.items()
    }


def _prepare_test(args: argparse.Namespace) -> None:
    """Raise UsageError where a listening test cannot be; see to its number of clips."""
    from tui.pages.listening import CLIPS, SECONDS

    if args.page is None:
        raise UsageError(f"--{args.listening} is for --page: it makes the page a listening test")
    if args.conditions:
        raise UsageError(f"--{args.listening} tests clips as they are, without --conditions")
    if args.clips is None:
        args.clips = CLIPS[args.listening]
    if args.listening == "mushra" and args.max_seconds is None:
        args.max_seconds = SECONDS


def _announce_test(kind: str, benchmark: Benchmark) -> None:
    """Say what a listener will have to do. Raises BadInput, before anything is measured, if it is
    too much or nothing.
    """
    from models.evaluation.speech import CODECS
    from tui.pages import listening

    plan = listening.plan(kind, len(_tested(benchmark.codecs[CODECS])), benchmark.clips)
    used = set(listening.usable(kind, benchmark.clips))
    for place, clip in enumerate(benchmark.clips):
        if place not in used:
            note(f"{display_name(clip.name)} is not in the test: its transcript is not known")
    long = sum(clip.seconds > listening.LONGEST for clip in benchmark.clips)
    if kind == "mushra" and long:
        seconds = f"{listening.SECONDS:.0f}"
        note(f"{long} clip{'s' * (long != 1)} of more than {listening.LONGEST:.0f} s: "
             f"BS.1534 asks for about {seconds} s (--max-seconds {seconds})")  # fmt: skip
    note(f"trials of a listener: {plan.trials}, of about {plan.minutes} min altogether")


def _write_test(site: Site, kind: str, benchmark: Benchmark) -> None:
    from tui.pages import listening

    listening.write(site, kind, benchmark.clips, _tested(benchmark.codings), benchmark.heard)


def _tested(codecs: Iterable[Codec] | Iterable[Coding]) -> list[str]:
    """The names of all but the original."""
    from models.evaluation.coding import Original

    return [codec.name for codec in codecs if codec.line != Original.line]


def _peers(text: str) -> list[str] | None:
    from models.evaluation.peers import peer_names

    if text in ("all", "none"):
        return None if text == "all" else []
    return names(text.lower(), peer_names())


def _judges(text: str) -> list[str]:
    from models.evaluation.judges import judge_names

    return [] if text == "none" else names(text.lower(), ["all", *judge_names()])


def _conditions(text: str) -> list[str]:
    from models.evaluation.conditions import CONDITIONS

    return [] if text == "none" else names(text.lower(), ["all", *CONDITIONS])


def _denoised(samples: FloatArray) -> FloatArray:
    """Samples [n] as `sotto encode --denoise` lets them be coded."""
    import numpy as np

    from stream.audio.frontend import denoised

    return np.concatenate(list(denoised([samples])))


def _counts(text: str) -> list[int]:
    return [positive_count(part) for part in names(text)]


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
