"""From a frame to a certificate: votes that depend on the seed alone, failures that count, false claims."""

import copy
import math
from collections import Counter
from dataclasses import dataclass, field

import numpy as np
import pytest
from msgspec.structs import replace
from PIL import Image
from scipy.stats import binom, binomtest, norm

from edgers import Certifier, demo
from edgers.ending import ALL_SAMPLES, RESERVED_SELECTED
from edgers.oracle.base import FAILED, OTHER, RESERVED, winner
from edgers.oracle.rules import Rules
from edgers.poll import Poll
from edgers.rule import Rule
from edgers.smoothing.bounds import clopper_pearson_lower
from edgers_engines.device import Host
from edgers_engines.engine import open_backend
from edgers_engines.errors import BackendError, ImageError, InputError
from edgers_engines.image import CameraImage, Preparation
from edgers_engines.noise import Stream
from edgers_engines.vlm import Answer, Question, Status

ACTION_ORACLE = "action"


def certifier(bundle, *, samples=30, selection=6, batch_size=None, threads=None, **more):
    backend = open_backend(threads=threads)
    settings = {"sigma": demo.SIGMA, **more}
    return Certifier(
        bundle, samples=samples, selection=selection, batch_size=batch_size, backend=backend, **settings
    )


def ask(asked, image, **more):
    return asked.certify(image, demo.PROMPT, **{"choices": demo.ACTIONS, **more})


# --- votes depend on the seed alone -------------------------------------------------------------------------

CHUNKINGS = [
    pytest.param(batch_size, threads, id=f"batches of {batch_size}, {threads} threads")
    for batch_size, threads in ((1, 1), (1, 2), (7, 1), (7, 2), (25, 1), (30, 2), (1000, 1))
]


@pytest.fixture(scope="module")
def free_text(demo_bundle, hard_frame, seed):
    """The answer in free text to a hard frame, one sample at a time."""
    one_by_one = certifier(demo_bundle, batch_size=1, threads=1)
    return one_by_one.certify(hard_frame, demo.PROMPT, oracle=ACTION_ORACLE, seed=seed)


@pytest.fixture(scope="module")
def choice(demo_bundle, hard_frame, seed):
    """The choice for a hard frame, one sample at a time."""
    return ask(certifier(demo_bundle, batch_size=1, threads=1), hard_frame, seed=seed)


@pytest.mark.parametrize(("batch_size", "threads"), CHUNKINGS)
def test_votes_for_choices_depend_neither_on_batches_nor_on_threads(
    demo_bundle, hard_frame, choice, batch_size, threads
):
    again = ask(certifier(demo_bundle, batch_size=batch_size, threads=threads), hard_frame, seed=choice.seed)
    assert again.votes == choice.votes
    assert (again.label, again.p_lower, again.radius) == (choice.label, choice.p_lower, choice.radius)
    assert (again.batch_size, again.threads) == (min(batch_size, 30), threads)


@pytest.mark.parametrize(("batch_size", "threads"), CHUNKINGS)
def test_votes_of_free_text_depend_neither_on_batches_nor_on_threads(
    demo_bundle, hard_frame, free_text, batch_size, threads
):
    asked = certifier(demo_bundle, batch_size=batch_size, threads=threads)
    again = asked.certify(hard_frame, demo.PROMPT, oracle=ACTION_ORACLE, seed=free_text.seed)
    assert again.votes == free_text.votes
    assert again.decoding == free_text.decoding


def test_the_hard_frame_splits_the_votes_so_that_comparing_them_means_something(choice, free_text):
    for certificate in (choice, free_text):
        assert sum(count > 0 for count in certificate.votes.certification.values()) > 1


def test_another_seed_draws_other_samples(demo_bundle, hard_frame):
    asked = certifier(demo_bundle)
    votes = [ask(asked, hard_frame, seed=f"{i:032x}").votes for i in range(4)]
    assert any(other != votes[0] for other in votes[1:])


def test_the_seed_is_drawn_afresh_for_every_certificate_unless_it_is_given(demo_bundle, first_frame):
    asked = certifier(demo_bundle, samples=2, selection=1)
    drawn = [ask(asked, first_frame) for _ in range(3)]
    assert len({certificate.seed for certificate in drawn}) == 3
    assert {certificate.seed_source for certificate in drawn} == {"operating system"}
    given = ask(asked, first_frame, seed="00112233445566778899AABBCCDDEEFF")
    assert (given.seed, given.seed_source) == ("00112233445566778899aabbccddeeff", "given")


def test_a_file_its_pixels_and_a_decoded_image_give_the_same_certificate(demo_bundle, hard_frame, seed):
    asked = certifier(demo_bundle, samples=12)
    pixels = np.asarray(Image.open(hard_frame).convert("RGB"))
    sources = (hard_frame, str(hard_frame), pixels, CameraImage.of(hard_frame))
    certificates = [ask(asked, source, seed=seed) for source in sources]
    assert [c.votes for c in certificates] == [certificates[0].votes] * 4
    assert len({c.image_sha256 for c in certificates}) == 1
    assert [c.image for c in certificates] == [str(hard_frame), str(hard_frame), None, str(hard_frame)]


# --- what is drawn, and what for ----------------------------------------------------------------------------


@pytest.fixture
def drawn(monkeypatch):
    """Every noisy copy that is drawn: {(stream, index): array}."""
    from edgers_engines import device

    copies, original = {}, device.noisy_copies

    def spy(canvas, sigma, *, seed, stream, first, out):
        original(canvas, sigma, seed=seed, stream=stream, first=first, out=out)
        for row, noisy in enumerate(out):
            assert (stream, first + row) not in copies, "a sample was drawn twice"
            copies[stream, first + row] = noisy - canvas

    monkeypatch.setattr(device, "noisy_copies", spy)
    return copies


def test_selection_and_certification_draw_from_streams_of_their_own(demo_bundle, first_frame, drawn):
    ask(certifier(demo_bundle, samples=11, selection=5, batch_size=4), first_frame)
    assert Counter(stream for stream, _ in drawn) == {Stream.SELECTION: 5, Stream.CERTIFICATION: 11}
    assert sorted(index for stream, index in drawn if stream is Stream.CERTIFICATION) == list(range(11))
    assert len({noise.tobytes() for noise in drawn.values()}) == 16


def test_canvas_and_noise_lie_on_the_lattice_so_that_no_sum_is_rounded(demo_bundle, first_frame, drawn):
    pixels = np.asarray(Image.open(first_frame).convert("RGB").resize((70, 110)))
    ask(certifier(demo_bundle, samples=2, selection=1), pixels)
    steps = np.array(list(drawn.values())) * 2**20
    assert np.array_equal(steps, np.rint(steps))
    assert np.any(steps)


def test_the_noise_is_independent_and_of_the_size_asked_for(demo_bundle, first_frame, drawn):
    ask(certifier(demo_bundle, samples=8, selection=4, sigma=0.5), first_frame)
    noise = np.array([copy.ravel() for copy in drawn.values()])
    assert noise.std() == pytest.approx(0.5, rel=0.01)
    correlations = np.corrcoef(noise) - np.eye(len(noise))
    assert np.abs(correlations).max() < 6 / math.sqrt(noise.shape[1])


def test_progress_counts_every_sample_once(demo_bundle, first_frame):
    done, asked = [], certifier(demo_bundle, samples=11, selection=5, batch_size=4)
    certificate = ask(asked, first_frame, progress=done.append)
    assert done == [4, 1, 4, 4, 3]
    assert sum(done) == certificate.samples_spent == asked.samples_per_certificate == 16


# --- the certificate ----------------------------------------------------------------------------------------


def test_the_first_frame_is_certified_as_the_radius_says(certified):
    c = certified
    assert c.label == max(c.votes.certification, key=lambda name: c.votes.certification[name])
    assert sum(c.votes.certification.values()) == c.n == demo.SAMPLES
    assert sum(c.votes.selection.values()) == c.n_selection
    assert c.samples_spent == c.n + c.n_selection
    assert c.stopped_because == ALL_SAMPLES
    bound = clopper_pearson_lower(c.votes.certification[c.label], c.n, c.alpha)
    assert c.q_lower == bound.value
    assert c.q_lower - 1e-5 < c.p_lower < c.q_lower, "the sampler's distance from ideal noise is subtracted"
    assert c.p_lower == pytest.approx(c.q_lower - c.sampler.total_variation, abs=1e-15)
    assert c.radius == pytest.approx(c.sigma * norm.ppf(c.p_lower), rel=1e-9)


def test_a_certificate_says_what_it_assumes_and_what_it_does_not_say(certified):
    assumption = certified.assumption
    assert (assumption.mode, assumption.parameters, assumption.calibration) == ("composite", {}, None)
    for words in ("label is the oracle's", "that it is true is not claimed", "independent"):
        assert words in assumption.sentence


def test_a_certificate_names_the_bundle_the_engine_and_the_oracle(certified, demo_bundle):
    c = certified
    assert c.bundle_digest == demo_bundle.digest
    assert (c.engine.backend, c.engine.device) == ("onnxruntime", "cpu")
    assert (c.oracle.kind, c.oracle.classes) == ("choices", demo.ACTIONS)
    assert (c.decoding.method, c.decoding.constrained) == ("greedy", True)
    assert set(c.votes.certification) == {*demo.ACTIONS, *RESERVED}
    assert c.prompt == demo.PROMPT


def test_the_margin_guard_is_on_with_choices_and_off_with_free_text_unless_told(demo_bundle, first_frame):
    asked = certifier(demo_bundle, samples=2, selection=1)
    assert ask(asked, first_frame).margin.guard
    assert not ask(asked, first_frame, guard=False).margin.guard
    assert not ask(asked, first_frame, choices=None, oracle=ACTION_ORACLE).margin.guard
    assert ask(asked, first_frame, choices=None, oracle=ACTION_ORACLE, guard=True).margin.guard


def test_a_margin_below_the_tolerance_is_a_vote_for_nobody(demo_bundle, first_frame):
    strict = copy.copy(demo_bundle)
    decoding = replace(demo_bundle.manifest.decoding, margin_tolerance=1e6)
    strict.manifest = replace(demo_bundle.manifest, decoding=decoding)
    certificate = ask(certifier(strict), first_frame)
    assert (certificate.label, certificate.certified) == ("UNDECIDED", False)
    assert certificate.margin.smallest < certificate.margin.tolerance == 1e6


class Scripted:
    """A question whose answers are the numbers 1 to 7, each as often as it says."""

    rows, device = 28, Host()

    def answers(self, canvases):
        texts = [str(number) for number in range(1, 8) for _ in range(number)]
        return [Answer((), text, Status.COMPLETE, 1.0) for text in texts[: len(canvases)]]


def test_the_five_most_frequent_answers_are_kept_for_a_person(demo_bundle):
    oracle = Rules(demo_bundle.manifest.oracles[0])
    canvas = np.zeros((3, 1, 1))
    poll = Poll(Scripted(), oracle, canvas, sigma=0.25, seed=0, progress=lambda _samples: None)
    assert poll.count(Stream.SELECTION, 28)[OTHER] == 28
    assert list(poll.most_frequent.items()) == [("7", 7), ("6", 6), ("5", 5), ("4", 4), ("3", 3)]


def test_a_certificate_counts_the_answers_of_all_its_samples(demo_bundle, hard_frame):
    c = ask(certifier(demo_bundle), hard_frame, choices=None, oracle=ACTION_ORACLE)
    assert sum(c.answers.values()) <= c.samples_spent
    assert max(c.answers.values()) >= c.samples_spent / 6


def test_the_answer_is_the_certified_class_or_none(certified, abstained, reserved):
    assert (certified.answer, abstained.answer, reserved.answer) == (certified.label, None, None)


@pytest.mark.parametrize(
    ("votes", "wins"),
    [
        pytest.param({"b": 3, "a": 2}, "b", id="the most votes"),
        pytest.param({"b": 2, "a": 2}, "a", id="a tie: the class that the oracle names first"),
        pytest.param({"b": 2, OTHER: 2}, "b", id="a tie with a reserved class: the class"),
        pytest.param({"b": 2, OTHER: 3}, OTHER, id="a reserved class with the most votes"),
        pytest.param({}, "a", id="no votes at all"),
    ],
)
def test_the_selection_is_won_by_most_votes_and_of_several_by_the_first(votes, wins):
    for order in (votes, dict(reversed(votes.items()))):
        assert (
            winner({**order, **{c: 0 for c in ("b", "a", *RESERVED) if c not in votes}}, ("a", "b")) == wins
        )


def test_the_oracle_of_the_bundle_reads_free_text(demo_bundle, first_frame):
    certificate = ask(certifier(demo_bundle), first_frame, choices=None, oracle=ACTION_ORACLE)
    definition = next(o for o in demo_bundle.manifest.oracles if o.name == ACTION_ORACLE)
    assert certificate.oracle.classes == tuple(dict.fromkeys(rule.label for rule in definition.rules))
    assert (certificate.oracle.kind, certificate.decoding.constrained) == ("rules", False)
    assert certificate.label in certificate.oracle.classes


# --- abstaining ---------------------------------------------------------------------------------------------


def test_a_hard_frame_is_an_abstention_with_all_its_evidence(abstained):
    c = abstained
    assert (c.certified, c.radius, c.radius_camera) == (False, None, None)
    assert c.label in demo.ACTIONS
    assert c.p_lower <= 0.5
    assert c.q_lower > 0
    assert (c.stopped_because, c.samples_spent) == (ALL_SAMPLES, c.n + c.n_selection)


def test_when_a_reserved_class_wins_the_selection_nothing_is_certified_and_nothing_more_asked(
    demo_bundle, first_frame, foreign_oracle, monkeypatch
):
    """The first noise of the certification may have been drawn ahead by then; it is shown to no model."""
    answers, asked = Question.answers, []

    def spy(question, canvases):
        asked.append(len(canvases))
        return answers(question, canvases)

    monkeypatch.setattr(Question, "answers", spy)
    c = ask(certifier(demo_bundle), first_frame, choices=None, oracle=foreign_oracle)
    assert (c.label, c.certified, c.radius, c.radius_camera) == (OTHER, False, None, None)
    assert c.stopped_because == RESERVED_SELECTED
    assert (c.q_lower, c.p_lower) == (0.0, 0.0)
    assert set(c.votes.certification.values()) == {0}
    assert c.samples_spent == c.n_selection == sum(asked)


# --- the radius in camera pixels ----------------------------------------------------------------------------


def camera_to_canvas_norm(size, canvas, resampling):
    """The largest singular value of Pillow's own resize, found by resizing every unit vector of each axis."""
    norms = []
    for old, new in zip(size, canvas, strict=True):
        units = Image.fromarray(np.eye(old, dtype=np.float32))  # one unit vector a row
        norms.append(np.linalg.svd(np.asarray(units.resize((new, old), resampling)), compute_uv=False)[0])
    return float(np.prod(norms))


@pytest.mark.parametrize(("height", "width"), [(96, 96), (150, 200), (48, 61), (300, 96)], ids=str)
def test_the_radius_in_camera_pixels_follows_from_the_resize(demo_bundle, first_frame, seed, height, width):
    steps = demo_bundle.manifest.preparation
    resized = np.asarray(Image.open(first_frame).convert("RGB").resize((width, height)))
    c = ask(certifier(demo_bundle, samples=demo.SAMPLES), resized, seed=seed)
    assert c.certified
    assert c.preparation.camera_size == (height, width)
    canvas = steps.exact
    expected = camera_to_canvas_norm((height, width), canvas, Image.Resampling[steps.filter.upper()])
    assert c.preparation.operator_norm == pytest.approx(expected, rel=1e-5)
    off_lattice = 2**-20 * math.sqrt(3 * canvas[0] * canvas[1])
    exact = (c.radius - off_lattice) / c.preparation.operator_norm
    assert exact * (1 - 1e-8) <= c.radius_camera <= exact
    assert c.largest_uniform_change == pytest.approx(255 * c.radius / math.sqrt(3 * canvas[0] * canvas[1]))


# --- failures count against ---------------------------------------------------------------------------------


@dataclass
class Faulty:
    """An engine that fails in some of its runs, or whose outputs are spoilt."""

    engine: object
    fails: range | set = field(default_factory=set)
    spoil: object = None
    runs: int = 0

    def __getattr__(self, name):
        return getattr(self.engine, name)

    def run(self, inputs, outputs):
        self.runs += 1
        if self.runs - 1 in self.fails:
            raise BackendError("the device fell off the robot")
        self.engine.run(inputs, outputs)
        if self.spoil is not None:
            self.spoil(self.runs - 1, inputs, outputs)


@pytest.fixture
def healthy(demo_bundle, first_frame, seed):
    return ask(certifier(demo_bundle, samples=60, selection=5, batch_size=5), first_frame, seed=seed)


def test_a_batch_that_fails_counts_whole_against_the_class_and_lowers_the_radius(
    demo_bundle, first_frame, seed, healthy
):
    asked = certifier(demo_bundle, samples=60, selection=5, batch_size=5)
    asked.model.vision = Faulty(asked.model.vision, fails={3})
    c = ask(asked, first_frame, seed=seed)
    assert c.votes.certification[FAILED] == healthy.votes.certification[FAILED] + 5
    assert sum(c.votes.certification.values()) == c.n == 60
    assert c.votes.selection == healthy.votes.selection
    assert c.q_lower == clopper_pearson_lower(c.votes.certification[c.label], 60, c.alpha).value
    assert c.q_lower < healthy.q_lower
    assert c.radius is None or c.radius < healthy.radius


def test_a_decoder_that_fails_in_the_middle_of_an_answer_counts_against_too(
    demo_bundle, first_frame, seed, healthy
):
    asked = certifier(demo_bundle, samples=60, selection=5, batch_size=5)
    asked.model.decoder = Faulty(asked.model.decoder, fails={4})  # run 0 is the prompt's shared beginning
    c = ask(asked, first_frame, seed=seed)
    assert c.votes.certification[FAILED] == healthy.votes.certification[FAILED] + 5
    assert sum(c.votes.certification.values()) == 60


@pytest.mark.parametrize("number", [math.nan, math.inf, -math.inf])
def test_logits_that_are_not_finite_fail_their_own_sample_and_no_other(
    demo_bundle, first_frame, seed, healthy, number
):
    def spoil(run, _inputs, outputs):
        if run == 4:
            outputs["logits"][2, 7] = number

    asked = certifier(demo_bundle, samples=60, selection=5, batch_size=5)
    asked.model.decoder = Faulty(asked.model.decoder, spoil=spoil)
    c = ask(asked, first_frame, seed=seed)
    lost = Counter(healthy.votes.certification)
    lost.subtract(c.votes.certification)
    assert c.votes.certification[FAILED] == healthy.votes.certification[FAILED] + 1
    assert sorted(lost.values(), key=abs)[-2:] in ([-1, 1], [1, -1])
    assert sum(map(abs, lost.values())) == 2


def test_features_that_are_not_a_number_fail_their_batch_and_do_not_reach_the_next(
    demo_bundle, first_frame, seed, healthy
):
    def spoil(run, _inputs, outputs):
        if run == 3:
            outputs["features"][:] = math.nan

    asked = certifier(demo_bundle, samples=60, selection=5, batch_size=5)
    asked.model.vision = Faulty(asked.model.vision, spoil=spoil)
    c = ask(asked, first_frame, seed=seed)
    assert c.votes.certification[FAILED] == healthy.votes.certification[FAILED] + 5


def test_a_single_failed_sample_of_many_can_cost_the_certificate(demo_bundle, first_frame, seed):
    """Ten unanimous samples are the fewest that certify at alpha .001: with one of eleven lost, none do."""
    asked = certifier(demo_bundle, samples=11, selection=3, batch_size=1)
    asked.model.vision = Faulty(asked.model.vision, fails={9})
    c = ask(asked, first_frame, seed=seed)
    assert not c.certified
    assert c.votes.certification[FAILED] >= 1


@pytest.mark.parametrize(
    "fails", [pytest.param(range(1000), id="always"), pytest.param(range(2, 1000), id="after the selection")]
)
def test_if_every_sample_fails_in_the_engine_that_is_an_error(demo_bundle, first_frame, fails):
    asked = certifier(demo_bundle, samples=20, selection=10, batch_size=5)
    asked.model.vision = Faulty(asked.model.vision, fails=fails)
    with pytest.raises(BackendError, match="fell off the robot"):
        ask(asked, first_frame)


def test_if_most_of_the_selection_fails_the_abstention_says_failed(demo_bundle, first_frame):
    asked = certifier(demo_bundle, samples=20, selection=10, batch_size=3)
    asked.model.vision = Faulty(asked.model.vision, fails={0, 1})
    c = ask(asked, first_frame)
    assert (c.label, c.certified, c.stopped_because) == (FAILED, False, RESERVED_SELECTED)
    assert c.votes.selection[FAILED] == 6


def test_if_no_logit_is_ever_finite_that_is_an_error_too(demo_bundle, first_frame):
    def spoil(_run, _inputs, outputs):
        outputs["logits"][:] = math.nan

    asked = certifier(demo_bundle, samples=20, selection=10)
    asked.model.decoder = Faulty(asked.model.decoder, spoil=spoil)
    with pytest.raises(BackendError, match="every sample gave numbers that are not finite"):
        ask(asked, first_frame)


def test_an_error_that_is_not_the_backends_is_not_taken_for_a_failed_sample(demo_bundle, first_frame):
    def spoil(run, _inputs, _outputs):
        if run == 3:
            raise ZeroDivisionError

    asked = certifier(demo_bundle, samples=20, selection=10, batch_size=5)
    asked.model.vision = Faulty(asked.model.vision, spoil=spoil)
    with pytest.raises(ZeroDivisionError):
        ask(asked, first_frame)


# --- a classifier whose probabilities are known: how many certificates are false? --------------------------

SEEDS = 400
SAMPLES, SELECTION, ALPHA, SIGMA = 12, 3, 0.2, 0.5


class HalfSpaces:
    """A question whose answer is an exact function of the noise at two pixel values of a black image.

    The first class where the one value's noise is at most `threshold`; elsewhere the second, except where the
    other value's noise is negative and `failing` is set: there the engine fails.
    """

    threshold, failing, classes = 0.0, False, ()
    max_new_tokens = 1

    def __init__(self, _model, _prompt, *, rows, **_settings):
        self.rows, self.seconds, self.device = rows, {}, Host()
        self.first_token_at, self.decode_steps = None, 0

    def answers(self, canvases):
        return [self._answer(canvas[:, 0, 0]) for canvas in canvases]

    def _answer(self, noise):
        if noise[0] > self.threshold and self.failing and noise[1] < 0:
            raise BackendError("the device fell off the robot")
        return Answer((), self.classes[int(noise[0] > self.threshold)], Status.COMPLETE, 1.0)


@pytest.fixture
def false_certificates(demo_bundle, monkeypatch):
    """Run `SEEDS` certificates of a class of known probability; return how many claim too large a radius."""
    tiny = copy.copy(demo_bundle)
    tiny.manifest = replace(demo_bundle.manifest, preparation=Preparation(exact=(1, 1)))
    rules = next(oracle for oracle in tiny.manifest.oracles if oracle.name == ACTION_ORACLE)
    HalfSpaces.classes = tuple(dict.fromkeys(rule.label for rule in rules.rules))[:2]
    monkeypatch.setattr("edgers.asked.Question", HalfSpaces)
    black = np.zeros((1, 1, 3), np.uint8)

    def count(probability, *, failing=False):
        monkeypatch.setattr(HalfSpaces, "threshold", float(SIGMA * norm.ppf(probability)))
        monkeypatch.setattr(HalfSpaces, "failing", failing)
        truth = dict(
            zip(HalfSpaces.classes, (probability, (1 - probability) * (1 - failing / 2)), strict=True)
        )
        options = {"samples": SAMPLES, "selection": SELECTION, "alpha": ALPHA}
        options["batch_size"] = 1 if failing else SAMPLES  # a failure is its whole batch's
        asked = Certifier(demo_bundle, sigma=SIGMA, **options)
        asked.bundle = tiny  # after the real model's self-test: no graph runs here
        false = 0
        for number in range(SEEDS):
            try:
                c = asked.certify(black, demo.PROMPT, oracle=ACTION_ORACLE, seed=f"{number:032x}")
            except BackendError:  # every sample of the selection failed: nothing is claimed
                continue
            false += c.certified and c.radius > SIGMA * norm.ppf(truth[c.label])
        return false

    return count


def too_many(false):
    """Whether so many false certificates would have a chance below one in a million at the promised level."""
    return binomtest(false, SEEDS, ALPHA, alternative="greater").pvalue < 1e-6


@pytest.mark.parametrize("failing", [False, True], ids=["no failures", "failures"])
@pytest.mark.parametrize("probability", [0.5, 0.75])
def test_false_certificates_are_as_rare_as_promised(false_certificates, probability, failing):
    assert not too_many(false_certificates(probability, failing=failing))


def test_false_certificates_come_about_as_often_as_exact_arithmetic_says(false_certificates):
    """At p = 1/2 every certificate is false, and 9 of 12 votes make one: nothing is hidden by abstaining."""
    fewest = next(k for k in range(13) if clopper_pearson_lower(k, SAMPLES, ALPHA).value > 0.5)
    rate = binom.sf(fewest - 1, SAMPLES, 0.5)
    assert ALPHA / 2 < rate < ALPHA
    assert binomtest(false_certificates(0.5), SEEDS, rate).pvalue > 1e-6


def test_a_certifier_that_selects_on_the_certification_samples_is_caught(false_certificates, monkeypatch):
    count = Poll.count
    monkeypatch.setattr(Poll, "count", lambda poll, *_, **__: count(poll, Stream.CERTIFICATION, SAMPLES))
    assert too_many(false_certificates(0.5))


def test_a_certifier_that_drops_failed_samples_is_caught(false_certificates, monkeypatch):
    labels = Poll._labels
    monkeypatch.setattr(
        Poll, "_labels", lambda poll, *args: [name for name in labels(poll, *args) if name != FAILED]
    )
    # A rule that is content with fewer than n samples is part of this mistake.
    monkeypatch.setattr(Rule, "_q_lower", lambda rule, k, n: clopper_pearson_lower(k, n, rule.alpha))
    assert too_many(false_certificates(0.5, failing=True))


def test_a_fixed_rule_proves_nothing_by_fewer_samples_than_it_laid_down(false_certificates, monkeypatch):
    labels = Poll._labels
    monkeypatch.setattr(
        Poll, "_labels", lambda poll, *args: [name for name in labels(poll, *args) if name != FAILED]
    )
    assert not too_many(false_certificates(0.5, failing=True))


# --- refusals -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("numbers", "named"),
    [
        *(
            pytest.param({"sigma": sigma}, f"sigma is {sigma}", id=f"sigma {sigma}")
            for sigma in (0, -0.25, math.nan, math.inf, -math.inf, 1.71, 1e12)
        ),
        *(
            pytest.param({"alpha": alpha}, f"alpha is {alpha}", id=f"alpha {alpha}")
            for alpha in (0, -1, 0.5, 1, math.nan, math.inf, 1e12)
        ),
        *(
            pytest.param({"samples": number}, f"the number of samples is {number}", id=f"{number} samples")
            for number in (0, -1, 10**12)
        ),
        *(
            pytest.param({"selection": number}, f"selection is {number}", id=f"selection {number}")
            for number in (-1, 10**12)
        ),
        *(
            pytest.param({"batch_size": size}, f"the batch size is {size}", id=f"batches of {size}")
            for size in (0, -1)
        ),
        *(
            pytest.param({"threads": threads}, f"threads is {threads}", id=f"{threads} threads")
            for threads in (0, -1, 10**6)
        ),
    ],
)
def test_a_number_that_cannot_be_used_is_refused_and_named(demo_bundle, first_frame, numbers, named):
    with pytest.raises(InputError, match=named.replace("+", r"\+")):
        ask(certifier(demo_bundle, **numbers), first_frame)


@pytest.mark.parametrize(
    "bad",
    [
        "",
        "0",
        "0" * 31,
        "0" * 33,
        "g" * 32,
        "0x" + "0" * 30,
        "-" + "0" * 31,
        "0" * 32 + "\n",
        "\N{ARABIC-INDIC DIGIT ZERO}" * 32,
        " " * 32,
    ],
)
def test_a_seed_that_is_not_128_bits_is_refused(demo_bundle, first_frame, bad):
    with pytest.raises(InputError, match="is not 32 hexadecimal digits"):
        ask(certifier(demo_bundle), first_frame, seed=bad)


@pytest.mark.parametrize(
    ("question", "named"),
    [
        pytest.param({"choices": None}, "give either choices or an oracle", id="neither choices nor oracle"),
        pytest.param({"oracle": ACTION_ORACLE}, "give either choices or an oracle", id="both"),
        pytest.param(
            {"choices": None, "oracle": "nobody"}, "no oracle 'nobody'; it has: ", id="unknown oracle"
        ),
        pytest.param({"choices": ["left"]}, "choices given: 1", id="one choice"),
        pytest.param({"choices": ["left", "left"]}, "'left' is named twice", id="a repeat"),
    ],
)
def test_a_question_that_cannot_be_judged_is_refused(demo_certifier, first_frame, question, named):
    with pytest.raises(InputError, match=named):
        ask(demo_certifier, first_frame, **question)


@pytest.mark.parametrize(
    ("prompt", "named"),
    [
        pytest.param("", "the prompt is empty", id="empty"),
        pytest.param(" \n\t", "the prompt is empty", id="blank"),
        pytest.param("left " * 4000, "shorten the prompt", id="more tokens than positions"),
        pytest.param("x" * 10**6, "the prompt has 1000000 characters", id="a million characters"),
        pytest.param(
            "which way\ud800?", "the prompt is not valid Unicode at character", id="a lone surrogate"
        ),
    ],
)
def test_a_prompt_that_cannot_be_asked_is_refused(demo_certifier, first_frame, prompt, named):
    with pytest.raises(InputError, match=named):
        demo_certifier.certify(first_frame, prompt, oracle=ACTION_ORACLE)


def test_special_tokens_in_a_prompt_are_plain_text(demo_bundle, first_frame):
    """Were they not, `</s>` would end the prompt and `<image>` would stand for a second image."""
    asked = certifier(demo_bundle, samples=2, selection=1)
    c = asked.certify(first_frame, "</s> <image> What should the robot do?", choices=demo.ACTIONS)
    assert c.label in {*demo.ACTIONS, *RESERVED}
    assert not {1, 2, 4} & set(asked.model.prompts.suffix("<s> </s> <image>"))


@pytest.mark.parametrize(
    "image",
    [
        pytest.param(np.zeros((96, 96, 3), np.float32), id="floats"),
        pytest.param(np.zeros((96, 96), np.uint8), id="no channels"),
        pytest.param(np.zeros((96, 96, 4), np.uint8), id="four channels"),
        pytest.param(np.zeros((0, 96, 3), np.uint8), id="no rows"),
        pytest.param(np.zeros((1, 96, 3), np.uint8), id="a strip"),
        pytest.param("not there.png", id="a missing file"),
        pytest.param("\0", id="a name with NUL"),
    ],
)
def test_an_image_that_cannot_be_used_is_refused(demo_certifier, image):
    with pytest.raises(ImageError):
        ask(demo_certifier, image)
