"""Key files, fingerprints, and `sotto keygen`."""

from __future__ import annotations

import io
import json
import os
import re
import stat
import sys

import pytest
from hypothesis import given
from hypothesis import strategies as st

from codec.errors import BadInput
from stream.link import keys
from stream.link.keys import KeyPair
from tui.cli import main


@pytest.fixture
def home(tmp_path, monkeypatch):
    monkeypatch.setenv("SOTTO_HOME", str(tmp_path / "home"))
    return tmp_path / "home"


def test_a_pair_survives_its_files(tmp_path):
    pair, path = keys.generate(), tmp_path / "a" / "key"
    keys.write_key_pair(pair, path, name="Zoë at home")
    assert keys.read_key_pair(path) == pair
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert stat.S_IMODE(path.parent.stat().st_mode) == 0o700
    assert (tmp_path / "a" / "key.pub").read_text().split() == [pair.public, "Zoë-at-home"]
    assert keys.read_public_key(str(path) + ".pub") == pair.public
    assert keys.read_public_key(pair.public) == pair.public
    assert sorted(os.listdir(path.parent)) == ["key", "key.pub"]
    assert pair.secret not in repr(pair)


@pytest.mark.parametrize("existing", ["key", "key.pub"])
def test_nothing_is_overwritten_unless_forced(tmp_path, existing):
    (tmp_path / existing).write_text("precious")
    with pytest.raises(BadInput, match="exists already"):
        keys.write_key_pair(keys.generate(), tmp_path / "key")
    assert os.listdir(tmp_path) == [existing]
    assert (tmp_path / existing).read_text() == "precious"
    pair = keys.generate()
    keys.write_key_pair(pair, tmp_path / "key", force=True)
    assert keys.read_key_pair(tmp_path / "key") == pair


def test_a_key_others_can_read_is_refused(tmp_path):
    path = tmp_path / "key"
    keys.write_key_pair(keys.generate(), path)
    path.chmod(0o644)
    with pytest.raises(BadInput, match="chmod 600"):
        keys.read_key_pair(path)


@pytest.mark.parametrize("mode", [0o620, 0o602, 0o660])
def test_a_key_others_can_write_is_refused(tmp_path, mode):
    path = tmp_path / "key"
    keys.write_key_pair(keys.generate(), path)
    for file, read in ((path, keys.read_key_pair), (tmp_path / "key.pub", keys.read_public_key)):
        file.chmod(mode)
        with pytest.raises(BadInput, match=r"others can (read|write) .*run chmod"):
            read(str(file))


def test_a_key_others_can_replace_is_refused(tmp_path):
    keys.write_key_pair(keys.generate(), tmp_path / "home" / "key")
    (tmp_path / "home").chmod(0o777)
    (tmp_path / "link").symlink_to(tmp_path / "home" / "key")
    for path in (tmp_path / "home" / "key", tmp_path / "link"):
        with pytest.raises(BadInput, match=r"others can write .*home: run chmod go-w"):
            keys.read_key_pair(path)
    (tmp_path / "home").chmod(0o1777)  # as /tmp
    assert keys.read_key_pair(tmp_path / "link") == keys.read_key_pair(tmp_path / "home" / "key")


def test_a_key_that_is_no_file_is_not_waited_for(tmp_path):
    os.mkfifo(tmp_path / "key", 0o600)
    with pytest.raises(BadInput, match="it is a pipe or a device, not a file"):
        keys.read_key_pair(tmp_path / "key")


@pytest.mark.parametrize(
    "change",
    [
        lambda text: "",
        lambda text: text[:30],
        lambda text: text.replace("sotto", "other"),
        lambda text: text.replace("secret", "public"),
        lambda text: text[:-6] + "\n",
        lambda text: "\n".join([text.split("\n")[0], f"public {'0' * 40}", text.split("\n")[2]]),
        lambda text: "\0" * 5000,
    ],
)
def test_damaged_private_keys_are_refused(tmp_path, change):
    path = tmp_path / "key"
    keys.write_key_pair(keys.generate(), path)
    path.write_text(change(path.read_text()))
    with pytest.raises(BadInput):
        keys.read_key_pair(path)


def test_missing_keys_and_directories_are_refused(tmp_path):
    for path in (tmp_path / "none", tmp_path):
        with pytest.raises(BadInput, match="cannot read"):
            keys.read_key_pair(path)
        with pytest.raises(BadInput, match="cannot read"):
            keys.read_public_key(str(path))


@given(st.binary(min_size=32, max_size=32))
def test_z85_round_trip_and_fingerprints(data):
    text = keys.key_text(data)
    assert keys.key_bytes(text) == data
    groups = keys.fingerprint(text).split("-")
    assert [len(group) for group in groups] == [4, 4, 4, 4]


def test_fingerprint_is_pinned():
    """SHA-256 of 32 zero bytes begins 66687aadf862bd776c8f."""
    assert keys.fingerprint("0" * 40) == "mzuh-vlpy-mk6x-o3ep"


def test_the_authentication_string_is_pinned_and_of_both_keys():
    ends = ["0" * 40, keys.key_text(bytes(range(32)))]
    code = keys.authentication_string(*ends)
    assert code == "73989 38831 90347 04840 74291 33036"
    assert code == keys.authentication_string(*reversed(ends))
    assert re.fullmatch(r"\d{5}( \d{5}){5}", code)
    others = {keys.authentication_string(end, keys.generate().public) for end in ends}
    assert len({code, *others}) == 3
    with pytest.raises(BadInput):
        keys.authentication_string(ends[0], "short")


@given(st.text(max_size=50))
def test_what_is_no_key_is_refused(text):
    with pytest.raises(BadInput):
        keys.key_bytes(text)


def test_characters_that_overflow_are_refused():
    with pytest.raises(BadInput):
        KeyPair("#" * 40, "0" * 40)


def test_home_follows_the_environment(monkeypatch, tmp_path):
    monkeypatch.delenv("SOTTO_HOME", raising=False)
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path))
    assert keys.home() == tmp_path / "sotto"
    monkeypatch.setenv("XDG_CONFIG_HOME", "not/absolute")
    monkeypatch.setenv("HOME", "/home/someone")
    assert str(keys.home()) == "/home/someone/.config/sotto"
    monkeypatch.setenv("SOTTO_HOME", "/elsewhere")
    assert str(keys.default_key_path()) == "/elsewhere/key"


def test_keygen(home, capsys):
    assert main(["keygen", "--json", "--name", "me"]) == 0
    answer = json.loads(capsys.readouterr().out)
    pair = keys.read_key_pair(home / "key")
    assert answer["public"] == pair.public
    assert answer["fingerprint"] == pair.fingerprint
    assert pair.secret not in json.dumps(answer)
    assert main(["keygen"]) == 1
    assert "exists already" in capsys.readouterr().err
    assert main(["keygen", "--force"]) == 0
    out = capsys.readouterr().out
    assert keys.read_key_pair(home / "key").fingerprint in out
    assert keys.read_key_pair(home / "key") != pair


@pytest.mark.parametrize(
    ("encoding", "name", "shown"),
    [
        ("utf-8", b"k\xfe", "k\\udcfe"),
        ("latin-1", "ключ".encode(), "\\u043a\\u043b\\u044e\\u0447"),
        ("utf-8", "ключ".encode(), "ключ"),
    ],
)
def test_keygen_tells_names_that_cannot_be_written(
    home, tmp_path, monkeypatch, encoding: str, name: bytes, shown: str
) -> None:
    heard = io.BytesIO()
    monkeypatch.setattr(sys, "stdout", io.TextIOWrapper(heard, encoding, errors="strict"))
    path = tmp_path / os.fsdecode(name)
    assert main(["keygen", str(path)]) == 0
    assert path.exists()
    last = heard.getvalue().decode(encoding).splitlines()[-1]
    assert last.endswith(f"/{shown} (keep it secret) and {tmp_path}/{shown}.pub (give it away)")


def test_keygen_refuses_what_is_no_file(home, tmp_path, capsys):
    assert main(["keygen", str(tmp_path / "file" / "x")]) == 0
    assert main(["keygen", str(tmp_path / "file" / "x" / "below")]) == 1
    assert "cannot write" in capsys.readouterr().err
    assert main(["keygen", "-"]) == 2
