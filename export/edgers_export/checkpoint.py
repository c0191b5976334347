"""A local Hugging Face directory: what it must hold, and the model and processor in it.

Nothing in it is run: weights come from safetensors only, and code that a checkpoint brings is refused.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import transformers

from edgers_export.errors import ExportError
from edgers_export.llava import check_config

_INDEX = "model.safetensors.index.json"
_CHUNK = 1 << 20


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
            ExportError: the checkpoint names none.
        """
        end = self.model.generation_config.eos_token_id
        if end is None:
            end = self.model.config.text_config.eos_token_id
        if end is None:
            raise ExportError("the checkpoint names no end-of-text token (eos_token_id)")
        return tuple(end) if isinstance(end, list) else (end,)

    def release(self) -> None:
        """Give the weights' memory back now: caches of torch's exporter keep parts of a traced module."""
        for tensor in (*self.model.parameters(), *self.model.buffers()):
            tensor.data = torch.empty(0)


def weights_sha256(folder: Path) -> str:
    """SHA-256 over all safetensors files of a checkpoint, in the order of their names."""
    digest = hashlib.sha256()
    for shard in sorted(folder.glob("*.safetensors")):
        for chunk in chunks(shard):
            digest.update(chunk)
    return digest.hexdigest()


def chunks(path: Path) -> Iterator[bytes]:
    """A file's bytes, a little at a time."""
    with path.open("rb") as handle:
        while chunk := handle.read(_CHUNK):
            yield chunk


def load(folder: Path) -> Checkpoint:
    """Load a checkpoint in float32, shard by shard.

    Raises:
        ExportError: it is not a LLaVA checkpoint, lacks something, is pickled, wants code of its own to be
            run, or its weights do not fit its config.
    """
    config = _read_json(folder / "config.json", "it is not a Hugging Face checkpoint directory")
    _refuse_code(folder, config)
    if config.get("model_type") != "llava":
        raise ExportError(
            f"{folder} is a {config.get('model_type')} checkpoint; LlavaForConditionalGeneration (llava) can "
            "be exported"
        )
    if lacking := _lacking(folder):
        raise ExportError(f"{folder} has no {' and no '.join(lacking)}")
    transformers.logging.set_verbosity_error()  # its advice is for its own callers
    transformers.logging.disable_progress_bar()
    local: dict[str, Any] = {"local_files_only": True, "trust_remote_code": False}
    try:
        check_config(transformers.AutoConfig.from_pretrained(folder, **local))
        processor = transformers.AutoProcessor.from_pretrained(folder, use_fast=None, **local)
        model, report = transformers.LlavaForConditionalGeneration.from_pretrained(
            folder, use_safetensors=True, dtype=torch.float32, output_loading_info=True, **local
        )
    except ExportError:
        raise
    except Exception as error:  # noqa: BLE001  it raises whatever its parts do, safetensors' own errors too
        reason = " ".join(str(error).split())[:300]
        raise ExportError(f"transformers cannot load {folder}: {reason}") from None
    _check_report(folder, report)
    return Checkpoint(folder, model.eval(), processor)


def _read_json(path: Path, otherwise: str) -> dict[str, Any]:
    if not path.is_file():
        raise ExportError(f"{path.parent} has no {path.name}: {otherwise}")
    try:
        tree = json.loads(path.read_bytes())
    except (ValueError, RecursionError) as error:
        raise ExportError(f"{path} is not JSON: {error}") from None
    if not isinstance(tree, dict):
        raise ExportError(f"{path} is not a JSON object")
    return tree


def _refuse_code(folder: Path, config: dict[str, Any]) -> None:
    parts = {"config.json": config}
    parts |= {path.name: _read_json(path, "") for path in folder.glob("*config.json")}
    for name, part in parts.items():
        if "auto_map" in part:
            raise ExportError(f"{folder / name} wants code of the checkpoint to be run (auto_map): refused")


def _lacking(folder: Path) -> list[str]:
    lacking = []
    if (folder / _INDEX).is_file():
        shards = _read_json(folder / _INDEX, "").get("weight_map", {})
        lacking += [name for name in sorted(set(shards.values())) if not (folder / name).is_file()]
    elif not list(folder.glob("*.safetensors")):
        lacking.append("*.safetensors (pickled weights are not read)")
    if not (folder / "tokenizer.json").is_file():
        lacking.append("tokenizer.json (a fast tokenizer)")
    if not (folder / "preprocessor_config.json").is_file():
        lacking.append("preprocessor_config.json")
    return lacking


def _check_report(folder: Path, report: dict[str, Any]) -> None:
    """What is missing was filled with random numbers: transformers says so only here."""
    for problem, text in (
        ("missing_keys", "lack"),
        ("mismatched_keys", "have another shape for"),
        ("unexpected_keys", "have besides the model's"),
    ):
        if names := sorted(map(str, report[problem])):
            raise ExportError(f"the weights of {folder} {text} {', '.join(names[:3])} ({len(names)} in all)")
