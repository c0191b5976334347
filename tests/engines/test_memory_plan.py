"""Memory, predicted: by hand on a small graph, and from what the demo bundle holds."""

from __future__ import annotations

import numpy as np
import pytest
from msgspec.structs import replace
from onnx import TensorProto, helper, numpy_helper

from edgers_engines import memory
from edgers_engines.device_profile import device_profile, device_profiles
from edgers_engines.errors import InputError
from edgers_engines.memory_plan import MemoryPlan, peak_bytes, plan_memory, wide_bytes


def graph(nodes, inputs, outputs, **constants):
    """ONNX bytes of float32 values and int64 constants."""
    made = helper.make_graph(
        [helper.make_node(operator, reads, [writes], **more) for operator, reads, writes, more in nodes],
        "graph",
        *(
            [helper.make_tensor_value_info(name, TensorProto.FLOAT, shape) for name, shape in side.items()]
            for side in (inputs, outputs)
        ),
        [numpy_helper.from_array(np.array(value), name) for name, value in constants.items()],
    )
    return helper.make_model(
        made, opset_imports=[helper.make_opsetid("", 24)], ir_version=10
    ).SerializeToString()


class TestPeak:
    def test_it_is_the_most_that_lives_at_one_time(self):
        """X -> a -> b -> c -> y: two neighbours live at once, and y is the caller's."""
        chain = [
            ("Cos", ["x"], "a", {}),
            ("Sin", ["a"], "b", {}),
            ("Exp", ["b"], "c", {}),
            ("Neg", ["c"], "y", {}),
        ]
        content = graph(chain, {"x": ["batch", 10]}, {"y": ["batch", 10]})
        assert peak_bytes(content, {"batch": 3}) == 2 * 3 * 10 * 4

    def test_what_is_read_later_lives_until_then(self):
        nodes = [
            ("Cos", ["x"], "a", {}),
            ("Sin", ["a"], "b", {}),
            ("Exp", ["b"], "c", {}),
            ("Add", ["a", "c"], "y", {}),
        ]
        content = graph(nodes, {"x": [10]}, {"y": [10]})
        assert peak_bytes(content, {}) == 3 * 10 * 4

    def test_a_view_takes_nothing_and_keeps_its_source(self):
        nodes = [
            ("Cos", ["x"], "a", {}),
            ("Reshape", ["a", "shape"], "b", {}),
            ("Transpose", ["b"], "c", {}),
            ("MatMul", ["b", "c"], "y", {}),
        ]
        content = graph(nodes, {"x": [12]}, {"y": [3, 3]}, shape=np.array([3, 4]))
        assert peak_bytes(content, {}) == 2 * 12 * 4

    def test_an_attentions_scores_count(self):
        nodes = [
            ("Cos", ["q"], "a", {}),
            ("Attention", ["a", "k", "v"], "b", {}),
            ("Neg", ["b"], "y", {}),
        ]
        shapes = {"q": ["batch", 2, 5, 8], "k": ["batch", 2, 100, 8], "v": ["batch", 2, 100, 8]}
        content = graph(nodes, shapes, {"y": ["batch", 2, 5, 8]})
        assert peak_bytes(content, {"batch": 3}) == 4 * 3 * 2 * (5 * 8 + 5 * 8 + 5 * 100)

    def test_what_goes_out_is_the_callers_also_where_it_is_read_again(self):
        """As the cache is."""
        nodes = [("Cos", ["x"], "present", {}), ("Sin", ["present"], "y", {})]
        content = graph(nodes, {"x": [10]}, {"present": [10], "y": [10]})
        assert peak_bytes(content, {}) == 0

    def test_a_widened_weight_is_the_same_for_all_rows(self):
        """Of two weights of int4 and int8 the larger counts, once and in the type of its scales."""
        nodes = [
            ("DequantizeLinear", ["four", "half"], "v", {"axis": 0, "block_size": 32}),
            ("QuantizeLinear", ["x", "scale", "zero"], "c", {}),
            ("DequantizeLinear", ["c", "scale", "zero"], "r", {}),
            ("Cast", ["r"], "h", {"to": TensorProto.FLOAT16}),
            ("MatMul", ["h", "v"], "a", {}),
            ("Cast", ["a"], "b", {"to": TensorProto.FLOAT}),
            ("DequantizeLinear", ["eight", "one"], "w", {"axis": 1}),
            ("MatMul", ["b", "w"], "y", {}),
        ]
        constants = {
            "four": np.zeros((64, 100), helper.tensor_dtype_to_np_dtype(TensorProto.INT4)),
            "half": np.ones((2, 100), np.float16),
            "eight": np.zeros((100, 40), np.int8),
            "one": np.ones(40, np.float32),
            "scale": np.float32(1),
            "zero": np.int8(0),
        }
        content = graph(nodes, {"x": ["batch", 64]}, {"y": ["batch", 40]}, **constants)
        assert wide_bytes(content, {"batch": 3}) == max(64 * 100 * 2, 100 * 40 * 4)
        assert peak_bytes(content, {"batch": 3}) == 3 * 100 * (2 + 4)
        assert wide_bytes(content, {"batch": 1000}) == wide_bytes(content, {"batch": 3})

    def test_an_operator_that_is_not_known_is_named(self):
        content = graph(
            [("Einsum", ["x", "x"], "y", {"equation": "ij,kj->ik"})], {"x": [2, 2]}, {"y": [2, 2]}
        )
        with pytest.raises(ValueError, match=r"node\[0\]: the shapes of Einsum are not known"):
            peak_bytes(content, {})


class TestPlan:
    def test_a_sample_takes_what_is_allocated_for_it_and_what_it_is_computed_in(self, demo_bundle):
        plan, sizes = plan_memory(demo_bundle, 100), demo_bundle.manifest.dimensions
        cache = 2 * sizes.layers * sizes.kv_heads * 100 * sizes.head_dim * 4
        held = (sizes.image_tokens + 100) * sizes.hidden * 4 + sizes.vocabulary * 4 + 2 * 3 * 96 * 96 * 4
        assert (plan.cache, plan.held) == (cache, held)
        assert plan.weights == memory.needed(demo_bundle.manifest).weights
        assert plan.sample == cache + held + plan.computing
        assert 3 * 96 * 96 * 4 < plan.computing < 2_000_000

    @pytest.mark.parametrize(("positions", "larger"), [(50, "vision"), (256, "decoder")])
    def test_it_is_computed_in_as_much_as_the_graph_needs_that_needs_most(
        self, demo_bundle, positions, larger
    ):
        """Graphs run one after the other."""
        graphs, answer = demo_bundle.manifest.graphs, demo_bundle.manifest.decoding.max_new_tokens
        sizes = {"batch": 1, "seq": positions - answer, "max_len": positions}
        peaks = {
            name: peak_bytes(demo_bundle.read(record.file), sizes)
            for name, record in (("vision", graphs.vision), ("decoder", graphs.decoder))
        }
        assert max(peaks, key=peaks.__getitem__) == larger
        assert min(peaks.values()) < max(peaks.values()) == plan_memory(demo_bundle, positions).computing

    def test_a_longer_question_computes_in_more(self, demo_bundle):
        short, long = (plan_memory(demo_bundle, positions) for positions in (60, 200))
        assert short.computing < long.computing
        assert short.cache < long.cache

    @pytest.mark.parametrize("positions", [10, 1 << 20])
    def test_positions_that_the_model_does_not_have_are_refused(self, demo_bundle, positions):
        with pytest.raises(InputError, match=f"{positions} positions; this model takes"):
            plan_memory(demo_bundle, positions)

    def test_rows_are_what_fits_beside_the_weights(self):
        plan = MemoryPlan(weights=1000, positions=1, cache=50, held=30, computing=20)
        assert [plan.rows(free) for free in (0, 1000, 1099, 1100, 1299, 1300)] == [0, 0, 0, 1, 2, 3]
        assert [plan.missing(free) for free in (0, 1000, 1099, 1100)] == [1100, 100, 1, 0]


class TestProfiles:
    def test_those_that_were_promised_are_there_the_smallest_first(self):
        names = ["orin-nano-8", "orin-nx-16", "rtx-4090-24", "orin-agx-64", "thor-128", "h200-141"]
        profiles = device_profiles()
        assert [profile.name for profile in profiles] == names
        assert all(0 < profile.free_bytes < profile.memory_bytes for profile in profiles)
        assert [profile.name for profile in profiles if profile.shared] == [
            name for name in names if name.startswith(("orin", "thor"))
        ]

    def test_a_kind_is_found_without_its_memory_where_one_is_meant(self, monkeypatch):
        assert device_profile("orin-agx") == device_profile("orin-agx-64")
        two = [replace(device_profile("orin-agx-64"), name=name) for name in ("orin-agx-32", "orin-agx-64")]
        monkeypatch.setattr("edgers_engines.device_profile.device_profiles", lambda: two)
        with pytest.raises(InputError, match="no device profile 'orin-agx'; choose one of orin-agx-32, orin"):
            device_profile("orin-agx")

    def test_another_one_is_refused_with_those_that_are_known(self):
        with pytest.raises(InputError, match="no device profile 'abacus'; choose one of orin-nano-8, "):
            device_profile("abacus")
