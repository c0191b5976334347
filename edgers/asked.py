"""What came of one question about one image: what a certificate or a prediction is made of."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Generic, Literal, TypeVar

from edgers.oracle.base import Oracle
from edgers.poll import Poll
from edgers_engines.image import CameraImage
from edgers_engines.vlm import Question

Counted = TypeVar("Counted")


@dataclass(frozen=True)
class Asked(Generic[Counted]):
    """The votes, and the circumstances in which they were cast; `seconds` says where the time went."""

    camera: CameraImage
    prompt: str
    judge: Oracle
    guard: bool
    seed: str
    seed_source: Literal["operating system", "given"]
    question: Question
    poll: Poll
    votes: Counted
    seconds: dict[str, float]
