"""`edgers doctor` on CUDA: step by step, what is there, what is missing and what to do next."""

import ctypes
import json
import re
from types import SimpleNamespace

import pytest

from edgers.cli import doctor
from edgers_engines import cuda, energy
from edgers_engines import onnxruntime as runtime
from edgers_engines.errors import BackendError
from edgers_engines.sysfs import UnreadableError
from tests.edgers.test_imports import run_without

H200 = cuda.Gpu("NVIDIA H200", 150_000_000_000, (9, 0), 132)
STEPS = ["driver", "bindings", "compiler", "GPUs", "ONNX Runtime", "demo model"]


class Libcuda:
    """NVIDIA's driver, as far as doctor asks it."""

    def __init__(self, version):
        self.version = version

    def cuDriverGetVersion(self, number):  # noqa: N802  CUDA's name
        number._obj.value = self.version
        return 0


def no_library(name):
    raise OSError(f"{name}: cannot open shared object file")


@pytest.fixture
def machine(monkeypatch):
    """A machine with what is given, as doctor's own outside shows it."""

    def build(
        *, version=13000, gpus=(H200,), providers=("CUDAExecutionProvider",), packages=("onnxruntime-gpu",)
    ):
        load = (lambda _: Libcuda(version)) if version else no_library
        only_here = SimpleNamespace(CDLL=load, c_int=ctypes.c_int, byref=ctypes.byref)
        monkeypatch.setattr(doctor, "ctypes", only_here)
        monkeypatch.setattr(cuda, "gpus", lambda: list(gpus))
        monkeypatch.setattr(runtime, "available_providers", lambda: list(providers))
        monkeypatch.setattr(doctor, "_version", lambda name: "1.0" if name in packages else None)

    return build


def looked():
    """Which steps are there, and what each says."""
    steps = doctor._cuda()
    assert list(steps) == STEPS
    assert all("\n" not in step.text for step in steps.values())
    return {name: step.ok for name, step in steps.items()}, {name: step.text for name, step in steps.items()}


def ended(capsys, *args):
    code = doctor.command.main([*args], standalone_mode=False)
    return code, capsys.readouterr().out


def test_a_machine_with_all_of_it_is_ready_and_names_its_gpu(machine, monkeypatch, capsys):
    machine()
    monkeypatch.setattr(doctor, "_demo_on_cuda", lambda: "it loads")
    there, said = looked()
    assert all(there.values())
    assert said["driver"] == "NVIDIA's driver is there, for CUDA up to 13.0"
    assert said["GPUs"] == "cuda:0 is NVIDIA H200, 139.7 GiB, compute capability 9.0"
    assert said["compiler"].startswith("NVRTC 1")
    code, out = ended(capsys)
    assert code == 0
    assert re.search(r"cuda +ready", out)


def test_a_machine_without_any_of_it_is_told_what_to_install_and_is_not_broken(machine, capsys):
    machine(version=None, providers=["CPUExecutionProvider"], packages=["onnxruntime"])
    there, said = looked()
    assert [name for name in STEPS if there[name]] == ["bindings", "compiler"]
    assert said["driver"] == "NVIDIA's driver is not on this machine (no libcuda.so.1): install it"
    assert said["GPUs"] == "not looked at without driver"
    assert said["ONNX Runtime"].endswith("pip uninstall onnxruntime, then install edgers[gpu]")
    assert said["demo model"] == "not looked at without GPUs, ONNX Runtime"
    code, out = ended(capsys, "--json")
    report = json.loads(out)
    assert (code, report["ok"], report["problems"]) == (0, True, [])
    assert report["cuda"]["driver"] == {"ok": False, "text": said["driver"]}
    assert report["tensorrt"] == {"ok": False, "text": "not looked at without a GPU"}
    code, out = ended(capsys)
    assert code == 0
    assert "not ready, which matters to --device cuda:N only" in out
    assert re.search(r"tensorrt +not looked at", out)


def test_without_the_bindings_it_says_what_to_install_and_looks_at_the_rest():
    ((code, out, err),) = run_without(["cuda"], ["doctor", "--json"])
    report = json.loads(out)
    assert (code, err, report["ok"]) == (0, "", True)
    assert "install edgers[gpu]" in report["cuda"]["bindings"]["text"]
    assert report["cuda"]["compiler"]["text"] == "not looked at without bindings"
    assert report["cuda"]["driver"]["text"].startswith("NVIDIA's driver is")


def test_without_the_compilers_library_it_says_what_to_install(machine, monkeypatch):
    def missing():
        raise RuntimeError("no libnvrtc.so")

    machine()
    monkeypatch.setattr(cuda.nvrtc, "nvrtcVersion", missing)
    there, said = looked()
    assert not there["compiler"]
    assert "NVRTC is not installed: install edgers[gpu]" in said["compiler"]
    assert said["GPUs"] == "not looked at without compiler"


def test_a_driver_too_old_for_the_compilers_code_is_found_before_it_fails(machine):
    machine(version=12040)
    major, minor = cuda.nvrtc_version()
    there, said = looked()
    assert (there["driver"], there["GPUs"]) == (True, False)
    assert said["GPUs"] == (
        f"NVRTC {major}.{minor} makes code that this driver, for CUDA up to 12.4, cannot load: "
        f"install a driver for CUDA {major}"
    )


def test_a_gpu_that_the_compiler_does_not_know_is_named_by_its_capability(machine):
    machine(gpus=[H200, cuda.Gpu("Quadro", 1 << 33, (5, 0), 5)])
    there, said = looked()
    assert not there["GPUs"]
    assert "does not compile for this GPU, sm_50" in said["GPUs"]


def test_every_gpu_is_listed(machine):
    machine(gpus=[H200, cuda.Gpu("NVIDIA Thor", 1 << 37, (11, 0), 20)])
    assert "; cuda:1 is NVIDIA Thor, 128.0 GiB, compute capability 11.0" in looked()[1]["GPUs"]


def test_a_driver_without_a_gpu_says_where_to_look(machine, monkeypatch):
    def none():
        raise BackendError("NVIDIA's driver finds no GPU: look at CUDA_VISIBLE_DEVICES")

    machine()
    monkeypatch.setattr(cuda, "gpus", none)
    there, said = looked()
    assert (there["GPUs"], there["demo model"]) == (False, False)
    assert "CUDA_VISIBLE_DEVICES" in said["GPUs"]


def test_two_builds_of_onnx_runtime_at_once_are_a_problem_and_stand_in_cudas_way(machine, capsys):
    machine(packages=["onnxruntime", "onnxruntime-gpu"])
    there, said = looked()
    assert not there["ONNX Runtime"]
    assert "uninstall both, then install one" in said["ONNX Runtime"]
    code, out = ended(capsys, "--json")
    assert (code, json.loads(out)["problems"]) == (1, [said["ONNX Runtime"]])


def test_the_last_step_is_to_use_it_and_tells_why_that_fails(machine, monkeypatch):
    """Libraries that ONNX Runtime loads late are found here, not in the first certificate."""

    def out_of_memory(*_):
        raise MemoryError("the GPU has no memory left")

    machine()
    monkeypatch.setattr(cuda, "Cuda", out_of_memory)
    there, said = looked()
    assert [name for name in STEPS if not there[name]] == ["demo model"]
    assert said["demo model"] == "the GPU has no memory left"


@pytest.fixture
def sources(monkeypatch):
    """Only these sources of energy are tried."""
    return lambda *named: monkeypatch.setattr(energy, "SOURCES", named)


def unavailable(why):
    def make(site):
        raise UnreadableError(why)

    return make


def test_what_measures_energy_is_named_with_what_it_measures_and_closed(
    machine, sources, monkeypatch, capsys
):
    opened = SimpleNamespace(
        name="NVML", rail="GPU", closed=False, close=lambda: setattr(opened, "closed", True)
    )
    machine()
    monkeypatch.setattr(doctor, "_demo_on_cuda", lambda: "it loads")
    sources(("INA3221", unavailable("there is none")), ("NVML", lambda _: opened))
    code, out = ended(capsys, "--json")
    assert (code, json.loads(out)["energy"]) == (0, {"ok": True, "text": "NVML measures it for cuda:0: GPU"})
    assert opened.closed


def test_without_a_source_of_energy_each_ones_reason_is_given_and_nothing_is_broken(machine, sources, capsys):
    machine(version=None)
    sources(
        ("INA3221", unavailable("there is none")), ("RAPL", unavailable("permission denied: run as root"))
    )
    code, out = ended(capsys, "--json")
    text = "nothing measures it for cpu (INA3221: there is none; RAPL: permission denied: run as root)"
    assert (code, json.loads(out)["energy"]) == (0, {"ok": False, "text": text})
    code, out = ended(capsys)
    assert re.search(r"energy +nothing measures it for cpu", out)
