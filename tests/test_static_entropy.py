"""The static coders: exact round trips, sizes near the ideal, and refusal of other bytes."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from codec.entropy.latent_coder import LatentCoder
from codec.entropy.static import (
    MAX_COUNT,
    TABLE_BITS,
    LevelHuffmanCoder,
    StaticCounts,
    StaticHuffmanCoder,
    StaticRangeCoder,
    SymbolCounts,
    count_symbols,
    table_of,
)
from codec.errors import BadStream
from tests import quad_frames

STEPS, CHANNELS, LEVELS = 8, 64, 16
_BELL = np.exp(-0.5 * ((np.arange(LEVELS) - 7.3) / 3.0) ** 2)
COUNTS = SymbolCounts((1 + 1e5 * _BELL).astype(np.int64))
CODERS: list[LatentCoder] = [
    LevelHuffmanCoder(COUNTS, STEPS, CHANNELS),
    StaticRangeCoder(COUNTS, STEPS, CHANNELS),
]
both = pytest.mark.parametrize("coder", CODERS, ids=["huffman", "range"])


def _typical(seed: int) -> np.ndarray:
    random = np.random.default_rng(seed)
    drawn = random.choice(LEVELS, (STEPS, CHANNELS), p=_BELL / _BELL.sum())
    return drawn.astype(np.int8)


@dataclass(frozen=True)
class Tables:
    """Counts, and what is coded with them.

    elements: draws single latents; typical: frames by their seeds; longest: payload in bytes.
    """

    counts: StaticCounts
    steps: int
    channels: int
    elements: st.SearchStrategy[int]
    typical: Callable[[int], np.ndarray]
    longest: int


OF_LEVELS = Tables(COUNTS, STEPS, CHANNELS, st.integers(0, LEVELS - 1), _typical, 600)
_NEAR_REST = st.integers(quad_frames.REST - 1, quad_frames.REST + 1)
OF_QUADS = Tables(
    quad_frames.COUNTS, quad_frames.STEPS, quad_frames.CHANNELS,
    st.one_of(_NEAR_REST, st.integers(0, quad_frames.LEVELS - 1)), quad_frames.frame, 60,
)  # fmt: skip
every = pytest.mark.parametrize(
    ("tables", "coder"),
    [
        (tables, made(tables.counts, tables.steps, tables.channels))
        for tables in (OF_LEVELS, OF_QUADS)
        for made in (StaticHuffmanCoder, StaticRangeCoder)
    ],
    ids=["huffman", "range", "quads-huffman", "quads-range"],
)


@every
@given(data=st.data())
@settings(max_examples=60, deadline=None)
def test_any_frame_survives_the_round_trip(tables: Tables, coder: LatentCoder, data):
    steps = data.draw(st.integers(1, tables.steps))
    q = data.draw(hnp.arrays(np.int8, (steps, tables.channels), elements=tables.elements))
    decoded = coder.decode(coder.encode(q, 0), 0, steps)
    assert decoded.dtype == np.int8
    assert np.array_equal(decoded, q)


@both
@pytest.mark.parametrize("symbol", range(LEVELS))
def test_constant_frames_survive(coder: LatentCoder, symbol):
    q = np.full((STEPS, CHANNELS), symbol, np.int8)
    assert np.array_equal(coder.decode(coder.encode(q, 0), 0), q)


@both
def test_size_is_near_what_the_table_promises(coder: LatentCoder):
    frames = [_typical(seed) for seed in range(30)]
    spent = sum(8 * len(coder.encode(q, 0)) for q in frames)
    ideal = sum(COUNTS.bits()[q].sum() for q in frames)
    if isinstance(coder, LevelHuffmanCoder):
        promised = sum(coder.lengths[q].sum() for q in frames)
        assert ideal <= promised <= spent < promised + 8 * len(frames)
    else:
        assert ideal * 0.999 < spent < ideal * 1.01 + 24 * len(frames)


def test_huffman_is_a_prefix_code_no_better_than_the_ideal():
    coder = CODERS[0]
    assert isinstance(coder, LevelHuffmanCoder)
    assert (2.0**-coder.lengths).sum() == 1.0
    share = COUNTS.counts / COUNTS.counts.sum()
    assert 1.0 <= (share * coder.lengths).sum() / (share * COUNTS.bits()).sum() < 1.05
    order = np.argsort(-COUNTS.counts)
    assert (np.diff(coder.lengths[order]) >= 0).all()


def test_both_coders_write_known_bytes():
    """The bitstream is a promise: these bytes must never change."""
    q = (np.arange(STEPS * CHANNELS) * 7 % LEVELS).astype(np.int8).reshape(STEPS, CHANNELS)
    huffman, ranged = (coder.encode(q, 0) for coder in CODERS)
    assert huffman[:12].hex() == HUFFMAN_START
    assert ranged[:12].hex() == RANGE_START


HUFFMAN_START = "e822bcf047503e77b0d04578"
RANGE_START = "00ee9f92e550188500fc4a57"


@every
@given(data=st.data())
@settings(max_examples=300, deadline=None)
def test_arbitrary_bytes_decode_to_a_frame_or_are_refused(tables: Tables, coder: LatentCoder, data):
    payload = data.draw(st.binary(max_size=tables.longest))
    try:
        q = coder.decode(payload, 0)
    except BadStream:
        return
    assert coder.encode(q, 0) == payload


@every
def test_lengthened_payloads_are_refused(tables: Tables, coder: LatentCoder):
    payload = coder.encode(tables.typical(5), 0)
    for extra in (b"\0", b"\1", b"\xff" * 40):
        with pytest.raises(BadStream):
            coder.decode(payload + extra, 0)


def test_huffman_refuses_every_cut_payload():
    payload = CODERS[0].encode(_typical(5), 0)
    for length in range(len(payload)):
        with pytest.raises(BadStream):
            CODERS[0].decode(payload[:length], 0)


@every
@pytest.mark.parametrize("bad", ["below", "above", "far above"])
def test_an_index_without_a_symbol_is_refused(tables: Tables, coder: LatentCoder, bad):
    levels = tables.counts.levels
    q = tables.typical(1)
    q[3, 3] = {"below": -1, "above": levels, "far above": 100}[bad]
    with pytest.raises(ValueError, match=rf"0\.\.{levels - 1}$"):
        coder.encode(q, 0)


@both
def test_a_frame_of_another_shape_is_refused(coder: LatentCoder):
    with pytest.raises(ValueError, match="not"):
        coder.encode(np.zeros((CHANNELS, STEPS), np.int8), 0)


@pytest.mark.parametrize(
    "counts",
    [
        np.array([1], np.int64),
        np.array([3, 0], np.int64),
        np.array([3, -1], np.int64),
        np.array([3, MAX_COUNT + 1], np.int64),
        np.array([3.0, 1.0]),
        np.ones((2, 2), np.int64),
        np.ones(200, np.int64),
    ],
)
def test_unusable_counts_are_refused(counts):
    with pytest.raises(ValueError, match="counts"):
        StaticHuffmanCoder(SymbolCounts(counts), 2, 2)


@given(st.lists(st.integers(1, MAX_COUNT), min_size=2, max_size=128))
@settings(max_examples=200, deadline=None)
def test_tables_are_positive_and_sum_to_one(numbers):
    table = table_of(np.array(numbers, np.int64))
    assert table.min() >= 1
    assert table.sum() == 1 << TABLE_BITS


def test_counting_leaves_no_level_without_a_code():
    counts = count_symbols(np.array([[2, 2], [3, 2]], np.int8), 6)
    assert counts.counts.tolist() == [1, 1, 4, 2, 1, 1]
    counts.check()
