"""Random-weight checkpoints of the true architectures, with tokenizers and chat templates of their kind.

Every one is written to disk as a Hugging Face directory and read back by transformers, as a real one is.
"""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
import transformers
from tokenizers import (
    AddedToken,
    Tokenizer,
    decoders,
    models,
    normalizers,
    pre_tokenizers,
    processors,
    trainers,
)

CORPUS = [
    "What should the robot do? The robot turns left, right or goes forward; it stops at the door.",
    "Is the image harmful? Answer yes or no. USER: ASSISTANT: system user assistant [INST] [/INST]",
    "A person stands in the way, two boxes block the lane and three cones are near 0123456789.",
]
BLANK = "▁"


@dataclass(frozen=True)
class Miniature:
    """What one random-weight checkpoint is made of; see `MINIATURES`."""

    family: str = "llava"
    decoder: str = "llama"
    vision: str = "clip"
    feature_layer: int | list[int] = -2
    strategy: str = "default"
    tokenizer: str = "sentencepiece"
    template: str = "USER: <image>\n{prompt} ASSISTANT:"
    text: dict[str, Any] = field(default_factory=dict)
    vision_options: dict[str, Any] = field(default_factory=dict)
    processor: dict[str, Any] = field(default_factory=dict)
    config: dict[str, Any] = field(default_factory=dict)
    shard: str = "5GB"
    frame: tuple[int, int] | None = None
    pool: int = 1


VICUNA = "A chat between a curious user and an assistant. USER: <image>\n{prompt} ASSISTANT:"
MISTRAL = "[INST] <image>\n{prompt} [/INST]"
QWEN = "<|im_start|>user <image>\n{prompt}<|im_end|><|im_start|>assistant\n"

GRIDS = [[28, 56], [56, 28], [56, 56]]

# Each differs from the others in several options at once; together they cover every family and option.
MINIATURES = {
    "llama, clip": Miniature(),
    "vicuna, no grouped heads, class token kept": Miniature(
        template=VICUNA, strategy="full", text={"num_key_value_heads": 4}
    ),
    "llama, tied embeddings, first layer of the tower": Miniature(
        feature_layer=1, text={"tie_word_embeddings": True}
    ),
    "llama, several feature layers": Miniature(feature_layer=[1, -2, -1], shard="100KB"),
    "llama, one KV head, heads wider than hidden": Miniature(
        text={"num_key_value_heads": 1, "head_dim": 32}, feature_layer=[-1]
    ),
    "llama 3 rotation, biases": Miniature(
        tokenizer="byte level",
        text={
            "attention_bias": True,
            "mlp_bias": True,
            "rope_scaling": {
                "rope_type": "llama3",
                "factor": 8.0,
                "low_freq_factor": 1.0,
                "high_freq_factor": 4.0,
                "original_max_position_embeddings": 64,
            },
        },
    ),
    "mistral, sliding window, clip": Miniature(
        decoder="mistral", template=MISTRAL, tokenizer="metaspace", text={"sliding_window": 128}
    ),
    "mistral, siglip": Miniature(
        decoder="mistral", vision="siglip", strategy="full", template=MISTRAL, feature_layer=-1
    ),
    "qwen2, siglip": Miniature(
        decoder="qwen2", vision="siglip", strategy="full", tokenizer="byte level", template=QWEN
    ),
    "qwen2, tied, clip, linear rotation": Miniature(
        decoder="qwen2",
        tokenizer="byte level",
        template=QWEN,
        text={"tie_word_embeddings": True, "rope_scaling": {"rope_type": "linear", "factor": 2.0}},
    ),
    "llava-next, mistral, clip, a margin above and below": Miniature(
        family="llava_next",
        decoder="mistral",
        template=MISTRAL,
        config={"image_grid_pinpoints": GRIDS},
        frame=(30, 40),
    ),
    "llava-onevision, qwen2, siglip, features of the grid shrunk": Miniature(
        family="llava_onevision",
        decoder="qwen2",
        vision="siglip",
        strategy="full",
        feature_layer=-1,
        tokenizer="byte level",
        template=QWEN,
        config={"image_grid_pinpoints": GRIDS, "vision_aspect_ratio": "anyres_max_2"},
        frame=(60, 44),
    ),
    "llava-next, llama, clip, pooled": Miniature(
        family="llava_next", config={"image_grid_pinpoints": GRIDS}, frame=(25, 60), pool=3
    ),
}

_DECODERS = {
    "llama": transformers.LlamaConfig,
    "mistral": transformers.MistralConfig,
    "qwen2": transformers.Qwen2Config,
}
_FAMILIES = {
    "llava": (
        transformers.LlavaConfig,
        transformers.LlavaForConditionalGeneration,
        transformers.CLIPImageProcessor,
    ),
    "llava_next": (
        transformers.LlavaNextConfig,
        transformers.LlavaNextForConditionalGeneration,
        transformers.LlavaNextImageProcessor,
    ),
    "llava_onevision": (
        transformers.LlavaOnevisionConfig,
        transformers.LlavaOnevisionForConditionalGeneration,
        transformers.LlavaOnevisionImageProcessor,
    ),
}
_TOWERS = {"clip": transformers.CLIPVisionConfig, "siglip": transformers.SiglipVisionConfig}
_SPECIAL = ["<unk>", "<s>", "</s>", "<pad>", "<image>", "<|im_start|>", "<|im_end|>"]


def write(miniature: Miniature, folder: Path, *, seed: int = 0) -> Path:
    """Write one miniature's checkpoint directory."""
    tokenizer = _tokenizer(miniature)
    vision = _TOWERS[miniature.vision](
        **{
            "hidden_size": 32,
            "intermediate_size": 64,
            "num_hidden_layers": 3,
            "num_attention_heads": 2,
            "image_size": 28,
            "patch_size": 7,
            **miniature.vision_options,
        }
    )
    text = _DECODERS[miniature.decoder](
        **{
            "hidden_size": 64,
            "intermediate_size": 96,
            "num_hidden_layers": 2,
            "num_attention_heads": 4,
            "num_key_value_heads": 2,
            "vocab_size": 512,
            "max_position_embeddings": 256,
            "bos_token_id": 1,
            "eos_token_id": 2,
            "tie_word_embeddings": False,
            **miniature.text,
        }
    )
    make_config, make_model, make_image_processor = _FAMILIES[miniature.family]
    config = make_config(
        vision_config=vision,
        text_config=text,
        image_token_index=_SPECIAL.index("<image>"),
        vision_feature_layer=miniature.feature_layer,
        vision_feature_select_strategy=miniature.strategy,
        tie_word_embeddings=text.tie_word_embeddings,
        **miniature.config,
    )
    torch.manual_seed(seed)
    model = make_model(config).eval()
    _spread(model)
    model.save_pretrained(folder, max_shard_size=miniature.shard)
    size = {"height": vision.image_size, "width": vision.image_size}
    tiles = {key: grids for key, grids in miniature.config.items() if key == "image_grid_pinpoints"}
    image_processor = make_image_processor(
        **{"size": size, "crop_size": size, "do_center_crop": False, **tiles, **miniature.processor}
    )
    processor = transformers.LlavaProcessor if miniature.frame is None else transformers.LlavaNextProcessor
    processor(
        image_processor=image_processor,
        tokenizer=tokenizer,
        patch_size=vision.patch_size,
        vision_feature_select_strategy=miniature.strategy,
        image_token="<image>",  # noqa: S106  a token of text, no password
        chat_template=_chat_template(miniature.template),
    ).save_pretrained(folder)
    return folder


def make_ordinary(folder: Path, *tokens: str) -> None:
    """Let these tokens be added ones that are not special, as some real checkpoints have their controls."""
    tree = json.loads((folder / "tokenizer.json").read_text())
    config = json.loads((folder / "tokenizer_config.json").read_text())
    for token in (*tree["added_tokens"], *config["added_tokens_decoder"].values()):
        token["special"] = token["special"] and token["content"] not in tokens
    names = config["additional_special_tokens"]
    config["additional_special_tokens"] = [name for name in names if name not in tokens]
    (folder / "tokenizer.json").write_text(json.dumps(tree))
    (folder / "tokenizer_config.json").write_text(json.dumps(config))
    (folder / "special_tokens_map.json").unlink()


def _spread(model: Any) -> None:
    """Make rows and logits differ: as initialised, all are nearly equal, and would hide a mixed-up row."""
    scales = {
        "patch_embedding": 20,
        "projector": 10,
        "q_proj": 3,
        "k_proj": 3,
        "v_proj": 10,
        "o_proj": 10,
        "mlp": 5,
        "embed_tokens": 30,
        "lm_head": 20,
    }
    with torch.no_grad():
        for name, weight in model.named_parameters():
            if name.endswith("bias"):
                weight.normal_(std=0.1)
                continue
            weight.mul_(next((scale for part, scale in scales.items() if part in name), 1))


def _chat_template(template: str) -> str:
    before, after = template.split("{prompt}")
    bos = "" if template is QWEN else "<s>"
    parts = [bos + before, after]
    first, last = ("{{ '" + part.replace("\n", "\\n") + "' }}" for part in parts)
    return first + "{{ messages[0]['content'][1]['text'] }}" + last


def _tokenizer(miniature: Miniature) -> transformers.PreTrainedTokenizerFast:
    tokenizer = _byte_level() if miniature.tokenizer == "byte level" else _sentencepiece(miniature.tokenizer)
    tokenizer.add_special_tokens([AddedToken(token, special=True, normalized=False) for token in _SPECIAL])
    return transformers.PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        unk_token="<unk>",  # noqa: S106
        bos_token="<s>",  # noqa: S106
        eos_token="</s>",  # noqa: S106
        pad_token="<pad>",  # noqa: S106
        additional_special_tokens=["<image>", "<|im_start|>", "<|im_end|>"],
    )


def _byte_level() -> Tokenizer:
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(
        vocab_size=400, special_tokens=_SPECIAL, initial_alphabet=sorted(alphabet), show_progress=False
    )
    tokenizer.train_from_iterator(CORPUS, trainer)
    return tokenizer


def _sentencepiece(kind: str) -> Tokenizer:
    """Byte fallback, and a blank before the first word of every piece, or ("metaspace") of the text."""
    bytes_ = [f"<0x{byte:02X}>" for byte in range(256)]
    trainee = Tokenizer(models.BPE(unk_token="<unk>", byte_fallback=True))  # noqa: S106
    trainee.pre_tokenizer = pre_tokenizers.Metaspace(prepend_scheme="always")
    trainer = trainers.BpeTrainer(
        vocab_size=len(_SPECIAL) + 400, special_tokens=[*_SPECIAL, *bytes_], show_progress=False
    )
    trainee.train_from_iterator(CORPUS, trainer)
    if kind == "metaspace":
        trainee.pre_tokenizer = pre_tokenizers.Metaspace(prepend_scheme="first")
    else:
        trainee.pre_tokenizer = None
        trainee.normalizer = normalizers.Sequence(
            [normalizers.Prepend(BLANK), normalizers.Replace(" ", BLANK)]
        )
    trainee.decoder = decoders.Sequence(
        [decoders.Replace(BLANK, " "), decoders.ByteFallback(), decoders.Fuse(), decoders.Strip(" ", 1, 0)]
    )
    trainee.post_processor = processors.TemplateProcessing(single="$A", special_tokens=[])
    return trainee
