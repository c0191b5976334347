"""What the tests of the engines room share."""

import gc
import signal

import pytest

from edgers_engines import cuda
from tests.engines.emulated_cuda import EmulatedDriver, compile_kernels


@pytest.fixture
def no_hang():
    """A test that waits for input is stopped with an error instead of hanging the suite."""

    def stop(*_):
        pytest.fail("the code under test waits")  # no OSError, which the code would catch

    before = signal.signal(signal.SIGALRM, stop)
    signal.alarm(10)
    yield
    signal.alarm(0)
    signal.signal(signal.SIGALRM, before)


@pytest.fixture(scope="session")
def compiled_kernels(tmp_path_factory):
    """kernels.cu, compiled for this processor."""
    return compile_kernels(tmp_path_factory.mktemp("kernels"))


@pytest.fixture
def emulated_driver(compiled_kernels, monkeypatch):
    """CUDA's driver, emulated; at the end nothing may be left or written where it must not."""
    emulated = EmulatedDriver(compiled_kernels)
    monkeypatch.setattr(cuda, "driver", emulated)
    yield emulated
    if emulated.allocated or emulated.graphs:
        gc.collect()  # an exception's frames may hold arrays
    left = [*emulated.allocated, *emulated.templates, *emulated.graphs]
    assert (emulated.faults, left, emulated.capture) == ([], [], None)


@pytest.fixture
def emulated_gpu(emulated_driver):
    """A GPU with that driver."""
    return cuda.Cuda(0)
