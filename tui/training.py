"""The trainings behind `sotto train`, one function for each subject."""

from __future__ import annotations

import argparse
import contextlib
import json
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

from codec.device import choose_device
from models.evaluation.tables import finite
from models.folder import model_folder
from models.networks.ganz import SIDE, GanzShape
from models.training.distributed import join
from models.training.evaluate import evaluate, write_scores
from models.training.export import export_ganz, export_image
from models.training.features import FeatureSettings
from models.training.frames import FrameShards
from models.training.ganz import GanzSettings, GanzTask, trained_generator
from models.training.image import ImageSettings, ImageTask, initial_networks, trained_networks
from models.training.image_paper import PaperImageSettings, PaperImageTask
from models.training.loop import Run, Task, train
from models.training.paper import TwoStageTask, train_two_stages
from models.training.photographs import Photographs
from models.training.schedule import Schedule, packed_data, train_speech
from models.training.speech import SpeechSettings
from models.training.speech_paper import PaperSettings, PaperTask
from tui.corpora.pools import OnRay
from tui.terminal.progress import StageProgress
from tui.terminal.signals import stopping


@contextlib.contextmanager
def _run(args: argparse.Namespace, *, quiet: bool = False) -> Iterator[Run]:
    """A run that signals stop between two steps, and that reports unless `quiet`."""
    with StageProgress() as progress:
        if quiet:
            run = Run(args.pause)
        else:
            run = Run(args.pause, note=progress.note, progress=progress.show)
        with stopping(run):
            yield run


def _status(run: Run, done: bool) -> int:
    """The exit status of a training, and how to go on if it was stopped."""
    if run.signal:
        run.note("stopped; the checkpoint is written, the same command goes on from it")
        return 128 + run.signal
    if not done:
        run.note("paused; the same command goes on from the checkpoint")
    return 0


def _elsewhere(args: argparse.Namespace, run: Run) -> OnRay | None:
    return None if args.ray is None else OnRay(args.ray, run.note)


def _out(args: argparse.Namespace) -> Path:
    return Path(args.out or args.work / "model")


def _speech(args: argparse.Namespace) -> int:
    stages: tuple[str, ...] = (args.stage,)
    if args.stage == "all":
        stages = tuple(s for s in args.stages if s != "features" or args.feature_weight > 0)
    # Whatever else trains on from a model takes one of speech.
    of_features = args.stage == "features" and args.start is not None
    schedule = Schedule(
        **args.length,
        work=args.work,
        start=args.start,
        dev=args.dev,
        out=args.out,
        exported=args.exported,
        feature_weight=args.feature_weight,
        stage=SpeechSettings(
            batch=args.batch,
            rate=args.rate,
            sliding=args.sliding,
            adversarial=args.adversarial,
            search_steps=args.search_steps,
            seed=args.seed,
            compile=args.compile,
        ),
        features=FeatureSettings(
            seed=args.seed, start=model_folder(args.start) if of_features else None
        ),
        processes=args.processes,
    )
    team = join(args.device)
    try:
        with _run(args, quiet=not team.leads) as run:
            done = train_speech(schedule, args.data, stages, team, run, _elsewhere(args, run))
            if done and "export" in stages and args.dev is not None and team.leads:
                scores = evaluate(_out(args), args.dev, team.device, note=run.note)
                write_scores(scores, args.work / "scores.json")
                print(json.dumps(finite(scores)))
    finally:
        team.leave()
    return _status(run, done)


def _paper(args: argparse.Namespace) -> int:
    settings = PaperSettings(**args.length, batch=args.batch, seed=args.seed)
    device = choose_device(args.device)
    with _run(args) as run:
        elsewhere = _elsewhere(args, run)
        packed = packed_data(args.data, args.work, args.processes, run, elsewhere)
        shards = FrameShards(packed)
        if run.stops:
            return _status(run, False)
        return _two_stages(PaperTask(shards, settings, run, device), args.work, args)


def _image_paper(args: argparse.Namespace) -> int:
    settings = PaperImageSettings(**args.length, batch=args.batch, seed=args.seed)
    with _run(args) as run:
        photographs = Photographs(args.data, crop=args.crop, note=run.note)
        task = PaperImageTask(photographs, settings, run, choose_device(args.device))
        return _two_stages(task, args.work / "image-paper", args)


def _two_stages(task: TwoStageTask, folder: Path, args: argparse.Namespace) -> int:
    name = train_two_stages(task, folder, _out(args))
    if name is not None:
        task.run.note(f"model {name} written to {_out(args)}")
    return _status(task.run, name is not None)


def _image(args: argparse.Namespace) -> int:
    folder = args.work / "image"
    settings = ImageSettings(
        **args.length, batch=args.batch, rate=args.rate, hold=args.hold, seed=args.seed,
        compile=args.compile,
    )  # fmt: skip
    if args.start is not None:
        settings = replace(settings, prior_steps=0)
    with _run(args) as run:
        photographs = Photographs(args.data, crop=args.crop, note=run.note)
        return _train_and_export(
            args, run, folder,
            lambda: ImageTask(
                initial_networks(folder, photographs, args.seed, args.start), photographs,
                choose_device(args.device), settings,
            ),
            lambda: export_image(
                trained_networks(folder), photographs, _out(args),
                examples=args.examples, search_steps=args.search_steps, seed=args.seed,
            ),
        )  # fmt: skip


def _ganz(args: argparse.Namespace) -> int:
    folder = args.work / "ganz"
    settings = GanzSettings(
        **args.length, batch=args.batch, seed=args.seed, places=tuple(args.places),
        shape=GanzShape(args.latents),
    )  # fmt: skip
    with _run(args) as run:
        photographs = Photographs(args.data, crop=SIDE, note=run.note)
        return _train_and_export(
            args, run, folder,
            lambda: GanzTask(photographs, settings, choose_device(args.device)),
            lambda: export_ganz(
                *trained_generator(folder, settings.shape), photographs, _out(args),
                examples=args.examples, seed=args.seed,
            ),
        )  # fmt: skip


def _train_and_export(
    args: argparse.Namespace,
    run: Run,
    folder: Path,
    new_task: Callable[[], Task],
    export: Callable[[], str],
) -> int:
    done = args.stage == "export" or train(new_task(), folder, run)
    if args.stage != "train":
        # An export cannot be stopped half-way: it does not begin when the time is over.
        done = done and not run.stops
        if done:
            run.note(f"model {export()} written to {_out(args)}")
    return _status(run, done)


SUBJECTS = {
    "speech": _speech,
    "paper": _paper,
    "image": _image,
    "image-paper": _image_paper,
    "ganz": _ganz,
}
