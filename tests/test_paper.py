"""The `paper` preset: its shipped weights, its model folder, and a small training."""

from __future__ import annotations

import io
import json
from itertools import count
from pathlib import Path

import numpy as np
import pytest
import torch

from codec.container import ContainerReader, scan
from codec.entropy.quantiser import Quantiser
from codec.entropy.static import SymbolCounts
from codec.errors import BadInput, BadStream
from codec.packet import FRAME_STEPS, HEADER_BYTES, Entropy, Packet, pack, short_id
from codec.search.engine import search
from codec.search.problem import Problem, SearchSettings
from codec.signal import analysis
from codec.signal.samples import FloatArray
from codec.speech.block_coder import BlockCoder
from codec.speech.codec import SpeechCodec
from codec.speech.decoder import PacketDecoder
from codec.speech.encoder import EncodedPacket
from codec.speech.presets import PRESETS
from models.evaluation.scores import score
from models.folder import WEIGHTS, load_speech_model, save_model, search_networks
from models.networks.speech import Generator, SpeechModel
from models.networks.speech_distance import FrameDistance
from models.networks.speech_paper import PaperEncoder, PaperModel, PaperShape
from models.training.checkpoints import latest_checkpoint
from models.training.frames import FrameShards
from models.training.linear_start import take_speech_networks
from models.training.loop import Run
from models.training.paper import train_two_stages
from models.training.speech_paper import PaperSettings, PaperTask
from tests.tiny_training import SHAPE as SPEECH_SHAPE
from tests.tiny_training import pack as pack_frames

FAST = 3
TINY = PaperShape(width=8, hidden=8, encoder_blocks=1, generator_blocks=1)


@pytest.fixture(scope="module")
def codec() -> SpeechCodec:
    return SpeechCodec.load("paper", "cpu")


def packets_of(container: bytes) -> list[Packet]:
    return [item for item in ContainerReader(io.BytesIO(container)) if isinstance(item, Packet)]


def sent(encoded: list[EncodedPacket]) -> list[Packet]:
    return [each.packet for each in encoded if each.packet is not None]


def tiny_model() -> PaperModel:
    torch.manual_seed(5)
    quantiser = Quantiser(np.linspace(-7.5, 7.5, 16))
    model = PaperModel(TINY, quantiser, SymbolCounts(np.arange(1, 17, dtype=np.int64)))
    for parameter in model.parameters():
        torch.nn.init.normal_(parameter, std=0.1)
    return model.requires_grad_(False)


def test_speech_survives(codec: SpeechCodec, clip: FloatArray) -> None:
    """A floor well under the measured figures: catches broken weights, centres or tables."""
    container = codec.encode(clip, 16_000, iterations=20)
    decoded = codec.decode(container)
    assert decoded.shape == clip.shape
    result = score(clip, decoded)
    assert result["pesq_nb"] > FLOOR_PESQ_NB
    assert result["stoi"] > FLOOR_STOI


FLOOR_PESQ_NB, FLOOR_STOI = 2.5, 0.85


def test_huffman_is_the_default_and_both_coders_carry_the_same_latents(
    codec: SpeechCodec, clip: FloatArray
) -> None:
    default = codec.encode(clip, 16_000, search=False)
    ranged = codec.encode(clip, 16_000, search=False, entropy="range")
    assert {packet.entropy for packet in packets_of(default)} == {Entropy.HUFFMAN}
    assert {packet.entropy for packet in packets_of(ranged)} == {Entropy.RANGE}
    for first, second in zip(packets_of(default), packets_of(ranged), strict=True):
        q = codec.coders["huffman"].decode(first.payload, 0)
        assert q.shape == (8, 64)
        assert np.array_equal(q, codec.coders["range"].decode(second.payload, 0))


@pytest.mark.parametrize("search", [False, True])
def test_rate_is_held(codec: SpeechCodec, clip: FloatArray, search: bool) -> None:
    loud = np.tile(clip, 3)
    container = codec.encode(loud, 16_000, search=search, iterations=FAST if search else None)
    sizes = [8 * len(packet.payload) for packet in packets_of(container)]
    average = PRESETS["paper"].rate * analysis.FRAME_SAMPLES / analysis.SAMPLE_RATE
    assert sum(sizes) <= average * (len(sizes) + 0.5)
    assert sum(sizes) > 0.7 * average * len(sizes)  # the rate is used, too
    assert scan(io.BytesIO(container)).intact


def test_streaming_equals_offline(codec: SpeechCodec, clip: FloatArray) -> None:
    container = codec.encode(clip, 16_000, iterations=FAST)
    encoder = codec.encoder(iterations=FAST, group=8)
    packets: list[Packet] = []
    for start in range(0, len(clip), 777):
        packets += sent(encoder.push(clip[start : start + 777]))
    packets += sent(encoder.finish())
    assert packets == packets_of(container)
    decoder = codec.decoder()
    parts = [decoder.push(packet) for packet in packets]
    streamed = np.concatenate([*parts, decoder.finish()])
    assert np.array_equal(streamed[: len(clip)], codec.decode(container))


def test_search_lowers_the_distance(codec: SpeechCodec, clip: FloatArray) -> None:
    frames = clip[: 4 * analysis.FRAME_SAMPLES + analysis.LEAD]
    columns = analysis.log_mel(np.pad(frames, (analysis.LEAD, 0)))
    x = torch.from_numpy(columns).reshape(4, analysis.FRAME_HOPS, -1)
    reference = codec.distance.reference(x)
    distances = []
    for iterations in (0, 25):
        decoder = PacketDecoder(codec)
        packets = sent(codec.encoder(iterations, group=4).push(frames))
        columns = np.stack([decoder.decode(packet).columns for packet in packets])
        distances.append(float(codec.distance.against(reference, torch.from_numpy(columns)).sum()))
    assert distances[1] < 0.97 * distances[0]


@pytest.mark.parametrize("payload", [b"\0", b"\xff" * 3, bytes(range(256)) * 4])
def test_hostile_payloads_are_refused(codec: SpeechCodec, payload: bytes) -> None:
    packet = Packet(0, 0, payload, short_id(codec.model_id), entropy=Entropy.HUFFMAN)
    with pytest.raises(BadStream):
        codec.decoder().push(packet)


def test_other_rate_points_are_refused(codec: SpeechCodec, clip: FloatArray) -> None:
    packet = packets_of(codec.encode(clip, 16_000, search=False))[0]
    other = Packet(0, 1, packet.payload, packet.model_id, entropy=packet.entropy)
    with pytest.raises(BadStream):
        codec.decoder().push(other)


def test_a_packet_fits_its_header(codec: SpeechCodec, clip: FloatArray) -> None:
    packet = pack(packets_of(codec.encode(clip, 16_000, search=False))[0])
    assert HEADER_BYTES < len(packet) <= HEADER_BYTES + 2 * 256


def test_search_returns_centres_only() -> None:
    model = tiny_model()
    x = torch.rand(2, 128, 128) * 2.0 - 1.0
    settings = SearchSettings(iterations=4, check_every=2, penalty=model.penalty)
    free = x.new_zeros(len(x))
    found = search(Problem(search_networks(model), FrameDistance(), x, free, free), settings)
    assert torch.isin(found.indices, model.quantiser.centres).all()
    assert (found.cost <= found.start_cost).all()
    symbols = model.indices_of(found.indices)
    assert torch.equal(model.latents_of(symbols), found.indices)


def test_model_folder_round_trip(tmp_path: Path) -> None:
    model = tiny_model()
    identity = save_model(model, tmp_path, {"licence": "CC BY 4.0"})
    loaded = load_speech_model("paper", tmp_path)
    assert loaded.model_id == identity
    assert loaded.qualities == 1
    z = torch.randn(1, 8, 64)
    expected = model.generator(z, torch.zeros(1))
    assert torch.allclose(loaded.generator(z, torch.zeros(1)), expected, atol=0.05)


@pytest.mark.parametrize(
    "damage",
    [
        lambda d: d["shape"].update(levels=8),
        lambda d: d["shape"].update(channels=100_000),
        lambda d: d["shape"].update(reach=float("nan")),
        lambda d: d["shape"].update(extra=1),
        lambda d: d["shape"].update(generator_blocks=[1]),
        lambda d: d.pop("penalty"),
        lambda d: d.update(price="dear"),
        lambda d: d.update(model_id="0" * 16),
    ],
)
def test_a_damaged_description_is_one_line(tmp_path: Path, damage) -> None:
    save_model(tiny_model(), tmp_path, {})
    description = json.loads((tmp_path / "model.json").read_text())
    damage(description)
    (tmp_path / "model.json").write_text(json.dumps(description))
    with pytest.raises(BadInput) as caught:
        load_speech_model("paper", tmp_path)
    assert "\n" not in str(caught.value)


def test_changed_weights_are_noticed(tmp_path: Path) -> None:
    save_model(tiny_model(), tmp_path, {})
    file = tmp_path / "generator.safetensors"
    data = bytearray(file.read_bytes())
    data[-100] ^= 4
    file.write_bytes(data)
    with pytest.raises(BadInput, match="model id"):
        load_speech_model("paper", tmp_path)


def test_the_quick_generator_draws_nearly_the_same(codec: SpeechCodec, clip: FloatArray) -> None:
    packet = packets_of(codec.encode(clip, 16_000, search=False))[1]
    indices = codec.coders["huffman"].decode(packet.payload, 0)
    exact, quick = (
        generator.draw(generator.latents_of(indices)[None], 0.0, len(indices))
        for generator in (codec.generator, codec.quick_generator)
    )
    assert exact.shape == (1, analysis.FRAME_HOPS, analysis.N_MELS)
    assert 0.0 < np.abs(exact - quick).mean() < 0.01


def test_a_search_may_take_the_average(codec: SpeechCodec) -> None:
    """There is one rate point: what a cheap warm start leaves cannot go into a higher quality."""
    coder = BlockCoder(codec, None, None)
    plan = coder.plan(np.array([500.0]), FRAME_STEPS)
    assert plan.allowed == pytest.approx(coder.control.rate * 1.024)
    dear = coder.plan(np.array([1.02 * plan.allowed]), FRAME_STEPS)
    assert plan.allowed < dear.allowed < 1.1 * plan.allowed


def test_networks_taken_with_all_latents_draw_the_same_but_for_a_constant() -> None:
    torch.manual_seed(3)
    speech = SpeechModel(SPEECH_SHAPE)
    for parameter in speech.parameters():
        torch.nn.init.normal_(parameter, std=0.1)
    speech.requires_grad_(False)
    shape = PaperShape(
        channels=2 * SPEECH_SHAPE.channels, width=SPEECH_SHAPE.width, hidden=SPEECH_SHAPE.hidden,
        encoder_blocks=1, generator_blocks=1, reach=15.0,
    )  # fmt: skip
    encoder, generator = PaperEncoder(shape), Generator(shape)
    x = torch.rand(24, 128, 128) * 2.0 - 1.0
    take_speech_networks(encoder, generator, speech, x)
    finest, none = torch.full((24,), 2.0), torch.zeros(24)
    z = encoder(x, none)
    assert 3.0 < z.std() < 6.0
    expected = speech.generator(speech.encoder(x, finest), finest)
    within = z.abs().amax((1, 2)) < 15.0
    assert within.sum() >= 8
    error = (generator(z, none) - expected)[within]
    assert (error - error.mean(0)).abs().max() < 1e-3 * expected.std()
    with pytest.raises(ValueError, match="cannot start from"):
        take_speech_networks(PaperEncoder(TINY), Generator(TINY), speech, x)


def test_it_does_not_start_from_itself(tmp_path: Path) -> None:
    pack_frames(tmp_path)
    settings = PaperSettings(steps=1, start=WEIGHTS / "paper")
    task = PaperTask(FrameShards(tmp_path), settings, Run(), torch.device("cpu"))
    with pytest.raises(BadInput, match="is the paper's system"):
        task.start()


def train_paper(
    shards: FrameShards, work: Path, target: Path, settings: PaperSettings, run: Run | None = None
) -> str | None:
    task = PaperTask(shards, settings, run or Run(), torch.device("cpu"))
    return train_two_stages(task, work, target)


def test_training_in_small_goes_on_after_a_pause_and_exports(tmp_path: Path) -> None:
    random = np.random.default_rng(0)
    ramp = np.linspace(40, 160, 600)[:, None] + random.normal(0, 20, (600, 128)).cumsum(1) / 4
    np.save(tmp_path / "train-000.npy", ramp.clip(0, 255).astype(np.uint8))
    shards = FrameShards(tmp_path)
    settings = PaperSettings(
        minutes=None,
        steps=4,
        batch=2,
        start_frames=16,
        table_batches=1,
        search_every=1,
        search_steps=1,
        shape=TINY,
        start=None,
    )
    work, target = tmp_path / "work", tmp_path / "model"
    paused = Run(pause=1e-6)
    assert train_paper(shards, work, target, settings, paused) is None
    signalled = Run()
    signalled.signal = 2
    assert train_paper(shards, work, target, settings, signalled) is None
    # Its time is over after the last step: the searches for the tables do not begin.
    late = Run(5 / 60, clock=count().__next__)
    assert train_paper(shards, work, target, settings, late) is None
    assert latest_checkpoint(work) == work / "checkpoint-00000004"
    assert not target.exists()
    identity = train_paper(shards, work, target, settings)
    assert load_speech_model("paper", target).model_id == identity
    log = (work / "log.jsonl").read_text().splitlines()
    assert json.loads(log[-1])["step"] == 4


def test_training_goes_on_between_two_searches_of_stage_two(tmp_path: Path) -> None:
    """The searched signals are not in a checkpoint: the first step searches new ones."""
    pack_frames(tmp_path)
    settings = PaperSettings(
        minutes=None, steps=4, batch=2, start_frames=16, table_batches=1, search_every=100,
        search_steps=1, first_share=0.2, shape=TINY, start=None,
    )  # fmt: skip
    work, target = tmp_path / "work", tmp_path / "model"
    cut = Run(3, clock=count(step=60).__next__)
    shards = FrameShards(tmp_path)
    assert train_paper(shards, work, target, settings, cut) is None
    assert latest_checkpoint(work) == work / "checkpoint-00000002"
    assert train_paper(shards, work, target, settings) is not None
