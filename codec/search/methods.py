"""The names of the search methods; importing them loads no networks."""

from __future__ import annotations

from typing import Literal, get_args

Method = Literal["mean-field", "rdoq", "admm", "backprop", "none", "lbfgs", "sgd"]

DESCENTS: tuple[Method, ...] = ("lbfgs", "sgd")  # of latents that nothing quantises on the way
METHODS: tuple[Method, ...] = tuple(
    name for name in get_args(Method) if name not in ("none", *DESCENTS)
)
OF_ANY_LATENTS: tuple[Method, ...] = ("admm", "backprop")  # the others need whole numbers
