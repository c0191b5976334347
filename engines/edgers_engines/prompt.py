"""Prompts to token ids. User text is data: a special token written inside it is encoded as plain text."""

from __future__ import annotations

from collections.abc import Sequence

from edgers_engines.bundle import Bundle
from edgers_engines.errors import BundleError, InputError
from edgers_engines.tokenizer import closing_tokens, keeps_beginnings, read_tokenizer

MAX_PROMPT_CHARACTERS = 20_000


class PromptEncoder:
    """A bundle's tokenizer and prompt template.

    Raises:
        BundleError: the tokenizer cannot be read, or knows ids beyond the vocabulary.
    """

    def __init__(self, bundle: Bundle) -> None:
        manifest = bundle.manifest
        try:
            content = bundle.read(manifest.tokenizer)
            self._tokenizer = read_tokenizer(content, manifest.dimensions.vocabulary)
        except ValueError as error:
            raise BundleError(f"{bundle.path / manifest.tokenizer} {error}") from None
        self._template = manifest.prompt
        self._closing = closing_tokens(self._tokenizer)
        self._keeps_beginnings = keeps_beginnings(self._tokenizer)

    @property
    def prefix(self) -> tuple[int, ...]:
        """Token ids before the image: the same for every prompt."""
        return self._template.before_image

    def suffix(self, prompt: str) -> tuple[int, ...]:
        """Token ids after the image for one prompt.

        Raises:
            InputError: the prompt is empty, too long, or not valid Unicode.
        """
        return (*self._encode(self._run(prompt)), *self._template.after)

    def answer(self, prompt: str, text: str) -> tuple[int, ...]:
        """Token ids of `text` as the model would write it right after `prompt`.

        Raises:
            InputError: the text is empty or cannot be told from the prompt's last token.
        """
        prefixed = self._template.answer_prefix + check_text("a choice", text)
        if self._template.after:
            return self._encode(prefixed)
        before = self._encode(self._run(prompt))
        whole = self._encode(self._run(prompt) + prefixed)
        if whole[: len(before)] != before or len(whole) == len(before):
            raise InputError(f"the choice {text!r} melts into the prompt's last token; word it differently")
        return whole[len(before) :]

    def decode(self, tokens: Sequence[int]) -> str:
        """The text of generated token ids, without special tokens or outer blanks.

        Raises:
            BundleError: the tokenizer fails on them.
        """
        try:
            text: str = self._tokenizer.decode(list(tokens), skip_special_tokens=True)
        except (KeyboardInterrupt, SystemExit):
            raise
        except BaseException as error:  # noqa: BLE001  as in `_encode`
            raise BundleError(f"the bundle's tokenizer fails on an answer: {error}") from None
        return text.strip()

    def beginning(self, tokens: Sequence[int]) -> str:
        """What `decode` makes of all answers that begin with these tokens begins so, but for its last word.

        The last character may be a replacement character, where bytes of it are missing. Where the tokenizer
        promises nothing, it is empty.
        """
        if not self._keeps_beginnings:
            return ""
        end = len(tokens)
        while end and tokens[end - 1] not in self._closing:
            end -= 1
        return self.decode(tokens[:end])

    def _run(self, prompt: str) -> str:
        return self._template.text_before + check_text("the prompt", prompt) + self._template.text_after

    def _encode(self, text: str) -> tuple[int, ...]:
        try:
            return tuple(self._tokenizer.encode(text, add_special_tokens=False).ids)
        except (KeyboardInterrupt, SystemExit):
            raise
        except BaseException as error:  # noqa: BLE001  the Rust side raises Exception, and panics as BaseException
            raise BundleError(f"the bundle's tokenizer fails on this text: {error}") from None


def check_text(what: str, text: str) -> str:
    """Return the text when a tokenizer can encode it.

    Raises:
        InputError: it is no text, blank, longer than 20,000 characters, or holds lone surrogates.
    """
    if not isinstance(text, str):
        raise InputError(f"{what} is a text; this is of type {type(text).__name__}")
    if not text.strip():
        raise InputError(f"{what} is empty")
    if len(text) > MAX_PROMPT_CHARACTERS:
        raise InputError(f"{what} has {len(text)} characters; at most {MAX_PROMPT_CHARACTERS} are accepted")
    try:
        text.encode()
    except UnicodeEncodeError as error:
        raise InputError(f"{what} is not valid Unicode at character {error.start}") from None
    return text
