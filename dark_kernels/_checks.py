"""Checks of arguments that rooms share, with one wording: "name: got X, expected Y"."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor

DTYPES = (torch.float16, torch.bfloat16, torch.float32, torch.float64)
COORDINATES = ("absolute", "offset")
ENCODINGS = ("unbiased", "biased", "udp")
REDUCTIONS = ("mean", "none", "sum", "mean_valid")


def check_tensor(name: str, tensor: Tensor, dim: int, shape: str) -> None:
    """A dense floating tensor of `dim` dimensions, which `shape` names for the message."""
    if not isinstance(tensor, Tensor):
        kind = f"{type(tensor).__module__}.{type(tensor).__name__}"
        hint = f"; convert it with torch.from_numpy({name})" if kind == "numpy.ndarray" else ""
        raise TypeError(f"{name}: got {kind}, expected a torch.Tensor{hint}")
    if tensor.layout != torch.strided or tensor.is_quantized or tensor.is_nested:
        kind = "a quantized" if tensor.is_quantized else "a nested" if tensor.is_nested else "a sparse"
        raise TypeError(f"{name}: got {kind} tensor ({tensor.layout}, {tensor.dtype}), expected a dense one")
    if tensor.dtype not in DTYPES:
        raise TypeError(f"{name}: got {tensor.dtype}, expected one of {', '.join(str(dtype) for dtype in DTYPES)}")
    if tensor.dim() != dim:
        raise ValueError(f"{name}: got shape {list(tensor.shape)}, expected {dim} dimensions {shape}")


def check_size(name: str, maps: Tensor) -> None:
    """Maps [..., H, W] with at least one cell."""
    if maps.shape[-2] == 0 or maps.shape[-1] == 0:
        raise ValueError(f"{name}: got shape {list(maps.shape)}, expected H >= 1 and W >= 1")


def check_labels(weight_name: str, target: Tensor, weight: Tensor | None, batch: int, num_keypoints: int) -> None:
    """Targets [B, K, 2] and weights [B, K] or None, both constants."""
    check_tensor("target", target, 3, "[B, K, 2]")
    if target.shape != (batch, num_keypoints, 2):
        raise ValueError(
            f"target: got shape {list(target.shape)}, expected [{batch}, {num_keypoints}, 2], (x, y) of every keypoint"
        )
    check_constant("target", target)
    check_weight(weight_name, weight, (batch, num_keypoints))


def check_weight(name: str, weight: Tensor | None, shape: tuple[int, ...]) -> None:
    """Real numbers of any dtype, one for each keypoint, or None; a constant."""
    if weight is None:
        return
    if not isinstance(weight, Tensor):
        raise TypeError(
            f"{name}: got {type(weight).__module__}.{type(weight).__name__}, expected a torch.Tensor or None"
        )
    if weight.is_complex():
        raise TypeError(f"{name}: got {weight.dtype}, expected real numbers")
    if weight.shape != shape:
        raise ValueError(f"{name}: got shape {list(weight.shape)}, expected {list(shape)}, one for each keypoint")
    check_constant(name, weight)


def to_float(weight: Tensor | None) -> Tensor | None:
    """Visibilities come as booleans and integers too."""
    return weight if weight is None or weight.is_floating_point() else weight.to(torch.float32)


def check_keypoints(keypoints: Tensor, visible: Tensor | None) -> None:
    """Keypoints [B, K, 2] or [B, N, K, 2] and their visibilities or None, all constants."""
    crowd = isinstance(keypoints, Tensor) and keypoints.dim() == 4
    check_tensor("keypoints", keypoints, 4 if crowd else 3, "[B, K, 2] or [B, N, K, 2]")
    if keypoints.shape[-1] != 2:
        raise ValueError(
            f"keypoints: got shape {list(keypoints.shape)}, expected [B, K, 2] or [B, N, K, 2], (x, y) of every "
            "keypoint"
        )
    check_constant("keypoints", keypoints)
    check_weight("visible", visible, tuple(keypoints.shape[:-1]))


def check_sigma(sigma: float | Tensor, num_keypoints: int) -> None:
    """A positive number, or a constant [K]."""
    if not isinstance(sigma, Tensor):
        check_positive("sigma", sigma)
        return
    check_tensor("sigma", sigma, 1, "[K]")
    if sigma.shape != (num_keypoints,):
        raise ValueError(
            f"sigma: got shape {list(sigma.shape)}, expected a number or [{num_keypoints}], one for each keypoint"
        )
    check_constant("sigma", sigma)


def check_constant(name: str, tensor: Tensor) -> None:
    """A tensor for which a loss has no gradient."""
    if tensor.requires_grad:
        raise ValueError(
            f"{name}: got a tensor that requires grad, expected a constant; the loss has no gradient for it "
            f"(take {name}.detach())"
        )


def check_devices(**tensors: Tensor | None) -> None:
    """All on the device of the first."""
    (first_name, first), *others = [(name, tensor) for name, tensor in tensors.items() if tensor is not None]
    for name, tensor in others:
        if tensor.device != first.device:
            raise ValueError(f"{name}: got a tensor on {tensor.device}, expected {first.device}, as {first_name}")


def check_name(argument: str, value: str, allowed: Sequence[str]) -> None:
    """One of the allowed names."""
    if value not in allowed:
        raise ValueError(f"{argument}: got {value!r}, expected one of {', '.join(map(repr, allowed))}")


def check_number(name: str, value: float) -> None:
    """A finite number, which a bool and a tensor are not."""
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise TypeError(f"{name}: got {type(value).__name__} {value!r}, expected a number")
    if not -math.inf < value < math.inf:  # which torch.compile can trace, and math.isfinite not
        raise ValueError(f"{name}: got {value}, expected a finite number")


def check_positive(name: str, value: float) -> None:
    """A finite number above 0."""
    check_number(name, value)
    if not value > 0:
        raise ValueError(f"{name}: got {value}, expected a positive number")


def check_bounds(name: str, bounds: tuple[float, float] | None) -> None:
    """(low, high) with low <= high, either of which may be infinite, or None."""
    if bounds is None:
        return
    if not isinstance(bounds, tuple | list) or len(bounds) != 2:
        raise TypeError(f"{name}: got {bounds!r}, expected (low, high) or None")
    low, high = bounds
    if not low <= high:
        raise ValueError(f"{name}: got {bounds!r}, expected low <= high")
