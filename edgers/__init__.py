"""edgers: certified vision-language models on edge devices.

    from edgers import Bundle, Certifier

The names below are imported when they are first used: `import edgers` itself loads nothing heavy.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from edgers_engines.version import __version__

if TYPE_CHECKING:
    from edgers.certificate import Certificate
    from edgers.certify import Certifier
    from edgers.gate import Gate, Outcome
    from edgers_engines.bundle import Bundle
    from edgers_engines.errors import EdgersError

__all__ = ["Bundle", "Certificate", "Certifier", "EdgersError", "Gate", "Outcome", "__version__"]

_HOMES = {
    "Bundle": "edgers_engines.bundle",
    "Certificate": "edgers.certificate",
    "Certifier": "edgers.certify",
    "EdgersError": "edgers_engines.errors",
    "Gate": "edgers.gate",
    "Outcome": "edgers.gate",
}


def __getattr__(name: str) -> object:
    if name not in _HOMES:
        raise AttributeError(f"module 'edgers' has no attribute {name!r}")
    from importlib import import_module

    return getattr(import_module(_HOMES[name]), name)


def __dir__() -> list[str]:
    return [*globals(), *_HOMES]
