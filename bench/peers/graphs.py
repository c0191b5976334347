"""The decoder's weights in the graphs that other tools make of them.

"concatenated" is what optimum exports for text models (it knows no LLaVA, and gives Llama no embeddings to
read): opset 18, past keys and values in, longer ones out, logits of every position. With `input_ids` in
place of `inputs_embeds`, optimum 2.1 with optimum-onnx 0.1 writes the same operators. "grouped" and "ids"
are written by onnxruntime-genai's own builder, reading embeddings and token ids: GroupQueryAttention over a
cache that may be written in place, queries, keys and values projected by one matrix, logits of the last
position.
"""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

KINDS = ("key", "value")


class PeerGraphs(NamedTuple):
    """Where they are; `grouped` and `ids` are folders as onnxruntime-genai reads them."""

    concatenated: Path
    grouped: Path
    ids: Path


def write(checkpoint: Path, root: Path) -> PeerGraphs:
    """The graphs below `root`, made unless they are there."""
    text = root / "text"
    graphs = PeerGraphs(root / "concatenated", root / "grouped", root / "ids")
    _once(text, lambda folder: _write_text_model(checkpoint, folder))
    _once(graphs.concatenated, lambda folder: _write_concatenated(text, folder / "model.onnx"))
    _once(graphs.grouped, lambda folder: _build(text, folder, "exclude_embeds=true"))
    _once(graphs.ids, lambda folder: _build(text, folder))
    return graphs


def _once(folder: Path, make: Callable[[Path], object]) -> None:
    if not folder.exists():
        unfinished = folder.with_suffix(".unfinished")
        unfinished.mkdir(parents=True, exist_ok=True)
        make(unfinished)
        unfinished.rename(folder)


def _write_text_model(checkpoint: Path, folder: Path) -> None:
    """The language model alone, as a checkpoint of its own."""
    from transformers import AutoTokenizer, LlamaForCausalLM, LlavaForConditionalGeneration

    llava = LlavaForConditionalGeneration.from_pretrained(checkpoint)
    text = LlamaForCausalLM(llava.config.text_config)
    text.model.load_state_dict(llava.model.language_model.state_dict())
    text.lm_head.load_state_dict(llava.lm_head.state_dict())
    text.save_pretrained(folder)
    AutoTokenizer.from_pretrained(checkpoint).save_pretrained(folder)


def _write_concatenated(text: Path, file: Path) -> None:
    import torch
    from transformers import DynamicCache, LlamaForCausalLM

    class Exported(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.model = LlamaForCausalLM.from_pretrained(text, attn_implementation="sdpa").eval()

        def forward(self, inputs_embeds: Any, attention_mask: Any, position_ids: Any, past: Any) -> Any:  # noqa: ANN401
            out = self.model(
                inputs_embeds=inputs_embeds,
                attention_mask=attention_mask,
                position_ids=position_ids,
                past_key_values=DynamicCache.from_legacy_cache(past),
                use_cache=True,
            )
            return out.logits, out.past_key_values.to_legacy_cache()

    model = Exported()
    config = model.model.config
    rows, new, past, layers = 3, 4, 5, range(config.num_hidden_layers)  # any sizes above 1
    shape = rows, config.num_key_value_heads, past, config.head_dim
    free, longer = (
        {0: torch.export.Dim.AUTO, 1: torch.export.Dim.AUTO},
        {0: torch.export.Dim.AUTO, 2: torch.export.Dim.AUTO},
    )
    names = [f"{layer}.{kind}" for layer in layers for kind in KINDS]
    with torch.no_grad():
        program = torch.onnx.export(
            model,
            (
                torch.zeros(rows, new, config.hidden_size),
                torch.ones(rows, past + new, dtype=torch.int64),
                torch.arange(past, past + new).repeat(rows, 1),
                # Each its own tensor: the same one twice would become one input.
                tuple((torch.zeros(shape), torch.zeros(shape)) for _ in layers),
            ),
            dynamo=True,
            opset_version=18,
            dynamic_shapes=(free, free, free, tuple((longer, longer) for _ in layers)),
            input_names=["inputs_embeds", "attention_mask", "position_ids"]
            + [f"past_key_values.{name}" for name in names],
            output_names=["logits", *(f"present.{name}" for name in names)],
            verbose=False,
        )
    program.save(file, external_data=True)


def _build(text: Path, folder: Path, *options: str) -> None:
    """onnxruntime-genai's builder, in float32 for the CPU; it computes logits of the last position only."""
    command = [sys.executable, "-m", "onnxruntime_genai.models.builder", "--input", str(text)]
    command += ["--output", str(folder), "--precision", "fp32", "--execution_provider", "cpu"]
    command += ["--cache_dir", str(text), "--extra_options", "prune_lm_head=true", *options]
    environment = {**os.environ, "ORT_DISABLE_TELEMETRY": "1"}
    run = subprocess.run(command, check=False, env=environment, capture_output=True, text=True)
    if run.returncode:
        raise RuntimeError(f"onnxruntime-genai's builder failed; install .[bench]\n{run.stderr}")
