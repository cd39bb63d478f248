"""Corpora: each file once, by whatever workers, whenever anything is stopped."""

from __future__ import annotations

import argparse
import json
import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile

from codec.errors import BadInput
from tests.corpus_jobs import MODEL, Copier, arguments, done
from tests.full_disk import full_after
from tui.cli import main
from tui.corpora.corpus import Coding, code_corpus, work_of
from tui.corpora.manifest import NAME, Manifest, Record, file_hash, options_hash, read_manifest
from tui.terminal.errors import UsageError

ROOT = Path(__file__).resolve().parent.parent


# --- the manifest --------------------------------------------------------------------------------


def record(output: str = "a.sotto", **changes: Any) -> Record:
    values: dict[str, Any] = {
        "input": "in/a.wav", "hash": 64 * "1", "output": output, "output_hash": 64 * "2",
        "options": "3" * 16, "model": MODEL, "bits": 100, "seconds": 1.5, "took": 0.1,
        "error": None,
    }  # fmt: skip
    return Record(**values | changes)


def test_a_manifest_keeps_the_last_line_of_each_output(tmp_path: Path) -> None:
    path = tmp_path / "deep" / NAME
    with Manifest(path) as manifest:
        manifest.add(record(error="it is bad", output_hash=""))
        manifest.add(record("b.sotto"))
        manifest.add(record())
        assert path.read_bytes().count(b"\n") == 3
    assert path.read_bytes().count(b"\n") == 2
    assert read_manifest(path) == {"a.sotto": record(), "b.sotto": record("b.sotto")}
    names = {"input", "hash", "output", "bits", "seconds", "error"}
    assert all(names <= set(json.loads(line)) for line in path.read_text().splitlines())


def test_names_that_are_no_text_survive(tmp_path: Path) -> None:
    name = os.fsdecode(b"caf\xe9.sotto")
    with Manifest(tmp_path / NAME) as manifest:
        manifest.add(record(name))
    assert list(read_manifest(tmp_path / NAME)) == [name]


@pytest.mark.parametrize("torn", [b'{"input": "a', b"\n", b"[1, 2]\n", b"\xff\xfe\n", 9000 * b"["])
def test_what_a_crash_leaves_is_passed_over(tmp_path: Path, torn: bytes) -> None:
    path = tmp_path / NAME
    path.write_bytes(record().line + torn)
    assert list(read_manifest(path)) == ["a.sotto"]
    with Manifest(path) as manifest:
        manifest.add(record("b.sotto"))
    assert path.read_bytes() == record().line + record("b.sotto").line


@pytest.mark.parametrize(
    "changes",
    [{"hash": "x"}, {"bits": "1"}, {"error": 5}, {"output": None}, {"seconds": True}],
)
def test_lines_that_are_no_records_are_none(changes: dict[str, Any]) -> None:
    values = json.loads(record().line)
    assert Record.parsed(json.dumps(values).encode()) == record()
    assert Record.parsed(json.dumps(values | changes).encode()) is None


def test_a_file_of_somebody_elses_is_not_added_to(tmp_path: Path) -> None:
    path = tmp_path / NAME
    path.write_text('{"audio": "a.wav", "text": "hello"}\n')
    with pytest.raises(BadInput, match="no manifest"), Manifest(path):
        pass
    assert path.read_text() == '{"audio": "a.wav", "text": "hello"}\n'


@pytest.mark.parametrize("text", ["my thesis", '{"input": "a.wav", "text": "hello"}'])
def test_not_even_where_it_has_no_whole_line(text: str, tmp_path: Path) -> None:
    path = tmp_path / NAME
    path.write_text(text)
    with pytest.raises(BadInput, match="no manifest"), Manifest(path):
        pass
    assert path.read_text() == text


@pytest.mark.parametrize("torn", [b"{", b'{"input": "a.wav", "ha', b'{"input": "a.wav", "ha\n'])
def test_a_manifest_whose_first_line_was_not_finished(torn: bytes, tmp_path: Path) -> None:
    path = tmp_path / NAME
    path.write_bytes(torn)
    for name in ("a.sotto", "b.sotto"):
        with Manifest(path) as manifest:
            manifest.add(record(name))
    assert path.read_bytes() == record().line + record("b.sotto").line


def test_no_pipe_is_waited_for_in_the_place_of_a_manifest(tmp_path: Path) -> None:
    path = tmp_path / "manifest.jsonl"
    os.mkfifo(path)
    with pytest.raises(BadInput, match="no manifest"), Manifest(path):
        pass
    with pytest.raises(BadInput, match="no manifest"):
        read_manifest(path)


def test_two_programs_do_not_write_one_manifest(tmp_path: Path) -> None:
    with (
        Manifest(tmp_path / NAME),
        pytest.raises(BadInput, match="another sotto"),
        Manifest(tmp_path / NAME),
    ):
        pass


def test_a_full_disk_is_named(tmp_path: Path) -> None:
    path = tmp_path / NAME
    with pytest.raises(BadInput) as caught, full_after(300), Manifest(path) as manifest:
        manifest.add(record())
    assert str(caught.value) == f"cannot write {path}: file too large"
    with Manifest(path) as manifest:
        manifest.add(record("b.sotto"))
    assert list(read_manifest(path)) == ["b.sotto"]


def test_options_and_model_decide() -> None:
    same = options_hash("encode", MODEL, {"preset": "2k", "denoise": False})
    assert same == options_hash("encode", MODEL, {"denoise": False, "preset": "2k"})
    assert same != options_hash("encode", MODEL, {"preset": "2k", "denoise": True})
    assert same != options_hash("encode", "f" * 16, {"preset": "2k", "denoise": False})


# --- a corpus ------------------------------------------------------------------------------------


@pytest.fixture
def corpus(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder `in` of nine "recordings", which `Copier` codes to `out`."""
    monkeypatch.chdir(tmp_path)
    for name in ("in/deep", "log"):
        Path(name).mkdir(parents=True)
    for number in range(8):
        Path(f"in/{number}.wav").write_text(f"number {number}")
    Path("in/deep/0.wav").write_text("deep")
    return tmp_path


def code(suffix: str = ".sotto", options: dict[str, Any] | None = None, **changes: Any) -> int:
    args = arguments(**changes)
    coding = Coding("copy", Copier, args, MODEL, options or {})
    return code_corpus(work_of(args, suffix, audio=True), coding)


def lines(place: str = "out") -> list[dict[str, Any]]:
    return [json.loads(line) for line in Path(place, NAME).read_text().splitlines()]


def outputs(place: str = "out") -> dict[str, bytes]:
    found = (path for path in Path(place).rglob("*") if path.is_file() and path.name != NAME)
    return {str(path.relative_to(place)): path.read_bytes() for path in found}


NAMES = sorted(["deep/0.sotto", *(f"{number}.sotto" for number in range(8))])


def test_a_corpus_is_coded_once(corpus: Path, capsys) -> None:
    assert code() == 0
    told = capsys.readouterr()
    assert sorted(told.out.splitlines()) == sorted(f"made {Path(name).name}" for name in NAMES)
    assert told.err.count(" is turned\n") == 9
    found = outputs()
    assert sorted(found) == NAMES
    assert found["3.sotto"] == b"3 rebmun"
    assert sorted(each["output"] for each in lines()) == NAMES
    for each in lines():
        assert each["hash"] == file_hash(each["input"])
        assert each["output_hash"] == file_hash(f"out/{each['output']}")
        assert each["error"] is None and each["bits"] > 0 and each["seconds"] == 1.0

    before = Path("out", NAME).read_bytes()
    assert code() == 0
    told = capsys.readouterr()
    assert (told.out, told.err) == ("", "sotto: 9 of 9 files had been done before\n")
    assert len(done(corpus / "log")) == 9
    assert Path("out", NAME).read_bytes() == before


def test_names_that_differ_only_in_case_are_told_apart(corpus: Path, capsys) -> None:
    Path("in/deep/0.WAV").write_text("loud")
    Path("in/Deep").mkdir()
    Path("in/Deep/0.wav").write_text("Deep")
    assert code() == 0
    assert "deep/0-2.sotto, out/deep/0-3.sotto: numbered" in capsys.readouterr().err
    more = {"Deep/0.sotto", "deep/0-2.sotto", "deep/0-3.sotto"}
    assert set(outputs()) == set(NAMES) - {"deep/0.sotto"} | more
    assert code() == 0
    assert "11 of 11 files had been done before" in capsys.readouterr().err


def test_what_has_changed_is_done_again_and_nothing_else(corpus: Path) -> None:
    assert code() == 0
    Path("in/1.wav").write_text("other")
    Path("out/2.sotto").write_text("other")
    Path("out/3.sotto").unlink()
    assert code() == 0
    begun = done(corpus / "log")
    assert [name for name in set(begun) if begun.count(name) > 1 and name != "0.wav"] == [
        name for name in set(begun) if name in ("1.wav", "2.wav", "3.wav")
    ]
    assert outputs()["1.sotto"] == b"rehto" and outputs()["2.sotto"] == b"2 rebmun"
    assert sorted(each["output"] for each in lines()) == NAMES
    assert code(options={"preset": "3k6"}) == 0
    assert len(done(corpus / "log")) == 9 + 3 + 9


def test_files_that_fail_are_listed_and_tried_again(corpus: Path, capsys) -> None:
    Path("in/5.wav").write_text("bad")
    Path("in/6.wav").chmod(0)
    unreadable = not os.access("in/6.wav", os.R_OK)  # root may read everything
    assert code() == 1
    told = capsys.readouterr().err
    assert "sotto: in/5.wav is bad\n" in told
    assert f"sotto: {1 + unreadable} of 9 files failed\n" in told
    failed = {each["input"]: each["error"] for each in lines() if each["error"]}
    assert failed["in/5.wav"] == "in/5.wav is bad"
    assert len(failed) == 1 + unreadable
    Path("in/5.wav").write_text("good")
    Path("in/6.wav").chmod(0o600)
    assert code() == 0
    assert sorted(each["output"] for each in lines() if not each["error"]) == NAMES
    assert len(lines()) == 9


def test_a_file_that_has_gone_is_one_line(corpus: Path, capsys) -> None:
    args = arguments()
    work = work_of(args, ".sotto", audio=True)
    Path("in/4.wav").unlink()
    assert code_corpus(work, Coding("copy", Copier, args, MODEL, {})) == 1
    assert "cannot read in/4.wav: no such file" in capsys.readouterr().err
    assert len(outputs()) == 8


def test_a_killed_workers_file_is_done_by_another(corpus: Path) -> None:
    Path("in/5.wav").write_text("die")
    assert code() == 0
    assert sorted(outputs()) == NAMES  # and no draft of the worker's
    assert outputs()["5.sotto"] == b"eid"
    assert (corpus / "log" / "died").exists()
    assert sorted(each["output"] for each in lines()) == NAMES


def test_an_output_of_the_users_is_not_replaced(corpus: Path, capsys) -> None:
    Path("out").mkdir()
    Path("out/3.wav").write_text("the user's")
    with pytest.raises(BadInput, match=r"cannot write out/3\.wav"):
        code(".wav")
    assert not done(corpus / "log")
    Path("out/3.wav").unlink()
    assert code(".wav") == 0
    capsys.readouterr()
    # What the manifest knows is not in the way, but neither is it replaced once it is another.
    Path("out/3.wav").write_text("the user's")
    assert code(".wav") == 1
    assert "cannot write out/3.wav: the file exists (--force" in capsys.readouterr().err
    assert Path("out/3.wav").read_text() == "the user's"
    assert code(".wav", force=True) == 0
    assert Path("out/3.wav").read_bytes() == b"3 rebmun"


def test_a_model_that_is_another_on_a_worker_is_found_out(corpus: Path, capsys) -> None:
    args = arguments()
    coding = Coding("copy", Copier, args, "f" * 16, {})
    assert code_corpus(work_of(args, ".sotto", audio=True), coding) == 1
    assert f"coded with model {MODEL}" in capsys.readouterr().err
    assert not outputs()


def test_workers_want_several_files(corpus: Path) -> None:
    with pytest.raises(UsageError, match="several"):
        code(input=["in/1.wav"], output="one.sotto")
    os.mkfifo("in/pipe.wav")
    with pytest.raises(UsageError, match="no pipes"):
        code(input=["in/1.wav", "in/pipe.wav"], output="out/")


STOPPED = """
import os, signal, sys
from pathlib import Path
from tests.corpus_jobs import MODEL, Copier, arguments
from tui.corpora import corpus
from tui.terminal.exit_status import exit_status
from tui.terminal.signals import unwinding

how, at = signal.Signals(int(sys.argv[1])), sys.argv[2]
args = arguments(jobs=1, ray=None if len(sys.argv) < 4 else sys.argv[3])
published = corpus.publish
count = 0

def publish(*paths, **options):
    global count
    count += 1
    if count == 4 and at == "before":
        os.kill(os.getpid(), how)
    published(*paths, **options)
    if count == 4 and at == "after":
        os.kill(os.getpid(), how)

corpus.publish = publish

def run():
    with unwinding():
        coding = corpus.Coding("copy", Copier, args, MODEL, {})
        return corpus.code_corpus(corpus.work_of(args, ".wav", audio=True), coding)

if __name__ == "__main__":
    sys.exit(exit_status(run))
"""


def stop(how: signal.Signals, at: str, *ray: str) -> int:
    """Code the corpus in a program that is ended at its fourth file; its exit status."""
    Path("stopped.py").write_text(STOPPED)
    done = subprocess.run(
        [sys.executable, "stopped.py", str(int(how)), at, *ray],
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert "Traceback" not in done.stderr, done.stderr
    return done.returncode


@pytest.mark.parametrize(
    ("how", "at", "status"),
    [
        (signal.SIGINT, "after", 130),
        (signal.SIGTERM, "before", 143),
        (signal.SIGKILL, "before", -9),
        (signal.SIGKILL, "after", -9),
    ],
)
def test_a_run_that_was_stopped_goes_on(
    corpus: Path, how: signal.Signals, at: str, status: int, capsys
) -> None:
    assert stop(how, at) == status
    before = {path: data for path, data in outputs().items() if not path.endswith(".part")}
    known = [each["output"] for each in lines()]
    assert len(known) == len(set(known)) == 4
    # A signal waits until the line and the file agree; nothing waits for SIGKILL.
    assert len(before) == (3 if how == signal.SIGKILL and at == "before" else 4)
    assert set(before) <= set(known)
    if how != signal.SIGKILL:
        assert len(outputs()) == len(before)  # no drafts

    assert code(".wav") == 0
    assert f"{len(before)} of 9 files had been done" in capsys.readouterr().err
    names = [name.replace(".sotto", ".wav") for name in NAMES]
    assert sorted(path for path in outputs() if not path.endswith(".part")) == names
    assert sorted(each["output"] for each in lines()) == names


# --- the commands --------------------------------------------------------------------------------


@pytest.fixture
def speech(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, clip: np.ndarray) -> Path:
    monkeypatch.chdir(tmp_path)
    Path("in/deep").mkdir(parents=True)
    soundfile.write("in/a.wav", clip[:12_000], 16_000)
    soundfile.write("in/deep/b.flac", clip[20_000:40_000], 16_000)
    Path("in/notes.xyz").write_text("no sound")
    return tmp_path


@pytest.mark.parametrize(
    "argv",
    [
        ["encode", "in", "out", "--jobs", "0"],
        ["encode", "in", "out", "--ray", "a b"],
        ["encode", "--ray", "in", "out"],
        ["encode", "in/a.wav", "a.sotto", "--jobs", "2"],
        ["decode", "-", "-", "--ray"],
        ["transcode", "in", "out", "--jobs", "2", "--picture", "p.png"],
    ],
)
def test_wrong_usage(speech: Path, argv: list[str]) -> None:
    assert main(argv) == 2
    assert not Path("out").exists()


def test_a_misspelt_preset_is_one_line_at_once(speech: Path, capsys) -> None:
    assert main(["encode", "in", "out", "--jobs", "2", "--preset", "9k"]) == 1
    assert "unknown preset '9k'" in capsys.readouterr().err
    assert main(["encode", "in", "out", "--jobs", "2", "--model", "in"]) == 1
    assert "in holds no model" in capsys.readouterr().err
    assert not Path("out").exists()


def run_both(args: list[str], one: str, many: str, *workers: str) -> None:
    """Run a command by itself and with workers; the outputs are the same."""
    assert main([*args, one, "--threads", "1"]) == 0
    assert main([*args, many, *workers]) == 0
    assert outputs(one) == outputs(many)


def test_jobs_write_the_bytes_of_one_process(speech: Path, capsys) -> None:
    run_both(["encode", "in", "--no-search"], "one", "many", "--jobs", "2")
    assert capsys.readouterr().err == 2 * "sotto: in: passed over notes.xyz\n"
    run_both(["decode", "one"], "back", "jobs", "--jobs", "2")
    for each in lines("many"):
        assert each["bits"] == 8 * Path("many", each["output"]).stat().st_size
    assert sorted(each["seconds"] for each in lines("jobs")) == [0.75, 1.25]
    assert {each["bits"] for each in lines("many")} == {each["bits"] for each in lines("jobs")}


@pytest.mark.slow
def test_transcoding_tells_of_every_file(speech: Path, capsys) -> None:
    args = ["transcode", "in", "out", "--no-search", "--json", "--jobs", "1"]
    assert main(args) == 0
    reports = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert sorted(each["input"] for each in reports) == ["in/a.wav", "in/deep/b.flac"]
    assert sorted(outputs()) == ["a.wav", "deep/b.wav"]
    assert main(args) == 0
    assert capsys.readouterr().out == ""


@pytest.mark.slow
def test_searched_bytes_are_the_same_too(speech: Path) -> None:
    run_both(["encode", "in", "--iterations", "4"], "one", "many", "--jobs", "2")


def test_arguments_of_the_tests_are_those_of_commands() -> None:
    from tui.cli import build_parser

    parsed = build_parser(["encode"]).parse_args(["encode", "in", "out", "--jobs", "2"])
    assert set(vars(arguments())) - {"log", "meet"} <= set(vars(parsed))
    assert isinstance(parsed, argparse.Namespace)
