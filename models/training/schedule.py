"""Training of a speech model from recordings: stages, their files and their time shares.

WORK/data      packed shards            WORK/centres   the model with its K-means centres
WORK/features  the feature network      WORK/two       stage two
WORK/one       stage one                WORK/model     the exported model (or --out)
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass, field, replace
from functools import cached_property
from itertools import islice
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from codec.errors import BadInput
from codec.files.paths import display_name
from models.elsewhere import Elsewhere
from models.folder import load_speech_model, model_folder
from models.networks.features import FeatureDistance, load_features
from models.networks.speech import SpeechModel, SpeechShape
from models.stored import finite, sizes
from models.training import checkpoints
from models.training.centres import kmeans_centres
from models.training.distributed import Team
from models.training.drawing import DrawingTask
from models.training.export import export_speech
from models.training.features import FeatureSettings, train_features
from models.training.frames import FrameShards, FrameSource, rate_points
from models.training.held_out import HeldOut, held_out_frames
from models.training.linear_start import start_speech
from models.training.loop import Run, train
from models.training.objectives import Prices, SpeechDistance
from models.training.prepare import prepare
from models.training.speech import SpeechSettings, SpeechStage, SpeechTask, StageInputs

# Shares of the total time; without the feature network the other two split its share.
_SHARES = {"features": 0.15, "one": 0.6, "two": 0.25, "three": 0.25}
_START_FRAMES = 2500
_NAMED = 8  # files that could not be used, by name


@dataclass(frozen=True)
class Schedule:
    """How a speech model is trained. minutes: for all stages that run; steps: for each of them.

    start: a model folder or the name of a shipped one, None for principal components; dev: a folder
    of clips to follow the training on, None for none; out: the exported model, None for WORK/model;
    exported: the stage whose networks it gets, as they are by then, None for a finished stage two;
    processes: how many prepare data.
    """

    work: Path
    start: Path | None = None
    dev: Path | None = None
    out: Path | None = None
    exported: str | None = None
    minutes: float | None = 60.0
    steps: int | None = None
    feature_weight: float = 0.0
    stage: SpeechSettings = field(default_factory=SpeechSettings)
    features: FeatureSettings = field(default_factory=FeatureSettings)
    shape: SpeechShape = field(default_factory=SpeechShape)
    bits_scale: float = 1.0
    centre_frames: int = 4000
    example_batches: int = 24
    example_search_steps: int = 12
    processes: int = 2

    def minutes_of(self, name: str, stages: Sequence[str]) -> float | None:
        """The time of one stage when `stages` share `minutes`."""
        if self.minutes is None or name not in _SHARES:
            return None
        return self.minutes * _SHARES[name] / sum(_SHARES.get(other, 0.0) for other in stages)


def train_speech(
    schedule: Schedule,
    data: Path,
    stages: Sequence[str],
    team: Team,
    run: Run,
    elsewhere: Elsewhere | None = None,
) -> bool:
    """Run stages in order: prepare, features, one, centres, two, export, or some of them.

    data: recordings (see `prepare`), or a folder of packed shards; elsewhere: packs recordings on
    other machines. Returns False if the run ended
    before the last stage did; the same call resumes there. Raises BadInput if a stage lacks the
    output of an earlier one, and for unusable data.
    """
    packed = _packed(data, schedule.work)
    if "prepare" in stages:
        if team.leads:
            packed_data(data, schedule.work, schedule.processes, run, elsewhere)
        team.wait()
        packed = _packed(data, schedule.work)
    rest = [stage for stage in stages if stage != "prepare"]
    if not rest:
        return True
    if packed is None:
        raise BadInput(f"no packed data in {schedule.work / 'data'}: run --stage prepare first")
    training = SpeechTraining(schedule, FrameShards(packed), team, run)
    for stage in rest:
        # Some stages cannot be stopped half-way, so they do not begin once the time is up.
        if team.any(run.stops):
            return False
        minutes = schedule.minutes_of(stage, stages)
        run.note(f"stage {stage}" + (f", {minutes:.1f} minutes" if minutes else ""))
        if not training.do(stage, minutes):
            return False
    return True


def packed_data(
    data: Path, work: Path, processes: int, run: Run, elsewhere: Elsewhere | None = None
) -> Path:
    """The folder of packed shards: WORK/data, or `data` itself; prepared if neither is one yet.

    processes, elsewhere: as in `prepare`.

    Raises BadInput for unusable data.
    """
    packed = _packed(data, work)
    if packed is None:
        packed = work / "data"
        _prepare(data, packed, processes, run, elsewhere)
    elif packed != data:
        run.note(f"training on what is packed in {packed}; remove it to pack {data} anew")
    return packed


def _packed(data: Path, work: Path) -> Path | None:
    if (work / "data" / "train.json").is_file():
        return work / "data"
    # Shards from elsewhere may come without an index, which only the transcripts need.
    return data if any(data.glob("train-*.npy")) else None


def _prepare(
    data: Path, target: Path, processes: int, run: Run, elsewhere: Elsewhere | None
) -> None:
    def progress(done: int, total: int) -> None:
        run.progress("prepare", done / total, f"{done}/{total} files")

    result = prepare(data, target, processes=processes, progress=progress, elsewhere=elsewhere)
    for name, reason in islice(result.skipped.items(), _NAMED):
        run.note(f"left out {display_name(name)}: {reason}")
    if len(result.skipped) > _NAMED:
        run.note(f"and {len(result.skipped) - _NAMED} further files")
    long = result.hours >= 1.0
    length = f"{result.hours:.1f} hours" if long else f"{60 * result.hours:.1f} minutes"
    run.note(f"packed {length} of speech in {result.utterances} pieces into {target}")


class SpeechTraining:
    """The stages that train on packed shards."""

    def __init__(self, schedule: Schedule, shards: FrameShards, team: Team, run: Run) -> None:
        self.schedule, self.shards, self.team, self.run = schedule, shards, team, run

    @cached_property
    def source(self) -> FrameSource:
        """Training frames on this process's device."""
        return FrameSource(self.shards, self.team.device)

    def do(self, stage: str, minutes: float | None) -> bool:
        """Run a stage by its name; False if the run ended before the stage did."""
        if stage == "features":
            rate = self.features(minutes)
            if rate is not None:
                self.run.note(f"phone error rate {100 * rate:.1f} % on held-out speakers")
            return rate is not None
        if stage == "centres":
            self.centres()
        elif stage == "export":
            self.export()
        else:
            return self.stage(stage, minutes)
        return True

    def features(self, minutes: float | None) -> float | None:
        """Train and export the feature network; its phone error rate, or None if stopped."""
        schedule, shared = self.schedule, 0.0
        # Small enough for one process; the others wait.
        if self.team.leads:
            settings = replace(schedule.features, minutes=minutes, steps=schedule.steps)
            rate = train_features(
                self.shards, schedule.work / "features", self.team.device, settings, self.run
            )
            shared = -1.0 if rate is None else rate
        shared = float(self.team.sum(torch.tensor([shared], device=self.team.device)))
        return shared if shared >= 0 else None

    def stage(self, name: str, minutes: float | None) -> bool:
        """Train stage one, two or three; False if stopped early."""
        return train(self.task(name, minutes), self.schedule.work / name, self.run)

    def task(self, name: str, minutes: float | None) -> SpeechStage:
        """The task of stage one, two or three."""
        schedule = self.schedule
        settings = replace(schedule.stage, minutes=minutes, steps=schedule.steps)
        prices = Prices(schedule.bits_scale)
        if name == "one":
            model = self._start(settings.seed)
        elif name == "three":
            model = self._newest()
            settings = replace(settings, rate=settings.rate / 4, hold=0.5, floor=0.0)
        else:
            model = trained_model(schedule.work, "centres")
            # At the prices that stage one found: a search takes fewer bits at a high price, so a
            # price adjusted to its bits would drift away from the one the encoder was trained at.
            settings = replace(
                settings, rate=settings.rate / 4, hold=0.0, floor=0.0, steer_from=None
            )
        if name != "one" or schedule.start is not None:
            prices.log_prices = torch.tensor(model.log_prices)
        distance = SpeechDistance(self._feature_distance(), schedule.feature_weight)
        held_out = None
        if schedule.dev is not None and self.team.leads:
            held_out = HeldOut(held_out_frames(schedule.dev, self.run.note), distance, prices)
        inputs = StageInputs(model, self.source, self.team, distance, prices, settings, held_out)
        if name == "three":
            return DrawingTask(inputs)
        return SpeechTask("one" if name == "one" else "two", inputs)

    def _newest(self) -> SpeechModel:
        """The networks of the last stage before three that has run."""
        work = self.schedule.work
        for name in ("two", "centres"):
            if checkpoints.latest_checkpoint(work / name) is not None:
                return trained_model(work, name)
        return trained_model(work, "one")

    def centres(self) -> None:
        """Cluster the unrounded latents of training frames; writes WORK/centres.

        A model that training started from keeps its centres: stage one has trained with them.
        """
        if self.team.leads:
            model = trained_model(self.schedule.work, "one").to(self.team.device)
            if self.schedule.start is None:
                model.generator.centres.copy_(self._clustered(model).to(self.team.device))
            numbers = {
                "shape": asdict(model.shape),
                "log_prices": model.log_prices,
                "finished": True,
            }
            tensors = checkpoints.module_tensors("average", model)
            checkpoints.save_checkpoint(self.schedule.work / "centres", 0, tensors, numbers)
        self.team.wait()

    def _clustered(self, model: SpeechModel) -> Tensor:
        """K-means centres [C, levels] of the model's latents of training frames."""
        random = np.random.default_rng((self.schedule.stage.seed, 2 << 20))
        latents = []
        for _ in range(-(-self.schedule.centre_frames // 100)):
            x = self.source.batch(100, random)
            with torch.no_grad():
                z = model.encoder(x, rate_points(100, random).to(x.device))
            latents.append(z.reshape(-1, model.shape.channels).cpu().numpy())
        return torch.from_numpy(kmeans_centres(np.concatenate(latents)))

    def export(self) -> None:
        """Write the model folder. An existing model is replaced at the end.

        Raises BadInput if `out` exists and is not a model folder.
        """
        schedule = self.schedule
        out = schedule.out or schedule.work / "model"
        if self.team.leads:
            name = export_speech(
                self._exported(), self.shards, out,
                batches=schedule.example_batches, search_steps=schedule.example_search_steps,
                seed=schedule.stage.seed,
            )  # fmt: skip
            self.run.note(f"model {name} written to {out}")

    def _exported(self) -> SpeechModel:
        name = self.schedule.exported
        if name is None:
            return trained_model(self.schedule.work, "two")
        return trained_model(self.schedule.work, name, finished=False)

    def _start(self, seed: int) -> SpeechModel:
        """The model that stage one starts from. Raises BadInput if there is no such model."""
        schedule, start = self.schedule, self.schedule.start
        if start is not None:
            found = load_speech_model("speech", model_folder(start))
            if not isinstance(found, SpeechModel):
                raise BadInput(f"{start} is the paper's system; `sotto train paper` trains it")
            return found.networks()
        torch.manual_seed(seed)
        model = SpeechModel(schedule.shape)
        if checkpoints.latest_checkpoint(schedule.work / "one") is None:
            random = np.random.default_rng((seed, 1 << 20))
            frames = max(_START_FRAMES, 2 * schedule.shape.channels // schedule.shape.steps)
            start_speech(model, self.source.batch(frames, random), seed)
        return model

    def _feature_distance(self) -> FeatureDistance | None:
        if self.schedule.feature_weight <= 0:
            return None
        own = self.schedule.work / "features" / "model"
        return FeatureDistance(load_features(own if own.is_dir() else None))


def trained_model(work: Path, name: str, *, finished: bool = True) -> SpeechModel:
    """The averaged networks in WORK/name.

    Raises BadInput if there are none, or if the stage is to be `finished` and is not.
    """
    path, tensors, numbers = checkpoints.newest_checkpoint(work / name, f"run --stage {name} first")
    with checkpoints.resuming(path):
        if finished and not numbers["finished"]:
            raise BadInput(f"stage {name} is not finished: run --stage {name} again")
        model = SpeechModel(SpeechShape(**sizes(numbers)))
        model.log_prices = finite(numbers["log_prices"], len(model.log_prices))
    checkpoints.load_module("average", model, tensors)
    return model.eval().requires_grad_(False)
