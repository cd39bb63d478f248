"""CURVE key pairs, their files, and fingerprints.

A key pair is two text files. The private one, readable by its owner alone, holds both keys:

    sotto-private-key 1
    public <40 characters of Z85>
    secret <40 characters of Z85>

The public one, beside it with the ending `.pub`, is the line to give away: `<Z85> <name>`. Z85 is
ZeroMQ RFC 32, CURVE ZeroMQ RFC 26.
"""

from __future__ import annotations

import base64
import contextlib
import errno
import hashlib
import os
import re
import secrets
import stat
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import BinaryIO

from codec.errors import BadInput
from codec.files.paths import display_name, os_errors

HOME = "SOTTO_HOME"
_LONGEST_NAME = 128
_MOST_LINKS = 40  # as many as Linux follows
_KEY = re.compile(r"[0-9a-zA-Z.\-:+=^!/*?&<>()\[\]{}@%$#]{40}")
_CODE_PURPOSE = b"sotto authentication string 1"
_CODE_ROUNDS = 5200
_MAGIC = "sotto-private-key 1"


@dataclass(frozen=True)
class KeyPair:
    """A CURVE key pair, both in Z85 (40 characters for 32 bytes)."""

    public: str
    secret: str = field(repr=False)

    def __post_init__(self) -> None:
        for key in (self.public, self.secret):
            key_bytes(key)

    @property
    def fingerprint(self) -> str:
        return fingerprint(self.public)


def generate() -> KeyPair:
    """A new key pair from the system's random numbers."""
    import zmq

    public, secret = zmq.curve_keypair()
    return KeyPair(public.decode("ascii"), secret.decode("ascii"))


def looks_like_key(text: str) -> bool:
    """Whether a text has the length and the characters of a key."""
    return _KEY.fullmatch(text) is not None


def key_bytes(key: str) -> bytes:
    """The 32 bytes of a Z85 key. Raises BadInput if it is not one."""
    from zmq.utils import z85

    if not looks_like_key(key):
        raise BadInput(f"{display_name(key[:60])} is not a key: a key has 40 characters of Z85")
    data = b""
    with contextlib.suppress(Exception):  # five characters may say more than 32 bits hold
        data = z85.decode(key)
    if z85.encode(data) != key.encode("ascii"):
        raise BadInput(f"{key} is not a key: its characters do not make 32 bytes")
    return data


def key_text(data: bytes) -> str:
    """The Z85 form of 32 bytes."""
    from zmq.utils import z85

    if len(data) != 32:
        raise BadInput(f"a key has 32 bytes, not {len(data)}")
    text: bytes = z85.encode(data)
    return text.decode("ascii")


def fingerprint(public: str) -> str:
    """A short readable hash of a public key, to compare aloud: four groups of four.

    The first 80 bits of SHA-256 of the key's 32 bytes, in lower-case base32 (RFC 4648).
    """
    digest = hashlib.sha256(key_bytes(public)).digest()[:10]
    text = base64.b32encode(digest).decode("ascii").lower()
    return "-".join(text[k : k + 4] for k in range(0, 16, 4))


def authentication_string(one: str, other: str) -> str:
    """What the owners of two public keys compare aloud: 30 digits, the same for both of them.

    In groups of five, as Signal's numeric fingerprints are ("Safety number updates", 2016), and
    like those slow to compute. Whoever sits in the middle shows each side a key of its own, and
    needs a pair of them for which both sides' digits agree: as short strings without a commitment
    can be searched for such pairs (Vaudenay, "Secure Communications over Insecure Channels Based on
    Short Authenticated Strings", 2005), these have 99 bits, so that it takes 2^50 keys of 2^13
    hashes each.
    """
    keys = sorted((key_bytes(one), key_bytes(other)))
    digest = hashlib.pbkdf2_hmac("sha512", b"".join(keys), _CODE_PURPOSE, _CODE_ROUNDS)
    digits = f"{int.from_bytes(digest, 'big') % 10**30:030d}"
    return " ".join(digits[k : k + 5] for k in range(0, 30, 5))


def home() -> Path:
    """Where keys and known peers are kept: $SOTTO_HOME, else $XDG_CONFIG_HOME/sotto."""
    if os.environ.get(HOME):
        return Path(os.environ[HOME])
    config = os.environ.get("XDG_CONFIG_HOME", "")
    # The base directory specification says that relative paths are to be ignored.
    base = Path(config) if os.path.isabs(config) else Path("~/.config")
    with contextlib.suppress(RuntimeError):  # no home directory: the error names the path
        base = base.expanduser()
    return base / "sotto"


def default_key_path() -> Path:
    return home() / "key"


def public_path(path: str | os.PathLike[str]) -> Path:
    """Where the public half of the pair at `path` is."""
    return Path(os.fspath(path) + ".pub")


def write_key_pair(
    pair: KeyPair, path: str | os.PathLike[str], *, force: bool = False, name: str = ""
) -> None:
    """Write the private file `path` (mode 0600) and `path`.pub; both whole or not at all.

    The directory is made, for the owner alone, if it is not there. Raises BadInput if either file
    exists and `force` is not given, or the system refuses.
    """
    private, public = Path(path), public_path(path)
    with os_errors("write", path):
        private.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    if not force:
        for file in (private, public):
            if os.path.lexists(file):
                raise BadInput(f"{display_name(file)} exists already (--force replaces it)")
    text = f"{_MAGIC}\npublic {pair.public}\nsecret {pair.secret}\n"
    note = f"{pair.public} {peer_name(name) or pair.fingerprint}\n"
    with prepared(private, text, 0o600) as first, prepared(public, note, 0o644) as second:
        with os_errors("write", private):
            _put(first, private, force)
        try:
            with os_errors("write", public):
                _put(second, public, force)
        except BaseException:
            if not force:
                private.unlink(missing_ok=True)
            raise


@contextlib.contextmanager
def opened(path: str | os.PathLike[str]) -> Iterator[BinaryIO]:
    """A regular file for reading, by our own name or through links. Raises OSError.

    Of a pipe one would wait for who may never come, with the call's own thread, and of a device for
    no end.
    """
    descriptor = os.open(path, os.O_RDONLY | getattr(os, "O_NONBLOCK", 0))
    try:
        mode = os.fstat(descriptor).st_mode
        if stat.S_ISDIR(mode):
            raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR))
        if not stat.S_ISREG(mode):
            raise OSError(errno.EINVAL, "it is a pipe or a device, not a file")
        file = open(descriptor, "rb", closefd=False)  # noqa: SIM115 - the descriptor is ours
        yield file
    finally:
        os.close(descriptor)


def refuse_writable(descriptor: int | None, path: str | os.PathLike[str]) -> None:
    """Raise BadInput if anybody but us and root may change the open file `path`, or replace it.

    Others may if they own it or its folder, or if the permissions let them write there; in a folder
    with the sticky bit, as /tmp, only owners replace a file. The same is asked of the folder of
    every symbolic link on the way there. descriptor: None if there is no file yet. Does nothing
    where files have no such permissions.
    """
    if os.name != "posix":
        return
    with os_errors("read", path):
        places = [] if descriptor is None else [(os.fspath(path), os.fstat(descriptor))]
        places += [(folder, os.stat(folder)) for folder in _folders_to(path)]
    for place, status in places:
        shown = display_name(place)
        if status.st_uid not in (0, os.geteuid()):
            raise BadInput(f"another user owns {shown}: what it says of keys cannot be trusted")
        sticky = stat.S_ISDIR(status.st_mode) and status.st_mode & stat.S_ISVTX
        if status.st_mode & 0o022 and not sticky:
            raise BadInput(f"others can write {shown}: run chmod go-w {shown}")


def _folders_to(path: str | os.PathLike[str]) -> list[str]:
    """The folder of each symbolic link on the way to `path`, and its own. Raises OSError."""
    folders: dict[str, None] = {}
    root, *names = Path(os.path.join(os.getcwd(), path)).parts
    place, links = root, 0
    while names:
        name, *names = names
        at = os.path.join(place, name)
        if name == os.pardir:
            place = os.path.dirname(place)
        elif not os.path.islink(at):
            place = at
        else:
            links += 1
            if links > _MOST_LINKS:
                raise OSError(errno.ELOOP, os.strerror(errno.ELOOP))
            folders[place] = None
            target = Path(os.readlink(at)).parts
            if target[0] == root:
                place, target = root, target[1:]
            names = [*target, *names]
    folders[os.path.dirname(place)] = None
    return list(folders)


@contextlib.contextmanager
def prepared(final: Path, text: str, mode: int) -> Iterator[Path]:
    """A temporary file beside `final`, never readable by more than `mode` allows."""
    temporary = final.parent / f".sotto-{secrets.token_hex(6)}.part"
    try:
        with os_errors("write", final):
            flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL
            with open(os.open(temporary, flags, mode), "w", encoding="utf-8") as file:
                file.write(text)
                file.flush()
                os.fsync(file.fileno())
        yield temporary
    finally:
        temporary.unlink(missing_ok=True)


def _put(temporary: Path, final: Path, force: bool) -> None:
    if force:
        os.replace(temporary, final)
    else:
        os.link(temporary, final)  # unlike a rename, fails if somebody was quicker


def read_key_pair(path: str | os.PathLike[str]) -> KeyPair:
    """The key pair in the private file `path`.

    Raises BadInput if it is missing or damaged, or if others can read, write or replace it.
    """
    import zmq

    name = display_name(path)
    with os_errors("read", path), opened(path) as file:
        mode = stat.S_IMODE(os.fstat(file.fileno()).st_mode)
        refuse_writable(file.fileno(), path)
        data = file.read(4096)
    if mode & 0o077:
        raise BadInput(f"others can read the private key {name}: run chmod 600 {name}")
    lines = data.decode("ascii", "replace").split("\n")
    if len(lines) < 3 or lines[0].strip() != _MAGIC:
        raise BadInput(f"{name} is not a private key of sotto")
    values = dict(line.split(None, 1) for line in lines[1:3] if len(line.split(None, 1)) == 2)
    if set(values) != {"public", "secret"}:
        raise BadInput(f"the private key {name} is damaged")
    pair = KeyPair(values["public"].strip(), values["secret"].strip())
    if zmq.curve_public(pair.secret.encode("ascii")).decode("ascii") != pair.public:
        raise BadInput(f"the private key {name} is damaged: its halves do not belong together")
    return pair


def read_public_key(text: str) -> str:
    """A public key given as itself or as the name of a .pub file.

    Raises BadInput if it is none, or in a file that others can write or replace.
    """
    key = text
    if not looks_like_key(text):
        with os_errors("read", text), open(text, "rb") as file:
            refuse_writable(file.fileno(), text)
            key = (file.read(4096).decode("utf-8", "replace").split() or [""])[0]
        if not looks_like_key(key):
            raise BadInput(f"{display_name(text)} holds no public key")
    key_bytes(key)
    return key


def peer_name(text: str) -> str:
    """`text` as a name beside a public key: printable, without spaces, not too long."""
    joined = "-".join("".join(c if c.isprintable() else " " for c in text).split())
    return joined.lstrip("#")[:_LONGEST_NAME]
