"""Arguments of the public calls, made into what a certificate can hold."""

from __future__ import annotations

import re
from numbers import Integral, Real

from edgers_engines.errors import InputError


def real(name: str, value: float) -> float:
    """A float: no truth value, no text, also where numpy made it.

    Raises:
        InputError: it is none.
    """
    if isinstance(value, bool) or not isinstance(value, Real):
        raise InputError(f"{name} is {value!r}; it must be a number")
    try:
        return float(value)
    except OverflowError:
        raise InputError(f"{name} is larger than a float can be; it must be a smaller number") from None


def whole(name: str, value: int) -> int:
    """The same for an integer."""
    if isinstance(value, bool) or not isinstance(value, Integral):
        raise InputError(f"{name} is {value!r}; it must be a whole number")
    return int(value)


def check_seed(seed: str) -> str:
    """Return a seed in lower case when it is 128 bits.

    Raises:
        InputError: it is not 32 hexadecimal digits.
    """
    if not isinstance(seed, str) or not re.fullmatch(r"[0-9a-fA-F]{32}", seed):
        raise InputError(f"the seed {seed!r} is not 32 hexadecimal digits (128 bits)")
    return seed.lower()
