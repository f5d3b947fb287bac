"""The heatmap losses, forward and backward."""

from __future__ import annotations

from collections.abc import Iterator
from types import ModuleType

import torch

from benchmarks import workloads
from benchmarks.static.calls import Call, Room, empty_maps, layout
from benchmarks.workloads import W2, W3, Workload
from dark_kernels.heatmap_loss.options import Options


def _calls(full: bool) -> Iterator[Call]:
    """Every loss; W2 and W3 contiguous, where all of them have to read and write wide, W2 channels_last."""
    for kind in ("mse", "adaptive_wing", "focal", "cross_entropy", "js"):
        yield _call(W2, "float32", kind, "unbiased")
        yield _call(W3, "float16", kind, "udp", 4)
        if full:
            for dtype in workloads.DTYPES:
                yield _call(W3, dtype, kind, "biased")
                yield _call(W2, dtype, kind, "udp", channels_last=True)
    for kind in ("mse", "adaptive_wing", "focal", "js"):
        yield _call(W3, "bfloat16", kind, "biased")
    yield _call(W2, "float16", "mse", "unbiased", channels_last=True)


def _call(
    workload: Workload, dtype: str, kind: str, encoding: str, num_people: int = 1, channels_last: bool = False
) -> Call:
    def launch(module: ModuleType) -> None:
        batch, num_keypoints, *_ = workload.shape
        heatmaps = empty_maps(workload.shape, dtype, channels_last)
        options = Options(kind, encoding, encoding == "biased", num_people > 1, 2.1, 14.0, 1.0, 0.5)
        losses, saved = torch.empty(batch, num_keypoints), torch.empty(batch, num_keypoints, options.num_saved)
        keypoints = torch.empty(batch, num_people, num_keypoints, 2)
        visible = torch.empty(batch, num_people, num_keypoints)
        inputs = (heatmaps, keypoints, visible, losses, None, 2.0, options)
        module.heatmap_loss_fwd(losses, saved, *inputs)
        module.heatmap_loss_bwd(heatmaps, torch.empty(()), 0.1, saved, *inputs)

    people = f" {num_people} people" if num_people > 1 else ""
    label = f"{kind} {encoding} {workload.name} {dtype}{people}{layout(channels_last)}"
    everywhere = (encoding == "unbiased" and not channels_last) or (encoding == "biased" and kind == "mse")
    return Call(label, launch, not channels_last, everywhere)


ROOM = Room(
    "heatmap_loss",
    "dark_kernels.heatmap_loss.kernels",
    _calls,
    loads={"_heatmap_loss_fwd_kernel": ("_load_pixels",), "_heatmap_loss_bwd_kernel": ("_load_pixels",)},
    stores={"_heatmap_loss_bwd_kernel": ("_heatmap_loss_bwd_kernel",)},
)
