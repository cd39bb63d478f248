"""A search over the newest latent steps of a frame; the steps before them are fixed.

The networks are those of a whole frame, of whose output only the newest steps' part is kept. They
are convolutions over time, so that they need no more of the past than they see of it.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from codec.entropy.logistic import Effects
from codec.search.problem import Distance, Networks, RateModel, StepModel


@dataclass(frozen=True)
class Past:
    """What comes before the latents that are searched for.

    latents: [1, P, C], as the generator sees them, in the units of the rate point at hand; context:
    [1, K, C] quantised ones that the entropy prior looks back to, K = 0 where it does not.
    """

    latents: Tensor
    context: Tensor


class FollowingPrior(RateModel):
    """An entropy prior of latents that follow known ones [1, K, C]."""

    def __init__(self, prior: RateModel, context: Tensor) -> None:
        self._prior, self._context = prior, context

    def bits(self, z: Tensor, rate: Tensor, context: Tensor | None = None) -> Tensor:
        """As `RateModel.bits`, of the latents alone."""
        known = self._context.shape[1]
        joined = before(self._context, z)
        seen = None if context is None else before(self._context, context)
        return self._prior.bits(joined, rate, seen)[:, known:]


def before(past: Tensor, z: Tensor) -> Tensor:
    """The same past [1, P, C] before each row of z [B, S, C]: [B, P + S, C]."""
    return torch.cat((past.expand(len(z), -1, -1), z), dim=1)


def following(networks: Networks, past: Past) -> Networks:
    """The networks as a search sees them that goes on where `past` ends.

    The encoder is none of them: it is given columns, not latents, of the past.
    """
    latents, context = past.latents, past.context
    if not latents.shape[1] and not context.shape[1]:
        return networks

    def newest(y: Tensor, steps: int) -> Tensor:
        """The columns [B, T', M] of the last steps of y [B, T, M]."""
        return y[:, y.shape[1] * latents.shape[1] // (latents.shape[1] + steps) :]

    steps = networks.steps
    if steps is not None and context.shape[1]:
        steps = _after(steps, context)

    def fast(z: Tensor, rate: Tensor) -> Tensor:
        return newest(networks.fast_generator(before(latents, z), rate), z.shape[1])

    return replace(
        networks,
        generator=lambda z, rate: newest(networks.generator(before(latents, z), rate), z.shape[1]),
        fast_generator=networks.following(latents) or fast,
        prior=FollowingPrior(networks.prior, context) if context.shape[1] else networks.prior,
        steps=steps,
    )


def _after(steps: StepModel, context: Tensor) -> StepModel:
    """A model of the effects of steps, for latents that follow a context [1, K, C]."""
    known = context.shape[1]

    def newest(effects: Effects) -> Effects:
        own, lower, higher = effects
        return own[:, known:], lower[:, known:], higher[:, known:]

    def bits(u: Tensor, rate: Tensor) -> Effects:
        return newest(steps.bits(before(context, u), rate))

    if (whole := steps.around) is None:
        return replace(steps, bits=bits)

    def around(u: Tensor, rate: Tensor) -> Callable[[Tensor], Effects]:
        found = whole(before(context, u), rate)
        return lambda u: newest(found(before(context, u)))

    return replace(steps, bits=bits, around=around)


class NewestDistance(Distance):
    """A distance of the newest columns, at the loudness of the whole window that they end.

    window: [1, T, M] columns, of which the targets are the last.
    """

    def __init__(self, distance: Distance, window: Tensor) -> None:
        self._distance, self._window = distance, window

    def reference(self, x: Tensor) -> tuple[Tensor, ...]:
        """The target's part for x [1, T', M], the last columns of the window."""
        whole, newest = self._window.shape[1], x.shape[1]
        parts = self._distance.reference(self._window)
        return tuple(part[:, whole - newest :] if part.shape[1] == whole else part
                     for part in parts)  # fmt: skip

    def against(self, reference: tuple[Tensor, ...], y: Tensor) -> Tensor:
        """F of decoded columns y [B, T', M] against a `reference`: [B]."""
        return self._distance.against(reference, y)

    def with_slope(self, reference: tuple[Tensor, ...], y: Tensor) -> tuple[Tensor, Tensor]:
        """F of decoded columns y [B, T', M] against a `reference` [B], and its slope by y."""
        return self._distance.with_slope(reference, y)
