"""What needs the workstation side says so where it is not installed."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from edgers_engines.errors import EdgersError


@contextmanager
def workstation(doing: str) -> Iterator[None]:
    """Around what imports edgers_export.

    Args:
        doing: what needs it, as in "exporting".

    Raises:
        EdgersError: a library is missing.
    """
    try:
        yield
    except ImportError as error:
        raise EdgersError(
            f"{doing} needs the workstation side ({error.name} is missing): install edgers[export]"
        ) from None
