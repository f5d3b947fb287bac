"""What suppression promises PyTorch beside the contract of all operations (tests/test_contract.py)."""

from __future__ import annotations

import contextlib
import functools
from typing import Any

import pytest
import torch
from torch import Tensor

from dark_kernels import oks_nms, soft_oks_nms
from dark_kernels.poses import eager

from .. import launches
from ..conftest import SERVICES
from .cases import KAPPAS

Service = tuple[str, torch.device]


def some_poses(batch: int = 2, device: torch.device | str = "cpu") -> tuple[Tensor, Tensor, Tensor]:
    generator = torch.Generator().manual_seed(4)
    poses = torch.rand(batch, 5, 4, 2, generator=generator) * 20
    scores = torch.rand(batch, 5, generator=generator)
    return poses.to(device), scores.to(device), torch.full((batch, 5), 900.0, device=device)


@pytest.mark.parametrize("method", ["hard", "gaussian", "linear"])
@pytest.mark.parametrize("has_ids", [False, True])
def test_eager_asks_the_device_for_nothing(has_ids: bool, method: str) -> None:
    """But for hard suppression with image ids. Tensors without numbers say so."""
    poses, scores, areas = some_poses(1, "meta")
    kappas = torch.empty(len(KAPPAS), device="meta")
    ids = torch.empty(5, dtype=torch.int64, device="meta") if has_ids else None
    waits = has_ids and method == "hard"
    with pytest.raises(NotImplementedError, match="meta tensor") if waits else contextlib.nullcontext():
        outputs = eager.oks_nms_fwd(poses, scores, areas, kappas, None, scores, ids, 0.5, method, 5, torch.float32)
        assert [each.shape for each in outputs] == [(1, 5), (1, 5), (1,), (1, 5)]


@pytest.mark.parametrize("function", [oks_nms, soft_oks_nms])
@pytest.mark.parametrize("service", [SERVICES[2], SERVICES[4]], indirect=True)
def test_launches_do_not_grow_with_the_batch(function: Any, service: Service) -> None:
    """One for all images, with image ids as well; where all of an image are dropped at once, two."""
    from dark_kernels.poses import kernels

    backend, device = service
    poses, scores, areas = some_poses(3, device)
    flat = [each.flatten(0, 1) for each in (poses, scores, areas)]
    ids = torch.arange(15, device=device) % 4
    options = {"kappas": KAPPAS, "backend": backend}
    at_once = ["_rivals_kernel", "_keep_unrivalled_kernel"]
    one_by_one = ["_oks_nms_fwd_kernel"]
    for run, expected in (
        (functools.partial(function, poses, scores, areas, **options), at_once if function is oks_nms else one_by_one),
        (functools.partial(function, *flat, image_ids=ids, **options), one_by_one),
    ):
        with launches.recorded(kernels) as launched:
            run()
        assert launched == expected
        assert device.type == "cpu" or launches.count(run) == len(expected)
