"""Tiles of one canvas: where transformers has them, and what a device makes of images of another shape."""

from __future__ import annotations

from types import SimpleNamespace

import numpy as np
import pytest
import torch
from transformers import (
    LlavaNextConfig,
    LlavaNextImageProcessor,
    LlavaNextProcessor,
    LlavaOnevisionConfig,
    LlavaOnevisionImageProcessor,
    LlavaOnevisionProcessor,
)

from edgers import Certifier
from edgers_engines.errors import ImageError
from edgers_engines.image import CameraImage
from edgers_export.bundle import export_bundle
from edgers_export.checkpoint import load
from edgers_export.errors import ExportError
from edgers_export.parity import reference
from edgers_export.processor import Normalisation, read_tiled_preparation
from edgers_export.tiles import Tiles, read_grid
from edgers_export.vision import Vision, read_vision
from tests.checkpoints import GRIDS

FRAMES = ((480, 640), (1080, 1920), (720, 1280), (640, 480), (333, 500), (100, 75), (900, 1400), (200, 900))
REAL = {
    "next": (
        LlavaNextConfig(
            vision_config={"model_type": "clip_vision_model", "image_size": 336, "patch_size": 14}
        ),
        LlavaNextImageProcessor(size={"shortest_edge": 336}, crop_size={"height": 336, "width": 336}),
        LlavaNextProcessor,
    ),
    "onevision": (
        LlavaOnevisionConfig(),
        LlavaOnevisionImageProcessor(),
        LlavaOnevisionProcessor,
    ),
}


@pytest.fixture(params=REAL)
def real(request):
    """Configuration and image processor as the published checkpoints have them."""
    return REAL[request.param]


def tiles_of(config, image_processor, frame):
    vision = config.vision_config
    return Tiles(
        read_grid(config, image_processor, frame), config, "bicubic", vision.image_size // vision.patch_size
    )


@pytest.mark.parametrize("frame", FRAMES, ids=str)
def test_an_image_takes_as_many_positions_as_in_transformers(real, frame):
    config, image_processor, processor = real
    side = config.vision_config.image_size
    own = SimpleNamespace(
        image_processor=image_processor,
        patch_size=config.vision_config.patch_size,
        num_image_tokens=(side // config.vision_config.patch_size) ** 2,
        vision_feature_select_strategy="default",
        num_additional_image_tokens=1,
        vision_aspect_ratio=getattr(config, "vision_aspect_ratio", None),
    )
    own._get_unpadded_features = processor._get_unpadded_features.__get__(own)
    counted = processor._get_number_of_features(own, *frame, side, side)
    want = counted - 1 if processor is LlavaNextProcessor else counted
    assert tiles_of(config, image_processor, frame).tokens == want


@pytest.mark.parametrize("frame", FRAMES, ids=str)
def test_views_are_those_of_the_checkpoints_own_processor(real, frame):
    config, image_processor, _ = real
    tiles = tiles_of(config, image_processor, frame)
    preparation = read_tiled_preparation(image_processor, tiles)
    assert preparation.canvas_size == tiles.grid.canvas


class Shifted(LlavaNextImageProcessor):
    """Puts the margin on one side, and does not say so."""

    def _get_padding_size(self, original_resolution, target_resolution):
        (top, bottom), sides = super()._get_padding_size(original_resolution, target_resolution)
        return (0, top + bottom), sides


def test_a_processor_that_cuts_otherwise_than_it_says_is_refused():
    config, image_processor, _ = REAL["next"]
    shifted = Shifted(**image_processor.to_dict())
    tiles = tiles_of(config, shifted, (480, 640))
    with pytest.raises(ExportError, match="off what it says it does"):
        read_tiled_preparation(shifted, tiles)


def test_a_pinhole_in_the_canvas_is_seen_in_its_tile_and_in_the_overview(real):
    """Views of another canvas, or of another tile, would look like these on smooth images."""
    config, image_processor, _ = real
    tiles = tiles_of(config, image_processor, (480, 640))
    canvas = torch.zeros(2, 3, *tiles.grid.canvas)
    canvas[1, 2, 5, 7] = 1
    views = tiles.cut(canvas).reshape(2, tiles.views, 3, tiles.grid.side, tiles.grid.side)
    assert not views[0].any()
    assert not views[1, :, :2].any()
    assert [bool(view.any()) for view in views[1]] == [True, True] + [False] * (tiles.views - 2)
    top, left = ((p - c) // 2 for p, c in zip(tiles.grid.padded, tiles.grid.canvas, strict=True))
    assert views[1, 1, 2, top + 5, left + 7] == 1
    assert (views[1, 1] != 0).sum() == 1


class Features(torch.nn.Module):
    """Stands where tower and projector do; `hidden_states` are what it is given."""

    dtype = torch.float32

    def forward(self, views, output_hidden_states):
        assert output_hidden_states
        return SimpleNamespace(hidden_states=[views.flatten(2).transpose(1, 2)])


def vision_of(side, tower, strategy, pool):
    """A vision module whose features are its pixels."""
    vision = {"model_type": tower, "image_size": side, "patch_size": 1}
    config = LlavaNextConfig(
        vision_config=vision, vision_feature_layer=0, vision_feature_select_strategy=strategy
    )
    parts = SimpleNamespace(vision_tower=Features(), multi_modal_projector=torch.nn.Identity())
    model = SimpleNamespace(model=parts, config=config)
    return Vision(model, Normalisation((0.0, 0.0, 0.0), (1.0, 1.0, 1.0)), pool=pool)


@pytest.mark.parametrize(("side", "pool"), [(4, 2), (5, 2), (27, 4), (6, 6)])
def test_pooled_features_are_averages_of_squares(side, pool):
    canvas = torch.rand(2, 3, side, side)
    vision = vision_of(side, "siglip_vision_model", "full", pool)
    found, lines = vision(canvas), -(-side // pool)
    assert found.shape == (2, lines**2, 3)
    assert vision.image_tokens == lines**2
    for row in range(lines):
        for column in range(lines):
            square = canvas[:, :, row * pool : (row + 1) * pool, column * pool : (column + 1) * pool]
            assert torch.allclose(found[:, row * lines + column], square.mean((2, 3)))


def test_a_class_token_is_not_pooled():
    vision = vision_of(4, "clip_vision_model", "full", 2)
    assert vision.image_tokens == 5
    features = torch.rand(3, 17, 8)
    found = vision.pooling(features)
    assert torch.equal(found[:, 0], features[:, 0])
    assert torch.allclose(found[:, 1], features[:, [1, 2, 5, 6]].mean(1))


@pytest.mark.parametrize(
    ("tower", "strategy", "pool"),
    [("siglip_vision_model", "full", 5), ("siglip_vision_model", "default", 2)],
    ids=str,
)
def test_features_that_are_no_square_or_too_few_are_not_pooled(tower, strategy, pool):
    with pytest.raises(ExportError, match=f"--pool is {pool}"):
        vision_of(4, tower, strategy, pool)


@pytest.fixture(scope="module")
def checkpoint(exports):
    return exports.checkpoint("llava-next, llama, clip, pooled")


def test_a_bundle_in_tiles_certifies_images_of_its_shape_and_refuses_others(exports):
    bundle = exports.miniature("llava-next, llama, clip, pooled")
    assert bundle.manifest.family == "llava_next"
    assert bundle.manifest.preparation.frame == (25, 60)
    certifier = Certifier(bundle, sigma=0.25, samples=20, selection=4)
    noise = np.random.default_rng(3)
    for height, width in ((25, 60), (250, 600), (252, 601)):
        frame = CameraImage(noise.integers(0, 256, (height, width, 3), np.uint8))
        certificate = certifier.certify(frame, "Which way?", choices=["left", "right"])
        assert sum(certificate.votes.certification.values()) == 20
    for height, width in ((60, 25), (25, 25), (25, 64)):
        frame = CameraImage(np.zeros((height, width, 3), np.uint8))
        with pytest.raises(ImageError, match=f"{width}x{height}; this bundle was exported for 60x25"):
            certifier.certify(frame, "Which way?", choices=["left", "right"])


def test_a_frame_belongs_to_families_with_tiles_and_to_no_other(checkpoint, miniature_checkpoint, tmp_path):
    with pytest.raises(ExportError, match="--frame, such as 640x480"):
        export_bundle(checkpoint, tmp_path / "bundle")
    with pytest.raises(ExportError, match=r"LLaVA 1\.5 takes images of any size"):
        export_bundle(miniature_checkpoint, tmp_path / "bundle", frame=(25, 60))


@pytest.mark.parametrize(
    ("changed", "reason"),
    [
        ({"image_grid_pinpoints": [[336, 672]]}, "not those of config.json"),
        ({"image_grid_pinpoints": [[336, 600]]}, "whole tiles of 336"),
        ({"image_grid_pinpoints": []}, "whole tiles of 336"),
        ({"image_grid_pinpoints": "336"}, "whole tiles of 336"),
        ({"image_grid_pinpoints": [[336, 672, 1]]}, "whole tiles of 336"),
    ],
    ids=str,
)
def test_grids_that_cannot_be_followed_are_refused(changed, reason):
    config, image_processor, _ = REAL["next"]
    config = SimpleNamespace(**{"vision_config": config.vision_config, **changed})
    if "whole" in reason:
        image_processor = SimpleNamespace(**changed)
    with pytest.raises(ExportError, match=reason):
        read_grid(config, image_processor, (480, 640))


@pytest.mark.parametrize("named", ["anyres", "pad", 9, "anyres_max_"])
def test_a_limit_of_features_that_is_not_known_is_refused(named):
    config, image_processor, _ = REAL["onevision"]
    config = LlavaOnevisionConfig(vision_aspect_ratio=named)
    with pytest.raises(ExportError, match="vision_aspect_ratio"):
        tiles_of(config, image_processor, (480, 640))


def test_tiles_with_a_class_token_are_refused():
    config, image_processor, _ = REAL["next"]
    config = LlavaNextConfig(vision_config=config.vision_config, vision_feature_select_strategy="full")
    parts = SimpleNamespace(vision_tower=None, multi_modal_projector=None, image_newline=torch.zeros(4))
    with pytest.raises(ExportError, match="577 features"):
        read_vision(SimpleNamespace(model=parts, config=config), image_processor, frame=(480, 640))


@pytest.mark.parametrize("fault", ["none", "layer", "tiles"])
def test_averages_do_not_hide_another_layer_or_another_order_of_tiles(checkpoint, fault, monkeypatch):
    """PyTorch's side makes its own features, of the layers and tiles that the checkpoint names."""
    source = load(checkpoint)
    vision, preparation = read_vision(source.model, source.processor.image_processor, frame=(25, 60), pool=3)
    if fault == "layer":
        vision.layers = [0]
    if fault == "tiles":
        pack = Tiles.pack
        monkeypatch.setattr(Tiles, "pack", lambda self, views, newline: pack(self, views.flip(0), newline))
    canvases = torch.rand(4, 3, *preparation.canvas_size).numpy()
    want = reference(source.model, vision, ((1, 9), (12, 13)), "", canvases=canvases, steps=1)
    own = source.model.get_input_embeddings()
    with torch.no_grad():
        before, after = (own(torch.tensor(ids)).expand(4, -1, -1) for ids in ((1, 9), (12, 13)))
        embeddings = torch.cat((before, torch.from_numpy(want.features), after), dim=1)
        logits = source.model(inputs_embeds=embeddings).logits[:, -1]
    difference = (logits - torch.from_numpy(want.logits[0])).abs().max()
    assert difference > 0.1 if fault != "none" else difference < 1e-4


@pytest.mark.parametrize("frame", [(20, 20000), (16000, 3), (99999, 99999)], ids=str)
def test_a_frame_that_no_image_can_have_is_refused_before_the_weights_are_read(checkpoint, tmp_path, frame):
    with pytest.raises(ImageError, match="the camera's image is"):
        export_bundle(checkpoint, tmp_path / "bundle", frame=frame)


def test_a_frame_so_narrow_that_no_feature_would_be_left_is_refused():
    vision = {"model_type": "clip_vision_model", "image_size": 28, "patch_size": 7}
    config = LlavaNextConfig(vision_config=vision, image_grid_pinpoints=GRIDS)
    with pytest.raises(ExportError, match="80x5000 images, no feature"):
        tiles_of(config, SimpleNamespace(image_grid_pinpoints=GRIDS), (5000, 80))
