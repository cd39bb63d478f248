"""Files whose noise is lowered before they are coded."""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import pytest
import soundfile
from pesq import pesq

from codec.signal.samples import SAMPLE_RATE, FloatArray
from stream.audio.frontend import denoised
from tui.cli import main


def noisy(clip: FloatArray) -> FloatArray:
    """With white noise, 10 dB below the speech."""
    noise = np.random.default_rng(3).standard_normal(len(clip)).astype(np.float32)
    return clip + noise * clip.std() * np.float32(10 ** (-10 / 20))


@pytest.mark.parametrize("size", [1, 159, 1000, 9000])
@pytest.mark.parametrize("count", [0, 1, 160, 12_345, 80_001])
def test_length_and_time_stay(clip: FloatArray, count: int, size: int) -> None:
    said = np.concatenate((clip, clip))[: count if size > 1 else min(count, 2000)]
    blocks = [said[i : i + size] for i in range(0, len(said), size)]
    heard = np.concatenate([np.zeros(0, np.float32), *denoised(blocks)])
    assert len(heard) == len(said)
    if len(said) > 12_000:
        product = np.fft.rfft(heard, 1 << 18) * np.conj(np.fft.rfft(said, 1 << 18))
        lag = int(np.argmax(np.fft.irfft(product)))
        assert min(lag, (1 << 18) - lag) <= 4


def test_noise_is_gone_from_the_beginning(clip: FloatArray) -> None:
    said = np.concatenate((np.zeros(SAMPLE_RATE, np.float32), clip, clip))
    noise = noisy(clip)[:SAMPLE_RATE] - clip[:SAMPLE_RATE]
    said += np.tile(noise, 1 + len(said) // len(noise))[: len(said)]
    heard = np.concatenate(list(denoised([said])))
    early = slice(SAMPLE_RATE // 4, SAMPLE_RATE)
    assert heard[early].std() < 0.35 * said[early].std()


def coded(source: Path, *more: str) -> FloatArray:
    packed, decoded = source.with_suffix(".sotto"), source.with_suffix(".out.wav")
    assert main(["encode", "--no-search", *more, str(source), str(packed)]) == 0
    assert main(["decode", "--force", str(packed), str(decoded)]) == 0
    samples, _ = soundfile.read(decoded, dtype="float32")
    return samples


def test_noisy_speech_is_coded_better(clip: FloatArray, tmp_path: Path) -> None:
    source = tmp_path / "noisy.wav"
    soundfile.write(source, noisy(clip), SAMPLE_RATE)
    plain, clean = coded(source), coded(source, "--denoise")
    assert len(plain) == len(clean) == len(clip)
    scores = [pesq(SAMPLE_RATE, clip, samples, "wb") for samples in (plain, clean)]
    assert scores[1] > scores[0] + 0.1


def test_without_the_package_nothing_is_begun(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setitem(sys.modules, "livekit.rtc", None)
    source = tmp_path / "a.wav"
    soundfile.write(source, np.zeros(1000), SAMPLE_RATE)
    assert main(["encode", "--denoise", str(source), str(tmp_path / "a.sotto")]) == 1
    assert "livekit" in capsys.readouterr().err
    assert not (tmp_path / "a.sotto").exists()
