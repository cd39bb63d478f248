"""`sotto train speech`: the command line of the training."""

from __future__ import annotations

import argparse
import json
import math
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

from codec.arguments import add_device, between, positive, positive_count
from codec.console import note
from codec.errors import BadInput
from models.folder import WEIGHTS
from models.training import options
from models.training.distributed import Team, join
from models.training.evaluate import evaluate, write_scores
from models.training.features import FeatureSettings
from models.training.frames import FrameShards
from models.training.interruption import Interruption
from models.training.prepare import prepare
from models.training.recipe import Recipe, Trainer
from models.training.stages import StageSettings

STAGES = ("prepare", "features", "one", "centres", "two", "export")
_MINUTES = 60.0


def main(argv: Sequence[str]) -> int:
    """Run it; see `options.run_training`."""
    return options.run_training(_parser(), argv, _work)


def _work(args: argparse.Namespace, interruption: Interruption) -> None:
    team = join(args.device)
    try:
        _run(args, team, interruption)
    finally:
        team.leave()


def _run(args: argparse.Namespace, team: Team, interruption: Interruption) -> None:
    work: Path = args.work
    tell = note if team.leads else _quiet
    stages = _stages(args)
    packed = _packed_folder(args.data, work)
    if "prepare" in stages and packed is None:
        if team.leads:
            _prepare(args.data, work / "data", args.processes, tell)
        team.wait()
        packed = work / "data"
    rest = [stage for stage in stages if stage != "prepare"]
    if not rest:
        return
    if packed is None:
        raise BadInput(f"no packed data in {work / 'data'}: run --stage prepare first")
    trainer = Trainer(_recipe(args), FrameShards(packed, args.seed), team, interruption)
    for stage in rest:
        minutes = trainer.recipe.minutes_of(stage, stages) if stage in _TIMED else None
        # Some stages cannot be stopped half-way: so they do not begin when the time is over.
        if team.any(interruption.stops) or not _stage(args, trainer, stage, minutes, tell):
            if team.leads:
                options.tell_pause(interruption)
            return


def _stage(
    args: argparse.Namespace,
    trainer: Trainer,
    stage: str,
    minutes: float | None,
    tell: Callable[[str], None],
) -> bool:
    """Run one stage; False when stopped before its end."""
    tell(f"stage {stage}" + (f", {minutes:.1f} minutes" if minutes else ""))
    if stage == "features":
        rate = trainer.features(minutes)
        if rate is not None:
            tell(f"phone error rate {100 * rate:.1f} % on held-out speakers")
        return rate is not None
    if stage in ("one", "two"):
        return trainer.stage("one" if stage == "one" else "two", minutes)
    if stage == "centres":
        trainer.centres()
    elif trainer.team.leads:
        _export(args, trainer, tell)
    return True


_TIMED = ("features", "one", "two")


def _stages(args: argparse.Namespace) -> tuple[str, ...]:
    if args.stage != "all":
        return (args.stage,)
    return tuple(s for s in STAGES if s != "features" or args.feature_weight > 0)


def _packed_folder(data: Path, work: Path) -> Path | None:
    """Where finished shards are: in WORK/data, or in --data itself."""
    for folder in (work / "data", data):
        if (folder / "train.json").is_file():
            return folder
    return None


def _prepare(data: Path, target: Path, processes: int, tell: Callable[[str], None]) -> None:
    shown = sys.stderr is not None and sys.stderr.isatty()

    def progress(done: int, total: int) -> None:
        if shown:
            end = "\n" if done == total else ""
            print(f"\rpreparing {done}/{total} files", end=end, file=sys.stderr, flush=True)

    result = prepare(data, target, processes=processes, progress=progress)
    if result.skipped:
        name, reason = next(iter(result.skipped.items()))
        tell(f"{len(result.skipped)} files left out, first {name}: {reason}")
    tell(
        f"packed {result.utterances} utterances, {result.hours:.2f} hours, "
        f"into {result.shards} shards"
    )


def _export(args: argparse.Namespace, trainer: Trainer, tell: Callable[[str], None]) -> None:
    out = options.result(args)
    tell(f"model {trainer.export(out)} written to {out}")
    if args.dev is not None:
        scores = evaluate(out, args.dev, trainer.team.device, note=tell)
        write_scores(scores, args.work / "scores.json")
        print(json.dumps({k: v if math.isfinite(v) else None for k, v in scores.items()}))


def _recipe(args: argparse.Namespace) -> Recipe:
    start: Path | None = args.start
    if start is not None and not start.exists():
        start = WEIGHTS / str(start)  # a shipped model by its name
    return Recipe(
        work=args.work,
        start=start,
        minutes=options.length(args, _MINUTES),
        steps=args.steps,
        feature_weight=args.feature_weight,
        stage=StageSettings(
            batch=args.batch,
            rate=args.rate,
            adversarial=args.adversarial,
            search_steps=args.search_steps,
            seed=args.seed,
            compile=args.compile,
        ),
        features=FeatureSettings(seed=args.seed),
    )


def _parser() -> argparse.ArgumentParser:
    parser = options.training_parser(
        "speech",
        "Train the networks of the speech codec. For several GPUs: "
        "torchrun --nproc-per-node N -m models.train speech ...",
        data="train.tsv and train/*, or a folder of packed shards",
    )
    add = parser.add_argument
    options.add_stages(parser, STAGES)
    add("--start", type=Path, metavar="MODEL",
        help="train on from a model folder, or a shipped one by name (speech)")  # fmt: skip
    options.add_length(parser, _MINUTES, note="; `all` shares it out")
    add_device(parser, "default: auto")
    add(
        "--batch",
        type=positive_count,
        default=48,
        metavar="N",
        help="frames per process (default: 48)",
    )
    add("--rate", type=positive, default=1.2e-3, metavar="R",
        help="peak learning rate (default: 1.2e-3)")  # fmt: skip
    add("--adversarial", type=between(0, 100), default=0.01, metavar="W",
        help="weight of the adversarial term, 0 for none (default: 0.01)")  # fmt: skip
    add("--feature-weight", type=between(0, 100), default=0.0, metavar="W",
        help="weight of the feature distance; above 0, `all` trains its network (default: 0)",
        )  # fmt: skip
    add("--search-steps", type=positive_count, default=6, metavar="N",
        help="search steps per batch of stage two (default: 6)")  # fmt: skip
    add("--dev", type=Path, metavar="DIR", help="clips to score the exported model on")
    add("--processes", type=positive_count, default=2, metavar="N",
        help="processes that prepare data (default: 2)")  # fmt: skip
    add("--compile", action="store_true", help="compile the networks (for a GPU)")
    options.add_result(parser)
    return parser


def _quiet(line: str) -> None:
    """Of several processes only one talks."""
