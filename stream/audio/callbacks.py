"""What a sound card calls for every block: compiled, so that it neither waits for Python nor
takes Python's time.

PortAudio calls two hundred times a second in either direction. In Python each of these calls would
wait for the interpreter's lock, and keep others waiting for it in turn. The compiled form is called
by PortAudio itself (PaStreamCallback in portaudio.h); where it cannot be, the same functions run in
Python.
"""

from __future__ import annotations

import sys
from typing import Any

import numpy as np
from numpy.typing import NDArray

from codec.kernels import kernel
from codec.kernels.ahead import AheadOfTime, Bound, ahead_of_time, first_slots
from codec.signal.samples import FloatArray
from stream.audio.devices import CardCallback
from stream.audio.pacing import POSITION, RESTART, WHEN, SampleClock
from stream.audio.ring import SampleRing

# A callback's state are numbers that only it changes, each of them twice: those in the second half
# are its own, and become visible in the first one after each call, once the samples are in place.
_MOVED, _STAMPED, _CALLED, _LOST = range(4)  # of both: the ring's position, stamps, calls, losses
_RAN_DRY, _SILENT, _PLAYING, _DRY, _FADED = range(4, 9)  # of the loudspeaker's
_MINE = 9  # where the second half begins

_OLDEST_STAMP = 0.25  # seconds; PulseAudio's are nonsense for the first second
_LONGEST_DELAY = 0.5
_FADE = 48
_FILLING = 5
_ADC, _CURRENT, _DAC = range(3)  # PortAudio's times of a block, in seconds
_INPUT_OVERFLOW, _OUTPUT_UNDERFLOW = 2, 4

Integers = NDArray[np.int64]
Doubles = NDArray[np.float64]

# What PortAudio tells of a block: its samples [n, channels], its times, its flags, and our time.
_BLOCK = "f4[:,::1]", "f8[::1]", "i8", "f8"
_RECORD = "f4[::1]", "i8[::1]", "i8[::1]", "f8[:,::1]", "f8", *_BLOCK
_PLAY = "f4[::1]", "i8[::1]", "i8[::1]", "f8[:,::1]", "f4[::1]", "f4[::1]", "f8[::1]", *_BLOCK
_STATE = 2  # which argument it is, of both
_ENTRY = "called"
# `time.monotonic` is this one of the C library's clocks.
_CLOCK_MONOTONIC = 1


def _from_portaudio(types: tuple[str, ...]) -> str:
    """A PaStreamCallback in LLVM's language: hands on a block to a kernel whose slots are its user
    data, and makes the kernel's numbers visible."""
    slots = first_slots(types)
    block, times, flags, now = slots[-len(_BLOCK) :]
    shown = "\n".join(
        f"%from{k} = getelementptr i64, ptr %state, i64 {_MINE + k}\n"
        f"%to{k} = getelementptr i64, ptr %state, i64 {k}\n"
        f"%value{k} = load i64, ptr %from{k}\n"
        f"store atomic i64 %value{k}, ptr %to{k} release, align 8"
        for k in range(_MINE)
    )
    return f"""
declare i32 @kernel(ptr)
declare i32 @clock_gettime(i32, ptr)
define i32 @{_ENTRY}(ptr %in, ptr %out, i64 %frames, ptr %times, i64 %flags, ptr %slots) {{
%time = alloca [2 x i64]
%plays = icmp eq ptr %in, null
%samples = select i1 %plays, ptr %out, ptr %in
%nothing = icmp eq ptr %samples, null
br i1 %nothing, label %end, label %there
there:
%told = call i32 @clock_gettime(i32 {_CLOCK_MONOTONIC}, ptr %time)
%fraction = getelementptr i64, ptr %time, i64 1
%whole = load i64, ptr %time
%nano = load i64, ptr %fraction
%seconds = sitofp i64 %whole to double
%nanoseconds = sitofp i64 %nano to double
%rest = fmul double %nanoseconds, 1.0e-9
%now = fadd double %seconds, %rest
%now_at = getelementptr i64, ptr %slots, i64 {now}
store double %now, ptr %now_at
%flags_at = getelementptr i64, ptr %slots, i64 {flags}
store i64 %flags, ptr %flags_at
%times_at = getelementptr i64, ptr %slots, i64 {times + 4}
store ptr %times, ptr %times_at
%samples_at = getelementptr i64, ptr %slots, i64 {block + 4}
store ptr %samples, ptr %samples_at
%frames_at = getelementptr i64, ptr %slots, i64 {block + 5}
store i64 %frames, ptr %frames_at
%channels_at = getelementptr i64, ptr %slots, i64 {block + 6}
%channels = load i64, ptr %channels_at
%count = mul i64 %frames, %channels
%count_at = getelementptr i64, ptr %slots, i64 {block + 2}
store i64 %count, ptr %count_at
%status = call i32 @kernel(ptr %slots)
%state_at = getelementptr i64, ptr %slots, i64 {slots[_STATE] + 4}
%state = load ptr, ptr %state_at
fence release
{shown}
br label %end
end:
ret i32 0
}}
"""


@ahead_of_time(*_RECORD, beside=_from_portaudio(_RECORD))
@kernel(nogil=True)
def record(
    ring: FloatArray,
    taken: Integers,
    state: Integers,
    stamps: Doubles,
    rate: float,
    block: FloatArray,
    times: Doubles,
    flags: int,
    now: float,
) -> None:
    """Append the mean of a block's channels to a ring; what does not fit is lost.

    taken: [1], the reader's position.
    """
    frames, channels = block.shape
    size = len(ring)
    written = state[_MINE + _MOVED]
    count = min(frames, size - (written - taken[0]))
    at = written % size
    for k in range(count):
        value = block[k, 0]
        if channels > 1:
            for channel in range(1, channels):
                value += block[k, channel]
            value /= channels
        ring[at] = value
        at += 1
        if at == size:
            at = 0
    written += count
    lost = count < frames or (flags & _INPUT_OVERFLOW) != 0
    # PortAudio's clock is not ours (on some systems it even follows the wall clock): only the age
    # of the first sample is taken from it.
    age = times[_CURRENT] - times[_ADC]
    if not 0.0 < age < _OLDEST_STAMP:
        age = frames / rate
    row = state[_MINE + _STAMPED] % len(stamps)
    stamps[row, POSITION] = written
    stamps[row, WHEN] = now - age + frames / rate
    stamps[row, RESTART] = lost
    state[_MINE + _MOVED] = written
    state[_MINE + _LOST] += lost
    state[_MINE + _STAMPED] += 1
    state[_MINE + _CALLED] += 1


@ahead_of_time(*_PLAY, beside=_from_portaudio(_PLAY))
@kernel(nogil=True)
def play(
    ring: FloatArray,
    written: Integers,
    state: Integers,
    stamps: Doubles,
    fade: FloatArray,
    last: FloatArray,
    latency: Doubles,
    block: FloatArray,
    times: Doubles,
    flags: int,
    now: float,
) -> None:
    """Fill all channels of a block from a ring, and with silence where that runs out.

    There it fades from the last sample instead of stepping to zero, and fades in again when more
    are there. written: [1], the writer's position; last: [1], the last sample; latency: [1], of
    the card in seconds, for want of its own word.
    """
    frames, channels = block.shape
    size = len(ring)
    taken, silent = state[_MINE + _MOVED], state[_MINE + _SILENT]
    playing, dry = state[_MINE + _PLAYING], state[_MINE + _DRY]
    # At first PortAudio calls several times at once, to fill its buffers: with silence, or the
    # ring would be empty before the first sample is heard.
    state[_MINE + _CALLED] += 1
    count = 0
    if state[_MINE + _CALLED] > _FILLING:
        count = min(frames, written[0] - taken)
    delay = times[_DAC] - times[_CURRENT]
    if not 0.0 < delay < _LONGEST_DELAY:
        delay = latency[0]
    # Silence takes its time as well: so much later is what comes after it, to the sample.
    row = state[_MINE + _STAMPED] % len(stamps)
    stamps[row, POSITION] = taken + silent
    stamps[row, WHEN] = now + delay
    stamps[row, RESTART] = 0.0
    state[_MINE + _STAMPED] += 1
    at = taken % size
    for k in range(count):
        value = ring[at]
        last[0] = value
        if dry and k < len(fade):
            value *= fade[len(fade) - 1 - k]
        for channel in range(channels):
            block[k, channel] = value
        at += 1
        if at == size:
            at = 0
    if count:
        playing, dry = 1, 0
        state[_MINE + _FADED] = 0
    if count < frames:
        for k in range(count, frames):
            value = np.float32(0.0)
            if state[_MINE + _FADED] < len(fade):
                value = last[0] * fade[state[_MINE + _FADED]]
                state[_MINE + _FADED] += 1
            for channel in range(channels):
                block[k, channel] = value
        # Counted once per gap, and not before there was anything to play.
        if playing and not dry:
            state[_MINE + _RAN_DRY] += 1
        dry = 1
    elif (flags & _OUTPUT_UNDERFLOW) != 0 and playing:
        state[_MINE + _LOST] += 1
    state[_MINE + _PLAYING], state[_MINE + _DRY] = playing, dry
    state[_MINE + _SILENT] = silent + frames - count
    state[_MINE + _MOVED] = taken + count


class RingCallback(CardCallback):
    """A kernel and the arrays that it works on.

    Attributes: ring, of its samples; clock, which follows the card. rate: in Hz.
    """

    ring: SampleRing

    def __init__(self, kernel: AheadOfTime, rate: int) -> None:
        self._kernel = kernel
        self._state = np.zeros(2 * _MINE, np.int64)
        self.clock = SampleClock(rate, stamped=self._state[_STAMPED : _STAMPED + 1])
        self._moved = self._state[_MOVED : _MOVED + 1]
        self._given: tuple[Any, ...] = ()
        self._bound: Bound | None = None

    @property
    def calls(self) -> int:
        return int(self._state[_CALLED])

    @property
    def lost(self) -> int:
        """How many times samples were lost, by the sound system or for want of room."""
        return int(self._state[_LOST])

    def compiled(self, channels: int) -> tuple[int, int] | None:
        # Its clock, and the size of what C calls a long, are those of Linux.
        if not sys.platform.startswith("linux") or sys.maxsize < 2**32:
            return None
        block = np.zeros((1, channels), np.float32)
        self._bound = self._kernel.bound(*self._given, block, np.zeros(3), 0, 0.0)
        return self._kernel.address(_ENTRY), self._bound.address

    def __call__(self, block: FloatArray, times: Any, status: Any, now: float) -> None:
        moments = np.array([times.inputBufferAdcTime, times.currentTime, times.outputBufferDacTime])
        flags = _INPUT_OVERFLOW * bool(status.input_overflow)
        flags += _OUTPUT_UNDERFLOW * bool(status.output_underflow)
        self._kernel.kernel.function(*self._given, block, moments, flags, now)
        self._state[:_MINE] = self._state[_MINE:]


class Recording(RingCallback):
    """Samples of a microphone, for at most so many seconds that nobody reads them."""

    def __init__(self, rate: int, seconds: float) -> None:
        super().__init__(record, rate)
        self.ring = SampleRing(int(seconds * rate), written=self._moved)
        samples, taken = self.ring.samples, self.ring.positions[1]
        self._given = samples, taken, self._state, self.clock.stamps, float(rate)


class Playing(RingCallback):
    """Samples on their way to a loudspeaker, a second of them at most."""

    def __init__(self, rate: int) -> None:
        super().__init__(play, rate)
        self.ring = SampleRing(rate, taken=self._moved)
        self._state[_MINE + _DRY] = 1
        self._state[_MINE + _FADED] = _FADE
        fade = np.cos(np.linspace(0.0, np.pi / 2, _FADE + 1)[1:]) ** 2
        self._latency = np.zeros(1)
        samples, written = self.ring.samples, self.ring.positions[0]
        self._given = (
            samples, written, self._state, self.clock.stamps, fade.astype(np.float32),
            np.zeros(1, np.float32), self._latency,
        )  # fmt: skip

    @property
    def ran_dry(self) -> int:
        """How many times the ring was empty while something was playing."""
        return int(self._state[_RAN_DRY])

    @property
    def silent(self) -> int:
        """How many samples of silence were played for lack of others."""
        return int(self._state[_SILENT])

    def expect(self, latency: float) -> None:
        """Take this for the time from call to air, in seconds, where the card does not say."""
        self._latency[0] = latency
