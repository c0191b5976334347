"""Local teachers: one text, one label or answer, whoever sits beside it; nothing cut, nothing run."""

import json
import shutil

import pytest
import torch
import transformers

from edgers_engines.errors import InputError
from edgers_export.encoder import TYPES
from edgers_export.errors import ExportError
from edgers_export.teacher import OTHER, Labeller, LanguageModel
from edgers_export.text_model import text_tokenizer
from tests import encoders
from tests.encoders import POSITIONS, TEXTS

pytestmark = pytest.mark.usefixtures("one_thread")

CLASSES = ("go", "halt", "neither")
CHATML = (
    "{% for m in messages %}<|user|>\n{{ m['content'] }}</s>\n{% endfor %}"
    "{% if add_generation_prompt %}<|bot|>\n{% endif %}"
)
PROMPTS = ["stop", "left?", "Is a box near?", "what\nnow", TEXTS[0], TEXTS[1], TEXTS[2], "stop "]


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    """A sequence classifier of each encoder's kind, whose logits differ from text to text."""
    root = tmp_path_factory.mktemp("labellers")
    return {
        kind: encoders.write(
            kind,
            root / kind,
            transformers.AutoModelForSequenceClassification,
            id2label=dict(enumerate(CLASSES)),
            initializer_range=0.5,
        )
        for kind in TYPES
    }


@pytest.fixture(scope="module")
def language_folder(tmp_path_factory):
    """A Llama that writes anything, with a chat template."""
    return encoders.write_llama(tmp_path_factory.mktemp("llama") / "checkpoint", CHATML)


@pytest.fixture
def folder(folders, tmp_path):
    """A copy of BERT's that a test may damage."""
    return shutil.copytree(folders["bert"], tmp_path / "checkpoint")


@pytest.fixture
def language_copy(language_folder, tmp_path):
    """A copy of the Llama that a test may damage."""
    return shutil.copytree(language_folder, tmp_path / "language")


def edit(path, **changes):
    path.write_text(json.dumps({**(json.loads(path.read_text()) if path.exists() else {}), **changes}))


def plain(folder):
    """The checkpoint's own tokenizer, which neither cuts nor pads."""
    own = transformers.AutoTokenizer.from_pretrained(folder)
    own.backend_tokenizer.no_truncation()
    own.backend_tokenizer.no_padding()
    return own


@pytest.mark.parametrize("kind", TYPES)
def test_a_labeller_gives_each_text_the_class_that_transformers_gives_it_alone(folders, kind):
    model = transformers.AutoModelForSequenceClassification.from_pretrained(folders[kind])
    own, texts = plain(folders[kind]), [*TEXTS[:60], "[SEP] </s>", *TEXTS[:3]]
    wanted = []
    for text in texts:
        with torch.no_grad():
            logits = model(torch.tensor([own(text, split_special_tokens=True).input_ids])).logits
        wanted.append(CLASSES[logits.argmax()])
    teacher = Labeller(folders[kind])
    assert teacher.classes == CLASSES
    assert teacher.classify_texts(texts) == wanted
    assert len(set(wanted)) > 1, "a teacher of one class would pass with any text"


@pytest.mark.parametrize("kind", TYPES)
def test_a_text_that_is_empty_or_too_long_is_other_and_never_cut(folders, kind):
    fits = " the" * (POSITIONS - 2)
    first, *others = Labeller(folders[kind]).classify_texts([fits, fits + " the", ""])
    assert first in CLASSES
    assert others == [OTHER, OTHER]


def test_a_decoder_labels_texts_too(tmp_path):
    folder = encoders.write_llama(
        tmp_path / "c", None, transformers.AutoModelForSequenceClassification, num_labels=3
    )
    found = Labeller(folder).classify_texts(TEXTS[:20])
    model = transformers.AutoModelForSequenceClassification.from_pretrained(folder)
    with torch.no_grad():
        wanted = [
            f"LABEL_{model(torch.tensor([plain(folder)(text).input_ids])).logits.argmax()}"
            for text in TEXTS[:20]
        ]
    assert found == wanted
    assert len(set(found)) > 1


def test_logits_that_are_no_numbers_are_other(folders):
    teacher = Labeller(folders["bert"])
    teacher._model.classifier.bias.data[0] = torch.nan
    assert teacher.classify_texts(["stop"]) == [OTHER]


@pytest.mark.parametrize("ask", ["classify_texts", "complete"])
def test_progress_counts_every_text_once(folders, language_folder, ask):
    done, texts = [], [*TEXTS[:5], *TEXTS[:2], "", "the " * 999]
    if ask == "complete":
        LanguageModel(language_folder).complete(texts, 2, progress=done.append)
    else:
        Labeller(folders["bert"]).classify_texts(texts, progress=done.append)
    assert sum(done) == len(texts)


def test_a_language_model_answers_as_transformers_does_for_one_prompt(language_folder):
    own = plain(language_folder)
    model = transformers.AutoModelForCausalLM.from_pretrained(language_folder)
    wanted = []
    for prompt in PROMPTS:
        turn = [{"role": "user", "content": prompt}]
        asked = own.apply_chat_template(
            turn, add_generation_prompt=True, return_tensors="pt", return_dict=True
        )
        whole = model.generate(**asked, max_new_tokens=6, do_sample=False)
        text = own.decode(whole[0, asked.input_ids.shape[1] :], skip_special_tokens=True)
        wanted.append(text.strip())
    assert LanguageModel(language_folder).complete(PROMPTS, 6) == wanted
    assert len(set(wanted)) > 3


def test_an_answer_does_not_depend_on_its_neighbours(language_folder):
    model = LanguageModel(language_folder)
    prompts = [*PROMPTS, *TEXTS[:30]]
    together = model.complete(prompts, 5)
    assert together == [model.complete([prompt], 5)[0] for prompt in prompts]
    assert model.complete(prompts[::-1], 5) == together[::-1]


def test_a_control_token_in_a_prompt_is_plain_text(language_folder):
    model, own = LanguageModel(language_folder), plain(language_folder)
    honest = model._chat.ids("a box")
    for prompt in ("a </s>\n<|bot|>\nyes", "<s><|user|>", "</s>"):
        ids = model._chat.ids(prompt)
        controls = {own.convert_tokens_to_ids(name) for name in ("<s>", "</s>", "<|user|>", "<|bot|>")}
        assert [i for i in ids if i in controls] == [i for i in honest if i in controls]
        assert prompt in own.decode(ids)


def test_a_model_without_a_template_goes_on_from_the_prompt(tmp_path):
    folder = encoders.write_llama(tmp_path / "c", None)
    own = plain(folder)
    model = transformers.AutoModelForCausalLM.from_pretrained(folder)
    asked = own("left, a", return_tensors="pt")
    assert own.convert_tokens_to_ids("<s>") == asked.input_ids[0, 0]
    assert LanguageModel(folder)._chat.ids("left, a") == asked.input_ids[0].tolist()
    whole = model.generate(**asked, max_new_tokens=4, do_sample=False)
    wanted = own.decode(whole[0, asked.input_ids.shape[1] :], skip_special_tokens=True).strip()
    assert LanguageModel(folder).complete(["left, a"], 4) == [wanted]


def test_an_answer_ends_at_the_end_token(language_folder, language_copy):
    model = LanguageModel(language_folder)
    ids = model._chat.ids("stop")
    new = model._model.generate(
        input_ids=torch.tensor([ids]), attention_mask=torch.ones(1, len(ids)), max_new_tokens=8
    )[0, len(ids) :].tolist()
    last = next(place for place in range(1, 8) if new[place] not in new[:place])
    edit(language_copy / "generation_config.json", eos_token_id=[new[last]])
    assert LanguageModel(language_copy).complete(["stop"], 8) == [model._chat.text(new[:last])]


def test_settings_of_the_checkpoint_that_are_not_greedy_are_not_taken(language_folder, language_copy):
    edit(
        language_copy / "generation_config.json",
        do_sample=True,
        temperature=9.0,
        repetition_penalty=5.0,
        max_new_tokens=1,
        num_beams=3,
    )
    asked = PROMPTS, 6
    assert LanguageModel(language_copy).complete(*asked) == LanguageModel(language_folder).complete(*asked)


def test_a_prompt_without_room_for_its_answer_is_not_cut_but_unanswered(language_folder):
    model = LanguageModel(language_folder)
    room = encoders.CONTEXT - len(model._chat.ids("stop"))
    assert model.complete(["stop"], room) != [""]
    assert model.complete(["stop"], room + 1) == [""]


def test_no_new_tokens_are_refused(language_folder):
    with pytest.raises(InputError, match="max_new_tokens is 0"):
        LanguageModel(language_folder).complete(["stop"], 0)


@pytest.mark.parametrize(
    ("template", "reason"),
    [
        ("{{ raise_exception('no') }}", "chat template fails"),
        ("{{ messages }}{{ messages }}", "one place for one prompt"),
        ("fixed", "one place for one prompt"),
        ("{{ messages[0]['content'] | lower }}", "one place for one prompt"),
        ("<|user|>{{ messages[0]['content'] | replace('I', 'J') }}", "its pieces give"),
    ],
)
def test_a_chat_template_that_cannot_be_cut_around_a_prompt_is_refused(language_copy, template, reason):
    (language_copy / "chat_template.jinja").write_text(template)
    with pytest.raises(ExportError, match=reason):
        LanguageModel(language_copy)


DAMAGE = [
    pytest.param(
        lambda c: (c / "model.safetensors").unlink(), "pickled weights are not read", id="no weights"
    ),
    pytest.param(lambda c: (c / "tokenizer.json").unlink(), "has no tokenizer.json", id="no tokenizer"),
    pytest.param(
        lambda c: edit(c / "config.json", auto_map={"AutoModel": "evil.Model"}), "wants code", id="code"
    ),
    pytest.param(lambda c: edit(c / "config.json", model_type="evil"), "cannot load", id="unknown type"),
    pytest.param(
        lambda c: edit(c / "config.json", num_hidden_layers=2), "the weights of .* lack", id="layers"
    ),
]


@pytest.mark.parametrize(("damage", "reason"), DAMAGE)
@pytest.mark.parametrize("kind", [Labeller, LanguageModel])
def test_a_folder_that_is_not_what_it_seems_is_refused(folder, language_copy, kind, damage, reason):
    chosen = folder if kind is Labeller else language_copy
    damage(chosen)
    with pytest.raises(ExportError, match=reason) as refusal:
        kind(chosen)
    assert "\n" not in str(refusal.value)


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"id2label": {"0": "a", "1": "OTHER", "2": "c"}}, "has 'OTHER'.*reserved"),
        ({"id2label": {"0": "a", "1": "a", "2": "c"}}, "has 'a'"),
        ({"id2label": {"0": "a", "1": " ", "2": "c"}}, "has ' '"),
        ({"problem_type": "multi_label_classification"}, "into one of several classes"),
        ({"problem_type": "regression"}, "into one of several classes"),
    ],
)
def test_a_classifier_without_classes_to_choose_from_is_refused(folder, changes, reason):
    edit(folder / "config.json", **changes)
    with pytest.raises(ExportError, match=reason):
        Labeller(folder)


def test_an_encoder_without_a_head_is_no_labeller(tmp_path):
    with pytest.raises(ExportError, match=r"lack .*classifier"):
        Labeller(encoders.write("bert", tmp_path / "c"))


def test_an_end_token_beyond_the_vocabulary_is_refused(language_copy):
    edit(language_copy / "generation_config.json", eos_token_id=99999)
    with pytest.raises(ExportError, match="eos_token_id"):
        LanguageModel(language_copy)


@pytest.mark.parametrize("template", [None, CHATML])
def test_a_blank_that_stands_before_a_first_word_only_stands_nowhere_else(tmp_path, template):
    """As SentencePiece has it; here the blank is written as an x."""
    folder = encoders.write_llama(tmp_path / "c", template)
    first = {"type": "Metaspace", "replacement": "x", "prepend_scheme": "first", "split": False}
    edit(folder / "tokenizer.json", pre_tokenizer=first)
    own, turn = plain(folder), [{"role": "user", "content": "left, a"}]
    wanted = (
        own.apply_chat_template(turn, add_generation_prompt=True) if template else own("left, a").input_ids
    )
    assert ("x" in own.decode(wanted).removeprefix("<s>")[:1]) == (template is None)
    assert LanguageModel(folder)._chat.ids("left, a") == wanted
    assert template or text_tokenizer(folder, len(own)).encode("left, a").ids == wanted
