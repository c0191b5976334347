"""What a checkpoint directory may hold: nothing that runs code, and nothing that is not what it seems."""

from __future__ import annotations

import hashlib
import json
import os
import shutil

import numpy as np
import pytest
from msgspec.structs import replace

from edgers_engines import self_test
from edgers_engines.bundle import Bundle
from edgers_engines.prompt import PromptEncoder
from edgers_export import bundle as exporter
from edgers_export import checkpoint as checkpoints
from edgers_export.bundle import export_bundle
from edgers_export.errors import ExportError
from edgers_export.llava import Vision
from edgers_export.parity import reference
from edgers_export.processor import read_normalisation
from edgers_export.template import prompt_ids, read_template, read_tokenizer
from tests.checkpoints import MINIATURES, make_ordinary, write
from tests.conftest import CHECKPOINT
from tests.export.case import Case

INDEX = "model.safetensors.index.json"


@pytest.fixture
def folder(tmp_path):
    """A copy of the demo checkpoint that a test may damage."""
    return shutil.copytree(CHECKPOINT, tmp_path / "checkpoint")


def edit(path, part=None, **changes):
    """Change fields of a JSON file, or of one object in it."""
    tree = json.loads(path.read_text()) if path.exists() else {}
    (tree[part] if part else tree).update(changes)
    path.write_text(json.dumps(tree))


def index(folder, weight_map):
    """Write an index of the weights."""
    (folder / INDEX).write_text(json.dumps({"weight_map": weight_map}))


KERNELS = (
    *(("_attn_implementation", name) for name in ("evil/kernel", "flash_attention_2", {"": "evil/kernel"})),
    ("_attn_implementation_internal", "evil/kernel"),
    ("attn_implementation", "evil/kernel"),
)


@pytest.mark.parametrize(("key", "value"), KERNELS, ids=str)
@pytest.mark.parametrize("part", [None, "text_config", "vision_config"])
def test_attention_that_would_be_downloaded_is_refused_wherever_it_is_asked_for(folder, part, key, value):
    edit(folder / "config.json", part, **{key: value})
    with pytest.raises(ExportError, match=r"config\.json wants other code to be run"):
        checkpoints.load(folder)


@pytest.mark.parametrize("name", ["generation_config.json", "config.4.0.0.json", "processor_config.json"])
def test_no_other_config_may_ask_for_code_however_deep(folder, name):
    edit(folder / name, deep=[{"deeper": {"auto_map": {"AutoConfig": "evil.Config"}}}])
    with pytest.raises(ExportError, match=f"{name} wants code"):
        checkpoints.load(folder)


def test_attention_of_its_own_is_overruled_even_if_nobody_refused_it(folder, monkeypatch):
    edit(
        folder / "config.json", "text_config", _attn_implementation="eager", _attn_implementation_autoset=True
    )
    edit(folder / "config.json", _attn_implementation="eager")
    config = checkpoints.load(folder).model.config
    found = [part._attn_implementation for part in (config, config.text_config, config.vision_config)]
    assert found == ["sdpa"] * 3


@pytest.mark.parametrize(
    ("damage", "reason"),
    [
        pytest.param(
            lambda c: edit(c / "adapter_config.json", peft_type="LORA"),
            "an adapter.*merge it",
            id="an adapter",
        ),
        pytest.param(
            lambda c: edit(c / "config.json", quantization_config={"quant_method": "gptq"}),
            "quantized.*export full-precision weights",
            id="quantized",
        ),
        pytest.param(
            lambda c: edit(c / "config.json", "text_config", quantization_config={"quant_method": "awq"}),
            "quantized",
            id="its decoder is quantized",
        ),
        pytest.param(
            lambda c: (c / "x_config.json").mkdir(), "x_config.json is not a file", id="a folder as a config"
        ),
        pytest.param(lambda c: os.mkfifo(c / "x_config.json"), "is not a file", id="a pipe as a config"),
        pytest.param(lambda c: (c / INDEX).write_text("{}"), "weight_map.*None", id="an index of nothing"),
        pytest.param(lambda c: index(c, {}), "not an object of file names", id="an empty index"),
        pytest.param(lambda c: index(c, ["model.safetensors"]), "not an object", id="a list as an index"),
        pytest.param(lambda c: index(c, {"a": 1}), "has 1 for 'a'", id="a number as a file"),
        *(
            pytest.param(lambda c, n=n: index(c, {"a": n}), "not the name of a safetensors file", id=repr(n))
            for n in ("../m.safetensors", "/m.safetensors", "a..safetensors", "pytorch_model.bin", "a\0", "")
        ),
        pytest.param(lambda c: index(c, {"a": "b.safetensors"}), "no b.safetensors", id="a shard is missing"),
        pytest.param(
            lambda c: [
                index(c, {"a": "b.safetensors"}),
                shutil.copy(c / "model.safetensors", c / "b.safetensors"),
            ],
            "remove the one that is stale",
            id="an index beside the only file",
        ),
        pytest.param(
            lambda c: (c / "model.safetensors").rename(c / "other.safetensors"),
            "no model.safetensors",
            id="weights under a name that nobody reads",
        ),
        *(
            pytest.param(
                lambda c, n=n: edit(c / "config.json", vision_feature_layer=n),
                "vision_feature_layer is .*; this tower has layers from -4 to 3",
                id=f"feature layer {n!r}",
            )
            for n in (4, -5, [1, 9], [], "2", True)
        ),
    ],
)
def test_a_directory_that_is_not_what_it_seems_is_refused(folder, damage, reason):
    damage(folder)
    with pytest.raises(ExportError, match=reason):
        checkpoints.load(folder)


def test_the_digest_of_the_weights_covers_the_shards_that_are_read_and_no_other_file(tmp_path):
    for name in "bac":
        (tmp_path / f"{name}.safetensors").write_bytes(name.encode())
    index(tmp_path, {"x": "b.safetensors", "y": "a.safetensors", "z": "b.safetensors"})
    assert checkpoints.weights_sha256(tmp_path) == hashlib.sha256(b"ab").hexdigest()
    (tmp_path / INDEX).unlink()
    (tmp_path / "model.safetensors").write_bytes(b"one")
    assert checkpoints.weights_sha256(tmp_path) == hashlib.sha256(b"one").hexdigest()


@pytest.mark.parametrize("end", [[], 96, -1, [2, 96], "2", True, [[2]], 2.0], ids=repr)
def test_end_tokens_that_are_none_of_the_vocabulary_are_refused_before_pytorch_is_asked(
    demo, end, monkeypatch
):
    monkeypatch.setattr(demo.model.generation_config, "eos_token_id", end)
    with pytest.raises(ExportError, match="eos_token_id"):
        _ = demo.end_tokens


@pytest.fixture(scope="module")
def demo():
    return checkpoints.load(CHECKPOINT)


def stages(folder, out, **options):
    """Export; the stages that were begun, and the error."""
    begun = []
    with pytest.raises(ExportError) as caught:
        export_bundle(folder, out, progress=begun.append, **options)
    return begun, str(caught.value)


@pytest.mark.parametrize(
    ("damage", "options", "reason"),
    [
        pytest.param({"generation_config.json": {"eos_token_id": 96}}, {}, "eos_token_id is 96", id="end"),
        pytest.param({}, {"max_length": 40}, "--max-length is 40; the image (36 tokens)", id="short"),
        pytest.param({}, {"max_length": 0}, "--max-length is 0", id="nothing"),
        pytest.param(
            {"preprocessor_config.json": {"size": {"height": 64, "width": 64}}},
            {},
            "makes 64x64; the vision tower takes a square of 96",
            id="canvas",
        ),
    ],
)
def test_settings_that_do_not_fit_are_refused_before_pytorch_is_asked(
    folder, tmp_path, damage, options, reason
):
    for name, changes in damage.items():
        edit(folder / name, **changes)
    begun, error = stages(folder, tmp_path / "bundle", **options)
    assert begun == ["load"]
    assert reason in error


@pytest.mark.parametrize("name", ["n" * 101, "n" * 300])
def test_a_name_that_is_too_long_is_refused_before_anything_is_read(tmp_path, name):
    begun, error = stages(CHECKPOINT, tmp_path / "new" / name)
    assert not begun
    assert f"has {len(name)} characters; a name has at most 100" in error
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("template", "reason"),
    [
        pytest.param(None, "does not have a chat template", id="none"),
        pytest.param("{% if %}", "TemplateSyntaxError", id="syntax"),
        pytest.param("{{ raise_exception('go away') }}", "go away", id="raises"),
        pytest.param("{{ 'a' * 200000 }}", "200000 characters", id="huge"),
        pytest.param("{{ messages[0].nothing.more }}", "UndefinedError", id="undefined"),
    ],
)
def test_a_chat_template_that_fails_is_refused_by_its_name(demo, monkeypatch, template, reason):
    monkeypatch.setattr(demo.processor, "chat_template", template)
    monkeypatch.setattr(demo.processor.tokenizer, "chat_template", None)
    with pytest.raises(ExportError, match=f"chat_template.*{reason}"):
        read(demo)


def read(source):
    """The tokenizer and template of a loaded checkpoint."""
    tokenizer = read_tokenizer(source.processor)
    return tokenizer, read_template(source.processor, tokenizer, source.model.config.image_token_id)


def test_a_special_token_between_image_and_prompt_is_refused_for_a_device_would_spell_it_out(
    demo, monkeypatch
):
    template = "<image></s>\n{{ messages[0]['content'][1]['text'] }}"
    monkeypatch.setattr(demo.processor, "chat_template", template)
    with pytest.raises(ExportError, match="special token '</s>' stands between image and prompt"):
        read(demo)


def test_an_image_token_that_the_tokenizer_numbers_otherwise_is_refused(demo):
    with pytest.raises(ExportError, match="not the config's image token"):
        read_template(demo.processor, read_tokenizer(demo.processor), 95)


def test_what_a_checkpoint_likes_to_do_when_it_generates_does_not_reach_the_reference(folder):
    edit(folder / "generation_config.json", repetition_penalty=1.3, do_sample=True, no_repeat_ngram_size=1)
    source = checkpoints.load(folder)
    tokenizer, template = read(source)
    vision = Vision(source.model, read_normalisation(source.processor.image_processor))
    prompt = "What should the robot do?"
    ids = prompt_ids(tokenizer, template, prompt)
    canvases = self_test.canvases((96, 96), 2)
    want = reference(source.model, vision, ids, prompt, canvases=canvases, steps=12)
    np.testing.assert_array_equal(want.tokens, want.logits.argmax(-1))
    assert all(len(set(row)) < 12 for row in want.tokens.T.tolist()), (
        "a penalty would show only in repetition"
    )


def test_an_added_token_that_is_not_special_is_plain_text_when_a_user_types_it(tmp_path, demo_bundle):
    checkpoint = write(MINIATURES["qwen2, siglip"], tmp_path / "checkpoint")
    make_ordinary(checkpoint, "<image>", "<|im_end|>")
    source = checkpoints.load(checkpoint)
    added = source.processor.tokenizer.added_tokens_decoder
    assert {str(token) for token in added.values() if not token.special} == {"<image>", "<|im_end|>"}
    tokenizer, template = read(source)
    sizes = replace(demo_bundle.manifest.dimensions, vocabulary=512)
    manifest = replace(demo_bundle.manifest, prompt=template, dimensions=sizes)
    content = {manifest.tokenizer: tokenizer.to_str().encode()}
    prompts = PromptEncoder(Bundle(tmp_path, manifest, digest="", contents=content))
    after = prompts.suffix("left")
    assert set(after) & set(added), "the template's own control tokens stay"
    for text in ("<image>", "<|im_end|>"):
        typed = prompts.suffix(f"left {text}")
        assert [token for token in typed if token in added] == [token for token in after if token in added]


def test_a_tolerance_wider_than_most_leads_is_refused(demo_bundle):
    """A shift of all logits changes no token, but is a difference that the margin guard must allow for."""
    want = Case(demo_bundle, CHECKPOINT).want()
    exporter._measured(demo_bundle.path, demo_bundle.manifest, want)
    want.logits[:] += 50
    with pytest.raises(ExportError, match=r"too coarse for this checkpoint.*leads by"):
        exporter._measured(demo_bundle.path, demo_bundle.manifest, want)
