"""Several images, one command: one that fails does not keep the others from their answer."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

from edgers.cli import ABSTAINED
from edgers.cli.output import tell_failure
from edgers_engines.errors import EdgersError, InputError


def for_each(images: Sequence[Path], answered: Callable[[Path], bool], *, as_json: bool) -> int:
    """Do it for every image, and say which failed.

    Args:
        images: at least one.
        answered: does it for one image; whether there is an answer, not an abstention.
        as_json: how failures are told.

    Returns:
        The exit code: 1 if one failed, else `ABSTAINED` if one abstained, else 0.

    Raises:
        InputError: the question is wrong, so it is wrong for every image.
        EdgersError: the only image failed.
    """
    code = 0
    for image in images:
        try:
            found = answered(image)
        except InputError:
            raise
        except EdgersError as error:
            if len(images) == 1:
                raise
            tell_failure(error, image, as_json=as_json)
            code = 1
            continue
        code = code or (0 if found else ABSTAINED)
    return code
