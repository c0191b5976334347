"""The miniature: a LLaVA of 37 million random parameters, for benchmarks. Needs the workstation side.

CLIP tower of 6 layers, 256 wide, at 112 pixels (64 image tokens); Llama of 8 layers, 512 wide, vocabulary
8000. With `PROMPT` a row has 84 positions. The end token's row of the head is zero, so its logit is never the
largest of 8000 and every answer has exactly `NEW_TOKENS` tokens, whoever computes it.
"""

from __future__ import annotations

import json
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

PROMPT = "Left or right?"
NEW_TOKENS = 8
POSITIONS = 84
_END_TOKEN = 2
_LAST_WORD = {
    "kind": "rules",
    "name": "last-word",
    "rules": [{"pattern": "* stop", "label": "stop"}, {"pattern": "*", "label": "anything"}],
}

VISION = {
    "hidden_size": 256,
    "intermediate_size": 1024,
    "num_hidden_layers": 6,
    "num_attention_heads": 4,
    "image_size": 112,
    "patch_size": 14,
}
TEXT = {
    "hidden_size": 512,
    "intermediate_size": 1408,
    "num_hidden_layers": 8,
    "num_attention_heads": 8,
    "num_key_value_heads": 4,
    "vocab_size": 8000,
}


def write(root: Path) -> tuple[Path, Path]:
    """The checkpoint and the bundle below `root`, made unless they are there."""
    sys.path.insert(0, str(Path(__file__).parent.parent))  # where the tests are
    from edgers_export.bundle import export_bundle
    from tests.checkpoints import Miniature
    from tests.checkpoints import write as write_checkpoint

    checkpoint, bundle = root / "checkpoint", root / "bundle"
    if not checkpoint.exists():
        write_checkpoint(Miniature(text=TEXT, vision_options=VISION), checkpoint)
        _silence_end_token(checkpoint / "model.safetensors")
    if not bundle.exists():
        export_bundle(checkpoint, bundle, max_new_tokens=NEW_TOKENS)
    return checkpoint, bundle


def last_word(root: Path) -> str:
    """An oracle's file below `root`: the miniature's answers are one class, which only their end settles."""
    oracle = root / "last-word.json"
    oracle.write_text(json.dumps(_LAST_WORD))
    return str(oracle)


@contextmanager
def folder(argument: str | None) -> Iterator[Path]:
    """The cache folder that was named, or a temporary one."""
    if argument is not None:
        yield Path(argument)
    else:
        with tempfile.TemporaryDirectory() as temporary:
            yield Path(temporary)


def _silence_end_token(weights: Path) -> None:
    from safetensors.torch import load_file, save_file

    tensors = load_file(weights)
    head = next(name for name in tensors if name.endswith("lm_head.weight"))
    tensors[head][_END_TOKEN] = 0
    save_file(tensors, weights, metadata={"format": "pt"})


if __name__ == "__main__":
    print(*write(Path(sys.argv[1])))
