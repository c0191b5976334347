"""Local Hugging Face models that teach: one that labels texts, and one that answers prompts about them."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from itertools import groupby
from pathlib import Path

import torch
import transformers

from edgers_engines.errors import InputError
from edgers_engines.oracle_record import RESERVED
from edgers_engines.tokenizer import frame
from edgers_export.chat import Chat
from edgers_export.checkpoint import check_folder, check_report
from edgers_export.errors import ExportError
from edgers_export.text_model import load_weights, positions, text_tokenizer

OTHER = RESERVED[0]
_ROWS = 32
_ATTENTION = "eager"  # the only one that every architecture has

Progress = Callable[[int], None]


class Labeller:
    """A sequence classifier of transformers, in float32; `classes` are its own.

    Args:
        folder: a Hugging Face directory with safetensors and tokenizer.json.

    Raises:
        ExportError: it cannot be loaded, wants code of its own to be run, or does not put a text into one of
            several classes.
    """

    def __init__(self, folder: Path) -> None:
        check_folder(folder)
        self._model, report = load_weights(
            transformers.AutoModelForSequenceClassification, folder, attn_implementation=_ATTENTION
        )
        check_report(folder, report)
        self._tokenizer = text_tokenizer(folder, self._model.config.vocab_size)
        self.classes = _classes(folder, self._model.config)

    def classify_texts(self, texts: Sequence[str], progress: Progress = lambda _texts: None) -> list[str]:
        """The class of the largest logit; OTHER for a text without a token of its own, or with too many.

        Args:
            texts: each is one of its own; special tokens in it are plain text.
            progress: called with the number of texts labelled since the last call.
        """
        counts = Counter(texts)
        ids = {text: self._tokenizer.encode(text).ids for text in counts}
        fewest, most = len(frame(self._tokenizer)) + 1, positions(self._model)
        readable = {text: row for text, row in ids.items() if fewest <= len(row) <= most}
        labels = dict.fromkeys(counts, OTHER)
        # A decoder finds its text's end by the padding's id, and without one takes one text at a time.
        rows = _ROWS if self._model.config.pad_token_id is not None else 1
        for part in _batches(readable, rows):
            labels.update(zip(part, self._label([readable[text] for text in part]), strict=True))
            progress(sum(counts[text] for text in part))
        progress(sum(counts[text] for text in counts.keys() - readable.keys()))
        return [labels[text] for text in texts]

    def _label(self, rows: list[list[int]]) -> list[str]:
        ids = torch.tensor(rows)
        with torch.inference_mode():
            logits = self._model(input_ids=ids, attention_mask=torch.ones_like(ids)).logits
        finite = logits.isfinite().all(1).tolist()
        best = logits.argmax(1).tolist()
        return [self.classes[index] if sound else OTHER for index, sound in zip(best, finite, strict=True)]


class LanguageModel:
    """A causal language model of transformers, in float32, that answers one prompt at a time, greedily.

    Args:
        folder: a Hugging Face directory with safetensors and tokenizer.json.

    Raises:
        ExportError: it cannot be loaded, or wants code of its own to be run.
    """

    def __init__(self, folder: Path) -> None:
        check_folder(folder)
        self._model, report = load_weights(
            transformers.AutoModelForCausalLM, folder, attn_implementation=_ATTENTION
        )
        check_report(folder, report)
        self._chat = Chat(folder)
        self._end = _end_tokens(folder, self._model)
        # Of the checkpoint's own settings none is taken: sampling and penalties are not greedy.
        self._model.generation_config = transformers.GenerationConfig(
            do_sample=False, eos_token_id=self._end or None, pad_token_id=(self._end or [0])[0]
        )

    def complete(
        self, prompts: Sequence[str], max_new_tokens: int, progress: Progress = lambda _prompts: None
    ) -> list[str]:
        """What the model writes after each prompt, without special tokens or outer blanks.

        Prompts of one length are answered together, so none is padded. A prompt that leaves no room for so
        many new tokens is not cut: its answer is empty.

        Args:
            prompts: the user's turn in the chat template if there is one; special tokens are plain text.
            max_new_tokens: of each answer; it may end earlier.
            progress: called with the number of prompts answered since the last call.

        Raises:
            InputError: max_new_tokens is not positive.
        """
        if max_new_tokens < 1:
            raise InputError(f"max_new_tokens is {max_new_tokens}; at least 1 is expected")
        counts = Counter(prompts)
        ids = {prompt: self._chat.ids(prompt) for prompt in counts}
        most = positions(self._model) - max_new_tokens
        room = {prompt: row for prompt, row in ids.items() if 1 <= len(row) <= most}
        answers = dict.fromkeys(counts, "")
        for part in _batches(room, _ROWS):
            answers.update(zip(part, self._continue([room[p] for p in part], max_new_tokens), strict=True))
            progress(sum(counts[prompt] for prompt in part))
        progress(sum(counts[prompt] for prompt in counts.keys() - room.keys()))
        return [answers[prompt] for prompt in prompts]

    def _continue(self, rows: list[list[int]], max_new_tokens: int) -> list[str]:
        ids = torch.tensor(rows)
        with torch.inference_mode():
            whole = self._model.generate(
                input_ids=ids, attention_mask=torch.ones_like(ids), max_new_tokens=max_new_tokens
            )
        return [self._chat.text(self._until_end(row)) for row in whole[:, ids.shape[1] :].tolist()]

    def _until_end(self, tokens: list[int]) -> list[int]:
        end = next((place for place, token in enumerate(tokens) if token in self._end), len(tokens))
        return tokens[:end]


def _batches(ids: Mapping[str, list[int]], rows: int) -> Iterator[list[str]]:
    """Texts with equally many tokens together, at most so many at once."""
    by_length = sorted(ids, key=lambda text: len(ids[text]))
    for _, group in groupby(by_length, key=lambda text: len(ids[text])):
        members = list(group)
        yield from (members[start : start + rows] for start in range(0, len(members), rows))


def _classes(folder: Path, config: transformers.PretrainedConfig) -> tuple[str, ...]:
    if config.problem_type in {"regression", "multi_label_classification"} or config.num_labels < 2:
        raise ExportError(
            f"{folder} has {config.num_labels} outputs and the problem type {config.problem_type}; a teacher "
            "puts a text into one of several classes"
        )
    names = [config.id2label.get(index) for index in range(config.num_labels)]
    for name in names:
        usable = isinstance(name, str) and name.strip() and name.isprintable() and name not in RESERVED
        if not usable or names.count(name) > 1:
            raise ExportError(
                f"the id2label of {folder} has {name!r}; each class has a printable name of its own, and "
                f"{', '.join(RESERVED)} are reserved"
            )
    return tuple(names)


def _end_tokens(folder: Path, model: transformers.PreTrainedModel) -> list[int]:
    """Ids that end an answer; none if the checkpoint names none."""
    end = model.generation_config.eos_token_id
    end = model.config.eos_token_id if end is None else end
    most = model.config.vocab_size
    tokens = end if isinstance(end, list) else [] if end is None else [end]
    if not all(type(token) is int and 0 <= token < most for token in tokens):
        raise ExportError(
            f"the eos_token_id of {folder} is {end!r}; token ids are whole numbers below {most}"
        )
    return tokens
