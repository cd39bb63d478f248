"""Scores, phone errors, peers, and the benchmark that combines them."""

from __future__ import annotations

import io
import json
import math
import shutil
import signal
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import ClassVar

import numpy as np
import pytest
import soundfile
from hypothesis import given
from hypothesis import strategies as st

from codec.container import ContainerWriter, StreamHeader
from codec.errors import BadInput, BadStream, SottoError
from codec.packet import Packet, short_id
from models.evaluation import clips, coding, estimates, peers, phones, scores, speech, tables
from tests.measured_codecs import Broken, Noise, noisy
from tui import cli

LETTERS = st.lists(st.sampled_from("abc"), max_size=7)


# --- scores ---------------------------------------------------------------------------------


def test_identical_signals_score_the_maximum(clip):
    found = scores.score(clip, clip)
    assert set(found) == set(scores.SCORE_KEYS)
    assert found["pesq_wb"] == pytest.approx(4.644, abs=0.01)
    assert found["pesq_nb"] == pytest.approx(4.549, abs=0.01)
    assert found["stoi"] == pytest.approx(1, abs=1e-6)
    assert found["estoi"] == pytest.approx(1, abs=1e-6)


def test_more_noise_scores_lower_on_every_measure(clip):
    ladder = [scores.score(clip, noisy(clip, ratio)) for ratio in (0.03, 0.3, 3.0)]
    for key in scores.SCORE_KEYS:
        first, second, third = (found[key] for found in ladder)
        assert first > second > third, key


def test_delay_and_level_do_not_count(clip):
    decoded = noisy(clip, 0.1)
    late = np.concatenate([np.zeros(1000), decoded]) * 0.05
    plain, moved = scores.score(clip, decoded), scores.score(clip, late)
    for key in scores.SCORE_KEYS:
        assert moved[key] == pytest.approx(plain[key], abs=0.02)
    assert scores.score(clip, late, max_lag_s=0)["stoi"] < plain["stoi"] - 0.1


@pytest.mark.parametrize("lag", [-3200, -777, -1, 0, 1, 40, 1234, 3200])
def test_delay_is_recovered_to_the_sample(clip, lag):
    decoded = noisy(scores.shift(clip.astype(float), -lag), 0.2)
    assert scores.delay(clip, decoded) == lag
    aligned = scores.shift(decoded, scores.delay(clip, decoded))
    assert np.corrcoef(aligned[4000:60000], clip[4000:60000])[0, 1] > 0.9


def test_delay_is_found_without_a_common_waveform(clip):
    # New random phases under the old magnitudes: what a vocoder does.
    hop, size = 64, 512
    rng = np.random.default_rng(3)
    window = np.hanning(size)
    out = np.zeros(len(clip) + size)
    for start in range(0, len(clip) - size, hop):
        spectrum = np.abs(np.fft.rfft(clip[start : start + size] * window))
        phases = np.exp(2j * np.pi * rng.random(len(spectrum)))
        out[start : start + size] += np.fft.irfft(spectrum * phases) * window
    late = np.concatenate([np.zeros(800), out])
    assert scores.delay(clip, late) == pytest.approx(800, abs=64)


def test_delay_is_bounded(clip):
    late = np.concatenate([np.zeros(16000), clip])
    assert abs(scores.delay(clip, late, 0.1)) <= 1600
    assert scores.delay(clip, np.zeros(100)) == 0


def test_undefined_scores_are_nan_and_left_out_of_means(clip):
    silent = scores.score(np.zeros(16000), clip)
    short = scores.score(clip[20000:21000], clip[20000:21000])
    assert all(math.isnan(value) for value in [*silent.values(), *short.values()])
    assert math.isnan(scores.score(clip, np.zeros(len(clip)))["pesq_wb"])
    mean = estimates.mean([1.0, math.nan, 3.0])
    assert (mean.value, mean.missing) == (2.0, 1)
    assert 1 <= mean.low <= mean.value <= mean.high <= 3
    assert math.isnan(estimates.mean([math.nan]).value)


@pytest.mark.parametrize("bad", [np.zeros(0), np.zeros((10, 2)), np.array([0.0, np.nan])])
def test_unusable_signals_are_refused(clip, bad):
    with pytest.raises(BadInput):
        scores.score(clip, bad)


def test_bootstrap_interval_shrinks_with_the_number_of_clips():
    values = list(np.random.default_rng(0).normal(3, 1, 400))
    few, many = estimates.mean(values[:20]), estimates.mean(values)
    assert few.half_width > 2 * many.half_width
    # 95 % of a normal mean: 1.96 standard errors to each side.
    assert many.half_width == pytest.approx(1.96 * np.std(values) / 20, rel=0.15)


def test_ratio_is_pooled_over_clips():
    assert estimates.ratio([1, 9], [10, 10]).value == pytest.approx(0.5)
    assert estimates.ratio([1, 9], [1, 99]).value == pytest.approx(0.1)


# --- edit distance and phones ---------------------------------------------------------------


@pytest.mark.parametrize(
    ("reference", "hypothesis", "expected"),
    [
        ("", "", 0),
        ("abc", "abc", 0),
        ("abc", "", 3),
        ("", "abc", 3),
        ("kitten", "sitting", 3),
        ("flaw", "lawn", 2),
        ("ab", "ba", 2),
    ],
)
def test_edit_distance_of_known_pairs(reference, hypothesis, expected):
    assert phones.edit_distance(reference, hypothesis) == expected


@given(LETTERS, LETTERS, LETTERS)
def test_edit_distance_is_a_metric(a, b, c):
    distance = phones.edit_distance
    assert distance(a, b) == distance(b, a)
    assert (distance(a, b) == 0) == (a == b)
    assert distance(a, c) <= distance(a, b) + distance(b, c)
    assert abs(len(a) - len(b)) <= distance(a, b) <= max(len(a), len(b))


@given(LETTERS, LETTERS)
def test_edit_distance_is_that_of_the_table(a, b):
    row = list(range(len(b) + 1))
    for symbol in a:
        row = phones.edit_row(row, symbol, b)
    assert phones.edit_distance(a, b) == row[-1]


def test_transcripts_become_phones_by_the_dictionary():
    words = phones.transcript_phones("Don't read, THE boys'")
    assert words is not None
    assert len(words) == 4
    assert ("R", "IY", "D") in words[1]
    assert ("R", "EH", "D") in words[1]
    assert phones.transcript_phones("qwxzzt") is None
    assert phones.transcript_phones("route 66") is None
    assert phones.transcript_errors("", ["AH"]) is None


def test_transcript_errors_take_the_nearest_pronunciation():
    assert phones.transcript_errors("boys read", ["B", "OY", "Z", "R", "EH", "D"]) == (0, 6)
    assert phones.transcript_errors("boys read", ["B", "OY", "Z", "R", "IY", "D"]) == (0, 6)
    assert phones.transcript_errors("boys read", ["B", "OY", "Z", "R", "AA", "D"]) == (1, 6)
    assert phones.transcript_errors("boys read", []) == (6, 6)


def test_phones_depend_on_the_clip_alone(clip_paths):
    spoken = [soundfile.read(path, frames=48000)[0] for path in clip_paths]
    forward = [phones.decode_phones(clip) for clip in spoken]
    backward = [phones.decode_phones(clip * 0.01) for clip in reversed(spoken)]
    assert forward == backward[::-1]
    assert all(len(heard) > 5 for heard in forward)
    assert all(phones.is_phone(phone) for heard in forward for phone in heard)


def test_silence_and_fillers_are_no_phones():
    assert phones.decode_phones(np.zeros(16000)) == []
    assert not any(phones.is_phone(filler) for filler in ("SIL", "+NSN+", "<s>", "[NOISE]"))


def test_noise_raises_the_phone_error_rate(clip):
    heard = phones.decode_phones(clip)
    light = phones.phone_errors(heard, phones.decode_phones(noisy(clip, 0.02)))
    heavy = phones.phone_errors(heard, phones.decode_phones(noisy(clip, 2.0)))
    assert light[1] == heavy[1] == len(heard)
    assert light[0] < 0.6 * heavy[0]


# --- clips ----------------------------------------------------------------------------------


def write_clips(folder, speakers=3, each=3, seconds=1.0):
    folder.mkdir(parents=True, exist_ok=True)
    rng = np.random.default_rng(0)
    lines = ["file\tspeaker\tlang\ttext"]
    for speaker in range(speakers):
        for at in range(each + speaker):
            name = f"s{speaker}-{at}.wav"
            soundfile.write(folder / name, rng.normal(0, 0.1, int(16000 * seconds)), 16000)
            lines.append(f"{name}\tspk{speaker}\t{'zh' if at else 'en-GB'}\tTHE BOYS")
    (folder.parent / "table.tsv").write_text("\n".join(lines))


def test_a_choice_is_balanced_over_speakers_and_repeatable(tmp_path):
    write_clips(tmp_path / "clips")
    entries = clips.find_clips(tmp_path / "clips")
    assert len(entries) == 12
    chosen = clips.choose(entries, 6)
    assert sorted(entry.speaker for entry in chosen) == [
        f"spk{speaker}" for speaker in (0, 0, 1, 1, 2, 2)
    ]
    assert clips.choose(reversed(entries), 6) == chosen
    assert set(clips.choose(entries, 3)) <= set(chosen)
    assert len(clips.choose(entries, 100)) == 12


def test_transcripts_are_english_and_only_of_whole_clips(tmp_path):
    write_clips(tmp_path / "clips", 1, 2, seconds=2.0)
    entries = clips.find_clips(tmp_path / "clips")
    assert [entry.text for entry in entries] == ["THE BOYS", None]
    whole, cropped = (clips.load(entries[0], limit) for limit in (3.0, 1.0))
    assert (whole.seconds, whole.text) == (2.0, "THE BOYS")
    assert (cropped.seconds, cropped.text) == (1.0, None)


def test_languages_come_from_the_table(tmp_path):
    write_clips(tmp_path / "in", speakers=1, each=2)
    found = clips.find_clips(tmp_path / "in")
    assert [entry.language for entry in found] == ["en-GB", "zh"]
    assert clips.load(found[1], 1.0).language == "zh"
    rows = ["file\tlang", "s0-0.wav\t[red]zh", f"s0-1.wav\t{'z' * 36}"]
    (tmp_path / "table.tsv").write_text("\n".join(rows))
    assert [entry.language for entry in clips.find_clips(tmp_path / "in")] == ["", ""]


def test_unusable_clips_are_left_out_with_a_reason(tmp_path):
    write_clips(tmp_path, 1, 1)
    soundfile.write(tmp_path / "silent.wav", np.zeros(16000), 16000)
    soundfile.write(tmp_path / "short.wav", np.ones(100), 16000)
    (tmp_path / "broken.flac").write_bytes(b"fLaC but no more")
    (tmp_path / "odd.tsv").write_bytes(b"\xff\xfe\x00")
    used, skipped = clips.load_clips(tmp_path, 10, 15.0)
    assert [clip.name for clip in used] == ["s0-0.wav"]
    assert set(skipped) == {"silent.wav", "short.wav", "broken.flac"}
    assert all("\n" not in reason for reason in skipped.values())


def test_folders_without_speech_are_refused(tmp_path):
    with pytest.raises(BadInput, match="no audio"):
        clips.find_clips(tmp_path)
    with pytest.raises(BadInput):
        clips.find_clips(tmp_path / "absent")


# --- peers ----------------------------------------------------------------------------------


def ogg_page(sizes, fill=b"x"):
    lacing = b"".join(bytes([255]) * (size // 255) + bytes([size % 255]) for size in sizes)
    return b"OggS" + bytes(22) + bytes([len(lacing)]) + lacing + fill * sum(sizes)


def test_ogg_packets_are_counted_across_pages():
    packets = peers.ogg_packets(ogg_page([10, 300, 255]) + ogg_page([0, 7], b"y"))
    assert packets == [b"x" * 10, b"x" * 300, b"x" * 255, b"", b"y" * 7]
    # A packet of 255 + 40 bytes that goes on in the next page.
    split = b"OggS" + bytes(22) + b"\x01\xff" + bytes(255) + ogg_page([40])
    assert [len(packet) for packet in peers.ogg_packets(split)] == [295]


@pytest.mark.parametrize("data", [b"junk", ogg_page([10])[:-1], ogg_page([10])[:20]])
def test_damaged_ogg_is_refused(data):
    with pytest.raises(BadStream):
        peers.ogg_packets(data)


def test_pcm_goes_both_ways(clip):
    back = peers.from_pcm(peers.to_pcm(clip, 16000), 16000)
    assert np.abs(back - clip).max() < 1e-4
    assert len(peers.to_pcm(clip[:1001], 8000, 320)) == 2 * 640


# Bits per second each codec is known for. Opus has a variable rate; AMR saves bits in silence.
RATES = {
    "Codec2 1200": (1200, 0.02),
    "Codec2 3200": (3200, 0.02),
    "Speex 2.15k": (2150, 0.02),
    "Speex 8k": (8000, 0.02),
    "AMR-NB 4.75k": (4750, 0.15),
    "AMR-NB 6.7k": (6700, 0.15),
    "Opus 6k": (6000, 0.3),
    "Opus 9k CBR": (9000, 0.05),
}


@pytest.mark.parametrize("name", RATES)
def test_a_peer_codes_speech_at_its_rate(clip, name):
    peer = next(peer for peer in peers.all_peers() if peer.name == name)
    absent = peer.missing()
    if absent:
        pytest.skip(absent)
    coded = peer.run(clip)
    expected, tolerance = RATES[name]
    assert coded.payload_bits / (len(clip) / 16000) == pytest.approx(expected, rel=tolerance)
    assert coded.total_bits >= coded.payload_bits
    assert len(coded.decoded) == pytest.approx(len(clip), abs=1600)
    assert scores.score(clip, coded.decoded)["stoi"] > 0.6
    assert coded.encode_s > 0
    # A program that ends at once may not have been sampled.
    assert coded.peak_bytes is None or 5e5 < coded.peak_bytes < 2e8


def test_programs_that_fail_hang_or_are_absent_give_one_line():
    for command, timeout in (
        (["no-such-codec"], 5),
        ([sys.executable, "-c", "import sys; sys.exit('broken\\npipe')"], 30),
        ([sys.executable, "-c", "import time; time.sleep(60)"], 0.5),
    ):
        with pytest.raises(coding.Unavailable) as caught:
            peers.measure(command, timeout)
        assert "\n" not in str(caught.value)


def test_the_memory_of_a_program_is_its_own():
    hungry = "x = bytearray(150 * 1024 * 1024); x[::4096] = b'1' * len(x[::4096])"
    large = peers.measure([sys.executable, "-S", "-c", hungry]).peak_bytes
    assert large == pytest.approx(160 * 2**20, rel=0.1)
    small = peers.measure(["sleep", "0.2"]).peak_bytes
    assert small is not None
    # Less than the Python process that started it.
    assert small < 6 * 2**20


def test_absent_peers_are_named(monkeypatch):
    monkeypatch.setattr(shutil, "which", lambda program: None)
    ready, absent = peers.installed_peers()
    assert ready == []
    assert set(absent) == {peer.name for peer in peers.all_peers()}
    assert all(reason.startswith("not installed") for reason in absent.values())


# --- the benchmark --------------------------------------------------------------------------


@pytest.fixture
def spoken(clip):
    return [
        clips.Clip("one", "a", "", clip[:32000], None),
        clips.Clip("two", "a", "", clip[32000:72000], None),
    ]


def test_codecs_are_coded_and_scored_together(spoken):
    codecs = (coding.Original(), Noise("light", ratio=0.05), Noise("heavy", ratio=1.0))
    codings = [
        coding.Coding(codec.name, codec.line, [codec.run(clip.samples) for clip in spoken])
        for codec in codecs
    ]
    original, light, heavy = scores.score_codings(codings, spoken, workers=0)
    figures = speech.summary(light)
    assert figures["payload_bits_per_s"].value == pytest.approx(1000)
    assert figures["total_bits_per_s"].value == pytest.approx(2000)
    assert figures["encode_real_time_factor"].value == pytest.approx(0.2 / 4.5)
    assert speech.summary(original)["phone_error_rate"].value == 0
    assert speech.summary(heavy)["phone_error_rate"].value > figures["phone_error_rate"].value
    gain = speech.paired_gain(light, heavy)
    assert gain["pesq_nb"].low > 0
    assert gain["total_bits_per_s"].value == 0


def test_a_codec_in_its_own_process_gives_the_same(spoken):
    there = coding.code_clips(Noise(ratio=0.3), spoken)
    assert there.failure is None
    for clip, coded in zip(spoken, there.coded, strict=True):
        np.testing.assert_array_equal(coded.decoded, Noise(ratio=0.3).run(clip.samples).decoded)
    assert there.peak_bytes is not None
    assert there.peak_bytes > 10e6


@pytest.mark.parametrize("how", ["raises", "dies", "hangs", "short", "nan"])
def test_a_failing_codec_is_reported_and_not_fatal(spoken, how):
    result = coding.code_clips(Broken(how=how), spoken, timeout_s=1.0 if how == "hangs" else 300.0)
    assert result.failure
    assert "\n" not in result.failure
    assert result.coded == []


def test_clips_are_coded_and_scored_elsewhere_as_here(spoken, monkeypatch):
    """In parts, of which one that fails is reported as its codec's failure."""
    monkeypatch.setattr(coding, "_PART", 1)
    codecs = [coding.Original(), Noise("noise", ratio=0.3), Broken(), Noise("lost", ratio=0.2)]
    steps: list[str] = []

    def elsewhere(function, items):
        for number, item in enumerate(items):
            yield "3 workers died of it" if number == 7 else function(item)

    there = coding.code_elsewhere(codecs, spoken, elsewhere, step=steps.append)
    assert [each.name for each in there] == ["original", "noise", "broken", "lost"]
    assert steps == [each.name for each in codecs for _ in spoken]
    assert "RuntimeError" in str(there[2].failure) and not there[2].coded
    assert there[3].failure == "3 workers died of it" and not there[3].coded
    for clip, coded in zip(spoken, there[1].coded, strict=True):
        np.testing.assert_array_equal(coded.decoded, codecs[1].run(clip.samples).decoded)
    scored = [
        scores.score_codings(there[:2], spoken, workers=0, with_phones=False, elsewhere=where)
        for where in (None, lambda function, items: map(function, items))
    ]
    for here, away in zip(*scored, strict=True):
        assert [clip.clip for clip in here.clips] == [clip.clip for clip in away.clips]
        for one, other in zip(here.clips, away.clips, strict=True):
            # Where arrays lie in memory decides how their sums are rounded.
            assert one.scores == pytest.approx(other.scores, rel=1e-9)
            assert replace(one, scores={}) == replace(other, scores={})
    with pytest.raises(SottoError, match="could not be scored"):
        scores.score_codings(there[:2], spoken, elsewhere=lambda _, items: ("no" for _ in items))


class StoredCodec:
    """Stands in for SpeechCodec: each frame's packet holds 100 bytes of nothing."""

    MODEL_ID = "0123456789abcdef"
    seen: ClassVar[list[bool]] = []

    @classmethod
    def load(cls, preset, device="auto", model=None):
        return cls()

    def encode(self, samples, sample_rate, *, search=True):
        self.seen.append(search)
        out = io.BytesIO()
        writer = ContainerWriter(out, StreamHeader("2k", self.MODEL_ID))
        for at in range(-(-len(samples) // 16384)):
            writer.write(Packet(at, 0, bytes(100), short_id(self.MODEL_ID)))
        writer.finish(len(samples))
        self.samples = samples
        return out.getvalue()

    def decode(self, data):
        return np.zeros(len(self.samples), np.float32)


def test_sotto_is_counted_in_packets_without_the_container(monkeypatch, clip):
    monkeypatch.setattr("codec.speech.codec.SpeechCodec", StoredCodec)
    monkeypatch.setattr(StoredCodec, "seen", [])
    # No preset of sotto's, so that no other test can have loaded it before.
    first, last = coding.sotto_codecs(["stored"])
    last.prepare()
    coded = last.run(clip[:40000])
    assert coded.payload_bits == 3 * 8 * 100
    assert coded.total_bits == 3 * 8 * 108
    first.run(clip[:100])
    assert StoredCodec.seen == [False, False, True]


@pytest.mark.parametrize("delay", [64, 256, 1024])
def test_the_encoder_of_a_call_is_measured(clip, delay):
    codecs = coding.sotto_codecs(["2k"], delays=[delay], live=True, device="cpu")
    names = {codec.name: codec for codec in codecs}
    live = names[f"sotto 2k, {delay} ms, live"]
    assert (f"sotto 2k, {delay} ms" in names) == (delay < 1024)
    assert live.line == "sotto, live"
    coded = live.run(clip[:32000])
    assert len(coded.decoded) == 32000
    packets = -(-32000 // (16 * delay))
    assert coded.total_bits == coded.payload_bits + packets * 16
    assert 500 < coded.payload_bits < 8000
    assert coded.encode_s > 0 and coded.decode_s > 0
    assert scores.score(clip[:32000], coded.decoded, 0.0)["stoi"] > 0.8


def test_each_search_is_compared_with_none_and_with_the_one_before_it():
    names = [codec.name for codec in coding.search_codecs("2k", (30,))]
    assert names == [
        "2k: no search",
        "2k: back-propagation, 30",
        "2k: ADMM, 30",
        "2k: ADMM and moves, 30",
        "2k: mean field, 30",
    ]
    results = [scores.CodecResult(name, "", []) for name in names]
    pairs = [(a.name, b.name) for a, b in speech.search_gains(results)]
    assert pairs == [
        ("2k: back-propagation, 30", "2k: no search"),
        ("2k: ADMM, 30", "2k: no search"),
        ("2k: ADMM, 30", "2k: back-propagation, 30"),
        ("2k: ADMM and moves, 30", "2k: no search"),
        ("2k: ADMM and moves, 30", "2k: ADMM, 30"),
        ("2k: mean field, 30", "2k: no search"),
        ("2k: mean field, 30", "2k: ADMM and moves, 30"),
    ]


def test_the_command_writes_table_figures_and_plot(tmp_path, clip_path, capsys, monkeypatch):
    monkeypatch.setattr(speech, "sotto_codecs", lambda *_, **__: [Noise(), Broken()])
    (tmp_path / "in").mkdir()
    shutil.copy(clip_path, tmp_path / "in")
    out, plot = tmp_path / "out.json", tmp_path / "out.png"
    argv = ["bench", "speech", str(tmp_path / "in"), "--peers", "none", "--max-seconds", "2"]
    argv += ["--workers", "1", "--no-phones", "--json", str(out), "--plot", str(plot)]
    assert cli.main(argv) == 1
    printed = capsys.readouterr()
    assert "noise" in printed.out
    assert "broken: RuntimeError: two lines" in printed.out
    assert printed.err == "sotto: broken was not measured: RuntimeError: two lines\n"
    figures = json.loads(out.read_text())
    by_name = {system["name"]: system for system in figures["systems"]}
    assert set(by_name) == {"original", "noise"}
    assert figures["failed"] == figures["missing"] == {"broken": "RuntimeError: two lines"}
    assert by_name["noise"]["summary"]["total_bits_per_s"]["value"] == pytest.approx(2000)
    assert by_name["noise"]["summary"]["phone_error_rate"]["value"] is None
    assert plot.read_bytes().startswith(b"\x89PNG")


def conditioned(folder, out, *options):
    argv = ["bench", "speech", str(folder), "--peers", "none", "--max-seconds", "2"]
    return cli.main([*argv, "--workers", "1", "--json", str(out), *options])


def test_every_codec_is_measured_under_every_condition(tmp_path, clip_paths, capsys, monkeypatch):
    monkeypatch.setattr(speech, "sotto_codecs", lambda *_, **__: [Noise(ratio=0.3), Broken()])
    (tmp_path / "in").mkdir()
    for path in clip_paths[:2]:
        shutil.copy(path, tmp_path / "in")
    languages = zip(clip_paths[:2], ("en", "en-L2zh"), strict=True)
    rows = [f"{path.name}\t{language}" for path, language in languages]
    (tmp_path / "in" / "table.tsv").write_text("\n".join(["file\tlang", *rows]))
    out = tmp_path / "out.json"
    options = ["--conditions", "noise5,talker", "--denoise", "--group", "language"]
    assert conditioned(tmp_path / "in", out, *options) == 1
    figures = json.loads(out.read_text())
    assert [system["name"] for system in figures["systems"]] == ["original", "noise"]
    names = {"noise5", "noise5-denoised", "talker", "talker-denoised"}
    assert set(figures["conditions"]) == names
    noisy, denoised = (figures["conditions"][name] for name in ("noise5", "noise5-denoised"))
    assert denoised["how"] == noisy["how"] + ", then denoised"
    assert noisy["systems"][0]["clips"] != denoised["systems"][0]["clips"]
    assert set(figures["missing"]) == {"broken"}
    clean = figures["systems"][1]["summary"]
    for condition in figures["conditions"].values():
        given, coded = condition["systems"]
        assert (given["name"], coded["name"]) == ("input", "noise")
        assert len(given["clips"]) == len(coded["clips"]) == 2
        # Against what the codec was given: the condition costs nothing, the codec what it adds.
        assert given["summary"]["stoi"]["value"] == pytest.approx(1, abs=1e-6)
        assert coded["summary"]["stoi"]["value"] < 0.99
        # Against what was said: the condition counts as well.
        assert given["summary"]["phone_error_rate"]["value"] > 0
        assert coded["summary"]["total_bits_per_s"] == clean["total_bits_per_s"]
        assert set(coded["languages"]) == {"en", "en-L2zh"}
        for part, clip in zip(coded["languages"].values(), coded["clips"], strict=True):
            assert part["stoi"]["value"] == clip["stoi"]
    assert figures["systems"][0]["summary"]["phone_error_rate"]["value"] == 0
    printed = capsys.readouterr().out
    assert "Speech codecs, en-L2zh (1 clip)" in printed
    _, under = printed.split("noise5: stationary noise")
    table, _ = under.split("noise5, en (1 clip)")
    assert "input" in table
    assert "original │" not in table  # as the name of a row
    assert max(map(len, table.splitlines())) <= 100
    assert "Under a condition" in printed


def test_a_talker_who_is_alone_is_refused(tmp_path, clip_path, capsys):
    (tmp_path / "in").mkdir()
    shutil.copy(clip_path, tmp_path / "in")
    assert conditioned(tmp_path / "in", tmp_path / "out.json", "--conditions", "talker") == 1
    said = capsys.readouterr().err
    assert said.count("\n") == 1
    assert "no other speaker" in said


@pytest.mark.parametrize(
    ("argv", "status"),
    [
        ([], 2),
        (["nonsense"], 2),
        (["speech"], 2),
        (["speech", ".", "--peers", "mp3"], 2),
        (["speech", ".", "--clips", "0"], 2),
        (["speech", ".", "--max-seconds", "nan"], 2),
        (["speech", ".", "--conditions", "rain"], 2),
        (["speech", ".", "--conditions", "noise5,"], 2),
        (["speech", ".", "--conditions", "quiet", "--ablation"], 2),
        (["speech", ".", "--denoise"], 2),
        (["speech", ".", "--group", "weather"], 2),
        (["speech", "/no/such/folder"], 1),
        (["speech", ".", "--json", "/no/such/folder/x.json"], 1),
        (["speech", "--help"], 0),
    ],
)
def test_exit_statuses(argv, status, capsys):
    assert cli.main(["bench", *argv]) == status
    if status == 1:
        assert len(capsys.readouterr().err.strip().splitlines()) == 1


def test_one_subprocess_run_is_quiet_in_a_pipe(tmp_path, clip_path):
    shutil.copy(clip_path, tmp_path)
    command = [sys.executable, "-m", "tui.cli", "bench", "speech", str(tmp_path), "--json", "-"]
    command += ["--presets", "no-such-preset", "--peers", "none", "--max-seconds", "2"]
    command += ["--workers", "1"]
    done = subprocess.run(
        command, capture_output=True, timeout=300, cwd=Path(__file__).parents[1], check=False
    )
    assert done.returncode == 1, done.stderr
    figures = json.loads(done.stdout)
    assert [system["name"] for system in figures["systems"]] == ["original"]
    assert any("no-such-preset" in name for name in figures["missing"])
    assert b"\x1b" not in done.stderr
    assert b"\r" not in done.stderr


class ClosedPipe(io.StringIO):
    def write(self, text):
        raise BrokenPipeError


def test_a_table_into_a_closed_pipe_is_a_broken_pipe():
    with pytest.raises(BrokenPipeError):
        tables.console(ClosedPipe()).print("a table")


@pytest.mark.parametrize("subject", ["speech", "image", "ganz", "link"])
@pytest.mark.parametrize(
    ("error", "status", "line"),
    [
        (BadInput("no clips"), 1, "sotto: no clips\n"),
        (OSError("no space left"), 1, "sotto: no space left\n"),
        (ImportError("No module named 'pesq'", name="pesq"), 1, None),
        (KeyboardInterrupt(), 128 + signal.SIGINT, "sotto: interrupted\n"),
        (BrokenPipeError(), 128 + 13, ""),
    ],
    ids=lambda value: type(value).__name__,
)
def test_all_benchmarks_end_alike(monkeypatch, capsys, subject, error, status, line):
    def measure(args):
        raise error

    monkeypatch.setattr(f"tui.commands.bench.{subject}.measure", measure)
    assert cli.main(["bench", subject, *(["x"] if subject != "link" else [])]) == status
    said = capsys.readouterr().err
    if line is None:
        assert said.endswith("install sotto with its bench extra, sotto[bench]\n")
        assert said.count("\n") == 1
    else:
        assert said == line
