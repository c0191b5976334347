"""The questions, their answers and tokenizer, and a training run of three steps."""

import numpy as np
import pytest
import torch
import transformers

from edgers_export.demo.layout import KEY_WORDS
from edgers_export.demo.questions import (
    PROMPT_TEMPLATE,
    QUESTIONS,
    SPECIAL_TOKENS,
    answer,
    build_tokenizer,
    split_words,
    wants_one_word,
)
from edgers_export.demo.scenes import answer_indices, draw

by_name = pytest.mark.parametrize("question", QUESTIONS, ids=lambda question: question.name)


@pytest.fixture(scope="module")
def tokenizer():
    return build_tokenizer()


def test_the_questions_are_those_of_the_scenes_in_the_same_order():
    assert {question.name: question.key_words for question in QUESTIONS} == dict(KEY_WORDS)


@by_name
def test_every_answer_starts_with_its_key_word(question):
    for (key_word, blocker), sentence in question.answers.items():
        assert split_words(sentence)[:2] == [key_word, ","]
        for wording in question.wordings:
            said = answer(question, wording, key_word, blocker)
            assert said == (key_word if wants_one_word(wording) else sentence)


@by_name
def test_every_scene_has_an_answer_to_every_wording(question):
    rng = np.random.default_rng(2)
    for scene in (draw(rng) for _ in range(100)):
        key_word = getattr(scene, question.name)
        assert answer(question, question.canonical, key_word, scene.blocker).startswith(key_word)


def test_an_answer_that_no_scene_has_is_refused():
    with pytest.raises(ValueError, match=r"'forward' while 'box'"):
        answer(QUESTIONS[0], QUESTIONS[0].canonical, "forward", "box")


@by_name
def test_a_question_has_wordings_with_and_without_question_mark_and_for_one_word(question):
    assert len(set(question.wordings)) == len(question.wordings)
    plain = [wording for wording in question.wordings if not wants_one_word(wording)]
    asked = [wording for wording in plain if wording.endswith("?")]
    assert len(asked) >= 4
    assert {wording.removesuffix("?") for wording in asked} <= set(plain)
    assert f"{question.canonical} Answer with one word." in question.wordings


def test_no_wording_belongs_to_two_questions():
    wordings = [tuple(split_words(wording)) for question in QUESTIONS for wording in question.wordings]
    assert len(set(wordings)) == len(wordings)


def test_the_special_tokens_have_the_first_ids(tokenizer):
    assert [tokenizer.token_to_id(token) for token in SPECIAL_TOKENS] == list(range(5))


@by_name
def test_every_word_of_every_wording_and_answer_is_in_the_vocabulary(question, tokenizer):
    unknown = tokenizer.token_to_id("<unk>")
    prompts = [PROMPT_TEMPLATE.format(prompt=wording) for wording in question.wordings]
    for text in [*prompts, *question.answers.values()]:
        assert unknown not in tokenizer.encode(text).ids, text


@by_name
def test_a_key_word_is_one_token_in_any_case_and_after_a_space(question, tokenizer):
    for key_word in question.key_words:
        expected = [tokenizer.token_to_id(key_word)]
        assert expected != [None]
        for text in (key_word, key_word.capitalize(), key_word.upper(), f" {key_word}"):
            assert tokenizer.encode(text, add_special_tokens=False).ids == expected


@by_name
def test_an_answer_survives_the_tokenizer(question, tokenizer):
    for sentence in question.answers.values():
        assert tokenizer.decode(tokenizer.encode(sentence).ids) == sentence


def test_an_unknown_word_becomes_the_unknown_token(tokenizer):
    assert tokenizer.encode("zebra").tokens == ["<s>", "<unk>"]


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory):
    from edgers_export.demo.training import train

    directory = tmp_path_factory.mktemp("demo") / "checkpoint"
    train(directory, steps=(1, 2), scenes=64, threads=1)
    return directory


@pytest.fixture(scope="module")
def model(checkpoint):
    return transformers.LlavaForConditionalGeneration.from_pretrained(
        checkpoint, local_files_only=True
    ).eval()


@pytest.fixture(scope="module")
def processor(checkpoint):
    return transformers.AutoProcessor.from_pretrained(checkpoint, local_files_only=True, use_fast=False)


def test_a_trained_directory_loads_as_a_small_float32_llava(model):
    assert model.dtype == torch.float32
    assert 0.7e6 < sum(parameter.numel() for parameter in model.parameters()) < 0.9e6


def test_the_same_seed_trains_the_same_weights(checkpoint, tmp_path):
    from edgers_export.demo.training import train

    train(tmp_path, steps=(1, 2), scenes=64, threads=1)
    assert (tmp_path / "model.safetensors").read_bytes() == (checkpoint / "model.safetensors").read_bytes()


def test_the_chat_template_gives_the_prompt_of_training(processor):
    content = [{"type": "image"}, {"type": "text", "text": "Where is the door?"}]
    text = processor.apply_chat_template([{"role": "user", "content": content}], add_generation_prompt=True)
    assert text == PROMPT_TEMPLATE.format(prompt="Where is the door?")


def test_the_processor_resizes_exactly_and_maps_pixels_to_minus_one_to_one(processor):
    from PIL import Image

    image = Image.fromarray(np.full((48, 200, 3), 255, np.uint8))
    batch = processor(
        text=PROMPT_TEMPLATE.format(prompt="Where is the door?"), images=image, return_tensors="pt"
    )
    assert batch["pixel_values"].shape == (1, 3, 96, 96)
    assert batch["pixel_values"].min() == batch["pixel_values"].max() == 1


@pytest.mark.parametrize("wording", [0, 8, 14], ids=["canonical", "bare", "one word"])
def test_packed_questions_give_the_logits_of_single_ones(model, processor, wording):
    """The block mask and the positions make a packed question see just what it would see alone."""
    from PIL import Image

    from edgers_export.demo.batches import noisy_pixels
    from edgers_export.demo.packing import Packer
    from edgers_export.demo.training import answer_logits

    rng = np.random.default_rng(6)
    scenes = [draw(rng) for _ in range(3)]
    wordings = [question.wordings[wording] for question in QUESTIONS]
    packing = Packer(build_tokenizer()).pack(wordings)
    targets = packing.targets(torch.tensor([answer_indices(scene) for scene in scenes]))
    pixels = noisy_pixels(np.stack([scene.image for scene in scenes]), 0.0, torch.Generator())
    with torch.no_grad():
        packed, _ = answer_logits(model, pixels, packing.inputs(targets), packing)
    start = 0
    for text, table in zip(wordings, packing.tables, strict=True):
        length = table.shape[-1]
        batch = processor(
            text=[PROMPT_TEMPLATE.format(prompt=text)] * 3,
            images=[Image.fromarray(scene.image) for scene in scenes],
            return_tensors="pt",
        )
        ids = torch.cat([batch["input_ids"], targets[:, start : start + length]], dim=1)
        with torch.no_grad():
            alone = model(
                input_ids=ids, attention_mask=torch.ones_like(ids), pixel_values=batch["pixel_values"]
            ).logits[:, -length - 1 : -1]
        torch.testing.assert_close(packed[:, start : start + length], alone, atol=1e-5, rtol=1e-5)
        start += length


@pytest.mark.parametrize(("scenes", "steps", "threads"), [(63, (1, 1), 1), (64, (0, 1), 1), (64, (1, 1), 0)])
def test_a_training_that_cannot_work_is_refused(tmp_path, scenes, steps, threads):
    from edgers_export.demo.training import train

    with pytest.raises(ValueError, match="at least 64 scenes"):
        train(tmp_path, steps=steps, scenes=scenes, threads=threads)
