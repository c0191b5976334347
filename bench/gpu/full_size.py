"""LLaVA-1.5-7B's exact architecture with random weights: n = 100, 16 new tokens, against `generate`.

`suite.py full` runs it. The graphs come from `hollow.py` by way of $HOLLOW; the weights are drawn on the
device, written into $SCRATCH, where ONNX Runtime reads them, and given to transformers too, so that all
compute the same model: edgers with the decoder of every bundle ("standard"), edgers with the one in ONNX
Runtime's own operators ("grouped", `edgers export --cuda-decoder`), and transformers' `generate`. The
prompt's 40 positions all stand behind the image: none is shared.
"""

from __future__ import annotations

import json
import os
import re
import statistics
import tempfile
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import torch
from hollow import CLIP_MEAN, CLIP_STD, PATCHES, buffers, config
from measure import spread
from msgspec import convert
from numpy.typing import NDArray
from recorder import Recorder, Tokens

from edgers.poll import Poll
from edgers_engines.decoder_graph import cuda_decoder, standard_decoder
from edgers_engines.engine import open_backend
from edgers_engines.manifest import Dimensions, Graphs
from edgers_engines.noise import Stream, noisy_copies, to_lattice
from edgers_engines.vlm import Question, VisionLanguageModel

SAMPLES = int(os.environ.get("SAMPLES", "100"))
CHUNKS = tuple(map(int, os.environ.get("CHUNKS", "100,50,25").split(",")))
PEER_CHUNKS = tuple(map(int, os.environ.get("PEER_CHUNKS", "25,50").split(",")))
ROUNDS = int(os.environ.get("ROUNDS", "3"))
NEW_TOKENS, SIGMA, SEED = 16, 0.25, 1
PROMPT = [1, 3148, 1001, 29901, 29871, *range(500, 535)]

Say = Callable[[str], None]
Weights = dict[str, torch.Tensor]


DECODERS = {"standard": standard_decoder, "grouped": cuda_decoder}


def draw(tensors: list[dict[str, Any]], device: str) -> Weights:
    """Random weights of a trained model's size: norms 1, biases 0, the rest 0.02 wide."""
    generator = torch.Generator(device).manual_seed(0)
    weights = {}
    for tensor in tensors:
        weight = torch.empty(tensor["shape"], dtype=torch.float16, device=device)
        if re.search(r"norm\d?\.weight$", tensor["name"]):
            weight.fill_(1)
        elif tensor["name"].endswith("bias"):
            weight.zero_()
        else:
            weight.normal_(0, 0.02, generator=generator)
        weights[tensor["name"]] = weight
    return weights


def write(tensors: list[dict[str, Any]], weights: Weights, path: Path) -> None:
    """One file, as the graphs refer to it."""
    with path.open("wb") as file:
        for tensor in tensors:
            file.seek(tensor["offset"])
            file.write(weights[tensor["name"]].cpu().numpy().data)


def hollow_model(facts: dict[str, Any], folder: Path, weights: Path, device: str, kind: str) -> Any:
    """The graphs on the device, without the bundle that they would be in."""
    graphs = convert(facts["graphs"], Graphs)
    model = object.__new__(VisionLanguageModel)
    decoder = DECODERS[kind](graphs)
    assert decoder is not None
    model.decoder_graph = decoder
    model.bundle = SimpleNamespace(  # type: ignore[assignment]
        manifest=SimpleNamespace(
            dimensions=convert(facts["dimensions"], Dimensions),
            activations="float16",
            decoding=SimpleNamespace(end_tokens=(), max_new_tokens=NEW_TOKENS, margin_tolerance=0.0),
        )
    )
    model.backend = open_backend(device=device)
    model.workspace = SimpleNamespace(check=lambda *_: None, ran=lambda *_: None)  # type: ignore[assignment]
    model.prompts = SimpleNamespace(prefix=[], suffix=lambda _prompt: PROMPT, decode=str)  # type: ignore[assignment]
    model.vision, model.embed, model.decoder = (
        model.backend.load((folder / graph.file).read_bytes(), graph, SimpleNamespace(folder=weights))
        for graph in (graphs.vision, graphs.embed, decoder.graph)
    )
    return model


def certify(
    model: VisionLanguageModel, canvas: NDArray[np.float64], chunk: int
) -> tuple[float, dict[str, float], Tokens]:
    """Seconds of one certificate's counting stream, of its stages, and its answers."""
    recorder = Recorder(NEW_TOKENS)
    start = time.perf_counter()
    question = Question(model, "", rows=chunk, guard=False)
    poll = Poll(question, recorder, canvas, sigma=SIGMA, seed=SEED, progress=lambda _samples: None)
    poll.count(Stream.CERTIFICATION, SAMPLES)
    spent = time.perf_counter() - start
    return spent, {**question.seconds, "noise": poll.seconds["noise"]}, recorder.tokens


def measure(model: Any, canvas: NDArray[np.float64], work: tuple[float, float], say: Say) -> dict[str, Any]:
    """All chunk sizes of one model."""
    found: dict[str, Any] = {}
    encode, prefill = (SAMPLES * each for each in work)
    for chunk in CHUNKS:
        certify(model, canvas, chunk)  # ONNX Runtime sizes its memory, cuBLAS chooses its kernels
        runs = [certify(model, canvas, chunk) for _ in range(ROUNDS)]
        spent, tokens = [run[0] for run in runs], runs[-1][2]
        stages = {name: statistics.median(run[1][name] for run in runs) for name in runs[0][1]}
        rate = (encode + prefill) / (stages["encode"] + stages["prefill"])
        memory = _memory()
        say(
            f"    chunks of {chunk}: {spread(spent)} s: "
            + ", ".join(f"{name} {value:.3f}" for name, value in stages.items())
        )
        say(
            f"      encode and prefill {rate:.0f} TFLOP/s (encode {encode / stages['encode']:.0f}, "
            f"prefill {prefill / stages['prefill']:.0f}); {memory / 1e9:.1f} GB of the device in use"
        )
        found[str(chunk)] = {"seconds": spent, "stages": stages, "tflops": rate, "memory": memory}
        found["tokens"] = tokens
    return found


def _memory() -> int:
    if not torch.cuda.is_available():
        return 0
    free, total = torch.cuda.mem_get_info()
    return int(total - free)


class Names:
    """Where transformers' parameters are among the graphs' tensors."""

    _PLACES = (
        ("model.language_model.embed_tokens.", "table."),
        ("model.vision_tower.", "tower."),
        ("model.multi_modal_projector.", "projector."),
        ("model.language_model.", "language_model."),
        ("lm_head.", "head."),
        ("vision_model.", ""),
    )
    _VISION = ("q_proj", "k_proj", "v_proj", "out_proj", "fc1", "fc2")
    _TEXT = ("q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj")

    def __init__(self, facts: dict[str, Any], weights: Weights) -> None:
        self._weights = weights
        self._plain = {name.partition("/")[2].replace("vision_model.", ""): name for name in weights}
        self._vision, self._text = facts["matrices"]["vision.onnx"], facts["matrices"]["decoder.onnx"]

    def find(self, name: str) -> torch.Tensor | None:
        """A parameter's weights; None where no graph has it: the tower's last layer feeds nobody."""
        for long, short in self._PLACES:
            name = name.replace(long, short)
        if name in self._plain:
            return self._weights[self._plain[name]]
        matrix = self._matrix(name)
        return None if matrix is None else self._weights[matrix].T

    def _matrix(self, name: str) -> str | None:
        kind, layer = name.split(".")[-2], re.search(r"layers\.(\d+)\.", name)
        if name.startswith("projector."):
            return str(self._vision[-2 if kind == "linear_1" else -1])
        tower = name.startswith("tower.")
        matrices, order = (self._vision[:-2], self._VISION) if tower else (self._text, self._TEXT)
        if layer is None or kind not in order or not name.endswith(".weight"):
            return None
        place = int(layer[1]) * len(order) + order.index(kind)
        return str(matrices[place]) if place < len(matrices) else None


def peer(facts: dict[str, Any], weights: Weights, device: str) -> Any:
    """transformers' model over the same memory."""  # noqa: D403  its name
    from transformers import LlavaForConditionalGeneration

    with torch.device("meta"):
        model = LlavaForConditionalGeneration(config(facts["dimensions"]["layers"])).eval()
    names, fresh, missing = Names(facts, weights), buffers(config(1)), []
    for place, module in model.named_modules():
        for name, parameter in list(module.named_parameters(recurse=False)):
            tensor = names.find(f"{place}.{name}")
            if tensor is None:
                missing.append(f"{place}.{name}")
                tensor = torch.zeros(parameter.shape, dtype=torch.float16, device=device)
            assert tensor.shape == parameter.shape, (place, name, tensor.shape, parameter.shape)
            setattr(module, name, torch.nn.Parameter(tensor, requires_grad=False))
        for name, _ in list(module.named_buffers(recurse=False)):
            module._buffers[name] = fresh[f"{place}.{name}"].to(device)
    assert all("layers.23." in name or "post_layernorm" in name for name in missing), missing
    return model.float() if device == "cpu" else model


def generate(model: Any, noisy: torch.Tensor, chunk: int) -> Tokens:
    """All samples' tokens."""
    from transformers import GenerationConfig

    settings = GenerationConfig(
        max_new_tokens=NEW_TOKENS, min_new_tokens=NEW_TOKENS, do_sample=False, pad_token_id=0, eos_token_id=2
    )
    mean, std = (
        torch.tensor(values, device=noisy.device).view(1, 3, 1, 1) for values in (CLIP_MEAN, CLIP_STD)
    )
    ids = torch.tensor([[*[32000] * PATCHES, *PROMPT]], device=noisy.device)
    tokens: Tokens = []
    with torch.inference_mode():
        for part in noisy.split(chunk):
            rows = ids.repeat(len(part), 1)
            out = model.generate(
                input_ids=rows,
                attention_mask=torch.ones_like(rows),
                pixel_values=((part - mean) / std).to(model.dtype),
                generation_config=settings,
            )
            tokens += [tuple(row) for row in out[:, ids.shape[1] :].tolist()]
    return tokens


def compare(
    found: dict[str, Any],
    model: Any,
    canvas: NDArray[np.float64],
    device: str,
    say: Say,
) -> dict[str, Any]:
    """`generate` on the same noisy canvases."""
    noisy = np.empty((SAMPLES, *canvas.shape), np.float32)
    noisy_copies(canvas, SIGMA, seed=SEED, stream=Stream.CERTIFICATION, first=0, out=noisy)
    canvases = torch.from_numpy(noisy).to(device)
    result: dict[str, Any] = {}
    for chunk in PEER_CHUNKS:
        spent = []
        for _ in range(2):
            start = time.perf_counter()
            want = generate(model, canvases, chunk)
            spent.append(time.perf_counter() - start)
        equal = {
            kind: sum(
                one == other
                for a, b in zip(own["tokens"], want, strict=True)
                for one, other in zip(a, b, strict=True)
            )
            for kind, own in found.items()
        }
        first = {
            kind: sum(a[0] == b[0] for a, b in zip(own["tokens"], want, strict=True))
            for kind, own in found.items()
        }
        say(
            f"  transformers' generate, chunks of {chunk}: {min(spent):.3f} s; equal tokens, of "
            f"{NEW_TOKENS * SAMPLES}: {equal}; equal first ones, of {SAMPLES}: {first}"
        )
        result[str(chunk)] = {"seconds": spent, "equal": equal, "first": first}
    return result


def tflop(layers: int) -> tuple[float, float]:
    """Work of encoding and of prefilling one sample: 2 a multiply-add.

    Counted is what the answer needs: 23 of the tower's 24 layers, causal attention, and of the decoder's last
    layer keys and values of all positions, the rest of the last one.
    """
    h, wide, tokens = 1024, 4096, PATCHES + 1
    vision = PATCHES * 3 * 196 * h + 23 * (tokens * (4 * h * h + 2 * h * wide) + 2 * tokens * tokens * h)
    vision += PATCHES * (h * 4096 + 4096 * 4096)
    d, wide, new = 4096, 11008, PATCHES + len(PROMPT)
    decoder = (layers - 1) * (new * (4 * d * d + 3 * d * wide) + new * (new + 1) * d)
    decoder += new * 2 * d * d + 2 * d * d + 3 * d * wide + 2 * new * d + d * 32064
    return 2 * vision / 1e12, 2 * decoder / 1e12


def profile(model: Any, canvas: NDArray[np.float64], say: Say) -> list[tuple[str, float, int]]:
    """Device time of each kernel in one certificate, whoever launched it."""
    from torch.profiler import ProfilerActivity
    from torch.profiler import profile as profiler

    with profiler(activities=[ProfilerActivity.CUDA], acc_events=True) as run:
        certify(model, canvas, CHUNKS[0])
        torch.cuda.synchronize()
    times: Counter[str] = Counter()
    calls: Counter[str] = Counter()
    for event in run.events():
        name = re.sub(r"[<(].*", "", event.name.replace("void ", ""))
        times[name] += event.device_time_total / 1e3
        calls[name] += 1
    rows = [(name, spent, calls[name]) for name, spent in times.most_common(18)]
    for name, spent, count in rows:
        say(f"    {spent:8.1f} ms {count:6d} x {name[-70:]}")
    return rows


def main(device: str, say: Say) -> dict[str, Any]:
    """Draw, load, certify, compare."""
    folder = Path(os.environ["HOLLOW"])
    facts = json.loads((folder / "hollow.json").read_text())
    tensors, layers = facts["tensors"], facts["dimensions"]["layers"]
    canvas, work = to_lattice(np.random.default_rng(0).random((3, 336, 336))), tflop(layers)
    say(f"  n = {SAMPLES}, {PATCHES + len(PROMPT)} positions, {NEW_TOKENS} new tokens, {layers} layers")
    say(f"  work of a sample: encode {work[0]:.3f}, prefill {work[1]:.3f} TFLOP")
    found: dict[str, Any] = {}
    with tempfile.TemporaryDirectory(dir=os.environ.get("SCRATCH")) as scratch:
        weights = draw(tensors, device)
        write(tensors, weights, Path(scratch) / "weights.bin")
        for kind in DECODERS:
            say(f"  {kind}")
            start = time.perf_counter()
            model = hollow_model(facts, folder, Path(scratch), device, kind)
            say(f"    loaded in {time.perf_counter() - start:.1f} s")
            found[kind] = measure(model, canvas, work, say)
            if torch.cuda.is_available():
                found[kind]["kernels"] = profile(model, canvas, say)
            del model
    peers = compare(found, peer(facts, weights, device), canvas, device, say)
    for own in found.values():
        del own["tokens"]
    return {"layers": layers, "samples": SAMPLES, "tflop": work, **found, "generate": peers}
