"""The TIMIT corpus (Garofolo et al. 1993): hand-labelled phones to train the recogniser on.

TIMIT itself is not free. It is laid out as {TRAIN,TEST}/DRn/SPEAKER/SENTENCE.{WAV,PHN}, in upper or
lower case. What is read are the training set (462 speakers, 3696 sentences) and the core test set
(24 speakers, 192 sentences), both without the dialect sentences SA1 and SA2, which all speakers
read. The 61 labels are folded to 39 phones for training and test alike (Lee & Hon 1989, "Speaker-
Independent Phone Recognition Using Hidden Markov Models").
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from itertools import groupby
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from codec.errors import BadInput
from codec.files.paths import display_name, os_errors
from codec.signal.samples import SAMPLE_RATE
from models.phones import SILENCE, TIMIT_PHONES

# Two men and a woman of each dialect region, DR1 to DR8.
CORE_TEST = frozenset((
    "mdab0", "mwbt0", "felc0", "mtas1", "mwew0", "fpas0", "mjmp0", "mlnt0", "fpkt0", "mlll0",
    "mtls0", "fjlm0", "mbpm0", "mklt0", "fnlp0", "mcmj0", "mjdh0", "fmgd0", "mgrt0", "mnjm0",
    "fdhc0", "mjln0", "mpam0", "fmld0",
))  # fmt: skip
_FOLDED = {
    "ao": "aa", "ax": "ah", "ax-h": "ah", "axr": "er", "hv": "hh", "ix": "ih", "el": "l",
    "em": "m", "en": "n", "nx": "n", "eng": "ng", "zh": "sh", "ux": "uw",
    **dict.fromkeys(
        ("bcl", "dcl", "gcl", "pcl", "tcl", "kcl", "h#", "pau", "epi"), SILENCE
    ),
}  # fmt: skip
_LEFT_OUT = "q"  # the glottal stop, which Lee & Hon ignore
_MAX_LABELS_BYTES = 1 << 20
_MAX_HEADER_BYTES = 1 << 16
_MAX_SAMPLES = 600 * SAMPLE_RATE
_MAGIC = b"NIST_1A\n"


@dataclass(frozen=True)
class Sentence:
    """One recording and the file of its labels. core_test: of the core test set."""

    path: Path
    labels: Path
    speaker: str
    core_test: bool

    @property
    def name(self) -> str:
        """Speaker and sentence, as in fcjf0/sx127."""
        return f"{self.speaker}/{self.path.stem.lower()}"


def find_timit(folder: Path) -> Path | None:
    """The folder that holds TRAIN and TEST: `folder`, or one in it called TIMIT or data."""
    for root in (folder, *_named(folder, ("timit", "data"))):
        if {name.name.lower() for name in _named(root, ("train", "test"))} == {"train", "test"}:
            (train, *_) = _named(root, ("train",))
            if any(_dialects(train)):
                return root
    return None


def sentences(root: Path) -> list[Sentence]:
    """The training set and the core test set, by name. Raises BadInput if there is no sentence."""
    found: dict[str, Sentence] = {}
    with os_errors("read", root):
        for part in _named(root, ("train", "test")):
            test = part.name.lower() == "test"
            for each in _sentences_of(part, core_test=test):
                if not test or each.speaker in CORE_TEST:
                    found[each.name] = each
    if not found:
        raise BadInput(f"{display_name(root)} holds no sentence of TIMIT with labels")
    return [found[name] for name in sorted(found)]


def read_phones(path: Path) -> tuple[str, ...]:
    """The folded phones of a .PHN file, whose lines are START END LABEL in samples.

    Silences and closures in a row are one silence. Raises BadInput if the file is damaged.
    """
    with os_errors("read", path):
        data = path.read_bytes() if path.stat().st_size <= _MAX_LABELS_BYTES else b""
    labels = []
    for number, line in enumerate(data.decode("ascii", "replace").splitlines(), 1):
        words = line.split()
        if len(words) != 3 or not (words[0].isdecimal() and words[1].isdecimal()):
            raise BadInput(f"{display_name(path)}:{number}: not START END LABEL")
        labels.append(words[2].lower())
    try:
        phones = fold(labels)
    except BadInput as error:
        raise BadInput(f"{display_name(path)}: {error}") from error
    if not phones:
        raise BadInput(f"{display_name(path)} holds no labels")
    return phones


def fold(labels: Iterable[str]) -> tuple[str, ...]:
    """TIMIT's 61 labels to `TIMIT_PHONES`. Raises BadInput for an unknown label."""
    phones = [_FOLDED.get(label, label) for label in labels if label != _LEFT_OUT]
    unknown = [phone for phone in phones if phone not in TIMIT_PHONES]
    if unknown:
        raise BadInput(f"{unknown[0]!r} is no label of TIMIT")
    return tuple(
        phone for phone, run in groupby(phones) for _ in (range(1) if phone == SILENCE else run)
    )


def is_sphere(path: Path) -> bool:
    """Whether a file begins as a NIST SPHERE file does; some copies of TIMIT hold RIFF files."""
    with os_errors("read", path), open(path, "rb") as file:
        return file.read(len(_MAGIC)) == _MAGIC


def read_sphere(path: Path) -> NDArray[np.float32]:
    """Samples [n] in [-1, 1] of a SPHERE file of 16-bit PCM, mono, 16 kHz.

    Raises BadInput for any other, in particular for one that Shorten has compressed.
    """
    name = display_name(path)
    with os_errors("read", path), open(path, "rb") as file:
        begin = file.read(16)
        size = begin[8:].strip()
        if not begin.startswith(_MAGIC) or not size.isdigit():
            raise BadInput(f"{name} is not a SPHERE file")
        if not 16 <= int(size) <= _MAX_HEADER_BYTES:
            raise BadInput(f"{name} has a SPHERE header of {int(size)} bytes")
        header = file.read(int(size) - 16)
        if len(header) < int(size) - 16:
            raise BadInput(f"{name} is cut off in its header")
        fields = _fields(header)
        coding = fields.get("sample_coding", "pcm")
        if "shorten" in coding:
            raise BadInput(
                f"{name} is compressed with Shorten, which is not supported: "
                "unpack the corpus with `sph2pipe -p` or `w_decode` first"
            )
        form = {
            "sample_coding": coding,
            "channel_count": fields.get("channel_count", "1"),
            "sample_n_bytes": fields.get("sample_n_bytes", "2"),
            "sample_rate": fields.get("sample_rate", str(SAMPLE_RATE)),
        }
        wanted = {
            "sample_coding": "pcm", "channel_count": "1", "sample_n_bytes": "2",
            "sample_rate": str(SAMPLE_RATE),
        }  # fmt: skip
        for key, value in wanted.items():
            if form[key] != value:
                raise BadInput(f"{name} has {key} {form[key]!r}, not {value}")
        order = {"01": "<i2", "10": ">i2"}.get(fields.get("sample_byte_format", "01"))
        if order is None:
            raise BadInput(f"{name} has an unknown sample_byte_format")
        data = file.read(2 * _MAX_SAMPLES + 2)
    count = fields.get("sample_count", str(len(data) // 2))
    if not count.isdigit() or int(count) > len(data) // 2:
        raise BadInput(f"{name} is cut off: {len(data) // 2} of {count} samples are there")
    if int(count) > _MAX_SAMPLES:
        raise BadInput(f"{name} is longer than any sentence")
    samples = np.frombuffer(data, order, int(count))
    return (samples / 32768.0).astype(np.float32)


def _fields(header: bytes) -> dict[str, str]:
    """The fields of a SPHERE header: lines NAME -TYPE VALUE up to end_head."""
    found = {}
    for line in header.decode("latin-1").splitlines():
        words = line.split(None, 2)
        if words[:1] == ["end_head"]:
            break
        if len(words) == 3 and words[1].startswith("-"):
            found[words[0]] = words[2].strip()
    return found


def _named(folder: Path, names: Iterable[str]) -> list[Path]:
    """Folders in `folder` of these names, in any case."""
    try:
        inside = sorted(folder.iterdir())
    except OSError:
        return []
    return [path for path in inside if path.name.lower() in names and path.is_dir()]


def _dialects(part: Path) -> list[Path]:
    return _named(part, [f"dr{number}" for number in range(1, 9)])


def _sentences_of(part: Path, *, core_test: bool) -> Iterator[Sentence]:
    for dialect in _dialects(part):
        for speaker in sorted(path for path in dialect.iterdir() if path.is_dir()):
            files = {name.lower(): speaker / name for name in sorted(os.listdir(speaker))}
            for name, labels in files.items():
                stem, suffix = os.path.splitext(name)
                recording = files.get(f"{stem}.wav")
                if suffix == ".phn" and recording is not None and not stem.startswith("sa"):
                    yield Sentence(recording, labels, speaker.name.lower(), core_test)
