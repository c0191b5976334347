"""CUDA without a GPU: the driver's functions over the host's memory, the kernels compiled for this processor.

It is stricter than a GPU, so that what goes wrong there now and then goes wrong here each time. What a call
enqueues is done when somebody waits for it, the last thread first. Memory starts as NaNs, and lies between
margins that nobody may write. A call from a thread that has not entered the device fails. While a thread
captures, what CUDA calls unsafe fails, and with it the capture.
"""

from __future__ import annotations

import ctypes
import functools
import itertools
import os
import re
import subprocess
import sys
import threading
from collections import defaultdict, deque
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from cuda.bindings import driver

from edgers_engines import cuda

MARGIN = 1 << 16  # bytes: more than one block of threads can write
OK = driver.CUresult.CUDA_SUCCESS
INVALID = driver.CUresult.CUDA_ERROR_INVALID_VALUE
_PLAIN = 1, 1, 1, 1, 0, 0  # a launch in one dimension, without shared memory

# CUDA's words, as C++ that needs no header. A kernel's arguments are read by address, as CUDA does it.
_PRELUDE = """
#define fabs __builtin_fabs
#define sqrt __builtin_sqrt
#define log __builtin_log
#define rint __builtin_rint
#define copysign __builtin_copysign
#define isfinite __builtin_isfinite
#define __device__ static
#define __global__
#define __constant__ static const
static struct { unsigned x; } blockIdx, threadIdx, blockDim;
static unsigned long long __umul64hi(unsigned long long a, unsigned long long b) {
    return (unsigned long long)((unsigned __int128)a * b >> 64);
}
static float __int_as_float(unsigned bits) {
    float value;
    __builtin_memcpy(&value, &bits, 4);
    return value;
}
"""
_LAUNCH = """
extern "C" const unsigned sizes_{name}[] = {{{sizes}, 0}};
extern "C" void launch_{name}(unsigned first, unsigned grid, unsigned block, void **arguments) {{
    blockDim.x = block;
    for (blockIdx.x = first + grid; blockIdx.x-- > first;)
        for (threadIdx.x = block; threadIdx.x-- > 0;) {name}({values});
}}
"""
_QUANTILES = """
extern "C" void quantiles(const long long *raw, double *z, int count) {
    for (int i = 0; i < count; i++) z[i] = quantile(raw[i]);
}
"""


def compile_kernels(folder: Path) -> ctypes.CDLL:
    """The kernels as a library of this processor, by the C++ compiler that comes with the package ziglang."""
    source = cuda._source()
    for name, listed in re.findall(r'extern "C" __global__ void (\w+)\((.*?)\)', source, re.S):
        kinds = [re.sub(r"\w+$", "", argument.strip()) for argument in listed.split(",")]
        sizes = ", ".join(f"sizeof({kind})" for kind in kinds)
        values = ", ".join(f"*({kind} *)arguments[{i}]" for i, kind in enumerate(kinds))
        source += _LAUNCH.format(name=name, sizes=sizes, values=values)
    file, library = folder / "kernels.cpp", folder / "kernels.so"
    file.write_text(_PRELUDE + source + _QUANTILES)
    command = [sys.executable, "-m", "ziglang", "cc", "-x", "c++", "-O2", "-ffp-contract=off"]
    done = subprocess.run(
        [*command, "-nostdlib", "-nostdinc", "-shared", "-fPIC", "-o", str(library), str(file)],
        check=False,
        capture_output=True,
        text=True,
        timeout=300,
        env={**os.environ, "ZIG_LOCAL_CACHE_DIR": str(folder), "ZIG_GLOBAL_CACHE_DIR": str(folder)},
    )
    assert done.returncode == 0, done.stderr
    ctypes.CDLL("libm.so.6", ctypes.RTLD_GLOBAL)  # where it finds the logarithm
    return ctypes.CDLL(str(library))


def _entered(function):
    """The call fails in a thread that has not entered the device."""

    @functools.wraps(function)
    def checked(self, *arguments):
        if getattr(self.thread, "context", None) != self.CONTEXT:
            return driver.CUresult.CUDA_ERROR_INVALID_CONTEXT, None
        return function(self, *arguments)

    return checked


def _unsafe(function):
    """The call fails where a capture forbids it, and then the capture fails, too."""

    @functools.wraps(function)
    def checked(self, *arguments):
        if self._forbidden():
            self.capture.valid = False
            return driver.CUresult.CUDA_ERROR_STREAM_CAPTURE_UNSUPPORTED, None
        return function(self, *arguments)

    return checked


@dataclass
class Capture:
    """What is being captured: operations in order, by which thread on which stream."""

    stream: int
    mode: driver.CUstreamCaptureMode
    thread: int = field(default_factory=threading.get_ident)
    operations: list = field(default_factory=list)
    valid: bool = True


class EmulatedDriver:
    """What cuda.py uses of `cuda.bindings.driver`, with that module's names and arguments.

    Attributes:
        free: bytes that can still be allocated.
        allocated: what was allocated and not yet freed, by address.
        faults: what a program must never do, and did.
        first_block: number of a kernel's first block of threads; it is 0 on a GPU.
        graphs: operations of the graphs that can be launched, by handle.
        launched: handles of graphs, in the order in which they were launched.
        capture: what is being captured, if anything.
    """

    CONTEXT, STREAMS = 7, (11, 12)  # to compute on and to capture from
    STREAM = STREAMS[0]
    CUstreamCaptureMode = driver.CUstreamCaptureMode
    CUresult, CUstream_flags = driver.CUresult, driver.CUstream_flags
    CUmemorytype, CUDA_MEMCPY2D = driver.CUmemorytype, driver.CUDA_MEMCPY2D

    def __init__(self, kernels: ctypes.CDLL, *, free: int = 1 << 28) -> None:
        self.kernels, self.free = kernels, free
        self._allocated: dict[int, np.ndarray] = {}
        self.faults: list[str] = []
        self.first_block: defaultdict[str, int] = defaultdict(int)
        self.queue: deque = deque()
        self.working = threading.RLock()  # a wait ends when other threads' work is done, too
        self.thread = threading.local()
        self.streams = itertools.cycle(self.STREAMS)  # every device makes one of each
        self.templates: dict[int, list] = {}
        self.graphs: dict[int, list] = {}
        self.launched: list[int] = []
        self.handles = itertools.count(1000)
        self.capture: Capture | None = None

    @property
    def allocated(self):
        """See the class."""
        self._finish()
        return self._allocated

    def cuInit(self, flags):
        return (OK,)

    def cuDriverGetVersion(self):
        return OK, 13020

    def cuDeviceGetCount(self):
        return OK, 1

    def cuDeviceGet(self, ordinal):
        return OK, ordinal

    def cuDeviceGetName(self, length, device):
        return OK, b"Emulated GPU".ljust(length, b"\0")

    def cuDeviceGetPCIBusId(self, length, device):
        return OK, f"0000:{0x3B + device:02X}:00.0".encode().ljust(length, b"\0")

    def cuDeviceTotalMem(self, device):
        return OK, 8 << 30

    def cuDeviceGetAttribute(self, attribute, device):
        return OK, 16

    def cuDeviceComputeCapability(self, device):
        return OK, 9, 0

    def cuDevicePrimaryCtxRetain(self, device):
        return OK, self.CONTEXT

    def cuCtxSetCurrent(self, context):
        self.thread.context = context
        return (OK,)

    @_entered
    def cuStreamCreate(self, flags):
        return OK, next(self.streams)

    @_entered
    def cuModuleLoadData(self, image):
        return (OK, "module") if image.startswith(b"\x7fELF") else (INVALID, None)

    @_entered
    def cuModuleGetFunction(self, module, name):
        return OK, name.decode()

    @_entered
    def cuMemGetInfo(self):
        self._finish()
        return OK, self.free, 8 << 30

    @_entered
    @_unsafe
    def cuMemAlloc(self, size):
        if size == 0:
            return INVALID, None
        if size > self.free:
            self._finish()
        if size > self.free:
            return driver.CUresult.CUDA_ERROR_OUT_OF_MEMORY, None
        block = np.full(size + 2 * MARGIN, 0xFF, np.uint8)
        pointer = block.ctypes.data + MARGIN
        with self.working:
            self._allocated[pointer] = block
            self.free -= size
        return OK, driver.CUdeviceptr(pointer)

    @_entered
    @_unsafe
    def cuMemFree(self, pointer):
        """In its turn: the collector may call this in the middle of anything."""
        self.queue.append((self._release, (pointer,)))
        return (OK,)

    @_entered
    def cuMemcpyHtoDAsync(self, target, source, size, stream):
        return self._enqueue(stream, self._copy, self._bytes(target, size), source)

    @_entered
    def cuMemcpyDtoDAsync(self, target, source, size, stream):
        return self._enqueue(
            stream, self._copy, self._bytes(target, size), self._bytes(source, size).ctypes.data
        )

    @_entered
    def cuMemcpyDtoHAsync(self, target, source, size, stream):
        view = self._bytes(source, size)
        return self._enqueue(stream, lambda: ctypes.memmove(target, view.ctypes.data, size))

    @_entered
    def cuMemcpy2DAsync(self, copy, stream):
        sides = (copy.srcDevice, 0, copy.srcPitch), (copy.dstDevice, copy.dstXInBytes, copy.dstPitch)
        sources, targets = (
            [
                self._bytes(int(pointer) + row * pitch + left, copy.WidthInBytes)
                for row in range(copy.Height)
                if left + copy.WidthInBytes <= pitch
            ]
            for pointer, left, pitch in sides
        )
        if not len(sources) == len(targets) == copy.Height:
            return (INVALID,)
        for source, target in zip(sources, targets, strict=True):
            self._enqueue(stream, self._copy, target, source.ctypes.data)
        return (OK,)

    @_entered
    def cuMemsetD2D16Async(self, pointer, pitch, value, width, height, stream):
        return self._fill(np.uint16, pointer, pitch, value, width, height, stream)

    @_entered
    def cuMemsetD2D32Async(self, pointer, pitch, value, width, height, stream):
        return self._fill(np.uint32, pointer, pitch, value, width, height, stream)

    @_entered
    def cuLaunchKernel(self, kernel, x, y, z, threads, ty, tz, shared, stream, parameters, extra):
        values, kinds = parameters
        if not (0 < x < 1 << 31 and 0 < threads <= 1024 and (y, z, ty, tz, shared, extra) == _PLAIN):
            return (INVALID,)
        sizes = (ctypes.c_uint * (len(kinds) + 1)).in_dll(self.kernels, f"sizes_{kernel}")
        if [*map(ctypes.sizeof, kinds), 0] != list(sizes):
            return (INVALID,)
        for value, kind in zip(values, kinds, strict=True):
            if kind is ctypes.c_void_p and value:
                self._bytes(value, 1)
        return self._enqueue(stream, self._run, kernel, x, threads, values, kinds)

    @_entered
    def cuStreamSynchronize(self, stream):
        if self.capture and stream == self.capture.stream:
            self.capture.valid = False
            return (driver.CUresult.CUDA_ERROR_STREAM_CAPTURE_UNSUPPORTED,)
        self._finish()
        return (OK,)

    @_entered
    def cuStreamBeginCapture(self, stream, mode):
        if self.capture or stream not in self.STREAMS:
            return (INVALID,)
        self.capture = Capture(stream, mode)
        return (OK,)

    @_entered
    def cuStreamEndCapture(self, stream):
        capture = self.capture
        if capture is None or (stream, threading.get_ident()) != (capture.stream, capture.thread):
            return INVALID, None
        self.capture = None
        if not capture.valid:
            return driver.CUresult.CUDA_ERROR_STREAM_CAPTURE_INVALIDATED, None
        graph = next(self.handles)
        self.templates[graph] = capture.operations
        return OK, graph

    def cuThreadExchangeStreamCaptureMode(self, mode):
        before = self._mode()
        self.thread.mode = mode
        return OK, before

    @_entered
    def cuGraphInstantiate(self, graph, flags):
        executable = next(self.handles)
        self.graphs[executable] = self.templates[graph]
        return OK, executable

    @_entered
    def cuGraphDestroy(self, graph):
        del self.templates[graph]
        return (OK,)

    @_entered
    def cuGraphLaunch(self, executable, stream):
        self.launched.append(executable)
        for operation, arguments in self.graphs[executable]:
            self._enqueue(stream, operation, *arguments)
        return (OK,)

    @_entered
    def cuGraphExecDestroy(self, executable):
        del self.graphs[executable]
        return (OK,)

    def _mode(self):
        return getattr(self.thread, "mode", driver.CUstreamCaptureMode.CU_STREAM_CAPTURE_MODE_GLOBAL)

    def _forbidden(self):
        """Whether this thread may not do what is unsafe; see cuThreadExchangeStreamCaptureMode."""
        capture, modes = self.capture, driver.CUstreamCaptureMode
        if capture is None or self._mode() == modes.CU_STREAM_CAPTURE_MODE_RELAXED:
            return False
        if capture.thread == threading.get_ident():
            return capture.mode != modes.CU_STREAM_CAPTURE_MODE_RELAXED
        return modes.CU_STREAM_CAPTURE_MODE_GLOBAL == capture.mode == self._mode()

    def _bytes(self, pointer, size):
        """That memory; whatever is not inside one allocation is an error."""
        pointer = int(pointer)
        with self.working:
            for start, block in self._allocated.items():
                if start <= pointer and pointer + size <= start + block.size - 2 * MARGIN:
                    return block[MARGIN + pointer - start :][:size]
        raise AssertionError("this memory was not allocated")

    def _enqueue(self, stream, operation, *arguments):
        if stream not in self.STREAMS:
            return (driver.CUresult.CUDA_ERROR_INVALID_HANDLE,)
        capturing = self.capture and stream == self.capture.stream
        (self.capture.operations if capturing else self.queue).append((operation, arguments))
        return (OK,)

    def _finish(self):
        with self.working:
            while self.queue:
                operation, arguments = self.queue.popleft()
                operation(*arguments)

    def _release(self, pointer):
        block = self._allocated.pop(pointer)
        if (block[:MARGIN] != 0xFF).any() or (block[-MARGIN:] != 0xFF).any():
            self.faults.append("written beyond an array")
        self.free += block.size - 2 * MARGIN

    def _fill(self, dtype, pointer, pitch, value, width, height, stream):
        for row in range(height):
            view = self._bytes(int(pointer) + row * pitch, width * np.dtype(dtype).itemsize)
            self._enqueue(stream, np.copyto, view.view(dtype), dtype(value))
        return (OK,) if height and width else (INVALID,)

    def _run(self, kernel, blocks, threads, values, kinds):
        boxes = [kind(value) for value, kind in zip(values, kinds, strict=True)]
        addresses = (ctypes.c_void_p * len(boxes))(*map(ctypes.addressof, boxes))
        launch = getattr(self.kernels, f"launch_{kernel}")
        launch(self.first_block[kernel], blocks, threads, addresses)

    @staticmethod
    def _copy(target, source):
        ctypes.memmove(target.ctypes.data, source, target.size)
