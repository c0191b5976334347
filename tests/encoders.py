"""Random-weight text models of the true architectures, written as local Hugging Face directories."""

from __future__ import annotations

import re
import string
from pathlib import Path

import torch
import transformers
from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers, processors, trainers

from tests.students import labelled_texts

TEXTS, LABELS = zip(*labelled_texts(), strict=True)
POSITIONS = 40
_BERT = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
_ROBERTA = ["<s>", "<pad>", "</s>", "<unk>", "<mask>"]


def word_pieces() -> transformers.PreTrainedTokenizerFast:
    """BERT's kind: lower case, words in pieces, [CLS] text [SEP]."""
    words = sorted(set(re.findall(r"\w+", " ".join(TEXTS).lower())))
    letters = sorted({*string.ascii_lowercase, *string.punctuation})
    pieces = [*_BERT, *letters, *(f"##{letter}" for letter in letters), *words]
    vocabulary = {piece: index for index, piece in enumerate(dict.fromkeys(pieces))}
    tokenizer = Tokenizer(models.WordPiece(vocabulary, unk_token="[UNK]"))  # noqa: S106  no password
    tokenizer.normalizer = normalizers.BertNormalizer(lowercase=True)
    tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    tokenizer.decoder = decoders.WordPiece()
    tokenizer.add_special_tokens(_BERT)
    tokenizer.post_processor = processors.TemplateProcessing(
        single="[CLS] $A [SEP]", special_tokens=[("[CLS]", 2), ("[SEP]", 3)]
    )
    tokenizer.enable_truncation(12)  # as many a checkpoint has it; whoever reads it switches it off
    tokenizer.enable_padding(length=12)
    return transformers.BertTokenizerFast(tokenizer_object=tokenizer)


def byte_pairs() -> transformers.PreTrainedTokenizerFast:
    """RoBERTa's kind: byte pairs, <s> text </s>, padding is 1."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(
        vocab_size=400, special_tokens=_ROBERTA, initial_alphabet=alphabet, show_progress=False
    )
    tokenizer.train_from_iterator(TEXTS, trainer)
    tokenizer.post_processor = processors.RobertaProcessing(("</s>", 2), ("<s>", 0))
    return transformers.RobertaTokenizerFast(tokenizer_object=tokenizer)


def tokenizer(kind: str) -> transformers.PreTrainedTokenizerFast:
    """The tokenizer of a kind."""
    return byte_pairs() if kind == "roberta" else word_pieces()


_SPREAD = {"initializer_range": 0.15}  # as wide as the layers are narrow: every seed learns
_SIZES = {"hidden_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 64}
_DISTILLED = {"dim": 32, "hidden_dim": 64, "n_layers": 1, "n_heads": 2}


def config(kind: str, vocabulary: int, **options: object) -> transformers.PretrainedConfig:
    """A miniature's configuration."""
    of, sizes, positions = {
        "bert": (transformers.BertConfig, _SIZES, POSITIONS),
        "roberta": (transformers.RobertaConfig, _SIZES, POSITIONS + 2),
        "distilbert": (transformers.DistilBertConfig, _DISTILLED, POSITIONS),
    }[kind]
    return of(
        **{"vocab_size": vocabulary, "max_position_embeddings": positions, **_SPREAD, **sizes, **options}
    )


def write(
    kind: str,
    folder: Path,
    auto: type = transformers.AutoModelForMaskedLM,
    seed: int = 0,
    **options: object,
) -> Path:
    """A checkpoint directory of one kind (bert, distilbert, roberta), of one auto class."""
    own = tokenizer(kind)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = auto.from_config(config(kind, len(own), **options))
    model.save_pretrained(folder)
    own.save_pretrained(folder)
    return folder


CONTEXT = 64


def write_llama(
    folder: Path,
    template: str | None,
    auto: type = transformers.AutoModelForCausalLM,
    **options: object,
) -> Path:
    """A Llama's checkpoint directory: byte pairs, <s> before a text, and maybe a chat template."""
    tokenizer = byte_pairs().backend_tokenizer
    tokenizer.add_special_tokens(["<|user|>", "<|bot|>"])
    tokenizer.post_processor = processors.TemplateProcessing(single="<s> $A", special_tokens=[("<s>", 0)])
    own = transformers.PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        bos_token="<s>",  # noqa: S106  no password
        eos_token="</s>",  # noqa: S106
        chat_template=template,
        model_input_names=["input_ids", "attention_mask"],
    )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(1)
        model = auto.from_config(
            transformers.LlamaConfig(
                vocab_size=len(own),
                bos_token_id=0,
                eos_token_id=2,
                num_key_value_heads=1,
                max_position_embeddings=CONTEXT,
                initializer_range=0.5,
                **_SIZES,
                **options,
            )
        )
    model.save_pretrained(folder)
    own.save_pretrained(folder)
    return folder
