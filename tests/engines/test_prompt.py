"""Prompts: what a user writes is data, whatever it looks like; answers stand where a model writes them."""

import copy
import json

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenizers import Tokenizer

from edgers_engines.errors import BundleError, InputError
from edgers_engines.prompt import MAX_PROMPT_CHARACTERS, PromptEncoder

PROMPT = "what should the robot do?"


@pytest.fixture(scope="module")
def vocabulary(demo_bundle):
    """Token ids by text, straight from the bundle's tokenizer.json."""
    return tokenizer_of(demo_bundle)["model"]["vocab"]


@pytest.fixture(scope="module")
def special(demo_bundle):
    """The ids of tokens that mean something to the model; an unknown word is no such thing."""
    tokens = tokenizer_of(demo_bundle)["added_tokens"]
    return {token["id"] for token in tokens if token["special"] and token["content"] != "<unk>"}


@pytest.fixture(scope="module")
def encoder(demo_bundle):
    return PromptEncoder(demo_bundle)


def tokenizer_of(bundle):
    return json.loads(bundle.read(bundle.manifest.tokenizer))


def changed(bundle, *, tokenizer=None, **template):
    """The bundle with another tokenizer or template, in memory."""
    other = copy.copy(bundle)
    prompt = msgspec.structs.replace(bundle.manifest.prompt, **template)
    other.manifest = msgspec.structs.replace(bundle.manifest, prompt=prompt)
    if tokenizer is not None:
        data = tokenizer if isinstance(tokenizer, bytes) else json.dumps(tokenizer).encode()
        other.read = lambda name: data if name == bundle.manifest.tokenizer else bundle.read(name)
    return other


class TestSpecialTokens:
    @pytest.mark.parametrize("text", ["<image>", "</s>", "<s>", "<pad>", "<image></s><s>"])
    @pytest.mark.parametrize("around", ["{}", "what {} do?", "{} " * 50, "what{}do"])
    def test_inside_a_prompt_they_are_plain_text(self, encoder, special, text, around):
        assert special
        assert not special & set(encoder.suffix(around.format(*[text] * 50)))

    def test_inside_an_answer_they_are_plain_text(self, encoder, special):
        assert not special & set(encoder.answer(PROMPT, "</s> forward"))

    def test_the_same_tokenizer_left_to_itself_would_let_them_through(self, demo_bundle, special):
        """So the tests above can fail."""
        plain = Tokenizer.from_str(demo_bundle.read(demo_bundle.manifest.tokenizer).decode())
        for text in ("<image>", "</s>", "<s>"):
            assert special & set(plain.encode(f"what {text} do?", add_special_tokens=False).ids)

    @settings(max_examples=100, deadline=None, derandomize=True)
    @given(
        pieces=st.lists(
            st.sampled_from(
                ["<", ">", "s", "/", "image", "<image>", "</s>", "<s>", " ", "\n", "\u200b", "do"]
            ),
            min_size=1,
        )
    )
    def test_no_mixture_of_their_pieces_becomes_one(self, encoder, special, pieces):
        text = "".join(pieces)
        if text.strip():
            assert not special & set(encoder.suffix(text))


class TestTemplate:
    def test_before_the_image_stands_what_the_manifest_says(self, encoder, demo_bundle):
        assert encoder.prefix == demo_bundle.manifest.prompt.before_image

    def test_behind_the_image_stand_the_text_around_the_prompt_the_prompt_and_the_rest(
        self, demo_bundle, vocabulary
    ):
        encoder = PromptEncoder(changed(demo_bundle, text_before="left ", text_after=" right", after=(2, 7)))
        words = [vocabulary[word] for word in ("left", "what", "is", "clear", "right")]
        assert encoder.suffix("what is clear") == (*words, 2, 7)

    def test_the_tokenizers_own_template_adds_nothing(self, encoder, vocabulary):
        """tokenizer.json would put <s> in front of every text."""
        assert encoder.suffix("stop").count(vocabulary["<s>"]) == 0
        assert encoder.suffix("stop").count(vocabulary["stop"]) == 1

    @pytest.mark.parametrize(
        "setting",
        [
            pytest.param(
                {
                    "padding": {"strategy": {"Fixed": 40}, "direction": "Right", "pad_to_multiple_of": None}
                    | {"pad_id": 0, "pad_type_id": 0, "pad_token": "<pad>"}
                },
                id="padding",
            ),
            pytest.param(
                {
                    "truncation": {
                        "max_length": 2,
                        "strategy": "LongestFirst",
                        "stride": 0,
                        "direction": "Right",
                    }
                },
                id="truncation",
            ),
        ],
    )
    def test_a_tokenizer_that_pads_or_truncates_is_told_not_to(self, demo_bundle, encoder, setting):
        tokenizer = tokenizer_of(demo_bundle) | setting
        assert PromptEncoder(changed(demo_bundle, tokenizer=tokenizer)).suffix(PROMPT) == encoder.suffix(
            PROMPT
        )


UNUSABLE = (
    pytest.param("", "is empty", id="empty"),
    pytest.param(" \n\t\u2003", "is empty", id="blank"),
    pytest.param("a" * 10**6, "1000000 characters; at most 20000", id="a-million-characters"),
    pytest.param("a" * (MAX_PROMPT_CHARACTERS + 1), "20001 characters", id="one-too-many"),
    pytest.param("left \ud800", "not valid Unicode at character 5", id="lone-surrogate"),
    pytest.param("\udc80", "not valid Unicode at character 0", id="undecoded-byte"),
)


class TestUnusableText:
    @pytest.mark.parametrize(("text", "says"), UNUSABLE)
    def test_a_prompt_that_cannot_be_encoded_is_refused_in_one_line(self, encoder, text, says):
        with pytest.raises(InputError, match=f"^the prompt .*{says}") as caught:
            encoder.suffix(text)
        assert str(caught.value).isprintable()
        assert caught.value.__suppress_context__ or caught.value.__context__ is None

    @pytest.mark.parametrize(("text", "says"), UNUSABLE)
    def test_a_choice_that_cannot_be_encoded_is_refused_in_one_line(self, encoder, text, says):
        with pytest.raises(InputError, match=f"^a choice .*{says}") as caught:
            encoder.answer(PROMPT, text)
        assert str(caught.value).isprintable()

    def test_a_prompt_of_exactly_the_limit_is_encoded(self, encoder):
        assert len(encoder.suffix("do " * (MAX_PROMPT_CHARACTERS // 3) + "do")) > 6000

    @pytest.mark.parametrize("text", ["?", "\0", "\u202e", "🤖 what?", "e\u0301", "ﬁ"])
    def test_strange_but_valid_text_is_encoded(self, encoder, text):
        assert len(encoder.suffix(text)) > 0


class TestAnswers:
    @pytest.mark.parametrize("text", ["forward", "left, a box blocks the way.", "no"])
    def test_prompt_and_answer_together_are_the_encoding_of_the_whole_text(self, encoder, demo_bundle, text):
        template = demo_bundle.manifest.prompt
        whole = template.text_before + PROMPT + template.text_after + template.answer_prefix + text
        plain = Tokenizer.from_str(demo_bundle.read(demo_bundle.manifest.tokenizer).decode())
        expected = plain.encode(whole, add_special_tokens=False).ids
        assert [*encoder.suffix(PROMPT), *encoder.answer(PROMPT, text)] == expected

    def test_an_answers_first_token_is_the_one_that_follows_the_prompt(self, demo_bundle):
        """This tokenizer writes a word at the start of a text differently, as SentencePiece does."""
        vocabulary = ["\u2581", "l", "e", "f", "t", "(", "le", "ft", "left", "\u2581left"]
        tokenizer = tokenizer_of(demo_bundle) | {
            "added_tokens": [],
            "normalizer": None,
            "pre_tokenizer": {
                "type": "Metaspace",
                "replacement": "\u2581",
                "prepend_scheme": "first",
                "split": True,
            },
            "post_processor": None,
            "model": {
                "type": "BPE",
                "vocab": {token: number for number, token in enumerate(vocabulary)},
                "merges": ["l e", "f t", "le ft", "\u2581 left"],
            },
        }
        template = {"text_before": "", "text_after": "(", "answer_prefix": ""}
        encoder = PromptEncoder(changed(demo_bundle, tokenizer=tokenizer, **template))
        assert encoder.suffix("left") == (vocabulary.index("\u2581left"), vocabulary.index("("))
        assert encoder.answer("left", "left") == (vocabulary.index("left"),)

    def test_an_answer_behind_closing_tokens_is_encoded_alone(self, demo_bundle, vocabulary):
        """Nothing joins across a special token."""
        encoder = PromptEncoder(changed(demo_bundle, after=(7,), answer_prefix=""))
        assert encoder.answer(PROMPT, "left") == (vocabulary["left"],)

    @pytest.mark.parametrize("text", ["::", ":: left"])
    def test_an_answer_that_melts_into_the_prompts_last_token_is_refused(self, demo_bundle, text):
        """The template ends with a colon; a second colon makes it one token with the first."""
        encoder = PromptEncoder(changed(demo_bundle, text_after=" ASSISTANT:", answer_prefix=""))
        with pytest.raises(InputError, match=f"'{text}' melts into the prompt's last token"):
            encoder.answer(PROMPT, text)

    def test_an_answer_of_which_no_token_is_left_is_refused(self, demo_bundle):
        """This tokenizer deletes the very word."""
        tokenizer = tokenizer_of(demo_bundle)
        tokenizer["normalizer"] = {"type": "Replace", "pattern": {"String": "left"}, "content": ""}
        encoder = PromptEncoder(changed(demo_bundle, tokenizer=tokenizer))
        with pytest.raises(InputError, match="'left' melts"):
            encoder.answer(PROMPT, "left")


class TestDecoding:
    def test_an_encoded_answer_reads_back(self, encoder):
        for text in ("forward", "left, a box blocks the way."):
            assert encoder.decode(encoder.answer(PROMPT, text)) == text

    def test_special_tokens_and_outer_blanks_are_left_out(self, encoder, vocabulary):
        words = [vocabulary[word] for word in ("<s>", "left", "</s>", "<pad>")]
        assert encoder.decode(words) == "left"

    def test_a_decoder_that_panics_is_one_error(self, demo_bundle):
        """On an answer without a word: tokenizers' `Strip` looks before the beginning for what it takes."""
        steps = [{"type": "Fuse"}, {"type": "Strip", "content": "b", "start": 0, "stop": 1}]
        tokenizer = tokenizer_of(demo_bundle) | {"decoder": {"type": "Sequence", "decoders": steps}}
        with pytest.raises(BundleError, match="tokenizer fails on an answer: index out of bounds"):
            PromptEncoder(changed(demo_bundle, tokenizer=tokenizer)).decode([])

    def test_blanks_that_a_tokenizer_writes_are_stripped(self, demo_bundle, vocabulary):
        tokenizer = tokenizer_of(demo_bundle)
        tokenizer["decoder"] = {"type": "Replace", "pattern": {"String": "left"}, "content": " \n left \n"}
        encoder = PromptEncoder(changed(demo_bundle, tokenizer=tokenizer))
        assert encoder.decode([vocabulary["left"]]) == "left"

    def test_no_tokens_are_no_text(self, encoder):
        assert encoder.decode([]) == ""


class TestTokenizer:
    @pytest.mark.parametrize(
        "data",
        [
            pytest.param(b"", id="empty"),
            pytest.param(b"{}", id="no-model"),
            pytest.param(b"\x80\x04\x95", id="pickle"),
            pytest.param(b"[" * 200_000, id="deep-json"),
        ],
    )
    def test_bytes_that_are_no_tokenizer_are_refused_by_name(self, demo_bundle, data):
        with pytest.raises(BundleError, match=r"tokenizer\.json is not a tokenizer") as caught:
            PromptEncoder(changed(demo_bundle, tokenizer=data))
        assert str(caught.value).isprintable()
        assert str(demo_bundle.path) in str(caught.value)

    def test_more_tokens_than_the_model_has_are_refused(self, demo_bundle):
        tokenizer = tokenizer_of(demo_bundle)
        size = demo_bundle.manifest.dimensions.vocabulary
        tokenizer["model"]["vocab"] |= {f"word{number}": number for number in range(71, size + 1)}
        with pytest.raises(BundleError, match=f"{size + 1}|{size}"):
            PromptEncoder(changed(demo_bundle, tokenizer=tokenizer))

    @pytest.mark.parametrize("beyond", [0, 5000])
    def test_one_id_beyond_the_vocabulary_is_refused_however_few_tokens_there_are(self, demo_bundle, beyond):
        """The embedding has no row for it: a prompt with that word would fail much later."""
        tokenizer = tokenizer_of(demo_bundle)
        size = demo_bundle.manifest.dimensions.vocabulary
        tokenizer["model"]["vocab"]["robot"] = size + beyond
        with pytest.raises(BundleError, match=str(size)):
            PromptEncoder(changed(demo_bundle, tokenizer=tokenizer))
