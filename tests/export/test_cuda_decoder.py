"""The decoder for CUDA computes what the standard one does, and is admitted, chosen and named for what it is.

ONNX Runtime has the same operators for the CPU: what they compute is judged there, in float32 too, for which
CUDA has no kernel.
"""

from __future__ import annotations

import copy
import hashlib
import io
import json
import math
import re
import shutil
from contextlib import redirect_stdout

import numpy as np
import onnx
import pytest
from msgspec.structs import replace

from edgers.cli import cli
from edgers_engines import bundle as bundle_module
from edgers_engines.bundle import MANIFEST, Bundle
from edgers_engines.cuda_attention import check_attention
from edgers_engines.decoder_graph import cuda_decoder, standard_decoder
from edgers_engines.engine import open_backend
from edgers_engines.errors import BundleError, InputError
from edgers_engines.graph_shapes import steps
from edgers_engines.graph_work import graph_work
from edgers_engines.memory_plan import _scratch, peak_bytes, plan_memory
from edgers_engines.onnx_graph import read_graph
from edgers_engines.onnxruntime import OnnxRuntimeBackend
from edgers_engines.records import dump
from edgers_engines.self_test import POISON
from edgers_engines.tensorrt import TensorRTBackend
from edgers_engines.text_only import TextQuestion
from edgers_engines.vlm import Question, VisionLanguageModel
from edgers_export import bundle as export_module
from edgers_export.bundle import export_bundle
from edgers_export.errors import ExportError
from edgers_export.parity import compare
from tests.checkpoints import MINIATURES, write
from tests.conftest import CHECKPOINT
from tests.export.case import PROMPT, ROWS, STEPS, Case
from tests.export.test_families import every_value


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory):
    """Grouped heads, biases, and a rotation that is not the plain one."""
    return write(MINIATURES["llama 3 rotation, biases"], tmp_path_factory.mktemp("cuda") / "checkpoint")


@pytest.fixture(scope="module")
def exported(checkpoint):
    """What the command said, and where the bundle is."""
    out, said = checkpoint.parent / "half", io.StringIO()
    with redirect_stdout(said):
        export(checkpoint, out, "fp16")
    return said.getvalue(), out


def export(checkpoint, out, precision):
    options = ["--out", str(out), "--precision", precision, "--cuda-decoder"]
    return cli.main(["export", str(checkpoint), *options], standalone_mode=False)


@pytest.fixture(scope="module")
def half(exported):
    """In half precision, as CUDA takes it."""
    return Bundle.load(exported[1])


@pytest.fixture(scope="module")
def full(checkpoint):
    """In float32, where a difference is no rounding."""
    with pytest.MonkeyPatch.context() as patch:
        for module in (bundle_module, export_module):
            patch.setattr(module, "CUDA_PRECISIONS", ("fp32",))
        return export_bundle(checkpoint, checkpoint.parent / "full", cuda_decoder=True)


@pytest.fixture(scope="module")
def models(full):
    """The standard decoder and the one for CUDA, both on the CPU."""
    graphs = full.manifest.graphs
    return [VisionLanguageModel(full, decoder=of(graphs)) for of in (standard_decoder, cuda_decoder)]


@pytest.fixture(scope="module")
def case(full, checkpoint, models):
    made = Case(full, checkpoint)
    made.runtime = models[1]
    return made


class TestNumbers:
    def test_all_greedy_tokens_equal_generate_from_a_poisoned_cache(self, case):
        measured = compare(case.runtime, case.want())
        assert (measured.equal_tokens, measured.tokens) == (ROWS * STEPS, ROWS * STEPS)
        assert measured.largest_logit_difference < 1e-3

    def test_rows_that_end_leave_the_batch(self, case, models):
        """Each row ends where it would alone, whatever garbage the cache holds."""
        rows = case.want().tokens.T.tolist()
        lengths = {
            end: {row.index(end) if end in row else STEPS for row in rows} for row in rows for end in row
        }
        end = max(lengths, key=lambda token: len(lengths[token]))
        answers = []
        for model in models:
            question = Question(model, PROMPT, rows=ROWS, guard=False, max_new_tokens=STEPS)
            question._end = (end,)
            for array in question._cache.inputs(ROWS).values():
                array[:, :, len(model.shared_prefix) :] = POISON
            several = question.answers(case.canvases)
            alone = [answer for canvas in case.canvases for answer in question.answers(canvas[None])]
            assert [answer.tokens for answer in several] == [answer.tokens for answer in alone]
            answers.append([answer.tokens for answer in several])
        assert answers[0] == answers[1]
        assert {len(tokens) for tokens in answers[0]} == lengths[end]
        assert len(lengths[end]) > 2

    def test_prompts_without_an_image_are_answered_alike(self, models):
        prompts = ["Go left or right?", "Go right or left?"]
        said = []
        for model in models:
            question = TextQuestion(model, [model.prompts.suffix(prompt) for prompt in prompts])
            said.append([answer.tokens for answer in question.answers()])
        assert said[0] == said[1]

    def test_one_row_can_go_on_in_pieces(self, models):
        """Several cannot, in its kernels, so no prefix is shared: it is computed with each row."""
        rng, length = np.random.default_rng(3), 24
        hidden = rng.standard_normal((1, 12, 64)).astype(np.float32)
        found = []
        for model in models:
            question = Question(model, PROMPT, rows=1, guard=False)
            question._cache.fill(POISON)
            logits = np.empty((1, model.bundle.manifest.dimensions.vocabulary), np.float32)
            for first, last in ((0, 5), (5, 9), (9, 10), (10, 12)):
                piece = np.ascontiguousarray(hidden[:, first:last])
                model.decode(piece, first, question._length, question._cache, logits)
            found.append(logits)
        assert length <= question._length
        assert np.abs(found[0] - found[1]).max() < 1e-3
        assert (models[0].shared_prefix, models[1].shared_prefix) == (models[0].prompts.prefix, ())

    def test_half_precision_is_measured_for_both(self, half):
        one, other = half.manifest.parity, half.manifest.graphs.cuda_decoder.parity
        assert min(one.equal_tokens, other.equal_tokens) >= 0.95 * one.tokens
        assert one.largest_logit_difference != other.largest_logit_difference

    @pytest.mark.parametrize("differences", [(0.01, 0.002), (0.002, 0.01)])
    def test_the_tolerance_absorbs_the_rounding_of_both(self, case, full, monkeypatch, differences):
        found = dict(zip(("decoder", "cuda_decoder"), differences, strict=True))
        monkeypatch.setattr(
            export_module,
            "_parity",
            lambda _bundle, decoder, _want: replace(
                full.manifest.parity, largest_logit_difference=found[decoder.name]
            ),
        )
        manifest = export_module._measured(full.path, full.manifest, case.want())
        assert manifest.decoding.margin_tolerance == pytest.approx(4 * 0.01)
        assert manifest.parity.largest_logit_difference == differences[0]
        assert manifest.graphs.cuda_decoder.parity.largest_logit_difference == differences[1]

    def test_a_decoder_that_computes_something_else_is_not_exported(self, case, full):
        """Here one that is told of the position before."""
        decoder = cuda_decoder(full.manifest.graphs)
        late = decoder._replace(
            positions=lambda rows, new, first, length: {
                **decoder.positions(rows, new, first, length),
                "last_index": np.full(rows, first + new - 2, np.int32),
            }
        )
        decoding = replace(full.manifest.decoding, margin_tolerance=math.inf)
        unmeasured = copy.copy(full)
        unmeasured.manifest = replace(full.manifest, decoding=decoding)
        with pytest.raises(ExportError, match=r"with decoder.cuda.onnx\): they are not the same model"):
            export_module._parity(unmeasured, late, case.want())


class TestFiles:
    def test_no_weight_is_stored_twice(self, half):
        graphs = half.manifest.graphs
        standard, own = (
            {(t.offset, t.length) for t in read_graph(half.read(graph.file), for_cuda=cuda).external}
            for graph, cuda in ((graphs.decoder, False), (graphs.cuda_decoder, True))
        )
        tables = sorted(own - standard)
        sizes = half.manifest.dimensions
        assert [length for _, length in tables] == 2 * [sizes.max_length * sizes.head_dim // 2 * 2]

    def test_nothing_is_left_in_it_that_no_node_reads(self, half):
        graph = onnx.load_from_string(half.read("decoder.cuda.onnx")).graph
        read = {name for node in graph.node for name in node.input}
        assert {value.name for value in (*graph.initializer, *graph.input)} <= read

    def test_memory_is_planned_by_the_files(self, half):
        sizes = [path.stat().st_size for path in half.path.iterdir() if path.name != MANIFEST]
        assert plan_memory(half).weights == sum(sizes)

    def test_a_bundle_without_it_says_nothing_of_it(self, demo_bundle):
        assert demo_bundle.manifest.graphs.cuda_decoder is None
        assert b"cuda_decoder" not in dump(demo_bundle.manifest)

    def test_the_type_and_shape_of_every_value_are_known_before_the_graph_runs(self, full):
        sizes = {"batch": 3, "seq": 5, "max_len": 40}
        graph = full.manifest.graphs.cuda_decoder
        found = every_value(full, graph.file, sizes, total_length=np.array([5], np.int32))
        known = dict(pair for step in steps(full.read(graph.file), sizes) for pair in step.outputs)
        assert {name: (value.dtype, value.shape) for name, value in known.items()} == {
            name: (str(array.dtype), array.shape) for name, array in found.items()
        }

    def test_it_computes_in_less_memory(self, full):
        """It never has the scores of an attention."""
        graphs, sizes = full.manifest.graphs, {"batch": 1, "seq": 200, "max_len": 256}
        standard = peak_bytes(full.read(graphs.decoder.file), sizes)
        content = full.read(graphs.cuda_decoder.file)
        assert peak_bytes(content, sizes, for_cuda=True) < standard
        attentions = [step for step in steps(content, sizes) if step.operator == "GroupQueryAttention"]
        assert [_scratch(step) for step in attentions] == 2 * [200 * 64 * 4], "the rotated query"

    def test_it_is_the_same_work_but_for_the_angles_and_none_in_vain(self, full):
        """Angles of positions are looked up, and no position is computed only to be masked."""
        graphs, sizes = full.manifest.graphs, {"batch": 3, "seq": 11, "max_len": 40}
        standard, own = (
            graph_work(full.read(graph.file), sizes) for graph in (graphs.decoder, graphs.cuda_decoder)
        )
        assert standard.total_flops - own.total_flops == 3 * 11 * full.manifest.dimensions.head_dim
        assert standard.executed_flops > own.executed_flops == own.total_flops
        assert (own.cache, own.executed_cache) == (standard.cache, standard.cache)


class TestChoice:
    def test_onnx_runtime_on_cuda_runs_it_and_no_other_backend_does(self, half):
        graphs = half.manifest.graphs
        for kind, provider, want in (
            (OnnxRuntimeBackend, "CUDAExecutionProvider", "cuda_decoder"),
            (OnnxRuntimeBackend, "CPUExecutionProvider", "decoder"),
            (TensorRTBackend, "", "decoder"),
        ):
            backend = object.__new__(kind)
            backend._provider = provider
            assert backend.decoder(graphs).name == want
            assert backend.decoder(replace(graphs, cuda_decoder=None)).name == "decoder"

    def test_the_certificate_can_name_it(self, models):
        assert [model.engine_record("choices").decoder for model in models] == ["decoder", "cuda_decoder"]

    def test_plans_are_built_of_the_standard_one_alone(self, half):
        assert [loaded.name for loaded in half.manifest.loaded][:4] == [
            "graphs.vision",
            "graphs.embed",
            "graphs.decoder",
            "graphs.cuda_decoder",
        ]
        assert [loaded.name for loaded in half.manifest.standard] == [
            "graphs.vision",
            "graphs.embed",
            "graphs.decoder",
        ]

    def test_the_export_says_how_it_compares(self, exported):
        assert re.search(r"/128 tokens as PyTorch .*, with decoder.cuda.onnx \d+/128 tokens", exported[0])

    def test_inspect_shows_it(self, half, capsys):
        assert cli.main(["inspect", str(half.path)], standalone_mode=False) == 0
        out = " ".join(capsys.readouterr().out.split())
        assert "ONNX Runtime decodes by decoder.cuda.onnx" in out
        assert "of decoder.cuda.onnx" in out


class TestRefused:
    def test_another_precision_before_anything_is_read(self, tmp_path):
        with pytest.raises(InputError, match="no kernel for fp32; add --precision fp16"):
            export(tmp_path, tmp_path / "out", "fp32")

    def test_heads_that_it_cannot_rotate(self, tmp_path):
        """The demo's have 24 values."""
        with pytest.raises(ExportError, match="heads of a multiple of 16; this decoder's have 24"):
            export(CHECKPOINT, tmp_path / "out", "fp16")

    def test_a_bundle_in_a_precision_that_it_has_no_kernel_for(self, full):
        with pytest.raises(BundleError, match=r"cuda_decoder, whose operators compute in fp16; \$.precision"):
            Bundle.load(full.path)

    def test_its_graph_in_the_standard_ones_place(self, half, tmp_path):
        """Its operators pass in that one graph, which only one backend reads."""
        root = shutil.copytree(half.path, tmp_path / "bundle")
        manifest = json.loads((root / MANIFEST).read_bytes())
        graphs = manifest["graphs"]
        graphs["decoder"]["file"], graphs["cuda_decoder"]["file"] = (
            graphs["cuda_decoder"]["file"],
            graphs["decoder"]["file"],
        )
        (root / MANIFEST).write_text(json.dumps(manifest))
        with pytest.raises(BundleError, match=r"decoder.cuda.onnx: .*opset_import occurs more than once"):
            Bundle.load(root)

    def test_inputs_of_another_kind(self, half, tmp_path):
        root = shutil.copytree(half.path, tmp_path / "bundle")
        manifest = json.loads((root / MANIFEST).read_bytes())
        manifest["graphs"]["cuda_decoder"]["inputs"][1]["dtype"] = "int64"
        (root / MANIFEST).write_text(json.dumps(manifest))
        with pytest.raises(BundleError, match=r"\$.graphs.cuda_decoder has name last_index, dtype int64"):
            Bundle.load(root)


def attention(model):
    return next(node for node in model.graph.node if node.op_type == "GroupQueryAttention")


def attribute(node, **values):
    node.attribute.extend(onnx.helper.make_attribute(name, value) for name, value in values.items())


def computed_index(model):
    """The kernels would write where the graph pleases."""
    model.graph.node.insert(0, onnx.helper.make_node("Add", ["last_index", "last_index"], ["elsewhere"]))
    attention(model).input[5] = "elsewhere"


def computed_cache(model):
    """A cache by its name, but none that the runtime allocates."""
    model.graph.node.insert(0, onnx.helper.make_node("Identity", ["past.0.key"], ["past.99.key"]))
    attention(model).input[3] = "past.99.key"


def computed_table(model, index):
    """Its shape could be any."""
    model.graph.node.insert(0, onnx.helper.make_node("Neg", ["rotation.cos"], ["table"]))
    attention(model).input[index] = "table"


def norm(model):
    return next(node for node in model.graph.node if node.op_type == "SkipSimplifiedLayerNormalization")


def renew(field, values):
    del field[:]
    field.extend(values)


HOSTILE = {
    "no second operator set": (
        lambda m: m.opset_import.pop(),
        "model.opset_import lacks 'com.microsoft', which a decoder for CUDA is made of",
    ),
    "another second set": (
        lambda m: setattr(m.opset_import[1], "domain", "com.example"),
        r"model.opset_import\[1\] is \('com.example', 1\); only 'com.microsoft' of version 1",
    ),
    "another version": (
        lambda m: setattr(m.opset_import[1], "version", 2),
        r"model.opset_import\[1\] is \('com.microsoft', 2\)",
    ),
    "a third set": (
        lambda m: m.opset_import.add(domain="x", version=1),
        "model.opset_import occurs more than 2",
    ),
    "the sets in the other order": (
        lambda m: m.opset_import.reverse(),
        "asks for the operator domain 'com.microsoft'",
    ),
    "another of the domain's operators": (
        lambda m: setattr(attention(m), "op_type", "BeamSearch"),
        "asks for the operator 'BeamSearch', which is not one of those allowed",
    ),
    "a standard operator in the other domain": (
        lambda m: setattr(next(n for n in m.graph.node if n.op_type == "MatMul"), "domain", "com.microsoft"),
        "asks for the operator 'MatMul'",
    ),
    "its operator in the standard domain": (
        lambda m: attention(m).ClearField("domain"),
        "asks for the operator 'GroupQueryAttention'",
    ),
    "a third domain": (
        lambda m: setattr(attention(m), "domain", "com.example"),
        "asks for the operator domain 'com.example'",
    ),
    "an attribute that no plain decoder needs": (
        lambda m: attribute(attention(m), local_window_size=3),
        r"\(GroupQueryAttention\) has the attribute 'local_window_size': not allowed",
    ),
    "an index that the graph computes": (
        computed_index,
        r"\(GroupQueryAttention\) reads 'elsewhere' as input 5; only the graph's own input last_index",
    ),
    "the index and the length swapped": (
        lambda m: attention(m).input.__setitem__(slice(5, 7), ["total_length", "last_index"]),
        "reads 'total_length' as input 5",
    ),
    "a cache that the graph computes": (computed_cache, "reads 'past.99.key' as input 3"),
    "embeddings as the cache": (
        lambda m: attention(m).input.__setitem__(4, "embeddings"),
        "reads 'embeddings' as input 4",
    ),
    "too few inputs": (
        lambda m: attention(m).input.__delitem__(slice(5, None)),
        r"\(GroupQueryAttention\) has the inputs \[.*; exactly 9 are allowed, all given",
    ),
    "positions that the graph gives, by which its kernels look up": (
        lambda m: attention(m).input.append("rotation.cos"),
        "exactly 9 are allowed",
    ),
    **{
        f"input {index} left out": (
            lambda m, index=index: attention(m).input.__setitem__(index, ""),
            "exactly 9 are allowed, all given",
        )
        for index in (0, 1, 2, 3, 7, 8)
    },
    **{
        f"a computed table as input {index}": (
            lambda m, index=index: computed_table(m, index),
            f"reads 'table' as input {index}; only an initializer is allowed",
        )
        for index in (7, 8)
    },
    **{
        f"outputs {written}": (
            lambda m, written=written: renew(attention(m).output, written),
            r"\(GroupQueryAttention\) has the outputs .*; allowed are",
        )
        for written in (
            ["", "", ""],
            [],
            ["a", "present.0.key"],
            ["a", "", "present.0.value"],
            ["a", "b", "c"],
            ["a", "present.0.key", "present.0.value", "scores"],
        )
    },
    "a norm of two inputs": (
        lambda m: norm(m).input.pop(),
        r"\(SkipSimplifiedLayerNormalization\) has the inputs .*; exactly 3 are allowed",
    ),
    "a norm with a bias": (
        lambda m: norm(m).input.append(norm(m).input[2]),
        r"\(SkipSimplifiedLayerNormalization\) has the inputs .*; exactly 3 are allowed",
    ),
    **{
        f"a norm with the outputs {written}": (
            lambda m, written=written: renew(norm(m).output, written),
            r"\(SkipSimplifiedLayerNormalization\) has the outputs .*; allowed are",
        )
        for written in (["", "", "", "sum"], ["n", "mean", "", "sum"], [""], ["n", "", "", ""])
    },
}


@pytest.mark.parametrize("name", HOSTILE)
def test_a_hostile_decoder_for_cuda_is_refused_by_one_line_that_says_why(half, name):
    damage, says = HOSTILE[name]
    model = onnx.load_from_string(half.read("decoder.cuda.onnx"))
    damage(model)
    with pytest.raises(ValueError, match=says):
        read_graph(model.SerializeToString(), for_cuda=True)


def stored(model, name, shape, kind=onnx.TensorProto.FLOAT16):
    """An initializer that any shape can be given, instead of one in the file of weights or besides."""
    kept = [tensor for tensor in model.graph.initializer if tensor.name != name]
    size = 8 if kind == onnx.TensorProto.INT64 else 2
    bytes_ = bytes(math.prod(shape) * size)
    renew(model.graph.initializer, [*kept, onnx.helper.make_tensor(name, kind, shape, bytes_, raw=True)])


def through(model, index, operator, *more, **attributes):
    """An operator between the attention and what it reads."""
    place = list(model.graph.node).index(attention(model))
    made = onnx.helper.make_node(
        operator, [attention(model).input[index], *more], [f"odd.{len(model.graph.node)}"], **attributes
    )
    attention(model).input[index] = made.output[0]
    model.graph.node.insert(place, made)


def set_attribute(model, name, value):
    next(a for a in attention(model).attribute if a.name == name).i = value


def longer_when_long(model):
    """As many positions as the embeddings have, as long as these are few."""
    numbers = {"from": 64, "to": 128, "axis": 1}
    for name, number in numbers.items():
        tensor = onnx.numpy_helper.from_array(np.array([number]), name)
        model.graph.initializer.append(tensor)
    for index in range(3):
        place = list(model.graph.node).index(attention(model))
        name = attention(model).input[index]
        model.graph.node.insert(place, onnx.helper.make_node("Slice", [name, *numbers], [f"end.{index}"]))
        through(model, index, "Concat", f"end.{index}", axis=1)


def repeated(model):
    """A single position would become three."""
    for index in range(3):
        stored(model, "three", (1, 3, 1))
        through(model, index, "Add", "three")


def from_the_cache(model):
    """As many positions as the cache has."""
    node = attention(model)
    stored(model, "flat", (3,), onnx.TensorProto.INT64)
    flat = onnx.helper.make_node("Reshape", ["past.0.key", "flat"], ["odd"])
    model.graph.node.insert(0, flat)
    tensor = next(t for t in model.graph.initializer if t.name == "flat")
    tensor.raw_data = np.array([2, -1, 32]).tobytes()
    node.input[1] = node.input[2] = "odd"


def counted(model):
    """A number that differs from run to run."""
    made = onnx.helper.make_node("Cast", ["total_length"], ["count"], to=onnx.TensorProto.FLOAT16)
    model.graph.node.insert(0, made)


def counted_weight(model):
    counted(model)
    stored(model, "square", (64, 64))
    model.graph.node.insert(1, onnx.helper.make_node("Add", ["square", "count"], ["weight"]))
    through(model, 0, "MatMul", "weight")


def unknown_then_product(model):
    """What a product keeps, it must have been given."""
    stored(model, "square", (64, 64))
    through(model, 0, "Trilu")
    through(model, 0, "MatMul", "square")


BEYOND = {
    "a table of one dimension": (lambda m: stored(m, "rotation.cos", (256,)), r"rotates by .*cos.* \(256,\)"),
    "a table of too few positions": (
        lambda m: stored(m, "rotation.sin", (255, 8)),
        r"rotates by 'rotation.sin' of shape \(255, 8\); expected at least 256 positions of 8",
    ),
    "a table for other heads": (lambda m: stored(m, "rotation.cos", (256, 16)), "rotates by"),
    "a table of three dimensions": (lambda m: stored(m, "rotation.cos", (256, 8, 1)), "rotates by"),
    "no rotation": (lambda m: set_attribute(m, "do_rotary", 0), "does not rotate; do_rotary = 1 is expected"),
    "more heads than the query has": (lambda m: set_attribute(m, "num_heads", 8), r"expected .*, 128\) for"),
    "no heads": (lambda m: set_attribute(m, "num_heads", 0), "has 0 heads for 2 of the cache"),
    "fewer heads than none": (lambda m: set_attribute(m, "num_heads", -4), "has -4 heads for 2"),
    "heads that no group has": (lambda m: set_attribute(m, "num_heads", 3), "has 3 heads for 2"),
    "other heads than the cache": (
        lambda m: set_attribute(m, "kv_num_heads", 1),
        "has 4 heads for 1 of the cache; expected a multiple of the manifest's 2",
    ),
    "heads that 32 bits do not hold": (
        lambda m: set_attribute(m, "num_heads", (1 << 32) + 4),
        "expected what is made of",
    ),
    "no number of heads": (
        lambda m: attention(m).attribute.remove(
            next(a for a in attention(m).attribute if a.name == "num_heads")
        ),
        "has None heads for 2",
    ),
    "keys with the width of queries": (
        lambda m: attention(m).input.__setitem__(1, attention(m).input[0]),
        r"shape \(2, 3, 64\); expected what is made of .* \(2, 3, 32\) for 2 rows of 3 positions",
    ),
    "more positions than were counted, once there are many": (longer_when_long, "expected what is made of"),
    "more positions than were counted": (repeated, "expected what is made of"),
    "positions that are rows": (
        lambda m: through(m, 0, "Transpose", perm=[1, 0, 2]),
        "expected what is made of",
    ),
    "an operator of which that is not known": (
        lambda m: through(m, 0, "Trilu"),
        "expected what is made of",
    ),
    "what the cache holds": (from_the_cache, "expected what is made of"),
    "a weight that the graph computes": (counted_weight, "expected what is made of"),
    "a product with what is not known": (unknown_then_product, "expected what is made of"),
    "a summand that the graph computes": (
        lambda m: (counted(m), through(m, 0, "Add", "count")),
        "expected what is made of",
    ),
    "a weight for each row": (
        lambda m: (stored(m, "each", (2, 64, 64)), through(m, 0, "MatMul", "each")),
        "expected what is made of",
    ),
}


@pytest.mark.parametrize("name", BEYOND)
def test_an_attention_that_could_reach_beyond_the_cache_is_refused(half, name):
    damage, says = BEYOND[name]
    model = onnx.load_from_string(half.read("decoder.cuda.onnx"))
    damage(model)
    content = model.SerializeToString()
    read_graph(content, for_cuda=True)
    with pytest.raises(ValueError, match=says):
        check_attention(content, half.manifest.dimensions)


def test_a_bundle_with_such_a_decoder_is_refused_before_a_runtime_has_it(half, tmp_path):
    """A flat table ends the process of ONNX Runtime's CPU."""
    root = shutil.copytree(half.path, tmp_path / "bundle")
    model = onnx.load_from_string(half.read("decoder.cuda.onnx"))
    BEYOND["a table of one dimension"][0](model)
    content = model.SerializeToString()
    (root / "decoder.cuda.onnx").write_bytes(content)
    manifest = json.loads((root / MANIFEST).read_bytes())
    file = next(file for file in manifest["files"] if file["path"] == "decoder.cuda.onnx")
    file.update(size=len(content), sha256=hashlib.sha256(content).hexdigest())
    (root / MANIFEST).write_text(json.dumps(manifest))
    with pytest.raises(BundleError, match=r"decoder.cuda.onnx: the GroupQueryAttention .* rotates by"):
        Bundle.load(root)


def test_the_cpu_backend_runs_the_standard_one_of_such_a_bundle(half):
    model = VisionLanguageModel(half, open_backend())
    assert (model.decoder_graph.name, model.decoder.graph.file) == ("decoder", "decoder.onnx")
