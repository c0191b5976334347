"""ONNX Runtime through its C API: OrtValues over the caller's arrays, bound by IOBinding, never copied."""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from pathlib import Path

import numpy as np

from edgers_engines.engine import Array, Backend, Engine, EngineRecord
from edgers_engines.errors import BackendError, InputError
from edgers_engines.manifest import Graph, Precision

# From 1.29 on, ONNX Runtime reports its use over the network unless this is set before it is loaded.
os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")
try:
    import onnxruntime as ort
except ImportError as error:
    raise BackendError(
        f"ONNX Runtime cannot be imported ({error}): install edgers[cpu], or edgers[gpu] for CUDA, "
        "on Python 3.11 or later"
    ) from None

# How ONNX Runtime and CUDA say so; there is no exception of its own for it.
_OUT_OF_MEMORY = re.compile(r"bad_alloc|[Ff]ailed to allocate memory|out of memory|ALLOC_FAILED")

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

    On "cuda:N" the caller's arrays stay in host memory, and ONNX Runtime moves them at each run.

    Raises:
        InputError: the device is neither "cpu" nor "cuda:N".
        BackendError: the device's provider is not in this build of ONNX Runtime.
    """

    def __init__(self, device: str, threads: int | None) -> None:
        self._device = device
        self._threads = threads or len(os.sched_getaffinity(0))
        self._provider, self._options = _provider(device)
        if self._provider not in available_providers():
            raise BackendError(
                f"{device} needs {self._provider}, which is not in this ONNX Runtime {ort.__version__} "
                f"(it has {', '.join(available_providers())}): "
                "install edgers[gpu] in place of edgers[cpu], or use --device cpu"
            )

    def load(self, content: bytes, graph: Graph, weights: Path) -> Engine:
        """Load one graph; see `Backend.load`."""
        return OnnxRuntimeEngine(self._session(content, graph.file, weights), graph)

    def record(self, precision: Precision) -> EngineRecord:
        """What runs graphs of this precision, for the certificate."""
        return EngineRecord(
            backend="onnxruntime",
            version=ort.__version__,
            device=self._device,
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
        options.log_severity_level = 4  # errors come as exceptions; a second copy on stderr is one too many
        options.add_session_config_entry("session.model_external_initializers_file_folder_path", str(weights))
        if self._provider != "CPUExecutionProvider":
            # Without this, nodes the provider lacks would quietly run on the CPU.
            options.add_session_config_entry("session.disable_cpu_ep_fallback", "1")
        return options

    def _session(self, content: bytes, name: str, weights: Path) -> ort.InferenceSession:
        options = self._session_options(weights)
        try:
            session = ort.InferenceSession(content, options, providers=[(self._provider, self._options)])
        except Exception as error:  # noqa: BLE001  ONNX Runtime's exceptions share no base class but Exception
            raise BackendError(f"ONNX Runtime cannot load {name} on {self._device}: {_line(error)}") from None
        # ONNX Runtime logs an error and goes on with the CPU when a provider's libraries do not load.
        if session.get_providers()[0] != self._provider:
            raise BackendError(
                f"{self._provider} was asked for, but ONNX Runtime loaded {name} on "
                f"{', '.join(session.get_providers())}: the libraries of {self._device} are missing; "
                "`edgers doctor` lists what is installed"
            )
        return session


class OnnxRuntimeEngine(Engine):
    """One session. Nothing is copied on the CPU: each OrtValue is a view of the caller's array."""

    def __init__(self, session: ort.InferenceSession, graph: Graph) -> None:
        super().__init__(graph)
        self._session = session
        found = [value.name for value in (*session.get_inputs(), *session.get_outputs())]
        listed = [tensor.name for tensor in (*graph.inputs, *graph.outputs)]
        if found != listed:
            raise BackendError(f"{graph.file} has inputs and outputs {found}; the manifest says {listed}")

    def _run(self, inputs: Mapping[str, Array], outputs: Mapping[str, Array]) -> None:
        binding = self._session.io_binding()
        for name, array in inputs.items():
            binding.bind_ortvalue_input(name, _value(array))
        for name, array in outputs.items():
            binding.bind_ortvalue_output(name, _value(array))
        try:
            self._session.run_with_iobinding(binding)
        except Exception as error:  # noqa: BLE001  as above
            if _OUT_OF_MEMORY.search(str(error)):
                raise MemoryError(f"ONNX Runtime in {self.graph.file}: {_line(error)}") from None
            raise BackendError(f"ONNX Runtime failed in {self.graph.file}: {_line(error)}") from None


def _value(array: Array) -> ort.OrtValue:
    return ort.OrtValue.ortvalue_from_numpy(np.asarray(array))


def _provider(device: str) -> tuple[str, dict[str, str]]:
    if device == "cpu":
        return "CPUExecutionProvider", {}
    if match := re.fullmatch(r"cuda:(\d{1,3})", device):
        return "CUDAExecutionProvider", {"device_id": match[1], "use_tf32": "0"}  # TF32 is not float32
    raise InputError(f"there is no device {device!r}; use cpu or cuda:N")


def _line(error: Exception) -> str:
    return " ".join(str(error).split())[:300]
