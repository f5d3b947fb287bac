"""Where tests run: every machine has the CPU and Triton's interpreter, some have a device.

With DARK_KERNELS_MACHINE_CODE=N kernels are compiled for sm_90 instead of interpreted, and their machine code is run by
an emulator (benchmarks/machine). Of the tests that run kernels each Nth one is run, and no others: `make machine-code`.
"""

from __future__ import annotations

import contextlib
import importlib.util
import os
import random
import tempfile
import zlib
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, settings

ONE_TEST_IN = int(os.environ.get("DARK_KERNELS_MACHINE_CODE", "0"))
RUNS_MACHINE_CODE = ONE_TEST_IN > 0

# Triton reads this when it is first imported. On a machine with a device the kernels are compiled instead.
if RUNS_MACHINE_CODE:
    os.environ.pop("TRITON_INTERPRET", None)
elif not torch.cuda.is_available():
    os.environ["TRITON_INTERPRET"] = "1"

# One core for each of pytest-xdist's workers: small tensors gain nothing from two.
if "PYTEST_XDIST_WORKER" in os.environ:
    torch.set_num_threads(1)

_SLOW = [HealthCheck.too_slow, HealthCheck.data_too_large]
# The same examples every time; HYPOTHESIS_PROFILE=search looks for new ones.
settings.register_profile("ci", deadline=None, derandomize=True, suppress_health_check=_SLOW, print_blob=True)
settings.register_profile("search", settings.get_profile("ci"), derandomize=False)
settings.load_profile(os.environ.get("HYPOTHESIS_PROFILE", "ci"))


def pytest_sessionstart() -> None:
    if RUNS_MACHINE_CODE:
        from benchmarks.machine import toolchain

        if (problem := toolchain.problem()) is not None:
            pytest.exit(f"no machine code can be run here: {problem}", returncode=0)
    if not is_interpreting():
        return
    import triton

    versions = [tuple(map(int, module.__version__.split(".")[:2])) for module in (triton, np)]
    if versions[0] < (3, 7) and versions[1] >= (2, 4):
        pytest.exit(
            f"the interpreter of Triton {triton.__version__} does not work with NumPy {np.__version__}, whose arrays "
            "of one element are no numbers any more: expected NumPy before 2.4, or Triton 3.7 or newer",
            returncode=4,
        )


@pytest.fixture(scope="session", autouse=True)
def _kernels() -> Iterator[None]:
    """How kernels run on the CPU."""
    with contextlib.ExitStack() as stack:
        if RUNS_MACHINE_CODE:
            from benchmarks.machine import emulator

            stack.enter_context(emulator.emulated(_seeds))
        elif is_interpreting():
            from . import interpreter

            stack.enter_context(interpreter.patched())
        yield


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Leave the tests that run machine code: a share of those of kernels, and all of the emulator's own."""
    if not RUNS_MACHINE_CODE:
        return
    kept, left_out = [], []
    for item in items:
        is_drawn = zlib.crc32(item.nodeid.encode()) % ONE_TEST_IN == 0
        is_own = Path(__file__).parent / "benchmarks" / "machine" in item.path.parents
        (kept if is_own or (is_drawn and _runs_kernels(item)) else left_out).append(item)
    items[:] = kept
    config.hook.pytest_deselected(items=left_out)


def _runs_kernels(item: pytest.Item) -> bool:
    """Whether one of a test's parameters says that it runs kernels on the CPU."""
    if not isinstance(item, pytest.Function) or item.get_closest_marker("gpu") or not hasattr(item, "callspec"):
        return False
    parameters = item.callspec.params
    if "triton_device" in parameters:
        return True
    texts = [each for value in parameters.values() for each in (value if isinstance(value, tuple) else (value,))]
    return any(isinstance(each, str) and each == "triton" for each in texts)


# Of the orders in which programs of a launch run. A test has the same ones whenever it runs.
_random = random.Random()


def _seeds() -> int:
    return _random.getrandbits(32)


def pytest_runtest_setup(item: pytest.Item) -> None:
    _random.seed(item.nodeid)


def is_compiled(device: torch.device) -> bool:
    """Whether each variant of a kernel is compiled for itself, which fuses products and sums as it likes."""
    return RUNS_MACHINE_CODE or device.type != "cpu"


def is_interpreting() -> bool:
    return "TRITON_INTERPRET" in os.environ and importlib.util.find_spec("triton") is not None


@pytest.fixture(params=["cpu", pytest.param("cuda", marks=pytest.mark.gpu)])
def device(request: pytest.FixtureRequest) -> torch.device:
    """The CPU, and the GPU of a machine that has one."""
    return require_device(request.param)


@pytest.fixture
def gpu() -> torch.device:
    """The GPU, for tests that say nothing of a CPU."""
    return require_device("cuda")


@pytest.fixture
def much_memory() -> Iterator[None]:
    """Gigabytes of a GPU, for one test at a time: pytest-xdist's workers share it, and none knows what the others are
    about to take."""
    if not torch.cuda.is_available():
        yield
        return
    import fcntl

    with open(Path(tempfile.gettempdir()) / f"dark-kernels-tests-{os.getuid()}.lock", "w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield
        torch.cuda.empty_cache()


def require_device(kind: str) -> torch.device:
    if kind == "cuda" and not torch.cuda.is_available():
        pytest.skip("no CUDA or ROCm device")
    return torch.device(kind)


SERVICES = [
    pytest.param(("reference", "cpu"), id="reference-cpu"),
    pytest.param(("eager", "cpu"), id="eager-cpu"),
    pytest.param(("triton", "cpu"), id="triton-interpreted"),
    pytest.param(("eager", "cuda"), id="eager-cuda", marks=pytest.mark.gpu),
    pytest.param(("triton", "cuda"), id="triton-cuda", marks=pytest.mark.gpu),
]


# Of operations that have loops for Numba.
SERVICES_WITH_LOOPS = [*SERVICES, pytest.param(("numba", "cpu"), id="numba-cpu")]


# Backends, devices and dtypes that published outputs are compared in.
GOLDEN_SERVICES = [
    pytest.param("reference", "cpu", torch.float64, id="reference-float64"),
    pytest.param("reference", "cpu", torch.float32, id="reference-float32"),
    pytest.param("eager", "cpu", torch.float64, id="eager-float64"),
    pytest.param("eager", "cpu", torch.float32, id="eager-float32"),
    pytest.param("numba", "cpu", torch.float32, id="numba-float32"),
    pytest.param("triton", "cpu", torch.float32, id="triton-interpreted"),
    pytest.param("eager", "cuda", torch.float32, id="eager-cuda", marks=pytest.mark.gpu),
    pytest.param("triton", "cuda", torch.float32, id="triton-cuda", marks=pytest.mark.gpu),
]


@pytest.fixture(params=SERVICES)
def service(request: pytest.FixtureRequest) -> tuple[str, torch.device]:
    """A backend and a device that it serves on this machine."""
    backend, kind = request.param
    return backend, require_service(backend, kind)


def require_service(backend: str, kind: str) -> torch.device:
    if backend == "triton":
        pytest.importorskip("triton", reason="Triton is not installed")
        if kind == "cpu" and not RUNS_MACHINE_CODE and "TRITON_INTERPRET" not in os.environ:
            pytest.skip("kernels are compiled on a machine with a device, not interpreted")
    if backend == "numba":
        pytest.importorskip("numba", reason="Numba is not installed")
    return require_device(kind)
