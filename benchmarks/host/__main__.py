"""Microseconds of the host that a call takes, on a driver that does nothing.

    python -m benchmarks.host [WORDS]

Kernels are compiled for an H200 and "launched": all of a call is done but what the GPU would do. Rows whose names
contain one of WORDS; a call that repeats a known one's launches, the same call that is worked out anew, and the share
of the outputs' allocation, which every call pays. Times are of this CPU and of tensors on it, whose allocator is not
that of a GPU; on a GPU the benchmarks measure a call's host time themselves. Needs a C compiler.
"""

from __future__ import annotations

import argparse
import ctypes
import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

_ROUNDS, _CALLS = 40, 100
_CAPABILITY = (9, 0)


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("words", nargs="*", help="rows whose names contain one of these; all if there are none")
    parser.add_argument("--rounds", type=int, default=_ROUNDS, help=f"of {_CALLS} calls each (default {_ROUNDS})")
    options = parser.parse_args(arguments)
    if (compiler := c_compiler()) is None:
        print("no host time can be measured here: there is no C compiler: install gcc")
        return 0
    with tempfile.TemporaryDirectory() as folder:
        driver = stand_in(Path(folder), compiler)
        measure(options.words, options.rounds, driver.num_launches)
    return 0


def c_compiler() -> str | None:
    """Path of the C compiler."""
    return shutil.which(os.environ.get("CC", "gcc"))


def stand_in(folder: Path, compiler: str) -> ctypes.CDLL:
    """Put the driver in a GPU's place, in this process for good."""
    os.environ.pop("TRITON_INTERPRET", None)
    library = folder / "libcuda.so.1"
    source = Path(__file__).with_name("driver.c")
    flags = ("-O2", "-shared", "-fPIC", "-Wl,-soname,libcuda.so.1")
    subprocess.run([compiler, *flags, str(source), "-o", str(library)], check=True)
    (folder / "libcuda.so").symlink_to(library.name)
    os.environ["TRITON_LIBCUDA_PATH"] = str(folder)
    driver = ctypes.CDLL(str(library), mode=ctypes.RTLD_GLOBAL)
    driver.num_launches.restype = ctypes.c_long
    _pretend()
    return driver


def _pretend() -> None:
    """Have PyTorch say that there is a device, and rooms serve tensors on a CPU as if they were there."""
    import torch
    import triton
    from triton.backends.nvidia.driver import CudaDriver

    from dark_kernels import backends
    from dark_kernels._common import plans
    from dark_kernels._triton import launch

    replaced: Any = torch.cuda
    replaced.current_device = lambda: 0
    replaced.get_device_capability = lambda *device: _CAPABILITY
    replaced.set_device = lambda device: None
    active = CudaDriver()
    active.get_current_device = lambda: 0
    active.get_device_capability = lambda *device: _CAPABILITY
    active.get_current_stream = lambda device: 0
    triton.runtime.driver.set_active(active)
    backends.triton_interprets = lambda: True  # serves tensors on a CPU
    launch.triton_interprets = lambda: False
    plans._PLANS_ON_CPU = True
    torch.set_num_threads(1)


def calls() -> dict[str, Callable[[], Any]]:
    """Calls of one image, whose kernels take a few microseconds."""
    import torch

    import dark_kernels
    from dark_kernels import recipes

    heatmaps, flipped = torch.rand(2, 1, 17, 64, 48)
    interleaved = heatmaps.contiguous(memory_format=torch.channels_last)
    transform = torch.rand(1, 2, 3)
    combined = torch.rand(1, 51, 64, 48)
    simcc = torch.rand(1, 17, 384), torch.rand(1, 17, 512)
    keypoints = 40 * torch.rand(1, 17, 2)
    poses, scores, areas = torch.rand(1, 20, 17, 2), torch.rand(1, 20), torch.rand(1, 20)
    samples = torch.rand(1, 17, 50, 2)
    flip = {"flipped": flipped, "flip_indices": dark_kernels.data.COCO_FLIP_INDICES}
    chosen = {"backend": "triton"}
    return {
        "decode": lambda: dark_kernels.decode(heatmaps, **chosen),
        "decode covariance": lambda: dark_kernels.decode(heatmaps, recipes.MMPOSE_UDP, True, **chosen),
        "decode flip test": lambda: dark_kernels.decode(heatmaps, **flip, image_transform=transform, **chosen),
        "decode channels_last": lambda: dark_kernels.decode(interleaved, **chosen),
        "decode_offsets": lambda: dark_kernels.decode_offsets(combined, **chosen),
        "find_peaks": lambda: dark_kernels.find_peaks(heatmaps, 5, 0.1, **chosen),
        "decode_simcc": lambda: dark_kernels.decode_simcc(*simcc, **chosen),
        "soft_argmax": lambda: dark_kernels.soft_argmax(heatmaps, **chosen),
        "encode": lambda: dark_kernels.encode(keypoints, (64, 48), 2.0, **chosen),
        "oks": lambda: dark_kernels.oks(poses, poses, areas, areas, **chosen),
        "oks_nms": lambda: dark_kernels.oks_nms(poses, scores, areas, 0.5, **chosen),
        "vote": lambda: dark_kernels.vote(samples, **chosen),
    }


def measure(words: Sequence[str], rounds: int, num_launches: Callable[[], int]) -> None:
    """Print a table: least time of each row, with the rows taken in turn. A repeated call launches what it did anew."""
    import torch

    from dark_kernels._common import plans

    def anew(call: Callable[[], Any]) -> None:
        plans._PLANS_ON_CPU = False
        call()
        plans._PLANS_ON_CPU = True

    rows = {name: call for name, call in calls().items() if not words or any(word in name for word in words)}
    heatmaps = torch.empty(1, 17, 64, 48)
    floor = "two outputs and nothing else"
    timed: dict[str, Callable[[], Any]] = {
        floor: lambda: (heatmaps.new_empty((1, 17, 2)), heatmaps.new_empty((1, 17))),
        **rows,
        **{f"{name}, anew": lambda call=call: anew(call) for name, call in rows.items()},  # type: ignore[misc]
    }
    for name, call in rows.items():
        before = num_launches()
        anew(call)
        of_one = num_launches() - before
        call()  # and its plan is made
        call()
        if of_one == 0 or num_launches() - before != 3 * of_one:
            raise RuntimeError(f"{name}: {num_launches() - before} launches, expected 3 x {of_one}")
    least = dict.fromkeys(timed, float("inf"))
    for _ in range(rounds):
        for name, call in timed.items():
            call()
            started = time.perf_counter()
            for _ in range(_CALLS):
                call()
            least[name] = min(least[name], (time.perf_counter() - started) / _CALLS)
    width = max(map(len, timed))
    print(f"{'us':{width}s} {'known':>8s} {'anew':>8s}")
    print(f"{floor:{width}s} {1e6 * least[floor]:8.1f}")
    for name in rows:
        print(f"{name:{width}s} {1e6 * least[name]:8.1f} {1e6 * least[f'{name}, anew']:8.1f}")


if __name__ == "__main__":
    sys.exit(main())
