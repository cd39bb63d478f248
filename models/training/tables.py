"""Conversion of a trained prior to a fixed-point context model with counted tables."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any, TypeVar

import numpy as np
from numpy.typing import NDArray

from codec.entropy.context_model import (
    ACTIVATION_ONE,
    FRACTIONS,
    MAX_WEIGHT,
    TABLE_BITS,
    WEIGHT_ONE,
    ContextModel,
    deviations,
)
from codec.entropy.image_context import NEAR, NEIGHBOURS, ImageContext
from codec.entropy.speech_context import QUALITIES, SpeechContext
from models.networks import photo, speech

# Symbols rarer than this under the logistic are escaped, if the tables have escapes.
_RAREST = 3e-6
_SUM_ONE = WEIGHT_ONE * ACTIVATION_ONE  # unit of the sums in later layers

Context = TypeVar("Context", bound=ContextModel)
Examples = Sequence[tuple[NDArray[np.integer], int]]  # indices and their quality


def speech_context(prior: speech.Prior, examples: Examples) -> SpeechContext:
    """Context model of speech; tables are counted on `examples` [S, C] (training frames only)."""
    parts, state = _layers(prior)
    channels = prior.shape.channels
    past = state["past.weight"].T
    rates = np.arange(QUALITIES) / 8.0
    hats = np.maximum(1.0 - np.abs(rates[:, None] - np.arange(speech.ANCHORS)), 0.0)
    offset = state["past.bias"] + hats @ past[4 * channels : 4 * channels + speech.ANCHORS]
    leave_bias = state["leave.bias"].astype(np.float64).copy()
    leave_bias[channels:] += -1.0 - SpeechContext.log_scale_start
    parts |= {
        "past": _weights(np.concatenate((past[: 4 * channels], past[-1:]))),
        "within": _weights(state["within.weight"].T),
        "offset": _biases(offset, WEIGHT_ONE),
        "leave_bias": _biases(leave_bias),
    }
    return _counted(SpeechContext, parts, examples, 200.0)


def image_context(prior: photo.Prior, examples: Examples) -> ImageContext:
    """Context model of images; tables are counted on `examples` [h, w, C] of training images."""
    parts, state = _layers(prior)
    channels, values = prior.shape.channels, prior.shape.prior_values
    past, within = state["past.weight"].T, state["within.weight"].T
    near, around = [], []
    at = 0
    for k in range(len(NEIGHBOURS)):
        if k < NEAR:
            near.append(past[at : at + values])
            at += values
        around.append(past[at : at + photo.BANDS])
        at += photo.BANDS
    quarter = WEIGHT_ONE // 4
    bias = state["leave.bias"].astype(np.float64)
    scale_bias = state["log_scale"] + bias[channels:] - ImageContext.log_scale_start
    parts |= {
        "bands": state["bands"].astype(np.int32),
        "predict": _weights(state["predict"]),
        "near": _weights(np.concatenate(near)),
        "around": _weights(np.concatenate(around), quarter),
        "within": np.concatenate(
            (_weights(within[:channels]), _weights(within[channels:], quarter))
        ),
        "offset": _biases(state["past.bias"] + past[at:], WEIGHT_ONE),
        "location_bias": _biases(bias[:channels]),
        "scale_bias": _biases(scale_bias),
    }
    return _counted(ImageContext, parts, examples, 50.0)


def _layers(prior: speech.Prior | photo.Prior) -> tuple[dict[str, Any], dict[str, Any]]:
    """The stored parts that all models share, and the prior's state with masked weights."""
    state = {k: v.detach().float().cpu().numpy() for k, v in prior.state_dict().items()}
    for name in ("within", "middle", "leave"):
        state[f"{name}.weight"] = (
            state[f"{name}.weight"] * getattr(prior, f"{name}_mask").cpu().numpy()
        )
    parts = {
        "groups": np.array(prior.shape.prior_groups, np.int32),
        "middle": _weights(state["middle.weight"]),
        "middle_bias": _biases(state["middle.bias"]),
        "leave": _weights(state["leave.weight"]),
    }
    return parts, state


def _weights(weight: NDArray[np.float32], one: int = WEIGHT_ONE) -> NDArray[np.int16]:
    return np.clip(np.rint(weight * one), -MAX_WEIGHT, MAX_WEIGHT).astype(np.int16)


def _biases(bias: NDArray[np.floating], one: int = _SUM_ONE) -> NDArray[np.int32]:
    return np.rint(bias * one).astype(np.int32)


def _counted(
    kind: type[Context], parts: dict[str, Any], examples: Examples, prior_weight: float
) -> Context:
    """The model with tables counted on examples.

    The prior's logistic mass counts as `prior_weight` observations per class, so that the tables of
    rare classes stay sensible.
    """
    start = logistic_masses(kind)
    made: Any = kind
    model: Context = made(**parts, tables=integer_tables(start))
    counts = start * prior_weight
    for indices, quality in examples:
        deviation, tables = deviations(model, indices, quality)
        symbols = model.symbols_of(deviation)
        # Symbols that a table escapes are counted as escapes.
        escapes = np.where(deviation <= 0, 0, kind.symbols - 1)
        symbols = np.where(start[tables, symbols] == 0.0, escapes, symbols)
        np.add.at(counts, (tables, symbols), 1.0)
    return replace(model, tables=integer_tables(counts))  # type: ignore[type-var]


def logistic_masses(kind: type[ContextModel]) -> NDArray[np.float64]:
    """The logistic mass of every class and symbol, 0 for escaped symbols: rows sum to one."""
    reach = kind.reach
    deviation = np.arange(-reach, reach + 1)
    rows = []
    for fraction in range(FRACTIONS):
        location = (fraction - FRACTIONS / 2) / FRACTIONS
        for scale_class in range(kind.scale_classes):
            scale = np.exp(kind.log_scale_start + (scale_class + 0.5) / 8.0)
            upper = _sigmoid((deviation + 0.5 - location) / scale)
            lower = _sigmoid((deviation - 0.5 - location) / scale)
            mass = upper - lower
            if kind.symbols == len(deviation):
                mass += 1e-7
            else:
                mass[(mass < _RAREST) & (np.abs(deviation) > 1)] = 0.0
                below = max(float(_sigmoid((-reach - 0.5 - location) / scale)), _RAREST)
                above = max(float(_sigmoid((location - reach - 0.5) / scale)), _RAREST)
                mass = np.array([below, *mass, above])
            rows.append(mass / mass.sum())
    return np.array(rows)


def _sigmoid(x: NDArray[np.float64] | float) -> NDArray[np.float64]:
    value: NDArray[np.float64] = 1.0 / (1.0 + np.exp(-np.clip(x, -60, 60)))
    return value


def integer_tables(masses: NDArray[np.float64]) -> NDArray[np.uint32]:
    """Rows of masses as integers that sum to 2**TABLE_BITS, positive where the masses are."""
    total = 1 << TABLE_BITS
    used = masses > 0.0
    spare = total - used.sum(axis=1, keepdims=True)
    share = masses / masses.sum(axis=1, keepdims=True)
    table = np.floor(share * spare).astype(np.int64) + used
    table[np.arange(len(table)), table.argmax(axis=1)] += total - table.sum(axis=1)
    return table.astype(np.uint32)
