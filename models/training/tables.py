"""From the trained float prior to the fixed-point context model and its counted tables."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from codec.entropy import context_model
from codec.entropy.context_model import ContextModel, contexts
from models.networks.speech import ANCHORS, Prior


def _fixed(weight: NDArray[np.float32]) -> NDArray[np.int16]:
    scaled = np.rint(weight * context_model.WEIGHT_ONE)
    return np.clip(scaled, -context_model.MAX_WEIGHT, context_model.MAX_WEIGHT).astype(np.int16)


def _rate_hats() -> NDArray[np.float64]:
    rates = np.arange(context_model.QUALITIES) / 8.0
    return np.maximum(1.0 - np.abs(rates[:, None] - np.arange(ANCHORS)), 0.0)


def logistic_tables() -> NDArray[np.float64]:
    """The prior's own mass function of every class: [classes, SYMBOLS], rows sum to one."""
    symbols = np.arange(context_model.SYMBOLS) - context_model.REACH
    rows = []
    for fraction in range(context_model.FRACTIONS):
        location = (fraction - context_model.FRACTIONS / 2) / context_model.FRACTIONS
        for scale_class in range(context_model.SCALE_CLASSES):
            scale = np.exp(context_model.LOG_SCALE_START + (scale_class + 0.5) / 8.0)
            upper = 1.0 / (1.0 + np.exp(-np.clip((symbols + 0.5 - location) / scale, -60, 60)))
            lower = 1.0 / (1.0 + np.exp(-np.clip((symbols - 0.5 - location) / scale, -60, 60)))
            mass = upper - lower + 1e-7
            rows.append(mass / mass.sum())
    return np.array(rows)


def integer_table(probabilities: NDArray[np.float64]) -> NDArray[np.uint32]:
    """Rows of probabilities to positive integers that sum to 2**TABLE_BITS."""
    total = 1 << context_model.TABLE_BITS
    spare = total - probabilities.shape[1]
    table = np.floor(probabilities * spare).astype(np.int64) + 1
    table[np.arange(len(table)), table.argmax(axis=1)] += total - table.sum(axis=1)
    return table.astype(np.uint32)


def fixed_point(
    prior: Prior,
    examples: list[tuple[NDArray[np.int8], int]],
    *,
    prior_weight: float = 200.0,
) -> ContextModel:
    """Fixed-point context model; tables are counts over `examples` (training frames only).

    examples: (indices [S, C], quality) pairs. The prior's logistic mass counts as `prior_weight`
    observations of every class, so that rare classes stay sensible.
    """
    state = {k: v.detach().float().numpy() for k, v in prior.state_dict().items()}
    within = state["within.weight"] * prior.within_mask.numpy()
    middle = state["middle.weight"] * prior.middle_mask.numpy()
    leave = state["leave.weight"] * prior.leave_mask.numpy()
    channels = prior.shape.channels
    past = state["past.weight"].T
    rows = np.concatenate((past[: 4 * channels], past[-1:]))
    offset = state["past.bias"] + _rate_hats() @ past[4 * channels : 4 * channels + ANCHORS]
    one, later = context_model.WEIGHT_ONE, context_model.WEIGHT_ONE * context_model.ACTIVATION_ONE
    leave_bias = state["leave.bias"].astype(np.float64).copy()
    leave_bias[channels:] += -1.0 - context_model.LOG_SCALE_START
    parts = {
        "groups": np.array(prior.shape.prior_groups, np.int32),
        "past": _fixed(rows),
        "within": _fixed(within.T),
        "offset": np.rint(offset * one).astype(np.int32),
        "middle": _fixed(middle),
        "middle_bias": np.rint(state["middle.bias"] * later).astype(np.int32),
        "leave": _fixed(leave),
        "leave_bias": np.rint(leave_bias * later).astype(np.int32),
    }
    start = logistic_tables()
    model = ContextModel(**parts, tables=integer_table(start))
    counts = start * prior_weight
    for indices, quality in examples:
        centre, table = contexts(model, indices, quality)
        np.add.at(counts, (table, indices - centre + context_model.REACH), 1.0)
    counts /= counts.sum(axis=1, keepdims=True)
    return ContextModel(**parts, tables=integer_table(counts))
