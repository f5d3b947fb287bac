"""Recipes as data: the published rows, the taps they imply, and what is refused."""

from __future__ import annotations

import copy
import dataclasses
import inspect
import itertools
import math
import pickle
import re
from pathlib import Path
from typing import Any

import pytest

from dark_kernels import Recipe, decode, recipes
from dark_kernels.recipes import blur_taps, opencv_sigma

WIDE = ("opencv", 11, 2.0, "zeros", True, 1e-10, math.inf, "wide", "raw")
# blur, kernel size, sigma, padding, rescale, clip, stencil, argmax on, invalid: as published.
ROWS: dict[str, tuple[Any, ...]] = {
    "darkpose": (*WIDE, 0.0),
    "mmpose_dark": (*WIDE, -1.0),
    "mmpose_udp": ("opencv", 11, 2.0, "zeros", True, 1e-3, 50.0, "compact", "raw", -1.0),
    "mmpose_legacy_udp": ("opencv", 11, 2.0, "reflect", False, 1e-3, 50.0, "compact", "raw", -1.0),
    "vitpose_hf": ("gaussian", 11, 0.8, "symmetric", False, 1e-3, 50.0, "compact", "raw", -1.0),
    "sapiens_hf": ("gaussian", 11, 2.0, "zeros", True, 1e-3, 50.0, "compact", "raw", -1.0),
    # This library's own two: mmpose's DARK where nothing can be fitted.
    "fit": ("opencv", 11, 2.0, "zeros", True, 1e-10, math.inf, "fit", "raw", -1.0),
    "matched": ("opencv", 11, 2.0, "zeros", True, 1e-10, math.inf, "gaussian", "matched", -1.0),
    "megvii": ("opencv", 11, 2.0, "zeros", True, 1e-10, math.inf, "quarter_legacy", "blurred", -1.0),
}
UNSMOOTHED = {"quarter": "quarter", "quarter_legacy": "quarter_legacy", "argmax": "none"}


def test_every_row_is_listed() -> None:
    assert {recipe.name for recipe in recipes.ALL} == {*ROWS, *UNSMOOTHED}
    assert len({recipe.name for recipe in recipes.ALL}) == len(recipes.ALL) == 12


@pytest.mark.parametrize("name", ROWS)
def test_rows(name: str) -> None:
    recipe = recipes.get(name)
    actual = (
        recipe.blur, recipe.kernel_size, recipe.blur_sigma, recipe.padding, recipe.rescale, recipe.clip_min,
        recipe.clip_max, recipe.stencil, recipe.argmax_on, recipe.invalid,
    )  # fmt: skip
    assert actual == ROWS[name]
    assert recipe.max_offset is None
    assert recipe.target_sigma is None
    assert recipe.fit_radius == 5
    extra = (0.5, 1 / 255, 0.5) if name == "megvii" else (0.0, 1.0, 0.0)
    assert (recipe.extra_shift, recipe.score_scale, recipe.score_offset) == extra


@pytest.mark.parametrize("name", UNSMOOTHED)
def test_rows_without_a_blur(name: str) -> None:
    recipe = recipes.get(name)
    assert (recipe.blur, recipe.rescale, recipe.stencil) == ("none", False, UNSMOOTHED[name])
    assert (recipe.argmax_on, recipe.invalid, recipe.max_offset) == ("raw", -1.0, None)
    assert recipe.taps == (1.0,)
    assert recipe.blur_sigma == 0.0
    assert not recipe.has_hessian


def test_fields_and_their_defaults() -> None:
    """Adding a field is a decision, and so is another default."""
    defaults = {field.name: field.default for field in dataclasses.fields(Recipe)}
    assert defaults == {
        "name": "custom",
        "blur": "opencv",
        "kernel_size": 11,
        "sigma": None,
        "padding": "zeros",
        "rescale": True,
        "clip_min": 1e-10,
        "clip_max": math.inf,
        "stencil": "wide",
        "invalid": -1.0,
        "argmax_on": "raw",
        "max_offset": None,
        "extra_shift": 0.0,
        "score_scale": 1.0,
        "score_offset": 0.0,
        "target_sigma": None,
        "fit_radius": 5,
        "activation": "none",
        "score": "peak",
        "score_radius": None,
        "blob_sigma": None,
    }


# --- taps ------------------------------------------------------------------------------------------------

TABLES = {
    1: [1],
    3: [1 / 4, 2 / 4, 1 / 4],
    5: [1 / 16, 4 / 16, 6 / 16, 4 / 16, 1 / 16],
    7: [1 / 32, 7 / 64, 7 / 32, 9 / 32, 7 / 32, 7 / 64, 1 / 32],
    9: [x / 256 for x in (4, 13, 30, 51, 60, 51, 30, 13, 4)],
}


def whole(half: tuple[float, ...]) -> list[float]:
    return [*half[:0:-1], *half]


@pytest.mark.parametrize("kernel_size", TABLES)
def test_small_opencv_kernels_are_tables(kernel_size: int) -> None:
    assert whole(Recipe(kernel_size=kernel_size).taps) == TABLES[kernel_size]


@pytest.mark.parametrize(("kernel_size", "sigma"), [(11, 2.0), (17, 2.9), (23, 3.8)])
def test_opencv_sigma(kernel_size: int, sigma: float) -> None:
    assert opencv_sigma(kernel_size) == sigma
    assert Recipe(kernel_size=kernel_size).blur_sigma == sigma


def test_literal_taps() -> None:
    # exp(-i^2 / 8) / sum
    weights = [1.0, 0.8824969025845955, 0.6065306597126334, 0.32465246735834974, 0.1353352832366127, 0.0439369336234074]
    total = weights[0] + 2 * sum(weights[1:])
    assert recipes.DARKPOSE.taps == pytest.approx([weight / total for weight in weights], rel=1e-15)


@pytest.mark.parametrize("kernel_size", range(1, 41, 2))
def test_taps_sum_to_one_and_fall(kernel_size: int) -> None:
    for recipe in (
        Recipe(kernel_size=kernel_size),
        Recipe(kernel_size=kernel_size, blur="gaussian"),
        Recipe(kernel_size=kernel_size, blur="gaussian", sigma=1.3),
    ):
        taps = whole(recipe.taps)
        assert len(taps) == kernel_size == recipe.blur_kernel_size
        assert math.fsum(taps) == pytest.approx(1.0, abs=1e-15)
        assert list(recipe.taps) == sorted(recipe.taps, reverse=True)
        assert all(tap > 0 for tap in taps)


@pytest.mark.parametrize("kernel_size", [1, 3, 5, 7, 9, 11, 13, 17, 23, 31])
def test_taps_are_opencvs(kernel_size: int) -> None:
    cv2 = pytest.importorskip("cv2", reason="OpenCV is not installed")
    expected = cv2.getGaussianKernel(kernel_size, 0)[:, 0].tolist()
    assert whole(Recipe(kernel_size=kernel_size).taps) == pytest.approx(expected, abs=1e-9)
    expected = cv2.getGaussianKernel(kernel_size, 0.8)[:, 0].tolist()
    assert whole(Recipe(kernel_size=kernel_size, blur="gaussian", sigma=0.8).taps) == pytest.approx(expected, abs=1e-9)


def test_the_gaussian_rule_has_no_tables() -> None:
    gaussian = Recipe(blur="gaussian", kernel_size=5)
    assert gaussian.blur_sigma == opencv_sigma(5) == 1.1
    assert gaussian.taps == blur_taps(5, 1.1)
    assert gaussian.taps != Recipe(kernel_size=5).taps


@pytest.mark.parametrize("kernel_size", TABLES)
def test_sigma_of_a_table_is_its_second_moment(kernel_size: int) -> None:
    radius = kernel_size // 2
    variance = sum(tap * (i - radius) ** 2 for i, tap in enumerate(TABLES[kernel_size]))
    assert Recipe(kernel_size=kernel_size).blur_sigma == pytest.approx(math.sqrt(variance), rel=1e-15)


# --- a value among values --------------------------------------------------------------------------------


def test_equal_by_value_hashable_and_frozen() -> None:
    again = dataclasses.replace(recipes.DARKPOSE)
    assert again == recipes.DARKPOSE
    assert hash(again) == hash(recipes.DARKPOSE)
    assert dataclasses.replace(recipes.DARKPOSE, kernel_size=13) != recipes.DARKPOSE
    with pytest.raises(dataclasses.FrozenInstanceError):
        again.kernel_size = 3  # type: ignore[misc]


def test_copies_and_pickles() -> None:
    for recipe in recipes.ALL:
        for copied in (copy.copy(recipe), copy.deepcopy(recipe), pickle.loads(pickle.dumps(recipe))):
            assert copied == recipe
            assert copied.operator_arguments == recipe.operator_arguments


def test_replace_works_the_derived_fields_out_anew() -> None:
    wide = dataclasses.replace(recipes.MMPOSE_DARK, kernel_size=17)
    assert wide.blur_sigma == 2.9
    assert len(wide.taps) == 9
    assert wide.operator_arguments[:2] == (17, 2.9)


def test_the_readme_shows_these_rows() -> None:
    readme = (Path(__file__).parent.parent / "README.md").read_text(encoding="utf-8")
    table = readme.partition("<!-- recipes:begin -->\n")[2].partition("<!-- recipes:end -->")[0]
    summaries = [recipe.summary() for recipe in recipes.ALL]
    lines = [list(summaries[0]), ["---"] * len(summaries[0]), *(list(summary.values()) for summary in summaries)]
    assert [line.strip("|").split("|") for line in table.splitlines()] == [
        [cell if cell == "---" else f" {cell} " for cell in line] for line in lines
    ]


def test_the_readme_says_which_recipe_a_network_needs() -> None:
    """On its first screen: all that somebody could need, by their names, and the default."""
    root = Path(__file__).parent.parent
    readme = (root / "README.md").read_text(encoding="utf-8")
    before, _, rest = readme.partition("<!-- which:begin -->\n")
    assert before.count("\n") < 60
    rows = rest.partition("<!-- which:end -->")[0].splitlines()[2:]
    named = [name for row in rows for name in re.findall(r'`"(\w+)"`', row)]
    assert set(named) == {recipe.name for recipe in recipes.ALL} - {"argmax"}
    (default,) = (row for row in rows if "the default" in row)
    assert f'`"{inspect.signature(decode).parameters["recipe"].default.name}"`' in default
    # And docs/decoders.md says the same of each.
    published = (root / "docs" / "decoders.md").read_text(encoding="utf-8").splitlines()
    for row in rows[:-1]:
        for name in re.findall(r'`"(\w+)"`', row):
            source = row.strip("| ").split(",")[0].split(" ")[0].lower()
            lines = [line for line in published if f"| `{name.upper()}`" in line]
            assert any(source in line.lower() for line in lines), (source, name)


def test_only_a_fit_is_told_of_its_radius() -> None:
    """So no other kernel is compiled anew for a field that it does not look at."""
    for recipe in recipes.ALL:
        changed = dataclasses.replace(recipe, fit_radius=7)
        assert (changed.operator_arguments == recipe.operator_arguments) == (recipe is not recipes.FIT)
    fit = dataclasses.replace(recipes.FIT, target_sigma=1.5)
    numbers = fit.operator_arguments
    assert (numbers.known_variance, numbers.fit_radius, numbers.target_variance) == (4.0 + 2.25, 5, 2.25)
    assert (fit.known_variance, fit.target_variance) == (4.0 + 2.25, 2.25)


def test_only_what_expects_blobs_is_told_of_their_width() -> None:
    for recipe in recipes.ALL:
        changed = dataclasses.replace(recipe, blob_sigma=4.0)
        assert (changed.operator_arguments == recipe.operator_arguments) == (recipe is not recipes.MATCHED)
    assert recipes.FIT.operator_arguments.blob_sigma == 0.0
    for recipe in (
        dataclasses.replace(recipes.MMPOSE_DARK, argmax_on="matched"),
        dataclasses.replace(recipes.ARGMAX, argmax_on="matched"),
        dataclasses.replace(recipes.MMPOSE_DARK, stencil="gaussian"),
    ):
        assert recipe.operator_arguments.blob_sigma == 2.5


def test_the_width_of_blobs_follows_from_the_targets() -> None:
    for fields, sigma in (
        ({}, 2.5),
        ({"target_sigma": 3.0}, 3.0),
        ({"target_sigma": 3.0, "blob_sigma": 1.5}, 1.5),
        ({"blob_sigma": 11}, 11.0),
        ({"target_sigma": 20.0, "blob_sigma": 11.0}, 11.0),
    ):
        recipe = dataclasses.replace(recipes.MATCHED, **fields)
        assert recipe.expected_sigma == recipe.operator_arguments.blob_sigma == sigma
        assert type(recipe.operator_arguments.blob_sigma) is float
        # A fit smooths nothing, so of a covariance no more is known than the targets' part.
        assert recipe.operator_arguments.target_variance == fields.get("target_sigma", 0.0) ** 2
    assert recipes.MATCHED.summary()["stencil"] == "gaussian s=2.5"


def test_the_window_of_a_mass_follows_from_the_targets() -> None:
    peak = recipes.DARKPOSE
    mass = dataclasses.replace(peak, score="mass")
    for fields, radius in (
        ({}, 4),
        ({"target_sigma": 2.0}, 4),
        ({"target_sigma": 1.2}, 3),
        ({"target_sigma": 1.2, "score_radius": 7}, 7),
    ):
        assert dataclasses.replace(mass, **fields).mass_radius == radius
        assert dataclasses.replace(mass, **fields).operator_arguments.mass_radius == radius
        assert dataclasses.replace(peak, **fields).mass_radius == 0
    # No other kernel is compiled for a radius that nobody looks at.
    assert dataclasses.replace(peak, score_radius=7).operator_arguments == peak.operator_arguments


def test_a_summary_names_what_published_decoders_do_not_have() -> None:
    assert not {"activation", "score"} & set(recipes.DARKPOSE.summary())
    summary = dataclasses.replace(recipes.DARKPOSE, activation="softmax", score="mass").summary()
    assert list(summary.items())[-2:] == [("activation", "softmax"), ("score", "mass r=4")]


def test_a_wide_target_is_refused_only_where_blobs_are_expected() -> None:
    assert dataclasses.replace(recipes.FIT, target_sigma=12.0).operator_arguments.blob_sigma == 0.0
    assert dataclasses.replace(recipes.MATCHED, target_sigma=12.0, blob_sigma=9.0).expected_sigma == 9.0


def test_every_stencil_goes_with_every_search() -> None:
    stencils = ("wide", "compact", "fit", "gaussian", "quarter", "quarter_legacy", "none")
    for stencil, argmax_on in itertools.product(stencils, ("raw", "blurred", "matched")):
        recipe = Recipe(stencil=stencil, argmax_on=argmax_on)  # type: ignore[arg-type]
        assert (recipe.operator_arguments.stencil, recipe.operator_arguments.argmax_on) == (stencil, argmax_on)
    # Without a blur the smoothed map is the raw one.
    assert Recipe(blur="none", argmax_on="blurred").operator_arguments.argmax_on == "raw"
    assert Recipe(blur="none", argmax_on="matched").operator_arguments.argmax_on == "matched"


def test_get_takes_either_case() -> None:
    for recipe in recipes.ALL:
        assert recipes.get(recipe.name) is recipes.get(recipe.name.upper()) is recipe
        assert getattr(recipes, recipe.name.upper()) is recipe


def test_get_lists_the_names() -> None:
    with pytest.raises(ValueError, match=r"recipe: got 'openpose', expected one of darkpose, .*argmax"):
        recipes.get("openpose")


REFUSED: list[tuple[dict[str, Any], str]] = [
    ({"blur": "box"}, r"Recipe.blur: got 'box', expected one of 'opencv', 'gaussian', 'none'"),
    ({"padding": "edge"}, r"Recipe.padding: got 'edge', expected one of 'zeros'"),
    ({"stencil": "taylor"}, r"Recipe.stencil: got 'taylor', expected one of 'wide'"),
    ({"argmax_on": "both"}, r"Recipe.argmax_on: got 'both', expected one of 'raw'"),
    ({"kernel_size": 10}, r"Recipe.kernel_size: got 10, expected an odd positive int"),
    ({"kernel_size": 0}, r"Recipe.kernel_size: got 0, expected an odd positive int"),
    ({"kernel_size": -3}, r"Recipe.kernel_size: got -3, expected an odd positive int"),
    ({"kernel_size": 11.0}, r"Recipe.kernel_size: got 11.0, expected an odd positive int"),
    ({"kernel_size": True}, r"Recipe.kernel_size: got True, expected an odd positive int"),
    ({"kernel_size": "11"}, r"Recipe.kernel_size: got '11', expected an odd positive int"),
    ({"blur": "gaussian", "sigma": 0.0}, r"Recipe.sigma: got 0.0, expected a positive finite number or None"),
    ({"blur": "gaussian", "sigma": -1.0}, r"Recipe.sigma: got -1.0, expected a positive"),
    ({"blur": "gaussian", "sigma": math.nan}, r"Recipe.sigma: got nan, expected a positive"),
    ({"sigma": 2.0}, r"Recipe.sigma: got 2.0, expected None with blur='opencv', or blur='gaussian'"),
    ({"max_offset": 0.0}, r"Recipe.max_offset: got 0.0, expected a positive"),
    ({"max_offset": math.inf}, r"Recipe.max_offset: got inf, expected a positive"),
    ({"target_sigma": -2.0}, r"Recipe.target_sigma: got -2.0, expected a positive"),
    ({"clip_min": 0.0}, r"Recipe.clip_min: got 0.0, expected a positive number"),
    ({"clip_min": 60.0, "clip_max": 50.0}, r"Recipe.clip_max: got 50.0, expected a number above clip_min"),
    ({"clip_min": math.nan}, r"Recipe.clip_min: got nan, expected a positive number"),
    ({"clip_max": math.nan}, r"Recipe.clip_max: got nan, expected a number above clip_min"),
    ({"rescale": 1}, r"Recipe.rescale: got 1, expected a bool"),
    ({"invalid": None}, r"Recipe.invalid: got None, expected a number"),
    ({"clip_min": "low"}, r"Recipe.clip_min: got 'low', expected a positive number"),
    ({"extra_shift": math.nan}, r"Recipe.extra_shift: got nan, expected a finite number"),
    ({"score_scale": math.inf}, r"Recipe.score_scale: got inf, expected a finite number"),
    ({"fit_radius": 0}, r"Recipe.fit_radius: got 0, expected an int from 1 to 15"),
    ({"fit_radius": 16}, r"Recipe.fit_radius: got 16, expected an int from 1 to 15"),
    ({"fit_radius": 5.0}, r"Recipe.fit_radius: got 5.0, expected an int from 1 to 15"),
    ({"fit_radius": True}, r"Recipe.fit_radius: got True, expected an int from 1 to 15"),
    ({"activation": "relu"}, r"Recipe.activation: got 'relu', expected one of 'none', 'sigmoid', 'softmax'"),
    ({"score": "mean"}, r"Recipe.score: got 'mean', expected one of 'peak', 'mass'"),
    ({"score_radius": 0}, r"Recipe.score_radius: got 0, expected a positive int or None"),
    ({"score_radius": 2.0}, r"Recipe.score_radius: got 2.0, expected a positive int or None"),
    ({"score_radius": True}, r"Recipe.score_radius: got True, expected a positive int or None"),
    ({"blob_sigma": 0.0}, r"Recipe.blob_sigma: got 0.0, expected a positive number up to 11, or None"),
    ({"blob_sigma": -1.0}, r"Recipe.blob_sigma: got -1.0, expected a positive number up to 11, or None"),
    ({"blob_sigma": 11.5}, r"Recipe.blob_sigma: got 11.5, expected a positive number up to 11, or None"),
    ({"blob_sigma": math.nan}, r"Recipe.blob_sigma: got nan, expected a positive number"),
    ({"blob_sigma": True}, r"Recipe.blob_sigma: got True, expected a positive number"),
    (
        {"argmax_on": "matched", "target_sigma": 12.0},
        r"Recipe.target_sigma: got 12.0, expected up to 11, or a blob_sig",
    ),
    ({"stencil": "gaussian", "target_sigma": 12.0}, r"Recipe.target_sigma: got 12.0, expected up to 11, or a blob_si"),
    ({"score_offset": -math.inf}, r"Recipe.score_offset: got -inf, expected a finite number"),
]


@pytest.mark.parametrize(("fields", "message"), REFUSED)
def test_refusals_say_what_came_and_what_was_expected(fields: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        Recipe(**fields)
    with pytest.raises(ValueError, match=message):
        dataclasses.replace(recipes.MMPOSE_DARK, **fields)
