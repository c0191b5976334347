"""Settled answers: rules need an answer up to the word from which on nothing changes its class."""

from functools import cache
from pathlib import Path
from types import SimpleNamespace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenizers import Tokenizer, decoders, models

from edgers import demo
from edgers.certify import Certifier
from edgers.oracle.rules import Rules
from edgers.oracle.settled import MAX_PATTERNS, settled_by
from edgers_engines import oracle_record
from edgers_engines.image import CameraImage, prepare
from edgers_engines.noise import Stream, noisy_copies, to_lattice
from edgers_engines.prompt import PromptEncoder
from edgers_engines.vlm import Question, Status

SEED = "0123456789abcdef0123456789abcdef"


def rules(*triples, field=None):
    """An oracle of rules (pattern, label) or (pattern, label, exceptions)."""
    made = tuple(
        oracle_record.Rule(pattern=pattern, label=label, unless=tuple(*unless))
        for pattern, label, *unless in triples
    )
    return Rules(oracle_record.Rules(name="test", rules=made, field=field))


@pytest.mark.parametrize(
    ("triples", "text", "expected"),
    [
        pytest.param([("left *", "l")], "left, ", True, id="the word is over"),
        pytest.param([("left *", "l")], "left", False, id="the word may grow"),
        pytest.param([("left *", "l")], "left \N{REPLACEMENT CHARACTER}", False, id="a character may grow"),
        pytest.param([("left *", "l")], "go ", True, id="no rule can match any more"),
        pytest.param([("left", "l")], "left ", False, id="without a star the end has to come"),
        pytest.param([("* left *", "l")], "go right ", False, id="the word may come yet"),
        pytest.param([("* left *", "l")], "go left ", True, id="the word has come"),
        pytest.param([("* left", "l")], "go left ", False, id="the end may be another"),
        pytest.param([("* no *", "n"), ("left *", "l")], "left ", False, id="an earlier rule may yet match"),
        pytest.param([("left *", "l"), ("* no *", "n")], "left ", True, id="a later rule comes too late"),
        pytest.param([("left *", "l", ["* not *"])], "left ", False, id="an exception may come yet"),
        pytest.param([("left *", "l", ["* not *"])], "left not ", True, id="an exception has come"),
        pytest.param([("left *", "l", ["right *"])], "left ", True, id="an exception cannot come"),
        pytest.param([("left *", "l")], "", False, id="nothing is said"),
        pytest.param([("*", "all")], "", True, id="nothing needs to be said"),
    ],
)
def test_a_class_is_settled_when_nothing_that_follows_can_change_it(triples, text, expected):
    assert settled_by(rules(*triples))(text) is expected


WORDS = st.sampled_from(["a", "b", "ab", "c"])
TEXTS = st.lists(st.one_of(WORDS, st.sampled_from([" ", ", ", "\N{REPLACEMENT CHARACTER}"])), max_size=6).map(
    "".join
)
PATTERNS = st.lists(st.one_of(WORDS, st.just("*")), min_size=1, max_size=4).map(" ".join)
SOME_RULES = st.lists(
    st.tuples(PATTERNS, st.sampled_from(["one", "two"]), st.lists(PATTERNS, max_size=2)),
    min_size=1,
    max_size=3,
)


@settings(max_examples=1500, deadline=None)
@given(SOME_RULES, TEXTS, TEXTS)
def test_what_follows_a_settled_beginning_changes_no_class(triples, beginning, rest):
    oracle = rules(*triples)
    if settled_by(oracle)(beginning):
        written = beginning.removesuffix("\N{REPLACEMENT CHARACTER}") + rest
        assert oracle.classify_text(written) == oracle.classify_text(beginning)


BYTES = [f"<0x{byte:02X}>" for byte in (*b"a ,", 0xC3, 0xA9)]  # the last two are é
TOKENS = {
    "ByteFallback": ["▁a", "▁b", "b", ",", "▁", *BYTES, "<0x2c>", "<0x+9>", "<unk>"],
    "ByteLevel": ["a", "b", "Ġa", "Ġ", ",", "Ã", "©", "<unk>"],
    "WordPiece": ["a", "b", "##b", ",", "'", "n't", "not", "<unk>"],
    "Metaspace": ["▁a", "▁b", "b", "▁", ",", "<unk>"],
    "BPEDecoder": ["a", "b</w>", "a</w>", ",</w>", "<unk>"],
    "no decoder": ["a", "b", ",", "<unk>"],
    "CTC": ["a", "b", "|", "<pad>", "<unk>"],
}
DECODERS = {
    "ByteFallback": decoders.Sequence(
        [decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse(), decoders.Strip(" ", 1, 0)]
    ),
    "ByteLevel": decoders.ByteLevel(),
    "WordPiece": decoders.WordPiece(cleanup=True),
    "Metaspace": decoders.Metaspace(),
    "BPEDecoder": decoders.BPEDecoder(),
    "no decoder": None,
    "CTC": decoders.CTC(),
}


@cache
def prompts(kind):
    """A prompt encoder whose tokenizer has this decoder."""
    vocabulary = {token: i for i, token in enumerate(TOKENS[kind])}
    tokenizer = Tokenizer(models.WordLevel(vocabulary, unk_token="<unk>"))  # noqa: S106  no password
    tokenizer.add_special_tokens(["<unk>"])
    if DECODERS[kind] is not None:
        tokenizer.decoder = DECODERS[kind]
    manifest = SimpleNamespace(tokenizer="", dimensions=SimpleNamespace(vocabulary=100), prompt=None)
    return PromptEncoder(
        SimpleNamespace(path=Path(), manifest=manifest, read=lambda _name: tokenizer.to_str().encode())
    )


@pytest.mark.parametrize("kind", TOKENS)
@settings(max_examples=400, deadline=None)
@given(st.data(), SOME_RULES)
def test_tokens_that_follow_a_settled_beginning_change_no_class(kind, data, triples):
    some = st.lists(st.integers(0, len(TOKENS[kind])), max_size=6)  # the last id has no token
    oracle, beginning, rest = rules(*triples), data.draw(some), data.draw(some)
    if settled_by(oracle)(prompts(kind).beginning(beginning)):
        classes = {
            oracle.classify_text(prompts(kind).decode(tokens)) for tokens in (beginning, beginning + rest)
        }
        assert len(classes) == 1


@pytest.mark.parametrize(
    ("kind", "tokens", "text"),
    [
        pytest.param("ByteFallback", ["▁a", ","], "a,", id="whole tokens"),
        pytest.param("ByteFallback", ["▁a", *BYTES[1:4]], "a", id="bytes may yet be no text"),
        pytest.param(
            "ByteFallback", ["▁a", *BYTES[1:4], "<unk>"], "a", id="bytes go on behind what is not written"
        ),
        pytest.param(
            "ByteFallback", ["▁a", *BYTES[1:4], None], "a", id="bytes go on behind ids without token"
        ),
        pytest.param("ByteFallback", ["▁a", "<0x2c>"], "a", id="a byte in small letters"),
        pytest.param("ByteFallback", ["▁a", *BYTES[2:5], ","], "a,é,", id="bytes that are over"),
        pytest.param("ByteLevel", ["a", ",", "Ã"], "a,\N{REPLACEMENT CHARACTER}", id="a byte is missing"),
        pytest.param("CTC", ["a", "|", "b"], "", id="a decoder that promises nothing"),
    ],
)
def test_a_beginning_is_what_every_answer_with_these_tokens_begins_with(kind, tokens, text):
    ids = [len(TOKENS[kind]) if token is None else TOKENS[kind].index(token) for token in tokens]
    assert prompts(kind).beginning(ids) == text


@settings(max_examples=300, deadline=None)
@given(SOME_RULES, st.lists(WORDS, max_size=4))
def test_where_words_that_follow_lead_to_two_classes_nothing_is_settled(triples, words):
    oracle, beginning = rules(*triples), " ".join([*words, ""])
    known = ["", "a", "b", "ab", "c", "none"]
    classes = {
        oracle.classify_text(" ".join([beginning, x, y, z])) for x in known for y in known for z in known
    }
    if len(classes) > 1:
        assert not settled_by(oracle)(beginning)


@pytest.mark.parametrize(
    "oracle",
    [
        pytest.param(rules(("left *", "l"), field="action"), id="a field of the answer"),
        pytest.param(rules(*[(f"w{i} *", "l") for i in range(MAX_PATTERNS + 1)]), id="too many rules"),
        pytest.param(rules(("a *", "l", [f"* w{i}" for i in range(MAX_PATTERNS)])), id="too many exceptions"),
    ],
)
def test_the_whole_answer_is_needed(oracle):
    assert settled_by(oracle) is None


def test_as_many_rules_as_that_are_followed():
    assert settled_by(rules(*[(f"w{i} *", "l") for i in range(MAX_PATTERNS)])) is not None


@pytest.fixture
def canvases(demo_bundle):
    """Noisy copies of several frames, so that the answers differ."""
    out = []
    for frame in demo.frames():
        canvas = to_lattice(prepare(CameraImage.of(frame), demo_bundle.manifest.preparation))
        copies = canvas.astype("float32")[None].repeat(4, 0)
        noisy_copies(canvas, 0.5, seed=1, stream=Stream.SELECTION, first=0, out=copies)
        out.append(copies)
    return out


def test_the_demo_models_answers_end_early_and_keep_their_classes(demo_model, demo_bundle, canvases):
    (definition,) = [each for each in demo_bundle.manifest.oracles if each.name == "action"]
    oracle = Rules(definition)
    whole = Question(demo_model, demo.PROMPT, rows=4, guard=False)
    short = Question(demo_model, demo.PROMPT, rows=4, guard=False, settled=settled_by(oracle))
    for copies in canvases:
        for told, cut in zip(whole.answers(copies), short.answers(copies), strict=True):
            assert cut.status is Status.COMPLETE
            assert cut.tokens == told.tokens[: len(cut.tokens)]
            assert oracle.classify([cut]) == oracle.classify([told])
            assert settled_by(oracle)(cut.text)
            assert cut.settled is (len(cut.tokens) < len(told.tokens))
            assert not told.settled
    assert short.decode_steps < whole.decode_steps / 3


def test_votes_are_those_of_whole_answers(demo_bundle):
    """An audit's certificate has whole answers: its teacher reads them."""
    settled = Certifier(demo_bundle, sigma=0.5, samples=48)
    whole = Certifier(demo_bundle, sigma=0.5, samples=48, audit=20, teacher="action")
    for frame in demo.frames()[:3]:
        short, long = (
            each.certify(frame, demo.PROMPT, oracle="action", seed=SEED) for each in (settled, whole)
        )
        assert short.votes == long.votes
        assert all(text.endswith(" …") for text in short.answers)
        assert not any("…" in text for text in long.answers)
        assert sum(short.votes.certification[name] for name in demo.ACTIONS) > 0
