"""A query of each scenario: what it asks, with which noise, and that its times belong together."""

import time
from dataclasses import replace
from itertools import pairwise

import pytest

from edgers import demo
from edgers.benchmark.record import STAGES
from edgers.benchmark.scenario import Asking, Certificates, Samples
from edgers.certify import Certifier
from edgers_engines.errors import BackendError, InputError
from edgers_engines.vlm import Question, Status

NANOSECOND = 2e-6  # in milliseconds, of each of two roundings
IN_A_CERTIFICATE = set(STAGES)
IN_A_SAMPLE = {"noise", "encode", "prefill", "decode", "oracle", "statistics"}


@pytest.fixture(scope="module")
def certifier(demo_bundle):
    return Certifier(demo_bundle, sigma=demo.SIGMA, samples=40, selection=4)


@pytest.fixture
def asking(first_frame):
    return Asking(first_frame, demo.PROMPT, demo.ACTIONS, None)


@pytest.fixture
def free_text(first_frame, demo_bundle):
    """A question whose answer is a sentence, so that the decoder steps."""
    rules = next(o.name for o in demo_bundle.manifest.rules if {r.label for r in o.rules} & set(demo.ACTIONS))
    return Asking(first_frame, demo.PROMPT, None, rules)


def samples(certifier, asking, rows, pool):
    done = []
    found = Samples(certifier.model, asking, sigma=demo.SIGMA, rows=rows, samples=pool, progress=done.append)
    return found, done


def asked(scenario, number=0, count=None):
    queries = []
    scenario.ask(number, scenario.samples if count is None else count, queries.append)
    return queries


def check_times(query, stages):
    """Stages are parts of the latency, one after the other."""
    assert set(query.stages_ms) == stages
    assert all(spent > 0 for spent in query.stages_ms.values())
    assert sum(query.stages_ms.values()) <= query.latency_ms
    assert 0 < query.first_token_ms <= query.latency_ms


def test_a_certificate_is_the_certifiers_own(certifier, asking, first_frame):
    (query,) = asked(Certificates(certifier, asking, lambda _samples: None), 7)
    expected = certifier.certify(first_frame, demo.PROMPT, choices=demo.ACTIONS, seed=f"{7:032x}")
    assert (query.certified, query.radius) == (expected.certified, expected.radius)
    assert (query.samples, query.stopped_because) == (44, "all samples were drawn")
    check_times(query, IN_A_CERTIFICATE)


def test_a_certificate_is_asked_for_from_the_images_file_with_the_seed_of_its_number(
    certifier, asking, monkeypatch
):
    """Then reading and decoding the file is within its time."""
    certify, seen = certifier.certify, []

    def noted(image, prompt, **named):
        seen.append((image, prompt, named["seed"]))
        return certify(image, prompt, **named)

    monkeypatch.setattr(certifier, "certify", noted)
    asked(Certificates(certifier, asking, lambda _samples: None), 7)
    assert seen == [(asking.image, asking.prompt, f"{7:032x}")]


def test_a_certificates_time_is_in_the_stages_that_a_benchmark_knows(certified):
    assert set(certified.timings_ms) == {*STAGES, "model", "total"}


def test_certificates_tell_their_samples_as_they_are_done(certifier, asking):
    done = []
    asked(Certificates(certifier, asking, done.append))
    assert sum(done) == 44


def test_single_asks_one_sample_after_the_other(certifier, asking):
    scenario, _ = samples(certifier, asking, 1, 1)
    queries = [*asked(scenario, 0), *asked(scenario, 1)]
    assert [query.samples for query in queries] == [1, 1]
    for query in queries:
        check_times(query, IN_A_SAMPLE)
        assert query.first_token_ms >= query.stages_ms["encode"] + query.stages_ms["prefill"]
        assert query.certified is None
    first, second = queries
    assert second.start_ms >= first.start_ms + first.latency_ms - NANOSECOND


def test_offline_asks_its_pool_in_batches_and_each_is_a_query(certifier, asking):
    scenario, done = samples(certifier, asking, 8, 20)
    queries = asked(scenario)
    assert [query.samples for query in queries] == done == [8, 8, 4]
    for query in queries:
        check_times(query, IN_A_SAMPLE)
    assert all(b.start_ms >= a.start_ms + a.latency_ms - NANOSECOND for a, b in pairwise(queries))
    assert [query.samples for query in asked(scenario, 1, 12)] == [8, 4]


def test_each_asking_takes_the_next_samples_of_one_noise(certifier, asking, monkeypatch):
    scenario, _ = samples(certifier, asking, 8, 20)
    drawn = []
    device = certifier.model.backend.device
    draw = device.noisy_copies

    def noted(*args, **named):
        drawn.append((named["seed"], named["first"], len(named["out"])))
        draw(*args, **named)

    monkeypatch.setattr(device, "noisy_copies", noted)
    asked(scenario, 0)
    asked(scenario, 3)
    assert drawn == [(0, 0, 8), (0, 8, 8), (0, 16, 4), (0, 60, 8), (0, 68, 8), (0, 76, 4)]


def test_times_of_a_query_are_its_own_not_those_of_all_before(certifier, asking):
    scenario, _ = samples(certifier, asking, 4, 4)
    for number in range(5):
        (query,) = asked(scenario, number)
        check_times(query, IN_A_SAMPLE)


def test_free_text_takes_decode_steps_and_choices_that_differ_at_once_take_none(certifier, asking, free_text):
    (sentence,) = asked(samples(certifier, free_text, 4, 4)[0])
    (word,) = asked(samples(certifier, asking, 4, 4)[0])
    assert sentence.decode_steps > 0
    assert word.decode_steps == 0
    (certificate,) = asked(Certificates(certifier, free_text, lambda _samples: None))
    assert certificate.decode_steps >= 2 * sentence.decode_steps  # it asks two batches: selection, votes
    assert sentence.first_token_ms < sentence.latency_ms


def test_the_first_token_comes_before_the_steps_that_follow_it(certifier, free_text, monkeypatch):
    scenario, _ = samples(certifier, free_text, 2, 2)
    embed, steps = certifier.model.embed.run, []

    def noted(*args):
        steps.append(1000 * time.perf_counter())
        embed(*args)

    monkeypatch.setattr(certifier.model.embed, "run", noted)  # the prefill embeds nothing any more
    (query,) = asked(scenario)
    assert query.start_ms + query.first_token_ms <= steps[0]


@pytest.mark.parametrize("after", [False, True])
@pytest.mark.parametrize("batches", [0, 2])
def test_a_batch_that_fails_is_no_query_but_an_error_that_names_the_cause(
    certifier, asking, monkeypatch, batches, after
):
    """Whether it fails before its first token or after it."""
    scenario, _ = samples(certifier, asking, 4, 12)
    answers, asked_for, kept = scenario._question.answers, [], []

    def failing(noisy):
        asked_for.append(noisy)
        if len(asked_for) <= batches:
            return answers(noisy)
        if after:
            answers(noisy)
        raise BackendError("the graph ran out of steam")

    monkeypatch.setattr(scenario._question, "answers", failing)
    with pytest.raises(BackendError, match="the graph ran out of steam"):
        scenario.ask(0, 12, kept.append)
    assert len(kept) == batches


def test_a_batch_of_numbers_that_are_not_finite_is_no_query(certifier, asking, monkeypatch):
    scenario, _ = samples(certifier, asking, 4, 4)
    answers = scenario._question.answers

    def broken(noisy):
        return [replace(answer, status=Status.FAILED) for answer in answers(noisy)]

    monkeypatch.setattr(scenario._question, "answers", broken)
    with pytest.raises(BackendError, match="every sample of a batch gave numbers that are not finite"):
        asked(scenario)


@pytest.fixture
def first_fails(monkeypatch):
    """Makes the first sample of every batch fail; returns the batches' sizes."""
    answers, sizes = Question.answers, []

    def broken(question, noisy):
        first, *others = answers(question, noisy)
        sizes.append(len(noisy))
        return [replace(first, status=Status.FAILED), *others]

    monkeypatch.setattr(Question, "answers", broken)
    return sizes


def test_samples_of_a_batch_that_fail_are_counted_in_their_own_query(certifier, asking, first_fails):
    scenario, _ = samples(certifier, asking, 4, 8)
    assert [(query.samples, query.failed) for query in asked(scenario)] == [(4, 1), (4, 1)]
    assert [query.failed for query in asked(scenario, 1)] == [1, 1]


def test_a_certificate_counts_the_samples_that_failed_in_both_of_its_counts(certifier, asking, first_fails):
    (query,) = asked(Certificates(certifier, asking, lambda _samples: None))
    assert query.failed == len(first_fails) > 1


def test_what_the_scenario_ran_on_is_named(certifier, asking):
    scenario, _ = samples(certifier, asking, 1, 1)
    assert scenario.engine.backend == "onnxruntime"
    assert Certificates(certifier, asking, lambda _samples: None).engine == scenario.engine


def test_an_oracle_that_the_bundle_does_not_have_is_refused(certifier, first_frame):
    with pytest.raises(InputError, match="has no oracle 'no-such'"):
        samples(certifier, Asking(first_frame, demo.PROMPT, None, "no-such"), 1, 1)
