"""encode: target maps of keypoints, against the way of data loaders and one write of them."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

import dark_kernels
from benchmarks import peers, suite
from benchmarks.suite import COMPILED, EMPTY, REFERENCE, Case, Group, Suite
from benchmarks.workloads import W1, W2, Workload

SIGMA = 2.0
FILL, OURS, NUMPY = "write maps once (fill)", "encode", "NumPy loop of a data loader"

# exp in float32 of what is rounded to float32: some units of 1.2e-7, at values up to 1. float16 rounds the result.
_TOLERANCE = {"float32": 2e-6, "float16": 5e-4}


def case_of(workload: Workload, encoding: str, *others: str, dtype: str = "float32") -> Case:
    group, rows = f"encode {workload.name} {dtype} {encoding}", (FILL, EMPTY, OURS, REFERENCE, *others)
    return Case(group, "encode", workload, rows, encoding, dtype, values="keypoints")


_OTHER_ENCODINGS = (case_of(W2, "biased", NUMPY), case_of(W2, "udp"))
CASES = {  # of which one compiles: it takes seconds
    "cpu": (case_of(W1, "unbiased", COMPILED, NUMPY), case_of(W2, "unbiased", NUMPY), *_OTHER_ENCODINGS),
    "cuda": (
        case_of(W1, "unbiased", NUMPY),
        case_of(W2, "unbiased", COMPILED, NUMPY),
        *_OTHER_ENCODINGS,
        case_of(W2, "unbiased", dtype="float16"),
    ),
}


def make_keypoints(case: Case, device: str) -> Tensor:
    """Keypoints [B, K, 2] inside their maps."""
    height, width = case.workload.shape[2:]
    drawn = torch.rand((*case.workload.shape[:2], 2), generator=torch.Generator().manual_seed(8))
    return (drawn * torch.tensor([width - 1.0, height - 1.0])).to(device)


def encode_on(case: Case, backend: str, dtype: torch.dtype | None = None) -> Callable[[Tensor], tuple[Tensor, Tensor]]:
    height, width = case.workload.shape[2:]
    dtype = dtype or case.torch_dtype
    return lambda keypoints: dark_kernels.encode(
        keypoints, (height, width), SIGMA, case.variant, dtype=dtype, backend=backend
    )


def num_bytes(case: Case) -> int:
    """Size of the maps. Keypoints and weights are less than a hundredth of them."""
    return case.workload.input_bytes(case.torch_dtype)


def find_truth(group: Group) -> tuple[Tensor, Tensor]:
    """Maps (float32, computed in float64) and weights, some images at a time."""
    exact = encode_on(group.case, "reference", torch.float64)
    maps, weights = zip(*(exact(keypoints.double()) for keypoints in group.inputs[0].split(4)), strict=True)
    return torch.cat([part.float() for part in maps]), torch.cat(weights)


def compare(output: tuple[Tensor, Tensor], group: Group) -> tuple[float, str]:
    errors = []
    for got, expected in zip(output, group.truth, strict=True):
        assert got.shape == expected.shape
        errors.append(suite.within(_TOLERANCE[group.case.dtype], "maps or weights are", got, expected))
    return max(errors), "maps and weights, against the float64 reference"


def _numpy(group: Group) -> Callable[[Tensor], tuple[Tensor, Tensor]]:
    height, width = group.case.workload.shape[2:]

    def call(keypoints: Tensor) -> tuple[Tensor, Tensor]:
        maps = peers.numpy_targets(keypoints.cpu().numpy(), (height, width), SIGMA, group.case.variant)
        return torch.from_numpy(maps).to(group.device), torch.ones(keypoints.shape[:2], device=group.device)

    return call


SUITE = Suite(
    cases=CASES,
    inputs=make_keypoints,
    function=encode_on,
    truth=find_truth,
    compare=compare,
    num_bytes=num_bytes,
    rotated_bytes=num_bytes,  # keypoints are small; what they are drawn to is new each time
    rows={
        FILL: suite.write_once(num_bytes),
        EMPTY: suite.empty(),
        OURS: suite.ours(),
        REFERENCE: suite.reference(),
        COMPILED: suite.compiled(),
        NUMPY: suite.calls(
            _numpy,
            capture="never",
            note="on one core",
            device_note="on one core of the host, and the copy to the device",
        ),
    },
)
