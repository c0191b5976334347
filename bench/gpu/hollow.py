"""LLaVA-1.5-7B's exact graphs without its weights: python bench/gpu/hollow.py FOLDER [LAYERS].

Every matrix is one number that is expanded to its shape, so that a workstation with little memory can trace
the 13.5 GB model. FOLDER gets the graphs, which refer to a weights file that is made where they run
(`full_size.py`), and hollow.json: sizes, signatures, and each float16 tensor's name, shape
and offset there.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import onnx
import onnx_ir
import torch
from msgspec import to_builtins
from msgspec.structs import asdict, replace
from transformers import CLIPVisionConfig, LlamaConfig, LlavaConfig, LlavaForConditionalGeneration

from edgers_engines.graph_record import Graph
from edgers_engines.manifest import CudaDecoder, Parity
from edgers_export.cuda_decoder import rotations, write_cuda_decoder
from edgers_export.llava import dimensions, write_graphs
from edgers_export.onnx import WEIGHTS, GraphWriter
from edgers_export.processor import Normalisation
from edgers_export.vision import Vision

_UNMEASURED = Parity(tokens=1, equal_tokens=0, largest_logit_difference=0.0, largest_feature_difference=0.0)
PATCHES, CANVAS = 24**2, (336, 336)
CLIP_MEAN, CLIP_STD = (0.48145466, 0.4578275, 0.40821073), (0.26862954, 0.26130258, 0.27577711)


def config(layers: int = 32) -> LlavaConfig:
    """llava-hf/llava-1.5-7b-hf: CLIP ViT-L/14 at 336 pixels, Vicuna 7B."""
    vision = CLIPVisionConfig(
        hidden_size=1024,
        intermediate_size=4096,
        num_hidden_layers=24,
        num_attention_heads=16,
        image_size=336,
        patch_size=14,
        projection_dim=768,
    )
    text = LlamaConfig(
        hidden_size=4096,
        intermediate_size=11008,
        num_hidden_layers=layers,
        num_attention_heads=32,
        num_key_value_heads=32,
        vocab_size=32064,
        max_position_embeddings=4096,
        rms_norm_eps=1e-5,
    )
    return LlavaConfig(vision_config=vision, text_config=text, image_token_id=32000)


def hollow(layers: int) -> Any:
    """The model in float16, its parameters without memory, its buffers as they are."""
    with torch.device("meta"):
        model = LlavaForConditionalGeneration(config(layers)).eval()
    for module in model.modules():
        for name, parameter in list(module.named_parameters(recurse=False)):
            few = parameter.ndim == 1  # random: the exporter keeps equal small tensors only once
            value = torch.randn(parameter.shape if few else ()).half().expand(parameter.shape)
            setattr(module, name, torch.nn.Parameter(value, requires_grad=False))
    fresh = buffers(config(layers))
    for module_name, module in model.named_modules():
        for name, _ in list(module.named_buffers(recurse=False)):
            module._buffers[name] = fresh[f"{module_name}.{name}"]
    return model


def buffers(settings: LlavaConfig) -> dict[str, torch.Tensor]:
    """Rotations and position ids, which no checkpoint holds: from a model with one layer each."""
    settings.text_config.num_hidden_layers = settings.vision_config.num_hidden_layers = 1
    settings.text_config.vocab_size, settings.image_token_id = 8, 7
    small = LlavaForConditionalGeneration(settings)
    return dict(small.named_buffers())


class HollowWriter(GraphWriter):
    """Writes graphs, and a list of the tensors that they refer to instead of the tensors."""

    def __init__(self, directory: Path) -> None:
        super().__init__(directory, 24)
        self.tensors: list[dict[str, Any]] = []
        self._end, self._graph = 0, ""

    def write(self, module: torch.nn.Module, name: str, **options: Any) -> Graph:
        """See `GraphWriter.write`."""
        self._graph = name
        return super().write(module, name, **options)

    def _stored(self, name: str, tensor: Any) -> Any:
        if tensor.nbytes < 1024 or not tensor.dtype.is_floating_point() or name.startswith("rotation."):
            return tensor  # also the tables of the decoder for CUDA: no random numbers
        offset = self._end + -self._end % 64
        self._end = offset + tensor.nbytes
        self.tensors.append({"name": f"{self._graph}/{name}", "shape": list(tensor.shape), "offset": offset})
        return onnx_ir.ExternalTensor(
            WEIGHTS, offset, tensor.nbytes, tensor.dtype, shape=tensor.shape, name=name, base_dir="."
        )


def _matrices(path: Path) -> list[str]:
    """The transposed matrices of linear layers, which lost their names, in the order of use."""
    graph = onnx.load(path, load_external_data=False).graph
    external = {tensor.name for tensor in graph.initializer if tensor.external_data}
    used = [
        name for node in graph.node for name in node.input if name in external and name.startswith("val_")
    ]
    return [f"{path.name}/{name}" for name in dict.fromkeys(used)]


def main(folder: Path, layers: int) -> None:
    """Trace and write."""
    folder.mkdir(parents=True)
    model = hollow(layers)
    with HollowWriter(folder) as writer, torch.no_grad():
        graphs = write_graphs(
            model,
            Vision(model, Normalisation(mean=CLIP_MEAN, std=CLIP_STD)),
            writer,
            canvas_size=CANVAS,
            progress=lambda name: print(name, flush=True),
        )
        sizes = dimensions(model, PATCHES, 4096)
        twin = write_cuda_decoder(
            graphs.decoder,
            writer,
            heads=model.config.text_config.num_attention_heads,
            tables=rotations(model.model.language_model, sizes.max_length),
        )
    graphs = replace(graphs, cuda_decoder=CudaDecoder(**asdict(twin), parity=_UNMEASURED))
    facts = {
        "dimensions": to_builtins(sizes),
        "graphs": to_builtins(graphs),
        "tensors": writer.tensors,
        "matrices": {graph.file: _matrices(folder / graph.file) for _, graph in graphs.named()},
    }
    (folder / "hollow.json").write_text(json.dumps(facts))


if __name__ == "__main__":
    main(Path(sys.argv[1]), int(sys.argv[2]) if len(sys.argv) > 2 else 32)
