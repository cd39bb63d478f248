"""The audio devices of this machine: which there are, what they accept, and finding one by name.

PortAudio (through sounddevice) is loaded only here and only when asked for, so that everything
else works on machines without a sound system. What PortAudio, ALSA and PulseAudio print by
themselves would land in the middle of the user's screen; it is silenced for good once they are
loaded, unless SOTTO_DEBUG is set.
"""

from __future__ import annotations

import ctypes
import functools
import json
import os
import subprocess
import sys
import threading
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from itertools import product
from typing import Any, Literal

from codec.errors import SottoError
from codec.files.paths import display_name
from codec.signal.samples import SAMPLE_RATE

# What `sotto devices` asks for: ours, and the two that hardware has.
PROBED_RATES = (16_000, 44_100, 48_000)

Direction = Literal["input", "output"]

_LOOK_SECONDS = 20.0
# What `look` asks a new process, which finds modules where we do. Until told so it looks in the
# working directory first, as it would with `-m`, and nobody knows what lies around there.
_LOOK = """
import sys
sys.path[:] = sys.argv[1:]
from stream.audio.devices import print_names
print_names()
"""
_system = threading.RLock()  # PortAudio must not be asked while it is initialised anew


class AudioDeviceError(SottoError):
    """A sound card that is not there, or does not do what is asked of it."""


@dataclass(frozen=True)
class AudioDevice:
    """One device as the sound system describes it.

    index: PortAudio's number, for as long as the program runs; inputs, outputs: channels;
    native_rate: Hz; input_rates, output_rates: those of PROBED_RATES it accepts (empty if it was
    not asked or has no such channels).
    """

    index: int
    name: str
    host_api: str
    inputs: int
    outputs: int
    default_input: bool
    default_output: bool
    native_rate: int
    input_rates: tuple[int, ...] = ()
    output_rates: tuple[int, ...] = ()

    def as_dict(self) -> dict[str, object]:
        """Plain values for JSON."""
        return asdict(self)

    def channels(self, direction: Direction) -> int:
        """How many channels it has in one direction."""
        return self.inputs if direction == "input" else self.outputs


@dataclass(frozen=True)
class DeviceNames:
    """Names of the sound devices there are to choose from."""

    inputs: tuple[str, ...] = ()
    outputs: tuple[str, ...] = ()


@functools.cache
def sound_system() -> Any:
    """The sounddevice module, loaded and silenced.

    Raises AudioDeviceError if PortAudio is missing or does not start.
    """
    _silence_c_libraries()
    try:
        import sounddevice
    except ImportError as error:
        raise AudioDeviceError("no sound: the Python package sounddevice is missing") from error
    except OSError as error:
        raise AudioDeviceError(
            "no sound: the PortAudio library is missing (on Debian: apt install libportaudio2)"
        ) from error
    except Exception as error:
        raise AudioDeviceError(f"no sound: PortAudio does not start ({one_line(error)})") from error
    return sounddevice


def list_devices(*, probe: bool = False) -> tuple[AudioDevice, ...]:
    """All devices, none at all on a machine without sound cards.

    probe: ask each which of PROBED_RATES it accepts, which opens it for a moment.
    Raises AudioDeviceError if there is no sound system to ask.
    """
    with _system:
        return _list_devices(probe)


def look() -> tuple[tuple[str, ...], tuple[str, ...]]:
    """The names of the inputs and outputs there are now, as a new process sees them.

    Takes a moment, and disturbs no stream. Raises AudioDeviceError if that cannot be found out.
    """
    path = [entry or os.getcwd() for entry in sys.path]
    try:
        answer = subprocess.run(
            [sys.executable, "-c", _LOOK, *path],
            stdin=subprocess.DEVNULL,
            capture_output=True,
            timeout=_LOOK_SECONDS,
            check=True,
        )
        found = json.loads(answer.stdout)
        return tuple(map(str, found["inputs"])), tuple(map(str, found["outputs"]))
    except (OSError, subprocess.SubprocessError, ValueError, KeyError, TypeError) as error:
        raise AudioDeviceError("cannot look for audio devices") from error


def refresh() -> None:
    """Let PortAudio look for devices again. No stream may be open. Raises AudioDeviceError."""
    with _system:
        sound = sound_system()
        try:
            sound._terminate()
            sound._initialize()
        except sound.PortAudioError as error:
            raise AudioDeviceError(f"PortAudio does not start again: {one_line(error)}") from error


def _list_devices(probe: bool) -> tuple[AudioDevice, ...]:
    sound = sound_system()
    try:
        apis = [str(api["name"]) for api in sound.query_hostapis()]
        default_input, default_output = sound.default.device
        described = list(sound.query_devices())
    except sound.PortAudioError as error:
        raise AudioDeviceError(f"cannot list audio devices: {one_line(error)}") from error
    devices = []
    for index, about in enumerate(described):
        inputs, outputs = int(about["max_input_channels"]), int(about["max_output_channels"])
        devices.append(
            AudioDevice(
                index=index,
                name=display_name(str(about["name"])),
                host_api=apis[about["hostapi"]],
                inputs=inputs,
                outputs=outputs,
                default_input=index == default_input,
                default_output=index == default_output,
                native_rate=round(about["default_samplerate"]),
                input_rates=_accepted(index, inputs, "input") if probe else (),
                output_rates=_accepted(index, outputs, "output") if probe else (),
            )
        )
    return tuple(devices)


def choose(
    wanted: str | int | None, direction: Direction, devices: Sequence[AudioDevice]
) -> AudioDevice:
    """The device meant by an index, a name, a part of a name (any case), or None: the default.

    A whole name wins over parts of others. Raises AudioDeviceError with what there is to choose
    from if none or several match.
    """
    fit = [device for device in devices if device.channels(direction) > 0]
    if not fit:
        raise AudioDeviceError(f"this machine has no audio {direction} device")
    if wanted is None:
        marked = [d for d in fit if (d.default_input, d.default_output)[direction == "output"]]
        return (marked or fit)[0]
    text = str(wanted).strip()
    if text.isdecimal():
        for device in devices:
            if device.index == int(text):
                if device not in fit:
                    raise AudioDeviceError(f"device {text} ({device.name}) has no {direction}")
                return device
    lower = text.lower()
    exact = [d for d in fit if d.name.lower() == lower]
    matches = exact or [d for d in fit if lower and lower in d.name.lower()]
    if len(matches) == 1:
        return matches[0]
    shown = display_name(text)
    if matches:
        raise AudioDeviceError(
            f"{shown} names several {direction} devices: {_listing(matches)}; say the number"
        )
    raise AudioDeviceError(f"no {direction} device matches {shown}; there are: {_listing(fit)}")


def find(wanted: str | int | None, direction: Direction) -> AudioDevice:
    """`choose` among this machine's devices."""
    return choose(wanted, direction, list_devices())


def stream_settings(device: AudioDevice, direction: Direction) -> tuple[int, int]:
    """(sample rate in Hz, channels) to open a device with, as near to 16 kHz mono as it goes.

    Raises AudioDeviceError if it accepts nothing that was tried, with its reason.
    """
    why = "no reason given"
    rates = dict.fromkeys((SAMPLE_RATE, device.native_rate, 48_000, 44_100))
    for rate, channels in product(rates, _channel_counts(device.channels(direction))):
        refusal = _refusal(device.index, direction, rate, channels)
        if refusal is None:
            return rate, channels
        why = refusal
    raise AudioDeviceError(f"cannot open {direction} device {device.name}: {why}")


def one_line(error: BaseException) -> str:
    """A sound system's reason without the decoration and numbers around it."""
    text = " ".join(str(error.args[0] if error.args else error).split())
    for prefix in ("Error opening InputStream: ", "Error opening OutputStream: "):
        text = text.removeprefix(prefix)
    return text or type(error).__name__


def _accepted(index: int, channels: int, direction: Direction) -> tuple[int, ...]:
    counts = _channel_counts(channels) if channels else ()
    return tuple(
        rate
        for rate in PROBED_RATES
        if any(_refusal(index, direction, rate, count) is None for count in counts)
    )


def _channel_counts(most: int) -> tuple[int, ...]:
    """What to try: mono; hardware without it may still do with two, or all it has."""
    return tuple(dict.fromkeys((1, min(2, most), most)))


def _refusal(index: int, direction: Direction, rate: int, channels: int) -> str | None:
    """Why a device cannot be opened so; None if it can."""
    sound = sound_system()
    check = sound.check_input_settings if direction == "input" else sound.check_output_settings
    try:
        check(device=index, channels=channels, dtype="float32", samplerate=rate)
    except (sound.PortAudioError, ValueError) as error:
        return one_line(error)
    return None


def _listing(devices: Sequence[AudioDevice]) -> str:
    shown = ", ".join(f"{d.index} {d.name}" for d in devices[:8])
    return shown + (f" and {len(devices) - 8} more" if len(devices) > 8 else "")


@functools.cache
def _silence_c_libraries() -> None:
    """Point the C library's `stderr` at nothing; Python's own stderr does not go through it.

    Redirecting descriptor 2 instead would take the terminal UI's screen along, which is drawn
    there, and these libraries print at any time, from threads of their own.
    """
    if os.environ.get("SOTTO_DEBUG") or not sys.platform.startswith("linux"):
        return
    try:
        c = ctypes.CDLL(None)
        pointer = ctypes.c_void_p.in_dll(c, "stderr")
        c.fopen.restype = ctypes.c_void_p
        nowhere = c.fopen(os.devnull.encode(), b"w")
    except (OSError, ValueError, AttributeError):
        return  # another C library: its noise is better than no sound
    if nowhere:
        pointer.value = nowhere


def print_names() -> None:
    """Print the names of inputs and outputs, as JSON. Raises AudioDeviceError."""
    devices = list_devices()
    names = {
        "inputs": [device.name for device in devices if device.inputs],
        "outputs": [device.name for device in devices if device.outputs],
    }
    print(json.dumps(names))
