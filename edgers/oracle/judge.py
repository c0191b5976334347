"""A judge: a language model reads each answer and says its class.

Its reply, without outer blanks, case, quotes and one full stop, must be a class's name and nothing else; any
other reply is OTHER. Where there is no reply the label is FAILED. Neither is ever certified, and both count
against the class that is.

A certificate speaks of a fixed labelling, and a model behind a server need not be one: asked twice it may
say two things. So a text is asked about once in a judge's life, which is one certificate, and keeps that
label, a failure too: a labelling that is drawn once. That the draw depends on the text alone, not on when or
in which order it is asked, is taken for granted, and said in the certificate's assumption.

An answer is data, but a language model cannot be made to read it so: a text that tells the judge what to say
may be obeyed. The certificate then still speaks truly of the judge's label, which is no longer worth much.
"""

from __future__ import annotations

from collections.abc import Sequence

from edgers.oracle import definition
from edgers.oracle.base import FAILED, OTHER, Complete, Failure, OracleRecord, check_classes, digest
from edgers_engines.errors import InputError
from edgers_engines.vlm import Answer

_AROUND = 8  # tokens for quotes, a full stop and the end
_QUOTES = "\"'`*“”‘’"  # what chat models put around a word  # noqa: RUF001


class Judge:
    """An oracle out of a definition and whatever completes its prompts.

    Args:
        judge: the definition.
        asks: what the replies follow from besides it, as JSON: part of the digest.
        complete: asks the model.

    Raises:
        InputError: a class's name cannot be used, or cannot be told from another's.
    """

    constraint = None
    max_new_tokens = None

    def __init__(self, judge: definition.Judge, asks: object, complete: Complete) -> None:
        check_classes(judge.classes)
        self._classes = {plain(name): name for name in judge.classes}
        if len(self._classes) < len(judge.classes) or "" in self._classes:
            raise InputError(
                f"a judge's reply is read without case, blanks, quotes and full stop, which leaves "
                f"{sorted(map(plain, judge.classes))} of its classes: give them different words"
            )
        self.record = OracleRecord(
            kind="judge",
            name=judge.name,
            classes=judge.classes,
            sha256=digest(["judge", judge.classes, judge.instructions, asks]),
        )
        self.failure: str | None = None
        self._before, _, self._after = judge.instructions.partition(definition.BLANK)
        self._complete = complete
        self._labels: dict[str, str] = {}

    def classify(self, answers: Sequence[Answer]) -> list[str]:
        """The class of each answer's text."""
        return self.classify_texts([answer.text for answer in answers])

    def classify_texts(self, texts: Sequence[str]) -> list[str]:
        """The class of each text, or OTHER; FAILED where the judge gave no reply. See the module."""
        if new := [text for text in dict.fromkeys(texts) if text not in self._labels]:
            replies = self._complete([f"{self._before}{text}{self._after}" for text in new])
            self._labels.update(zip(new, map(self._label, replies), strict=True))
        return [self._labels[text] for text in texts]

    def _label(self, reply: str | Failure) -> str:
        if isinstance(reply, Failure):
            self.failure = self.failure or reply.reason
            return FAILED
        return self._classes.get(plain(reply), OTHER)


def longest_reply(classes: Sequence[str]) -> int:
    """Tokens of a reply at most: a token is a byte or more, and eight are for what is around a class."""
    return max(len(name.encode()) for name in classes) + _AROUND


def plain(reply: str) -> str:
    """A reply, or a class's name, without what a chat model may put around it."""
    word = reply.strip().casefold()
    word = word.strip(_QUOTES).strip()
    return word.removesuffix(".").strip(_QUOTES).strip()
