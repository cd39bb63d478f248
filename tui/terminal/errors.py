"""Errors of the command line besides `codec.errors.SottoError`."""

from __future__ import annotations


class UsageError(Exception):
    """The command line contradicts itself: exit status 2."""
