"""Which ports listening takes, and whether they are free here."""

from __future__ import annotations

from dataclasses import dataclass

from codec.errors import SottoError
from stream.link.address import Address, look_up
from stream.link.proxy import listening_socket

LAST_PORT = 65535


@dataclass(frozen=True)
class Port:
    """A TCP port of a listener: its number, what for, and why it cannot be had ("" if it can)."""

    number: int
    purpose: str
    problem: str = ""


def listening_ports(bind: Address) -> tuple[Port, ...]:
    """The port for calls, and the one after it, by which new callers learn our key (--trust-new).

    Each is opened for a moment. Raises BadInput if the host is unknown.
    """
    found = look_up(bind)[0]
    calls = _tried(found, "calls")
    if not found.port or found.port == LAST_PORT:  # any free one; nothing comes after it
        return (calls,)
    return calls, _tried(Address(found.host, found.port + 1), "introductions")


def _tried(address: Address, purpose: str) -> Port:
    try:
        listening_socket(address).close()
    except SottoError as error:
        # For others to read: which addresses this host has is none of their business.
        reason = str(error).rpartition(": ")[2]
        return Port(address.port, purpose, reason)
    return Port(address.port, purpose)
