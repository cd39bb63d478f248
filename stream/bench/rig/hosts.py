"""Two hosts on one machine: network namespaces joined by a virtual cable.

The namespaces share the file system, so a PulseAudio socket works from both. Needs root and
iproute2; `unavailable()` says whether this machine can. Delay and loss are not the cable's: put a
relay between the two ends.
"""

from __future__ import annotations

import contextlib
import functools
import json
import os
import secrets
import shutil
import subprocess
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from stream.bench.rig import RigError, command, end

Host = Literal["a", "b"]
_ETHERNET = 14  # bytes that the counters of an interface have beyond an IP packet


@dataclass(frozen=True)
class Traffic:
    """What went over the cable: bytes of IP packets, their headers included, and packets."""

    bytes: int
    packets: int


class TwoHosts:
    """Hosts "a" and "b" with a cable between them; a context manager.

    addresses: IPv4 address of each. Names are drawn at random, so several may exist at once.
    Raises RigError on entering if the machine does not allow it.
    """

    addresses: Mapping[Host, str] = {"a": "10.213.7.1", "b": "10.213.7.2"}

    def __init__(self) -> None:
        tag = secrets.token_hex(4)
        self.namespaces: Mapping[Host, str] = {h: f"sotto-{tag}-{h}" for h in self.addresses}
        # Interface names have at most 15 characters.
        self._cables: Mapping[Host, str] = {h: f"st{tag}{h}" for h in self.addresses}
        self._processes: list[subprocess.Popen[bytes]] = []

    def __enter__(self) -> TwoHosts:
        try:
            for name in self.namespaces.values():
                command(["ip", "netns", "add", name])
            near, far = self._cables.values()
            first, second = self.namespaces.values()
            ends = f"{near} netns {first} type veth peer name {far} netns {second}"
            command(["ip", "link", "add", *ends.split()])
            for host, address in self.addresses.items():
                self._ip(host, "addr", "add", f"{address}/24", "dev", self._cables[host])
                self._ip(host, "link", "set", "lo", "up")
                self._ip(host, "link", "set", self._cables[host], "up")
        except BaseException:
            self.__exit__()
            raise
        return self

    def __exit__(self, *about: object) -> None:
        for process in self._processes:
            end(process)
        for name in self.namespaces.values():
            # The cable goes with its namespace.
            with contextlib.suppress(RigError):
                command(["ip", "netns", "del", name])

    def run(
        self, host: Host, argv: Sequence[str], env: Mapping[str, str] | None = None, **files: Any
    ) -> subprocess.Popen[bytes]:
        """Start a program on a host; env is added to this process's. Ended with the hosts.

        files: stdout and stderr, as of Popen.
        """
        process: subprocess.Popen[bytes] = subprocess.Popen(
            ["ip", "netns", "exec", self.namespaces[host], *argv],
            env={**os.environ, **(env or {})},
            **{"stdin": subprocess.DEVNULL, **files},
        )
        self._processes.append(process)
        return process

    def link_down(self, host: Host = "a") -> None:
        """Pull the cable at a host: packets vanish, no connection is told."""
        self._ip(host, "link", "set", self._cables[host], "down")

    def link_up(self, host: Host = "a") -> None:
        """Plug the cable in again."""
        self._ip(host, "link", "set", self._cables[host], "up")

    def sent(self, host: Host) -> Traffic:
        """All that a host has put on the cable so far."""
        arguments = ["-j", "-s", "link", "show", "dev", self._cables[host]]
        shown = json.loads(command(["ip", "-n", self.namespaces[host], *arguments]))
        counters = shown[0]["stats64"]["tx"]
        packets = int(counters["packets"])
        return Traffic(int(counters["bytes"]) - _ETHERNET * packets, packets)

    def _ip(self, host: Host, *arguments: str) -> None:
        command(["ip", "-n", self.namespaces[host], *arguments])


@functools.cache
def unavailable() -> str | None:
    """Why there can be no TwoHosts on this machine; None if there can."""
    if shutil.which("ip") is None:
        return "iproute2 is not installed"
    try:
        with TwoHosts() as hosts:
            process = hosts.run("a", ["true"], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
            if process.wait(10):
                return "programs cannot be started in a network namespace"
    except (RigError, OSError, subprocess.TimeoutExpired) as error:
        return f"network namespaces: {error}"
    return None
