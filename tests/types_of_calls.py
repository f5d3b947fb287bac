"""What type checkers make of calls: `make lint` runs mypy and pyright over it, and `test_typing.py` runs it."""

from __future__ import annotations

from typing import Any

import torch
from numpy.typing import NDArray
from torch import Tensor
from typing_extensions import assert_type

import dark_kernels
from dark_kernels import Keypoints, Peaks, SimCCKeypoints, metrics, nn, transforms

MAPS = torch.rand(2, 3, 16, 12)
AXES = torch.rand(2, 3, 20)


def of_decoding() -> None:
    assert_type(dark_kernels.decode(MAPS).covariances, None)
    assert_type(dark_kernels.decode(MAPS, covariance=False).covariances, None)
    assert_type(dark_kernels.decode(MAPS, covariance=True).covariances, Tensor)
    assert_type(dark_kernels.decode(MAPS, "mmpose_udp", True, "eager").covariances, Tensor)
    assert_type(dark_kernels.decode(MAPS.numpy(), covariance=True).covariances, NDArray[Any])
    coords, scores, covariances = dark_kernels.decode(MAPS, covariance=True)
    assert_type(coords, Tensor)
    assert_type(scores, Tensor)
    assert_type(covariances, Tensor)
    assert_type(dark_kernels.decode_offsets(MAPS).covariances, None)
    assert_type(dark_kernels.find_peaks(MAPS, 3, covariance=True).covariances, Tensor)
    assert_type(dark_kernels.find_peaks(MAPS.numpy(), 3).counts, NDArray[Any])
    assert_type(dark_kernels.decode_simcc(AXES, AXES, 2.0, visibility=True).visibility, Tensor)
    assert_type(dark_kernels.decode_simcc(AXES, AXES).visibility, None)
    assert_type(dark_kernels.soft_argmax(MAPS), Tensor)
    assert_type(dark_kernels.soft_argmax(MAPS.numpy()), NDArray[Any])


def of_flags(flag: bool) -> None:
    assert_type(dark_kernels.decode(MAPS, covariance=flag).covariances, Tensor | None)
    assert_type(dark_kernels.find_peaks(MAPS, 3, covariance=flag).covariances, Tensor | None)
    assert_type(dark_kernels.decode_simcc(AXES, AXES, 2.0, visibility=flag).visibility, Tensor | None)


def of_names() -> Keypoints:
    """As users annotate: with covariances or without."""
    peaks: Peaks = dark_kernels.find_peaks(MAPS, 3)
    simcc: SimCCKeypoints = dark_kernels.decode_simcc(AXES, AXES)
    assert_type(peaks.counts, Tensor)
    assert_type(simcc.scores, Tensor)
    made = Keypoints(MAPS, MAPS)
    assert_type(made.to("cpu").coords, Tensor)
    assert_type(made.numpy().coords, NDArray[Any])
    return dark_kernels.decode(MAPS, covariance=True)


def of_other_rooms() -> None:
    targets, weight = dark_kernels.encode(torch.rand(2, 3, 2), (16, 12))
    assert_type(targets, Tensor)
    assert_type(weight, Tensor)
    poses, areas = torch.rand(2, 4, 17, 2), torch.ones(2, 4)
    assert_type(dark_kernels.oks(poses, poses, areas, areas), Tensor)
    assert_type(dark_kernels.oks_nms(poses, areas, areas).keep, Tensor)
    assert_type(dark_kernels.oks_nms(poses.numpy(), areas.numpy(), areas.numpy()).keep, NDArray[Any])
    samples = dark_kernels.sample_keypoints(torch.rand(2, 3, 2), torch.eye(2).expand(2, 3, 2, 2), n=2, seed=0)
    assert_type(dark_kernels.vote(samples, MAPS).covariances, Tensor)
    assert_type(transforms.mmpose([[1, 2]], [[3, 4]], (12, 16)), Tensor)
    assert_type(transforms.mmpose(poses[0, 0].numpy(), poses[0, 0].numpy(), (12, 16)), NDArray[Any])
    head = nn.DARKHead(4, 3, covariance="full", coordinates="offset")
    decoder = nn.TwoStageDecoder(torch.nn.Conv2d(4, 3, 1), head, "fit")
    assert_type(decoder.forward(torch.rand(2, 4, 8, 6)).covariances, Tensor)


def of_metrics() -> None:
    points, covariances = torch.rand(2, 3, 2), torch.eye(2).expand(2, 3, 2, 2)
    assert_type(metrics.epe(points, points), Tensor)
    assert_type(metrics.pck(points.numpy(), points.numpy(), 3.0), NDArray[Any])
    assert_type(metrics.coverage(points, covariances, points), Tensor)
    assert_type(metrics.sharpness(covariances.numpy()), NDArray[Any])
    metrics.coco_results(dark_kernels.decode(MAPS.numpy()), [0, 1])
