"""Concealment of lost frames: the last sound goes on for a moment and fades into the room's tone.

Both are made by the generator, from latents. The last step of the last frame is held, with the
real steps before it in front, so that what is generated continues what was heard; and the quietest
steps heard lately are the room. The generator is nearly linear in the log-mel domain, so fading
from one to the other there is fading between the latents, without their steps of many columns.
A room that stands still would buzz under phase reconstruction, so it fluctuates as noise does.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from codec import analysis
from codec.comfort import DB_PER_UNIT, NoiseTexture, textured

FloatArray = NDArray[np.float32]
Generate = Callable[[Tensor, Tensor], FloatArray]
Rescale = Callable[[Tensor, Tensor, Tensor], Tensor]

FADE_HOPS = 48  # from the last sound to the room: 384 ms
ROOM_HOPS = 24  # of a frame's quietest columns, about, are taken for the room
ROOM_FRAMES = 3  # frames in which the room is looked for
ROOM_FADE_DB = 12.0  # per second, after the first lost frame
_TAIL_HOPS = 4  # columns averaged into what a frame ended on


@dataclass(frozen=True)
class Ending:
    """What a frame ended on: smooth log-mel levels [N_MELS], and how much they fluctuated, 0..1."""

    levels: FloatArray
    texture: float

    @classmethod
    def silence(cls) -> Ending:
        return cls(np.full(analysis.N_MELS, -1.0, np.float32), 1.0)

    @classmethod
    def of(cls, columns: FloatArray) -> Ending:
        """Of decoded columns [T, N_MELS], whose fluctuations are their own."""
        return cls(columns[-_TAIL_HOPS:].mean(axis=0), 0.0)


@dataclass(frozen=True)
class _Quiet:
    """The quietest steps of a frame, averaged."""

    level: float
    latents: Tensor  # [C]
    rate: Tensor  # [1]


class Concealer:
    """Remembers what was heard lately and makes up for lost frames. Not thread safe.

    generate: latents [B, S, C] and rate points [B] to columns [B, FRAME_HOPS, N_MELS]; rescale:
    latents [B, S, C] of rate points [B] in the units of other ones.
    """

    def __init__(self, generate: Generate, rescale: Rescale, noise: NoiseTexture) -> None:
        self._generate = generate
        self._rescale = rescale
        self._noise = noise
        self._quiet: deque[_Quiet] = deque(maxlen=ROOM_FRAMES)
        self._last: tuple[Tensor, Tensor] | None = None  # latents [S, C], rate point [1]
        self._patch = 1  # columns of a latent step
        self._before = np.zeros((0, analysis.N_MELS), np.float32)  # the last of those
        self._room = Ending.silence().levels
        self._lost = 0  # columns
        self.ending = Ending.silence()

    def heard(self, latents: Tensor, rate: Tensor, columns: FloatArray) -> None:
        """Note a frame of speech: its latents [1, S, C], rate point [1] and columns."""
        steps = latents.shape[1]
        self._patch = analysis.FRAME_HOPS // steps
        levels = columns.reshape(steps, -1).mean(axis=1)
        quiet = np.argsort(levels)[: max(ROOM_HOPS // self._patch, 1)].copy()
        room = latents[0, torch.from_numpy(quiet)].mean(dim=0)
        self._quiet.append(_Quiet(float(levels[quiet].mean()), room, rate))
        self._last = latents[0], rate
        self._before = columns[-self._patch :]
        self.ending = Ending.of(columns)
        self._lost = 0

    def rested(self, levels: FloatArray) -> None:
        """Note a frame of noise of these log-mel levels [N_MELS], or of silence."""
        self._last = None
        self._room = levels
        self.ending = Ending(levels, 1.0)
        self._lost = 0

    def lost(self) -> FloatArray:
        """A stand-in for the next frame, log-mel [FRAME_HOPS, N_MELS]."""
        hops = np.arange(self._lost, self._lost + analysis.FRAME_HOPS, dtype=np.float32)[:, None]
        sound = np.zeros_like(hops)  # share of the last sound
        levels = np.repeat(self._room[None], analysis.FRAME_HOPS, axis=0)
        if self._last is not None and not self._lost:
            held, self._room = self._continue(*self._last)
            course = np.minimum((hops + 1.0) / FADE_HOPS, 1.0)
            sound = (0.5 + 0.5 * np.cos(np.pi * course)).astype(np.float32)
            levels = sound * held + (1.0 - sound) * self._room
        decay = ROOM_FADE_DB / DB_PER_UNIT * analysis.HOP / analysis.SAMPLE_RATE
        faded = levels - decay * np.maximum(hops - analysis.FRAME_HOPS, 0.0)
        levels = np.clip(faded, -1.0, 1.0).astype(np.float32)
        self._lost += analysis.FRAME_HOPS
        self.ending = Ending(levels[-1], 1.0)
        return textured(levels, self._noise.next(analysis.FRAME_HOPS), 1.0 - sound)

    def _continue(self, latents: Tensor, rate: Tensor) -> tuple[FloatArray, FloatArray]:
        """The last sound going on [FRAME_HOPS, N_MELS], and the room [N_MELS]."""
        steps = len(latents)
        context = steps // 4
        quietest = min(self._quiet, key=lambda quiet: quiet.level)
        room = self._rescale(quietest.latents[None, None], quietest.rate, rate)[0]
        hold = torch.cat((latents[steps - context :], latents[-1:].repeat(steps - context, 1)))
        both = torch.stack((hold, room.repeat(steps, 1)))
        held, still = self._generate(both, rate.repeat(2))
        # Averages over a step's columns, so that holding a step does not repeat what is in it.
        patch = self._patch
        tail = np.concatenate((self._before, held[context * patch :]))
        sums = np.cumsum(tail, axis=0, dtype=np.float64)
        smooth = ((sums[patch:] - sums[:-patch]) / patch).astype(np.float32)
        smooth = smooth[: FADE_HOPS + patch]
        going_on = np.concatenate(
            (smooth, np.repeat(smooth[-1:], analysis.FRAME_HOPS - len(smooth), axis=0))
        )
        return going_on, still.mean(axis=0)
