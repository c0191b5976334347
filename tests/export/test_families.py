"""Every family and option that can be exported answers as transformers' `generate` does, token by token."""

from __future__ import annotations

import numpy as np
import onnx
import pytest
from onnx import numpy_helper

from edgers_export.bundle import export_bundle
from edgers_export.parity import compare
from tests.checkpoints import MINIATURES, write
from tests.export.case import PROMPTS, ROWS, STEPS, Case


@pytest.fixture(scope="module", params=MINIATURES, ids=str)
def checkpoint(request, tmp_path_factory):
    return write(MINIATURES[request.param], tmp_path_factory.mktemp("family") / "checkpoint")


def test_all_greedy_tokens_equal_generate_and_in_half_precision_99_of_100(checkpoint):
    folder = checkpoint.parent
    full = Case(export_bundle(checkpoint, folder / "fp32"), checkpoint)
    half = Case(export_bundle(checkpoint, folder / "fp16", precision="fp16"), checkpoint)
    equal = 0
    lengths = set()
    for prompt in PROMPTS:
        want = full.want(prompt)
        assert len(np.unique(want.tokens, axis=1).T) > 1, "equal rows would hide a mixed-up one"
        assert compare(full.runtime, want).equal_tokens == ROWS * STEPS
        equal += compare(half.runtime, want).equal_tokens
        lengths.add(len(full.runtime.prompts.suffix(prompt)))
    assert len(lengths) == len(PROMPTS)
    assert equal >= 0.99 * len(PROMPTS) * ROWS * STEPS


@pytest.fixture(scope="module")
def precisions(miniature, miniature_checkpoint):
    """One checkpoint in both precisions."""
    folder = miniature_checkpoint.parent / "fp16"
    return {"fp32": miniature, "fp16": export_bundle(miniature_checkpoint, folder, precision="fp16")}


def test_a_bundle_in_half_precision_is_half_as_large(precisions):
    sizes = []
    for precision, bundle in precisions.items():
        manifest = bundle.manifest
        assert manifest.precision == precision
        sizes.append(next(file.size for file in manifest.files if file.path == manifest.weights))
    assert sizes[1] == pytest.approx(sizes[0] / 2, rel=0.05)


def test_positions_are_rotated_by_the_same_frequencies_in_half_precision(precisions):
    """The frequencies of a Llama are 10,000^(-2i/d), rounded to float32 and no further."""
    want = (10_000.0 ** -(np.arange(0, 16, 2) / 16)).astype(np.float32)
    for precision, bundle in precisions.items():
        graph = onnx.load(bundle.path / "decoder.onnx").graph
        constants = [numpy_helper.to_array(t).ravel() for t in graph.initializer if np.prod(t.dims) == 8]
        assert any(np.allclose(found, want, rtol=1e-6, atol=0) for found in constants), precision


def test_tied_embeddings_are_stored_once(tmp_path):
    checkpoint = write(MINIATURES["qwen2, tied, clip, linear rotation"], tmp_path / "checkpoint")
    manifest = export_bundle(checkpoint, tmp_path / "bundle").manifest
    weights = next(file.size for file in manifest.files if file.path == manifest.weights)
    assert weights < sum(path.stat().st_size for path in checkpoint.glob("*.safetensors"))
