"""What users call: bad input, messages, defaults."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
import torch

from dark_kernels import soft_argmax
from dark_kernels.soft_argmax import soft_argmax_reference

from ..signatures import arguments

ERRORS = [
    (ValueError, r"heatmaps: got shape \[4\], expected \[B, K, H, W\]", {"heatmaps": torch.rand(4)}),
    (ValueError, "heatmaps: got .*, expected H >= 1 and W >= 1", {"heatmaps": torch.rand(2, 3, 0, 4)}),
    (TypeError, "heatmaps: got torch.int64, expected", {"heatmaps": np.zeros((1, 1, 2, 2), np.int64)}),
    (TypeError, "heatmaps: got torch.int64", {"heatmaps": torch.zeros(1, 1, 2, 2, dtype=torch.int64)}),
    (TypeError, "heatmaps: got a sparse tensor", {"heatmaps": torch.rand(1, 1, 2, 2).to_sparse()}),
    (ValueError, "beta: got 0, expected a positive", {"beta": 0}),
    (ValueError, "beta: got -1.0, expected a positive", {"beta": -1.0}),
    (ValueError, "beta: got nan, expected a finite", {"beta": math.nan}),
    (ValueError, "beta: got inf, expected a finite", {"beta": math.inf}),
    (TypeError, "beta: got Tensor .*, expected a number", {"beta": torch.tensor(2.0)}),
    (ValueError, "backend: got 'cuda', expected one of", {"backend": "cuda"}),
]


@pytest.mark.parametrize(("error", "message", "changes"), ERRORS)
@pytest.mark.parametrize("backend", ["auto", "reference"])
def test_bad_input(error: type[Exception], message: str, changes: dict[str, Any], backend: str) -> None:
    with pytest.raises(error, match=message):
        soft_argmax(**{"heatmaps": torch.rand(1, 2, 3, 4), "backend": backend, **changes})


def test_defaults_and_numbers_of_any_kind() -> None:
    heatmaps = torch.rand(2, 3, 4, 5)
    expected = soft_argmax(heatmaps, 1.0, "eager")
    for beta in ({}, {"beta": 1}, {"beta": np.float64(1)}):
        assert torch.equal(soft_argmax(heatmaps, **beta), expected)


def test_reference_takes_the_same_arguments() -> None:
    assert arguments(soft_argmax) == arguments(soft_argmax_reference)
