"""Stages: the sizes of a question are those it is asked with, and every stage runs its graph at them."""

from __future__ import annotations

import pytest

from edgers import demo
from edgers_engines import peaks
from edgers_engines.decoder_graph import DecoderGraph
from edgers_engines.errors import BundleError, InputError
from edgers_engines.graph_work import graph_work
from edgers_engines.stages import question_sizes, stage_works, time_stages
from edgers_engines.vlm import Question


@pytest.fixture
def asked(demo_model, monkeypatch):
    """Every run of a graph: its file, and the shapes and first positions that it got."""
    found = []
    for engine in (demo_model.vision, demo_model.decoder):

        def run(inputs, outputs, engine=engine, before=engine.run):
            first = int(inputs["write_index"][0]) if "write_index" in inputs else None
            shapes = {name: array.shape for name, array in inputs.items()}
            found.append((engine.graph.file, shapes, first))
            before(inputs, outputs)

        monkeypatch.setattr(engine, "run", run)
    return found


class TestSizes:
    def test_they_are_those_of_a_question_that_is_answered(self, demo_model, asked, demo_bundle):
        sizes = question_sizes(demo_bundle, 5, demo.PROMPT, 4)
        question = Question(demo_model, demo.PROMPT, rows=5, max_new_tokens=4, guard=False)
        canvases = question.device.empty((5, 3, 96, 96), "float32")
        question.device.fill(canvases, 0.5)
        asked.clear()
        question.answers(canvases)
        _, (file, shapes, first), *_ = asked
        assert file == "decoder.onnx"
        assert (shapes["embeddings"][:2], first) == ((5, sizes.new), sizes.prefix)
        assert shapes["mask"][3] == sizes.length

    def test_the_bundles_own_question_and_longest_answer_unless_others_are_given(self, demo_bundle):
        manifest = demo_bundle.manifest
        sizes = question_sizes(demo_bundle, 5)
        assert (sizes.prompt, sizes.tokens) == (manifest.self_test.prompt, manifest.decoding.max_new_tokens)
        longer = question_sizes(demo_bundle, 5, "what should the robot do ? left , right ?")
        assert longer.new > sizes.new

    def test_an_answer_of_one_token_leaves_room_for_the_step_that_is_looked_at(self, demo_bundle):
        one, two = (question_sizes(demo_bundle, 5, tokens=tokens) for tokens in (1, 2))
        assert one.length == two.length == one.prefix + one.new + 1

    def test_where_the_decoder_cannot_share_the_prefix_every_row_has_it(self, demo_bundle):
        shared = question_sizes(demo_bundle, 5)
        decoder = DecoderGraph("cuda_decoder", demo_bundle.manifest.graphs.decoder, False, lambda *_: {})
        own = question_sizes(demo_bundle, 5, decoder=decoder)
        assert shared.prefix > 0
        assert (own.prefix, own.new, own.length) == (0, shared.prefix + shared.new, shared.length)

    @pytest.mark.parametrize(("rows", "tokens"), [(0, 4), (5, 0)])
    def test_no_rows_and_no_tokens_are_refused(self, demo_bundle, rows, tokens):
        with pytest.raises(InputError, match="both numbers must be at least 1"):
            question_sizes(demo_bundle, rows, tokens=tokens)

    def test_more_positions_than_the_model_has_are_refused(self, demo_bundle):
        with pytest.raises(InputError, match="this model has 256: shorten"):
            question_sizes(demo_bundle, 5, tokens=240)


class TestWorks:
    def test_each_stage_is_its_graph_at_its_place(self, demo_bundle):
        sizes = question_sizes(demo_bundle, 5, tokens=9)
        works = stage_works(demo_bundle, sizes)
        decoder, length = demo_bundle.read("decoder.onnx"), {"batch": 5, "max_len": sizes.length}
        assert works == {
            "vision": graph_work(demo_bundle.read("vision.onnx"), {"batch": 5}),
            "prefill": graph_work(decoder, {**length, "seq": sizes.new}, sizes.prefix),
            "decode step": graph_work(decoder, {**length, "seq": 1}, sizes.prefix + sizes.new),
        }

    def test_a_graph_that_cannot_be_counted_is_named(self, demo_bundle, monkeypatch):
        def refuse(*_):
            raise ValueError("the shapes of Einsum are not known")

        monkeypatch.setattr("edgers_engines.stages.graph_work", refuse)
        with pytest.raises(BundleError, match=r"the work of vision\.onnx cannot be counted: .*Einsum"):
            stage_works(demo_bundle, question_sizes(demo_bundle, 5))


def test_what_is_timed_is_what_was_counted(demo_model, demo_bundle, asked, monkeypatch):
    """Two runs that are not kept, five that are, of each stage; before them one that fills the prompt in."""
    monkeypatch.setattr(peaks, "_SECONDS", 0)
    sizes = question_sizes(demo_bundle, 4, demo.PROMPT, 6)
    times = time_stages(demo_model, sizes)
    assert [(name, len(tries)) for name, tries in times.items()] == [
        ("vision", 5),
        ("prefill", 5),
        ("decode step", 5),
    ]
    assert [file for file, *_ in asked] == ["vision.onnx"] * 8 + ["decoder.onnx"] * 14
    for place, new, first in ((8, sizes.new, sizes.prefix), (15, 1, sizes.prefix + sizes.new)):
        for _, shapes, found in asked[place : place + 7]:
            assert (shapes["embeddings"], found) == ((4, new, 96), first)
            assert shapes["past.0.key"][2] == sizes.length


def test_the_prompt_that_is_timed_is_the_one_that_is_asked(demo_model, demo_bundle, monkeypatch):
    """The block that is prefilled holds what a question's does: nothing is NaN, nothing is left out."""
    monkeypatch.setattr(peaks, "_SECONDS", 0)
    blocks, before = [], demo_model.decoder.run

    def run(inputs, outputs):
        blocks.append(inputs["embeddings"].copy())
        before(inputs, outputs)

    monkeypatch.setattr(demo_model.decoder, "run", run)
    sizes = question_sizes(demo_bundle, 2, demo.PROMPT, 2)
    time_stages(demo_model, sizes)
    question = Question(demo_model, demo.PROMPT, rows=2, guard=False, max_new_tokens=2)
    text = sizes.new - demo_bundle.manifest.dimensions.image_tokens
    assert (blocks[0][:, -text:] == question._block[:, -text:]).all()
    assert abs(blocks[0][0, :-text] - blocks[0][1, :-text]).max() > 0.01, "two noisy canvases"
