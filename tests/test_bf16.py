"""The search's bfloat16 networks and their gradients are close to the exact ones."""

from __future__ import annotations

import copy

import numpy as np
import pytest
import torch
from torch import Tensor

from models.inference.generator_bf16 import HalfGenerator
from models.inference.packed import can_pack, packed
from models.inference.prior_bf16 import HalfPrior
from models.networks.speech import Generator, Prior, SpeechShape

SHAPE = SpeechShape(
    channels=24, width=32, hidden=48, encoder_blocks=1, generator_blocks=3,
    prior_unit=8, prior_groups=(2, 6, 16),
)  # fmt: skip
FRAMES = 3

pytestmark = pytest.mark.skipif(
    not (can_pack() and torch.ops.mkldnn._is_mkldnn_bf16_supported()),
    reason="this CPU has no products in bfloat16",
)


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
    # Weights that bfloat16 has: rounding them moves hidden units across the ends of their range,
    # where the gradient jumps, and would be all that a comparison sees.
    return network.bfloat16().float()


def latents(spread: float) -> Tensor:
    random = torch.Generator().manual_seed(11)
    return spread * torch.randn(FRAMES, SHAPE.steps, SHAPE.channels, generator=random)


RATE = torch.tensor([0.0, 0.75, 2.0])


def off(a: Tensor, b: Tensor) -> float:
    """How far a is from b, relative to b."""
    return float((a - b).norm() / b.norm())


def mostly_off(a: Tensor, b: Tensor) -> float:
    """How far a is from b in all but a quarter of the latent steps.

    Where a hidden unit of the prior is at an end of its range, its gradient jumps with the last bit
    of a number.
    """
    distances = (a - b).norm(dim=-1) / (b.norm(dim=-1) + 1e-6)
    return float(distances.quantile(0.75))


@pytest.mark.parametrize("spread", [0.5, 4.0])
def test_half_generator_draws_what_the_generator_draws(generator: Generator, spread: float) -> None:
    z = latents(spread)
    assert off(HalfGenerator(generator)(z, RATE), generator(z, RATE)) < 0.01


@pytest.mark.parametrize("spread", [0.5, 4.0])
def test_gradient_of_the_half_generator_is_that_of_the_generator(
    generator: Generator, spread: float
) -> None:
    wanted = torch.sin(torch.arange(FRAMES * 128 * 128.0)).reshape(FRAMES, 128, 128)
    gradients = []
    for network in (HalfGenerator(generator), generator):
        z = latents(spread).requires_grad_(True)
        gradients.append(torch.autograd.grad(network(z, RATE), z, wanted)[0])
    assert off(*gradients) < 0.02


def test_gradient_of_a_frame_ignores_the_others(generator: Generator) -> None:
    half = HalfGenerator(generator)
    z = latents(1.0).requires_grad_(True)
    (together,) = torch.autograd.grad(half(z, RATE).square().sum(), z)
    for at in range(FRAMES):
        one = z[at : at + 1].detach().requires_grad_(True)
        (alone,) = torch.autograd.grad(half(one, RATE[at : at + 1]).square().sum(), one)
        assert off(together[at : at + 1], alone) < 0.005


def test_two_passes_can_be_under_way_at_once(generator: Generator) -> None:
    half = HalfGenerator(generator)
    first, second = (latents(spread).requires_grad_(True) for spread in (1.0, 2.0))
    y = half(first, RATE)
    half(second, RATE).sum().backward()
    (late,) = torch.autograd.grad(y.sum(), first)
    (alone,) = torch.autograd.grad(half(first, RATE).sum(), first)
    assert torch.equal(late, alone)


@pytest.mark.parametrize("spread", [0.5, 3.0])
def test_half_prior_counts_and_descends_as_the_prior(prior: Prior, spread: float) -> None:
    half = HalfPrior(prior, packed(prior))
    weight = torch.linspace(0.5, 1.5, SHAPE.channels)
    found = []
    for network in (half, prior):
        z = latents(spread).requires_grad_(True)
        context = z.detach().round().requires_grad_(True)
        bits = network.bits(z, RATE, context)
        slopes = torch.autograd.grad((bits * weight).sum(), (z, context))
        found.append((bits.detach(), *slopes))
    (bits, for_z, for_context), (true_bits, true_z, true_context) = found
    assert off(bits, true_bits) < 0.01
    assert off(for_z, true_z) < 0.03
    assert mostly_off(for_context, true_context) < 0.02


def test_half_prior_without_context_sees_the_latents_themselves(prior: Prior) -> None:
    found = []
    for network in (HalfPrior(prior, packed(prior)), prior):
        z = latents(1.0).requires_grad_(True)
        found.append(torch.autograd.grad(network.bits(z, RATE).sum(), z)[0])
    assert mostly_off(*found) < 0.02


def test_half_prior_prices_moves_as_the_prior(prior: Prior) -> None:
    u = latents(2.0).round()
    found, wanted = (n.step_bits(u, RATE) for n in (HalfPrior(prior, packed(prior)), prior))
    assert off(found[0], wanted[0]) < 0.01
    for added, true in zip(found[1:], wanted[1:], strict=True):
        assert mostly_off(added, true) < 0.02


def test_bits_are_exact_where_no_gradient_is_wanted(prior: Prior) -> None:
    exact = packed(prior)
    z = latents(1.0).round()
    with torch.no_grad():
        bits = HalfPrior(prior, exact).bits(z, RATE)
        assert torch.equal(bits, exact.bits(z, RATE))


def test_half_networks_leave_the_exact_ones_alone(generator: Generator, prior: Prior) -> None:
    before = [copy.deepcopy(network.state_dict()) for network in (generator, prior)]
    z = latents(1.0).requires_grad_(True)
    bits = HalfPrior(prior, packed(prior)).bits(z, RATE)
    (HalfGenerator(generator)(z, RATE).sum() + bits.sum()).backward()
    for network, state in zip((generator, prior), before, strict=True):
        for name, value in network.state_dict().items():
            np.testing.assert_array_equal(value.numpy(), state[name].numpy())
