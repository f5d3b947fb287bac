"""The bounds are bounds: they hold for float32 arithmetic on any input, and are small where a test needs them so."""

from __future__ import annotations

import dataclasses
import math

import pytest
import torch

from dark_kernels import Recipe, recipes, testing
from dark_kernels.decode import reference
from dark_kernels.testing import tolerances

WITH_HESSIAN = [recipe for recipe in recipes.ALL if recipe.has_hessian]
FLOAT32 = testing.Arithmetic(torch.float32, torch.float32)


def by_name(recipe: Recipe) -> str:
    return recipe.name


@pytest.mark.parametrize("recipe", recipes.ALL, ids=by_name)
@pytest.mark.parametrize("arithmetic", [testing.EAGER, testing.EAGER_ON_DEVICE, testing.TRITON], ids=str)
def test_bounds_are_small_on_blobs(recipe: Recipe, arithmetic: testing.Arithmetic) -> None:
    heatmaps = testing.gaussian_blobs(2, 4, 48, 40, seed=1).heatmaps.float()
    bounds = testing.decode_bounds(heatmaps, recipe, arithmetic)
    # With a border that reflects, what is rounded is as large as the distance from the peak.
    limit = 2e-4 if arithmetic.subtracts_peak and recipe.padding != "zeros" else 1e-4
    assert bounds.coords.max() < limit
    if recipe.has_hessian:
        assert bounds.coords.min() > 1e-8
        assert bounds.covariances.max() < 2e-3
    elif recipe.argmax_on == "raw":
        assert bounds.coords.max() == 0
    assert bounds.validity_is_certain.all()


@pytest.mark.parametrize("kernel_size", [3, 11, 23])
@pytest.mark.parametrize("padding", ["zeros", "reflect", "symmetric"])
def test_the_blurs_bound_holds_and_is_not_far_off(padding: str, kernel_size: int) -> None:
    """Rounding errors mostly cancel: the bound is some tens of times what is seen, not thousands."""
    recipe = Recipe(kernel_size=kernel_size, padding=padding, rescale=False)  # type: ignore[arg-type]
    maps = testing.heatmaps_of_kinds(["signed_noise", "huge", "tiny", "blob"], 2, 4, 31, 29, seed=2)
    error = (reference.blur(maps, recipe).double() - reference.blur(maps.double(), recipe)).abs()
    bound = tolerances._blur_error(maps.double(), recipe, FLOAT32)
    assert (error <= bound).all()
    assert (error / bound)[:, 0].max() > 0.01


@pytest.mark.parametrize("recipe", WITH_HESSIAN, ids=by_name)
def test_perturbed_maps_move_keypoints_within_the_bounds(recipe: Recipe) -> None:
    """A map whose pixels are off by a relative u has a blur that is off by less than the bound allows for."""
    heatmaps = testing.heatmaps_of_kinds(["noisy_blob", "noise", "weak_blob", "strong_blob"], 4, 8, 24, 20, seed=3)
    unit = torch.finfo(torch.float32).eps / 2
    exact, _, _ = reference.decode_reference(heatmaps.double(), recipe)
    bounds = testing.decode_bounds(heatmaps, recipe, FLOAT32).coords
    peaks = heatmaps.amax((-2, -1), keepdim=True)
    generator = torch.Generator().manual_seed(4)
    for _ in range(10):
        signs = torch.randint(0, 2, heatmaps.shape, generator=generator) * 2 - 1
        signs[heatmaps == peaks] = 1  # the peak stays the peak
        off, _, _ = reference.decode_reference(heatmaps.double() * (1 + 8 * unit * signs), recipe)
        assert ((off - exact).abs() <= bounds).all()
    assert (bounds.amax(-1) < 0.01).float().mean() > 0.6


def test_singular_problems_have_no_bound() -> None:
    constant = torch.full((1, 1, 16, 16), 0.5)
    bounds = testing.decode_bounds(constant, recipes.VITPOSE_HF, testing.TRITON)
    assert (bounds.coords == math.inf).all()
    assert (bounds.covariances == math.inf).all()


def test_invalid_and_unrefined_peaks_are_exact() -> None:
    heatmaps = testing.heatmaps_of_kinds(["zeros", "negative", "some_nan", "some_infinite"], 1, 4, 16, 12)
    for recipe in WITH_HESSIAN:
        bounds = testing.decode_bounds(heatmaps, recipe, testing.TRITON)
        assert bounds.coords.max() <= 1e-7
        assert bounds.covariances.max() == 0
        assert bounds.scores.max() == 0


@pytest.mark.parametrize("stencil", ["quarter", "quarter_legacy"])
def test_a_sign_is_open_where_neighbours_agree_to_rounding(stencil: str) -> None:
    recipe = dataclasses.replace(recipes.MEGVII, stencil=stencil)
    x, y = torch.meshgrid(torch.arange(21.0), torch.arange(21.0), indexing="xy")
    heatmaps = torch.exp(-((x - 10) ** 2 + (y - 10.2) ** 2) / 8)[None, None]
    bounds = testing.decode_bounds(heatmaps, recipe, testing.TRITON).coords[0, 0]
    assert bounds[0] > 0.4  # symmetric in x
    assert bounds[1] < 1e-5


def test_other_peaks_are_those_within_rounding() -> None:
    heatmap = torch.zeros(24, 24)
    heatmap[6, 6] = heatmap[17, 17] = 1.0
    first, second = 6 * 24 + 6, 17 * 24 + 17
    assert tolerances.other_peaks(heatmap, recipes.MEGVII, testing.TRITON).tolist() == [first, second]
    assert tolerances.other_peaks(heatmap, recipes.DARKPOSE, testing.TRITON).tolist() == [first]
    heatmap[17, 17] = 0.999
    assert tolerances.other_peaks(heatmap, recipes.MEGVII, testing.TRITON).tolist() == [first]


def test_what_a_backend_computes_in() -> None:
    assert testing.arithmetic_of("eager", "cpu", torch.float16) is testing.EAGER
    assert testing.arithmetic_of("eager", "cuda", torch.float32) is testing.EAGER_ON_DEVICE
    assert testing.arithmetic_of("triton", "cuda", torch.bfloat16) is testing.TRITON
    for backend in ("eager", "triton", "reference"):
        assert testing.arithmetic_of(backend, "cpu", torch.float64).blur == torch.float64


def test_the_stencils_are_those_of_the_reference() -> None:
    """They are written down a second time here, so their derivatives are compared."""
    logs = torch.rand(1, 1, 9, 9, generator=torch.Generator().manual_seed(5), dtype=torch.float64)
    at = torch.tensor([[4]])
    for name, step in (("wide", reference.step_wide), ("compact", reference.step_compact)):
        gradient, hessian, _ = step(logs, at, at)
        points = tolerances._POINTS[name]
        values = torch.stack([logs[0, 0, 4 + dy, 4 + dx] for dx, dy in points])
        derivatives = values @ torch.tensor(list(points.values()), dtype=torch.float64)
        expected = torch.stack([*gradient[0, 0], hessian[0, 0, 0, 0], hessian[0, 0, 1, 1], hessian[0, 0, 0, 1]])
        torch.testing.assert_close(derivatives, expected, rtol=1e-12, atol=1e-12)
