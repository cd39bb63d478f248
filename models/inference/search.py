"""A frozen model prepared for encoder and decoder: weights laid out, gradients in less time."""

from __future__ import annotations

import copy
from collections.abc import Callable
from functools import cached_property

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from codec.device import fast_in_half
from codec.search.problem import Distance, Networks, RateModel, StepModel
from codec.signal.samples import FloatArray
from codec.speech.generator import FrameGenerator
from models.inference.fast_distance import FastDistance
from models.inference.fast_networks import FastEncoder, FastGenerator, arrays_in
from models.inference.fast_prior import FastPrior
from models.inference.frame_generator import SpeechGenerator
from models.inference.packed import can_pack, packed
from models.inference.written_out import WrittenGenerator
from models.model import FrameModel
from models.networks.speech import Encoder, Generator, Prior, SpeechModel

Draw = Callable[[Tensor, Tensor], Tensor]


def step_model(generator: nn.Module, prior: RateModel) -> StepModel | None:
    """What RDOQ needs of a model; None unless its latents are whole numbers."""
    if not (isinstance(generator, Generator) and isinstance(prior, Prior | FastPrior)):
        return None
    drawn, patch = generator.basis.detach().square().sum(1), generator.shape.patch
    return StepModel(
        prior.step_bits,
        lambda rate: drawn / generator.gains(rate).square(),
        lambda x: x.reshape(len(x), x.shape[1] // patch, -1).sum(2, keepdim=True),
        prior.step_bits_around,
    )


class Prepared:
    """A frozen speech model as encoder and decoder run it.

    What is made of it is made once it is wanted: decoders neither encode nor search.
    """

    def __init__(self, model: FrameModel) -> None:
        self._model = model
        self._device = next(model.generator.parameters()).device
        self._on_cpu = self._device.type == "cpu"
        self._pack = self._on_cpu and can_pack()

    @cached_property
    def generator(self) -> FrameGenerator:
        """The generator as decoders run it."""
        model = self._model
        if not (self._on_cpu and isinstance(model, SpeechModel)):
            return ModelGenerator(model, self._exact)
        written = WrittenGenerator(arrays_in(model.generator), model.shape)
        return SpeechGenerator(model.model_id, model.coders, written)

    @cached_property
    def quick_generator(self) -> FrameGenerator:
        """The same some thousandths off, in less time."""
        model = self._model
        if self._written is None or not isinstance(model, SpeechModel):
            return ModelGenerator(model, self._rough)
        return SpeechGenerator(model.model_id, model.coders, self._written)

    @cached_property
    def networks(self) -> Networks:
        """For a search, with gradients in less time: the speech networks written out on the CPU,
        all others in bfloat16 where that is fast."""
        model, prior = self._model, self._model.prior
        if self._on_cpu and isinstance(prior, Prior):
            folded = copy.deepcopy(prior)
            folded.fold_masks()
            prior = FastPrior(folded, packed(folded) if self._pack else folded)
        return Networks(
            lambda x, rate: self._encoder(x, rate),
            self._exact,
            prior,
            lambda z, rate: self._rough(z, rate),
            model.quantise,
            model.reach,
            step_model(model.generator, prior),
            self._following,
        )

    @cached_property
    def distance(self) -> Distance:
        """F, which searches lower."""
        exact = self._model.frame_distance()
        return FastDistance(exact) if self._on_cpu else exact

    @cached_property
    def _exact(self) -> Draw:
        return packed(self._model.generator) if self._pack else self._model.generator

    @cached_property
    def _encoder(self) -> Draw:
        encoder = self._model.encoder
        if self._on_cpu and isinstance(encoder, Encoder):
            return FastEncoder(encoder)
        return packed(encoder) if self._pack else encoder

    @cached_property
    def _written(self) -> FastGenerator | None:
        if self._on_cpu and isinstance(self._model.generator, Generator):
            return FastGenerator(self._model.generator)
        return None

    @cached_property
    def _rough(self) -> Draw:
        if self._written is not None:
            return self._written
        drawn = copy.deepcopy(self._model.generator).requires_grad_(False)
        number = torch.bfloat16 if fast_in_half(self._device) else next(drawn.parameters()).dtype
        drawn = drawn.to(number)
        if self._pack:
            drawn = packed(drawn, differentiable=True)
        return lambda z, rate: drawn(z, rate.to(number)).float()

    def _following(self, latents: Tensor) -> Draw | None:
        return None if self._written is None else self._written.following(latents)


class ModelGenerator(FrameGenerator):
    """A model on any device as decoders see it; draw: its generator, latents [B, S, C] and rate
    points [B] to columns."""

    def __init__(self, model: FrameModel, draw: Draw) -> None:
        self._model, self._draw = model, draw
        self._device = next(model.generator.parameters()).device
        self.model_id, self.family = model.model_id, model.family
        self.coders, self.qualities = model.coders, model.qualities
        self.past = model.generator_past

    def latents_of(self, indices: NDArray[np.int8]) -> FloatArray:
        latents: FloatArray = self._model.latents_of(indices).cpu().numpy()
        return latents

    def rescale(self, latents: FloatArray, rate: float, new_rate: float) -> FloatArray:
        z = self._there(latents)[None]
        there = self._model.rescale(z, self._rates(rate), self._rates(new_rate))[0]
        rescaled: FloatArray = there.cpu().numpy()
        return rescaled

    def draw(self, latents: FloatArray, rate: float, steps: int) -> FloatArray:
        with torch.no_grad():
            y = self._draw(self._there(latents), self._rates(rate, len(latents)))
        newest = y.shape[1] * steps // latents.shape[1]
        columns: FloatArray = y[:, y.shape[1] - newest :].cpu().numpy()
        return columns

    def _there(self, latents: FloatArray) -> Tensor:
        return torch.from_numpy(latents).to(self._device)

    def _rates(self, rate: float, count: int = 1) -> Tensor:
        return torch.tensor([rate] * count, device=self._device)
