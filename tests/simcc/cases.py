"""Calls of decode_simcc, and how far a backend's numbers may be from those of the reference in float64.

The bounds are derived as in `dark_kernels.testing.tolerances`, whose notation this has, in one dimension: u is the unit
roundoff, h the raw axis, p its peak, b the blurred one, s the scale, L = log(clip(s b)).

1. A blurred bin is a sum of k products of rounded weights with h - p (p off the ends), added to p: with
   A = blur(|h - p|), |db| <= (k + 3) u A + u |b|, and (6 + 2 E) u A more where weights are computed with exp2 of up to
   E nats. Nothing is lost where A = 0. The reference blurs h itself.
2. The scale is that of the largest of b - |db| to b + |db| over the whole axis, with three roundings.
3. dL is |db| / (b - |db|) where no clip can bind, else the distance to the farthest log in the interval. The log itself
   is good to 8 u (1 + |L| + |L_0|), and as a log of a ratio near 1 to 8 u |L - L_0|.
4. With first and second derivative f and g, d(f / g) <= (df + |f / g| dg) / (|g| - dg), infinite if dg >= |g| / 2.

With an activation h and p are what it makes of the logits, with errors of its own. exp(t) of a rounded t is good to
(4 |t| + 8) u, and a sigmoid to 1 - h times that and 4 u. A softmax's terms have such an error each, which 1 blurs with
the bins, and their sum one for all bins together: no difference of logs sees that, only 2.
"""

from __future__ import annotations

import dataclasses
import math
from typing import Any, NamedTuple

import torch
from hypothesis import strategies as st
from torch import Tensor

from dark_kernels import SimCCKeypoints, decode_simcc, testing
from dark_kernels.recipes import opencv_taps, simcc_kernel_size
from dark_kernels.simcc import decode_simcc_reference
from dark_kernels.simcc.reference import blur

CLIP_MIN, CLIP_MAX = 1e-3, 50.0
# Most of what an axis can hold is no keypoint, and a keypoint takes two of them that are.
_KINDS = (*sorted(testing.VALUE_KINDS), *("blob", "noisy_blob", "noise", "weak_blob", "strong_blob", "plateau") * 4)


@dataclasses.dataclass(frozen=True)
class Case:
    """One call. The axes are made from the other fields, so that a failing example prints small."""

    kinds: tuple[str, ...] = ("noisy_blob", "blob", "weak_blob")
    shape: tuple[int, int] = (2, 3)
    widths: tuple[int, int] = (40, 57)
    dtypes: tuple[torch.dtype, torch.dtype] = (torch.float32, torch.float32)
    layout: str = "contiguous"
    seed: int = 0
    sigma: float | tuple[float, float] = (2.0, 3.1)
    dark: bool = True
    split_ratio: float = 2.0
    score: str = "min"
    visibility: bool = True
    beta: float = 15.0
    activation: str = "none"
    logit_scale: float = 1.0

    def axes(self, device: torch.device | str = "cpu") -> tuple[Tensor, Tensor]:
        """simcc_x and simcc_y, of which the second is another draw."""
        return tuple(  # type: ignore[return-value]
            make_axis(self.kinds, self.shape, width, dtype, self.layout, 2 * self.seed + i, device)
            for i, (width, dtype) in enumerate(zip(self.widths, self.dtypes, strict=True))
        )

    @property
    def options(self) -> dict[str, Any]:
        names = ("sigma", "dark", "split_ratio", "score", "visibility", "beta", "activation", "logit_scale")
        return {name: getattr(self, name) for name in names}


def make_axis(
    kinds: tuple[str, ...],
    shape: tuple[int, int],
    width: int,
    dtype: torch.dtype = torch.float32,
    layout: str = "contiguous",
    seed: int = 0,
    device: torch.device | str = "cpu",
) -> Tensor:
    """[B, K, W] of what heatmaps of one row can hold, laid out as heatmaps can be."""
    maps = testing.heatmaps_of_kinds(kinds, *shape, 1, width, seed=seed, dtype=torch.float64)
    return testing.with_layout(maps.to(device, dtype), layout)[:, :, 0]


@st.composite
def cases(
    draw: st.DrawFn,
    max_keypoints: int = 8,
    dtypes: tuple[torch.dtype, ...] = (torch.float32,),
    activations: tuple[str, ...] = ("none",),
) -> Case:
    """Any call, small."""
    sigmas = st.sampled_from((0.5, 0.7, 1.0, 1.5, 1.9, 2.2, 4.9, 5.66))
    widths = st.sampled_from((1, 2, 3, 4, 5, 8, 15, 16, 17, 40, 63, 64, 130))
    batch = draw(st.sampled_from((1, 2, 0)))
    return Case(
        kinds=tuple(draw(st.lists(st.sampled_from(_KINDS), min_size=1, max_size=4))),
        shape=(batch, draw(st.integers(0, max_keypoints // max(batch, 1)))),
        widths=(draw(widths), draw(widths)),
        dtypes=(draw(st.sampled_from(dtypes)), draw(st.sampled_from(dtypes))),
        layout=draw(st.sampled_from(sorted(testing.LAYOUTS))),
        seed=draw(st.integers(0, 2**16)),
        sigma=draw(st.one_of(sigmas, st.tuples(sigmas, sigmas))),
        dark=draw(st.sampled_from((True, True, False))),
        split_ratio=draw(st.sampled_from((1.0, 2.0, 3.0))),
        score=draw(st.sampled_from(("min", "mean"))),
        visibility=draw(st.booleans()),
        beta=draw(st.sampled_from((150.0, 1.0))),
        activation=draw(st.sampled_from(activations)),
        logit_scale=draw(st.sampled_from((10.0, 1.0, 40.0))) if activations != ("none",) else 1.0,
    )


class Comparison(NamedTuple):
    """How many keypoints were valid, and of how many the coordinates are determined to better than 0.01 bins."""

    valid: int
    bounded: int


def assert_like_truth(case: Case, backend: str, device: torch.device | str = "cpu") -> Comparison:
    """Assert that a backend is within its bounds, and that everything about its output is as documented."""
    simcc_x, simcc_y = case.axes(device)
    with testing.assert_unchanged(simcc_x), testing.assert_unchanged(simcc_y):
        actual = decode_simcc(simcc_x, simcc_y, **case.options, backend=backend)
    return assert_within_bounds(actual, simcc_x, simcc_y, case, backend)


def assert_within_bounds(
    actual: SimCCKeypoints, simcc_x: Tensor, simcc_y: Tensor, case: Case, backend: str
) -> Comparison:
    device_type = simcc_x.device.type
    axes = simcc_x.cpu(), simcc_y.cpu()
    dtype = torch.float64 if torch.float64 in (simcc_x.dtype, simcc_y.dtype) else torch.float32
    shape = tuple(axes[0].shape[:2])
    assert (actual.visibility is not None) == case.visibility
    for name, output, expected_shape in (
        ("coords", actual.coords, (*shape, 2)),
        ("scores", actual.scores, shape),
        ("visibility", actual.visibility, shape),
    ):
        if output is not None:
            assert tuple(output.shape) == expected_shape, name
            assert output.dtype == dtype, name
            assert output.is_contiguous(), name
            assert not output.requires_grad, name
    if 0 in shape:
        return Comparison(0, 0)
    coords, scores, visibility = (None if each is None else each.cpu().double() for each in actual)
    assert coords.isfinite().all()
    expected = decode_simcc_reference(*(axis.double() for axis in axes), **case.options)
    bounds = _bounds(axes, expected, case, testing.arithmetic_of(backend, device_type, dtype), backend != "reference")
    for name, one, other, bound in zip(
        ("coords", "scores", "visibility"), (coords, scores, visibility), expected, bounds, strict=True
    ):
        if one is not None:
            same = (one == other) | (one.isnan() & other.isnan()) | ((one - other).abs() <= bound) | bound.isinf()
            if not same.all():
                place = tuple((~same).nonzero()[0].tolist())
                raise AssertionError(f"{name}{list(place)}: {one[place]}, {other[place]} +- {bound[place]:.3g}, {case}")
    valid = expected[1] > 0
    if case.activation != "none":
        valid = torch.stack([axis.double().amax(-1) > -math.inf for axis in axes]).all(0)
        known = scores[~scores.isnan()]
        assert bool(((known >= 0) & (known <= 1)).all())
    assert bool((coords[~valid] == -1).all())
    return Comparison(int(valid.sum()), int((valid & (bounds[0].amax(-1) * case.split_ratio < 0.01)).sum()))


def _bounds(
    axes: tuple[Tensor, Tensor],
    expected: tuple[Tensor, Tensor, Tensor | None],
    case: Case,
    arithmetic: testing.Arithmetic,
    subtracts_peak: bool,
) -> tuple[Tensor, Tensor, Tensor]:
    """Of coords, scores and visibilities."""
    u = torch.finfo(arithmetic.blur).eps / 2 + torch.finfo(torch.float64).eps / 2
    coords, scores, visibility = expected
    sigmas = case.sigma if isinstance(case.sigma, tuple) else (case.sigma,) * 2
    steps = torch.zeros_like(coords)
    if case.dark:
        sizes = [simcc_kernel_size(sigma) for sigma in sigmas]
        both = [_step_bound(axis, k, arithmetic, subtracts_peak, case) for axis, k in zip(axes, sizes, strict=True)]
        steps = torch.stack(both, -1)
    coord_bound = steps / case.split_ratio + 4 * u * coords.abs()
    score_bound = u * scores.abs() if case.score == "mean" else torch.zeros_like(scores)
    if case.activation != "none":
        made = [_activated(axis, case, u) for axis in axes]
        errors = [(peak * of_all + of_one.gather(-1, index))[..., 0] for (_, of_one, of_all, peak, index) in made]
        score_bound = score_bound + torch.maximum(*errors).nan_to_num(0.0) + torch.finfo(torch.float32).tiny
    if visibility is None:
        return coord_bound, score_bound, torch.zeros_like(scores)
    relative = torch.zeros_like(scores)
    for axis, sigma in zip(axes, sigmas, strict=True):
        relative = torch.maximum(relative, _softmax_error(axis.double(), case.beta * sigma)[..., 0] * u)
    return coord_bound, score_bound, relative * visibility.nan_to_num(0.0)


def _exponents(axis: Tensor, scale: float) -> Tensor:
    """What a softmax's terms have, without its sign."""
    return (scale * (axis - axis.amax(-1, keepdim=True))).nan_to_num(0.0, 0.0, -1e6).abs()


def _softmax_error(axis: Tensor, scale: float) -> Tensor:
    """Of the sum of a softmax's terms, relative to it and in roundoffs: [..., 1]."""
    exponents = _exponents(axis, scale)
    terms = torch.exp(-exponents)
    return (terms * (4 * exponents + 8)).sum(-1, keepdim=True) / terms.sum(-1, keepdim=True) + axis.shape[-1] + 16


def _activated(axis: Tensor, case: Case, u: float) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
    """Of logits: what is made of them [..., W] and the error of each bin, the relative error of all bins together
    [..., 1], and the peak and its place. Of a NaN nothing is asked."""
    axis = axis.double()
    largest, index = axis.max(-1, keepdim=True)
    if case.activation == "softmax":
        exponents = _exponents(axis, case.logit_scale)
        terms = torch.exp(-exponents).masked_fill(axis == -math.inf, 0.0)
        activated = terms / terms.sum(-1, keepdim=True).clamp(min=1.0)
        of_one = torch.where(exponents == 0, 0.0, (4 * exponents + 8) * u)
        of_all = _softmax_error(axis, case.logit_scale) * u
    else:
        activated = torch.sigmoid(case.logit_scale * axis)
        # Where that is all of it, nothing is left of 1e6 roundoffs.
        exponents = (case.logit_scale * axis).abs().clamp(max=1e6)
        of_one = ((1 - activated) * (4 * exponents + 8) + 4) * u
        of_all = of_one.gather(-1, index)
    activated = torch.where(largest.isnan(), math.nan, activated)
    return activated, of_one * activated, of_all, activated.gather(-1, index), index


def _step_bound(
    axis: Tensor, kernel_size: int, arithmetic: testing.Arithmetic, subtracts_peak: bool, case: Case
) -> Tensor:
    limit = torch.finfo(torch.float64 if axis.dtype == torch.float64 else torch.float32).max / 16
    double = torch.finfo(torch.float64).eps / 2
    u = torch.finfo(arithmetic.blur).eps / 2 + double
    is_refined = axis.amax(-1).double() < (limit if case.activation == "none" else math.inf)
    if case.activation == "none":
        axis = axis.double().clamp(-limit, limit)
        peak, index = axis.max(-1, keepdim=True)
        of_one, of_all = torch.zeros_like(axis), torch.zeros_like(peak)
    else:
        axis, of_one, of_all, peak, index = _activated(axis, case, u)
    width = axis.shape[-1]

    taps = opencv_taps(kernel_size)
    units = kernel_size + 3
    if arithmetic.computes_taps and kernel_size > 9:
        units += 6 + 2 * math.log(taps[0] / taps[-1])
    blurred = blur(axis, kernel_size)
    plain = blur(axis.abs(), kernel_size)
    summed = plain
    if subtracts_peak:
        outside = peak.abs() * (1 - blur(torch.ones_like(axis), kernel_size)).clamp(min=1e-15)
        summed = blur((axis - peak).abs(), kernel_size) + torch.where(is_near_an_end(axis, kernel_size), outside, 0.0)
    tiny = kernel_size * torch.finfo(torch.float32).tiny
    of_one = blur(of_one, kernel_size)
    error = torch.where(summed == 0, 0.0, units * u * summed + u * blurred.abs() + tiny) + of_one

    whole_error = units * u * plain + tiny + of_one
    high_maximum, low_maximum = ((blurred + sign * whole_error).amax(-1, keepdim=True) for sign in (1, -1))
    low_scale = (1 - 3 * u - of_all) * peak / high_maximum
    high_scale = (1 + 3 * u + of_all) * peak / low_maximum
    open_sign = (low_maximum <= 0) & (high_maximum > 0)
    low_scale, high_scale = (torch.where(high_maximum <= 0, 1.0, each) for each in (low_scale, high_scale))
    maximum = blurred.amax(-1, keepdim=True)
    scale = torch.where(maximum > 0, peak / maximum, 1.0)

    points = (index + torch.arange(-2, 3)).clamp(0, width - 1)
    values, errors = blurred.gather(-1, points), error.gather(-1, points)
    logs = (values * scale).clamp(CLIP_MIN, CLIP_MAX).log()
    ends = torch.stack([(values + sign * errors) * each for sign in (-1, 1) for each in (low_scale, high_scale)])
    low, high = ends.amin(0), ends.amax(0)
    free = ((low > CLIP_MIN * (1 + 4 * u)) & (high < CLIP_MAX * (1 - 4 * u))).all(-1, keepdim=True)
    clipped = (high < CLIP_MIN * (1 - 4 * u)).all(-1, keepdim=True) | (low > CLIP_MAX * (1 + 4 * u)).all(-1, True)
    low_log, high_log = (end.clamp(CLIP_MIN, CLIP_MAX).log() for end in (low, high))
    log_error = torch.maximum(high_log - logs, logs - low_log) + 4 * u
    log_error = torch.where(free, errors / (values - errors) + 2 * u * (summed.gather(-1, points) > 0), log_error)
    log_error = torch.where(clipped, 0.0, log_error)
    v = torch.finfo(arithmetic.step).eps / 2 + double
    center = logs[..., 2:3]
    rounding = 8 * v * (1 + logs.abs() + center.abs())
    if arithmetic.relative_logs:
        difference = (logs - center).abs()
        rounding = torch.where(difference < 0.5, 8 * v * difference, rounding)
        logs = logs - center
    # Equal numbers have equal logs.
    log_error = log_error + torch.where((logs == logs[..., 2:3]).all(-1, keepdim=True), 0.0, rounding)

    before_2, before, at, after, after_2 = logs.unbind(-1)
    first, second = (after - before) / 2, (after_2 - 2 * at + before_2) / 4 + 1e-9
    of_before_2, of_before, of_at, of_after, of_after_2 = (log_error + 4 * v * logs.abs()).unbind(-1)
    first_error = (of_after + of_before) / 2
    second_error = (of_after_2 + 2 * of_at + of_before_2) / 4 + 2 * v * second.abs()
    step = first / second
    bound = (first_error + step.abs() * second_error) / (second.abs() - second_error) + 4 * v * step.abs()
    bound = torch.where((second_error < second.abs() / 2) & bound.isfinite(), bound, math.inf)
    bound = torch.where(open_sign[..., 0], math.inf, bound)
    # A peak that is not refined is exact.
    return torch.where(is_refined, bound, 0.0)


def is_near_an_end(axis: Tensor, kernel_size: int) -> Tensor:
    """Bins whose blur sees the zeros beyond an end."""
    place, radius = torch.arange(axis.shape[-1]), kernel_size // 2
    return (place < radius) | (place >= axis.shape[-1] - radius)
