"""Parts of one certificate: each proves nothing, all together are what a single run would have certified."""

import pytest
from hypothesis import given
from hypothesis import strategies as st
from msgspec.structs import asdict, replace

from edgers import Certifier, demo
from edgers.certificate import Certificate, CertificateError
from edgers.ending import ALL_SAMPLES, CANCELLED, ONE_PART, RESERVED_SELECTED
from edgers.part import Part, merge
from edgers.verify import replay, verify
from edgers_engines.errors import InputError
from edgers_engines.records import parse
from tests.edgers.hostile import command

SEED = "00112233445566778899aabbccddeeff"
OWN = {"batch_size", "threads", "answers", "timings_ms"}


def certified(bundle, frame, part=None, **more):
    options = {"sigma": demo.SIGMA, "samples": 50, "selection": 8, **more}
    prompt, seed = options.pop("prompt", demo.PROMPT), options.pop("seed", SEED)
    choices = options.pop("choices", demo.ACTIONS)
    return Certifier(bundle, **options).certify(frame, prompt, choices=choices, seed=seed, part=part)


@pytest.fixture(scope="module")
def frames():
    return {"clear": demo.frames()[0], "hard": demo.frames()[8]}


@pytest.fixture(scope="module")
def parts(demo_bundle, frames):
    """Three parts of the clear frame's certificate."""
    return [certified(demo_bundle, frames["clear"], Part(number=i, of=3)) for i in (1, 2, 3)]


@given(st.integers(2, 5000).flatmap(lambda n: st.tuples(st.just(n), st.integers(2, n))))
def test_parts_hold_every_sample_once_and_none_is_empty(numbers):
    n, of = numbers
    ranges = [Part(number=number, of=of).samples(n) for number in range(1, of + 1)]
    assert [sample for part in ranges for sample in part] == list(range(n))
    assert min(map(len, ranges)) >= 1


@pytest.mark.parametrize(("number", "of", "n"), [(1, 1, 9), (3, 2, 9), (1, 10, 9), (1, 2, 1)])
def test_a_part_that_is_none_is_refused(number, of, n):
    with pytest.raises(ValueError, match=f"{n} samples have no part {number}/{of}"):
        Part(number=number, of=of).samples(n)


@pytest.mark.parametrize("frame", ["clear", "hard"])
@pytest.mark.parametrize("of", [2, 7])
def test_all_parts_make_the_certificate_of_a_single_run(demo_bundle, frames, frame, of):
    """Whatever the order they come in, and the batches they were counted in."""
    whole = certified(demo_bundle, frames[frame])
    each = [
        certified(demo_bundle, frames[frame], Part(number=number, of=of), batch_size=number + 2)
        for number in range(of, 0, -1)
    ]
    merged = merge(each)
    verify(merged)
    ours, theirs = ({k: v for k, v in asdict(c).items() if k not in OWN} for c in (merged, whole))
    assert ours == theirs
    assert (merged.stopped_because, merged.part, merged.certified) == (ALL_SAMPLES, None, frame == "clear")
    assert replay(merged, demo_bundle).votes == whole.votes


def test_a_part_proves_nothing_though_all_its_votes_agree(demo_bundle, parts):
    for part in parts:
        verify(parse(part.to_json(), Certificate))
        votes = part.votes.certification
        assert votes["forward"] == sum(votes.values()) == len(part.part.samples(part.n))
        assert (part.certified, part.radius, part.answer, part.p_lower) == (False, None, None, 0.0)
        assert part.stopped_because == ONE_PART
    assert replay(parts[1], demo_bundle).votes == parts[1].votes


def test_samples_of_a_part_are_those_of_the_whole(demo_bundle, frames):
    """The hard frame's votes differ from sample to sample, so other samples would give other counts."""
    whole = certified(demo_bundle, frames["hard"], samples=80, selection=1).votes.certification
    halves = [
        certified(demo_bundle, frames["hard"], Part(number=i, of=2), samples=80, selection=1) for i in (1, 2)
    ]
    counted = [half.votes.certification for half in halves]
    assert {name: counted[0][name] + counted[1][name] for name in whole} == whole
    assert counted[0] != counted[1]
    assert counted[0] == certified(demo_bundle, frames["hard"], samples=40, selection=1).votes.certification


FORGERIES = {
    "the part is called the whole": ({"part": None}, "votes.certification's sum"),
    "all samples were drawn": ({"stopped_because": ALL_SAMPLES}, "stopped_because"),
    "another part of another size": ({"part": Part(number=1, of=2)}, "votes.certification's sum"),
    "no such part": ({"part": Part(number=4, of=3)}, "no part 4/3"),
    "more parts than samples": ({"part": Part(number=1, of=51)}, "no part 1/51"),
    "it certifies": ({"certified": True}, "certified is"),
    "a radius": ({"radius": 0.1, "radius_camera": 0.1}, "radius is"),
    "a bound": ({"p_lower": 0.9}, "p_lower is"),
    "cancelled": (
        {"stopped_because": CANCELLED, "part": Part(number=1, of=2), "certified": True},
        "certified is",
    ),
}


@pytest.mark.parametrize("name", FORGERIES)
def test_a_forged_part_is_named(parts, name):
    fields, said = FORGERIES[name]
    with pytest.raises(CertificateError, match=said):
        verify(replace(parts[0], **fields))


def test_a_whole_certificate_cannot_be_called_a_part(demo_bundle, frames):
    whole = certified(demo_bundle, frames["clear"])
    with pytest.raises(CertificateError, match=r"votes.certification's sum"):
        verify(replace(whole, part=Part(number=1, of=2)))


@pytest.mark.parametrize(
    ("more", "said"),
    [
        ({"method": "sequential", "target_radius": 0.1}, "only a fixed number of samples has parts"),
        ({"method": "batched", "target_radius": 0.1}, "only a fixed number of samples has parts"),
        ({"seed": None}, "share a seed"),
        ({"samples": 2}, "2 samples have no part 3/3"),
    ],
)
def test_what_has_no_parts_is_refused(demo_bundle, frames, more, said):
    with pytest.raises(InputError, match=said):
        certified(demo_bundle, frames["clear"], Part(number=3, of=3), **more)


def test_a_part_of_a_rule_that_may_stop_early_does_not_verify(demo_bundle, frames, parts):
    early = certified(demo_bundle, frames["clear"], method="sequential")
    with pytest.raises(CertificateError, match="method of a part"):
        verify(replace(early, part=Part(number=1, of=2)))


@pytest.mark.parametrize("names", [[0, 1], [0, 1, 1, 2], [1, 1, 1], [2]])
def test_a_part_that_is_missing_or_there_twice_is_named(parts, names):
    with pytest.raises(InputError, match=r"part \d of 3 is (missing|there more than once)"):
        merge([parts[number] for number in names])


@pytest.mark.parametrize("given", [[], ["whole"], ["whole", "part"]])
def test_only_parts_are_merged(demo_bundle, frames, parts, given):
    whole = certified(demo_bundle, frames["clear"])
    with pytest.raises(InputError, match="only parts are merged"):
        merge([whole if what == "whole" else parts[0] for what in given])


DIFFERENT = {
    "seed": {"seed": "ff" * 16},
    "sigma": {"sigma": 0.2},
    "n": {"samples": 51},
    "alpha": {"alpha": 0.01},
    "prompt": {"prompt": "what should the robot do?"},
    "oracle": {"choices": ("forward", "left", "stop")},
    "floor": {"floor": 0.6},
}


@pytest.mark.parametrize("field", DIFFERENT)
def test_parts_of_different_certificates_are_not_merged(demo_bundle, frames, parts, field):
    other = certified(demo_bundle, frames["clear"], Part(number=3, of=3), **DIFFERENT[field])
    with pytest.raises(InputError, match="not parts of one certificate: they differ in"):
        merge([*parts[:2], other])


def test_parts_of_another_frame_or_partition_are_not_merged(demo_bundle, frames, parts):
    for frame, of, named in (("hard", 3, "image_sha256"), ("clear", 4, "parts")):
        other = certified(demo_bundle, frames[frame], Part(number=3, of=of))
        with pytest.raises(InputError, match=f"they differ in {named}"):
            merge([*parts[:2], other])


def test_a_part_that_was_cancelled_is_not_merged(demo_bundle, frames, parts):
    asked = Certifier(demo_bundle, sigma=demo.SIGMA, samples=50, selection=8)
    ended = asked.certify(
        frames["clear"],
        demo.PROMPT,
        choices=demo.ACTIONS,
        seed=SEED,
        part=Part(number=3, of=3),
        cancelled=lambda: True,
    )
    verify(ended)
    with pytest.raises(InputError, match="ended before all its samples were drawn: count it again"):
        merge([*parts[:2], ended])


def test_parts_of_another_selection_guard_or_tolerance_are_not_merged(parts):
    selected = replace(parts[2].votes, selection={**parts[2].votes.selection, "forward": 7, "left": 1})
    unguarded = replace(parts[2].margin, guard=False)
    tolerant = replace(parts[2].margin, tolerance=1.0)
    for field, other in (
        ("selection", {"votes": selected}),
        ("guard", {"margin": unguarded}),
        ("tolerance", {"margin": tolerant}),
    ):
        with pytest.raises(InputError, match=f"they differ in {field}"):
            merge([*parts[:2], replace(parts[2], **other)])


def test_without_a_rival_there_is_no_smallest_lead(parts):
    alone = [replace(part, margin=replace(part.margin, smallest=None)) for part in parts]
    assert merge(alone).margin.smallest is None
    assert merge([*alone[:2], parts[2]]).margin.smallest == parts[2].margin.smallest


def test_a_part_with_changed_votes_is_not_merged(parts):
    votes = replace(parts[0].votes, certification={**parts[0].votes.certification, "forward": 40})
    with pytest.raises(CertificateError, match=r"votes.certification's sum"):
        merge([replace(parts[0], votes=votes), *parts[1:]])


def test_parts_whose_selection_chose_a_reserved_class_abstain_together(demo_bundle, frames, foreign_oracle):
    """None of the samples is drawn then: OTHER is never certified."""
    asked = Certifier(demo_bundle, sigma=demo.SIGMA, samples=50, selection=8)
    whole, *each = (
        asked.certify(frames["clear"], demo.PROMPT, oracle=foreign_oracle, seed=SEED, part=part)
        for part in (None, Part(number=1, of=2), Part(number=2, of=2))
    )
    merged = merge(each)
    verify(merged)
    assert (merged.label, merged.certified, merged.votes) == ("OTHER", False, whole.votes)
    assert (merged.stopped_because, merged.samples_spent) == (RESERVED_SELECTED, 8)


def test_the_command_line_counts_parts_and_merges_them(monkeypatch, capsys, tmp_path):
    def edgers(*args):
        return command(monkeypatch, capsys, *args)

    frame = demo.frames()[0]
    question = ("--prompt", demo.PROMPT, "--choices", ",".join(demo.ACTIONS), "--sigma", demo.SIGMA)
    for number in (1, 2):
        options = ("--seed", SEED, "--part", f"{number}/2", "--save", tmp_path / f"{number}.json")
        ended = edgers("certify", frame, *question, "--samples", 40, *options)
        assert ended.code == 0
        assert f"part {number} of 2, counted" in ended.out
        assert "it proves nothing alone" in ended.out
    ended = edgers(
        "merge", tmp_path / "1.json", tmp_path / "2.json", "--save", tmp_path / "all.json", "--json"
    )
    assert (ended.code, parse(ended.out.encode(), Certificate).certified) == (0, True)
    assert edgers("verify", tmp_path / "all.json", "--replay").code == 0
    hard = demo.frames()[8]
    for number in (1, 2):
        options = ("--seed", SEED, "--part", f"{number}/2", "--save", tmp_path / f"hard {number}.json")
        edgers("certify", hard, *question, "--samples", 40, *options)
    assert edgers("merge", tmp_path / "hard 1.json", tmp_path / "hard 2.json").code == 10
    ended = edgers("merge", tmp_path / "2.json")
    assert (ended.code, ended.out) == (2, "")
    assert "part 1 of 2 is missing" in ended.err
    ended = edgers("certify", frame, *question, "--seed", SEED, "--part", "2")
    assert (ended.code, "--part is '2'" in ended.err) == (2, True)
