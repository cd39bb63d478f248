"""Workers that are actors of a Ray cluster, or of a Ray of our own on this machine.

Ray pickles what it carries between machines, so whoever can reach its ports can run programs: they
must be private. A Ray of our own admits only who knows a password that is made for it.
"""

from __future__ import annotations

import contextlib
import importlib
import logging
import os
import secrets
import shutil
import signal
import socket
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

from codec.errors import SottoError
from codec.files.paths import reason
from models.workers.pool import Died
from models.workers.worker import Failed, Make, Worker, in_a_line
from tui.corpora.options import LOCAL
from tui.terminal.exit_status import extra
from tui.terminal.signals import ENDING

_STORE_BYTES = 128 << 20  # of results on their way; more goes to the disk
_WAIT_SECONDS = 1.0
_PATIENCE_SECONDS = 60.0  # until somebody is told that there is no room in the cluster
_STILLBORN = 3
_REACH_SECONDS = 10.0
_CLEARINGS, _CLEARING_SECONDS = 20, 0.25
_OWN = {
    "RAY_USAGE_STATS_ENABLED": "0",
    "RAY_AUTH_MODE": "token",
    "RAY_enable_metrics_collection": "0",
}
# Ray keeps the one that it has read first, for as long as this program runs.
_PASSWORD = {"RAY_AUTH_TOKEN": secrets.token_hex(32)}


@contextlib.contextmanager
def ray_at(address: str, cpus: int) -> Iterator[Any]:
    """The module `ray`, connected to a cluster, or to a Ray of our own with so many processors.

    Nothing of Ray's is written to the terminal. Raises BadInput without the package, and
    SottoError if the cluster cannot be reached.
    """
    with _environment(_OWN | _PASSWORD if address == LOCAL else {}):
        with extra("cluster"):
            ray = importlib.import_module("ray")
        quiet: dict[str, Any] = {"log_to_driver": False, "logging_level": logging.CRITICAL}
        # What log_to_driver leaves: a line for every worker that dies.
        inside: Any = importlib.import_module("ray._private.worker")
        inside._worker_logs_enabled = False
        # Ray puts sockets there, whose paths must be short.
        folder = tempfile.mkdtemp(prefix="ray-", dir="/tmp" if os.path.isdir("/tmp") else None)
        try:
            _try_to_reach(address)
            with _signals_kept():
                if address == LOCAL:
                    ray.init(
                        address=LOCAL, num_cpus=cpus, include_dashboard=False,
                        object_store_memory=_STORE_BYTES, _temp_dir=folder, **quiet,
                    )  # fmt: skip
                else:
                    ray.init(address=address, **quiet)
        except (Exception, SystemExit) as error:  # the latter is Ray's, after minutes
            with contextlib.suppress(Exception):
                ray.shutdown()
            _clear_away(folder)
            what = "start Ray" if address == LOCAL else f"reach Ray at {address}"
            raise SottoError(f"cannot {what}: {_first_line(error)}") from error
        try:
            yield ray
        finally:
            ray.shutdown()
            _clear_away(folder)


def _clear_away(folder: str) -> None:
    """Remove Ray's folder, in which its processes may still be writing as they end."""
    for _ in range(_CLEARINGS):
        shutil.rmtree(folder, ignore_errors=True)
        if not os.path.lexists(folder):
            return
        time.sleep(_CLEARING_SECONDS)


def _try_to_reach(address: str) -> None:
    """Raise OSError at once where nobody listens: Ray would try for minutes, and say so."""
    host, colon, port = address.rpartition(":")
    if colon:
        with socket.create_connection((host.strip("[]"), int(port)), _REACH_SECONDS):
            pass


@dataclass
class _Actor:
    """An actor; pending: what it does, at first `here`, then `begin`; task: its number."""

    handle: Any
    gpu: bool
    pending: Any
    here: bool = False
    ready: bool = False
    task: int | None = None


class Cluster:
    """A `Pool` of actors with `threads` processors each, and perhaps a GPU.

    ray: connected; device: auto, cpu or cuda: auto takes a worker for each GPU, and one for each
    processor (or `threads` of them) that is left; most: workers at most; note: gets a line where
    the cluster has no room for any.
    """

    def __init__(
        self,
        ray: Any,
        make: Make,
        *,
        threads: int,
        device: str,
        most: int,
        note: Callable[[str], None],
    ) -> None:
        self._ray, self._note = ray, note
        self._class = ray.remote(max_restarts=0, max_task_retries=0)(Worker)
        self._make, self._threads = make, threads
        self._actors: list[_Actor] = []
        self._stillborn, self._waited, self._told = 0, 0.0, False
        with _lost():
            found = ray.cluster_resources()
        gpus = 0 if device == "cpu" else int(found.get("GPU", 0))
        cpus = 0 if device == "cuda" else int(found.get("CPU", 0)) // threads - gpus
        kinds = [True] * gpus + [False] * max(cpus, 0)
        if not kinds:
            wanted = "a GPU" if device == "cuda" else f"{threads} processors"
            raise SottoError(f"the Ray cluster has no machine with {wanted} for a worker")
        self.size = min(len(kinds), most)
        for gpu in kinds[: self.size]:
            self._start(gpu)

    def room(self) -> bool:
        return any(each.ready and each.task is None for each in self._actors)

    def give(self, number: int, task: Any) -> None:
        actor = next(each for each in self._actors if each.ready and each.task is None)
        with _lost():
            actor.task, actor.pending = number, actor.handle.do.remote(task)

    def wait(self) -> list[tuple[int, Any]]:
        busy = {each.pending: each for each in self._actors if each.pending is not None}
        with _lost():
            done, _ = self._ray.wait(list(busy), num_returns=1, timeout=_WAIT_SECONDS)
        if not done:
            self._be_patient()
        return [ended for each in done if (ended := self._end(busy[each])) is not None]

    def close(self) -> None:
        actors, self._actors = self._actors, []
        for actor in actors:
            self._kill(actor)

    def _start(self, gpu: bool) -> None:
        with _lost():
            handle = self._class.options(num_cpus=self._threads, num_gpus=int(gpu)).remote(
                self._make, self._threads, gpu
            )
            self._actors.append(_Actor(handle, gpu, handle.here.remote()))

    def _end(self, actor: _Actor) -> tuple[int, Any] | None:
        """What an actor's work came to; None if that was to become ready."""
        task, actor.task = actor.task, None
        errors = self._ray.exceptions
        try:
            result = self._ray.get(actor.pending)
        except errors.RayTaskError as error:
            result = Failed(in_a_line(error))
        except (errors.RayActorError, errors.WorkerCrashedError, errors.ObjectLostError) as error:
            self._bury(actor)
            return None if task is None else (task, Died(f"({type(error).__name__})"))
        except errors.RayError as error:
            raise SottoError(f"the Ray cluster is lost: {_first_line(error)}") from error
        actor.pending = None
        if actor.ready:
            assert task is not None
            return task, result
        if isinstance(result, Failed):
            raise SottoError(result.reason)
        if actor.here:
            actor.ready, self._stillborn = True, 0
        else:
            actor.here = True
            with _lost():
                actor.pending = actor.handle.begin.remote()
        return None

    def _bury(self, actor: _Actor) -> None:
        """Replace an actor that died. Raises SottoError if none of them becomes ready."""
        self._actors.remove(actor)
        self._kill(actor)  # one that was only out of reach must not go on
        if not actor.ready:
            self._stillborn += 1
            if self._stillborn >= _STILLBORN:
                raise SottoError("workers of the Ray cluster die before they begin")
        self._start(actor.gpu)

    def _kill(self, actor: _Actor) -> None:
        with contextlib.suppress(Exception):
            self._ray.kill(actor.handle)

    def _be_patient(self) -> None:
        if any(each.here for each in self._actors):
            self._waited = 0.0
            return
        self._waited += _WAIT_SECONDS
        if self._waited >= _PATIENCE_SECONDS and not self._told:
            self._told = True
            self._note("the Ray cluster has had no room for a worker yet; waiting for it")


@contextlib.contextmanager
def _lost() -> Iterator[None]:
    """Turn whatever Ray raises when it cannot be reached any more into SottoError."""
    try:
        yield
    except SottoError:
        raise
    except Exception as error:
        raise SottoError(f"the Ray cluster is lost: {_first_line(error)}") from error


@contextlib.contextmanager
def _signals_kept() -> Iterator[None]:
    """Who handled signals before the block handles them afterwards: Ray would take them over."""
    before = {each: signal.getsignal(each) for each in (*ENDING, signal.SIGINT)}
    try:
        yield
    finally:
        if threading.current_thread() is threading.main_thread():
            for number, handler in before.items():
                if handler is not None:  # one that is not Python's could not be put back
                    signal.signal(number, handler)


@contextlib.contextmanager
def _environment(values: dict[str, str]) -> Iterator[None]:
    """These variables within the block, for this program and those that it starts."""
    before = {name: os.environ.get(name) for name in values}
    os.environ.update(values)
    try:
        yield
    finally:
        for name, value in before.items():
            if value is None:
                os.environ.pop(name, None)
            else:
                os.environ[name] = value


def _first_line(error: BaseException) -> str:
    if isinstance(error, OSError) and error.strerror:
        return reason(error)
    lines = str(error).strip().splitlines() or [type(error).__name__]
    return lines[0].strip()
