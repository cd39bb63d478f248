"""`sotto check`: whether this machine is ready for a call, and what to do where it is not."""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import platform
import queue
import shutil
import sys
import threading
from collections.abc import Callable, Iterator
from dataclasses import asdict
from functools import cached_property
from typing import TYPE_CHECKING, NoReturn, TypeVar

from codec.errors import BadInput, SottoError
from codec.files.paths import PIPE
from codec.packet import DELAYS, STEP_MS
from tui import live
from tui.findings import Finding, Verdict, any_failed, this_machine, to_json
from tui.terminal import options
from tui.terminal.arguments import amount
from tui.terminal.errors import UsageError
from tui.terminal.exit_status import FAILED, INTERRUPTED

if TYPE_CHECKING:
    from codec.speech.codec import SpeechCodec
    from stream.audio.devices import DeviceInfo
    from stream.audio.sinks import Sink
    from stream.audio.soundcheck import MicrophoneLevel
    from stream.audio.sources import Source
    from stream.call.loopback import Heard
    from tui.terminal.status_line import StatusLine

T = TypeVar("T")

# In the order in which they are taken; what the help says of each.
STEPS = {
    "versions": "of sotto and what it is made of, and the ids of its models",
    "devices": "sound cards",
    "microphone": "its level for a few seconds",
    "tones": "one in the left ear, then one in the right",
    "speed": "of the search, and the --delay that it carries",
    "loopback": "yourself through the codec",
    "ports": "whether the one that listening takes is free",
}
_SECONDS = 4.0
_PATIENCE = 20.0  # seconds that a sound system has to open and close its devices
_STOPPING = 5.0  # seconds for a step to stop when it is asked to
_GAPS = 3  # interruptions of the sound that are worth a word
_BAR_DB = 60.0
_BAR = 20
_INPUT_ADVICE = "--input DEVICE takes another one (see sotto devices), --input none does without"
_HINTS = {
    "fine": "a good level",
    "no sound": f"it gives no sound at all: {_INPUT_ADVICE}",
    "silent": f"nothing but silence: muted, or the wrong one? {_INPUT_ADVICE}",
    "no speech": "nobody was heard speaking: speak while it listens; if you did, it is too quiet",
    "clipping": "too loud, it is overdriven: turn its level down",
    "too quiet": "too quiet: turn its level up, or speak closer to it",
    "noisy": "noisy: speak closer to it, or look for a quieter place",
}
_HINTS_THAT_FAIL = ("no sound", "silent")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Describe the command and add its arguments."""
    listing = "; ".join(f"{name}: {text}" for name, text in STEPS.items())
    parser.description = (
        "Try what a call needs of this machine. Nobody is asked anything, and nothing leaves the "
        f"machine. The steps: {listing}."
    )
    parser.epilog = (
        "Exit status: 0 if calls will work so, 1 if a step has failed. With --json one object is "
        "written that names no machine, user, folder or key."
    )
    chosen = parser.add_mutually_exclusive_group()
    chosen.add_argument(
        "--only", action="extend", nargs="+", choices=STEPS, metavar="STEP", help="these steps"
    )
    chosen.add_argument(
        "--skip", action="extend", nargs="+", choices=STEPS, metavar="STEP", help="all but these"
    )
    parser.add_argument(
        "--seconds",
        type=amount("seconds", 1, 60),
        default=_SECONDS,
        metavar="N",
        help=f"how long to listen to you, each time (default: {_SECONDS:g})",
    )
    parser.add_argument(
        "--input", metavar="DEVICE", help="microphone: number or part of its name, or 'none'"
    )
    parser.add_argument(
        "--output", metavar="DEVICE", help="loudspeaker: number or part of its name, or 'none'"
    )
    parser.add_argument("--send-file", metavar="AUDIO", help="say this instead of the microphone")
    parser.add_argument(
        "--preset", default="2k", metavar="NAME", help="what your voice is coded with (default: 2k)"
    )
    options.add_model(parser)
    options.add_delay(parser, options.CALL_DELAY)
    options.add_device(parser)
    options.add_threads(parser)
    parser.add_argument(
        "--bind", default="", metavar="[ADDRESS][:PORT]", help="where `sotto listen` will listen"
    )
    parser.add_argument("--json", action="store_true", help="for a support person")
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    """Take the steps; 1 if one has failed."""
    from codec.speech.presets import find_preset

    if PIPE in (args.input, args.output, args.send_file):
        raise UsageError("a pipe cannot be checked: name a device, a file or none")
    if args.send_file is not None and args.input is not None:
        raise UsageError("--send-file and --input are both where our voice comes from")
    find_preset(args.preset)
    chosen = [step for step in args.only or STEPS if step not in (args.skip or ())]
    chosen = [step for step in STEPS if step in chosen]
    findings = []
    with _screen() as screen:
        check = Check(args, screen)
        try:
            for step in chosen:
                findings.append(check.take(step))
                screen.show("")
                if not args.json:
                    print(findings[-1].to_text(screen.width), flush=True)
        except (KeyboardInterrupt, SystemExit) as error:
            if check.stuck:
                _leave(error.code if isinstance(error, SystemExit) else INTERRUPTED)
            raise
    if args.json:
        print(json.dumps(to_json(findings, this_machine()), indent=2), flush=True)
    status = 1 if any_failed(findings) else 0
    if check.stuck:
        _leave(status)
    return status


def _leave(status: str | int | None) -> NoReturn:
    """End at once: a thread is caught in a sound system that does not answer, and would keep us."""
    for stream in (sys.stdout, sys.stderr):
        with contextlib.suppress(AttributeError, OSError, ValueError):
            stream.flush()
    os._exit(status if isinstance(status, int) else FAILED)


class Screen:
    """A line on a terminal about what goes on now; nothing elsewhere."""

    def __init__(self, status: StatusLine | None) -> None:
        self._status = status
        self.width = shutil.get_terminal_size().columns if sys.stdout.isatty() else 80

    def show(self, text: str) -> None:
        """This goes on now."""
        if self._status is not None:
            self._status.show(text)

    def level(self, what: str, level_db: float, left: float) -> None:
        """So loud it is now, for so many seconds more."""
        bars = round(_BAR * min(max(1.0 + level_db / _BAR_DB, 0.0), 1.0))
        self.show(f"{what} [{'#' * bars:<{_BAR}}] {left:2.0f} s")


@contextlib.contextmanager
def _screen() -> Iterator[Screen]:
    from tui.terminal.status_line import StatusLine

    if sys.stderr is None or not sys.stderr.isatty():
        yield Screen(None)
        return
    with contextlib.closing(StatusLine(sys.stderr)) as status:
        try:
            yield Screen(status)
        finally:
            status.show("")


class Check:
    """The steps, and what they share. Attribute stuck: a sound system does not answer."""

    def __init__(self, args: argparse.Namespace, screen: Screen) -> None:
        self._args, self._screen = args, screen
        self._stop = threading.Event()
        self._measured: dict[int, float] | None = None
        self.stuck = False

    def take(self, step: str) -> Finding:
        """Take a step; what goes wrong is what it finds."""
        try:
            finding: Finding = getattr(self, f"_{step}")()
            return finding
        except SottoError as error:
            return Finding(step, Verdict.FAILED, (str(error),))

    # --- the steps ----------------------------------------------------------------------------

    def _versions(self) -> Finding:
        import torch
        import zmq

        from codec.speech.presets import PRESETS, find_preset
        from models.description import shipped_id
        from stream.audio.devices import AudioDeviceError, sound_system
        from stream.audio.frontend import FrontEndMissing, check_available
        from tui.cli import sotto_version

        verdict, hints = Verdict.OK, []
        found = {
            "sotto": sotto_version(),
            "python": platform.python_version(),
            "torch": str(torch.__version__),
            "libzmq": zmq.zmq_version(),
            "portaudio": "missing",
            "system": f"{platform.system()} {platform.machine()}",
            "processors": os.cpu_count(),
        }
        try:
            words = sound_system().get_portaudio_version()[1].removeprefix("PortAudio V")
            found["portaudio"] = words.partition(",")[0]
        except AudioDeviceError as error:
            verdict = Verdict.NOTE
            hints.append(str(error))
        try:
            check_available()
        except FrontEndMissing as error:
            verdict = Verdict.NOTE
            hints.append(str(error))
        presets = (find_preset(name) for name in PRESETS)
        models = {name: shipped_id(name) for name in dict.fromkeys(each.model for each in presets)}
        if self._args.model is not None:
            models["--model"] = _id_of(find_preset(self._args.preset, self._args.model).model)
        missing = [name for name, found_id in models.items() if found_id is None]
        if missing:
            verdict = Verdict.FAILED
            hints.append(f"no model: {', '.join(missing)}")
        text = "sotto {sotto}, Python {python}, torch {torch}, libzmq {libzmq}, "
        text += "PortAudio {portaudio}"
        lines = (
            text.format(**found),
            "{system}, {processors} processors".format(**found),
            "models: " + ", ".join(f"{name} {found_id}" for name, found_id in models.items()),
            *hints,
        )
        return Finding("versions", verdict, lines, {**found, "models": models})

    def _devices(self) -> Finding:
        from stream.audio.devices import list_devices

        devices = self._in_time("devices", lambda: list_devices(probe=True), _PATIENCE)
        lines = [_described(device) for device in devices]
        args = self._args
        wanted = (args.input != live.NONE and args.send_file is None, args.output != live.NONE)
        there = (
            any(device.inputs for device in devices),
            any(device.outputs for device in devices),
        )
        verdict = Verdict.OK
        for kind, is_wanted, is_there, way_out in (
            ("microphone", wanted[0], there[0], "--input none"),
            ("loudspeaker", wanted[1], there[1], "--output none"),
        ):
            if not is_there:
                lines.append(f"this machine has no {kind} ({way_out} does without)")
                verdict = Verdict.FAILED if is_wanted else verdict
        return Finding(
            "devices", verdict, tuple(lines), {"devices": [asdict(device) for device in devices]}
        )

    def _microphone(self) -> Finding:
        from stream.audio.soundcheck import listen
        from stream.audio.sources import Microphone

        args = self._args
        if args.send_file is not None or args.input == live.NONE:
            why = "--send-file" if args.send_file is not None else "--input none"
            return Finding("microphone", Verdict.LEFT_OUT, (why,))

        def measured() -> tuple[str, MicrophoneLevel]:
            source = live.make_source(args)
            assert isinstance(source, Microphone)
            said = self._level("speak now ")
            return source.name, listen(source, args.seconds, self._stop, said)

        name, level = self._in_time("microphone", measured, args.seconds + _PATIENCE)
        hint = level.hint.value
        verdict = Verdict.OK if hint == "fine" else Verdict.NOTE
        if hint in _HINTS_THAT_FAIL:
            verdict = Verdict.FAILED
        speech = "none" if level.speech_db is None else f"{level.speech_db:.0f} dB"
        figures = f"speech {speech}, noise {level.noise_db:.0f} dB, peak {level.peak_db:.0f} dB"
        lines = (name, *([figures] if level.seconds else []), _HINTS[hint])
        return Finding(
            "microphone", verdict, lines, {"device": name, "hint": hint, **asdict(level)}
        )

    def _tones(self) -> Finding:
        from stream.audio.soundcheck import TONES, TonePlayer

        args = self._args
        if args.output == live.NONE:
            return Finding("tones", Verdict.LEFT_OUT, ("--output none",))

        def played() -> tuple[str, int]:
            with live.suggesting("--output none"):
                player = TonePlayer(args.output)
            return player.name, player.play(
                self._stop, lambda ear: self._screen.show(f"a tone in the {ear} ear")
            )

        name, channels = self._in_time("tones", played, _PATIENCE)
        if channels == 1:
            told = "one channel: two tones, without left and right"
        else:
            (left, low), (right, high) = TONES
            told = f"a low tone ({low:.0f} Hz) on the {left}, a high one ({high:.0f} Hz) on the "
            told += f"{right}: heard neither? --output DEVICE takes another card"
        figures = {"device": name, "channels": channels}
        return Finding("tones", Verdict.OK, (name, told), figures)

    def _speed(self) -> Finding:
        from stream.call.delays import SEARCH_STEPS, block_seconds, fitting, most_seconds

        codec, measured = self._codec, self._speeds(min(DELAYS))
        carried = fitting(min(DELAYS), self._possible(codec), lambda each: measured.get(each, 0.0))
        wished = self._args.delay
        lines = [f"this machine carries --delay {carried} and longer"]
        verdict = Verdict.OK
        if wished < carried:
            verdict = Verdict.NOTE
            lines.append(f"with --delay {wished} a call falls back to {carried} ms")
        steps = "one step" if SEARCH_STEPS == 1 else f"{SEARCH_STEPS} steps"
        for delay, seconds in measured.items():
            lines.append(
                f"--delay {delay}: {1000 * block_seconds(delay):.0f} ms of speech take "
                f"{1000 * seconds:.0f} ms with {steps} of the search "
                f"(at most {1000 * most_seconds(delay):.0f})"
            )
        figures = {
            "preset": self._args.preset,
            "model": codec.model_id,
            "carried": carried,
            "seconds": {str(delay): round(each, 4) for delay, each in measured.items()},
        }
        return Finding("speed", verdict, tuple(lines), figures)

    def _loopback(self) -> Finding:
        from stream.audio.frontend import Processing
        from stream.call.delays import fitting
        from stream.call.loopback import loop_back
        from stream.log import Journal

        args = self._args
        if args.input == live.NONE:
            return Finding("loopback", Verdict.LEFT_OUT, ("--input none: nobody to be heard",))
        codec, measured = self._codec, self._speeds(args.delay)
        delay = fitting(args.delay, self._possible(codec), lambda each: measured.get(each, 0.0))

        def heard() -> tuple[Source, Sink, Heard]:
            source, sink = live.make_source(args), live.make_sink(args)
            text = "speak now " if args.send_file is None else "playing "
            return (
                source,
                sink,
                loop_back(
                    codec,
                    source,
                    sink,
                    Journal(None),
                    self._stop,
                    seconds=args.seconds,
                    delay=delay,
                    processing=Processing(),
                    progress=self._level(text),
                ),
            )

        source, sink, found = self._in_time("loopback", heard, args.seconds + _PATIENCE)
        verdict = Verdict.OK
        later = "-" if found.total is None else f"{found.total:.2f} s"
        lines = [
            f"{source.name} to {sink.name}: heard {later} later, packets of {delay} ms, "
            f"{found.rate:.0f} bit/s (preset {args.preset})"
        ]
        if not found.spoken:
            verdict = Verdict.NOTE
            lines.append("only silence was coded: speak while it runs")
        elif found.total is None:
            verdict = Verdict.FAILED
            lines.append("nothing came out")
        if delay != args.delay:
            lines.append(f"--delay {args.delay} is too short for this machine")
        if max(found.gaps, found.late) >= _GAPS:
            verdict = Verdict.NOTE if verdict is Verdict.OK else verdict
            lines.append(
                f"interrupted: {found.gaps} times for lack of sound, {found.late} times by coding "
                "that took too long: end what keeps this machine busy, or take a longer --delay"
            )
        figures = {"input": source.name, "output": sink.name, "preset": args.preset}
        return Finding("loopback", verdict, tuple(lines), {**figures, **asdict(found)})

    def _ports(self) -> Finding:
        from stream.link.address import parse_address
        from stream.link.ports import listening_port

        port = listening_port(parse_address(self._args.bind))
        state = f"not to be had: {port.problem}" if port.problem else "free"
        lines = [f"TCP {port.number or '(any)'}: {state}"]
        if port.problem:
            lines.append("another `sotto listen`, perhaps; --bind :PORT takes another port")
        if port.number:
            lines.append(
                f"who listens behind a firewall or router lets TCP {port.number} in there, which "
                "is enough for first calls and all others; who calls opens nothing"
            )
        verdict = Verdict.FAILED if port.problem else Verdict.OK
        return Finding("ports", verdict, tuple(lines), {**asdict(port), "free": not port.problem})

    # --- what they share ----------------------------------------------------------------------

    @cached_property
    def _codec(self) -> SpeechCodec:
        from codec.speech.engine import check_steps
        from tui.terminal.progress import Progress

        with Progress("loading the networks", None):
            codec = live.load_codec(self._args)
            check_steps(codec, self._args.delay // STEP_MS)
        return codec

    def _speeds(self, delay: int) -> dict[int, float]:
        """What calls measure at their start, from `delay` on; once."""
        from stream.call.call import warm_up
        from tui.terminal.progress import Progress

        if self._measured is None:
            with Progress("measuring the speed of the search", None):
                self._measured = warm_up(self._codec, delay)
        return self._measured

    @staticmethod
    def _possible(codec: SpeechCodec) -> tuple[int, ...]:
        from stream.call.delays import WHOLE_FRAMES

        return DELAYS if codec.sliding else (WHOLE_FRAMES,)

    def _level(self, what: str) -> Callable[[float, float], None]:
        return lambda level_db, left: self._screen.level(what, level_db, left)

    def _in_time(self, step: str, work: Callable[[], T], seconds: float) -> T:
        """What `work` returns or raises; in a thread of its own, since sound systems may hang.

        Raises BadInput after so many seconds without an end.
        """
        if self.stuck:
            raise BadInput("the sound system does not answer")
        answers: queue.SimpleQueue[tuple[T | None, BaseException | None]] = queue.SimpleQueue()

        def answer() -> None:
            try:
                answers.put((work(), None))
            except BaseException as error:  # raised again below
                answers.put((None, error))

        thread = threading.Thread(target=answer, name=f"sotto-check-{step}", daemon=True)
        try:
            thread.start()
            value, error = answers.get(timeout=seconds)
        except queue.Empty:
            self.stuck = True
            raise BadInput(f"the sound system does not answer within {seconds:.0f} s") from None
        except BaseException:  # interrupted
            self._stop.set()
            if thread.ident is not None:
                thread.join(_STOPPING)
            self.stuck = thread.is_alive()
            raise
        thread.join()
        if error is not None:
            raise error
        return value  # type: ignore[return-value]


def _described(device: DeviceInfo) -> str:
    """A device and its directions, on one line."""
    parts = []
    for channels, direction, default in (
        (device.inputs, "in", device.default_input),
        (device.outputs, "out", device.default_output),
    ):
        if channels:
            parts.append(f"{channels} {direction}" + (" (default)" if default else ""))
    return f"{device.index} {device.name}, {device.host_api}: {', '.join(parts)}"


def _id_of(folder: str) -> str | None:
    """The id of the model in a folder; None if there is none to be read."""
    from pathlib import Path

    from models.description import DESCRIPTION, read_description

    try:
        return str(read_description(Path(folder) / DESCRIPTION)["model_id"])
    except (OSError, LookupError, ValueError, RecursionError):
        return None
