"""Numbers with their words, so that one is one."""

from __future__ import annotations


def counted(count: int, noun: str, plural: str = "") -> str:
    """As in "1 query" and "2 queries"; the plural has an s more unless given."""
    return f"{count} {noun if count == 1 else plural or f'{noun}s'}"


def between(least: str, most: str) -> str:
    """As in "16 to 17", and "17" where both are."""
    return least if least == most else f"{least} to {most}"
