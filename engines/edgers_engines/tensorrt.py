"""TensorRT's own road at run time: plans that `edgers build` made on this machine, on one GPU's stream.

Everything lies on the GPU but what the caller keeps in the host's memory (token ids, the mask, a classifier's
logits), which is copied at each run. All engines of a backend share one block of memory to compute in, for
they run one after the other.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NoReturn

import numpy as np

from edgers_engines.captured_steps import Call, CapturedSteps, Result
from edgers_engines.decoder_graph import written
from edgers_engines.device import Buffer, DeviceArray, gpu_number
from edgers_engines.engine import Backend, Engine, EngineRecord, Range
from edgers_engines.errors import BackendError, InputError, NoMemoryError
from edgers_engines.graph_record import Graph, Tensor
from edgers_engines.kernel_cache import KernelCache
from edgers_engines.manifest import Precision
from edgers_engines.plans import Plans, Source, Stored, Target, read_plan
from edgers_engines.tensorrt_plan import BUILDER, Profile, logger, named, open_tensorrt
from edgers_engines.weights import Weights

_ONE = Range(1, 1, 1)
_OUT_OF_MEMORY = re.compile("out of memory|OutOfMemory")

Find = Callable[[Source, Target], Stored]


class TensorRTBackend(Backend):
    """TensorRT, or TensorRT for RTX, on one GPU.

    Args:
        device: "cuda:N".
        find: chooses a graph's plan; the one of the user's cache that was last used or built unless given.
        graphs: whether decode steps are launched as CUDA graphs.

    Raises:
        InputError: the device is no GPU.
        BackendError: there is no such GPU, or no TensorRT.
    """

    grows = False  # see `_Scratch`

    def __init__(self, device: str, find: Find | None = None, *, graphs: bool = False) -> None:
        number = gpu_number(device)
        if number is None:
            raise InputError("TensorRT computes on a GPU: use --device cuda:N, or --backend onnxruntime")
        self._library = open_tensorrt()
        from edgers_engines.cuda import Cuda, driver_version

        self.device: Cuda = Cuda(number)
        self._name, self._find, self.graphs = device, find or Plans().find, graphs
        self.target = Target(
            library=named(self._library),
            cuda=self.device.cuda,
            driver=driver_version(),
            gpu=self.device.gpu.name,
            capability="{}.{}".format(*self.device.gpu.capability),
            multiprocessors=self.device.gpu.multiprocessors,
            memory_gib=round(self.device.gpu.memory_bytes / 2**30),
            builder=BUILDER,
        )
        self._log = logger(self._library)
        self._runtime = self._library.Runtime(self._log)
        self._scratch = _Scratch(self.device)

    def load(self, content: bytes, graph: Graph, weights: Weights) -> Engine:
        """Load the plan that was built of a graph; see `Backend.load`."""
        plan = self._find(source_of(content, graph, weights), self.target)
        machine_code = read_plan(plan)
        self.device.enter()
        self._log.said = ""
        try:
            engine = self._runtime.deserialize_cuda_engine(machine_code)
            if engine is None:
                self.fail(f"cannot load the plan of {graph.file}", "; `edgers build` makes it anew")
            return TensorRTEngine(engine, graph, plan, self)
        except MemoryError:
            raise NoMemoryError(
                f"the GPU has no memory left for the plan of {graph.file}: end other programs, or give "
                "`edgers build` a smaller --max-batch or --max-length"
            ) from None

    def fail(self, what: str, remedy: str = "") -> NoReturn:
        """Say why the library did not do something.

        Raises:
            MemoryError: it has no memory left.
            BackendError: whatever else it says.
        """
        said = self._log.said
        text = f"{self.target.library} {what}: {said or 'it gives no reason'}{remedy}"
        raise MemoryError(text) if _OUT_OF_MEMORY.search(said) else BackendError(text)

    def record(self, precision: Precision, engines: Sequence[Engine] = ()) -> EngineRecord:
        """What runs graphs of this precision, for the certificate; CUDA graphs only if none was refused."""
        captured = self.graphs and not any(
            engine.refused for engine in engines if isinstance(engine, TensorRTEngine)
        )
        return EngineRecord(
            backend="tensorrt-cuda-graphs" if captured else "tensorrt",
            version=self._library.__version__,
            device=self._name,
            provider=self._library.__name__,
            precision=precision,
            plans=tuple(
                digest for engine in engines if isinstance(engine, TensorRTEngine) for digest in engine.code
            ),
        )

    @property
    def threads(self) -> int:
        """One: the GPU computes."""
        return 1


class TensorRTEngine(Engine):
    """One plan, with a context for each of its profiles."""

    def __init__(
        self,
        engine: Any,  # noqa: ANN401  a library without types
        graph: Graph,
        plan: Stored,
        backend: TensorRTBackend,
    ) -> None:
        record = plan.record
        super().__init__(graph, _limits(record.profiles), record.sha256)
        self._engine, self._backend, self._profiles = engine, backend, record.profiles
        self._in_place = record.in_place
        found = {engine.get_tensor_name(index) for index in range(engine.num_io_tensors)}
        listed = {tensor.name for tensor in (*graph.inputs, *graph.outputs)}
        if found != listed:
            raise BackendError(
                f"the plan of {graph.file} has inputs and outputs {sorted(found)}; the manifest says "
                f"{sorted(listed)}"
            )
        self._aliases = {name: other for name in listed if (other := _aliased(engine, name))}
        backend._scratch.hold(int(engine.device_memory_size_v2))
        self._moved: dict[str, DeviceArray] = {}
        # They go in this order: contexts before what they compute with.
        self._contexts: list[Any] = []
        self._steps: dict[int, CapturedSteps] = {}
        self._kernels = _kernel_cache(engine, backend._library, plan)
        for index, profile in enumerate(record.profiles):
            self._contexts.append(self._context(index))
            if backend.graphs and profile.get("seq") == _ONE:
                self._steps[index] = CapturedSteps(backend.device)

    def keep_kernels(self) -> None:
        """Store what was compiled of its kernels, for later loads; see `KernelCache`."""
        if self._kernels:
            self._kernels.keep()

    @property
    def code(self) -> tuple[str, ...]:
        """SHA-256 of the machine code that was stored before: the plan, and kernels if any were taken."""
        digests = self.plan, self._kernels and self._kernels.taken
        return tuple(digest for digest in digests if digest)

    @property
    def refused(self) -> str:
        """Why it runs without CUDA graphs, where they were asked for and refused."""
        return "; ".join(steps.refused for steps in self._steps.values() if steps.refused)

    def _run(self, inputs: Mapping[str, Buffer], outputs: Mapping[str, Buffer]) -> None:
        device, index = self._backend.device, self._profile(inputs)
        device.enter()
        places = {name: self._place(name, array) for name, array in inputs.items()}
        read = {place.pointer for place in places.values()}
        updated = {
            name
            for name, array in outputs.items()
            if isinstance(array, DeviceArray) and array.pointer in read
        }
        for name, array in outputs.items():
            apart = name in updated and not self._in_place
            places[name] = self._held(name, array) if apart else self._place(name, array)
        for output, other in self._aliases.items():
            if places[output].pointer != places[other].pointer:
                raise InputError(f"{self.graph.file}: {output} and {other} must be the same memory")
        for name, array in inputs.items():
            if isinstance(array, np.ndarray):
                device.write(array, places[name])
        call = Call(
            tuple((tensor.name, tuple(inputs[tensor.name].shape)) for tensor in self.graph.inputs),
            tuple((name, places[name].pointer) for name in sorted(places)),
            self._backend._scratch.pointer,
        )
        in_place = updated if self._in_place else set()
        position = written(inputs) if in_place else None
        results = [Result(places[name], position if name in in_place else None) for name in outputs]
        # A step that writes in place, and does not say where, could not be compared with its graph.
        steps = None if in_place and position is None else self._steps.get(index)
        if steps is None or not steps.run(
            call, results, lambda: self._bound(self._context(index), call), self._execute
        ):
            self._execute(self._bound(self._contexts[index], call), device.stream)
        for name, array in outputs.items():
            if isinstance(array, np.ndarray):
                array[...] = device.get(places[name])
            elif array.pointer != places[name].pointer:
                device.copy(places[name], array)

    def _bound(self, context: Any, call: Call) -> Any:  # noqa: ANN401  the library's
        """The context, with the shapes and addresses of a run.

        Raises:
            MemoryError, BackendError: see `TensorRTBackend.fail`.
        """
        self._backend._log.said = ""
        for name, shape in call.shapes:
            self._must(context.set_input_shape(name, shape))
        for name, pointer in call.places:
            self._must(context.set_tensor_address(name, pointer))
        context.device_memory = call.scratch
        return context

    def _execute(self, context: Any, stream: int) -> None:  # noqa: ANN401  as above
        """Have a context enqueue what it is bound to; raises as `_bound`."""
        self._backend._log.said = ""
        self._must(context.execute_async_v3(stream))

    def _context(self, index: int) -> Any:  # noqa: ANN401  the library's
        """A context for one of the profiles.

        Raises:
            MemoryError, BackendError: see `TensorRTBackend.fail`.
        """
        context = _context(self._engine, self._backend._library, self._kernels)
        if context is None or not context.set_optimization_profile_async(index, self._backend.device.stream):
            self._backend.fail(f"has no context for profile {index} of {self.graph.file}")
        return context

    def _profile(self, inputs: Mapping[str, Buffer]) -> int:
        """The first profile that takes these sizes."""
        sizes = _sizes(self.graph.inputs, inputs)
        for index, profile in enumerate(self._profiles):
            if all(profile[name].least <= size <= profile[name].most for name, size in sizes.items()):
                return index
        raise InputError(
            f"{self.graph.file}: no profile of its plan takes {sizes}: look at the options of `edgers build`"
        )

    def _place(self, name: str, array: Buffer) -> DeviceArray:
        """Where the plan reads or writes an array: where it lies, if that is on the device."""
        return array if isinstance(array, DeviceArray) else self._held(name, array)

    def _held(self, name: str, array: Buffer) -> DeviceArray:
        """Memory of the engine's own, for an array of this shape."""
        device, held = self._backend.device, self._moved.get(name)
        if held is None or held.nbytes < array.nbytes:
            held = self._moved[name] = device.empty((array.nbytes,), np.uint8)
        return DeviceArray(held.ordinal, held.pointer, array.shape, array.dtype, held)

    def _must(self, done: bool) -> None:
        if not done:
            self._backend.fail(f"failed in {self.graph.file}")


class _Scratch:
    """Memory that engines compute in, as large as the largest of them needs."""

    def __init__(self, device: Any) -> None:  # noqa: ANN401  Cuda, whose module is imported when it is used
        self._device = device
        self._array = device.empty((1,), np.uint8)

    def hold(self, size: int) -> None:
        """Be at least so many bytes.

        Raises:
            MemoryError: there are not so many.
        """
        if size > self._array.nbytes:
            self._array = self._device.empty((size,), np.uint8)

    @property
    def pointer(self) -> int:
        """Its address."""
        return int(self._array.pointer)


def source_of(content: bytes, graph: Graph, weights: Weights) -> Source:
    """What a plan of this graph computes."""
    return Source(
        graph=graph.file, graph_sha256=hashlib.sha256(content).hexdigest(), weights_sha256=weights.sha256
    )


def _limits(profiles: Sequence[Profile]) -> dict[str, Range]:
    """What all profiles together take; between two of them there may be sizes that none takes."""
    names = profiles[0].keys()
    return {
        name: Range(
            min(profile[name].least for profile in profiles),
            profiles[0][name].likely,
            max(profile[name].most for profile in profiles),
        )
        for name in names
    }


def _sizes(tensors: Sequence[Tensor], arrays: Mapping[str, Buffer]) -> dict[str, int]:
    return {
        name: size
        for tensor in tensors
        for name, size in zip(tensor.shape, arrays[tensor.name].shape, strict=True)
        if isinstance(name, str)
    }


def _kernel_cache(engine: Any, library: Any, plan: Stored) -> KernelCache | None:  # noqa: ANN401  as above
    """The engine's, where the library compiles kernels when it loads a plan."""
    if not hasattr(library, "IRuntimeCache"):
        return None
    return KernelCache(engine.create_runtime_config().create_runtime_cache(), plan.path)


def _context(engine: Any, library: Any, kernels: KernelCache | None) -> Any:  # noqa: ANN401  as above
    """A context that computes in memory of the backend's, always by the same kernels.

    TensorRT for RTX compiles kernels for the very shapes that it meets, in the background, and takes them
    when they are there: then what a self-test measured is not what computes later. So it is told not to.
    """
    strategy = library.ExecutionContextAllocationStrategy.USER_MANAGED
    specialization = getattr(library, "DynamicShapesKernelSpecializationStrategy", None)
    if specialization is None:
        return engine.create_execution_context(strategy)
    config = engine.create_runtime_config()
    config.set_execution_context_allocation_strategy(strategy)
    config.dynamic_shapes_kernel_specialization_strategy = specialization.NONE
    if kernels:
        kernels.attach(config)
    return engine.create_execution_context(config)


def _aliased(engine: Any, name: str) -> str | None:  # noqa: ANN401  a library without types
    """The input whose memory an output is, where this version of the library says so."""
    ask = getattr(engine, "get_aliased_input_tensor", None)
    return (ask(name) or None) if ask else None
