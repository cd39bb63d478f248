"""The sliding frame of a call, in training.

A call codes its speech in blocks of few latent steps. When a block is coded, nothing after it is
known: the networks see no more beyond its end than beyond the end of a whole frame. Since the
encoder sees columns of the past and not its latents, the blocks of a training frame can be coded
side by side, each in a window of its own.

Notation as in `models.networks.speech`. A block is `block` latent steps long; if that is a whole
frame, nothing slides. Otherwise a frame begins with a few steps that are coded at once, so that the
windows after them have a whole past.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from codec.entropy.logistic import logistic_bits
from codec.speech.encoder import BLOCK, CHAINED_BELOW
from models.networks.speech import SpeechModel

BLOCKS = (1, 2, BLOCK)  # latent steps that a call may search at once


def encode(model: SpeechModel, x: Tensor, rate: Tensor, block: int) -> Tensor:
    """Frames x [B, T, M] at rate points [B] -> indices before rounding [B, S, C]."""
    patch, bands = model.shape.patch, model.shape.mels

    def encoder(columns: Tensor, rate: Tensor) -> Tensor:
        z: Tensor = model.encoder(columns.reshape(len(columns), -1, bands), rate)
        return z

    steps = x.reshape(len(x), -1, patch * bands)
    return _slide(encoder, steps, rate, block, _lead(model, block), model.encoder_past)


def generate(model: SpeechModel, z: Tensor, rate: Tensor, block: int) -> Tensor:
    """Latents z [B, S, C] at rate points [B] -> frames [B, T, M]."""
    patch, bands = model.shape.patch, model.shape.mels

    def generator(latents: Tensor, rate: Tensor) -> Tensor:
        y: Tensor = model.generator(latents, rate)
        return y.reshape(*latents.shape[:2], patch * bands)

    y = _slide(generator, z, rate, block, _lead(model, block), model.generator_past)
    return y.reshape(len(z), -1, bands)


def predict(model: SpeechModel, q: Tensor, rate: Tensor, block: int) -> tuple[Tensor, Tensor]:
    """The prior's location and log scale [B, S, C] of indices q [B, S, C] at rate points [B].

    Packets of few steps are coded in the context of those before them, others are not.
    """
    if block < CHAINED_BELOW:
        block = q.shape[1]
    packets = q.reshape(-1, block, q.shape[-1])
    location, log_scale = model.prior(packets, rate.repeat_interleave(len(packets) // len(q)))
    return location.reshape(q.shape), log_scale.reshape(q.shape)


def bits(model: SpeechModel, q: Tensor, rate: Tensor, block: int) -> Tensor:
    """Bits [B, S, C] of indices q [B, S, C] at rate points [B]."""
    return logistic_bits(q, *predict(model, q, rate, block))


def _lead(model: SpeechModel, block: int) -> int:
    """Steps before the first window: at least as many as it looks back, in whole packets."""
    if block == model.shape.steps:
        return block
    seen = max(model.generator_past, model.encoder_past, 1)
    return min(-(-seen // BLOCK) * BLOCK, model.shape.steps)


def _slide(
    network: Callable[[Tensor, Tensor], Tensor],
    steps: Tensor,
    rate: Tensor,
    block: int,
    lead: int,
    past: int,
) -> Tensor:
    """What a network makes of the first `lead` of the steps [B, S, N], and of each block after.

    network: steps [W, S', N] at rate points [W] to [W, S', N']; past: steps that it sees before a
    block.
    """
    first = network(steps[:, :lead], rate)
    count = (steps.shape[1] - lead) // block
    if not count:
        return first
    windows = steps[:, lead - past :].unfold(1, past + block, block).movedim(-1, 2)
    made = network(windows.flatten(0, 1), rate.repeat_interleave(count))[:, past:]
    return torch.cat((first, made.reshape(len(steps), count * block, -1)), dim=1)
