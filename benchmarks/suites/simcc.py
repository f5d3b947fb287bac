"""decode_simcc, against its definition, what mmpose does, and one read of the axes."""

from __future__ import annotations

import itertools
from collections.abc import Callable
from typing import Any, NamedTuple

import torch
from torch import Tensor

import dark_kernels
from benchmarks import peers, suite
from benchmarks.suite import COMPILED, EMPTY, READ_ONLY, REFERENCE, Case, Group, Suite
from benchmarks.workloads import Workload

# mmpose's configs for crops of 192 x 256 pixels and two bins a pixel.
S1 = Workload("S1", (64, 17, 384, 512), "SimCC, COCO-17, a batch of 256x192 crops")
S2 = Workload("S2", (64, 133, 384, 512), "SimCC, 133 keypoints, a batch of 256x192 crops")
SIGMA, SPLIT_RATIO = (4.9, 5.66), 2.0
_TOLERANCE, _PEER_TOLERANCE = 1e-4, 1e-2  # in pixels
OURS, LOOP = "decode_simcc", "NumPy + OpenCV loop"

VARIANTS: dict[str, dict[str, Any]] = {
    "argmax": {},
    "dark": {"dark": True},
    "dark, visibility": {"dark": True, "visibility": True},
    "dark, softmax": {"dark": True, "activation": "softmax", "logit_scale": 10.0},
}


class Axes(NamedTuple):
    """Arguments of decode_simcc."""

    simcc_x: Tensor  # [B, K, Wx]
    simcc_y: Tensor  # [B, K, Wy]


def case_of(workload: Workload, *rows: str, dtype: str = "float32", variant: str = "dark") -> Case:
    return Case(f"decode_simcc {workload.name} {dtype} {variant}", "decode_simcc", workload, rows, variant, dtype)


CPU_CASES = (
    case_of(S1, READ_ONLY, OURS, REFERENCE, COMPILED, LOOP),
    *(
        case_of(S1, READ_ONLY, OURS, REFERENCE, variant=variant)
        for variant in ("argmax", "dark, visibility", "dark, softmax")
    ),
    case_of(S2, READ_ONLY, OURS, LOOP),
)
CUDA_CASES = tuple(
    case_of(workload, READ_ONLY, EMPTY, OURS, REFERENCE, *others, dtype=dtype, variant=variant)
    for workload, dtype, variant in itertools.product((S1, S2), ("float32", "float16"), VARIANTS)
    for others in [((COMPILED, LOOP) if workload is S1 else (LOOP,)) if (dtype, variant) == ("float32", "dark") else ()]
)


def make_axes(case: Case, device: str) -> Axes:
    """Gaussians of the targets' sigma, peaks 0.5 to 1, absolute noise of 0.005; seeded. 32 bins and more from the ends:
    closer, where the zeros beyond an end bend the log of the smoothed axis, a step can have any length and no digit."""
    batch, num_keypoints, *widths = case.workload.shape
    generator = torch.Generator(device=device).manual_seed(11)

    def axis(width: int, sigma: float) -> Tensor:
        def uniform() -> Tensor:
            return torch.rand(batch, num_keypoints, 1, generator=generator, device=device)

        bins = torch.arange(width, device=device, dtype=torch.float32)
        center = 32 + (width - 65) * uniform()
        blob = (0.5 + 0.5 * uniform()) * torch.exp(-0.5 * ((bins - center) / sigma) ** 2)
        noise = torch.randn(blob.shape, generator=generator, device=device)
        return noise.mul_(0.005).abs_().add_(blob).to(case.torch_dtype)

    return Axes(axis(widths[0], SIGMA[0]), axis(widths[1], SIGMA[1]))


def decode_on(case: Case, backend: str) -> Callable[[Axes], tuple[Tensor, ...]]:
    """Coordinates, scores and, where asked for, visibilities."""
    options = {"sigma": SIGMA, "split_ratio": SPLIT_RATIO, **VARIANTS[case.variant], "backend": backend}
    return lambda axes: tuple(each for each in dark_kernels.decode_simcc(*axes, **options) if each is not None)


def num_bytes(case: Case) -> int:
    """Bytes that must move: both axes read once; float32 coordinates, scores and visibilities written."""
    written = 16 if "visibility" in case.variant else 12
    return case.workload.num_maps * (sum(case.workload.shape[2:]) * case.torch_dtype.itemsize + written)


def compare(output: tuple[Tensor, ...], group: Group, tolerance: float = _TOLERANCE) -> tuple[float, str]:
    """Largest error of the coordinates in pixels; raises Wrong where one, or a score, is off by too much."""
    names = ("keypoints are", "scores are", "visibilities are")[: len(output)]
    errors = [
        suite.within(tolerance, name, got.to(group.device).double(), expected)
        for name, got, expected in zip(names, output, group.truth, strict=True)
    ]
    return errors[0], "keypoints in px, against the float64 reference"


def compare_peer(output: tuple[Tensor, ...], group: Group) -> tuple[float, str]:
    """Compare logs in float32 that are rounded before they are subtracted, and what others do."""
    return compare(output, group, _PEER_TOLERANCE)


def _loop(group: Group) -> Callable[[Axes], tuple[Tensor, Tensor]]:
    loop = peers.opencv_simcc_loop(SIGMA)

    def call(axes: Axes) -> tuple[Tensor, Tensor]:
        coords, scores = loop(*axes)
        return coords / SPLIT_RATIO, scores

    return call


SUITE = Suite(
    cases={"cpu": CPU_CASES, "cuda": CUDA_CASES},
    inputs=make_axes,
    function=decode_on,
    compare=compare,
    num_bytes=num_bytes,
    rows={
        # Both axes of a keypoint behind each other, as one pass would have them.
        READ_ONLY: suite.read_only(lambda axes, case: torch.cat(axes, dim=-1)[:, :, None]),
        EMPTY: suite.empty(),
        OURS: suite.ours(),
        REFERENCE: suite.reference(compare_peer),
        COMPILED: suite.compiled(compare=compare_peer),
        LOOP: suite.calls(_loop, compare_peer, capture="never", device_note="on the host, with the copy to it"),
    },
)
