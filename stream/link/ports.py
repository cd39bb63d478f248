"""Whether the port that listening takes is free here."""

from __future__ import annotations

from dataclasses import dataclass

from codec.errors import SottoError
from stream.link.address import Address, look_up
from stream.link.proxy import listening_socket


@dataclass(frozen=True)
class Port:
    """A TCP port: its number (0: any free one), and why it cannot be had ("" if it can)."""

    number: int
    problem: str = ""


def listening_port(bind: Address) -> Port:
    """Try the port at `bind` by opening it for a moment. Raises BadInput if the host is unknown."""
    found = look_up(bind)[0]
    try:
        listening_socket(found).close()
    except SottoError as error:
        # Without the address: which ones this host has is none of a reader's business.
        return Port(found.port, str(error).rpartition(": ")[2])
    return Port(found.port)
