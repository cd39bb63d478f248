"""Tables of quads: the sizes that they promise, other bytes refused, and their rate term."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch

from codec.entropy.quads import ESCAPE, QUAD, QuadCounts, all_pairs
from codec.entropy.quantiser import Quantiser
from codec.entropy.static import MAX_COUNT, StaticHuffmanCoder, StaticRangeCoder
from codec.errors import BadStream
from models.networks.paper import PairPrior
from models.training.quad_rate import QuadRate, bits_of, coded, huffman_lengths, quads_of
from tests.quad_frames import CHANNELS, COUNTS, LEVELS, REST, STEPS, even, frame, maps

HUFFMAN = StaticHuffmanCoder(COUNTS, STEPS, CHANNELS)
RANGE = StaticRangeCoder(COUNTS, STEPS, CHANNELS)


def test_a_frame_takes_what_the_code_lengths_say():
    code = coded(COUNTS)
    for seed in range(20):
        q = frame(100 + seed)
        quads = np.concatenate((q, np.full((2, CHANNELS), REST))).reshape(-1, QUAD, CHANNELS)
        wanted = bits_of(COUNTS.counted(quads.transpose(0, 2, 1).reshape(-1, QUAD)), code)
        assert len(HUFFMAN.encode(q, 0)) == -(-wanted // 8)


def test_what_is_at_rest_takes_less_than_a_bit():
    q = np.full((STEPS, CHANNELS), REST, np.int8)
    for coder in (HUFFMAN, RANGE):
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
        for made in (StaticHuffmanCoder, StaticRangeCoder)
    ]
    assert found == [HUFFMAN_START, RANGE_START]


HUFFMAN_START = "73ce39e79c73ce39e79c734e"
RANGE_START = "fffffffffab02334fce09a1b"


def test_an_escape_for_what_needs_none_is_refused():
    """A quad has one code: the escape is for others than those with a symbol of their own."""
    q = np.full((QUAD, CHANNELS), REST, np.int8)
    quads, pairs = COUNTS.symbols(q)
    quads[0], pairs = ESCAPE, np.full(2, REST * LEVELS + REST, np.int32)
    payload = HUFFMAN._write((quads, pairs))
    with pytest.raises(BadStream):
        HUFFMAN.decode(payload, 0, QUAD)


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
        StaticHuffmanCoder(replace(even(), **change), 4, 2)


def test_the_shares_of_all_pairs_are_those_of_the_levels():
    quads = quads_of(maps(20))
    pairs = quads.reshape(-1, 2)
    wanted = np.zeros((LEVELS, LEVELS))
    np.add.at(wanted, (pairs[:, 0], pairs[:, 1]), 1.0 / len(pairs))
    assert np.allclose(all_pairs(*even().counted(quads), REST), wanted)


def test_the_price_of_pairs_is_exact_at_the_centres_and_between_them_in_between():
    quantiser = Quantiser(np.arange(LEVELS, dtype=np.float32) - REST)
    prior, bits = PairPrior(quantiser, COUNTS), COUNTS.pair_bits()
    q = frame(3, 5)
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
    some = maps(4)
    for _ in range(20):
        rate.count(some)
    assert (float(rate.price) > 0.01) == dearer
    before = float(rate.price)
    rate.count(some, steer=False)
    assert float(rate.price) == before
