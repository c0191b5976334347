"""What can go wrong, named. Every message says what was found, what was expected and what to do."""

from __future__ import annotations


class EdgersError(Exception):
    """Base of every error that edgers raises on purpose; its text is one line for a person."""

    def __str__(self) -> str:
        """The text on one line: names from outside may be long, and hold line ends and terminal escapes."""
        return short(printable(super().__str__()))


def printable(text: str) -> str:
    """The text with everything that is not printable written as an escape sequence."""
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in text)


def short(text: str) -> str:
    """At most 2,000 characters: the middle of a longer text is left out."""
    return text if len(text) <= 2000 else f"{text[:1000]} ... {text[-900:]}"


class InputError(EdgersError, ValueError):
    """A number, a text or a combination of options that cannot be used."""


class ImageError(EdgersError):
    """An image that cannot be read safely."""


class BundleError(EdgersError):
    """A bundle that is damaged, incomplete, or not what its manifest says."""


class BackendError(EdgersError):
    """A backend or device that is not there, or that failed while running."""


class NoMemoryError(BackendError):
    """A model that the device has no memory to load, or to test."""
