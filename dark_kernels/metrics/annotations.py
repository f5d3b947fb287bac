"""Checks that a COCO file of annotations and a list of results can be compared, and says what is wrong.

What cannot be compared is an error, what is probably not meant a warning: both name the first annotation or result
that they are about, and what to do.
"""

from __future__ import annotations

import contextlib
import math
import os
import statistics
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, NamedTuple

from .._common import checks
from .._common.names import AreaSource
from . import _entries
from ._shifts import find_shift

# An area of less than this share of the keypoints' box is of another unit.
_LEAST_AREA = 0.01
# What an evaluation takes as ids is below this.
_INTEGERS = 2**63


class AnnotationWarning(UserWarning):
    """Annotations and results can be compared, but probably not as was meant: the precision is lower than it should
    be, or will be with other tools."""


class Comparison(NamedTuple):
    """Copies that an evaluation may write to, in which nothing is missing any more."""

    dataset: dict[str, Any]
    results: list[dict[str, Any]]
    counts: bool  # whether there is an annotation that counts
    warnings: list[str]


def read(annotations: Mapping[str, Any] | str | os.PathLike[str]) -> dict[str, Any]:
    """Read a file: lists of images, annotations and categories, and ids that can be looked up."""
    annotations = _entries.read_json(annotations)
    if not isinstance(annotations, Mapping):
        raise TypeError(
            f"annotations: got {type(annotations).__name__}, expected a COCO file or what is in it, a dict of "
            "'images', 'annotations' and 'categories'"
        )
    for key, entry in (("images", "{'id': ...}"), ("annotations", "{'image_id': ..., 'keypoints': ..., ...}")):
        if not isinstance(annotations.get(key), (list, tuple)):
            raise ValueError(f"annotations: got no list of {key!r}, expected one of {entry}")
    categories = annotations.get("categories")
    if not (categories is None or isinstance(categories, (list, tuple))):
        raise TypeError(
            f"annotations: got 'categories' {_entries.shown(categories)}, expected a list of {{'id': ..., 'name': ...}}"
        )
    for what, entries in (("image", annotations["images"]), ("category", categories or ())):
        for index, entry in enumerate(entries):
            _entries.check_mapping(f"annotations: got {what} number {index}", entry)
    for index, entry in enumerate(annotations["annotations"]):
        _entries.check_mapping(f"annotations: got annotation number {index}", entry)
    images = []
    for index, image in enumerate(annotations["images"]):
        if _entries.is_missing(image.get("id")):
            raise ValueError(f"annotations: got image number {index} without 'id', expected one")
        images.append({"id": _entries.identity(f"annotations: got image number {index}", "id", image["id"])})
    named = [
        {"id": _entries.identity(f"annotations: got category number {index}", "id", category["id"])}
        for index, category in enumerate(categories or ())
        if not _entries.is_missing(category.get("id"))
    ]
    return {"images": images, "annotations": annotations["annotations"], "categories": named}


def read_results(results: Any) -> list[Mapping[str, Any]]:
    """Read a file, or a sequence or an array of dicts."""
    results = _entries.read_json(results)
    is_keypoints = hasattr(results, "_fields")
    if isinstance(results, (str, bytes, Mapping)) or is_keypoints or not isinstance(results, Iterable):
        raise TypeError(
            f"results: got {type(results).__name__}, expected a list of {{'image_id': ..., 'category_id': ..., "
            "'keypoints': ..., 'score': ...}, as coco_results returns it, or a JSON file of one"
        )
    results = list(results)
    for index, result in enumerate(results):
        _entries.check_mapping(f"results: got pose number {index}", result)
    return results


def check_area(area: AreaSource | float | None) -> None:
    """None, "bbox", "keypoints" or a positive number."""
    if isinstance(area, str):
        checks.check_name("area", area, ("bbox", "keypoints"))
    elif area is not None:
        checks.check_positive("area", checks.plain(area))


def compare(
    annotations: dict[str, Any],
    results: Sequence[Mapping[str, Any]],
    kappas: Sequence[float],
    area: AreaSource | float | None,
) -> Comparison:
    """Compare results with annotations that have been `read`."""
    notes = _Notes()
    images = {image["id"]: None for image in annotations["images"]}
    poses = _poses(results, images, len(kappas))
    people = _people(annotations, len(kappas), area, notes)
    _compare_images(people, poses, images, notes)
    categories = _compare_categories(annotations, people, poses, notes)
    if not any(person["counts"] for person in people) and not notes.mention("num_keypoints"):
        notes.add(
            people[:1],
            "no annotation counts, since none has a visible keypoint and is no crowd; all numbers are NaN. Give each "
            "keypoint that is annotated a visibility of 1 or 2",
        )
    shift = find_shift([person for person in people if person["counts"]], poses, kappas)
    if shift is not None:
        notes.add([shift.person], shift.message)
    image_number, category_number = _numbers(images), _numbers(categories)
    people = [person for person in people if person["image_id"] in images]
    return Comparison(
        {
            "images": [{"id": number} for number in image_number.values()],
            "categories": [{"id": number, "name": str(name)} for name, number in category_number.items()],
            "annotations": [
                {
                    **{key: person[key] for key in ("keypoints", "num_keypoints", "area", "bbox", "iscrowd")},
                    # From 1: the evaluation takes a 0 for no match.
                    "id": index + 1,
                    "image_id": image_number[person["image_id"]],
                    "category_id": category_number[person["category_id"]],
                }
                for index, person in enumerate(people)
            ],
        },
        [
            {
                **pose,
                "image_id": image_number[pose["image_id"]],
                "category_id": category_number[pose["category_id"]],
            }
            for pose in poses
        ],
        any(person["counts"] for person in people),
        notes.messages(),
    )


# --- annotations -------------------------------------------------------------------------------------------


class _Notes:
    """Warnings, each with the annotations that it is about."""

    def __init__(self) -> None:
        self._about: dict[str, list[dict[str, Any]]] = {}

    def add(self, people: Iterable[dict[str, Any]], message: str) -> None:
        self._about.setdefault(message, []).extend(people)

    def mention(self, word: str) -> bool:
        return any(word in message for message in self._about)

    def messages(self) -> list[str]:
        return [f"annotations: {_names(people)}: {message}" for message, people in self._about.items() if people]


def _name(person: dict[str, Any]) -> str:
    """Name by which people find it."""
    identity = f"annotation {person['id']!r}" if "id" in person else f"annotation number {person['index']}"
    return f"{identity} (image {person.get('image_id')!r})"


def _names(people: Sequence[dict[str, Any]]) -> str:
    more = len(people) - 1
    return _name(people[0]) + (f" and {more} more" if more else "")


def _where(person: dict[str, Any]) -> str:
    return f"annotations: got {_name(person)}"


def _people(
    annotations: dict[str, Any], num_keypoints: int, area: AreaSource | float | None, notes: _Notes
) -> list[Any]:
    """Copies of annotations with all that an evaluation reads, and with `counts`, whether it is to be found."""
    people = [{**entry, "index": index} for index, entry in enumerate(annotations["annotations"])]
    for person in people:
        _read_ids(person)
        _check_keypoints(person, num_keypoints)
    _check_ids(people, notes)
    for person in people:
        flags = person["keypoints"][2::3]
        visible = sum(flag > 0 for flag in flags)
        if _entries.is_missing(person.get("num_keypoints")):
            person["num_keypoints"] = visible
        else:
            person["num_keypoints"] = _entries.count(_where(person), "num_keypoints", person["num_keypoints"])
        if person["num_keypoints"] == 0 < visible:
            notes.add(
                [person], "'num_keypoints' is 0 although keypoints are visible, so it does not count. Leave it out"
            )
        elif visible == 0 < person["num_keypoints"]:
            notes.add(
                [person],
                "'num_keypoints' is above 0 although no keypoint is visible; it does not count. Give keypoints that "
                "are annotated a visibility of 1 or 2",
            )
            person["num_keypoints"] = 0
        person["iscrowd"] = _entries.flag(_where(person), "iscrowd", person.get("iscrowd"))
        person["counts"] = person["num_keypoints"] > 0 and not person["iscrowd"]
        if "area" in person and not _entries.is_missing(person["area"]):
            expected = "an area in squared pixels"
            person["area"] = _entries.number(_where(person), "area", person["area"], expected)
        _complete_box(person, area, notes)
        _complete_area(person, area)
    _check_unit_of_areas([person for person in people if person["counts"]], notes)
    return people


def _read_ids(person: dict[str, Any]) -> None:
    if _entries.is_missing(person.get("id")):
        person.pop("id", None)
    for key in ("id", "image_id", "category_id"):
        if not _entries.is_missing(person.get(key)):
            person[key] = _entries.identity(_where(person), key, person[key])
    for key in ("image_id", "category_id", "keypoints"):
        if _entries.is_missing(person.get(key)):
            raise ValueError(f"{_where(person)} without {key!r}, expected one")


def _check_keypoints(person: dict[str, Any], num_keypoints: int) -> None:
    person["keypoints"] = numbers = _entries.triplets(_where(person), person["keypoints"], "visibility")
    if len(numbers) != 3 * num_keypoints:
        raise ValueError(
            f"annotations: got {_name(person)} with {len(numbers)} numbers in 'keypoints', expected "
            f"{3 * num_keypoints}: x, y and visibility for each of {num_keypoints} kappas"
        )
    for x, y, flag in zip(numbers[0::3], numbers[1::3], numbers[2::3], strict=True):
        if not (math.isfinite(flag) and (flag <= 0 or (math.isfinite(x) and math.isfinite(y)))):
            raise ValueError(
                f"annotations: got {_name(person)} with the keypoint {[x, y, flag]}, expected finite numbers; what is "
                "not annotated has a visibility of 0"
            )


def _check_ids(people: Sequence[dict[str, Any]], notes: _Notes) -> None:
    seen: set[Any] = set()
    for person in people:
        if "id" not in person:
            continue
        if person["id"] == 0:
            notes.add(
                [person],
                "the id is 0, which COCO's evaluation takes for no match, so that the annotation is never found. "
                "Here it is found; for other tools number annotations from 1",
            )
        if person["id"] in seen:
            notes.add(
                [person],
                "the id is that of an earlier annotation, and COCO's evaluation keeps only one of them. Here all "
                "count; for other tools number annotations from 1",
            )
        seen.add(person["id"])


def _visible_box(person: dict[str, Any]) -> list[float]:
    """(x, y, width, height) of the keypoints that are visible."""
    numbers = person["keypoints"]
    points = [(x, y) for x, y, flag in zip(numbers[0::3], numbers[1::3], numbers[2::3], strict=True) if flag > 0]
    if not points:
        return [0.0] * 4
    xs, ys = zip(*points, strict=True)
    return [min(xs), min(ys), max(xs) - min(xs), max(ys) - min(ys)]


def _complete_box(person: dict[str, Any], area: AreaSource | float | None, notes: _Notes) -> None:
    person["bbox"] = _entries.box(_where(person), person.get("bbox"))
    if person["bbox"] is not None:
        return
    if person["counts"] and _needs_area(person) and area not in (None, "keypoints"):
        raise ValueError(
            f"annotations: got {_name(person)} with neither 'area' nor 'bbox', expected one of them; "
            'area="keypoints" takes the box of its keypoints'
        )
    person["bbox"] = _visible_box(person)
    if person["counts"]:
        notes.add([person], "there is no 'bbox'; the box of its keypoints is taken. Add 'bbox': [x, y, width, height]")
    else:
        notes.add(
            [person],
            "there is no 'bbox', so poses that are found there count as false. Add 'bbox': [x, y, width, height]",
        )


def _needs_area(person: dict[str, Any]) -> bool:
    """True if it has none that a similarity can be measured by."""
    area = person.get("area")
    return area is None or _entries.is_missing(area) or not 0 < area < math.inf


def _complete_area(person: dict[str, Any], area: AreaSource | float | None) -> None:
    if not _needs_area(person):
        return
    if not person["counts"]:
        given = person["bbox"][2] * person["bbox"][3]
        person["area"] = given if given > 0 else 0.0
        return
    what = f"{_name(person)} " + (f"of 'area' {person['area']!r}" if "area" in person else "without 'area'")
    if area is None:
        raise ValueError(
            f"annotations: got {what}, expected the person's area in squared pixels, by which similarities are "
            'measured; area="bbox" takes that of the box, area=0.53 so much of it (CrowdPose), and area="keypoints" '
            "that of the keypoints' box"
        )
    box = _visible_box(person) if area == "keypoints" else person["bbox"]
    person["area"] = box[2] * box[3] * (1.0 if isinstance(area, str) else area)
    if _needs_area(person):
        raise ValueError(
            f"annotations: got {what}, expected an area, or a box with one for area={area!r}; the box is {box}"
        )


def _check_unit_of_areas(people: Sequence[dict[str, Any]], notes: _Notes) -> None:
    boxes = [box[2] * box[3] for box in map(_visible_box, people)]
    shares = [person["area"] / box if box > 0 else math.inf for person, box in zip(people, boxes, strict=True)]
    if people and statistics.median(shares) < _LEAST_AREA:
        small = [person for person, share in zip(people, shares, strict=True) if share < _LEAST_AREA]
        notes.add(
            small,
            f"'area' is less than {_LEAST_AREA:.0%} of the box of its keypoints, so hardly anything is similar to it. "
            'Give areas in squared pixels of the keypoints, or leave them out and take area="bbox"',
        )


# --- results -----------------------------------------------------------------------------------------------


def _poses(results: Sequence[Mapping[str, Any]], images: dict[Any, None], num_keypoints: int) -> list[dict[str, Any]]:
    """Copies of results with what an evaluation reads."""
    poses = []
    for index, result in enumerate(results):
        where = f"results: got pose number {index}"
        for key in ("image_id", "category_id", "keypoints", "score"):
            if result.get(key) is None or (key != "score" and _entries.is_missing(result[key])):
                raise ValueError(f"{where} without {key!r}, expected one")
        image = _entries.identity(where, "image_id", result["image_id"])
        if image not in images:
            raise ValueError(
                f"results: got a pose of image {image!r}, expected one of the annotations{_hint(image, images)}"
            )
        where = f"{where} (image {image!r})"
        keypoints = [float(number) for number in _entries.triplets(where, result["keypoints"], "score")]
        if len(keypoints) != 3 * num_keypoints:
            raise ValueError(
                f"results: got a pose of {len(keypoints) / 3:g} keypoints, expected {num_keypoints}, one for each of "
                "kappas"
            )
        score = float(_entries.number(where, "score", result["score"]))
        if not (math.isfinite(score) and all(map(math.isfinite, keypoints))):
            raise ValueError(
                f"{where} with a number that is not finite, expected a score of 0 for what is not found, as "
                "coco_results writes it"
            )
        poses.append(
            {
                "image_id": image,
                "category_id": _entries.identity(where, "category_id", result["category_id"]),
                "keypoints": keypoints,
                "score": score,
                "bbox": _entries.box(where, result.get("bbox")),
            }
        )
    # A pose's size is that of its box where all have one, and else that of its keypoints, as COCO's tools take it.
    if not all(pose["bbox"] is not None for pose in poses):
        for pose in poses:
            del pose["bbox"]
    return poses


def _hint(value: Any, known: Iterable[Any]) -> str:
    """Hint at the difference where that is only a type, or give an example."""
    first = next(iter(known), None)
    if first is None:
        return ""
    same = next((one for one in known if str(one) == str(value)), None)
    if same is not None:
        return f", which has it as {type(same).__name__} {same!r}; give both the same type"
    return f", such as {first!r}"


def _compare_images(
    people: Sequence[dict[str, Any]], poses: Sequence[dict[str, Any]], images: dict[Any, None], notes: _Notes
) -> None:
    elsewhere = [person for person in people if person["image_id"] not in images]
    if people and len(elsewhere) == len(people):
        image = elsewhere[0]["image_id"]
        raise ValueError(f"annotations: got {_name(elsewhere[0])}, expected one of 'images'{_hint(image, images)}")
    notes.add(elsewhere, "its image is none of 'images', so it is left out. Add the image, or remove the annotation")
    seen = {pose["image_id"] for pose in poses}
    counted = [person for person in people if person["counts"] and person["image_id"] in images]
    if poses and counted and not any(person["image_id"] in seen for person in counted):
        notes.add(
            counted[:1],
            f"no result is of an image with an annotation that counts, the first is of image {poses[0]['image_id']!r}. "
            "Do both have the same image ids?",
        )


def _compare_categories(
    annotations: dict[str, Any], people: Sequence[dict[str, Any]], poses: Sequence[dict[str, Any]], notes: _Notes
) -> dict[Any, None]:
    """All categories there are."""
    known = {category["id"]: None for category in annotations["categories"]}
    of_people: dict[Any, dict[str, Any]] = {}
    for person in people:
        known.setdefault(person["category_id"])
        if person["counts"]:
            of_people.setdefault(person["category_id"], person)
    if not known:
        return {pose["category_id"]: None for pose in poses}
    for index, pose in enumerate(poses):
        if pose["category_id"] not in known:
            where = (
                f" (the first annotation that counts is {_name(next(iter(of_people.values())))})" if of_people else ""
            )
            raise ValueError(
                f"results: got pose number {index} (image {pose['image_id']!r}) of category {pose['category_id']!r}, "
                f"expected one of the annotations' categories{_hint(pose['category_id'], of_people or known)}{where}; "
                "see category_id of coco_results"
            )
    found = {pose["category_id"] for pose in poses}
    for category, person in of_people.items():
        if found and category not in found:
            notes.add(
                [person],
                f"no result has its category {category!r}, the first has {poses[0]['category_id']!r}; poses are "
                "compared within a category, and AP is the mean over them. Give results the category by category_id of "
                "coco_results",
            )
    return known


def _numbers(names: dict[Any, None]) -> dict[Any, int]:
    """Integers for ids of any kind: themselves where they are of 64 bits, else their places in order."""
    if all(isinstance(name, int) and -_INTEGERS <= name < _INTEGERS for name in names):
        return {name: int(name) for name in names}
    ordered: list[Any] = list(names)
    with contextlib.suppress(TypeError):  # of several types, or of one without an order
        ordered = sorted(ordered)
    return {name: index + 1 for index, name in enumerate(ordered)}
