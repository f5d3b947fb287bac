"""Finds results that lie half a pixel or a whole one from the annotations."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor

# The best so many of an image count: what COCO's evaluation of keypoints looks at.
MAX_POSES = 20
# The search for a shift compares so many keypoints at most.
_KEYPOINTS = 2**20
# In pixels: how well a shift has to be known, and how near it may always lie to one of those looked for.
_KNOWN, _NEAR = 0.1, 0.1
# In standard errors: how far a shift lies from none, and how far from one of those looked for.
_FROM_NONE, _FROM_SHIFT = 5.0, 3.0


class Shift(NamedTuple):
    """Distance of all results from the annotations."""

    person: dict[str, Any]  # the first one it is seen at
    message: str


def find_shift(
    people: Sequence[dict[str, Any]], poses: Sequence[dict[str, Any]], kappas: Sequence[float]
) -> Shift | None:
    """Find a shift of half a pixel or a whole one from the annotations, in x and y alike.

    The offsets of every annotation's best pose have a median of about that, which is known to a tenth of a pixel and
    five of its standard errors away from 0, and the poses without it are more similar.

    Of n keypoints with a noise of s pixels the standard error is sqrt((pi / 2 s^2 + 1 / 4) / n). The quarter is that of
    whole pixels, which either side may be rounded to: then offsets are tied, and their spread says nothing. So the
    least n is 25 + 157 s^2.
    """
    of_image: dict[tuple[Any, Any], list[dict[str, Any]]] = {}
    for pose in poses:
        of_image.setdefault((pose["image_id"], pose["category_id"]), []).append(pose)
    best: list[tuple[dict[str, Any], Tensor, Tensor, Tensor]] = []
    budget = _KEYPOINTS
    squares = _tensor(kappas).square()
    for person in people:
        candidates = of_image.get((person["image_id"], person["category_id"]), [])
        if not candidates:
            continue
        candidates = sorted(candidates, key=lambda pose: -pose["score"])[:MAX_POSES]
        budget -= len(candidates) * len(kappas)
        if budget < 0:
            break
        truth = _tensor(person["keypoints"]).view(-1, 3)
        found = _tensor([pose["keypoints"] for pose in candidates])
        offsets = (found.view(len(candidates), -1, 3) - truth)[:, truth[:, 2] > 0, :2]
        scale = 8 * squares[truth[:, 2] > 0] * person["area"]
        similarity = _similarity(offsets, scale)
        index = int(similarity.argmax())
        if similarity[index] > 0.1:  # or it is somebody else
            best.append((person, offsets[index], scale, similarity[index]))
    if not best:
        return None
    offsets = torch.cat([each[1] for each in best])
    median = offsets.median(0).values
    # The standard deviation of normals by the median of their distances.
    spread = 1.4826 * (offsets - median).abs().median(0).values
    error = ((math.pi / 2 * spread.square() + 0.25) / len(offsets)).sqrt()
    if not bool(((error <= _KNOWN) & (median.abs() >= _FROM_NONE * error)).all()):
        return None
    for size in (0.5, 1.0):
        signed = median.sign() * size
        near = (median - signed).abs() <= (_FROM_SHIFT * error).clamp(min=_NEAR)
        if bool((signed[0] == signed[1]) & near.all()):
            before = float(torch.stack([each[3] for each in best]).mean())
            after = float(torch.stack([_similarity(each[1] - signed, each[2]) for each in best]).mean())
            if after <= before:
                return None
            x, y = median.tolist()
            return Shift(
                best[0][0],
                f"the results' keypoints lie ({x:+.2f}, {y:+.2f}) px from those of the annotations, in the median of "
                f"{len(offsets)}; without ({signed[0]:+g}, {signed[1]:+g}) the similarity of the best pose is "
                f"{after:.4f} in the mean instead of {before:.4f}. Count pixels from 0 in both, or both from their "
                "centres or from their corners",
            )
    return None


def _tensor(numbers: Sequence[Any]) -> Tensor:
    return torch.tensor(numbers, dtype=torch.float64, device="cpu")


def _similarity(offsets: Tensor, scale: Tensor) -> Tensor:
    """Similarity of keypoints with these offsets [..., K, 2]."""
    return torch.exp(-offsets.square().sum(-1) / scale).mean(-1)
