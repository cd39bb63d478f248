"""The names of the search methods; importing them loads no networks."""

from __future__ import annotations

from typing import Literal, get_args

Method = Literal["mean-field", "rdoq", "admm", "backprop", "none"]

METHODS: tuple[Method, ...] = tuple(name for name in get_args(Method) if name != "none")
OF_ANY_LATENTS: tuple[Method, ...] = ("admm", "backprop")  # the others need whole numbers
