"""Poses in COCO's format, and average precision by object keypoint similarity."""

from __future__ import annotations

import functools
import importlib
import math
import operator
import os
import warnings
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from .._common import checks
from .._common.inputs import to_tensor
from .._common.kappas import COCO_KAPPAS
from .._common.names import AreaSource, Swap
from ..poses.api import SWAPS, oks
from ..types import Keypoints
from . import annotations as files
from .agreement import kappas as kappas_of

# What an evaluation of keypoints computes, in its order.
_STATISTICS = ("AP", "AP50", "AP75", "AP_medium", "AP_large", "AR", "AR50", "AR75", "AR_medium", "AR_large")


def coco_results(
    keypoints: Keypoints[Any, Any],  # coords [N, K, 2], scores [N, K]
    image_ids: Sequence[int] | Tensor,  # [N]
    category_id: int | Sequence[int] | Tensor = 1,  # or [N]
    pose_scores: Sequence[float] | Tensor | None = None,  # [N]
) -> list[dict[str, Any]]:
    """N poses as COCO's results file lists them: `json.dump` writes it.

    Args:
        keypoints: Of N poses, of tensors or of arrays, in pixels of their images. `decode` returns heatmap pixels,
            which are to be mapped there first. A keypoint that is NaN or infinite becomes (0, 0) with a score of 0: the
            file has no NaN.
        image_ids: Whose each pose is, [N].
        category_id: Of all poses, 1 is COCO's person; or of each, [N].
        pose_scores: Of each pose, [N]; None for the mean of its keypoints' scores. One that is not finite becomes 0.

    Returns:
        One object a pose: `image_id`, `category_id`, `keypoints` [x, y, score, x, y, score, ...] and `score`.

    Raises:
        TypeError: An argument is not what it should be.
        ValueError: Shapes do not fit.
    """
    if not isinstance(keypoints, Keypoints):
        raise TypeError(f"keypoints: got {type(keypoints).__name__}, expected dark_kernels.Keypoints")
    coords = to_tensor("keypoints.coords", keypoints.coords)
    scores = to_tensor("keypoints.scores", keypoints.scores)
    checks.check_tensor("keypoints.coords", coords, 3, "[N, K, 2]")
    if coords.shape[-1] != 2:
        raise ValueError(f"keypoints.coords: got shape {list(coords.shape)}, expected [N, K, 2]")
    checks.check_tensor("keypoints.scores", scores, 2, "[N, K]")
    checks.check_shape("keypoints.scores", scores, coords.shape[:2], "one for each keypoint")
    num_poses = coords.shape[0]
    ids = _integers("image_ids", _one_a_pose("image_ids", image_ids, num_poses))
    if _dimensions(category_id) == 0 and not isinstance(category_id, (str, bytes)):
        categories = _integers("category_id", [checks.plain(category_id)]) * num_poses
    else:
        categories = _integers("category_id", _one_a_pose("category_id", category_id, num_poses))
    coords, scores = coords.detach().double().cpu(), scores.detach().double().cpu()
    found = coords.isfinite().all(-1) & scores.isfinite()
    coords, scores = torch.where(found[..., None], coords, 0.0), torch.where(found, scores, 0.0)
    if pose_scores is None:
        pose_scores = scores.sum(-1) / max(scores.shape[-1], 1)
    elif isinstance(pose_scores, Tensor):
        integers = not (pose_scores.is_floating_point() or pose_scores.is_complex() or pose_scores.dtype == torch.bool)
        pose_scores = pose_scores.double() if integers else pose_scores
        checks.check_tensor("pose_scores", pose_scores, 1, "[N]")
        checks.check_shape("pose_scores", pose_scores, coords.shape[:1], "one for each pose")
    else:
        numbers = _one_a_pose("pose_scores", pose_scores, num_poses)
        plain = [checks.plain(number) for number in numbers]
        for number in plain:
            if isinstance(number, bool) or not isinstance(number, (int, float)):
                raise TypeError(f"pose_scores: got {type(number).__name__} {number!r} in it, expected numbers")
        pose_scores = torch.tensor([float(number) for number in plain], dtype=torch.float64, device="cpu")
    pose_scores = pose_scores.detach().double().nan_to_num(0.0, 0.0, 0.0)
    triplets = torch.cat([coords, scores[..., None]], dim=-1).flatten(1)
    columns = zip(ids, categories, triplets.tolist(), pose_scores.tolist(), strict=True)
    return [
        {"image_id": image_id, "category_id": category, "keypoints": numbers, "score": score}
        for image_id, category, numbers, score in columns
    ]


def _dimensions(values: object) -> int:
    """0 of a number, 1 of a sequence of them."""
    if isinstance(values, (str, bytes)):
        return 0
    return getattr(values, "ndim", 1 if hasattr(values, "__len__") or hasattr(values, "__iter__") else 0)


def _one_a_pose(name: str, values: Any, num_poses: int) -> list[Any]:
    """A list of a sequence, a tensor or an array [N]."""
    if isinstance(values, (str, bytes, dict)) or _dimensions(values) == 0:
        kind = (
            f"a {type(values).__name__} of shape []"
            if hasattr(values, "ndim")
            else f"{type(values).__name__} {values!r}"
        )
        raise TypeError(f"{name}: got {kind}, expected a sequence or a tensor [{num_poses}], one for each pose")
    if _dimensions(values) != 1:
        raise ValueError(f"{name}: got shape {list(values.shape)}, expected [{num_poses}], one for each pose")
    found = values.tolist() if isinstance(values, Tensor) else list(values)
    if len(found) != num_poses:
        raise ValueError(f"{name}: got {len(found)} of them, expected {num_poses}, one for each pose")
    return found


def _integers(name: str, values: list[Any]) -> list[int]:
    found = []
    for value in values:
        try:
            if isinstance(value, bool):
                raise TypeError
            found.append(operator.index(value))
        except TypeError:
            raise TypeError(f"{name}: got {type(value).__name__} {value!r} in it, expected ints") from None
    return found


def oks_average_precision(
    results: Sequence[Mapping[str, Any]] | str | os.PathLike[str],
    annotations: Mapping[str, Any] | str | os.PathLike[str],
    kappas: str | Sequence[float] | Tensor = COCO_KAPPAS,  # [K]
    *,
    area: AreaSource | float | None = None,
    symmetric: Sequence[tuple[int, int]] | Tensor | None = None,
    swap: Swap = "pairs",
) -> dict[str, float]:
    """Average precision and recall by object keypoint similarity, as COCO evaluates them (with faster-coco-eval).

    What annotations may lack: `num_keypoints` is counted from their visibilities, `iscrowd` is 0, `categories` are
    those of the annotations, `id` does not matter, and ids of images and categories may be of any type, the same in
    both. NaN stands for what is missing, as in data frames; numbers may be NumPy's, lists may be arrays or tensors, and
    keypoints [K, 3].

    What makes precision 0 with good predictions is an error, or an `AnnotationWarning`, that names the first such
    annotation: an area of 0, a missing one or one of another unit; another category; images that don't meet; boxes
    missing; an annotation with the id 0, or the id of another; visibilities of 0; and results whose keypoints lie half
    a pixel or a whole one from those of the annotations. The last is told by the median of their offsets, where its
    standard error is at most 0.1 px and a fifth of it: of 25 keypoints or more, of about 180 if they are off by a pixel
    anyway. `warnings.simplefilter("error", AnnotationWarning)` makes errors of the warnings, and "ignore" takes all as
    it is.

    Args:
        results: Poses, as `coco_results` lists them, or a JSON file of them. `bbox`, if all have one, says how large a
            pose is that is not found. Not changed.
        annotations: A COCO annotation file, or what is in it. Not changed.
        kappas: [K], what COCO calls sigmas; or the name of a data set, see `metrics.kappas`.
        area: Where an annotation has no area, or one that is not positive and finite: None is an error, `"bbox"` takes
            the area of its box, a number so many times that (0.53 for CrowdPose), and `"keypoints"` the area of the box
            around its visible keypoints. AP_medium and the like are by this area too.
        symmetric: Pairs of keypoints that may be swapped, or [N, 2], see `oks`.
        swap: `"pairs"` or `"pose"`, see `oks`.

    Returns:
        AP and AR, the means over similarities of 0.5 to 0.95, AP50, AP75, AR50 and AR75 at one of them, AP_medium,
        AP_large, AR_medium and AR_large of persons of a size. NaN where there is no such annotation.

    Raises:
        ImportError: The extra `metrics` is not installed.
        TypeError: An argument, or a value in annotations or results, is not of the type that it should be.
        ValueError: Results are of images or of a category without annotations, or of another number of keypoints than
            there are kappas; an annotation has no area; or something lacks what nothing can stand for.
    """
    numbers = _kappas(kappas)
    files.check_area(area)
    checks.check_name("swap", swap, SWAPS)
    pairs = None if symmetric is None else _pairs(symmetric, len(numbers))
    try:
        evaluation = importlib.import_module("faster_coco_eval")
    except ImportError as error:
        raise ImportError(
            f"oks_average_precision: needs faster-coco-eval, which cannot be imported ({error}); "
            "pip install 'dark-kernels[metrics]'"
        ) from error
    given = files.read_results(results)
    comparison = files.compare(files.read(annotations), given, numbers, checks.plain(area))
    for message in comparison.warnings:
        warnings.warn(message, files.AnnotationWarning, stacklevel=2)
    if not comparison.counts or not given:
        return dict.fromkeys(_STATISTICS, 0.0 if comparison.counts else math.nan)
    truth = evaluation.COCO(comparison.dataset)
    found = truth.loadRes(comparison.results)
    kind = evaluation.COCOeval_faster
    if pairs is not None:
        kind = _symmetric_evaluation(kind, numbers, pairs, swap)
    evaluator = kind(truth, found, iouType="keypoints", kpt_oks_sigmas=numbers)
    evaluator.evaluate()
    evaluator.accumulate()
    evaluator.summarize()
    statistics = [float(number) for number in evaluator.stats[: len(_STATISTICS)]]
    return {name: math.nan if number < 0 else number for name, number in zip(_STATISTICS, statistics, strict=True)}


def _kappas(kappas: str | Sequence[float] | Tensor) -> list[float]:
    if isinstance(kappas, str):
        return list(kappas_of(kappas))
    if isinstance(kappas, Tensor):
        checks.check_tensor("kappas", kappas, 1, "[K]")
    elif not hasattr(kappas, "__iter__"):
        raise TypeError(f"kappas: got {type(kappas).__name__} {kappas!r}, expected numbers or the name of a data set")
    given = kappas.tolist() if isinstance(kappas, Tensor) else kappas
    return [checks.to_positive("kappas", each) for each in given]


def _pairs(symmetric: Any, num_keypoints: int) -> list[tuple[int, int]]:
    return [(i, j) for i, j in enumerate(checks.to_partners(symmetric, num_keypoints)) if i < j]


def _symmetric_evaluation(base: Any, kappas: Sequence[float], pairs: Sequence[tuple[int, int]], swap: Swap) -> Any:
    """An evaluation whose similarities are those of `oks` with `symmetric`."""

    class Evaluation(base):
        def computeOks(self, imgId: int, catId: int) -> Any:
            similarities = super().computeOks(imgId, catId)
            people = self.gt_dataset.get(imgId, catId)
            poses = self.dt_dataset.get(imgId, catId)
            poses = sorted(poses, key=lambda pose: -pose["score"])[: self.params.maxDets[-1]]
            # Those without keypoints are found by their boxes.
            columns = [
                index for index, person in enumerate(people) if any(flag > 0 for flag in person["keypoints"][2::3])
            ]
            if not columns or not poses:
                return similarities
            on_host = functools.partial(torch.tensor, dtype=torch.float64, device="cpu")
            found = on_host([pose["keypoints"] for pose in poses]).unflatten(-1, (-1, 3))
            truth = on_host([people[index]["keypoints"] for index in columns]).unflatten(-1, (-1, 3))
            areas = on_host([people[index]["area"] for index in columns])
            # The mean of two areas is that of the annotation.
            similarities[:, columns] = oks(
                found[..., :2], truth[..., :2], areas.new_zeros(len(poses)), 2 * areas, kappas, None, truth[..., 2],
                symmetric=pairs, swap=swap,
            ).numpy()  # fmt: skip
            return similarities

    return Evaluation
