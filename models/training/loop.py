"""The training loop: length, learning rate, averages, checkpoints, log and early stop."""

from __future__ import annotations

import contextlib
import time
from abc import abstractmethod
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from codec.device import fast_in_half
from codec.errors import BadInput
from models.networks.discriminator import discriminator_loss
from models.training import checkpoints
from models.training.distributed import Team
from models.training.log import Number, TrainingLog, cut_log

CHECKPOINT_SECONDS = 120.0
_PROGRESS_SECONDS = 1.0


def _silent(*report: object) -> None:
    pass


class Run:
    """One run of a training: when it stops early, and where it reports.

    pause: minutes after which the whole run stops; None for no limit. note: takes a line for the
    user. progress: takes the name of a stage, the share of it that is done, and a line of figures.
    `signal` is the number of the signal that asked to stop; signal handlers set it only while
    `loops`, since nothing else polls it.
    """

    def __init__(
        self,
        pause: float | None = None,
        clock: Callable[[], float] = time.monotonic,
        *,
        note: Callable[[str], None] = _silent,
        progress: Callable[[str, float, str], None] = _silent,
    ) -> None:
        self.signal = 0
        self.loops = False
        self.note, self.progress = note, progress
        self._clock = clock
        self._deadline = None if pause is None else clock() + 60.0 * pause

    @property
    def stops(self) -> bool:
        """True once the run should end: after a signal, or when its time is up."""
        if self.signal:
            return True
        return self._deadline is not None and self._clock() >= self._deadline

    @contextlib.contextmanager
    def looping(self) -> Iterator[None]:
        """Context of a loop that polls `stops` between its steps.

        Interrupting a step would leave half of the weights updated, so that no checkpoint of them
        could be written.
        """
        before, self.loops = self.loops, True
        try:
            yield
        finally:
            self.loops = before


@dataclass
class Budget:
    """The length of a stage, in minutes of wall-clock time or in steps, whichever ends first.

    spent: seconds that earlier runs spent on the stage.
    """

    minutes: float | None = None
    steps: int | None = None
    spent: float = 0.0
    clock: Callable[[], float] = time.monotonic
    _begun: float = field(init=False)

    def __post_init__(self) -> None:
        if self.minutes is None and self.steps is None:
            raise ValueError("a stage needs a length in minutes or steps")
        self._begun = self.clock()

    def elapsed(self) -> float:
        """Seconds spent on the stage, earlier runs included."""
        return self.spent + self.clock() - self._begun

    def fraction(self, step: int) -> float:
        """Share of the stage that is done: 1 or more when it is over."""
        parts = [0.0]
        if self.minutes is not None:
            parts.append(self.elapsed() / max(60.0 * self.minutes, 1e-9))
        if self.steps is not None:
            parts.append(step / max(self.steps, 1))
        return max(parts)


def learning_rate(
    fraction: float,
    step: int,
    peak: float,
    *,
    warmup: int = 200,
    hold: float = 0.3,
    floor: float = 0.02,
) -> float:
    """Linear warm-up over `warmup` steps, `peak` until `hold`, then linear to `floor` * peak."""
    rise = min(1.0, (step + 1) / max(warmup, 1))
    fall = 1.0 if fraction <= hold else max(0.0, (1.0 - fraction) / (1.0 - hold))
    return peak * rise * (floor + (1.0 - floor) * fall)


def adamw(
    parameters: Iterable[Tensor] | list[dict[str, Any]],
    rate: float,
    betas: tuple[float, float],
    *,
    decay: float,
    device: torch.device,
) -> torch.optim.AdamW:
    """AdamW, in one kernel on CUDA: there it skips a step that overflows without being asked."""
    fused = device.type == "cuda"
    return torch.optim.AdamW(parameters, rate, betas, weight_decay=decay, fused=fused)


def parameter_groups(
    module: nn.Module, scales: dict[str, float], **options: float
) -> list[dict[str, Any]]:
    """Groups for an optimiser: parameters whose names end with a key of `scales`, and the others.

    scales: learning-rate factors, applied by `descend`; options: for the groups with a factor.
    """
    named = list(module.named_parameters())
    groups: list[dict[str, Any]] = [
        {"params": [p for n, p in named if n.endswith(suffix)], "scale": scale, **options}
        for suffix, scale in scales.items()
    ]
    others = [p for n, p in named if not n.endswith(tuple(scales))]
    return [*groups, {"params": others, "scale": 1.0}]


@dataclass(frozen=True)
class LoopSettings:
    """The length of a training over all its runs: `minutes`, or `steps`, whichever ends first."""

    minutes: float | None = None
    steps: int | None = None
    seed: int = 0
    log_every: int = 50


class Task:
    """What is trained: everything that a checkpoint keeps, and one step.

    modules, optimisers: under their names in checkpoints; an optimiser with the module it trains.
    amount: frames, crops or seconds of training data that the last step took.
    """

    name: str
    settings: LoopSettings
    average: nn.Module
    final = False  # whether a finished training cannot be extended

    def __init__(self, team: Team) -> None:
        self.team, self.device = team, team.device
        self.steps, self.amount, self.finished = 0, 0.0, False
        self.modules: dict[str, nn.Module] = {}
        self.optimisers: dict[str, tuple[Optimizer, nn.Module]] = {}
        self._half = fast_in_half(team.device)

    def start(self) -> None:
        """Begin a training that has no checkpoint."""

    @abstractmethod
    def step(self, fraction: float) -> Mapping[str, Number]:
        """One step at this share of the training; returns the numbers to log, with the loss.

        Those that are tensors, of one element without gradient, are read only when they are shown:
        to read a number is to wait for the device.
        """

    def held_out(self) -> dict[str, float]:
        """Figures of data that training never sees: at its start and with each checkpoint."""
        return {}

    def finish(self) -> None:
        """Complete a training, before its last checkpoint is written."""

    def identity(self) -> dict[str, Any]:
        """Numbers that a checkpoint must have to belong to this training."""
        return {}

    def numbers(self) -> dict[str, Any]:
        """What a checkpoint keeps besides tensors."""
        return {}

    def take(self, numbers: dict[str, Any], tensors: dict[str, Tensor]) -> None:
        """Restore what `numbers` returned; modules and optimisers are loaded afterwards."""

    def tensors(self) -> dict[str, Tensor]:
        """What a checkpoint keeps of modules and optimisers."""
        found: dict[str, Tensor] = {}
        for name, module in self.modules.items():
            found |= checkpoints.module_tensors(name, module)
        for name, (optimiser, module) in self.optimisers.items():
            found |= checkpoints.optimiser_tensors(name, optimiser, module)
        return found

    def autocast(self) -> torch.autocast:
        """bfloat16 where the device is fast at it."""
        return torch.autocast(self.device.type, torch.bfloat16, enabled=self._half)

    def descend(
        self, name: str, rate: float, loss: Tensor | None = None, *, most: float = 1.0
    ) -> Tensor:
        """One step of an optimiser; returns the norm of the gradients, which are clipped to `most`.

        loss: None if the gradients are already there. A step that overflows is skipped: one bad
        batch must not ruin a training.
        """
        optimiser, module = self.optimisers[name]
        if loss is not None:
            optimiser.zero_grad()
            loss.backward()
        for group in optimiser.param_groups:
            group["lr"] = rate * group.get("scale", 1.0)
        norm = nn.utils.clip_grad_norm_(module.parameters(), most).detach()
        if optimiser.defaults.get("fused"):
            # As `torch.amp.GradScaler` does it: the kernel sees the flag, and nothing waits for it.
            optimiser.found_inf = (~norm.isfinite()).float()  # type: ignore[attr-defined]
            optimiser.step()
        elif norm.isfinite():
            optimiser.step()
        return norm

    @torch.no_grad()
    def update_average(self, module: nn.Module, step: int, longest: float) -> None:
        """Exponential moving average of weights and statistics; short at first, up to `longest`."""
        keep = min(longest, 1.0 - 1.0 / (step + 10))
        for of in (nn.Module.parameters, nn.Module.buffers):
            means, values = (
                [tensor for tensor in of(network) if tensor.is_floating_point()]
                for network in (self.average, module)
            )
            if means:
                torch._foreach_lerp_(means, values, 1.0 - keep)

    def train_discriminator(self, name: str, real: Tensor, generated: Tensor) -> Tensor:
        """One step of a discriminator on signals [B, ...], averaged over the team: its loss.

        Its weights need gradients only here: elsewhere the generator is trained against it.
        """
        optimiser, discriminator = self.optimisers[name]
        discriminator.requires_grad_(True)
        with self.autocast():
            scores = discriminator(torch.cat((real, generated.detach())))
            loss = discriminator_loss(*scores.chunk(2))
        optimiser.zero_grad()
        loss.backward()
        for parameter in discriminator.parameters():
            if self.team.size > 1 and parameter.grad is not None:
                self.team.sum(parameter.grad).div_(self.team.size)
        optimiser.step()
        discriminator.requires_grad_(False)
        return loss.detach()

    def save(self, folder: Path, spent: float, *, finished: bool = False) -> None:
        """Write a checkpoint, in the leading process only."""
        if self.team.leads:
            numbers = {"step": self.steps, "spent": spent, "finished": finished}
            numbers |= self.identity() | self.numbers()
            checkpoints.save_checkpoint(folder, self.steps, self.tensors(), numbers)
        self.team.wait()

    def resume(self, path: Path) -> float:
        """Resume from a checkpoint; returns the seconds that were spent before it.

        Raises BadInput if it is damaged or of another training.
        """
        tensors, numbers = checkpoints.load_checkpoint(path)
        with checkpoints.resuming(path):
            for key, own in self.identity().items():
                if numbers[key] != own:
                    raise BadInput(f"{path} is of {key} {numbers[key]}, not {own}")
            self.steps, spent = int(numbers["step"]), float(numbers["spent"])
            self.finished = bool(numbers.get("finished", False))
            self.take(numbers, tensors)
        for name, module in self.modules.items():
            checkpoints.load_module(name, module, tensors)
        for name, (optimiser, module) in self.optimisers.items():
            checkpoints.load_optimiser(name, optimiser, module, tensors)
        return spent


def train(task: Task, folder: Path, run: Run) -> bool:
    """Train to the end, from the newest checkpoint in `folder` if there is one.

    Returns False if the run ended early; a checkpoint is written either way. Raises BadInput for a
    damaged checkpoint or one of another training.
    """
    newest = checkpoints.latest_checkpoint(folder)
    spent = 0.0
    if newest is None:
        task.start()
    else:
        spent = task.resume(newest)
        if task.team.leads:
            cut_log(folder / "log.jsonl", task.steps)
        if task.finished and task.final:
            return True
    budget = Budget(task.settings.minutes, task.settings.steps, spent)
    log = TrainingLog(folder if task.team.leads else None, task.settings.log_every)
    if newest is None and task.team.leads:
        log.add(task.held_out())
        log.flush(task.steps, budget.elapsed() / 60)
    saved = shown = time.monotonic()
    taken = 0.0
    with run.looping():
        while True:
            due = time.monotonic() - saved > CHECKPOINT_SECONDS
            fraction, stop, due = _agree(task.team, budget.fraction(task.steps), run.stops, due)
            if fraction >= 1.0 or stop:
                break
            if due:
                task.save(folder, budget.elapsed())
                if task.team.leads:
                    log.add(task.held_out())
                log.flush(task.steps, budget.elapsed() / 60)
                log.curves()
                saved = shown = time.monotonic()
                taken = 0.0
            values = task.step(fraction)
            taken += task.amount * task.team.size
            if time.monotonic() - shown >= _PROGRESS_SECONDS:
                loss = float(values["loss"])
                now = time.monotonic()
                speed = taken / (now - shown)
                log.add({"speed": speed})
                state = f"step {task.steps}  loss {loss:.4f}  {speed:.0f}/s"
                run.progress(task.name, fraction, state)
                shown, taken = now, 0.0
            log.step(task.steps, budget.elapsed() / 60, values)
        if fraction >= 1.0:
            task.finish()
            if task.team.leads:
                log.add(task.held_out())
        log.flush(task.steps, budget.elapsed() / 60)
        task.save(folder, budget.elapsed(), finished=fraction >= 1.0)
        log.curves()
        run.progress(task.name, 1.0, "")
    return fraction >= 1.0


def _agree(team: Team, fraction: float, stop: bool, due: bool) -> tuple[float, bool, bool]:
    """(share done, stop, checkpoint due), made the same in every process."""
    if team.size == 1:
        return fraction, stop, due
    own = [fraction * team.leads, float(stop), float(due and team.leads)]
    # In float64, as rounding could end a stage a step early or late.
    fraction, stops, dues = team.sum(torch.tensor(own, dtype=torch.float64, device=team.device))
    return float(fraction), bool(stops > 0), bool(dues > 0)
