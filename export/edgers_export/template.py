"""How a checkpoint turns a prompt into token ids: its chat template and tokenizer, in a device's pieces.

Both are the checkpoint's own. That the pieces give the ids of the whole is tried out, not assumed by family.
"""

from __future__ import annotations

import json
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


def read_tokenizer(processor: Any) -> Tokenizer:  # noqa: ANN401  transformers is untyped
    """The checkpoint's tokenizer, for text that stands behind the image.

    SentencePiece-like tokenizers put a blank before the first word of a text. Where the tokenizer does so at
    the very beginning only, text behind the image must get none.
    """
    tree = json.loads(processor.tokenizer.backend_tokenizer.to_str())
    splitter = tree["pre_tokenizer"] or {}
    for part in [splitter, *splitter.get("pretokenizers", [])]:
        if part.get("prepend_scheme") == "first":
            part["prepend_scheme"] = "never"
    tokenizer = Tokenizer.from_str(json.dumps(tree))
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
        ExportError: the template has no place for one image before one prompt, or the pieces do not give the
            token ids that the checkpoint's own tokenizer gives for the whole.
    """
    own = processor.tokenizer
    before, image, rest = _render(processor, _MARK).partition(processor.image_token)
    text_before, mark, text_after = rest.partition(_MARK)
    if not (image and mark) or processor.image_token in rest or _MARK in before:
        raise ExportError("the chat template must put one image before one prompt")
    cut = min((i for t in own.all_special_tokens if (i := text_after.find(t)) >= 0), default=None)
    text_after, special_rest = text_after[:cut], text_after[cut:] if cut is not None else ""
    after = tuple(own(special_rest, add_special_tokens=False).input_ids) if special_rest else ()
    whole = own(_render(processor, _PROBES[0])).input_ids
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
                f"{[*prefix, image_token_id, *suffix]} in pieces: this tokenizer joins text across the image"
            )
    return template


def prompt_ids(
    tokenizer: Tokenizer, template: PromptTemplate, prompt: str
) -> tuple[tuple[int, ...], tuple[int, ...]]:
    """Token ids before and after the image for one prompt."""
    run = template.text_before + prompt + template.text_after
    return template.before_image, (*tokenizer.encode(run, add_special_tokens=False).ids, *template.after)


def _render(processor: Any, prompt: str) -> str:  # noqa: ANN401  transformers is untyped
    content = [{"type": "image"}, {"type": "text", "text": prompt}]
    conversation = [{"role": "user", "content": content}]
    text: str = processor.apply_chat_template(conversation, add_generation_prompt=True, tokenize=False)
    return text
