"""Numbers of one backend against each other."""

from __future__ import annotations

import torch
from torch import Tensor

import dark_kernels
from dark_kernels import Keypoints, Recipe, testing


def is_compiled(service: tuple[str, torch.device]) -> bool:
    """Whether each variant of a kernel is compiled for itself, which fuses products and sums as it likes."""
    backend, device = service
    return backend == "triton" and device.type != "cpu"


def assert_agree(actual: Keypoints, service: tuple[str, torch.device], maps: Tensor, recipe: Recipe) -> None:
    """The keypoints of `maps`, decoded by the same backend: to the last bit where nothing was compiled otherwise."""
    if is_compiled(service):
        testing.assert_decodes_like_reference(actual, maps, recipe, testing.TRITON)
    else:
        expected = dark_kernels.decode(maps, recipe, actual.covariances is not None, service[0])
        testing.assert_same_keypoints(actual, expected)
