"""`sotto bench phase`: our phase is ltfatpy's where both know it, and near it elsewhere."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import soundfile

from codec.signal.samples import SAMPLE_RATE, FloatArray
from models.evaluation import phase
from models.evaluation.clips import Clip
from tui.cli import main


@pytest.fixture
def folder(tmp_path: Path, clip: FloatArray) -> Path:
    folder = tmp_path / "speech"
    folder.mkdir()
    for start in (0, 2):
        part = clip[start * SAMPLE_RATE : (start + 2) * SAMPLE_RATE]
        soundfile.write(folder / f"{start}.wav", part, SAMPLE_RATE)
    soundfile.write(folder / "silent.wav", np.zeros(SAMPLE_RATE), SAMPLE_RATE)
    return folder


def test_table_and_json(folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    figures = tmp_path / "phase.json"
    assert main(["bench", "phase", str(folder), "--json", str(figures)]) == 0
    printed = capsys.readouterr()
    assert "0.wav" in printed.out and "mean" in printed.out and "dual window" in printed.out
    assert "silent.wav left out" in printed.err
    everything = json.loads(figures.read_text())
    assert [each["clip"] for each in everything["clips"]] == ["0.wav", "2.wav"]
    assert everything["dual_window_error"] < 1e-12
    means = everything["means"]
    assert means["analysis_db"] < -130
    assert means["synthesis_db"] < -120
    # Under the Gaussian the slopes miss only what differences between columns miss.
    assert means["gaussian_time"] < means["hann_time"] < 0.2
    assert means["gaussian_frequency"] < means["hann_frequency"] < 0.5
    assert means["codec_db"] < -18
    assert means["true_db"] < means["ours_db"] < means["random_db"] - 10


def test_true_slopes_of_a_tone_lead_back_to_it() -> None:
    """What is integrated from ltfatpy's gradient has the tone's own magnitudes."""
    time = np.arange(SAMPLE_RATE) / SAMPLE_RATE
    tone = (0.1 * np.sin(2 * np.pi * 440.0 * time) * np.hanning(len(time))).astype(np.float32)
    point = phase.measure(Clip("tone", "nobody", "", tone))
    assert point.true_db < -40
    assert point.codec_db < -30


def test_bad_calls(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["bench", "phase", str(tmp_path)]) == 1
    assert "no audio" in capsys.readouterr().err
    assert main(["bench", "phase", str(tmp_path), "--clips", "0"]) == 2
