"""Other speech codecs, run as the programs that their projects ship; Lyra also by its networks.

Bits are those of the codec's frames, without Ogg pages, stream headers and comments. For Speex and
AMR-NB the payload is the bits of each frame's mode, and the total is what is stored for it: whole
octets, and for AMR-NB a header octet per frame (RFC 4867, section 5.3).

Resampling to and from 8 kHz is not timed; starting the program is. Peak memory is the kernel's
figure for the process. On Linux it cannot be below the size of the Python process that starts the
program (about 10 MB); smaller programs are sampled every millisecond, and those that end before the
first sample have no figure.
"""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import soundfile
from scipy.signal import resample_poly

from codec.errors import BadStream
from codec.files.paths import display_name
from codec.signal.samples import SAMPLE_RATE, FloatArray
from models.evaluation.coding import Codec, Coded, Unavailable, silent

TIMEOUT_S = 300.0
MAX_STDERR = 2_000

# Started with -I -S to stay small: on Linux a program inherits the peak memory of the process that
# started it.
_LAUNCHER = """
import json, os, sys, time
linux = sys.platform == "linux"

def peak_kib(pid):
    with open(f"/proc/{pid}/status") as status:
        return next((int(l.split()[1]) for l in status if l.startswith("VmHWM:")), None)

null = os.open(os.devnull, os.O_RDWR)
actions = [(os.POSIX_SPAWN_DUP2, null, 0), (os.POSIX_SPAWN_DUP2, null, 1)]
own = os.path.realpath(sys.executable)
ended = os.WEXITED | os.WNOHANG | os.WNOWAIT
sampled = None
start = time.perf_counter()
pid = os.posix_spawn(sys.argv[1], sys.argv[1:], os.environ, file_actions=actions)
while linux and os.waitid(os.P_PID, pid, ended) is None:
    try:
        # Until the program has replaced this one, it shows this one's memory.
        if os.readlink(f"/proc/{pid}/exe") != own:
            sampled = peak_kib(pid) or sampled
    except OSError:
        pass
    time.sleep(0.001)
_, status, usage = os.wait4(pid, 0)
seconds = time.perf_counter() - start
exact = not linux or usage.ru_maxrss > peak_kib("self")
peak = usage.ru_maxrss if exact else sampled
print(json.dumps([os.waitstatus_to_exitcode(status), seconds, peak]))
"""

# AMR-NB speech bits per 20 ms frame by frame type (RFC 4867, table 1a); 8 is comfort noise,
# 9 to 14 are not in use, 15 is no data.
_AMR_BITS = {0: 95, 1: 103, 2: 118, 3: 134, 4: 148, 5: 159, 6: 204, 7: 244, 8: 39, 15: 0}
_AMR_MAGIC = b"#!AMR\n"

# Speex narrowband bits per 20 ms frame by mode (Speex manual, narrowband bit allocation).
_SPEEX_BITS = {0: 5, 1: 43, 2: 119, 3: 160, 4: 220, 5: 300, 6: 364, 7: 492, 8: 79}

_LYRA_FRAME = 320  # samples, 20 ms
_LYRA_CONFIG = "lyra_config.binarypb"  # among Lyra's weights
_LYRA_NETWORKS = ("soundstream_encoder", "quantizer", "lyragan")
_LYRA_FEATURES = 64
_LYRA_INDICES = 46  # of 4 bits each per frame, at the highest rate; -1 for those that are not sent


@dataclass(frozen=True)
class Measured:
    """One run of a program: wall-clock seconds, and peak resident memory in bytes if known."""

    seconds: float
    peak_bytes: int | None


def _peak(*runs: Measured) -> int | None:
    known = [run.peak_bytes for run in runs if run.peak_bytes is not None]
    return max(known, default=None)


def measure(command: Sequence[str], timeout_s: float = TIMEOUT_S) -> Measured:
    """Run a program to its end, silently.

    Raises Unavailable with one line if it is not found, fails or takes longer than `timeout_s`.
    """
    program = shutil.which(command[0])
    if program is None:
        raise Unavailable(f"{command[0]} is not installed")
    process = subprocess.Popen(
        [sys.executable, "-I", "-S", "-c", _LAUNCHER, program, *command[1:]],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        start_new_session=True,
    )
    try:
        out, err = process.communicate(timeout=timeout_s)
    except subprocess.TimeoutExpired:
        raise Unavailable(f"{command[0]} took longer than {timeout_s:g} s") from None
    finally:
        if process.poll() is None:
            os.killpg(process.pid, signal.SIGKILL)
            process.communicate()
    complaint = err[-MAX_STDERR:].decode("utf-8", "replace").strip().splitlines()
    reason = complaint[-1] if complaint else "no message"
    if process.returncode:
        raise Unavailable(f"{command[0]} could not be started: {reason}")
    code, seconds, peak = json.loads(out)
    if code:
        raise Unavailable(f"{command[0]} failed with status {code}: {reason}")
    # Linux counts ru_maxrss in KiB, macOS in bytes.
    scale = 1 if sys.platform == "darwin" else 1024
    return Measured(float(seconds), None if peak is None else int(peak) * scale)


@dataclass(frozen=True)
class Peer(Codec):
    """A codec defined by two command lines and a function that counts bits.

    encoder, decoder: command lines, with {source} and {target} for the files; count: bytes of the
    coded file -> (payload bits, total bits); rate: of the raw 16-bit input and output files; block:
    the input is padded to a multiple of this many samples, for programs that drop the rest.
    """

    encoder: str
    decoder: str
    suffix: str
    count: Callable[[bytes], tuple[int, int]]
    rate: int = 8000
    block: int = 1

    def missing(self) -> str | None:
        return _not_installed(self.encoder.split()[0], self.decoder.split()[0])

    def run(self, samples: FloatArray) -> Coded:
        with tempfile.TemporaryDirectory(prefix="sotto-bench-") as folder:
            source = Path(folder, "source.raw")
            coded, decoded = Path(folder, f"coded{self.suffix}"), Path(folder, "decoded.raw")
            source.write_bytes(to_pcm(samples, self.rate, self.block))
            encoding = measure(_filled(self.encoder, source, coded))
            decoding = measure(_filled(self.decoder, coded, decoded))
            payload, total = self.count(coded.read_bytes())
            audio = from_pcm(decoded.read_bytes(), self.rate)
        peak = _peak(encoding, decoding)
        return Coded(audio, payload, total, encoding.seconds, decoding.seconds, peak)


@dataclass(frozen=True)
class Lyra(Codec):
    """Lyra 1.2 and later, run by the example programs of its project, if they are on the path.

    Their weights are looked for in `lyra/model_coeffs` in the working folder, as these programs do,
    and in `model_coeffs` beside the encoder.
    """

    bit_rate: int
    encoder: str = "encoder_main"
    decoder: str = "decoder_main"

    def missing(self) -> str | None:
        reason = _not_installed(self.encoder, self.decoder)
        if reason is None and self._weights() is None:
            reason = f"no model_coeffs beside {self.encoder}"
        return reason

    def _weights(self) -> Path | None:
        beside = Path(shutil.which(self.encoder) or self.encoder).resolve().parent
        for folder in (Path("lyra/model_coeffs"), beside / "model_coeffs"):
            if (folder / _LYRA_CONFIG).is_file():
                return folder.resolve()
        return None

    def run(self, samples: FloatArray) -> Coded:
        with tempfile.TemporaryDirectory(prefix="sotto-bench-") as folder:
            source, out = Path(folder, "clip.wav"), Path(folder, "out")
            out.mkdir()
            # The encoder drops a partial last frame.
            padded = np.pad(samples, (0, -len(samples) % _LYRA_FRAME))
            soundfile.write(source, np.clip(padded, -1, 1), SAMPLE_RATE, subtype="PCM_16")
            options = [f"--bitrate={self.bit_rate}", f"--output_dir={out}"]
            options.append(f"--model_path={self._weights()}")
            encoding = measure([self.encoder, f"--input_path={source}", *options])
            coded = out / "clip.lyra"
            if not coded.is_file():
                raise Unavailable(f"{self.encoder} wrote no clip.lyra")
            decoding = measure([self.decoder, f"--encoded_path={coded}", *options])
            bits = 8 * coded.stat().st_size
            decoded = out / "clip_decoded.wav"
            if not decoded.is_file():
                raise Unavailable(f"{self.decoder} wrote no clip_decoded.wav")
            audio, _ = soundfile.read(decoded, dtype="float32")
        peak = _peak(encoding, decoding)
        return Coded(audio, bits, bits, encoding.seconds, decoding.seconds, peak)


@dataclass(frozen=True)
class LyraNetworks(Codec):
    """Lyra 1.2 and later, run in this process by its networks alone.

    folder: holds `soundstream_encoder.tflite`, `quantizer.tflite` and `lyragan.tflite`, as the
    project's sources do. The indices that would be sent are 4 bits each, and all that is sent.
    """

    bit_rate: int
    folder: Path

    def missing(self) -> str | None:
        if find_spec("ai_edge_litert") is None:
            return "ai_edge_litert is not installed"
        for network in _LYRA_NETWORKS:
            if not self._file(network).is_file():
                return f"no {network}.tflite in {display_name(self.folder)}"
        return None

    def _file(self, network: str) -> Path:
        return self.folder / f"{network}.tflite"

    def prepare(self) -> None:
        self.run(np.zeros(_LYRA_FRAME, np.float32))

    def run(self, samples: FloatArray) -> Coded:
        from ai_edge_litert.interpreter import Interpreter

        frames = np.pad(samples, (0, -len(samples) % _LYRA_FRAME)).reshape(-1, 1, _LYRA_FRAME)
        sent = self.bit_rate * _LYRA_FRAME // SAMPLE_RATE // 4
        unsent = np.arange(_LYRA_INDICES) >= sent
        # The networks hold the state of the stream: every clip has its own.
        with silent():
            encoder, quantiser, generator = (
                Interpreter(str(self._file(network)), num_threads=1) for network in _LYRA_NETWORKS
            )
            analyse, synthesise = _network(encoder), _network(generator)
        encode = quantiser.get_signature_runner("encode")
        decode = quantiser.get_signature_runner("decode")

        begun = time.perf_counter()
        packets = []
        for frame in frames:
            features = analyse(frame).reshape(1, 1, _LYRA_FEATURES)
            found = encode(input_frames=features, num_quantizers=np.int32(sent))
            # Of the two outputs the other is one number.
            indices = next(each for each in found.values() if each.size == _LYRA_INDICES)
            packets.append(np.where(unsent, -1, indices.ravel()).astype(np.int32))
        encoded = time.perf_counter()
        parts = []
        for packet in packets:
            (features,) = decode(encoding_indices=packet.reshape(-1, 1, 1)).values()
            parts.append(synthesise(features.reshape(1, 1, _LYRA_FEATURES)).ravel())
        ended = time.perf_counter()
        bits = 4 * sent * len(packets)
        decoded = np.concatenate(parts).astype(np.float32)
        return Coded(decoded, bits, bits, encoded - begun, ended - encoded)


def _network(interpreter: Any) -> Callable[[FloatArray], FloatArray]:
    """The function that a TFLite network with one input and one output computes."""
    interpreter.allocate_tensors()
    source = interpreter.get_input_details()[0]["index"]
    target = interpreter.get_output_details()[0]["index"]

    def run(values: FloatArray) -> FloatArray:
        interpreter.set_tensor(source, values)
        interpreter.invoke()
        return np.asarray(interpreter.get_tensor(target))

    return run


def _not_installed(*programs: str) -> str | None:
    for program in programs:
        if shutil.which(program) is None:
            return f"not installed ({program})"
    return None


def installed_peers(
    names: Sequence[str] | None = None, lyra: Path | None = None
) -> tuple[list[Codec], dict[str, str]]:
    """(peers that can run here, {name: why not} for the others).

    names: of `peer_names` to keep; None keeps all; lyra: the folder of Lyra's networks.
    """
    ready: list[Codec] = []
    absent: dict[str, str] = {}
    for peer in all_peers(lyra):
        if names is not None and _key(peer) not in names:
            continue
        reason = peer.missing()
        if reason is None:
            ready.append(peer)
        else:
            absent[peer.name] = reason
    return ready, absent


def all_peers(lyra: Path | None = None) -> list[Codec]:
    """Every peer that sotto can run, installed or not.

    lyra: the folder of Lyra's networks, which then run in place of its programs.
    """
    files = "{source} {target}"
    peers: list[Codec] = []
    for rate in (1200, 2400, 3200):
        name, encoder, decoder = f"Codec2 {rate}", f"c2enc {rate} {files}", f"c2dec {rate} {files}"
        # 40 ms frames at 1200 bit/s, 20 ms above; c2enc drops a partial last frame.
        block = 320 if rate == 1200 else 160
        peers.append(Peer(name, "Codec2", encoder, decoder, ".bit", _count_bare, block=block))
    for label, quality in (("2.15k", 0), ("4k", 1), ("8k", 3)):
        encoder = f"speexenc -n --rate 8000 --le --16bit --quality {quality} {files}"
        name, decoder = f"Speex {label}", f"speexdec {files}"
        peers.append(Peer(name, "Speex", encoder, decoder, ".spx", _count_speex))
    for label, mode in (("4.75k", 0), ("6.7k", 3)):
        raw = "-t raw -r 8000 -e signed -b 16 -c 1 -L"
        encoder = f"sox {raw} {{source}} -C {mode} -t amr-nb {{target}}"
        decoder = f"sox -t amr-nb {{source}} {raw} {{target}}"
        peers.append(Peer(f"AMR-NB {label}", "AMR-NB", encoder, decoder, ".amr", _count_amr))
    # Constant rate spends its bits differently, and neither mode is better at both rates.
    for suffix, option in (("", "--vbr"), (" CBR", "--hard-cbr")):
        for rate in (6, 9):
            name, line = f"Opus {rate}k{suffix}", f"Opus{suffix}"
            encoder = "opusenc --quiet --raw --raw-rate 16000 --raw-chan 1 --speech "
            encoder += f"{option} --bitrate {rate} {files}"
            decoder = f"opusdec --quiet --no-dither --rate 16000 {files}"
            peers.append(Peer(name, line, encoder, decoder, ".opus", _count_opus, SAMPLE_RATE))
    for rate in (3200, 6000):
        name = f"Lyra {rate}"
        peers.append(
            Lyra(name, "Lyra", rate) if lyra is None else LyraNetworks(name, "Lyra", rate, lyra)
        )
    return peers


def peer_names() -> list[str]:
    """Lower-case names of the codecs without their rates, e.g. "codec2" and "opus"."""
    return list(dict.fromkeys(_key(peer) for peer in all_peers()))


def _key(peer: Codec) -> str:
    return peer.name.split()[0].lower()


def _filled(command: str, source: Path, target: Path) -> list[str]:
    files = {"{source}": str(source), "{target}": str(target)}
    return [files.get(word, word) for word in command.split()]


def to_pcm(samples: FloatArray, rate: int, block: int = 1) -> bytes:
    """16 kHz samples as 16-bit little-endian at `rate`, padded with zeros to whole blocks."""
    if rate != SAMPLE_RATE:
        samples = resample_poly(samples, rate, SAMPLE_RATE)
    pad = -len(samples) % block
    padded = np.pad(samples, (0, pad))
    return np.clip(np.rint(padded * 32767.0), -32768, 32767).astype("<i2").tobytes()


def from_pcm(data: bytes, rate: int) -> FloatArray:
    """The inverse of `to_pcm`, at 16 kHz."""
    samples = np.frombuffer(data[: len(data) // 2 * 2], "<i2").astype(np.float32) / 32767.0
    if rate != SAMPLE_RATE and len(samples):
        samples = resample_poly(samples, SAMPLE_RATE, rate)
    return np.asarray(samples, np.float32)


def ogg_packets(data: bytes) -> list[bytes]:
    """The packets of an Ogg file with one stream (RFC 3533, section 6).

    Raises BadStream if it is not a sequence of whole Ogg pages.
    """
    packets: list[bytes] = []
    position, begun = 0, b""
    while position < len(data):
        if data[position : position + 4] != b"OggS" or len(data) < position + 27:
            raise BadStream(f"no Ogg page at byte {position}")
        count = data[position + 26]
        lacing = data[position + 27 : position + 27 + count]
        body = position + 27 + count
        if len(lacing) < count or len(data) < body + sum(lacing):
            raise BadStream(f"the Ogg page at byte {position} is cut off")
        for size in lacing:
            begun += data[body : body + size]
            body += size
            if size < 255:
                packets.append(begun)
                begun = b""
        position = body
    return packets


def _audio_packets(data: bytes) -> list[bytes]:
    # In both Speex and Opus the first two packets are the stream header and the comments.
    return ogg_packets(data)[2:]


def _count_opus(data: bytes) -> tuple[int, int]:
    bits = 8 * sum(map(len, _audio_packets(data)))
    return bits, bits


def _count_speex(data: bytes) -> tuple[int, int]:
    packets = _audio_packets(data)
    payload = 0
    for packet in packets:
        # One narrowband frame per packet: a zero bit, then four bits of mode.
        mode = packet[0] >> 3 if packet else -1
        if mode not in _SPEEX_BITS:
            raise BadStream(f"unknown Speex mode {mode}")
        payload += _SPEEX_BITS[mode]
    return payload, 8 * sum(map(len, packets))


def _count_bare(data: bytes) -> tuple[int, int]:
    return 8 * len(data), 8 * len(data)


def _count_amr(data: bytes) -> tuple[int, int]:
    if not data.startswith(_AMR_MAGIC):
        raise BadStream("not an AMR-NB file")
    payload, position = 0, len(_AMR_MAGIC)
    while position < len(data):
        bits = _AMR_BITS.get(data[position] >> 3 & 15)
        if bits is None:
            raise BadStream(f"unknown AMR-NB frame type at byte {position}")
        payload += bits
        position += 1 + (bits + 7) // 8
    return payload, 8 * (len(data) - len(_AMR_MAGIC))
