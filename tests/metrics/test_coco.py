"""Poses in COCO's format, and average precision: of what is known, and of what would silently be 0."""

from __future__ import annotations

import copy
import json
import math
import re
import sys
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

from dark_kernels import COCO_KAPPAS, Keypoints, decode, metrics, oks
from dark_kernels.metrics._shifts import find_shift


def test_coco_results_are_json() -> None:
    coords = torch.tensor([[[1.0, 2.0], [math.nan, 4.0]], [[5.0, 6.0], [7.0, 8.5]]], dtype=torch.float16)
    scores = torch.tensor([[0.5, 0.75], [1.0, 0.5]])
    found = metrics.coco_results(Keypoints(coords, scores), torch.tensor([7, 3]), category_id=2)
    assert json.loads(json.dumps(found, allow_nan=False)) == [
        {"image_id": 7, "category_id": 2, "keypoints": [1, 2, 0.5, 0, 0, 0], "score": 0.25},
        {"image_id": 3, "category_id": 2, "keypoints": [5, 6, 1, 7, 8.5, 0.5], "score": 0.75},
    ]
    named = metrics.coco_results(Keypoints(coords, scores), [7, 3], pose_scores=torch.tensor([0.125, 2.0]))
    assert [each["score"] for each in named] == [0.125, 2.0]
    with pytest.raises(TypeError, match=r"keypoints: got tuple, expected dark_kernels\.Keypoints"):
        metrics.coco_results((coords, scores), [7, 3])  # type: ignore[arg-type]


def person(generator: torch.Generator, image: int, identity: int, area: float) -> dict[str, Any]:
    xy = torch.rand(17, 2, generator=generator) * area**0.5 + 50
    keypoints = torch.cat([xy, torch.full((17, 1), 2.0)], dim=1).flatten().tolist()
    low, high = xy.amin(0), xy.amax(0)
    return {
        "id": identity, "image_id": image, "category_id": 1, "keypoints": keypoints, "num_keypoints": 17, "iscrowd": 0,
        "area": area, "bbox": [*low.tolist(), *(high - low).tolist()],
    }  # fmt: skip


def dataset(*areas: float) -> tuple[dict[str, Any], Keypoints]:
    """Annotations of one person an image, and the same people as predictions with a score of 0.5."""
    generator = torch.Generator().manual_seed(1)
    people = [person(generator, i + 1, i + 11, area) for i, area in enumerate(areas)]
    annotations = {
        "images": [{"id": i + 1, "width": 640, "height": 480} for i in range(len(areas))],
        "categories": [{"id": 1, "name": "person"}],
        "annotations": people,
    }
    coords = torch.tensor([each["keypoints"] for each in people], dtype=torch.float64).view(-1, 17, 3)[..., :2]
    return annotations, Keypoints(coords, torch.full(coords.shape[:2], 0.5, dtype=torch.float64))


@pytest.fixture
def evaluates() -> None:
    pytest.importorskip("faster_coco_eval", reason="the extra `metrics` is not installed")


@pytest.mark.usefixtures("evaluates")
def test_average_precision_of_what_is_perfect(tmp_path: Path) -> None:
    annotations, keypoints = dataset(50.0**2, 200.0**2)
    results = metrics.coco_results(keypoints, [1, 2])
    before = copy.deepcopy((annotations, results))
    found = metrics.oks_average_precision(results, annotations)
    assert set(found) == {
        "AP", "AP50", "AP75", "AP_medium", "AP_large", "AR", "AR50", "AR75", "AR_medium", "AR_large",
    }  # fmt: skip
    assert all(value == pytest.approx(1) for value in found.values())
    assert (annotations, results) == before
    path = tmp_path / "annotations.json"
    path.write_text(json.dumps(annotations), encoding="utf-8")
    assert metrics.oks_average_precision(results, path) == found
    assert metrics.oks_average_precision(results, str(path)) == found


@pytest.mark.usefixtures("evaluates")
def test_average_precision_of_a_known_similarity() -> None:
    """Every keypoint as far off as its kappa makes a similarity of 0.72: found up to a threshold of 0.7."""
    annotations, keypoints = dataset(100.0**2)
    shift = 2 * torch.tensor(COCO_KAPPAS, dtype=torch.float64) * 100 * math.sqrt(-2 * math.log(0.72))
    keypoints.coords[0, :, 0] += shift
    found = metrics.oks_average_precision(metrics.coco_results(keypoints, [1]), annotations)
    assert found["AP"] == found["AP_large"] == pytest.approx(0.5)
    assert (found["AP50"], found["AP75"]) == (pytest.approx(1), 0)
    assert math.isnan(found["AP_medium"])
    true_coords = torch.tensor(annotations["annotations"][0]["keypoints"], dtype=torch.float64).view(1, 17, 3)[..., :2]
    area = torch.tensor([100.0**2], dtype=torch.float64)
    assert float(oks(keypoints.coords, true_coords, area, area)) == pytest.approx(0.72)


@pytest.mark.usefixtures("evaluates")
def test_average_precision_counts_false_poses_and_missing_ones() -> None:
    """Two people in two images: one found behind a false pose of a higher score, one not found."""
    annotations, keypoints = dataset(100.0**2, 100.0**2)
    coords = torch.cat([keypoints.coords[:1] + 500, keypoints.coords[:1]])
    poses = Keypoints(coords, torch.ones(2, 17))
    results = metrics.coco_results(poses, [1, 1], pose_scores=torch.tensor([0.9, 0.8]))
    found = metrics.oks_average_precision(results, annotations)
    # A precision of a half up to a recall of a half, at the recalls 0, 0.01, ..., 1.
    assert found["AP"] == pytest.approx(0.5 * 51 / 101)
    assert found["AR"] == pytest.approx(0.5)
    assert metrics.oks_average_precision([], annotations)["AP"] == 0


@pytest.mark.usefixtures("evaluates")
def test_average_precision_of_other_keypoints() -> None:
    annotations, keypoints = dataset(100.0**2)
    annotations["annotations"][0]["keypoints"] = annotations["annotations"][0]["keypoints"][:9]
    few = Keypoints(keypoints.coords[:, :3], keypoints.scores[:, :3])
    results = metrics.coco_results(few, [1])
    assert metrics.oks_average_precision(results, annotations, (0.1, 0.1, 0.2))["AP"] == pytest.approx(1)
    with pytest.raises(ValueError, match="results: got a pose of 3 keypoints, expected 17"):
        metrics.oks_average_precision(results, annotations)
    results[0]["image_id"] = 8
    with pytest.raises(ValueError, match="results: got a pose of image 8, expected one of the annotations"):
        metrics.oks_average_precision(results, annotations, (0.1, 0.1, 0.2))


def test_average_precision_names_what_is_missing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "faster_coco_eval", None)
    with pytest.raises(ImportError, match=r"pip install 'dark-kernels\[metrics\]'"):
        metrics.oks_average_precision([], {})


# --- one value a pose ----------------------------------------------------------------------------------------


def three() -> Keypoints:
    return Keypoints(torch.rand(3, 2, 2), torch.rand(3, 2))


@pytest.mark.parametrize(
    "given",
    [[1, 2, 3], (1, 2, 3), torch.arange(1, 4), torch.arange(1, 4).numpy(), range(1, 4), [*torch.arange(1, 4)]],
    ids=["list", "tuple", "tensor", "array", "range", "list of tensors"],
)  # fmt: skip
def test_coco_results_have_a_category_a_pose(given: Any) -> None:
    found = metrics.coco_results(three(), given, given)
    assert [each["category_id"] for each in found] == [1, 2, 3]
    assert [each["image_id"] for each in found] == [1, 2, 3]
    assert all(type(each[key]) is int for each in found for key in ("category_id", "image_id"))


@pytest.mark.parametrize("given", [4, torch.tensor(4), torch.tensor([4])[0].numpy(), torch.tensor([4]).numpy()[0]])
def test_coco_results_have_one_category(given: Any) -> None:
    assert [each["category_id"] for each in metrics.coco_results(three(), range(3), given)] == [4] * 3


def test_pose_scores_of_any_kind() -> None:
    for given in ([0.5, 1, math.nan], torch.tensor([0.5, 1, math.inf]), torch.tensor([0.5, 1, -math.inf]).numpy()):
        assert [each["score"] for each in metrics.coco_results(three(), range(3), 1, given)] == [0.5, 1, 0]
    empty = metrics.coco_results(Keypoints(torch.rand(2, 0, 2), torch.rand(2, 0)), [1, 2])
    assert [each["score"] for each in empty] == [0, 0]


PER_POSE = {
    "image_ids": lambda value: metrics.coco_results(three(), value),
    "category_id": lambda value: metrics.coco_results(three(), range(3), value),
    "pose_scores": lambda value: metrics.coco_results(three(), range(3), 1, value),
}


@pytest.mark.parametrize("name", PER_POSE)
@pytest.mark.parametrize(
    ("error", "message", "value"),
    [
        (ValueError, r"got (2 of them|shape \[2\]), expected \[?3", [1, 2]),
        (ValueError, r"got (4 of them|shape \[4\]), expected \[?3", torch.ones(4).double()),
        (ValueError, r"got (1 of them|shape \[1\]), expected \[?3", torch.ones(1)),
        (ValueError, r"got shape \[3, 1\], expected", torch.ones(3, 1)),
        (ValueError, r"got shape \[1, 3\], expected \[3\], one for each pose", torch.ones(1, 3).numpy()),
        (TypeError, r"got str '123', expected|got str '123' in it, expected ints", "123"),
        (TypeError, r"got list \[1\] in it, expected", [[1], [2], [3]]),
        (TypeError, r"got NoneType None in it, expected", [None, 1, 2]),
        (TypeError, r"got dict .*, expected", {1: 1, 2: 2, 3: 3}),
        (TypeError, r"got bool True in it, expected", [True, False, True]),
    ],
)
def test_refuses_other_shapes(name: str, error: type[Exception], message: str, value: Any) -> None:
    with pytest.raises(error, match=f"{name}: (?:{message})"):
        PER_POSE[name](value)


@pytest.mark.parametrize("name", ["image_ids", "category_id"])
@pytest.mark.parametrize("value", [[1.0, 2.0, 3.0], torch.ones(3)])
def test_refuses_other_numbers(name: str, value: Any) -> None:
    with pytest.raises(TypeError, match=rf"{name}: got float 1\.0 in it, expected ints"):
        PER_POSE[name](value)


@pytest.mark.parametrize("name", ["image_ids", "pose_scores"])
def test_refuses_one_for_all(name: str) -> None:
    with pytest.raises(TypeError, match=rf"{name}: got int 1, expected a sequence or a tensor \[3\]"):
        PER_POSE[name](1)


def test_refuses_other_keypoints() -> None:
    with pytest.raises(ValueError, match=r"keypoints\.coords: got shape \[3, 2, 3\], expected \[N, K, 2\]"):
        metrics.coco_results(Keypoints(torch.rand(3, 2, 3), torch.rand(3, 2)), range(3))
    with pytest.raises(TypeError, match=r"keypoints\.scores: got builtins\.list"):
        metrics.coco_results(Keypoints(torch.rand(3, 2, 2), [1, 2, 3]), range(3))  # type: ignore[arg-type]


# --- what annotations lack -------------------------------------------------------------------------------------

Change = Callable[[dict[str, Any], list[dict[str, Any]]], None]


AREAS = (60.0**2, 200.0**2)


def precision(change: Change, noise: float = 0.5, areas: tuple[float, ...] = AREAS, **options: Any) -> float:
    """AP of poses that are good, after a change of annotations and results."""
    annotations, keypoints = dataset(*areas)
    keypoints.coords.add_(noise * torch.randn(keypoints.coords.shape, generator=torch.Generator().manual_seed(7)))
    results = metrics.coco_results(keypoints, range(1, len(areas) + 1))
    change(annotations, results)
    before = copy.deepcopy((annotations, results))
    found = metrics.oks_average_precision(results, annotations, **options)
    assert (annotations, results) == before
    return found["AP"]


def without(*keys: str) -> Change:
    def change(annotations: dict[str, Any], results: list[dict[str, Any]]) -> None:
        for key in keys:
            annotations.pop(key, None)
            for each in annotations["annotations"]:
                each.pop(key, None)

    return change


def with_(**values: Any) -> Change:
    """Of every annotation."""
    return lambda annotations, results: [each.update(values) for each in annotations["annotations"]] and None


def results_with(**values: Any) -> Change:
    return lambda annotations, results: [each.update(values) for each in results] and None


@pytest.fixture
def no_warning(evaluates: None) -> Iterator[None]:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        yield


@pytest.mark.usefixtures("no_warning")
@pytest.mark.parametrize(
    "keys",
    [("num_keypoints",), ("iscrowd",), ("categories",), ("id",), ("num_keypoints", "iscrowd", "categories")],
    ids=str,
)
def test_what_can_be_counted_may_be_missing(keys: tuple[str, ...]) -> None:
    assert precision(without(*keys)) == pytest.approx(1)


@pytest.mark.usefixtures("no_warning")
def test_keypoints_are_counted() -> None:
    """With `num_keypoints` and without the numbers are the same, of persons of which nothing is seen too."""
    annotations, keypoints = dataset(60.0**2, 100.0**2, 200.0**2)
    people = annotations["annotations"]
    people[1]["keypoints"] = [0] * 51
    people[1]["num_keypoints"] = 0
    people[2]["keypoints"][2::3] = [0, 1, 2] + [0] * 14
    people[2]["num_keypoints"] = 2
    results = metrics.coco_results(keypoints, [1, 2, 3])
    expected = metrics.oks_average_precision(results, annotations)
    without("num_keypoints")(annotations, results)
    assert metrics.oks_average_precision(results, annotations) == expected
    assert expected["AP"] == pytest.approx(1)


@pytest.mark.usefixtures("no_warning")
def test_without_results_nan_or_0() -> None:
    annotations, _ = dataset(60.0**2)
    without("num_keypoints")(annotations, [])
    assert metrics.oks_average_precision([], annotations)["AP"] == 0
    annotations["annotations"] = []
    assert all(math.isnan(each) for each in metrics.oks_average_precision([], annotations).values())
    assert all(
        math.isnan(each)
        for each in metrics.oks_average_precision(metrics.coco_results(dataset(1.0)[1], [1]), annotations).values()
    )


@pytest.mark.usefixtures("no_warning")
def test_ids_of_any_kind() -> None:
    def named(annotations: dict[str, Any], results: list[dict[str, Any]]) -> None:
        for each in annotations["images"]:
            each["id"] = f"{each['id']}.jpg"
        annotations["categories"][0]["id"] = "person"
        for each in annotations["annotations"] + results:
            each["image_id"] = f"{each['image_id']}.jpg"
            each["category_id"] = "person"

    assert precision(named) == pytest.approx(1)

    def zeros(annotations: dict[str, Any], results: list[dict[str, Any]]) -> None:
        annotations["categories"][0]["id"] = 0
        for each in annotations["images"]:
            each["id"] -= 1
        for each in annotations["annotations"] + results:
            each["image_id"] -= 1
            each["category_id"] = 0

    assert precision(zeros) == pytest.approx(1)


# --- what makes precision 0 ------------------------------------------------------------------------------------


def one_of(key: str, value: Any, index: int = 1) -> Change:
    def change(annotations: dict[str, Any], results: list[dict[str, Any]]) -> None:
        annotations["annotations"][index][key] = value

    return change


def text_of_ids(annotations: dict[str, Any], results: list[dict[str, Any]]) -> None:
    for each in annotations["images"]:
        each["id"] = str(each["id"])
    for each in annotations["annotations"]:
        each["image_id"] = str(each["image_id"])


def shorter(annotations: dict[str, Any], results: list[dict[str, Any]]) -> None:
    annotations["annotations"][1]["keypoints"] = annotations["annotations"][1]["keypoints"][:34]


AREA = r"expected the person's area in squared pixels.*area=\"bbox\".*0\.53.*area=\"keypoints\""


@pytest.mark.usefixtures("no_warning")
@pytest.mark.parametrize(
    ("message", "change"),
    [
        (rf"annotations: got annotation 11 \(image 1\) of 'area' 0, {AREA}", with_(area=0)),
        (rf"annotations: got annotation 12 \(image 2\) of 'area' 0\.0, {AREA}", one_of("area", 0.0)),
        (rf"annotations: got annotation 12 \(image 2\) of 'area' nan, {AREA}", one_of("area", math.nan)),
        (rf"annotations: got annotation 11 \(image 1\) without 'area', {AREA}", without("area")),
        (r"results: got pose number 0 \(image 1\) of category 0, expected one of the annotations' categories, such as "
         r"1 \(the first annotation that counts is annotation 11 \(image 1\)\); see category_id",
         results_with(category_id=0)),
        (r"results: .* of category '1', expected .*, which has it as int 1; give both the same type",
         results_with(category_id="1")),
        (r"results: got a pose of image 77, expected one of the annotations, such as 1", results_with(image_id=77)),
        (r"results: got a pose of image '1', expected one of the annotations, which has it as int 1; give both the "
         "same type", results_with(image_id="1")),
        (r"results: got a pose of image 1, expected one of the annotations, which has it as str '1'", text_of_ids),
        (r"annotations: got annotation 11 \(image 5\), expected one of 'images', such as 1", with_(image_id=5)),
        (r"annotations: got annotation 11 \(image '1'\), expected one of 'images', which has it as int 1",
         lambda annotations, results: text_of_ids({**annotations, "images": []}, results)),
        (r"annotations: got annotation 11 \(image None\) without 'image_id'", without("image_id")),
        (r"annotations: got annotation 11 \(image 1\) without 'category_id'", without("category_id")),
        (r"annotations: got annotation 12 \(image 2\) with 34 numbers in 'keypoints', expected 51: x, y and visibility",
         shorter),
        (r"annotations: got annotation 12 \(image 2\) with the keypoint \[nan, 1.0, 2\], expected finite numbers",
         one_of("keypoints", [math.nan, 1.0, 2] * 17)),
        (r"annotations: got no list of 'images', expected one of \{'id'", without("images")),
        (r"annotations: got image number 0 without 'id'",
         lambda annotations, results: annotations["images"].insert(0, {})),
        (r"results: got pose number 0 without 'score'", lambda annotations, results: results[0].pop("score")),
        (r"results: got pose number 1 without 'category_id'",
         lambda annotations, results: results[1].pop("category_id")),
        (r"results: got pose number 0 \(image 1\) with a number that is not finite", results_with(score=math.nan)),
    ],
)  # fmt: skip
def test_refuses_what_cannot_be_compared(message: str, change: Change) -> None:
    with pytest.raises(ValueError, match=message):
        precision(change)


@pytest.mark.usefixtures("evaluates")
@pytest.mark.parametrize("annotations", [[], None, 3])
def test_refuses_other_annotations(annotations: Any) -> None:
    with pytest.raises(TypeError, match=r"annotations: got (list|NoneType|int), expected a COCO file"):
        metrics.oks_average_precision([], annotations)


def only(number: int) -> Change:
    return lambda annotations, results: annotations["annotations"][number].pop("bbox") and None


def from_zero(annotations: dict[str, Any], results: list[dict[str, Any]]) -> None:
    for index, each in enumerate(annotations["annotations"]):
        each["id"] = index


def of_another_category(annotations: dict[str, Any], results: list[dict[str, Any]]) -> None:
    annotations["categories"].append({"id": 2, "name": "dog"})
    results_with(category_id=2)(annotations, results)


def in_another_image(annotations: dict[str, Any], results: list[dict[str, Any]]) -> None:
    annotations["images"] += [{"id": 101}, {"id": 102}]
    for each in results:
        each["image_id"] += 100


def outside(annotations: dict[str, Any], results: list[dict[str, Any]]) -> None:
    annotations["images"].pop()
    results.pop()


def hidden(annotations: dict[str, Any], results: list[dict[str, Any]]) -> None:
    for each in annotations["annotations"]:
        each["keypoints"][2::3] = [0] * 17


def all_hidden(annotations: dict[str, Any], results: list[dict[str, Any]]) -> None:
    hidden(annotations, results)
    without("num_keypoints")(annotations, results)


def crowd_without_box(annotations: dict[str, Any], results: list[dict[str, Any]]) -> None:
    annotations["annotations"].append(
        {"id": 20, "image_id": 2, "category_id": 1, "iscrowd": 1, "keypoints": [0] * 51, "num_keypoints": 0}
    )


FIRST, SECOND = r"annotation 11 \(image 1\)", r"annotation 12 \(image 2\)"


@pytest.mark.usefixtures("evaluates")
@pytest.mark.parametrize(
    ("message", "change", "expected"),
    [
        (rf"{FIRST} and 1 more: there is no 'bbox'; the box of its keypoints .* Add 'bbox'", without("bbox"), 1),
        (rf"{SECOND}: there is no 'bbox'", only(1), 1),
        (r"annotation 20 \(image 2\): there is no 'bbox', so poses .* count as false", crowd_without_box, 1),
        (r"annotation 0 \(image 1\): the id is 0, which .* number annotations from 1", from_zero, 1),
        (r"annotation 5 \(image 2\): the id is that of an earlier .* number annotations from 1", with_(id=5), 1),
        (rf"{FIRST}: no result has its category 1, the first has 2; .* category_id", of_another_category, 0),
        (rf"{FIRST}: no result is of an image with an annotation .* of image 101. .* image ids", in_another_image, 0),
        (rf"{SECOND}: its image is none of 'images'", outside, 1),
        (rf"{FIRST} and 1 more: 'num_keypoints' is 0 although .* Leave it out", with_(num_keypoints=0), math.nan),
        (rf"{SECOND}: 'num_keypoints' is 0 although", one_of("num_keypoints", 0), 1),
        (rf"{FIRST} and 1 more: 'num_keypoints' is above 0 although .* a visibility of 1 or 2", hidden, math.nan),
        (rf"{FIRST}: no annotation counts, since .* visibility of 1 or 2", all_hidden, math.nan),
        (rf"{FIRST} and 1 more: 'area' is less than 1% of the box .* leave them out", with_(area=1), 0),
    ],
)
def test_warns_of_what_is_not_meant(message: str, change: Change, expected: float) -> None:
    with pytest.warns(metrics.AnnotationWarning, match=message) as caught:
        found = precision(change, noise=1.0)
    assert found == pytest.approx(expected, nan_ok=True)
    assert {Path(each.filename) for each in caught} == {Path(__file__)}  # the line that has called
    assert all(each.category is metrics.AnnotationWarning for each in caught)  # and not faster-coco-eval's own


@pytest.mark.usefixtures("evaluates")
def test_one_category_of_two_is_not_found() -> None:
    def two(annotations: dict[str, Any], results: list[dict[str, Any]]) -> None:
        annotations["categories"].append({"id": 2, "name": "dog"})
        annotations["annotations"][1]["category_id"] = 2

    with pytest.warns(metrics.AnnotationWarning, match=rf"{SECOND}: no result has its category 2, the first has 1"):
        assert precision(two) == pytest.approx(0.5)


# --- shifts ------------------------------------------------------------------------------------------------


@pytest.mark.usefixtures("evaluates")
@pytest.mark.parametrize("shift", [0.5, -0.5, 1.0, -1.0])
@pytest.mark.parametrize("noise", [0.0, 0.2])
def test_warns_of_shifted_keypoints(shift: float, noise: float) -> None:
    """With noise the median of 30 persons, 510 keypoints, is off by 1.25 * 0.2 / sqrt(510) = 0.011."""

    def change(annotations: dict[str, Any], results: list[dict[str, Any]]) -> None:
        for each in results:
            each["keypoints"] = [number + shift * (i % 3 < 2) for i, number in enumerate(each["keypoints"])]

    with pytest.warns(metrics.AnnotationWarning, match=r"the results' keypoints lie") as caught:
        precision(change, noise, (50.0**2,) * 30)
    text = str(caught[0].message)
    assert re.match(f"annotations: {FIRST}", text)
    assert f"without ({shift:+g}, {shift:+g})" in text
    assert "Count pixels from 0" in text


@pytest.mark.usefixtures("no_warning")
@pytest.mark.parametrize("shift", [(0.0, 0.0), (0.2, 0.2), (0.5, 0.0), (0.5, -0.5), (3.0, 3.0), (0.75, 0.75)], ids=str)
@pytest.mark.parametrize("noise", [0.0, 1.0])
def test_does_not_warn_of_other_shifts(shift: tuple[float, float], noise: float) -> None:
    def change(annotations: dict[str, Any], results: list[dict[str, Any]]) -> None:
        for each in results:
            each["keypoints"] = [number + (*shift, 0)[i % 3] for i, number in enumerate(each["keypoints"])]

    precision(change, noise, (100.0**2,) * 10)


@pytest.mark.usefixtures("no_warning")
def test_a_shift_has_to_be_known() -> None:
    """Of two persons whose keypoints are off by two pixels or so a median of a half means nothing: its standard error
    is 1.25 * 2 / sqrt(34) = 0.4."""
    annotations, keypoints = dataset(100.0**2, 100.0**2)
    noise = 2 * torch.randn(keypoints.coords.shape, generator=torch.Generator().manual_seed(0))
    keypoints.coords.add_(noise - noise.flatten(0, 1).median(0).values + 0.5)
    metrics.oks_average_precision(metrics.coco_results(keypoints, [1, 2]), annotations)


def test_a_shift_is_that_of_the_best_pose_of_an_image() -> None:
    """Others are somebody else's, and of all images no more are looked at than are needed."""
    annotations, keypoints = dataset(50.0**2, 50.0**2)
    people = annotations["annotations"]
    results = metrics.coco_results(keypoints, [1, 2])
    results = [
        {**each, "keypoints": [number + offset for number in each["keypoints"]]}
        for each in results
        for offset in (90, 0.5)
    ]
    found = find_shift(people, results, COCO_KAPPAS)
    assert found is not None
    assert found.person["id"] == 11
    assert "(+0.50, +0.50) px" in found.message
    assert find_shift(people, results[::2], COCO_KAPPAS) is None
    assert find_shift(people, [], COCO_KAPPAS) is None


# --- areas -------------------------------------------------------------------------------------------------


@pytest.mark.usefixtures("no_warning")
@pytest.mark.parametrize("gone", [without("area"), with_(area=0), with_(area=None), with_(area=-1)])
def test_areas_of_boxes(gone: Change) -> None:
    """Every keypoint as far off as its kappa makes a similarity of 0.72 with the area that is asked for."""
    factors: dict[str | float, float] = {"bbox": 1.0, 0.53: 0.53, "keypoints": 0.25}
    for area, factor in factors.items():
        annotations, keypoints = dataset(100.0**2)
        one = annotations["annotations"][0]
        x, y, width, height = one["bbox"]
        one["bbox"] = [x, y, 2 * width, 2 * height]
        size = math.sqrt(4 * width * height * factor)
        kappas = torch.tensor(COCO_KAPPAS, dtype=torch.float64)
        gone(annotations, [])
        for similarity, expected in ((0.72, 0.5), (0.77, 0.6)):
            moved = Keypoints(keypoints.coords.clone(), keypoints.scores)
            moved.coords[0, :, 0] += 2 * kappas * size * math.sqrt(-2 * math.log(similarity))
            found = metrics.oks_average_precision(metrics.coco_results(moved, [1]), annotations, area=area)
            assert found["AP"] == pytest.approx(expected)
            assert math.isnan(found["AP_medium" if size > 96 else "AP_large"])


@pytest.mark.usefixtures("no_warning")
def test_given_areas_stay() -> None:
    """And only what is missing is taken from elsewhere."""
    annotations, keypoints = dataset(100.0**2, 100.0**2)
    results = metrics.coco_results(keypoints, [1, 2])
    expected = metrics.oks_average_precision(results, annotations)
    assert metrics.oks_average_precision(results, annotations, area=1e-9) == expected
    # Without that of the first, it is not found any more.
    del annotations["annotations"][0]["area"]
    results = [{**each, "keypoints": [number + 0.01 for number in each["keypoints"]]} for each in results]
    assert metrics.oks_average_precision(results, annotations, area=1e-9)["AR"] == pytest.approx(0.5)


@pytest.mark.usefixtures("evaluates")
@pytest.mark.parametrize(
    ("message", "change", "area"),
    [
        (rf"got {FIRST} with neither 'area' nor 'bbox', .*area=\"keypoints\"", without("area", "bbox"), "bbox"),
        (rf"got {FIRST} with neither 'area' nor 'bbox'", without("area", "bbox"), 0.53),
        (rf"got {FIRST} of 'area' 0, expected an area, or a box with one", with_(area=0, bbox=[1, 2, 0, 5]), "bbox"),
        (rf"got {FIRST} of 'area' 0, .* area='keypoints'", with_(area=0, keypoints=[1, 2, 2] * 17), "keypoints"),
        ("area: got 'box', expected one of 'bbox', 'keypoints'", without("area"), "box"),
        ("area: got 0, expected a positive number", without("area"), 0),
    ],
)
def test_refuses_areas_that_are_none(message: str, change: Change, area: Any) -> None:
    with pytest.raises(ValueError, match=message):
        precision(change, area=area)


@pytest.mark.usefixtures("evaluates")
def test_area_is_no_flag() -> None:
    with pytest.raises(TypeError, match="area: got bool True, expected a number"):
        precision(without("area"), area=True)


@pytest.mark.usefixtures("no_warning")
def test_kappas_by_name() -> None:
    annotations, keypoints = dataset(100.0**2)
    results = metrics.coco_results(keypoints, [1])
    numbers = torch.tensor(COCO_KAPPAS, dtype=torch.float64)
    for kappas in ("coco", numbers, numbers.numpy()):
        assert metrics.oks_average_precision(results, annotations, kappas)["AP"] == pytest.approx(1)
    for wrong in ("crowdpose", numbers[:14]):
        with pytest.raises(ValueError, match="results: got a pose of 17 keypoints, expected 14"):
            metrics.oks_average_precision(results, annotations, wrong)
    with pytest.raises(TypeError, match=r"kappas: got float 0\.1, expected numbers or the name of a data set"):
        metrics.oks_average_precision(results, annotations, 0.1)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="kappas: got nan, expected"):
        metrics.oks_average_precision(results, annotations, numbers * math.nan)


@pytest.mark.usefixtures("no_warning")
def test_boxes_of_some_results() -> None:
    """Boxes that some results have say nothing of the others."""
    annotations, keypoints = dataset(60.0**2, 200.0**2)
    results = metrics.coco_results(keypoints, [1, 2])
    results[0]["bbox"] = [0, 0, 10, 10]
    assert metrics.oks_average_precision(results, annotations)["AP"] == pytest.approx(1)
    results[1]["bbox"] = [0, 0, 10, 10]
    assert metrics.oks_average_precision(results, annotations)["AP"] == pytest.approx(1)


# --- the evaluation itself ---------------------------------------------------------------------------------


def crowded() -> tuple[dict[str, Any], list[dict[str, Any]]]:
    """Images of several people of two categories, some of them crowds, some without keypoints, with more results than
    are looked at, some of equal scores."""
    generator = torch.Generator().manual_seed(11)
    people, results = [], []
    for image in range(1, 13):
        for _ in range(4):
            one = person(generator, image, len(people) + 1, 40.0**2 if len(people) % 2 else 150.0**2)
            flags = (torch.rand(17, generator=generator) < 0.8).long() * 2
            one["keypoints"][2::3] = flags.tolist()
            one["category_id"] = 1 + len(people) % 3 // 2
            one["iscrowd"] = int(len(people) % 7 == 0)
            if len(people) % 5 == 0:
                one["keypoints"] = [0] * 51
            one["num_keypoints"] = sum(flag > 0 for flag in one["keypoints"][2::3])
            people.append(one)
            for _ in range(8):
                noise = 10 * torch.rand(1, generator=generator) * torch.randn(17, 2, generator=generator)
                xy = torch.tensor(one["keypoints"]).view(17, 3)[:, :2] + noise
                found = torch.cat([xy, torch.ones(17, 1)], dim=1).flatten().tolist()
                score = round(float(torch.rand(1, generator=generator)), 1)
                results.append(
                    {**{key: one[key] for key in ("image_id", "category_id")}, "keypoints": found, "score": score}
                )
    images = [{"id": image, "width": 640, "height": 480} for image in range(1, 13)]
    categories = [{"id": 1, "name": "person"}, {"id": 2, "name": "dog"}]
    return {"images": images, "categories": categories, "annotations": people}, results


@pytest.mark.usefixtures("no_warning")
def test_numbers_are_those_of_the_evaluation() -> None:
    """Nothing that is filled in changes what is complete."""
    import faster_coco_eval

    annotations, results = crowded()
    truth = faster_coco_eval.COCO(copy.deepcopy(annotations))
    found = truth.loadRes(copy.deepcopy(results))
    evaluator = faster_coco_eval.COCOeval_faster(truth, found, "keypoints", kpt_oks_sigmas=list(COCO_KAPPAS))
    evaluator.run()
    numbers = metrics.oks_average_precision(results, annotations)
    assert list(numbers.values()) == evaluator.stats[:10].tolist()
    assert 0.1 < numbers["AP"] < 0.9
    assert metrics.oks_average_precision(results, annotations, symmetric=[]) == pytest.approx(numbers)


# --- keypoints that may be swapped -------------------------------------------------------------------------

SIDES = [(i, i + 1) for i in range(1, 17, 2)]


@pytest.mark.usefixtures("no_warning")
def test_average_precision_of_swapped_keypoints() -> None:
    """Both eyes of one person, and both sides of another."""
    annotations, keypoints = dataset(100.0**2, 100.0**2)
    mirror = [0, *(j for i in range(1, 17, 2) for j in (i + 1, i))]
    keypoints.coords[0, [1, 2]] = keypoints.coords[0, [2, 1]]
    keypoints.coords[1] = keypoints.coords[1, mirror]
    annotations["annotations"].append({**annotations["annotations"][0], "id": 30, "keypoints": [0] * 51})
    without("num_keypoints")(annotations, [])
    results = metrics.coco_results(keypoints, [1, 2])
    plain = metrics.oks_average_precision(results, annotations)
    assert plain["AP75"] < 1
    assert plain["AR50"] == pytest.approx(0.5)
    for swap, expected in (("pairs", 1.0), ("pose", 0.9)):  # 15 of 17 are right of the first: found up to 0.85
        found = metrics.oks_average_precision(results, annotations, symmetric=SIDES, swap=swap)
        assert found["AR"] == pytest.approx(expected)
        assert found["AP50"] == pytest.approx(1)
    nothing = metrics.oks_average_precision(results, annotations, symmetric=[])
    assert nothing == pytest.approx(plain, nan_ok=True)
    with pytest.raises(ValueError, match=r"symmetric: got 17, expected one of 17 keypoints"):
        metrics.oks_average_precision(results, annotations, symmetric=[(0, 17)])


def test_what_is_no_list_of_results_is_told(tmp_path: Path) -> None:
    """Swapped arguments among it, and keypoints as `decode` returns them."""
    dataset = {"images": [], "annotations": [], "categories": []}
    (tmp_path / "annotations.json").write_text(json.dumps(dataset), encoding="utf-8")
    (tmp_path / "results.json").write_text("[]", encoding="utf-8")
    keypoints = decode(torch.rand(1, 17, 8, 6))
    for results in (tmp_path / "annotations.json", dataset, keypoints, b"[]", 1):
        with pytest.raises(TypeError, match=r"results: got \w+, expected a list of .*, as coco_results returns it"):
            metrics.oks_average_precision(results, str(tmp_path / "results.json"))  # type: ignore[arg-type]


def test_results_of_arrays_are_those_of_tensors() -> None:
    keypoints = decode(torch.rand(3, 17, 16, 12))
    assert metrics.coco_results(keypoints.numpy(), range(3)) == metrics.coco_results(keypoints, range(3))
