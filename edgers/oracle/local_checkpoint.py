"""A Hugging Face language model as a judge, on a workstation: to teach a student, or to certify slowly."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import lru_cache, partial
from pathlib import Path

from edgers.oracle.base import Complete
from edgers.oracle.definition import LocalCheckpoint
from edgers.oracle.judge import longest_reply
from edgers.workstation import workstation


def ask_checkpoint(asks: LocalCheckpoint, classes: Sequence[str], beside: Path) -> tuple[object, Complete]:
    """What a judge's labels follow from, and who completes its prompts.

    Raises:
        EdgersError: the workstation side is not installed, or the checkpoint cannot be loaded.
    """
    folder = (beside / asks.path).resolve()
    digests, complete = _loaded(folder)
    return {"checkpoint": digests}, partial(complete, max_new_tokens=longest_reply(classes))


@lru_cache(maxsize=1)  # a stream of certificates opens its judge for each
def _loaded(folder: Path) -> tuple[dict[str, str], Callable[..., list[str]]]:
    with workstation("a judge out of a checkpoint"):
        from edgers_export.checkpoint import digests
        from edgers_export.teacher import LanguageModel
    complete = LanguageModel(folder).complete  # first: it says what is wrong with a folder
    return digests(folder), complete
