"""A frozen model prepared for encoder and decoder: weights laid out, gradients in less time."""

from __future__ import annotations

import copy
from collections.abc import Callable
from functools import cache

import torch
from torch import Tensor, nn

from codec.device import fast_in_half
from codec.search.problem import Networks, RateModel, StepModel
from models.inference.fast_networks import FastEncoder, FastGenerator
from models.inference.fast_prior import FastPrior
from models.inference.packed import can_pack, packed
from models.model import FrameModel
from models.networks.speech import Encoder, Generator, Prior


def step_model(generator: nn.Module, prior: RateModel) -> StepModel | None:
    """What RDOQ needs of a model; None unless its latents are whole numbers."""
    if not (isinstance(generator, Generator) and isinstance(prior, Prior | FastPrior)):
        return None
    drawn, patch = generator.basis.detach().square().sum(1), generator.shape.patch
    return StepModel(
        prior.step_bits,
        lambda rate: drawn / generator.gains(rate).square(),
        lambda x: x.reshape(len(x), x.shape[1] // patch, -1).sum(2, keepdim=True),
    )


def search_networks(model: FrameModel) -> Networks:
    """A frozen model as encoder and decoder run it, and for gradients in less time: the speech
    networks written out on the CPU, all others in bfloat16 where that is fast."""
    device = next(model.generator.parameters()).device
    on_cpu = device.type == "cpu"
    pack = on_cpu and can_pack()
    generator, prior = packed(model.generator) if pack else model.generator, model.prior

    # What follows is made only once it is wanted: decoders neither encode nor search.
    @cache
    def encoder() -> Callable[[Tensor, Tensor], Tensor]:
        if on_cpu and isinstance(model.encoder, Encoder):
            return FastEncoder(model.encoder)
        return packed(model.encoder) if pack else model.encoder

    if on_cpu and isinstance(prior, Prior):
        folded = copy.deepcopy(prior)
        folded.fold_masks()
        prior = FastPrior(folded, packed(folded) if pack else folded)

    @cache
    def written_out() -> FastGenerator | None:
        if on_cpu and isinstance(model.generator, Generator):
            return FastGenerator(model.generator)
        return None

    @cache
    def differentiable() -> Callable[[Tensor, Tensor], Tensor]:
        if (fast := written_out()) is not None:
            return fast
        drawn = copy.deepcopy(model.generator).requires_grad_(False)
        number = torch.bfloat16 if fast_in_half(device) else next(drawn.parameters()).dtype
        drawn = drawn.to(number)
        if pack:
            drawn = packed(drawn, differentiable=True)
        return lambda z, rate: drawn(z, rate.to(number)).float()

    def following(latents: Tensor) -> Callable[[Tensor, Tensor], Tensor] | None:
        fast = written_out()
        return None if fast is None else fast.following(latents)

    return Networks(
        lambda x, rate: encoder()(x, rate),
        generator,
        prior,
        lambda z, rate: differentiable()(z, rate),
        model.quantise,
        model.reach,
        step_model(model.generator, prior),
        following,
    )
