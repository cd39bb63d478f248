"""Audio files and pipes: input becomes 16 kHz mono, and output is complete or absent."""

from __future__ import annotations

import io
import os
import resource
import struct
import subprocess
import sys
import threading
from pathlib import Path

import numpy as np
import pytest
import soundfile
import soxr
from hypothesis import given, settings
from hypothesis import strategies as st

from codec.errors import BadInput
from codec.files import wav
from codec.files.audio import WRITABLE, AudioReader, audio_output, looks_like_audio, read_audio
from codec.files.paths import atomic_output, display_name

ROOT = Path(__file__).resolve().parent.parent


def tone(rate: int, seconds: float = 0.5, hertz: float = 440.0, level: float = 0.5) -> np.ndarray:
    t = np.arange(int(rate * seconds)) / rate
    return (level * np.sin(2 * np.pi * hertz * t)).astype(np.float32)


def pipe(data: bytes, tmp_path: Path) -> Path:
    """A FIFO with `data` in it: something that cannot seek."""
    path = tmp_path / "fifo"
    os.mkfifo(path)

    def feed() -> None:
        try:
            with open(path, "wb") as file:
                file.write(data)
        except BrokenPipeError:
            pass

    threading.Thread(target=feed, daemon=True).start()
    return path


def wav_bytes(samples: np.ndarray, rate: int, subtype: str, form: str = "WAV") -> bytes:
    buffer = io.BytesIO()
    soundfile.write(buffer, samples, rate, subtype, format=form)
    return buffer.getvalue()


def with_length(data: bytes, riff: int, length: int) -> bytes:
    at = data.index(b"data")
    return (
        data[:4]
        + struct.pack("<I", riff)
        + data[8 : at + 4]
        + struct.pack("<I", length)
        + data[at + 8 :]
    )


@pytest.mark.parametrize("rate", [8_000, 11_025, 16_000, 22_050, 44_100, 48_000, 96_000, 192_000])
def test_any_rate_arrives_at_16_khz_aligned(rate: int, tmp_path: Path) -> None:
    path = tmp_path / "a.wav"
    soundfile.write(path, tone(rate, 2.0), rate, "FLOAT")
    found = read_audio(path)
    expected = tone(16_000, 2.0)
    assert found.dtype == np.float32
    assert abs(len(found) - len(expected)) <= 1
    middle = slice(1_000, 31_000)
    assert np.abs(found[middle] - expected[middle]).max() < 1e-3


def test_blocks_agree_with_resampling_the_whole(tmp_path: Path) -> None:
    noise = np.random.default_rng(1).uniform(-0.4, 0.4, 300_000).astype(np.float32)
    path = tmp_path / "a.wav"
    soundfile.write(path, noise, 44_100, "FLOAT")
    with AudioReader(path) as reader:
        blocks = list(reader)
    assert len(blocks) > 3
    np.testing.assert_array_equal(np.concatenate(blocks), soxr.resample(noise, 44_100, 16_000))


@pytest.mark.parametrize("channels", [2, 6, 32])
def test_channels_are_averaged(channels: int, tmp_path: Path) -> None:
    signals = np.random.default_rng(2).uniform(-0.9, 0.9, (9_000, channels)).astype(np.float32)
    path = tmp_path / "a.wav"
    soundfile.write(path, signals, 16_000, "FLOAT")
    np.testing.assert_allclose(read_audio(path), signals.mean(axis=1), atol=1e-6)


def test_equal_channels_keep_their_level(tmp_path: Path) -> None:
    path = tmp_path / "a.flac"
    soundfile.write(path, np.repeat(tone(16_000)[:, None], 6, axis=1), 16_000)
    np.testing.assert_allclose(read_audio(path), tone(16_000), atol=1e-4)


@pytest.mark.parametrize("rate", [8_000, 16_000, 192_000])
def test_one_sample_is_audio(rate: int, tmp_path: Path) -> None:
    path = tmp_path / "a.wav"
    soundfile.write(path, np.array([0.25], np.float32), rate, "FLOAT")
    assert len(read_audio(path)) == {8_000: 2, 16_000: 1, 192_000: 1}[rate]


def test_not_a_number_becomes_silence_with_one_warning(tmp_path: Path) -> None:
    samples = tone(16_000)
    samples[100:103] = np.nan
    samples[200] = np.inf
    path = tmp_path / "a.wav"
    soundfile.write(path, samples, 16_000, "FLOAT")
    lines: list[str] = []
    found = read_audio(path, warn=lines.append)
    assert len(lines) == 1
    assert "4 samples are not numbers" in lines[0]
    assert not found[100:103].any()
    assert found[200] == 0
    np.testing.assert_array_equal(found[300:], samples[300:])


def test_beyond_full_scale_is_clipped_with_one_warning(tmp_path: Path) -> None:
    path = tmp_path / "a.wav"
    soundfile.write(path, np.array([0.5, 3e38, -32_768.0, 0.25] * 5, np.float32), 16_000, "FLOAT")
    lines: list[str] = []
    np.testing.assert_array_equal(
        read_audio(path, warn=lines.append), np.array([0.5, 1, -1, 0.25] * 5, np.float32)
    )
    assert len(lines) == 1
    assert "10 samples beyond full scale" in lines[0]


def test_resampling_a_square_wave_stays_within_full_scale(tmp_path: Path) -> None:
    square = np.sign(tone(44_100, 1.0, 441.3)).astype(np.float32)
    path = tmp_path / "a.wav"
    soundfile.write(path, square, 44_100, "FLOAT")
    lines: list[str] = []
    found = read_audio(path, warn=lines.append)
    assert np.abs(found).max() == 1.0
    assert lines == []


def test_silence_stays_silence(tmp_path: Path) -> None:
    path = tmp_path / "a.wav"
    soundfile.write(path, np.zeros(48_000), 48_000)
    found = read_audio(path)
    assert len(found) == 16_000
    assert not found.any()


def test_what_is_no_audio_says_so_in_one_line(tmp_path: Path) -> None:
    (tmp_path / "text.wav").write_text("hello " * 100)
    (tmp_path / "zero.wav").write_bytes(b"")
    (tmp_path / "noise.mp3").write_bytes(np.random.default_rng(3).bytes(5_000))
    soundfile.write(tmp_path / "none.wav", np.zeros(0), 16_000)
    soundfile.write(tmp_path / "cut.flac", tone(16_000, 3.0), 16_000)
    whole = (tmp_path / "cut.flac").read_bytes()
    (tmp_path / "cut.flac").write_bytes(whole[:30])
    (tmp_path / "slow.wav").write_bytes(wav_bytes(tone(16_000), 10, "PCM_16"))
    for name, words in {
        "text.wav": "is not audio",
        "zero.wav": "is not audio",
        "noise.mp3": "is not audio",
        "none.wav": "0 samples",
        "cut.flac": "cut.flac",
        "slow.wav": "sample rate of 10 Hz",
        "missing.wav": "no such file",
        ".": "is a directory",
    }.items():
        with pytest.raises(BadInput) as caught:
            read_audio(tmp_path / name)
        assert words in str(caught.value)
        assert "\n" not in str(caught.value)


@pytest.mark.parametrize("subtype", ["PCM_U8", "PCM_16", "PCM_24", "PCM_32", "FLOAT", "DOUBLE"])
@pytest.mark.parametrize(
    ("riff", "length"),
    [(0xFFFFFFFF, 0xFFFFFFFF), (0x7FFFFFFF, 0x7FFFFFFF), (0x7FFFF024, 0x7FFFF000), (0, 0)],
)
def test_wav_pipe_without_a_length(subtype: str, riff: int, length: int, tmp_path: Path) -> None:
    samples = np.stack([tone(16_000, 2.0), tone(16_000, 2.0, 300.0)], axis=1)
    honest = wav_bytes(samples, 16_000, subtype)
    # Without the chunks after the samples, which a streaming writer has no way to add.
    at = honest.index(b"data")
    size = struct.unpack("<I", honest[at + 4 : at + 8])[0]
    path = pipe(with_length(honest[: at + 8 + size], riff, length), tmp_path)
    with AudioReader(path) as reader:
        assert reader.duration is None
        found = np.concatenate(list(reader))
    (tmp_path / "a.wav").write_bytes(honest)
    np.testing.assert_allclose(found, read_audio(tmp_path / "a.wav"), atol=1e-7)


def test_wav_pipe_with_a_length_ignores_what_follows(tmp_path: Path) -> None:
    data = wav_bytes(tone(16_000), 16_000, "PCM_16") + b"LIST" + struct.pack("<I", 500) + b"x" * 500
    with AudioReader(pipe(data, tmp_path)) as reader:
        assert reader.duration == 0.5
        assert sum(len(block) for block in reader) == 8_000


def test_wav_pipe_skips_chunks_around_the_format(tmp_path: Path) -> None:
    data = wav_bytes(tone(16_000), 16_000, "PCM_16")
    junk = b"JUNK" + struct.pack("<I", 7) + b"y" * 8
    big = b"LIST" + struct.pack("<I", 200_000) + b"z" * 200_000
    at = data.index(b"data")
    path = pipe(data[:12] + junk + data[12:at] + big + data[at:], tmp_path)
    assert len(read_audio(path)) == 8_000


@pytest.mark.parametrize(
    ("form", "subtype"),
    [
        ("FLAC", "PCM_16"),
        ("OGG", "VORBIS"),
        ("AIFF", "PCM_16"),
        ("WAV", "ULAW"),
        ("CAF", "PCM_16"),
        ("RF64", "PCM_16"),
        ("MP3", "MPEG_LAYER_III"),
        ("AU", "PCM_16"),
    ],
)
def test_other_formats_come_through_a_pipe(form: str, subtype: str, tmp_path: Path) -> None:
    data = wav_bytes(tone(16_000), 16_000, subtype, form)
    found = read_audio(pipe(data, tmp_path))
    assert np.abs(found[1_000:7_000] - tone(16_000)[1_000:7_000]).max() < 0.1


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"hello",
        b"RIFF",
        b"RIFF\0\0\0\0WAVE",
        b"RIFF\0\0\0\0WAVEdata\4\0\0\0\0\0\0\0",
        b"RIFF\0\0\0\0WAVEJUNK\xff\xff\xff\xff" + b"j" * 100,
        b"\0" * 4_000,
        b"fLaC" + b"\0" * 100,
        wav.pcm16_header(16_000, None),
    ],
)
def test_pipes_that_hold_no_audio(data: bytes, tmp_path: Path) -> None:
    with pytest.raises(BadInput) as caught:
        read_audio(pipe(data, tmp_path))
    assert "\n" not in str(caught.value)


def test_endless_devices_are_refused_at_once() -> None:
    with pytest.raises(BadInput, match="not audio"):
        read_audio("/dev/zero")


@settings(max_examples=200)
@given(st.integers(0, 60), st.binary(min_size=1, max_size=12))
def test_damaged_wav_headers_never_crash(at: int, damage: bytes) -> None:
    data = bytearray(wav_bytes(tone(16_000, 0.01), 16_000, "FLOAT"))
    data[at : at + len(damage)] = damage
    try:
        with AudioReader("-", warn=lambda line: None, live=io.BytesIO(bytes(data)).read) as reader:
            assert reader.duration is None or reader.duration >= 0
            for block in reader:
                assert np.abs(block).max() <= 1.0
    except BadInput as error:
        assert "\n" not in str(error)


def test_ten_minutes_of_pipe_need_no_more_memory_than_ten_seconds(tmp_path: Path) -> None:
    code = """
import resource, sys
from codec.files.audio import AudioReader
with AudioReader('-') as reader:
    total = sum(len(block) for block in reader)
print(total, resource.getrusage(resource.RUSAGE_SELF).ru_maxrss)
"""

    def run(seconds: int) -> tuple[int, int]:
        process = subprocess.Popen(
            [sys.executable, "-c", code], cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE
        )
        assert process.stdin is not None
        process.stdin.write(wav.pcm16_header(48_000, None))
        second = wav.to_pcm16(tone(48_000, 1.0))
        for _ in range(seconds):
            process.stdin.write(second)
        samples, peak = process.communicate(timeout=300)[0].split()
        return int(samples), int(peak)

    short, little = run(10)
    long, much = run(600)
    assert (short, long) == (160_000, 9_600_000)
    assert much - little < 15_000  # KiB; ten minutes at 16 kHz are 37 500, as stored 56 250


def test_golden_header_of_a_stream() -> None:
    assert wav.pcm16_header(16_000, None).hex() == (
        "5249464624f0ff7f57415645666d74201000000001000100803e0000007d0000020010006461746100f0ff7f"
    )


@pytest.mark.parametrize("suffix", sorted(WRITABLE))
def test_every_suffix_can_be_written_and_read(suffix: str, tmp_path: Path) -> None:
    path = tmp_path / f"a{suffix}"
    expected = tone(16_000, 2.0)
    with audio_output(path) as writer:
        for part in np.array_split(expected, 7):
            writer.write(part)
        assert not path.exists()
    assert os.listdir(tmp_path) == [path.name]
    assert soundfile.info(path).format == WRITABLE[suffix][0]
    # Opus may overshoot where the tone is cut off.
    found = read_audio(path, warn=lambda line: None)
    assert len(found) == len(expected)
    tolerance = 0.03 if suffix in (".ogg", ".oga", ".opus", ".mp3") else 1e-4
    assert np.abs(found[1_000:31_000] - expected[1_000:31_000]).max() < tolerance


def test_16_bit_samples_survive_reading_and_writing(tmp_path: Path) -> None:
    stored = np.arange(-32_768, 32_768).astype(np.int16)
    soundfile.write(tmp_path / "a.wav", stored, 16_000)
    with audio_output(tmp_path / "b.wav") as writer:
        writer.write(read_audio(tmp_path / "a.wav"))
    np.testing.assert_array_equal(soundfile.read(tmp_path / "b.wav", dtype="int16")[0], stored)


@pytest.mark.parametrize("suffix", [".wav", ".flac"])
def test_writer_clips_and_takes_not_a_number_for_silence(suffix: str, tmp_path: Path) -> None:
    path = tmp_path / f"a{suffix}"
    with audio_output(path) as writer:
        writer.write(np.array([2.0, -2.0, np.nan, np.inf, -np.inf, 0.0], np.float32))
    found = read_audio(path)
    np.testing.assert_allclose(found, [1, -1, 0, 1, -1, 0], atol=1e-4)


@pytest.mark.parametrize("name", ["a.xyz", "a", "a.m4a", "a.raw"])
def test_unknown_suffix_is_refused(name: str, tmp_path: Path) -> None:
    with pytest.raises(BadInput, match="none of wav flac"), audio_output(tmp_path / name):
        pass
    assert os.listdir(tmp_path) == []


@pytest.mark.parametrize("suffix", [".wav", ".flac", ".ogg"])
@pytest.mark.parametrize("error", [KeyboardInterrupt, ValueError, BadInput])
def test_no_half_output(suffix: str, error: type[BaseException], tmp_path: Path) -> None:
    path = tmp_path / f"a{suffix}"
    path.write_text("before")
    with pytest.raises(error), audio_output(path, force=True) as writer:
        writer.write(tone(16_000))
        raise error("stop")
    assert path.read_text() == "before"
    assert os.listdir(tmp_path) == [path.name]


@pytest.mark.parametrize("suffix", [".wav", ".flac", ".ogg", ".opus", ".mp3", ".caf", ".w64"])
def test_full_disk_is_one_line_and_leaves_nothing(suffix: str, tmp_path: Path) -> None:
    noise = np.random.default_rng(4).uniform(-0.5, 0.5, 160_000).astype(np.float32)
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    # Small enough to be hit by what is left to flush at the very end, too.
    for limit in (100, 10_000):
        resource.setrlimit(resource.RLIMIT_FSIZE, (limit, before[1]))
        try:
            with pytest.raises(BadInput) as caught, audio_output(tmp_path / f"a{suffix}") as writer:
                writer.write(noise)
        finally:
            resource.setrlimit(resource.RLIMIT_FSIZE, before)
        assert "too large" in str(caught.value)
        assert os.listdir(tmp_path) == []


def test_unwritable_places_are_one_line(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    for path, words in {
        tmp_path / "none" / "a.wav": "no such file or directory",
        tmp_path / "file" / "a.wav": "not a directory",
        Path("/proc/a.wav"): "/proc/a.wav",
        tmp_path / ("n" * 300 + ".wav"): "name too long",
    }.items():
        with pytest.raises(BadInput) as caught, audio_output(path) as writer:
            writer.write(tone(16_000))
        assert words in str(caught.value)
        assert "\n" not in str(caught.value)
    (tmp_path / "dir.wav").mkdir()
    with pytest.raises(BadInput, match="is a directory"), audio_output(tmp_path / "dir.wav"):
        pass
    assert sorted(os.listdir(tmp_path)) == ["dir.wav", "file"]


def test_devices_are_written_never_replaced() -> None:
    with audio_output("/dev/null") as writer:
        writer.write(tone(16_000))
    assert not Path("/dev/null").is_file()
    with pytest.raises(BadInput, match="no space left"), audio_output("/dev/full") as writer:
        writer.write(tone(16_000, 5.0))


@pytest.mark.parametrize("name", ["-", "/dev/stdout", "/dev/fd/1"])
def test_standard_output_by_any_name_is_added_to(name: str, tmp_path: Path) -> None:
    """As `>>` has it: what the file holds that it is redirected to stays."""
    program = "import sys; from codec.files.paths import atomic_output as to\n"
    program += "with to(sys.argv[1]) as file: file.write(b'ours')"
    (tmp_path / "log").write_text("theirs, ")
    with (tmp_path / "log").open("ab") as log:
        subprocess.run([sys.executable, "-c", program, name], stdout=log, check=True)
    assert (tmp_path / "log").read_text() == "theirs, ours"


def test_atomic_output_keeps_permissions_and_links(tmp_path: Path) -> None:
    target, link = tmp_path / "target", tmp_path / "link"
    target.write_text("before")
    target.chmod(0o640)
    link.symlink_to(target)
    with atomic_output(link, force=True) as file:
        file.write(b"after")
        assert target.read_text() == "before"
    assert link.is_symlink()
    assert target.read_text() == "after"
    assert target.stat().st_mode & 0o777 == 0o640


@pytest.mark.parametrize("links", [True, False], ids=["links", "no links"])
def test_a_new_output_takes_the_next_free_name_however_long(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, links: bool
) -> None:
    if not links:

        def link(one: object, other: object) -> None:
            raise PermissionError(1, "Operation not permitted")

        monkeypatch.setattr("os.link", link)
    path = tmp_path / ("ä" * 125 + "a.wav")
    with atomic_output(path, new=True) as file:
        file.write(b"ours")
        path.write_bytes(b"theirs")
    assert path.read_bytes() == b"theirs"
    (other,) = [each for each in tmp_path.iterdir() if each.name != path.name]
    assert other.read_bytes() == b"ours" and other.name.endswith("ä-2.wav")


def test_atomic_output_takes_the_longest_name(tmp_path: Path) -> None:
    path = tmp_path / ("n" * 255)
    with atomic_output(path) as file:
        file.write(b"whole")
    assert path.read_bytes() == b"whole"


def test_names_in_messages_are_printable() -> None:
    assert display_name("a\nb\x1b[31m") == "a\\nb\\x1b[31m"
    assert display_name(os.fsdecode(b"caf\xe9.wav")).isascii()


def test_looks_like_audio_by_suffix_or_content(tmp_path: Path) -> None:
    soundfile.write(tmp_path / "plain", tone(16_000), 16_000, format="WAV")
    (tmp_path / "notes.txt").write_text("RIFF is a format")
    (tmp_path / "broken.FLAC").write_text("")
    assert looks_like_audio(tmp_path / "plain")
    assert looks_like_audio(tmp_path / "broken.FLAC")
    assert not looks_like_audio(tmp_path / "notes.txt")


@pytest.mark.parametrize("name", ["caf\udce9.wav", "-x.wav", "a b.wav", "\u03c0.flac"])
def test_odd_file_names_work(name: str, tmp_path: Path) -> None:
    path = tmp_path / name
    with audio_output(path) as writer:
        writer.write(tone(16_000))
    assert len(read_audio(path)) == 8_000
