"""How far off keypoints are, and how honest their uncertainty is. Everything is computed and returned in float64.

What is compared: coords [..., 2] and covariances [..., 2, 2] of a prediction, such as `decode` and `nn.TwoStageDecoder`
return them, with targets [..., 2] in the same pixels. A keypoint counts if its target is finite and its `mask`, if
there is one, above 0. A share or a mean over no keypoint is NaN.

A prediction that is missing, NaN or infinite, is not a good one: it is infinitely far away and outside of every
ellipse. But it has no distribution, nor has one whose covariance is not positive definite, so likelihood, calibration
and sharpness leave these out: `has_distribution` says how many they are.
"""

from __future__ import annotations

import copy
import importlib
import json
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from . import _checks
from .nms.api import COCO_KAPPAS
from .types import Keypoints

__all__ = [
    "LEVELS",
    "calibration_error",
    "chi_square",
    "coco_results",
    "coverage",
    "distances",
    "has_distribution",
    "negative_log_likelihood",
    "oks_average_precision",
    "pckh",
    "rank_correlation",
    "sharpness",
    "sigmas",
    "squared_distances",
]

LEVELS = (0.5, 0.9, 0.95)
"""Shares of the ellipses whose coverage is measured."""


# --- accuracy ----------------------------------------------------------------------------------------------


def distances(
    coords: Tensor,  # [..., 2]
    targets: Tensor,  # [..., 2]
) -> Tensor:
    """Distances of predictions from their targets, [...], infinite where a prediction is missing; NaN for a target that
    is not finite.

    Raises:
        TypeError: An argument is not a dense floating tensor.
        ValueError: Shapes or devices differ.
    """
    _check_pairs(coords, targets)
    found = (coords.detach().double() - targets.double()).norm(dim=-1)
    found = torch.where(coords.isfinite().all(-1), found, math.inf)
    return torch.where(targets.isfinite().all(-1), found, math.nan)


def pckh(
    coords: Tensor,  # [..., K, 2]
    targets: Tensor,  # [..., K, 2]
    head_sizes: Tensor,  # [...]
    threshold: float = 0.5,
    mask: Tensor | None = None,  # [..., K]
) -> Tensor:
    """PCKh: the share of keypoints that are within `threshold` head sizes of their targets, [].

    Source: M. Andriluka et al., "2D Human Pose Estimation: New Benchmark and State of the Art Analysis", CVPR 2014. In
    its MPII data set a head size is 0.6 times the diagonal of the head's box.

    Args:
        coords: [..., K, 2].
        targets: [..., K, 2].
        head_sizes: [...], one a person, in the unit of the coordinates. A person whose size is not positive and finite
            does not count.
        threshold: Positive.
        mask: [..., K], above 0 where a keypoint is annotated.

    Raises:
        TypeError: An argument is not a dense floating tensor, or not a number.
        ValueError: Shapes or devices differ, or `threshold` is not positive.
    """
    found = distances(coords, targets)
    _checks.check_tensor("head_sizes", head_sizes, found.dim() - 1, "one for each person")
    _checks.check_shape("head_sizes", head_sizes, found.shape[:-1], "one for each person")
    _checks.check_devices(coords=coords, head_sizes=head_sizes)
    _checks.check_positive("threshold", threshold)
    sizes = head_sizes.double()[..., None]
    counts = _counts(targets, mask) & (sizes > 0) & (sizes < math.inf)
    return _mean((found <= threshold * sizes).double(), counts)


# --- uncertainty -------------------------------------------------------------------------------------------


def squared_distances(
    coords: Tensor,  # [..., 2]
    covariances: Tensor,  # [..., 2, 2]
    targets: Tensor,  # [..., 2]
) -> Tensor:
    """Squared Mahalanobis distances of targets from predictions, [...]: chi-square with 2 degrees of freedom if the
    distributions are true. Infinite where there is no distribution, NaN for a target that is not finite.

    Raises:
        TypeError: An argument is not a dense floating tensor.
        ValueError: Shapes or devices differ.
    """
    _check_pairs(coords, targets)
    x, y = (targets.double() - coords.detach().double()).unbind(-1)
    xx, xy, yy, determinant = _elements(covariances, coords)
    squared = (yy * x * x - 2 * xy * x * y + xx * y * y) / determinant
    exists = coords.isfinite().all(-1) & _is_definite(xx, yy, determinant)
    squared = torch.where(exists, squared, math.inf)
    return torch.where(targets.isfinite().all(-1), squared, math.nan)


def has_distribution(
    coords: Tensor,  # [..., 2]
    covariances: Tensor,  # [..., 2, 2]
) -> Tensor:
    """Whether a prediction is finite and its covariance positive definite: bool [...].

    Raises:
        TypeError: An argument is not a dense floating tensor.
        ValueError: Shapes or devices differ.
    """
    _check_coords(coords)
    xx, _, yy, determinant = _elements(covariances, coords)
    return coords.isfinite().all(-1) & _is_definite(xx, yy, determinant)


def chi_square(level: float) -> float:
    """Squared radius, in standard deviations, of the ellipse that holds the share `level` of a 2-d Gaussian: -2 ln(1 -
    level).

    Raises:
        TypeError: `level` is not a number.
        ValueError: It is not a share, from 0 and below 1.
    """
    _checks.check_number("level", level)
    if not 0 <= level < 1:
        raise ValueError(f"level: got {level}, expected a share from 0 and below 1")
    return -2 * math.log1p(-level)


def coverage(
    coords: Tensor,  # [..., 2]
    covariances: Tensor,  # [..., 2, 2]
    targets: Tensor,  # [..., 2]
    levels: Sequence[float] = LEVELS,
    mask: Tensor | None = None,  # [...]
) -> Tensor:
    """The share of targets inside the ellipse that should hold the share `level` of them, [len(levels)]: equal to the
    level if the distributions are true, below it if they are too sure of themselves.

    Args:
        coords: [..., 2].
        covariances: [..., 2, 2].
        targets: [..., 2].
        levels: Shares from 0 and below 1.
        mask: [...], above 0 where a keypoint is annotated.

    Raises:
        TypeError: An argument is not a dense floating tensor, or a level not a number.
        ValueError: Shapes or devices differ, or a level is out of range.
    """
    if isinstance(levels, (int, float)):
        raise TypeError(f"levels: got {levels!r}, expected a sequence of numbers")
    squared = squared_distances(coords, covariances, targets)
    counts = _counts(targets, mask)
    shares = [_mean((squared <= chi_square(level)).double(), counts) for level in levels]
    return torch.stack(shares) if shares else squared.new_zeros(0)


def calibration_error(
    coords: Tensor,  # [..., 2]
    covariances: Tensor,  # [..., 2, 2]
    targets: Tensor,  # [..., 2]
    bins: int = 15,
    mask: Tensor | None = None,  # [...]
) -> Tensor:
    """How far the cumulative distributions of each axis are from what they should be, [2] for x and y.

    With u the value of the predicted cumulative distribution (of the axis alone, with the square root of its
    variance) at the target, the share of targets with u <= p should be p: the error is the mean of their absolute
    differences at the centres p of `bins` equal bins of [0, 1]. 0 is perfect; distributions that are far too wide or
    far too narrow have about a quarter, means that are far off a half. (V. Kuleshov et al., "Accurate Uncertainties for
    Deep Learning Using Calibrated Regression", ICML 2018, with absolute differences.)

    Args:
        coords: [..., 2].
        covariances: [..., 2, 2].
        targets: [..., 2].
        bins: At least 1.
        mask: [...], above 0 where a keypoint is annotated.

    Raises:
        TypeError: An argument is not a dense floating tensor, or `bins` not an integer.
        ValueError: Shapes or devices differ, or `bins` is below 1.
    """
    _check_pairs(coords, targets)
    _checks.check_count("bins", bins)
    counts = _counts(targets, mask) & has_distribution(coords, covariances)
    sigma = covariances.detach().double().diagonal(dim1=-2, dim2=-1).sqrt()
    u = torch.special.ndtr((targets.double() - coords.detach().double()) / sigma)  # [..., 2]
    centers = (torch.arange(bins, dtype=torch.float64, device=u.device) + 0.5) / bins
    below = (u[..., None] <= centers).double()  # [..., 2, bins]
    shares = (below * counts[..., None, None]).flatten(0, -3).sum(0) / counts.sum()
    return (shares - centers).abs().mean(-1)


def negative_log_likelihood(
    coords: Tensor,  # [..., 2]
    covariances: Tensor,  # [..., 2, 2]
    targets: Tensor,  # [..., 2]
    mask: Tensor | None = None,  # [...]
) -> Tensor:
    """The mean of minus the log of the predicted densities at the targets, []: m^2 / 2 + log |Sigma| / 2 + log 2 pi, of
    squared pixels. The lower, the better; it may be negative.

    Args:
        coords: [..., 2].
        covariances: [..., 2, 2].
        targets: [..., 2].
        mask: [...], above 0 where a keypoint is annotated.

    Raises:
        TypeError: An argument is not a dense floating tensor.
        ValueError: Shapes or devices differ.
    """
    squared = squared_distances(coords, covariances, targets)
    _, _, _, determinant = _elements(covariances, coords)
    losses = 0.5 * (squared + determinant.log()) + math.log(2 * math.pi)
    return _mean(losses, _counts(targets, mask) & has_distribution(coords, covariances))


def sigmas(
    covariances: Tensor,  # [..., 2, 2]
) -> Tensor:
    """One standard deviation for each covariance, [...]: |Sigma|^(1/4), that of the circle of the same area. NaN where
    the determinant is negative.

    Raises:
        TypeError: `covariances` is not a dense floating tensor.
        ValueError: It is not [..., 2, 2].
    """
    _, _, _, determinant = _elements(covariances)
    return determinant.sqrt().sqrt()


def sharpness(
    covariances: Tensor,  # [..., 2, 2]
    mask: Tensor | None = None,  # [...]
) -> Tensor:
    """The mean of `sigmas`, [], in pixels: of two that are calibrated, the lower is the better. Covariances that are
    not positive definite are left out.

    Raises:
        TypeError: `covariances` is not a dense floating tensor.
        ValueError: It is not [..., 2, 2], or `mask` not [...].
    """
    xx, _, yy, determinant = _elements(covariances)
    counts = _is_definite(xx, yy, determinant)
    if mask is not None:
        _checks.check_flags("mask", mask, counts.shape, "one for each keypoint")
        counts = counts & (mask > 0)
    return _mean(sigmas(covariances), counts)


def rank_correlation(
    first: Tensor,  # [N]
    second: Tensor,  # [N]
) -> Tensor:
    """Spearman's, []: the correlation of ranks, equal values sharing the mean of theirs, such as of sigmas and
    distances. NaN if all are equal.

    Raises:
        TypeError: An argument is not a dense tensor of floats.
        ValueError: The shapes are not [N], or differ.
    """
    _checks.check_tensor("first", first, 1, "[N]")
    _checks.check_tensor("second", second, 1, "[N]")
    _checks.check_shape("second", second, first.shape, "as first")
    ranks = torch.stack([_ranks(first), _ranks(second)])
    ranks = ranks - ranks.mean(1, keepdim=True)
    squares = ranks.square().sum(1)
    return ((ranks[0] * ranks[1]).sum() / (squares[0] * squares[1]).sqrt()).clamp(-1, 1)


def _ranks(values: Tensor) -> Tensor:
    _, inverse, counts = torch.unique(values.detach().double(), return_inverse=True, return_counts=True)
    last = counts.cumsum(0).double()
    return (last - (counts - 1) / 2)[inverse]


# --- average precision -------------------------------------------------------------------------------------

# What an evaluation of keypoints computes, in its order.
_STATISTICS = ("AP", "AP50", "AP75", "AP_medium", "AP_large", "AR", "AR50", "AR75", "AR_medium", "AR_large")


def coco_results(
    keypoints: Keypoints,  # coords [N, K, 2], scores [N, K]
    image_ids: Sequence[int] | Tensor,  # [N]
    category_id: int = 1,
    pose_scores: Tensor | None = None,  # [N]
) -> list[dict[str, Any]]:
    """N poses as COCO's results file lists them: `json.dump` writes it.

    Args:
        keypoints: Of N poses, in pixels of their images. `decode` returns heatmap pixels, which are to be mapped
            there first. A keypoint that is NaN or infinite becomes (0, 0) with a score of 0: the file has no NaN.
        image_ids: Whose each pose is.
        category_id: 1 is COCO's person.
        pose_scores: Of each pose; None for the mean of its keypoints' scores.

    Returns:
        One object a pose: `image_id`, `category_id`, `keypoints` [x, y, score, x, y, score, ...] and `score`.

    Raises:
        TypeError: An argument is not what it should be.
        ValueError: Shapes do not fit.
    """
    if not isinstance(keypoints, Keypoints):
        raise TypeError(f"keypoints: got {type(keypoints).__name__}, expected dark_kernels.Keypoints")
    coords, scores = keypoints.coords, keypoints.scores
    _checks.check_tensor("keypoints.coords", coords, 3, "[N, K, 2]")
    _checks.check_shape("keypoints.scores", scores, coords.shape[:2], "one for each keypoint")
    ids = image_ids.tolist() if isinstance(image_ids, Tensor) else list(image_ids)
    for image_id in ids:
        if isinstance(image_id, bool) or not hasattr(image_id, "__index__"):
            raise TypeError(f"image_ids: got {type(image_id).__name__} {image_id!r} in it, expected ints")
    ids = [int(image_id) for image_id in ids]
    if len(ids) != coords.shape[0]:
        raise ValueError(f"image_ids: got {len(ids)} of them, expected {coords.shape[0]}, one for each pose")
    coords, scores = coords.detach().double().cpu(), scores.detach().double().cpu()
    found = coords.isfinite().all(-1) & scores.isfinite()
    coords, scores = torch.where(found[..., None], coords, 0.0), torch.where(found, scores, 0.0)
    if pose_scores is None:
        pose_scores = scores.mean(-1)
    else:
        _checks.check_tensor("pose_scores", pose_scores, 1, "[N]")
        _checks.check_shape("pose_scores", pose_scores, coords.shape[:1], "one for each pose")
    triplets = torch.cat([coords, scores[..., None]], dim=-1).flatten(1)
    columns = zip(ids, triplets.tolist(), pose_scores.detach().double().tolist(), strict=True)
    return [
        {"image_id": image_id, "category_id": category_id, "keypoints": numbers, "score": score}
        for image_id, numbers, score in columns
    ]


def oks_average_precision(
    results: Sequence[dict[str, Any]],
    annotations: dict[str, Any] | str | Path,
    kappas: Sequence[float] = COCO_KAPPAS,  # [K]
) -> dict[str, float]:
    """Average precision and recall by object keypoint similarity, as COCO evaluates them (with faster-coco-eval).

    Args:
        results: Poses, as `coco_results` lists them. Not changed.
        annotations: A COCO annotation file, or what is in it.
        kappas: [K], what COCO calls sigmas.

    Returns:
        AP and AR, the means over similarities of 0.5 to 0.95, AP50, AP75, AR50 and AR75 at one of them, AP_medium,
        AP_large, AR_medium and AR_large of persons of a size. NaN where there is no such annotation.

    Raises:
        ImportError: The extra `metrics` is not installed.
        ValueError: Results are of images without annotations, or of another number of keypoints than there are kappas.
    """
    try:
        evaluation = importlib.import_module("faster_coco_eval")
    except ImportError as error:
        raise ImportError(
            f"oks_average_precision: needs faster-coco-eval, which cannot be imported ({error}); "
            "pip install 'dark-kernels[metrics]'"
        ) from error
    dataset = copy.deepcopy(annotations) if isinstance(annotations, dict) else json.loads(Path(annotations).read_text())
    images = {image["id"] for image in dataset["images"]}
    for result in results:
        if result["image_id"] not in images:
            raise ValueError(f"results: got a pose of image {result['image_id']}, expected one of the annotations")
        if len(result["keypoints"]) != 3 * len(kappas):
            raise ValueError(
                f"results: got a pose of {len(result['keypoints']) / 3:g} keypoints, expected {len(kappas)}, one for "
                "each of kappas"
            )
    if not results:
        return dict.fromkeys(_STATISTICS, 0.0 if dataset["annotations"] else math.nan)
    truth = evaluation.COCO(dataset)
    found = truth.loadRes([copy.deepcopy(result) for result in results])  # which it writes to
    evaluator = evaluation.COCOeval_faster(truth, found, iouType="keypoints", kpt_oks_sigmas=list(kappas))
    evaluator.evaluate()
    evaluator.accumulate()
    evaluator.summarize()
    numbers = [float(number) for number in evaluator.stats[: len(_STATISTICS)]]
    return {name: math.nan if number < 0 else number for name, number in zip(_STATISTICS, numbers, strict=True)}


# --- what they share ---------------------------------------------------------------------------------------


def _check_coords(coords: Tensor) -> None:
    """[..., 2]."""
    _checks.check_tensor("coords", coords, coords.dim() if isinstance(coords, Tensor) else 1, "[..., 2]")
    if coords.dim() == 0 or coords.shape[-1] != 2:
        raise ValueError(f"coords: got shape {list(coords.shape)}, expected [..., 2], (x, y) of every keypoint")


def _check_pairs(coords: Tensor, targets: Tensor) -> None:
    """[..., 2] both."""
    _check_coords(coords)
    _checks.check_tensor("targets", targets, coords.dim(), "as coords")
    _checks.check_shape("targets", targets, coords.shape, "one for each prediction")
    _checks.check_devices(coords=coords, targets=targets)


def _elements(covariances: Tensor, coords: Tensor | None = None) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """xx, xy, yy and the determinant of covariances [..., 2, 2]."""
    dim = covariances.dim() if isinstance(covariances, Tensor) else 2
    _checks.check_tensor("covariances", covariances, dim, "[..., 2, 2]")
    if dim < 2 or covariances.shape[-2:] != (2, 2):
        raise ValueError(f"covariances: got shape {list(covariances.shape)}, expected [..., 2, 2]")
    if coords is not None:
        _checks.check_shape("covariances", covariances, (*coords.shape, 2), "one for each of coords")
        _checks.check_devices(coords=coords, covariances=covariances)
    xx, xy, _, yy = covariances.detach().double().flatten(-2).unbind(-1)
    return xx, xy, yy, xx * yy - xy * xy


def _is_definite(xx: Tensor, yy: Tensor, determinant: Tensor) -> Tensor:
    """Whether covariances are positive definite; NaN and infinite ones are not."""
    return (xx > 0) & (yy > 0) & (determinant > 0) & (determinant < math.inf)


def _counts(targets: Tensor, mask: Tensor | None) -> Tensor:
    """Which keypoints count, [...]."""
    counts = targets.isfinite().all(-1)
    _checks.check_flags("mask", mask, counts.shape, "one for each keypoint")
    return counts if mask is None else counts & (mask > 0)


def _mean(values: Tensor, counts: Tensor) -> Tensor:
    """The mean of the values that count, []; NaN if none does."""
    return torch.where(counts, values, 0.0).sum() / counts.sum()
