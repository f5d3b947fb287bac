"""The rows of skeletons: as many keypoints as the data sets have, and limbs that lead somewhere."""

from __future__ import annotations

import pytest

from dark_kernels import data, metrics
from dark_kernels.draw import COLOURS, SKELETONS, skeletons


@pytest.mark.parametrize("name", SKELETONS)
def test_rows_belong_together(name: str) -> None:
    skeleton = SKELETONS[name]
    count = len(skeleton.keypoints)
    assert count == len(metrics.kappas(name)) == len(skeleton.groups)
    assert len(set(skeleton.keypoints)) == count
    assert all(0 <= i < count and 0 <= j < count and i != j for i, j in skeleton.edges)
    assert len({frozenset(edge) for edge in skeleton.edges}) == len(skeleton.edges)
    assert {i for edge in skeleton.edges for i in edge} == set(range(count))
    assert set(skeleton.groups) <= set(COLOURS)
    assert skeletons.of_size(count) is skeleton


def test_coco_swaps_left_and_right_in_a_mirror() -> None:
    names = SKELETONS["coco"].keypoints
    for name, mirrored in zip(names, data.COCO_FLIP_INDICES, strict=True):
        assert names[mirrored] == name.replace("left", "*").replace("right", "left").replace("*", "right")


@pytest.mark.parametrize(
    ("name", "chosen"),
    [
        # Corners of eyes and mouth, and wings of the nose: on the person's right, which is left in an image.
        ("face", {36: "right", 39: "right", 48: "right", 31: "right", 45: "left", 54: "left", 30: "centre"}),
        ("coco_wholebody", {0: "centre", 17: "left", 22: "right", 23 + 8: "centre", 23 + 36: "right", 91: "centre"}),
        ("mpii", {0: "right", 5: "left", 6: "centre", 10: "right", 15: "left"}),
        ("hand", {0: "centre", 4: "thumb", 8: "index", 12: "middle", 16: "ring", 20: "little"}),
    ],
)  # fmt: skip
def test_groups(name: str, chosen: dict[int, str]) -> None:
    assert {index: SKELETONS[name].groups[index] for index in chosen} == chosen


def test_a_face_is_as_symmetric_as_faces_are() -> None:
    groups = SKELETONS["face"].groups
    assert groups.count("left") == groups.count("right")


def test_limbs_between_groups() -> None:
    coco = SKELETONS["coco"]
    assert [coco.group_of(edge) for edge in ((5, 7), (6, 8), (0, 1), (2, 0), (5, 6))] == [
        "left", "right", "left", "right", "centre",
    ]  # fmt: skip


def test_a_size_that_no_data_set_has() -> None:
    skeleton = skeletons.of_size(5)
    assert (len(skeleton.keypoints), skeleton.edges, set(skeleton.groups)) == (5, (), {"centre"})
