"""A local Hugging Face directory: what it must hold, and the model and processor in it.

Nothing in it is run: weights come from safetensors only, and code that a checkpoint brings is refused.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import transformers

from edgers_export.errors import ExportError
from edgers_export.llava import check_config
from edgers_export.recipe import Recipe, recipes

_SINGLE, _INDEX = "model.safetensors", "model.safetensors.index.json"
# Of another kind, transformers would unpickle it; with a slash, it might lie anywhere.
_SHARD = re.compile(r"\w[\w.-]{0,199}\.safetensors", re.ASCII)
_MEANING = {".safetensors", ".json", ".jinja", ".txt", ".model"}
_CHUNK = 1 << 20
ATTENTION = "sdpa"
# transformers downloads and imports any other: the name of a kernel is the address of code.
_OWN_ATTENTION = (None, "eager", ATTENTION)
_ATTENTION_KEY = re.compile("_?attn_implementation(?!_autoset)")

LOCAL: dict[str, Any] = {"local_files_only": True, "trust_remote_code": False}
WEIGHTS: dict[str, Any] = {
    **LOCAL,
    "use_safetensors": True,
    "dtype": torch.float32,
    "output_loading_info": True,
}


@dataclass(frozen=True, slots=True)
class Checkpoint:
    """A loaded checkpoint: the model in float32, and the processor that prepares images and prompts."""

    folder: Path
    model: Any
    processor: Any

    @property
    def end_tokens(self) -> tuple[int, ...]:
        """Token ids that end an answer.

        Raises:
            ExportError: the checkpoint names none, or something that is no token of its vocabulary.
        """
        end = self.model.generation_config.eos_token_id
        if end is None:
            end = self.model.config.text_config.eos_token_id
        if end is None or end == []:
            raise ExportError("the checkpoint names no end-of-text token (eos_token_id)")
        tokens = tuple(end) if isinstance(end, list) else (end,)
        vocabulary = self.model.lm_head.out_features
        if not all(type(token) is int and 0 <= token < vocabulary for token in tokens):
            raise ExportError(
                f"the checkpoint's eos_token_id is {end!r}; token ids are whole numbers below {vocabulary}"
            )
        return tokens

    def release(self) -> None:
        """Give the weights' memory back now: caches of torch's exporter keep parts of a traced module."""
        for tensor in (*self.model.parameters(), *self.model.buffers()):
            tensor.data = torch.empty(0)


def weights_sha256(folder: Path) -> str:
    """SHA-256 over the files that a checkpoint's weights are read from, in the order of their names."""
    digest = hashlib.sha256()
    for shard in _shards(folder):
        for chunk in chunks(folder / shard):
            digest.update(chunk)
    return digest.hexdigest()


def digests(folder: Path) -> dict[str, str]:
    """SHA-256 of every file that says what a checkpoint does: weights, configuration, tokenizer, template."""
    found = {}
    for path in sorted(folder.iterdir()):
        if path.suffix in _MEANING:
            digest = hashlib.sha256()
            for chunk in chunks(path):
                digest.update(chunk)
            found[path.name] = digest.hexdigest()
    return found


def chunks(path: Path) -> Iterator[bytes]:
    """A file's bytes, a little at a time."""
    with path.open("rb") as handle:
        while chunk := handle.read(_CHUNK):
            yield chunk


def recipe_of(folder: Path) -> Recipe:
    """The family that a checkpoint is of, before any of its weights are read.

    Raises:
        ExportError: see `check_folder`.
    """
    check_folder(folder, tuple(recipes()), "preprocessor_config.json")
    return recipes()[_read_json(folder / "config.json", "")["model_type"]]


def load(folder: Path) -> Checkpoint:
    """Load a checkpoint in float32, shard by shard.

    Raises:
        ExportError: it is of no family that can be exported, lacks something, is pickled, quantized or an
            adapter, wants code of its own to be run, or its weights do not fit its config.
    """
    recipe = recipe_of(folder)
    with reading(folder):
        check_config(transformers.AutoConfig.from_pretrained(folder, **LOCAL), recipe)
        processor = getattr(transformers, recipe.processor).from_pretrained(folder, use_fast=None, **LOCAL)
        model, report = getattr(transformers, recipe.model).from_pretrained(
            folder, attn_implementation=ATTENTION, **WEIGHTS
        )
    check_report(folder, report)
    if lacking := [n for n in ("tokenizer", "image_processor", "image_token") if not hasattr(processor, n)]:
        raise ExportError(f"the processor of {folder}, a {type(processor).__name__}, has no {lacking[0]}")
    return Checkpoint(folder, model.eval(), processor)


@contextmanager
def reading(folder: Path) -> Iterator[None]:
    """Let transformers read a directory inside: in silence, and its failure is an ExportError of one line."""
    transformers.logging.set_verbosity_error()  # its advice is for its own callers
    transformers.logging.disable_progress_bar()
    try:
        yield
    except ExportError:
        raise
    except Exception as error:  # noqa: BLE001  it raises whatever its parts do, safetensors' own errors too
        reason = " ".join(str(error).split())[:300]
        raise ExportError(f"transformers cannot load {folder}: {reason}") from None


def check_folder(folder: Path, types: Sequence[str] = (), *needed: str) -> None:
    """Refuse a directory before transformers reads it.

    Args:
        folder: the checkpoint's.
        types: the model types that will do; any unless given.
        needed: files besides config.json, weights and tokenizer.json.

    Raises:
        ExportError: it lacks a file, is of another type, pickled, quantized or an adapter, or wants code of
            its own to be run.
    """
    config = _read_json(folder / "config.json", "it is not a Hugging Face checkpoint directory")
    if (folder / "adapter_config.json").exists():
        raise ExportError(f"{folder} is an adapter (adapter_config.json): merge it into the checkpoint first")
    _refuse_code(folder)
    if types and config.get("model_type") not in types:
        raise ExportError(
            f"{folder} is a {config.get('model_type')} checkpoint; one of type {', '.join(types)} is expected"
        )
    if any("quantization_config" in part for part in _objects(config)):
        raise ExportError(
            f"{folder} is quantized (quantization_config in config.json): export full-precision weights"
        )
    if lacking := _lacking(folder, needed):
        raise ExportError(f"{folder} has no {' and no '.join(lacking)}")
    if (folder / _SINGLE).is_file() and _shards(folder) != [_SINGLE]:
        raise ExportError(f"{folder} has {_SINGLE} and an index of other files: remove the one that is stale")


def _read_json(path: Path, otherwise: str) -> dict[str, Any]:
    tree = _read_tree(path, otherwise)
    if not isinstance(tree, dict):
        raise ExportError(f"{path} is not a JSON object")
    return tree


def _read_tree(path: Path, otherwise: str) -> Any:  # noqa: ANN401  any JSON
    if not path.exists():
        raise ExportError(f"{path.parent} has no {path.name}: {otherwise}")
    if not path.is_file():
        raise ExportError(f"{path} is not a file; a JSON file is expected")
    try:
        return json.loads(path.read_bytes())
    except (ValueError, RecursionError) as error:
        raise ExportError(f"{path} is not JSON: {error}") from None


def _objects(tree: object) -> Iterator[dict[str, Any]]:
    """All objects in a JSON tree."""
    waiting: list[Any] = [tree]
    while waiting:
        part = waiting.pop()
        if isinstance(part, dict):
            yield part
            waiting += part.values()
        elif isinstance(part, list):
            waiting += part


def _refuse_code(folder: Path) -> None:
    for path in sorted(folder.glob("*config*.json")):
        for part in _objects(_read_tree(path, "it was there a moment ago")):
            if "auto_map" in part:
                raise ExportError(f"{path} wants code of the checkpoint to be run (auto_map): refused")
            for key, value in part.items():
                if _ATTENTION_KEY.match(key) and value not in _OWN_ATTENTION:
                    raise ExportError(
                        f"{path} wants other code to be run ({key} is {value!r}, not eager or sdpa): refused"
                    )


def _shards(folder: Path) -> list[str]:
    """Names of the files that hold the weights: those of the index, or the only one."""
    if not (folder / _INDEX).exists():
        return [_SINGLE]
    shards = _read_json(folder / _INDEX, "").get("weight_map")
    if not isinstance(shards, dict) or not shards:
        raise ExportError(
            f"the weight_map of {folder / _INDEX} is {shards!r:.60}, not an object of file names"
        )
    for name, shard in shards.items():
        if not isinstance(shard, str) or not _SHARD.fullmatch(shard) or ".." in shard:
            raise ExportError(
                f"the weight_map of {folder / _INDEX} has {shard!r:.60} for {name!r:.60}, not the name of a "
                "safetensors file beside it"
            )
    return sorted(set(shards.values()))


def _lacking(folder: Path, needed: Sequence[str]) -> list[str]:
    lacking = [name for name in _shards(folder) if not (folder / name).is_file()]
    if lacking == [_SINGLE]:
        lacking = [f"{_SINGLE} (pickled weights are not read)"]
    if not (folder / "tokenizer.json").is_file():
        lacking.append("tokenizer.json (a fast tokenizer)")
    return lacking + [name for name in needed if not (folder / name).is_file()]


def check_report(folder: Path, report: dict[str, Any]) -> None:
    """What is missing was filled with random numbers: transformers says so only here.

    Raises:
        ExportError: weights are missing, of another shape, or left over.
    """
    for problem, text in (
        ("missing_keys", "lack"),
        ("mismatched_keys", "have another shape for"),
        ("unexpected_keys", "have besides the model's"),
    ):
        if names := sorted(map(str, report[problem])):
            raise ExportError(f"the weights of {folder} {text} {', '.join(names[:3])} ({len(names)} in all)")
