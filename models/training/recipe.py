"""The recipe: which stage builds on which, where each keeps its files, and how time is shared.

WORK/data      packed shards            WORK/centres   the model with its K-means centres
WORK/features  the feature network      WORK/two       stage two
WORK/one       stage one                WORK/model     the exported model (or --out)
"""

from __future__ import annotations

from dataclasses import asdict, dataclass, field, replace
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from codec.errors import BadInput
from models.folder import load_speech_model, new_model_folder
from models.model import sizes
from models.networks.features import FeatureDistance, load_features
from models.networks.speech import SpeechModel, SpeechShape
from models.training import checkpoints
from models.training.batches import FrameSource, rate_points
from models.training.centres import kmeans_centres
from models.training.distributed import Team
from models.training.export import export
from models.training.features import FeatureSettings, export_features, train_features
from models.training.frames import FrameShards
from models.training.interruption import Interruption
from models.training.objective import Distance, Prices, linear_start
from models.training.stages import Stage, StageName, StageSettings, train_stage

# Of the whole time; without the feature network the other two share its part.
SHARES = {"features": 0.15, "one": 0.6, "two": 0.25}
_START_FRAMES = 2500


@dataclass(frozen=True)
class Recipe:
    """Everything that is asked of a training; `minutes` and `steps` are of the stages run.

    start: a model folder to train on from; None starts at principal components.
    """

    work: Path
    start: Path | None = None
    minutes: float | None = 60.0
    steps: int | None = None
    feature_weight: float = 0.0
    stage: StageSettings = field(default_factory=StageSettings)
    features: FeatureSettings = field(default_factory=FeatureSettings)
    shape: SpeechShape = field(default_factory=SpeechShape)
    bits_scale: float = 1.0
    centre_frames: int = 4000
    example_batches: int = 24
    example_search_steps: int = 12

    def minutes_of(self, name: str, stages: tuple[str, ...]) -> float | None:
        """The time of one stage when `stages` share `minutes`."""
        if self.minutes is None:
            return None
        return self.minutes * SHARES[name] / sum(SHARES.get(other, 0.0) for other in stages)


class Trainer:
    """Runs the stages of a recipe over packed shards."""

    def __init__(
        self, recipe: Recipe, shards: FrameShards, team: Team, interruption: Interruption
    ) -> None:
        self.recipe, self.shards, self.team = recipe, shards, team
        self.interruption = interruption
        self._source: FrameSource | None = None
        self.last: Stage | None = None  # the stage that ran last

    @property
    def source(self) -> FrameSource:
        """Training frames on this process's device."""
        if self._source is None:
            self._source = FrameSource(self.shards, self.team.device)
        return self._source

    def features(self, minutes: float | None) -> float | None:
        """Train and export the feature network; its phone error rate, or None when stopped."""
        recipe = self.recipe
        folder = recipe.work / "features"
        rate = -1.0
        # Small enough for one process; the others wait.
        if self.team.leads:
            settings = replace(recipe.features, minutes=minutes, steps=recipe.steps)
            with self.interruption:
                network = train_features(
                    self.shards, folder, self.team.device, settings, self.interruption
                )
            if network is not None:
                rate = export_features(network, self.shards, folder / "model", self.team.device)
        told = torch.tensor([rate if self.team.leads else 0.0], device=self.team.device)
        rate = float(self.team.sum(told))
        return rate if rate >= 0 else None

    def stage(self, name: StageName, minutes: float | None) -> bool:
        """Train stage one or two; False when stopped before its end."""
        recipe = self.recipe
        settings = replace(recipe.stage, minutes=minutes, steps=recipe.steps)
        prices = Prices(recipe.bits_scale)
        if name == "one":
            model = self._start(settings.seed)
            if recipe.start is not None:
                prices.log_prices = torch.tensor(model.log_rate_weights)
        else:
            model = self._centred()
            prices.log_prices = torch.tensor(model.log_rate_weights)
            # At the prices that stage one found: a search takes fewer bits at a high price, and a
            # price that follows its bits runs away from the one that the encoder is used to.
            settings = replace(
                settings, rate=settings.rate / 4, hold=0.0, floor=0.0, steer_from=None
            )
        features = self._feature_distance()
        distance = Distance(features, recipe.feature_weight)
        stage = Stage(name, model, self.source, self.team, distance, prices, settings)
        self.last = stage
        with self.interruption:
            return train_stage(stage, recipe.work / name, self.interruption) is not None

    def centres(self) -> Path:
        """Cluster the unrounded latents of training frames; writes and returns WORK/centres.

        A model that was trained on keeps its centres: stage one has trained with them.
        """
        recipe, device = self.recipe, self.team.device
        folder = recipe.work / "centres"
        if self.team.leads:
            model = self._trained("one").to(device)
            if recipe.start is None:
                model.generator.centres.copy_(self._clustered(model).to(device))
            numbers = {
                "shape": asdict(model.shape),
                "log_prices": model.log_rate_weights,
                "finished": True,
            }
            tensors = checkpoints.module_tensors("average", model)
            checkpoints.save_checkpoint(folder, 0, tensors, numbers)
        self.team.wait()
        return folder

    def _clustered(self, model: SpeechModel) -> Tensor:
        """K-means centres [C, levels] of the model's latents of training frames."""
        random = np.random.default_rng((self.recipe.stage.seed, 2 << 20))
        latents = []
        for _ in range(-(-self.recipe.centre_frames // 100)):
            x = self.source.batch(100, random)
            with torch.no_grad():
                z = model.encoder(x, rate_points(100, random).to(x.device))
            latents.append(z.reshape(-1, model.shape.channels).cpu().numpy())
        return torch.from_numpy(kmeans_centres(np.concatenate(latents)))

    def export(self, out: Path) -> str:
        """Write the model folder; returns the model id. An existing model is replaced at the end.

        Raises BadInput when `out` exists and holds something else than a model.
        """
        with new_model_folder(out) as folder:
            self.shards.random = np.random.default_rng((self.recipe.stage.seed, 3 << 20))
            name = export(
                self._trained("two").cpu(),
                self.shards,
                folder,
                {"name": "speech", "licence": "CC BY 4.0"},
                batches=self.recipe.example_batches,
                search_steps=self.recipe.example_search_steps,
            )
            load_speech_model("speech", folder)
        return name

    def _start(self, seed: int) -> SpeechModel:
        """What stage one begins with. Raises BadInput when there is no such speech model."""
        recipe = self.recipe
        if recipe.start is not None:
            found = load_speech_model("speech", recipe.start)
            if not isinstance(found, SpeechModel):
                raise BadInput(f"{recipe.start}: the paper's system; `sotto train paper` trains it")
            # Anew, for its entropy coders cannot be copied as training copies networks.
            model = SpeechModel(found.shape)
            model.load_state_dict(found.state_dict())
            model.log_rate_weights = found.log_rate_weights
            return model
        torch.manual_seed(seed)
        model = SpeechModel(recipe.shape)
        if checkpoints.latest_checkpoint(recipe.work / "one") is None:
            random = np.random.default_rng((seed, 1 << 20))
            frames = max(_START_FRAMES, 2 * recipe.shape.channels // recipe.shape.steps)
            linear_start(model, self.source.batch(frames, random), seed)
        return model

    def _centred(self) -> SpeechModel:
        if checkpoints.latest_checkpoint(self.recipe.work / "centres") is None:
            raise BadInput("stage two needs the centres: run --stage centres first")
        return self._trained("centres")

    def _trained(self, name: str) -> SpeechModel:
        """The averaged networks of a finished stage."""
        return trained_model(self.recipe.work, name)

    def _feature_distance(self) -> FeatureDistance | None:
        if self.recipe.feature_weight <= 0:
            return None
        own = self.recipe.work / "features" / "model"
        return FeatureDistance(load_features(own if own.is_dir() else None))


def trained_model(work: Path, name: str) -> SpeechModel:
    """The averaged networks in WORK/name. Raises BadInput if the stage is not finished."""
    path = checkpoints.latest_checkpoint(work / name)
    if path is None:
        raise BadInput(f"{work / name} holds no checkpoint: run --stage {name} first")
    tensors, numbers = checkpoints.load_checkpoint(path)
    try:
        if not numbers["finished"]:
            raise BadInput(f"stage {name} is not finished: run --stage {name} again")
        model = SpeechModel(SpeechShape(**sizes(numbers)))
        model.log_rate_weights = [float(v) for v in numbers["log_prices"]]
    except (KeyError, TypeError, ValueError) as error:
        raise BadInput(f"{path} is damaged: {error}") from error
    checkpoints.load_module("average", model, tensors)
    return model.eval().requires_grad_(False)
