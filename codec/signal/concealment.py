"""Concealment of lost frames: the last sound continues and fades into the background noise.

The generator makes both from latents. The last latent step of the last frame is held, behind the
real steps before it, so that the sound continues smoothly; and the quietest third of that frame
gives the background. The generator is nearly linear in the log-mel domain, so fading from one to
the other there is fading between the latents, without their steps of many columns. A constant
background would buzz under phase reconstruction, so it fluctuates as noise does.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from codec.signal import analysis
from codec.signal.comfort_noise import DB_PER_UNIT, NoiseTexture, textured
from codec.signal.samples import FloatArray

Generate = Callable[[Tensor, Tensor], FloatArray]

# Chosen by PESQ and STOI of speech with a fifth of its frames lost. A background from longer ago,
# or from fewer columns, is quieter than the lost speech and scores lower.
FADE_HOPS = 64  # from the last sound to the background: 512 ms
BACKGROUND_HOPS = 40  # about so many of a frame's quietest columns are the background
BACKGROUND_FADE_DB = 24.0  # per second, after the first lost frame
_TAIL_HOPS = 4  # columns averaged into what a frame ended on


@dataclass(frozen=True)
class Ending:
    """The end of a frame: smooth log-mel levels [N_MELS], and how much they fluctuate, 0..1."""

    levels: FloatArray
    texture: float


class Concealer:
    """Replaces lost frames, from the frame before them. Not thread safe.

    generate: latents [B, S, C] and rate points [B] to columns [B, FRAME_HOPS, N_MELS].
    """

    def __init__(self, generate: Generate, noise: NoiseTexture) -> None:
        self._generate = generate
        self._noise = noise
        self._last: tuple[Tensor, Tensor] | None = None  # latents [S, C], rate point [1]
        self._columns = np.zeros((0, analysis.N_MELS), np.float32)  # of that frame
        self.note_noise(np.full(analysis.N_MELS, -1.0, np.float32))

    def note_speech(self, latents: Tensor, rate: Tensor, columns: FloatArray) -> None:
        """Note a frame of speech: its latents [1, S, C], rate point [1] and columns."""
        self._last = latents[0], rate
        self._columns = columns
        self.ending = Ending(columns[-_TAIL_HOPS:].mean(axis=0), 0.0)
        self._lost = 0  # columns

    def note_noise(self, levels: FloatArray) -> None:
        """Note a frame of noise of these log-mel levels [N_MELS], or of silence."""
        self._last = None
        self._background = levels
        self.ending = Ending(levels, 1.0)
        self._lost = 0

    def conceal(self) -> FloatArray:
        """A replacement for the next frame, log-mel [FRAME_HOPS, N_MELS]."""
        hops = np.arange(self._lost, self._lost + analysis.FRAME_HOPS, dtype=np.float32)[:, None]
        sound = np.zeros_like(hops)  # share of the last sound
        levels = np.repeat(self._background[None], analysis.FRAME_HOPS, axis=0)
        if self._last is not None and not self._lost:
            held, self._background = self._continue(*self._last)
            course = np.minimum((hops + 1.0) / FADE_HOPS, 1.0)
            sound = (0.5 + 0.5 * np.cos(np.pi * course)).astype(np.float32)
            levels = sound * held + (1.0 - sound) * self._background
        decay = BACKGROUND_FADE_DB / DB_PER_UNIT * analysis.HOP / analysis.SAMPLE_RATE
        faded = levels - decay * np.maximum(hops - analysis.FRAME_HOPS, 0.0)
        levels = np.clip(faded, -1.0, 1.0).astype(np.float32)
        self._lost += analysis.FRAME_HOPS
        self.ending = Ending(levels[-1], 1.0)
        return textured(levels, self._noise.next(analysis.FRAME_HOPS), 1.0 - sound)

    def _continue(self, latents: Tensor, rate: Tensor) -> tuple[FloatArray, FloatArray]:
        """The last sound continued [FRAME_HOPS, N_MELS], and the background [N_MELS]."""
        steps = len(latents)
        patch = analysis.FRAME_HOPS // steps
        context = steps // 4
        levels = self._columns.reshape(steps, -1).mean(axis=1)
        quiet = np.argsort(levels)[: max(BACKGROUND_HOPS // patch, 1)].tolist()
        background = latents[quiet].mean(dim=0, keepdim=True)
        hold = torch.cat((latents[steps - context :], latents[-1:].repeat(steps - context, 1)))
        both = torch.stack((hold, background.repeat(steps, 1)))
        held, still = self._generate(both, rate.repeat(2))
        # Averages over a step's columns, so that holding a step does not repeat its contents.
        tail = np.concatenate((self._columns[-patch:], held[context * patch :]))
        sums = np.cumsum(tail, axis=0, dtype=np.float64)
        smooth = ((sums[patch:] - sums[:-patch]) / patch).astype(np.float32)
        smooth = smooth[: FADE_HOPS + patch]
        going_on = np.pad(smooth, ((0, analysis.FRAME_HOPS - len(smooth)), (0, 0)), mode="edge")
        return going_on, still.mean(axis=0)
