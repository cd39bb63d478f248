"""Training of the feature network: phones by CTC and attention, scored on held-out speakers.

Joint training after Kim, Hori & Watanabe (2017): both losses train the encoder. Only the output
that CTC trains is scored, and the attention decoder is not exported.
"""

from __future__ import annotations

import copy
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from models.evaluation.phones import edit_distance
from models.networks.features import (
    AttentionDecoder,
    FeatureShape,
    PhoneRecogniser,
    greedy_phones,
    load_features,
    save_features,
)
from models.phones import PHONES, TIMIT_PHONES
from models.training.distributed import alone
from models.training.frames import FrameShards, moved
from models.training.log import Number
from models.training.loop import LoopSettings, Run, Task, adamw, learning_rate, train
from models.training.prepare import CORE_TEST_FOLDER
from models.training.utterances import (
    Batch,
    Utterance,
    batches,
    english_utterances,
    hold_out,
    labelled_utterances,
    load_batch,
)

_COLUMNS_PER_SECOND = 125.0
_COLUMNS, _COLUMNS_ON_CUDA = 4000, 40_000
_LABEL_SMOOTHING = 0.1
_IGNORED = -1


@dataclass(frozen=True)
class FeatureSettings(LoopSettings):
    """How the recogniser is trained.

    columns: of a batch, 8 ms each, padding included; None for what suits the device; attention:
    weight of the attention decoder's loss, CTC has the rest; start: the folder of a network to go
    on from, which then gives the shape but for layers of BLSTM that it lacks.
    """

    rate: float = 1e-3
    columns: int | None = None
    attention: float = 0.3
    shape: FeatureShape = field(default_factory=FeatureShape)
    start: Path | None = None


class JointRecogniser(nn.Module):
    """The recogniser, and the attention decoder that is trained with it."""

    def __init__(self, shape: FeatureShape, phones: tuple[str, ...]) -> None:
        super().__init__()
        self.recogniser = PhoneRecogniser(shape, phones)
        self.decoder = AttentionDecoder(shape, len(phones))

    def losses(self, batch: Batch) -> tuple[Tensor, Tensor]:
        """Mean losses per phone of CTC and of the attention decoder."""
        states = self.recogniser.encode(batch.x)
        device = states.device
        with torch.autocast(device.type, enabled=False):
            found = self.recogniser.classify(states).transpose(0, 1)
            # As numbers, lengths take CUDA no copy back from the device.
            steps: Any = batch.steps.tolist()
            lengths: Any = batch.lengths.tolist()
            ctc = F.ctc_loss(found, batch.phones, steps, lengths, zero_infinity=True)
            logits = self.decoder(states, moved(batch.steps, device), batch.phones)
            # The phones and their end, class 0, but not the padding behind it.
            targets = F.pad(batch.phones, (0, 1))
            place = torch.arange(targets.shape[1], device=device)
            padding = place > moved(batch.lengths, device)[:, None]
            attention = F.cross_entropy(
                logits.transpose(1, 2), targets.masked_fill(padding, _IGNORED),
                ignore_index=_IGNORED, label_smoothing=_LABEL_SMOOTHING,
            )  # fmt: skip
        return ctc, attention


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
        self.joint = _joint(settings, phones).to(device)
        self.average = copy.deepcopy(self.joint.recogniser).eval().requires_grad_(False)
        parameters = self.joint.parameters()
        optimiser = adamw(parameters, settings.rate, (0.9, 0.98), decay=1e-2, device=device)
        self.modules = {"network": self.joint, "average": self.average}
        self.optimisers = {"optimiser": (optimiser, self.joint)}
        on_cuda = device.type == "cuda"
        self._columns = settings.columns or (_COLUMNS_ON_CUDA if on_cuda else _COLUMNS)
        self.epoch = self.place = 0
        self._order: tuple[int, list[list[Utterance]]] = (-1, [])  # epoch, its batches

    def _next_group(self) -> list[Utterance]:
        while True:
            if self._order[0] != self.epoch:
                random = np.random.default_rng((self.settings.seed, self.epoch))
                found = batches(self.utterances, self._columns, random)
                self._order = self.epoch, found
            if self.place < len(self._order[1]):
                self.place += 1
                return self._order[1][self.place - 1]
            self.epoch, self.place = self.epoch + 1, 0

    def step(self, fraction: float) -> Mapping[str, Number]:
        s = self.settings
        rate = learning_rate(fraction, self.steps, s.rate, hold=0.4)
        random = np.random.default_rng((s.seed, 1, self.steps))
        group = self._next_group()
        # Dropout depends on the step alone, as a resumed run has to repeat it.
        torch.manual_seed(s.seed + self.steps)
        batch = load_batch(self.shards, group, random, self.device)
        self.joint.train()
        with self.autocast():
            ctc, attention = self.joint.losses(batch)
        loss = (1.0 - s.attention) * ctc + s.attention * attention
        norm = self.descend("optimiser", rate, loss, most=2.0)
        self.steps += 1
        self.update_average(self.joint.recogniser, self.steps, 0.998)
        self.amount = sum(u.columns for u in group) / _COLUMNS_PER_SECOND
        values = {"loss": loss, "ctc": ctc, "attention": attention}
        return {"gradient": norm} | {name: value.detach() for name, value in values.items()}

    def numbers(self) -> dict[str, Any]:
        return {"epoch": self.epoch, "place": self.place, "phones": list(self.average.phones)}

    def take(self, numbers: dict[str, Any], tensors: dict[str, Tensor]) -> None:
        if tuple(numbers.get("phones", PHONES)) != self.average.phones:
            raise ValueError("it was trained on another set of phones")
        self.epoch, self.place = int(numbers["epoch"]), int(numbers["place"])


def _joint(settings: FeatureSettings, phones: tuple[str, ...]) -> JointRecogniser:
    """The networks as their training begins. Raises BadInput if there is nothing to start from."""
    if settings.start is None:
        return JointRecogniser(settings.shape, phones)
    start = load_features(settings.start)
    layers = max(start.shape.layers, settings.shape.layers)
    joint = JointRecogniser(replace(start.shape, layers=layers), phones)
    joint.recogniser.begin_with(start)
    return joint


def train_features(
    shards: FrameShards, folder: Path, device: torch.device, settings: FeatureSettings, run: Run
) -> float | None:
    """Train (or resume training) in `folder`, and export to `folder`/model.

    On labelled utterances of TIMIT if there are any, and else on transcribed ones. Returns the
    phone error rate on the held-out speakers (TIMIT's core test set), or None if the run ended
    early. Raises BadInput for unusable data, and if the network to start from is.
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
        batch = load_batch(shards, group, None, device)
        out = network(batch.x).cpu()
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
        x = load_batch(shards, group, np.random.default_rng((2, number)), device).x
        totals.append([m.float().var((0, 2, 3)) for m in network.maps(x)])
    for k in range(len(network.shape.widths)):
        spread = torch.stack([row[k] for row in totals]).mean(0)
        getattr(network, f"spread_{k}").copy_(spread)
