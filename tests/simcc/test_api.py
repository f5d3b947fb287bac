"""What users call: bad input, messages, defaults."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
import torch

from dark_kernels import SimCCKeypoints, decode_simcc
from dark_kernels.simcc import decode_simcc_reference

from ..signatures import arguments


def of(**changes: Any) -> SimCCKeypoints:
    arguments: dict[str, Any] = {"simcc_x": torch.rand(2, 3, 8), "simcc_y": torch.rand(2, 3, 9)}
    return decode_simcc(**{**arguments, **changes})


ERRORS = [
    (ValueError, r"simcc_x: got shape \[1, 2, 3, 8\], expected \[B, K, Wx\]", {"simcc_x": torch.rand(1, 2, 3, 8)}),
    (ValueError, r"simcc_y: got .*, expected 3 dimensions \[B, K, Wy\]", {"simcc_y": torch.rand(2, 3, 1, 8)}),
    (ValueError, "simcc_x: got .*, expected at least one bin", {"simcc_x": torch.rand(2, 3, 0)}),
    (ValueError, "simcc_y: got .*, expected at least one bin", {"simcc_y": torch.rand(2, 3, 0)}),
    (ValueError, r"simcc_y: got shape \[2, 4, 9\], expected \[2, 3, Wy\]", {"simcc_y": torch.rand(2, 4, 9)}),
    (ValueError, r"simcc_y: got shape \[1, 3, 9\], expected \[2, 3, Wy\]", {"simcc_y": torch.rand(1, 3, 9)}),
    (ValueError, "simcc_y: got a tensor on meta, expected cpu", {"simcc_y": torch.rand(2, 3, 9, device="meta")}),
    (TypeError, "simcc_y: got builtins.list, .* numpy.asarray", {"simcc_y": [[[1.0]]]}),
    (TypeError, "simcc_y: got torch.int64, expected one of", {"simcc_y": torch.zeros(2, 3, 9, dtype=torch.int64)}),
    (TypeError, "simcc_y: got a sparse tensor", {"simcc_y": torch.rand(2, 3, 9).to_sparse()}),
    (ValueError, "sigma: got None with dark=True, expected the standard deviation", {"dark": True}),
    (ValueError, "sigma: got None with visibility=True, expected", {"visibility": True}),
    (ValueError, r"sigma: got 0.49 with dark=True, expected at least 0.5", {"sigma": 0.49, "dark": True}),
    (ValueError, r"sigma: got \(5, 0.2\) with dark=True, expected at least", {"sigma": (5, 0.2), "dark": True}),
    (ValueError, "sigma: got 0, expected a positive", {"sigma": 0}),
    (ValueError, "sigma: got -1.0, expected a positive", {"sigma": (2.0, -1.0)}),
    (ValueError, "sigma: got nan, expected a finite", {"sigma": (math.nan, 1.0)}),
    (TypeError, r"sigma: got \(1, 2, 3\), expected a number, \(x, y\) or None", {"sigma": (1, 2, 3)}),
    (TypeError, "sigma: got 'xyz', expected a number", {"sigma": "xyz"}),
    (TypeError, "sigma: got str 'x', expected a number", {"sigma": "xy"}),
    (TypeError, "sigma: got bool True, expected a number", {"sigma": True}),
    (TypeError, "dark: got 1, expected True or False", {"dark": 1}),
    (TypeError, "visibility: got None, expected True or False", {"visibility": None}),
    (ValueError, "split_ratio: got 0, expected a positive", {"split_ratio": 0}),
    (ValueError, "split_ratio: got inf, expected a finite", {"split_ratio": math.inf}),
    (TypeError, r"split_ratio: got tuple", {"split_ratio": (2.0, 2.0)}),
    (ValueError, "beta: got -150.0, expected a positive", {"beta": -150.0}),
    (ValueError, "score: got 'max', expected one of 'min', 'mean'", {"score": "max"}),
    (ValueError, "backend: got 'cuda', expected one of", {"backend": "cuda"}),
    (ValueError, "activation: got 'relu', expected one of 'none', 'sigmoid', 'softmax'", {"activation": "relu"}),
    (ValueError, "activation: got None, expected one of", {"activation": None}),
    (ValueError, "logit_scale: got 0, expected a positive number", {"logit_scale": 0}),
    (ValueError, "logit_scale: got -10.0, expected a positive number", {"logit_scale": -10.0}),
    (ValueError, "logit_scale: got inf, expected a finite number", {"logit_scale": math.inf}),
    (ValueError, "logit_scale: got 1e-40, expected a number from 1e-30 to 1e30", {"logit_scale": 1e-40}),
    (TypeError, "logit_scale: got bool True, expected a number", {"logit_scale": True}),
    (TypeError, "logit_scale: got Tensor", {"logit_scale": torch.tensor(10.0)}),
]


@pytest.mark.parametrize(("error", "message", "changes"), ERRORS)
@pytest.mark.parametrize("backend", ["auto", "reference"])
def test_bad_input(error: type[Exception], message: str, changes: dict[str, Any], backend: str) -> None:
    with pytest.raises(error, match=message):
        of(**{"backend": backend, **changes})


def test_sigma_is_a_number_or_two() -> None:
    axes = {"simcc_x": torch.rand(2, 3, 40), "simcc_y": torch.rand(2, 3, 50)}
    for options in ({"dark": True}, {"visibility": True}):
        expected = of(**axes, **options, sigma=(5.0, 5.0))
        for sigma in (5, 5.0, np.float64(5), [5, 5], np.array([5.0, 5.0])):
            for one, other in zip(of(**axes, **options, sigma=sigma), expected, strict=True):
                assert one is other is None or torch.equal(one, other)  # type: ignore[arg-type]
        assert not torch.equal(of(**axes, dark=True, sigma=(5.0, 3.0)).coords, of(**axes, dark=True, sigma=5.0).coords)


def test_a_small_sigma_is_refused_by_the_blur_alone() -> None:
    assert of(sigma=0.1, visibility=True).visibility is not None
    assert of(sigma=0.1).visibility is None


def test_defaults() -> None:
    axes = {"simcc_x": torch.rand(2, 3, 40), "simcc_y": torch.rand(2, 3, 50)}
    actual, expected = of(**axes), of(**axes, split_ratio=1, score="min", backend="eager")
    assert torch.equal(actual.coords, expected.coords)
    assert torch.equal(actual.scores, expected.scores)
    assert actual.visibility is None


@pytest.mark.parametrize("backend", ["eager", "reference"])
def test_the_scale_of_logits_is_one_unless_told(backend: str) -> None:
    axes = {"simcc_x": torch.rand(2, 3, 40), "simcc_y": torch.rand(2, 3, 50), "backend": backend}
    for activation in ("softmax", "sigmoid"):
        expected = of(**axes, activation=activation, logit_scale=1)
        assert torch.equal(of(**axes, activation=activation).scores, expected.scores)
        assert not torch.equal(of(**axes, activation=activation, logit_scale=10).scores, expected.scores)
    assert torch.equal(of(**axes, logit_scale=10).scores, of(**axes).scores)  # there are no logits


def test_what_is_new_has_a_name() -> None:
    with pytest.raises(TypeError, match="positional argument"):
        decode_simcc(torch.rand(1, 1, 4), torch.rand(1, 1, 4), 1.0, False, 1.0, "min", False, 150.0, "auto", "softmax")  # type: ignore[misc]


@pytest.mark.parametrize("backend", ["eager", "reference"])
def test_tensors_that_require_grad(backend: str) -> None:
    simcc_x = torch.rand(2, 3, 8, requires_grad=True)
    for each in of(simcc_x=simcc_x, simcc_y=simcc_x * 2, sigma=1.0, dark=True, visibility=True, backend=backend):
        assert not each.requires_grad


def test_reference_takes_the_same_arguments() -> None:
    assert arguments(decode_simcc) == arguments(decode_simcc_reference)
