"""Certificates that several tests read: one certified, one abstained, one whose winner is never certified."""

from __future__ import annotations

from pathlib import Path

import pytest

from edgers import demo
from edgers.certificate import Certificate
from edgers.certify import Certifier
from edgers_engines.bundle import Bundle

SEED = "00112233445566778899aabbccddeeff"


@pytest.fixture(scope="session")
def seed() -> str:
    """A seed for runs that are compared."""
    return SEED


@pytest.fixture(scope="session")
def demo_certifier(demo_bundle: Bundle) -> Certifier:
    """The demo's noise and number of samples."""
    return Certifier(demo_bundle, sigma=demo.SIGMA, samples=demo.SAMPLES)


@pytest.fixture(scope="session")
def certified(demo_certifier: Certifier, first_frame: Path) -> Certificate:
    """The first frame's certificate."""
    certificate = demo_certifier.certify(first_frame, demo.PROMPT, choices=demo.ACTIONS, seed=SEED)
    assert certificate.certified
    return certificate


@pytest.fixture(scope="session")
def abstained(demo_certifier: Certifier) -> Certificate:
    """The certificate of a hard frame on which the model is uncertain."""
    for frame in demo.frames():
        if "hard" in frame.name:
            certificate = demo_certifier.certify(frame, demo.PROMPT, choices=demo.ACTIONS, seed=SEED)
            if not certificate.certified:
                return certificate
    pytest.fail("every hard frame certifies")


@pytest.fixture(scope="session")
def hard_frame(abstained: Certificate) -> Path:
    """The frame of `abstained`."""
    return Path(str(abstained.image))


@pytest.fixture(scope="session")
def foreign_oracle(demo_bundle: Bundle) -> str:
    """The name of an oracle that knows none of the actions: to it, an action is OTHER."""
    return next(
        oracle.name
        for oracle in demo_bundle.manifest.oracles
        if not {rule.label for rule in oracle.rules} & set(demo.ACTIONS)
    )


@pytest.fixture(scope="session")
def reserved(demo_certifier: Certifier, first_frame: Path, foreign_oracle: str) -> Certificate:
    """A certificate whose selection chose OTHER."""
    return demo_certifier.certify(first_frame, demo.PROMPT, oracle=foreign_oracle, seed=SEED)
