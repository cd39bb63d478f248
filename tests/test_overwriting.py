"""Nothing of the user's is overwritten by accident, whichever command writes."""

from __future__ import annotations

import io
import json
import os
import sys
from pathlib import Path

import numpy as np
import pytest
import soundfile
from PIL import Image

from codec.errors import BadInput
from codec.files.paths import atomic_output, folded, same_file
from models.folder import new_model_folder
from stream.bench.measures import _keep
from tests.fake_speech import stand_in
from tui.batch import Written
from tui.cli import main
from tui.commands.bench import output

TONE = (0.5 * np.sin(np.arange(8_000) / 10)).astype(np.float32)


@pytest.fixture(autouse=True)
def a_folder_of_recordings(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "codec.speech.codec", stand_in())
    monkeypatch.chdir(tmp_path)
    for name in ("one.wav", "two.wav"):
        soundfile.write(name, TONE, 16_000)


@pytest.fixture
def said(capsys: pytest.CaptureFixture[str]):
    """said(status, *arguments): run a command that must end so; what it says on stderr."""

    def run(status: int, *arguments: str) -> str:
        capsys.readouterr()
        assert main(list(arguments)) == status, capsys.readouterr().err
        return capsys.readouterr().err

    return run


def contents(folder: Path | str = ".") -> dict[str, bytes]:
    return {str(p): p.read_bytes() for p in sorted(Path(folder).rglob("*")) if p.is_file()}


# The rule


def test_own_files_are_replaced_and_no_others(tmp_path: Path) -> None:
    for name in ("a.sotto", "a.STIM", "a.wav", "a.png", "a"):
        Path(name).write_text("before")
    for name in ("a.sotto", "a.STIM"):
        with atomic_output(name) as file:
            file.write(b"after")
        assert Path(name).read_text() == "after"
        with pytest.raises(BadInput, match="exists"), atomic_output(name, new=True):
            pytest.fail("must not be opened")
    for name in ("a.wav", "a.png", "a"):
        with pytest.raises(BadInput, match=r"exists \(--force replaces it\)"), atomic_output(name):
            pytest.fail("must not be opened")
        with atomic_output(name, force=True) as file:
            file.write(b"after")
        assert Path(name).read_text() == "after"


def test_a_link_is_judged_by_what_it_leads_to() -> None:
    before = contents()
    os.symlink("one.wav", "link.sotto")
    with pytest.raises(BadInput, match="exists"), atomic_output("link.sotto"):
        pytest.fail("must not be opened")
    os.symlink("fresh.sotto", "link.wav")
    with atomic_output("link.wav") as file:
        file.write(b"x")
    os.remove("link.wav")
    os.remove("link.sotto")
    assert contents() == before | {"fresh.sotto": b"x"}


def test_a_file_that_comes_into_being_meanwhile_stays() -> None:
    with pytest.raises(BadInput, match=r"the output is in .*late-2\.wav"):  # noqa: SIM117
        with atomic_output("late.wav") as file:
            file.write(b"ours")
            Path("late.wav").write_text("theirs")
    assert Path("late.wav").read_text() == "theirs"
    assert Path("late-2.wav").read_text() == "ours"


def test_which_names_are_the_same_file(monkeypatch: pytest.MonkeyPatch) -> None:
    os.symlink("one.wav", "soft")
    os.link("one.wav", "hard")
    for name in ("one.wav", "./one.wav", os.path.abspath("one.wav"), "soft", "hard", "ONE.wav"):
        assert same_file("one.wav", name)
        assert same_file(name, "one.wav")
    assert same_file("stra\u00dfe.wav", "STRASSE.wav")
    assert same_file("caf\u00e9.wav", "cafe\u0301.wav")
    assert not same_file("one.wav", "two.wav")
    assert not same_file("/dev/null", "/dev/null")
    assert not same_file("a\0b", "a\0b")


# Commands


def test_several_inputs_without_a_folder_are_refused(said) -> None:
    before = contents()
    assert "exists" in said(1, "encode", "one.wav", "two.wav")
    soundfile.write("three.wav", TONE, 16_000)
    before |= {"three.wav": Path("three.wav").read_bytes()}
    assert "no directory" in said(2, "encode", "one.wav", "two.wav", "three.wav")
    assert "no directory" in said(2, "encode", "one.wav", "two.wav", "new")
    assert "pipe" in said(2, "encode", "one.wav", "two.wav", "-")
    assert "standard input" in said(2, "encode", "one.wav", "-", "new/")
    assert contents() == before


def test_decoding_a_folder_into_itself_keeps_the_originals(said) -> None:
    os.mkdir("d")
    os.rename("one.wav", "d/talk.wav")
    said(0, "encode", "d", "d")
    said(0, "encode", "d", "d")  # what sotto wrote, it replaces
    before = contents()
    assert "d/talk.wav: the file exists" in said(1, "decode", "d", "d")
    assert contents() == before
    said(0, "decode", "d", "d", "--force")
    after = contents()
    assert {k for k in after if after[k] != before[k]} == {"d/talk.wav"}


@pytest.mark.parametrize("name", ["same", "soft link", "hard link", "ONE.WAV", "redirected"])
def test_an_input_is_never_replaced_not_even_by_force(name: str, said, monkeypatch) -> None:
    source = target = "one.wav"
    if name == "soft link":
        os.symlink("one.wav", target := "link.sotto")
    elif name == "hard link":
        os.link("one.wav", target := "link.sotto")
    elif name == "ONE.WAV":
        target = name
    before = contents()
    with open("one.wav", "rb") as file:
        if name == "redirected":
            source = "-"
            kept = os.dup(0)
            os.dup2(file.fileno(), 0)
        try:
            assert "same file" in said(2, "encode", source, target, "--force")
        finally:
            if name == "redirected":
                os.dup2(kept, 0)
                os.close(kept)
    assert contents() == before


def test_an_input_called_like_an_output_is_no_output(said) -> None:
    os.mkdir("d")
    os.rename("one.wav", "d/talk.sotto")  # audio, whatever its name
    before = contents()
    assert "same file" in said(2, "encode", "d", "d", "--force")
    assert contents() == before


def test_a_name_that_is_empty_is_no_name(said) -> None:
    """As of a variable of the shell that is not set."""
    soundfile.write("one.png", TONE, 16_000, format="WAV")
    before = contents()
    call = ["call", "127.0.0.1:9", "--insecure", "--headless"]
    for arguments in (
        ["encode", "one.wav", ""],
        ["transcode", "one.wav", ""],
        ["image", "encode", "one.png", "a.stim", "--preview", ""],
        ["bench", "phase", ".", "--json", ""],
        ["export", "onnx", ""],
        ["train", "image", "--data", ".", "--work", ""],
        ["train", "image", "--data", ".", "--work", "w", "--out", ""],
        *([*call, option, ""] for option in ("--record", "--record-overs", "--log", "--peer-key")),
    ):
        assert "empty" in said(2, *arguments)
    assert contents() == before


def test_existing_outputs_are_refused_without_force(said) -> None:
    said(0, "encode", "one.wav", "one.sotto")
    Path("picture.png").write_text("a picture")
    before = contents()
    for arguments in (
        ["decode", "one.sotto", "two.wav"],
        ["transcode", "one.wav", "two.wav"],
        ["transcode", "one.wav", "new.wav", "--picture", "picture.png"],
    ):
        assert "--force" in said(1, *arguments)
        assert contents() == before
    assert "same file" in said(2, "transcode", "one.wav", "a.png", "--picture", "A.PNG")
    said(0, "decode", "one.sotto", "two.wav", "--force")
    assert contents() != before


@pytest.mark.parametrize(
    "command",
    [
        ["encode", "one.wav", "m/model.json"],
        ["encode", "one.wav", "M/MODEL.json"],
        ["encode", "one.wav", "m/weights.safetensors"],
        ["transcode", "one.wav", "new.wav", "--picture", "m/model.json"],
        ["image", "encode", "in.png", "m/model.json"],
    ],
)
def test_the_model_in_use_is_an_input(command: list[str], said) -> None:
    os.mkdir("m")
    if os.path.exists("M"):
        pytest.skip("a file system to which the case of letters makes no difference")
    os.symlink("m", "M")
    for name in ("model.json", "MODEL.json", "weights.safetensors"):
        Path("m", name).write_text("{}")
    Image.new("RGB", (32, 32), "red").save("in.png")
    before = contents()
    assert "same file" in said(2, *command, "--model", "m", "--force")
    assert contents() == before


def test_pictures_keep_what_is_there(said) -> None:
    Image.new("RGB", (32, 32), "red").save("in.png")
    Image.new("RGB", (32, 32), "red").save("other.png")
    Path("p.stim").write_text("older")
    os.link("in.png", "hard.stim")
    before = contents()
    for status, arguments in [
        (2, ["encode", "in.png", "in.png"]),
        (2, ["encode", "in.png", "hard.stim", "--force"]),
        (1, ["encode", "in.png", "other.png"]),
        (1, ["encode", "in.png", "new.stim", "--preview", "other.png"]),
        (2, ["encode", "in.png", "new.stim", "--preview", "IN.png", "--force"]),
        (1, ["decode", "p.stim", "other.png"]),
        (2, ["sense", "in.png", "in.png", "--force"]),
        (1, ["sense", "in.png", "other.png"]),
    ]:
        said(status, "image", *arguments)
        assert contents() == before


def test_benchmarks_keep_what_is_there(said) -> None:
    Path("figures.json").write_text("older figures")
    before = contents()
    assert "--force" in said(1, "bench", "speech", ".", "--json", "figures.json")
    # What lies in the folder that is read is input, with --force as well.
    assert "same file" in said(2, "bench", "speech", ".", "--plot", "one.wav", "--force")
    assert "same file" in said(2, "bench", "image", ".", "--crops", "two.wav", "--force")
    assert "two outputs" in said(2, "bench", "link", "--json", "new", "--plot", "NEW")
    assert contents() == before
    with pytest.raises(BadInput, match="exists"):
        output.write(b"new", "figures.json", force=False)
    output.write(b"new", "figures.json", force=True)
    assert Path("figures.json").read_text() == "new"


def test_what_a_benchmark_keeps_replaces_nothing() -> None:
    os.mkdir("run")
    Path("run", "log").write_text("newer")
    os.makedirs("kept/quiet-256")
    Path("kept", "quiet-256", "log").write_text("older")
    _keep(Path("run"), Path("kept"), "quiet-256")
    assert Path("kept", "quiet-256", "log").read_text() == "older"
    assert Path("kept", "quiet-256-2", "log").read_text() == "newer"


@pytest.mark.parametrize("command", [["call", "127.0.0.1:1"], ["listen", "--bind", "127.0.0.1:0"]])
def test_calls_keep_what_is_there(command: list[str], said) -> None:
    Path("notes").write_text("mine")
    os.link("one.wav", "link.jsonl")
    before = contents()
    quiet = ["--insecure", "--headless", "--output", "none", "--send-file", "one.wav"]
    for status, options in [
        (2, ["--record", "one.wav"]),
        (2, ["--record", "ONE.wav"]),
        (2, ["--stats-json", "link.jsonl"]),
        (2, ["--log", "one.wav"]),
        (2, ["--record", "a.wav", "--log", "A.wav"]),
        (1, ["--record", "two.wav"]),
        (1, ["--stats-json", "two.wav"]),
        (1, ["--log", "notes"]),
    ]:
        said(status, *command, *quiet, *options)
        assert contents() == before, options


def test_a_model_replaces_models_only(tmp_path: Path, said) -> None:
    model = tmp_path / "model"
    model.mkdir()
    (model / "model.json").write_text("{}")
    (model / "thesis.txt").write_text("mine")
    with pytest.raises(BadInput, match=r"holds thesis\.txt"), new_model_folder(model):
        pytest.fail("must not be entered")
    arguments = ["train", "speech", "--data", "d", "--work", "w", "--stage", "export"]
    assert "thesis.txt" in said(1, *arguments, "--out", "model")
    assert "same file" in said(2, *arguments, "--out", "model", "--start", "./model")
    assert (model / "thesis.txt").read_text() == "mine"


def test_keys_keep_what_is_there(said) -> None:
    Path("key.pub").write_text("a diary")
    assert "--force" in said(1, "keygen", "key")
    assert Path("key.pub").read_text() == "a diary"
    assert not os.path.exists("key")


# Several inputs


def test_several_inputs_go_into_a_folder(said) -> None:
    os.mkdir("more")
    soundfile.write("more/three.flac", TONE, 16_000)
    said(0, "encode", "one.wav", "two.wav", "more", "coded/")
    assert sorted(contents("coded")) == [
        "coded/more/three.sotto", "coded/one.sotto", "coded/two.sotto",
    ]  # fmt: skip
    os.mkdir("back")
    said(0, "decode", "coded/one.sotto", "coded/more/three.sotto", "back")
    assert sorted(contents("back")) == ["back/one.wav", "back/three.wav"]
    assert len(soundfile.read("back/one.wav")[0]) == len(TONE)
    said(0, "encode", "one.wav", "single/")
    assert sorted(contents("single")) == ["single/one.sotto"]


def test_one_of_several_that_fails_is_named(said) -> None:
    Path("bad.wav").write_text("no audio")
    lines = said(1, "encode", "one.wav", "missing.wav", "bad.wav", "two.wav", "out/").splitlines()
    assert len(lines) == 3
    assert "missing.wav" in lines[0] and "bad.wav" in lines[1]
    assert lines[2] == "sotto: 2 of 4 files failed"
    assert sorted(contents("out")) == ["out/one.sotto", "out/two.sotto"]


def test_equal_names_from_two_folders_are_told_apart_or_refused(said) -> None:
    for folder in ("x", "y"):
        os.mkdir(folder)
        soundfile.write(f"{folder}/a.wav", TONE, 16_000)
    assert "would both become" in said(1, "encode", "x/a.wav", "y/a.wav", "out/")
    assert not os.path.exists("out")
    said(0, "encode", "x", "y", "x/a.wav", "out/")
    assert sorted(contents("out")) == ["out/a.sotto", "out/x/a.sotto", "out/y/a.sotto"]


def test_two_outputs_that_a_file_system_takes_for_one(said) -> None:
    os.mkdir("d")
    for name in ("d/a.wav", "d/b.wav"):
        soundfile.write(name, TONE, 16_000)
    os.mkdir("out")
    os.symlink("a.sotto", "out/b.sotto")
    assert "two outputs are the same file: out/b.sotto" in said(2, "encode", "d", "out")
    assert os.listdir("out") == ["b.sotto"]


def test_an_output_that_turns_out_to_be_another_one_is_kept() -> None:
    """As where letters are alike by rules that only the file system knows."""
    written = Written()
    Path("a.sotto").write_text("whole")
    written.refuse("a.sotto")
    written.add("a.sotto", "d/a.wav")
    os.link("a.sotto", "\u0131.sotto")
    with pytest.raises(BadInput, match=r"would replace \u0131\.sotto, made of d/a\.wav"):
        written.refuse("\u0131.sotto")


@pytest.mark.parametrize(
    ("inputs", "outputs"),
    [
        ("a.wav A.WAV", "A.sotto a-2.sotto"),
        ("a.wav a.WAV", "a.sotto a-2.sotto"),
        ("a.wav A.wav a-2.wav", "A.sotto a-2.sotto a-3.sotto"),
        ("a.wav A.wav x.flac X.wav", "A.sotto a-2.sotto X.wav.sotto x.flac.sotto"),
        ("deep/a.wav Deep/a.wav Deep/b.wav", "Deep/a.sotto deep/a-2.sotto Deep/b.sotto"),
        ("\u00e9.wav e\u0301.wav", "e\u0301.sotto \u00e9-2.sotto"),
        ("Aa.wav aA.wav aa.wav", "Aa.sotto aA-2.sotto aa-3.sotto"),
    ],
)
def test_inputs_that_differ_only_in_the_case_of_letters(inputs: str, outputs: str, said) -> None:
    for name in inputs.split():
        Path("d", name).parent.mkdir(parents=True, exist_ok=True)
        soundfile.write(f"d/{name}", TONE, 16_000, format=name.split(".")[-1].upper())
    told = said(0, "encode", "d", "out")
    assert told.count("\n") == 1 and ": numbered, since" in told
    assert sorted(contents("out")) == sorted(f"out/{name}" for name in outputs.split())
    names = [str(Path("d", name)) for name in inputs.split() if "/" not in name]
    if names:
        said(0, "encode", *names, "two.wav", "several/")
        assert len({folded(name) for name in contents("several")}) == len(names) + 1


def test_several_are_transcoded(said, capsys) -> None:
    assert main(["transcode", "one.wav", "two.wav", "out/", "--json"]) == 0
    reports = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert [report["output"] for report in reports] == ["out/one.wav", "out/two.wav"]
    assert all(report["duration_s"] == 0.5 for report in reports)
    assert main(["transcode", "one.wav", "two.wav", "more/"]) == 0
    assert capsys.readouterr().out.count("PESQ-WB") == 2
    assert "single" in said(2, "transcode", "one.wav", "two.wav", "new/", "--picture", "p.png")


def test_options_may_stand_between(said) -> None:
    said(0, "encode", "one.wav", "--preset", "2k", "a.sotto")
    said(0, "encode", "--preset", "2k", "one.wav", "two.wav", "out/", "--no-search")
    assert sorted(contents("out")) == ["out/one.sotto", "out/two.sotto"]


def test_standard_output_that_is_the_input(monkeypatch: pytest.MonkeyPatch, said) -> None:
    kept = os.dup(1)
    before = contents()
    try:
        with open("one.wav", "ab") as file:
            os.dup2(file.fileno(), 1)
            monkeypatch.setattr("sys.stdout", io.TextIOWrapper(io.BytesIO()))
            status = main(["encode", "one.wav", "-"])
    finally:
        os.dup2(kept, 1)
        os.close(kept)
    assert status == 2
    assert contents() == before
