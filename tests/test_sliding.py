"""Packets of 64 to 1024 ms: encoder and decoder agree, chained or not, through loss and change."""

from __future__ import annotations

import io
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import soundfile
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from codec.container import ContainerReader, scan
from codec.errors import BadInput, BadStream, WrongModel
from codec.packet import (
    FRAME_STEPS,
    SEQUENCE_MODULUS,
    STEPS,
    Packet,
    pack_session,
    unpack_session,
)
from codec.search.engine import search
from codec.search.problem import Problem, SearchResult
from codec.search.sliding import Past, following
from codec.signal import analysis
from codec.signal.analysis import STEP_HOPS, STEP_SAMPLES
from codec.signal.samples import FloatArray
from codec.speech.codec import SpeechCodec
from codec.speech.decoder import PacketDecoder
from codec.speech.encoder import (
    BLOCK,
    KEY_SECONDS,
    UNCHAINED_SECONDS,
    EncodedPacket,
    SpeechEncoder,
)
from codec.speech.ratecontrol import STEP_SECONDS
from tests.conftest import CLIPS

SAMPLES = soundfile.read(CLIPS / "librispeech-6930.flac", dtype="float32")[0]
SHORT = SAMPLES[8_000 : 8_000 + 40 * STEP_SAMPLES]
LOOK_AHEAD = analysis.LEAD
CHAINED = (1, 2)


@pytest.fixture(scope="module")
def codec() -> SpeechCodec:
    return SpeechCodec.load("2k", "cpu")


def encoder_of(codec: SpeechCodec, steps: int, **options: Any) -> SpeechEncoder:
    options = {"iterations": 1, "block": BLOCK, "session": True} | options
    return SpeechEncoder(codec, steps=steps, **options)


def packets_of(encoded: list[EncodedPacket]) -> list[Packet]:
    return [each.packet for each in encoded if each.packet is not None]


@pytest.fixture(scope="module")
def sent(codec: SpeechCodec) -> Callable[[int], list[EncodedPacket]]:
    """What an encoder of packets of so many steps makes of `SHORT`, searched a little."""
    known: dict[int, list[EncodedPacket]] = {}

    def of(steps: int) -> list[EncodedPacket]:
        if steps not in known:
            encoder = encoder_of(codec, steps)
            known[steps] = encoder.push(SHORT) + encoder.finish()
        return known[steps]

    return of


def columns_of(decoder: PacketDecoder, packets: list[Packet]) -> FloatArray:
    return np.concatenate([decoder.decode(packet).columns for packet in packets])


def same(a: FloatArray, b: FloatArray) -> bool:
    return bool(np.allclose(a, b, atol=1e-4))


# --- the window -----------------------------------------------------------------------------------


@pytest.mark.parametrize("steps", [1, 2, 4, 8])
def test_networks_see_no_more_of_the_past_than_they_are_given(
    codec: SpeechCodec, steps: int
) -> None:
    """And that it matters to them."""
    random = torch.Generator().manual_seed(steps)
    z = torch.randint(-3, 4, (1, FRAME_STEPS, codec.channels), generator=random).float()
    x = torch.rand((1, analysis.FRAME_HOPS, analysis.N_MELS), generator=random) - 0.5
    rate = torch.ones(1)
    networks, past = codec.searchable, codec.networks.generator_past
    assert past is not None
    with torch.no_grad():
        for network, whole, seen, unit in (
            (networks.generator, z, past, 1),
            (codec.networks.encoder, x, codec.networks.encoder_past, STEP_HOPS),
        ):
            of_newest = slice(-steps * STEP_HOPS, None) if unit == 1 else slice(-steps, None)
            expected = network(whole, rate)[:, of_newest]
            window = whole[:, -(seen + steps) * unit :]
            torch.testing.assert_close(network(window, rate)[:, of_newest], expected,
                                       atol=1e-4, rtol=0)  # fmt: skip
            alone = network(window[:, seen * unit :], rate)[:, of_newest]
            assert (alone - expected).abs().max() > 1e-2


@pytest.mark.parametrize("known", [1, 4])
def test_effects_of_steps_count_what_comes_before(codec: SpeechCodec, known: int) -> None:
    """Those of latents after a context are the last of all, near them as exactly there."""
    draw = torch.Generator().manual_seed(known)
    whole = torch.randn(1, known + 3, codec.channels, generator=draw).mul(2.0).round()
    near = whole.clone()
    near[:, known:] += torch.randint(-1, 2, near[:, known:].shape, generator=draw)
    context, rate = whole[:, :known], torch.tensor([1.5])
    networks = codec.searchable
    after = following(networks, Past(context, context)).steps
    assert networks.steps is not None and networks.steps.around is not None
    assert after is not None and after.around is not None
    pairs = (
        (after.bits(whole[:, known:], rate), networks.steps.bits(whole, rate)),
        (
            after.around(whole[:, known:], rate)(near[:, known:]),
            networks.steps.around(whole, rate)(near),
        ),
    )
    for found, wanted in pairs:
        for ours, all_ in zip(found, wanted, strict=True):
            torch.testing.assert_close(ours, all_[:, known:])


@pytest.mark.parametrize("steps", STEPS)
def test_decoded_columns_are_those_that_the_encoder_scored(
    codec: SpeechCodec, steps: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of the last block of every packet: those before it are drawn with what follows in sight."""
    scored: list[tuple[int, FloatArray]] = []

    def noted(problem: Problem, *rest: Any, **options: Any) -> SearchResult:
        result, networks, rate = search(problem, *rest, **options), problem.networks, problem.rate
        with torch.no_grad():
            columns = networks.generator(result.indices, rate)[0].numpy()
        scored.append((round(8 * float(rate)), columns))
        return result

    monkeypatch.setattr("codec.speech.encoder.search", noted)
    encoder = encoder_of(codec, steps)
    samples = SHORT[: 32 * STEP_SAMPLES]
    packets = packets_of(encoder.push(samples) + encoder.finish())
    decoder, blocks = PacketDecoder(codec), max(steps // BLOCK, 1)
    compared = 0
    for packet, (quality, columns) in zip(packets, scored[blocks - 1 :: blocks], strict=True):
        heard = decoder.decode(packet).columns
        assert heard.shape == (STEP_HOPS * steps, analysis.N_MELS)
        if packet.quality == quality:  # else something cheaper took the place of what was found
            assert same(heard[-len(columns) :], columns)
            compared += 1
    assert compared >= 0.8 * len(packets)


def test_the_first_block_of_a_whole_frame_has_no_past(
    codec: SpeechCodec, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As for a decoder, to which a frame is all that there is."""
    seen: list[int] = []

    def noted(problem: Problem, *rest: Any, **options: Any) -> SearchResult:
        result, networks, rate = search(problem, *rest, **options), problem.networks, problem.rate
        with torch.no_grad():
            alone = codec.searchable.generator(result.indices, rate)
            seen.append(not same(networks.generator(result.indices, rate).numpy(), alone.numpy()))
        return result

    monkeypatch.setattr("codec.speech.encoder.search", noted)
    encoder_of(codec, 16, iterations=0).push(SHORT)
    assert seen == 2 * [False, True, True, True] + seen[8:]


# --- pushes ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("steps", STEPS)
@settings(max_examples=4)
@given(cuts=st.lists(st.integers(0, 20 * STEP_SAMPLES), max_size=12))
def test_packets_do_not_depend_on_how_samples_are_pushed(
    codec: SpeechCodec, steps: int, cuts: list[int]
) -> None:
    samples = SHORT[: 20 * STEP_SAMPLES + 300]
    whole, pieces = encoder_of(codec, steps, iterations=0), encoder_of(codec, steps, iterations=0)
    expected = whole.push(samples) + whole.finish()
    found = [each for part in np.split(samples, sorted(cuts)) for each in pieces.push(part)]
    assert packets_of(found + pieces.finish()) == packets_of(expected)
    assert [each.step for each in expected] == list(range(0, steps * len(expected), steps))


@pytest.mark.parametrize("steps", [1, 2, 4, 8])
def test_what_a_call_sends_is_what_a_file_holds(
    codec: SpeechCodec, steps: int, sent: Callable[[int], list[EncodedPacket]]
) -> None:
    data = codec.encode(SHORT, 16_000, iterations=1, steps=steps)
    assert scan(io.BytesIO(data)).intact
    held = list(ContainerReader(io.BytesIO(data)))
    assert held == packets_of(sent(steps))
    columns = columns_of(PacketDecoder(codec), packets_of(sent(steps)))
    assert len(columns) == STEP_HOPS * 40
    decoder = codec.decoder(steps)
    parts = [decoder.push(packet) for packet in packets_of(sent(steps))]
    streamed = np.concatenate([*parts, decoder.finish()])
    assert np.array_equal(codec.decode(data), streamed[: len(SHORT)])


@pytest.mark.parametrize("size", [0, 1, 1023, 1024, 1025, 1216, 1217, 5 * 1024])
@pytest.mark.parametrize("steps", [1, 4])
def test_lengths_are_kept(codec: SpeechCodec, steps: int, size: int) -> None:
    data = codec.encode(SHORT[:size], 16_000, search=False, steps=steps)
    assert codec.decode(data).shape == (size,)
    assert scan(io.BytesIO(data)).frames == -(-size // (steps * STEP_SAMPLES))


# --- chained packets ------------------------------------------------------------------------------


@pytest.mark.parametrize("steps", STEPS)
def test_a_stream_begins_with_a_key_and_short_packets_look_back(
    steps: int, sent: Callable[[int], list[EncodedPacket]]
) -> None:
    first, *others = packets_of(sent(steps))
    assert not first.chained
    assert {packet.chained for packet in others} == {steps in CHAINED}


@pytest.mark.parametrize("steps", CHAINED)
def test_looking_back_saves_bits(
    codec: SpeechCodec, steps: int, sent: Callable[[int], list[EncodedPacket]]
) -> None:
    coder, decoder = codec.coders["range"], PacketDecoder(codec)
    bits = np.zeros(2)
    past = None
    for packet in packets_of(sent(steps)):
        decoder.decode(packet)
        q = coder.decode(packet.payload, packet.quality, steps, past if packet.chained else None)
        bits += [8 * len(packet.payload), 8 * len(coder.encode(q, packet.quality))]
        past = q if past is None else np.concatenate((past, q))[-2:]
    assert bits[0] < 0.97 * bits[1]


@pytest.mark.parametrize("steps", CHAINED)
def test_a_chained_packet_needs_its_past(
    codec: SpeechCodec, steps: int, sent: Callable[[int], list[EncodedPacket]]
) -> None:
    packets = packets_of(sent(steps))
    decoder = PacketDecoder(codec)
    lossless = [decoder.decode(packet).columns for packet in packets[:9]]
    late = PacketDecoder(codec)
    with pytest.raises(BadStream, match="missing"):
        late.decode(packets[1])
    for number in range(3):
        assert same(late.decode(packets[number]).columns, lossless[number])
    late.conceal(steps)  # in place of number 3
    for number in (4, 3 + SEQUENCE_MODULUS // 2 // steps):
        with pytest.raises(BadStream, match="missing"):
            late.decode(replace(packets[4], sequence=number * steps % SEQUENCE_MODULUS))
    late.feed(packets[3])
    assert late.decode(packets[4]).active
    for packet in packets[5:9]:
        heard = late.decode(packet).columns
    assert same(heard, lossless[8])


def test_an_old_packet_does_not_push_out_what_is_known(
    codec: SpeechCodec, sent: Callable[[int], list[EncodedPacket]]
) -> None:
    """A key that comes after its successors were decoded."""
    packets = packets_of(sent(1))
    decoder = PacketDecoder(codec)
    for packet in packets[:5]:
        decoder.decode(packet)
    decoder.feed(packets[0])
    assert decoder.decode(packets[5]).active


def test_feeding_refuses_what_decoding_refuses(
    codec: SpeechCodec, sent: Callable[[int], list[EncodedPacket]]
) -> None:
    key, chained, *_ = packets_of(sent(1))
    decoder = PacketDecoder(codec)
    with pytest.raises(WrongModel):
        decoder.feed(replace(key, model_id=key.model_id ^ 1))
    with pytest.raises(BadStream):
        decoder.feed(chained)
    with pytest.raises(BadStream):
        decoder.feed(replace(key, quality=200))
    decoder.feed(key)
    assert decoder.decode(chained).active


def test_pauses_are_never_chained(codec: SpeechCodec) -> None:
    empty = Packet(0, 8, b"", int(codec.model_id[:4], 16), chained=True, steps=1)
    with pytest.raises(BadStream):
        PacketDecoder(codec).decode(empty)


def keys_of(encoded: list[EncodedPacket]) -> list[int]:
    """The steps at which key packets begin."""
    return [each.step for each in encoded if each.packet and not each.packet.chained]


def test_keys_come_at_least_every_four_seconds(codec: SpeechCodec) -> None:
    for steps in CHAINED:
        encoder = encoder_of(codec, steps, iterations=0)
        keys = keys_of(encoder.push(np.tile(SHORT, 4)[: 8 * 16_000]))
        seconds = np.diff(keys) * STEP_SECONDS
        assert len(seconds) and (seconds <= KEY_SECONDS).all()
        assert (seconds > KEY_SECONDS - 2 * steps * STEP_SECONDS).all()


def test_keys_come_when_they_are_wanted(codec: SpeechCodec) -> None:
    encoder = encoder_of(codec, 1, iterations=0)
    speech = np.tile(SHORT, 6)
    cut = 10 * STEP_SAMPLES + 400  # in the middle of packet 10
    encoded = encoder.push(speech[:cut])
    encoder.want_key()
    encoded += encoder.push(speech[cut : 30 * STEP_SAMPLES])
    assert keys_of(encoded) == [0, 10]
    encoder.want_key(lost=True)
    encoded = encoder.push(speech[30 * STEP_SAMPLES : 200 * STEP_SAMPLES])
    unchained = int(UNCHAINED_SECONDS / STEP_SECONDS)
    keys = keys_of(encoded)
    first = encoded[0].step
    assert keys[:unchained] == list(range(first, first + unchained))
    assert all(each.packet and each.packet.chained for each in encoded[unchained : unchained + 20])


def test_chained_packets_can_be_asked_for_and_refused(codec: SpeechCodec) -> None:
    long = encoder_of(codec, 4, iterations=0, chained=True).push(SHORT)
    assert [each.packet.chained for each in long if each.packet] == [False] + [True] * 8
    columns_of(PacketDecoder(codec), packets_of(long))
    short = encoder_of(codec, 1, iterations=0, chained=False).push(SHORT[:16_000])
    assert not any(packet.chained for packet in packets_of(short))


# --- changes in mid-stream ------------------------------------------------------------------------


def test_steps_change_without_a_gap(codec: SpeechCodec) -> None:
    """Every packet begins where the one before ended, and the decoder follows."""
    encoder = encoder_of(codec, 4, iterations=0)
    encoded: list[EncodedPacket] = []
    part = 9 * STEP_SAMPLES + 77
    for number, steps in enumerate((1, 16, 2, 8, 4, 1)):
        encoded += encoder.push(np.tile(SHORT, 2)[number * part : (number + 1) * part])
        filling = encoder.steps
        encoder.set_steps(steps)
        assert encoder.steps == filling
    encoded += encoder.finish()
    assert {each.steps for each in encoded} == set(STEPS)
    ends = [each.step + each.steps for each in encoded]
    assert [each.step for each in encoded] == [0, *ends[:-1]]
    decoder = PacketDecoder(codec)
    for each in encoded:
        assert each.packet is not None and each.packet.steps == each.steps
        assert each.packet.sequence == each.step
        frame = decoder.decode(each.packet)
        assert frame.columns.shape == (STEP_HOPS * each.steps, analysis.N_MELS)
        assert np.isfinite(frame.columns).all()


def test_whole_frames_of_files_follow_changes_too(codec: SpeechCodec) -> None:
    encoder = codec.encoder(iterations=0, group=4)
    encoded = encoder.push(np.tile(SHORT, 2)[: 18 * STEP_SAMPLES])
    encoder.set_preset("1k2")
    encoder.set_steps(4)
    encoded += encoder.push(np.tile(SHORT, 2)[18 * STEP_SAMPLES : 40 * STEP_SAMPLES])
    encoded += encoder.finish()
    assert [each.steps for each in encoded] == [16, 16, 4, 4]
    decoder = PacketDecoder(codec)
    frames = [decoder.decode(packet).columns for packet in packets_of(encoded)]
    assert [len(frame) for frame in frames] == [128, 128, 32, 32]


def test_the_history_goes_through_a_change_of_rate(
    codec: SpeechCodec, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The generator's past is in the units of another rate point: both ends convert it alike."""
    scored: list[FloatArray] = []

    def noted(problem: Problem, *rest: Any, **options: Any) -> SearchResult:
        result, networks, rate = search(problem, *rest, **options), problem.networks, problem.rate
        with torch.no_grad():
            scored.append(networks.generator(result.indices, rate)[0].numpy())
        return result

    monkeypatch.setattr("codec.speech.encoder.search", noted)
    encoder = encoder_of(codec, 2, iterations=0)
    encoded = encoder.push(SHORT[: 20 * STEP_SAMPLES])
    encoder.set_preset("3k6")
    encoded += encoder.push(SHORT[20 * STEP_SAMPLES :])
    packets = packets_of(encoded)
    assert len({packet.quality for packet in packets}) > 1
    decoder = PacketDecoder(codec)
    agreeing = [
        same(decoder.decode(packet).columns, columns)
        for packet, columns in zip(packets, scored, strict=True)
    ]
    assert np.mean(agreeing) > 0.8
    assert np.mean([len(packet.payload) for packet in packets[12:]]) > 1.3 * np.mean(
        [len(packet.payload) for packet in packets[:9]]
    )


def test_impossible_steps_are_refused(codec: SpeechCodec) -> None:
    for steps in (0, 3, 5, 32, -1):
        with pytest.raises(BadInput):
            encoder_of(codec, steps)
        with pytest.raises(BadInput):
            encoder_of(codec, 4).set_steps(steps)
        with pytest.raises(BadInput):
            encoder_of(codec, 4, block=steps)
    paper = SpeechCodec.load("paper", "cpu")
    with pytest.raises(BadInput, match="whole frames"):
        encoder_of(paper, 4)
    with pytest.raises(BadInput, match="whole frames"):
        paper.decoder(4)
    short = Packet(0, 0, b"x", int(paper.model_id[:4], 16), steps=4)
    with pytest.raises(BadStream, match="shorter"):
        PacketDecoder(paper).decode(short)


# --- loss -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("speech", [True, False])
def test_concealed_steps_are_the_same_one_by_one(
    codec: SpeechCodec, speech: bool, sent: Callable[[int], list[EncodedPacket]]
) -> None:
    at_once, singly = PacketDecoder(codec), PacketDecoder(codec)
    if speech:
        for packet in packets_of(sent(4))[:3]:
            at_once.decode(packet), singly.decode(packet)
    assert singly.prepare() == speech
    assert not singly.prepare()
    expected = at_once.conceal(20)
    found = np.concatenate([singly.conceal(1) for _ in range(20)])
    assert np.allclose(found, expected, atol=1e-5)
    if speech:
        packet = packets_of(sent(4))[8]
        assert same(singly.decode(packet).columns, at_once.decode(packet).columns)


@pytest.mark.parametrize("steps", STEPS[:4])
def test_a_loss_is_forgotten_within_four_steps(codec: SpeechCodec, steps: int) -> None:
    encoder = encoder_of(codec, steps, iterations=0, chained=False)
    packets = packets_of(encoder.push(SHORT))
    lossless, lossy = PacketDecoder(codec), PacketDecoder(codec)
    lost = 16 // steps
    gone = max(8 // steps, 1)
    apart: list[float] = []
    for number, packet in enumerate(packets):
        expected = lossless.decode(packet).columns
        if lost <= number < lost + gone:
            lossy.conceal(steps)
            continue
        heard = lossy.decode(packet).columns
        differences = np.abs(heard - expected).reshape(steps, -1).max(axis=1)
        if number >= lost + gone:
            apart += differences.tolist()
        else:
            assert not differences.any()
    assert max(apart[4:]) < 1e-4
    assert apart[0] > 1e-3  # what was concealed is in sight


def test_a_packet_that_comes_late_takes_the_place_of_what_was_concealed(
    codec: SpeechCodec, sent: Callable[[int], list[EncodedPacket]]
) -> None:
    """As if nothing had happened, however long the concealment."""
    packets = packets_of(sent(4))
    for concealed in (1, 3, 4, 12):
        plain, late = PacketDecoder(codec), PacketDecoder(codec)
        for packet in packets[:4]:
            plain.decode(packet), late.decode(packet)
        for _ in range(concealed):
            late.conceal(1)
        for packet in packets[4:7]:
            assert same(late.decode(packet).columns, plain.decode(packet).columns)


def test_time_that_is_passed_over_is_no_past(
    codec: SpeechCodec, sent: Callable[[int], list[EncodedPacket]]
) -> None:
    """Packets whose steps do not follow each other are drawn as at the beginning of a stream."""
    packets = packets_of(sent(4))
    jumping, fresh = PacketDecoder(codec), PacketDecoder(codec)
    jumping.decode(packets[0])
    assert same(jumping.decode(packets[5]).columns, fresh.decode(packets[5]).columns)


def test_step_numbers_wrap(codec: SpeechCodec, sent: Callable[[int], list[EncodedPacket]]) -> None:
    packets = packets_of(sent(1))[:12]
    shifted = [
        replace(packet, sequence=(packet.sequence + SEQUENCE_MODULUS - 5) % SEQUENCE_MODULUS)
        for packet in packets
    ]
    expected = columns_of(PacketDecoder(codec), packets)
    assert np.array_equal(columns_of(PacketDecoder(codec), shifted), expected)


@settings(max_examples=60)
@given(data=st.data())
def test_hostile_packets_change_nothing_that_is_not_theirs(
    codec: SpeechCodec, data: st.DataObject
) -> None:
    """Any session packet decodes to finite columns of its length, or is refused."""
    decoder = PacketDecoder(codec)
    model = int(codec.model_id[:4], 16)
    for _ in range(data.draw(st.integers(1, 4))):
        header = data.draw(st.binary(min_size=2, max_size=2))
        body = data.draw(st.binary(max_size=40))
        try:
            packet = unpack_session(header + body, data.draw(st.integers(0, 40)), model)
            use = decoder.feed if data.draw(st.booleans()) else decoder.decode
            frame = use(packet)
        except BadStream:
            continue
        if frame is not None:
            assert frame.columns.shape == (STEP_HOPS * packet.steps, analysis.N_MELS)
            assert np.isfinite(frame.columns).all()
        assert np.isfinite(decoder.conceal(data.draw(st.sampled_from(STEPS)))).all()


def test_sessions_carry_packets_unchanged(
    codec: SpeechCodec, sent: Callable[[int], list[EncodedPacket]]
) -> None:
    for steps in STEPS:
        for each in sent(steps):
            assert each.packet is not None
            data = pack_session(each.packet)
            assert unpack_session(data, each.step, each.packet.model_id) == each.packet
            assert each.payload_bits == 8 * (len(data) - 2)
