"""Keypoints to supervision's KeyPoints and back, with the installed supervision."""

from __future__ import annotations

import importlib
from typing import Any

import numpy as np
import pytest
import torch

import dark_kernels
from dark_kernels import Keypoints

from .conftest import require


@pytest.fixture(scope="module")
def conversions() -> Any:
    require("supervision")
    return importlib.import_module("dark_kernels.integrations.supervision")


@pytest.fixture
def keypoints() -> Keypoints:
    return dark_kernels.decode(dark_kernels.data.load().heatmaps[:3].float(), covariance=True)


@pytest.mark.parametrize("covariance", [True, False])
def test_there_and_back(conversions: Any, keypoints: Keypoints, covariance: bool) -> None:
    keypoints = keypoints if covariance else keypoints._replace(covariances=None)
    key_points = conversions.to_supervision(keypoints, class_ids=[0, 2, 1], pose_scores=torch.tensor([0.5, 0.25, 1.0]))
    assert key_points.xy.shape == (3, 17, 2)
    assert key_points.class_id.tolist() == [0, 2, 1]
    assert key_points.detection_confidence.tolist() == [0.5, 0.25, 1.0]
    assert len(key_points[key_points.detection_confidence > 0.3]) == 2
    for part, back in zip(keypoints, conversions.from_supervision(key_points), strict=True):
        assert (part is None) == (back is None)
        if part is not None:
            torch.testing.assert_close(back, part, rtol=0, atol=0, equal_nan=True)


def test_its_annotators_find_what_they_need(conversions: Any, keypoints: Keypoints) -> None:
    supervision = require("supervision")
    image = np.zeros((64, 64, 3), np.uint8)
    key_points = conversions.to_supervision(keypoints, threshold=0.3)
    assert (key_points.visible == (keypoints.scores > 0.3).numpy()).all()
    for annotator in (supervision.EdgeAnnotator(), supervision.VertexAnnotator(radius=1)):
        assert annotator.annotate(scene=image.copy(), key_points=key_points).any()
    assert (conversions.from_supervision(key_points).scores > 0).sum() == key_points.visible.sum()


def test_what_it_has_not_and_nothing(conversions: Any) -> None:
    supervision = require("supervision")
    back = conversions.from_supervision(supervision.KeyPoints(xy=np.ones((2, 3, 2), np.float32)))
    assert (back.scores == 1).all()
    assert back.covariances is None
    nothing = Keypoints(torch.zeros(0, 17, 2), torch.zeros(0, 17))
    assert conversions.from_supervision(conversions.to_supervision(nothing)).coords.shape[0] == 0


def test_inputs_stay_and_results_are_new(conversions: Any, keypoints: Keypoints) -> None:
    before = keypoints.coords.clone()
    key_points = conversions.to_supervision(keypoints)
    key_points.xy[:] = 0
    assert torch.equal(keypoints.coords, before)
    conversions.from_supervision(key_points).coords.fill_(3)
    assert (key_points.xy == 0).all()


def test_errors(conversions: Any, keypoints: Keypoints) -> None:
    with pytest.raises(TypeError, match=r"keypoints: got Tensor, expected dark_kernels\.Keypoints"):
        conversions.to_supervision(keypoints.coords)
    with pytest.raises(ValueError, match=r"keypoints: got shapes \[\[17, 2\], \[17\]\], expected coords \[N, K, 2\]"):
        conversions.to_supervision(Keypoints(keypoints.coords[0], keypoints.scores[0]))
    with pytest.raises(ValueError, match=r"class_ids: got shape \[2\], expected \[3\]"):
        conversions.to_supervision(keypoints, class_ids=[1, 2])
    with pytest.raises(TypeError, match=r"key_points: got dict, expected supervision\.KeyPoints"):
        conversions.from_supervision({})
