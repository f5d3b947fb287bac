"""Plans for decode in eager: everything that follows from shape, layout and recipe.

Index and weight tensors, made once for all calls that share them.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from ..recipes import OperatorRecipe

# Elements of a group of rows whose maximum is taken at once: long enough to vectorise over, short enough to
# search again. Vector reductions take 32 floats a step, and on halves pay more for each group.
_GROUP_SIZE, _GROUP_SIZE_OF_HALVES = 192, 576
_GROUP_STEP = 32

# What UDP's published code adds to the diagonal of the Hessian: float32 machine epsilon.
_COMPACT_EPSILON = 1.1920929e-7

# stencil -> for each point (dy, dx) that it reads, its weights in dx, dy, dxx, dyy and dxy.
_WIDE: dict[tuple[int, int], tuple[float, ...]] = {
    (0, 0): (0, 0, -1 / 2, -1 / 2, 0),
    (0, 1): (1 / 2, 0, 0, 0, 0),
    (0, -1): (-1 / 2, 0, 0, 0, 0),
    (1, 0): (0, 1 / 2, 0, 0, 0),
    (-1, 0): (0, -1 / 2, 0, 0, 0),
    (0, 2): (0, 0, 1 / 4, 0, 0),
    (0, -2): (0, 0, 1 / 4, 0, 0),
    (2, 0): (0, 0, 0, 1 / 4, 0),
    (-2, 0): (0, 0, 0, 1 / 4, 0),
    (1, 1): (0, 0, 0, 0, 1 / 4),
    (-1, 1): (0, 0, 0, 0, -1 / 4),
    (1, -1): (0, 0, 0, 0, -1 / 4),
    (-1, -1): (0, 0, 0, 0, 1 / 4),
}
_COMPACT: dict[tuple[int, int], tuple[float, ...]] = {
    (0, 0): (0, 0, -2, -2, 1),
    (0, 1): (1 / 2, 0, 1, 0, -1 / 2),
    (0, -1): (-1 / 2, 0, 1, 0, -1 / 2),
    (1, 0): (0, 1 / 2, 0, 1, -1 / 2),
    (-1, 0): (0, -1 / 2, 0, 1, -1 / 2),
    (1, 1): (0, 0, 0, 0, 1 / 2),
    (-1, -1): (0, 0, 0, 0, 1 / 2),
}
# The last two where nothing can be fitted.
_STENCILS = {"wide": _WIDE, "compact": _COMPACT, "fit": _WIDE, "gaussian": _WIDE}

# Of the derivatives 0 to 4 (dx, dy, dxx, dyy, dxy), the factors of six products: the differences of the first
# three and the last three are dxy dy - dyy dx, dxy dx - dxx dy and dxx dyy - dxy dxy, which by Cramer's rule are
# the numerators of the step's x and y and their common denominator.
_CRAMER = ((4, 4, 2, 3, 2, 4), (1, 0, 3, 0, 1, 4))

# Standard deviation in pixels of the window in which a fit starts: this share of its radius, but no less than a pixel.
_FIT_START = 0.22

# Up to how far a blob is fitted to pixels on each axis, in units of its expected standard deviation.
_BLOB_REACH = 2.8

# The exponents of x and y in a fit's terms.
_FIT_TERMS = ((0, 0), (1, 0), (0, 1), (2, 0), (1, 1), (0, 2))


class Equations(NamedTuple):
    """The least squares of a sum of T terms over P pixels: what weights and weighted logs are summed with."""

    terms: Tensor  # [P, T]
    products: Tensor  # [P, T (T + 1) / 2]: of each term with itself and those behind it
    places: Tensor  # [T (T + 1)]: of the equations' numbers, right side last, among the sums of products and of terms


class Patch(NamedTuple):
    """Pixels around a peak."""

    rows: Tensor  # [H, side]: those around a peak in that row, held inside the map, in elements from its first pixel
    columns: Tensor  # [W, side]
    rows_exist: Tensor  # [H, side]
    columns_exist: Tensor  # [W, side]


class FitPlan(NamedTuple):
    """Pixels that a Gaussian is fitted to around a peak, and the equations."""

    patch: Patch
    start: Tensor  # [side * side]: what the first weights are multiplied with
    round: Equations  # of four terms: its squares have one factor
    any: Equations  # of six, see _FIT_TERMS


class BlobPlan(NamedTuple):
    """Pixels that a blob is fitted to around a peak, and the equations."""

    patch: Patch
    distance: Tensor  # [side, 1]
    equations: Equations  # of the four terms of a round Gaussian


class StencilPlan(NamedTuple):
    """Blur around a peak, and step from it. Offsets are in elements from the tensor's first pixel."""

    extent: int  # as in Plan
    window_starts: Tensor  # [N]: the first pixel of each peak's map
    window_rows: Tensor  # [H, window rows]: the rows of the window of a peak in that row
    window_columns: Tensor  # [W]: its first column
    vertical: Tensor  # [H, 2 * reach + 1, window rows]: see _window_weights
    horizontal: Tensor  # [W, 2 * reach + 1, window columns]
    points: Tensor  # where the stencil's points lie in its square
    derivative_weights: Tensor  # [5, points]
    epsilon: Tensor | None  # [5, 1]: added to the derivatives for the step
    left_factors: Tensor  # [6]: see _CRAMER
    right_factors: Tensor  # [6]
    fit: FitPlan | None
    blob: BlobPlan | None


class Plan(NamedTuple):
    """Index and weight tensors of one shape, layout and recipe."""

    extent: int  # elements from the first pixel of the first map to the last of the last, both counted
    rows: int  # in a group whose maximum is taken at once
    grouped_shape: tuple[int, ...]  # [B, K, groups, rows, W]
    map_starts: Tensor  # [N], in elements from the tensor's first pixel
    group_step: int  # from one group of a map to the next
    line_starts: Tensor | None  # [rows] from the group's start, or None where a group is one line
    stencil: StencilPlan | None  # None for recipes that take no Taylor step


def make_plan(maps: Tensor, recipe: OperatorRecipe) -> Plan:
    """Plan calls on maps of this shape, layout and device."""
    # A tensor made while a CUDA graph is captured belongs to that graph, so only plans on CPU are kept.
    make = _kept_plan if maps.device.type == "cpu" else _make_plan
    return make(maps.shape, maps.stride(), recipe, maps.dtype, maps.device)


def _make_plan(
    shape: torch.Size,
    strides: tuple[int, ...],
    recipe: OperatorRecipe,
    dtype: torch.dtype,
    device: torch.device,
) -> Plan:
    batch, num_keypoints, height, width = shape
    stride_b, stride_k, stride_h, stride_w = strides

    def count(size: int) -> Tensor:
        return torch.arange(size, device=device)

    map_starts = ((count(batch) * stride_b)[:, None] + count(num_keypoints) * stride_k).view(-1)
    rows = rows_per_group(height, width, dtype)
    one_line = rows == 1 or stride_h == width * stride_w
    return Plan(
        extent=1 + sum((size - 1) * stride for size, stride in zip(shape, strides, strict=True)),
        rows=rows,
        grouped_shape=(batch, num_keypoints, height // rows, rows, width),
        map_starts=map_starts,
        group_step=rows * stride_h,
        line_starts=None if one_line else count(rows) * stride_h,
        stencil=_make_stencil_plan(map_starts, shape, strides, recipe, dtype) if recipe.stencil in _STENCILS else None,
    )


@functools.lru_cache(maxsize=32)
def rows_per_group(height: int, width: int, dtype: torch.dtype) -> int:
    """Count the rows of a map of that shape whose maxima are taken at once."""
    group_size = _GROUP_SIZE_OF_HALVES if dtype.itemsize == 2 else _GROUP_SIZE
    divisors = [rows for rows in range(1, height + 1) if height % rows == 0]
    long_enough = [rows for rows in divisors if rows * width >= group_size] or [height]
    return next((rows for rows in long_enough if rows * width % _GROUP_STEP == 0), long_enough[0])


def _make_stencil_plan(
    map_starts: Tensor,
    shape: torch.Size,
    strides: tuple[int, ...],
    recipe: OperatorRecipe,
    dtype: torch.dtype,
) -> StencilPlan:
    device, (height, width) = map_starts.device, shape[2:]
    window_dtype = torch.float64 if dtype == torch.float64 else torch.float32
    step_dtype = torch.float64 if device.type == "cpu" else window_dtype  # not every accelerator has float64

    stencil, taps, padding = recipe.stencil, recipe.taps, recipe.padding
    points, needs_room = _STENCILS[stencil], stencil != "compact"
    reach = max(dy for dy, _ in points)
    side = 2 * reach + 1
    half_window = len(taps) - 1 + reach
    rows, columns = (_windows(size, half_window, device) for size in (height, width))
    vertical = _window_weights(rows, reach, needs_room, taps, padding, window_dtype)
    horizontal = _window_weights(columns, reach, needs_room, taps, padding, window_dtype)
    weights = [weight for row in points.values() for weight in row]
    left_factors, right_factors = (on_device(factors, torch.int64, device) for factors in _CRAMER)
    epsilon = None
    if stencil == "compact":
        epsilon = on_device([0.0, 0.0, _COMPACT_EPSILON, _COMPACT_EPSILON, 0.0], step_dtype, device).view(5, 1)
    return StencilPlan(
        extent=1 + sum((size - 1) * stride for size, stride in zip(shape, strides, strict=True)),
        window_starts=map_starts,
        window_rows=rows * strides[2],
        window_columns=columns[:, 0] * strides[3],
        vertical=vertical,
        horizontal=horizontal,
        points=on_device([(dy + reach) * side + dx + reach for dy, dx in points], torch.int64, device),
        derivative_weights=on_device(weights, step_dtype, device).view(len(points), 5).t().contiguous(),
        epsilon=epsilon,
        left_factors=left_factors,
        right_factors=right_factors,
        fit=_make_fit_plan(shape, strides, recipe.fit_radius, step_dtype, device) if stencil == "fit" else None,
        blob=_make_blob_plan(shape, strides, recipe.blob_sigma, window_dtype, device)
        if stencil == "gaussian"
        else None,
    )


def _make_fit_plan(
    shape: torch.Size, strides: tuple[int, ...], radius: int, dtype: torch.dtype, device: torch.device
) -> FitPlan:
    terms = _make_terms(radius, dtype, device)
    squares = terms[3] + terms[5]
    return FitPlan(
        patch=_make_patch(shape, strides, radius, device),
        start=torch.exp(squares / (-2 * max(_FIT_START * radius, 1.0) ** 2)),
        round=_make_equations([*terms[:3], squares]),
        any=_make_equations(terms),
    )


def _make_blob_plan(
    shape: torch.Size, strides: tuple[int, ...], sigma: float, dtype: torch.dtype, device: torch.device
) -> BlobPlan:
    radius = math.ceil(_BLOB_REACH * sigma)
    terms = _make_terms(radius, dtype, device)
    return BlobPlan(
        patch=_make_patch(shape, strides, radius, device),
        distance=torch.arange(-radius, radius + 1, dtype=dtype, device=device).unsqueeze(1),
        equations=_make_equations([*terms[:3], terms[3] + terms[5]]),
    )


def _make_patch(shape: torch.Size, strides: tuple[int, ...], radius: int, device: torch.device) -> Patch:
    distance = torch.arange(-radius, radius + 1, device=device)
    rows, columns = (torch.arange(size, device=device)[:, None] + distance for size in shape[2:])
    return Patch(
        rows=rows.clamp(0, shape[2] - 1) * strides[2],
        columns=columns.clamp(0, shape[3] - 1) * strides[3],
        rows_exist=(rows >= 0) & (rows < shape[2]),
        columns_exist=(columns >= 0) & (columns < shape[3]),
    )


def _make_terms(radius: int, dtype: torch.dtype, device: torch.device) -> list[Tensor]:
    distance = torch.arange(-radius, radius + 1, device=device)
    powers = (distance[:, None] ** torch.arange(3, device=device)).to(dtype)
    return [(powers[:, y, None] * powers[:, x]).view(-1) for x, y in _FIT_TERMS]


def _make_equations(terms: list[Tensor]) -> Equations:
    count = len(terms)
    pairs = [(i, j) for i in range(count) for j in range(i, count)]
    places = []
    for i in range(count):
        places += [pairs.index((min(i, j), max(i, j))) for j in range(count)] + [len(pairs) + i]
    products = torch.stack([terms[i] * terms[j] for i, j in pairs], 1)
    return Equations(torch.stack(terms, 1), products, on_device(places, torch.int64, products.device))


_kept_plan = functools.lru_cache(maxsize=32)(_make_plan)


def on_device(numbers: Sequence[float], dtype: torch.dtype, device: torch.device) -> Tensor:
    """A small constant tensor. Filled on the device: a copy from the host would make it wait."""
    return torch.cat([torch.full((1,), number, dtype=dtype, device=device) for number in numbers])


def _windows(size: int, reach: int, device: torch.device) -> Tensor:
    """For each pixel of an axis, the pixels up to `reach` from it: [size, window].

    Near a border the window is moved inside the map, and then shows others as well.
    """
    window = min(size, 2 * reach + 1)
    first = (torch.arange(size, device=device) - reach).clamp_(0, size - window)
    return first[:, None] + torch.arange(window, device=device)


def _window_weights(
    windows: Tensor, reach: int, needs_room: bool, taps: tuple[float, ...], padding: str, dtype: torch.dtype
) -> Tensor:
    """Blur along one axis, as a small matrix for each place a peak can have: [size, 2 * reach + 1, window].

    Row s of the matrix of peak p gives the blur at pixel p + s - reach, held inside the map, from the pixels
    `windows[p]`. Where a stencil that needs room would leave the map the matrix is NaN: the step then is not
    finite, and the peak stays where it is.
    """
    (size, window), radius, device = windows.shape, len(taps) - 1, windows.device
    peak = torch.arange(size, device=device)
    points = (peak[:, None] + torch.arange(-reach, reach + 1, device=device)).clamp_(0, size - 1)
    seen = points[..., None] + torch.arange(-radius, radius + 1, device=device)
    weights = on_device([*taps[:0:-1], *taps], dtype, device).expand(seen.shape)
    if padding == "zeros":
        weights = weights * ((seen >= 0) & (seen < size))
    index = (reflected(seen, size, padding) - windows[:, :1, None]).clamp_(0, window - 1)
    matrices = torch.zeros(*points.shape, window, dtype=dtype, device=device).scatter_add_(-1, index, weights)
    if needs_room:
        inside = (peak >= reach) & (peak < size - reach)
        matrices = torch.where(inside[:, None, None], matrices, math.nan)
    return matrices


def reflected(index: Tensor, size: int, padding: str) -> Tensor:
    """The pixel of a row of `size` whose value stands at `index`, which may lie outside; "zeros" clamps."""
    if padding == "reflect":
        index = index.remainder(max(2 * size - 2, 1))
        return torch.minimum(index, (2 * size - 2 - index).clamp_(min=0))
    if padding == "symmetric":
        index = index.remainder(2 * size)
        return torch.minimum(index, 2 * size - 1 - index)
    return index.clamp(0, size - 1)


def evenly(count: int, most: int, multiple: int = 1) -> int:
    """Size of each part where as few parts as possible have no more than `most`, a multiple of another number.

    At least one multiple; the last part takes what is left.
    """
    parts = max(1, math.ceil(count / most))
    return max(1, math.ceil(count / (parts * multiple))) * multiple
