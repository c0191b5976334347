"""The bundle and the frames that come with edgers: a mobile robot's camera in drawn scenes."""

from __future__ import annotations

from pathlib import Path

from edgers_engines.bundle import Bundle

BUNDLE = Path(__file__).parent / "bundle"
FRAMES = Path(__file__).parent / "frames"
ACCURACY = Path(__file__).parent / "accuracy.json"

PROMPT = "What should the robot do?"
ACTIONS = ("forward", "left", "right", "stop")
SIGMA = 0.25
SAMPLES = 60


def load_bundle(path: Path | None = None) -> Bundle:
    """The bundle at `path`, or the demo bundle.

    Raises:
        BundleError: the bundle is damaged.
    """
    return Bundle.load(BUNDLE, hard_links=True) if path is None else Bundle.load(path)


def frames() -> list[Path]:
    """The demo frames, in the order of their names."""
    return sorted(FRAMES.glob("*.png"))
