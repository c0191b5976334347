"""Work, counted from graphs, against PyTorch's own counter on the modules that they were traced from."""

from __future__ import annotations

import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

from edgers_engines.graph_work import graph_work
from edgers_export.checkpoint import load
from edgers_export.lean import _last_position
from edgers_export.vision import read_vision
from tests.conftest import CHECKPOINT

ROWS, NEW = 3, 11


@pytest.fixture(scope="module", params=["miniature", "demo"])
def case(request):
    """A bundle and its checkpoint in PyTorch, with attention as products that the counter sees."""
    if request.param == "miniature":
        bundle, folder = (request.getfixturevalue(f"miniature{part}") for part in ("", "_checkpoint"))
    else:
        bundle, folder = request.getfixturevalue("demo_bundle"), CHECKPOINT
    source = load(folder)
    source.model.set_attn_implementation("eager")
    return bundle, source


def counted(run):
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        run()
    return counter.get_total_flops()


def test_the_vision_graph_has_the_products_that_pytorch_computes(case):
    """Without the layers behind the one whose features are taken, which no graph has."""
    bundle, source = case
    vision, preparation = read_vision(source.model, source.processor.image_processor)
    encoder, (chosen,) = vision.tower.vision_model.encoder, vision.layers
    all_layers = encoder.layers
    encoder.layers, vision.layers = all_layers[: len(all_layers) + 1 + chosen], [-1]
    try:
        found = counted(lambda: vision(torch.rand(ROWS, 3, *preparation.canvas_size)))
    finally:
        encoder.layers = all_layers
    work = graph_work(bundle.read("vision.onnx"), {"batch": ROWS})
    assert work.total_flops == work.executed_flops == found


def test_the_decoder_graph_has_the_products_that_pytorch_computes(case):
    """Which masks what it has computed; and the graph's last layer goes on for the last position alone."""
    bundle, source = case
    decoder, head = source.model.model.language_model, source.model.lm_head
    embeddings = torch.rand(ROWS, NEW, decoder.config.hidden_size)
    last = decoder.layers[-1]
    parts = (last.self_attn.o_proj, last.post_attention_layernorm, decoder.norm)
    hooks = [part.register_forward_pre_hook(_last_position) for part in parts]
    try:
        found = counted(
            lambda: head(decoder(inputs_embeds=embeddings, use_cache=False).last_hidden_state[:, -1])
        )
    finally:
        for hook in hooks:
            hook.remove()
    sizes = {"batch": ROWS, "seq": NEW, "max_len": NEW}
    # The cosines' angles, one product, are the same for all rows in PyTorch.
    angles = 2 * NEW * source.model.config.text_config.head_dim // 2
    work = graph_work(bundle.read("decoder.onnx"), sizes)
    assert work.executed_flops == found + (ROWS - 1) * angles


def test_a_decode_step_has_the_products_that_pytorch_computes_behind_its_cache(case):
    bundle, source = case
    decoder, head = source.model.model.language_model, source.model.lm_head
    width = decoder.config.hidden_size
    with torch.no_grad():
        cache = decoder(inputs_embeds=torch.rand(ROWS, NEW, width), use_cache=True).past_key_values
    token = torch.rand(ROWS, 1, width)
    found = counted(
        lambda: head(decoder(inputs_embeds=token, past_key_values=cache).last_hidden_state[:, -1])
    )
    sizes = {"batch": ROWS, "seq": 1, "max_len": 2 * NEW}
    angles = 2 * source.model.config.text_config.head_dim // 2
    work = graph_work(bundle.read("decoder.onnx"), sizes, first=NEW)
    assert work.total_flops == found + (ROWS - 1) * angles
    assert work.executed_flops > work.total_flops
