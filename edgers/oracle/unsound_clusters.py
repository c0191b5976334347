"""UNSOUND, for comparison only: clusters found among the very answers that are then counted.

So does algorithm 2 of Seferis et al. (arXiv 2509.16088), and so do implementations of semantic entropy. The
votes choose the class that they are counted for, and a cluster that grows from text to text collects what its
first text does not mean: a bound from these counts is wrong far more often than alpha. Nothing that makes or
checks a certificate may import this; a contract in pyproject.toml says so.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

from edgers.oracle.clusters import Equivalence, joined


def unsound_cluster(equivalence: Equivalence, texts: Sequence[str], *, transitive: bool) -> tuple[str, int]:
    """The largest cluster among the texts, and its size; no certificate may rest on that.

    Args:
        equivalence: when two texts mean the same.
        texts: the answers that are counted, one or more.
        transitive: what matches a member joins too, as in the paper; else only what matches the first.

    Returns:
        The text that the cluster began with, and how many of the texts are in it.
    """
    counts = Counter(joined(text) for text in texts)
    clusters = {first: _cluster(equivalence, first, list(counts), transitive=transitive) for first in counts}
    sizes = {first: sum(counts[text] for text in members) for first, members in clusters.items()}
    largest = max(sizes, key=lambda first: sizes[first])
    return largest, sizes[largest]


def _cluster(equivalence: Equivalence, first: str, texts: Sequence[str], *, transitive: bool) -> set[str]:
    members, waiting = {first}, [first]
    while waiting:
        matches = equivalence.matches(waiting.pop(), texts)
        joining = [text for text, same in zip(texts, matches, strict=True) if same and text not in members]
        members.update(joining)
        waiting += joining if transitive else []
    return members
