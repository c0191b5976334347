"""A bundle as a judge: its decoder is asked without an image, and cannot but say one of the classes."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from functools import lru_cache
from pathlib import Path
from typing import NamedTuple

from edgers.oracle.base import Complete, Failure
from edgers.oracle.choices import Choices
from edgers.oracle.definition import LocalBundle
from edgers_engines.bundle import Bundle
from edgers_engines.engine import Backend, open_backend
from edgers_engines.errors import EdgersError, InputError
from edgers_engines.text_only import TextQuestion
from edgers_engines.vlm import Answer, Status, VisionLanguageModel

ROWS = 16  # prompts answered at once, of those that are equally long


class _Asked(NamedTuple):
    """A prompt's token ids, and the choices as they are written right behind it."""

    tokens: tuple[int, ...]
    choices: Choices


class TextBundle:
    """Completes prompts with one of the classes.

    Args:
        model: what is asked.
        classes: the allowed replies.
    """

    def __init__(self, model: VisionLanguageModel, classes: Sequence[str]) -> None:
        self._model, self._classes = model, classes
        self._end_token = model.bundle.manifest.decoding.end_tokens[0]

    def complete(self, prompts: Sequence[str]) -> list[str | Failure]:
        """A class for each prompt; nothing where rounding could decide; or why it could not be asked."""
        asked = [self._encoded(prompt) for prompt in prompts]
        replies = [each if isinstance(each, Failure) else "" for each in asked]
        readable = {place: each for place, each in enumerate(asked) if isinstance(each, _Asked)}
        alike: defaultdict[object, list[int]] = defaultdict(list)
        for place, each in readable.items():
            alike[len(each.tokens), each.choices.tokens].append(place)
        for places in alike.values():
            rows = min(ROWS, self._model.max_rows)
            for start in range(0, len(places), rows):
                part = places[start : start + rows]
                found = self._replies([readable[place] for place in part])
                for place, reply in zip(part, found, strict=True):
                    replies[place] = reply
        return replies

    def _encoded(self, prompt: str) -> _Asked | Failure:
        try:
            tokens = self._model.prompts.suffix(prompt)
            return _Asked(tokens, Choices(self._classes, prompt, self._model.prompts, self._end_token))
        except EdgersError as error:
            return Failure(str(error))

    def _replies(self, asked: Sequence[_Asked]) -> list[str | Failure]:
        choices = asked[0].choices
        try:
            question = TextQuestion(
                self._model,
                [each.tokens for each in asked],
                constraint=choices,
                max_new_tokens=choices.max_new_tokens,
            )
            return [_reply(answer, choices) for answer in question.answers()]
        except EdgersError as error:
            return [Failure(str(error))] * len(asked)
        except MemoryError:  # the judge's own, which fewer samples of the model that it judges would not give
            half = len(asked) // 2
        if not half:
            return [Failure("there is no memory for the judge")]
        return self._replies(asked[:half]) + self._replies(asked[half:])


def ask_bundle(
    asks: LocalBundle, classes: Sequence[str], beside: Path, backend: Backend | None = None
) -> tuple[object, Complete]:
    """What a judge's labels follow from, and who completes its prompts.

    The bundle is loaded once for all judges that ask it on one backend.

    Raises:
        InputError: it is another bundle than the definition's digest says.
        BackendError, BundleError: it cannot be loaded.
    """
    model = _loaded((beside / asks.path).resolve(), backend)
    digest = model.bundle.digest
    if asks.digest not in {None, digest}:
        raise InputError(
            f"the judge asks the bundle {asks.digest}, but {model.bundle.path} is {digest}: correct one"
        )
    return {"bundle": digest}, TextBundle(model, classes).complete


@lru_cache(maxsize=1)
def _loaded(path: Path, backend: Backend | None) -> VisionLanguageModel:
    return VisionLanguageModel(Bundle.load(path), backend or open_backend())


def _reply(answer: Answer, choices: Choices) -> str | Failure:
    if answer.status is Status.FAILED:
        return Failure("the judge's numbers are not finite")
    # An undecided row may have got as far as a class that begins another.
    return choices.classify([answer])[0] if answer.status is Status.COMPLETE else ""
