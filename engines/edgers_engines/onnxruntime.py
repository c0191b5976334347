"""ONNX Runtime through its C API: the caller's arrays, bound where they lie.

What lies on the engine's device is never copied: the KV cache, features, embeddings, logits. On a GPU, what
lies in the host's memory (token ids, the mask) is copied by ONNX Runtime at each run.
"""

from __future__ import annotations

import io
import os
import re
from collections.abc import Mapping, Sequence
from contextlib import redirect_stdout
from pathlib import Path

import numpy as np

from edgers_engines.bfloat16 import through_float32
from edgers_engines.decoder_graph import DecoderGraph, cuda_decoder, standard_decoder
from edgers_engines.device import Buffer, Device, DeviceArray, Host, gpu_number
from edgers_engines.engine import Backend, Engine, EngineRecord
from edgers_engines.errors import BackendError
from edgers_engines.graph_record import Dtype, Graph
from edgers_engines.manifest import Graphs, Precision
from edgers_engines.weights import Weights

# From 1.29 on, ONNX Runtime reports its use over the network unless this is set before it is loaded.
os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")
try:
    import onnxruntime as ort
except ImportError as error:
    raise BackendError(
        f"ONNX Runtime cannot be imported ({error}): install edgers[cpu], or edgers[gpu] for CUDA, "
        "on Python 3.11 or later"
    ) from None

# Errors come as exceptions; on stderr they would stand among our own lines.
ort.set_default_logger_severity(4)

# How ONNX Runtime and CUDA say so; there is no exception of its own for it.
_OUT_OF_MEMORY = re.compile(r"bad_alloc|[Ff]ailed to allocate memory|out of memory|ALLOC_FAILED")

# What a provider leaves to the CPU on purpose: a graph's arithmetic with sizes, which are a few integers.
_ON_SIZES = {"Concat", "Range", "Shape", "Squeeze", "Unsqueeze"}

_BFLOAT16 = 16  # TensorProto.BFLOAT16, a type that NumPy does not have

OLDEST = (1, 25)  # the first with opset 24's TensorScatter
if tuple(map(int, ort.__version__.split(".")[:2])) < OLDEST:
    raise BackendError(
        f"ONNX Runtime {ort.__version__} cannot write a KV cache in place (opset 24); edgers needs 1.25 or "
        "later, which has wheels for Python 3.11 and later"
    )


def available_providers() -> list[str]:
    """The execution providers in this build of ONNX Runtime; that one is there does not mean it loads."""
    return list(ort.get_available_providers())


class OnnxRuntimeBackend(Backend):
    """ONNX Runtime with exactly one execution provider.

    Raises:
        InputError: the device is neither "cpu" nor "cuda:N".
        BackendError: the device's provider is not in this build of ONNX Runtime.
    """

    def __init__(self, device: str, threads: int | None) -> None:
        self._name = device
        self._threads = threads or len(os.sched_getaffinity(0))
        ordinal = gpu_number(device)
        self._provider = "CPUExecutionProvider" if ordinal is None else "CUDAExecutionProvider"
        if self._provider not in available_providers():
            raise BackendError(
                f"{device} needs {self._provider}, which is not in this ONNX Runtime {ort.__version__} "
                f"(it has {', '.join(available_providers())}): "
                "uninstall onnxruntime, install edgers[gpu], look at `edgers doctor`; or use --device cpu"
            )
        self.device, self._options = _open(ordinal)

    def load(self, content: bytes, graph: Graph, weights: Weights) -> Engine:
        """Load one graph; see `Backend.load`."""
        if self._provider == "CPUExecutionProvider" and "bfloat16" in _dtypes(graph).values():
            try:
                content = through_float32(content)
            except ValueError as error:
                raise BackendError(f"{graph.file} cannot be computed on {self._name}: {error}") from None
        return OnnxRuntimeEngine(self._session(content, graph.file, weights.folder), graph)

    def decoder(self, graphs: Graphs) -> DecoderGraph:
        """On CUDA the one for CUDA, where the bundle has it."""
        own = cuda_decoder(graphs) if self._provider == "CUDAExecutionProvider" else None
        return own or standard_decoder(graphs)

    def record(self, precision: Precision, engines: Sequence[Engine] = ()) -> EngineRecord:  # noqa: ARG002
        """What runs graphs of this precision, for the certificate."""
        return EngineRecord(
            backend="onnxruntime",
            version=ort.__version__,
            device=self._name,
            provider=self._provider,
            precision=precision,
        )

    @property
    def threads(self) -> int:
        """Threads of each session's pool."""
        return self._threads

    def _session_options(self, weights: Path) -> ort.SessionOptions:
        options = ort.SessionOptions()
        options.intra_op_num_threads = self._threads
        options.inter_op_num_threads = 1
        # An arena keeps all it ever held: after a batch that was too large, a smaller one would find nothing.
        options.enable_cpu_mem_arena = False
        # Threads that spin while they wait take the cores from whoever draws the next noise: on two cores the
        # demo model took about twice as long; at 37 million parameters the difference was not clear
        # (bench/ablation.py).
        options.add_session_config_entry("session.intra_op.allow_spinning", "0")
        options.log_severity_level = 4  # as above
        options.add_session_config_entry("session.model_external_initializers_file_folder_path", str(weights))
        # Weights of 4 or 8 bits are multiplied in float32, as the graph says. By default what they meet is
        # rounded to 8 bits as well: another function, which no other backend computes.
        options.add_session_config_entry("session.qdq_matmulnbits_accuracy_level", "1")
        options.add_session_config_entry("session.record_ep_graph_assignment_info", "1")
        return options

    def _session(self, content: bytes, name: str, weights: Path) -> ort.InferenceSession:
        options = self._session_options(weights)
        try:
            session = ort.InferenceSession(content, options, providers=[(self._provider, self._options)])
        except Exception as error:  # noqa: BLE001  ONNX Runtime's exceptions share no base class but Exception
            raise BackendError(f"ONNX Runtime cannot load {name} on {self._name}: {_line(error)}") from None
        # ONNX Runtime logs an error and goes on with the CPU when a provider's libraries do not load.
        if session.get_providers()[0] != self._provider:
            raise BackendError(
                f"{self._provider} was asked for, but ONNX Runtime loaded {name} on "
                f"{', '.join(session.get_providers())}: the libraries of {self._name} are missing; "
                "`edgers doctor` lists what is installed"
            )
        # Nodes that the provider lacks would quietly run on the CPU.
        elsewhere = {
            node.op_type
            for part in session.get_provider_graph_assignment_info()
            if part.ep_name != self._provider
            for node in part.get_nodes()
        }
        if moved := sorted(elsewhere - _ON_SIZES):
            raise BackendError(f"ONNX Runtime would run {', '.join(moved)} of {name} on the CPU")
        return session


class OnnxRuntimeEngine(Engine):
    """One session."""

    def __init__(self, session: ort.InferenceSession, graph: Graph) -> None:
        super().__init__(graph)
        self._session = session
        found = [value.name for value in (*session.get_inputs(), *session.get_outputs())]
        listed = [tensor.name for tensor in (*graph.inputs, *graph.outputs)]
        if found != listed:
            raise BackendError(f"{graph.file} has inputs and outputs {found}; the manifest says {listed}")

    def _run(self, inputs: Mapping[str, Buffer], outputs: Mapping[str, Buffer]) -> None:
        binding, dtypes = self._session.io_binding(), _dtypes(self.graph)
        for arrays, bind, bind_value in (
            (inputs, binding.bind_input, binding.bind_ortvalue_input),
            (outputs, binding.bind_output, binding.bind_ortvalue_output),
        ):
            for name, array in arrays.items():
                if isinstance(array, DeviceArray):
                    kind = _BFLOAT16 if dtypes[name] == "bfloat16" else array.dtype
                    bind(name, "cuda", array.ordinal, kind, array.shape, array.pointer)
                elif dtypes[name] == "bfloat16":
                    bind_value(name, ort.OrtValue.ortvalue_from_numpy_with_onnx_type(array, _BFLOAT16))
                else:
                    bind_value(name, ort.OrtValue.ortvalue_from_numpy(np.asarray(array)))
        try:
            self._session.run_with_iobinding(binding)
        except Exception as error:  # noqa: BLE001  as above
            if _OUT_OF_MEMORY.search(str(error)):
                raise MemoryError(f"ONNX Runtime in {self.graph.file}: {_line(error)}") from None
            raise BackendError(f"ONNX Runtime failed in {self.graph.file}: {_line(error)}") from None


def _open(ordinal: int | None) -> tuple[Device, dict[str, str]]:
    """The device, and the provider's options."""
    if ordinal is None:
        return Host(), {}
    from edgers_engines.cuda import Cuda

    # CUDA and cuDNN out of NVIDIA's wheels lie on no search path. It prints what it does not find.
    with redirect_stdout(io.StringIO()):
        ort.preload_dlls()
    device = Cuda(ordinal)
    return device, {
        "device_id": str(ordinal),
        "user_compute_stream": str(device.stream),
        "use_tf32": "0",  # TF32 is not float32
        "arena_extend_strategy": "kSameAsRequested",  # the default doubles what it takes each time
        "cudnn_conv_algo_search": "HEURISTIC",  # the default tries all for every new batch size
    }


def _dtypes(graph: Graph) -> dict[str, Dtype]:
    """Of inputs and outputs, by name."""
    return {tensor.name: tensor.dtype for tensor in (*graph.inputs, *graph.outputs)}


def _line(error: Exception) -> str:
    return " ".join(str(error).split())[:300]
