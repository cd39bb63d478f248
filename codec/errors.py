"""Errors a user can cause. Each carries a one-line reason."""

from __future__ import annotations

# How to give a program the model that a stream needs.
GIVE_MODEL = "name the folder of the former with --model FOLDER"


class SottoError(Exception):
    """Something sotto cannot do, with a one-line reason fit for stderr."""


class BadInput(SottoError):
    """Not usable audio, or not a usable file."""


class BadStream(SottoError):
    """A damaged packet or container."""


class WrongModel(SottoError):
    """The stream was made with another model than the one loaded."""


class WrongVersion(SottoError):
    """The stream was made by a version this one cannot read."""
