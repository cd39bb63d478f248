"""Code lengths of whole numbers under a logistic distribution."""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor


def logistic_bits(z: Tensor, location: Tensor, log_scale: Tensor) -> Tensor:
    """-log2 of the logistic mass within half a step of z, of any shape; linear in the far tails."""
    inverse = torch.exp(-log_scale)
    distance = (z - location).abs()
    upper, lower = (0.5 - distance) * inverse, (-0.5 - distance) * inverse
    # log(sigmoid(a) - sigmoid(b)) = logsigmoid(a) + logsigmoid(-b) + log(1 - exp(b - a))
    log_mass = F.logsigmoid(upper) + F.logsigmoid(-lower) + torch.log1p(-torch.exp(-inverse))
    return -log_mass / math.log(2.0)
