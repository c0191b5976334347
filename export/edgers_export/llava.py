"""The LLaVA family: `LlavaForConditionalGeneration` as three modules, and those as three graphs."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.export import Dim

from edgers_engines.bundle import Dimensions, Graph, Graphs
from edgers_export import attention
from edgers_export.onnx import write_graph
from edgers_export.processor import Normalisation

Progress = Callable[[str], None]


class Vision(nn.Module):
    """Canvas [batch, 3, H, W] in [0, 1] -> image features [batch, image_tokens, hidden]."""

    mean: Tensor
    std: Tensor

    def __init__(self, model: Any, normalisation: Normalisation) -> None:  # noqa: ANN401  transformers is untyped
        super().__init__()
        self.tower, self.projector = model.model.vision_tower, model.model.multi_modal_projector
        self.layer = model.config.vision_feature_layer
        self.drop_class_token = model.config.vision_feature_select_strategy == "default"
        self.register_buffer("mean", torch.tensor(normalisation.mean).view(1, 3, 1, 1))
        self.register_buffer("std", torch.tensor(normalisation.std).view(1, 3, 1, 1))

    def forward(self, canvas: Tensor) -> Tensor:
        """Normalise, run the vision tower, take the features of one layer, project them."""
        states = self.tower((canvas - self.mean) / self.std, output_hidden_states=True).hidden_states
        features = states[self.layer]
        projected: Tensor = self.projector(features[:, 1:] if self.drop_class_token else features)
        return projected


class Embed(nn.Module):
    """Token ids [batch, seq] -> embeddings [batch, seq, hidden]."""

    def __init__(self, model: Any) -> None:  # noqa: ANN401  transformers is untyped
        super().__init__()
        self.table = model.get_input_embeddings()

    def forward(self, input_ids: Tensor) -> Tensor:
        """Look the ids up."""
        embeddings: Tensor = self.table(input_ids)
        return embeddings


class Decoder(nn.Module):
    """Embeddings, write index, mask and cache -> logits of the last position, and the cache again."""

    def __init__(self, model: Any) -> None:  # noqa: ANN401  transformers is untyped
        super().__init__()
        self.language_model, self.head = model.model.language_model, model.lm_head

    def forward(self, embeddings: Tensor, write_index: Tensor, mask: Tensor, past: tuple[Tensor, ...]) -> Any:  # noqa: ANN401
        """One pass over `seq` new positions, the first of which is `write_index`."""
        positions = write_index[:, None] + torch.arange(embeddings.shape[1])[None]
        with attention.tracing(attention.CacheTrace(past, write_index, mask)) as trace:
            hidden = self.language_model(
                inputs_embeds=embeddings, position_ids=positions, use_cache=False, attention_mask=None
            ).last_hidden_state
        return self.head(hidden[:, -1]), *(trace.present[i] for i in range(len(past)))


def dimensions(model: Any, image_tokens: int) -> Dimensions:  # noqa: ANN401  transformers is untyped
    """The sizes the runtime allocates by, from a loaded checkpoint."""
    text = model.config.text_config
    return Dimensions(
        image_tokens=image_tokens,
        hidden=text.hidden_size,
        vocabulary=model.lm_head.out_features,
        layers=text.num_hidden_layers,
        kv_heads=text.num_key_value_heads,
        head_dim=getattr(text, "head_dim", None) or text.hidden_size // text.num_attention_heads,
        max_length=text.max_position_embeddings,
    )


def write_graphs(
    model: Any,  # noqa: ANN401  transformers is untyped
    directory: Path,
    *,
    canvas_size: tuple[int, int],
    normalisation: Normalisation,
    progress: Progress,
) -> Graphs:
    """Write vision.onnx, embed.onnx and decoder.onnx.

    Args:
        model: `LlavaForConditionalGeneration` in float32.
        directory: where to write.
        canvas_size: height and width that the vision tower takes.
        normalisation: the checkpoint's mean and standard deviation.
        progress: called with the name of each graph before it is traced.
    """
    batch, seq = Dim("batch"), Dim("seq")
    progress("vision")
    vision = write_graph(
        Vision(model, normalisation),
        directory / "vision.onnx",
        example=(torch.rand(2, 3, *canvas_size),),
        dynamic_shapes=({0: batch},),
        inputs=["canvas"],
        outputs=["features"],
    )
    progress("embed")
    embed = write_graph(
        Embed(model),
        directory / "embed.onnx",
        example=(torch.zeros(2, 3, dtype=torch.int64),),
        dynamic_shapes=({0: batch, 1: seq},),
        inputs=["input_ids"],
        outputs=["embeddings"],
    )
    progress("decoder")
    return Graphs(vision=vision, embed=embed, decoder=_write_decoder(model, directory / "decoder.onnx"))


def _write_decoder(model: Any, path: Path) -> Graph:  # noqa: ANN401  transformers is untyped
    sizes = dimensions(model, image_tokens=1)
    names = [f"{layer}.{kind}" for layer in range(sizes.layers) for kind in ("key", "value")]
    rows, new, length = 2, 3, 16  # all different, or the exporter would take two dimensions for one
    batch, seq, max_len = Dim("batch"), Dim("seq"), Dim("max_len")
    example = (
        torch.randn(rows, new, sizes.hidden),
        torch.zeros(rows, dtype=torch.int64),
        torch.ones(rows, 1, new, length, dtype=torch.bool),
        tuple(torch.randn(rows, sizes.kv_heads, length, sizes.head_dim) for _ in names),
    )
    with attention.cached(model.model.language_model):
        return write_graph(
            Decoder(model),
            path,
            example=example,
            dynamic_shapes=(
                {0: batch, 1: seq},
                {0: batch},
                {0: batch, 2: seq, 3: max_len},
                tuple({0: batch, 2: max_len} for _ in names),
            ),
            inputs=["embeddings", "write_index", "mask", *(f"past.{name}" for name in names)],
            outputs=["logits", *(f"present.{name}" for name in names)],
        )
