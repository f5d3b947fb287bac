"""The checks that rooms share: what they refuse, and with which words. Rooms test them through their functions."""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np
import pytest
import torch

from dark_kernels._common import checks

REFUSED: list[tuple[type[Exception], str, Callable[[], None]]] = [
    (TypeError, "x: got builtins.float, expected a torch.Tensor$", lambda: checks.check_tensor("x", 1.0, 1, "[K]")),
    (TypeError, "x: got a nested tensor",
     lambda: checks.check_tensor("x", torch.nested.nested_tensor([torch.ones(2)], layout=torch.jagged), 2, "[B, K]")),
    (TypeError, "x: got a sparse tensor", lambda: checks.check_tensor("x", torch.ones(2).to_sparse(), 1, "[K]")),
    (TypeError, "x: got torch.bool, expected one of torch.float16",
     lambda: checks.check_tensor("x", torch.ones(2, dtype=torch.bool), 1, "[K]")),
    (ValueError, r"x: got shape \[2\], expected 2 dimensions \[B, K\]",
     lambda: checks.check_tensor("x", torch.ones(2), 2, "[B, K]")),
    (ValueError, r"x: got shape \[2, 0, 3\], expected H >= 1", lambda: checks.check_size("x", torch.ones(2, 0, 3))),
    (ValueError, "x: got a tensor that requires grad",
     lambda: checks.check_constant("x", torch.ones(2, requires_grad=True))),
    (ValueError, r"w: got shape \[3, 2\], expected \[2, 3\], one for each keypoint",
     lambda: checks.check_labels("w", torch.ones(2, 3, 2), torch.ones(3, 2), 2, 3)),
    (TypeError, "w: got torch.complex64, expected real numbers",
     lambda: checks.check_weight("w", torch.ones(2, dtype=torch.complex64), (2,))),
    (ValueError, r"keypoints: got shape \[2, 3, 4\], expected .* \(x, y\) of every",
     lambda: checks.check_keypoints(torch.ones(2, 3, 4), None)),
    (ValueError, r"visible: got shape \[2\], expected \[1, 2, 3\]",
     lambda: checks.check_keypoints(torch.ones(1, 2, 3, 2), torch.ones(2))),
    (ValueError, r"sigma: got shape \[2\], expected a number or \[3\]", lambda: checks.check_sigma(torch.ones(2), 3)),
    (ValueError, "sigma: got -1, expected a positive number", lambda: checks.check_sigma(-1, 3)),
    (ValueError, "z: got a tensor on meta, expected cpu, as x",
     lambda: checks.check_devices(x=torch.ones(1), y=None, z=torch.ones(1, device="meta"))),
    (ValueError, "x: got 'c', expected one of 'a', 'b'", lambda: checks.check_name("x", "c", ("a", "b"))),
    (TypeError, "x: got bool True, expected a number", lambda: checks.check_number("x", True)),
    (ValueError, "x: got -inf, expected a finite number", lambda: checks.check_number("x", -math.inf)),
    (ValueError, "x: got 0.0, expected a positive number", lambda: checks.check_positive("x", 0.0)),
    (TypeError, "x: got float 2.0, expected an integer", lambda: checks.check_count("x", 2.0)),  # type: ignore[arg-type]
    (TypeError, "x: got bool True, expected an integer", lambda: checks.check_count("x", True)),
    (ValueError, "x: got 0, expected at least 1", lambda: checks.check_count("x", 0)),
    (ValueError, "x: got -1, expected at least 0", lambda: checks.check_count("x", -1, least=0)),
    (TypeError, "x: got str '1', expected a number", lambda: checks.to_number("x", "1")),
    (TypeError, r"x: got ndarray array\(\[1\]\), expected a number", lambda: checks.to_number("x", np.array([1]))),
    (TypeError, r"x: got Tensor tensor\(\[1\]\), expected a number", lambda: checks.to_number("x", torch.tensor([1]))),
    (TypeError, "x: got Tensor .*, expected a number", lambda: checks.to_number("x", torch.tensor(1, device="meta"))),
    (TypeError, "x: got complex 1j, expected a number", lambda: checks.to_number("x", np.complex64(1j))),
    (TypeError, "x: got bool True, expected an integer", lambda: checks.to_count("x", np.bool_(True))),
    (ValueError, "x: got nan, expected a finite number", lambda: checks.to_positive("x", np.float32("nan"))),
    (ValueError, "x: got 0, expected a positive number", lambda: checks.to_positive("x", np.uint8(0))),
    (TypeError, r"x: got \(1.0,\), expected \(low, high\) or None", lambda: checks.check_bounds("x", (1.0,))),
    (TypeError, r"x: got \(None, 1\), expected \(low, high\), two", lambda: checks.check_bounds("x", (None, 1))),
    (ValueError, r"x: got \(1, 0\), expected low <= high", lambda: checks.check_bounds("x", (1, 0))),
]  # fmt: skip


@pytest.mark.parametrize(("error", "message", "check"), REFUSED, ids=[message for _, message, _ in REFUSED])
def test_refuses(error: type[Exception], message: str, check: Callable[[], None]) -> None:
    with pytest.raises(error, match=message):
        check()


def test_accepts() -> None:
    for dtype in checks.DTYPES:
        checks.check_tensor("x", torch.ones(2, dtype=dtype), 1, "[K]")
    checks.check_size("x", torch.ones(0, 1, 1))
    checks.check_labels("w", torch.ones(2, 3, 2), torch.ones(2, 3, dtype=torch.bool), 2, 3)
    checks.check_labels("w", torch.ones(2, 3, 2), None, 2, 3)
    checks.check_weight("w", torch.ones(2, dtype=torch.int64), (2,))
    checks.check_keypoints(torch.ones(2, 3, 2), torch.ones(2, 3))
    checks.check_keypoints(torch.ones(2, 4, 3, 2), None)
    checks.check_sigma(torch.ones(3), 3)
    checks.check_sigma(1, 3)
    assert checks.to_float(torch.tensor([True])).dtype == torch.float32
    checks.check_devices(x=torch.ones(1), y=None)
    checks.check_number("x", -1)
    checks.check_count("x", 0, least=0)
    for bounds in (None, (0, 0), [-math.inf, math.inf]):
        checks.check_bounds("x", bounds)
