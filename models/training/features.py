"""Training of the feature network: CTC over phones, scored on held-out speakers."""

from __future__ import annotations

import copy
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from models.evaluation.phones import edit_distance
from models.networks.features import (
    FeatureShape,
    PhoneRecogniser,
    greedy_phones,
    save_features,
)
from models.phones import PHONES, TIMIT_PHONES
from models.training.distributed import alone
from models.training.frames import FrameShards
from models.training.loop import LoopSettings, Run, Task, learning_rate, train
from models.training.prepare import CORE_TEST_FOLDER
from models.training.utterances import (
    Utterance,
    batches,
    english_utterances,
    hold_out,
    labelled_utterances,
    load_batch,
)

_COLUMNS_PER_SECOND = 125.0


@dataclass(frozen=True)
class FeatureSettings(LoopSettings):
    """How the recogniser is trained; `columns` of a batch are 8 ms each, padding included."""

    rate: float = 2e-3
    columns: int = 4000
    shape: FeatureShape = field(default_factory=FeatureShape)


class FeatureTask(Task):
    """The phone recogniser; utterances are reshuffled every epoch."""

    name = "features"
    settings: FeatureSettings
    average: PhoneRecogniser

    def __init__(
        self,
        shards: FrameShards,
        utterances: list[Utterance],
        settings: FeatureSettings,
        device: torch.device,
        phones: tuple[str, ...] = PHONES,
    ) -> None:
        super().__init__(alone(device))
        torch.manual_seed(settings.seed)
        self.shards, self.utterances, self.settings = shards, utterances, settings
        self.network = PhoneRecogniser(settings.shape, phones).to(device)
        self.average = copy.deepcopy(self.network).eval().requires_grad_(False)
        optimiser = torch.optim.AdamW(self.network.parameters(), settings.rate, weight_decay=1e-3)
        self.modules = {"network": self.network, "average": self.average}
        self.optimisers = {"optimiser": (optimiser, self.network)}
        self.epoch = self.place = 0
        self._order: tuple[int, list[list[Utterance]]] = (-1, [])  # epoch, its batches

    def _next_group(self) -> list[Utterance]:
        while True:
            if self._order[0] != self.epoch:
                random = np.random.default_rng((self.settings.seed, self.epoch))
                found = batches(self.utterances, self.settings.columns, random)
                self._order = self.epoch, found
            if self.place < len(self._order[1]):
                self.place += 1
                return self._order[1][self.place - 1]
            self.epoch, self.place = self.epoch + 1, 0

    def step(self, fraction: float) -> dict[str, float]:
        s = self.settings
        rate = learning_rate(fraction, self.steps, s.rate, hold=0.4)
        random = np.random.default_rng((s.seed, 1, self.steps))
        group = self._next_group()
        batch = load_batch(self.shards, group, random)
        self.network.train()
        with self.autocast():
            out = self.network(batch.x.to(self.device))
        loss = nn.functional.ctc_loss(
            out.transpose(0, 1).cpu(), batch.phones, batch.steps, batch.lengths, zero_infinity=True
        )
        norm = self.descend("optimiser", rate, loss, most=2.0)
        self.steps += 1
        self.update_average(self.network, self.steps, 0.998)
        self.amount = sum(u.columns for u in group) / _COLUMNS_PER_SECOND
        return {"loss": loss.item(), "gradient": norm}

    def numbers(self) -> dict[str, Any]:
        return {"epoch": self.epoch, "place": self.place, "phones": list(self.network.phones)}

    def take(self, numbers: dict[str, Any], tensors: dict[str, Tensor]) -> None:
        if tuple(numbers.get("phones", PHONES)) != self.network.phones:
            raise ValueError("it was trained on another set of phones")
        self.epoch, self.place = int(numbers["epoch"]), int(numbers["place"])


def train_features(
    shards: FrameShards, folder: Path, device: torch.device, settings: FeatureSettings, run: Run
) -> float | None:
    """Train (or resume training) in `folder`, and export to `folder`/model.

    On labelled utterances of TIMIT if there are any, and else on transcribed ones. Returns the
    phone error rate on the held-out speakers (TIMIT's core test set), or None if the run ended
    early.
    """
    training, held, held_shards, phones = _utterances(shards)
    task = FeatureTask(shards, training, settings, device, phones)
    with run.looping():
        run.note(f"{len(training)} utterances to train on, {len(held)} held out")
        if not train(task, folder, run):
            return None
    measure_spread(task.average, shards, training, device)
    rate = phone_error_rate(task.average, held_shards, held, device)
    about = {
        "name": "features",
        "licence": "CC BY 4.0",
        "phone_error_rate": round(rate, 4),
        "held_out": {"speakers": len({u.speaker for u in held}), "utterances": len(held)},
    }
    save_features(task.average, folder / "model", about)
    return rate


def _utterances(
    shards: FrameShards,
) -> tuple[list[Utterance], list[Utterance], FrameShards, tuple[str, ...]]:
    """Utterances to train on, those held out with the shards they are in, and their phone set."""
    labelled = labelled_utterances(shards)
    if not labelled:
        return *hold_out(english_utterances(shards)), shards, PHONES
    core_test = shards.folder / CORE_TEST_FOLDER
    if not (core_test / "train.json").is_file():
        return *hold_out(labelled), shards, TIMIT_PHONES
    held_shards = FrameShards(core_test)
    return labelled, labelled_utterances(held_shards), held_shards, TIMIT_PHONES


@torch.no_grad()
def phone_error_rate(
    network: PhoneRecogniser,
    shards: FrameShards,
    utterances: list[Utterance],
    device: torch.device,
) -> float:
    """Edit distance from greedily decoded phones to the transcripts', per transcript phone."""
    network.eval()
    errors = total = 0
    for group in batches(utterances, 16_000, np.random.default_rng(0)):
        batch = load_batch(shards, group, None)
        out = network(batch.x.to(device)).cpu()
        for row, utterance in enumerate(group):
            said = [network.phones[k - 1] for k in utterance.phones]
            heard = greedy_phones(out[row, : int(batch.steps[row])], network.phones)
            errors += edit_distance(said, heard)
            total += len(said)
    return errors / max(total, 1)


@torch.no_grad()
def measure_spread(
    network: PhoneRecogniser,
    shards: FrameShards,
    utterances: list[Utterance],
    device: torch.device,
    groups: int = 24,
) -> None:
    """Measure the variance of each map's channels over training speech, for `FeatureDistance`."""
    network.eval()
    chosen = batches(utterances, 6000, np.random.default_rng(1))[:groups]
    totals: list[list[Tensor]] = []
    for number, group in enumerate(chosen):
        x = load_batch(shards, group, np.random.default_rng((2, number))).x.to(device)
        totals.append([m.float().var((0, 2, 3)) for m in network.maps(x)])
    for k in range(len(network.shape.widths)):
        spread = torch.stack([row[k] for row in totals]).mean(0)
        getattr(network, f"spread_{k}").copy_(spread)
