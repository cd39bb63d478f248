"""A frozen model prepared for encoder and decoder: packed weights, gradients in bfloat16."""

from __future__ import annotations

import copy
from collections.abc import Callable
from functools import cache

import torch
from torch import Tensor, nn

from codec.device import fast_in_half
from codec.search.problem import Networks, RateModel, StepModel
from models.inference.generator_bf16 import HalfGenerator
from models.inference.packed import can_pack, can_quantise, packed, quantised
from models.inference.prior_bf16 import HalfPrior
from models.model import FrameModel
from models.networks.speech import Generator, Prior


def step_model(generator: nn.Module, prior: RateModel) -> StepModel | None:
    """What RDOQ needs of a model; None unless its latents are whole numbers."""
    if not (isinstance(generator, Generator) and isinstance(prior, Prior | HalfPrior)):
        return None
    drawn, patch = generator.basis.detach().square().sum(1), generator.shape.patch
    return StepModel(
        prior.step_bits,
        lambda rate: drawn / generator.gains(rate).square(),
        lambda x: x.reshape(len(x), x.shape[1] // patch, -1).sum(2, keepdim=True),
    )


def search_networks(model: FrameModel) -> Networks:
    """A frozen model as encoder and decoder run it; gradients in bfloat16 where that is fast, else
    in 8-bit integers on the CPU."""
    device = next(model.generator.parameters()).device
    encoder, generator, prior = model.encoder, model.generator, model.prior
    quick = fast_in_half(device)
    pack = device.type == "cpu" and can_pack()
    if pack:
        encoder, generator = packed(encoder), packed(generator)
        if isinstance(prior, Prior):
            prior = copy.deepcopy(prior)
            prior.fold_masks()
            exact = packed(prior, differentiable=not quick)
            prior = HalfPrior(prior, exact) if quick else exact

    @cache
    def differentiable() -> Callable[[Tensor, Tensor], Tensor]:
        # Only once it is wanted: decoders never search.
        if pack and quick and isinstance(model.generator, Generator):
            return HalfGenerator(model.generator)
        drawn = copy.deepcopy(model.generator).requires_grad_(False)
        if pack and not quick and isinstance(model.generator, Generator) and can_quantise():
            return quantised(drawn)
        number = torch.bfloat16 if quick else next(drawn.parameters()).dtype
        drawn = drawn.to(number)
        if pack:
            drawn = packed(drawn, differentiable=True)
        return lambda z, rate: drawn(z, rate.to(number)).float()

    return Networks(
        encoder,
        generator,
        prior,
        lambda z, rate: differentiable()(z, rate),
        model.quantise,
        model.reach,
        step_model(model.generator, prior),
    )
