"""The trade-off of latent size against levels: the restriction holds, the rates are correct."""

from __future__ import annotations

import json
import math
import shutil

import numpy as np
import pytest
import soundfile
import torch

from codec.signal import analysis
from models.evaluation import coding, context, speech, tradeoff
from models.evaluation.clips import Clip
from tui import cli

TINY = tradeoff.Grid(channels=(8,), levels=(5,), steps=2, qualities=(0,))


@pytest.fixture(scope="module")
def measured(clip_path):
    """The bench on the second frame of a clip."""
    samples, _ = soundfile.read(clip_path, frames=2 * analysis.FRAME_SAMPLES, dtype="float32")
    return tradeoff.Bench(tradeoff.frames_of(samples)[1:2], "cpu")


def test_a_clip_becomes_the_frames_the_encoder_sees(clip):
    frames = tradeoff.frames_of(clip)
    lead = (analysis.WINDOW - analysis.HOP) // 2
    start = analysis.FRAME_SAMPLES - lead
    stop = 2 * analysis.FRAME_SAMPLES - lead + analysis.WINDOW - analysis.HOP
    second = analysis.log_mel(clip[start:stop])
    assert frames.shape == (math.ceil(len(clip) / analysis.FRAME_SAMPLES), 128, 128)
    np.testing.assert_allclose(frames[1].numpy(), second, atol=1e-5)


@pytest.mark.parametrize("method", ["admm", "backprop"])
@pytest.mark.parametrize(("channels", "levels", "fitted"), [(8, 5, False), (16, 3, True)])
def test_the_search_stays_inside_the_allowed_set(measured, method, channels, levels, fitted):
    spread = torch.linspace(6.0, 0.1, 192)
    allowed = tradeoff.allowed_set(channels, levels, spread, fitted)
    latents, distance = measured.search(allowed, 0, method, 2)
    indices = measured.model.indices_of(latents)[0]
    assert indices.shape == (16, 192)
    assert not indices[:, channels:].any()
    assert indices[:, :channels].any()
    assert math.isfinite(distance)
    for c in range(channels):
        spacing = int(allowed.spacing[c])
        assert {int(v) for v in indices[:, c]} <= {
            spacing * level for level in range(-(levels // 2), levels // 2 + 1)
        }
    assert (spacing > 1) is fitted


def test_searching_lowers_the_distance(measured):
    allowed = tradeoff.allowed_set(16, 9, torch.ones(192), False)
    distances = [measured.search(allowed, 0, "admm", steps)[1] for steps in (0, 4)]
    assert distances[1] < distances[0]


def test_latents_outside_the_set_are_moved_to_the_nearest_inside():
    allowed = tradeoff.AllowedSet(torch.tensor([1.0, 3.0, 1.0]), torch.tensor([2.0, 3.0, 0.0]))
    z = torch.tensor([[[2.6, 4.4, 9.0], [-0.6, 1.6, -1.0], [-7.0, -1.4, 0.2]]])
    found = allowed.latents(allowed.nearest(allowed.levels(z)))
    assert found.tolist() == [[[2, 3, 0], [-1, 3, 0], [-2, 0, 0]]]


@pytest.mark.parametrize(("channels", "levels"), [(0, 5), (193, 5), (8, 4), (8, 1), (8, 33)])
def test_impossible_sets_are_refused(channels, levels):
    with pytest.raises(ValueError, match=r"channels|levels"):
        tradeoff.allowed_set(channels, levels, torch.ones(192), True)


@pytest.mark.parametrize("levels", [3, 5, 9, 15, 31])
def test_the_widest_levels_are_indices_the_coder_knows(levels):
    allowed = tradeoff.allowed_set(64, levels, torch.full((192,), 100.0), True)
    assert float(allowed.limit.max()) <= 15
    assert torch.equal(allowed.limit[:64], allowed.spacing[:64] * (levels // 2))


def test_the_rate_without_entropy_coding_is_that_of_the_set():
    assert tradeoff.fixed_rate(512, 16) == pytest.approx(2000.0)  # as the paper has it
    assert tradeoff.fixed_rate(16 * 8, 3) == pytest.approx(198.12, abs=0.01)


def test_one_command_gives_the_trade_off_and_the_gain_of_the_search(
    tmp_path, clip_path, capsys, monkeypatch
):
    monkeypatch.setattr(tradeoff, "Grid", lambda: TINY)
    monkeypatch.setattr(speech, "search_codecs", lambda *_: [coding.Original("2k: no search")])
    folder = tmp_path / "in"
    folder.mkdir()
    shutil.copy(clip_path, folder)
    out, plot = tmp_path / "out.json", tmp_path / "out.png"
    argv = ["bench", "speech", str(folder), "--ablation", "--presets", "2k", "--max-seconds", "1"]
    argv += ["--workers", "1", "--no-phones", "--json", str(out), "--plot", str(plot)]
    assert cli.main(argv) == 0
    printed = capsys.readouterr()
    assert tradeoff.TITLE in printed.out
    assert "What the search gains" in printed.out
    assert printed.err == ""
    assert "Context of the previous frame" not in printed.out  # one frame has none before it
    answer = json.loads(out.read_text())
    points = answer["trade_off"]["points"]
    assert [point["method"] for point in points] == ["admm", "backprop"]
    for point in points:
        assert (point["latents"], point["levels"]) == (128, 5)
        assert point["fixed_bits_per_s"] == pytest.approx(128 * math.log2(5) / 1.024)
        bits = point["range_coded_bits_per_s"] * 1.024
        assert bits > 0
        assert round(bits, 6) % 8 == 0
        assert 1.0 <= point["pesq_nb"]["value"] <= 4.6
    assert [system["name"] for system in answer["systems"]] == ["2k: no search"]
    assert (tmp_path / "out-tradeoff.png").read_bytes().startswith(b"\x89PNG")
    assert plot.read_bytes().startswith(b"\x89PNG")


def test_the_previous_frame_saves_a_little_and_only_at_the_start_of_a_frame(clip):
    one = Clip("one", "reader", "shipped", clip)
    gain = context.measure([one, one], device="cpu")
    assert gain is not None
    assert gain.frames == 2 * (len(tradeoff.frames_of(clip)) - 1)
    assert 0.0 < gain.saved < 0.05  # two of sixteen steps gain at all
    assert context.measure([Clip("short", "reader", "shipped", clip[:4000])], device="cpu") is None
