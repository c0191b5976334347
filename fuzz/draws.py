"""Bytes read as a list of decisions, so that a fuzzer that only knows bytes can steer structured input."""

from __future__ import annotations

import copy
import math
from collections.abc import Sequence
from typing import Any, TypeVar

T = TypeVar("T")

NUMBERS: tuple[float, ...] = (
    *(0, 1, -1, 2, 0.5, 0.25, 0.001, 1e-9, 1e-300, 5e-324, 1 - 2**-53, 1 + 2**-52, 100, 1000, 4096, 16384),
    *(2**31 - 1, 2**31, 2**32, 2**53 + 1, 2**63 - 1, 2**63, 2**64, 10**12, 10**30, -(2**63), 1e12, 1e308),
    *(-0.0, math.nan, math.inf, -math.inf),
)
TEXTS = (
    *("", " ", "\n", "\0", "\x1b[2J", "\u202e", "\ufeff", "e\u0301", "👩\u200d🚀", "ﬁ", "ß", "\U0010ffff"),
    *("OTHER", "UNDECIDED", "FAILED", "*", "<image>", "</s>", "<s>", "<pad>", "<unk>", "left", "LEFT"),
    *("..", "/etc/passwd", "weights.bin", "a" * 300, "0" * 64, "{}", "%s", "null"),
)


class Draws:
    """A reader that never ends: behind the last byte stand zeros."""

    def __init__(self, data: bytes) -> None:
        self._data, self._place = data, 0

    def __bool__(self) -> bool:
        """Whether bytes are left."""
        return self._place < len(self._data)

    def raw(self, size: int) -> bytes:
        """The next bytes, filled up with zeros."""
        piece = self._data[self._place : self._place + size]
        self._place += size
        return piece.ljust(size, b"\0")

    def rest(self) -> bytes:
        """Everything that has not been read."""
        piece, self._place = self._data[self._place :], len(self._data)
        return piece

    def below(self, limit: int) -> int:
        """An integer from 0 to limit - 1."""
        return int.from_bytes(self.raw((limit.bit_length() + 7) // 8), "big") % limit

    def choice(self, options: Sequence[T]) -> T:
        """One of several things."""
        return options[self.below(len(options))]

    def number(self) -> float:
        """An integer or a float: one of the usual suspects, a small integer, or any float between 0 and 2."""
        kind = self.below(4)
        if kind == 0:
            return self.choice(NUMBERS)
        if kind == 1:
            return self.below(1 << 16)
        return self.below(1 << 32) / (1 << 31) if kind == 2 else self.below(10**9 + 2)

    def text(self, most: int = 24) -> str:
        """A text: one of the usual suspects, or any; lone surrogates are among what may come."""
        if self.below(3) == 0:
            return self.choice(TEXTS)
        return self.raw(self.below(most)).decode(errors="surrogateescape")

    def json(self) -> Any:
        """A small JSON value, or what JSON cannot say: NaN and infinity."""
        kind = self.below(8)
        if kind < 3:
            return self.number()
        if kind < 6:
            return self.text()
        return self.choice((None, True, False, [], {}, [0, 0], [1.5], {"a": 1}))


def edited(tree: Any, draws: Draws, most: int = 4) -> Any:
    """A JSON value with up to `most` places replaced, left out, doubled or added, as the draws say."""
    for _ in range(1 + draws.below(most)):
        _edit_one(tree, draws)
    return tree


def _edit_one(tree: Any, draws: Draws) -> None:
    places = list(_places(tree))
    if not places:
        return
    parent, key = draws.choice(places)
    action = draws.below(8)
    if action < 3:
        parent[key] = _alike(parent[key], draws)
    elif action < 5:
        parent[key] = draws.json()
    elif action == 5:
        del parent[key]
    elif isinstance(parent, list):
        parent.append(copy.deepcopy(parent[key]))
    else:
        other, name = draws.choice(places)
        parent[key] = copy.deepcopy(other[name])  # a copy: a tree must not hold itself


def _alike(value: Any, draws: Draws) -> Any:
    """Another value of the same kind, so that an edit gets past the schema."""
    if isinstance(value, bool):
        return not value
    if isinstance(value, int):
        return draws.choice((value + 1, value - 1, draws.below(200), draws.below(10**9), 0))
    if isinstance(value, float):
        return draws.choice((value * 1.001, value / 2, draws.below(1 << 32) / (1 << 32), draws.number()))
    if isinstance(value, str):
        return draws.text()
    return draws.json()


def _places(tree: Any) -> Any:
    """Parent and key of every value in a tree."""
    stack = [tree]
    while stack and len(stack) < 10_000:
        node = stack.pop()
        children = list(node.items() if isinstance(node, dict) else enumerate(node))
        for key, child in children:
            yield node, key
            if isinstance(child, (dict, list)):
                stack.append(child)
