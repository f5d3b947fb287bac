"""Functions that users call: bad input, messages, defaults."""

from __future__ import annotations

import inspect
import math
from typing import Any

import numpy as np
import pytest
import torch

from dark_kernels.nll import gaussian_nll, gaussian_nll_reference, linear_gaussian_nll, linear_gaussian_nll_reference

from ..signatures import arguments
from .labels import STRIDE_ERRORS


def of_maps(**changes: Any) -> torch.Tensor:
    arguments: dict[str, Any] = {
        "mean": torch.zeros(2, 3, 2, 4, 5),
        "log_var": torch.zeros(2, 3, 1, 4, 5),
        "target": torch.ones(2, 3, 2),
    }
    return gaussian_nll(**{**arguments, **changes})


def of_head(**changes: Any) -> torch.Tensor:
    arguments: dict[str, Any] = {
        "features": torch.zeros(2, 7, 4, 5),
        "weight": torch.zeros(9, 7),
        "bias": torch.zeros(9),
        "target": torch.ones(2, 3, 2),
    }
    return linear_gaussian_nll(**{**arguments, **changes})


MAP_ERRORS = [
    (ValueError, r"mean: got shape \[2, 3, 4, 5\], expected 5 dimensions", {"mean": torch.zeros(2, 3, 4, 5)}),
    (ValueError, r"mean: got .*, expected \[B, K, 2, H, W\] with", {"mean": torch.zeros(2, 3, 3, 4, 5)}),
    (ValueError, "expected H >= 1 and W >= 1", {"mean": torch.zeros(2, 3, 2, 0, 5)}),
    (ValueError, "log_var: got .*, expected .* C = 1", {"log_var": torch.zeros(2, 3, 4, 4, 5)}),
    (ValueError, "log_var: got .*, expected .* C = 1", {"log_var": torch.zeros(2, 3, 0, 4, 5)}),
    (ValueError, "log_var: got .*, expected the B, K, H and W of mean", {"log_var": torch.zeros(1, 3, 1, 4, 5)}),
    (ValueError, "log_var: got .*, expected the B, K, H and W of mean", {"log_var": torch.zeros(2, 4, 1, 4, 5)}),
    (ValueError, "log_var: got .*, expected the B, K, H and W of mean", {"log_var": torch.zeros(2, 3, 1, 5, 4)}),
    (ValueError, "target: got .*, expected 3 dimensions", {"target": torch.ones(2, 3)}),
    (ValueError, r"target: got .*, expected \[2, 3, 2\]", {"target": torch.ones(1, 3, 2)}),
    (ValueError, r"target: got .*, expected \[2, 3, 2\]", {"target": torch.ones(2, 3, 3)}),
    (ValueError, r"weight: got shape \[2\], expected \[2, 3\]", {"weight": torch.ones(2)}),
    (ValueError, r"weight: got shape \[2, 3, 1\]", {"weight": torch.ones(2, 3, 1)}),
    (ValueError, "target: got a tensor that requires grad", {"target": torch.ones(2, 3, 2, requires_grad=True)}),
    (ValueError, "weight: got a tensor that requires grad", {"weight": torch.ones(2, 3, requires_grad=True)}),
    (ValueError, "target: got a tensor on meta, expected cpu", {"target": torch.ones(2, 3, 2, device="meta")}),
    (ValueError, "distribution: got 'laplace' with 3",
     {"distribution": "laplace", "log_var": torch.zeros(2, 3, 3, 4, 5)}),
    (TypeError, "mean: got numpy.ndarray, expected .* torch.from_numpy", {"mean": np.zeros((2, 3, 2, 4, 5))}),
    (TypeError, "mean: got torch.int64, expected one of", {"mean": torch.zeros(2, 3, 2, 4, 5, dtype=torch.int64)}),
    (TypeError, "log_var: got a sparse tensor", {"log_var": torch.zeros(2, 3, 1, 4, 5).to_sparse()}),
    (TypeError, "target: got torch.int64", {"target": torch.ones(2, 3, 2, dtype=torch.int64)}),
    (TypeError, "weight: got builtins.float", {"weight": 1.0}),
    (TypeError, "weight: got torch.complex64", {"weight": torch.ones(2, 3, dtype=torch.complex64)}),
]  # fmt: skip
HEAD_ERRORS = [
    (ValueError, "features: got .*, expected 4 dimensions", {"features": torch.zeros(7, 4, 5)}),
    (ValueError, "features: got .*, expected C >= 1", {"features": torch.zeros(2, 0, 4, 5)}),
    (ValueError, "features: got .*, expected H >= 1", {"features": torch.zeros(2, 7, 4, 0)}),
    (ValueError, "weight: got shape .* with the C = 7", {"weight": torch.zeros(9, 8)}),
    (ValueError, "weight: got 8 rows with 3 keypoints", {"weight": torch.zeros(8, 7), "bias": None}),
    (ValueError, "weight: got 6 rows with 3 keypoints", {"weight": torch.zeros(6, 7), "bias": None}),
    (ValueError, "weight: got shape .* expected 2 dimensions", {"weight": torch.zeros(9, 7, 3, 3)}),
    (ValueError, r"bias: got shape \[8\], expected \[9\]", {"bias": torch.zeros(8)}),
    (ValueError, r"target: got shape \[1, 3, 2\], expected \[2, 3, 2\]", {"target": torch.ones(1, 3, 2)}),
    (ValueError, "keypoint_weight: got shape", {"keypoint_weight": torch.ones(3, 2)}),
    (ValueError, "bias: got a tensor on meta", {"bias": torch.zeros(9, device="meta")}),
    (TypeError, "weight: got builtins.NoneType", {"weight": None}),
    (ValueError, "distribution: got 'laplace' with 3",
     {"distribution": "laplace", "weight": torch.zeros(15, 7), "bias": None}),
]  # fmt: skip
OPTION_ERRORS = [
    *STRIDE_ERRORS,
    (ValueError, "beta: got 1.5, expected 0 <= beta <= 1", {"beta": 1.5}),
    (ValueError, "beta: got -0.1", {"beta": -0.1}),
    (ValueError, "beta: got nan", {"beta": math.nan}),
    (ValueError, "fixed_log_var: got inf", {"fixed_log_var": math.inf}),
    (TypeError, "fixed_log_var: got Tensor", {"fixed_log_var": torch.zeros(())}),
    (ValueError, "log_var_bounds: got .*, expected low <= high", {"log_var_bounds": (1.0, -1.0)}),
    (ValueError, "log_var_bounds: got .*, expected low <= high", {"log_var_bounds": (math.nan, 1.0)}),
    (TypeError, r"log_var_bounds: got 7, expected \(low, high\)", {"log_var_bounds": 7}),
    (TypeError, "log_var_bounds: got", {"log_var_bounds": (1.0, 2.0, 3.0)}),
    (ValueError, "coordinates: got 'relative', expected one of 'absolute', 'offset'", {"coordinates": "relative"}),
    (ValueError, "distribution: got 'normal', expected one of 'gaussian', 'laplace'", {"distribution": "normal"}),
    (ValueError, "reduction: got 'avg', expected one of 'mean', 'none', 'sum', 'mean_valid'", {"reduction": "avg"}),
    (ValueError, "backend: got 'cuda', expected one of", {"backend": "cuda"}),
]  # fmt: skip


@pytest.mark.parametrize(("error", "message", "changes"), MAP_ERRORS + OPTION_ERRORS)
@pytest.mark.parametrize("backend", ["auto", "reference"])
def test_bad_input_of_maps(error: type[Exception], message: str, changes: dict[str, Any], backend: str) -> None:
    with pytest.raises(error, match=message):
        of_maps(**{"backend": backend, **changes})


@pytest.mark.parametrize(("error", "message", "changes"), HEAD_ERRORS + OPTION_ERRORS)
def test_bad_input_of_a_head(error: type[Exception], message: str, changes: dict[str, Any]) -> None:
    with pytest.raises(error, match=message):
        of_head(**changes)


def test_numbers_of_any_kind() -> None:
    """Integers and NumPy's float64 are numbers; a list is as good as a tuple."""
    expected = of_maps(stride=4.0, log_var_bounds=(-1.0, 1.0), fixed_log_var=1.0, beta=1.0)
    assert torch.equal(of_maps(stride=4, log_var_bounds=[-1, 1], fixed_log_var=1, beta=1), expected)
    assert torch.equal(of_maps(stride=np.float64(4), log_var_bounds=(-1, 1), fixed_log_var=1, beta=1), expected)


def test_losses_below_zero_are_not_clamped() -> None:
    log_var = torch.full((2, 3, 1, 4, 5), -5.0)
    assert of_maps(mean=torch.ones(2, 3, 2, 4, 5), log_var=log_var).item() == -5.0


@pytest.mark.parametrize(
    ("function", "reference"),
    [(gaussian_nll, gaussian_nll_reference), (linear_gaussian_nll, linear_gaussian_nll_reference)],
)
def test_references_take_the_same_arguments(function: Any, reference: Any) -> None:
    assert arguments(function) == arguments(reference)


@pytest.mark.parametrize("function", [gaussian_nll, linear_gaussian_nll])
def test_docstrings_name_every_argument(function: Any) -> None:
    for name in inspect.signature(function).parameters:
        assert f"    {name}: " in inspect.cleandoc(function.__doc__)
