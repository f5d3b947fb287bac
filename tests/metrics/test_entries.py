"""Entries of annotations and results as people have them: from JSON, from data frames, of arrays and tensors."""

from __future__ import annotations

import copy
import json
import math
import warnings
from collections.abc import Callable, Iterator
from decimal import Decimal
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from dark_kernels import metrics

from .test_coco import FIRST, dataset, one_of

Change = Callable[[dict[str, Any], list[dict[str, Any]]], None]


@pytest.fixture(autouse=True)
def no_warning() -> Iterator[None]:
    pytest.importorskip("faster_coco_eval", reason="the extra `metrics` is not installed")
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        yield


def numbers_of(change: Change | None = None) -> dict[str, float]:
    """Of three persons, of which one is found less well, by results with boxes."""
    annotations, keypoints = dataset(60.0**2, 80.0**2, 200.0**2)
    keypoints.coords[1] += torch.tensor([5.0, -4.0], dtype=torch.float64)
    results = metrics.coco_results(keypoints, [1, 2, 3], pose_scores=[0.9, 0.5, 0.7])
    for each, of in zip(results, annotations["annotations"], strict=True):
        each["bbox"] = list(of["bbox"])
    results.append({**results[0], "keypoints": [9.0, 9.0, 0.5] * 17, "bbox": [0, 0, 50, 50], "score": 0.95})
    if change is not None:
        change(annotations, results)
    return metrics.oks_average_precision(results, annotations)


def of_annotations(**convert: Callable[[Any], Any]) -> Change:
    """A conversion of fields of every annotation."""

    def change(annotations: dict[str, Any], results: list[dict[str, Any]]) -> None:
        for each in annotations["annotations"]:
            each.update({key: function(each[key]) for key, function in convert.items()})

    return change


def of_results(**convert: Callable[[Any], Any]) -> Change:
    def change(annotations: dict[str, Any], results: list[dict[str, Any]]) -> None:
        for each in results:
            each.update({key: function(each[key]) for key, function in convert.items()})

    return change


def of_ids(convert: Callable[[Any], Any]) -> Change:
    def change(annotations: dict[str, Any], results: list[dict[str, Any]]) -> None:
        for image in annotations["images"]:
            image["id"] = convert(image["id"])
        for category in annotations["categories"]:
            category["id"] = convert(category["id"])
        for each in annotations["annotations"] + results:
            each["image_id"], each["category_id"] = convert(each["image_id"]), convert(each["category_id"])

    return change


def rows(numbers: list[float]) -> list[list[float]]:
    return [numbers[i : i + 3] for i in range(0, len(numbers), 3)]


class NAType:
    """As pandas.NA: it is in doubt about everything."""

    def __bool__(self) -> bool:
        raise TypeError("boolean value of NA is ambiguous")


MISSING = [None, math.nan, np.float32("nan"), np.array(math.nan), NAType()]
SAME: dict[str, Change] = {
    "area float32": of_annotations(area=np.float32),
    "area tensor": of_annotations(area=torch.tensor),
    "area array": of_annotations(area=np.array),
    "area decimal": of_annotations(area=Decimal),
    "bbox array": of_annotations(bbox=np.array),
    "bbox tensor": of_annotations(bbox=lambda box: torch.tensor(box, dtype=torch.float64)),
    "bbox of scalars": of_annotations(bbox=lambda box: [*map(np.float64, box)]),
    "num_keypoints float": of_annotations(num_keypoints=float),
    "num_keypoints int64": of_annotations(num_keypoints=np.int64),
    "iscrowd float": of_annotations(iscrowd=float),
    "iscrowd bool": of_annotations(iscrowd=bool),
    "iscrowd bool_": of_annotations(iscrowd=np.bool_),
    "iscrowd uint8": of_annotations(iscrowd=np.uint8),
    "iscrowd tensor": of_annotations(iscrowd=torch.tensor),
    **{f"num_keypoints {each!r}"[:40]: of_annotations(num_keypoints=lambda _, each=each: each) for each in MISSING},
    **{f"iscrowd {each!r}"[:40]: of_annotations(iscrowd=lambda _, each=each: each) for each in MISSING},
    **{f"id {each!r}"[:40]: of_annotations(id=lambda _, each=each: each) for each in MISSING},
    "keypoints array": of_annotations(keypoints=np.array),
    "keypoints nested": of_annotations(keypoints=rows),
    "keypoints [K, 3]": of_annotations(keypoints=lambda numbers: torch.tensor(rows(numbers), dtype=torch.float64)),
    "keypoints arrays": of_annotations(keypoints=lambda numbers: [np.array(row) for row in rows(numbers)]),
    "results array": of_results(keypoints=np.array),
    "results nested": of_results(keypoints=rows),
    "results [K, 3]": of_results(keypoints=lambda numbers: np.array(rows(numbers))),
    "results tensor": of_results(keypoints=lambda numbers: torch.tensor(numbers, dtype=torch.float64)),
    "results bbox array": of_results(bbox=np.array),
    "results bbox tensor": of_results(bbox=lambda box: torch.tensor(box, dtype=torch.float64)),
    "score float64": of_results(score=np.float64),
    "score tensor": of_results(score=lambda score: torch.tensor(score, dtype=torch.float64)),
    "ids int64": of_ids(np.int64),
    "ids arrays": of_ids(np.array),
    "ids tensors": of_ids(torch.tensor),
    "ids floats": of_ids(float),
    "ids from 2^63": of_ids(lambda number: 2**63 - 2 + number),
    "ids below 2^63": of_ids(lambda number: 2**63 - 5 + number),
    "ids below -2^63": of_ids(lambda number: -(2**63) - 2 + number),
    "ids str_": of_ids(lambda number: np.str_(number)),
    "categories null": lambda annotations, results: annotations.update(categories=None),
}  # fmt: skip


@pytest.mark.parametrize("name", SAME)
def test_numbers_are_the_same(name: str) -> None:
    found, expected = numbers_of(SAME[name]), numbers_of()
    assert found == expected
    assert 0 < expected["AP"] < 1


@pytest.mark.parametrize("missing", [[math.nan] * 4, [None] * 4, np.full(4, math.nan), *MISSING, []])
def test_boxes_of_data_frames_may_be_missing(missing: Any) -> None:
    """In results they say how large a false pose is: one of NaN has changed AP_medium."""
    expected = numbers_of(lambda annotations, results: [each.pop("bbox") for each in results] and None)
    assert numbers_of(of_results(bbox=lambda _: missing)) == expected
    assert numbers_of()["AP_medium"] != expected["AP_medium"]
    with pytest.warns(metrics.AnnotationWarning, match=f"{FIRST} and 2 more: there is no 'bbox'"):
        numbers_of(of_annotations(bbox=lambda _: missing))


@pytest.mark.parametrize("crowd", [1, True, 1.0, np.bool_(True), np.int8(1), torch.tensor(1)])
def test_crowds_of_any_type(crowd: Any) -> None:
    one = numbers_of(one_of("iscrowd", 1))
    assert numbers_of(one_of("iscrowd", crowd)) == one != numbers_of()


def test_results_of_a_file(tmp_path: Path) -> None:
    annotations, keypoints = dataset(60.0**2)
    results = metrics.coco_results(keypoints, [1])
    expected = metrics.oks_average_precision(results, annotations)
    path = tmp_path / "results.json"
    path.write_text(json.dumps(results), encoding="utf-8")
    for given in (path, str(path), np.array(results, dtype=object), tuple(results)):
        assert metrics.oks_average_precision(given, annotations) == expected


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16"])
def test_files_are_read_as_json_writes_them(encoding: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whatever the locale says, as on Windows; ids of images are names there."""
    monkeypatch.setattr("locale.getpreferredencoding", lambda *_: "ascii")
    annotations, keypoints = dataset(60.0**2)
    results = metrics.coco_results(keypoints, [1])
    annotations["images"][0]["id"] = annotations["annotations"][0]["image_id"] = results[0]["image_id"] = "Łódź.jpg"
    paths = [tmp_path / "annotations.json", tmp_path / "results.json"]
    for path, content in zip(paths, (annotations, results), strict=True):
        path.write_text(json.dumps(content, ensure_ascii=False), encoding=encoding)
    assert metrics.oks_average_precision(paths[1], paths[0])["AP"] == pytest.approx(1)


# --- what is refused -------------------------------------------------------------------------------------------

POSE = r"results: got pose number 0 \(image 1\)"
ONE = f"annotations: got {FIRST}"


def replaced(key: str, value: Any) -> Change:
    return one_of(key, value, 0)


def in_results(key: str, value: Any) -> Change:
    return lambda annotations, results: results[0].update({key: value})


def ruined(of: Callable[[dict[str, Any], list[dict[str, Any]]], list[Any]], index: int, value: Any) -> Change:
    """One number of a list."""

    def change(annotations: dict[str, Any], results: list[dict[str, Any]]) -> None:
        of(annotations, results)[index] = value

    return change


def keypoints_of(annotations: dict[str, Any], results: list[dict[str, Any]]) -> list[Any]:
    return annotations["annotations"][0]["keypoints"]


def found_keypoints(annotations: dict[str, Any], results: list[dict[str, Any]]) -> list[Any]:
    return results[0]["keypoints"]


def box_of(annotations: dict[str, Any], results: list[dict[str, Any]]) -> list[Any]:
    return annotations["annotations"][0]["bbox"]


def found_box(annotations: dict[str, Any], results: list[dict[str, Any]]) -> list[Any]:
    return results[0]["bbox"]


@pytest.mark.parametrize(
    ("error", "message", "change"),
    [
        (TypeError, rf"{ONE} with 'iscrowd' str '0', expected 0 or 1", replaced("iscrowd", "0")),
        (ValueError, rf"{ONE} with 'iscrowd' int 2, expected 0 or 1", replaced("iscrowd", 2)),
        (TypeError, rf"{ONE} with 'iscrowd' list \[0\], expected 0 or 1", replaced("iscrowd", [0])),
        (TypeError, rf"{ONE} with 'area' str '12', expected an area", replaced("area", "12")),
        (TypeError, rf"{ONE} with 'area' ndarray array\(\[3", replaced("area", np.array([3.0, 4.0]))),
        (TypeError, rf"{ONE} with 'num_keypoints' str '17'", replaced("num_keypoints", "17")),
        (ValueError, rf"{ONE} with 'num_keypoints' int -1, expected an integer", replaced("num_keypoints", -1)),
        (ValueError, rf"{ONE} with 'num_keypoints' float 2\.5", replaced("num_keypoints", 2.5)),
        (ValueError, rf"{ONE} with 'num_keypoints' float inf", replaced("num_keypoints", math.inf)),
        (TypeError, rf"{ONE} with 'bbox' float 3\.0, expected 4 finite numbers", replaced("bbox", 3.0)),
        (TypeError, rf"{ONE} with 'bbox' str '1 2 3 4', expected 4", replaced("bbox", "1 2 3 4")),
        (ValueError, rf"{ONE} with 'bbox' \[1, 2, 3\], expected 4", replaced("bbox", [1, 2, 3])),
        (TypeError, rf"{ONE} with 'bbox' NoneType None, expected 4", ruined(box_of, 2, None)),
        (TypeError, rf"{ONE} with 'bbox' str '7', expected 4", ruined(box_of, 2, "7")),
        (ValueError, rf"{ONE} with 'bbox' \[.*nan.*\], expected 4 finite", ruined(box_of, 2, math.nan)),
        (TypeError, rf"{ONE} with NoneType None in 'keypoints', expected x, y and vis", ruined(keypoints_of, 4, None)),
        (TypeError, rf"{ONE} with str '3' in 'keypoints', expected x, y and vis", ruined(keypoints_of, 4, "3")),
        (TypeError, rf"{ONE} with 'keypoints' str '1,2,2', expected x, y", replaced("keypoints", "1,2,2")),
        (TypeError, rf"{ONE} with 'keypoints' float 2\.0, expected x, y", replaced("keypoints", 2.0)),
        (ValueError, rf"{ONE} with \[1, 2\] in 'keypoints', expected .*\[K, 3\]", replaced("keypoints", [[1, 2]] * 17)),
        (ValueError, rf"{ONE} with 48 numbers in 'keypoints', expected 51", replaced("keypoints", [[1, 2, 2]] * 16)),
        (ValueError, rf"{ONE} without 'keypoints'", replaced("keypoints", math.nan)),
        (ValueError, r"got annotation 11 \(image nan\) without 'image_id'", replaced("image_id", math.nan)),
        (TypeError, r"annotation 11 \(image \[1\]\) with 'image_id' list \[1\], expected", replaced("image_id", [1])),
        (TypeError, r"with 'image_id' Tensor tensor\(\[1\]\), exp", replaced("image_id", torch.tensor([1]))),
        (TypeError, rf"{ONE} with 'category_id' list \[1\], expected an int", replaced("category_id", [1])),
        (TypeError, r"annotations: got annotation \[3\] \(image 1\) with 'id' list \[3\]", replaced("id", [3])),
        (TypeError, r"annotations: got annotation number 1 list \['id'\], expected a dict",
         lambda annotations, results: annotations["annotations"].__setitem__(1, ["id"])),
        (TypeError, r"annotations: got image number 0 int 1, expected a dict",
         lambda annotations, results: annotations["images"].__setitem__(0, 1)),
        (TypeError, r"annotations: got image number 0 with 'id' list \[1\]",
         lambda annotations, results: annotations["images"][0].update(id=[1])),
        (ValueError, r"annotations: got image number 0 without 'id'",
         lambda annotations, results: annotations["images"][0].update(id=None)),
        (TypeError, r"annotations: got category number 0 str 'person', expected a dict",
         lambda annotations, results: annotations.update(categories=["person"])),
        (TypeError, r"annotations: got 'categories' dict {'id': 1}, expected a list of \{'id': \.\.\., ",
         lambda annotations, results: annotations.update(categories={"id": 1})),
        (TypeError, rf"{POSE} with 'score' str '0\.9', expected a number", in_results("score", "0.9")),
        (TypeError, rf"{POSE} with 'score' bool True, expected a number", in_results("score", True)),
        (TypeError, rf"{POSE} with NoneType None in 'keypoints', expected x, y", ruined(found_keypoints, 3, None)),
        (TypeError, rf"{POSE} with str '3' in 'keypoints', expected x, y and score", ruined(found_keypoints, 3, "3")),
        (TypeError, rf"{POSE} with 'keypoints' str '1,2'", in_results("keypoints", "1,2")),
        (ValueError, rf"{POSE} with \[1, 2\] in 'keypoints'", in_results("keypoints", [[1, 2]] * 17)),
        (ValueError, rf"{POSE} with 'bbox' \[.*inf.*\], expected 4 finite", ruined(found_box, 3, math.inf)),
        (TypeError, rf"{POSE} with 'bbox' NoneType None, expected 4", ruined(found_box, 3, None)),
        (TypeError, rf"{POSE} with 'bbox' int 3, expected 4", in_results("bbox", 3)),
        (TypeError, r"results: got pose number 0 with 'image_id' list \[1\], expected", in_results("image_id", [1])),
        (TypeError, rf"{POSE} with 'category_id' list \[1\], expected an int", in_results("category_id", [1])),
        (TypeError, r"results: got pose number 0 list \[\], expected a dict",
         lambda annotations, results: results.__setitem__(0, [])),
    ],
)  # fmt: skip
def test_refuses(error: type[Exception], message: str, change: Change) -> None:
    with pytest.raises(error, match=message):
        numbers_of(change)


@pytest.mark.parametrize("given", [None, 3, b"results.json", {"image_id": 1}])
def test_refuses_what_is_no_list_of_results(given: Any) -> None:
    with pytest.raises(TypeError, match=rf"results: got {type(given).__name__}, expected a list .* or a JSON file"):
        metrics.oks_average_precision(given, dataset(60.0**2)[0])


def test_refuses_a_file_of_something_else(tmp_path: Path) -> None:
    path = tmp_path / "annotations.json"
    path.write_text(json.dumps(dataset(60.0**2)[0]), encoding="utf-8")
    with pytest.raises(TypeError, match="results: got dict, expected a list"):
        metrics.oks_average_precision(path, path)
    with pytest.raises(FileNotFoundError):
        metrics.oks_average_precision(str(tmp_path / "none.json"), path)


# --- pairs -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "pairs", [torch.tensor([[1, 2], [3, 4]]), np.array([[1, 2], [3, 4]]), [np.array([1, 2]), (3, 4)]]
)
def test_pairs_of_any_type(pairs: Any) -> None:
    annotations, keypoints = dataset(100.0**2)
    keypoints.coords[0, [1, 2]] = keypoints.coords[0, [2, 1]]
    results = metrics.coco_results(keypoints, [1])
    before = copy.deepcopy(pairs)
    found = metrics.oks_average_precision(results, annotations, symmetric=pairs)
    assert found["AP"] == pytest.approx(1)
    assert metrics.oks_average_precision(results, annotations)["AP"] < 1
    assert str(pairs) == str(before)


@pytest.mark.parametrize("without", ["results", "annotations"])
@pytest.mark.parametrize(
    ("error", "message", "options"),
    [
        (ValueError, "symmetric: got 17, expected one of 17 keypoints", {"symmetric": [(0, 17)]}),
        (TypeError, "symmetric: got int, expected pairs", {"symmetric": 3}),
        (TypeError, "symmetric: got 1 in it, expected pairs", {"symmetric": torch.tensor([1, 2])}),
        (ValueError, "swap: got 'all', expected one of", {"symmetric": [(0, 1)], "swap": "all"}),
        (ValueError, "swap: got 'all', expected one of", {"swap": "all"}),
    ],
)
def test_pairs_are_checked_first(error: type[Exception], message: str, options: dict[str, Any], without: str) -> None:
    """Also where nothing is compared."""
    annotations, keypoints = dataset(100.0**2)
    results = metrics.coco_results(keypoints, [1])
    if without == "results":
        results = []
    else:
        annotations["annotations"] = []
    with pytest.raises(error, match=message):
        metrics.oks_average_precision(results, annotations, **options)


# --- areas of any number ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("area", [np.float32(0.5), np.float64(0.5), np.array(0.5), torch.tensor(0.5), Decimal("0.5")])
def test_shares_of_any_type(area: Any) -> None:
    annotations, keypoints = dataset(100.0**2)
    keypoints.coords[0, :, 0] += 9
    results = metrics.coco_results(keypoints, [1])
    del annotations["annotations"][0]["area"]
    found = metrics.oks_average_precision(results, annotations, area=area)
    assert found == pytest.approx(metrics.oks_average_precision(results, annotations, area=0.5), nan_ok=True)
