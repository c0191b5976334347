"""Less work for the same answers: pixels are normalised by the convolution that reads them."""

import onnx
import pytest
import torch
from transformers import AutoImageProcessor, LlavaForConditionalGeneration

from edgers_export.lean import normalising
from edgers_export.quantization import QuantizedLinear
from edgers_export.vision import read_vision
from tests.checkpoints import MINIATURES, write


@pytest.fixture(scope="module", params=["llama, clip", "mistral, siglip"])
def checkpoint(request, tmp_path_factory):
    """CLIP's convolution has no bias, SigLIP's has one."""
    return write(MINIATURES[request.param], tmp_path_factory.mktemp("lean") / "checkpoint")


@pytest.fixture
def vision(checkpoint):
    model = LlavaForConditionalGeneration.from_pretrained(checkpoint).eval()
    return read_vision(model, AutoImageProcessor.from_pretrained(checkpoint))[0]


@pytest.fixture
def canvas(vision):
    side = vision.tower.config.image_size
    return torch.rand(2, 3, side, side, generator=torch.Generator().manual_seed(0)) * 2 - 0.5


def convolution(vision):
    return vision.tower.vision_model.embeddings.patch_embedding


@torch.no_grad()
def test_the_convolution_normalises_while_it_is_traced_and_nothing_is_left_of_it(vision, canvas):
    before, weight = vision(canvas), convolution(vision).weight
    with normalising(vision):
        assert vision.views(canvas) is canvas
        torch.testing.assert_close(vision(canvas), before, rtol=0, atol=2e-5 * before.abs().max().item())
    assert convolution(vision).weight is weight
    assert torch.equal(vision(canvas), before)


@torch.no_grad()
def test_it_is_undone_after_an_error_too(vision, canvas):
    before = vision(canvas)
    with pytest.raises(KeyError), normalising(vision):
        raise KeyError
    assert torch.equal(vision(canvas), before)


@torch.no_grad()
@pytest.mark.parametrize("why", ["half precision", "rounded inputs", "padding"])
def test_pixels_are_normalised_one_by_one_where_the_convolution_could_not_do_it_as_well(vision, canvas, why):
    if why == "half precision":
        vision.tower.to(torch.bfloat16)
    elif why == "rounded inputs":
        first = vision.tower.vision_model.encoder.layers[0]
        codes, one = torch.zeros(4, 4, dtype=torch.int8), torch.ones(4)
        first.mlp.fc1 = QuantizedLinear(codes, one, None, torch.ones(()))
    else:
        kept = convolution(vision)
        vision.tower.vision_model.embeddings.patch_embedding = torch.nn.Conv2d(
            3, kept.out_channels, kept.kernel_size, kept.stride, padding=1
        )
    with normalising(vision):
        assert torch.equal(vision.views(canvas), vision.normalised(canvas))
        assert not torch.equal(vision.views(canvas), canvas)


def test_no_exported_graph_divides_its_pixels(demo_export):
    graph = onnx.load_from_string(demo_export.read("vision.onnx")).graph
    assert not {"Sub", "Div"} & {node.op_type for node in graph.node}
