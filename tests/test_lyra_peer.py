"""Lyra's runners against stand-ins for its programs and for what runs its networks.

The real programs are not packaged, and those here accept only their flags. Flags, file names, the
dropped remainder and the weights folder are those of `lyra/cli_example` in the project's sources
(version 1.3); shapes and signatures of the networks are those of their TFLite files.
"""

from __future__ import annotations

import os
import stat
import sys
import types
from collections.abc import Callable
from importlib.machinery import ModuleSpec
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from codec.signal.samples import FloatArray
from models.evaluation import peers
from models.evaluation.coding import Unavailable
from models.evaluation.peers import Lyra, LyraNetworks, installed_peers

PROGRAM = """#!{python}
import argparse, struct, sys, wave
from pathlib import Path

encodes = {encodes}
parser = argparse.ArgumentParser(allow_abbrev=False)
parser.add_argument("--input_path" if encodes else "--encoded_path", dest="source", default="")
parser.add_argument("--output_dir", default="")
parser.add_argument("--bitrate", type=int, default=3200)
parser.add_argument("--model_path", default="lyra/model_coeffs")
for flag in {others}:
    parser.add_argument(flag)
options = parser.parse_args()
source, out = Path(options.source), Path(options.output_dir)
if not options.source or not options.output_dir:
    sys.exit("flag not set")
if not (Path(options.model_path) / "lyra_config.binarypb").is_file():
    sys.exit("weights not found in " + options.model_path)
size = {{3200: 8, 6000: 15, 9200: 23}}.get(options.bitrate)
if size is None:
    sys.exit("unsupported bitrate")
out.mkdir(parents=True, exist_ok=True)
if encodes:
    with wave.open(str(source)) as file:
        shape = file.getsampwidth(), file.getnchannels(), file.getframerate()
        if shape != (2, 1, 16000):
            sys.exit("unsupported samples")
        pcm = file.readframes(file.getnframes())
    coded = b""
    for start in range(0, len(pcm) - 639, 640):
        frame = struct.unpack("<320h", pcm[start : start + 640])
        coded += struct.pack("<h", max(frame)).ljust(size, b"x")
    (out / (source.stem + ".lyra")).write_bytes(coded)
else:
    coded = source.read_bytes()
    with wave.open(str(out / (source.stem + "_decoded.wav")), "wb") as file:
        file.setparams((1, 2, 16000, 0, "NONE", ""))
        for start in range(0, len(coded) - size + 1, size):
            file.writeframes(coded[start : start + 2] * 320)
"""
ENCODER_ONLY = ["--enable_preprocessing", "--enable_dtx"]
DECODER_ONLY = [
    "--output_suffix", "--sample_rate_hz", "--randomize_num_samples_requested",
    "--packet_loss_rate", "--average_burst_length", "--fixed_packet_loss_pattern",
]  # fmt: skip


def lyra(rate: int) -> Lyra:
    return Lyra("Lyra", "Lyra", rate)


@pytest.fixture
def programs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder on the path with both programs and their weights."""
    for name, encodes, others in (
        ("encoder_main", True, ENCODER_ONLY),
        ("decoder_main", False, DECODER_ONLY),
    ):
        path = tmp_path / name
        path.write_text(PROGRAM.format(python=sys.executable, encodes=encodes, others=others))
        path.chmod(path.stat().st_mode | stat.S_IXUSR)
    (tmp_path / "model_coeffs").mkdir()
    (tmp_path / "model_coeffs" / "lyra_config.binarypb").write_bytes(b"")
    monkeypatch.setenv("PATH", f"{tmp_path}{os.pathsep}{os.environ['PATH']}")
    return tmp_path


@pytest.mark.parametrize(("rate", "frame_bits"), [(3200, 64), (6000, 120)])
def test_a_clip_goes_through_both_programs_whole(
    programs: Path, rate: int, frame_bits: int
) -> None:
    peer = lyra(rate)
    assert peer.missing() is None
    samples = np.repeat(np.linspace(-0.9, 0.9, 11), 320)[:-100].astype(np.float32)
    coded = peer.run(samples)
    assert coded.payload_bits == coded.total_bits == 11 * frame_bits  # the last frame too
    assert len(coded.decoded) == 11 * 320
    np.testing.assert_allclose(coded.decoded[: len(samples)], samples, atol=1e-4)
    assert coded.encode_s > 0 and coded.decode_s > 0


def test_lyra_is_among_the_peers_where_it_is_installed(programs: Path) -> None:
    ready, absent = installed_peers(["lyra"])
    assert [system.name for system in ready] == ["Lyra 3200", "Lyra 6000"]
    assert not absent


def test_weights_in_the_working_folder_are_found(
    programs: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    checkout = tmp_path / "checkout"
    (checkout / "lyra").mkdir(parents=True)
    (programs / "model_coeffs").rename(checkout / "lyra" / "model_coeffs")
    assert lyra(3200).missing() == "no model_coeffs beside encoder_main"
    monkeypatch.chdir(checkout)
    assert lyra(3200).missing() is None
    assert len(lyra(3200).run(np.zeros(320, np.float32)).decoded) == 320


def test_a_rate_lyra_does_not_have_is_reported(programs: Path) -> None:
    with pytest.raises(Unavailable, match="encoder_main failed with status 1: unsupported bitrate"):
        lyra(4000).run(np.zeros(640, np.float32))


def test_absent_programs_are_named(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    assert lyra(3200).missing() == "not installed (encoder_main)"


# --- Lyra by its networks -------------------------------------------------------------------


class Interpreter:
    """Stands in for LiteRT.

    The features of a frame are its loudest sample, its indices are that in fifteenths, and what is
    decoded counts the indices sent and the frames so far.
    """

    def __init__(self, path: str, num_threads: int | None = None) -> None:
        self.name = Path(path).stem
        assert Path(path).is_file()
        self.frames = 0

    def allocate_tensors(self) -> None:
        self.ready = True

    def get_input_details(self) -> list[dict[str, int]]:
        return [{"index": 1}]

    def get_output_details(self) -> list[dict[str, int]]:
        return [{"index": 2}]

    def set_tensor(self, index: int, value: FloatArray) -> None:
        assert self.ready and index == 1 and value.dtype == np.float32
        shape = (1, 320) if self.name == "soundstream_encoder" else (1, 1, 64)
        assert value.shape == shape
        self.value = value

    def invoke(self) -> None:
        self.frames += 1

    def get_tensor(self, index: int) -> FloatArray:
        assert index == 2
        if self.name == "soundstream_encoder":
            return np.full((1, 1, 64), self.value.max(), np.float32)
        return np.full((1, 320), self.value[0, 0, 0] + self.frames, np.float32)

    def get_signature_runner(self, name: str) -> Callable[..., dict[str, Any]]:
        assert self.name == "quantizer"
        return self.encode if name == "encode" else self.decode

    def encode(self, *, input_frames: FloatArray, num_quantizers: np.int32) -> dict[str, Any]:
        assert input_frames.shape == (1, 1, 64)
        index = np.full((46, 1, 1), round(float(input_frames[0, 0, 0]) * 15), np.int32)
        return {"output_1": np.int32(4), "output_0": index}

    def decode(self, *, encoding_indices: NDArray[np.int32]) -> dict[str, Any]:
        assert encoding_indices.shape == (46, 1, 1) and encoding_indices.dtype == np.int32
        sent = encoding_indices[encoding_indices >= 0]
        assert len(set(sent)) == 1
        value = sent[0] / 15 + 100 * len(sent)
        return {"output_0": np.full((1, 1, 64), value, np.float32)}


@pytest.fixture
def networks(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder of Lyra's networks, and a stand-in for what runs them."""
    package, module = (
        types.ModuleType(n) for n in ("ai_edge_litert", "ai_edge_litert.interpreter")
    )
    package.__spec__ = ModuleSpec("ai_edge_litert", None)
    module.Interpreter = Interpreter  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "ai_edge_litert", package)
    monkeypatch.setitem(sys.modules, "ai_edge_litert.interpreter", module)
    for name in ("soundstream_encoder", "quantizer", "lyragan"):
        (tmp_path / f"{name}.tflite").write_bytes(b"")
    return tmp_path


@pytest.mark.parametrize(("rate", "sent"), [(3200, 16), (6000, 30)])
def test_a_clip_goes_through_the_networks_whole(networks: Path, rate: int, sent: int) -> None:
    peer = LyraNetworks("Lyra", "Lyra", rate, networks)
    assert peer.missing() is None
    samples = np.repeat(np.linspace(0, 1, 16), 320)[:-100].astype(np.float32)
    for _ in range(2):  # each time from a fresh state
        coded = peer.run(samples)
        assert coded.payload_bits == coded.total_bits == 16 * 4 * sent  # the last frame too
        assert len(coded.decoded) == 16 * 320
        frames = coded.decoded.reshape(16, 320)
        expected = np.arange(16) / 15 + 100 * sent + np.arange(1, 17)
        np.testing.assert_allclose(frames, np.repeat(expected[:, None], 320, 1), rtol=1e-5)


def test_the_networks_take_the_place_of_the_programs(
    networks: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    ready, absent = installed_peers(["lyra"], networks)
    assert [type(peer).__name__ for peer in ready] == ["LyraNetworks"] * 2
    assert [peer.name for peer in ready] == ["Lyra 3200", "Lyra 6000"]
    assert not absent
    (networks / "lyragan.tflite").unlink()
    _, absent = installed_peers(["lyra"], networks)
    assert absent["Lyra 3200"].startswith("no lyragan.tflite in ")
    monkeypatch.setattr(peers, "find_spec", lambda name: None)
    _, absent = installed_peers(["lyra"], networks)
    assert absent["Lyra 6000"] == "ai_edge_litert is not installed"
