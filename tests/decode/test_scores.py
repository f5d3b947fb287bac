"""Maps that are logits, and scores that are a share of the map: on every backend."""

from __future__ import annotations

import dataclasses
import itertools
import math

import pytest
import torch
from torch import Tensor

import dark_kernels
from dark_kernels import Recipe, recipes, testing
from dark_kernels.decode import reference
from dark_kernels.decode.reference import merge_flipped

from .cases import assert_agree, is_compiled

Service = tuple[str, torch.device]
ACTIVATIONS = ["sigmoid", "softmax"]
# Recipes that differ in how they read a map: in a window, twice, beside its peak, everywhere (with a narrow blur, since
# the interpreter takes its time).
_ON_BLURRED = dataclasses.replace(recipes.MEGVII, kernel_size=3, score_scale=1.0, score_offset=0.0)
SOME_RECIPES = [recipes.DARKPOSE, recipes.FIT, recipes.QUARTER, _ON_BLURRED]
RAW = [recipe for recipe in recipes.ALL if recipe.argmax_on == "raw"]


def by_name(recipe: Recipe) -> str:
    return recipe.name


def logits_of(maps: Tensor, activation: str) -> Tensor:
    """What a network has to say for these maps."""
    maps = maps.double().clamp(1e-4, 1 - 1e-4)
    return (maps / (1 - maps)).log() if activation == "sigmoid" else 12.0 * maps


def some_logits(activation: str, size: tuple[int, int] = (19, 17), batch: int = 1, keypoints: int = 4) -> Tensor:
    kinds = ["noisy_blob", "blob", "two_blobs", "noise"]
    return logits_of(
        testing.heatmaps_of_kinds(kinds, batch, keypoints, *size, seed=17, dtype=torch.float64), activation
    )


def check(heatmaps: Tensor, recipe: Recipe, service: Service, covariance: bool | None = None) -> testing.Comparison:
    backend, device = service
    heatmaps = heatmaps.to(device)
    covariance = recipe.has_hessian if covariance is None else covariance
    with testing.assert_unchanged(heatmaps):
        actual = dark_kernels.decode(heatmaps, recipe, covariance, backend)
    arithmetic = testing.arithmetic_of(backend, device.type, heatmaps.dtype)
    return testing.assert_decodes_like_reference(actual, heatmaps, recipe, arithmetic)


def decoded(heatmaps: Tensor, recipe: Recipe, service: Service) -> tuple[list[float], float]:
    """Coordinates and score of one map [H, W]."""
    coords, scores, _ = dark_kernels.decode(heatmaps[None, None].to(service[1]), recipe, backend=service[0])
    return coords[0, 0].tolist(), scores.item()


# --- logits ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("activation", ACTIVATIONS)
@pytest.mark.parametrize("recipe", recipes.ALL, ids=by_name)
def test_the_definition_is_decoding_what_the_logits_stand_for(recipe: Recipe, activation: str) -> None:
    logits = some_logits(activation)
    probabilities = logits.sigmoid() if activation == "sigmoid" else logits.flatten(2).softmax(-1).view_as(logits)
    of_logits = dataclasses.replace(recipe, activation=activation)
    for mass in ("peak", "mass"):
        actual, expected = (
            dark_kernels.decode(maps, dataclasses.replace(each, score=mass), recipe.has_hessian, "reference")
            for maps, each in ((logits, of_logits), (probabilities, recipe))
        )
        for one, other in zip(actual, expected, strict=True):
            if one is not None and other is not None:
                torch.testing.assert_close(one, other, rtol=1e-9, atol=1e-12, equal_nan=True)


@pytest.mark.parametrize(("activation", "score"), [("none", "mass"), ("sigmoid", "peak"), ("softmax", "mass")])
@pytest.mark.parametrize("recipe", recipes.ALL, ids=by_name)
def test_equals_the_reference(recipe: Recipe, activation: str, score: str, service: Service) -> None:
    recipe = dataclasses.replace(recipe, activation=activation, score=score)
    if service == ("triton", torch.device("cpu")) and recipe.argmax_on == "blurred":
        recipe = dataclasses.replace(recipe, kernel_size=3)  # the interpreter takes its time
    maps = some_logits("softmax" if activation == "none" else activation, (15, 13), keypoints=2)
    compared = check(maps.float(), recipe, service)
    # One of the blobs is so low that its softmax is flat, and below UDP's clip.
    assert compared.refined == 2
    assert compared.bounded >= 1


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64], ids=str)
@pytest.mark.parametrize("activation", ACTIVATIONS)
def test_in_each_dtype(activation: str, dtype: torch.dtype, service: Service) -> None:
    for recipe in (recipes.DARKPOSE, recipes.FIT):
        recipe = dataclasses.replace(recipe, activation=activation, score="mass")
        compared = check(some_logits(activation, keypoints=2).to(dtype), recipe, service)
        assert compared.refined == compared.bounded == 2


@pytest.mark.parametrize("layout", ["channels_last", "transposed", "sliced"])
@pytest.mark.parametrize("activation", ["none", *ACTIVATIONS])
def test_in_each_layout(activation: str, layout: str, service: Service) -> None:
    """Interleaved maps are read in parts, of which these have two."""
    maps = testing.with_layout(some_logits("softmax", (33, 29), keypoints=2).float(), layout)
    recipe = dataclasses.replace(recipes.DARKPOSE, activation=activation, score="mass")
    assert check(maps, recipe, service).bounded == 2


@pytest.mark.parametrize(("activation", "shift"), [("none", True), ("sigmoid", False), ("softmax", True)])
@pytest.mark.parametrize("recipe", SOME_RECIPES, ids=by_name)
def test_a_flip_test_activates_the_mean(recipe: Recipe, activation: str, shift: bool, service: Service) -> None:
    backend, device = service
    recipe = dataclasses.replace(recipe, activation=activation, score="mass" if shift else "peak")
    maps = some_logits("softmax", (11, 8), batch=1, keypoints=3).float().to(device)
    flipped = maps.roll(1, 1).flip(-1)
    transform = torch.tensor([[[4.0, 0.5, 3.0], [-0.25, 4.0, 1.0]]], device=device)
    actual = dark_kernels.decode(
        maps, recipe, recipe.has_hessian, backend, flipped=flipped, flip_indices=[2, 1, 0], shift_flipped=shift,
        keypoint_indices=[2, 0],
    )  # fmt: skip
    merged = merge_flipped(maps, flipped, torch.tensor([2, 1, 0], device=device), shift)[:, [2, 0]]
    assert_agree(actual, service, merged, recipe)
    if not is_compiled(service):
        placed = dark_kernels.decode(merged, recipe, backend=backend, image_transform=transform)
        expected = actual.coords @ transform[:, :, :2].mT + transform[:, None, :, 2]
        torch.testing.assert_close(placed.coords, expected, rtol=1e-6, atol=1e-5)


@pytest.mark.parametrize("recipe", RAW, ids=by_name)
def test_saturation_moves_no_maximum(recipe: Recipe, service: Service) -> None:
    """1 / (1 + exp(-40)) and 1 / (1 + exp(-41)) are both 1 in float32."""
    logits = torch.full((12, 12), -5.0)
    logits[3, 4] = 40.0
    logits[8, 7] = 41.0
    recipe = dataclasses.replace(recipe, activation="sigmoid", max_offset=0.5)
    coords, score = decoded(logits, recipe, service)
    assert [abs(coords[0] - 7) <= 0.5, abs(coords[1] - 8) <= 0.5, score] == [True, True, 1.0]
    # And the quarter of a pixel is towards the larger logit.
    logits[8, 6], logits[8, 8] = 39.0, 38.0
    if recipe.stencil.startswith("quarter"):
        assert decoded(logits, recipe, service)[0] == [6.75, 8.0]


@pytest.mark.parametrize(("activation", "score"), [("sigmoid", "peak"), ("softmax", "peak"), ("softmax", "mass")])
@pytest.mark.parametrize("recipe", [recipes.DARKPOSE, recipes.FIT, _ON_BLURRED], ids=by_name)
def test_what_is_no_logit(recipe: Recipe, activation: str, score: str, service: Service) -> None:
    backend, device = service
    recipe = dataclasses.replace(recipe, activation=activation, score=score, invalid=-7.0)
    maps = some_logits(activation, (9, 8), keypoints=1).float().expand(1, 7, -1, -1).contiguous() - 20.0
    maps[0, 1, 2, 3] = math.nan
    maps[0, 2] = -math.inf
    maps[0, 3, 5, 6] = math.inf
    maps[0, 4, 5, 6] = maps[0, 4, 8, 1] = math.inf
    maps[0, 5, :6] = -math.inf
    maps[0, 6] -= 200.0
    found = dark_kernels.decode(maps.to(device), recipe, recipe.has_hessian, backend)
    found = dark_kernels.Keypoints(*(None if each is None else each.cpu() for each in found))
    # Negative logits are as good as any.
    testing.assert_same_keypoints(
        dark_kernels.Keypoints(*(None if each is None else each[:, [1, 2]] for each in found))._replace(
            scores=torch.zeros(1, 2)
        ),
        dark_kernels.Keypoints(
            torch.full((1, 2, 2), -7.0),
            torch.zeros(1, 2),
            None if found.covariances is None else torch.full((1, 2, 2, 2), math.nan),
        ),
    )
    valid = (found.coords[0] != -7.0).any(-1).tolist()
    assert valid == [True, False, False, True, True, True, True]
    scores = found.scores[0].tolist()
    assert math.isnan(scores[1])
    assert abs(scores[2]) < 1e-4
    assert all(-1e-4 < scores[k] <= 1.0001 for k in (0, 3, 4, 5, 6))
    if recipe.argmax_on == "raw":
        assert found.coords[0, 3].tolist() == found.coords[0, 4].tolist() == [6.0, 5.0]
        if score == "peak":
            assert scores[3] == 1.0
            assert scores[4] == (0.5 if activation == "softmax" else 1.0)
    if found.covariances is not None:
        assert found.covariances[0, 3:5].isnan().all()
    arithmetic = testing.arithmetic_of(backend, device.type, torch.float32)
    testing.assert_decodes_like_reference(found, maps, recipe, arithmetic)


@pytest.mark.parametrize("activation", ACTIVATIONS)
def test_rescaling_where_a_clip_binds(activation: str, service: Service) -> None:
    """Only there a whole map is activated and blurred."""
    maps = some_logits(activation, (9, 8), keypoints=1).float() - (6.5 if activation == "sigmoid" else 0.0)
    recipe = dataclasses.replace(recipes.MMPOSE_UDP, activation=activation, clip_min=2e-3)
    compared = check(maps, recipe, service)
    assert compared.bounded > 0


def test_blocks_of_images_change_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    """Eager goes through some images at a time, here through one and through two of three."""
    from dark_kernels.decode import eager_scores

    maps = some_logits("softmax", (13, 10), batch=3, keypoints=2).float()
    for recipe, activation in itertools.product((recipes.DARKPOSE, recipes.MEGVII), ["none", *ACTIVATIONS]):
        recipe = dataclasses.replace(recipe, activation=activation, score="mass")
        monkeypatch.undo()
        expected = dark_kernels.decode(maps, recipe, backend="eager")
        for pixels in (1, 2 * 2 * 13 * 10):
            monkeypatch.setattr(eager_scores, "_BLOCK", pixels)
            testing.assert_same_keypoints(dark_kernels.decode(maps, recipe, backend="eager"), expected)


# --- masses ----------------------------------------------------------------------------------------------


def plain_mass(heatmap: Tensor, x: int, y: int, radius: int) -> float:
    rows = heatmap.double().clamp(min=0).tolist()
    near = [
        value
        for j, row in enumerate(rows)
        for i, value in enumerate(row)
        if abs(i - x) <= radius and abs(j - y) <= radius
    ]
    return math.fsum(near) / math.fsum(map(math.fsum, rows))


@pytest.mark.parametrize("radius", [1, 2, 4, 7])
def test_the_mass_is_that_of_a_plain_loop(radius: int) -> None:
    maps = testing.heatmaps_of_kinds(["noisy_blob", "signed_noise", "blob"], 1, 6, 11, 9, seed=3, dtype=torch.float64)
    recipe = dataclasses.replace(recipes.ARGMAX, score="mass", score_radius=radius)
    coords, scores, _ = dark_kernels.decode(maps, recipe, backend="reference")
    for k in range(6):
        x, y = (int(each) for each in coords[0, k])
        assert scores[0, k].item() == pytest.approx(plain_mass(maps[0, k], x, y, radius), rel=1e-12)


def test_a_blob_has_its_mass_and_clutter_has_none(service: Service) -> None:
    """The peak of a pixel of clutter is .95, and so is the mass of a blob."""
    blob = testing.gaussian_blobs(1, 1, 64, 48, sigma=2.0, margin=20, seed=1).heatmaps[0, 0].float()
    mass = dataclasses.replace(recipes.DARKPOSE, score="mass")
    _, score = decoded(blob, mass, service)
    assert score == pytest.approx(0.95, abs=0.02)
    clutter = 0.9 * blob
    clutter[5, 5] = 0.95
    _, peak = decoded(clutter, recipes.DARKPOSE, service)
    _, score = decoded(clutter, mass, service)
    assert peak == pytest.approx(0.95)
    assert 0.03 < score < 0.045
    logits = 40.0 * blob  # and of a softmax
    _, score = decoded(logits, dataclasses.replace(mass, activation="softmax"), service)
    assert score > 0.99


@pytest.mark.parametrize("recipe", SOME_RECIPES, ids=by_name)
def test_masses_of_awkward_maps(recipe: Recipe, service: Service) -> None:
    """Always from 0 to 1, but NaN where the map has one."""
    backend, device = service
    recipe = dataclasses.replace(recipe, score="mass", score_radius=2)
    kinds = ["negative", "zeros", "some_nan", "some_infinite", "both_infinite", "tiny", "huge", "huge_and_tiny",
             "all_minus_infinite", "some_minus_infinite", "one_pixel", "very_weak_blob"]  # fmt: skip
    maps = testing.heatmaps_of_kinds(kinds, 1, len(kinds), 8, 7, seed=3)
    largest = torch.finfo(torch.float32).max
    maps = torch.cat([maps, torch.full((1, 1, 8, 7), largest)], 1)
    check(maps, recipe, service)
    scores = dark_kernels.decode(maps.to(device), recipe, backend=backend).scores[0].cpu()
    by_kind = dict(zip([*kinds, "largest"], scores.tolist(), strict=True))
    assert math.isnan(by_kind.pop("some_nan"))
    assert all(0.0 <= score <= 1.0 for score in by_kind.values())
    assert by_kind["negative"] == by_kind["zeros"] == by_kind["all_minus_infinite"] == 0.0
    if recipe.argmax_on == "raw":
        assert by_kind["some_infinite"] == by_kind["both_infinite"] == 1.0
    assert by_kind["largest"] == pytest.approx(9 / 56, rel=1e-5) or recipe.argmax_on == "blurred"


def test_a_window_beyond_the_map_is_the_whole_map(service: Service) -> None:
    for activation in ("none", *ACTIVATIONS):
        recipe = dataclasses.replace(recipes.ARGMAX, score="mass", activation=activation, score_radius=40)
        _, score = decoded(some_logits("softmax")[0, 0].float(), recipe, service)
        assert score == pytest.approx(1.0, abs=1e-5)
        assert score <= 1.0


def test_the_score_of_a_mass_is_scaled(service: Service) -> None:
    maps = some_logits("softmax")[0, 0].float()
    recipe = dataclasses.replace(recipes.ARGMAX, score="mass")
    _, score = decoded(maps, recipe, service)
    _, scaled = decoded(maps, dataclasses.replace(recipe, score_scale=0.5, score_offset=0.25), service)
    assert scaled == pytest.approx(0.5 * score + 0.25)


def test_activations_of_the_definition() -> None:
    logits = torch.tensor([[[[0.0, math.log(3.0)], [-math.inf, -math.inf]]]], dtype=torch.float64)
    assert reference.activate(logits, "softmax").flatten().tolist() == pytest.approx([0.25, 0.75, 0.0, 0.0])
    assert reference.activate(logits, "sigmoid").flatten().tolist() == pytest.approx([0.5, 0.75, 0.0, 0.0])
    assert reference.activate(logits, "none") is logits
