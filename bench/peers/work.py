"""The work of answering one sample with the miniature, counted from its architecture."""

from __future__ import annotations

from miniature import POSITIONS, TEXT, VISION

IMAGE_TOKENS = (VISION["image_size"] // VISION["patch_size"]) ** 2


def gflop(prefix: int) -> float:
    """Work of encoding and prefilling one sample behind a prefix that all share: 2 a multiply-add.

    Only what the answer needs is counted: the layers up to the one whose features are taken (the last but
    one); new positions behind the shared prefix; attention to visible positions; and of the decoder's last
    layer keys and values of all positions, the rest and the logits of the last one. transformers does more.
    """
    h, wide, patches = VISION["hidden_size"], VISION["intermediate_size"], IMAGE_TOKENS
    tokens, layers = patches + 1, VISION["num_hidden_layers"] - 1
    vision = patches * 3 * VISION["patch_size"] ** 2 * h
    vision += layers * (tokens * (4 * h * h + 2 * h * wide) + 2 * tokens * tokens * h)
    hidden = TEXT["hidden_size"]
    projector = patches * (h * hidden + hidden * hidden)
    kv = 2 * hidden * hidden * TEXT["num_key_value_heads"] // TEXT["num_attention_heads"]
    rest = 2 * hidden * hidden + 3 * hidden * TEXT["intermediate_size"]
    new, visible = POSITIONS - prefix, sum(range(prefix + 1, POSITIONS + 1))
    full = TEXT["num_hidden_layers"] - 1
    decoder = full * (new * (kv + rest) + 2 * visible * hidden)
    decoder += new * kv + rest + 2 * POSITIONS * hidden + hidden * TEXT["vocab_size"]
    return 2 * (vision + projector + decoder) / 1e9
