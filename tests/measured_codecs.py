"""Codecs for the benchmark to measure that are no codecs, and fail where they are told to.

Every measuring process imports this module, which therefore imports little.
"""

from __future__ import annotations

import multiprocessing
import os
from dataclasses import dataclass

import numpy as np

from models.evaluation import coding


def noisy(samples, ratio, seed=1):
    noise = np.random.default_rng(seed).normal(0, 1, len(samples))
    return samples + ratio * np.std(samples) * noise


@dataclass(frozen=True)
class Noise(coding.Codec):
    """A codec that adds noise and says it spent fewer bits for more of it."""

    name: str = "noise"
    line: str = "noise"
    ratio: float = 0.1

    def run(self, samples):
        bits = round(1000 * len(samples) / 16000)
        decoded = noisy(samples, self.ratio).astype(np.float32)
        return coding.Coded(decoded, bits, 2 * bits, 0.1, 0.2)


@dataclass(frozen=True)
class Broken(coding.Codec):
    """A codec that fails in one of several ways."""

    name: str = "broken"
    line: str = "broken"
    how: str = "raises"

    def run(self, samples):
        if self.how == "raises":
            raise RuntimeError("two\nlines")
        if self.how == "dies":
            os._exit(3)
        if self.how == "hangs":
            multiprocessing.Event().wait()
        decoded = {"short": samples[:10], "nan": samples * np.nan}[self.how]
        return coding.Coded(decoded, 1, 1, 0.0, 0.0)
