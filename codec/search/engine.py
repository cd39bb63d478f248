"""Latent search: the quantised latents whose generator output best matches a frame, at a rate.

Every method descends from a warm start, which is the encoder's output unless another is given:
mean-field rounding (`codec.search.mean_field`) where latents are whole numbers, ADMM
(`codec.search.admm`) or plain back-propagation. Every few iterations the *quantised* candidates are
decoded and scored by their true cost F(x, G(u)) + λ R(u); the best one ever seen is what the search
returns, so it may stop at any time. RDOQ (`codec.search.rdoq`) follows. Frames of a batch are
independent of each other.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace

import torch
from torch import Tensor

from codec.search.admm import Descent
from codec.search.mean_field import MeanField
from codec.search.problem import Networks, Problem, SearchResult, SearchSettings

_RDOQ = 0.25  # share of the iterations, or of the time, that is for RDOQ
_FEWEST_WITH_RDOQ = 8  # iterations
# In a hurry, two moves of the latents in each iteration and a look at the prior in every other one
# find in the same time what would take half as many iterations more. In two they find less.
_MOVES, _LOOKS, _FEWEST_WITH_MOVES = 2, 2, 3


def by_mean_field(networks: Networks, settings: SearchSettings) -> bool:
    """Whether mean-field rounding is the method, and the model's latents are whole numbers."""
    return settings.method == "mean-field" and networks.steps is not None


def descent(problem: Problem, settings: SearchSettings, start: Tensor) -> Descent:
    """A descent from latents [B, S, C] by the method of the settings; by ADMM where mean-field
    rounding cannot be."""
    kind = MeanField if by_mean_field(problem.networks, settings) else Descent
    return kind(problem, settings, start)


@contextmanager
def threads_for(x: Tensor) -> Iterator[None]:
    """Use one thread while a single frame of x [B, T, M] is searched on the CPU.

    The products of one frame are too small to share, and where another program keeps a core busy,
    every one of them would wait for it.
    """
    threads = torch.get_num_threads()
    if len(x) > 1 or x.device.type != "cpu" or threads == 1:
        yield
        return
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(threads)


def search(
    problem: Problem,
    settings: SearchSettings,
    *,
    start: Tensor | None = None,
    clock: Callable[[], float] = time.monotonic,
    report: Callable[[float, float, int], None] | None = None,
) -> SearchResult:
    """The best quantised latents found.

    Candidates above the allowed bits are kept only if there is no other: then the smallest one.
    start: latents [B, S, C] that replace the encoder's; report: called after every iteration with
    the share done, the best cost relative to the start, and the number of iterations.
    """
    begun, done = clock(), 0
    if start is None:
        with torch.no_grad():
            start = problem.networks.encoder(problem.x, problem.rate)
    whole = problem.networks.steps is not None
    stepping = settings.method in ("mean-field", "rdoq") and whole
    stepping = stepping and settings.iterations >= _FEWEST_WITH_RDOQ
    descended = 1.0 - _RDOQ if stepping else 1.0
    before = replace(settings, iterations=round(descended * settings.iterations))
    found = descent(problem, before, start)
    first = found.candidates[0]
    costs, sizes = found.score()
    best = SearchResult(first, costs[0], sizes[0], costs[0], 0)
    if settings.method == "none" or settings.iterations == 0:
        return best

    def progress() -> float:
        """How far along the search is, 1 at its end: by iterations, or by time if that is more."""
        share = done / settings.iterations
        if settings.budget is not None:
            share = max(share, (clock() - begun) / max(settings.budget, 1e-9))
        return share

    def tell() -> None:
        if report is not None:
            share = float((best.cost / best.start_cost).mean())
            report(min(progress(), 1.0), share, done)

    while (share := progress()) < descended:
        found.step(share / descended)
        done += 1
        if done % settings.check_every == 0:
            best = best.improved(found.candidates, *found.score(below=best.cost))
        tell()
    if done % settings.check_every:
        best = best.improved(found.candidates, *found.score(below=best.cost))
    if problem.allowed_bits is not None:
        # In few steps the price may not have grown enough for what is allowed.
        networks, rate = problem.networks, problem.rate
        held = cheapen(networks, found.z, rate, problem.allowed_bits)
        if held is not found.z:  # as it is, it has been scored
            cheaper = [networks.quantise(held, 0.0)]
            best = best.improved(cheaper, *found.score(cheaper, best.cost))
    if share < 1.0:
        rdoq, done = found.rdoq(best.indices), done + 1
        while progress() < 1.0 and rdoq.round():
            done += 1
            tell()
        stepped = [rdoq.latents]
        best = best.improved(stepped, *found.score(stepped, best.cost))
    tell()
    return replace(best, iterations=done)


def refine(
    problem: Problem,
    settings: SearchSettings,
    *,
    start: Tensor,
    pace: float = 0.0,
    clock: Callable[[], float] = time.monotonic,
) -> SearchResult:
    """As `search`, in a hurry: mean-field rounding alone, from `start` [B, S, C].

    In a dozen iterations that finds more than with RDOQ after it. One iteration is always done, and
    as many more as `pace`, the seconds that one is expected to take, and what they do take let the
    budget hold. Nothing is decoded to score it: costs are the expected ones at the beginning and
    before the last step, and the latents are made cheaper where they exceed the allowed bits.
    Raises ValueError for a model whose latents are not whole numbers.
    """
    begun = clock()
    planned = settings.iterations
    if settings.budget is not None and pace > 0.0:
        planned = int(min(planned, settings.budget / pace))
    planned = max(planned, 1)
    several = planned >= _FEWEST_WITH_MOVES
    moves, looks = (_MOVES, _LOOKS) if several else (1, 1)
    own = replace(settings, iterations=planned, moves=moves, looks=looks)
    found = MeanField(problem, own, start)
    found.step(0.0)
    first, done = found.cost, 1
    while done < planned:
        if settings.budget is not None:
            spent = clock() - begun
            # The next iteration will take as long as those before.
            if spent * (done + 1) / done > settings.budget:
                break
        found.step(done / planned)
        done += 1
    z, u, bits = _cheapened(problem.networks, found.z, problem.rate, problem.allowed_bits)
    return SearchResult(u, found.cost, bits, first, done, z)


def cheapen(
    networks: Networks, z: Tensor, rate: Tensor, limit: Tensor, steps: int = 80, size: float = 0.1
) -> Tensor:
    """Move latents z [B, S, C] down the rate until their quantised form takes `limit` [B] bits.

    Frames within their limit are unchanged. The cheapest latents are those that the prior expects,
    which need not be zero. Ends above the limit if `steps` steps of `size` do not suffice.
    """
    return _cheapened(networks, z, rate, limit, steps, size)[0]


def _cheapened(
    networks: Networks,
    z: Tensor,
    rate: Tensor,
    limit: Tensor | None,
    steps: int = 80,
    size: float = 0.1,
) -> tuple[Tensor, Tensor, Tensor]:
    """As `cheapen`, without a limit unchanged; with the quantised latents and their bits [B]."""
    for left in range(steps, -1, -1):
        quantised = networks.quantise(z, 0.0)
        with torch.no_grad():
            bits = networks.prior.bits(quantised, rate).sum((1, 2))
        if not left or limit is None or not (above := bits > limit).any():
            break
        z = z.detach().requires_grad_(True)
        (slope,) = torch.autograd.grad(networks.prior.bits(z, rate, quantised).sum(), z)
        scale = slope.square().mean((1, 2), keepdim=True).sqrt() + 1e-9
        z = torch.where(above[:, None, None], z - size * slope / scale, z).detach()
    return z, quantised, bits
