"""The coders of quads: exact round trips, sizes that the tables promise, refusal of other bytes."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from codec.entropy.quads import (
    ESCAPE,
    QUAD,
    QuadCounts,
    QuadHuffmanCoder,
    QuadRangeCoder,
    all_pairs,
)
from codec.entropy.quantiser import Quantiser
from codec.entropy.static import MAX_COUNT
from codec.errors import BadStream
from models.networks.paper import PairPrior
from models.training.quad_rate import (
    QuadRate,
    bits_of,
    coded,
    huffman_lengths,
    quads_of,
    whole_counts,
)

STEPS, CHANNELS, LEVELS, REST = 14, 6, 9, 4


def _frame(seed: int, steps: int = STEPS) -> np.ndarray:
    """Mostly at rest, more so in later channels."""
    random = np.random.default_rng(seed)
    drawn = random.laplace(0.0, 1.0 / np.arange(1, CHANNELS + 1), (steps, CHANNELS))
    return np.clip(drawn.round() + REST, 0, LEVELS - 1).astype(np.int8)


def _even(levels: int = LEVELS, rest: int = REST) -> QuadCounts:
    return QuadCounts(np.ones(ESCAPE + 1, np.int64), np.ones((levels, levels), np.int64), rest)


def _counted() -> QuadCounts:
    maps = torch.from_numpy(np.stack([_frame(seed, 16).T[:, None] for seed in range(60)]))
    return whole_counts(*_even().counted(quads_of(maps)), REST)


COUNTS = _counted()
Coder = QuadHuffmanCoder | QuadRangeCoder
CODERS: list[Coder] = [
    QuadHuffmanCoder(COUNTS, STEPS, CHANNELS),
    QuadRangeCoder(COUNTS, STEPS, CHANNELS),
]
both = pytest.mark.parametrize("coder", CODERS, ids=["huffman", "range"])


@both
@given(
    hnp.arrays(
        np.int8,
        st.tuples(st.integers(1, STEPS), st.just(CHANNELS)),
        elements=st.one_of(st.integers(REST - 1, REST + 1), st.integers(0, LEVELS - 1)),
    )
)
@settings(max_examples=60, deadline=None)
def test_any_frame_survives_the_round_trip(coder: Coder, q):
    decoded = coder.decode(coder.encode(q, 0), 0, len(q))
    assert decoded.dtype == np.int8
    assert np.array_equal(decoded, q)


def test_a_frame_takes_what_the_code_lengths_say():
    code = coded(COUNTS)
    for seed in range(20):
        q = _frame(100 + seed)
        quads = np.concatenate((q, np.full((2, CHANNELS), REST))).reshape(-1, QUAD, CHANNELS)
        wanted = bits_of(COUNTS.counted(quads.transpose(0, 2, 1).reshape(-1, QUAD)), code)
        assert len(CODERS[0].encode(q, 0)) == -(-wanted // 8)


def test_what_is_at_rest_takes_less_than_a_bit():
    q = np.full((STEPS, CHANNELS), REST, np.int8)
    for coder in CODERS:
        assert 8 * len(coder.encode(q, 0)) < 0.6 * q.size


def test_both_coders_write_known_bytes():
    """The bitstream is a promise: these bytes must never change."""
    counts = QuadCounts(
        np.arange(1, ESCAPE + 2, dtype=np.int64) ** 2,
        np.arange(1, LEVELS**2 + 1, dtype=np.int64).reshape(LEVELS, LEVELS) ** 2,
        REST,
    )
    q = (np.arange(STEPS * CHANNELS) ** 2 % 11 % LEVELS).astype(np.int8).reshape(STEPS, CHANNELS)
    found = [
        made(counts, STEPS, CHANNELS).encode(q, 0)[:12].hex()
        for made in (QuadHuffmanCoder, QuadRangeCoder)
    ]
    assert found == [HUFFMAN_START, RANGE_START]


HUFFMAN_START = "73ce39e79c73ce39e79c734e"
RANGE_START = "fffffffffab02334fce09a1b"


@both
@given(st.binary(max_size=60))
@settings(max_examples=300, deadline=None)
def test_arbitrary_bytes_decode_to_a_frame_or_are_refused(coder: Coder, payload):
    try:
        q = coder.decode(payload, 0)
    except BadStream:
        return
    assert coder.encode(q, 0) == payload


@both
def test_lengthened_payloads_are_refused(coder: Coder):
    payload = coder.encode(_frame(5), 0)
    for extra in (b"\0", b"\1", b"\xff" * 40):
        with pytest.raises(BadStream):
            coder.decode(payload + extra, 0)


def test_an_escape_for_what_needs_none_is_refused():
    """A quad has one code: the escape is for others than those with a symbol of their own."""
    huffman = CODERS[0]
    assert isinstance(huffman, QuadHuffmanCoder)
    q = np.full((QUAD, CHANNELS), REST, np.int8)
    quads, pairs = COUNTS.symbols(q)
    quads[0], pairs = ESCAPE, np.full(2, REST * LEVELS + REST, np.int32)
    payload = huffman._write(quads, pairs)
    with pytest.raises(BadStream):
        huffman.decode(payload, 0, QUAD)


@both
@pytest.mark.parametrize("bad", [-1, LEVELS, 100])
def test_an_index_without_a_symbol_is_refused(coder: Coder, bad):
    q = _frame(1)
    q[3, 3] = bad
    with pytest.raises(ValueError, match=r"0\.\.8"):
        coder.encode(q, 0)


@pytest.mark.parametrize(
    "change",
    [
        {"quads": np.ones(ESCAPE, np.int64)},
        {"quads": np.ones(ESCAPE + 1)},
        {"quads": np.zeros(ESCAPE + 1, np.int64)},
        {"pairs": np.ones((9, 8), np.int64)},
        {"pairs": np.ones(81, np.int64)},
        {"pairs": np.ones((9, 9))},
        {"pairs": np.full((9, 9), MAX_COUNT + 1)},
        {"pairs": np.ones((65, 65), np.int64)},
        {"pairs": np.ones((2, 2), np.int64)},
        {"rest": 0},
        {"rest": 8},
    ],
)
def test_unusable_counts_are_refused(change):
    with pytest.raises(ValueError, match=r"counts|rest"):
        QuadHuffmanCoder(replace(_even(), **change), 4, 2)


def test_the_shares_of_all_pairs_are_those_of_the_levels():
    maps = torch.from_numpy(np.stack([_frame(seed, 16).T[:, None] for seed in range(20)]))
    quads = quads_of(maps)
    pairs = quads.reshape(-1, 2)
    wanted = np.zeros((LEVELS, LEVELS))
    np.add.at(wanted, (pairs[:, 0], pairs[:, 1]), 1.0 / len(pairs))
    assert np.allclose(all_pairs(*_even().counted(quads), REST), wanted)


def test_the_price_of_pairs_is_exact_at_the_centres_and_between_them_in_between():
    quantiser = Quantiser(np.arange(LEVELS, dtype=np.float32) - REST)
    prior, bits = PairPrior(quantiser, COUNTS), COUNTS.pair_bits()
    q = _frame(3, 5)
    z = quantiser.value(torch.from_numpy(q))[None]
    found = prior.bits(z, torch.zeros(1))[0].numpy()
    padded = np.concatenate((q, np.full_like(q[:1], REST)))
    halves = 0.5 * np.repeat(bits[padded[0::2], padded[1::2]], 2, axis=0)[:5]
    assert np.allclose(found, halves, atol=1e-4)
    middle = prior.bits(torch.tensor([[[0.5], [0.0]]]), torch.zeros(1)).sum()
    ends = bits[REST, REST] + bits[REST + 1, REST]
    assert float(middle) == pytest.approx(0.5 * ends, abs=1e-4)


def test_huffman_lengths_are_those_of_a_shortest_code():
    weights = np.array([1.0, 1.0, 2.0, 4.0, 8.0])
    assert huffman_lengths(weights).tolist() == [4, 4, 3, 2, 1]
    random = np.random.default_rng(0).random(100) ** 4
    lengths = huffman_lengths(random)
    assert (2.0**-lengths).sum() == 1.0
    shares = random / random.sum()
    entropy = -(shares * np.log2(shares)).sum()
    assert entropy <= (shares * lengths).sum() < entropy + 1.0


@pytest.mark.parametrize(("target", "dearer"), [(0.1, True), (100.0, False)])
def test_bits_get_dearer_above_the_target_and_cheaper_below(target, dearer):
    rate = QuadRate(LEVELS, REST, target, 0.01)
    maps = torch.from_numpy(np.stack([_frame(seed, 16).T[:, None] for seed in range(4)]))
    for _ in range(20):
        rate.count(maps)
    assert (float(rate.price) > 0.01) == dearer
    before = float(rate.price)
    rate.count(maps, steer=False)
    assert float(rate.price) == before
