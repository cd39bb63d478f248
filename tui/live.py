"""Options, set-up and running of a call, for `sotto listen` and `sotto call`."""

from __future__ import annotations

import argparse
import contextlib
import gc
import math
import os
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, TextIO

from codec.errors import BadInput, SottoError
from codec.files.paths import PIPE, os_errors, reason
from codec.packet import STEP_MS, check_fits
from tui.terminal import options
from tui.terminal.arguments import at_most_processors, positive_count
from tui.terminal.errors import UsageError
from tui.terminal.outputs import check_lines, check_outputs
from tui.terminal.signals import undisturbed

if TYPE_CHECKING:
    from codec.speech.codec import SpeechCodec
    from stream.audio.sinks import Sink
    from stream.audio.sources import Source
    from stream.call.call import Call
    from stream.link.authentication import Security
    from stream.link.endpoint import Endpoint
    from stream.link.events import Joined, Offer, Rings
    from stream.log import Journal
    from tui.terminal.status_line import StatusLine

NONE = "none"
_MIB = 1 << 20
_REMEMBERED = 60.0  # seconds in which another call with the same party is the same one
_MOST_COMMANDS = 4  # of --on-ring, at a time
_NEVER_EMPTY = (
    "send_file", "record", "record_overs", "key", "peer_key", "stats_json", "log", "impair",
)  # fmt: skip
_PLAIN_TERMINALS = ("", "dumb", "unknown")
_PIPE_BEGINS = 2.0  # seconds that a pipe has to show what is in it


def add_options(parser: argparse.ArgumentParser) -> None:
    """The options of both commands."""
    speech = parser.add_argument_group("speech")
    speech.add_argument(
        "--preset", default="2k", metavar="NAME", help="what we code our voice with (default: 2k)"
    )
    options.add_model(speech)
    options.add_delay(speech, options.CALL_DELAY)
    speech.add_argument(
        "--packet-limit", type=options.count, metavar="BYTES", help="the most bytes of a packet"
    )
    speech.add_argument(
        "--iterations", type=options.count, metavar="N", help="most steps of the search per packet"
    )
    speech.add_argument(
        "--tail",
        type=options.positive,
        metavar="SECONDS",
        help="time for the search after a packet's last sample",
    )
    options.add_device(speech)
    options.add_threads(speech)
    sound = parser.add_argument_group("sound")
    sound.add_argument(
        "--input",
        metavar="DEVICE",
        help="microphone: number or part of its name; '-' reads stdin, 'none' is silence",
    )
    sound.add_argument(
        "--output",
        metavar="DEVICE",
        help="loudspeaker: number or part of its name; '-' writes stdout, 'none' plays nothing",
    )
    for name, what in (
        ("echo-cancellation", "leave in what the microphone hears of the loudspeaker"),
        ("noise-suppression", "leave in the noise of the room"),
        ("gain-control", "leave the microphone as loud as it is"),
    ):
        sound.add_argument(f"--no-{name}", action="store_true", help=what)
    sound.add_argument(
        "--no-chime", action="store_true", help="play no two notes when somebody is there"
    )
    sound.add_argument(
        "--raw", action="store_true",
        help="a pipe holds 16-bit samples, 16 kHz, mono, and not an audio file",
    )  # fmt: skip
    sound.add_argument("--send-file", metavar="AUDIO", help="say this instead of the microphone")
    sound.add_argument("--record", metavar="WAV", help="record the call: left us, right them")
    sound.add_argument(
        "--record-overs", metavar="DIR", help="write what anybody says to a file of its own in DIR"
    )
    sound.add_argument(
        "--push-to-talk", action="store_true",
        help="begin with the microphone off, which a key opens; what is said while the connection "
        "is broken arrives late",
    )  # fmt: skip
    sound.add_argument(
        "--say",
        metavar="TEXT",
        help="write this line to the other side once it is there; '-' writes each line of stdin",
    )
    trust = parser.add_argument_group("trust")
    trust.add_argument("--key", metavar="FILE", help="our key (default: the one keygen made)")
    trust.add_argument(
        "--peer-key", metavar="KEY", help="the other side's public key, or a file that holds it"
    )
    trust.add_argument(
        "--trust-new", action="store_true", help="accept and remember a key never seen before"
    )
    trust.add_argument(
        "--trust-most",
        type=positive_count,
        default=1,
        metavar="N",
        help="how many keys --trust-new accepts until we stop listening (default: 1)",
    )
    trust.add_argument(
        "--insecure", action="store_true", help="without keys, even beyond this machine"
    )
    trust.add_argument("--name", help="what the other side sees us as (default: this host's name)")
    output = parser.add_argument_group("what is shown")
    output.add_argument("--headless", action="store_true", help="no screen: one line per second")
    output.add_argument(
        "--plain", action="store_true", help="few bytes, for a slow terminal (key v changes it)"
    )
    output.add_argument(
        "--stats-json", metavar="FILE", help="one JSON object per second, added to FILE"
    )
    output.add_argument(
        "--size-limit",
        type=options.count,
        default=1024,
        metavar="MIB",
        help="the most that --record, --record-overs and --stats-json may take, each "
        "(default: 1024)",
    )
    output.add_argument("--log", metavar="FILE", help="the call's log (headless default: stderr)")
    output.add_argument(
        "--seconds", type=options.positive, metavar="N", help="hang up after this long"
    )
    output.add_argument(
        "--impair",
        metavar="SPEC",
        help="for tests: spoil what arrives, as in loss=0.1,burst=2,jitter=0.2,duplicate=0.05",
    )


def check_options(args: argparse.Namespace) -> None:
    """Raise UsageError where options contradict each other."""
    for name in _NEVER_EMPTY:
        if getattr(args, name) == "":  # as of a variable of the shell that is not set
            raise UsageError(f"--{name.replace('_', '-')} is empty")
    if args.send_file is not None and args.input is not None:
        raise UsageError("--send-file and --input are both where our voice comes from")
    if args.raw and PIPE not in (args.send_file, args.input):
        raise UsageError("--raw is about a pipe: --input - or --send-file -")
    if PIPE in (args.input, args.send_file, args.output) and not args.headless:
        raise UsageError("a pipe takes the terminal's place: add --headless")
    if args.say == PIPE and PIPE in (args.input, args.send_file):
        raise UsageError("standard input is either our voice or the lines of --say -")
    if args.say == PIPE and not args.headless:
        raise UsageError(
            "--say - takes standard input, where the screen's keys are: add --headless"
        )
    if args.say not in (None, PIPE):
        from stream.link.wire import MAX_TEXT, harmless

        size = len(harmless(args.say).encode())
        if not 0 < size <= MAX_TEXT:
            raise UsageError(f"--say: a line has 1 to {MAX_TEXT} bytes, and this one {size}")
    if args.output == PIPE and args.stats_json == PIPE:
        raise UsageError("--output - and --stats-json - cannot both be standard output")
    if args.insecure and (args.key or args.peer_key or args.trust_new):
        raise UsageError("--insecure does without keys: leave out --key, --peer-key, --trust-new")


def make_source(args: argparse.Namespace) -> Source:
    """Where our voice comes from. Raises SottoError when it cannot be had."""
    from stream.audio.sources import FileSource, Microphone, Silence

    if args.send_file is not None:
        return _pipe(args) if args.send_file == PIPE else FileSource(args.send_file)
    if args.input == PIPE:
        return _pipe(args)
    if args.input == NONE:
        return Silence()
    with suggesting("--input none or --send-file"):
        return Microphone(args.input)


def _pipe(args: argparse.Namespace) -> Source:
    """Standard input; BadInput where it begins with what is no audio."""
    from stream.audio.sources import PipeSource

    source = PipeSource(raw=args.raw)
    source.check(_PIPE_BEGINS)
    return source


def make_sink(args: argparse.Namespace) -> Sink:
    """Where the other side is heard. Raises SottoError when it cannot be had."""
    from stream.audio.sinks import Loudspeaker, NullSink, PipeSink

    if args.output == PIPE:
        return PipeSink()
    if args.output == NONE:
        return NullSink()
    with suggesting("--output none"):
        return Loudspeaker(args.output)


@contextlib.contextmanager
def suggesting(way_out: str) -> Iterator[None]:
    """Say what to do on a machine without sound."""
    from stream.audio.devices import AudioDeviceError

    try:
        yield
    except AudioDeviceError as error:
        raise BadInput(f"{error} ({way_out} does without)") from error


def security(args: argparse.Namespace) -> Security:
    """The keys to use. Raises BadInput when one that was asked for cannot be read."""
    from stream.link.authentication import Security
    from stream.link.keys import default_key_path, read_key_pair, read_public_key

    if args.insecure:
        return Security(insecure=True)
    path = Path(args.key) if args.key else default_key_path()
    keys = read_key_pair(path) if args.key or path.exists() else None
    peer_key = read_public_key(args.peer_key) if args.peer_key else None
    return Security(
        keys=keys,
        peer_key=peer_key,
        trust_new=args.trust_new,
        trust_most=args.trust_most,
        # A person is asked, where there is one.
        ring=not (args.headless or getattr(args, "auto_answer", True)),
    )


def run(
    args: argparse.Namespace,
    connect: Callable[[Offer, Security], Endpoint],
    *,
    room: bool = False,
    lasting: bool = False,
    hang_up: bool = False,
) -> int:
    """Load the codec, make the call that `connect` begins, and stay until it is over.

    room, lasting, hang_up: see CallSettings. Returns the exit status; raises SottoError with the
    reason where the call was refused or has failed.
    """
    from codec.speech.presets import find_preset
    from stream.audio.frontend import Processing
    from stream.call.call import Call, CallSettings
    from stream.call.over_files import check_folder
    from stream.call.recorder import check_recordable
    from stream.link.events import CallState, Offer
    from stream.link.impairment import parse_impairment
    from stream.log import Journal
    from tui.headless import follow, say, statistics_file

    # What may be misspelt is looked at before the seconds that loading takes, and before anybody is
    # called.
    keys = security(args)
    name = args.name or socket.gethostname()
    # The connection to be, but for the model, which is not known yet; it is never started.
    connect(Offer("", find_preset(args.preset).name, name, room), keys).close("")
    impairment = parse_impairment(args.impair) if args.impair else None
    _check_files(args)
    if args.record:
        check_recordable(args.record)
    if args.record_overs:
        check_folder(args.record_overs)
    if not args.headless and (lacking := no_screen()):
        raise UsageError(f"{lacking}: add --headless")
    source, sink = make_source(args), make_sink(args)
    with (
        statistics_file(args.stats_json) as statistics,
        _status_line(args) as status,
        _log_file(args, status) as log,
    ):
        codec, measured = _load(args)
        endpoint = connect(Offer(codec.model_id, codec.preset, name, room), keys)
        if impairment is not None:
            endpoint.impair(impairment)
        journal = Journal(log)
        settings = CallSettings(
            args.preset,
            delay=args.delay,
            measured=measured,
            most_bytes=args.packet_limit,
            room=room,
            iterations=args.iterations,
            tail=args.tail,
            push_to_talk=args.push_to_talk,
            lasting=lasting,
            hang_up=hang_up,
            processing=Processing(
                echo_cancellation=not args.no_echo_cancellation,
                noise_suppression=not args.no_noise_suppression,
                gain_control=not args.no_gain_control,
            ),
            recording_bytes=args.size_limit * _MIB,
            on_ring=_on_ring(getattr(args, "on_ring", None), journal),
            on_joined=remembering(journal, outgoing=hasattr(args, "host")),
            chime=not args.no_chime,
        )
        call = Call(codec, endpoint, source, sink, settings, journal)
        call.start()
        try:
            if args.record:
                call.set_recording(args.record)
            if args.record_overs:
                call.record_overs(args.record_overs)
            watch = partial(
                follow,
                call,
                journal.warning,
                status=status,
                statistics=statistics,
                seconds=args.seconds,
                most_bytes=args.size_limit * _MIB,
            )
            if args.say is not None:
                say(call, args.say, journal.warning)
            returned = _stay(call, args, watch)
        finally:
            with undisturbed():  # a recording gets its name, the other side our goodbye
                call.close()
        over = call.snapshot()
    if over.state in (CallState.REFUSED, CallState.FAILED):
        raise SottoError(over.reason)
    return returned


def _check_files(args: argparse.Namespace) -> None:
    """Raise UsageError or BadInput where a file of ours would be written over."""
    read = [args.send_file, args.key, args.model]
    if args.peer_key and os.path.isfile(args.peer_key):
        read.append(args.peer_key)
    check_outputs(read, [args.record, args.stats_json, args.log], force=True)
    check_lines(read, [args.stats_json, args.log])


def _on_ring(command: str | None, journal: Journal) -> Callable[[Rings], None] | None:
    """Runs a command of the user's when somebody rings; nobody waits for it.

    While some that it was run for before go on, those who ring run no more: strangers may ring all
    day. Whatever goes wrong is the command's affair, and not the call's.
    """
    if not command:
        return None
    running: list[subprocess.Popen[bytes]] = []

    def run(ringing: Rings) -> None:
        running[:] = [each for each in running if each.poll() is None]
        if len(running) >= _MOST_COMMANDS:
            text = f"--on-ring is not run: {len(running)} commands that it has begun go on"
            journal.caused("on-ring", "warning", text)
            return
        # What the caller calls itself reaches the shell as the value of a variable, never as text.
        # In UTF-8, which holds any name, whatever the locale's encoding.
        said = {"SOTTO_CALLER": ringing.name, "SOTTO_KEY": ringing.fingerprint}
        encoded = {name: value.encode("utf-8", "replace") for name, value in said.items()}
        variables = {name: os.fsdecode(value) for name, value in encoded.items()}
        try:
            begun = subprocess.Popen(
                command,
                shell=True,
                env={**os.environ, **variables},
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                stderr=subprocess.DEVNULL,
                start_new_session=True,
            )
        except (OSError, ValueError, subprocess.SubprocessError) as error:
            why = reason(error) if isinstance(error, OSError) else str(error)
            journal.caused("on-ring", "warning", f"cannot run --on-ring: {why}")
        else:
            running.append(begun)

    return run


def remembering(journal: Journal, *, outgoing: bool) -> Callable[[Joined], None]:
    """Puts who joins among the recent calls, where a key says who that is.

    Each at most once in a while: who keeps coming back does not keep the disk busy.
    """
    from stream.link.recent import RecentCall, RecentCalls

    latest: dict[str, float] = {}

    def write(call: RecentCall) -> None:
        try:
            RecentCalls().add(call)
        except SottoError as error:
            journal.warning(f"recent calls: {error}")

    def joined(event: Joined) -> None:
        now = time.monotonic()
        # Without a code it is somebody whom another party of a room vouches for.
        if not event.code or now - latest.get(event.fingerprint, -math.inf) < _REMEMBERED:
            return
        latest[event.fingerprint] = now
        call = RecentCall(int(time.time()), outgoing, event.fingerprint, event.name)
        # A disk may keep us waiting, and sound does not wait.
        threading.Thread(target=write, args=(call,), name="sotto-recent").start()

    return joined


def _stay(call: Call, args: argparse.Namespace, watch: Callable[[], None]) -> int:
    """Show the call until it is over; the exit status."""
    if args.headless:
        watch()
        return 0
    from tui.app.app import CallApp
    from tui.terminal import signs

    unwatched = args.stats_json is None and args.seconds is None
    with contextlib.nullcontext() if unwatched else following(call, watch), signs.on_screen():
        app = CallApp(call, plain=args.plain, linger=args.seconds is None)
        app.run()
    return app.return_code or 0


def no_screen() -> str:
    """Why there can be no full screen here, "" if there can.

    It is drawn on standard error, and its keys come by standard input.
    """
    if not all(stream is not None and stream.isatty() for stream in (sys.stdin, sys.stderr)):
        return "there is no terminal to show the call on"
    if os.environ.get("TERM", "") in _PLAIN_TERMINALS:
        return "this terminal cannot show a full screen (TERM)"
    return ""


@contextlib.contextmanager
def following(call: Call, watch: Callable[[], None]) -> Iterator[None]:
    """Watch the call in a thread of its own while the screen has the main one."""

    def work() -> None:
        watch()
        call.hang_up()

    thread = threading.Thread(target=work, name="sotto-statistics", daemon=True)
    thread.start()
    try:
        yield
    finally:
        call.hang_up()
        thread.join(2.0)


def load_codec(args: argparse.Namespace) -> SpeechCodec:
    """The codec of the options, with as many threads as a call gives it."""
    import torch
    from threadpoolctl import threadpool_limits

    from codec.speech.codec import SpeechCodec

    threads = at_most_processors(args.threads or max((os.cpu_count() or 1) // 2, 1))
    torch.set_num_threads(threads)
    # Small products gain nothing from more threads, and waiting for cores that the search keeps
    # busy costs tens of milliseconds.
    threadpool_limits(1, user_api="blas")
    return SpeechCodec.load(args.preset, args.device, args.model)


def _load(args: argparse.Namespace) -> tuple[SpeechCodec, dict[int, float]]:
    """The codec, ready to go, and how fast this machine is: see `warm_up`."""
    from codec.speech.engine import check_steps
    from stream.call.call import warm_up
    from tui.terminal.progress import Progress

    with Progress("loading the networks", None):
        codec = load_codec(args)
        check_steps(codec, args.delay // STEP_MS)
        check_fits(args.packet_limit, args.delay // STEP_MS)
        measured = warm_up(codec, args.delay)
    # What is loaded by now stays. To look through all of it for garbage would take a fifth of a
    # second of the call, in which no thread runs.
    gc.collect()
    gc.freeze()
    return codec, measured


@contextlib.contextmanager
def _status_line(args: argparse.Namespace) -> Iterator[StatusLine | None]:
    """Where people see how things are: nowhere with a screen, or with a log elsewhere."""
    from tui.terminal.status_line import StatusLine

    if not args.headless or args.log is not None or sys.stderr is None:
        yield None
        return
    with contextlib.closing(StatusLine(sys.stderr)) as status:
        yield status


@contextlib.contextmanager
def _log_file(args: argparse.Namespace, status: StatusLine | None) -> Iterator[TextIO | None]:
    """Where the log goes: --log, else standard error when there is no screen."""
    if args.log is None:
        yield status.log if status is not None else None
        return
    with os_errors("write", args.log):
        file = open(args.log, "a", encoding="utf-8")  # noqa: SIM115
    with file:
        yield file
