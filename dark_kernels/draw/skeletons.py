"""Skeletons of data sets, as rows of data: names of keypoints, the limbs between them, and to which group each belongs.

A group is what has a colour: a side of the body, or a finger.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any, NamedTuple

Edge = tuple[int, int]


class Skeleton(NamedTuple):
    """Keypoints of a data set and the limbs between them.

    Attributes:
        keypoints: K names, in the order of the data set.
        edges: Pairs of keypoints, each of them a limb.
        groups: Of each keypoint the group whose colour it has, a key of `COLOURS`.
    """

    keypoints: tuple[str, ...]
    edges: tuple[Edge, ...]
    groups: tuple[str, ...]

    def group_of(self, edge: Edge) -> str:
        """Group of a limb: that of its ends, of one that is not in the centre, or the centre between two others."""
        first, second = (self.groups[index] for index in edge)
        if first == second or second == "centre":
            return first
        return second if first == "centre" else "centre"


COLOURS = {
    "left": "#35d0ff",
    "right": "#ffb224",
    "centre": "#f7f7f7",
    "thumb": "#ff6b6b",
    "index": "#ffb224",
    "middle": "#7ddc5b",
    "ring": "#35d0ff",
    "little": "#c58cff",
}
"""Of each group, red, green and blue in hexadecimal. Left and right are those of the person."""

_FINGERS = ("thumb", "index", "middle", "ring", "little")


def _chain(indices: Iterable[int], closed: bool = False) -> list[Edge]:
    """Edges from each keypoint to the next, and back to the first of a closed one."""
    points = list(indices)
    return list(zip(points, points[1:] + points[:1] if closed else points[1:], strict=False))


def _shifted(edges: Iterable[Edge], by: int) -> list[Edge]:
    return [(first + by, second + by) for first, second in edges]


def _side(name: str) -> str:
    side = name.partition(" ")[0]
    return side if side in ("left", "right") else "centre"


def _body(names: Sequence[str], edges: Iterable[Edge]) -> Skeleton:
    """Skeleton whose keypoints say in their names on which side they are."""
    return Skeleton(tuple(names), tuple(edges), tuple(map(_side, names)))


_COCO = _body(
    (
        "nose", "left eye", "right eye", "left ear", "right ear", "left shoulder", "right shoulder", "left elbow",
        "right elbow", "left wrist", "right wrist", "left hip", "right hip", "left knee", "right knee", "left ankle",
        "right ankle",
    ),
    (
        (15, 13), (13, 11), (16, 14), (14, 12), (11, 12), (5, 11), (6, 12), (5, 6), (5, 7), (6, 8), (7, 9), (8, 10),
        (1, 2), (0, 1), (0, 2), (1, 3), (2, 4), (3, 5), (4, 6),
    ),
)  # fmt: skip

_FEET = ("left big toe", "left small toe", "left heel", "right big toe", "right small toe", "right heel")

_MPII = _body(
    (
        "right ankle", "right knee", "right hip", "left hip", "left knee", "left ankle", "pelvis", "thorax",
        "upper neck", "head top", "right wrist", "right elbow", "right shoulder", "left shoulder", "left elbow",
        "left wrist",
    ),
    (
        (0, 1), (1, 2), (2, 6), (6, 3), (3, 4), (4, 5), (6, 7), (7, 8), (8, 9), (10, 11), (11, 12), (12, 7), (7, 13),
        (13, 14), (14, 15),
    ),
)  # fmt: skip

_HAND = Skeleton(
    ("wrist", *(f"{finger} {joint}" for finger in _FINGERS for joint in range(1, 5))),
    tuple(edge for finger in range(5) for edge in _chain([0, *range(4 * finger + 1, 4 * finger + 5)])),
    ("centre", *(finger for finger in _FINGERS for _ in range(4))),
)

# The 68 landmarks of iBUG's 300-W. The first of the jaw are on the person's right.
_PARTS_OF_FACE = {
    "jaw": (range(17), False),
    "right eyebrow": (range(17, 22), False),
    "left eyebrow": (range(22, 27), False),
    "nose bridge": (range(27, 31), False),
    "nostrils": (range(31, 36), False),
    "right eye": (range(36, 42), True),
    "left eye": (range(42, 48), True),
    "outer lips": (range(48, 60), True),
    "inner lips": (range(60, 68), True),
}
_LEFT_OF_FACE = {*range(9, 17), *range(22, 27), 34, 35, *range(42, 48), 52, 53, 54, 55, 56, 63, 64, 65}
_CENTRE_OF_FACE = {8, *range(27, 31), 33, 51, 57, 62, 66}
_FACE = Skeleton(
    tuple(f"{part} {place + 1}" for part, (indices, _) in _PARTS_OF_FACE.items() for place in range(len(indices))),
    tuple(edge for indices, closed in _PARTS_OF_FACE.values() for edge in _chain(indices, closed)),
    tuple("centre" if i in _CENTRE_OF_FACE else "left" if i in _LEFT_OF_FACE else "right" for i in range(68)),
)

_COCO_WHOLEBODY = Skeleton(
    (
        *_COCO.keypoints,
        *_FEET,
        *(f"face {name}" for name in _FACE.keypoints),
        *(f"{side} hand {name}" for side in ("left", "right") for name in _HAND.keypoints),
    ),
    (
        *_COCO.edges,
        *((15, 17), (15, 18), (15, 19), (16, 20), (16, 21), (16, 22)),
        *_shifted(_FACE.edges, 23),
        *_shifted(_HAND.edges, 91),
        *_shifted(_HAND.edges, 112),
    ),
    (*_COCO.groups, *map(_side, _FEET), *_FACE.groups, *_HAND.groups, *_HAND.groups),
)

SKELETONS = {"coco": _COCO, "coco_wholebody": _COCO_WHOLEBODY, "hand": _HAND, "face": _FACE, "mpii": _MPII}
"""By the name of a data set, as `metrics.kappas` names them."""


def of_size(num_keypoints: int) -> Skeleton:
    """Skeleton of the data set with so many keypoints; without limbs where there is none."""
    for skeleton in SKELETONS.values():
        if len(skeleton.keypoints) == num_keypoints:
            return skeleton
    return from_edges((), num_keypoints)


def from_edges(edges: Iterable[Any], num_keypoints: int) -> Skeleton:
    """Skeleton of one's own limbs, all in the centre's colour.

    Raises:
        TypeError: An edge is no pair of ints.
        ValueError: One of them is no keypoint.
    """
    pairs = []
    for edge in edges:
        pair = edge.tolist() if hasattr(edge, "tolist") else edge
        if not isinstance(pair, (tuple, list)) or len(pair) != 2 or not all(type(each) is int for each in pair):
            raise TypeError(f"skeleton: got {edge!r} in it, expected pairs (i, j) of keypoints")
        if not all(0 <= each < num_keypoints for each in pair):
            raise ValueError(f"skeleton: got {edge!r} in it, expected two of {num_keypoints} keypoints")
        pairs.append((pair[0], pair[1]))
    names = tuple(str(index) for index in range(num_keypoints))
    return Skeleton(names, tuple(pairs), ("centre",) * num_keypoints)
