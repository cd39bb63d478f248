"""Whatever people record with is read, by name and by pipe alike; nothing is lost in silence.

Small inputs are made here: by libsndfile, by FFmpeg, or by damaging what these have written.
"""

from __future__ import annotations

import contextlib
import http.server
import io
import os
import struct
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import av
import numpy as np
import pytest
import soundfile
from hypothesis import given, settings
from hypothesis import strategies as st

from codec.errors import BadInput
from codec.files.audio import AudioReader, is_audio
from stream.audio.sources import PipeSource
from tui.cli import main

RATE = 16_000
SECONDS = 1.2
SPEECH = (0.4 * np.sin(np.arange(int(RATE * SECONDS)) * (2 * np.pi * 440 / RATE))).astype(
    np.float32
)


def written(form: str, subtype: str, samples: np.ndarray = SPEECH, rate: int = RATE) -> bytes:
    buffer = io.BytesIO()
    soundfile.write(buffer, samples, rate, subtype, format=form)
    return buffer.getvalue()


def muxed(form: str, codec: str, rate: int = RATE, tracks: int = 1, video: bool = False) -> bytes:
    """A file that FFmpeg has written, 1.2 s of the tone in each track."""
    count = int(rate * SECONDS)
    tone = (0.4 * np.sin(np.arange(count) * (2 * np.pi * 440 / rate))).astype(np.float32)
    buffer = io.BytesIO()
    with av.open(buffer, "w", format=form) as container:
        picture = container.add_stream("mpeg4", rate=25) if video else None
        if picture is not None:
            picture.width = picture.height = 32
        streams: list[Any] = [container.add_stream(codec, rate=rate) for _ in range(tracks)]
        for stream in streams:
            stream.layout = "mono"
            if codec.startswith("wma"):
                stream.bit_rate = 32_000  # it has no usual one for a low sampling rate
        if picture is not None:
            black = av.VideoFrame.from_ndarray(np.zeros((32, 32, 3), np.uint8))
            container.mux(picture.encode(black))
            container.mux(picture.encode(None))
        for stream in streams:
            context = stream.codec_context
            size = context.frame_size or 1024
            resampler = av.AudioResampler(context.format.name, "mono", rate, frame_size=size)
            frame = av.AudioFrame.from_ndarray(tone[None], "fltp", "mono")
            frame.sample_rate, frame.pts = rate, 0
            for part in [*resampler.resample(frame), *resampler.resample(None)]:
                container.mux(stream.encode(part))
            container.mux(stream.encode(None))
    return buffer.getvalue()


def fed(data: bytes) -> str:
    """The name of a pipe with `data` in it."""
    ours, theirs = os.pipe()

    def feed() -> None:
        with contextlib.suppress(BrokenPipeError), open(theirs, "wb") as file:
            file.write(data)

    threading.Thread(target=feed, daemon=True).start()
    return f"/proc/self/fd/{ours}"


def read(path: str | Path) -> tuple[np.ndarray, list[str]]:
    notes: list[str] = []
    with AudioReader(path, warn=notes.append) as reader:
        return np.concatenate(list(reader)), notes


def both(data: bytes, tmp_path: Path, name: str = "talk") -> tuple[np.ndarray, list[str]]:
    """What is read by name, which must be what is read through a pipe."""
    (tmp_path / name).write_bytes(data)
    samples, notes = read(tmp_path / name)
    piped, _ = read(fed(data))
    np.testing.assert_array_equal(samples, piped)
    return samples, notes


def seconds(samples: np.ndarray) -> float:
    return len(samples) / RATE


# Formats


@pytest.mark.parametrize(
    ("form", "codec", "rate"),
    [
        ("ipod", "aac", 16_000),
        ("mp4", "aac", 44_100),
        ("ipod", "alac", 48_000),
        ("webm", "libopus", 48_000),
        ("ogg", "libopus", 48_000),
        ("ogg", "flac", 16_000),
        ("mp3", "libmp3lame", 44_100),
        ("mp3", "libmp3lame", 16_000),
        ("matroska", "flac", 16_000),
        ("caf", "pcm_s16be", 16_000),
        ("mov", "pcm_s16le", 48_000),
        ("avi", "pcm_s16le", 16_000),
        ("w64", "pcm_s24le", 48_000),
        ("aiff", "pcm_s16be", 8_000),
        ("au", "pcm_mulaw", 8_000),
    ],
)
def test_lengths_are_exact(form: str, codec: str, rate: int, tmp_path: Path) -> None:
    samples, notes = both(muxed(form, codec, rate), tmp_path)
    assert abs(len(samples) - len(SPEECH)) <= 1
    assert notes == []
    found = samples[2_000:17_000]
    assert np.abs(found - SPEECH[2_000:17_000]).max() < 0.03  # no delay of an encoder is left


@pytest.mark.parametrize(
    ("form", "codec", "rate", "most"),
    [
        # These have nowhere to say how much of the first and the last frame is padding.
        ("adts", "aac", 16_000, 2_048),
        ("mp2", "mp2", 16_000, 1_152),
        ("mpegts", "aac", 16_000, 2_048),
        ("asf", "wmav2", 16_000, 4_096),
        ("asf", "wmav1", 16_000, 4_096),
        ("flv", "libmp3lame", 44_100, 2_304),
    ],
)
def test_formats_that_do_not_say_how_long_they_are(
    form: str, codec: str, rate: int, most: int, tmp_path: Path
) -> None:
    samples, _ = both(muxed(form, codec, rate), tmp_path)
    assert -800 <= len(samples) - len(SPEECH) <= most
    assert 0.2 < np.sqrt(np.mean(np.square(samples[3_000:15_000]))) < 0.4


def test_amr(tmp_path: Path) -> None:
    """Written by PyAV 18: later ones only read it."""
    samples, _ = both((Path(__file__).parent / "golden" / "tone.amr").read_bytes(), tmp_path)
    assert -800 <= len(samples) - len(SPEECH) <= 640
    assert 0.2 < np.sqrt(np.mean(np.square(samples[3_000:15_000]))) < 0.4


def test_speex_in_ogg(tmp_path: Path) -> None:
    """Written by speexenc: FFmpeg only reads it."""
    samples, notes = both((Path(__file__).parent / "golden" / "tone.spx").read_bytes(), tmp_path)
    assert abs(len(samples) - len(SPEECH)) <= 2 * 320 and notes == []
    assert 0.2 < np.sqrt(np.mean(np.square(samples[3_000:15_000]))) < 0.4


@pytest.mark.parametrize("rate", [8_000, 16_000, 44_100])
@pytest.mark.parametrize("count", [100, 500, 14_400, 19_200, 60_000, 100_000])
def test_vorbis_of_any_length_is_exact(rate: int, count: int, tmp_path: Path) -> None:
    samples = (0.4 * np.sin(np.arange(count) * (2 * np.pi * 440 / rate))).astype(np.float32)
    with soundfile.SoundFile(tmp_path / "a.ogg", "w", rate, 1, "VORBIS", format="OGG") as file:
        for start in range(0, count, 8_192):  # its encoder does not bear more at a time
            file.write(samples[start : start + 8_192])
    found, notes = read(tmp_path / "a.ogg")
    assert abs(len(found) - count * RATE / rate) <= 1
    assert notes == []


@pytest.mark.parametrize(
    ("layout", "channels"), [("5.1", 6), ("6.1", 7), ("7.1", 8), ("hexadecagonal", 16)]
)
def test_many_channels_in_planes(layout: str, channels: int, tmp_path: Path) -> None:
    codec = "aac" if channels <= 8 else "wavpack"
    buffer = io.BytesIO()
    with av.open(buffer, "w", format="matroska") as container:
        stream: Any = container.add_stream(codec, rate=RATE)
        stream.layout = layout
        size = stream.codec_context.frame_size or 1024
        kind = stream.codec_context.format.name
        resampler = av.AudioResampler(kind, layout, RATE, frame_size=size)
        packed = np.repeat(SPEECH[:19_000], channels)[None]
        frame = av.AudioFrame.from_ndarray(packed, "flt", layout)
        frame.sample_rate, frame.pts = RATE, 0
        for part in [*resampler.resample(frame), *resampler.resample(None)]:
            container.mux(stream.encode(part))
        container.mux(stream.encode(None))
    samples, _ = both(buffer.getvalue(), tmp_path)
    assert abs(len(samples) - 19_000) <= 2_048
    assert np.sqrt(np.mean(np.square(samples[2_000:15_000]))) > 0.2


def test_the_sound_of_a_video(tmp_path: Path) -> None:
    samples, notes = both(muxed("mp4", "aac", video=True), tmp_path)
    assert seconds(samples) == SECONDS
    assert notes == []


def test_a_further_track_is_not_dropped_in_silence(tmp_path: Path) -> None:
    samples, notes = both(muxed("matroska", "flac", tracks=2), tmp_path)
    assert seconds(samples) == SECONDS
    assert len(notes) == 1 and "2 sound tracks" in notes[0]


def test_a_video_without_sound_is_no_audio(tmp_path: Path) -> None:
    data = muxed("mp4", "aac", tracks=0, video=True)
    for path in (fed(data), tmp_path / "silent.mp4"):
        if path == tmp_path / "silent.mp4":
            path.write_bytes(data)
        with pytest.raises(BadInput, match="no sound"):
            read(path)


# What has been found broken, and the like of it


def test_chained_ogg_is_read_to_the_end(tmp_path: Path) -> None:
    first = written("OGG", "VORBIS", SPEECH[:14_400])
    samples, _ = both(first + written("OGG", "VORBIS"), tmp_path)
    assert seconds(samples) == pytest.approx(2.1, abs=0.05)
    samples, _ = both(written("OGG", "OPUS") * 2, tmp_path)
    assert seconds(samples) == pytest.approx(2.4, abs=0.05)


def test_joined_mp3s_are_read_to_the_end(tmp_path: Path) -> None:
    samples, _ = both(2 * written("MP3", "MPEG_LAYER_III"), tmp_path)
    assert seconds(samples) == pytest.approx(2.4, abs=0.2)


@pytest.mark.parametrize("rates", [(44_100, 44_100), (44_100, 22_050), (16_000, 44_100, 22_050)])
def test_joined_mp3s_that_say_how_long_they_are(rates: tuple[int, ...], tmp_path: Path) -> None:
    """With the tags of each, as `cat` joins them; whatever an encoder has added is cut off."""
    one = [muxed("mp3", "libmp3lame", rate) for rate in rates]
    old = one[0] + b"TAG".ljust(128, b"\0") + b"APETAGEX" + struct.pack("<III12x", 2000, 32, 0)
    for data in (b"".join(one), old + b"".join(one[1:])):
        samples, notes = both(data, tmp_path)
        assert abs(len(samples) - len(rates) * len(SPEECH)) <= len(rates) and notes == []


def test_a_joined_mp3_that_was_cut_off_is_not_measured_by_a_guess(tmp_path: Path) -> None:
    """The second begins where the first says that it goes on, at another rate."""
    one, two = (muxed("mp3", "libmp3lame", rate) for rate in (44_100, 22_050))
    samples, notes = both(one[:-300] + two[two.index(b"\xff") :], tmp_path)
    assert seconds(samples) == pytest.approx(2.4, abs=0.15)
    assert not any("missing" in note for note in notes)


@pytest.mark.parametrize(
    ("others", "length"),
    [
        ([written("OGG", "VORBIS", np.stack([SPEECH, SPEECH], 1))], 2.4),
        ([written("OGG", "VORBIS", SPEECH, 8_000)], 3.6),
        ([written("OGG", "OPUS"), muxed("ogg", "flac")], 3.6),
    ],
)
def test_links_of_ogg_that_differ(others: list[bytes], length: float, tmp_path: Path) -> None:
    samples, notes = both(written("OGG", "VORBIS") + b"".join(others), tmp_path)
    assert seconds(samples) == pytest.approx(length, abs=0.01)
    assert notes == []


@pytest.mark.parametrize(
    ("form", "codec"), [("ipod", "aac"), ("asf", "wmav2"), ("mp4", "alac"), ("mov", "pcm_s16le")]
)
def test_other_joined_files_are_read_to_the_end(form: str, codec: str, tmp_path: Path) -> None:
    one, _ = both(muxed(form, codec), tmp_path)
    samples, notes = both(2 * muxed(form, codec), tmp_path)
    np.testing.assert_allclose(samples, np.tile(one, 2), atol=1e-3)
    assert notes == []


@pytest.mark.parametrize("form", ["AIFF", "CAF", "W64"])
def test_further_samples_in_a_file_of_chunks(form: str, tmp_path: Path) -> None:
    """A second chunk of them, and then another file."""
    data = written(form, "PCM_16")
    name = {"AIFF": b"SSND", "CAF": b"data", "W64": b"data\xf3\xac\xd3\x11"}[form]
    again = data[data.index(name) :]
    samples, notes = both(data + again + again + data, tmp_path)
    np.testing.assert_allclose(samples, np.tile(SPEECH, 4), atol=1e-4)
    assert notes == []


@pytest.mark.parametrize("form", ["WAV", "FLAC", "RF64"])
def test_joined_files_are_read_to_the_end(form: str, tmp_path: Path) -> None:
    samples, notes = both(2 * written(form, "PCM_16"), tmp_path)
    np.testing.assert_allclose(samples, np.tile(SPEECH, 2), atol=1e-4)
    assert notes == []


def test_flac_of_unknown_length(tmp_path: Path) -> None:
    data = bytearray(written("FLAC", "PCM_16"))
    data[21] &= 0xF0
    data[22:26] = bytes(4)
    samples, notes = both(bytes(data), tmp_path)
    assert seconds(samples) == SECONDS
    assert notes == []


def test_mp3_through_a_pipe_without_a_tag(tmp_path: Path) -> None:
    samples, notes = both(written("MP3", "MPEG_LAYER_III", SPEECH[::2], 8_000), tmp_path)
    assert seconds(samples) == SECONDS
    assert notes == []


def id3(padding: int) -> bytes:
    return b"ID3\x04\0\0" + bytes([0, 0, padding >> 7, padding & 127]) + bytes(padding)


@pytest.mark.parametrize(
    ("name", "shift"),
    [("two tags", 0), ("junk first", 0), ("from the middle of a frame", 100), ("tag behind", 0)],
)
def test_mp3_that_does_not_begin_well(name: str, shift: int, tmp_path: Path) -> None:
    data = written("MP3", "MPEG_LAYER_III")[shift:]
    data = {
        "two tags": id3(1_000) + id3(900) + data,
        "junk first": b"\x01\x02junk" * 20 + data,
        "tag behind": data + b"TAG" + bytes(125),
    }.get(name, data)
    samples, _ = both(data, tmp_path)
    assert seconds(samples) == pytest.approx(SECONDS, abs=0.15)


def test_mp3_with_a_hole(tmp_path: Path) -> None:
    data = written("MP3", "MPEG_LAYER_III")
    samples, notes = both(data[: len(data) // 3] + data[len(data) // 2 :], tmp_path)
    assert 0.7 < seconds(samples) < SECONDS
    assert notes


@pytest.mark.parametrize(
    ("form", "subtype"),
    [("MP3", "MPEG_LAYER_III"), ("WAV", "PCM_16"), ("FLAC", "PCM_16"), ("AIFF", "PCM_16"),
     ("CAF", "PCM_16"), ("W64", "PCM_16"), ("AU", "PCM_16"), ("RF64", "PCM_24")],
)  # fmt: skip
def test_a_truncated_file_is_read_with_one_note(form: str, subtype: str, tmp_path: Path) -> None:
    data = written(form, subtype)
    (tmp_path / "talk").write_bytes(data[: len(data) * 6 // 10])
    samples, notes = read(tmp_path / "talk")
    assert 0.4 < seconds(samples) < 0.9
    assert len([note for note in notes if "can be read" in note]) == 1


@pytest.mark.parametrize(
    ("form", "subtype"),
    [("FLAC", "PCM_16"), ("MP3", "MPEG_LAYER_III"), ("OGG", "OPUS"), ("OGG", "VORBIS")],
)
def test_damage_in_the_middle_is_a_note(form: str, subtype: str, tmp_path: Path) -> None:
    noise = np.random.default_rng(5).uniform(-0.3, 0.3, 20 * RATE).astype(np.float32)
    pieces = io.BytesIO()
    with soundfile.SoundFile(pieces, "w", RATE, 1, subtype, format=form) as file:
        for start in range(0, len(noise), 8_192):
            file.write(noise[start : start + 8_192])
    data = bytearray(pieces.getvalue())
    middle = len(data) // 2
    data[middle : middle + 300] = np.random.default_rng(1).bytes(300)
    (tmp_path / "talk").write_bytes(data)
    samples, notes = read(tmp_path / "talk")
    assert 17 < seconds(samples) <= 20.1
    assert notes


def test_a_recorder_that_died(tmp_path: Path) -> None:
    data = bytearray(written("WAV", "PCM_16"))
    data[4:8] = data[40:44] = bytes(4)
    samples, notes = both(bytes(data), tmp_path)
    np.testing.assert_allclose(samples, SPEECH, atol=1e-4)
    assert len(notes) == 1 and "read to the end" in notes[0]


@pytest.mark.parametrize("form", ["AIFF", "AU", "CAF", "RF64", "W64"])
def test_a_recorder_that_died_in_other_formats(form: str, tmp_path: Path) -> None:
    """It has left the lengths as they are before there is any sound."""
    data = bytearray(written(form, "PCM_16"))
    none = written(form, "PCM_16", SPEECH[:0])
    data[: len(none)] = none
    samples, notes = both(bytes(data), tmp_path)
    np.testing.assert_allclose(samples, SPEECH, atol=1e-4)
    assert len(notes) == 1 and "read to the end" in notes[0]


@pytest.mark.parametrize(("start", "length"), [(b"RF64", -1), (b"BW64", 1 << 63)])
def test_a_long_file_that_does_not_say_how_long(start: bytes, length: int, tmp_path: Path) -> None:
    data = bytearray(written("RF64", "PCM_16"))
    at = data.index(b"ds64") + 16
    data[:4] = start
    data[at : at + 8] = (length % (1 << 64)).to_bytes(8, "little")
    samples, _ = both(bytes(data), tmp_path)
    np.testing.assert_allclose(samples, SPEECH, atol=1e-4)


@pytest.mark.parametrize("form", ["AIFF", "AU", "CAF", "RF64", "W64", "WAV", "FLAC"])
def test_a_file_without_samples_gets_one_line(form: str, tmp_path: Path) -> None:
    (tmp_path / "talk").write_bytes(written(form, "PCM_16", SPEECH[:0]))
    notes: list[str] = []
    with pytest.raises(BadInput, match="audio"), AudioReader(tmp_path / "talk", warn=notes.append):
        pass
    assert notes == []


@pytest.mark.parametrize("length", [20, 3_000_000])
@pytest.mark.parametrize("form", ["WAV", "FLAC", "OGG", "MP3"])
def test_a_tag_in_front(form: str, length: int, tmp_path: Path) -> None:
    subtype = {"OGG": "VORBIS", "MP3": "MPEG_LAYER_III"}.get(form, "PCM_16")
    data = written(form, subtype)
    plain, _ = both(data, tmp_path)
    size = bytes((length >> shift) & 127 for shift in (21, 14, 7, 0))
    tag = b"ID3\x04\0\0" + size + bytes(length)
    samples, notes = both(tag + data, tmp_path)
    np.testing.assert_array_equal(samples, plain)
    assert notes == []


def test_a_tag_that_says_it_is_longer_than_the_file(tmp_path: Path) -> None:
    samples, _ = both(b"ID3\x04\0\0\x7f\x7f\x7f\x7f" + muxed("adts", "aac"), tmp_path)
    assert seconds(samples) > SECONDS


def test_alac_in_caf_is_not_cut_off_twice(tmp_path: Path) -> None:
    samples, notes = both(muxed("caf", "alac"), tmp_path)
    assert seconds(samples) == SECONDS and notes == []


def test_mpeg4_that_was_never_finished_says_what_is_missing(tmp_path: Path) -> None:
    data = muxed("ipod", "aac")
    (tmp_path / "talk.m4a").write_bytes(data[: data.index(b"moov") - 4])
    with pytest.raises(BadInput, match="index of its sound is missing"):
        read(tmp_path / "talk.m4a")


@pytest.mark.parametrize(
    ("form", "codec"),
    [("ogg", "libopus"), ("ogg", "flac"), ("matroska", "flac"), ("webm", "libopus"),
     ("wav", "adpcm_ms"), ("avi", "pcm_s16le")],
)  # fmt: skip
def test_a_missing_end_is_said_of_other_formats(form: str, codec: str, tmp_path: Path) -> None:
    rate = 48_000 if codec == "libopus" else RATE
    data = muxed(form, codec, rate)
    samples, notes = both(data, tmp_path)
    assert notes == []
    samples, notes = both(data[: len(data) * 9 // 10], tmp_path)
    assert seconds(samples) < SECONDS
    assert len([note for note in notes if "can be read" in note]) == 1


def test_caf_of_unknown_length(tmp_path: Path) -> None:
    data = bytearray(muxed("caf", "pcm_s16be"))
    at = data.index(b"data") + 4
    data[at : at + 8] = b"\xff" * 8
    samples, _ = both(bytes(data), tmp_path)
    assert seconds(samples) == SECONDS


@pytest.mark.parametrize("block", [0, 1, 4, 999])
def test_wav_with_a_wrong_block_size(block: int, tmp_path: Path) -> None:
    data = bytearray(written("WAV", "PCM_16"))
    data[32:34] = struct.pack("<H", block)
    samples, notes = both(bytes(data), tmp_path)
    np.testing.assert_allclose(samples, SPEECH, atol=1e-4)
    assert notes == []


def test_bw64(tmp_path: Path) -> None:
    data = written("RF64", "PCM_16")
    samples, notes = both(b"BW64" + data[4:], tmp_path)
    np.testing.assert_allclose(samples, SPEECH, atol=1e-4)
    assert notes == []


@pytest.mark.parametrize("between", [b"", b"LIST\x03\0\0\0abc\0"])
def test_wav_of_two_pieces(between: bytes, tmp_path: Path) -> None:
    data = written("WAV", "PCM_16")
    second = b"data" + struct.pack("<I", len(data) - 44) + data[44:]
    samples, notes = both(data + between + second, tmp_path)
    np.testing.assert_allclose(samples, np.tile(SPEECH, 2), atol=1e-4)
    assert notes == []


def test_what_follows_and_is_no_sound_is_said(tmp_path: Path) -> None:
    samples, notes = both(written("WAV", "PCM_16") + b"\x01\x02\x03 what is this?", tmp_path)
    assert seconds(samples) == SECONDS
    assert len(notes) == 1 and "left out" in notes[0]


def test_what_follows_and_is_not_whole_is_said(tmp_path: Path) -> None:
    for text in (b"left by a transfer that broke", b"LIST\x40\0\0\0INFOISFT"):
        samples, notes = both(written("WAV", "PCM_16") + text, tmp_path)
        assert len(samples) == len(SPEECH)
        assert len(notes) == 1 and "left out" in notes[0]
    _, notes = both(written("WAV", "PCM_16") + b"LIST\x05\0\0\0INFO\0", tmp_path)
    assert notes == []


@pytest.mark.parametrize("front", [b"LIST\x05\0\0\0INFO\0", b"bext\x03\0\0\0abcLIST\x01\0\0\0x"])
@pytest.mark.parametrize("form", ["WAV", "RF64"])
def test_odd_chunks_that_nobody_padded(form: str, front: bytes, tmp_path: Path) -> None:
    data = written(form, "PCM_16")
    at = data.index(b"fmt ")
    samples, notes = both(data[:at] + front + data[at:], tmp_path)
    np.testing.assert_allclose(samples, SPEECH, atol=1e-4)
    assert notes == []


def test_a_pipe_longer_than_its_placeholder_says(tmp_path: Path) -> None:
    """arecord writes 0x7FFFFFFF and goes on for as long as it records."""
    header = bytearray(written("WAV", "PCM_16")[:44])
    header[40:44] = struct.pack("<I", 0x7FFFFFFF)
    head, second = bytes(header), (b"\0\1" * (1 << 19))
    pieces = iter([head, *[second] * 2_100])
    left = b""

    def live(count: int) -> bytes:
        nonlocal left
        left = left or next(pieces, b"")
        data, left = left[:count], left[count:]
        return data

    source = AudioReader("-", live=live)
    assert source.duration is None
    total = 0
    for block in source:
        total += len(block)
        if total * 2 > 1 << 22:
            break
    source.close()
    assert total * 2 > 1 << 22


def test_a_rate_of_zero_is_one_line(tmp_path: Path) -> None:
    data = bytearray(written("WAV", "PCM_16"))
    data[24:28] = bytes(4)
    for path in (fed(bytes(data)), tmp_path / "talk"):
        (tmp_path / "talk").write_bytes(data)
        with pytest.raises(BadInput) as caught:
            read(path)
        assert "\n" not in str(caught.value)


def test_channels_that_cancel_each_other_out(tmp_path: Path) -> None:
    quiet = np.random.default_rng(2).normal(0, 1e-3, len(SPEECH)).astype(np.float32)
    stereo = np.stack([0.5 * SPEECH, quiet - 0.5 * SPEECH], axis=1)
    samples, notes = both(written("WAV", "PCM_16", stereo), tmp_path)
    assert np.sqrt(np.mean(np.square(samples))) > 0.1
    assert len(notes) == 1 and "cancel" in notes[0]


def test_one_channel_of_many_is_no_cancellation(tmp_path: Path) -> None:
    many = np.zeros((len(SPEECH), 8), np.float32)
    many[:, 3] = SPEECH
    samples, notes = both(written("WAV", "FLOAT", many), tmp_path)
    np.testing.assert_allclose(samples, SPEECH / 8, atol=1e-6)
    assert notes == []


# What is no audio, and what would open something else


@pytest.mark.parametrize(
    "data",
    [
        b"<!DOCTYPE html><html><body>404</body></html>" * 50,
        b"%PDF-1.7\n" * 100,
        b"\x89PNG\r\n\x1a\n" + bytes(1_000),
        b"GIF89a" + bytes(1_000),
        b"hello " * 1_000,
        b"1\n00:00:01,000 --> 00:00:02,000\nA subtitle\n\n" * 20,
        b"PK\x03\x04" + bytes(3_000),
        bytes(100_000),
        np.random.default_rng(3).bytes(200_000),
        b"STTO" + np.random.default_rng(4).bytes(5_000),
    ],
    ids=lambda data: repr(data[:8]),
)
def test_what_is_no_audio_is_refused(data: bytes, tmp_path: Path) -> None:
    (tmp_path / "talk.wav").write_bytes(data)
    for path in (tmp_path / "talk.wav", fed(data)):
        with pytest.raises(BadInput, match="is not audio") as caught:
            read(path)
        assert "\n" not in str(caught.value)
    assert not is_audio(data[: 1 << 16])


@pytest.fixture
def web() -> Iterator[tuple[str, list[str]]]:
    """The address of a server of audio, and what it has been asked for."""
    asked: list[str] = []

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            asked.append(self.path)
            self.send_response(200)
            self.end_headers()
            self.wfile.write(written("WAV", "PCM_16"))

        def log_message(self, format: str, *args: object) -> None:
            """Nothing on stderr."""

    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_port}", asked
        server.shutdown()


HLS = "#EXTM3U\n#EXT-X-VERSION:3\n#EXT-X-TARGETDURATION:2\n#EXTINF:1.2,\n{}\n#EXT-X-ENDLIST\n"
DASH = (
    '<?xml version="1.0"?><MPD xmlns="urn:mpeg:dash:schema:mpd:2011" type="static" '
    'mediaPresentationDuration="PT1S" profiles="urn:mpeg:dash:profile:isoff-on-demand:2011">'
    '<Period><AdaptationSet mimeType="audio/mp4"><Representation id="1" bandwidth="1">'
    "<BaseURL>{}</BaseURL></Representation></AdaptationSet></Period></MPD>"
)
LISTS = {
    "m3u8": HLS,
    "ffconcat": "ffconcat version 1.0\nfile '{}'\n",
    "mpd": DASH,
    "sdp": "v=0\no=- 0 0 IN IP4 127.0.0.1\nc=IN IP4 127.0.0.1\nm=audio 5004 RTP/AVP 0\n{}",
    "m3u": "{}\n",
    "asx": '<asx version="3.0"><entry><ref href="{}"/></entry></asx>',
    "ram": "{}\n",
    "txt": "concat:{}|{}",
    "imf": '<?xml version="1.0"?><CompositionPlaylist><Id>{}</Id></CompositionPlaylist>',
}


@pytest.mark.parametrize("kind", LISTS)
@pytest.mark.parametrize("where", ["a file beside it", "a file", "the web"])
def test_nothing_that_a_file_names_is_opened(kind: str, where: str, web, tmp_path: Path) -> None:
    address, asked = web
    (tmp_path / "secret.wav").write_bytes(written("WAV", "PCM_16"))
    target = {
        "a file beside it": "secret.wav",
        "a file": f"file://{tmp_path}/secret.wav",
        "the web": f"{address}/secret.wav",
    }[where]
    data = LISTS[kind].replace("{}", target).encode()
    for name in (f"list.{kind}", "list.wav"):
        (tmp_path / name).write_bytes(data)
        with pytest.raises(BadInput, match="is not audio"):
            read(tmp_path / name)
    with pytest.raises(BadInput, match="is not audio"):
        read(fed(data))
    assert asked == []


def test_a_name_is_never_an_address(web, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    address, asked = web
    monkeypatch.chdir(tmp_path)
    for name in (f"{address}/x.wav", "concat:a.wav|b.wav", "tcp://127.0.0.1:1", "lavfi:sine"):
        with pytest.raises(BadInput, match="no such file"):
            read(name)
    Path("concat:a.wav|b.wav").write_bytes(written("WAV", "PCM_16"))
    assert seconds(read("concat:a.wav|b.wav")[0]) == SECONDS
    assert asked == []


def test_a_quicktime_file_whose_samples_are_elsewhere(tmp_path: Path) -> None:
    """A data reference that names another file is followed by no one."""
    (tmp_path / "secret.wav").write_bytes(written("WAV", "PCM_16"))
    data = muxed("mov", "pcm_s16le")
    at = data.index(b"url \0\0\0\x01")
    changed = data[:at] + b"alis\0\0\0\0" + data[at + 8 :]
    (tmp_path / "talk.mov").write_bytes(changed)
    try:
        samples, _ = read(tmp_path / "talk.mov")
    except BadInput:
        return
    assert len(samples) <= len(SPEECH)


@settings(max_examples=150)
@given(
    st.sampled_from(["mp4", "webm", "ogg", "flac", "mp3", "adts", "caf", "aiff"]),
    st.integers(0, 10_000),
    st.binary(min_size=1, max_size=40),
    st.floats(0.0, 1.0),
)
def test_damaged_files_never_crash(form: str, at: int, damage: bytes, kept: float) -> None:
    data = bytearray(FILES[form])
    at %= len(data)
    data[at : at + len(damage)] = damage
    data = data[: max(int(kept * len(data)), 1)] if at % 2 else data
    try:
        with AudioReader("-", warn=lambda line: None, live=io.BytesIO(bytes(data)).read) as reader:
            total = 0
            for block in reader:
                assert np.abs(block).max() <= 1.0
                total += len(block)
                assert total < 100 * RATE
    except BadInput as error:
        assert "\n" not in str(error)


FILES = {
    "mp4": muxed("mp4", "aac"),
    "webm": muxed("webm", "libopus", 48_000),
    "ogg": written("OGG", "VORBIS"),
    "flac": written("FLAC", "PCM_16"),
    "mp3": written("MP3", "MPEG_LAYER_III"),
    "adts": muxed("adts", "aac"),
    "caf": written("CAF", "PCM_16"),
    "aiff": written("AIFF", "PCM_16"),
}


# Calls


@pytest.mark.parametrize("form", ["mp3", "ogg", "flac", "mp4", "adts", "webm", "caf"])
def test_a_call_decodes_its_pipe(form: str, tmp_path: Path) -> None:
    source = PipeSource(fed(FILES[form]))
    source.check(5.0)
    source.start()
    heard = []
    try:
        while not source.ended:
            heard.append(source.read(RATE, 0.1)[0])
    finally:
        source.stop()
    samples = np.concatenate(heard)
    assert source.error is None
    assert seconds(samples) == pytest.approx(SECONDS, abs=0.15)
    assert 0.2 < np.sqrt(np.mean(np.square(samples[4_000:15_000]))) < 0.4


def test_a_call_hears_wav_as_it_comes() -> None:
    ours, theirs = os.pipe()
    source = PipeSource(f"/proc/self/fd/{ours}")
    os.write(theirs, written("WAV", "PCM_16")[: 44 + 16_000])
    source.check(5.0)
    source.start()
    try:
        heard = 0
        while heard < 4_096 and not source.ended:  # of half a second; the pipe stays open
            heard += len(source.read(RATE, 1.0)[0])
    finally:
        os.close(theirs)
        source.stop()


@pytest.mark.parametrize("data", [b"<html>404</html>" * 9, b"", b"\1\2" * 8_000])
def test_a_call_with_a_pipe_that_is_no_audio_is_refused_before_it(data: bytes, capsys, monkeypatch):
    with open(fed(data)) as pipe:
        monkeypatch.setattr("sys.stdin", pipe)
        options = ["--insecure", "--headless", "--output", "none", "--input", "-"]
        assert main(["call", "127.0.0.1:9", *options]) == 1
    assert "--raw" in capsys.readouterr().err


def test_raw_samples_are_of_a_pipe() -> None:
    assert main(["call", "127.0.0.1:9", "--insecure", "--headless", "--raw"]) == 2
