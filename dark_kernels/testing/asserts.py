"""Assertions on decoded keypoints that say which map is wrong and by how much."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor

from ..decode import reference
from ..recipes import Recipe
from ..types import Keypoints
from .arithmetic import Arithmetic, arithmetic_of
from .tolerances import DecodeBounds, decode_bounds, other_peaks


class Comparison(NamedTuple):
    """Counts what `assert_decodes_like_reference` has compared, so that a test can see that it was something.

    Attributes:
        maps: How many maps there were.
        refined: How many have a valid, finite peak.
        bounded: How many of these have coordinates that are determined to better than 0.01 pixels.
        other_peaks: How many were accepted at another pixel, equally high within rounding, of a blurred map.
    """

    maps: int
    refined: int
    bounded: int
    other_peaks: int


def assert_decodes_like_reference(
    actual: Keypoints,
    heatmaps: Tensor,  # [B, K, H, W]
    recipe: Recipe,
    arithmetic: Arithmetic | None = None,
) -> Comparison:
    """Assert that `actual` is what the float64 reference makes of `heatmaps`, within derived rounding bounds.

    See `dark_kernels.testing.tolerances` for the bounds. Coordinates must be finite (unless the recipe's `invalid`
    is not), and no farther than `max_offset` from the peak if there is one, also where the problem is singular.
    Covariances must be symmetric and positive semi-definite or NaN, and exist where the reference's do.

    Args:
        actual: What a backend returned, on any device.
        heatmaps: What it was given.
        recipe: What it was asked to do. Covariances are compared if `actual` has them.
        arithmetic: What the backend computes in; by default that of eager on the heatmaps' device.

    Returns:
        What was compared.

    Raises:
        AssertionError: A number is off; the message names the first such map.
    """
    arithmetic = arithmetic or arithmetic_of("eager", heatmaps.device.type, heatmaps.dtype)
    out_dtype = torch.float64 if heatmaps.dtype == torch.float64 else torch.float32
    batch, num_keypoints = heatmaps.shape[:2]
    heatmaps = heatmaps.detach().cpu()
    for name, tensor, shape in (
        ("coords", actual.coords, (batch, num_keypoints, 2)),
        ("scores", actual.scores, (batch, num_keypoints)),
        ("covariances", actual.covariances, (batch, num_keypoints, 2, 2)),
    ):
        if tensor is not None:
            assert tuple(tensor.shape) == shape, f"{name}: got shape {list(tensor.shape)}, expected {list(shape)}"
            assert tensor.dtype == out_dtype, f"{name}: got {tensor.dtype}, expected {out_dtype}"
            assert not tensor.requires_grad, f"{name} carries a gradient"
    actual = _each(actual, lambda tensor: tensor.detach().cpu().double())
    if batch == 0 or num_keypoints == 0:
        return Comparison(0, 0, 0, 0)

    covariance = actual.covariances is not None
    expected = Keypoints(*reference.decode_reference(heatmaps.double(), recipe, covariance))
    bounds = decode_bounds(heatmaps, recipe, arithmetic)
    wrong = _wrong(actual, expected, bounds, heatmaps, recipe)
    moved = 0
    for b, k in wrong.nonzero().tolist():
        if _fits_another_peak(actual, heatmaps, recipe, arithmetic, b, k):
            moved += 1
            continue
        one_bound = DecodeBounds(*(each[b, k] for each in bounds))
        raise AssertionError(
            f"{recipe.name}, map [{b}, {k}] of {list(heatmaps.shape)} {heatmaps.dtype}:\n"
            f"got      {_text(actual, b, k)}\nexpected {_text(expected, b, k)}\n"
            f"within   coords {one_bound.coords.tolist()}, score {one_bound.scores.item()}"
            + (f", covariance {one_bound.covariances.tolist()}" if covariance else "")
            + f"\n{recipe}"
        )
    refined = (
        (expected.scores == expected.scores) & (expected.scores.abs() < math.inf) & (_valid_peaks(heatmaps, recipe))
    )
    bounded = refined & (bounds.coords.amax(-1) < 0.01)
    return Comparison(batch * num_keypoints, int(refined.sum()), int(bounded.sum()), moved)


def assert_same_keypoints(actual: Keypoints, expected: Keypoints) -> None:
    """Assert that two results agree to the last bit, dtypes and shapes included; NaN equals NaN."""
    for name, one, other in zip(Keypoints._fields, actual, expected, strict=True):
        if one is None or other is None:
            assert one is other, f"{name}: got {one}, expected {other}"
            continue
        assert one.dtype == other.dtype, f"{name}: got {one.dtype}, expected {other.dtype}"
        assert one.shape == other.shape, f"{name}: got {list(one.shape)}, expected {list(other.shape)}"
        same = (one == other) | (one.isnan() & other.isnan())
        assert bool(same.all()), f"{name}: {int((~same).sum())} of {same.numel()} differ, first {one[~same][0]}"


class assert_unchanged:
    """Context in which not one byte of a tensor's storage may change, also beside what the tensor shows of it."""

    def __init__(self, tensor: Tensor) -> None:
        self._tensor = tensor

    def _bytes(self) -> Tensor:
        storage = self._tensor.untyped_storage()
        return torch.empty(0, dtype=torch.uint8, device=self._tensor.device).set_(storage)

    def __enter__(self) -> None:
        self._before = self._bytes().clone()
        self._meta = (self._tensor.shape, self._tensor.stride(), self._tensor.storage_offset(), self._tensor.dtype)

    def __exit__(self, *exception: object) -> None:
        if exception[0] is not None:
            return
        tensor = self._tensor
        assert self._meta == (tensor.shape, tensor.stride(), tensor.storage_offset(), tensor.dtype)
        changed = self._bytes() != self._before
        assert not bool(changed.any()), f"{int(changed.sum())} bytes of the input were written to"


def _each(keypoints: Keypoints, change: Callable[[Tensor], Tensor]) -> Keypoints:
    coords, scores, covariances = keypoints
    return Keypoints(change(coords), change(scores), None if covariances is None else change(covariances))


def _searched(heatmaps: Tensor, recipe: Recipe) -> Tensor:
    maps = heatmaps.double()
    if recipe.argmax_on != "blurred":
        return maps
    maps = reference.activate(maps, recipe.activation)
    blurred = reference.blur(maps, recipe)
    return reference.rescale(blurred, maps) if recipe.rescale else blurred


def _valid_peaks(heatmaps: Tensor, recipe: Recipe) -> Tensor:
    if recipe.activation != "none":
        largest = heatmaps.double().amax((-2, -1))
        return (largest > -math.inf) & (largest < math.inf)
    peaks, _, _ = reference.find_peak(_searched(heatmaps, recipe))
    return (peaks > 0) & (peaks < math.inf)


def _wrong(actual: Keypoints, expected: Keypoints, bounds: DecodeBounds, heatmaps: Tensor, recipe: Recipe) -> Tensor:
    """Mask of the maps that are off: [B, K]."""
    invalid_is_nan = math.isnan(recipe.invalid)
    off = _exceeds(actual.coords, expected.coords, bounds.coords).any(-1)
    finite = actual.coords.isfinite().all(-1)
    if invalid_is_nan:
        finite = finite | actual.coords.isnan().all(-1)
    elif math.isinf(recipe.invalid):
        finite = finite | (actual.coords == recipe.invalid).all(-1)
    is_invalid = (actual.coords == recipe.invalid).all(-1) | (actual.coords.isnan().all(-1) & invalid_is_nan)
    if recipe.max_offset is not None and recipe.argmax_on == "raw":
        _, x, y = reference.find_peak(heatmaps.double())
        peaks = torch.stack([x, y], -1).double()
        allowed = recipe.max_offset + torch.finfo(torch.float32).eps * (peaks + recipe.max_offset)
        off = off | (((actual.coords - peaks).abs() > allowed).any(-1) & ~is_invalid)
    # Where the sign of a peak is open, both answers are right.
    off = off & ~(is_invalid & ~bounds.validity_is_certain)
    off = off | ~finite | _exceeds(actual.scores, expected.scores, bounds.scores)
    if actual.covariances is not None and expected.covariances is not None:
        off = off | _exceeds(actual.covariances, expected.covariances, bounds.covariances).any(-1).any(-1)
        off = off | ~_is_covariance_or_nan(actual.covariances)
    return off


def _exceeds(actual: Tensor, expected: Tensor, bound: Tensor) -> Tensor:
    """True where two numbers differ by more than a bound. An infinite bound admits anything, and NaN equals NaN."""
    same = (actual == expected) | (actual.isnan() & expected.isnan())
    return ~(same | ((actual - expected).abs() <= bound) | (bound == math.inf))


def _is_covariance_or_nan(covariances: Tensor) -> Tensor:
    xx, xy, yx, yy = covariances.flatten(-2).unbind(-1)
    # The condition as the backend states it, in its own rounding: xx yy >= xy^2 to two roundings of float32.
    slack = 4 * torch.finfo(torch.float32).eps * (xx * yy).abs()
    is_covariance = (xy == yx) & (xx >= 0) & (yy >= 0) & (xx * yy + slack >= xy * xy) & (xx + yy < math.inf)
    return is_covariance | covariances.flatten(-2).isnan().all(-1)


def _fits_another_peak(
    actual: Keypoints, heatmaps: Tensor, recipe: Recipe, arithmetic: Arithmetic, b: int, k: int
) -> bool:
    """True if the numbers of one map are right for another pixel that rounding may take for its maximum."""
    candidates = other_peaks(heatmaps[b, k], recipe, arithmetic)
    if candidates.numel() < 2:
        return False
    width = heatmaps.shape[-1]
    x, y = (candidates % width)[:, None], (candidates // width)[:, None]
    maps = heatmaps[b, k].expand(candidates.numel(), 1, -1, -1)
    covariance = actual.covariances is not None
    expected = _decode_at(maps.double(), recipe, covariance, x, y)
    bounds = decode_bounds(maps, recipe, arithmetic, peaks_at=(x, y))
    repeated = _each(actual, lambda tensor: tensor[b, k].expand(candidates.numel(), 1, *tensor.shape[2:]))
    return not bool(_wrong(repeated, expected, bounds, maps, recipe).all())


def _decode_at(maps: Tensor, recipe: Recipe, covariance: bool, x: Tensor, y: Tensor) -> Keypoints:
    """Decode by the reference, with maxima at x and y."""
    given, maps = maps, reference.activate(maps, recipe.activation)
    blurred = reference.blur(maps, recipe)
    if recipe.rescale:
        blurred = reference.rescale(blurred, maps)
    searched = blurred if recipe.argmax_on == "blurred" else given
    _, highest_x, highest_y = reference.find_peak(given)
    valued_at = (highest_x, highest_y) if recipe.argmax_on == "matched" else (x, y)
    peaks = reference._read(blurred if searched is blurred else maps, *valued_at, 0, 0)
    largest = peaks if recipe.activation == "none" else given.amax((-2, -1))
    valid = largest > (0 if recipe.activation == "none" else -math.inf)
    refinable = valid & (largest < math.inf)
    coords = torch.stack([x, y], -1).double()
    offset, covariances, refinable = reference.take_step(searched, maps, blurred, x, y, refinable, recipe)
    coords = torch.where(refinable[..., None], coords + offset, coords)
    coords = torch.where(valid[..., None], coords, recipe.invalid)
    if recipe.score == "mass":
        peaks = reference.mass_around(maps, x, y, recipe.mass_radius)
    scores = peaks * recipe.score_scale + recipe.score_offset
    return Keypoints(coords, scores, covariances if covariance else None)


def _text(keypoints: Keypoints, b: int, k: int) -> str:
    text = f"coords {keypoints.coords[b, k].tolist()}, score {keypoints.scores[b, k].item()}"
    return text if keypoints.covariances is None else f"{text}, covariance {keypoints.covariances[b, k].tolist()}"
