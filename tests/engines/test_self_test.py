"""The self-test: a machine or a bundle that computes another model is found out before it certifies."""

import copy

import msgspec
import numpy as np
import onnx
import pytest
from onnx import TensorProto

from edgers_engines import self_test
from edgers_engines.bundle import Bundle
from edgers_engines.errors import BackendError
from edgers_engines.self_test import POISON, canvases, check, forced_logits
from edgers_engines.vlm import VisionLanguageModel
from tests.engines.hostile_bundles import GRAPHS, rehash

FAILED = "the self-test of .* failed on this machine: with {} a logit is {} off"
TOGETHER, ALONE = "2 rows together", "1 rows alone"


@pytest.fixture
def model(demo_model, monkeypatch):
    """The demo model; `wrap` puts a fault behind one of its engines until the test ends."""

    def wrap(engine, before=lambda inputs: inputs, after=lambda _: None):
        run = getattr(demo_model, engine).run

        def faulty(inputs, outputs):
            run(before(inputs), outputs)
            after(outputs)

        monkeypatch.setattr(getattr(demo_model, engine), "run", faulty)
        return demo_model

    demo_model.wrap = wrap
    yield demo_model
    del demo_model.wrap


def refused(model, rows=TOGETHER, difference=r"[\d.e+-]+"):
    with pytest.raises(BackendError, match=FAILED.format(rows, difference)) as caught:
        check(model)
    assert str(model.bundle.path) in str(caught.value)
    assert str(caught.value).isprintable()


def changed(model, **manifest):
    """The same loaded model under another manifest."""
    other, other.bundle = copy.copy(model), copy.copy(model.bundle)
    other.bundle.manifest = msgspec.structs.replace(model.bundle.manifest, **manifest)
    return other


class TestTheModelItself:
    def test_the_demo_bundle_passes(self, model):
        check(model)

    def test_it_runs_when_a_model_is_loaded(self, demo_bundle, monkeypatch):
        seen = []
        monkeypatch.setattr(self_test, "check", seen.append)
        assert [VisionLanguageModel(demo_bundle)] == seen

    def test_it_asks_for_all_rows_together_and_for_one_alone(self, model):
        rows = []
        check(model.wrap("vision", before=lambda i: rows.append(len(i["canvas"])) or i))
        assert rows == [2, 1]

    def test_unwritten_cache_holds_poison_and_the_mask_hides_it(self, model):
        past = []

        def look(inputs):
            past.append({name: array.copy() for name, array in inputs.items() if "past" in name})
            return inputs

        check(model.wrap("decoder", before=look))
        assert all(np.all(array == POISON) for array in past[0].values())
        prefix = len(model.prompts.prefix)
        for array in past[1].values():
            assert np.all(array[:, :, prefix:] == POISON)
            assert not np.any(array[:, :, :prefix] == POISON)

    def test_its_steps_are_the_tokens_that_the_model_chooses(self, model):
        """So what is stored is an answer, and not numbers that any tokens would give."""
        manifest = model.bundle.manifest
        steps = manifest.self_test.steps
        tokens = np.array([[row.tokens[0] for row in step] for step in steps])
        features = model.encode(canvases(manifest.preparation.canvas_size, len(steps[0])))
        logits = forced_logits(model, features, manifest.self_test.prompt, tokens)
        np.testing.assert_array_equal(logits.argmax(axis=2), tokens)
        assert len(np.unique(tokens)) > 1

    def test_its_noise_is_the_same_for_one_row_and_for_many(self, model):
        size = model.bundle.manifest.preparation.canvas_size
        np.testing.assert_array_equal(canvases(size, 8)[:3], canvases(size, 3))
        assert not np.array_equal(*canvases(size, 2))


class TestWeights:
    @pytest.mark.parametrize("name", GRAPHS)
    def test_one_tensor_a_hundredth_larger_fails_though_all_digests_are_true(self, bundle_copy, name):
        graph = onnx.load_model(bundle_copy / name, load_external_data=False).graph
        tensor = next(t for t in graph.initializer if t.data_location == TensorProto.EXTERNAL)
        place = {item.key: item.value for item in tensor.external_data}
        scale(bundle_copy / "weights.bin", int(place["offset"]), int(place["length"]), 1.01)
        rehash(bundle_copy, "weights.bin")
        bundle = Bundle.load(bundle_copy)
        with pytest.raises(BackendError, match=FAILED.format(TOGETHER, r"[\d.e+-]+")):
            VisionLanguageModel(bundle)

    def test_the_same_numbers_written_again_pass(self, bundle_copy):
        """So the test above fails for the change and not for the writing."""
        scale(bundle_copy / "weights.bin", 0, 4096, 1.0)
        rehash(bundle_copy, "weights.bin")
        VisionLanguageModel(Bundle.load(bundle_copy))


def scale(path, offset, length, factor):
    numbers = np.memmap(path, np.float32, "r+", offset, length // 4)
    numbers *= np.float32(factor)
    numbers.flush()


class TestArithmetic:
    def test_a_mask_that_shows_positions_never_written_fails(self, model):
        refused(model.wrap("decoder", lambda i: {**i, "mask": np.ones_like(i["mask"])}))

    def test_a_mask_that_shows_one_position_too_many_fails(self, model):
        def one_more(inputs):
            mask = inputs["mask"].copy()
            mask[..., 1:] |= inputs["mask"][..., :-1]
            return {**inputs, "mask": mask}

        refused(model.wrap("decoder", one_more))

    def test_a_mask_that_hides_the_first_position_fails(self, model):
        def hiding(inputs):
            mask = inputs["mask"].copy()
            mask[..., 0] &= mask.shape[2] != 1  # in decode steps only
            return {**inputs, "mask": mask}

        refused(model.wrap("decoder", hiding))

    def test_positions_that_are_late_by_one_fail(self, model):
        def late(inputs):
            start, length = inputs["write_index"], inputs["mask"].shape[3]
            fits = start[0] + inputs["embeddings"].shape[1] < length
            return {**inputs, "write_index": start + (fits and start[0] > 0)}

        refused(model.wrap("decoder", late))

    def test_rows_that_are_coupled_a_little_fail(self, model):
        """A row alone is right."""

        def mixed(outputs):
            features = outputs["features"]
            features += np.float32(0.001) * (features.mean(axis=0, keepdims=True) - features)

        refused(model.wrap("vision", after=mixed))

    def test_a_row_that_is_right_among_others_and_wrong_alone_fails(self, model):
        def alone(outputs):
            if len(outputs["logits"]) == 1:
                outputs["logits"] += np.float32(0.01)

        refused(model.wrap("decoder", after=alone), ALONE)

    def test_swapped_rows_fail(self, model):
        def swapped(outputs):
            outputs["logits"][:] = outputs["logits"][::-1].copy()

        refused(model.wrap("decoder", after=swapped))

    def test_the_noise_of_the_next_sample_fails(self, model):
        refused(model.wrap("vision", lambda i: {"canvas": np.roll(i["canvas"], 1, axis=0)}))

    @pytest.mark.parametrize("number", [np.nan, np.inf, -np.inf], ids=["nan", "inf", "minus-inf"])
    def test_logits_that_are_not_finite_fail_whatever_the_tolerance(self, model, number):
        def broken(outputs):
            outputs["logits"][-1] = number

        lax = msgspec.structs.replace(model.bundle.manifest.decoding, margin_tolerance=1e308)
        refused(changed(model.wrap("decoder", after=broken), decoding=lax), difference="(nan|inf)")

    def test_logits_in_half_precision_fail(self, model):
        def rounded(outputs):
            outputs["logits"][:] = outputs["logits"].astype(np.float16)

        refused(model.wrap("decoder", after=rounded))

    def test_an_embedding_of_the_next_token_fails(self, model):
        refused(model.wrap("embed", lambda i: {"input_ids": (i["input_ids"] + 1) % 96}))

    def test_a_backend_that_runs_out_of_memory_is_an_error_of_one_line(self, model):
        def full(_):
            raise MemoryError

        with pytest.raises(BackendError, match="not enough memory for the self-test of"):
            check(model.wrap("vision", after=full))


class TestTolerance:
    @pytest.mark.parametrize(("factor", "passes"), [(0.5, True), (1.5, False)])
    def test_the_bundles_margin_tolerance_is_the_limit(self, model, factor, passes):
        """Every step's best logit is moved by a part of it, or by more."""
        tolerance = 0.01
        decoding = msgspec.structs.replace(model.bundle.manifest.decoding, margin_tolerance=tolerance)

        def moved(outputs):
            outputs["logits"] += np.float32(factor * tolerance)

        moved_model = changed(model.wrap("decoder", after=moved), decoding=decoding)
        if passes:
            check(moved_model)
        else:
            refused(moved_model, difference="0.015")

    @pytest.mark.parametrize(("step", "row"), [(0, 0), (0, 1), (3, 0), (3, 1)])
    def test_every_step_and_row_is_compared(self, model, step, row):
        stored = model.bundle.manifest.self_test
        steps = [list(rows) for rows in stored.steps]
        answer = steps[step][row]
        steps[step][row] = msgspec.structs.replace(
            answer, logits=(*answer.logits[:-1], answer.logits[-1] + 0.5)
        )
        other = msgspec.structs.replace(stored, steps=tuple(map(tuple, steps)))
        refused(changed(model, self_test=other), difference="0.5")

    def test_a_question_that_no_memory_holds_is_not_begun(self, model, monkeypatch):
        monkeypatch.setattr("os.sysconf", {"SC_PAGE_SIZE": 1, "SC_PHYS_PAGES": 1}.__getitem__)
        with pytest.raises(BackendError, match="not enough memory for the self-test"):
            check(model)
