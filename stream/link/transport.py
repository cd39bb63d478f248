"""The voice link's connection: `listen` waits for calls, `dial` makes one.

Both return an Endpoint whose I/O thread owns every socket. What it reports comes as events; what it
is told is never waited for. docs/wire.md says what goes over the wire, and why.
"""

from __future__ import annotations

import time
from collections.abc import Callable

from stream.link.address import DEFAULT_PORT, Address, parse_address
from stream.link.authentication import RefusedAddress, Security
from stream.link.caller import Caller
from stream.link.endpoint import Endpoint
from stream.link.events import (
    AudioArrived,
    Event,
    Joined,
    Left,
    Notice,
    Offer,
    PresetChanged,
    StateChanged,
)
from stream.link.listener import MAX_PARTIES, Listener

__all__ = [
    "DEFAULT_PORT",
    "MAX_PARTIES",
    "Address",
    "AudioArrived",
    "Caller",
    "Endpoint",
    "Event",
    "Joined",
    "Left",
    "Listener",
    "Notice",
    "Offer",
    "PresetChanged",
    "RefusedAddress",
    "Security",
    "StateChanged",
    "dial",
    "listen",
    "parse_address",
]

PATIENCE = 120.0
GIVE_UP = 30.0


def listen(
    bind: str,
    offer: Offer,
    security: Security,
    room: bool = False,
    max_parties: int = MAX_PARTIES,
    *,
    patience: float = PATIENCE,
    clock: Callable[[], float] = time.monotonic,
) -> Listener:
    """The end that waits for a call, or, with `room`, for up to `max_parties` - 1 callers.

    bind: HOST[:PORT], `*` for every interface, port 0 for any free one (see `Listener.port` after
    `start`); patience: seconds a lost party may take to come back before it has Left. `start`
    raises SottoError if the address cannot be bound, or must not be without keys.
    """
    return Listener(
        bind,
        offer,
        security,
        room=room,
        max_parties=max_parties,
        patience=patience,
        clock=clock,
    )


def dial(
    host: str,
    port: int,
    offer: Offer,
    security: Security,
    *,
    give_up: float = GIVE_UP,
    clock: Callable[[], float] = time.monotonic,
) -> Caller:
    """The end that calls `host`, and calls again whenever the connection is lost.

    give_up: seconds after which a first connection that does not come about has FAILED; a lost one
    is tried again until `close`. `start` raises SottoError if the host is unknown, if its key is
    and `security` does not say to trust it, or if it is beyond this machine and there are no keys.
    """
    return Caller(host, port, offer, security, give_up=give_up, clock=clock)
