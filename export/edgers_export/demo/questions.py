"""The four questions of the demo model, their wordings, the answers to learn, and the tokenizer for both."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

from tokenizers import AddedToken, Tokenizer, decoders, models, normalizers, pre_tokenizers, processors

from edgers_export.demo.layout import KEY_WORDS

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerFast

PAD, START, END, UNKNOWN, IMAGE = SPECIAL_TOKENS = ("<pad>", "<s>", "</s>", "<unk>", "<image>")
"""The special tokens; the position of each is its id."""

MAX_TOKENS = 256

PROMPT_TEMPLATE = f"USER: {IMAGE}\n{{prompt}} ASSISTANT:"
ONE_WORD_REQUESTS = ("Answer with one word.", "Answer in one word.")

# Words that people use with a robot, so that a prompt of their own is not made of unknown words only.
SPARE_WORDS = "yes no please wait turn around clear safe a an it they you now one two"


@dataclass(frozen=True)
class Question:
    """One question: its name (a field of Scene), its wordings (the canonical one first), its key words.

    `answers` maps (right key word, key word of the "blocker" question) to the sentence that the model should
    say, for every pair that can occur; each sentence starts with its key word.
    """

    name: str
    wordings: tuple[str, ...]
    key_words: tuple[str, ...]
    answers: Mapping[tuple[str, str], str]

    @property
    def canonical(self) -> str:
        """The wording that the demo uses."""
        return self.wordings[0]


def wants_one_word(wording: str) -> bool:
    """Whether this wording asks for the key word alone."""
    return wording.endswith(ONE_WORD_REQUESTS)


def answer(question: Question, wording: str, key_word: str, blocker: str) -> str:
    """What the model should say: a sentence, or its key word alone where the wording asks for one word.

    Raises ValueError if no scene has this key word and this blocker together.
    """
    try:
        sentence = question.answers[key_word, blocker]
    except KeyError:
        raise ValueError(
            f"no scene answers {question.name!r} with {key_word!r} while {blocker!r} blocks the way; "
            f"choose one of {sorted(question.answers)}"
        ) from None
    return key_word if wants_one_word(wording) else sentence


def _wordings(*questions: str) -> tuple[str, ...]:
    """Each question as it is, without its question mark, and followed by a request for one word."""
    bare = [question.removesuffix("?") for question in questions]
    asked = [f"{question} {request}" for request in ONE_WORD_REQUESTS for question in (*questions, *bare)]
    return (*questions, *bare, *asked)


def _whatever_blocks(sentences: Mapping[str, str]) -> Mapping[tuple[str, str], str]:
    return {(key, blocker): text for key, text in sentences.items() for blocker in KEY_WORDS["blocker"]}


ACTION = Question(
    "action",
    _wordings(
        "What should the robot do?",
        "What should the robot do next?",
        "Which way should the robot go?",
        "Where should the robot go?",
        "How should the robot move?",
        "Should the robot go forward, left, right or stop?",
    ),
    KEY_WORDS["action"],
    {
        ("forward", "nothing"): "forward, the way is clear.",
        ("left", "box"): "left, a box blocks the way.",
        ("left", "cone"): "left, a cone blocks the way.",
        ("right", "box"): "right, a box blocks the way.",
        ("right", "cone"): "right, a cone blocks the way.",
        ("stop", "box"): "stop, there is no way around.",
        ("stop", "cone"): "stop, there is no way around.",
        ("stop", "person"): "stop, a person blocks the way.",
    },
)
VISIBLE_PERSON = Question(
    "person",
    _wordings(
        "Is there a person in view?",
        "Is a person in view?",
        "Is there a person in the image?",
        "Is anybody in view?",
        "Can you see a person?",
        "Do you see a person, yes or no?",
    ),
    KEY_WORDS["person"],
    _whatever_blocks({"no": "no, nobody is in view.", "yes": "yes, a person is in view."}),
)
DOOR = Question(
    "door",
    _wordings(
        "Where is the door?",
        "Where is a door?",
        "Where can you see the door?",
        "On which side is the door?",
        "Which side is the door on?",
        "Is the door left, centre, right or none?",
    ),
    KEY_WORDS["door"],
    _whatever_blocks(
        {
            "none": "none, no door is in view.",
            "left": "left, the door is on the left.",
            "centre": "centre, the door is in the centre.",
            "right": "right, the door is on the right.",
        }
    ),
)
BLOCKER = Question(
    "blocker",
    _wordings(
        "What blocks the way?",
        "What is blocking the way?",
        "What is in the way?",
        "What blocks the path?",
        "Which object blocks the way?",
        "Is the way blocked by nothing, a box, a cone or a person?",
    ),
    KEY_WORDS["blocker"],
    {
        ("nothing", "nothing"): "nothing, the way is clear.",
        ("box", "box"): "box, a box blocks the way.",
        ("cone", "cone"): "cone, a cone blocks the way.",
        ("person", "person"): "person, a person blocks the way.",
    },
)
QUESTIONS = (ACTION, VISIBLE_PERSON, DOOR, BLOCKER)
"""All questions, in the order of KEY_WORDS and so of a scene pool's answer columns."""


def split_words(text: str) -> list[str]:
    """The words and punctuation marks of a text, lower-cased, as the tokenizer sees them."""
    return [word for word, _ in pre_tokenizers.Whitespace().pre_tokenize_str(text.lower())]


def build_tokenizer() -> Tokenizer:
    """The word-level tokenizer: "Left", "left" and " left" are one and the same token.

    It puts `<s>` before a text unless told not to, and turns a word it does not know into `<unk>`.
    """
    vocabulary = {token: index for index, token in enumerate(SPECIAL_TOKENS)}
    for text in _all_texts():
        for word in split_words(text):
            vocabulary.setdefault(word, len(vocabulary))
    tokenizer = Tokenizer(models.WordLevel(vocabulary, unk_token=UNKNOWN))
    tokenizer.normalizer = normalizers.Lowercase()
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    # WordPiece's clean-up joins a comma or full stop to the word before it; no word here has its prefix.
    tokenizer.decoder = decoders.WordPiece(prefix="##", cleanup=True)
    tokenizer.post_processor = processors.TemplateProcessing(
        single=f"{START} $A", special_tokens=[(START, vocabulary[START])]
    )
    tokenizer.add_special_tokens(
        [AddedToken(token, special=True, normalized=False) for token in SPECIAL_TOKENS]
    )
    return tokenizer


def wrap_tokenizer(tokenizer: Tokenizer) -> PreTrainedTokenizerFast:
    """The tokenizer as transformers saves it."""
    from transformers import PreTrainedTokenizerFast

    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        pad_token=PAD,
        bos_token=START,
        eos_token=END,
        unk_token=UNKNOWN,
        extra_special_tokens={"image_token": IMAGE},
        model_max_length=MAX_TOKENS,
        padding_side="left",
    )


def _all_texts() -> Iterable[str]:
    yield PROMPT_TEMPLATE.replace(IMAGE, "").format(prompt="")
    for question in QUESTIONS:
        yield from question.wordings
        yield from question.answers.values()
    yield SPARE_WORDS
