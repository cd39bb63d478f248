"""Audio devices: which this machine has, finding one by name, opening a stream on one.

PortAudio (through sounddevice) is loaded only here and only when asked for, so that everything
else works on machines without a sound system. What PortAudio, ALSA and PulseAudio print by
themselves would land in the middle of the user's screen; it is silenced for good once they are
loaded, unless SOTTO_DEBUG is set.
"""

from __future__ import annotations

import atexit
import contextlib
import ctypes
import functools
import json
import os
import subprocess
import sys
import threading
import time
from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import product
from pathlib import Path
from typing import Any, Literal, TypeVar

from codec.errors import SottoError
from codec.files.paths import display_name
from codec.signal.samples import SAMPLE_RATE, FloatArray
from stream.audio.pacing import Clock

# What `sotto devices` asks for: ours, and the two that hardware has.
PROBED_RATES = (16_000, 44_100, 48_000)

# Seconds of latency to ask the sound system for. Where it loses samples by itself this often in a
# second, it is asked for twice as much, up to the most: PulseAudio may lose its buffer with every
# block where it resamples.
DEVICE_BUFFER, _MOST_BUFFER = 0.01, 0.16
_MANY_LOSSES = 3
STALLED = 2.0  # seconds: a sound card that has not called for this long is gone
_CALLED_LATELY = 0.1  # seconds: one that has need not be asked for
_CLOSING_SECONDS = 1.0

Direction = Literal["input", "output"]
AnyDevice = TypeVar("AnyDevice", bound="Device")

_LOOK_SECONDS = 20.0
# What `look` asks a new process, which finds modules where we do. Until told so it looks in the
# working directory first, as it would with `-m`, and nobody knows what lies around there.
_LOOK = """
import sys
sys.path[:] = sys.argv[1:]
import json
from stream.audio.devices import known
print(json.dumps([known().inputs, known().outputs]))
"""
_system = threading.RLock()  # PortAudio must not be asked while it is initialised anew
_closing: list[threading.Thread] = []  # those that took too long, perhaps for ever


class AudioDeviceError(SottoError):
    """A sound card that is not there, or does not do what is asked of it."""


@dataclass(frozen=True)
class DeviceInfo:
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

    def channels(self, direction: Direction) -> int:
        """How many channels it has in one direction."""
        return self.inputs if direction == "input" else self.outputs


@dataclass(frozen=True)
class DeviceNames:
    """Names of the sound devices there are to choose from."""

    inputs: tuple[str, ...] = ()
    outputs: tuple[str, ...] = ()

    def of(self, direction: Direction) -> tuple[str, ...]:
        """Those of one direction."""
        return self.inputs if direction == "input" else self.outputs


class Device(ABC):
    """What a call reads samples from or writes them to: a sound card, a file, a pipe or nothing.

    Attributes: name (for people), is_card (whether it is a sound card), latency (seconds between
    the air and the program, as far as known), gaps (times that samples were lost or missing),
    error (None, or one line about what broke).
    """

    name = ""
    latency = 0.0
    is_card = False

    def __init__(self, *, clock: Clock = time.monotonic) -> None:
        self.gaps = 0
        self.error: str | None = None
        self._clock = clock

    @abstractmethod
    def start(self) -> None:
        """Open it. Raises AudioDeviceError or BadInput."""

    @abstractmethod
    def stop(self) -> None:
        """Close it at once; may be called twice."""

    def __enter__(self: AnyDevice) -> AnyDevice:
        self.start()
        return self

    def __exit__(self, *about: object) -> None:
        self.stop()


class CardCallback(ABC):
    """What a sound card calls for every block. It may only copy."""

    @property
    @abstractmethod
    def calls(self) -> int:
        """How many times it has been called."""

    @abstractmethod
    def __call__(self, block: FloatArray, times: Any, status: Any, now: float) -> None:
        """Take samples [n, channels], or fill them; times, status: as sounddevice gives them;
        now: seconds of the stream's clock."""

    def compiled(self, channels: int) -> tuple[int, int] | None:
        """Addresses of what PortAudio itself can call instead (a PaStreamCallback for float32
        samples) and of its user data, if there is such a thing."""
        return None


class CardStream:
    """A stream of 32-bit samples from or to a sound card.

    wanted: index, name, part of a name, None for the default. Raises AudioDeviceError when made
    if there is no such device.
    """

    def __init__(self, wanted: str | int | None, direction: Direction, clock: Clock) -> None:
        self.info = choose(wanted, direction, list_devices())
        self.latency = 0.0  # seconds, the sound system's share
        self._direction: Direction = direction
        self._clock = clock
        self._stream: Any = None
        self._buffer = DEVICE_BUFFER  # seconds to ask the sound system for
        self._looked, self._lost = 0.0, 0

    def settings(self, channels: int = 1) -> tuple[int, int]:
        """(sample rate in Hz, channels) to open it with, as near to 16 kHz mono as it goes.

        channels: that are wanted rather than one.
        Raises AudioDeviceError if it accepts nothing that was tried, with its reason.
        """
        why = "no reason given"
        rates = dict.fromkeys((SAMPLE_RATE, self.info.native_rate, 48_000, 44_100))
        counts = _channel_counts(self.info.channels(self._direction), channels)
        settings = list(product(rates, counts))
        if channels > 1:  # more important than the rate
            settings.sort(key=lambda each: counts.index(each[1]))
        for rate, count in settings:
            refusal = _refusal(self.info.index, self._direction, rate, count)
            if refusal is None:
                return rate, count
            why = refusal
        raise AudioDeviceError(f"cannot open {self._direction} device {self.info.name}: {why}")

    def open(self, rate: int, channels: int, callback: CardCallback) -> None:
        """Start blocks of 10 ms, or of half of what the sound system is asked for if that is less.

        Raises AudioDeviceError.
        """
        sound = sound_system()
        self._callback, self._called, self._calls = callback, self._clock(), callback.calls
        self._looked, self._lost = self._called, 0
        self.latency = self._buffer
        try:
            self._stream = self._made(sound, rate, channels, callback)
            self.latency = float(self._stream.latency)
            self._stream.start()
        except sound.PortAudioError as error:
            self.close()
            what = "record from" if self._direction == "input" else "play on"
            raise AudioDeviceError(f"cannot {what} {self.info.name}: {one_line(error)}") from error

    def _made(self, sound: Any, rate: int, channels: int, callback: CardCallback) -> Any:
        """The stream, which keeps the callback for as long as it may call."""

        def called(samples: FloatArray, frames: int, times: Any, status: Any) -> None:
            callback(samples, times, status, self._clock())

        settings = {
            "device": self.info.index,
            "samplerate": rate,
            "channels": channels,
            "blocksize": int(rate * min(0.01, 0.5 * self._buffer)),
            "latency": self._buffer,
            "dtype": "float32",
        }
        if (compiled := callback.compiled(channels)) is None:
            kind = sound.InputStream if self._direction == "input" else sound.OutputStream
            return kind(callback=called, **settings)
        function, data = compiled
        # The class that sounddevice has for callbacks in other languages.
        stream = sound._StreamBase(
            self._direction,
            callback=sound._ffi.cast("PaStreamCallback *", function),
            userdata=sound._ffi.cast("void *", data),
            **settings,
        )
        stream.kept = callback
        return stream

    def close(self) -> None:
        """Stop at once; may be called twice."""
        stream, self._stream = self._stream, None
        if stream is not None:
            _close(stream)

    def wants_more(self, lost: int) -> bool:
        """Whether it is to be opened again: the sound system keeps losing samples by itself, and is
        asked for twice the latency from then on.

        lost: times since it was opened. Looks at most once a second.
        """
        now = self._clock()
        if now - self._looked < 1.0:
            return False
        many = lost - self._lost >= _MANY_LOSSES * (now - self._looked)
        self._looked, self._lost = now, lost
        if not many or 2.0 * self._buffer > _MOST_BUFFER:
            return False
        self._buffer *= 2.0
        return True

    def gone(self) -> bool:
        """Whether the card no longer calls."""
        if (stream := self._stream) is None:
            return True
        now, calls = self._clock(), self._callback.calls
        if calls != self._calls:
            self._called, self._calls = now, calls
        silent = now - self._called
        return silent > STALLED or (silent > _CALLED_LATELY and not stream.active)


def _close(stream: Any) -> None:
    """Close a stream, and wait for that only so long.

    PortAudio joins its own thread, which may go on for ever when the card has gone (that of
    PulseAudio's plugin for ALSA does, without its server).
    """

    def work() -> None:
        with contextlib.suppress(Exception):
            stream.abort()
        with contextlib.suppress(Exception):
            stream.close()

    thread = threading.Thread(target=work, name="sotto-closing", daemon=True)
    thread.start()
    thread.join(_CLOSING_SECONDS)
    if thread.is_alive():
        _closing.append(thread)
        # What ends PortAudio closes all streams, and the program would wait for that.
        if (ending := getattr(sound_system(), "_exit_handler", None)) is not None:
            atexit.unregister(ending)


@functools.cache
def sound_system() -> Any:
    """The sounddevice module, loaded and silenced.

    Raises AudioDeviceError if PortAudio is missing or does not start.
    """
    _silence_c_libraries()
    _check_alsa()
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


def list_devices(*, probe: bool = False) -> tuple[DeviceInfo, ...]:
    """All devices, none at all on a machine without sound cards.

    probe: ask each which of PROBED_RATES it accepts, which opens it for a moment.
    Raises AudioDeviceError if there is no sound system to ask.
    """
    with _system:
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
                DeviceInfo(
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


def known() -> DeviceNames:
    """The devices that this process knows. Raises AudioDeviceError."""
    found = list_devices()
    return DeviceNames(
        tuple(device.name for device in found if device.inputs),
        tuple(device.name for device in found if device.outputs),
    )


def look() -> DeviceNames:
    """The devices there are now, as a new process sees them.

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
        inputs, outputs = json.loads(answer.stdout)
        return DeviceNames(tuple(map(str, inputs)), tuple(map(str, outputs)))
    except (OSError, subprocess.SubprocessError, ValueError, TypeError) as error:
        raise AudioDeviceError("cannot look for audio devices") from error


def refresh() -> None:
    """Let PortAudio look for devices again. No stream may be open. Raises AudioDeviceError.

    Does nothing while one cannot be closed: then only devices that are known can be opened.
    """
    _closing[:] = [thread for thread in _closing if thread.is_alive()]
    if _closing:
        return
    with _system:
        sound = sound_system()
        try:
            sound._terminate()
            sound._initialize()
        except sound.PortAudioError as error:
            raise AudioDeviceError(f"PortAudio does not start again: {one_line(error)}") from error


def choose(
    wanted: str | int | None, direction: Direction, devices: Sequence[DeviceInfo]
) -> DeviceInfo:
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


def _channel_counts(most: int, wanted: int = 1) -> tuple[int, ...]:
    """What to try: what is wanted; hardware without it may still do with two, all it has, one."""
    return tuple(dict.fromkeys((min(wanted, most), min(2, most), most, 1)))


def _refusal(index: int, direction: Direction, rate: int, channels: int) -> str | None:
    """Why a device cannot be opened so; None if it can."""
    sound = sound_system()
    check = sound.check_input_settings if direction == "input" else sound.check_output_settings
    try:
        check(device=index, channels=channels, dtype="float32", samplerate=rate)
    except (sound.PortAudioError, ValueError) as error:
        return one_line(error)
    return None


def _listing(devices: Sequence[DeviceInfo]) -> str:
    shown = ", ".join(f"{d.index} {d.name}" for d in devices[:8])
    return shown + (f" and {len(devices) - 8} more" if len(devices) > 8 else "")


@functools.cache
def _check_alsa() -> None:
    """Raise AudioDeviceError if ALSA's configuration describes no devices: PortAudio would abort.

    That is so where ALSA_CONFIG_PATH, or ALSA's own, names nothing that can be read. What is no
    file might never end.
    """
    if not sys.platform.startswith("linux"):
        return
    path = os.environ.get("ALSA_CONFIG_PATH")
    where = f": ALSA_CONFIG_PATH is {display_name(path)}" if path else ""
    refusal = f"no sound: the configuration of ALSA cannot be read{where}"
    places = [Path(place) for place in (path or "").split(":")]
    if path and any(place.exists() and not place.is_file() for place in places):
        raise AudioDeviceError(refusal)
    try:
        alsa = ctypes.CDLL("libasound.so.2")
        configuration = ctypes.c_void_p.in_dll(alsa, "snd_config")
        update, search = alsa.snd_config_update, alsa.snd_config_search
    except (OSError, ValueError, AttributeError):
        return  # PortAudio finds out whether there is another
    found = ctypes.c_void_p()
    if update() >= 0 and search(configuration, b"pcm", ctypes.byref(found)) >= 0:
        return
    raise AudioDeviceError(refusal)


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
