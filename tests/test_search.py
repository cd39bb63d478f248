"""The latent search: it lowers the true cost, can stop at any time, and meets its bit limits."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor

from codec.entropy.speech_context import MAX_INDEX
from codec.search.admm import Descent
from codec.search.engine import search, threads_for
from codec.search.problem import (
    Distance,
    Networks,
    Problem,
    SearchResult,
    SearchSettings,
    quantise,
)

STEPS, CHANNELS, HOPS, MELS = 4, 8, 16, 12


class ToyDistance(Distance):
    """Mean squared error."""

    def reference(self, x: Tensor) -> tuple[Tensor, ...]:
        return (x,)

    def against(self, reference: tuple[Tensor, ...], y: Tensor) -> Tensor:
        return (y - reference[0]).square().mean((1, 2))


class ToyPrior:
    """Bits that grow with magnitude."""

    def bits(self, z: Tensor, rate: Tensor, context: Tensor | None = None) -> Tensor:
        return torch.log2(1.0 + z.abs()) * 2.0 + 0.1


def toy_networks() -> Networks:
    """A smooth nonlinear generator whose warm start is deliberately poor."""
    generator_ = torch.Generator().manual_seed(3)
    mix = torch.randn(STEPS * CHANNELS, HOPS * MELS, generator=generator_) * 0.06

    def generator(z: Tensor, rate: Tensor) -> Tensor:
        return torch.sin(z.reshape(len(z), -1) @ mix).reshape(len(z), HOPS, MELS)

    def encoder(x: Tensor, rate: Tensor) -> Tensor:
        start = x.reshape(len(x), -1) @ mix.T * 0.3
        return start.reshape(len(x), STEPS, CHANNELS)

    return Networks(encoder, generator, ToyPrior(), generator)


def targets(count: int) -> Tensor:
    networks = toy_networks()
    random = torch.Generator().manual_seed(5)
    z = torch.randint(-3, 4, (count, STEPS, CHANNELS), generator=random).float()
    return networks.generator(z, torch.ones(count))


def toy_problem(x: Tensor, price: float = 1e-4, allowed_bits: Tensor | None = None) -> Problem:
    ones = torch.ones(len(x))
    return Problem(toy_networks(), ToyDistance(), x, ones, ones * price, allowed_bits)


def run(
    settings: SearchSettings,
    count: int = 4,
    price: float = 1e-4,
    allowed_bits: Tensor | None = None,
    **options: Any,
) -> SearchResult:
    return search(toy_problem(targets(count), price, allowed_bits), settings, **options)


def test_search_lowers_the_cost() -> None:
    result = run(SearchSettings(iterations=200))
    assert (result.cost <= result.start_cost).all()
    assert result.cost.mean() < 0.5 * result.start_cost.mean()


def test_result_is_quantised_and_its_cost_is_true() -> None:
    result = run(SearchSettings(iterations=30))
    q = result.indices
    assert torch.equal(q, q.round())
    assert q.abs().max() <= MAX_INDEX
    networks, ones = toy_networks(), torch.ones(len(q))
    bits = ToyPrior().bits(q, ones).sum((1, 2))
    cost = (networks.generator(q, ones) - targets(len(q))).square().mean((1, 2)) + 1e-4 * bits
    assert torch.allclose(cost, result.cost, atol=1e-6)
    assert torch.allclose(bits, result.bits)


def test_no_search_returns_the_rounded_encoder_output() -> None:
    x = targets(3)
    result = search(toy_problem(x, 1.0), SearchSettings("none"))
    assert torch.equal(result.indices, quantise(toy_networks().encoder(x, torch.ones(3))))
    assert result.iterations == 0


def test_budget_stops_the_search_with_a_valid_candidate() -> None:
    time = iter(range(1000))
    result = run(
        SearchSettings(iterations=10_000, budget=25.0, check_every=5), clock=lambda: next(time)
    )
    assert 5 <= result.iterations < 30
    assert (result.cost <= result.start_cost).all()


def test_a_budget_that_ends_between_scorings_still_counts() -> None:
    time = iter(range(1000))
    settings = SearchSettings(iterations=10_000, budget=30.0, check_every=1000)
    result = run(settings, clock=lambda: next(time))
    assert 0 < result.iterations < 1000
    assert (result.cost < result.start_cost).all()


def test_frames_of_a_batch_do_not_affect_each_other() -> None:
    x, settings = targets(5), SearchSettings(iterations=20)
    together = search(toy_problem(x), settings)
    for row in range(5):
        alone = search(toy_problem(x[row : row + 1]), settings)
        assert torch.equal(alone.indices[0], together.indices[row])


def test_higher_price_spends_fewer_bits() -> None:
    cheap, dear = (run(SearchSettings(iterations=100), price=p) for p in (1e-5, 3e-3))
    assert dear.bits.mean() < cheap.bits.mean()


def test_allowed_bits_are_kept_when_they_can_be() -> None:
    free = run(SearchSettings(iterations=100), price=1e-5)
    limit = free.bits * 0.8
    held = run(SearchSettings(iterations=200), price=1e-5, allowed_bits=limit)
    assert (held.bits <= limit).all()


@pytest.mark.parametrize("dead_zone", [0.0, 0.1, 0.3])
def test_quantise(dead_zone: float) -> None:
    z = torch.linspace(-20, 20, 4001)
    q = quantise(z, dead_zone)
    inside = z.abs() < MAX_INDEX
    assert (q - z)[inside].abs().max() <= 0.5 + dead_zone + 1e-5
    assert q.abs().max() == MAX_INDEX
    assert (q * z >= 0).all()


def test_candidates_that_their_bits_rule_out_are_not_decoded() -> None:
    x, ones = targets(4), torch.ones(4)
    networks, decoded = toy_networks(), []

    def counted(z: Tensor, rate: Tensor) -> Tensor:
        decoded.append(len(z))
        return networks.generator(z, rate)

    start = networks.encoder(x, ones)
    watched = replace(networks, generator=counted)
    problem = replace(toy_problem(x, allowed_bits=ones * 200.0), networks=watched)
    descent = Descent(problem, SearchSettings(penalty=1e-3, step=0.1), start)
    for _ in range(3):
        descent.step(0.0)
    costs, bits = descent.score()
    # Nothing is as cheap as the first and third frames ask for.
    below = torch.tensor([0.0, torch.inf, 0.0, torch.inf])
    some, same = descent.score(below=below)
    assert torch.equal(same, bits)
    assert torch.isinf(some[:, ::2]).all()
    torch.testing.assert_close(some[:, 1::2], costs[:, 1::2])
    none, _ = descent.score(below=torch.zeros(4))
    assert torch.isinf(none).all()
    assert decoded == [8, 4]


def test_a_single_frame_is_searched_on_one_thread() -> None:
    before = torch.get_num_threads()
    torch.set_num_threads(2)
    try:
        with threads_for(torch.zeros(8, HOPS, MELS)):
            assert torch.get_num_threads() == 2
        with pytest.raises(KeyError), threads_for(torch.zeros(1, HOPS, MELS)):
            assert torch.get_num_threads() == 1
            raise KeyError
        assert torch.get_num_threads() == 2
    finally:
        torch.set_num_threads(before)
