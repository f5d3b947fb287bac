"""Agreement of annotators: the kappas of object keypoint similarity, of data sets and of one's own."""

from __future__ import annotations

import torch
from torch import Tensor

from .._common import checks
from .._common.kappas import KAPPAS


def kappas(name: str) -> tuple[float, ...]:
    """Look up the kappas of a data set, for `oks`, `oks_nms` and `oks_average_precision`. COCO's evaluation and mmpose
    call the same numbers sigmas.

    - `"coco"`, 17 keypoints: measured on images of COCO that several people have annotated.
    - `"coco_wholebody"`, 133, the body, the feet, the face, the left hand and the right: from the evaluation of S. Jin
      et al., "Whole-Body Human Pose Estimation in the Wild", ECCV 2020.
    - `"hand"`, 21, and `"face"`, 68 as 300W orders them: those of COCO-WholeBody.
    - `"crowdpose"`, 14: from the evaluation of J. Li et al., "CrowdPose", CVPR 2019, which measures by 0.53 times the
      box (`area=0.53` of `oks_average_precision`).
    - `"mpii"`, 16: as mmpose adapted them from COCO; what is reported of MPII is PCKh.
    - `"ap10k"`, 17: of H. Yu et al., "AP-10K", NeurIPS 2021, as mmpose adapted them from COCO, in AP-10K's order of
      keypoints, shoulder, elbow and paw of one side first. Early versions of mmpose have them in COCO's order.
    - `"animalpose"`, 20: of J. Cao et al., "Cross-Domain Adaptation for Animal Pose Estimation", ICCV 2019, as mmpose
      adapted them from COCO.

    Args:
        name: One of these; capitals, "-" and "_" do not matter.

    Returns:
        One number a keypoint, in the data set's order.

    Raises:
        TypeError: `name` is not a string.
        ValueError: There is no such data set.

    Example:
        >>> from dark_kernels import metrics
        >>> len(metrics.kappas("COCO-WholeBody")), metrics.kappas("crowdpose")[:2]
        (133, (0.079, 0.079))
    """
    if not isinstance(name, str):
        raise TypeError(f"name: got {type(name).__name__} {name!r}, expected one of {', '.join(map(repr, KAPPAS))}")
    for known, numbers in KAPPAS.items():
        if _plain(known) == _plain(name):
            return numbers
    raise ValueError(f"name: got {name!r}, expected one of {', '.join(map(repr, KAPPAS))}")


def _plain(name: str) -> str:
    return "".join(letter for letter in name.lower() if letter.isalnum())


def kappas_from_annotations(
    keypoints: Tensor,  # [A, N, K, 2]
    areas: Tensor,  # [N]
    visible: Tensor | None = None,  # [A, N, K]
) -> Tensor:
    """Kappas of one's own data set, from persons that several people have annotated.

    COCO's definition is kappa_i^2 = E[d_i^2 / s^2], with d_i the distance of an annotation of keypoint i from its place
    and s^2 the person's area. The place is not known, so the distances are those from the annotators' mean x_in, which
    are too small, and divided by one annotator fewer:

        kappa_i^2 = sum_n sum_a |x_ain - x_in|^2 / area_n / sum_n (A_in - 1)

    over the persons n whose keypoint i has been annotated by A_in >= 2 people. Of two annotators it is half the mean of
    their squared distance. If errors are Gaussian with a standard deviation of t s in x and in y, kappa is sqrt(2) t.

    Args:
        keypoints: [A, N, K, 2], (x, y) of K keypoints of N persons by A >= 2 annotators. Not finite where one has
            annotated nothing.
        areas: [N], of the persons, in the squared unit of the keypoints. Those of a person whose area is not positive
            and finite do not count.
        visible: [A, N, K], above 0 where an annotation counts. None: everywhere.

    Returns:
        float64 [K], which `oks` and others take. NaN where no person has the keypoint twice; 0 where all agree, which
        is no kappa.

    Raises:
        TypeError: An argument is not a dense floating tensor.
        ValueError: Shapes or devices do not fit, or there are fewer than two annotators.

    Example:
        >>> import torch
        >>> from dark_kernels import metrics
        >>> twice = torch.rand(1, 500, 17, 2) * 100 + torch.randn(2, 500, 17, 2) * 4
        >>> metrics.kappas_from_annotations(twice, torch.full((500,), 100.0**2)).shape  # each about 0.057
        torch.Size([17])
    """
    checks.check_tensor("keypoints", keypoints, 4, "[A, N, K, 2]")
    if keypoints.shape[-1] != 2 or keypoints.shape[0] < 2:
        raise ValueError(f"keypoints: got shape {list(keypoints.shape)}, expected [A, N, K, 2] of A >= 2 annotators")
    checks.check_tensor("areas", areas, 1, "[N]")
    checks.check_shape("areas", areas, keypoints.shape[1:2], "one for each person")
    checks.check_flags("visible", visible, keypoints.shape[:-1], "one for each annotation")
    checks.check_devices(keypoints=keypoints, areas=areas, visible=visible)
    areas = areas.detach().double()[:, None]
    counts = keypoints.isfinite().all(-1) & (areas > 0) & areas.isfinite()  # [A, N, K]
    if visible is not None:
        counts = counts & (visible > 0)
    found = torch.where(counts[..., None], keypoints.detach().double(), 0.0)
    number = counts.sum(0)  # [N, K]
    center = found.sum(0) / number.clamp(min=1)[..., None]
    squared = torch.where(counts, (found - center).square().sum(-1), 0.0).sum(0)  # [N, K]
    freedom = (number - 1).clamp(min=0)
    return (torch.where(freedom > 0, squared / areas, 0.0).sum(0) / freedom.sum(0)).sqrt()
