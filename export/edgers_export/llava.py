"""Models of LLaVA's kind (vision tower, projector, decoder): their graphs, and what cannot be one."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from torch.export import Dim

from edgers_engines.graph_record import Graph
from edgers_engines.manifest import Dimensions, Graphs
from edgers_export import attention
from edgers_export.errors import ExportError
from edgers_export.lean import lean, normalising
from edgers_export.onnx import GraphWriter
from edgers_export.recipe import Recipe
from edgers_export.vision import Vision

Progress = Callable[[str], None]

MOST_POSITIONS = 1 << 24  # that a manifest can state
# Their rotation depends on how long the text has become, so a position's key would not stay what it was.
_MOVING_ROTATIONS = ("dynamic", "longrope")


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
        return self.head(hidden[:, -1]).float(), *(trace.present[i] for i in range(len(past)))


def check_config(config: Any, recipe: Recipe) -> None:  # noqa: ANN401  transformers is untyped
    """Refuse what the graphs cannot express.

    Args:
        config: the checkpoint's.
        recipe: its family's.

    Raises:
        ExportError: another vision tower or decoder, features of a layer that the tower has not, or positions
            that are rotated by the text's length.
    """
    for part, known in ((config.vision_config, recipe.vision_towers), (config.text_config, recipe.decoders)):
        if part.model_type not in known:
            raise ExportError(
                f"the checkpoint has a {part.model_type}; {', '.join(known)} can be exported, in "
                f"{recipe.title}"
            )
    chosen, layers = config.vision_feature_layer, config.vision_config.num_hidden_layers
    several = chosen if isinstance(chosen, list) and chosen else [chosen]
    if not all(type(layer) is int and -layers - 1 <= layer <= layers for layer in several):
        raise ExportError(
            f"vision_feature_layer is {chosen!r}; this tower has layers from {-layers - 1} to {layers}"
        )
    scaling = getattr(config.text_config, "rope_scaling", None) or {}
    kind = scaling.get("rope_type", scaling.get("type"))
    if kind in _MOVING_ROTATIONS:
        raise ExportError(f"the decoder rotates positions by {kind!r}, which changes with the text's length")


def round_weights(model: Any, dtype: torch.dtype) -> None:  # noqa: ANN401  transformers is untyped
    """Round a float32 model's weights to the numbers that `halve` will store."""
    for weight in model.parameters():
        weight.data = weight.data.to(dtype).float()


def halve(model: Any, dtype: torch.dtype) -> None:  # noqa: ANN401  transformers is untyped
    """Turn the weights to float16 or bfloat16, and nothing else.

    Buffers keep their type: a rotation's frequencies in float16 would turn far positions by whole radians.
    """
    kept = [(part, name, old) for part in model.modules() for name, old in part.named_buffers(recurse=False)]
    model.to(dtype)
    for part, name, old in kept:
        part._buffers[name] = old


def longest(config: Any, wanted: int | None) -> int:  # noqa: ANN401  transformers is untyped
    """Positions that the bundle will have: the most the decoder has, or fewer when asked for.

    Within a sliding window no position is out of sight, so there attention is plainly causal; a bundle ends
    where the window does.

    Args:
        config: the checkpoint's.
        wanted: positions that were asked for, if any.

    Raises:
        ExportError: more are wanted than the decoder has, or it does not say how many it has.
    """
    text = config.text_config
    most = text.max_position_embeddings
    if type(most) is not int or not 1 <= most <= MOST_POSITIONS:
        raise ExportError(
            f"max_position_embeddings is {most!r}; a decoder has between 1 and {MOST_POSITIONS} positions"
        )
    sliding = getattr(text, "sliding_window", None)
    if sliding and (text.model_type != "qwen2" or text.use_sliding_window):
        most = min(most, sliding)
    if wanted is not None and not 1 <= wanted <= most:
        raise ExportError(f"--max-length is {wanted}; this decoder has between 1 and {most} positions")
    return wanted or most


def dimensions(model: Any, image_tokens: int, max_length: int) -> Dimensions:  # noqa: ANN401  transformers is untyped
    """The sizes the runtime allocates by, from a loaded checkpoint."""
    text = model.config.text_config
    return Dimensions(
        image_tokens=image_tokens,
        hidden=text.hidden_size,
        vocabulary=model.lm_head.out_features,
        layers=text.num_hidden_layers,
        kv_heads=text.num_key_value_heads,
        head_dim=getattr(text, "head_dim", None) or text.hidden_size // text.num_attention_heads,
        max_length=max_length,
    )


def write_graphs(
    model: Any,  # noqa: ANN401  transformers is untyped
    vision: Vision,
    writer: GraphWriter,
    *,
    canvas_size: tuple[int, int],
    progress: Progress,
) -> Graphs:
    """Write vision.onnx, embed.onnx and decoder.onnx.

    Args:
        model: the checkpoint's in float32, float16 or bfloat16.
        vision: its vision module.
        writer: where to write.
        canvas_size: height and width.
        progress: called with the name of each graph before it is traced.
    """
    batch, seq = Dim("batch"), Dim("seq")
    progress("vision")
    with normalising(vision):
        features = writer.write(
            vision,
            "vision.onnx",
            example=(torch.rand(2, 3, *canvas_size),),
            dynamic_shapes=({0: batch},),
            inputs=["canvas"],
            outputs=["features"],
        )
    progress("embed")
    embed = writer.write(
        Embed(model),
        "embed.onnx",
        example=(torch.zeros(2, 3, dtype=torch.int64),),
        dynamic_shapes=({0: batch, 1: seq},),
        inputs=["input_ids"],
        outputs=["embeddings"],
    )
    progress("decoder")
    return Graphs(vision=features, embed=embed, decoder=_write_decoder(model, writer))


def _write_decoder(model: Any, writer: GraphWriter) -> Graph:  # noqa: ANN401  transformers is untyped
    sizes = dimensions(model, image_tokens=1, max_length=1)
    names = [f"{layer}.{kind}" for layer in range(sizes.layers) for kind in ("key", "value")]
    rows, new, length = 2, 3, 16  # all different, or the exporter would take two dimensions for one
    batch, seq, max_len = Dim("batch"), Dim("seq"), Dim("max_len")
    cache = (rows, sizes.kv_heads, length, sizes.head_dim)
    example = (
        torch.randn(rows, new, sizes.hidden, dtype=model.dtype),
        torch.zeros(rows, dtype=torch.int64),
        torch.ones(rows, 1, new, length, dtype=torch.bool),
        tuple(torch.randn(cache, dtype=model.dtype) for _ in names),
    )
    with attention.cached(model.model.language_model), lean(model.model.language_model):
        return writer.write(
            Decoder(model),
            "decoder.onnx",
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
