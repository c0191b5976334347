"""A tokenizer.json from elsewhere: what it puts around a text is bounded, and no text becomes that."""

import json

import pytest
from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers, processors

from edgers_engines.tokenizer import MAX_FRAME, frame, keeps_beginnings, read_tokenizer

WORDS = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[", "]", "sep", "cls", "a", "door"]
SPECIAL = [("[CLS]", 2), ("[SEP]", 3)]


def tree(single="[CLS] $A [SEP]", special=SPECIAL, **parts):
    """BERT's kind of tokenizer.json, with other parts."""
    tokenizer = Tokenizer(models.WordPiece({word: i for i, word in enumerate(WORDS)}, unk_token="[UNK]"))  # noqa: S106  no password
    tokenizer.normalizer = normalizers.BertNormalizer()
    tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    tokenizer.add_special_tokens(WORDS[:4])
    tokenizer.post_processor = processors.TemplateProcessing(single=single, special_tokens=special)
    return json.loads(tokenizer.to_str()) | parts


def read(found, vocabulary=10):
    return read_tokenizer(json.dumps(found).encode(), vocabulary)


@pytest.mark.parametrize(
    ("decoder", "kept"),
    [
        (None, True),
        (decoders.ByteLevel(), True),
        (decoders.WordPiece(), True),
        (decoders.Metaspace(), True),
        (decoders.BPEDecoder(), False),
        (decoders.Strip(" ", 1, 0), True),
        (decoders.Strip(" ", 0, 1), False),
        (decoders.CTC(), False),
        (decoders.Sequence([decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse()]), True),
        (decoders.Sequence([decoders.Fuse(), decoders.Strip(" ", 1, 0)]), True),
        (decoders.Sequence([decoders.Fuse(), decoders.Strip(" ", 0, 1)]), False),
        (decoders.Sequence([decoders.Fuse(), decoders.Replace("a b", "c")]), False),
        (decoders.Sequence([decoders.Fuse(), decoders.WordPiece()]), False),
        (decoders.Sequence([decoders.ByteFallback(), decoders.Metaspace(), decoders.Fuse()]), True),
        (decoders.Sequence([decoders.ByteLevel(), decoders.Replace("a b", "c")]), False),
        (decoders.Sequence([decoders.ByteLevel(), decoders.WordPiece()]), False),
        (decoders.Sequence([decoders.Replace("▁", "2"), decoders.ByteFallback()]), False),
        (decoders.Sequence([decoders.Strip(" ", 1, 0), decoders.ByteFallback()]), False),
    ],
)
def test_a_decoder_that_writes_token_by_token_keeps_beginnings(decoder, kept):
    tokenizer = Tokenizer(models.WordLevel({"a": 0}, unk_token="a"))  # noqa: S106  no password
    if decoder is not None:
        tokenizer.decoder = decoder
    assert keeps_beginnings(tokenizer) is kept


def test_special_tokens_stand_around_a_text_and_are_plain_text_inside():
    tokenizer = read(tree())
    assert frame(tokenizer) == (2, 3)
    assert tokenizer.encode("a [SEP] door").tokens == ["[CLS]", "a", "[", "sep", "]", "door", "[SEP]"]


@pytest.mark.parametrize("text", ["", "  ", "\n"])
def test_a_text_without_a_token_of_its_own_is_the_frame_alone(text):
    assert tuple(read(tree()).encode(text).ids) == (2, 3)


def test_a_tokenizer_without_a_template_puts_nothing_around():
    assert frame(read(tree(post_processor=None))) == ()


@pytest.mark.parametrize(
    ("name", "setting"),
    [
        (
            "truncation",
            {"direction": "Right", "max_length": 3, "strategy": "LongestFirst", "stride": 0},
        ),
        (
            "padding",
            {
                "strategy": {"Fixed": 9},
                "direction": "Right",
                "pad_to_multiple_of": None,
                "pad_id": 0,
                "pad_type_id": 0,
                "pad_token": "[PAD]",
            },
        ),
    ],
)
def test_cutting_and_padding_are_switched_off(name, setting):
    assert len(read(tree(**{name: setting})).encode("a door a door").ids) == 6


def test_a_frame_with_an_id_beyond_the_vocabulary_is_refused():
    with pytest.raises(ValueError, match="has the token id 4096; the model's are below 10"):
        read(tree(special=[("[CLS]", 2), ("[SEP]", 4096)]))


@pytest.mark.parametrize(
    "processor",
    [
        {"type": "RobertaProcessing", "sep": ["[SEP]", 99], "cls": ["[CLS]", 2]},
        {"type": "BertProcessing", "sep": ["[SEP]", 99], "cls": ["[CLS]", 2]},
    ],
    ids=lambda processor: processor["type"],
)
def test_so_is_one_of_another_kind_of_template(processor):
    processor |= {"trim_offsets": True, "add_prefix_space": False} if "Ro" in processor["type"] else {}
    with pytest.raises(ValueError, match="has the token id 99"):
        read(tree(post_processor=processor))


def test_a_long_frame_is_refused():
    assert len(frame(read(tree("[CLS] " * (MAX_FRAME - 1) + "$A [SEP]")))) == MAX_FRAME
    with pytest.raises(ValueError, match="puts 17 special tokens around a text; at most 16"):
        read(tree("[CLS] " * MAX_FRAME + "$A [SEP]"))


@pytest.mark.parametrize(("single", "times"), [("[CLS] $A $A [SEP]", 2), ("[CLS] [SEP]", 0)])
@pytest.mark.parametrize("nested", [False, True])
def test_a_template_that_repeats_or_drops_a_text_is_refused(single, times, nested):
    found = tree(single)
    if nested:
        found["post_processor"] = {"type": "Sequence", "processors": [found["post_processor"]]}
    with pytest.raises(ValueError, match=f"its template has the text {times} times"):
        read(found)


def test_a_special_token_that_a_text_can_spell_is_refused():
    """Words that are cut at blanks only are looked up whole."""
    with pytest.raises(ValueError, match=r"has no plain text for '\[PAD\]'"):
        read(tree(pre_tokenizer={"type": "WhitespaceSplit"}, normalizer=None))


def test_the_unknown_token_is_what_unknown_letters_become():
    assert read(tree()).encode("[UNK] zebra").tokens[1:-1] == ["[", "[UNK]", "]", "[UNK]"]


@pytest.mark.parametrize(
    "processor", [7, [], {}, {"type": "evil"}, {"type": "TemplateProcessing", "single": 1}]
)
def test_a_broken_template_is_one_clear_error(processor):
    with pytest.raises(ValueError, match="is not a tokenizer"):
        read(tree(post_processor=processor))


def test_a_template_of_a_second_text_is_refused():
    found = tree()
    found["post_processor"]["single"] = [{"Sequence": {"id": "B", "type_id": 0}}]
    with pytest.raises(ValueError, match="tokenizer"):
        read(found)


def test_a_tokenizer_that_drops_merges_at_random_is_refused():
    tokenizer = Tokenizer(models.BPE({"a": 0, "b": 1, "ab": 2}, [("a", "b")]))
    found = json.loads(tokenizer.to_str())
    assert read(found).encode("ab").ids == [2]
    found["model"]["dropout"] = 0.5
    with pytest.raises(ValueError, match="at random"):
        read(found)
