"""What is known of a model family by its name; the rest is read from the checkpoint and tried out."""

from __future__ import annotations

from functools import lru_cache
from pathlib import Path

from edgers_engines.manifest import Family
from edgers_engines.records import Record, parse

_FOLDER = Path(__file__).with_name("recipes")


class Recipe(Record, frozen=True, kw_only=True):
    """One model family.

    Attributes:
        family: `model_type` in a checkpoint's config.json.
        title: what people call it.
        model: the class in transformers that loads it.
        processor: the class in transformers that loads tokenizer, image processor and chat template. A family
            whose own wants a video processor too, and torchvision for that, is read by a simpler one.
        vision_towers: `model_type` of the towers that can be exported.
        decoders: the same of the decoders.
        tiles: whether it looks at an image in tiles beside the whole, as LLaVA-NeXT does.
    """

    family: Family
    title: str
    model: str
    processor: str
    vision_towers: tuple[str, ...]
    decoders: tuple[str, ...]
    tiles: bool


@lru_cache(maxsize=1)
def recipes() -> dict[str, Recipe]:
    """All families that can be exported, by `model_type`."""
    found = [parse(file.read_bytes(), Recipe) for file in sorted(_FOLDER.glob("*.json"))]
    return {recipe.family: recipe for recipe in found}
