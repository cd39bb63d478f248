"""The `sotto` command line as people, pipes and scripts use it.

It runs on the stand-in codec of `fake_speech`, which needs no neural network: these tests cover
everything around the codec. Tests of pipes, signals and terminals run it in its own process.
"""

from __future__ import annotations

import io
import json
import os
import pty
import shutil
import signal
import subprocess
import sys
import time
from contextlib import suppress
from dataclasses import dataclass
from itertools import islice
from pathlib import Path

import numpy as np
import pytest
import soundfile

from codec.container import ContainerReader, ContainerWriter, StreamHeader, scan
from codec.errors import BadInput
from codec.files import wav
from codec.files.audio import audio_output, read_audio
from codec.packet import Packet
from codec.packet_loss import losses
from tests.fake_speech import MODEL_ID, STARTED, STUCK, stand_in
from tui.cli import main

ROOT = Path(__file__).resolve().parent.parent
FAKE = [sys.executable, str(ROOT / "tests" / "fake_speech.py")]
ENVIRONMENT = {**os.environ, "PYTHONPATH": str(ROOT)}


@pytest.fixture(autouse=True)
def stand_in_codec(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "codec.speech.codec", stand_in())


def sotto(*args: str | Path, stdin: bytes = b"", status: int = 0) -> Heard:
    """Run the command here; on failure there must be exactly one line on stderr."""
    heard = run_here([str(arg) for arg in args], stdin)
    error = heard.stderr.decode()
    assert heard.status == status, error
    if status == 1:
        assert error.count("\n") == 1
        assert error.startswith("sotto: ")
    return heard


@dataclass(frozen=True)
class Heard:
    status: int
    stdout: bytes
    stderr: bytes


def run_here(args: list[str], stdin: bytes = b"") -> Heard:
    """Run the command in this process, which saves starting a Python for each."""
    streams = [io.TextIOWrapper(io.BytesIO(data)) for data in (stdin, b"", b"")]
    before = sys.stdin, sys.stdout, sys.stderr
    sys.stdin, sys.stdout, sys.stderr = streams
    try:
        status = main(args)
    finally:
        sys.stdin, sys.stdout, sys.stderr = before
    for stream in streams[1:]:
        stream.flush()
    return Heard(status, *(stream.buffer.getvalue() for stream in streams[1:]))


def tone(seconds: float = 3.0, hertz: float = 100.0, rate: int = 16_000) -> np.ndarray:
    t = np.arange(int(seconds * rate)) / rate
    return (0.5 * np.sin(2 * np.pi * hertz * t)).astype(np.float32)


@pytest.fixture
def speech(tmp_path: Path) -> Path:
    """Three seconds of tone: 48 000 samples, 3 frames."""
    path = tmp_path / "speech.wav"
    soundfile.write(path, tone(), 16_000)
    return path


@pytest.fixture
def coded(speech: Path, tmp_path: Path) -> Path:
    path = tmp_path / "speech.sotto"
    sotto("encode", speech, path)
    return path


def names(folder: Path) -> list[str]:
    return sorted(os.listdir(folder))


# One file


def test_there_and_back_is_quiet_and_sample_aligned(speech: Path, tmp_path: Path) -> None:
    coded, back = tmp_path / "a.sotto", tmp_path / "b.flac"
    for args in (("encode", speech, coded), ("decode", coded, back)):
        done = sotto(*args)
        assert done.stdout == b""
        assert done.stderr == b""
    assert soundfile.info(tmp_path / "b.flac").format == "FLAC"
    found = read_audio(tmp_path / "b.flac")
    assert len(found) == 48_000
    assert np.abs(found - tone()).max() < 0.05
    assert names(tmp_path) == ["a.sotto", "b.flac", "speech.wav"]


@pytest.mark.parametrize("samples", [1, 16_383, 16_384, 16_385, 32_768])
def test_length_is_exact(samples: int, tmp_path: Path) -> None:
    soundfile.write(tmp_path / "a.wav", tone()[:samples], 16_000)
    sotto("encode", tmp_path / "a.wav", tmp_path / "a.sotto")
    sotto("decode", tmp_path / "a.sotto", tmp_path / "b.wav")
    piped = sotto("decode", "-", "-", stdin=(tmp_path / "a.sotto").read_bytes()).stdout
    assert soundfile.info(tmp_path / "b.wav").frames == samples
    assert (len(piped) - wav.HEADER_BYTES) // 2 == samples


@pytest.mark.parametrize(
    ("rate", "channels"), [(8_000, 1), (16_000, 6), (44_100, 2), (96_000, 2), (192_000, 1)]
)
def test_any_rate_and_channels(rate: int, channels: int, tmp_path: Path) -> None:
    samples = np.repeat(tone(rate=rate)[:, None], channels, axis=1)
    soundfile.write(tmp_path / "a.wav", samples, rate, "PCM_24")
    sotto("encode", tmp_path / "a.wav", tmp_path / "a.sotto")
    sotto("decode", tmp_path / "a.sotto", tmp_path / "b.wav")
    found = read_audio(tmp_path / "b.wav")
    assert abs(len(found) - 48_000) <= 1
    assert np.abs(found[500:47_500] - tone()[500:47_500]).max() < 0.05


@pytest.mark.parametrize("kind", ["silence", "square", "not a number"])
def test_strange_signals_work(kind: str, tmp_path: Path) -> None:
    samples = {
        "silence": np.zeros(20_000, np.float32),
        "square": np.sign(tone()),
        "not a number": np.full(20_000, np.nan, np.float32),
    }[kind]
    soundfile.write(tmp_path / "a.wav", samples, 16_000, "FLOAT")
    done = sotto("encode", tmp_path / "a.wav", tmp_path / "a.sotto")
    assert done.stderr.count(b"\n") == (kind == "not a number")
    sotto("decode", tmp_path / "a.sotto", tmp_path / "b.wav")
    found = read_audio(tmp_path / "b.wav")
    assert len(found) == len(samples)
    if kind != "square":
        assert np.abs(found).max() < 0.01


def test_module_runs_too(coded: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "tui", "info", "--json", str(coded)],
        capture_output=True,
        cwd=ROOT,
        env=ENVIRONMENT,
        timeout=120,
        check=True,
    )
    assert json.loads(done.stdout)["frames"] == 3


# Pipes


def test_pipes_agree_with_files(speech: Path, coded: Path, tmp_path: Path) -> None:
    sotto("decode", coded, tmp_path / "b.wav")
    streamed = sotto("encode", "-", "-", stdin=speech.read_bytes()).stdout
    assert streamed == coded.read_bytes()
    program = " ".join(FAKE)
    script = f"cat {speech} | {program} encode - - | {program} decode - - | cat"
    done = subprocess.run(
        ["bash", "-c", script], capture_output=True, env=ENVIRONMENT, timeout=120, check=True
    )
    assert done.stderr == b""
    heard = done.stdout
    assert heard[wav.HEADER_BYTES :] == (tmp_path / "b.wav").read_bytes()[wav.HEADER_BYTES :]
    assert len(read_back(heard, tmp_path)) == 48_000


def read_back(data: bytes, tmp_path: Path) -> np.ndarray:
    (tmp_path / "back.wav").write_bytes(data)
    return read_audio(tmp_path / "back.wav")


def test_bogus_length_on_a_pipe(speech: Path, coded: Path) -> None:
    data = bytearray(speech.read_bytes())
    data[4:8] = data[40:44] = b"\xff\xff\xff\xff"
    assert sotto("encode", "-", "-", stdin=bytes(data)).stdout == coded.read_bytes()


def test_reader_that_goes_away_is_no_noise(tmp_path: Path) -> None:
    with audio_output(tmp_path / "long.wav") as writer:
        writer.write(tone(120.0))
    sotto("encode", tmp_path / "long.wav", tmp_path / "long.sotto")
    script = (
        f"{' '.join(FAKE)} decode {tmp_path}/long.sotto - | head -c 10 >/dev/null; "
        "echo ${PIPESTATUS[0]}"
    )
    done = subprocess.run(
        ["bash", "-c", script], capture_output=True, env=ENVIRONMENT, timeout=120, check=True
    )
    assert done.stderr == b""
    assert done.stdout == b"141\n"


@pytest.mark.parametrize(
    ("args", "status"),
    [(["info", "none.sotto"], 1), (["nonsense"], 2), (["--help"], 141), (["keygen", "k.key"], 0)],
)
def test_messages_that_nobody_reads_change_no_status(
    args: list[str], status: int, tmp_path: Path
) -> None:
    reading, writing = os.pipe()
    os.close(reading)
    done = subprocess.run(
        [*FAKE, *args], stderr=writing, stdout=writing if status == 141 else subprocess.DEVNULL,
        env=ENVIRONMENT, cwd=tmp_path, timeout=120,
    )  # fmt: skip
    os.close(writing)
    assert done.returncode == status


def test_standard_output_that_is_full(coded: Path) -> None:
    for args in (["decode", str(coded), "-"], ["info", str(coded)], ["--help"], ["encode", "-h"]):
        with open("/dev/full", "wb") as full:
            done = subprocess.run(
                [*FAKE, *args], stdout=full, stderr=subprocess.PIPE, env=ENVIRONMENT, timeout=120
            )
        assert done.returncode == 1
        assert b"no space left" in done.stderr
        assert done.stderr.count(b"\n") == 1


# Interruption


@pytest.mark.parametrize(
    ("what", "number", "status"),
    [
        ("encode", signal.SIGINT, 130),
        ("encode", signal.SIGTERM, 143),
        ("encode", signal.SIGHUP, 129),
        ("decode", signal.SIGINT, 130),
        ("transcode", signal.SIGINT, 130),
    ],
)
def test_interrupting_leaves_nothing(
    what: str, number: signal.Signals, status: int, tmp_path: Path
) -> None:
    source, out = tmp_path / "in", tmp_path / "out"
    source.mkdir()
    out.mkdir()
    with audio_output(source / "a.wav") as writer:
        writer.write(tone(300.0))
    target = out / ("a.sotto" if what == "encode" else "a.flac")
    if what == "decode":
        sotto("encode", source / "a.wav", source / "a.sotto")
        coded = (source / "a.sotto").read_bytes()
        os.unlink(source / "a.wav")
        # The preset 'slow' of the same length, so that there is time to interrupt.
        (source / "a.sotto").write_bytes(_with_preset(coded, tmp_path))
    args = [what, str(next(source.iterdir())), str(target)]
    if what != "decode":
        args += ["--preset", "slow"]
    started = tmp_path / "started"
    process = subprocess.Popen(
        [*FAKE, *args], stderr=subprocess.PIPE, env={**ENVIRONMENT, STARTED: str(started)}
    )
    try:
        limit = time.monotonic() + 90
        while not started.exists() and time.monotonic() < limit:
            time.sleep(0.02)
        process.send_signal(number)
        error = process.communicate(timeout=120)[1]
    finally:
        process.kill()
    assert process.returncode == status
    assert error == (b"sotto: interrupted\n" if number == signal.SIGINT else b"")
    assert names(out) == []


def _alive(group: int) -> list[str]:
    """What runs in a group of processes."""
    found = []
    for place in Path("/proc").glob("[0-9]*"):
        with suppress(OSError):
            name, _, rest = (place / "stat").read_text().rpartition(")")
            state, _, its_group = rest.split()[:3]
            if int(its_group) == group and state != "Z":
                found.append(name)
    return found


@pytest.mark.parametrize("what", ["decode", "transcode"])
@pytest.mark.parametrize(("number", "status"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_an_ended_run_leaves_no_worker_and_no_draft(
    what: str, number: signal.Signals, status: int, speech: Path, coded: Path, tmp_path: Path
) -> None:
    """Though its workers are in the middle of files; Ctrl-C reaches them, too."""
    source, out = tmp_path / "in", tmp_path / "out"
    source.mkdir()
    for name in ("a", "b"):
        shutil.copy(coded if what == "decode" else speech, source / f"{name}.{what}")
    process = subprocess.Popen(
        [*FAKE, what, *map(str, source.iterdir()), f"{out}/", "--jobs", "2"],
        stderr=subprocess.PIPE, env={**ENVIRONMENT, STUCK: "1"}, start_new_session=True,
    )  # fmt: skip
    try:
        limit = time.monotonic() + 90
        while len(list(out.glob(".*.part"))) < 2 and process.poll() is None:
            assert time.monotonic() < limit
            time.sleep(0.02)
        begun = time.monotonic()
        os.killpg(process.pid, number) if number == signal.SIGINT else process.terminate()
        error = process.communicate(timeout=60)[1]
        while _alive(process.pid):
            assert time.monotonic() < begun + 10.0
            time.sleep(0.02)
        assert time.monotonic() < begun + 5.0  # two, where nothing else is going on
    finally:
        with suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
    assert process.returncode == status
    assert error == (b"sotto: interrupted\n" if number == signal.SIGINT else b"")
    assert names(out) == ["manifest.jsonl"]


def _with_preset(coded: bytes, tmp_path: Path) -> bytes:
    """The same packets under a header that asks for the preset 'slow'."""
    reader = ContainerReader(io.BytesIO(coded))
    sink = io.BytesIO()
    writer = ContainerWriter(sink, StreamHeader(preset="slow", model_id=MODEL_ID))
    for item in reader:
        assert isinstance(item, Packet)
        writer.write(item)
    writer.finish(reader.total_samples or 0)
    return sink.getvalue()


# What is wrong with the input


def test_an_answer_to_nobody_is_an_error(coded: Path) -> None:
    for args in (["info", str(coded)], ["--help"]):
        done = subprocess.run(
            ["sh", "-c", 'exec "$@" >&-', "sh", *FAKE, *args],
            stderr=subprocess.PIPE,
            env=ENVIRONMENT,
            timeout=60,
        )
        assert done.returncode == 1
        assert done.stderr.decode() == "sotto: standard output is closed\n"


def test_bad_inputs_are_one_line_and_leave_no_output(coded: Path, tmp_path: Path) -> None:
    (tmp_path / "text.wav").write_text("hello " * 1_000)
    (tmp_path / "zero.wav").write_bytes(b"")
    (tmp_path / "zero.sotto").write_bytes(b"")
    soundfile.write(tmp_path / "none.wav", np.zeros(0), 16_000)
    damaged = bytearray(coded.read_bytes())
    damaged[12] ^= 0xFF
    (tmp_path / "damaged.sotto").write_bytes(damaged)
    before = names(tmp_path)
    for command, name, words in [
        ("encode", "text.wav", "not audio"),
        ("encode", "zero.wav", "not audio"),
        ("encode", "none.wav", "0 samples"),
        ("encode", "missing.wav", "no such file"),
        ("encode", coded.name, "not audio"),
        ("decode", "text.wav", "not a sotto stream"),
        ("decode", "zero.sotto", "empty"),
        ("decode", "damaged.sotto", "damaged"),
        ("decode", "missing.sotto", "no such file"),
        ("transcode", "text.wav", "not audio"),
        ("transcode", ".", "is a directory"),
    ]:
        done = sotto(command, tmp_path / name, tmp_path / "out.wav", status=1)
        assert words in done.stderr.decode()
        assert names(tmp_path) == before
    for name in ("text.wav", "zero.sotto", "damaged.sotto", "missing", "."):
        assert sotto("info", tmp_path / name, status=1).stdout == b""
    assert b"is empty" in sotto("encode", "-", tmp_path / "out", stdin=b"", status=1).stderr
    assert b"not audio" in sotto("encode", "-", tmp_path / "out", stdin=b"hi" * 99, status=1).stderr
    assert names(tmp_path) == before


def test_bad_outputs_are_one_line(speech: Path, coded: Path, tmp_path: Path) -> None:
    before = names(tmp_path)
    cases: list[tuple[str, Path, str | Path, str]] = [
        ("encode", speech, tmp_path / "no" / "a.sotto", "no such file or directory"),
        ("encode", speech, "/proc/a.sotto", "/proc/a.sotto"),
        ("encode", speech, "/dev/full", "no space left"),
        ("decode", coded, tmp_path / "no" / "a.wav", "no such file or directory"),
        ("decode", coded, tmp_path / "a.xyz", "the suffix .xyz is none of wav flac"),
        ("decode", coded, tmp_path / "a", "without a suffix"),
        ("decode", coded, "/dev/full", "no space left"),
    ]
    for command, source, target, words in cases:
        assert words in sotto(command, source, target, status=1).stderr.decode()
    assert names(tmp_path) == before


def test_one_file_goes_into_a_directory(speech: Path, coded: Path, tmp_path: Path) -> None:
    """Under its own name, as `cp` has it; nothing that is there is replaced."""
    place = tmp_path / "dir"
    place.mkdir()
    sotto("decode", coded, place)
    sotto("encode", speech, f"{place}/")
    made = [coded.with_suffix(".wav").name, speech.with_suffix(".sotto").name]
    assert names(place) == sorted(made)
    assert b"exists" in sotto("decode", coded, place, status=1).stderr
    assert b"no name" in sotto("encode", "-", place, stdin=speech.read_bytes(), status=2).stderr
    assert names(place) == sorted(made)


def test_disk_that_fills_up(speech: Path, coded: Path, tmp_path: Path) -> None:
    # A limit on file sizes stands in for a full disk: the same error path, in bash's kilobytes.
    for args in (
        f"decode {coded} {tmp_path}/out.wav",
        f"decode {coded} {tmp_path}/out.w64",
        f"encode {speech} {tmp_path}/out.sotto",
    ):
        before = names(tmp_path)
        done = subprocess.run(
            ["bash", "-c", f"ulimit -f 2; exec {' '.join(FAKE)} {args}"],
            capture_output=True,
            env={**ENVIRONMENT, "PYTHONDONTWRITEBYTECODE": "1"},
            timeout=120,
        )
        assert done.returncode == 1
        assert done.stderr.count(b"\n") == 1
        assert b"file too large" in done.stderr
        assert names(tmp_path) == before


def test_damaged_file_is_decoded_as_far_as_it_goes(coded: Path, tmp_path: Path) -> None:
    data = bytearray(coded.read_bytes())
    data[len(data) // 2] ^= 0x55
    (tmp_path / "hurt.sotto").write_bytes(data)
    done = sotto("decode", tmp_path / "hurt.sotto", tmp_path / "out.wav")
    assert done.stderr.decode().count("\n") == 1
    assert "1 of 3 frames lost" in done.stderr.decode()
    found = read_audio(tmp_path / "out.wav")
    assert len(found) == 48_000
    assert not found[16_384:32_768].any()
    assert np.abs(found[:16_000] - tone()[:16_000]).max() < 0.05


def test_another_models_stream_is_refused(coded: Path, tmp_path: Path) -> None:
    sink = io.BytesIO()
    writer = ContainerWriter(sink, StreamHeader(preset="2k", model_id="f" * 16))
    writer.write(Packet(0, 0, b"x", 0xFFFF))
    writer.finish(5)
    (tmp_path / "other.sotto").write_bytes(sink.getvalue())
    done = sotto("decode", tmp_path / "other.sotto", tmp_path / "out.wav", status=1)
    assert b"coded with model ffffffffffffffff" in done.stderr
    sink = io.BytesIO()
    writer = ContainerWriter(
        sink, StreamHeader("photo", MODEL_ID, "image", sample_rate=0, frame_samples=0)
    )
    writer.finish(0)
    done = sotto("decode", "-", tmp_path / "out.wav", stdin=sink.getvalue(), status=1)
    assert b"holds an image" in done.stderr


def test_a_reason_of_several_lines_is_still_one(
    speech: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(preset: str, device: str, model: Path | None) -> None:
        raise BadInput("weights do not fit:\n\tmissing: centres")

    monkeypatch.setattr("tests.fake_speech.SpeechCodec.load", fail)
    done = sotto("encode", speech, tmp_path / "a.sotto", status=1)
    assert done.stderr == b"sotto: weights do not fit: missing: centres\n"


# Usage


@pytest.mark.parametrize(
    "args",
    [
        [],
        ["sing"],
        ["encode"],
        ["encode", "a.wav"],
        ["encode", "IN", "b", "--iterations", "-1"],
        ["encode", "IN", "b", "--iterations", "2.5"],
        ["encode", "IN", "b", "--budget", "0"],
        ["encode", "IN", "b", "--budget", "nan"],
        ["encode", "IN", "b", "--budget", "inf"],
        ["encode", "IN", "b", "--entropy", "zip"],
        ["encode", "IN", "b", "--device", "tpu"],
        ["encode", "IN", "b", "--no-search", "--iterations", "3"],
        ["encode", "IN", "b", "--no-search", "--method", "admm"],
        ["encode", "IN", "b", "--method", "luck"],
        ["encode", "IN", "IN"],
        ["encode", "DIR", "-"],
        ["encode", "DIR", "IN"],
        ["decode", "IN", "b.wav", "--what"],
        ["decode", "IN", "b.wav", "--loss-rate", "1.5"],
        ["decode", "IN", "b.wav", "--burst", "0.5"],
        ["decode", "IN", "b.wav", "--loss-rate", "-0.1"],
        ["decode", "IN", "b.wav", "--seed", "x"],
        ["decode", "IN", "b.wav", "--loss-rate", "0.9", "--burst", "2"],
        ["train"],
        ["train", "piano"],
        ["bench"],
        ["transcode", "IN", "b.wav", "--picture", "p.gif"],
        ["info"],
    ],
    ids=" ".join,
)
def test_wrong_usage_is_status_2(
    args: list[str], speech: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    before = names(tmp_path)
    places = {
        "IN": str(speech),
        "DIR": str(tmp_path),
        "b": str(tmp_path / "b"),
        "b.wav": str(tmp_path / "b.wav"),
    }
    assert main([places.get(arg, arg) for arg in args]) == 2
    heard = capsys.readouterr()
    assert heard.out == ""
    assert heard.err
    assert "Traceback" not in heard.err
    assert names(tmp_path) == before


def test_unknown_preset_is_one_line(speech: Path, tmp_path: Path) -> None:
    done = sotto("encode", speech, tmp_path / "a.sotto", "--preset", "9k", status=1)
    assert b"'9k'" in done.stderr


@pytest.mark.parametrize("command", ["", "encode", "decode", "transcode", "info", "train", "bench"])
def test_help(command: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main([*command.split(), "--help"]) == 0
    assert capsys.readouterr().out.startswith("usage: sotto")


@pytest.mark.parametrize(
    ("command", "names"),
    [
        ("image", ["encode", "decode", "info", "sense"]),
        ("train", ["speech", "paper", "image", "image-paper", "ganz"]),
        ("bench", ["speech", "image", "ganz", "link"]),
    ],
)
def test_help_lists_what_a_command_is_made_of(command, names, capsys):
    assert main([command, "--help"]) == 0
    lines = capsys.readouterr().out.splitlines()
    listed = [words[0] for words in (line.split() for line in lines) if words]
    assert [name for name in names if name not in listed] == []


def test_help_version_and_info_need_no_torch(coded: Path) -> None:
    code = (
        "import sys, io, contextlib\nfrom tui.cli import main\n"
        "with contextlib.redirect_stdout(io.StringIO()):\n"
        f"    status = [main(['--help']), main(['--version']), main(['info', {str(coded)!r}])]\n"
        "heavy = {'torch', 'librosa', 'matplotlib', 'numba', 'scipy', 'rich'} & set(sys.modules)\n"
        "print(status, sorted(heavy))\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, cwd=ROOT, timeout=120, check=True
    )
    assert done.stdout == b"[0, 0, 0] []\n"


# Info and transcode


def test_info_for_people_and_programs(coded: Path) -> None:
    found = json.loads(sotto("info", coded, "--json").stdout)
    with open(coded, "rb") as file:
        expected = scan(file)
    assert found["preset"] == "2k"
    assert found["model_id"] == MODEL_ID
    assert found["duration_s"] == 3.0
    assert found["frames"] == 3
    assert found["intact"] is True
    assert found["payload_bits_per_s"] == pytest.approx(3_000 * 8 / 3.0)
    assert found["total_bits_per_s"] == pytest.approx(coded.stat().st_size * 8 / 3.0)
    assert found["total_bits_per_s"] == expected.total_bits_per_s
    text = sotto("info", "-", stdin=coded.read_bytes()).stdout.decode()
    assert "3.000 s" in text
    assert "8000 bit/s (3000 bytes)" in text
    assert "intact" in text
    cut = sotto("info", "-", "--json", stdin=coded.read_bytes()[:-10]).stdout
    assert json.loads(cut)["intact"] is False


def test_transcode_reports_what_it_did(tmp_path: Path, clip_path: Path) -> None:
    target, picture = tmp_path / "out.wav", tmp_path / "out.png"
    done = sotto("transcode", clip_path, target, "--json", "--picture", picture)
    report = json.loads(done.stdout)
    assert report["duration_s"] == pytest.approx(80_800 / 16_000)
    assert soundfile.info(target).frames == 80_800
    assert report["frames"] == 5
    assert report["payload_bits_per_s"] == pytest.approx(5_000 * 8 / 5.05)
    assert report["total_bits_per_s"] > report["payload_bits_per_s"]
    assert 1.0 <= report["pesq_nb"] < 4.6
    assert 1.0 <= report["pesq_wb"] < 4.7
    assert 0.0 < report["stoi"] < 1.0
    assert report["scored_s"] == pytest.approx(5.05)
    assert report["encode_real_time_factor"] > 0
    assert report["decode_real_time_factor"] > 0
    assert picture.read_bytes().startswith(b"\x89PNG")
    # The audio on standard output, the report beside it.
    done = sotto("transcode", clip_path, "-")
    assert done.stdout[wav.HEADER_BYTES :] == target.read_bytes()[wav.HEADER_BYTES :]
    assert b"PESQ-NB" in done.stderr


def test_transcode_of_what_has_no_score(tmp_path: Path) -> None:
    soundfile.write(tmp_path / "a.wav", np.zeros(32_000), 16_000)
    report = json.loads(sotto("transcode", tmp_path / "a.wav", tmp_path / "b.wav", "--json").stdout)
    assert report["pesq_nb"] is None
    assert report["stoi"] is None
    assert report["not_scored"]


def test_transcode_scores_the_first_half_minute(tmp_path: Path, clip: np.ndarray) -> None:
    soundfile.write(tmp_path / "a.wav", np.tile(clip, 7), 16_000)
    done = sotto("transcode", tmp_path / "a.wav", tmp_path / "b.wav")
    assert done.stdout.count(b"(first 30 s)") == 3


def test_transcode_finds_out_first_that_there_can_be_no_picture(
    tmp_path: Path, clip_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    target, picture = tmp_path / "out.wav", tmp_path / "no" / "out.png"
    error = sotto("transcode", clip_path, target, "--picture", picture, status=1).stderr
    assert str(picture).encode() in error and error.count(b"\n") == 1
    assert names(tmp_path) == []
    for name in [name for name in sys.modules if name.split(".")[0] == "matplotlib"]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.delitem(sys.modules, "tui.picture", raising=False)
    monkeypatch.setitem(sys.modules, "matplotlib", None)  # as where it is not installed
    error = sotto("transcode", clip_path, target, "--picture", tmp_path / "a.png", status=1).stderr
    assert b"matplotlib" in error and b"sotto[bench]" in error and error.count(b"\n") == 1
    assert names(tmp_path) == []


# Simulated loss


def test_loss_is_simulated_and_repeatable(tmp_path: Path) -> None:
    soundfile.write(tmp_path / "a.wav", tone(60.0), 16_000)
    sotto("encode", tmp_path / "a.wav", tmp_path / "a.sotto")
    args = ["--loss-rate", "0.3", "--burst", "2", "--seed", "7"]
    done = sotto("decode", tmp_path / "a.sotto", tmp_path / "b.wav", *args)
    sotto("decode", tmp_path / "a.sotto", tmp_path / "c.wav", *args)
    sotto("decode", tmp_path / "a.sotto", tmp_path / "d.wav", *args[:-1], "8")
    assert (tmp_path / "b.wav").read_bytes() == (tmp_path / "c.wav").read_bytes()
    assert (tmp_path / "b.wav").read_bytes() != (tmp_path / "d.wav").read_bytes()
    found = read_audio(tmp_path / "b.wav")
    silent = [not found[k * 16_384 : (k + 1) * 16_384].any() for k in range(59)]
    expected = loss_pattern(59, 0.3, 2.0, 7)
    assert 0 < sum(expected) < 59
    assert silent == expected
    assert f"{sum(expected)} of 59 frames dropped".encode() in done.stderr
    sotto("decode", tmp_path / "a.sotto", tmp_path / "e.wav", "--loss-rate", "1")
    assert not read_audio(tmp_path / "e.wav").any()


def loss_pattern(count: int, rate: float, burst: float, seed: int) -> list[bool]:
    return list(islice(losses(rate, burst, seed), count))


@pytest.mark.parametrize(("rate", "burst"), [(0.05, 1.0), (0.1, 3.0), (0.3, 1.5), (0.5, 10.0)])
def test_loss_model_has_the_rate_and_burst_asked_for(rate: float, burst: float) -> None:
    pattern = np.array(loss_pattern(400_000, rate, burst, 1))
    starts = np.count_nonzero(pattern[1:] & ~pattern[:-1]) + pattern[0]
    assert pattern.mean() == pytest.approx(rate, rel=0.05)
    assert pattern.sum() / starts == pytest.approx(burst, rel=0.05)


def test_loss_model_at_its_limits() -> None:
    assert not any(loss_pattern(1_000, 0.0, 3.0, 0))
    assert all(loss_pattern(1_000, 1.0, 1.0, 0))
    assert loss_pattern(1_000, 0.9, 9.0, 5) == loss_pattern(1_000, 0.9, 9.0, 5)
    nan, inf = float("nan"), float("inf")
    for rate, burst in ((-0.1, 1), (1.1, 1), (nan, 1), (0.1, 0), (0.1, inf), (0.9, 2)):
        with pytest.raises(BadInput):
            loss_pattern(1, rate, burst, 0)


# Directories


def test_directory_is_mirrored_past_bad_files(tmp_path: Path) -> None:
    source, out, back = tmp_path / "in", tmp_path / "out", tmp_path / "back"
    (source / "deep" / "er").mkdir(parents=True)
    soundfile.write(source / "a.wav", tone(), 16_000)
    soundfile.write(source / "a.flac", tone(), 16_000)
    soundfile.write(source / "b.c.wav", tone(), 16_000)
    soundfile.write(source / "deep" / "er" / "d.OGG", tone(), 16_000, format="OGG")
    (source / "bad.wav").write_text("no audio")
    (source / "worse.flac").write_text("")
    (source / "notes.txt").write_text("not for us")
    done = run_here(["encode", str(source), str(out)])
    lines = done.stderr.decode().splitlines()
    assert done.status == 1
    assert len(lines) == 3
    assert "bad.wav" in lines[0]
    assert "worse.flac" in lines[1]
    assert lines[2] == "sotto: 2 of 6 files failed"
    found = sorted(str(path.relative_to(out)) for path in out.rglob("*") if path.is_file())
    assert found == ["a.flac.sotto", "a.wav.sotto", "b.c.sotto", "deep/er/d.sotto"]
    assert sotto("decode", out, back).stderr == b""
    found = sorted(str(path.relative_to(back)) for path in back.rglob("*") if path.is_file())
    assert found == ["a.flac.wav", "a.wav.wav", "b.c.wav", "deep/er/d.wav"]
    assert len(read_audio(back / "deep" / "er" / "d.wav")) == 48_000


def test_directory_in_which_two_would_become_one(tmp_path: Path) -> None:
    (tmp_path / "in").mkdir()
    for name in ("b.flac", "b.wav", "b.flac.wav"):
        soundfile.write(tmp_path / "in" / name, tone(), 16_000)
    done = sotto("encode", tmp_path / "in", tmp_path / "out", status=1)
    (line,) = done.stderr.decode().splitlines()
    assert "b.flac and" in line and "b.flac.wav would both become" in line
    assert names(tmp_path) == ["in"]


def test_directory_without_audio(tmp_path: Path) -> None:
    (tmp_path / "in").mkdir()
    (tmp_path / "in" / "notes.txt").write_text("nothing to hear")
    assert b"no audio files" in sotto("encode", tmp_path / "in", tmp_path / "out", status=1).stderr
    assert b"no .sotto files" in sotto("decode", tmp_path / "in", tmp_path / "out", status=1).stderr
    assert names(tmp_path) == ["in"]


# Terminals


def test_progress_bar_only_on_a_terminal(tmp_path: Path) -> None:
    with audio_output(tmp_path / "[red]a.wav") as writer:
        writer.write(tone(20.0))
    seen, status = _on_a_terminal(
        ["encode", str(tmp_path / "[red]a.wav"), str(tmp_path / "a.sotto"), "--preset", "slow"]
    )
    assert status == 0
    assert "x real time" in seen
    with open(tmp_path / "a.sotto", "rb") as file:
        assert scan(file).frames == 20


def _on_a_terminal(args: list[str]) -> tuple[str, int]:
    """What is seen on stderr if that is a terminal."""
    ours, theirs = pty.openpty()
    process = subprocess.Popen(
        [*FAKE, *args],
        stderr=theirs,
        stdin=subprocess.DEVNULL,
        env={**ENVIRONMENT, "TERM": "xterm", "COLUMNS": "100"},
    )
    os.close(theirs)
    seen = b""
    try:
        while data := os.read(ours, 4096):
            seen += data
    except OSError:
        # Linux reports the closed far end as an error.
        pass
    os.close(ours)
    return seen.decode(), process.wait(60)


def test_terminal_is_no_pipe(coded: Path, tmp_path: Path) -> None:
    ours, theirs = pty.openpty()
    try:
        for args in (["encode", "-", str(tmp_path / "x")], ["decode", str(coded), "-"]):
            done = subprocess.run(
                [*FAKE, *args],
                stdin=theirs,
                stdout=theirs,
                stderr=subprocess.PIPE,
                env=ENVIRONMENT,
                timeout=120,
            )
            assert done.returncode == 1
            assert b"is a terminal" in done.stderr
    finally:
        os.close(ours)
        os.close(theirs)
