"""Concealment of lost speech: the last sound continues and fades into the background noise.

The generator makes both from latents. The last latent step is held, behind the real steps before
it, so that the sound continues smoothly; and the quietest third of the last second gives the
background. The generator is nearly linear in the log-mel domain, so fading from one to
the other there is fading between the latents, without their steps of many columns. A constant
background would buzz under phase reconstruction, so it fluctuates as noise does.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from codec.signal import analysis
from codec.signal.comfort_noise import DB_PER_UNIT, NoiseTexture, textured
from codec.signal.samples import FloatArray

Generate = Callable[[FloatArray, float], FloatArray]
Rescale = Callable[[FloatArray, float, float], FloatArray]

# Chosen by PESQ and STOI of speech with a fifth of its frames lost. A background from longer ago,
# or from fewer columns, is quieter than the lost speech and scores lower.
FADE_HOPS = 64  # from the last sound to the background: 512 ms
BACKGROUND_HOPS = 40  # about so many of a second's quietest columns are the background
BACKGROUND_FADE_DB = 27.0  # per second, after the first lost second
_TAIL_HOPS = 4  # columns averaged into what speech ended on


@dataclass(frozen=True)
class Ending:
    """How speech or a pause ended: log-mel levels [N_MELS], and how much they fluctuate, 0..1."""

    levels: FloatArray
    texture: float


class Concealer:
    """Replaces missing steps, from what came before them. Not thread safe.

    generate: latents [B, S, C] of a rate point to columns [B, STEP_HOPS * S, N_MELS]; rescale:
    latents [S, C] of one rate point in the units of another.
    """

    def __init__(self, generate: Generate, rescale: Rescale, noise: NoiseTexture) -> None:
        self._generate, self._rescale = generate, rescale
        self._noise = noise
        self._latents: FloatArray | None = None  # of the last frame's time, [S, C]; None: no speech
        self._rate: float
        self._columns = np.zeros((0, analysis.N_MELS), np.float32)  # of the same time
        self.note_noise(np.full(analysis.N_MELS, -1.0, np.float32))

    def note_speech(self, latents: FloatArray, rate: float, columns: FloatArray) -> None:
        """Note speech: latents [S, C], their rate point and columns [STEP_HOPS * S, N_MELS]."""
        if self._latents is None:
            self._latents, self._columns = latents, columns
        else:
            before = self._rescale(self._latents, self._rate, rate)
            steps = analysis.FRAME_HOPS * len(latents) // len(columns)
            self._latents = np.concatenate((before, latents))[-steps:]
            self._columns = np.concatenate((self._columns, columns))[-analysis.FRAME_HOPS :]
        self._rate = rate
        self.ending = Ending(columns[-_TAIL_HOPS:].mean(axis=0), 0.0)
        self._lost = 0  # columns
        self._prepared = False

    def note_noise(self, levels: FloatArray) -> None:
        """Note a pause of these log-mel levels [N_MELS], which may be silence."""
        self._latents = None
        self._background = levels
        self.ending = Ending(levels, 1.0)
        self._lost = 0

    @property
    def resting(self) -> bool:
        """Whether it is a pause that goes on."""
        return self._latents is None

    def prepare(self) -> bool:
        """Find out how the sound would go on, as `conceal` otherwise does first, which makes it
        take several times as long; returns whether there was anything to do."""
        if self._latents is None or self._prepared:
            return False
        self._prepare(self._latents, self._rate)
        self._prepared = True
        return True

    def conceal(
        self, steps: int, *, smooth: bool = False
    ) -> tuple[FloatArray, tuple[FloatArray, float] | None]:
        """What replaces the next steps: log-mel columns [STEP_HOPS * steps, N_MELS], and latents
        [steps, C] like them with their rate point. None where there was no speech, or where the
        latents are those of other steps. smooth: leave the levels of a pause smooth."""
        count = steps * analysis.STEP_HOPS
        hops = np.arange(self._lost, self._lost + count, dtype=np.float32)[:, None]
        sound = np.zeros_like(hops)  # share of the last sound
        levels = np.repeat(self._background[None], count, axis=0)
        guess = None
        if self._latents is not None:
            self.prepare()
            course = np.minimum((hops + 1.0) / FADE_HOPS, 1.0)
            sound = (0.5 + 0.5 * np.cos(np.pi * course)).astype(np.float32)
            held = self._held[np.minimum(hops[:, 0].astype(int), len(self._held) - 1)]
            levels = sound * held + (1.0 - sound) * self._background
            if len(self._columns) == analysis.STEP_HOPS * len(self._latents):
                shares = sound.reshape(steps, -1).mean(axis=1)[:, None]
                guess = shares * self._latents[-1:] + (1.0 - shares) * self._quiet, self._rate
        decay = BACKGROUND_FADE_DB / DB_PER_UNIT * analysis.HOP / analysis.SAMPLE_RATE
        lower = levels - decay * np.maximum(hops - analysis.FRAME_HOPS, 0.0)
        levels = np.clip(lower, -1.0, 1.0).astype(np.float32)
        self._lost += count
        self.ending = Ending(levels[-1], 1.0)
        if smooth and self.resting:
            return levels, None
        return textured(levels, self._noise.next(count), 1.0 - sound), guess

    def _prepare(self, latents: FloatArray, rate: float) -> None:
        """Find how the last sound goes on (`_held` [n, N_MELS]), and the background (`_background`
        [N_MELS] and its latents `_quiet` [1, C])."""
        patch = len(self._columns) // len(latents)
        steps = analysis.FRAME_HOPS // patch
        context = min(steps // 4, len(latents))
        levels = self._columns.reshape(len(latents), -1).mean(axis=1)
        quiet = np.argsort(levels)[: max(BACKGROUND_HOPS // patch, 1)].tolist()
        self._quiet = latents[quiet].mean(axis=0, keepdims=True)
        hold = np.concatenate((latents[-context:], np.repeat(latents[-1:], steps - context, 0)))
        held, still = self._generate(np.stack((hold, np.repeat(self._quiet, steps, 0))), rate)
        # Averages over a step's columns, so that holding a step does not repeat its contents.
        tail = np.concatenate((self._columns[-patch:], held[context * patch :]))
        sums = np.cumsum(tail, axis=0, dtype=np.float64)
        smooth = ((sums[patch:] - sums[:-patch]) / patch).astype(np.float32)
        self._held = smooth[: FADE_HOPS + patch]
        self._background = still.mean(axis=0)
