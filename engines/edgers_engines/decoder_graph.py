"""A bundle's decoder graphs, and what each is told of the positions that it writes and sees.

The standard one runs everywhere. The one for CUDA is made of operators that only ONNX Runtime has, and its
GroupQueryAttention takes several rows either one position further or from position 0 on: there, no rows
continue behind a prefix that they share.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Literal, NamedTuple

import numpy as np

from edgers_engines.device import Array, Buffer
from edgers_engines.graph_record import Graph
from edgers_engines.manifest import Graphs

DecoderName = Literal["decoder", "cuda_decoder"]
Positions = Callable[[int, int, int, int], dict[str, Array]]


class DecoderGraph(NamedTuple):
    """One decoder graph.

    Attributes:
        name: its name in the manifest.
        graph: its record there.
        shares_prefix: whether rows can be prefilled behind positions that were computed once for all.
        positions: its inputs besides embeddings and cache, of rows, new positions of each, the first one's
            place, and the cache's length.
    """

    name: DecoderName
    graph: Graph
    shares_prefix: bool
    positions: Positions


def standard_decoder(graphs: Graphs) -> DecoderGraph:
    """The one that every bundle has."""
    return DecoderGraph("decoder", graphs.decoder, True, _masked)


def cuda_decoder(graphs: Graphs) -> DecoderGraph | None:
    """The one for ONNX Runtime on CUDA, where the bundle has it."""
    if graphs.cuda_decoder is None:
        return None
    return DecoderGraph("cuda_decoder", graphs.cuda_decoder, False, _counted)


def written(inputs: Mapping[str, Buffer]) -> int | None:
    """The one position that a decode step of the standard decoder writes, in all rows of the cache.

    None where these inputs do not tell it: of another graph, on a device, or not the same in all rows.
    """
    index = inputs.get("write_index")
    if not isinstance(index, np.ndarray) or (index != index[0]).any():
        return None
    return int(index[0])


def _masked(rows: int, new: int, first: int, length: int) -> dict[str, Array]:
    """Each new position sees those before it and itself."""
    visible = np.arange(length) <= first + np.arange(new)[:, None]
    return {
        "write_index": np.full(rows, first, np.int64),
        "mask": np.broadcast_to(visible, (rows, 1, *visible.shape)).copy(),
    }


def _counted(rows: int, new: int, first: int, _: int) -> dict[str, Array]:
    """The operator knows no other than causal attention."""
    return {
        "last_index": np.full(rows, first + new - 1, np.int32),
        "total_length": np.array([first + new], np.int32),
    }
