"""The heatmap losses, forward and backward."""

from __future__ import annotations

from collections.abc import Iterator
from types import ModuleType

import torch

from benchmarks import workloads
from benchmarks.static.calls import LARGE, Call, Room, empty_maps, ending
from benchmarks.workloads import W2, W3, Workload
from dark_kernels.heatmap_loss.options import Options

_WEIGHTS = "visible weight"


def _calls(full: bool) -> Iterator[Call]:
    """Every loss; W2 and W3 contiguous, where all of them have to read and write wide, W2 channels_last."""
    for kind in ("mse", "adaptive_wing", "focal", "cross_entropy", "js"):
        yield _call(W2, "float32", kind, "unbiased")
        yield _call(W3, "float16", kind, "udp", 4)
        if full:
            for dtype in workloads.DTYPES:
                yield _call(W3, dtype, kind, "biased")
                yield _call(W2, dtype, kind, "udp", layout="channels_last")
    for kind in ("mse", "adaptive_wing", "focal", "js"):
        yield _call(W3, "bfloat16", kind, "biased")
    # A program of interleaved maps has more warps, which leave fewer registers to each.
    for kind in ("mse", "adaptive_wing", "focal", "cross_entropy", "js"):
        yield _call(W2, "float32", kind, "udp", 4, layout="channels_last")
    yield _call(W2, "float16", "mse", "unbiased", layout="channels_last")
    yield _call(W2, "float16", "js", "unbiased", layout="channels_last")
    yield _call(W2, "float32", "mse", "unbiased", given="")  # by default
    yield _call(W2, "float32", "focal", "biased", given="sigmas")
    yield _call(LARGE, "float32", "mse", "udp", 4)
    yield _call(W2, "float32", "mse", "udp", layout="cropped")


def _call(
    workload: Workload,
    dtype: str,
    kind: str,
    encoding: str,
    num_people: int = 1,
    layout: str = "contiguous",
    given: str = _WEIGHTS,
) -> Call:
    """`given`: the names of optional tensors that are."""

    def launch(module: ModuleType) -> None:
        batch, num_keypoints, *_ = workload.shape
        heatmaps = empty_maps(workload.shape, dtype, layout)
        options = Options(kind, encoding, encoding == "biased", num_people > 1, 2.1, 14.0, 1.0, 0.5)
        losses, saved = torch.empty(batch, num_keypoints), torch.empty(batch, num_keypoints, options.num_saved)
        keypoints = torch.empty(batch, num_people, num_keypoints, 2)
        visible = torch.empty(batch, num_people, num_keypoints) if "visible" in given else None
        weight = losses if "weight" in given else None
        sigmas = torch.empty(num_keypoints) if "sigmas" in given else None
        inputs = (heatmaps, keypoints, visible, weight, sigmas, 2.0, options)
        module.heatmap_loss_fwd(losses, saved, *inputs)
        module.heatmap_loss_bwd(torch.empty_like(heatmaps), torch.empty(()), 0.1, saved, *inputs)

    people = f" {num_people} people" if num_people > 1 else ""
    tensors = "" if given == _WEIGHTS else f" with {given or 'no weights'}"
    label = f"{kind} {encoding} {workload.name} {dtype}{people}{tensors}{ending(layout)}"
    everywhere = (encoding == "unbiased" and layout == "contiguous") or (encoding == "biased" and kind == "mse")
    everywhere |= kind in ("cross_entropy", "js") and num_people > 1  # whose registers are limited
    return Call(label, launch, layout == "contiguous", everywhere)


ROOM = Room(
    "heatmap_loss",
    "dark_kernels.heatmap_loss.kernels",
    _calls,
    loads={"_heatmap_loss_fwd_kernel": ("_load_pixels",), "_heatmap_loss_bwd_kernel": ("_load_pixels",)},
    stores={"_heatmap_loss_bwd_kernel": ("_heatmap_loss_bwd_kernel",)},
)
