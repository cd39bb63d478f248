"""Type and rate of samples."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

FloatArray = NDArray[np.float32]

SAMPLE_RATE = 16_000  # Hz, everywhere between the edges of the codec
