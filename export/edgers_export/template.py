"""How a checkpoint turns a prompt into token ids: its chat template and tokenizer, in a device's pieces.

Both are the checkpoint's own. That the pieces give the ids of the whole is tried out, not assumed by family.
"""

from __future__ import annotations

import json
from collections.abc import Iterable
from typing import Any

from tokenizers import Tokenizer

from edgers_engines.manifest import PromptTemplate
from edgers_export.errors import ExportError

_PROBES = (
    "What should the robot do?",
    "Is  the image harmful?\nAnswer yes or no.",
    "Où est la porte ? 扉はどこ 🙂",
    "left",
    "3.14 apples, please",
)
_MARK = "EDGERSPROMPT"
_MOST_CHARACTERS = 100_000  # around a prompt; no decoder here sees so many tokens


def read_tokenizer(processor: Any) -> Tokenizer:  # noqa: ANN401  transformers is untyped
    """The checkpoint's tokenizer, for text that stands behind the image, as a device uses it."""
    return plain_tokenizer(processor.tokenizer, first=False)


def plain_tokenizer(own: Any, *, first: bool) -> Tokenizer:  # noqa: ANN401  transformers is untyped
    """A checkpoint's tokenizer, to which every text is plain text.

    A device encodes special tokens inside a text as plain text, and no others: every token that was added to
    the vocabulary is made special here, or typing it would put a control token into the prompt.

    SentencePiece-like tokenizers put a blank before the first word of a text. Where the tokenizer does so at
    the very beginning only, text behind the image must get none.

    Args:
        own: of transformers, and a fast one.
        first: whether texts stand at the very beginning.
    """
    tree = json.loads(own.backend_tokenizer.to_str())
    splitter = tree["pre_tokenizer"] or {}
    for part in [splitter, *splitter.get("pretokenizers", [])]:
        if part.get("prepend_scheme") == "first" and not first:
            part["prepend_scheme"] = "never"
    for token in tree["added_tokens"]:
        token["special"] = True
    tokenizer = Tokenizer.from_str(json.dumps(tree))
    tokenizer.encode_special_tokens = True
    tokenizer.no_padding()
    tokenizer.no_truncation()
    return tokenizer


def read_template(processor: Any, tokenizer: Tokenizer, image_token_id: int) -> PromptTemplate:  # noqa: ANN401  transformers is untyped
    """The chat template as token ids and text around the image and the prompt.

    Args:
        processor: the checkpoint's.
        tokenizer: from `read_tokenizer`; the one that the bundle will have.
        image_token_id: the placeholder that the checkpoint replaces by image features.

    Raises:
        ExportError: the chat template fails or has no place for one image before one prompt, or the pieces do
            not give the token ids that the checkpoint's own tokenizer gives for the whole.
    """
    own = processor.tokenizer
    before, image, rest = _render(processor, _MARK).partition(processor.image_token)
    text_before, mark, text_after = rest.partition(_MARK)
    if not (image and mark) or processor.image_token in rest or _MARK in before:
        raise ExportError("the chat template must put one image before one prompt")
    controls = [*own.all_special_tokens, *own.get_added_vocab()]
    cut = min((i for t in controls if t and (i := text_after.find(t)) >= 0), default=None)
    text_after, special_rest = text_after[:cut], text_after[cut:] if cut is not None else ""
    after = tuple(own(special_rest, add_special_tokens=False).input_ids) if special_rest else ()
    whole = own(_render(processor, _PROBES[0])).input_ids
    if image_token_id not in whole:
        raise ExportError(f"the tokenizer's id of {processor.image_token!r} is not the config's image token")
    template = PromptTemplate(
        before_image=tuple(whole[: whole.index(image_token_id)]),
        text_before=text_before,
        text_after=text_after,
        after=after,
        answer_prefix="" if (special_rest or text_after)[-1:].isspace() else " ",
    )
    for probe in _PROBES:
        want = own(_render(processor, probe)).input_ids
        prefix, suffix = prompt_ids(tokenizer, template, probe)
        if [*prefix, image_token_id, *suffix] != want:
            raise ExportError(
                f"the prompt {probe!r} gives {want} through the chat template but "
                f"{[*prefix, image_token_id, *suffix]} in pieces: {_reason(controls, text_before, probe)}"
            )
    return template


def prompt_ids(
    tokenizer: Tokenizer, template: PromptTemplate, prompt: str
) -> tuple[tuple[int, ...], tuple[int, ...]]:
    """Token ids before and after the image for one prompt."""
    run = template.text_before + prompt + template.text_after
    return template.before_image, (*tokenizer.encode(run, add_special_tokens=False).ids, *template.after)


def _reason(controls: Iterable[str], text_before: str, probe: str) -> str:
    """Why the pieces give other ids than the whole."""
    if found := [token for token in controls if token and token in text_before]:
        return f"the special token {found[0]!r} stands between image and prompt, where it becomes plain text"
    if found := [token for token in controls if token and token in probe]:
        return f"the tokenizer has {found[0]!r} as an added token, which a device encodes as plain text"
    return "this tokenizer joins text across the image"


def _render(processor: Any, prompt: str) -> str:  # noqa: ANN401  transformers is untyped
    content = [{"type": "image"}, {"type": "text", "text": prompt}]
    conversation = [{"role": "user", "content": content}]
    try:
        text = processor.apply_chat_template(conversation, add_generation_prompt=True, tokenize=False)
    except Exception as error:  # noqa: BLE001  a template is a program, and raises whatever it likes
        reason = " ".join(f"{type(error).__name__}: {error}".split())[:300]
        raise ExportError(f"the checkpoint's chat_template fails: {reason}") from None
    if not isinstance(text, str) or len(text) > _MOST_CHARACTERS + len(prompt):
        found = f"{len(text)} characters" if isinstance(text, str) else f"a {type(text).__name__}"
        raise ExportError(
            f"the checkpoint's chat_template makes {found}; a text of at most {_MOST_CHARACTERS} is expected"
        )
    return text
