"""A bundle's tokenizer.json, data from elsewhere: no text may grow in it, or become a control token."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

from tokenizers import Tokenizer

MAX_PATTERNS = 4  # replacements by regular expression; each may at most double a text


def read_tokenizer(content: bytes, vocabulary: int) -> Tokenizer:
    """A tokenizer that encodes special tokens in a text as plain text, whole and without padding.

    Args:
        content: tokenizer.json.
        vocabulary: all its ids are below.

    Raises:
        ValueError: it cannot be read, has ids beyond the vocabulary, lets a text grow without bound, or has
            added tokens that are not special, which a user's text could spell.
    """
    try:
        _check_growth(json.loads(content).get("normalizer"))
        tokenizer = Tokenizer.from_buffer(content)
    except (KeyboardInterrupt, SystemExit):
        raise
    except BaseException as error:  # noqa: BLE001  the Rust side raises Exception, and panics as BaseException
        raise ValueError(f"is not a tokenizer: {error}") from None
    largest = max(tokenizer.get_vocab(with_added_tokens=True).values(), default=0)
    if largest >= vocabulary:
        raise ValueError(f"has the token id {largest}; the model's are below {vocabulary}")
    for added in tokenizer.get_added_tokens_decoder().values():
        if not added.special:
            raise ValueError(f"adds the token {added.content!r} without marking it as special")
    tokenizer.encode_special_tokens = True
    tokenizer.no_padding()
    tokenizer.no_truncation()
    return tokenizer


def _check_growth(normalizer: Any) -> None:  # noqa: ANN401  any JSON
    patterns = 0
    for step in _steps(normalizer):
        if step.get("type") != "Replace":
            continue
        text, new = step["pattern"].get("String"), step["content"]
        if text is None:
            patterns += 1
        if len(new) > (1 if text is None else len(text)) or patterns > MAX_PATTERNS:
            raise ValueError(f"its normalizer makes texts longer: it replaces {step['pattern']} by {new!r}")


def _steps(normalizer: Any) -> Iterator[dict[str, Any]]:  # noqa: ANN401  any JSON
    if isinstance(normalizer, dict):
        yield normalizer
        for step in normalizer.get("normalizers", ()):
            yield from _steps(step)
