"""The gate: only a certificate at the required radius, in time and for the newest frame, moves anything."""

import json
import math
import threading
from unittest import mock

import msgspec
import pytest

from edgers import demo, gate
from edgers.certificate import CertificateError
from edgers.certify import Certifier
from edgers.gate import Gate, Outcome
from edgers_engines.errors import InputError
from edgers_engines.vlm import Question
from tests.edgers.faults import FAULTS, Simulation

AMPLE = 60_000.0
GUARD = 60


@pytest.fixture(scope="module")
def decider(demo_bundle):
    return Gate(demo_bundle, sigma=demo.SIGMA, samples=200)


def decide(decider, frame, *, prompt=demo.PROMPT, actions=demo.ACTIONS, radius=0.125, deadline_ms=AMPLE):
    return decider.decide(frame, prompt, actions, radius, deadline_ms)


def test_a_gate_that_has_no_memory_for_a_whole_look_measures_with_fewer(demo_bundle, monkeypatch):
    asked = []

    def scarce(model, prompt, *, rows, **options):
        asked.append(rows)
        if rows > 3:
            raise MemoryError
        return Question(model, prompt, rows=rows, **options)

    monkeypatch.setattr("edgers.gate.Question", scarce)
    Gate(demo_bundle, sigma=0.25)
    assert asked[-1] <= 3 < asked[0]


def test_a_clear_frame_executes_its_action_with_a_certificate_of_the_required_radius(decider, first_frame):
    record = decide(decider, first_frame)
    assert (record.outcome, record.action) == (Outcome.EXECUTE, "forward")
    assert record.certificate.certified
    assert record.certificate.radius >= record.required_radius == 0.125
    assert record.certificate.method == "sequential"
    assert 0 < record.elapsed_ms <= record.deadline_ms


def test_it_stops_as_soon_as_the_radius_is_certified(decider, first_frame, monkeypatch):
    """With this seed's noise all votes agree; one against, in a tenth of all seeds, takes 16 samples more."""
    monkeypatch.setattr("edgers.asked.secrets.token_hex", lambda _: 32 * "0")
    certificate = decide(decider, first_frame).certificate
    assert certificate.votes.certification[certificate.label] == certificate.samples_counted == 24


def test_a_hard_frame_is_an_abstention(decider, hard_frame):
    record = decide(decider, hard_frame)
    assert (record.outcome, record.action) == (Outcome.ABSTAIN, None)
    assert "out of reach" in record.reason or "never certified" in record.reason


def test_a_deadline_that_no_batch_can_keep_begins_none(decider, first_frame):
    record = decide(decider, first_frame, deadline_ms=1e-3)
    assert (record.outcome, record.action) == (Outcome.DEADLINE, None)
    assert record.certificate is None or record.certificate.samples_spent == 0


def test_a_certificate_that_comes_after_the_deadline_does_not_execute(decider, first_frame):
    """The clock jumps while the last batch is answered."""
    certify = Certifier.certify

    def slow(self, *args, **named):
        certificate = certify(self, *args, **named)
        clock.offset = 2 * AMPLE / 1000
        return certificate

    clock = Clock()
    with mock.patch.object(gate, "time", clock), mock.patch.object(Certifier, "certify", slow):
        record = decide(decider, first_frame)
    assert record.certificate.certified
    assert (record.outcome, record.action) == (Outcome.DEADLINE, None)


@pytest.mark.parametrize("happens", ["deadline", "newer frame"])
def test_what_happens_while_the_certificate_is_checked_counts(decider, first_frame, happens):
    clock, check = Clock(), gate.verify

    def slow(certificate):
        check(certificate)
        if happens == "deadline":
            clock.offset = 2 * AMPLE / 1000
        else:
            decider._ticket()

    with mock.patch.object(gate, "time", clock), mock.patch.object(gate, "verify", slow):
        record = decide(decider, first_frame)
    assert record.certificate.certified
    assert record.outcome is (Outcome.DEADLINE if happens == "deadline" else Outcome.HOLD)
    assert record.action is None
    assert record.elapsed_ms == 1000 * clock.offset


class Clock:
    def __init__(self):
        self.offset = 0.0

    def monotonic(self):
        return self.offset


def test_a_clock_that_goes_back_is_an_error(decider, first_frame):
    clock = Clock()
    certify = Certifier.certify

    def back(self, *args, **named):
        certificate = certify(self, *args, **named)
        clock.offset = -1.0
        return certificate

    with mock.patch.object(gate, "time", clock), mock.patch.object(Certifier, "certify", back):
        record = decide(decider, first_frame)
    assert (record.outcome, record.action) == (Outcome.ERROR, None)
    assert "clock went" in record.reason


def test_a_certificate_that_does_not_verify_does_not_execute(decider, first_frame):
    certify = Certifier.certify

    def forged(self, *args, **named):
        return msgspec.structs.replace(certify(self, *args, **named), radius=9.0)

    with mock.patch.object(Certifier, "certify", forged):
        record = decide(decider, first_frame)
    assert (record.outcome, record.action) == (Outcome.ERROR, None)
    assert "radius is 9.0" in record.reason


@pytest.mark.parametrize(
    ("wrong", "said"),
    [
        ({"frame": "nowhere.png"}, "nowhere.png"),
        ({"frame": None}, "Error"),
        ({"prompt": ""}, "prompt"),
        ({"actions": ["left"]}, "choice"),
        ({"actions": None}, "choices"),
        ({"radius": -1.0}, "radius"),
        ({"radius": math.nan}, "radius"),
        ({"radius": 50.0}, "radius"),
        ({"radius": "much"}, "radius"),
        ({"deadline_ms": 0.0}, "deadline"),
        ({"deadline_ms": math.inf}, "deadline"),
        ({"deadline_ms": True}, "deadline"),
        ({"deadline_ms": "soon"}, "deadline"),
        ({"deadline_ms": "200"}, "deadline"),
    ],
)
def test_what_is_wrong_is_an_error_and_never_an_exception(decider, first_frame, wrong, said):
    given = {"frame": first_frame, **wrong}
    record = decide(decider, given.pop("frame"), **given)
    assert (record.outcome, record.action, record.certificate) == (Outcome.ERROR, None, None)
    assert said in record.reason


class Hostile:
    def __float__(self):
        raise RuntimeError("no number")

    @property
    def __class__(self):
        raise RuntimeError("no class")


class SilentError(Exception):
    def __str__(self):
        raise RuntimeError("no text")


@pytest.mark.parametrize("wrong", ["frame", "prompt", "actions", "radius", "deadline_ms"])
def test_an_object_that_fails_at_every_touch_is_an_error_and_never_an_exception(decider, first_frame, wrong):
    given = {"frame": first_frame, wrong: Hostile()}
    record = decide(decider, given.pop("frame"), **given)
    assert (record.outcome, record.action, record.certificate) == (Outcome.ERROR, None, None)


def test_an_error_that_cannot_say_what_it_is_is_named_by_its_type(decider, first_frame):
    with mock.patch.object(Certifier, "certify", side_effect=SilentError):
        record = decide(decider, first_frame)
    assert (record.outcome, record.reason) == (Outcome.ERROR, "SilentError")


def test_an_interrupt_is_no_failure_and_passes_through(decider, first_frame):
    with (
        mock.patch.object(Certifier, "certify", side_effect=KeyboardInterrupt),
        pytest.raises(KeyboardInterrupt),
    ):
        decide(decider, first_frame)
    assert decide(decider, first_frame).outcome is Outcome.EXECUTE, "and the gate goes on"


def test_the_newest_frame_wins_and_the_older_one_holds(decider, first_frame, hard_frame):
    """The older decision is in its first batch when the newer one is asked for."""
    running, asked = threading.Event(), threading.Event()
    older = []
    from edgers.poll import Poll

    labels = Poll._labels

    def wait(self, *args):
        found = labels(self, *args)
        if not running.is_set():
            running.set()
            assert asked.wait(GUARD)
        return found

    with mock.patch.object(Poll, "_labels", wait):
        thread = threading.Thread(target=lambda: older.append(decide(decider, hard_frame)))
        thread.start()
        assert running.wait(GUARD)
        ticket = decider._ticket

        def noted():
            number = ticket()
            asked.set()
            return number

        with mock.patch.object(decider, "_ticket", noted):
            newer = decide(decider, first_frame)
        thread.join(GUARD)
    assert (newer.outcome, newer.action) == (Outcome.EXECUTE, "forward")
    assert (older[0].outcome, older[0].reason) == (Outcome.HOLD, "a newer frame came")
    assert older[0].certificate.samples_counted == 8, "the batch that was begun counts whole"


def test_a_decision_does_not_wait_for_the_one_before_it_beyond_its_deadline(decider, first_frame):
    found = []
    thread = threading.Thread(target=lambda: found.append(decide(decider, first_frame, deadline_ms=1.0)))
    with decider._turn:
        thread.start()
        thread.join(GUARD)
    assert (found[0].outcome, found[0].certificate) == (Outcome.DEADLINE, None)


def test_a_deadline_longer_than_a_lock_can_wait_is_kept(decider, first_frame):
    assert decide(decider, first_frame, deadline_ms=1e300).outcome is Outcome.EXECUTE


def test_a_decision_that_is_superseded_while_it_waits_touches_nothing(decider, first_frame):
    asked, found, ticket = threading.Event(), [], decider._ticket

    def noted():
        number = ticket()
        asked.set()
        return number

    with mock.patch.object(decider, "_ticket", noted), decider._turn:
        thread = threading.Thread(target=lambda: found.append(decide(decider, first_frame)))
        thread.start()
        assert asked.wait(GUARD)
        ticket()
    thread.join(GUARD)
    assert (found[0].outcome, found[0].certificate) == (Outcome.HOLD, None)


def slowed(decider, seconds_per_sample):
    slow = Gate.__new__(Gate)
    slow.__dict__.update(decider.__dict__, _seconds_per_sample=seconds_per_sample)
    return slow


def test_one_stall_is_not_believed_for_ever(decider, first_frame):
    slow = slowed(decider, 1e3)
    records = [decide(slow, first_frame) for _ in range(8)]
    assert records[0].outcome is Outcome.DEADLINE
    assert "a batch takes 1000000" in records[0].reason
    assert Outcome.EXECUTE in {record.outcome for record in records}


def test_a_frame_that_was_superseded_teaches_nothing_about_the_speed(decider, first_frame):
    slow, deciding = slowed(decider, 1e3), Certifier.deciding

    def superseded(self, *args):
        slow._ticket()
        return deciding(self, *args)

    with mock.patch.object(Certifier, "deciding", superseded):
        assert decide(slow, first_frame).outcome is Outcome.HOLD
    assert slow._seconds_per_sample == 1e3


def test_batches_are_as_large_as_the_deadline_and_the_measured_speed_allow(decider, first_frame):
    slow = slowed(decider, 1.0)
    record = decide(slow, first_frame, deadline_ms=AMPLE)
    assert record.certificate.look_every == 7  # eight batches of seven seconds in a minute
    assert slow._seconds_per_sample < 1.0, "the speed is measured again"


def test_a_record_is_one_json_object(decider, first_frame):
    record = json.loads(msgspec.json.encode(decide(decider, first_frame)))
    assert (record["outcome"], record["certificate"]["label"]) == ("EXECUTE", "forward")


def test_a_gate_of_numbers_that_cannot_be_is_refused(demo_bundle):
    with pytest.raises(InputError, match="alpha"):
        Gate(demo_bundle, sigma=0.25, alpha=2.0)


@pytest.fixture(scope="module")
def simulation(decider):
    return Simulation(decider, seed=5).run(10 * len(FAULTS))


def test_under_faults_nothing_moves_that_is_not_certified_and_nothing_is_raised(simulation):
    assert simulation.violations == []
    assert simulation.outcomes["none", Outcome.EXECUTE] > 0


def test_faults_have_their_outcomes(simulation):
    def found(fault):
        return {outcome for name, outcome in simulation.outcomes if name == fault}

    assert Outcome.ERROR in found("clock goes back") & found("no memory") & found("oracle fails")
    assert Outcome.DEADLINE in found("stall") & found("late")


@pytest.mark.parametrize("broken", ["judged", "verify", "late"])
def test_a_gate_that_checks_less_is_caught(decider, broken, monkeypatch):
    """Mutants: the radius is not compared, the certificate is not verified, lateness is not looked at."""
    certify = Certifier.certify
    if broken == "judged":
        monkeypatch.setattr(gate, "_judged", lambda *_: (Outcome.EXECUTE, ""))
    elif broken == "verify":
        monkeypatch.setattr(gate, "verify", lambda _certificate: None)
        monkeypatch.setattr(
            Certifier,
            "certify",
            lambda self, *args, **named: msgspec.structs.replace(
                certify(self, *args, **named), radius=9.0, certified=True
            ),
        )
    else:
        monkeypatch.setattr(gate._Watch, "late", lambda _watch, _seconds=0.0: None)
    try:
        violations = Simulation(decider, seed=6).run(4 * len(FAULTS)).violations
    except CertificateError as error:
        violations = [str(error)]
    assert violations
