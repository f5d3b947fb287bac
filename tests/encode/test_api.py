"""What users call: bad input, messages, defaults."""

from __future__ import annotations

import doctest
import inspect
import math
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from dark_kernels.encode import api, encode, encode_reference

from ..signatures import arguments


def of(**changes: Any) -> tuple[Tensor, Tensor]:
    arguments: dict[str, Any] = {"keypoints": torch.ones(2, 3, 2), "size": (5, 6)}
    return encode(**{**arguments, **changes})


ERRORS = [
    (ValueError, r"keypoints: got shape \[2\], expected 3 dimensions", {"keypoints": torch.ones(2)}),
    (ValueError, r"keypoints: got shape \[2, 3, 3\], expected .* \(x, y\)", {"keypoints": torch.ones(2, 3, 3)}),
    (ValueError, "keypoints: got a tensor that requires grad",
     {"keypoints": torch.ones(2, 3, 2, requires_grad=True)}),
    (TypeError, "keypoints: got torch.int64", {"keypoints": torch.ones(2, 3, 2, dtype=torch.int64)}),
    (TypeError, "keypoints: got torch.int64, expected", {"keypoints": np.ones((2, 3, 2), np.int64)}),
    (ValueError, r"visible: got shape \[2, 1, 3\], expected \[2, 3\]", {"visible": torch.ones(2, 1, 3)}),
    (TypeError, "visible: got builtins.float", {"visible": 1.0}),
    (TypeError, "visible: got torch.complex64", {"visible": torch.ones(2, 3, dtype=torch.complex64)}),
    (ValueError, "visible: got a tensor on meta, expected cpu", {"visible": torch.ones(2, 3, device="meta")}),
    (TypeError, r"size: got 5, expected \(H, W\)", {"size": 5}),
    (TypeError, r"size: got \(5, 6.0\), expected \(H, W\), two integers", {"size": (5, 6.0)}),
    (ValueError, r"size: got \(0, 6\), expected H >= 1", {"size": (0, 6)}),
    (ValueError, "sigma: got 0, expected a positive", {"sigma": 0}),
    (ValueError, "sigma: got nan, expected a finite", {"sigma": math.nan}),
    (TypeError, "sigma: got str '2', expected a number", {"sigma": "2"}),
    (ValueError, r"sigma: got shape \[2\], expected a number or \[3\]", {"sigma": torch.ones(2)}),
    (ValueError, "sigma: got a tensor that requires grad", {"sigma": torch.ones(3, requires_grad=True)}),
    (ValueError, "encoding: got 'msra', expected one of 'unbiased', 'biased', 'udp'", {"encoding": "msra"}),
    (TypeError, "dtype: got torch.int64, expected one of", {"dtype": torch.int64}),
    (ValueError, "backend: got 'cuda', expected one of", {"backend": "cuda"}),
]  # fmt: skip


@pytest.mark.parametrize(("error", "message", "changes"), ERRORS)
@pytest.mark.parametrize("backend", ["auto", "reference"])
def test_bad_input(error: type[Exception], message: str, changes: dict[str, Any], backend: str) -> None:
    with pytest.raises(error, match=message):
        of(**{"backend": backend, **changes})


def test_defaults_and_numbers_of_any_kind() -> None:
    expected = of(sigma=2.0, encoding="unbiased", dtype=torch.float32)
    for changes in ({}, {"sigma": 2}, {"sigma": np.float64(2)}, {"size": [5, 6]}, {"sigma": torch.full((3,), 2.0)}):
        for one, other in zip(of(**changes), expected, strict=True):
            assert torch.equal(one, other)


def test_reference_takes_the_same_arguments() -> None:
    assert arguments(encode) == arguments(encode_reference)


def test_docstring() -> None:
    """Names every argument, and its example runs."""
    for name in inspect.signature(encode).parameters:
        assert f"    {name}: " in inspect.cleandoc(encode.__doc__)
    assert doctest.testmod(api).failed == 0
    assert doctest.testmod(api).attempted > 0
