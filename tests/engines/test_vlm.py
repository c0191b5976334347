"""The model at run time: an answer depends on its own canvas alone, whatever its neighbours do."""

import copy
import math
from collections import Counter

import msgspec
import numpy as np
import pytest

from edgers import demo
from edgers_engines.errors import BackendError, InputError
from edgers_engines.image import prepare, read_image
from edgers_engines.noise import Stream, noisy_copies, to_lattice
from edgers_engines.vlm import Answer, Question, Status

ROWS = 30


class Tree:
    """A constraint of this file's own: the answers that are allowed, as token ids."""

    def __init__(self, *answers):
        self.answers = answers

    def allowed(self, tokens):
        behind = [a for a in self.answers if a[: len(tokens)] == tokens]
        return tuple({a[len(tokens)] for a in behind}) if len(behind) > 1 else ()


@pytest.fixture(scope="module")
def canvases(demo_model):
    """Three noisy copies of each of the ten frames: answers of several lengths, some of them close calls."""
    copies = []
    for number, frame in enumerate(demo.frames()):
        canvas = to_lattice(prepare(read_image(frame), demo_model.bundle.manifest.preparation))
        out = np.empty((3, *canvas.shape), np.float32)
        noisy_copies(canvas, 0.4, seed=5, stream=Stream.CERTIFICATION, first=3 * number, out=out)
        copies.append(out)
    mixed = np.concatenate(copies)[np.random.default_rng(1).permutation(ROWS)]
    mixed.flags.writeable = False
    return mixed


@pytest.fixture(scope="module")
def tree(demo_model):
    """Choices of different lengths, two of which begin alike."""
    texts = (
        "forward",
        "left, a box",
        "left, a cone",
        "right",
        "stop, a person blocks the way",
        "stop, there",
    )
    return Tree(*(demo_model.prompts.answer(demo.PROMPT, text) for text in texts))


@pytest.fixture(scope="module")
def ask(demo_model):
    def ask(rows=ROWS, *, model=demo_model, prompt=demo.PROMPT, **options):
        return Question(model, prompt, rows=rows, **options)

    return ask


@pytest.fixture(scope="module")
def alone(ask, canvases, tree):
    """Every canvas answered in a batch of its own: free text, and within the tree."""
    return {constraint: batched(ask(1, constraint=constraint), canvases, 1) for constraint in (None, tree)}


def batched(question, canvases, size):
    """All answers, `size` canvases at a time."""
    starts = range(0, len(canvases), size)
    return [answer for start in starts for answer in question.answers(canvases[start : start + size])]


def said(answers):
    """What must be equal; a margin may differ in its last bits."""
    return [(answer.tokens, answer.text, answer.status) for answer in answers]


def decoding(model, **changes):
    """The same loaded model under other decoding settings."""
    other, other.bundle = copy.copy(model), copy.copy(model.bundle)
    settings = msgspec.structs.replace(model.bundle.manifest.decoding, **changes)
    other.bundle.manifest = msgspec.structs.replace(model.bundle.manifest, decoding=settings)
    return other


@pytest.fixture
def decoder_runs(demo_model, monkeypatch):
    """(rows, positions) of every run of the decoder."""
    runs, run = [], demo_model.decoder.run

    def noting(inputs, outputs):
        runs.append(inputs["embeddings"].shape[:2])
        run(inputs, outputs)

    monkeypatch.setattr(demo_model.decoder, "run", noting)
    return runs


@pytest.fixture
def nan_at_step(demo_model, monkeypatch):
    """From the given decode step on, the embedding of row `row` of the shrinking batch is NaN, once."""

    def arm(step, row):
        run, seen = demo_model.embed.run, Counter()

        def poisoning(inputs, outputs):
            run(inputs, outputs)
            seen["steps"] += 1
            if seen["steps"] == step:
                outputs["embeddings"][row] = np.nan

        monkeypatch.setattr(demo_model.embed, "run", poisoning)

    return arm


@pytest.fixture(params=[False, True], ids=["free-text", "constrained"])
def constraint(request, tree):
    return tree if request.param else None


@pytest.fixture
def expected(alone, constraint):
    """The answers of the canvases asked alone."""
    return alone[constraint]


class TestBatches:
    @pytest.mark.parametrize("size", [1, 7, 25, ROWS])
    def test_a_batch_of_any_size_gives_the_answers_of_canvases_asked_alone(
        self, ask, canvases, constraint, expected, size
    ):
        answers = batched(ask(size, constraint=constraint), canvases, size)
        assert said(answers) == said(expected)
        for answer, other in zip(answers, expected, strict=True):
            assert answer.margin == pytest.approx(other.margin, abs=1e-3)

    def test_the_order_of_the_canvases_is_the_order_of_the_answers(self, ask, canvases, constraint, expected):
        answers = ask(constraint=constraint).answers(np.ascontiguousarray(canvases[::-1]))
        assert said(answers[::-1]) == said(expected)

    def test_a_question_may_be_asked_again_and_again_with_other_batches(
        self, ask, canvases, constraint, expected
    ):
        question = ask(constraint=constraint)
        for rows in (ROWS, 1, 12, ROWS):
            assert said(question.answers(canvases[:rows])) == said(expected[:rows])

    def test_rows_that_end_early_leave_the_batch_and_the_others_go_on(
        self, ask, canvases, constraint, expected, decoder_runs
    ):
        """The answers here end at different steps, or this test would show nothing."""
        question = ask(constraint=constraint)
        # Each token is fed back to find the next one or the end; a determined answer needs no end.
        free = [len(a.tokens) - (len(a.tokens) == question.max_new_tokens) for a in expected]
        steps = [len(a.tokens) - 1 for a in expected] if constraint else free
        assert len(set(steps)) > 1
        rows = [sum(needed >= step for needed in steps) for step in range(1, max(steps) + 1)]
        decoder_runs.clear()
        assert said(question.answers(canvases)) == said(expected)
        prefill, *decode = decoder_runs
        assert prefill[0] == ROWS
        assert decode == [(count, 1) for count in rows]

    def test_whatever_stands_in_unwritten_cache_changes_nothing(
        self, ask, canvases, constraint, expected, demo_model
    ):
        question = ask(constraint=constraint)
        for array in question._cache.inputs(ROWS).values():
            array[:, :, len(demo_model.prompts.prefix) :] = 1e4
        assert said(question.answers(canvases)) == said(expected)

    @pytest.mark.parametrize("poison", [np.nan, np.inf, -np.inf], ids=["nan", "inf", "minus-inf"])
    def test_a_canvas_that_is_not_finite_fails_alone_in_this_batch_and_the_next(
        self, ask, canvases, constraint, expected, poison
    ):
        question, bad = ask(constraint=constraint), canvases.copy()
        bad[[3, 17], 1, 40, 50] = poison
        answers = question.answers(bad)
        assert [number for number, a in enumerate(answers) if a.status is Status.FAILED] == [3, 17]
        assert answers[3].tokens == ()
        sound = [number for number in range(ROWS) if number not in (3, 17)]
        assert said(answers[n] for n in sound) == said(expected[n] for n in sound)
        assert said(question.answers(canvases)) == said(expected)

    def test_canvases_are_only_read(self, ask, canvases, constraint):
        before = canvases.copy()
        ask(constraint=constraint).answers(canvases)
        np.testing.assert_array_equal(canvases, before)


class TestFailures:
    def test_a_row_that_turns_nan_while_decoding_fails_alone_in_this_batch_and_the_next(
        self, ask, canvases, alone, nan_at_step
    ):
        """Its NaNs lie where the next batch has not written yet, and 0 times NaN is NaN."""
        question = ask()
        nan_at_step(2, row=4)
        answers = question.answers(canvases)
        assert [number for number, a in enumerate(answers) if a.status is Status.FAILED] == [4]
        assert answers[4].tokens == alone[None][4].tokens[:2]
        assert said(answers[:4] + answers[5:]) == said(alone[None][:4] + alone[None][5:])
        assert said(question.answers(canvases)) == said(alone[None])

    def test_a_batch_that_the_backend_broke_off_leaves_nothing_behind(
        self, ask, canvases, alone, nan_at_step, monkeypatch
    ):
        """Out of memory is answered by asking again with fewer rows: those rows are not to fail for it."""
        question = ask()
        decoder = question._model.decoder
        run, runs = decoder.run, []

        def breaking(inputs, outputs):
            run(inputs, outputs)
            runs.append(None)
            if len(runs) == 3:
                raise BackendError("out of memory")

        nan_at_step(2, row=4)
        monkeypatch.setattr(decoder, "run", breaking)
        with pytest.raises(BackendError, match="out of memory"):
            question.answers(canvases)
        monkeypatch.undo()
        assert said(question.answers(canvases)) == said(alone[None])

    def test_one_infinite_logit_fails_the_row_also_where_the_constraint_hides_it(
        self, ask, canvases, tree, demo_model, monkeypatch
    ):
        run = demo_model.decoder.run
        hidden = next(token for token in range(96) if all(token not in answer for answer in tree.answers))

        def overflowing(inputs, outputs):
            run(inputs, outputs)
            if len(outputs["logits"]) == ROWS:
                outputs["logits"][5, hidden] = -np.inf

        monkeypatch.setattr(demo_model.decoder, "run", overflowing)
        answers = ask(constraint=tree).answers(canvases)
        assert [number for number, a in enumerate(answers) if a.status is Status.FAILED] == [5]


class TestMarginGuard:
    def test_under_an_enormous_tolerance_every_row_is_undecided(self, ask, canvases, demo_model):
        question = ask(model=decoding(demo_model, margin_tolerance=1e9))
        answers = question.answers(canvases)
        assert {answer.status for answer in answers} == {Status.UNDECIDED}
        assert {answer.tokens for answer in answers} == {()}

    def test_an_end_token_that_leads_by_too_little_is_undecided_too(self, ask, canvases, demo_model, alone):
        model = decoding(demo_model, margin_tolerance=1e9, end_tokens=(alone[None][0].tokens[0],))
        [answer] = ask(1, model=model).answers(canvases[:1])
        assert (answer.tokens, answer.status) == ((), Status.UNDECIDED)

    def test_without_the_guard_no_row_is_undecided(self, ask, canvases, demo_model, alone):
        question = ask(model=decoding(demo_model, margin_tolerance=1e9), guard=False)
        assert said(question.answers(canvases)) == said(alone[None])
        assert {answer.status for answer in alone[None]} == {Status.COMPLETE}

    def test_a_tolerance_between_the_margins_splits_the_rows_by_their_margins(
        self, ask, canvases, demo_model, alone
    ):
        margins = sorted(answer.margin for answer in alone[None])
        assert margins[0] > 0
        assert margins[-1] < math.inf
        tolerance = (margins[ROWS // 2 - 1] + margins[ROWS // 2]) / 2
        answers = ask(model=decoding(demo_model, margin_tolerance=tolerance)).answers(canvases)
        for answer, free in zip(answers, alone[None], strict=True):
            if free.margin < tolerance:
                assert answer.status is Status.UNDECIDED
                assert answer.tokens == free.tokens[: len(answer.tokens)]
                assert answer.margin < tolerance
            else:
                assert said([answer]) == said([free])

    def test_the_margin_is_the_smallest_lead_over_the_runner_up(self, ask, canvases, demo_model, monkeypatch):
        """Computed again here from the logits that the decoder wrote."""
        run, leads = demo_model.decoder.run, []

        def noting(inputs, outputs):
            run(inputs, outputs)
            top = np.sort(outputs["logits"][0])
            leads.append(float(top[-1] - top[-2]))

        question = ask(1)
        monkeypatch.setattr(demo_model.decoder, "run", noting)
        for canvas in canvases[:5]:
            leads.clear()
            [answer] = question.answers(canvas[None])
            assert answer.margin == min(leads)

    def test_a_token_without_a_rival_has_no_margin_to_lose(self, ask, canvases):
        """Both allowed texts begin with one word, so the first token is no choice."""
        question = ask(4, constraint=Tree((23, 22, 35), (23, 22, 36)), max_new_tokens=2)
        assert {answer.margin for answer in question.answers(canvases[:4])} == {math.inf}


class TestConstraint:
    def test_every_answer_is_one_of_the_tree(self, alone, tree):
        for answer in alone[tree]:
            assert any(choice[: len(answer.tokens)] == answer.tokens for choice in tree.answers)
            assert tree.allowed(answer.tokens) == ()
            assert answer.status is Status.COMPLETE

    def test_a_tree_of_words_that_the_model_would_never_say_is_obeyed(self, ask, canvases):
        strange = Tree((50, 60, 70), (51, 61, 71), (50, 62, 70))
        answers = ask(constraint=strange, guard=False).answers(canvases)
        allowed = {(51,), (50, 60), (50, 62)}  # as far as they have to be decoded
        assert {answer.tokens for answer in answers} <= allowed

    def test_among_the_allowed_tokens_the_best_is_chosen(self, ask, canvases, demo_model, monkeypatch):
        run, seen = demo_model.decoder.run, []

        def noting(inputs, outputs):
            run(inputs, outputs)
            seen.append(outputs["logits"].copy())

        allowed = [30, 40, 50, 60]
        question = ask(constraint=Tree(*((token,) for token in allowed)), guard=False)
        monkeypatch.setattr(demo_model.decoder, "run", noting)
        answers = question.answers(canvases)
        [logits] = seen
        assert [a.tokens for a in answers] == [(allowed[n],) for n in logits[:, allowed].argmax(axis=1)]

    @pytest.mark.parametrize(
        ("answers", "steps"),
        [
            pytest.param([(21,), (23,)], 0, id="first-token-decides"),
            pytest.param([(21, 22, 35), (23, 22, 36, 31)], 0, id="first-token-decides-between-sentences"),
            pytest.param([(21, 22), (21, 31)], 1, id="second-token-decides"),
            pytest.param([(21, 22, 30), (21, 22, 31)], 2, id="third-token-decides"),
        ],
    )
    def test_decoding_stops_where_the_answer_is_determined(self, ask, canvases, decoder_runs, answers, steps):
        question = ask(4, constraint=Tree(*answers), guard=False)
        decoder_runs.clear()
        found = question.answers(canvases[:4])
        assert [rows for rows, _ in decoder_runs] == [4] * (1 + steps)
        assert {len(answer.tokens) for answer in found} == {1 + steps}
        assert {answer.status for answer in found} == {Status.COMPLETE}

    def test_an_end_token_that_the_constraint_allows_ends_an_answer_that_begins_another(
        self, ask, canvases, demo_model
    ):
        [end] = demo_model.bundle.manifest.decoding.end_tokens
        answers = ask(constraint=Tree((21, end), (21, 22, 22)), guard=False).answers(canvases)
        assert {answer.tokens for answer in answers} <= {(21,), (21, 22)}
        assert {answer.status for answer in answers} == {Status.COMPLETE}


class TestEnds:
    def test_one_new_token_needs_no_decode_step(self, ask, canvases, alone, decoder_runs):
        question = ask(max_new_tokens=1)
        decoder_runs.clear()
        answers = question.answers(canvases)
        assert len(decoder_runs) == 1
        assert [a.tokens for a in answers] == [a.tokens[:1] for a in alone[None]]
        assert {a.status for a in answers} == {Status.COMPLETE}

    @pytest.mark.parametrize("most", [2, 3, 5])
    def test_an_answer_ends_at_the_limit(self, ask, canvases, alone, most):
        answers = ask(max_new_tokens=most).answers(canvases)
        assert [a.tokens for a in answers] == [a.tokens[:most] for a in alone[None]]

    def test_the_limit_is_the_bundles_unless_given(self, ask, demo_model):
        assert ask(1).max_new_tokens == demo_model.bundle.manifest.decoding.max_new_tokens
        assert ask(1, max_new_tokens=3).max_new_tokens == 3
        assert ask(1, model=decoding(demo_model, max_new_tokens=5)).max_new_tokens == 5

    def test_any_end_token_ends_an_answer_and_is_no_part_of_it(self, ask, canvases, alone, demo_model):
        """Here the second token of the first answer also ends a text."""
        ends = demo_model.bundle.manifest.decoding.end_tokens
        extra = alone[None][0].tokens[1]
        answers = ask(model=decoding(demo_model, end_tokens=(*ends, extra))).answers(canvases)
        for answer, free in zip(answers, alone[None], strict=True):
            stop = free.tokens.index(extra) if extra in free.tokens else len(free.tokens)
            assert answer.tokens == free.tokens[:stop]
            assert answer.status is Status.COMPLETE
        assert answers[0].tokens == alone[None][0].tokens[:1]

    def test_an_answer_that_begins_with_an_end_token_is_empty_and_complete(
        self, ask, canvases, alone, demo_model
    ):
        ends = (alone[None][0].tokens[0],)
        [answer] = ask(1, model=decoding(demo_model, end_tokens=ends)).answers(canvases[:1])
        assert answer == Answer((), "", Status.COMPLETE, answer.margin)

    def test_an_answers_text_is_its_tokens_decoded(self, alone, demo_model):
        for answer in alone[None]:
            assert answer.text == demo_model.prompts.decode(answer.tokens)
            assert answer.text


class TestRefused:
    def test_a_prompt_that_leaves_no_room_for_an_answer(self, ask, demo_model):
        length = demo_model.bundle.manifest.dimensions.max_length
        with pytest.raises(InputError, match=f"the model has {length}: shorten the prompt"):
            ask(1, prompt="left " * length)

    def test_one_position_more_than_the_model_has(self, ask, demo_model, canvases):
        dimensions = demo_model.bundle.manifest.dimensions
        positions = len(demo_model.prompts.prefix) + dimensions.image_tokens
        positions += len(demo_model.prompts.suffix(demo.PROMPT))
        fits = dimensions.max_length - positions + 1  # the last token needs no position
        assert len(ask(1, max_new_tokens=fits).answers(canvases[:1])) == 1
        with pytest.raises(InputError, match=f"needs {positions} positions.*has {dimensions.max_length}"):
            ask(1, max_new_tokens=fits + 1)

    @pytest.mark.parametrize("most", [0, -1, -5, -60])
    def test_an_answer_of_no_tokens_or_fewer(self, ask, most):
        with pytest.raises(InputError, match=f"{most}"):
            ask(1, max_new_tokens=most)

    @pytest.mark.parametrize("rows", [0, -1, 10**12])
    def test_a_senseless_batch_size(self, ask, rows):
        with pytest.raises(InputError, match=f"batch size is {rows}"):
            ask(rows)

    def test_a_batch_that_no_memory_holds(self, ask, monkeypatch):
        """The system would grant it, and kill the process once it is written to."""
        monkeypatch.setattr("os.sysconf", {"SC_PAGE_SIZE": 4096, "SC_PHYS_PAGES": 256}.__getitem__)
        ask(1)
        with pytest.raises(MemoryError, match=r"64 rows of \d+ positions need .* GiB.*there are 0.000977"):
            ask(64)

    @pytest.mark.parametrize(("more", "fits"), [(10**4, True), (-(10**4), False)])
    def test_what_is_asked_of_the_memory_is_what_is_allocated(self, ask, monkeypatch, more, fits):
        held = sum(array.nbytes for array in TestMemory.arrays(ask(8, max_new_tokens=1)))
        monkeypatch.setattr("os.sysconf", {"SC_PAGE_SIZE": 1, "SC_PHYS_PAGES": held + more}.__getitem__)
        if fits:
            ask(8, max_new_tokens=1)
        else:
            with pytest.raises(MemoryError, match="8 rows of"):
                ask(8, max_new_tokens=1)

    @pytest.mark.parametrize("count", [0, 3])
    def test_an_empty_batch_or_one_over_the_size(self, ask, canvases, count):
        with pytest.raises(InputError, match=f"between 1 and 2 canvases; got {count}"):
            ask(2).answers(canvases[:count])

    @pytest.mark.parametrize(
        ("change", "says"),
        [
            pytest.param(lambda c: c.astype(np.float64), "float64", id="float64"),
            pytest.param(lambda c: c[:, :, :-1].copy(), "canvas is", id="other-size"),
            pytest.param(lambda c: c[:, :1].copy(), "canvas is", id="grey"),
            pytest.param(lambda c: c.transpose(0, 1, 3, 2), "not contiguous", id="transposed"),
            pytest.param(lambda c: c[0], "canvas", id="one-canvas-without-its-batch"),
        ],
    )
    def test_canvases_of_another_shape_or_type(self, ask, canvases, change, says):
        with pytest.raises(InputError, match=says):
            ask(3).answers(change(canvases[:2]))

    @pytest.mark.parametrize(
        "prompt", ["", "  ", "a" * 10**6, "\ud800"], ids=["empty", "blank", "long", "half"]
    )
    def test_a_prompt_that_is_no_text(self, ask, prompt):
        with pytest.raises(InputError):
            ask(1, prompt=prompt)


class TestMemory:
    @staticmethod
    def arrays(question):
        """Every array that a question holds."""
        own = [value for value in vars(question).values() if isinstance(value, np.ndarray)]
        return own + list(question._cache.inputs(question.rows).values())

    def test_it_grows_with_the_rows(self, ask):
        sizes = [sum(a.nbytes for a in self.arrays(ask(rows))) for rows in (1, 2, 8)]
        assert sizes[0] > 0
        assert sizes == [sizes[0], 2 * sizes[0], 8 * sizes[0]]

    def test_it_neither_grows_nor_moves_with_the_number_of_batches(self, ask, canvases):
        question = ask(8)
        before = [a.__array_interface__["data"] for a in self.arrays(question)]
        for start in range(0, 24, 6):
            question.answers(canvases[start : start + 6])
        assert [a.__array_interface__["data"] for a in self.arrays(question)] == before

    def test_the_prefix_is_computed_once_for_all_batches(self, ask, canvases, decoder_runs, demo_model):
        prefix, block = len(demo_model.prompts.prefix), len(demo_model.prompts.suffix(demo.PROMPT))
        image_tokens = demo_model.bundle.manifest.dimensions.image_tokens
        question = ask(2, max_new_tokens=1)
        for _ in range(3):
            question.answers(canvases[:2])
        assert decoder_runs == [(1, prefix)] + [(2, image_tokens + block)] * 3

    def test_a_bundle_without_tokens_before_the_image_is_answered_too(self, ask, canvases, demo_model):
        model = copy.copy(demo_model)
        model.prompts = copy.copy(demo_model.prompts)
        model.prompts._template = msgspec.structs.replace(demo_model.bundle.manifest.prompt, before_image=())
        question = ask(4, model=model)
        answers = question.answers(canvases[:4])
        assert said(answers) == said(batched(ask(1, model=model), canvases[:4], 1))
