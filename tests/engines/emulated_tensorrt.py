"""TensorRT without a GPU: what edgers uses of it, over ONNX Runtime and the emulated driver's memory.

It is stricter than TensorRT. A tensor without an address, a shape outside its profile, a cache that comes out
elsewhere than it went in, memory to compute in that is too small, another stream than the device's, a thread
that has not entered the device: all of these end a run with an error. What is enqueued is computed when
somebody waits for it. A run is captured only from a context that has run once as it is, and a graph is broken
by whoever changes the context that it was captured from.
"""

from __future__ import annotations

import enum
import weakref
from importlib.machinery import ModuleSpec
from pathlib import Path
from types import ModuleType, SimpleNamespace

import numpy as np
import onnxruntime

from tests.engines.emulated_cuda import OK

_TYPES = {"tensor(float)": "f4", "tensor(float16)": "f2", "tensor(int64)": "i8", "tensor(bool)": "?"}


class Severity(enum.Enum):
    INTERNAL_ERROR, ERROR, WARNING, INFO, VERBOSE = range(5)


class ILogger:
    Severity = Severity

    def log(self, severity, message):
        raise NotImplementedError


class IProgressMonitor:
    pass


class NetworkDefinitionCreationFlag(enum.IntEnum):
    STRONGLY_TYPED = 1


class BuilderFlag(enum.Enum):
    TF32 = 0


class LayerType(enum.Enum):
    ATTENTION_INPUT = 0


class ExecutionContextAllocationStrategy(enum.Enum):
    STATIC, ON_PROFILE_CHANGE, USER_MANAGED = range(3)


class OptimizationProfile:
    def __init__(self):
        self.shapes = {}

    def set_shape(self, name, least, likely, most):
        assert all(a <= b <= c for a, b, c in zip(least, likely, most, strict=True))
        self.shapes[name] = least, most


class Config:
    def __init__(self):
        self.cleared, self.profiles, self.progress_monitor, self.timings = set(), [], None, b""

    def clear_flag(self, flag):
        self.cleared.add(flag)

    def add_optimization_profile(self, profile):
        self.profiles.append(profile.shapes)

    def create_timing_cache(self, content):
        return SimpleNamespace(serialize=lambda: content + b"t")

    def set_timing_cache(self, timings, ignore_mismatch):
        assert not ignore_mismatch
        self.timings = timings

    def get_timing_cache(self):
        return self.timings


class OnnxParser:
    num_errors = 0
    lacks = ()

    def __init__(self, network, log):
        self.network = network

    def supports_operator(self, name):
        return name not in self.lacks

    def parse(self, content, path):
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = 1
        folder = str(Path(path).parent)
        options.add_session_config_entry("session.model_external_initializers_file_folder_path", folder)
        self.network.session = onnxruntime.InferenceSession(content, options)
        self.network.content = content
        return True


class OldParser(OnnxParser):
    """As JetPack 6's."""

    lacks = "Attention", "RMSNormalization", "RotaryEmbedding", "TensorScatter"


class Emulated:
    """The library, to be found as the module `tensorrt`.

    Attributes:
        refuses: what a run with these sizes fails with, instead of computing; "" where it does not.
        built: names of the graphs that were built, in order.
        spoil: changes an output, by its name, after it was computed.
        contexts: whether there are any.
        captured: called when a run is captured; whether it may be.
        spoil_captured: as `spoil`, where a graph is launched.
        lost: names of outputs that a graph does not write when it is launched.
        compiled: plans whose kernels were compiled, in order; TensorRT for RTX does so when it loads them.
        runs: the sizes of all runs, by a dimension's name, or by itself where it is a number.
    """

    def __init__(self, driver):
        self.driver, self.plans, self.built, self.spoil = driver, {}, [], {}
        self.runs, self.refuses, self.contexts = [], lambda _sizes: "", True
        self.captured, self.spoil_captured, self.compiled = lambda: True, {}, []
        self.lost = set()
        self.module = ModuleType("tensorrt")
        self.module.__spec__, self.module.__version__ = ModuleSpec("tensorrt", None), "10.3.0"
        for kind in (
            ILogger,
            IProgressMonitor,
            NetworkDefinitionCreationFlag,
            BuilderFlag,
            LayerType,
            ExecutionContextAllocationStrategy,
            OnnxParser,
        ):
            setattr(self.module, kind.__name__, kind)
        self.module.Builder = lambda log: Builder(self, log)
        self.module.Runtime = lambda log: Runtime(self, log)

    def be_for_rtx(self):
        """Be TensorRT for RTX, which compiles kernels at run time."""
        self.module.DynamicShapesKernelSpecializationStrategy = KernelSpecialization
        self.module.IRuntimeCache = RuntimeCache

    def entered(self):
        return getattr(self.driver.thread, "context", None) == self.driver.CONTEXT


def begun():
    """A build has begun; for tests that interrupt it."""


class Builder:
    def __init__(self, library, log):
        assert library.entered()
        self.library, self.log = library, log

    def create_network(self, flags):
        assert flags == 1 << NetworkDefinitionCreationFlag.STRONGLY_TYPED
        return SimpleNamespace(num_layers=0, get_layer=None)

    def create_builder_config(self):
        return Config()

    def create_optimization_profile(self):
        return OptimizationProfile()

    def build_serialized_network(self, network, config):
        assert BuilderFlag.TF32 in config.cleared
        begun()
        config.progress_monitor.phase_start("Emulated building", None, 2)
        for step in range(2):
            if not config.progress_monitor.step_complete("Emulated building", step):
                self.log.log(Severity.ERROR, "the build was cancelled")
                return None
        self.library.built.append(network.session.get_outputs()[0].name)
        plan = f"plan {len(self.library.plans)}".encode()
        self.library.plans[plan] = network.session, config.profiles
        return plan


class Runtime:
    def __init__(self, library, log):
        assert library.entered()
        self.library, self.log = library, log

    def deserialize_cuda_engine(self, plan):
        assert self.library.entered()
        plan = bytes(plan)
        if plan not in self.library.plans:
            self.log.log(Severity.ERROR, "Error Code 1: Serialization (magic tag does not match)")
            return None
        return CudaEngine(self.library, self.log, plan, *self.library.plans[plan])


class CudaEngine:
    def __init__(self, library, log, plan, session, profiles):
        self.library, self.log, self.plan = library, log, plan
        self.session, self.profiles = session, profiles
        self.inputs, self.outputs = session.get_inputs(), session.get_outputs()
        self.names = [value.name for value in (*self.inputs, *self.outputs)]
        self.num_io_tensors = len(self.names)
        self.device_memory_size_v2 = 1000 * self.num_io_tensors  # each graph another

    def get_tensor_name(self, index):
        return self.names[index]

    def get_aliased_input_tensor(self, name):
        in_place = self.library.module.OnnxParser is OnnxParser
        return name.replace("present", "past") if name.startswith("present") and in_place else ""

    def create_runtime_config(self):
        return RuntimeConfig(self.library)

    def create_execution_context(self, how):
        assert self.library.entered()
        if hasattr(self.library.module, "DynamicShapesKernelSpecializationStrategy"):
            assert how.dynamic_shapes_kernel_specialization_strategy is KernelSpecialization.NONE
            cache, how = how.cache, how.strategy
            if self.plan not in cache.kernels:
                self.library.compiled.append(self.plan)
                cache.kernels = self.plan
        else:
            cache = None
        assert how is ExecutionContextAllocationStrategy.USER_MANAGED
        return Context(self, cache) if self.library.contexts else None


class KernelSpecialization(enum.Enum):
    """Of TensorRT for RTX."""

    LAZY, EAGER, NONE = range(3)


class RuntimeConfig:
    dynamic_shapes_kernel_specialization_strategy = KernelSpecialization.LAZY
    cache = None

    def __init__(self, library):
        self.library = library

    def set_execution_context_allocation_strategy(self, strategy):
        self.strategy = strategy

    def create_runtime_cache(self):
        return RuntimeCache(self.library)

    def set_runtime_cache(self, cache):
        self.cache = cache
        return True


class RuntimeCache:
    """Of TensorRT for RTX: here the plan stands for its kernels."""

    FORMAT = b"kernels of this very GPU: "

    def __init__(self, library):
        self.library, self.kernels = library, b""

    def serialize(self):
        return memoryview(self.FORMAT + self.kernels)

    def deserialize(self, blob):
        assert self.library.entered()
        if not blob.startswith(self.FORMAT):
            return False
        self.kernels = blob.removeprefix(self.FORMAT)
        return True


class Context:
    def __init__(self, engine, cache):
        self.engine, self.shapes, self.addresses = engine, {}, {}
        self.cache = cache and weakref.ref(cache)
        self.changed = False  # since it last ran
        self.profile = self.device_memory = None

    def __setattr__(self, name, value):
        super().__setattr__(name, value)
        if name != "changed":
            self.changed = True

    def __del__(self):
        if self.cache and self.cache() is None:
            self.engine.library.driver.faults.append("a context outlived what its kernels lie in")

    @property
    def state(self):
        return self.shapes, self.addresses, self.device_memory

    def set_optimization_profile_async(self, index, stream):
        assert self.engine.library.entered()
        self.profile = self.engine.profiles[index]
        return stream == self.engine.library.driver.STREAM

    def set_input_shape(self, name, shape):
        assert self.engine.library.entered()
        least, most = self.profile[name]
        self.shapes = {**self.shapes, name: shape}
        return len(shape) == len(least) and all(
            a <= size <= b for a, size, b in zip(least, shape, most, strict=True)
        )

    def set_tensor_address(self, name, pointer):
        self.addresses = {**self.addresses, name: pointer}
        return name in self.engine.names

    def execute_async_v3(self, stream):
        library, driver = self.engine.library, self.engine.library.driver
        sizes = {
            dimension: size
            for value in self.engine.inputs
            for dimension, size in zip(value.shape, self.shapes[value.name], strict=True)
        }
        if error := library.refuses(sizes) or self._wrong(stream):
            self.engine.log.log(Severity.ERROR, error)
            self.engine.log.log(Severity.ERROR, "enqueue failed")
            return False
        if driver.capture and stream == driver.capture.stream:
            if not library.captured() or self.changed:
                driver.capture.valid = False
                self.engine.log.log(Severity.ERROR, "operation not permitted when stream is capturing")
                return False
            return driver._enqueue(stream, _replay, weakref.ref(self), sizes, self.state)[0] == OK
        library.runs.append(sizes)
        self.changed = False
        return driver._enqueue(stream, self._compute, *self._views(sizes, self.state), library.spoil)[0] == OK

    def _views(self, sizes, state):
        """Inputs and outputs as arrays, and what is computed in is overwritten."""
        driver, (_, addresses, scratch) = self.engine.library.driver, state
        driver._bytes(scratch, self.engine.device_memory_size_v2)[:] = 0xFF
        for values in self.engine.inputs, self.engine.outputs:
            views = {}
            for value in values:
                shape = [sizes.get(size, size) for size in value.shape]
                dtype = np.dtype(_TYPES[value.type])
                memory = driver._bytes(addresses[value.name], int(np.prod(shape)) * dtype.itemsize)
                views[value.name] = memory.view(dtype).reshape(shape)
            yield views

    def _wrong(self, stream):
        engine = self.engine
        if not engine.library.entered():
            return "this thread has no CUDA context"
        capture = engine.library.driver.capture
        if stream != (capture.stream if capture else engine.library.driver.STREAM):
            return "another stream"
        if missing := set(engine.names) - self.addresses.keys():
            return f"no address of {sorted(missing)}"
        for name in engine.names:
            other = engine.get_aliased_input_tensor(name)
            if other and self.addresses[name] != self.addresses[other]:
                return f"{name} is not where {other} is"
        if not any(map(engine.get_aliased_input_tensor, engine.names)):
            places = [self.addresses[name] for name in engine.names]
            if len(set(places)) < len(places):
                return "an input and an output are in one place"
        return ""

    def _compute(self, inputs, outputs, spoils):
        found = self.engine.session.run(None, {name: view.copy() for name, view in inputs.items()})
        for (name, view), output in zip(outputs.items(), found, strict=True):
            spoil = spoils.get(name)
            view[...] = spoil(output) if spoil else output


def _replay(context, sizes, state):
    """What a graph does when it is launched, at the addresses that were captured."""
    context = context()
    assert context is not None, "the context of a graph is gone"
    library = context.engine.library
    if context.state != state:
        library.driver.faults.append("a context was changed after its graph was captured")
    inputs, outputs = context._views(sizes, state)
    lost = {name: lambda _, there=outputs[name]: there for name in library.lost & outputs.keys()}
    context._compute(inputs, outputs, {**library.spoil, **library.spoil_captured, **lost})
