"""CUDA where there is no GPU: NVRTC compiles the kernels, this processor runs them, and faults are explained.

What the kernels compute is judged in test_device.py, beside the host's operations.
"""

import ctypes
import inspect
import re
import sys
from collections import defaultdict
from concurrent.futures import ThreadPoolExecutor

import mpmath
import numpy as np
import pytest
from cuda.bindings import driver, nvrtc

from edgers_engines import cuda, noise
from edgers_engines.errors import BackendError, InputError
from edgers_engines.noise import Stream, raw_integers, standard_normal
from tests.engines.emulated_cuda import OK, EmulatedDriver


class TestCompiled:
    @pytest.mark.parametrize("capability", [(7, 5), (8, 7), (9, 0), (11, 0), (12, 0)])
    def test_nvrtc_makes_machine_code_of_every_kernel_without_a_gpu(self, capability):
        """7.5 is the oldest it knows, 8.7 Orin, 9.0 Hopper, 11.0 Thor, 12.0 the RTX 50 series."""
        code = cuda.compiled(*capability)
        assert code.startswith(b"\x7fELF")
        for name in cuda._KERNELS:
            assert b".text." + name.encode() + b"\0" in code

    @pytest.mark.parametrize("capability", [(5, 0), (9, 9), (99, 0)])
    def test_a_capability_that_nvrtc_does_not_know_is_refused_with_those_it_knows(self, capability):
        with pytest.raises(BackendError, match=r"this GPU, sm_\d+; it knows .*sm_90") as caught:
            cuda.compiled(*capability)
        assert "sm_{}{};".format(*capability) in str(caught.value)
        assert "install another release of nvidia-cuda-nvrtc, or compute on the CPU (--" in str(caught.value)

    def test_an_error_in_the_kernels_is_told_by_its_first_line(self, monkeypatch, tmp_path):
        broken = tmp_path / "kernels.cu"
        broken.write_text(cuda._SOURCE.read_text() + "\n__device__ int wrong() { return nonsense; }\n")
        line = broken.read_text().count("\n") + 3  # the three tables come first
        monkeypatch.setattr(cuda, "_SOURCE", broken)
        with pytest.raises(BackendError) as caught:
            cuda.compiled.__wrapped__(9, 0)
        assert re.fullmatch(
            rf'NVRTC cannot compile for sm_90: kernels.cu\({line}\): error: .*"nonsense" is undefined',
            str(caught.value),
        )

    def test_multiplication_and_addition_are_not_fused(self):
        """Fused they round once, and the quantile has other last bits than NumPy's."""
        plain, fused = (self.code(b"--gpu-architecture=sm_90", option) for option in OPTIONS)
        assert cuda.compiled(9, 0) == plain != fused

    @staticmethod
    def code(*options):
        program = nvrtc.nvrtcCreateProgram(cuda._source().encode(), b"kernels.cu", 0, [], [])[1]
        assert nvrtc.nvrtcCompileProgram(program, len(options), list(options)) == (nvrtc.nvrtcResult(0),)
        code = b" " * nvrtc.nvrtcGetCUBINSize(program)[1]
        nvrtc.nvrtcGetCUBIN(program, code)
        return code

    def test_the_coefficients_are_the_samplers_own(self):
        for name in ("CENTRAL", "MIDDLE", "FAR"):
            (table,) = re.findall(rf"double {name}\[2\]\[8\] = \{{(.*)\}};", cuda._source())
            rows = [tuple(map(float.fromhex, row.split(", "))) for row in re.findall(r"\{(.*?)\}", table)]
            assert tuple(rows) == getattr(noise, name)

    def test_a_second_gpu_of_the_same_kind_costs_no_second_compilation(self):
        assert cuda.compiled(9, 0) is cuda.compiled(9, 0)


OPTIONS = b"--fmad=false", b"--fmad=true"


class TestQuantile:
    @staticmethod
    def quantiles(kernels, raw):
        """The kernels' quantile of signed integers."""
        raw, z = np.asarray(raw, np.int64), np.empty(len(raw))
        kernels.quantiles(ctypes.c_void_p(raw.ctypes.data), ctypes.c_void_p(z.ctypes.data), len(raw))
        return z

    # Around 0, where |q| = 0.425 and r = 5 change the formula, and at both ends.
    EDGE = round(0.425 * 2**64)
    FAR = round(2**63 - 2**64 * float(mpmath.exp(-25)))
    PLACES = (0, EDGE, FAR, 2**62, *(2**63 - 2**n for n in (40, 32, 30, 27, 24, 20, 11, 1)))

    @pytest.mark.parametrize("sign", [1, -1])
    @pytest.mark.parametrize("place", PLACES)
    def test_it_is_the_samplers_quantile_at_every_change_of_formula(self, compiled_kernels, place, sign):
        """In the tails the two may take different logarithms, which differ in the last digit."""
        raw = np.array([sign * k for k in range(place - 1000, place + 1001) if k < 2**63], np.int64)
        z, expected = self.quantiles(compiled_kernels, raw), standard_normal(raw.view(np.uint64))
        np.testing.assert_allclose(z, expected, rtol=4 * 2.0**-52, atol=0)

    def test_it_is_the_samplers_to_the_last_bit_where_no_logarithm_enters(self, compiled_kernels):
        raw = raw_integers(4, Stream.SELECTION, 0, 100_000)
        central = raw[np.abs(raw.view(np.int64) * 2.0**-64) < 0.425]
        assert central.size > 80_000
        assert (self.quantiles(compiled_kernels, central.view(np.int64)) == standard_normal(central)).all()

    def test_the_last_integers_on_both_sides_are_finite_and_opposite(self, compiled_kernels):
        low, high = self.quantiles(compiled_kernels, [-(2**63), 2**63 - 1])
        assert (low, high) == (-high, -low)
        assert high == pytest.approx(standard_normal(np.array([2**63 - 1], np.uint64))[0], rel=1e-15)

    def test_it_is_odd_about_minus_one_half(self, compiled_kernels):
        raw = raw_integers(5, Stream.SELECTION, 0, 20_000).view(np.int64)
        z = self.quantiles(compiled_kernels, raw)
        assert np.abs(z + self.quantiles(compiled_kernels, ~raw)).max() <= 1e-15

    def test_it_is_the_normal_quantile(self, compiled_kernels):
        """An independent computation, of which AS 241 claims 16 digits."""
        raw = [*raw_integers(6, Stream.SELECTION, 0, 200).view(np.int64).tolist(), *self.PLACES]
        z = self.quantiles(compiled_kernels, raw)
        with mpmath.workdps(40):
            for k, value in zip(raw, z.tolist(), strict=True):
                q = (mpmath.mpf(k) + 0.5) / mpmath.mpf(2) ** 64
                probability = mpmath.erfc(abs(value) / mpmath.sqrt(2)) / 2
                density = mpmath.npdf(value)
                error = abs(probability - (mpmath.mpf(1) / 2 - abs(q))) / density
                assert error <= 1e-15 * max(abs(value), 2**-20)


class TestKernels:
    def test_a_thread_far_beyond_the_last_touches_nothing(self, emulated_gpu, emulated_driver):
        """Its number has more than 32 bits; the first 32 are those of the first thread."""
        array = np.arange(48, dtype=np.float32).reshape(2, 2, 3, 4)
        rows, out = emulated_gpu.put(array), emulated_gpu.put(np.zeros((2, 6), np.float32))
        logits = emulated_gpu.put(np.zeros((2, 5), np.float32))
        far = 2**32 // cuda._THREADS
        emulated_driver.first_block.update(copy_rows=far, noisy_copies=far)
        emulated_gpu.copy_rows(rows, [(0, 1)], 0, 3)
        emulated_gpu.noisy_copies(np.ones(6), 0.5, seed=1, stream=Stream.SELECTION, first=0, out=out)
        assert (emulated_gpu.get(rows) == array).all()
        assert not emulated_gpu.get(out).any()
        for kernel in ("top_of_segments", "top_of_rows"):
            emulated_driver.first_block = defaultdict(int, {kernel: far})
            assert emulated_gpu.top(logits, None).token.tolist() == [-1, -1]  # memory as it was

    @pytest.mark.parametrize("name", [name for name in vars(EmulatedDriver) if name.startswith("cu")])
    def test_the_emulated_driver_takes_what_the_real_one_takes(self, name):
        real, emulated = (
            list(inspect.signature(getattr(kind, name)).parameters) for kind in (driver, EmulatedDriver)
        )
        assert len(emulated) == len(real) + 1  # self


def failing(monkeypatch, emulated, name, status):
    """The driver's function fails from now on."""
    monkeypatch.setattr(emulated, name, lambda *_: (getattr(driver.CUresult, status), None))


class TestOpening:
    def test_a_gpu_says_its_name(self, emulated_gpu):
        assert emulated_gpu.gpu.name == "Emulated GPU"
        assert emulated_gpu.stream == EmulatedDriver.STREAM

    @pytest.mark.usefixtures("emulated_driver")
    def test_what_the_machine_has_is_listed(self):
        assert cuda.gpus() == [cuda.Gpu("Emulated GPU", 8 << 30, (9, 0), 16)]

    def test_nvrtc_says_its_version(self):
        assert cuda.nvrtc_version() >= (12, 0)

    def test_a_machine_without_the_driver_is_told_to_install_it(self, monkeypatch, emulated_driver):
        def no_library(*_):
            raise RuntimeError('Failure finding "libcuda.so"')

        monkeypatch.setattr(emulated_driver, "cuInit", no_library)
        with pytest.raises(BackendError, match=r"^NVIDIA's driver is not on .*: install it, or compute"):
            cuda.Cuda(0)

    def test_a_driver_without_a_gpu_says_where_to_look(self, monkeypatch, emulated_driver):
        monkeypatch.setattr(emulated_driver, "cuInit", lambda _: (driver.CUresult.CUDA_ERROR_NO_DEVICE,))
        with pytest.raises(BackendError, match=r"finds no GPU: look at CUDA_VISIBLE_DEVICES.*--device cpu"):
            cuda.Cuda(0)

    @pytest.mark.parametrize("ordinal", [1, 999])
    @pytest.mark.usefixtures("emulated_driver")
    def test_a_gpu_that_is_not_there_is_refused_with_those_that_are(self, ordinal):
        with pytest.raises(BackendError, match=rf"no cuda:{ordinal}; .* has cuda:0 \(Emulated GPU\)"):
            cuda.Cuda(ordinal)

    @pytest.mark.usefixtures("emulated_driver")
    def test_without_nvrtc_it_says_what_to_install(self, monkeypatch):
        def no_library():
            raise RuntimeError('Failure finding "libnvrtc.so"')

        cuda.compiled.cache_clear()
        monkeypatch.setattr(nvrtc, "nvrtcGetSupportedArchs", no_library)
        with pytest.raises(BackendError, match=r"NVRTC is not installed: install edgers\[gpu\], or compute"):
            cuda.Cuda(0)

    def test_an_error_of_nvrtc_is_named(self, monkeypatch):
        status = nvrtc.nvrtcResult.NVRTC_ERROR_OUT_OF_MEMORY
        monkeypatch.setattr(nvrtc, "nvrtcCreateProgram", lambda *_: (status, None))
        with pytest.raises(BackendError, match="nvrtcCreateProgram failed: NVRTC_ERROR_OUT_OF_MEMORY"):
            cuda.compiled.__wrapped__(9, 0)

    @pytest.mark.parametrize(
        "name",
        [
            "cuDeviceGetCount",
            "cuDeviceGet",
            "cuDeviceGetName",
            "cuDeviceComputeCapability",
            "cuDeviceTotalMem",
            "cuDevicePrimaryCtxRetain",
            "cuCtxSetCurrent",
            "cuStreamCreate",
            "cuModuleLoadData",
            "cuModuleGetFunction",
        ],
    )
    def test_whatever_fails_while_opening_is_named_with_what_to_do(self, monkeypatch, emulated_driver, name):
        failing(monkeypatch, emulated_driver, name, "CUDA_ERROR_UNKNOWN")
        with pytest.raises(BackendError, match=rf"^CUDA's {name} failed: .*_UNKNOWN; .*--device cpu\)$"):
            cuda.Cuda(0)


class TestRunning:
    @staticmethod
    def everything(gpu):
        """Every operation once."""
        array = gpu.put(np.zeros((2, 2, 3, 4), np.float32))
        gpu.fill(array, 1, 1)
        gpu.copy_rows(array, [(0, 1)], 0, 2)
        gpu.paste(np.zeros((2, 1, 4), np.float32), gpu.put(np.zeros((2, 3, 4), np.float32)), 1)
        gpu.top(gpu.put(np.zeros((2, 5), np.float32)), [[1], [2, 3]])
        out = gpu.empty((2, 6), np.float32)
        gpu.noisy_copies(np.zeros(6), 0.5, seed=1, stream=Stream.SELECTION, first=0, out=out)
        return gpu.get(out), gpu.cut(array, 2), gpu.free_bytes()

    @pytest.mark.parametrize(
        "name",
        [
            "cuMemAlloc",
            "cuMemGetInfo",
            "cuMemcpyHtoDAsync",
            "cuMemcpyDtoHAsync",
            "cuMemcpy2DAsync",
            "cuMemsetD2D32Async",
            "cuLaunchKernel",
            "cuStreamSynchronize",
            "cuCtxSetCurrent",
        ],
    )
    @pytest.mark.parametrize("status", ["CUDA_ERROR_ILLEGAL_ADDRESS", "CUDA_ERROR_OUT_OF_MEMORY"])
    def test_whatever_fails_is_an_error_and_never_a_number(
        self, monkeypatch, emulated_gpu, emulated_driver, name, status
    ):
        """Out of memory is one of its own: smaller batches are tried then."""
        self.everything(emulated_gpu)
        memory = status == "CUDA_ERROR_OUT_OF_MEMORY"
        said = rf"no memory left for {name}: smaller" if memory else rf"CUDA's {name} failed: {status}; .*"
        with monkeypatch.context() as fault:
            failing(fault, emulated_driver, name, status)
            with pytest.raises(MemoryError if memory else BackendError, match=said):
                self.everything(emulated_gpu)

    def test_the_kth_allocation_may_fail_for_every_k_and_nothing_leaks(
        self, monkeypatch, emulated_gpu, emulated_driver
    ):
        allocate, failed = emulated_driver.cuMemAlloc, 0
        for k in range(100):
            left = iter(range(k))

            def counted(size, left=left):
                if next(left, None) is None:
                    return driver.CUresult.CUDA_ERROR_OUT_OF_MEMORY, None
                return allocate(size)

            monkeypatch.setattr(emulated_driver, "cuMemAlloc", counted)
            try:
                self.everything(emulated_gpu)
            except MemoryError:
                failed += 1
            assert not emulated_driver.allocated
            if failed == k:  # the first k of them were enough
                break
        assert failed >= 10

    @pytest.mark.usefixtures("emulated_driver")
    def test_memory_is_given_back(self, emulated_gpu):
        before = emulated_gpu.free_bytes()
        array = emulated_gpu.empty((1000,), np.float32)
        assert emulated_gpu.free_bytes() == before - 4000
        del array
        assert emulated_gpu.free_bytes() == before

    @pytest.mark.parametrize(
        "use",
        [
            pytest.param(lambda gpu, array: gpu.fill(array, 0), id="fill"),
            pytest.param(lambda gpu, array: gpu.paste(array, array, 0), id="paste into"),
            pytest.param(lambda gpu, array: gpu.copy_rows(array, [(0, 1)], 0, 1), id="copy_rows"),
            pytest.param(lambda gpu, array: gpu.top(array, None), id="top"),
            pytest.param(
                lambda gpu, array: gpu.noisy_copies(
                    np.zeros((3, 4)), 0.5, seed=0, stream=Stream.SELECTION, first=0, out=array
                ),
                id="noisy_copies",
            ),
        ],
    )
    def test_an_array_of_the_host_is_refused_before_its_address_is_touched(self, emulated_gpu, use):
        with pytest.raises(TypeError, match="lies in the host's memory, not on the device"):
            use(emulated_gpu, np.zeros((2, 3, 4), np.float32))

    @pytest.mark.parametrize("dtype", [np.uint16, np.float16, np.float32])
    @pytest.mark.parametrize("position", [0, 3, 6])
    def test_one_position_is_cut_out_of_every_row_and_head(self, emulated_gpu, dtype, position):
        array = np.arange(3 * 2 * 7 * 4).reshape(3, 2, 7, 4).astype(dtype)
        found = emulated_gpu.cut(emulated_gpu.put(array)[1:], position)
        assert found.dtype == dtype
        np.testing.assert_array_equal(found, array[1:, :, position : position + 1])

    def test_noise_for_another_shape_is_refused(self, emulated_gpu):
        out = emulated_gpu.empty((2, 5), np.float32)
        with pytest.raises(InputError, match=r"copies of \(6,\) are float32 of that shape"):
            emulated_gpu.noisy_copies(np.zeros(6), 0.5, seed=1, stream=Stream.SELECTION, first=0, out=out)
        assert emulated_gpu.get(out).shape == (2, 5)

    def test_a_driver_that_ends_with_the_process_is_no_reason_to_speak_up(
        self, emulated_gpu, emulated_driver, monkeypatch
    ):
        said, array = [], emulated_gpu.empty((8,), np.float32)
        monkeypatch.setattr(sys, "unraisablehook", said.append)
        real, asked = emulated_driver.cuThreadExchangeStreamCaptureMode, []

        def ended(mode):
            asked.append(mode.name)
            real(mode)
            return driver.CUresult.CUDA_ERROR_DEINITIALIZED, None

        monkeypatch.setattr(emulated_driver, "cuThreadExchangeStreamCaptureMode", ended)
        del array
        assert (said, len(asked)) == ([], 1)
        assert not emulated_driver.allocated

    def test_a_graph_does_again_what_was_enqueued_once(self, emulated_gpu):
        source, target = (emulated_gpu.put(np.zeros(4, np.float32)) for _ in range(2))
        copy = target.pointer, source.pointer, source.nbytes
        graph = emulated_gpu.capture(lambda stream: cuda._driver("cuMemcpyDtoDAsync", *copy, stream))
        emulated_gpu.write(np.ones(4, np.float32), source)
        assert emulated_gpu.get(target).tolist() == [0, 0, 0, 0]
        graph.launch()
        assert emulated_gpu.get(target).tolist() == [1, 1, 1, 1]

    def test_each_of_a_graphs_steps_may_be_another_threads(self, emulated_gpu):
        with ThreadPoolExecutor(1) as thread:
            graph = thread.submit(emulated_gpu.capture, lambda _: None).result()
        with ThreadPoolExecutor(1) as thread:
            thread.submit(graph.launch).result()
        with ThreadPoolExecutor(1) as thread:
            thread.submit(emulated_gpu.wait).result()

    def test_what_fails_while_capturing_is_told_and_ends_the_capture(self, emulated_gpu, emulated_driver):
        array = emulated_gpu.put(np.zeros(4, np.float32))

        def fails(_):
            emulated_gpu.get(array)
            raise KeyboardInterrupt

        with pytest.raises(KeyboardInterrupt):
            emulated_gpu.capture(fails)
        emulated_gpu.capture(lambda _: None)
        with pytest.raises(BackendError, match="cuMemAlloc failed: CUDA_ERROR_STREAM_CAPTURE_UNSUPPORTED"):
            emulated_gpu.capture(lambda _: emulated_gpu.put(np.zeros(4)))
        assert not emulated_driver.graphs

    def test_the_emulated_driver_notices_what_a_gpu_may_forgive(self, emulated_gpu, emulated_driver):
        assert emulated_driver.cuCtxSetCurrent(None) == (OK,)
        assert emulated_driver.cuMemGetInfo()[0] == driver.CUresult.CUDA_ERROR_INVALID_CONTEXT
        array = emulated_gpu.empty((8,), np.float32)
        emulated_driver.allocated[array.pointer][-1] = 0
        del array
        assert not emulated_driver.allocated
        assert emulated_driver.faults == ["written beyond an array"]
        emulated_driver.faults.clear()
