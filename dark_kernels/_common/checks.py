"""Checks of arguments that rooms share, with one wording: "name: got X, expected Y"."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from typing import Any, get_args, overload

import torch
from torch import Tensor

from ..recipes import Recipe, get
from .names import Coordinates, Encoding, RecipeName, Reduction

DTYPES = (torch.float16, torch.bfloat16, torch.float32, torch.float64)
# Of maps that are read as they are: each number has a float32.
MAP_DTYPES = (*DTYPES, torch.uint8, torch.int8, torch.int16, torch.uint16)
COORDINATES: tuple[Coordinates, ...] = get_args(Coordinates)
ENCODINGS: tuple[Encoding, ...] = get_args(Encoding)
REDUCTIONS: tuple[Reduction, ...] = get_args(Reduction)


def kind_of(value: object) -> str:
    """The type of a value as messages name it."""
    return f"{type(value).__module__}.{type(value).__name__}"


def remedy_for(name: str, value: object) -> str:
    """What makes a tensor or an array of a value that is neither, as the end of a message."""
    if kind_of(value).startswith("numpy.ma"):
        return f"; convert it with {name}.filled(0)"
    if isinstance(value, (list, tuple)) and value:
        if isinstance(value[0], Tensor):
            return f"; convert it with torch.stack({name})"
        return f"; convert it with numpy.asarray({name})"
    if hasattr(value, "__dlpack__") and not kind_of(value).startswith("numpy."):
        return f"; convert it with torch.from_dlpack({name})"
    if hasattr(value, "__array_interface__") or hasattr(value, "__array__"):
        return f"; convert it with numpy.asarray({name})"
    return ""


def check_tensor(name: str, tensor: Tensor, dim: int, shape: str, dtypes: tuple[torch.dtype, ...] = DTYPES) -> None:
    """A dense tensor of one of these dtypes and of `dim` dimensions, which `shape` names for the message."""
    if not isinstance(tensor, Tensor):
        kind = kind_of(tensor)
        hint = f"; convert it with torch.from_numpy({name})" if kind == "numpy.ndarray" else remedy_for(name, tensor)
        raise TypeError(f"{name}: got {kind}, expected a torch.Tensor{hint}")
    check_dense(name, tensor)
    if tensor.dtype not in dtypes:
        raise TypeError(f"{name}: got {tensor.dtype}, expected one of {', '.join(str(dtype) for dtype in dtypes)}")
    if tensor.dim() != dim:
        raise ValueError(f"{name}: got shape {list(tensor.shape)}, expected {dim} dimensions {shape}")


def check_dense(name: str, tensor: Tensor) -> None:
    """Check that the elements of a tensor lie in memory as its strides say."""
    if tensor.layout != torch.strided or tensor.is_quantized or tensor.is_nested:
        kind, conversion = "a sparse", "to_dense"
        if tensor.is_quantized:
            kind, conversion = "a quantized", "dequantize"
        elif tensor.is_nested:
            kind, conversion = "a nested", "to_padded_tensor"
        elif tensor.is_mkldnn:
            kind = "an mkldnn"
        raise TypeError(
            f"{name}: got {kind} tensor ({tensor.layout}, {tensor.dtype}), expected a dense one; "
            f"convert it with {name}.{conversion}()"
        )


def check_shape(name: str, tensor: Tensor, shape: Sequence[int], what: str) -> None:
    """Check for exactly this shape; `what` it stands for ends the message."""
    if list(tensor.shape) != list(shape):
        raise ValueError(f"{name}: got shape {list(tensor.shape)}, expected {list(shape)}, {what}")


def check_flags(name: str, tensor: Tensor | None, shape: Sequence[int], what: str) -> None:
    """None, or real numbers of any dtype (booleans, visibilities) of this shape."""
    if tensor is None:
        return
    if not isinstance(tensor, Tensor):
        raise TypeError(
            f"{name}: got {type(tensor).__module__}.{type(tensor).__name__}, expected a torch.Tensor or None"
        )
    if tensor.is_complex():
        raise TypeError(f"{name}: got {tensor.dtype}, expected real numbers")
    check_dense(name, tensor)
    check_shape(name, tensor, shape, what)


def check_integers(name: str, tensor: Tensor) -> None:
    """A tensor of integers."""
    if not isinstance(tensor, Tensor):
        raise TypeError(f"{name}: got {type(tensor).__module__}.{type(tensor).__name__}, expected a torch.Tensor")
    if tensor.is_floating_point() or tensor.is_complex() or tensor.dtype == torch.bool:
        raise TypeError(f"{name}: got {tensor.dtype}, expected integers")
    check_dense(name, tensor)


def check_size(name: str, maps: Tensor) -> None:
    """Maps [..., H, W] with at least one cell."""
    if maps.shape[-2] == 0 or maps.shape[-1] == 0:
        raise ValueError(f"{name}: got shape {list(maps.shape)}, expected H >= 1 and W >= 1")


def check_labels(weight_name: str, target: Tensor, weight: Tensor | None, batch: int, num_keypoints: int) -> None:
    """Targets [B, K, 2] and weights [B, K] or None, both constants."""
    check_tensor("target", target, 3, "[B, K, 2]")
    check_shape("target", target, (batch, num_keypoints, 2), "(x, y) of every keypoint")
    check_constant("target", target)
    check_weight(weight_name, weight, (batch, num_keypoints))


def check_weight(name: str, weight: Tensor | None, shape: Sequence[int]) -> None:
    """Real numbers of any dtype, one for each keypoint, or None; a constant."""
    check_flags(name, weight, shape, "one for each keypoint")
    if weight is not None:
        check_constant(name, weight)


@overload
def to_float(numbers: Tensor) -> Tensor: ...
@overload
def to_float(numbers: None) -> None: ...
def to_float(numbers: Tensor | None) -> Tensor | None:
    """Visibilities come as booleans and integers too, and maps as integers."""
    return numbers if numbers is None or numbers.is_floating_point() else numbers.to(torch.float32)


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


def check_maps(heatmaps: Tensor) -> None:
    """Dense maps [B, K, H, W] of at least one pixel, of numbers that are read as they are."""
    check_tensor("heatmaps", heatmaps, 4, "[B, K, H, W]", MAP_DTYPES)
    check_size("heatmaps", heatmaps)


def to_recipe(recipe: Recipe | RecipeName, covariance: bool) -> Recipe:
    """A Recipe or the name of one, of whose stencil a covariance can be had if one is asked for."""
    if not isinstance(recipe, Recipe):
        if not isinstance(recipe, str):
            raise TypeError(
                f"recipe: got {type(recipe).__name__} {recipe!r}, expected a dark_kernels.Recipe such as "
                "dark_kernels.recipes.DARKPOSE, or its name 'darkpose'"
            )
        recipe = get(recipe)
    if not isinstance(covariance, bool):
        raise TypeError(f"covariance: got {covariance!r}, expected True or False")
    if covariance and not recipe.has_hessian:
        raise ValueError(
            f"covariance: got True with recipe {recipe.name!r}, whose stencil {recipe.stencil!r} has no "
            "Hessian; expected stencil 'wide', 'compact', 'fit' or 'gaussian'"
        )
    return recipe


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
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        raise TypeError(f"{name}: got {type(value).__name__} {value!r}, expected a number")
    if not -math.inf < value < math.inf:  # which torch.compile can trace, and math.isfinite not
        raise ValueError(f"{name}: got {value}, expected a finite number")


def check_positive(name: str, value: float) -> None:
    """A finite number above 0."""
    check_number(name, value)
    if not value > 0:
        raise ValueError(f"{name}: got {value}, expected a positive number")


def check_count(name: str, value: int, least: int = 1) -> None:
    """An integer of at least `least`."""
    if isinstance(value, bool) or not isinstance(value, int):
        raise TypeError(f"{name}: got {type(value).__name__} {value!r}, expected an integer")
    if value < least:
        raise ValueError(f"{name}: got {value}, expected at least {least}")


def plain(value: Any) -> Any:
    """The Python number of a NumPy scalar, of an array or a tensor without dimensions, or of what else converts to a
    float; anything else as it is."""
    if isinstance(value, (int, float)):
        return value
    if getattr(value, "ndim", 0) != 0:
        return value
    try:
        if hasattr(value, "dtype") and hasattr(value, "item"):
            value = value.item()
        return value if isinstance(value, int) or not hasattr(value, "__float__") else float(value)
    except (RuntimeError, TypeError, ValueError, OverflowError):  # on the meta device, or no number at all
        return value


def to_number(name: str, value: Any) -> float:
    """`check_number` of what is one in Python, NumPy or PyTorch."""
    value = plain(value)
    check_number(name, value)
    return value


def to_positive(name: str, value: Any) -> float:
    """`check_positive` of what is a number in Python, NumPy or PyTorch."""
    value = plain(value)
    check_positive(name, value)
    return value


def to_count(name: str, value: Any, least: int = 1) -> int:
    """`check_count` of what is an integer in Python, NumPy or PyTorch."""
    value = plain(value)
    check_count(name, value, least)
    return value


def to_partners(symmetric: Any, num_keypoints: int) -> list[int]:
    """Partner of each keypoint [K], itself where it has none: of pairs, or an array or tensor of them,
    [N, 2]."""
    if isinstance(symmetric, (str, dict)) or not isinstance(symmetric, Iterable):
        raise TypeError(f"symmetric: got {type(symmetric).__name__}, expected pairs (i, j) of keypoints")
    pairs = symmetric.tolist() if hasattr(symmetric, "tolist") else symmetric
    partners = list(range(num_keypoints))
    for pair in pairs if isinstance(pairs, Iterable) else [pairs]:
        numbers = pair.tolist() if getattr(pair, "ndim", 0) else pair
        if not isinstance(numbers, (tuple, list)) or len(numbers) != 2:
            raise TypeError(f"symmetric: got {pair!r} in it, expected pairs (i, j) of keypoints")
        i, j = (to_count("symmetric", index, least=0) for index in numbers)
        if max(i, j) >= num_keypoints:
            raise ValueError(f"symmetric: got {max(i, j)}, expected one of {num_keypoints} keypoints")
        if i == j or partners[i] != i or partners[j] != j:
            raise ValueError(f"symmetric: got {pair!r}, expected pairs of keypoints, each of them in one only")
        # Indices may be symbols, which torch.compile of PyTorch 2.8 does not assign to.
        partners = [j if place == i else i if place == j else partner for place, partner in enumerate(partners)]
    return partners


def check_bounds(name: str, bounds: tuple[float, float] | None) -> None:
    """(low, high) with low <= high, either of which may be infinite, or None."""
    if bounds is None:
        return
    if not isinstance(bounds, (tuple, list)) or len(bounds) != 2:
        raise TypeError(f"{name}: got {bounds!r}, expected (low, high) or None")
    low, high = bounds
    if not isinstance(low, (int, float)) or not isinstance(high, (int, float)):
        raise TypeError(f"{name}: got {bounds!r}, expected (low, high), two numbers")
    if not low <= high:
        raise ValueError(f"{name}: got {bounds!r}, expected low <= high")
