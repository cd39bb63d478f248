"""Clips as the frames that the networks take."""

from __future__ import annotations

import math

import numpy as np
import torch
from torch import Tensor

from codec.signal import analysis
from codec.signal.samples import FloatArray


def frames_of(samples: FloatArray) -> Tensor:
    """Samples [n] at 16 kHz as log-mel frames [B, T, M], the last one padded with silence."""
    count = max(math.ceil(len(samples) / analysis.FRAME_SAMPLES), 1)
    padded = np.zeros(count * analysis.FRAME_SAMPLES + 2 * analysis.LEAD, np.float32)
    padded[analysis.LEAD : analysis.LEAD + len(samples)] = samples
    return torch.from_numpy(analysis.log_mel(padded)).reshape(count, analysis.FRAME_HOPS, -1)
