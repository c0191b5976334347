"""Two bundles of one checkpoint side by side: what is equal is counted, and what differs is."""

from __future__ import annotations

import json

import pytest

from edgers import demo
from edgers.cli import cli
from edgers.comparison import Contestant, _same, compare
from edgers_engines.errors import InputError
from edgers_engines.vlm import Answer, Status, VisionLanguageModel


def contestant(bundle, **options):
    numbers = {"sigma": 0.5, "samples": 40, "selection": 8, "alpha": 0.001, "seed": 3}
    choices = {"choices": demo.ACTIONS, "oracle": None}
    return Contestant(VisionLanguageModel(bundle), demo.PROMPT, **{**choices, **numbers, **options})


def compared(*contestants, frames=None):
    return list(compare(contestants, frames or demo.frames(), lambda _: None))


@pytest.mark.parametrize(
    ("first", "second", "equal"),
    [
        ((1, 2, 3), (1, 2, 3), (3, 3)),
        ((1, 2, 3), (1, 9, 3), (1, 2)),
        ((9, 2, 3), (1, 2, 3), (0, 1)),
        ((1, 2), (1, 2, 3), (2, 3)),
        ((), (), (0, 0)),
        ((), (1,), (0, 1)),
    ],
)
def test_tokens_are_compared_up_to_the_first_that_differs(first, second, equal):
    answers = [Answer(tokens, "", Status.COMPLETE, 1.0) for tokens in (first, second)]
    assert _same(*answers) == equal


def test_what_the_margin_guard_ended_has_no_next_token_to_compare():
    whole = Answer((1, 2, 3), "", Status.COMPLETE, 1.0)
    for ended, equal in (((1, 2), (2, 2)), ((), (0, 0)), ((1, 9), (1, 2))):
        undecided = Answer(ended, "", Status.UNDECIDED, 0.0)
        assert _same(whole, undecided) == _same(undecided, whole) == equal


def test_a_bundle_is_equal_to_itself(demo_bundle):
    one = contestant(demo_bundle)
    for frame in compared(one, contestant(demo_bundle), frames=demo.frames()[:2]):
        assert (frame.equal_tokens, frame.equal_answers, frame.equal_labels) == (frame.tokens, 40, 40)
        assert frame.sides[0] == frame.sides[1]
        assert frame.same_verdict
        assert sum(frame.sides[0].votes.values()) == 40


def test_its_radius_is_the_one_that_certify_gives(demo_bundle, certifier_of):
    frame = demo.frames()[0]
    (found,) = compared(contestant(demo_bundle), contestant(demo_bundle), frames=[frame])
    certificate = certifier_of(demo_bundle).certify(
        frame, demo.PROMPT, choices=demo.ACTIONS, seed=f"{3:032x}"
    )
    side = found.sides[0]
    assert (side.label, side.certified, side.radius) == (
        certificate.label,
        certificate.certified,
        certificate.radius,
    )
    assert side.votes == certificate.votes.certification


@pytest.fixture
def certifier_of():
    from edgers import Certifier

    return lambda bundle: Certifier(bundle, sigma=0.5, samples=40, selection=8, alpha=0.001)


def test_half_precision_is_compared_with_full(demo_bundle, demo_half):
    """On the demo model they agree: so its targets say."""
    frames = compared(
        contestant(demo_bundle), contestant(demo_half), frames=[*demo.frames()[:8], demo.frames()[9]]
    )
    tokens, equal = sum(f.tokens for f in frames), sum(f.equal_tokens for f in frames)
    assert tokens > 300
    assert equal >= 0.99 * tokens
    assert all(frame.same_verdict for frame in frames)
    ended = [sum(frame.sides[side].votes["UNDECIDED"] for frame in frames) for side in (0, 1)]
    assert ended[0] < ended[1], "its tolerance is wider"


def test_what_differs_is_seen(demo_bundle):
    """The same bundle with other noise stands in for a bundle that answers otherwise."""
    (frame,) = compared(contestant(demo_bundle), contestant(demo_bundle, seed=4), frames=demo.frames()[9:])
    assert frame.equal_labels < frame.samples
    assert frame.equal_answers <= frame.equal_labels
    assert frame.equal_tokens < frame.tokens


def test_bundles_without_a_class_or_a_canvas_in_common_are_refused(demo_bundle, miniature):
    with pytest.raises(InputError, match=r"canvases of .* have no noise in common"):
        compared(contestant(demo_bundle), contestant(miniature, choices=("yes", "no")))
    with pytest.raises(InputError, match="the oracles have the classes"):
        compared(contestant(demo_bundle), contestant(demo_bundle, choices=("left", "right")))


def test_clusters_are_refused(clusters_bundle):
    with pytest.raises(InputError, match="makes clusters: two bundles"):
        contestant(clusters_bundle, choices=None, oracle="meaning")


@pytest.mark.parametrize("flags", [["--json"], []])
def test_the_command_compares(demo_bundle, demo_half, capsys, flags):
    arguments = ["compare-bundles", str(demo_bundle.path), str(demo_half.path), *map(str, demo.frames()[:2])]
    question = ["--prompt", demo.PROMPT, "--choices", ",".join(demo.ACTIONS), "--sigma", "0.5"]
    assert cli.main([*arguments, *question, *flags], standalone_mode=False) == 0
    out = capsys.readouterr().out
    if flags:
        frames = json.loads(out)["frames"]
        assert [frame["samples"] for frame in frames] == [100, 100]
    else:
        assert "The same verdict on 2 of 2 frames" in " ".join(out.split())
