"""What users call: bad input, messages, defaults."""

from __future__ import annotations

import doctest
import inspect
import math
from typing import Any

import numpy as np
import pytest
import torch

from dark_kernels.heatmap_loss import api, heatmap_mse

from .cases import FUNCTIONS, KINDS, SOFTMAX


def of(kind: str = "mse", **changes: Any) -> torch.Tensor:
    arguments: dict[str, Any] = {"heatmaps": torch.full((2, 3, 5, 6), 0.5), "keypoints": torch.ones(2, 3, 2)}
    return FUNCTIONS[kind](**{**arguments, **changes})


ERRORS = [
    (ValueError, r"heatmaps: got shape \[3, 5, 6\], expected 4 dimensions", {"heatmaps": torch.zeros(3, 5, 6)}),
    (ValueError, "heatmaps: got shape .*, expected H >= 1", {"heatmaps": torch.zeros(2, 3, 0, 6)}),
    (TypeError, "heatmaps: got numpy.ndarray, expected .* torch.from_numpy", {"heatmaps": np.zeros((2, 3, 5, 6))}),
    (TypeError, "heatmaps: got torch.int64", {"heatmaps": torch.zeros(2, 3, 5, 6, dtype=torch.int64)}),
    (ValueError, r"keypoints: got shape \[2, 4, 2\], expected \[2, 3, 2\] or", {"keypoints": torch.ones(2, 4, 2)}),
    (ValueError, r"keypoints: got shape \[1, 3, 2\], expected \[2, 3, 2\] or", {"keypoints": torch.ones(1, 3, 2)}),
    (ValueError, r"keypoints: got shape \[2, 3, 3\], expected .* \(x, y\)", {"keypoints": torch.ones(2, 3, 3)}),
    (ValueError, r"keypoints: got shape \[3, 2\], expected 3 dimensions", {"keypoints": torch.ones(3, 2)}),
    (ValueError, "keypoints: got a tensor that requires grad",
     {"keypoints": torch.ones(2, 3, 2, requires_grad=True)}),
    (TypeError, "keypoints: got torch.int64", {"keypoints": torch.ones(2, 3, 2, dtype=torch.int64)}),
    (ValueError, r"visible: got shape \[3\], expected \[2, 3\]", {"visible": torch.ones(3)}),
    (ValueError, r"visible: got shape \[2, 3\], expected \[2, 4, 3\]",
     {"keypoints": torch.ones(2, 4, 3, 2), "visible": torch.ones(2, 3)}),
    (ValueError, r"weight: got shape \[2\], expected \[2, 3\]", {"weight": torch.ones(2)}),
    (ValueError, "weight: got a tensor that requires grad", {"weight": torch.ones(2, 3, requires_grad=True)}),
    (TypeError, "weight: got builtins.float", {"weight": 1.0}),
    (ValueError, "weight: got a tensor on meta, expected cpu, as heatmaps",
     {"weight": torch.ones(2, 3, device="meta")}),
    (ValueError, "sigma: got 0, expected a positive", {"sigma": 0}),
    (ValueError, "sigma: got inf, expected a finite", {"sigma": math.inf}),
    (ValueError, r"sigma: got shape \[2\], expected a number or \[3\]", {"sigma": torch.ones(2)}),
    (ValueError, "encoding: got 'msra', expected one of 'unbiased', 'biased', 'udp'", {"encoding": "msra"}),
    (ValueError, "reduction: got 'avg', expected one of 'mean', 'none', 'sum'", {"reduction": "avg"}),
    (ValueError, "backend: got 'cuda', expected one of", {"backend": "cuda"}),
]  # fmt: skip

ERRORS_OF_SOME = [
    ("mse", ValueError, "weighting: got 'w', expected one of 'mmpose', 'hrnet'", {"weighting": "w"}),
    ("mse", ValueError, "topk: got 4 with 3 keypoints, expected 1 to", {"topk": 4}),
    ("mse", ValueError, "topk: got 0 with 3 keypoints", {"topk": 0}),
    ("mse", TypeError, "topk: got float 2.0, expected an integer or None", {"topk": 2.0}),
    ("mse", ValueError, "empty: got 'no', expected one of 'skip', 'zero'", {"empty": "no"}),
    ("focal", ValueError, "empty: got 'no', expected one of 'skip', 'zero'", {"empty": "no"}),
    ("adaptive_wing", ValueError, "alpha: got 1.5, expected at least 2", {"alpha": 1.5}),
    ("adaptive_wing", ValueError, "omega: got 0, expected a positive", {"omega": 0}),
    ("adaptive_wing", ValueError, "epsilon: got -1.0, expected a positive", {"epsilon": -1.0}),
    ("adaptive_wing", TypeError, "theta: got str 'a', expected a number", {"theta": "a"}),
]  # fmt: skip


@pytest.mark.parametrize(("error", "message", "changes"), ERRORS)
@pytest.mark.parametrize("kind", KINDS)
def test_bad_input(error: type[Exception], message: str, changes: dict[str, Any], kind: str) -> None:
    with pytest.raises(error, match=message):
        of(kind, **changes)


@pytest.mark.parametrize(("kind", "error", "message", "changes"), ERRORS_OF_SOME)
def test_bad_options(kind: str, error: type[Exception], message: str, changes: dict[str, Any]) -> None:
    with pytest.raises(error, match=message):
        of(kind, **changes)


@pytest.mark.parametrize("kind", KINDS)
def test_defaults_and_numbers_of_any_kind(kind: str) -> None:
    expected = of(kind, sigma=2.0, reduction="mean")
    for changes in ({}, {"sigma": 2}, {"sigma": np.float64(2)}, {"sigma": torch.full((3,), 2.0)}):
        assert torch.equal(of(kind, **changes), expected)


def test_the_arguments_are_the_same_where_they_make_sense() -> None:
    """In one order, with one default; but for the focal loss, for which only one encoding has positives."""
    whole = list(inspect.signature(heatmap_mse).parameters)
    for kind, function in FUNCTIONS.items():
        parameters = inspect.signature(function).parameters
        shared = [name for name in parameters if name in whole]
        assert shared == [name for name in whole if name in parameters]
        assert len(shared) >= len(whole) - (3 if kind in SOFTMAX else 2)
        for name in shared:
            if (kind, name) != ("focal", "encoding"):
                assert parameters[name].default == inspect.signature(heatmap_mse).parameters[name].default
    assert inspect.signature(FUNCTIONS["focal"]).parameters["encoding"].default == "biased"


@pytest.mark.parametrize("kind", KINDS)
def test_docstrings_name_every_argument(kind: str) -> None:
    function = FUNCTIONS[kind]
    for name in inspect.signature(function).parameters:
        assert f"    {name}: " in inspect.cleandoc(function.__doc__)


def test_examples_run() -> None:
    results = doctest.testmod(api)
    assert results.failed == 0
    assert results.attempted >= len(KINDS)
