"""A CUDA device: its memory, one stream, and the kernels of kernels.cu, through NVIDIA's own bindings.

Everything runs on one stream, the engines' graphs too, so that what is enqueued first is done first. The
kernels are compiled by NVRTC when the device is opened: for exactly this device, in a tenth of a second.
"""

from __future__ import annotations

import ctypes
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import DTypeLike, NDArray

from edgers_engines import noise
from edgers_engines.device import Array, Buffer, Device, DeviceArray, Top
from edgers_engines.errors import BackendError, InputError
from edgers_engines.noise import SAMPLERS, Stream, check_sigma

_OTHERWISE = "or compute on the CPU (--backend onnxruntime --device cpu)"

try:
    from cuda.bindings import driver, nvrtc
except ImportError as error:
    raise BackendError(
        f"NVIDIA's CUDA bindings cannot be imported ({error}): install edgers[gpu], {_OTHERWISE}"
    ) from None

_SOURCE = Path(__file__).with_name("kernels.cu")
_KERNELS = ("noisy_copies", "copy_rows", "top_of_segments", "top_of_rows")
_THREADS = 256
_SEGMENTS = 128
_MULTIPROCESSORS = driver.CUdevice_attribute.CU_DEVICE_ATTRIBUTE_MULTIPROCESSOR_COUNT
_CAPTURE_MODE = driver.CUstreamCaptureMode
_TOP = np.dtype([("best", "f4"), ("second", "f4"), ("token", "i4"), ("finite", "i4")])
_UNIT = 2  # bytes that copy_rows moves at once
_NO_DRIVER = "NVIDIA's driver is not on this machine: install it"
_NO_NVRTC = "NVIDIA's compiler NVRTC is not installed: install edgers[gpu]"


@dataclass(frozen=True, slots=True)
class Gpu:
    """What a GPU is.

    Attributes:
        name: its maker's.
        memory_bytes: all it has.
        capability: compute capability, major and minor.
        multiprocessors: how many it has; several GPUs share a name.
    """

    name: str
    memory_bytes: int
    capability: tuple[int, int]
    multiprocessors: int


class Cuda(Device):
    """One GPU, which the thread that opens it enters.

    Args:
        ordinal: which one.

    Raises:
        BackendError: there is no such GPU, no driver, or the kernels do not compile for it.
    """

    sampler = SAMPLERS["cuda"]
    # With a mask whose rows are no multiple of 4, ONNX Runtime's attention writes all scores into memory.
    alignment = 8

    def __init__(self, ordinal: int) -> None:
        there = gpus()
        if ordinal >= len(there):
            names = ", ".join(f"cuda:{number} ({gpu.name})" for number, gpu in enumerate(there))
            raise BackendError(f"there is no cuda:{ordinal}; this machine has {names}")
        self._ordinal, self.gpu = ordinal, there[ordinal]
        self.cuda = _dotted(_version(_driver("cuDriverGetVersion")))  # the newest that the driver runs
        code = compiled(*there[ordinal].capability)
        handle = _driver("cuDeviceGet", ordinal)
        self._context = _driver("cuDevicePrimaryCtxRetain", handle)  # the one ONNX Runtime uses
        self.enter()
        self.stream, self._capturing = (
            int(_driver("cuStreamCreate", driver.CUstream_flags.CU_STREAM_NON_BLOCKING)) for _ in range(2)
        )
        module = _driver("cuModuleLoadData", code)
        self._kernels = {name: _driver("cuModuleGetFunction", module, name.encode()) for name in _KERNELS}

    def empty(self, shape: tuple[int, ...], dtype: DTypeLike) -> DeviceArray:
        """See `Device.empty`."""
        self.enter()
        size = int(np.prod(shape, dtype=np.int64)) * np.dtype(dtype).itemsize
        allocation = _Allocation(self._context, max(size, 1))
        return DeviceArray(self._ordinal, allocation.pointer, tuple(shape), dtype, allocation)

    def free_bytes(self) -> int:
        """See `Device.free_bytes`."""
        self.enter()
        return int(_driver("cuMemGetInfo")[0])

    def put(self, source: Array) -> DeviceArray:
        """A copy of a host array."""
        target = self.empty(source.shape, source.dtype)
        self.write(source, target)
        return target

    def write(self, source: Array, target: DeviceArray) -> None:
        """Copy a host array into memory of its size."""
        self.enter()
        source = np.ascontiguousarray(source)
        _driver("cuMemcpyHtoDAsync", target.pointer, source.ctypes.data, source.nbytes, self.stream)
        self._wait()  # until then `source` must live

    def copy(self, source: Buffer, target: Buffer) -> None:
        """See `Device.copy`."""
        source, target = _device(source), _device(target)
        self.enter()
        _driver("cuMemcpyDtoDAsync", target.pointer, source.pointer, source.nbytes, self.stream)

    def get(self, source: DeviceArray) -> Array:
        """A copy in the host's memory."""
        self.enter()
        target = np.empty(source.shape, source.dtype)
        _driver("cuMemcpyDtoHAsync", target.ctypes.data, source.pointer, source.nbytes, self.stream)
        self._wait()
        return target

    def cut(self, source: DeviceArray, position: int) -> Array:
        """A copy in the host's memory of one position of the last axis but one, which stays, of size 1."""
        *outer, positions, size = source.shape
        target, item = self.empty((*outer, 1, size), source.dtype), size * source.dtype.itemsize
        copy = driver.CUDA_MEMCPY2D()
        copy.srcMemoryType = copy.dstMemoryType = driver.CUmemorytype.CU_MEMORYTYPE_DEVICE
        copy.srcDevice, copy.srcPitch = source.pointer + position * item, positions * item
        copy.dstDevice, copy.dstPitch = target.pointer, item
        copy.WidthInBytes, copy.Height = item, target.nbytes // item
        self.enter()
        _driver("cuMemcpy2DAsync", copy, self.stream)
        return self.get(target)

    def fill(self, array: Buffer, value: float, start: int = 0, stop: int | None = None) -> None:
        """See `Device.fill`."""
        array = _device(array)
        item, inner = array.dtype.itemsize, array.shape[-1] * array.dtype.itemsize
        pitch = array.shape[-2] * inner
        width = (pitch if stop is None else stop * inner) - start * inner
        if not width or not array.nbytes:
            return
        self.enter()
        bits = int.from_bytes(np.array(value, array.dtype).tobytes(), "little")
        place = array.pointer + start * inner, pitch, bits, width // item, array.nbytes // pitch
        _driver(f"cuMemsetD2D{8 * item}Async", *place, self.stream)

    def paste(self, source: Buffer, target: Buffer, start: int) -> None:
        """See `Device.paste`."""
        target = _device(target)
        rows, positions, hidden = source.shape
        if (rows, hidden, source.dtype) != (len(target), target.shape[2], target.dtype):
            raise ValueError(f"{source.dtype} {source.shape} into {target.dtype} {target.shape}")
        if start + positions > target.shape[1]:
            raise ValueError(f"{positions} positions from {start} on into {target.shape[1]}")
        if not isinstance(source, DeviceArray):
            source = self.put(source)
        item = target.shape[-1] * target.dtype.itemsize
        copy = driver.CUDA_MEMCPY2D()
        copy.srcMemoryType = copy.dstMemoryType = driver.CUmemorytype.CU_MEMORYTYPE_DEVICE
        copy.srcDevice, copy.dstDevice = source.pointer, target.pointer
        copy.srcPitch, copy.dstPitch = positions * item, target.shape[1] * item
        copy.dstXInBytes, copy.WidthInBytes, copy.Height = start * item, positions * item, rows
        self.enter()
        _driver("cuMemcpy2DAsync", copy, self.stream)
        self._wait()

    def copy_rows(self, array: Buffer, moves: Sequence[tuple[int, int]], start: int, stop: int) -> None:
        """See `Device.copy_rows`."""
        array = _device(array)
        if not moves or start == stop:
            return
        _, heads, positions, size = array.shape
        unit = size * array.dtype.itemsize // _UNIT
        width = (stop - start) * unit
        pairs = self.put(np.array(moves, np.int32))
        arguments = (array, pairs, ctypes.c_int(len(moves)), heads, positions * unit, start * unit, width)
        self._launch("copy_rows", heads * width, *arguments)
        self._wait()

    def top(self, logits: Buffer, allowed: Sequence[Sequence[int]] | None) -> Top:
        """See `Device.top`."""
        logits = _device(logits)
        rows, vocabulary = logits.shape
        tokens = starts = None
        if allowed is not None:
            tokens = self.put(np.concatenate([np.asarray(row, np.int32) for row in allowed]))
            starts = self.put(np.cumsum([0, *map(len, allowed)], dtype=np.int32))
        parts, out = self.empty((rows * _SEGMENTS,), _TOP), self.empty((rows,), _TOP)
        self._launch(
            "top_of_segments", rows * _SEGMENTS, logits, rows, vocabulary, _SEGMENTS, tokens, starts, parts
        )
        self._launch("top_of_rows", rows, parts, rows, _SEGMENTS, out)
        top = self.get(out)
        with np.errstate(invalid="ignore"):  # in rows that are not finite, whose lead nobody may use
            lead = top["best"] - top["second"]
        return Top(top["token"].astype(np.int64), lead, top["finite"] != 0)

    def noisy_copies(
        self,
        canvas: NDArray[np.float64],
        sigma: float,
        *,
        seed: int,
        stream: Stream,
        first: int,
        out: Buffer,
    ) -> None:
        """See `Device.noisy_copies`."""
        out = _device(out)
        if out.dtype != np.float32 or out.shape[1:] != canvas.shape:
            raise InputError(
                f"copies of {canvas.shape} are float32 of that shape, not {out.dtype} {out.shape}"
            )
        scale = check_sigma(sigma) / noise.LATTICE_STEP
        blocks = -(-canvas.size // 4)
        key = seed & 2**64 - 1, seed >> 64
        self._launch(
            "noisy_copies",
            len(out) * blocks,
            self.put(canvas.astype(np.float64, copy=False)),
            out,
            canvas.size,
            len(out),
            first,
            int(stream),
            *key,
            scale,
            noise.LATTICE_STEP,
        )
        self._wait()

    def capture(self, enqueue: Callable[[int], None]) -> CudaGraph:
        """What is enqueued on a stream, as a graph that is launched on this device's.

        The stream is nobody else's. On this device's own, another thread may enqueue meanwhile (the next
        noise), which would become part of the graph and not be done.

        Args:
            enqueue: is given the stream, and enqueues there; may neither allocate nor wait.

        Raises:
            BackendError: the driver refuses what was done meanwhile, or the graph.
            MemoryError: the GPU has no memory left for the graph.
        """
        self.enter()
        _driver("cuStreamBeginCapture", self._capturing, _CAPTURE_MODE.CU_STREAM_CAPTURE_MODE_THREAD_LOCAL)
        try:
            enqueue(self._capturing)
        except BaseException:
            with suppress(BackendError, MemoryError):  # which would say less
                self._captured()
            raise
        return self._captured()

    def _captured(self) -> CudaGraph:
        return CudaGraph(self._context, self.stream, _driver("cuStreamEndCapture", self._capturing))

    def _launch(self, kernel: str, threads: int, *arguments: object) -> None:
        values, kinds = zip(*map(_argument, arguments), strict=True)
        self.enter()
        grid, block = -(-threads // _THREADS), _THREADS
        place = grid, 1, 1, block, 1, 1, 0, self.stream
        _driver("cuLaunchKernel", self._kernels[kernel], *place, (values, kinds), 0)

    def enter(self) -> None:
        """Make this device the calling thread's."""
        _driver("cuCtxSetCurrent", self._context)

    def wait(self) -> None:
        """See `Device.wait`."""
        self.enter()
        self._wait()

    def _wait(self) -> None:
        _driver("cuStreamSynchronize", self.stream)


class CudaGraph:
    """What was captured, to be enqueued by one call; it holds addresses and does not keep their memory.

    Args:
        context: of the device.
        stream: where it is launched.
        graph: the driver's, which this takes over.

    Raises:
        BackendError: the driver refuses the graph.
        MemoryError: the GPU has no memory left for it.
    """

    def __init__(self, context: Any, stream: int, graph: Any) -> None:  # noqa: ANN401  untyped handles
        self._context, self._stream = context, stream
        try:
            self._executable = _driver("cuGraphInstantiate", graph, 0)
        finally:
            driver.cuGraphDestroy(graph)

    def launch(self) -> None:
        """Enqueue it."""
        _driver("cuCtxSetCurrent", self._context)
        _driver("cuGraphLaunch", self._executable, self._stream)

    def __del__(self) -> None:
        if hasattr(self, "_executable"):
            driver.cuCtxSetCurrent(self._context)
            driver.cuGraphExecDestroy(self._executable)  # when it is done, if it still runs


class _Allocation:
    """Memory that is freed with the last array that views it."""

    def __init__(self, context: Any, size: int) -> None:  # noqa: ANN401  an untyped handle
        self._context = context
        self.pointer = int(_driver("cuMemAlloc", size))

    def __del__(self) -> None:
        if hasattr(self, "pointer"):
            driver.cuCtxSetCurrent(self._context)
            # The collector may come by while this thread captures, where a driver refuses to free otherwise.
            status, mode = driver.cuThreadExchangeStreamCaptureMode(
                _CAPTURE_MODE.CU_STREAM_CAPTURE_MODE_RELAXED
            )
            driver.cuMemFree(self.pointer)  # waits for whatever still uses it
            if status == driver.CUresult.CUDA_SUCCESS:  # not when the process ends, and the driver with it
                driver.cuThreadExchangeStreamCaptureMode(mode)


@cache
def compiled(major: int, minor: int) -> bytes:
    """The kernels as machine code for one compute capability; needs no GPU.

    Raises:
        BackendError: NVRTC is missing, does not know the capability, or refuses the kernels.
    """
    known = _nvrtc("nvrtcGetSupportedArchs")
    if 10 * major + minor not in known:
        raise BackendError(
            f"NVRTC {_dotted(nvrtc_version())} does not compile for this GPU, sm_{major}{minor}; it knows "
            f"{', '.join(f'sm_{number}' for number in known)}: install another release of "
            f"nvidia-cuda-nvrtc, {_OTHERWISE}"
        )
    program = _nvrtc("nvrtcCreateProgram", _source().encode(), _SOURCE.name.encode(), 0, [], [])
    options = [f"--gpu-architecture=sm_{major}{minor}".encode(), b"--fmad=false"]
    (status,) = nvrtc.nvrtcCompileProgram(program, len(options), options)
    if status != nvrtc.nvrtcResult.NVRTC_SUCCESS:
        log = b" " * _nvrtc("nvrtcGetProgramLogSize", program)
        nvrtc.nvrtcGetProgramLog(program, log)
        lines = log.decode(errors="replace").split("\0")[0].strip().splitlines()
        raise BackendError(f"NVRTC cannot compile for sm_{major}{minor}: {(lines or [status.name])[0]}")
    code: bytes = b" " * _nvrtc("nvrtcGetCUBINSize", program)
    _nvrtc("nvrtcGetCUBIN", program, code)
    return code


def nvrtc_version() -> tuple[int, int]:
    """The CUDA that NVRTC belongs to.

    Raises:
        BackendError: it is not installed.
    """
    major, minor = _nvrtc("nvrtcVersion")
    return int(major), int(minor)


def gpus() -> list[Gpu]:
    """The machine's GPUs, at least one.

    Raises:
        BackendError: there is no driver, or it finds no GPU that this process may use.
    """
    (status,) = _call(driver, "cuInit", _NO_DRIVER, 0)
    if status == driver.CUresult.CUDA_ERROR_NO_DEVICE:
        raise BackendError(
            "NVIDIA's driver finds no GPU: look at CUDA_VISIBLE_DEVICES and at the container's options, "
            + _OTHERWISE
        )
    _check("cuInit", status)
    return [_gpu(_driver("cuDeviceGet", ordinal)) for ordinal in range(_driver("cuDeviceGetCount"))]


def pci_bus_id(ordinal: int) -> str:
    """Where a GPU is on the bus, such as "0000:3b:00.0", by which other libraries know it.

    Raises:
        BackendError: there is no driver, or no such GPU.
    """
    gpus()
    place: bytes = _driver("cuDeviceGetPCIBusId", 32, _driver("cuDeviceGet", ordinal))
    return place.split(b"\0")[0].decode()


def driver_version() -> str:
    """The version of NVIDIA's driver, where the system tells it."""
    try:
        return Path("/sys/module/nvidia/version").read_text().strip()
    except OSError:
        return "unknown"


def _gpu(handle: object) -> Gpu:
    name = _driver("cuDeviceGetName", 256, handle).split(b"\0")[0].decode()
    major, minor = _driver("cuDeviceComputeCapability", handle)
    count = _driver("cuDeviceGetAttribute", _MULTIPROCESSORS, handle)
    return Gpu(name, int(_driver("cuDeviceTotalMem", handle)), (major, minor), int(count))


def _version(number: int) -> tuple[int, int]:
    return number // 1000, number % 1000 // 10


def _dotted(version: tuple[int, int]) -> str:
    return ".".join(map(str, version))


def _source() -> str:
    tables = {"CENTRAL": noise.CENTRAL, "MIDDLE": noise.MIDDLE, "FAR": noise.FAR}
    lines = []
    for name, (numerator, denominator) in tables.items():
        rows = ", ".join("{" + ", ".join(map(float.hex, row)) + "}" for row in (numerator, denominator))
        lines.append(f"__constant__ double {name}[2][8] = {{{rows}}};")
    return "\n".join([*lines, _SOURCE.read_text()])


def _argument(value: object) -> tuple[Any, Any]:
    if value is None:
        return 0, ctypes.c_void_p
    if isinstance(value, DeviceArray):
        return value.pointer, ctypes.c_void_p
    if isinstance(value, ctypes.c_int):
        return value.value, ctypes.c_int
    if isinstance(value, float):
        return value, ctypes.c_double
    return value, ctypes.c_uint64


def _device(array: Buffer) -> DeviceArray:
    if not isinstance(array, DeviceArray):
        raise TypeError("this array lies in the host's memory, not on the device")
    return array


def _driver(name: str, *arguments: object) -> Any:  # noqa: ANN401  every call has results of its own
    status, *values = _call(driver, name, _NO_DRIVER, *arguments)
    _check(name, status)
    return values[0] if len(values) == 1 else values


def _check(name: str, status: Any) -> None:  # noqa: ANN401  an untyped number
    if status == driver.CUresult.CUDA_ERROR_OUT_OF_MEMORY:
        raise MemoryError(f"the GPU has no memory left for {name}: smaller batches need less")
    if status != driver.CUresult.CUDA_SUCCESS:
        raise BackendError(
            f"CUDA's {name} failed: {status.name}; start again, look at `edgers doctor`, " + _OTHERWISE
        )


def _nvrtc(name: str, *arguments: object) -> Any:  # noqa: ANN401  as above
    status, *values = _call(nvrtc, name, _NO_NVRTC, *arguments)
    if status != nvrtc.nvrtcResult.NVRTC_SUCCESS:
        raise BackendError(f"NVRTC's {name} failed: {status.name}")
    return values[0] if len(values) == 1 else values


def _call(library: Any, name: str, missing: str, *arguments: object) -> Any:  # noqa: ANN401  as above
    try:
        return getattr(library, name)(*arguments)
    except RuntimeError:  # the bindings look for the library itself when it is first called
        raise BackendError(f"{missing}, {_OTHERWISE}") from None
