"""An oracle that is defined in a file of its own, beside any bundle."""

from __future__ import annotations

from pathlib import Path

from edgers_engines.errors import InputError
from edgers_engines.files import read_regular
from edgers_engines.manifest import Rules
from edgers_engines.records import parse

SUFFIX = ".json"  # tells such a file from the name of a bundle's oracle
MAX_BYTES = 1 << 20

Definition = Rules


def read_definition(path: Path) -> Definition:
    """The oracle that a JSON file defines.

    Raises:
        InputError: it cannot be read, or defines none.
    """
    try:
        return parse(read_regular(path, MAX_BYTES), Definition)
    except OSError as error:
        raise InputError(f"cannot read the oracle {str(path)!r}: {error.strerror}") from None
    except ValueError as error:
        raise InputError(f"{path} defines no oracle: {error}") from None


def read_rules(path: Path) -> Rules:
    """The rules that a JSON file defines.

    Raises:
        InputError: it cannot be read, or defines none.
    """
    definition = read_definition(path)
    if not isinstance(definition, Rules):
        raise InputError(f"{path} defines an oracle of another kind than rules")
    return definition
