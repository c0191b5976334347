"""What a GPU must get right: its own operations, tokens, votes, and what it does when memory runs out."""

from __future__ import annotations

import os
import statistics
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from edgers import Certifier, demo
from edgers_engines import noise
from edgers_engines.bundle import Bundle
from edgers_engines.decoder_graph import DecoderGraph, cuda_decoder, standard_decoder
from edgers_engines.device import Host
from edgers_engines.engine import open_backend
from edgers_engines.errors import EdgersError
from edgers_engines.noise import Stream, to_lattice
from edgers_engines.text_classifier import TextClassifier
from edgers_engines.vlm import Answer, Question, VisionLanguageModel

SEED = "0123456789abcdeffedcba9876543210"
Say = Callable[[str], None]


def kernels(device: str, say: Say) -> dict[str, Any]:
    """The device's own operations against the host's."""
    if device == "cpu":
        return {}
    from edgers_engines.cuda import Cuda

    cuda, host, rng = Cuda(int(device.partition(":")[2])), Host(), np.random.default_rng(0)
    values = differing = 0
    for shape, sigma, rows in (((3, 96, 96), 0.5, 100), ((3, 336, 336), 0.25, 32), ((3, 33, 35), 1.7, 7)):
        canvas = to_lattice(rng.random(shape))
        want, out = np.empty((rows, *shape), np.float32), cuda.empty((rows, *shape), np.float32)
        for stream in Stream:
            for where, target in ((host, want), (cuda, out)):
                where.noisy_copies(canvas, sigma, seed=int(SEED, 16), stream=stream, first=5, out=target)
            got = cuda.get(out)
            assert np.abs(got - want).max() <= noise.LATTICE_STEP
            values, differing = values + got.size, differing + int((got != want).sum())
    say(f"  noise: {differing} of {values} values differ from NumPy's, each by one lattice step at most")
    _check_tops(cuda, host, rng)
    _check_moves(cuda, host, rng)
    say("  best tokens, moved rows, pasted blocks and fills: equal to NumPy's")
    rate = {
        name: _noise_seconds(where, rows) for name, where, rows in (("device", cuda, 100), ("host", host, 10))
    }
    say(
        f"  noise of a 336x336 sample: {1e6 * rate['device']:.0f} us; "
        f"one core of the host {1e6 * rate['host']:.0f} us"
    )
    return {"noise values": values, "differing": differing, "seconds a sample": rate}


def _noise_seconds(where: Any, rows: int) -> float:
    canvas, out = to_lattice(np.full((3, 336, 336), 0.4)), where.empty((rows, 3, 336, 336), np.float32)
    spent = []
    for _ in range(5):
        start = time.perf_counter()
        where.noisy_copies(canvas, 0.5, seed=1, stream=Stream.CERTIFICATION, first=0, out=out)
        spent.append(time.perf_counter() - start)
    return statistics.median(spent) / rows


def _check_tops(cuda: Any, host: Host, rng: np.random.Generator) -> None:
    for trial in range(200):
        rows, vocabulary = int(rng.integers(1, 120)), int(rng.choice([5, 52, 128, 1000, 32064]))
        logits = rng.normal(size=(rows, vocabulary)).astype(np.float32)
        if trial % 3 == 0:
            logits = np.round(logits)  # ties
        if trial % 5 == 0:
            logits[rng.integers(rows), rng.integers(vocabulary)] = rng.choice([np.nan, np.inf, -np.inf])
        allowed = [sorted(rng.choice(vocabulary, 4, replace=False).tolist()) for _ in range(rows)]
        some = allowed if trial % 2 else None
        got, want = cuda.top(cuda.put(logits), some), host.top(logits.copy(), some)
        sound = want.finite
        assert (got.finite == sound).all()
        assert (got.token[sound] == want.token[sound]).all()
        assert (got.lead[sound] == want.lead[sound]).all()


def _check_moves(cuda: Any, host: Host, rng: np.random.Generator) -> None:
    for dtype in (np.float16, np.float32):
        cache = rng.normal(size=(9, 3, 40, 24)).astype(dtype)
        block, part = rng.normal(size=(9, 30, 24)).astype(dtype), rng.normal(size=(6, 7, 24)).astype(dtype)
        on_device, pasted = cuda.put(cache), cuda.put(block)
        for where, array in ((cuda, on_device), (host, cache)):
            where.copy_rows(array, [(1, 0), (3, 1), (4, 2), (8, 3)], 5, 33)
            where.fill(array, 0.1, 37)
        assert (cuda.get(on_device) == cache).all()
        for source in (part, cuda.put(part)):
            cuda.paste(source, pasted[2:8], 11)
        host.paste(part, block[2:8], 11)
        assert (cuda.get(pasted) == block).all()


def placement(device: str, say: Say) -> dict[str, Any]:
    """Where ONNX Runtime puts the nodes of the demo bundle."""
    import onnxruntime as ort

    provider = "CPUExecutionProvider" if device == "cpu" else "CUDAExecutionProvider"
    found: dict[str, Any] = {}
    bundle = demo.load_bundle()
    for name, graph, weights_name in bundle.manifest.loaded:
        options = ort.SessionOptions()
        options.log_severity_level = 3
        options.add_session_config_entry("session.record_ep_graph_assignment_info", "1")
        with bundle.weights(weights_name) as weights:
            options.add_session_config_entry(
                "session.model_external_initializers_file_folder_path", str(weights.folder)
            )
            session = ort.InferenceSession(bundle.read(graph.file), options, providers=[provider])
        places: dict[str, list[str]] = {provider: []}
        for part in session.get_provider_graph_assignment_info():
            places.setdefault(part.ep_name, []).extend(node.op_type for node in part.get_nodes())
        say(f"  {name}: {len(places.pop(provider))} nodes on {provider}; elsewhere {places or 'none'}")
        found[name] = places
    return found


def bundles_to_try() -> list[Bundle]:
    """The demo bundle, and those below $BUNDLES."""
    folder = os.environ.get("BUNDLES")
    paths = sorted(path.parent for path in Path(folder).glob("*/manifest.json")) if folder else []
    return [demo.load_bundle(), *map(Bundle.load, paths)]


def bundles(device: str, say: Say) -> dict[str, Any]:
    """Tokens of the device, by each decoder, against those of the CPU, eight rows of sixteen."""
    found: dict[str, Any] = {}
    for bundle in bundles_to_try():
        manifest = bundle.manifest
        canvas = to_lattice(np.random.default_rng(1).random((3, *manifest.preparation.canvas_size)))
        canvases = np.empty((8, *canvas.shape), np.float32)
        Host().noisy_copies(canvas, 0.25, seed=1, stream=Stream.SELECTION, first=0, out=canvases)
        cpu = _answers(bundle, "cpu", standard_decoder(manifest.graphs), canvases)
        for decoder in filter(None, (standard_decoder(manifest.graphs), cuda_decoder(manifest.graphs))):
            there = _answers(bundle, device, decoder, canvases)
            pairs = [
                pair
                for a, b in zip(cpu, there, strict=True)
                for pair in zip(a.tokens, b.tokens, strict=False)
            ]
            equal, least = sum(a == b for a, b in pairs), min(answer.margin for answer in cpu)
            name = f"{manifest.name}, {manifest.precision}, {decoder.name}"
            say(f"  {name}: {equal} of {len(pairs)} tokens equal, least lead {least:.2g}")
            found[name] = {"tokens": len(pairs), "equal": equal, "lead": least}
    return found


def _answers(
    bundle: Bundle, device: str, decoder: DecoderGraph, canvases: NDArray[np.float32]
) -> list[Answer]:
    model = VisionLanguageModel(bundle, open_backend(device=device), decoder)
    return Question(model, "Which way?", rows=8, guard=False, max_new_tokens=16).answers(canvases)


def oracle(device: str, say: Say) -> dict[str, Any]:
    """Labels and logits of the demo bundle's learned oracle on both, of texts of every length."""
    bundle = demo.load_bundle()
    words = ["left", "right", "stop", "forward", "a", "box", "cone", "blocks", "the", "way", ",", "."]
    rng = np.random.default_rng(2)
    texts = [" ".join(rng.choice(words, rng.integers(1, 30))) for _ in range(5000)]
    (record,) = bundle.manifest.classifiers
    cpu, there = (TextClassifier(bundle, record, open_backend(device=where)) for where in ("cpu", device))
    difference = float(abs(cpu.logits(texts) - there.logits(texts)).max())
    seconds = []
    for classifier in (cpu, there):
        start = time.perf_counter()
        classifier.labels(texts)
        seconds.append(time.perf_counter() - start)
    equal = sum(a == b for a, b in zip(cpu.labels(texts), there.labels(texts), strict=True))
    rates = [len(texts) / each for each in seconds]
    say(
        f"  {equal} of {len(texts)} labels equal, largest difference of a logit {difference:.2g} (a lead "
        f"needs {record.margin_tolerance:.2g}); {rates[0]:.0f} / {rates[1]:.0f} texts a second"
    )
    return {"texts": len(texts), "equal": equal, "difference": difference, "texts per second": rates}


def demo_frames(device: str, say: Say) -> dict[str, Any]:
    """The demo frames, n = 100, on both."""
    bundle, found = demo.load_bundle(), {}
    certifiers = [
        Certifier(bundle, sigma=0.5, samples=100, backend=open_backend(device=d)) for d in ("cpu", device)
    ]
    for frame in demo.frames():
        certificates, spent = [], []
        for certifier in certifiers:
            for _ in range(3):
                start = time.perf_counter()
                certificate = certifier.certify(frame, demo.PROMPT, choices=demo.ACTIONS, seed=SEED)
                last = time.perf_counter() - start
            certificates.append(certificate)
            spent.append(last)
        one, other = certificates
        verdicts = f"{one.label} {one.certified}", f"{other.label} {other.certified}"
        say(
            f"  {frame.name}: {' / '.join(verdicts)}, "
            f"votes {'equal' if one.votes == other.votes else 'DIFFER'}, "
            f"{1e3 * spent[0]:.0f} / {1e3 * spent[1]:.0f} ms"
        )
        assert verdicts[0] == verdicts[1]
        found[frame.name] = {"verdict": verdicts[0], "equal": one.votes == other.votes, "seconds": spent}
    say(f"  the device's stages in the last one, ms: {other.timings_ms}")
    return found


def memory(device: str, say: Say) -> dict[str, Any]:
    """One certificate with less and less of the device's memory left."""
    if device == "cpu":
        return {}
    found: dict[str, Any] = {}
    frame, bundle, want = demo.frames()[8], demo.load_bundle(), None
    for left in (None, 256, 96, 64, 48, 32, 16):
        certifier = Certifier(
            bundle, sigma=0.5, samples=200, batch_size=200, backend=open_backend(device=device)
        )
        free, _ = torch.cuda.mem_get_info()
        taken = 0 if left is None else max(free - (left << 20), 0)
        hog = torch.empty(taken, dtype=torch.uint8, device=device)
        what = "all memory" if left is None else f"{left} MiB"
        try:
            certificate = certifier.certify(frame, demo.PROMPT, choices=demo.ACTIONS, seed=SEED)
        except EdgersError as error:
            say(f"  {what}: {error}")
            found[what] = str(error)
        else:
            want = want or certificate.votes
            assert certificate.votes == want
            say(f"  {what}: chunks of {certificate.batch_size}, votes equal")
            found[what] = certificate.batch_size
        del hog, certifier
        torch.cuda.empty_cache()
    return found
