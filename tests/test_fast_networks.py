"""Networks written out, for decoders and with their gradients for the search, are close to those
that were trained."""

from __future__ import annotations

import copy

import numpy as np
import pytest
import torch
from torch import Tensor

from codec.speech.codec import SpeechCodec
from models.inference import packed as packing
from models.inference.fast_distance import FastDistance
from models.inference.fast_networks import FastGenerator, arrays_in
from models.inference.fast_prior import FastPrior
from models.inference.packed import can_pack, can_quantise, packed
from models.inference.written_out import WrittenGenerator
from models.networks.speech import Generator, Prior, SpeechShape
from models.networks.speech_distance import FrameDistance

SHAPE = SpeechShape(
    channels=24, width=32, hidden=48, encoder_blocks=1, generator_blocks=3,
    prior_unit=8, prior_groups=(2, 6, 16),
)  # fmt: skip
FRAMES = 3
PRODUCTS = ["bytes", "packed", "plain"]


@pytest.fixture(params=PRODUCTS)
def tolerance(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> float:
    """How far networks may be off with each kind of products."""
    if request.param == "bytes":
        if not can_quantise():
            pytest.skip("this PyTorch has no products in 8-bit integers")
        return 0.2  # random networks of a few channels average little out: see the shipped one
    monkeypatch.setattr(packing, "can_quantise", lambda: False)
    if request.param == "plain":
        monkeypatch.setattr(packing, "can_pack", lambda: False)
    elif not can_pack():
        pytest.skip("this PyTorch lays out no weights")
    return 2e-4


def frozen(network: torch.nn.Module, deviation: float) -> None:
    """Random weights everywhere: fresh networks have layers of zeros."""
    random = torch.Generator().manual_seed(7)
    for name, parameter in network.named_parameters():
        noise = deviation * torch.randn(parameter.shape, generator=random)
        parameter.data = noise + (1.0 if name.endswith("norm.weight") else 0.0)
    network.requires_grad_(False).eval()


@pytest.fixture(scope="module")
def generator() -> Generator:
    network = Generator(SHAPE)
    frozen(network, 0.15)
    network.centres += 0.2 * torch.sin(3.0 * network.centres)  # uneven, as trained ones are
    return network


@pytest.fixture(scope="module")
def prior() -> Prior:
    network = Prior(SHAPE)
    frozen(network, 0.2)
    network.fold_masks()
    return network


def latents(spread: float) -> Tensor:
    """Some latents [B, S, C]."""
    random = torch.Generator().manual_seed(11)
    return spread * torch.randn(FRAMES, SHAPE.steps, SHAPE.channels, generator=random)


RATE = torch.tensor([0.0, 0.75, 2.0])


def off(a: Tensor, b: Tensor) -> float:
    """How far a is from b, relative to b."""
    return float(((a - b).norm() / b.norm()).detach())


@pytest.mark.parametrize("spread", [0.5, 4.0])
def test_fast_generator_draws_what_the_generator_draws(
    generator: Generator, spread: float, tolerance: float
) -> None:
    z = latents(spread)
    assert off(FastGenerator(generator)(z, RATE), generator(z, RATE)) < tolerance


@pytest.mark.parametrize("spread", [0.5, 4.0])
def test_gradient_of_the_fast_generator_is_that_of_the_generator(
    generator: Generator, spread: float, tolerance: float
) -> None:
    wanted = torch.sin(torch.arange(FRAMES * 128 * 128.0)).reshape(FRAMES, 128, 128)
    gradients = []
    for network in (FastGenerator(generator), generator):
        z = latents(spread).requires_grad_(True)
        gradients.append(torch.autograd.grad(network(z, RATE), z, wanted)[0])
    assert off(*gradients) < tolerance


def test_gradient_of_a_frame_ignores_the_others(generator: Generator, tolerance: float) -> None:
    fast = FastGenerator(generator)
    z = latents(1.0).requires_grad_(True)
    (together,) = torch.autograd.grad(fast(z, RATE).square().sum(), z)
    for at in range(FRAMES):
        one = z[at : at + 1].detach().requires_grad_(True)
        (alone,) = torch.autograd.grad(fast(one, RATE[at : at + 1]).square().sum(), one)
        assert off(together[at : at + 1], alone) < tolerance


@pytest.mark.parametrize("known", [0, 1, 2, 4, 7])
@pytest.mark.parametrize("steps", [1, 2, 4])
@pytest.mark.parametrize("blocks", [1, 2, 3, 8])
def test_latents_that_follow_known_ones_are_drawn_as_in_the_whole(
    monkeypatch: pytest.MonkeyPatch, known: int, steps: int, blocks: int
) -> None:
    monkeypatch.setattr(packing, "can_quantise", lambda: False)
    network = Generator(
        SpeechShape(channels=24, width=32, hidden=48, generator_blocks=blocks, prior_groups=(24,))
    )
    frozen(network, 0.15)
    fast = FastGenerator(network)
    z, rate = latents(1.0)[:, : known + steps], torch.full((FRAMES,), 0.75)
    z[:, :known] = z[0, :known]
    drawn = fast.following(z[:1, :known])
    wanted = torch.sin(torch.arange(FRAMES * steps * 8 * 128.0)).reshape(FRAMES, -1, 128)
    new = z[:, known:].clone().requires_grad_(True)
    for _ in range(2):  # what was computed for the first is used again
        y = drawn(new, rate)
        (slope,) = torch.autograd.grad(y, new, wanted)
        whole = z.clone().requires_grad_(True)
        expected = network(whole, rate)[:, known * 8 :]
        (true_slope,) = torch.autograd.grad(expected, whole, wanted)
        assert off(y, expected) < 1e-4
        assert off(slope, true_slope[:, known:]) < 1e-3
    other = torch.full((FRAMES,), 1.5)
    assert off(drawn(new, other), network(z, other)[:, known * 8 :]) < 1e-4


@pytest.mark.parametrize("known", [0, 1, 2, 7])
@pytest.mark.parametrize("blocks", [0, 1, 3, 8])
def test_decoders_draw_what_the_generator_draws(known: int, blocks: int) -> None:
    network = Generator(
        SpeechShape(channels=24, width=32, hidden=48, generator_blocks=blocks, prior_groups=(24,))
    )
    frozen(network, 0.15)
    z = 2.0 * latents(1.0)
    whole = network(z, RATE).numpy()
    written = WrittenGenerator(arrays_in(network), network.shape)
    for steps in (1, 2, SHAPE.steps - known):
        window = z[:, : known + steps]
        drawn = written.newest(window.numpy(), RATE.numpy(), steps)
        expected = network(window, RATE).numpy()[:, known * 8 :]
        np.testing.assert_allclose(drawn, expected, atol=5e-6 * np.abs(whole).max())


def test_the_shipped_generator_decodes_to_the_last_digits() -> None:
    codec = SpeechCodec.load("2k", "cpu")
    alone = SpeechCodec.load("2k", "cpu", decoding=True).generator
    z = torch.randint(-4, 5, (2, 16, 192), generator=torch.Generator().manual_seed(3)).float()
    for rate in (0.0, 1.125, 2.0):
        expected = codec.networks.generator(z, torch.tensor([rate, rate]))
        drawn = codec.generator.draw(z.numpy(), rate, 16)
        np.testing.assert_allclose(drawn, expected.numpy(), atol=3e-5)
        np.testing.assert_array_equal(alone.draw(z.numpy(), rate, 16), drawn)
    one, two = torch.tensor([0.5]), torch.tensor([1.75])
    np.testing.assert_allclose(
        alone.rescale(z[0].numpy(), 0.5, 1.75), codec.networks.rescale(z, one, two)[0].numpy(),
        rtol=1e-5,
    )  # fmt: skip


def test_the_shipped_generator_is_hardly_off() -> None:
    model = SpeechCodec.load("2k", "cpu").networks
    assert isinstance(model.generator, Generator)
    z = torch.randn(1, 16, 192, generator=torch.Generator().manual_seed(3))
    rate, wanted = torch.ones(1), torch.sin(torch.arange(128 * 128.0)).reshape(1, 128, 128)
    found = []
    for network in (FastGenerator(model.generator), model.generator):
        latents = z.clone().requires_grad_(True)
        y = network(latents, rate)
        found.append((y, *torch.autograd.grad(y, latents, wanted)))
    for (ours, true), limit in zip(zip(*found, strict=True), (0.01, 0.05), strict=True):
        assert off(ours, true) < limit


def test_two_passes_can_be_under_way_at_once(generator: Generator) -> None:
    fast = FastGenerator(generator)
    first, second = (latents(spread).requires_grad_(True) for spread in (1.0, 2.0))
    y = fast(first, RATE)
    fast(second, RATE).sum().backward()
    (late,) = torch.autograd.grad(y.sum(), first)
    (alone,) = torch.autograd.grad(fast(first, RATE).sum(), first)
    assert torch.equal(late, alone)


@pytest.mark.parametrize("spread", [0.5, 3.0])
def test_fast_prior_counts_and_descends_as_the_prior(prior: Prior, spread: float) -> None:
    fast = FastPrior(prior, packed(prior))
    weight = torch.linspace(0.5, 1.5, SHAPE.channels)
    found = []
    for network in (fast, prior):
        z = latents(spread).requires_grad_(True)
        context = z.detach().round().requires_grad_(True)
        bits = network.bits(z, RATE, context)
        slopes = torch.autograd.grad((bits * weight).sum(), (z, context))
        found.append((bits.detach(), *slopes))
    for ours, true in zip(*found, strict=True):
        assert off(ours, true) < 1e-4


def test_fast_prior_without_context_sees_the_latents_themselves(prior: Prior) -> None:
    found = []
    for network in (FastPrior(prior, packed(prior)), prior):
        z = latents(1.0).requires_grad_(True)
        found.append(torch.autograd.grad(network.bits(z, RATE).sum(), z)[0])
    assert off(*found) < 1e-4


def test_fast_prior_prices_moves_as_the_prior(prior: Prior) -> None:
    u = latents(2.0).round()
    found, wanted = (n.step_bits(u, RATE) for n in (FastPrior(prior, packed(prior)), prior))
    for ours, true in zip(found, wanted, strict=True):
        assert off(ours, true) < 1e-4


def test_fast_prior_prices_moves_nearby_as_the_prior(prior: Prior) -> None:
    u = latents(2.0).round()
    near = u + torch.randint(-1, 2, u.shape, generator=torch.Generator().manual_seed(8))
    fast = FastPrior(prior, packed(prior))
    found, wanted = (n.step_bits_around(u, RATE)(near) for n in (fast, prior))
    for ours, true in zip(found, wanted, strict=True):
        assert off(ours, true) < 1e-4
    here, there = fast.step_bits(u, RATE)[0], found[0]
    assert torch.equal(here[near == u], there[near == u])
    assert not torch.equal(here, there)


def test_bits_are_exact_where_no_gradient_is_wanted(prior: Prior) -> None:
    exact = packed(prior)
    z = latents(1.0).round()
    with torch.no_grad():
        bits = FastPrior(prior, exact).bits(z, RATE)
        assert torch.equal(bits, exact.bits(z, RATE))


def test_fast_networks_leave_the_exact_ones_alone(generator: Generator, prior: Prior) -> None:
    before = [copy.deepcopy(network.state_dict()) for network in (generator, prior)]
    z = latents(1.0).requires_grad_(True)
    bits = FastPrior(prior, packed(prior)).bits(z, RATE)
    (FastGenerator(generator)(z, RATE).sum() + bits.sum()).backward()
    for network, state in zip((generator, prior), before, strict=True):
        for name, value in network.state_dict().items():
            np.testing.assert_array_equal(value.numpy(), state[name].numpy())


@pytest.mark.parametrize("frames", [1, 3])
def test_distance_with_its_slope_is_that_of_pytorch(frames: int) -> None:
    """Of speech and what is far from it, silence, and values beyond those that levels can have."""
    draw = torch.Generator().manual_seed(5)
    exact = FrameDistance()
    quick = FastDistance(exact)
    x = torch.rand(frames, 48, 128, generator=draw) * 2.0 - 1.0
    x[:, 16:32] = -1.0
    y = x + torch.linspace(0.0, 0.5, 48)[:, None] * torch.randn(x.shape, generator=draw)
    y[:, 20:24] = -1.0
    reference = exact.reference(x)
    away, slope = exact.with_slope(reference, y)
    fast_away, fast_slope = quick.with_slope(reference, y)
    assert (y.abs() > 1.1).any()
    torch.testing.assert_close(away, exact(x, y))
    torch.testing.assert_close(fast_away, away, rtol=1e-4, atol=0.0)
    torch.testing.assert_close(fast_slope, slope, rtol=1e-3, atol=1e-6 * float(slope.abs().max()))
