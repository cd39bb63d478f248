"""Addresses: which forms are accepted, and which are on this machine."""

from __future__ import annotations

import socket

import pytest

from codec.errors import BadInput
from stream.link.address import Address, is_loopback, look_up, parse_address, parse_remote


@pytest.mark.parametrize(
    ("text", "address"),
    [
        ("host", Address("host", 4747)),
        ("host:1", Address("host", 1)),
        (":5", Address("*", 5)),
        ("[::1]:5", Address("::1", 5)),
        ("::1", Address("::1", 4747)),
        ("[::1]", Address("::1", 4747)),
        ("*", Address("*", 4747)),
    ],
)
def test_addresses(text, address):
    assert parse_address(text) == address


@pytest.mark.parametrize(
    "text", ["h:", "h:x", "h:70000", "[::1", "[::1]5", "a b", "h:-1", "x" * 300]
)
def test_what_is_no_address(text):
    with pytest.raises(BadInput):
        parse_address(text)


@pytest.mark.parametrize("text", ["", " ", "*", ":4747", "*:4747", "[]", "[]:1", "host:0", "a b"])
def test_where_nobody_can_be_called(text):
    with pytest.raises(BadInput):
        parse_remote(text)


@pytest.mark.parametrize("text", ["host", "host:1", "::1", "[fe80::1%eth0]:5", "0.0.0.0"])
def test_where_somebody_may_be_called(text):
    assert parse_remote(text) == parse_address(text)


def test_the_scope_of_a_link_is_kept():
    name, number = socket.if_nameindex()[0][::-1]
    scoped = Address(f"fe80::1%{name}", 5)
    (found,) = look_up(scoped)
    assert found == Address(f"fe80::1%{number}", 5)
    assert look_up(found) == [found]
    assert look_up(Address("::1", 5)) == [Address("::1", 5)]
    assert not is_loopback(found)


def test_loopback():
    assert all(is_loopback(address) for address in look_up(Address("localhost", 1)))
    assert not is_loopback(Address("*", 1))
    with pytest.raises(BadInput, match="cannot find the host"):
        look_up(Address("nowhere.invalid", 1))
