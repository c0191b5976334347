"""Checkpoint directory in, bundle directory out: what is written, and what is refused."""

from __future__ import annotations

import json
import re
import shutil
import sys

import onnx
import pytest
from safetensors.torch import load_file, save_file

from edgers import cli
from edgers_engines.bundle import Bundle
from edgers_engines.errors import InputError
from edgers_export import bundle as exporter
from edgers_export import llava
from edgers_export.bundle import export_bundle
from edgers_export.errors import ExportError
from tests import checkpoints
from tests.conftest import CHECKPOINT


@pytest.fixture
def checkpoint(tmp_path):
    """A copy of the demo checkpoint that a test may damage."""
    return shutil.copytree(CHECKPOINT, tmp_path / "checkpoint")


def test_the_bundle_passes_its_own_checks_and_names_its_weights(demo_export):
    again = Bundle.load(demo_export.path)
    assert again.digest == demo_export.digest
    assert again.manifest.provenance.tools.keys() == {"edgers", "torch", "transformers", "onnx"}


def test_preparation_prompt_and_sizes_come_from_the_checkpoint(demo_export):
    manifest = demo_export.manifest
    assert manifest.preparation.exact == (96, 96)
    assert manifest.preparation.filter == "bilinear"
    assert (manifest.prompt.text_before, manifest.prompt.text_after) == ("\n", " ASSISTANT:")
    assert manifest.dimensions.image_tokens == 36
    assert manifest.decoding.end_tokens == (2,)


def test_the_margin_tolerance_follows_from_what_was_measured_and_is_never_finer_than_rounding(demo_export):
    manifest = demo_export.manifest
    largest = max(row.logits[0] for step in manifest.self_test.steps for row in step)
    measured = exporter.MARGIN_FACTOR * manifest.parity.largest_logit_difference
    assert measured <= manifest.decoding.margin_tolerance < 0.01
    assert manifest.decoding.margin_tolerance >= exporter.FINEST_MARGIN * largest


@pytest.mark.parametrize("name", ["vision.onnx", "embed.onnx", "decoder.onnx"])
def test_graphs_are_standard_onnx_with_named_dimensions_and_nothing_of_this_machine(demo_export, name):
    content = demo_export.read(name)
    model = onnx.load_from_string(content)
    assert {node.domain for node in model.graph.node} == {""}
    assert [entry.version for entry in model.opset_import if entry.domain == ""] == [24]
    first = model.graph.input[0].type.tensor_type.shape.dim[0]
    assert first.dim_param == "batch"
    assert not re.search(rb"site-packages|\.py|/home|/tmp", content)


def test_the_decoder_writes_its_cache_in_standard_operators(demo_export):
    graph = onnx.load_from_string(demo_export.read("decoder.onnx")).graph
    operators = [node.op_type for node in graph.node]
    layers = demo_export.manifest.dimensions.layers
    assert operators.count("TensorScatter") == 2 * layers
    assert operators.count("Attention") == layers


@pytest.mark.parametrize(
    ("damage", "reason"),
    [
        pytest.param(lambda c: (c / "config.json").unlink(), "config.json", id="no config"),
        pytest.param(lambda c: (c / "model.safetensors").unlink(), "safetensors", id="no weights"),
        pytest.param(
            lambda c: (c / "model.safetensors").rename(c / "pytorch_model.bin"),
            "pickled",
            id="pickled",
        ),
        pytest.param(
            lambda c: (c / "model.safetensors").write_bytes(b"\0" * 100), "cannot load", id="broken weights"
        ),
        pytest.param(lambda c: (c / "tokenizer.json").unlink(), "no tokenizer.json", id="no tokenizer"),
        pytest.param(
            lambda c: (c / "preprocessor_config.json").unlink(), "no preprocessor_config", id="no processor"
        ),
        pytest.param(
            lambda c: [(c / name).unlink() for name in ("tokenizer.json", "model.safetensors")],
            "no .*safetensors.* and no tokenizer.json",
            id="two things",
        ),
        pytest.param(lambda c: (c / "config.json").write_text("[1]"), "not a JSON object", id="a list"),
        pytest.param(lambda c: (c / "config.json").write_text("{"), "not JSON", id="config cut short"),
        pytest.param(
            lambda c: edit(c / "config.json", model_type="llama"), "is a llama checkpoint", id="no LLaVA"
        ),
        pytest.param(
            lambda c: edit(c / "config.json", auto_map={"AutoConfig": "evil.Config"}),
            "config.json wants code",
            id="remote code for the model",
        ),
        pytest.param(
            lambda c: edit(c / "preprocessor_config.json", auto_map={"AutoProcessor": "evil.Processor"}),
            "preprocessor_config.json wants code",
            id="remote code for the processor",
        ),
        pytest.param(
            lambda c: (c / "model.safetensors.index.json").write_text(
                json.dumps({"weight_map": {"a": "model.safetensors", "b": "model-00002.safetensors"}})
            ),
            "no model-00002.safetensors",
            id="a shard is missing",
        ),
        pytest.param(lambda c: drop(c, "lm_head.weight"), "lack lm_head.weight", id="a tensor is missing"),
        pytest.param(
            lambda c: edit_part(c, "vision_config", model_type="siglip2_vision_model"),
            "siglip2_vision_model; clip_vision_model, siglip",
            id="unknown tower",
        ),
        pytest.param(
            lambda c: edit_part(c, "text_config", model_type="gemma"), "gemma; llama", id="unknown decoder"
        ),
        pytest.param(
            lambda c: edit_part(c, "text_config", rope_scaling={"rope_type": "dynamic", "factor": 2.0}),
            "'dynamic', which changes with the text",
            id="positions that move",
        ),
        pytest.param(
            lambda c: (c / "chat_template.jinja").write_text("{{ messages[0]['content'][1]['text'] }}"),
            "one image before one prompt",
            id="a template without an image",
        ),
        pytest.param(
            lambda c: edit(c / "preprocessor_config.json", do_resize=False), "must resize", id="no resize"
        ),
        pytest.param(
            lambda c: edit(c / "preprocessor_config.json", resample=0), "nearest", id="not a linear filter"
        ),
    ],
)
def test_a_checkpoint_that_lacks_something_is_refused(checkpoint, tmp_path, damage, reason):
    damage(checkpoint)
    with pytest.raises(ExportError, match=reason):
        export_bundle(checkpoint, tmp_path / "out" / "bundle")
    assert not list(tmp_path.glob("out/*")), "nothing half-written stays"


def test_a_folder_name_with_blanks_still_makes_a_bundle_that_loads(demo_export):
    assert demo_export.path.name == "demo bundle"
    assert demo_export.manifest.name == "demo-bundle"


def test_what_is_there_already_is_not_overwritten(tmp_path):
    (tmp_path / "bundle").mkdir()
    with pytest.raises(InputError, match="there already"):
        export_bundle(CHECKPOINT, tmp_path / "bundle")


def test_graphs_that_answer_otherwise_than_pytorch_are_refused(tmp_path, monkeypatch):
    right, write = llava.Vision.forward, exporter.write_graphs

    def mirrored(*arguments, **options):
        monkeypatch.setattr(llava.Vision, "forward", lambda self, canvas: right(self, canvas.flip(-1)))
        return write(*arguments, **options)

    monkeypatch.setattr(exporter, "write_graphs", mirrored)
    with pytest.raises(ExportError, match="not the same model"):
        export_bundle(CHECKPOINT, tmp_path / "bundle")
    assert not (tmp_path / "bundle").exists()


@pytest.fixture(scope="module")
def short(miniature_checkpoint, tmp_path_factory):
    """A bundle of few positions, in the newest opset."""
    out = tmp_path_factory.mktemp("short") / "bundle"
    return export_bundle(miniature_checkpoint, out, max_length=64, opset=25)


def test_a_bundle_ends_where_it_is_told_to_or_where_the_decoder_does(short, tmp_path):
    assert short.manifest.dimensions.max_length == 64
    with pytest.raises(ExportError, match="--max-length is 257; this decoder has between 1 and 256"):
        export_bundle(CHECKPOINT, tmp_path / "long", max_length=257)


def test_a_bundle_ends_where_a_sliding_window_does(tmp_path):
    name = "mistral, sliding window, clip"
    checkpoint = checkpoints.write(checkpoints.MINIATURES[name], tmp_path / "checkpoint")
    with pytest.raises(ExportError, match="between 1 and 128 positions"):
        export_bundle(checkpoint, tmp_path / "bundle", max_length=129)


def test_the_newest_opset_that_is_offered_works_too(short):
    assert short.manifest.opset == 25
    assert onnx.load_from_string(short.read("decoder.onnx")).opset_import[0].version == 25
    assert short.manifest.parity.equal_tokens == short.manifest.parity.tokens


def edit_part(folder, part, **changes):
    """Change fields of one part of config.json."""
    config = json.loads((folder / "config.json").read_text())
    edit(folder / "config.json", **{part: {**config[part], **changes}})


def drop(folder, name):
    """Take one tensor out of the weights."""
    tensors = load_file(folder / "model.safetensors")
    del tensors[f"language_model.{name}"]
    save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})


def edit(path, **changes):
    """Change fields of a JSON file."""
    path.write_text(json.dumps({**json.loads(path.read_text()), **changes}))


def test_rules_in_files_become_oracles_and_those_never_reached_are_told(
    miniature_checkpoint, tmp_path, monkeypatch, capsys
):
    names = ("first", "second")
    for name in names:
        rules = [{"pattern": "*", "label": name}, {"pattern": "left *", "label": "left", "unless": ["* no"]}]
        text = json.dumps({"kind": "rules", "name": name, "rules": rules, "field": "action"})
        (tmp_path / f"{name}.json").write_text(text)
    files = [part for name in names for part in ("--rules", str(tmp_path / f"{name}.json"))]
    monkeypatch.setattr(
        sys, "argv", ["edgers", "export", str(miniature_checkpoint), "--out", str(tmp_path / "out"), *files]
    )
    with pytest.raises(SystemExit) as stop:
        cli.main()
    told = capsys.readouterr()
    assert stop.value.code == 0, told
    oracles = Bundle.load(tmp_path / "out").manifest.oracles
    assert [(oracle.name, oracle.field, oracle.rules[1].unless) for oracle in oracles] == [
        (name, "action", ("* no",)) for name in names
    ]
    warnings = [line for line in told.err.splitlines() if "warning" in line]
    assert warnings == [
        f"edgers: warning: oracle {name}, rule 2 'left *' → left: never reached, "
        "all its texts are taken by rule 1"
        for name in names
    ]
