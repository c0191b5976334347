"""A bundle's tokenizer.json, data from elsewhere: no text may grow in it, or become a control token."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from typing import Any

from tokenizers import Tokenizer

MAX_PATTERNS = 4  # replacements by regular expression; each may at most double a text
_BYTE = re.compile(r"<0x[0-9A-F]{2}>")
_LEFT = "Strip from the left"
_BLANK = "Replace of SentencePiece's mark by a blank"
_BY_TOKEN = {"ByteLevel", "Metaspace", "WordPiece", _LEFT}
MAX_FRAME = 16  # special tokens that a tokenizer puts around a text


def read_tokenizer(content: bytes, vocabulary: int) -> Tokenizer:
    """A tokenizer that encodes special tokens in a text as plain text, whole and without padding.

    Args:
        content: tokenizer.json.
        vocabulary: all its ids are below.

    Raises:
        ValueError: it cannot be read, has ids beyond the vocabulary, lets a text grow without bound, has
            special tokens that a user's text could spell, or reads a text as other tokens each time.
    """
    try:
        tree = json.loads(content)
        _check_growth(tree.get("normalizer"))
        _check_template(tree.get("post_processor"))
        tokenizer = Tokenizer.from_buffer(content)
        tokenizer.encode_special_tokens = True
        tokenizer.no_padding()
        tokenizer.no_truncation()
        around, spelled = frame(tokenizer), _spelled(tokenizer, tree["model"].get("unk_token"))
    except (KeyboardInterrupt, SystemExit):
        raise
    except BaseException as error:  # noqa: BLE001  the Rust side raises Exception, and panics as BaseException
        raise ValueError(f"is not a tokenizer: {error}") from None
    if tree["model"].get("dropout"):
        raise ValueError("drops merges at random (dropout): a text would be other tokens each time")
    if len(around) > MAX_FRAME:
        raise ValueError(f"puts {len(around)} special tokens around a text; at most {MAX_FRAME} are allowed")
    largest = max((*tokenizer.get_vocab(with_added_tokens=True).values(), *around), default=0)
    if largest >= vocabulary:
        raise ValueError(f"has the token id {largest}; the model's are below {vocabulary}")
    for added in tokenizer.get_added_tokens_decoder().values():
        if not added.special:
            raise ValueError(f"adds the token {added.content!r} without marking it as special")
    if spelled:
        raise ValueError(f"has no plain text for {spelled[0]!r}: whoever writes it makes the special token")
    return tokenizer


def closing_tokens(tokenizer: Tokenizer) -> frozenset[int]:
    """Tokens that end a run of bytes: behind the others, bytes that follow still count with those before.

    The others are bytes themselves, in any spelling (Rust reads <0x2c> and <0x+9> too), or are not written:
    special tokens, and ids without a token.
    """
    added = tokenizer.get_added_tokens_decoder()
    return frozenset(i for token, i in tokenizer.get_vocab().items() if "<0x" not in token and i not in added)


def keeps_beginnings(tokenizer: Tokenizer) -> bool:
    """Whether the text of an answer's beginning stays as it is when more tokens follow.

    True of decoders that write every token by itself. The last character may lack bytes, and a run of byte
    tokens at the end becomes replacement characters, all of it, where it turns out to be no text.
    """
    decoder = json.loads(tokenizer.to_str())["decoder"] or {"type": "Sequence", "decoders": []}
    kinds = [_decodes(step) for step in decoder.get("decoders", [decoder])]
    fused = kinds.index("Fuse") if "Fuse" in kinds else len(kinds)
    # Only one more: a step before byte fallback could make bytes, and what follows ByteLevel sees the whole.
    others = [kind for kind in kinds[:fused] if kind != _BLANK]
    others = others[others[:1] == ["ByteFallback"] :]
    return len(others) <= 1 and set(others) <= _BY_TOKEN and set(kinds[fused + 1 :]) <= {_LEFT}


def _decodes(step: dict[str, Any]) -> str:
    if step["type"] == "Replace" and (step["pattern"], step["content"]) == ({"String": "\u2581"}, " "):
        return _BLANK
    return _LEFT if step["type"] == "Strip" and not step["stop"] else str(step["type"])


def frame(tokenizer: Tokenizer) -> tuple[int, ...]:
    """Ids of the special tokens that a tokenizer puts around every text, as in [CLS] text [SEP]."""
    empty = tokenizer.encode("")
    marks = zip(empty.ids, empty.special_tokens_mask, strict=True)
    return tuple(token for token, special in marks if special)


def _spelled(tokenizer: Tokenizer, unknown: object) -> list[str]:
    """Special tokens that a text becomes by holding their name.

    Any text may become the unknown one, and a letter without a token becomes its bytes.
    """
    found = []
    for token, added in tokenizer.get_added_tokens_decoder().items():
        if added.content == unknown or _BYTE.fullmatch(added.content):
            continue
        texts = [added.content, f"a {added.content} a", f"a{added.content}a"]
        encoded = tokenizer.encode_batch(texts, add_special_tokens=False)
        if any(token in text.ids for text in encoded):
            found.append(added.content)
    return found


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


def _check_template(post_processor: Any) -> None:  # noqa: ANN401  any JSON
    for step in _steps(post_processor):
        texts = [piece for piece in step.get("single", ()) if "Sequence" in piece]
        if step.get("type") == "TemplateProcessing" and len(texts) != 1:
            raise ValueError(f"its template has the text {len(texts)} times; once is expected")


def _steps(part: Any) -> Iterator[dict[str, Any]]:  # noqa: ANN401  any JSON
    """A normalizer or post-processor, and those that it is made of."""
    if isinstance(part, dict):
        yield part
        for step in (*part.get("normalizers", ()), *part.get("processors", ())):
            yield from _steps(step)
