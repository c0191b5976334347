"""TensorRT's own road from a verified graph to a plan: parse it, give each free dimension its range, build.

TensorRT and TensorRT for RTX are one interface under several module names. Networks are strongly typed: the
graph says its precisions, and nothing here chooses others. A plan is code for one kind of GPU: it is built
where it runs, from a verified bundle, and a stranger's is never loaded.
"""

from __future__ import annotations

import importlib
import importlib.util
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from edgers_engines.engine import Range
from edgers_engines.errors import BackendError
from edgers_engines.graph_record import Graph
from edgers_engines.onnx_graph import read_graph
from edgers_engines.plain_operators import PLAIN, plain
from edgers_engines.tensorrt_graph import tensorrt_graph

# JetPack and NVIDIA's packages bring the first; TensorRT for RTX the second; its wheels the third.
_MODULES = ("tensorrt", "tensorrt_rtx", "tensorrt_rtx_bindings")

# How edgers builds, in a number: raised with every change that makes other plans, tensorrt_graph.py's too.
BUILDER = 1

Progress = Callable[[str, int, int], bool]


Profile = dict[str, Range]  # by a free dimension's name


class Plan(NamedTuple):
    """A graph, built.

    Attributes:
        content: what the library loads; of the version that built it, for the kind of GPU it was built for.
        timings: what was measured of kernels, which makes the next build on this machine quicker.
        in_place: whether a KV cache comes out where it went in; else it must come out elsewhere.
    """

    content: bytes
    timings: bytes
    in_place: bool


def open_tensorrt() -> Any:  # noqa: ANN401  a module of which no types are published
    """The library.

    Raises:
        BackendError: it cannot be imported under any of its names.
    """
    name = next(filter(importlib.util.find_spec, _MODULES), _MODULES[0])
    try:
        return importlib.import_module(name)
    except ImportError as error:
        raise BackendError(
            f"TensorRT cannot be imported ({error}): on Jetson and with NVIDIA's apt repository, apt install "
            "python3-libnvinfer; elsewhere pip install tensorrt-rtx-cu13-bindings tensorrt-rtx-cu13-libs "
            "brings TensorRT for RTX; or use --backend onnxruntime"
        ) from None


def build_plan(
    content: bytes,
    graph: Graph,
    weights: Path,
    profiles: Sequence[Profile],
    *,
    timings: bytes = b"",
    progress: Progress = lambda _phase, _step, _steps: True,
) -> Plan:
    """Build a graph for the kind of GPU that is there, or, with TensorRT for RTX, for any that it supports.

    Args:
        content: the ONNX file's verified bytes.
        graph: its record in the manifest.
        weights: folder with a private, verified copy of the weights.
        profiles: one plan serves all of them; a free dimension with one size everywhere becomes a number.
        timings: of a plan that was built before for the same GPU by the same library.
        progress: called with a phase, its steps done and all its steps; False ends the build.

    Raises:
        BackendError: TensorRT is not there, or refuses the graph; the text says why.
    """
    library = open_tensorrt()
    log, monitor = logger(library), _monitor(library, progress)  # they must outlive what calls them
    builder = library.Builder(log)
    network = builder.create_network(1 << int(library.NetworkDefinitionCreationFlag.STRONGLY_TYPED))
    parser = library.OnnxParser(network, log)
    lacking = {name for name in read_graph(content).operators if not parser.supports_operator(name)}
    if unknown := sorted(lacking - PLAIN.keys()):
        raise BackendError(
            f"{graph.file} needs {', '.join(unknown)}, which {named(library)} does not have: take a later "
            "TensorRT, or --backend onnxruntime"
        )
    taken = tensorrt_graph(content, graph.file, _pinned(profiles))
    if lacking:
        taken = _plain(taken, graph.file, profiles, lacking)
    if not parser.parse(taken, str(weights / graph.file)):
        raise BackendError(f"{named(library)} cannot read {graph.file}: {_errors(parser)}")
    _let_decompose(library, network)
    config = builder.create_builder_config()
    config.clear_flag(library.BuilderFlag.TF32)  # TF32 is not float32
    config.progress_monitor = monitor
    timed = library.__name__ == "tensorrt"  # the one for RTX measures nothing when it builds
    if timed:
        config.set_timing_cache(config.create_timing_cache(timings), ignore_mismatch=False)
    for profile in profiles:
        config.add_optimization_profile(_shaped(builder.create_optimization_profile(), graph, profile))
    plan = builder.build_serialized_network(network, config)
    if plan is None:
        raise BackendError(f"{named(library)} cannot build {graph.file}: {log.said or 'it gives no reason'}")
    measured = bytes(config.get_timing_cache().serialize()) if timed else b""
    return Plan(bytes(plan), measured, in_place="TensorScatter" not in lacking)


def named(library: Any) -> str:  # noqa: ANN401  as above
    """The module's name and version."""
    return f"{library.__name__} {library.__version__}"


def _pinned(profiles: Sequence[Profile]) -> dict[str, int]:
    """The dimensions that have one size in all profiles."""
    return {
        name: first.least
        for name, first in profiles[0].items()
        if all(profile[name] == Range(first.least, first.least, first.least) for profile in profiles)
    }


def _plain(content: bytes, name: str, profiles: Sequence[Profile], operators: set[str]) -> bytes:
    sizes = {dimension: size.likely for dimension, size in profiles[0].items()}
    try:
        return plain(content, sizes, operators)
    except ValueError as error:
        raise BackendError(
            f"{name} cannot be written without {', '.join(sorted(operators))}: {error}"
        ) from None


def _let_decompose(library: Any, network: Any) -> None:  # noqa: ANN401  as above
    """Let Attention become plain operators where the library has no kernel of its own for its shapes.

    Otherwise the build fails there: in float32, and for some numbers and sizes of heads.
    """
    for layer in map(network.get_layer, range(network.num_layers)):
        if layer.type == library.LayerType.ATTENTION_INPUT:
            layer.__class__ = library.IAttentionInputLayer  # the library's own way to its fields
            layer.attention.decomposable = True


def _shaped(shapes: Any, graph: Graph, profile: Profile) -> Any:  # noqa: ANN401  as above
    """One of the library's profiles, with the graph's inputs in these ranges."""
    for tensor in graph.inputs:
        sizes = [Range(size, size, size) if isinstance(size, int) else profile[size] for size in tensor.shape]
        shapes.set_shape(tensor.name, *zip(*sizes, strict=True))
    return shapes


def _errors(parser: Any) -> str:  # noqa: ANN401  as above
    """What the parser objects to, each reason once, in one line."""
    reasons = dict.fromkeys(parser.get_error(index).desc() for index in range(parser.num_errors))
    return " ".join("; ".join(reasons).split())[:300] or "it gives no reason"


def logger(library: Any) -> Any:  # noqa: ANN401  as above
    """Keeps errors in `said` instead of printing, as the library does by itself."""

    class Log(library.ILogger):  # type: ignore[misc]
        said = ""

        def __init__(self) -> None:
            library.ILogger.__init__(self)

        def log(self, severity: Any, message: str) -> None:  # noqa: ANN401  as above
            if severity in {library.ILogger.Severity.ERROR, library.ILogger.Severity.INTERNAL_ERROR}:
                self.said = "; ".join(filter(None, [self.said, " ".join(message.split())]))[:600]

    return Log()


def _monitor(library: Any, progress: Progress) -> Any:  # noqa: ANN401  as above
    """Hands the library's steps on; several of its threads may call at once."""

    class Monitor(library.IProgressMonitor):  # type: ignore[misc]
        def __init__(self) -> None:
            library.IProgressMonitor.__init__(self)
            self._steps: dict[str, int] = {}

        def phase_start(self, phase: str, _parent: str | None, steps: int) -> None:
            self._steps[phase] = steps

        def step_complete(self, phase: str, step: int) -> bool:
            return progress(phase, step + 1, self._steps[phase])

        def phase_finish(self, phase: str) -> None:
            """The next phase says so."""

    return Monitor()
