"""The function that users call: bad input, messages, defaults."""

from __future__ import annotations

import doctest
import inspect
import math
from typing import Any

import numpy as np
import pytest
import torch

from dark_kernels.nll import api_mixture, gaussian_mixture_nll, gaussian_mixture_nll_reference

from ..signatures import arguments
from .labels import STRIDE_ERRORS


def of(**changes: Any) -> torch.Tensor:
    arguments: dict[str, Any] = {
        "logits": torch.zeros(2, 3, 4, 5, 6),
        "mean": torch.zeros(2, 3, 4, 2, 5, 6),
        "log_var": torch.zeros(2, 3, 4, 5, 6),
        "target": torch.ones(2, 3, 2),
    }
    return gaussian_mixture_nll(**{**arguments, **changes})


ERRORS = [
    (ValueError, r"logits: got shape \[2, 3, 5, 6\], expected 5 dimensions", {"logits": torch.zeros(2, 3, 5, 6)}),
    (ValueError, r"logits: got shape .*, expected .* with M >= 1", {"logits": torch.zeros(2, 3, 0, 5, 6)}),
    (ValueError, "logits: got shape .*, expected H >= 1 and W >= 1", {"logits": torch.zeros(2, 3, 4, 5, 0)}),
    (ValueError, r"mean: got shape .*, expected 6 dimensions", {"mean": torch.zeros(2, 3, 2, 5, 6)}),
    (ValueError, r"mean: got shape .*, expected \[2, 3, 4, 2, 5, 6\]", {"mean": torch.zeros(2, 3, 4, 3, 5, 6)}),
    (ValueError, r"mean: got shape .*, expected \[2, 3, 4, 2, 5, 6\]", {"mean": torch.zeros(2, 3, 2, 4, 5, 6)}),
    (ValueError, r"mean: got shape .*, expected \[2, 3, 4, 2, 5, 6\]", {"mean": torch.zeros(1, 3, 4, 2, 5, 6)}),
    (ValueError, r"log_var: got shape .*, expected 5 dimensions", {"log_var": torch.zeros(2, 3, 4, 1, 5, 6)}),
    (ValueError, r"log_var: got shape .*, expected \[2, 3, 4, 5, 6\]", {"log_var": torch.zeros(2, 3, 1, 5, 6)}),
    (ValueError, r"log_var: got shape .*, expected \[2, 3, 4, 5, 6\]", {"log_var": torch.zeros(2, 3, 4, 6, 5)}),
    (ValueError, "target: got .*, expected 3 dimensions", {"target": torch.ones(2, 3)}),
    (ValueError, r"target: got .*, expected \[2, 3, 2\]", {"target": torch.ones(1, 3, 2)}),
    (ValueError, r"weight: got shape \[2\], expected \[2, 3\]", {"weight": torch.ones(2)}),
    (ValueError, "target: got a tensor that requires grad", {"target": torch.ones(2, 3, 2, requires_grad=True)}),
    (ValueError, "weight: got a tensor that requires grad", {"weight": torch.ones(2, 3, requires_grad=True)}),
    (ValueError, "target: got a tensor on meta, expected cpu, as logits",
     {"target": torch.ones(2, 3, 2, device="meta")}),
    (TypeError, "logits: got numpy.ndarray, expected .* torch.from_numpy", {"logits": np.zeros((2, 3, 4, 5, 6))}),
    (TypeError, "mean: got torch.int64, expected one of", {"mean": torch.zeros(2, 3, 4, 2, 5, 6, dtype=torch.int64)}),
    (TypeError, "log_var: got a sparse tensor", {"log_var": torch.zeros(2, 3, 4, 5, 6).to_sparse()}),
    (TypeError, "target: got torch.int64", {"target": torch.ones(2, 3, 2, dtype=torch.int64)}),
    (TypeError, "weight: got builtins.float", {"weight": 1.0}),
    (TypeError, "weight: got torch.complex64", {"weight": torch.ones(2, 3, dtype=torch.complex64)}),
    *STRIDE_ERRORS,
    (ValueError, "log_var_bounds: got .*, expected low <= high", {"log_var_bounds": (1.0, -1.0)}),
    (ValueError, "log_var_bounds: got .*, expected low <= high", {"log_var_bounds": (math.nan, 1.0)}),
    (TypeError, r"log_var_bounds: got 7, expected \(low, high\)", {"log_var_bounds": 7}),
    (TypeError, "log_var_bounds: got", {"log_var_bounds": (1.0, 2.0, 3.0)}),
    (ValueError, "coordinates: got 'relative', expected one of 'absolute', 'offset'", {"coordinates": "relative"}),
    (ValueError, "reduction: got 'avg', expected one of 'mean', 'none', 'sum', 'mean_valid'", {"reduction": "avg"}),
    (ValueError, "backend: got 'cuda', expected one of", {"backend": "cuda"}),
]  # fmt: skip


@pytest.mark.parametrize(("error", "message", "changes"), ERRORS)
@pytest.mark.parametrize("backend", ["auto", "reference"])
def test_bad_input(error: type[Exception], message: str, changes: dict[str, Any], backend: str) -> None:
    with pytest.raises(error, match=message):
        of(**{"backend": backend, **changes})


def test_defaults_and_numbers_of_any_kind() -> None:
    """Integers and NumPy's float64 are numbers; a list is as good as a tuple."""
    expected = of(stride=4.0, coordinates="absolute", reduction="mean")
    assert torch.equal(of(), expected)
    assert torch.equal(of(stride=4), expected)
    assert torch.equal(of(stride=np.float64(4), log_var_bounds=[-1, 1]), expected)


def test_losses_below_zero_are_not_clamped() -> None:
    """At the mean of four equal components: the log density of one of them."""
    loss = of(mean=torch.ones(2, 3, 4, 2, 5, 6), log_var=torch.full((2, 3, 4, 5, 6), -5.0))
    assert loss.item() == pytest.approx(-5.0 + math.log(2 * math.pi))


def test_many_components() -> None:
    """More than the few that it is made for."""
    logits, mean = torch.randn(1, 1, 100, 1, 1), torch.zeros(1, 1, 100, 2, 1, 1)
    loss = gaussian_mixture_nll(logits, mean, torch.zeros_like(logits), torch.zeros(1, 1, 2))
    assert loss.item() == pytest.approx(math.log(2 * math.pi), rel=1e-5)


def test_reference_takes_the_same_arguments() -> None:
    assert arguments(gaussian_mixture_nll) == arguments(gaussian_mixture_nll_reference)


def test_docstring() -> None:
    """Names every argument, and its example runs."""
    for name in inspect.signature(gaussian_mixture_nll).parameters:
        assert f"    {name}: " in inspect.cleandoc(gaussian_mixture_nll.__doc__)
    assert doctest.testmod(api_mixture).failed == 0
    assert doctest.testmod(api_mixture).attempted > 0
