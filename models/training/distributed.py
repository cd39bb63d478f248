"""Training in one process, or in several started by `torchrun`: one per GPU, or sharing a CPU."""

from __future__ import annotations

import os
from dataclasses import dataclass
from datetime import timedelta

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from codec.device import choose_device
from codec.errors import BadInput

# Others wait while one prepares data or trains the feature network; `torchrun` ends all if it dies.
_LONGEST_WAIT = timedelta(days=7)


@dataclass(frozen=True)
class Team:
    """This process and the group that it trains in."""

    rank: int
    size: int
    device: torch.device

    @property
    def leads(self) -> bool:
        """True for the one process that writes files and reports."""
        return self.rank == 0

    def sum(self, values: Tensor) -> Tensor:
        """The sum over all processes of a small tensor."""
        if self.size > 1:
            dist.all_reduce(values)
        return values

    def any(self, flag: bool) -> bool:
        """True in every process if the flag is true in any."""
        if self.size == 1:
            return flag
        return bool(self.sum(torch.tensor([float(flag)], device=self.device)) > 0)

    def wrap(self, module: nn.Module) -> nn.Module:
        """The module with its gradients averaged over the team."""
        if self.size == 1:
            return module
        devices = [self.device] if self.device.type == "cuda" else None
        return DistributedDataParallel(module, device_ids=devices, broadcast_buffers=False)

    def wait(self) -> None:
        """Wait until all processes have arrived."""
        if self.size > 1:
            dist.barrier()

    def leave(self) -> None:
        """Close the connections to the other processes."""
        if self.size > 1:
            dist.destroy_process_group()


def alone(device: torch.device) -> Team:
    """A single process."""
    return Team(0, 1, device)


def join(device: str) -> Team:
    """The team described by the environment that `torchrun` sets, or else a single process.

    device: auto, cpu or cuda. Raises BadInput for any other, for CUDA if there is none, and for an
    inconsistent environment.
    """
    cuda = choose_device(device).type == "cuda"
    try:
        size = int(os.environ.get("WORLD_SIZE", "1"))
        rank = int(os.environ.get("RANK", "0"))
        local = int(os.environ.get("LOCAL_RANK", "0"))
    except ValueError as error:
        raise BadInput(f"WORLD_SIZE, RANK and LOCAL_RANK must be numbers: {error}") from error
    if cuda and local >= torch.cuda.device_count():
        raise BadInput(f"process {local} has no GPU: there are {torch.cuda.device_count()}")
    where = torch.device("cuda", local) if cuda else torch.device("cpu")
    if cuda:
        torch.cuda.set_device(where)
        torch.backends.cuda.matmul.allow_tf32 = True
        torch.backends.cudnn.allow_tf32 = True
    if size > 1:
        try:
            dist.init_process_group("nccl" if cuda else "gloo", timeout=_LONGEST_WAIT)
        except (RuntimeError, ValueError) as error:
            reason = " ".join(str(error).split())
            raise BadInput(f"cannot reach the other training processes: {reason}") from error
    return Team(rank, size, where)
