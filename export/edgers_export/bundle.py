"""Checkpoint directory in, bundle directory out."""

from __future__ import annotations

import hashlib
import math
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import torch
import transformers
from msgspec.structs import asdict, replace
from numpy.typing import NDArray

from edgers_engines import decoder_graph, self_test
from edgers_engines.atomic import check_new, new_folder
from edgers_engines.bundle import MANIFEST, Bundle
from edgers_engines.decoder_graph import DecoderGraph, standard_decoder
from edgers_engines.errors import InputError
from edgers_engines.fields import NAME
from edgers_engines.image import CameraImage, Preparation, prepare
from edgers_engines.manifest import (
    ACTIVATIONS,
    CALIBRATED,
    CUDA_PRECISIONS,
    SCHEMA_VERSION,
    CudaDecoder,
    Decoding,
    File,
    Graphs,
    Manifest,
    Parity,
    Precision,
    Provenance,
    Quantization,
)
from edgers_engines.noise import Stream, noisy_copies, to_lattice
from edgers_engines.oracle_record import Rules
from edgers_engines.records import dump
from edgers_engines.version import __version__
from edgers_engines.vlm import VisionLanguageModel
from edgers_export import checkpoint
from edgers_export.checkpoint import Checkpoint
from edgers_export.cuda_decoder import check_heads, rotations, write_cuda_decoder
from edgers_export.errors import ExportError
from edgers_export.llava import dimensions, halve, longest, round_weights, write_graphs
from edgers_export.onnx import WEIGHTS, GraphWriter
from edgers_export.parity import Reference, compare, reference
from edgers_export.quantization import largest_inputs, quantize
from edgers_export.template import prompt_ids, read_template, read_tokenizer
from edgers_export.vision import check_frame, read_vision

OPSET = 24  # the first with TensorScatter and with Attention over a cache written in place
# A token is trusted when its lead exceeds this multiple of the largest logit difference that was measured
# between two implementations: then no rounding of that size, on either of two tokens, can change the choice.
MARGIN_FACTOR = 4.0
# Another machine adds up in another order, and its last bits differ though it computes the same model: no
# tolerance is finer than this share of the largest logit, which is 32 roundings of a float32.
FINEST_MARGIN = 2.0**-18
# Half precision may decide a near tie otherwise; the margin tolerance that follows is as wide.
LEAST_EQUAL: dict[Precision, float] = {"fp32": 1.0, "fp16": 0.95, "bf16": 0.95}
LEAST_EQUAL_ROUNDED = 0.95  # in int8: what a layer gets may be rounded to the next code
TOKENIZER = "tokenizer.json"
_NOT_IN_A_NAME = re.compile(r"[^A-Za-z0-9._-]+")
_PARITY_ROWS, _PARITY_STEPS = 8, 16
_CALIBRATION_SIGMAS, _CALIBRATION_STEPS = (0.12, 0.25, 0.5), 4
_PARITY_PROMPT = "What should the robot do?"
_UNMEASURED = Parity(
    tokens=1, equal_tokens=0, largest_logit_difference=math.inf, largest_feature_difference=math.inf
)

Progress = Callable[[str], None]


def export_bundle(
    folder: Path,
    out: Path,
    *,
    name: str | None = None,
    licence: str = "unknown",
    oracles: tuple[Rules, ...] = (),
    precision: Precision = "fp32",
    frame: tuple[int, int] | None = None,
    pool: int = 1,
    cuda_decoder: bool = False,
    quantization: Quantization | None = None,
    calibration: Sequence[Path] = (),
    opset: int = OPSET,
    max_length: int | None = None,
    max_new_tokens: int = 32,
    progress: Progress = lambda _stage: None,
) -> Bundle:
    """Export a local checkpoint of one of the families in `recipes`.

    The graphs are compared with PyTorch in float32 on the weights that are stored, rounded or not: what the
    rounding itself changes makes another base classifier, and is no error of the graphs.

    Args:
        folder: Hugging Face directory with safetensors, config, tokenizer and processor.
        out: directory to make; it appears only when everything in it is complete.
        name: the bundle's name; the last part of `out`, without what a name cannot have, unless given.
        licence: the weights' licence, for the manifest.
        oracles: rule oracles to carry.
        precision: of weights and activations; canvas and logits are float32 in all.
        quantization: what is narrower besides.
        calibration: for those in `CALIBRATED`, images like those that will be asked about: the largest inputs
            of each layer, over noisy copies of them, become its scales.
        frame: height and width of the camera's images, for families that cut them into tiles.
        pool: how many neighbouring image features along each side become one; the certified model is the one
            that sees their averages.
        cuda_decoder: write a second decoder graph, which ONNX Runtime on CUDA runs instead, over the same
            weights; in half precision only.
        opset: of the graphs.
        max_length: positions for prompt, image and answer; all the decoder has unless given.
        max_new_tokens: where free answers end at the latest.
        progress: called with the name of each stage before it starts.

    Returns:
        The bundle, loaded back from `out`.

    Raises:
        InputError: `out` is there already, a decoder for CUDA is asked for in another precision, or images
            to calibrate on are lacking.
        ImageError: one of these cannot be read.
        ExportError: the checkpoint lacks something, or the graphs do not answer as PyTorch does.
    """
    name = _checked_name(name or _NOT_IN_A_NAME.sub("-", out.name).strip("-._") or "bundle")
    if (quantization in CALIBRATED) != bool(calibration):
        raise InputError(f"{' and '.join(CALIBRATED)} need images (--calibrate), and nothing else does")
    out.parent.mkdir(parents=True, exist_ok=True)
    check_new(out)
    if cuda_decoder:
        check_cuda_precision(precision)
    with new_folder(out) as scratch:
        kind = _Kind(
            name,
            licence,
            oracles,
            precision,
            quantization,
            calibration,
            frame,
            pool,
            cuda_decoder,
            opset,
            max_length,
            max_new_tokens,
        )
        manifest, want = _write(folder, scratch, kind, progress)
        progress("compare with PyTorch")
        (scratch / MANIFEST).write_bytes(dump(_measured(scratch, manifest, want)))
        bundle = Bundle.load(scratch)  # what a device would refuse must not be published
    bundle.path = out
    return bundle


@dataclass(frozen=True, slots=True)
class _Kind:
    """What kind of bundle is made; see `export_bundle`."""

    name: str
    licence: str
    oracles: tuple[Rules, ...]
    precision: Precision
    quantization: Quantization | None
    calibration: Sequence[Path]
    frame: tuple[int, int] | None
    pool: int
    cuda_decoder: bool
    opset: int
    max_length: int | None
    max_new_tokens: int

    @property
    def stored(self) -> torch.dtype:
        """The type that weights are stored in where they are no integers."""
        found: torch.dtype = getattr(torch, ACTIVATIONS[self.precision])
        return found


def _write(folder: Path, scratch: Path, kind: _Kind, progress: Progress) -> tuple[Manifest, Reference]:
    """Write everything but the manifest; the checkpoint's weights live no longer than this call."""
    check_frame(checkpoint.recipe_of(folder), kind.frame)
    progress("load")
    source = checkpoint.load(folder)
    model, processor = source.model, source.processor
    positions = longest(model.config, kind.max_length)
    vision, preparation = read_vision(model, processor.image_processor, frame=kind.frame, pool=kind.pool)
    tokenizer = read_tokenizer(processor)
    template = read_template(processor, tokenizer, model.config.image_token_id)
    ids = prompt_ids(tokenizer, template, _PARITY_PROMPT)
    _check_length(positions, vision.image_tokens, ids)
    end_tokens = source.end_tokens
    sizes = dimensions(model, vision.image_tokens, positions)
    if kind.cuda_decoder:
        check_heads(sizes.head_dim)
    ask = partial(reference, model, vision, ids, _PARITY_PROMPT)
    _narrow(model, kind, ask, preparation, progress)
    progress("ask PyTorch")
    want = ask(canvases=self_test.canvases(preparation.canvas_size, _PARITY_ROWS), steps=_PARITY_STEPS)
    if kind.precision != "fp32":
        halve(model, kind.stored)
    with GraphWriter(scratch, kind.opset) as writer:
        graphs = write_graphs(model, vision, writer, canvas_size=preparation.canvas_size, progress=progress)
        if kind.cuda_decoder:
            progress("decoder for CUDA")
            graphs = _with_cuda_decoder(graphs, writer, model, positions)
    tokenizer.save(str(scratch / TOKENIZER))
    manifest = Manifest(
        schema_version=SCHEMA_VERSION,
        name=kind.name,
        family=model.config.model_type,
        licence=kind.licence,
        precision=kind.precision,
        quantization=kind.quantization,
        opset=kind.opset,
        provenance=_provenance(source),
        preparation=preparation,
        prompt=template,
        decoding=Decoding(
            end_tokens=end_tokens, max_new_tokens=kind.max_new_tokens, margin_tolerance=math.inf
        ),
        dimensions=replace(sizes, image_tokens=_image_tokens(graphs)),
        graphs=graphs,
        weights=WEIGHTS,
        tokenizer=TOKENIZER,
        oracles=kind.oracles,
        parity=_UNMEASURED,
        self_test=want.self_test(),
        files=files_of(scratch),
    )
    source.release()  # before the bundle is loaded: never two copies of the weights
    return manifest, want


def _narrow(
    model: Any,  # noqa: ANN401  transformers is untyped
    kind: _Kind,
    ask: Callable[..., Reference],
    preparation: Preparation,
    progress: Progress,
) -> None:
    """Round the weights to what is stored: that is the bundle's model, which PyTorch is asked."""
    if kind.calibration:
        progress("calibrate")
    with largest_inputs(model) as inputs:
        for image in kind.calibration:
            ask(canvases=_noisy(image, preparation), steps=_CALIBRATION_STEPS)
    if kind.quantization:
        quantize(model, kind.quantization, kind.stored, inputs)
    round_weights(model, kind.stored)


def _with_cuda_decoder(
    graphs: Graphs,
    writer: GraphWriter,
    model: Any,  # noqa: ANN401  as above
    positions: int,
) -> Graphs:
    twin = write_cuda_decoder(
        graphs.decoder,
        writer,
        heads=model.config.text_config.num_attention_heads,
        tables=rotations(model.model.language_model, positions),
    )
    return replace(graphs, cuda_decoder=CudaDecoder(**asdict(twin), parity=_UNMEASURED))


def _measured(scratch: Path, manifest: Manifest, want: Reference) -> Manifest:
    """The manifest with what the graphs, loaded as a device loads them, gave beside PyTorch.

    Raises:
        ExportError: they are not the same model, or so coarse that the margin guard would trust few tokens.
    """
    parsed = [file for file in manifest.files if file.path != manifest.weights]
    contents = {file.path: (scratch / file.path).read_bytes() for file in parsed}
    bundle, graphs = Bundle(scratch, manifest, digest="", contents=contents), manifest.graphs
    parity = _parity(bundle, standard_decoder(graphs), want)
    largest = parity.largest_logit_difference
    if graphs.cuda_decoder and (decoder := decoder_graph.cuda_decoder(graphs)):
        own = _parity(bundle, decoder, want)
        largest = max(largest, own.largest_logit_difference)
        graphs = replace(graphs, cuda_decoder=replace(graphs.cuda_decoder, parity=own))
    rounding = FINEST_MARGIN * float(np.abs(want.logits).max())
    tolerance = max(MARGIN_FACTOR * largest, rounding)
    second, best = np.moveaxis(np.partition(want.logits, -2, axis=-1)[..., -2:], -1, 0)
    if tolerance > (lead := float(np.median(best - second))):
        raise ExportError(
            f"{manifest.numbers} is too coarse for this checkpoint: the margin tolerance would be "
            f"{tolerance:.2g}, but the best token leads by {lead:.2g} in the median"
            + ("" if manifest.numbers == "fp32" else "; export it in wider numbers")
        )
    decoding = replace(manifest.decoding, margin_tolerance=tolerance)
    return replace(manifest, parity=parity, decoding=decoding, graphs=graphs)


def _parity(bundle: Bundle, decoder: DecoderGraph, want: Reference) -> Parity:
    """What the graphs gave with one of the decoders, on ONNX Runtime on the CPU.

    Raises:
        ExportError: they are not the same model.
    """
    manifest, narrow = bundle.manifest, bundle.manifest.numbers
    least = LEAST_EQUAL_ROUNDED if manifest.quantization in CALIBRATED else LEAST_EQUAL[manifest.precision]
    parity = compare(VisionLanguageModel(bundle, decoder=decoder), want)
    if parity.equal_tokens < least * parity.tokens:
        raise ExportError(
            f"the exported graphs gave {parity.equal_tokens} of {parity.tokens} tokens as PyTorch did "
            f"(largest logit difference {parity.largest_logit_difference:.2g}, with {decoder.graph.file}): "
            + ("" if narrow == "fp32" else f"{narrow} is too coarse for this checkpoint, or ")
            + "they are not the same model"
        )
    return parity


def check_cuda_precision(precision: Precision) -> None:
    """Refuse a decoder for CUDA where its operators have no kernel.

    Raises:
        InputError: the precision is another one.
    """
    if precision not in CUDA_PRECISIONS:
        raise InputError(
            f"--cuda-decoder is for {', '.join(CUDA_PRECISIONS)}: on CUDA its operators have no kernel for "
            f"{precision}; add --precision {CUDA_PRECISIONS[0]}, or leave it out"
        )


def _noisy(image: Path, preparation: Preparation) -> NDArray[np.float32]:
    """Copies of an image with little noise and with more, which scales are taken from."""
    canvas = to_lattice(prepare(CameraImage.of(image), preparation))
    out = np.empty((len(_CALIBRATION_SIGMAS), *canvas.shape), np.float32)
    for row, sigma in zip(out, _CALIBRATION_SIGMAS, strict=True):
        noisy_copies(canvas, sigma, seed=0, stream=Stream.SELECTION, first=0, out=row[None])
    return out


def _checked_name(name: str) -> str:
    if not re.fullmatch(NAME, name):
        raise ExportError(
            f"the bundle's name {name!r:.130} has {len(name)} characters; a name has at most "
            "100, of letters, digits and . _ -: choose another --out"
        )
    return name


def _check_length(positions: int, image: int, ids: tuple[tuple[int, ...], tuple[int, ...]]) -> None:
    needed = len(ids[0]) + image + len(ids[1]) + 1
    if positions < needed:
        raise ExportError(
            f"--max-length is {positions}; the image ({image} tokens), a short question and one token of an "
            f"answer need {needed}"
        )


def _image_tokens(graphs: Graphs) -> int:
    tokens = graphs.vision.outputs[0].shape[1]
    if not isinstance(tokens, int):
        raise ExportError(f"the vision graph gives a varying number of image tokens: {tokens}")
    return tokens


def _provenance(source: Checkpoint) -> Provenance:
    return Provenance(
        source=source.folder.name,
        weights_sha256=checkpoint.weights_sha256(source.folder),
        tools={
            "edgers": __version__,
            "torch": str(torch.__version__),
            "transformers": transformers.__version__,
            "onnx": onnx.__version__,
        },
    )


def files_of(directory: Path) -> tuple[File, ...]:
    """The records of a folder's files."""
    return tuple(
        File(path=path.name, size=path.stat().st_size, sha256=_sha256(path))
        for path in sorted(directory.iterdir())
    )


def _sha256(path: Path) -> str:
    digest = hashlib.sha256()
    for chunk in checkpoint.chunks(path):
        digest.update(chunk)
    return digest.hexdigest()
