"""TIMIT, by a synthetic miniature in its layout: reading, folding, and training on its phones."""

from __future__ import annotations

import json
import re
from pathlib import Path

import numpy as np
import pytest
import soundfile
import torch

from codec.errors import BadInput
from models.networks.features import FeatureShape, load_features
from models.phones import PHONES, TIMIT_PHONES
from models.training import timit
from models.training.checkpoints import latest_checkpoint, load_checkpoint
from models.training.features import FeatureSettings, FeatureTask, train_features
from models.training.frames import FrameShards
from models.training.loop import Run
from models.training.prepare import prepare
from models.training.utterances import Utterance, labelled_utterances, load_batch

LABELS = (
    "iy ih eh ey ae aa aw ay ah ao oy ow uh uw ux er ax ix axr ax-h jh ch b d g p t k dx s sh z zh "
    "f th v dh m n ng em nx en eng l r w y hh hv el bcl dcl gcl pcl tcl kcl q h# pau epi"
)
SAID = (
    ("h#", 2400), ("sh", 1600), ("ix", 1600), ("tcl", 800), ("t", 800), ("q", 400), ("h#", 2400),
)  # fmt: skip
FOLDED = "sil sh ih sil t sil"


def sphere(samples: np.ndarray, **fields: str) -> bytes:
    """A SPHERE file of 16-bit samples; fields: other than TIMIT's."""
    order = {"01": "<i2", "10": ">i2"}.get(fields.get("sample_byte_format", "01"), "<i2")
    known = {
        "database_id": "TIMIT", "channel_count": "1", "sample_count": str(len(samples)),
        "sample_rate": "16000", "sample_n_bytes": "2", "sample_byte_format": "01",
    }  # fmt: skip
    lines = [
        f"{name} -{'i' if value.isdigit() else f's{len(value)}'} {value}"
        for name, value in (known | fields).items()
    ]
    text = "\n".join(["NIST_1A", "   1024", *lines, "end_head", ""])
    return text.encode().ljust(1024) + samples.astype(order).tobytes()


def sentence(folder: Path, name: str, *, riff: bool = False, lower: bool = False) -> None:
    """A recording of SAID with its labels."""
    ends = np.cumsum([length for _, length in SAID])
    random = np.random.default_rng(len(name))
    samples = (3000 * random.normal(size=ends[-1])).clip(-32768, 32767)
    rows = [f"{end - n} {end} {label}\n" for (label, n), end in zip(SAID, ends, strict=True)]
    folder.mkdir(parents=True, exist_ok=True)
    case = str.lower if lower else str.upper
    path = folder / case(f"{name}.WAV")
    if riff:
        soundfile.write(path, samples.astype(np.int16), 16_000, subtype="PCM_16", format="WAV")
    else:
        path.write_bytes(sphere(samples))
    (folder / case(f"{name}.PHN")).write_text("".join(rows))
    (folder / case(f"{name}.TXT")).write_text("0 10000 She ate.\n")


@pytest.fixture
def corpus(tmp_path: Path) -> Path:
    root = tmp_path / "TIMIT"
    for dialect, speaker in (("DR1", "FAAA0"), ("DR2", "MBBB0"), ("DR8", "MCCC0")):
        for name in ("SA1", "SX1", "SI2"):
            sentence(root / "TRAIN" / dialect / speaker, name)
    for dialect, speaker in (("DR1", "FELC0"), ("DR1", "FDDD0"), ("DR8", "FMLD0")):
        for name in ("SA2", "SX3"):
            sentence(root / "TEST" / dialect / speaker, name)
    (root / "DOC").mkdir()
    return root


def test_the_standard_sets_are_found(corpus: Path) -> None:
    """TRAIN, and the core test speakers of TEST; nowhere the sentences that all speakers read."""
    for folder in (corpus, corpus.parent):
        root = timit.find_timit(folder)
        assert root == corpus
        found = {each.name: each.core_test for each in timit.sentences(root)}
        assert found == {
            "faaa0/si2": False, "faaa0/sx1": False, "mbbb0/si2": False, "mbbb0/sx1": False,
            "mccc0/si2": False, "mccc0/sx1": False, "felc0/sx3": True, "fmld0/sx3": True,
        }  # fmt: skip
    assert len(timit.CORE_TEST) == 24
    assert sum(name.startswith("f") for name in timit.CORE_TEST) == 8
    assert timit.find_timit(corpus / "TRAIN") is None
    assert timit.find_timit(corpus / "nowhere") is None


def test_labels_are_folded_as_by_lee_and_hon() -> None:
    labels = LABELS.split()
    assert len(labels) == 61
    assert len(TIMIT_PHONES) == len(set(TIMIT_PHONES)) == 39
    assert {phone for label in labels for phone in timit.fold([label])} == set(TIMIT_PHONES)
    said = "h# pau sh ix hv eh dcl d ax-h zh q ux em el nx axr eng ao kcl epi h#"
    folded = timit.fold(said.split())
    assert " ".join(folded) == "sil sh ih hh eh sil d ah sh uw m l n er ng aa sil"
    assert timit.fold(["s", "s"]) == ("s", "s")
    with pytest.raises(BadInput, match="'xx' is no label"):
        timit.fold(["h#", "xx"])


@pytest.mark.parametrize("order", ["01", "10"])
def test_sphere_files_are_read(tmp_path: Path, order: str) -> None:
    samples = np.array([0, 1, -1, 32767, -32768] * 100)
    (tmp_path / "a.wav").write_bytes(sphere(samples, sample_byte_format=order))
    read = timit.read_sphere(tmp_path / "a.wav")
    assert read.dtype == np.float32
    np.testing.assert_array_equal(32768 * read, samples)


WHOLE = sphere(np.arange(500))


@pytest.mark.parametrize(
    ("data", "reason"),
    [
        (sphere(np.arange(9), sample_coding="pcm,embedded-shorten-v2.00"), "Shorten.*sph2pipe"),
        (sphere(np.arange(9), sample_coding="ulaw"), "sample_coding 'ulaw'"),
        (sphere(np.arange(9), sample_rate="8000"), "sample_rate '8000'"),
        (sphere(np.arange(9), channel_count="2"), "channel_count '2'"),
        (sphere(np.arange(9), sample_byte_format="11"), "sample_byte_format"),
        (sphere(np.arange(9), sample_count="99999999999"), "cut off"),
        (sphere(np.arange(9), sample_count="-5"), "cut off"),
        (WHOLE[:-2], "cut off"),
        (WHOLE[:20], "cut off"),
        (b"RIFF" + WHOLE[4:], "not a SPHERE file"),
        (b"NIST_1A\n99999999" + WHOLE[16:], "header of 99999999 bytes"),
        (b"NIST_1A\n" + b"\xb2" * 8, "not a SPHERE file"),
        (b"", "not a SPHERE file"),
    ],
)
def test_other_sphere_files_are_one_line(tmp_path: Path, data: bytes, reason: str) -> None:
    (tmp_path / "a.wav").write_bytes(data)
    with pytest.raises(BadInput, match=reason) as caught:
        timit.read_sphere(tmp_path / "a.wav")
    assert "a.wav" in str(caught.value) and "\n" not in str(caught.value)


@pytest.mark.parametrize("text", ["", "0 9\n", "a 9 sh\n", "0 9 xx\n", "\xff" * 9, "0 9 q\n"])
def test_damaged_labels_are_one_line(tmp_path: Path, text: str) -> None:
    (tmp_path / "a.phn").write_text(text, encoding="latin-1")
    with pytest.raises(BadInput, match=r"a\.phn") as caught:
        timit.read_phones(tmp_path / "a.phn")
    assert "\n" not in str(caught.value)


def test_the_core_test_set_is_kept_apart(corpus: Path, tmp_path: Path) -> None:
    """What cannot be read is named; a copy in lower case with RIFF files will do."""
    sentence(corpus / "TRAIN" / "DR3" / "feee0", "sx5", riff=True, lower=True)
    shortened = sphere(np.arange(9), sample_coding="pcm,embedded-shorten-v2.00")
    (corpus / "TRAIN" / "DR1" / "FAAA0" / "SX1.WAV").write_bytes(shortened)
    (corpus / "TEST" / "DR1" / "FELC0" / "SX3.PHN").write_text("what?")
    packed = tmp_path / "packed"
    done = prepare(corpus.parent, packed, processes=1)
    assert sorted(done.skipped) == ["faaa0/sx1", "felc0/sx3"]
    assert "Shorten" in done.skipped["faaa0/sx1"]
    index = FrameShards(packed).index
    assert {entry["speaker"] for entry in index} == {"faaa0", "mbbb0", "mccc0", "feee0"}
    assert {entry["phones"] for entry in index} == {FOLDED}
    (core,) = json.loads((packed / "core-test" / "train.json").read_text())
    assert core["speaker"] == "fmld0"


def test_augmented_utterances_are_long_enough_for_their_phones(tmp_path: Path) -> None:
    np.save(tmp_path / "train-000.npy", np.full((200, 128), 200, np.uint8))
    # The first has no column to spare: two equal phones have a blank between them.
    said = [(0, 12, (3, 3)), (20, 120, (4, 5, 6)), (120, 200, (7,))]
    group = [Utterance(0, start, end, "a", phones) for start, end, phones in said]
    shards, cpu = FrameShards(tmp_path), torch.device("cpu")
    plain = load_batch(shards, group, None, cpu)
    assert plain.steps.tolist() == [3, 25, 20] and plain.lengths.tolist() == [2, 3, 1]
    assert plain.phones.tolist() == [[3, 3, 0], [4, 5, 6], [7, 0, 0]]
    assert plain.x[0, :12].min() > 0.5 and plain.x[0, 12:].max() == -1.0
    lengths = set()
    for seed in range(20):
        batch = load_batch(shards, group, np.random.default_rng(seed), cpu)
        assert batch.x.shape[1] >= 4 * int(batch.steps.max())
        steps = batch.steps.tolist()
        assert steps[0] >= 3 and 22 <= steps[1] <= 28
        lengths.add(steps[1])
        for row, count in zip(batch.x, steps, strict=True):
            assert (row[: 4 * count] > -1.0).float().mean() > 0.5
            assert row[4 * count + 4 :].eq(-1.0).all()
    assert len(lengths) > 2


def test_the_recogniser_is_trained_on_its_phones(corpus: Path, tmp_path: Path) -> None:
    """And scored on the core test set; without one, on speakers that are held out."""
    packed, folder = tmp_path / "packed", tmp_path / "features"
    prepare(corpus, packed, processes=1)
    shards = FrameShards(packed)
    assert {u.phones for u in labelled_utterances(shards)} == {
        tuple(TIMIT_PHONES.index(phone) + 1 for phone in FOLDED.split())
    }
    settings = FeatureSettings(
        minutes=None, steps=2, columns=600, log_every=1,
        shape=FeatureShape(widths=(4, 8), projection=16, hidden=8),
    )  # fmt: skip
    lines: list[str] = []
    run = Run(note=lines.append)
    assert train_features(shards, folder, torch.device("cpu"), settings, run) is not None
    assert any(re.match(r"6 utterances to train on, 2 held out", line) for line in lines)
    told = json.loads((folder / "model" / "features.json").read_text())
    assert told["phones"] == list(TIMIT_PHONES) and told["held_out"]["speakers"] == 2
    assert load_features(folder / "model").phones == TIMIT_PHONES
    assert load_features().phones == PHONES
    # A training on transcripts does not go on from this one.
    others = FeatureTask(shards, [], settings, torch.device("cpu"))
    newest = latest_checkpoint(folder)
    assert newest is not None
    tensors, numbers = load_checkpoint(newest)
    with pytest.raises(ValueError, match="another set of phones"):
        others.take(numbers, tensors)
    (packed / "core-test" / "train.json").unlink()
    assert train_features(shards, folder / "2", torch.device("cpu"), settings, run) is not None
    assert any(line.startswith("4 utterances to train on, 2 held out") for line in lines)
