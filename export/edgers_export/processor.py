"""What surrounds the weights of a checkpoint: image preparation, normalisation and prompt template.

All of it is read from the checkpoint's own processor and chat template; nothing is assumed by family.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, get_args

from edgers_engines.bundle import PromptTemplate
from edgers_engines.image import Filter, Preparation
from edgers_export.errors import ExportError

_PROBES = (
    "What should the robot do?",
    "Is  the image harmful?\nAnswer yes or no.",
    "Où est la porte ? 扉はどこ 🙂",
    "left",
    "3.14 apples, please",
)
_MARK = "EDGERSPROMPT"


@dataclass(frozen=True, slots=True)
class Normalisation:
    """Per-channel mean and standard deviation, in units of [0, 1]."""

    mean: tuple[float, float, float]
    std: tuple[float, float, float]


def read_preparation(image_processor: Any) -> Preparation:  # noqa: ANN401  transformers is untyped
    """The resize and crop of a checkpoint's image processor.

    Raises:
        ExportError: a step that a linear preparation of one fixed size does not have.
    """
    p = image_processor
    if not (p.do_resize and p.do_rescale and abs(p.rescale_factor * 255 - 1) < 1e-6):
        raise ExportError("the image processor must resize, and rescale by 1/255")
    if getattr(p, "do_pad", False):
        raise ExportError("the image processor pads to a square, which this version cannot export")
    size = dict(p.size)
    crop = dict(p.crop_size) if p.do_center_crop else None
    try:
        return Preparation(
            exact=(size["height"], size["width"]) if "height" in size else None,
            shortest_edge=size.get("shortest_edge"),
            filter=_filter(p.resample),
            crop=(crop["height"], crop["width"]) if crop else None,
        )
    except ValueError as error:
        raise ExportError(f"the image processor resizes to {size} and crops to {crop}: {error}") from None


def read_normalisation(image_processor: Any) -> Normalisation:  # noqa: ANN401  transformers is untyped
    """Mean and standard deviation, or 0 and 1 where the processor does not normalise."""
    if not image_processor.do_normalize:
        return Normalisation((0.0, 0.0, 0.0), (1.0, 1.0, 1.0))
    mean, std = (tuple(float(x) for x in v) for v in (image_processor.image_mean, image_processor.image_std))
    if len(mean) != 3 or len(std) != 3:
        raise ExportError(f"the image processor normalises {len(mean)} channels; images have 3")
    return Normalisation((mean[0], mean[1], mean[2]), (std[0], std[1], std[2]))


def read_template(processor: Any, image_token_id: int) -> PromptTemplate:  # noqa: ANN401  transformers is untyped
    """The chat template as token ids and text around the image and the prompt.

    Raises:
        ExportError: the template has no place for one image before one prompt, or the pieces do not give the
            token ids that the checkpoint's own tokenizer gives for the whole.
    """
    tokenizer = processor.tokenizer
    before, image, rest = _render(processor, _MARK).partition(processor.image_token)
    text_before, mark, text_after = rest.partition(_MARK)
    if not (image and mark) or processor.image_token in rest or _MARK in before:
        raise ExportError("the chat template must put one image before one prompt")
    cut = min((i for t in tokenizer.all_special_tokens if (i := text_after.find(t)) >= 0), default=None)
    text_after, special_rest = text_after[:cut], text_after[cut:] if cut is not None else ""
    after = tuple(tokenizer(special_rest, add_special_tokens=False).input_ids) if special_rest else ()
    whole = tokenizer(_render(processor, _PROBES[0])).input_ids
    template = PromptTemplate(
        before_image=tuple(whole[: whole.index(image_token_id)]),
        text_before=text_before,
        text_after=text_after,
        after=after,
        answer_prefix="" if (special_rest or text_after)[-1:].isspace() else " ",
    )
    for probe in _PROBES:
        _check_probe(processor, template, image_token_id, probe)
    return template


def _check_probe(processor: Any, template: PromptTemplate, image_token_id: int, probe: str) -> None:  # noqa: ANN401
    """The runtime encodes the run around the prompt by itself; the whole must come out the same."""
    tokenizer = processor.tokenizer
    want = tokenizer(_render(processor, probe)).input_ids
    run = template.text_before + probe + template.text_after
    got = [
        *template.before_image,
        image_token_id,
        *tokenizer(run, add_special_tokens=False).input_ids,
        *template.after,
    ]
    if got != want:
        raise ExportError(
            f"the prompt {probe!r} gives {want} through the chat template but {got} in pieces: "
            "this tokenizer joins text across the image"
        )


def _render(processor: Any, prompt: str) -> str:  # noqa: ANN401  transformers is untyped
    content = [{"type": "image"}, {"type": "text", "text": prompt}]
    conversation = [{"role": "user", "content": content}]
    text: str = processor.apply_chat_template(conversation, add_generation_prompt=True, tokenize=False)
    return text


def _filter(resample: int) -> Filter:
    from PIL.Image import Resampling

    name = Resampling(resample).name.lower()
    for known in get_args(Filter):
        if name == known:
            return known  # type: ignore[no-any-return]  # get_args is untyped
    raise ExportError(f"the image processor resizes by {name}, which is not a linear filter")
