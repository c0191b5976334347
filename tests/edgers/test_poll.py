"""The poll: noise is drawn ahead of the model in a second thread, and no vote shows it."""

import gc
import threading
import weakref

import numpy as np
import pytest

from edgers import demo, poll
from edgers.certify import Certifier
from edgers.noise_ahead import Chunk, NoiseAhead
from edgers.oracle.base import FAILED
from edgers.oracle.rules import Rules
from edgers.poll import Poll
from edgers_engines import device
from edgers_engines.device import Host
from edgers_engines.errors import BackendError, InputError
from edgers_engines.noise import Stream, noisy_copies
from edgers_engines.vlm import Answer, Status

GUARD = 60  # seconds after which a thread that should have gone on is taken for hung
MOMENT = 0.05  # seconds in which a thread that need not wait would have gone on
SELECTION, CERTIFICATION = Stream.SELECTION, Stream.CERTIFICATION
A, B, C, D = (Chunk(CERTIFICATION, first, rows) for first, rows in ((0, 4), (4, 4), (8, 4), (12, 1)))


def noise_threads():
    return [thread for thread in threading.enumerate() if thread.name.startswith("noise")]


@pytest.fixture(autouse=True)
def no_thread_stays():
    """Whatever a test does, every thread that draws comes to its end by itself."""
    yield
    for thread in noise_threads():
        thread.join(GUARD)
    assert noise_threads() == []


class Drawing:
    """Draws a chunk as its own sample numbers; remembers who drew what, and may hold or fail a chunk."""

    def __init__(self):
        self.log, self.hold, self.fail = [], {}, {}
        self.begun = {chunk: threading.Event() for chunk in (A, B, C, D)}

    def __call__(self, chunk, out):
        self.begun[chunk].set()
        self.log.append((chunk, "begun", threading.current_thread() is threading.main_thread()))
        self.hold.get(chunk, lambda: None)()
        if chunk in self.fail:
            raise self.fail[chunk]
        out[:] = np.arange(chunk.first, chunk.first + chunk.rows)[:, None]
        self.log.append((chunk, "done", threading.current_thread() is threading.main_thread()))


def samples(chunk):
    return np.arange(chunk.first, chunk.first + chunk.rows, dtype=np.float32)[:, None]


@pytest.fixture
def drawing():
    return Drawing()


@pytest.fixture
def ahead(drawing):
    return NoiseAhead(drawing, (4, 1), Host())


class TestNoiseAhead:
    def test_the_first_chunk_is_drawn_by_the_caller_and_the_rest_by_another_thread(self, ahead, drawing):
        for chunk, following in ((A, B), (B, C), (C, D), (D, None)):
            np.testing.assert_array_equal(ahead.take(chunk, following), samples(chunk))
        done = [(chunk, by_caller) for chunk, what, by_caller in drawing.log if what == "done"]
        assert done == [(A, True), (B, False), (C, False), (D, False)]

    def test_the_next_chunk_is_drawn_while_the_caller_reads_this_one(self, ahead, drawing):
        """B is held until the caller has A: a `take` that waited for B would never return."""
        released = threading.Event()
        drawing.hold[B] = lambda: released.wait(GUARD)
        noisy = ahead.take(A, B)
        assert drawing.begun[B].wait(GUARD)
        assert (B, "done", False) not in drawing.log
        released.set()
        for thread in noise_threads():
            thread.join(GUARD)
        assert (B, "done", False) in drawing.log
        np.testing.assert_array_equal(noisy, samples(A))
        np.testing.assert_array_equal(ahead.take(B, None), samples(B))

    def test_a_wrong_guess_changes_nothing(self, ahead):
        for chunk, following in ((A, C), (B, A), (A, B), (D, C), (C, None), (C, D), (D, None)):
            np.testing.assert_array_equal(ahead.take(chunk, following), samples(chunk))

    def test_a_wrong_guess_is_over_before_anything_else_is_drawn(self, ahead, drawing):
        """Or it would write into the buffer of a chunk that is wanted."""
        overtaken = []
        drawing.hold[B] = lambda: overtaken.append(drawing.begun[D].wait(MOMENT))
        ahead.take(A, B)
        np.testing.assert_array_equal(ahead.take(C, D), samples(C))
        np.testing.assert_array_equal(ahead.take(D, None), samples(D))
        assert overtaken == [False]

    def test_an_error_of_the_other_thread_is_raised_where_its_chunk_is_asked_for(self, ahead, drawing):
        drawing.fail[B] = MemoryError("no room for noise")
        np.testing.assert_array_equal(ahead.take(A, B), samples(A))
        with pytest.raises(MemoryError) as raised:
            ahead.take(B, C)
        assert raised.value is drawing.fail[B]
        np.testing.assert_array_equal(ahead.take(C, D), samples(C))

    def test_an_error_in_a_wrong_guess_is_nobodys(self, ahead, drawing):
        drawing.fail[B] = MemoryError("no room for noise")
        ahead.take(A, B)
        np.testing.assert_array_equal(ahead.take(C, None), samples(C))


class Parity:
    """A question that answers each canvas with left or right; which one depends on its every value."""

    def __init__(self, rows):
        self.rows, self.seen, self.device = rows, [], Host()

    def answers(self, canvases):
        assert len(canvases) <= self.rows
        self.seen += [canvas.tobytes() for canvas in canvases]
        odd = [int((canvas.astype(np.float64) * 2**20).sum()) % 2 for canvas in canvases]
        return [Answer((), ("go left", "go right")[bit], Status.COMPLETE, 1.0) for bit in odd]


@pytest.fixture
def asked(demo_bundle):
    """Make a poll of a question: eight grey pixels, so that noise is quick to draw."""
    rules = next(oracle for oracle in demo_bundle.manifest.oracles if "left" in str(oracle.rules))

    def make(question, sigma=0.25):
        canvas = np.full((3, 4, 4), 0.5)
        return Poll(question, Rules(rules), canvas, sigma=sigma, seed=7, progress=lambda _rows: None)

    return make


@pytest.fixture
def drawn(monkeypatch):
    """Every chunk that is drawn: (stream, first, rows), in the order of completion."""
    chunks = []

    def spy(canvas, sigma, *, seed, stream, first, out):
        noisy_copies(canvas, sigma, seed=seed, stream=stream, first=first, out=out)
        chunks.append((stream, first, len(out)))

    monkeypatch.setattr(device, "noisy_copies", spy)
    return chunks


class NoiseNow(NoiseAhead):
    """Draws each chunk when it is asked for: what drawing ahead is compared with."""

    def take(self, chunk, _following):
        return super().take(chunk, None)


class TestPoll:
    @pytest.mark.parametrize("rows", [1, 3, 16, 64])
    def test_the_copies_and_votes_are_those_without_a_second_thread(self, asked, monkeypatch, rows):
        def count():
            question = Parity(rows)
            votes = asked(question)
            counted = [votes.count(SELECTION, 16, (CERTIFICATION, 37)), votes.count(CERTIFICATION, 37)]
            return counted, question.seen, votes.most_frequent

        found = count()
        monkeypatch.setattr(poll, "NoiseAhead", NoiseNow)
        assert found == count()
        assert min(found[2].values()) > 10, "both answers are frequent, so votes would show another noise"

    def test_the_demo_models_votes_are_those_without_a_second_thread(
        self, demo_bundle, hard_frame, monkeypatch, seed
    ):
        certifier = Certifier(demo_bundle, sigma=demo.SIGMA, samples=24, selection=8, batch_size=8)

        def votes():
            return certifier.certify(hard_frame, demo.PROMPT, choices=demo.ACTIONS, seed=seed).votes

        found = votes()
        monkeypatch.setattr(poll, "NoiseAhead", NoiseNow)
        assert found == votes()

    def test_a_poll_that_is_done_lets_go_of_its_question_at_once(self, asked):
        """Its cache may be most of a GPU's memory: the next one cannot wait for the garbage collector."""
        gc.disable()
        try:
            question = Parity(4)
            poll, gone = asked(question), weakref.ref(question)
            poll.count(Stream.CERTIFICATION, 9)
            poll.finish()
            del poll, question
            assert gone() is None
        finally:
            gc.enable()

    def test_every_sample_is_drawn_once_and_in_order(self, asked, drawn):
        votes = asked(Parity(4))
        votes.count(SELECTION, 6, (CERTIFICATION, 9))
        votes.count(CERTIFICATION, 9)
        assert drawn == [
            (SELECTION, 0, 4),
            (SELECTION, 4, 2),
            (CERTIFICATION, 0, 4),
            (CERTIFICATION, 4, 4),
            (CERTIFICATION, 8, 1),
        ]

    @pytest.mark.parametrize(
        ("look", "rows"), [(6, [2, 4, 3]), (8, [4, 4, 1]), (3, [3, 4, 2]), (20, [4, 4, 1])]
    )
    def test_a_chunk_ends_where_somebody_looks(self, asked, drawn, look, rows):
        votes = asked(Parity(4))
        selected = votes.count(SELECTION, 4, (CERTIFICATION, 9, 0, look))
        counted = votes.count(CERTIFICATION, 9, look=look)
        assert [chunk[2] for chunk in drawn] == [4, *rows]
        assert [selected, counted] == [
            asked(Parity(4)).count(SELECTION, 4),
            asked(Parity(4)).count(CERTIFICATION, 9),
        ]

    def test_the_noise_of_the_next_count_is_drawn_while_the_last_selection_is_answered(self, asked, drawn):
        class Patient(Parity):
            def answers(self, canvases):
                for thread in noise_threads():
                    thread.join(GUARD)
                ahead.append(drawn[-1])
                return super().answers(canvases)

        ahead = []
        asked(Patient(4)).count(SELECTION, 6, (CERTIFICATION, 9))
        assert ahead == [(SELECTION, 4, 2), (CERTIFICATION, 0, 4)]

    @pytest.mark.parametrize("then", [None, (CERTIFICATION, 0), (CERTIFICATION, 2), (SELECTION, 9)])
    def test_what_the_next_count_was_said_to_be_changes_no_vote(self, asked, then):
        expected = [asked(Parity(4)).count(stream, 9) for stream in (SELECTION, CERTIFICATION)]
        votes = asked(Parity(4))
        assert [votes.count(SELECTION, 9, then), votes.count(CERTIFICATION, 9)] == expected

    @pytest.mark.parametrize(("last", "lost"), [(8, 4), (14, 2)])
    def test_a_chunk_that_fails_leaves_the_noise_of_the_others_as_it_was(self, asked, last, lost):
        class Failing(Parity):
            def answers(self, canvases):
                found = super().answers(canvases)
                if len(self.seen) == last:
                    raise BackendError("out of memory")
                return found

        sound, failing = Parity(4), Failing(4)
        asked(sound).count(CERTIFICATION, 14)
        assert asked(failing).count(CERTIFICATION, 14)[FAILED] == lost
        assert failing.seen == sound.seen

    def test_noise_that_cannot_be_drawn_is_the_same_error_as_ever(self, asked):
        with pytest.raises(InputError, match=r"^sigma is 9"):
            asked(Parity(4), sigma=9).count(CERTIFICATION, 14)

    def test_an_error_in_the_second_thread_ends_the_count_with_that_error(self, asked, monkeypatch):
        error = MemoryError("no room for noise")

        def failing(*args, first, **named):
            if first == 8:
                raise error
            noisy_copies(*args, first=first, **named)

        monkeypatch.setattr(device, "noisy_copies", failing)
        question = Parity(4)
        with pytest.raises(MemoryError) as raised:
            asked(question).count(CERTIFICATION, 14)
        assert raised.value is error
        assert len(question.seen) == 8

    def test_an_interrupt_while_the_model_computes_passes_through(self, asked):
        """And leaves no thread: `no_thread_stays` looks after every test."""

        class Interrupted(Parity):
            def answers(self, _canvases):
                raise KeyboardInterrupt

        with pytest.raises(KeyboardInterrupt):
            asked(Interrupted(4)).count(CERTIFICATION, 10**9)
