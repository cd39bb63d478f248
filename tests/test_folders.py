"""Folders: what of them is read, and what is said of the rest."""

from __future__ import annotations

import errno
import os
import sys
from pathlib import Path

import numpy as np
import pytest
import soundfile

from codec.files.audio import looks_like_audio
from models.evaluation.clips import find_clips
from tests.fake_speech import stand_in
from tests.test_decoding import muxed
from tui.cli import main

TONE = (0.5 * np.sin(np.arange(8_000) / 10)).astype(np.float32)


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setitem(sys.modules, "codec.speech.codec", stand_in())
    monkeypatch.chdir(tmp_path)
    place = tmp_path / "in"
    place.mkdir()
    soundfile.write(place / "talk.wav", TONE, 16_000)
    return place


def test_what_macos_leaves_beside_files_is_passed_over(folder: Path, capsys) -> None:
    (folder / "._talk.wav").write_bytes(b"\0\x05\x16\x07" + bytes(100))
    assert main(["encode", "in", "out"]) == 0
    assert capsys.readouterr().err == "sotto: in: passed over ._talk.wav\n"
    assert [path.name for path in Path("out").iterdir()] == ["talk.sotto"]
    (Path("out") / "._talk.sotto").write_bytes(b"\0\x05\x16\x07" + bytes(100))
    assert main(["decode", "out", "back"]) == 0
    assert capsys.readouterr().err == "sotto: out: passed over ._talk.sotto\n"
    assert [entry.name for entry in find_clips(folder)] == ["talk.wav"]


def test_every_format_that_can_be_read_is_read(folder: Path, capsys) -> None:
    (folder / "a.m4a").write_bytes(muxed("ipod", "aac"))
    (folder / "b.webm").write_bytes(muxed("webm", "libopus", 48_000))
    (folder / "c.mp2").write_bytes(muxed("mp2", "mp2"))
    (folder / "d.MPGA").write_bytes(muxed("mp3", "libmp3lame"))
    (folder / "film.mp4").write_bytes(muxed("mp4", "aac", video=True))
    (folder / "no suffix").write_bytes(muxed("adts", "aac"))
    assert main(["encode", "in", "out"]) == 0
    assert capsys.readouterr().err == ""
    assert len(list(Path("out").iterdir())) == 7


def test_links_to_folders_are_named_and_not_followed(folder: Path, capsys) -> None:
    (folder / "loop").symlink_to("..")
    (folder / "deep").mkdir()
    (folder / "deep" / "other").symlink_to(folder)
    assert main(["encode", "in", "out"]) == 0
    assert capsys.readouterr().err == "sotto: in: passed over deep/other/, loop/\n"
    assert [path.name for path in Path("out").iterdir()] == ["talk.sotto"]


@pytest.mark.parametrize("more", [[], ["--jobs", "1"]])
def test_a_folder_that_cannot_be_read_does_not_stop_the_others(
    folder: Path, more: list[str], capsys, monkeypatch: pytest.MonkeyPatch
) -> None:
    (folder / "lost").mkdir()
    (folder / "lost" / "a.wav").write_bytes(b"")
    scan = os.scandir

    def scandir(path):  # as one meets who is not root
        if os.path.basename(path) == "lost":
            raise PermissionError(errno.EACCES, os.strerror(errno.EACCES), path)
        return scan(path)

    monkeypatch.setattr(os, "scandir", scandir)
    assert main(["encode", "in", "out", "--no-search", *more]) == 1
    error = capsys.readouterr().err
    assert "in/lost" in error and error.endswith("sotto: 1 of 2 files failed\n")
    assert error.count("\n") == 2
    assert Path("out", "talk.sotto").is_file()


def test_what_may_be_meant_is_named_and_documents_are_not(folder: Path, capsys) -> None:
    (folder / "deep").mkdir()
    for name in ("a.xyz", "b.zip", "deep/c.aup3", "d.dat", "notes.txt", "cover.jpg", ".DS_Store"):
        (folder / name).write_bytes(b"\1\2\3 nothing to hear")
    (folder / "talk.sotto").write_bytes(b"STTO")
    assert main(["encode", "in", "out"]) == 0
    assert capsys.readouterr().err == "sotto: in: passed over a.xyz, b.zip, d.dat and 1 more\n"


@pytest.mark.parametrize("text", ["I'm free", "\ufeffhello", "RIFF", "ID4", "\xff\xfe"])
def test_text_is_not_taken_for_audio(text: str, tmp_path: Path) -> None:
    for encoding in ("utf-8", "utf-16"):
        (tmp_path / "notes").write_text(20 * text, encoding=encoding)
        assert not looks_like_audio(tmp_path / "notes")
