"""The context-modelled range coder and the Huffman coder: exact, bounded, and efficient."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

from codec.entropy.context_model import TABLE_BITS, deviations
from codec.entropy.huffman import REACH, HuffmanCoder, count_tokens
from codec.entropy.speech_context import MAX_INDEX, RangeCoder, SpeechContext
from codec.errors import BadStream
from models.networks.speech import Prior, SpeechShape
from models.training.tables import integer_tables, logistic_masses, speech_context

SHAPE = SpeechShape(channels=24, prior_unit=8, prior_groups=(4, 8, 12))
STEPS = SHAPE.steps


def frames(count: int, seed: int) -> list[NDArray[np.int8]]:
    """Sparse latents whose activity comes and goes over the steps, as speech's does."""
    random = np.random.default_rng(seed)
    fall = np.exp(-np.arange(SHAPE.channels) / 8.0)
    out = []
    for _ in range(count):
        active = np.repeat(random.random((STEPS // 4, 1)) < 0.6, 4, axis=0)
        latents = random.laplace(0.0, 2.0, (STEPS, SHAPE.channels)) * fall * (0.05 + active)
        out.append(latents.round().clip(-MAX_INDEX, MAX_INDEX).astype(np.int8))
    return out


def trained_prior() -> Prior:
    torch.manual_seed(0)
    prior = Prior(SHAPE)
    optimiser = torch.optim.Adam(prior.parameters(), 3e-3)
    data = torch.from_numpy(np.stack(frames(256, 1))).float()
    for start in range(0, 6400, 64):
        batch = data[start % 256 : start % 256 + 64]
        loss = prior.bits(batch, torch.ones(len(batch))).sum((1, 2)).mean()
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
    return prior.eval()


@pytest.fixture(scope="module")
def prior() -> Prior:
    return trained_prior()


@pytest.fixture(scope="module")
def coder(prior: Prior) -> RangeCoder:
    examples = [(frame, 8) for frame in frames(200, 2)]
    return RangeCoder(speech_context(prior, examples), STEPS)


@pytest.fixture(scope="module")
def huffman(coder: RangeCoder) -> HuffmanCoder:
    examples = [(frame, 8) for frame in frames(200, 2)]
    return HuffmanCoder(coder.model, count_tokens(coder.model, examples), STEPS, 1.3)


latents = st.builds(
    lambda seed, scale: (
        (np.random.default_rng(seed).laplace(0, scale, (STEPS, SHAPE.channels)))
        .round()
        .clip(-MAX_INDEX, MAX_INDEX)
        .astype(np.int8)
    ),
    st.integers(0, 2**32 - 1),
    st.sampled_from([0.0, 0.2, 1.0, 5.0, 50.0]),
)


@given(latents, st.integers(0, 16))
def test_range_coder_round_trip(coder: RangeCoder, q: NDArray[np.int8], quality: int) -> None:
    assert np.array_equal(coder.decode(coder.encode(q, quality), quality), q)


@given(latents)
def test_huffman_round_trip(huffman: HuffmanCoder, q: NDArray[np.int8]) -> None:
    assert np.array_equal(huffman.decode(huffman.encode(q, 0), 0), q)


@given(st.binary(max_size=600), st.integers(0, 16))
def test_any_bytes_decode_or_are_refused(
    coder: RangeCoder, huffman: HuffmanCoder, data: bytes, quality: int
) -> None:
    for one in (coder, huffman):
        try:
            q = one.decode(data, quality)
        except BadStream:
            continue
        assert q.shape == (STEPS, SHAPE.channels)
        assert np.abs(q).max() <= MAX_INDEX


def test_spent_bits_are_close_to_the_ideal(coder: RangeCoder) -> None:
    for q in frames(40, 3):
        spent = 8 * len(coder.encode(q, 8))
        assert spent <= coder.bits(q, 8) + 10  # less than two bytes: the interval, and whole ones
        for steps in (1, 2, 4):
            spent = 8 * len(coder.encode(q[-steps:], 8, q[:-steps][-2:]))
            assert spent <= coder.bits(q[-steps:], 8, q[:-steps][-2:]) + 10


@given(latents, st.integers(0, 16), st.sampled_from([1, 2, 4, 8]), st.integers(0, 2))
def test_steps_that_follow_others_round_trip(
    coder: RangeCoder,
    huffman: HuffmanCoder,
    q: NDArray[np.int8],
    quality: int,
    steps: int,
    known: int,
) -> None:
    """After none, one or two steps that both sides know."""
    past = q[:known] if known else None
    newest = q[known : known + steps]
    for one in (coder, huffman):
        payload = one.encode(newest, quality, past)
        assert np.array_equal(one.decode(payload, quality, steps, past), newest)
        assert payload or one is huffman


def test_a_known_past_is_the_context_of_a_whole_frame(coder: RangeCoder) -> None:
    """Bits of steps after others are what these steps take in the middle of a frame."""
    for q in frames(10, 5):
        whole = coder.bits(q, 8)
        assert whole == pytest.approx(coder.bits(q[:9], 8) + coder.bits(q[9:], 8, q[7:9]))
        assert whole != pytest.approx(coder.bits(q[:9], 8) + coder.bits(q[9:], 8))


@given(latents, st.integers(0, 16))
def test_no_shorter_payload_decodes_to_the_same(
    coder: RangeCoder, q: NDArray[np.int8], quality: int
) -> None:
    payload = coder.encode(q, quality)
    assert payload
    for candidate in (payload[:-1], payload[:-1] + b"\0"):
        try:
            found = coder.decode(candidate, quality)
        except BadStream:
            continue
        assert not np.array_equal(found, q)


def test_other_numbers_of_steps_are_refused(coder: RangeCoder, huffman: HuffmanCoder) -> None:
    for one in (coder, huffman):
        for q in (np.zeros((0, SHAPE.channels)), np.zeros((STEPS + 1, SHAPE.channels))):
            with pytest.raises(ValueError, match="latents are"):
                one.encode(q.astype(np.int8), 0)


def test_huffman_costs_little_more(coder: RangeCoder, huffman: HuffmanCoder) -> None:
    test = frames(60, 9)
    spent = sum(8 * len(huffman.encode(q, 8)) for q in test)
    assert spent < 1.35 * sum(coder.bits(q, 8) for q in test)


def test_context_pays(coder: RangeCoder) -> None:
    """The context model beats the order-0 entropy of each channel, measured on the very frames."""
    test = frames(60, 4)
    stacked = np.stack(test).reshape(-1, SHAPE.channels)
    order0 = 0.0
    for column in stacked.T:
        counts = np.bincount(column + MAX_INDEX)
        share = counts[counts > 0] / len(column)
        order0 -= float((share * np.log2(share)).sum()) * len(column)
    assert sum(coder.bits(q, 8) for q in test) < 0.95 * order0


def test_integer_prior_is_the_float_prior(prior: Prior, coder: RangeCoder) -> None:
    """Fixed point costs nothing: code lengths agree with the float network's within 3 %."""
    test = frames(60, 5)
    with torch.no_grad():
        data = torch.from_numpy(np.stack(test)).float()
        ideal = float(prior.bits(data, torch.ones(len(data))).sum())
    assert sum(coder.bits(q, 8) for q in test) < 1.03 * ideal


def test_tables_are_positive_integers_with_a_fixed_sum() -> None:
    tables = integer_tables(logistic_masses(SpeechContext))
    assert tables.dtype == np.uint32
    assert (tables > 0).all()
    assert (tables.sum(axis=1) == 1 << TABLE_BITS).all()
    assert tables.shape[1] == 2 * REACH + 1


def test_decoding_does_not_depend_on_float_arithmetic(coder: RangeCoder) -> None:
    """What chooses a table is made of integers from end to end."""
    model = coder.model
    for name in ("groups", "past", "within", "offset", "middle", "leave", "tables"):
        assert np.issubdtype(getattr(model, name).dtype, np.integer), name
    deviation, table = deviations(model, frames(1, 6)[0], 8)
    assert np.issubdtype(deviation.dtype, np.integer)
    assert np.issubdtype(table.dtype, np.integer)


def test_out_of_range_latents_are_refused(coder: RangeCoder, huffman: HuffmanCoder) -> None:
    loud = np.full((STEPS, SHAPE.channels), MAX_INDEX + 1)
    for one in (coder, huffman):
        with pytest.raises(ValueError, match="±15"):
            one.encode(loud, 0)
        with pytest.raises(ValueError, match="latents are"):
            one.encode(np.zeros((3, 3), np.int8), 0)


def test_golden_bytes() -> None:
    """Pins the bitstream of both coders: an untrained prior and counted tables, fixed latents."""
    torch.manual_seed(0)
    prior = Prior(SHAPE)
    with torch.no_grad():  # any weights do, as long as they are exact in fixed point
        for parameter in prior.parameters():
            grid = torch.arange(parameter.numel()).reshape(parameter.shape)
            parameter.copy_(((grid * 37) % 23 - 11) / 256.0)
    q = frames(1, 7)[0]
    symbol = np.arange(2 * REACH + 1)
    table = 1 + 400 * np.maximum(12 - np.abs(symbol - REACH), 0)
    table[REACH] += (1 << TABLE_BITS) - table.sum()
    model = speech_context(prior, [])
    model = replace(model, tables=np.tile(table, (len(model.tables), 1)).astype(np.uint32))
    range_coder = RangeCoder(model, STEPS)
    ranged = range_coder.encode(q, 5)
    runs = count_tokens(model, [(frame, 8) for frame in frames(3, 8)])
    huffman_coder = HuffmanCoder(model, runs, STEPS, 1.0)
    huffman = huffman_coder.encode(q, 5)
    assert ranged.hex() == GOLDEN_RANGE
    assert huffman.hex() == GOLDEN_HUFFMAN
    # As earlier encoders ended it: what they wrote still decodes.
    assert np.array_equal(range_coder.decode(bytes.fromhex(GOLDEN_RANGE_WHOLE), 5), q)
    # Of chained packets: the last four steps, after those before them.
    assert range_coder.encode(q[12:], 5, q[10:12]).hex() == GOLDEN_RANGE_CHAINED
    assert huffman_coder.encode(q[12:], 5, q[10:12]).hex() == GOLDEN_HUFFMAN_CHAINED


GOLDEN_RANGE_WHOLE = (
    "7fffff613fd9967d871cc7b44b495fda5d4b91d7559c4d269619d17e5ea0cc6b6c489ba168254baf"
    "a596db47d4139b6a9fb4a8ca3f81eb263868a5d4ab703ae1336daa5a77c447fef077e1c843b11e18"
    "ac4c742a10106f6aa02f2e8404c205210d24d2751ce66c432741bd3e078567bf4bc6b5a03bc0fc87"
    "e8e1af09"
)
GOLDEN_RANGE = GOLDEN_RANGE_WHOLE[:-4] + "b0"
GOLDEN_RANGE_CHAINED = (
    "b3fefd9f5e000b7cc036170b2a19f3fb1ba70b01c250efdd47087c7a3605e73d24679b99cd40"
)
GOLDEN_HUFFMAN_CHAINED = "4062d39271ead52f4434491b5c9bab8804c7de6508b68133eb02"
GOLDEN_HUFFMAN = "6ddbb66d0b24362d19a75efd424493b4c1b5b98a4870ec5d86601b38b32e"


@pytest.mark.parametrize(
    "wrong",
    [
        {"groups": np.array([32, -20, 12], np.int32)},  # beyond the channels and back
        {"groups": np.array([0, 0, 24], np.int32)},
        {"groups": np.zeros(0, np.int32)},
        {"groups": np.array([[4, 8, 12]], np.int32)},
        {"groups": np.array([4, 8, 12])},
        {"groups": np.array(24, np.int32)},
        {"middle": np.zeros((24, 24), np.float32)},
        {"middle": np.zeros((), np.int16)},
        {"middle": np.full((24, 24), -32768, np.int16)},  # 32-bit sums could overflow
        {"leave": np.zeros((), np.int16)},
        {"past": np.zeros((97, 24))},
        {"offset": np.zeros((17, 24), np.int64)},
        {"tables": np.full((288, 47), -1, np.int32)},
    ],
)
def test_hostile_context_models_are_refused(coder: RangeCoder, wrong: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match="context model"):
        RangeCoder(replace(coder.model, **wrong), STEPS)


def test_frames_of_other_channels_are_refused(coder: RangeCoder) -> None:
    with pytest.raises(ValueError, match="24 channels, not 192"):
        coder.bits(np.ones((STEPS, 192), np.int8), 3)


def test_hostile_huffman_counts_are_refused(coder: RangeCoder) -> None:
    good = count_tokens(coder.model, [])
    nothing = np.full(good.runs.shape, np.nan)
    others: tuple[Any, ...] = (good.runs.astype(np.int32), good.runs[:, :-1], good.runs - 1)
    for wrong in (nothing, *others):
        with pytest.raises(ValueError, match="Huffman tables"):
            HuffmanCoder(coder.model, replace(good, runs=wrong), STEPS, 1.0)
