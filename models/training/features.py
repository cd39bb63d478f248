"""Training of the feature network: CTC over phones, scored on speakers it never saw."""

from __future__ import annotations

import time
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

from codec.device import fast_in_half
from models.evaluation.phones import edit_distance
from models.networks.features import (
    PHONES,
    FeatureShape,
    PhoneRecogniser,
    greedy_phones,
    save_features,
)
from models.training.checkpoints import (
    latest_checkpoint,
    load_checkpoint,
    load_module,
    load_optimiser,
    module_tensors,
    optimiser_tensors,
    resuming,
    save_checkpoint,
)
from models.training.frames import FrameShards
from models.training.interruption import Interruption
from models.training.journal import Journal, cut_log
from models.training.schedule import Budget, learning_rate
from models.training.utterances import (
    Utterance,
    batches,
    english_utterances,
    hold_out,
    load_batch,
)

_CHECKPOINT_SECONDS = 120.0


@dataclass(frozen=True)
class FeatureSettings:
    """How the recogniser is trained; `columns` of a batch are 8 ms each, padding included."""

    minutes: float | None = 15.0
    steps: int | None = None
    rate: float = 2e-3
    columns: int = 4000
    seed: int = 0
    log_every: int = 50
    shape: FeatureShape = field(default_factory=FeatureShape)


class _Average:
    """Exponential moving average of the weights, and of the batch statistics with them."""

    def __init__(self, network: PhoneRecogniser) -> None:
        self.network = PhoneRecogniser(network.shape).to(next(network.parameters()).device)
        self.network.load_state_dict(network.state_dict())
        self.network.eval().requires_grad_(False)

    @torch.no_grad()
    def update(self, network: PhoneRecogniser, step: int) -> None:
        decay = min(0.998, 1.0 - 1.0 / (step + 10))
        state = network.state_dict()
        for name, value in self.network.state_dict().items():
            if value.is_floating_point():
                value.lerp_(state[name], 1.0 - decay)


def train_features(
    shards: FrameShards,
    folder: Path,
    device: torch.device,
    settings: FeatureSettings,
    interruption: Interruption,
) -> PhoneRecogniser | None:
    """Train, or go on from the newest checkpoint in `folder`; None when stopped before the end."""
    training, held = hold_out(english_utterances(shards))
    torch.manual_seed(settings.seed)
    network = PhoneRecogniser(settings.shape).to(device)
    average = _Average(network)
    optimiser = torch.optim.AdamW(network.parameters(), settings.rate, weight_decay=1e-3)
    step, epoch, place, spent = 0, 0, 0, 0.0
    checkpoint = latest_checkpoint(folder)
    if checkpoint is not None:
        tensors, numbers = load_checkpoint(checkpoint)
        load_module("network", network, tensors)
        load_module("average", average.network, tensors)
        load_optimiser("optimiser", optimiser, network, tensors)
        with resuming(checkpoint):
            step, epoch, place = (int(numbers[key]) for key in ("step", "epoch", "place"))
            spent = float(numbers["spent"])
        cut_log(folder / "log.jsonl", step)
    budget = Budget(settings.minutes, settings.steps, spent)

    def save() -> None:
        tensors = module_tensors("network", network) | module_tensors("average", average.network)
        tensors |= optimiser_tensors("optimiser", optimiser, network)
        numbers = {"step": step, "epoch": epoch, "place": place, "spent": budget.elapsed()}
        save_checkpoint(folder, step, tensors, numbers)

    saved = time.monotonic()
    with Journal(folder, "features", settings.log_every) as journal:
        journal.note(f"{len(training)} utterances to train on, {len(held)} held out")
        while (fraction := budget.fraction(step)) < 1.0:
            order = batches(
                training, settings.columns, np.random.default_rng((settings.seed, epoch))
            )
            if place >= len(order):
                epoch, place = epoch + 1, 0
                continue
            for group in optimiser.param_groups:
                group["lr"] = learning_rate(fraction, step, settings.rate, hold=0.4)
            begun = time.monotonic()
            random = np.random.default_rng((settings.seed, 1, step))
            values = _step(network, optimiser, shards, order[place], random, device)
            step, place = step + 1, place + 1
            average.update(network, step)
            seconds = sum(u.columns for u in order[place - 1]) / 125.0
            took = max(time.monotonic() - begun, 1e-9)
            journal.step(step, budget.elapsed() / 60, fraction, values, seconds / took)
            if interruption.stops:
                journal.flush(step, budget.elapsed() / 60)
                save()
                return None
            if time.monotonic() - saved > _CHECKPOINT_SECONDS:
                save()
                saved = time.monotonic()
        journal.flush(step, budget.elapsed() / 60)
        save()
        journal.curves()
    measure_spread(average.network, shards, training, device)
    return average.network


def _step(
    network: PhoneRecogniser,
    optimiser: torch.optim.Optimizer,
    shards: FrameShards,
    group: list[Utterance],
    random: np.random.Generator,
    device: torch.device,
) -> dict[str, float]:
    batch = load_batch(shards, group, random)
    network.train()
    with torch.autocast(device.type, torch.bfloat16, enabled=fast_in_half(device)):
        out = network(batch.x.to(device))
    loss = nn.functional.ctc_loss(
        out.transpose(0, 1).cpu(), batch.phones, batch.steps, batch.lengths, zero_infinity=True
    )
    optimiser.zero_grad()
    loss.backward()
    norm = nn.utils.clip_grad_norm_(network.parameters(), 2.0)
    optimiser.step()
    return {"loss": loss.item(), "gradient": float(norm)}


@torch.no_grad()
def phone_error_rate(
    network: PhoneRecogniser,
    shards: FrameShards,
    utterances: list[Utterance],
    device: torch.device,
) -> float:
    """Edit distance of the greedy phones to the transcripts' over their number."""
    network.eval()
    errors = total = 0
    for group in batches(utterances, 16_000, np.random.default_rng(0)):
        batch = load_batch(shards, group, None)
        out = network(batch.x.to(device)).cpu()
        for row, utterance in enumerate(group):
            said = [PHONES[k - 1] for k in utterance.phones]
            heard = greedy_phones(out[row, : int(batch.steps[row])])
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
    """Set the variance of every map's channels over some training speech, for `FeatureDistance`."""
    network.eval()
    chosen = batches(utterances, 6000, np.random.default_rng(1))[:groups]
    totals: list[list[Tensor]] = []
    for number, group in enumerate(chosen):
        x = load_batch(shards, group, np.random.default_rng((2, number))).x.to(device)
        totals.append([m.float().var((0, 2, 3)) for m in network.maps(x)])
    for k in range(len(network.shape.widths)):
        spread = torch.stack([row[k] for row in totals]).mean(0)
        getattr(network, f"spread_{k}").copy_(spread)


def export_features(
    network: PhoneRecogniser, shards: FrameShards, folder: Path, device: torch.device
) -> float:
    """Write the shipped form and return its phone error rate on the held-out speakers."""
    _, held = hold_out(english_utterances(shards))
    rate = phone_error_rate(network, shards, held, device)
    about = {
        "name": "features",
        "licence": "CC BY 4.0",
        "phone_error_rate": round(rate, 4),
        "held_out": {"speakers": len({u.speaker for u in held}), "utterances": len(held)},
    }
    save_features(network, folder, about)
    return rate
