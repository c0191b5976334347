"""How the class's probability is spread over inputs, as an option says it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING

from edgers_engines.errors import EdgersError, InputError

if TYPE_CHECKING:
    from edgers.smoothing.scaling import Distribution

_MAX_LIST_BYTES = 1 << 20


def distribution_of(text: str) -> Distribution:
    """The distribution that an option names: uniform:LOW:HIGH, beta:A:B, or a file of probabilities.

    Raises:
        InputError: it names none, or its numbers are out of range.
        EdgersError: the file cannot be read, or is no list of probabilities.
    """
    from edgers.smoothing.scaling import Beta, Uniform

    kind, *numbers = text.split(":")
    if kind not in {"uniform", "beta"}:
        return _listed(Path(text))
    try:
        first, second = map(float, numbers)
    except ValueError:
        raise InputError(f"the distribution is {text!r}; use uniform:LOW:HIGH or beta:A:B") from None
    try:
        return Uniform(first, second) if kind == "uniform" else Beta(first, second)
    except ValueError as error:
        raise InputError(str(error)) from None


def _listed(path: Path) -> Distribution:
    """The probabilities of a file: one a line, or a JSON list."""
    from edgers.smoothing.scaling import Listed
    from edgers_engines.files import read_regular

    try:
        text = read_regular(path, _MAX_LIST_BYTES).decode()
    except FileNotFoundError:
        raise InputError(
            f"there is no file {str(path)!r}; a distribution is uniform:LOW:HIGH, beta:A:B, or a file"
        ) from None
    except OSError as error:
        raise EdgersError(f"cannot read the probabilities {str(path)!r}: {error.strerror}") from None
    except UnicodeError:
        raise EdgersError(f"{path} is not a list of probabilities: it is not UTF-8 text") from None
    try:
        return Listed(tuple(_numbers(text)))
    except (ValueError, ArithmeticError, RecursionError) as error:
        raise EdgersError(f"{path} is not a list of probabilities: {error}") from None


def _numbers(text: str) -> list[float]:
    if not text.lstrip().startswith("["):
        return [float(line) for line in text.split()]
    items = json.loads(text)
    for item in items:
        if isinstance(item, bool) or not isinstance(item, int | float):
            raise ValueError(f"the entry {item!r} is not a number")  # noqa: TRY004  of a file, not an argument
    return [float(item) for item in items]
