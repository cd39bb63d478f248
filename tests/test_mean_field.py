"""Mean-field rounding: what it descends on, where it ends, and that it keeps to time and bits."""

from __future__ import annotations

import itertools
from collections.abc import Callable
from dataclasses import replace

import pytest
import torch
from torch import Tensor

from codec.entropy.logistic import Effects
from codec.search.engine import descent, refine, search
from codec.search.mean_field import MeanField
from codec.search.problem import Problem, SearchResult, SearchSettings
from models.folder import load_speech_model, search_networks
from models.networks.speech_distance import FrameDistance
from tests.test_rdoq import PRICE, price_of, targets, toy_networks, true_cost
from tests.test_search import ToyDistance
from tests.test_search import toy_networks as smooth_networks

SETTINGS = SearchSettings(firmness=(1.0, 1.0))


def toy_descent(x: Tensor, start: Tensor, settings: SearchSettings = SETTINGS) -> MeanField:
    # The energy of the toy is half its curvature, as for the speech model.
    ones, networks = torch.ones(len(x)), toy_networks()
    assert networks.steps is not None
    exact = replace(networks.steps, energy=lambda rate: 2.0 * networks.steps.energy(rate))  # type: ignore[union-attr]
    exactly = replace(networks, steps=exact)
    made = descent(Problem(exactly, ToyDistance(), x, ones, PRICE * ones), settings, start)
    assert isinstance(made, MeanField)
    return made


def test_its_cost_is_that_of_random_rounding() -> None:
    """Where the distance is a squared error and every index has bits of its own, exactly so."""
    x = targets(1)
    z = x + 0.3 * torch.randn(x.shape, generator=torch.Generator().manual_seed(2))
    made = toy_descent(x, z)
    made.step(0.0)
    below, share = z.floor(), z - z.floor()
    source, drawn = torch.Generator().manual_seed(3), []
    for _ in range(4000):
        up = torch.rand(z.shape, generator=source) < share
        drawn.append(true_cost(x, below + up))
    torch.testing.assert_close(made.cost, torch.stack(drawn).mean(0), rtol=0.01, atol=0.0)


def test_it_ends_at_the_best_whole_numbers() -> None:
    """Indices that do not touch each other find the best of all, from a start one beside it."""
    x = targets(4)
    made = toy_descent(x, x + 0.7, SearchSettings(iterations=80, firmness=(1.0, 1.0)))
    for k in range(80):
        made.step(k / 80)
    assert ((made.z - made.z.round()).abs() < 0.1).float().mean() > 0.9
    options = torch.stack([x.round() + move for move in range(-3, 4)])
    costs = (options - x).square() / x[0].numel() + PRICE * price_of(options)
    best = options.gather(0, costs.argmin(0, keepdim=True))[0]
    found, least = true_cost(x, made.candidates[0]), true_cost(x, best)
    assert (found <= 1.01 * least).all()


def test_a_second_move_needs_no_second_look_at_the_networks() -> None:
    """It is the one of another step where the distance is a squared error and every index has bits
    of its own."""
    x = targets(1)
    start = x + 0.3 * torch.randn(x.shape, generator=torch.Generator().manual_seed(2))
    often, once = (toy_descent(x, start, replace(SETTINGS, moves=n, step=0.1)) for n in (1, 3))
    once.step(0.0)
    for _ in range(3):
        often.step(0.0)
    torch.testing.assert_close(once.z, often.z)


@pytest.mark.parametrize("looks", [1, 2, 3])
def test_a_look_at_the_prior_serves_for_several_steps(looks: int) -> None:
    """Where every index has bits of its own, nothing is lost by that."""
    x = targets(1)
    start = x + 0.3 * torch.randn(x.shape, generator=torch.Generator().manual_seed(2))
    always, seldom = (toy_descent(x, start, replace(SETTINGS, looks=n)) for n in (1, looks))
    looked, model = [], seldom._networks.steps
    assert model is not None

    def counted(u: Tensor, rate: Tensor) -> Callable[[Tensor], Effects]:
        looked.append(u)
        assert model.around is not None
        return model.around(u, rate)

    seldom._networks = replace(seldom._networks, steps=replace(model, around=counted))
    for k in range(6):
        always.step(k / 6)
        seldom.step(k / 6)
    assert len(looked) == (0 if looks == 1 else 6 // looks)
    torch.testing.assert_close(always.z, seldom.z)


def test_it_finds_more_than_admm_in_a_quarter_of_the_steps() -> None:
    networks = search_networks(load_speech_model("speech"))
    random = torch.Generator().manual_seed(4)
    rough = torch.randn(2, 16, 192, generator=random) * torch.linspace(2.0, 0.1, 192)
    ones = torch.ones(2)
    x = networks.generator(rough, ones).clamp(-1.0, 1.0)
    found, admm = (
        search(Problem(networks, FrameDistance(), x, ones, ones * 2e-4), settings)
        for settings in (SearchSettings(iterations=10), SearchSettings("rdoq", iterations=40))
    )
    assert (found.iterations, admm.iterations) == (10, 40)
    assert found.cost.sum() < admm.cost.sum() < admm.start_cost.sum()


def test_models_without_whole_latents_are_searched_by_admm() -> None:
    x, ones = torch.zeros(2, 16, 12), torch.ones(2)
    problem = Problem(smooth_networks(), ToyDistance(), x, ones, ones)
    settings, start = SearchSettings(penalty=1e-3), torch.zeros(2, 4, 8)
    assert type(descent(problem, settings, start)) is not MeanField
    with pytest.raises(ValueError, match="not whole numbers"):
        MeanField(problem, settings, start).step(0.0)


def refined(
    iterations: int,
    budget: float | None = None,
    pace: float = 0.0,
    limit: float | None = None,
    start: Tensor | None = None,
) -> SearchResult:
    """A search in a hurry, in which every look at the clock takes a second."""
    x, ones, ticks = targets(4), torch.ones(3), itertools.count()
    settings = SearchSettings(iterations=iterations, budget=budget)
    allowed = None if limit is None else limit * ones
    return refine(
        Problem(toy_networks(), ToyDistance(), x, ones, PRICE * ones, allowed), settings,
        start=0.8 * x if start is None else start, pace=pace, clock=lambda: float(next(ticks)),
    )  # fmt: skip


def test_a_search_in_a_hurry() -> None:
    """It says what it found, and ends after so many steps, or in time, but not before one step."""
    x = targets(4)
    start = true_cost(x, (0.8 * x).round())
    few, many = refined(3), refined(40)
    assert (few.iterations, many.iterations) == (3, 40)
    for each in (few, many):
        torch.testing.assert_close(each.bits, price_of(each.indices).sum((1, 2)))
        assert torch.equal(each.indices, each.indices.round())
        assert each.relaxed is not None and (each.relaxed - each.indices).abs().max() <= 0.5
        assert (each.cost < each.start_cost).all()
    assert (true_cost(x, many.indices) < true_cost(x, few.indices)).all()
    assert (true_cost(x, many.indices) < start).all()
    assert refined(10_000, budget=0.0).iterations == 1
    assert 2 <= refined(10_000, budget=6.0).iterations <= 6
    assert refined(3, budget=float("inf"), pace=1.0).iterations == 3
    # Steps that are expected to take long are few, and large ones.
    assert refined(10_000, budget=6.0, pace=2.0).iterations <= 3


def test_a_search_in_a_hurry_keeps_within_the_bits() -> None:
    free = refined(20, start=targets(4))
    limit = 0.8 * float(free.bits.min())
    held = refined(20, limit=limit, start=targets(4))
    assert (held.bits <= limit).all() and (free.bits > limit).all()


def test_it_goes_on_from_where_it_was() -> None:
    """From the latents before rounding, that is: nothing of what was found is lost."""
    x = targets(4)
    first = refined(6)
    assert first.relaxed is not None
    then = refined(6, start=first.relaxed)
    assert (true_cost(x, then.indices) <= true_cost(x, first.indices) + 1e-6).all()


def test_few_steps_under_a_tight_limit_find_something() -> None:
    """The descent ends above the limit, as it wants more bits than are allowed at this price."""
    networks = search_networks(load_speech_model("speech"))
    rough = torch.randn(4, 16, 192, generator=torch.Generator().manual_seed(6))
    ones = torch.ones(4)
    x = networks.generator(rough * torch.linspace(2.0, 0.1, 192), ones).clamp(-1.0, 1.0)
    free = Problem(networks, FrameDistance(), x, ones, ones * 5e-5)
    few, none = SearchSettings(iterations=4), SearchSettings("none")
    limit = search(free, none).bits
    assert (search(free, few).bits > limit).all()
    found = search(replace(free, allowed_bits=limit), few)
    assert (found.bits <= limit).all()
    assert (found.cost < found.start_cost).all()
