"""decode_simcc: what it costs, against its definition, against what mmpose does, and against one read of the axes.

Run by `python -m benchmarks.run`. Within a group all rows get the same axes. Outputs are compared with the reference in
float64 before anything is timed.
"""

from __future__ import annotations

import dataclasses
import functools
import itertools
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import pytest
import torch
from torch import Tensor

import dark_kernels
from benchmarks import measure, peers, rows, workloads
from benchmarks.peers import Wrong
from benchmarks.rows import Row
from benchmarks.workloads import Workload

# mmpose's configs for crops of 192 x 256 pixels and two bins a pixel.
S1 = Workload("S1", (64, 17, 384, 512), "SimCC, COCO-17, a batch of 256x192 crops")
S2 = Workload("S2", (64, 133, 384, 512), "SimCC, 133 keypoints, a batch of 256x192 crops")
SIGMA = (4.9, 5.66)
SPLIT_RATIO = 2.0

_TOLERANCE = 1e-4  # of ours, in pixels
_PEER_TOLERANCE = 1e-2

READ_ONLY, EMPTY, OURS, REFERENCE = "read only", "empty kernel", "decode_simcc", "reference"
COMPILED = "torch.compile of the reference"
LOOP = "NumPy + OpenCV loop"

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


@dataclasses.dataclass(frozen=True)
class Case:
    """One group of rows."""

    workload: Workload
    dtype: str = "float32"
    variant: str = "dark"
    rows: tuple[str, ...] = (READ_ONLY, OURS)

    @property
    def num_bytes(self) -> int:
        """Bytes that must move: both axes read once; float32 coordinates, scores and visibilities written."""
        batch, num_keypoints, x_width, y_width = self.workload.shape
        written = 16 if "visibility" in self.variant else 12
        itemsize = workloads.DTYPES[self.dtype].itemsize
        return batch * num_keypoints * ((x_width + y_width) * itemsize + written)

    def __str__(self) -> str:
        return f"decode_simcc {self.workload.name} {self.dtype} {self.variant}"


CPU_CASES = (
    Case(S1, rows=(READ_ONLY, OURS, REFERENCE, COMPILED, LOOP)),
    Case(S1, variant="argmax", rows=(READ_ONLY, OURS, REFERENCE)),
    Case(S1, variant="dark, visibility", rows=(READ_ONLY, OURS, REFERENCE)),
    Case(S1, variant="dark, softmax", rows=(READ_ONLY, OURS, REFERENCE)),
    Case(S2, rows=(READ_ONLY, OURS, LOOP)),
)
CUDA_CASES = tuple(
    Case(workload, dtype, variant, (READ_ONLY, EMPTY, OURS, REFERENCE, *others))
    for workload, dtype, variant in itertools.product((S1, S2), ("float32", "float16"), VARIANTS)
    for others in [((COMPILED, LOOP) if workload is S1 else (LOOP,)) if (dtype, variant) == ("float32", "dark") else ()]
)


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    rows.parametrize(metafunc, CPU_CASES if rows.device_of(metafunc) == "cpu" else CUDA_CASES)


# --- inputs, and the truth about them -----------------------------------------------------------------------


def make_axes(workload: Workload, dtype: torch.dtype, device: str) -> Axes:
    """Gaussians of the targets' sigma, peaks 0.5 to 1, absolute noise of 0.005; seeded. 32 bins and more from the ends:
    closer, where the zeros beyond an end bend the log of the smoothed axis, a step can have any length and no digit."""
    batch, num_keypoints, *widths = workload.shape
    generator = torch.Generator(device=device).manual_seed(11)

    def axis(width: int, sigma: float) -> Tensor:
        def uniform() -> Tensor:
            return torch.rand(batch, num_keypoints, 1, generator=generator, device=device)

        bins = torch.arange(width, device=device, dtype=torch.float32)
        center = 32 + (width - 65) * uniform()
        blob = (0.5 + 0.5 * uniform()) * torch.exp(-0.5 * ((bins - center) / sigma) ** 2)
        noise = torch.randn(blob.shape, generator=generator, device=device)
        return noise.mul_(0.005).abs_().add_(blob).to(dtype)

    return Axes(axis(widths[0], SIGMA[0]), axis(widths[1], SIGMA[1]))


@functools.lru_cache(maxsize=1)  # groups with the same axes follow each other
def inputs_of(workload: Workload, dtype: str, device: str) -> list[Axes]:
    """The axes and copies of them, to rotate."""
    axes = make_axes(workload, workloads.DTYPES[dtype], device)
    copies = workloads.num_copies(sum(axis.numel() * axis.itemsize for axis in axes), measure.cache_bytes(device))
    return [axes, *(Axes(*(axis.clone() for axis in axes)) for _ in range(copies - 1))]


def decode(axes: Axes, variant: str, backend: str = "auto") -> tuple[Tensor, ...]:
    """Coordinates, scores and, where asked for, visibilities."""
    result = dark_kernels.decode_simcc(
        *axes, sigma=SIGMA, split_ratio=SPLIT_RATIO, **VARIANTS[variant], backend=backend
    )
    return tuple(each for each in result if each is not None)


@functools.lru_cache(maxsize=1)
def _truth(workload: Workload, dtype: str, variant: str, device: str) -> tuple[Tensor, ...]:
    axes = inputs_of(workload, dtype, device)[0]
    return decode(Axes(*(axis.double() for axis in axes)), variant, "reference")


def compare(output: tuple[Tensor, ...], case: Case, device: str, tolerance: float) -> tuple[float, str]:
    """Largest error of the coordinates in pixels; raises Wrong where one, or a score, is off by too much."""
    coords, *others = _truth(case.workload, case.dtype, case.variant, device)
    error = float((output[0].to(device).double() - coords).abs().max())
    if not error <= tolerance:
        raise Wrong(f"keypoints are off by up to {error:.3g} px")
    for other, expected in zip(output[1:], others, strict=True):
        if not (other_error := float((other.to(device).double() - expected).abs().max())) <= tolerance:
            raise Wrong(f"scores or visibilities are off by up to {other_error:.3g}")
    return error, "keypoints in px, against the float64 reference"


# --- rows ---------------------------------------------------------------------------------------------------


def _row(case: Case, device: str, call: Callable[[Axes], Any], tolerance: float, **fields: Any) -> Row:
    return Row(call, lambda output: compare(output, case, device, tolerance), case.num_bytes, **fields)


def _ours_row(case: Case, device: str) -> Row:
    return _row(case, device, lambda axes: decode(axes, case.variant), _TOLERANCE, role="ours", capture="always")


def _reference_row(case: Case, device: str) -> Row:
    # Its float32 logs are rounded before they are subtracted.
    return _row(case, device, lambda axes: decode(axes, case.variant, "reference"), _PEER_TOLERANCE)


def _compiled_row(case: Case, device: str) -> Row:
    example = inputs_of(case.workload, case.dtype, device)[0]
    compiled = peers.compiled(lambda axes: decode(axes, case.variant, "reference"), lambda function: function(example))
    return _row(case, device, compiled, _PEER_TOLERANCE)


def _loop_row(case: Case, device: str) -> Row:
    loop = peers.opencv_simcc_loop(SIGMA)

    def call(axes: Axes) -> tuple[Tensor, Tensor]:
        coords, scores = loop(*axes)
        return coords / SPLIT_RATIO, scores

    note = "on the host, with the copy to it" if device != "cpu" else None
    return _row(case, device, call, _PEER_TOLERANCE, capture="never", note=note)


def _read_only_row(case: Case, device: str) -> Row:
    """Both axes of a keypoint behind each other, as one pass would have them."""
    joined = [torch.cat(axes, dim=-1)[:, :, None] for axes in inputs_of(case.workload, case.dtype, device)]
    following = itertools.cycle(joined)
    read = measure.read_once(joined[0])

    def compare(output: Tensor) -> tuple[None, str]:
        assert output.numel() == case.workload.num_maps
        return None, "nothing"

    size = joined[0].numel() * joined[0].itemsize
    return Row(lambda _: read(next(following)), compare, size, role="floor", capture="always")


ROWS: dict[str, Callable[[Case, str], Row]] = {
    READ_ONLY: _read_only_row,
    EMPTY: lambda case, device: rows.empty_row(case.workload.num_maps, device),
    OURS: _ours_row,
    REFERENCE: _reference_row,
    COMPILED: _compiled_row,
    LOOP: _loop_row,
}


@pytest.fixture(autouse=True)
def _no_gradients() -> Iterator[None]:
    with torch.no_grad():
        yield


def test_simcc(benchmark: Any, request: pytest.FixtureRequest, case: Case, row: str, device: str) -> None:
    rows.time_row(
        benchmark,
        request,
        lambda: ROWS[row](case, device),
        inputs_of(case.workload, case.dtype, device),
        device,
        group=str(case),
        identity={
            "operation": "decode_simcc",
            "workload": case.workload.name,
            "shape": list(case.workload.shape),
            "dtype": case.dtype,
            "memory_format": "contiguous",
            "values": "blobs",
            "variant": case.variant,
            "row": row,
        },
    )
