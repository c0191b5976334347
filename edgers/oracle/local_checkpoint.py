"""A Hugging Face language model as a judge, on a workstation: to teach a student, or to certify slowly."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
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
    with workstation("a judge out of a checkpoint"):
        from edgers_export.checkpoint import digests
        from edgers_export.teacher import LanguageModel
    complete = partial(LanguageModel(folder).complete, max_new_tokens=longest_reply(classes))
    return {"checkpoint": digests(folder)}, complete
