"""The learned oracle: the clear class, else OTHER; in a certificate that verifies and replays."""

import numpy as np
import pytest
from msgspec.structs import replace

from edgers import demo
from edgers.certify import Certifier
from edgers.oracle.base import OTHER
from edgers.oracle.classifier import Classified
from edgers.verify import replay, verify
from edgers_engines.engine import open_backend
from edgers_engines.errors import InputError
from edgers_engines.oracle_record import Condition, Confusion
from edgers_engines.text_classifier import TextClassifier
from tests.students import labelled_texts


def oracle(bundle, **fields):
    *_, record = bundle.manifest.classifiers
    return Classified(TextClassifier(bundle, replace(record, **fields), open_backend()), bundle.manifest)


def test_texts_get_the_class_that_the_student_learned(taught_bundle):
    texts, labels = zip(*labelled_texts()[240:], strict=True)
    assert oracle(taught_bundle).classify_texts(texts) == list(labels)


def test_what_cannot_be_read_is_other(taught_bundle):
    assert oracle(taught_bundle, max_tokens=40).classify_texts(["", "left " * 60]) == [OTHER, OTHER]


def test_a_lead_within_the_tolerance_is_other(taught_bundle):
    learned = oracle(taught_bundle)
    texts = [text for text, _ in labelled_texts()[:20]]
    logits = np.sort(learned._classifier.logits(texts), axis=1)
    leads = logits[:, -1] - logits[:, -2]
    middle = float(np.median(leads))
    strict = oracle(taught_bundle, margin_tolerance=middle)
    assert [name == OTHER for name in strict.classify_texts(texts)] == (leads <= middle).tolist()


def test_no_texts_have_no_classes(taught_bundle):
    assert oracle(taught_bundle).classify_texts([]) == []


def test_the_digest_is_of_all_that_the_labels_follow_from(taught_bundle):
    plain, files = oracle(taught_bundle), taught_bundle.manifest.files
    digests = {plain.record.sha256, oracle(taught_bundle, max_tokens=99).record.sha256}
    for end in ("onnx", "bin", "json"):
        name = f"oracle-learned.{end}"
        other = tuple(replace(f, sha256="0" * 64) if f.path == name else f for f in files)
        manifest = replace(taught_bundle.manifest, files=other)
        digests.add(Classified(plain._classifier, manifest).record.sha256)
    assert len(digests) == 5


@pytest.fixture(scope="module")
def made(taught_bundle, first_frame):
    certifier = Certifier(taught_bundle, sigma=demo.SIGMA, samples=60)
    return certifier.certify(first_frame, demo.PROMPT, oracle="learned")


def test_a_certificate_with_a_learned_oracle_verifies_and_replays(made, taught_bundle, first_frame):
    verify(made)
    again = replay(made, taught_bundle, first_frame)
    assert (made.oracle.kind, made.oracle.name, made.label) == ("classifier", "learned", "forward")
    assert (again.votes, again.oracle) == (made.votes, made.oracle)
    assert made.certified


def test_it_counts_as_the_rules_do_that_it_learned(made, demo_bundle, first_frame):
    rules = Certifier(demo_bundle, sigma=demo.SIGMA, samples=60).certify(
        first_frame, demo.PROMPT, oracle="action", seed=made.seed
    )
    assert rules.votes == made.votes


def test_a_bundle_without_the_oracle_says_which_it_has(demo_bundle, first_frame):
    with pytest.raises(InputError, match="has no oracle 'learned'; it has: action"):
        Certifier(demo_bundle, sigma=0.25).certify(first_frame, demo.PROMPT, oracle="learned")


def test_what_was_counted_makes_no_other_oracle(taught_bundle):
    counted = (Confusion(teacher="left", student="stop", count=1),)
    condition = (Condition(prompt="?", sigma=0.5),)
    assert (
        oracle(taught_bundle, calibration=counted, conditions=condition).record
        == oracle(taught_bundle).record
    )
