"""RDOQ: estimates for single-index steps, their constraints, and the results."""

from __future__ import annotations

import itertools
from dataclasses import replace

import pytest
import torch
from torch import Tensor

from codec.entropy.logistic import step_bits_around
from codec.entropy.speech_context import MAX_INDEX
from codec.search.admm import Descent
from codec.search.engine import search
from codec.search.problem import Networks, Problem, SearchSettings, StepModel
from codec.search.rdoq import Rdoq
from models.folder import load_speech_model, search_networks
from models.networks.speech import Prior, SpeechShape
from models.networks.speech_distance import FrameDistance
from tests.test_search import ToyDistance, ToyPrior

STEPS, CHANNELS, MELS = 4, 6, 6
PRICE = 0.01


def price_of(u: Tensor) -> Tensor:
    return ToyPrior().bits(u, torch.ones(len(u)))


def same(z: Tensor, rate: Tensor) -> Tensor:
    return z


def toy_networks() -> Networks:
    """A model that adds up orthonormal patches: every index can be judged alone.

    The energy is such that the curvature of a squared error is met, not that of the loudness.
    """

    def bits(u: Tensor, rate: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        own = price_of(u)
        return own, price_of(u - 1) - own, price_of(u + 1) - own

    steps = StepModel(
        bits,
        lambda rate: torch.full((len(rate), 1, CHANNELS), 0.5),
        lambda frames: frames.sum(2, keepdim=True),
        lambda u, rate: lambda near: bits(near, rate),
    )
    return Networks(same, same, ToyPrior(), same, steps=steps)


def toy_rdoq(x: Tensor, u: Tensor, limit: Tensor | None = None) -> Rdoq:
    reference = ToyDistance().reference(x)
    return Rdoq(
        toy_networks(),
        lambda y: ToyDistance().against(reference, y),
        x, torch.ones(len(x)), torch.full((len(x),), PRICE), u, limit=limit,
    )  # fmt: skip


def true_cost(x: Tensor, u: Tensor) -> Tensor:
    return (u - x).square().mean((1, 2)) + PRICE * price_of(u).sum((1, 2))


def targets(seed: int = 0) -> Tensor:
    return 3.0 * torch.randn(3, STEPS, MELS, generator=torch.Generator().manual_seed(seed))


def test_each_index_finds_its_best_neighbour() -> None:
    """Indices that do not touch each other come to rest where no single move helps."""
    x = targets()
    u = (x + torch.randn(x.shape, generator=torch.Generator().manual_seed(1))).round()
    rdoq = toy_rdoq(x, u)
    for _ in range(40):
        rdoq.round()
    found = rdoq.latents
    assert (true_cost(x, found) < true_cost(x, u)).all()
    best = true_cost(x, found)
    for step in range(STEPS):
        for channel in range(CHANNELS):
            for move in (-1, 1):
                other = found.clone()
                other[:, step, channel] += move
                assert (true_cost(x, other) > best - 1e-6).all()


def test_a_round_never_makes_a_frame_worse() -> None:
    x = targets(2)
    rdoq = toy_rdoq(x, torch.zeros_like(x))
    costs = [true_cost(x, rdoq.latents)]
    for _ in range(12):
        rdoq.round()
        costs.append(true_cost(x, rdoq.latents))
    for before, after in itertools.pairwise(costs):
        assert (after <= before + 1e-6).all()
    assert (costs[-1] < 0.5 * costs[0]).all()


def test_steps_stay_within_the_limit_of_bits_and_in_range() -> None:
    x = targets(3) * 20.0
    limit = torch.tensor([60.0, 90.0, 1e9])
    rdoq = toy_rdoq(x, torch.zeros_like(x), limit)
    for _ in range(60):
        rdoq.round()
    taken = price_of(rdoq.latents).sum((1, 2))
    assert (taken <= limit).all()
    assert taken[0] > 40.0
    assert rdoq.latents.abs().max() == MAX_INDEX


def test_the_prior_tells_what_steps_add() -> None:
    """Exactly for the index itself, for the others to first order."""
    shape = SpeechShape(
        channels=24, width=32, hidden=48, encoder_blocks=1, generator_blocks=1,
        prior_unit=8, prior_groups=(4, 4, 16),
    )  # fmt: skip
    torch.manual_seed(0)
    prior = Prior(shape)
    with torch.no_grad():
        for parameter in prior.parameters():
            parameter.copy_(0.15 * torch.randn_like(parameter))
    prior.requires_grad_(False)
    rate = torch.ones(2)
    u = torch.randint(-2, 3, (2, shape.steps, shape.channels)).float()
    own, below, above = prior.step_bits(u, rate)
    torch.testing.assert_close(own, prior.bits(u, rate))
    promised, true = [], []
    for step, channel in ((0, 0), (3, 5), (7, 1), (11, 9), (15, 23)):
        for move, told in ((-1.0, below), (1.0, above)):
            other = u.clone()
            other[:, step, channel] += move
            promised.append(told[:, step, channel])
            true.append((prior.bits(other, rate) - prior.bits(u, rate)).sum((1, 2)))
            if (step, channel) == (15, 23):  # the last one changes no other
                alone = prior.bits(other, rate, u)[:, step, channel] - own[:, step, channel]
                torch.testing.assert_close(told[:, step, channel], alone)
                torch.testing.assert_close(told[:, step, channel], true[-1])
    pairs = torch.stack((torch.cat(promised), torch.cat(true)))
    assert torch.corrcoef(pairs)[0, 1] > 0.9
    # Of latents nearby: with what is expected of u, and what u's steps do to the others.
    near = u + torch.randint(-1, 2, u.shape)
    own, below, above = step_bits_around(prior, u, rate)(near)
    at, less, more = (prior.bits(near + move, rate, u) for move in (0.0, -1.0, 1.0))
    torch.testing.assert_close(own, at)
    torch.testing.assert_close(below + above, less + more - 2.0 * at, rtol=1e-4, atol=1e-4)


def test_the_search_ends_with_rdoq() -> None:
    """At as many steps the shipped model's frames cost less than by ADMM alone."""
    networks = search_networks(load_speech_model("speech"))
    assert networks.steps is not None
    random = torch.Generator().manual_seed(4)
    rough = torch.randn(2, 16, 192, generator=random) * torch.linspace(2.0, 0.1, 192)
    ones = torch.ones(2)
    x = networks.generator(rough, ones).clamp(-1.0, 1.0)
    settings = SearchSettings("rdoq", iterations=24)
    best, admm = (
        search(Problem(networks, FrameDistance(), x, ones, ones * 2e-4), s)
        for s in (settings, replace(settings, method="admm"))
    )
    assert best.iterations == admm.iterations == 24
    assert best.cost.sum() < admm.cost.sum()


def test_few_steps_and_models_without_whole_latents_leave_it_out() -> None:
    networks = search_networks(load_speech_model("speech"))
    paper = search_networks(load_speech_model("paper"))
    assert paper.steps is None
    x, ones = torch.zeros(1, 128, 128), torch.ones(1)
    few = SearchSettings("rdoq", iterations=6)
    static = SearchSettings("mean-field", iterations=8, penalty=0.002)
    for model, settings, price in ((networks, few, 2e-4), (paper, static, 0.0)):
        best, admm = (
            search(Problem(model, FrameDistance(), x, ones, ones * price), s)
            for s in (settings, replace(settings, method="admm"))
        )
        torch.testing.assert_close(best.indices, admm.indices)


def test_latents_that_are_no_whole_numbers_are_refused() -> None:
    x, ones = targets(), torch.ones(3)

    networks = Networks(same, same, ToyPrior(), same)
    problem = Problem(networks, ToyDistance(), x, ones, ones)
    descent = Descent(problem, SearchSettings(), x)
    with pytest.raises(ValueError, match="not whole numbers"):
        descent.rdoq(x.round())
