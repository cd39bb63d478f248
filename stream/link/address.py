"""Addresses, HOST[:PORT]: parsed and looked up."""

from __future__ import annotations

import ipaddress
import socket
from dataclasses import dataclass
from typing import Any

from codec.errors import BadInput
from codec.files.paths import display_name

DEFAULT_PORT = 4747
ANY = "*"


@dataclass(frozen=True)
class Address:
    """A host name or number (`*`: every interface) and a TCP port (0: any free one)."""

    host: str
    port: int

    def __str__(self) -> str:
        return f"[{self.host}]:{self.port}" if ":" in self.host else f"{self.host}:{self.port}"


def parse_address(text: str, default_port: int = DEFAULT_PORT) -> Address:
    """`HOST`, `HOST:PORT`, `[IPV6]:PORT`, `IPV6` or `:PORT` as an Address. Raises BadInput."""
    host, port = text.strip(), ""
    if host.startswith("["):
        host, closed, port = host[1:].partition("]")
        if not closed or (port and not port.startswith(":")):
            raise BadInput(f"{display_name(text)} is not an address: [HOST]:PORT is missing a part")
        has_port, port = bool(port), port[1:]
    elif host.count(":") == 1:
        host, _, port = host.partition(":")
        has_port = True
    else:
        has_port = False  # no colon, or a bare IPv6 address
    if has_port and not (port.isascii() and port.isdecimal() and int(port) <= 65535):
        raise BadInput(f"{display_name(text)}: the port is not a number from 0 to 65535")
    host = host or ANY
    if host != ANY and (len(host) > 255 or any(c.isspace() or not c.isprintable() for c in host)):
        raise BadInput(f"{display_name(text[:80])} is not a host name")
    return Address(host, int(port) if has_port else default_port)


def parse_remote(text: str) -> Address:
    """As `parse_address`, of where somebody can be called. Raises BadInput for any other."""
    address = parse_address(text)
    if address.host == ANY:
        raise BadInput(f"{display_name(text)} names no host to call")
    if not address.port:
        raise BadInput(f"{display_name(text)}: nobody can be called at port 0")
    return address


def look_up(address: Address) -> list[Address]:
    """The numeric addresses of a host, in the order to be tried. Raises BadInput if unknown."""
    if address.host == ANY:
        return [address]
    try:
        found = socket.getaddrinfo(address.host, address.port, type=socket.SOCK_STREAM)
    except (OSError, UnicodeError) as error:
        reason = getattr(error, "strerror", None) or "not a valid name"
        raise BadInput(f"cannot find the host {display_name(address.host)}: {reason}") from None
    numbers = dict.fromkeys(_number(entry[4]) for entry in found)
    return [Address(number, address.port) for number in numbers]


def _number(place: tuple[Any, ...]) -> str:
    """The numeric host of a socket's address, with the scope of one that is known on a link only.

    Python leaves the scope out of the host.
    """
    host, scope = str(place[0]), place[3] if len(place) > 3 else 0
    return f"{host}%{scope}" if scope and "%" not in host else host


def is_loopback(address: Address) -> bool:
    """Whether a numeric address can be reached from this machine alone."""
    if address.host == ANY:
        return False
    return ipaddress.ip_address(address.host.partition("%")[0]).is_loopback
