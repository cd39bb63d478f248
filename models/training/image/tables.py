"""From the trained float prior of images to its fixed-point form and the counted tables."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from codec.entropy import image_context
from codec.entropy.image_context import ImageCoder, ImageContext
from models.networks.photo import BANDS, NEAR, NEIGHBOURS, Prior

# Symbols rarer than this by the logistic are left to the escapes.
_RAREST = 3e-6


def _fixed(weight: NDArray[np.float32], one: int = image_context.WEIGHT_ONE) -> NDArray[np.int16]:
    scaled = np.rint(weight * one)
    return np.clip(scaled, -image_context.MAX_WEIGHT, image_context.MAX_WEIGHT).astype(np.int16)


def logistic_masses() -> NDArray[np.float64]:
    """Logistic mass of every class and symbol, 0 where left to the escapes: rows sum to one."""
    deviation = np.arange(-image_context.REACH, image_context.REACH + 1)
    rows = []
    for fraction in range(image_context.FRACTIONS):
        location = (fraction - image_context.FRACTIONS / 2) / image_context.FRACTIONS
        for scale_class in range(image_context.SCALE_CLASSES):
            scale = np.exp(image_context.LOG_SCALE_START + (scale_class + 0.5) / 8.0)
            upper = _sigmoid((deviation + 0.5 - location) / scale)
            lower = _sigmoid((deviation - 0.5 - location) / scale)
            mass = upper - lower
            mass[(mass < _RAREST) & (np.abs(deviation) > 1)] = 0.0
            below = max(float(_sigmoid((-image_context.REACH - 0.5 - location) / scale)), _RAREST)
            above = max(float(_sigmoid((location - image_context.REACH - 0.5) / scale)), _RAREST)
            row = np.array([below, *mass, above])
            rows.append(row / row.sum())
    return np.array(rows)


def _sigmoid(x: NDArray[np.float64] | float) -> NDArray[np.float64]:
    value: NDArray[np.float64] = 1.0 / (1.0 + np.exp(-np.clip(x, -60, 60)))
    return value


def integer_tables(masses: NDArray[np.float64]) -> NDArray[np.uint32]:
    """Rows of masses to integers that sum to 2**16, positive where the masses are."""
    total = 1 << image_context.TABLE_BITS
    used = masses > 0.0
    spare = total - used.sum(axis=1, keepdims=True)
    share = masses / masses.sum(axis=1, keepdims=True)
    table = np.floor(share * spare).astype(np.int64) + used
    table[np.arange(len(table)), table.argmax(axis=1)] += total - table.sum(axis=1)
    return table.astype(np.uint32)


def fixed_point(
    prior: Prior,
    examples: list[tuple[NDArray[np.int16], int]],
    *,
    prior_weight: float = 50.0,
) -> ImageContext:
    """Fixed-point context model; tables are counts over `examples` (training images only).

    examples: (indices [h, w, C], quality) pairs. The prior's logistic mass counts as `prior_weight`
    observations of every class, so that rare classes stay sensible.
    """
    state = {k: v.detach().float().cpu().numpy() for k, v in prior.state_dict().items()}
    shape = prior.shape
    channels, values = shape.channels, shape.prior_values
    within = (state["within.weight"] * prior.within_mask.cpu().numpy()).T
    middle = state["middle.weight"] * prior.middle_mask.cpu().numpy()
    leave = state["leave.weight"] * prior.leave_mask.cpu().numpy()
    past = state["past.weight"].T
    near, around = [], []
    at = 0
    for k in range(len(NEIGHBOURS)):
        if k < NEAR:
            near.append(past[at : at + values])
            at += values
        around.append(past[at : at + BANDS])
        at += BANDS
    one, later = image_context.WEIGHT_ONE, image_context.WEIGHT_ONE * image_context.ACTIVATION_ONE
    quarter = one // 4
    bias = state["leave.bias"].astype(np.float64)
    scale_bias = state["log_scale"] + bias[channels:] - image_context.LOG_SCALE_START
    parts = {
        "groups": np.array(shape.prior_groups, np.int32),
        "bands": state["bands"].astype(np.int32),
        "predict": _fixed(state["predict"]),
        "near": _fixed(np.concatenate(near)),
        "around": _fixed(np.concatenate(around), quarter),
        "within": np.concatenate((_fixed(within[:channels]), _fixed(within[channels:], quarter))),
        "offset": np.rint((state["past.bias"] + past[at:]) * one).astype(np.int32),
        "middle": _fixed(middle),
        "middle_bias": np.rint(state["middle.bias"] * later).astype(np.int32),
        "leave": _fixed(leave),
        "location_bias": np.rint(bias[:channels] * later).astype(np.int32),
        "scale_bias": np.rint(scale_bias * later).astype(np.int32),
    }
    start = logistic_masses()
    coder = ImageCoder(ImageContext(**parts, tables=integer_tables(start)))
    counts = start * prior_weight
    for indices, quality in examples:
        centres, tables = coder.contexts(indices, quality)
        symbols = np.clip(indices - centres, -image_context.REACH - 1, image_context.REACH + 1)
        symbols = symbols + image_context.REACH + 1
        # What a table leaves to its escapes is counted there.
        rare = start[tables, symbols] == 0.0
        escapes = np.where(symbols <= image_context.REACH, 0, image_context.SYMBOLS - 1)
        symbols = np.where(rare, escapes, symbols)
        np.add.at(counts, (tables, symbols), 1.0)
    return ImageContext(**parts, tables=integer_tables(counts))
