"""A fake call: scripted snapshots with changing voice levels, and a record of commands.

Run as a program, it shows the UI on a terminal or writes the screenshots:

    python -m tests.fake_call talking
    python -m tests.fake_call talking --plain
    python -m tests.fake_call --screenshots docs/screens
"""

from __future__ import annotations

import sys
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from datetime import datetime
from functools import lru_cache
from pathlib import Path

import numpy as np

from codec.errors import SottoError
from codec.signal.samples import FloatArray
from stream.audio.devices import DeviceNames
from stream.call.call import Call
from stream.call.snapshot import (
    Arrivals,
    FrontEndState,
    Latency,
    LateOver,
    Party,
    Rate,
    Snapshot,
    Spectrogram,
    Talker,
)
from stream.call.volume import Volume
from stream.link.events import CallState, Link, Rings
from stream.link.ringing import Answer
from stream.log import LogLine

COLUMNS_PER_SECOND = 125
KEPT_COLUMNS = 512
PERIOD = 1024
SILENCE = -0.8
SPEAKING_DB = -50.0
CLIPS = Path(__file__).parent / "clips"
OWN_KEY = "jrtw-6k2v-9qpx-c4ha"
PEER, PEER_KEY = "ada.example.org:4747", "bk7d-9w3m-x2fe-p80q"
RINGING = Rings('"Eve"', "aaaa-bbbb-cccc-dddd")
CODE = "39071 58842 00617 93386 14520 77219"
NAMES = ("Ada", "Grace Hopper", "Alan", "Hedy Lamarr", "Claude", "Radia", "Ken Thompson")


@dataclass
class Scene:
    """What the fake call is like; `time` is moved by whoever plays it."""

    state: CallState = CallState.TALKING
    reason: str = ""
    parties: int = 1
    room: bool = False
    silent: bool = False
    lossy: bool = False
    overloaded: bool = False
    secured: bool = True
    compare: bool = False  # the keys, for nobody has yet
    rings: bool = False
    recorded: bool = False  # by the first of the others
    late: bool = False  # the first of the others is heard late
    kept: float = 0.0  # seconds of ours that are to be delivered


SCENES = {
    "waiting": Scene(CallState.WAITING, parties=0),
    "ringing": Scene(CallState.WAITING, parties=0, rings=True),
    "connecting": Scene(CallState.CONNECTING, parties=0),
    "talking": Scene(),
    "compare": Scene(compare=True),
    "recorded": Scene(recorded=True),
    "late": Scene(late=True),
    "kept": Scene(CallState.RECONNECTING, "nothing heard for 3.1 s", silent=True, kept=4.3),
    "loss": Scene(lossy=True),
    "silence": Scene(silent=True),
    "reconnecting": Scene(CallState.RECONNECTING, "nothing heard for 3.1 s", silent=True),
    "insecure": Scene(secured=False),
    "overloaded": Scene(room=True, parties=5, overloaded=True),
    "room": Scene(room=True, parties=4),
    "full-room": Scene(room=True, parties=7),
    "empty-room": Scene(room=True, parties=0),
    "refused": Scene(
        CallState.REFUSED,
        f"the listener does not know our key {OWN_KEY}: it has to add it to its known peers",
        parties=0,
    ),
    "ended": Scene(CallState.ENDED, "Ada hung up"),
    "failed": Scene(CallState.FAILED, f"cannot reach {PEER}: nobody answers", 0),
}


class FakeCall(Call):
    """A call that writes down what it is told."""

    def __init__(
        self,
        scene: Scene | str = "talking",
        clock: Callable[[], float] | None = None,
        clips: bool = False,
    ) -> None:
        """clock: seconds since the call began; None takes `self.time`. clips: real voices."""
        self._clips = clips
        self.scene = SCENES[scene] if isinstance(scene, str) else scene
        self.time = 75.0
        self.fails: str | None = None
        self._clock = clock
        self.reset()
        self.log = _log(self.scene)

    def reset(self) -> None:
        """Forget all commands."""
        self.calls: list[tuple[object, ...]] = []
        self.muted = self.push_to_talk = self.talking = False
        self.preset, self.delay = "2k", 256
        self.cards = DeviceNames(
            ("Built-in Audio Analog Stereo", "USB Headset", "pulse"),
            ("USB Headset", "HDMI / DisplayPort", "pulse"),
        )
        self.input = "Built-in Audio Analog Stereo"
        self.output = "USB Headset"
        self.recording = ""
        self.volumes: dict[int, Volume] = {}
        self.front_end = FrontEndState.ON

    @property
    def now(self) -> float:
        return self.time if self._clock is None else self._clock()

    def snapshot(self) -> Snapshot:
        scene, now = self.scene, self.now
        return Snapshot(
            state=scene.state,
            seconds=now,
            preset=self.preset,
            presets=("1k2", "2k", "3k6"),
            model_id="6f3a91bc",
            talker=self._talker(now),
            listeners=tuple(self._listener(party, now) for party in range(scene.parties)),
            link=Link(
                peer="" if scene.state is CallState.WAITING else PEER,
                secured=scene.secured and scene.state is CallState.TALKING,
                own_fingerprint=OWN_KEY if scene.secured else "",
                round_trip=None if not scene.parties else 0.023,
                clock_offset=-0.0124 if scene.parties else None,
                reconnections=int(scene.lossy or scene.state is CallState.RECONNECTING),
                dropped=2,
                kept=scene.kept,
            ),
            input_device=self.input,
            output_device=self.output,
            front_end=self.front_end,
            muted=self.muted,
            push_to_talk=self.push_to_talk,
            talking=self.talking and not scene.kept,
            keeping=self.push_to_talk and self.talking and scene.kept > 0.0,
            late=LateOver(NAMES[0], 12.4, 6.2, True, True, 3.1) if scene.late else None,
            recording=self.recording,
            delays=(64, 128, 256, 512, 1024),
            room=scene.room,
            overloaded=scene.overloaded,
            ringing=RINGING if scene.rings else None,
            reason=scene.reason,
        )

    def log_lines(self, after: int) -> list[LogLine]:
        return [line for line in self.log if line.number > after][:100]

    def devices(self) -> DeviceNames:
        self.note("devices")
        return self.cards

    def devices_seen(self) -> DeviceNames | None:
        return self.cards

    def set_muted(self, muted: bool) -> None:
        self.note("set_muted", muted)
        self.muted = muted

    def set_front_end(self, on: bool) -> None:
        self.note("set_front_end", on)
        self.front_end = FrontEndState.ON if on else FrontEndState.OFF

    def set_push_to_talk(self, on: bool) -> None:
        self.note("set_push_to_talk", on)
        self.push_to_talk, self.talking = on, False

    def talk(self, on: bool) -> None:
        self.note("talk", on)
        self.talking = on

    def set_preset(self, name: str) -> None:
        self.note("set_preset", name)
        self.preset = name

    def set_delay(self, delay: int) -> None:
        self.note("set_delay", delay)
        self.delay = delay

    def set_input(self, name: str) -> None:
        self.note("set_input", name)
        self.input = name

    def set_output(self, name: str) -> None:
        self.note("set_output", name)
        self.output = name

    def set_recording(self, path: str | None) -> None:
        self.note("set_recording", path)
        self.recording = path or ""

    def record_overs(self, folder: str | None) -> None:
        self.note("record_overs", folder)

    def send_text(self, text: str) -> None:
        self.note("send_text", text)

    def set_volume(self, party: int, volume: Volume) -> None:
        self.note("set_volume", party, volume)
        self.volumes[party] = volume

    def verify(self, party: int, code: str) -> None:
        self.note("verify", party, code)
        self.scene = replace(self.scene, compare=False)

    def answer(self, answer: Answer, ringing: Rings) -> None:
        self.note("answer", answer, ringing)
        self.scene = replace(self.scene, rings=False)

    def hang_up(self) -> None:
        self.note("hang_up")

    def run_out(self) -> None:
        self.hang_up()

    def note(self, *call: object) -> None:
        self.calls.append(call)
        if self.fails is not None:
            raise SottoError(self.fails)

    def _talker(self, now: float) -> Talker:
        heard = not (self.scene.silent or self.muted) and self.scene.parties > 0
        heard = heard and (self.talking or not self.push_to_talk)
        frame = int(now / 0.256)
        cost = 0.62 + 0.2 * _wander(frame)
        spectrogram = self._spectrogram(now, 0, heard)
        level = _level(spectrogram)
        return Talker(
            level_db=level,
            active=level > SPEAKING_DB,
            spectrogram=spectrogram,
            rate=_rate(now, 0, heard),
            delay=self.delay,
            frames=frame,
            silent_frames=frame // 3,
            steps=12 + frame % 7,
            cost=cost,
            start_cost=cost * 1.31,
            real_time=0.56,
        )

    def _listener(self, party: int, now: float) -> Party:
        scene = self.scene
        voice = party + 1
        heard = not scene.silent and (not scene.room or party in (0, 2))
        lossy = 1 if scene.lossy else 0
        latency = Latency(0.256, 0.012, 0.041, 0.0115, 0.04 + 0.14 * lossy, 0.009, 0.022)
        parts = (latency.capture, latency.search, latency.network, latency.playout)
        total = 0.256 + sum(part or 0.0 for part in parts) + 0.009 + 0.022
        frame = int(now / 0.256)
        spectrogram = self._spectrogram(now, voice, heard, gaps=scene.lossy)
        level = _level(spectrogram)
        return Party(
            party=party,
            name=NAMES[party],
            fingerprint=PEER_KEY if scene.secured else "",
            code=CODE if scene.secured else "",
            verified=scene.secured and not scene.compare,
            recording=scene.recorded and party == 0,
            volume=self.volumes.get(party, Volume()),
            preset="1k2" if party % 3 == 1 else "2k",
            delay=512 if party % 3 == 1 else 256,
            heard=not (scene.overloaded and party == scene.parties - 1),
            level_db=level,
            active=level > SPEAKING_DB,
            spectrogram=spectrogram,
            rate=_rate(now, voice, heard),
            arrivals=Arrivals(
                received=frame - 9 * lossy,
                lost=9 * lossy,
                late=2 * lossy,
                partly_late=3 * lossy,
                reordered=4 * lossy,
                concealed=11.6 * lossy,
                stretched=12,
                shortened=9,
            ),
            latency=replace(latency, total=total),
            real_time=0.034,
            grown=0.33 * lossy,
        )

    def _spectrogram(self, now: float, voice: int, heard: bool, gaps: bool = False) -> Spectrogram:
        total = int(now * COLUMNS_PER_SECOND)
        at = np.arange(max(0, total - KEPT_COLUMNS), total)
        if not heard:
            return Spectrogram(_hiss()[at % PERIOD], total)
        source = _clip if self._clips else _voice
        columns = source(voice)[at % PERIOD]
        if gaps:
            columns = np.where((at // 64 % 4 == 1)[:, None], columns - 0.35, columns)
        return Spectrogram(columns, total)


def _log(scene: Scene) -> list[LogLine]:
    """What a call that came to this scene would have written, in the program's own words."""
    said: list[tuple[float, str, str]] = []
    if not scene.room and scene.state is not CallState.WAITING:
        said.append((0.0, "info", f"connecting: calling {PEER}"))
    for party in range(scene.parties):
        key = f" (key {PEER_KEY})" if scene.secured else ""
        said.append((0.9 + 7 * party, "info", f"{NAMES[party]} is here{key}"))
        if scene.compare:
            said.append((0.9, "info", f"code, the same on both screens: {CODE}"))
        if party == 0:
            how = f"{NAMES[0]} is connected" if scene.room else f"connected to {NAMES[0]}"
            said.append((0.9, "info", f"talking: {how}"))
    if scene.lossy:
        said += [
            (60.2, "info", "reconnecting: nothing heard for 3.1 s"),
            (62.9, "info", f"{NAMES[0]} is here (key {PEER_KEY})"),
            (62.9, "info", f"talking: {NAMES[0]} is back"),
        ]
    if scene.recorded:
        said.append((31.5, "warning", f"{NAMES[0]} records this call"))
    if scene.overloaded:
        late = f"this machine cannot decode {scene.parties} voices at once: "
        said.append((41.0, "warning", f"{late}{NAMES[scene.parties - 1]} is not heard"))
    if scene.reason:
        bad = scene.state in (CallState.REFUSED, CallState.FAILED)
        level = "error" if bad else "info"
        said.append((74.6, level, f"{scene.state.value}: {scene.reason}"))
    return [LogLine(number, *line) for number, line in enumerate(said)]


def _wander(step: int) -> float:
    """A repeatable number in 0 .. 1."""
    return (step * 7919 % 101) / 101


def _level(spectrogram: Spectrogram) -> float:
    """A level that goes with the picture, dB."""
    return -45.0 + 55.0 * float(spectrogram.columns[-12:].max(initial=-1.0))


def _rate(now: float, voice: int, heard: bool) -> Rate:
    frame = int(now / 0.256)
    history = tuple(
        1600 + 700 * _wander(i + 31 * voice) if heard else 70.0
        for i in range(max(0, frame - 119), frame + 1)
    )
    latest = history[-1]
    return Rate(latest, sum(history) / len(history), history, latest + 500, 2 * latest + 2700)


@lru_cache(maxsize=1)
def _hiss() -> FloatArray:
    return np.random.default_rng(5).normal(SILENCE, 0.04, (PERIOD, 128)).astype(np.float32)


@lru_cache(maxsize=8)
def _voice(voice: int) -> FloatArray:
    """Eight seconds of something like speech: [PERIOD, 128] log-mel columns in [-1, 1]."""
    t = np.arange(PERIOD)[:, None] / COLUMNS_PER_SECOND
    band = np.arange(128)[None, :]
    two_pi = 2 * np.pi
    # Everything repeats after PERIOD columns.
    syllable = np.clip(np.sin(two_pi * t * (29 + voice) / 8.192) + 0.5, 0, 1)
    phrase = np.clip(1.6 * np.sin(two_pi * (2 * t / 8.192 + 0.3 * voice)) + 1.1, 0, 1)
    pitch = 5.5 + voice % 3 + 0.8 * np.sin(two_pi * 5 * t / 8.192 + voice)
    harmonics = 0.5 + 0.5 * np.cos(two_pi * band / pitch)
    picture = np.zeros((PERIOD, 128))
    for centre, swing, rate, width, strength in (
        (18, 6, 7, 7.0, 1.0),
        (42, 16, 11, 8.0, 0.85),
        (70, 10, 5, 9.0, 0.6),
        (96, 6, 3, 9.0, 0.4),
    ):
        at = centre + swing * np.sin(two_pi * rate * t / 8.192 + 1.7 * voice)
        picture += strength * np.exp(-(((band - at) / width) ** 2))
    voiced = picture * (0.55 + 0.45 * harmonics * (band < 60) + 0.3 * (band >= 60))
    hush = np.clip(np.sin(two_pi * t * 13 / 8.192 + 2 * voice) - 0.75, 0, 1) * 3.2
    fricative = hush * np.exp(-(((band - 104) / 17.0) ** 2))
    loud = (voiced * syllable + 0.8 * fricative) * phrase
    return np.clip(_hiss() + 1.25 * loud, -1, 1).astype(np.float32)


@lru_cache(maxsize=8)
def _clip(voice: int) -> FloatArray:
    """Eight seconds of one of the clips, as `_voice`."""
    import soundfile

    from codec.signal.analysis import HOP, WINDOW, log_mel

    paths = sorted(CLIPS.glob("*.flac"))
    samples, _ = soundfile.read(paths[voice % len(paths)], dtype="float32")
    needed = (PERIOD - 1) * HOP + WINDOW
    return log_mel(np.resize(samples, needed))[:PERIOD]


def screenshots(folder: str) -> None:
    """Write the main states as SVG files of 100 x 30 characters."""
    import asyncio

    from tests.app_pictures import picture

    for name in ("waiting", "connecting", "talking", "loss", "room", "refused"):
        svg = asyncio.run(picture(name))
        target = Path(folder, f"{name}.svg")
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_text(svg, encoding="utf-8")
        print(f"{target}: {len(svg) / 1000:.0f} kB")


def main(arguments: list[str]) -> int:
    """Show a scene, or write the screenshots."""
    if arguments[:1] == ["--screenshots"]:
        screenshots(arguments[1])
        return 0
    from tui.app.app import CallApp

    begun = time.monotonic()
    call = FakeCall(arguments[0] if arguments else "talking", lambda: time.monotonic() - begun)
    plain = "--plain" in arguments
    app = CallApp(call, today=lambda: datetime(2026, 1, 2, 3, 4, 5), plain=plain)
    app.run()
    return app.return_code or 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
