"""What a connection takes of the network: bytes of IP packets, headers and acknowledgements too.

On Linux the kernel counts a connection's segments itself (TCP_INFO): the figures are exact but for
options that few segments have. Elsewhere they are estimated.
"""

from __future__ import annotations

import math
import os
import socket
import struct
import sys

IP_BYTES, IP6_BYTES, TCP_BYTES, TIMESTAMP_BYTES = 20, 40, 20, 12
SEGMENT_HEADERS = IP_BYTES + TCP_BYTES + TIMESTAMP_BYTES
SEGMENT = 1448  # bytes of a full segment behind those, of 1500
CURVE_BYTES = 33  # of a MESSAGE command: name 8, nonce 8, authenticator 16, flags 1
_SHORT_FRAME, _LONG_FRAME = 2, 9  # ZMTP's flags and length
_LONGEST_SHORT = 255
_DELAYED_ACK = 0.04  # seconds a receiver waits for data that the acknowledgement can ride on

_INFO_BYTES = 208
_OPTIONS_AT, _TIMESTAMPS = 5, 1
_RECEIVED_AT, _SEGMENTS_AT, _SENT_AT = 128, 136, 200
_MAPPED = "::ffff:"


def envelope(length: int, secured: bool) -> int:
    """Bytes that a message of `length` has on a ZMTP 3.1 connection (ZeroMQ RFC 37 and 26)."""
    if secured:
        length += CURVE_BYTES
    return length + (_SHORT_FRAME if length <= _LONGEST_SHORT else _LONG_FRAME)


class Estimate:
    """IP bytes of one connection, from the messages that pass. Times in seconds of one clock.

    Each message counts as segments of its own, with IPv4 and TCP's timestamps, and each is
    acknowledged: for nothing by data that goes the other way within 40 ms, else by 52 bytes.
    """

    def __init__(self) -> None:
        self._sent = self._received = 0
        self._we_owe: float | None = None  # when what we have not acknowledged came
        self._they_owe: float | None = None  # and what they have not, when it was sent

    def sent(self, length: int, now: float, round_trip: float) -> None:
        """A message of `length` bytes with its envelope has gone out."""
        self._settle(now, round_trip)
        self._we_owe = None  # it rides on this
        self._sent += _segments(length)
        if self._they_owe is None:
            self._they_owe = now

    def received(self, length: int, now: float, round_trip: float) -> None:
        """A message has come in."""
        self._settle(now, round_trip)
        # What was sent before ours can have arrived acknowledges nothing.
        if self._they_owe is not None and now - self._they_owe >= round_trip:
            self._they_owe = None
        self._received += _segments(length)
        if self._we_owe is None:
            self._we_owe = now

    def total(self, now: float, round_trip: float) -> tuple[int, int]:
        """Bytes (sent, received) so far."""
        self._settle(now, round_trip)
        return self._sent, self._received

    def _settle(self, now: float, round_trip: float) -> None:
        """Count acknowledgements that found nothing to ride on."""
        if self._we_owe is not None and now - self._we_owe > _DELAYED_ACK:
            self._sent += SEGMENT_HEADERS
            self._we_owe = None
        if self._they_owe is not None and now - self._they_owe > round_trip + _DELAYED_ACK:
            self._received += SEGMENT_HEADERS
            self._they_owe = None


class Traffic:
    """IP bytes of one connection.

    descriptor: of its TCP socket, which belongs to libzmq, or to our proxy, and may be closed, and
    its number used for something else, at any time: so its inode is looked at before and after.
    """

    def __init__(self, secured: bool, descriptor: int | None) -> None:
        self._secured = secured
        self._descriptor = descriptor
        self._inode = _inode(descriptor)
        self._estimate = Estimate()
        self._counted: tuple[int, int] | None = None

    def sent(self, length: int, now: float, round_trip: float | None) -> None:
        """A message of `length` bytes has gone out."""
        self._estimate.sent(envelope(length, self._secured), now, round_trip or 0.0)

    def received(self, length: int, now: float, round_trip: float | None) -> None:
        """A message has come in."""
        self._estimate.received(envelope(length, self._secured), now, round_trip or 0.0)

    def total(self, now: float, round_trip: float | None) -> tuple[int, int]:
        """Bytes (sent, received), as counted by the kernel when it was asked last, if it can be."""
        if self._descriptor is not None and self._inode is not None:
            found = counted(self._descriptor)
            if found is not None and _inode(self._descriptor) == self._inode:
                self._counted = found
            else:
                self._descriptor = None  # closed, or no TCP
        return self._counted or self._estimate.total(now, round_trip or 0.0)


def counted(descriptor: int) -> tuple[int, int] | None:
    """IP bytes (sent, received) of a TCP socket since it was opened, None if nobody counts them.

    Handshake, retransmissions and bare acknowledgements included; TCP's options beyond timestamps
    are not. See `struct tcp_info` of linux/tcp.h.
    """
    if sys.platform != "linux":
        return None  # others have structures of their own
    try:
        # Told its kind (an IPv4 address fits too) it asks nothing; it must let go in any case.
        borrowed = socket.socket(socket.AF_INET6, socket.SOCK_STREAM, 0, fileno=descriptor)
    except (OSError, ValueError):
        return None
    try:
        info = borrowed.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, _INFO_BYTES)
        host = str(borrowed.getpeername()[0])
    except OSError:
        return None
    finally:
        borrowed.detach()
    if len(info) < _INFO_BYTES:
        return None  # before Linux 4.19
    (received,) = struct.unpack_from("=Q", info, _RECEIVED_AT)
    out, into = struct.unpack_from("=II", info, _SEGMENTS_AT)
    (sent,) = struct.unpack_from("=Q", info, _SENT_AT)
    four = ":" not in host or host.startswith(_MAPPED)
    headers = (IP_BYTES if four else IP6_BYTES) + TCP_BYTES
    if info[_OPTIONS_AT] & _TIMESTAMPS:
        headers += TIMESTAMP_BYTES
    return sent + headers * out, received + headers * into


def _segments(length: int) -> int:
    return length + SEGMENT_HEADERS * math.ceil(length / SEGMENT)


def _inode(descriptor: int | None) -> int | None:
    try:
        return None if descriptor is None else os.fstat(descriptor).st_ino
    except OSError:
        return None
