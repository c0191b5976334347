"""What can go wrong, named. Every message says what was found, what was expected and what to do."""

from __future__ import annotations


class EdgersError(Exception):
    """Base of every error that edgers raises on purpose; its text is one line for a person."""


class InputError(EdgersError, ValueError):
    """A number, a text or a combination of options that cannot be used."""


class ImageError(EdgersError):
    """An image that cannot be read safely."""


class BundleError(EdgersError):
    """A bundle that is damaged, incomplete, or not what its manifest says."""


class BackendError(EdgersError):
    """A backend or device that is not there, or that failed while running."""
