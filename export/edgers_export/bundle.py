"""Checkpoint directory in, bundle directory out."""

from __future__ import annotations

import hashlib
import re
import shutil
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import torch
import transformers
from msgspec.structs import replace

from edgers_engines.bundle import (
    MANIFEST,
    SCHEMA_VERSION,
    Bundle,
    Decoding,
    File,
    Graphs,
    Manifest,
    Parity,
    Provenance,
    Rules,
)
from edgers_engines.noise import Stream, noisy_copies, to_lattice
from edgers_engines.records import dump
from edgers_engines.version import __version__
from edgers_engines.vlm import VisionLanguageModel
from edgers_export.errors import ExportError
from edgers_export.llava import Vision, dimensions, write_graphs
from edgers_export.parity import compare, reference
from edgers_export.processor import read_normalisation, read_preparation, read_template

# A token is trusted when its lead exceeds this multiple of the largest logit difference that was measured
# between two implementations: then no rounding of that size, on either of two tokens, can change the choice.
MARGIN_FACTOR = 4.0
TOKENIZER = "tokenizer.json"
_NOT_IN_A_NAME = re.compile(r"[^A-Za-z0-9._-]+")
_PARITY_ROWS, _PARITY_STEPS, _PARITY_SIGMA = 8, 16, 0.25
_PARITY_PROMPT = "What should the robot do?"

Progress = Callable[[str], None]


def export_bundle(
    checkpoint: Path,
    out: Path,
    *,
    name: str | None = None,
    licence: str = "unknown",
    oracles: tuple[Rules, ...] = (),
    max_new_tokens: int = 32,
    progress: Progress = lambda _stage: None,
) -> Bundle:
    """Export a local `LlavaForConditionalGeneration` checkpoint in float32.

    Args:
        checkpoint: Hugging Face directory with safetensors, config, tokenizer and processor.
        out: directory to make; it appears only when everything in it is complete.
        name: the bundle's name; the checkpoint folder's unless given.
        licence: the weights' licence, for the manifest.
        oracles: rule oracles to carry.
        max_new_tokens: where free answers end at the latest.
        progress: called with the name of each stage before it starts.

    Returns:
        The bundle, loaded back from `out`.

    Raises:
        ExportError: the checkpoint lacks something, or the graphs do not answer as PyTorch does.
    """
    if out.exists():
        raise ExportError(f"{out} is there already: remove it or choose another --out")
    progress("load")
    model, processor = _load(checkpoint)
    out.parent.mkdir(parents=True, exist_ok=True)
    scratch = Path(tempfile.mkdtemp(prefix=f".{out.name}-", dir=out.parent))
    try:
        normalisation = read_normalisation(processor.image_processor)
        preparation = read_preparation(processor.image_processor)
        prompt = read_template(processor, model.config.image_token_id)
        canvas_size = preparation.canvas_size
        graphs = write_graphs(
            model, scratch, canvas_size=canvas_size, normalisation=normalisation, progress=progress
        )
        processor.tokenizer.backend_tokenizer.save(str(scratch / TOKENIZER))
        manifest = Manifest(
            schema_version=SCHEMA_VERSION,
            name=name or _NOT_IN_A_NAME.sub("-", out.name).strip("-._") or "bundle",
            family="llava",
            licence=licence,
            precision="fp32",
            provenance=_provenance(checkpoint),
            preparation=preparation,
            prompt=prompt,
            decoding=Decoding(
                end_tokens=_end_tokens(model), max_new_tokens=max_new_tokens, margin_tolerance=0.0
            ),
            dimensions=dimensions(model, image_tokens=_image_tokens(graphs)),
            graphs=graphs,
            tokenizer=TOKENIZER,
            oracles=oracles,
            parity=Parity(
                tokens=1, equal_tokens=0, largest_logit_difference=0.0, largest_feature_difference=0.0
            ),
            files=_files(scratch),
        )
        progress("parity")
        parity = _parity(scratch, manifest, model, Vision(model, normalisation))
        tolerance = MARGIN_FACTOR * parity.largest_logit_difference
        manifest = replace(
            manifest, parity=parity, decoding=replace(manifest.decoding, margin_tolerance=tolerance)
        )
        (scratch / MANIFEST).write_bytes(dump(manifest))
        Bundle.load(scratch)  # what a device would refuse must not be published
        scratch.chmod(0o755)  # mkdtemp made it private
        scratch.rename(out)
    except BaseException:
        shutil.rmtree(scratch, ignore_errors=True)
        raise
    return Bundle.load(out)


def _load(checkpoint: Path) -> tuple[Any, Any]:
    if not (checkpoint / "config.json").is_file():
        raise ExportError(f"{checkpoint} has no config.json: it is not a Hugging Face checkpoint directory")
    if not list(checkpoint.glob("*.safetensors")):
        raise ExportError(f"{checkpoint} has no *.safetensors; pickled weights are not read")
    transformers.logging.set_verbosity_error()  # its advice is for its own callers
    local: dict[str, Any] = {"local_files_only": True, "trust_remote_code": False}
    try:
        model = transformers.LlavaForConditionalGeneration.from_pretrained(
            checkpoint, use_safetensors=True, dtype=torch.float32, **local
        ).eval()
        processor = transformers.AutoProcessor.from_pretrained(checkpoint, **local)
    except Exception as error:  # noqa: BLE001  it raises whatever its parts do, safetensors' own errors too
        reason = " ".join(str(error).split())[:300]
        raise ExportError(f"transformers cannot load {checkpoint}: {reason}") from None
    return model, processor


def _end_tokens(model: Any) -> tuple[int, ...]:  # noqa: ANN401  transformers is untyped
    end = model.generation_config.eos_token_id
    if end is None:
        end = model.config.text_config.eos_token_id
    if end is None:
        raise ExportError("the checkpoint names no end-of-text token (eos_token_id)")
    return tuple(end) if isinstance(end, list) else (end,)


def _image_tokens(graphs: Graphs) -> int:
    tokens = graphs.vision.outputs[0].shape[1]
    if not isinstance(tokens, int):
        raise ExportError(f"the vision graph gives a varying number of image tokens: {tokens}")
    return tokens


def _provenance(checkpoint: Path) -> Provenance:
    digest = hashlib.sha256()
    for shard in sorted(checkpoint.glob("*.safetensors")):
        with shard.open("rb") as handle:
            while chunk := handle.read(1 << 20):
                digest.update(chunk)
    return Provenance(
        source=checkpoint.name,
        weights_sha256=digest.hexdigest(),
        tools={
            "edgers": __version__,
            "torch": str(torch.__version__),
            "transformers": transformers.__version__,
            "onnx": onnx.__version__,
        },
    )


def _files(directory: Path) -> tuple[File, ...]:
    return tuple(
        File(
            path=path.name, size=len(content := path.read_bytes()), sha256=hashlib.sha256(content).hexdigest()
        )
        for path in sorted(directory.iterdir())
    )


def _parity(scratch: Path, manifest: Manifest, model: Any, vision: Vision) -> Parity:  # noqa: ANN401
    contents = {file.path: (scratch / file.path).read_bytes() for file in manifest.files}
    runtime = VisionLanguageModel(Bundle(scratch, manifest, digest="", contents=contents))
    height, width = manifest.preparation.canvas_size
    canvas = to_lattice(np.random.default_rng(0).random((3, height, width)))
    canvases = np.empty((_PARITY_ROWS, 3, height, width), np.float32)
    noisy_copies(canvas, _PARITY_SIGMA, seed=0, stream=Stream.SELECTION, first=0, out=canvases)
    ids = (runtime.prompts.prefix, runtime.prompts.suffix(_PARITY_PROMPT))
    want = reference(model, vision, ids, _PARITY_PROMPT, canvases=canvases, steps=_PARITY_STEPS)
    parity = compare(runtime, want)
    if parity.equal_tokens != parity.tokens:
        raise ExportError(
            f"the exported graphs gave {parity.equal_tokens} of {parity.tokens} tokens as PyTorch did "
            f"(largest logit difference {parity.largest_logit_difference:.2g}): they are not the same model"
        )
    return parity
