"""oks and oks_nms: a few and many poses an image; each method, with image ids and without, with and without what is
optional. vote: by heatmap, by density and with equal weights; few samples and many."""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from types import ModuleType

import torch

from benchmarks import workloads
from benchmarks.static.calls import Call, Room, empty_maps
from benchmarks.workloads import W1, W3, W4, Workload


def _calls(full: bool) -> Iterator[Call]:
    yield _call(30, 17, "float32", "hard", optional=True)
    yield _call(512, 17, "float32", "hard")
    yield _call(100, 17, "float16", "gaussian")
    yield _call(1000, 133, "bfloat16", "linear", optional=True)
    yield _call(2000, 17, "float32", "hard", is_flat=True)
    yield _call(300, 17, "float16", "gaussian", optional=True, is_flat=True)
    yield _oks_call(5, 9)
    if full:
        for dtype, method in itertools.product(workloads.DTYPES, ("hard", "gaussian", "linear")):
            for optional, is_flat in itertools.product((False, True), repeat=2):
                yield _call(300, 17, dtype, method, optional, is_flat)


def _call(
    num_poses: int, num_keypoints: int, dtype: str, method: str, optional: bool = False, is_flat: bool = False
) -> Call:
    """`is_flat`: the poses of all images behind each other, with image ids."""

    def launch(module: ModuleType) -> None:
        shape = (1 if is_flat else 64, num_poses)
        kappas = torch.empty(num_keypoints)
        poses = torch.empty((*shape, num_keypoints, 2), dtype=workloads.DTYPES[dtype])
        scores, areas = torch.empty(shape), torch.empty(shape)
        visible = torch.empty((*shape, num_keypoints), dtype=torch.bool) if optional else None
        module.oks_fwd(torch.empty(*shape, num_poses), poses, poses, areas, areas, kappas, visible, visible)
        keep, indices = torch.empty(shape, dtype=torch.bool), torch.empty(shape, dtype=torch.int64)
        image_ids = torch.empty(num_poses, dtype=torch.int64) if is_flat else None
        mask = scores if optional else None
        inputs = (poses, scores, areas, kappas, visible, mask, image_ids)
        module.oks_nms_fwd(keep, indices, indices[:, 0], scores, *inputs, 0.9, method, num_poses)

    label = f"{method} NMS of {num_poses} {dtype}" + (" with image ids" if is_flat else "")
    return Call(label, launch, everywhere=True)


def _oks_call(num_a: int, num_b: int) -> Call:
    """oks by itself: people against people, of whom those of the one side say what is visible."""

    def launch(module: ModuleType) -> None:
        poses_a, poses_b = torch.empty(8, num_a, 17, 2), torch.empty(8, num_b, 17, 2)
        areas_a, areas_b = torch.empty(8, num_a), torch.empty(8, num_b)
        visible = torch.empty((8, num_b, 17), dtype=torch.bool)
        similarity = torch.empty(8, num_a, num_b)
        module.oks_fwd(similarity, poses_a, poses_b, areas_a, areas_b, torch.empty(17), None, visible)

    return Call(f"OKS of {num_a} and {num_b} float32", launch)


def _voting_calls(full: bool) -> Iterator[Call]:
    yield _vote_call(W1, "float32", 100)
    for dtype in workloads.DTYPES if full else ("float16",):
        yield _vote_call(W3, dtype, 1000)
    yield _vote_call(W4, "float32", 16)


def _vote_call(workload: Workload, dtype: str, num_samples: int) -> Call:
    def launch(module: ModuleType) -> None:
        shape = workload.shape[:2]
        heatmaps = empty_maps(workload.shape, dtype)
        outputs = torch.empty(*shape, 2), torch.empty(shape), torch.empty(*shape, 2, 2)
        samples = torch.empty(*shape, num_samples, 2)
        for maps, bandwidth in ((heatmaps, None), (None, 2.0), (None, None)):
            module.vote_fwd(*outputs, samples, maps, bandwidth)

    return Call(f"{num_samples} votes {workload.name} {dtype}", launch, everywhere=workload is not W4)


ROOM = Room("poses", "dark_kernels.poses.kernels", _calls)
VOTING_ROOM = Room("poses, voting", "dark_kernels.poses.kernels_voting", _voting_calls)
