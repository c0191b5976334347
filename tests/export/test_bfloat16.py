"""A bundle in bfloat16: exported, compared with PyTorch on the processor, and built by TensorRT."""

from __future__ import annotations

import numpy as np
import onnx
import pytest
import torch
from onnx import TensorProto, numpy_helper

from edgers_engines import self_test
from edgers_export.bundle import export_bundle
from edgers_export.parity import compare, reference
from tests.conftest import CHECKPOINT
from tests.export.case import PROMPT, PROMPTS, ROWS, STEPS, Case
from tests.export.test_tensorrt_plan import build


@pytest.fixture(scope="module")
def narrow(tmp_path_factory):
    """The demo model in bfloat16."""
    return export_bundle(CHECKPOINT, tmp_path_factory.mktemp("bf16") / "bundle", precision="bf16")


def test_weights_are_bfloat16_and_rotations_and_logits_are_not(narrow, demo_bundle):
    stored = onnx.load(narrow.path / "decoder.onnx").graph.initializer
    matrices = {tensor.data_type for tensor in stored if len(tensor.dims) == 2}
    assert matrices == {TensorProto.BFLOAT16}
    frequencies = (10_000.0 ** -(np.arange(0, 24, 2) / 24)).astype(np.float32)
    found = [numpy_helper.to_array(t).ravel() for t in stored if np.prod(t.dims) == 12]
    assert any(np.allclose(each, frequencies, rtol=1e-6, atol=0) for each in found)
    types = {t.name: t.dtype for g in ("vision", "decoder") for t in _tensors(narrow, g)}
    assert (types["canvas"], types["logits"]) == ("float32", "float32")
    assert types["features"] == types["embeddings"] == types["past.0.key"] == "bfloat16"
    sizes = [(bundle.path / "weights.bin").stat().st_size for bundle in (narrow, demo_bundle)]
    assert sizes[0] == pytest.approx(sizes[1] / 2, rel=0.05)


def _tensors(bundle, graph):
    record = dict(bundle.manifest.graphs.named())[graph]
    return (*record.inputs, *record.outputs)


def test_it_answers_as_generate_does_but_for_its_own_rounding(narrow):
    case = Case(narrow, CHECKPOINT)
    found = [compare(case.runtime, case.want(prompt)) for prompt in PROMPTS[:2]]
    assert sum(each.equal_tokens for each in found) >= 0.9 * len(found) * ROWS * STEPS
    largest = max(each.largest_logit_difference for each in found)
    assert 1e-2 < largest <= narrow.manifest.decoding.margin_tolerance


def test_its_reference_is_the_model_of_the_weights_that_are_stored(narrow):
    """Not of the checkpoint's own, from which these differ by their rounding."""
    case = Case(narrow, CHECKPOINT)
    ids = (case.runtime.prompts.prefix, case.runtime.prompts.suffix(narrow.manifest.self_test.prompt))
    canvases = self_test.canvases(narrow.manifest.preparation.canvas_size, 2)
    steps = narrow.manifest.self_test.steps
    distances = []
    for stored in (False, True):
        if stored:
            with torch.no_grad():
                for weight in case.torch.parameters():
                    weight.copy_(weight.bfloat16().float())
        want = reference(case.torch, case.vision, ids, PROMPT, canvases=canvases, steps=len(steps))
        distances.append(
            max(
                np.abs(want.logits[t, row, list(one.tokens)] - one.logits).max()
                for t, rows in enumerate(steps)
                for row, one in enumerate(rows)
            )
        )
    assert distances[0] > 1e-2
    assert distances[1] < 1e-4


@pytest.mark.parametrize("name", ["vision", "decoder"])
def test_tensorrt_builds_it(narrow, name):
    assert build(narrow, f"graphs.{name}").in_place
