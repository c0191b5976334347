"""Semantic clusters: frozen by the selection, a fixed map ever after, and what goes wrong else."""

import functools
import json
from types import SimpleNamespace

import numpy as np
import pytest
from msgspec.structs import replace
from scipy.stats import binom, binomtest

from edgers import Certifier, demo
from edgers.advice import advice, meaning
from edgers.certificate import CertificateError
from edgers.ending import CANCELLED, RESERVED_SELECTED, Stop
from edgers.oracle.base import FAILED, OTHER
from edgers.oracle.clusters import CANDIDATES, Cluster, Clusters, Embedding
from edgers.oracle.named import open_text_oracle
from edgers.oracle.unsound_clusters import unsound_cluster
from edgers.part import Part, merge
from edgers.poll import Poll
from edgers.report.plot import plot_certificate
from edgers.report.text import certificate_panel
from edgers.smoothing.sequential import anytime_lower
from edgers.verify import replay, verify
from edgers_engines.device import Host
from edgers_engines.engine import open_backend
from edgers_engines.errors import BackendError, InputError
from edgers_engines.image import CameraImage
from edgers_engines.text_embedder import TextEmbedder
from edgers_engines.vlm import Answer, Question, Status, VisionLanguageModel
from tests.edgers.hostile import command, refused
from tests.students import labelled_texts

SEED = "00112233445566778899aabbccddeeff"


def answers(*texts, status=Status.COMPLETE):
    return [Answer((), text, status, 1.0) for text in texts]


class Near:
    """Numbers mean the same if they are one apart at most; what is no number means nothing."""

    definition, kind, failure = "near", "clusters", None

    def __init__(self):
        self.asked = []

    def matches(self, representative, texts):
        self.asked.append(representative)
        return [self._near(representative, text) for text in texts]

    def _near(self, *texts):
        one, other = (int(text) if text.isdecimal() else None for text in texts)
        return None not in {one, other} and abs(one - other) <= 1


def frozen(*texts):
    return Clusters("near", Near()).freeze(answers(*texts))


def representative(*texts):
    return frozen(*texts).record.classes


# --- which answer represents the selection ------------------------------------------------------------------


def test_the_answer_that_most_answers_mean_represents_them():
    assert representative("1", "2", "3", "9") == ("2",)
    assert representative("9", "1", "9", "2", "9", "3") == ("9",), "repeated answers count each time"


def test_of_several_the_first_in_sample_order_represents_them():
    assert representative("5", "1", "2", "6") == ("5",)
    assert representative("2", "6", "1", "5") == ("2",)


def test_runs_of_whitespace_are_joined_before_anything_is_compared():
    assert representative(" 1\n", "1", "\t1 ", "5", "5") == ("1",)
    assert frozen("1").classify_texts(["\n 2  "]) == ["1"]


@pytest.mark.parametrize("text", ["", " \n", "OTHER", "UNDECIDED", " FAILED", "a\x1b[2Jb", "a\u200bb"])
def test_what_cannot_name_a_class_represents_nothing(text):
    class Same(Near):
        def _near(self, *_texts):
            return True

    oracle = Clusters("same", Same())
    assert oracle.freeze(answers(text, text, "1")).record.classes == ("1",)
    none = oracle.freeze(answers(text, text))
    assert none.record.classes == ()
    assert none.classify_texts([text, "1"]) == [OTHER, OTHER]


def test_an_answer_that_does_not_even_match_itself_represents_nothing():
    assert representative("unread", "unread") == ()
    assert representative("unread", "unread", "7") == ("7",)
    assert representative() == ()


def test_of_very_many_texts_the_most_frequent_are_compared():
    oracle = Clusters("near", equivalence := Near())
    texts = [str(10 * number) for number in range(3 * CANDIDATES)]
    assert oracle.freeze(answers(*texts, texts[-1])).record.classes == (texts[-1],)
    assert len(equivalence.asked) == CANDIDATES


# --- the frozen oracle --------------------------------------------------------------------------------------


def test_each_answer_is_compared_with_the_representative_alone():
    """No chain leads from it through an answer that matches to one that does not."""
    cluster = frozen("5", "5")
    assert cluster.classify_texts(["4", "5", "6", "7", "3", "x"]) == ["5", "5", "5", OTHER, OTHER, OTHER]
    assert cluster.classify_texts(["7"]) == [OTHER], "whatever was seen before"
    assert cluster.classify_texts(["6", "7", "8"]) == ["5", OTHER, OTHER]
    assert cluster.classify_texts([]) == []
    assert cluster.classify(answers("6", "7")) == ["5", OTHER]


def test_the_digest_is_of_the_test_and_of_the_representative():
    class Nearer(Near):
        definition = "nearer"

    found = {
        Cluster("near", test, text).record.sha256 for test in (Near(), Nearer()) for text in ("1", "2", None)
    }
    assert len(found) == 6


# --- the embedding as the test of equivalence ---------------------------------------------------------------


class Vectors:
    """An embedder whose vectors are known."""

    def __init__(self, vectors, **record):
        self._vectors, self.asked = vectors, []
        self.record = SimpleNamespace(**record)

    def directions(self, texts):
        self.asked += texts
        return np.array([self._vectors[text] for text in texts], np.float64)


def known(vectors, **record):
    embedder = Vectors(vectors, **record)
    bundle = SimpleNamespace(digests=lambda _record: ())
    return Embedding(embedder, bundle), embedder


def test_a_cosine_within_rounding_of_the_threshold_is_no_match():
    """0.5 - 0.25 is 0.25 exactly: not more than the tolerance."""
    vectors = {"a": [1, 0, 0, 0], "half": [0.5, 0.5, 0.5, 0.5], "more": [0.75, 0.5, 0.25, 0.0]}
    at, over = (
        known(vectors, threshold=0.25, tolerance=0.25)[0],
        known(vectors, threshold=0.25, tolerance=0.2)[0],
    )
    assert at.matches("a", ["half", "more", "a"]) == [False, True, True]
    assert over.matches("a", ["half", "more", "a"]) == [True, True, True]
    assert known(vectors, threshold=0.5, tolerance=0.0)[0].matches("a", ["half"]) == [False]


def test_a_text_that_cannot_be_read_matches_nothing_not_even_itself():
    vectors = {"a": [1, 0], "long": [np.nan, np.nan]}
    test = known(vectors, threshold=-0.5, tolerance=0.0)[0]
    assert test.matches("a", ["long", "a"]) == [False, True]
    assert test.matches("long", ["long", "a"]) == [False, False]
    assert test.matches("a", []) == []


def test_a_text_that_repeats_is_embedded_once():
    test, embedder = known({"a": [1, 0], "b": [0, 1]}, threshold=0.5, tolerance=0.0)
    for _ in range(3):
        assert test.matches("a", ["b", "a", "b"]) == [False, True, False]
    assert embedder.asked == ["a", "b"]


def test_memory_for_texts_is_bounded():
    many = {str(number): [1, 0] for number in range(3000)}
    test, _ = known(many, threshold=0.5, tolerance=0.0)
    for start in range(0, 3000, 100):
        assert all(test.matches("0", [str(number) for number in range(start, start + 100)]))
    assert len(test._known) < 1200


@pytest.fixture(scope="module")
def embedding(clusters_bundle):
    def make(**fields):
        *_, record = clusters_bundle.manifest.text_models
        embedder = TextEmbedder(clusters_bundle, replace(record, **fields), open_backend(threads=1))
        return Embedding(embedder, clusters_bundle.manifest)

    return make


def test_held_out_texts_match_those_of_their_own_label(embedding):
    test, rows = embedding(), labelled_texts()[240:]
    verdicts = [
        (label == other, same)
        for text, label in rows[:20]
        for (_, other), same in zip(rows, test.matches(text, [each for each, _ in rows]), strict=True)
    ]
    assert all(same for alike, same in verdicts if alike)
    assert np.mean([same for alike, same in verdicts if not alike]) < 0.03


def test_the_digest_is_of_all_that_the_verdicts_follow_from(embedding, clusters_bundle):
    def sha256(test):
        return Cluster("meaning", test, "stop").record.sha256

    plain, manifest = embedding(), clusters_bundle.manifest
    found = {sha256(plain), sha256(embedding(threshold=0.5)), sha256(embedding(tolerance=0.01))}
    for end in ("onnx", "bin", "json"):
        name = f"oracle-meaning.{end}"
        files = tuple(replace(f, sha256="0" * 64) if f.path == name else f for f in manifest.files)
        found.add(sha256(Embedding(plain._embedder, replace(manifest, files=files))))
    assert len(found) == 6


# --- a poll that freezes ------------------------------------------------------------------------------------


class Steps:
    """A question that answers each canvas with a small number, which depends on its every value."""

    def __init__(self, rows):
        self.rows, self.device, self.seen = rows, Host(), []

    def answers(self, canvases):
        steps = [int((canvas.astype(np.float64) * 2**20).sum()) % 5 for canvas in canvases]
        self.seen += steps
        return answers(*map(str, steps))


def polled(question, oracle=None, progress=lambda _rows: None, seed=7):
    oracle = oracle or Clusters("near", Near())
    return Poll(question, oracle, np.full((3, 2, 2), 0.5), sigma=0.25, seed=seed, progress=progress)


@pytest.mark.parametrize("rows", [1, 3, 16, 64])
def test_the_selection_freezes_the_same_oracle_in_chunks_of_any_size(rows):
    def counted(rows):
        poll = polled(Steps(rows))
        return poll.select(16), poll.oracle.record, poll.count(1, 37), poll.most_frequent

    assert counted(rows) == counted(16)


def test_the_selections_votes_are_the_frozen_oracles_labels():
    question, done = Steps(5), []
    poll = polled(question, progress=done.append)
    votes = poll.select(16)
    expected = Clusters("near", Near()).freeze(answers(*map(str, question.seen)))
    assert poll.oracle.record == expected.record
    (name,) = expected.record.classes
    labels = expected.classify_texts(list(map(str, question.seen)))
    assert votes == {name: labels.count(name), OTHER: labels.count(OTHER), "UNDECIDED": 0, FAILED: 0}
    assert sum(done) == sum(votes.values()) == 16


def test_what_comes_after_the_selection_does_not_change_the_oracle():
    poll = polled(Steps(8))
    poll.select(16)
    before = poll.oracle
    poll.count(1, 100)
    assert poll.oracle is before


def test_without_a_selection_nothing_is_counted():
    poll = polled(question := Steps(8))
    with pytest.raises(InputError, match="the oracle 'near' makes clusters: only a selection apart from"):
        poll.count(1, 8)
    assert question.seen == []


def test_a_selection_that_is_stopped_has_no_class():
    poll, begun = polled(Steps(4)), []

    def stop(_votes):
        begun.append(1)
        return len(begun) > 2

    assert poll.select(16, stop=stop) == {OTHER: 8, "UNDECIDED": 0, FAILED: 0}
    assert poll.oracle.record.classes == ()
    none = polled(Steps(4))
    assert none.select(16, stop=lambda _votes: True) == {OTHER: 0, "UNDECIDED": 0, FAILED: 0}
    assert none.oracle.record.classes == ()


def test_what_did_not_complete_chooses_nothing_and_counts_against():
    class Failing(Steps):
        def answers(self, canvases):
            found = super().answers(canvases)
            if len(self.seen) == 4:
                raise BackendError("a graph failed")
            return found

    votes = (poll := polled(Failing(4))).select(16)
    assert votes[FAILED] == 4
    assert sum(votes.values()) == 16
    assert sum(poll.most_frequent.values()) == 12

    class Unsure(Steps):
        def answers(self, canvases):
            return [*answers(*["1"] * (len(canvases) - 1), status=Status.UNDECIDED), *answers("9")]

    unsure = polled(Unsure(4))
    assert unsure.select(16) == {"9": 4, OTHER: 0, "UNDECIDED": 12, FAILED: 0}

    class Silent(Steps):
        def answers(self, canvases):
            raise BackendError(f"a graph failed on {len(canvases)}")

    with pytest.raises(BackendError, match="a graph failed"):
        polled(Silent(4)).select(16)


# --- in a certificate ---------------------------------------------------------------------------------------


def certify(bundle, frame, **more):
    numbers = ("samples", "selection", "method", "target_radius", "batch_size")
    options = {name: more.pop(name) for name in numbers if name in more}
    certifier = Certifier(bundle, sigma=demo.SIGMA, **{"samples": 40, **options})
    return certifier.certify(frame, demo.PROMPT, oracle="meaning", **{"seed": SEED, **more})


@pytest.fixture(scope="module")
def made(clusters_bundle, first_frame):
    return certify(clusters_bundle, first_frame)


@pytest.fixture(scope="module")
def undecided(clusters_bundle, hard_frame):
    return certify(clusters_bundle, hard_frame)


def test_a_certificate_names_the_frozen_oracle_verifies_and_replays(made, clusters_bundle, first_frame):
    verify(made)
    assert (made.oracle.kind, made.oracle.name, made.certified) == ("clusters", "meaning", True)
    assert made.oracle.classes == (made.label,) == ("forward, the way is clear.",)
    assert made.votes.selection[made.label] == 16
    again = replay(made, clusters_bundle, first_frame)
    assert (again.votes, again.oracle, again.answers) == (made.votes, made.oracle, made.answers)
    assert "What means the same as 'forward, the way is clear.' wins the vote" in meaning(made)


def test_a_decision_selects_though_others_need_not_and_refuses_to_go_without(clusters_bundle, first_frame):
    """Clusters have no class before a selection; where one was not asked for, it is drawn."""
    deciding = {"samples": 200, "method": "sequential", "target_radius": 0.05, "batch_size": 8}
    c = certify(clusters_bundle, first_frame, **deciding)
    verify(c)
    assert (c.n_selection, c.votes.selection[c.label], c.certified) == (16, 16, True)
    assert c.q_lower == anytime_lower(c.votes.certification[c.label], c.samples_counted, c.alpha).value
    assert replay(c, clusters_bundle, first_frame).votes == c.votes
    with pytest.raises(InputError, match="clusters are frozen by a selection: draw one"):
        certify(clusters_bundle, first_frame, selection=0)


def test_it_counts_the_answers_that_mean_the_same_though_the_words_differ(undecided, clusters_bundle):
    verify(undecided)
    assert len(undecided.answers) > 1
    (name,) = undecided.oracle.classes
    assert undecided.votes.certification[name] + undecided.votes.certification[OTHER] in {0, 40}


def test_a_representative_of_a_minority_is_an_abstention(made):
    """The same certificate, had the selection disagreed: OTHER won it, and nothing was drawn after."""
    selection = {**made.votes.selection, made.label: 7, OTHER: 9}
    nothing = dict.fromkeys(made.votes.certification, 0)
    minority = replace(
        made,
        label=OTHER,
        votes=replace(made.votes, selection=selection, certification=nothing),
        certified=False,
        radius=None,
        radius_camera=None,
        q_lower=0.0,
        p_lower=0.0,
        stopped_because=RESERVED_SELECTED,
        samples_spent=16,
    )
    verify(minority)
    assert "No meaning has the majority" in advice(minority)[0]
    none = replace(
        minority,
        oracle=replace(minority.oracle, classes=()),
        votes=replace(
            minority.votes,
            selection={OTHER: 16, "UNDECIDED": 0, FAILED: 0},
            certification={OTHER: 0, "UNDECIDED": 0, FAILED: 0},
        ),
    )
    verify(none)
    assert certificate_panel(none, "")


@pytest.mark.parametrize(
    "classes",
    [("forward, the way is clear.", "stop"), ("forward,  the way is clear.",), ("forward\n",), ("",)],
)
def test_a_frozen_oracle_that_could_not_be_does_not_verify(made, classes):
    def renamed(votes):
        counts = {name: votes[name] for name in (OTHER, "UNDECIDED", FAILED)}
        return {**dict.fromkeys(classes, 0), **counts, classes[0]: votes[made.label]}

    forged = replace(
        made,
        label=classes[0],
        oracle=replace(made.oracle, classes=classes),
        votes=replace(
            made.votes,
            selection=renamed(made.votes.selection),
            certification=renamed(made.votes.certification),
        ),
    )
    with pytest.raises(CertificateError, match=r"^oracle\.classes is"):
        verify(forged)


def test_another_representative_does_not_replay(made, clusters_bundle, first_frame):
    other = replace(made, oracle=replace(made.oracle, sha256="0" * 64))
    verify(other)
    with pytest.raises(CertificateError, match="the replay does not agree: oracle was"):
        replay(other, clusters_bundle, first_frame)


def test_parts_freeze_the_same_oracle_and_make_the_certificate_of_a_single_run(
    made, clusters_bundle, first_frame
):
    parts = [certify(clusters_bundle, first_frame, part=Part(number=i, of=2), batch_size=7) for i in (1, 2)]
    whole = merge(parts)
    verify(whole)
    assert (whole.oracle, whole.votes, whole.radius) == (made.oracle, made.votes, made.radius)


@pytest.mark.parametrize("first", [True, False])
def test_less_memory_changes_no_vote_and_no_representative(
    made, clusters_bundle, first_frame, monkeypatch, first
):
    """Once while the selection is answered, once after it was frozen."""
    whole, calls = Question.answers, iter(range(10**9))

    def answers(self, canvases):
        if self.rows == 16 and next(calls) == (0 if first else 2):
            raise MemoryError("no memory")
        return whole(self, canvases)

    monkeypatch.setattr(Question, "answers", answers)
    done = []
    again = certify(clusters_bundle, first_frame, batch_size=16, progress=done.append)
    assert (again.votes, again.oracle, again.batch_size) == (made.votes, made.oracle, 8)
    assert sum(done) == again.samples_spent == 56


def test_it_may_end_early_and_be_cancelled_before_anything_is_chosen(clusters_bundle, first_frame):
    early = certify(clusters_bundle, first_frame, method="sequential", cancelled=lambda: True)
    verify(early)
    assert (early.stopped_because, early.oracle.classes, early.certified) == (CANCELLED, (), False)


def test_a_prediction_is_refused_in_one_line(clusters_bundle, first_frame):
    with pytest.raises(InputError, match="so it certifies but does not predict"):
        Certifier(clusters_bundle, sigma=demo.SIGMA).predict(first_frame, demo.PROMPT, oracle="meaning")


def test_clusters_teach_no_other_oracle(clusters_bundle):
    with pytest.raises(InputError, match="the oracle 'meaning' makes clusters: it has no class before"):
        open_text_oracle(VisionLanguageModel(clusters_bundle), "meaning")


def test_the_command_line_certifies_verifies_and_inspects(
    clusters_bundle, first_frame, tmp_path, monkeypatch, capsys
):
    run = functools.partial(command, monkeypatch, capsys)
    bundle, saved = str(clusters_bundle.path), tmp_path / "c.json"
    question = ["--bundle", bundle, "--prompt", demo.PROMPT, "--oracle", "meaning", "--sigma", "0.25"]
    done = run("certify", first_frame, *question, "--samples", "40", "--json", "--save", saved)
    assert (done.code, json.loads(done.out)["oracle"]["kind"]) == (0, "clusters")
    assert run("verify", saved, "--bundle", bundle, "--replay").code == 0
    assert "clusters of texts with a cosine above" in run("inspect", bundle).out
    refused(run("predict", first_frame, *question), 2, "it certifies but does not predict")


def test_an_answer_is_drawn_beside_the_bars_whatever_it_says(made, first_frame):
    """Dollar signs are no formula, and a long answer leaves room for the picture."""
    name = r"$\frac{ " + "a long answer " * 40

    def renamed(votes):
        return {name if old == made.label else old: count for old, count in votes.items()}

    votes = replace(
        made.votes, selection=renamed(made.votes.selection), certification=renamed(made.votes.certification)
    )
    odd = replace(made, label=name, votes=votes, oracle=replace(made.oracle, classes=(name,)))
    assert plot_certificate(odd, CameraImage.of(first_frame), "svg").count(b"<svg") == 1


# --- why the representative must not come from the samples that are counted ---------------------------------

N, ALPHA, RUNS = 100, 0.001, 300


class HalfSpace:
    """Texts are directions; they mean the same if the angle between them is below a right one."""

    definition, kind, failure = "half-space", "clusters", None

    def matches(self, representative, texts):
        return (self._read(tuple(texts)) @ self._read((representative,))[0] > 0).tolist()

    @staticmethod
    @functools.lru_cache(maxsize=300)
    def _read(texts):
        return np.array([text.split() for text in texts], np.float64)


class Quick(Host):
    """Draws noise that no certificate would be made with, for it need not be the same anywhere else."""

    def noisy_copies(self, canvas, sigma, *, seed, stream, first, out):
        draws = np.random.default_rng((seed, stream, first)).standard_normal(out.shape)
        out[:] = canvas + sigma * draws


class Directions:
    """A question that answers a canvas with its noise, a direction: half of all others are near it."""

    def __init__(self):
        self.rows, self.device, self.said = N, Quick(), []

    def answers(self, canvases):
        steps = np.rint((canvases.reshape(len(canvases), -1) - 0.5) * 2**20).astype(int)
        self.said += (texts := [" ".join(map(str, row)) for row in steps.tolist()])
        return answers(*texts)


def certificates(bundle):
    """Of each run: is a class certified, though each has a probability of a half; and what was said."""
    certifier = Certifier(bundle, sigma=0.5, samples=N, selection=N, alpha=ALPHA)
    for seed in range(RUNS):
        oracle, question = Clusters("half", HalfSpace()), Directions()
        poll = polled(question, oracle, seed=seed)
        votes = certifier._count(Stop(None, lambda: False), range(N), poll, oracle)
        (name,) = poll.oracle.record.classes
        yield votes.certification[name], question.said, certifier.rule


@pytest.fixture(scope="module")
def simulated(demo_bundle):
    return list(certificates(demo_bundle))


def wrong(rule, counts):
    """How many of the counts certify a class."""
    return sum(
        rule.conclude("A", {"A": count, OTHER: N - count, "UNDECIDED": 0, FAILED: 0}).certified
        for count in counts
    )


def too_many(found, runs):
    """Whether so many wrong certificates contradict alpha."""
    return binomtest(found, runs, ALPHA, alternative="greater").pvalue < 1e-4


def test_with_a_frozen_representative_a_certificate_is_wrong_at_most_alpha_often(simulated):
    """Exactly, for the votes are binomial; and as they are counted, after as large a selection."""
    _, _, rule = simulated[0]
    assert sum(binom.pmf(k, N, 0.5) for k in range(N + 1) if wrong(rule, [k])) <= ALPHA
    counts = [count for count, _, _ in simulated]
    assert not too_many(wrong(rule, counts), RUNS)
    assert abs(np.mean(counts) - N / 2) < 5 * np.sqrt(N / 4 / RUNS), "a frozen class has no advantage"
    assert abs(np.var(counts) / (N / 4) - 1) < 5 * np.sqrt(2 / RUNS)


@pytest.mark.parametrize(("transitive", "least"), [(False, 0.02), (True, 0.99)])
def test_clusters_of_the_certification_samples_are_unsound(simulated, transitive, least):
    """UNSOUND: the same answers, clustered and counted at once, certify what is false far above alpha."""
    runs = simulated[:3] if transitive else simulated
    sizes = [unsound_cluster(HalfSpace(), said[N:], transitive=transitive)[1] for _, said, _ in runs]
    found = wrong(simulated[0][2], sizes)
    assert too_many(found, len(runs))
    assert found / len(runs) > least


def test_no_sample_of_the_selection_is_counted(simulated):
    for _, said, _ in simulated[:20]:
        assert len(said) == 2 * N
        assert not set(said[:N]) & set(said[N:])
