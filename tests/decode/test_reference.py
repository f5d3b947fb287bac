"""The definition itself, against a second telling of it: loops over pixels, NumPy's padding and OpenCV's blur."""

from __future__ import annotations

import dataclasses
import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

import dark_kernels
from dark_kernels import Recipe, recipes, testing
from dark_kernels.decode import reference

from ..strategies import Case, cases

Array = NDArray[np.float64]
NUMPY_PADDING = {"zeros": "constant", "reflect": "reflect", "symmetric": "symmetric"}


# --- a second telling, pixel by pixel --------------------------------------------------------------------


def naive_taps(recipe: Recipe) -> Array:
    k = recipe.kernel_size
    if recipe.blur == "none":
        return np.ones(1)
    if recipe.blur == "opencv" and k <= 9:
        tables = {
            1: [1.0],
            3: [1 / 4, 2 / 4, 1 / 4],
            5: [1 / 16, 4 / 16, 6 / 16, 4 / 16, 1 / 16],
            7: [1 / 32, 7 / 64, 7 / 32, 9 / 32, 7 / 32, 7 / 64, 1 / 32],
            9: [x / 256 for x in (4, 13, 30, 51, 60, 51, 30, 13, 4)],
        }
        return np.array(tables[k])
    sigma = recipe.sigma if recipe.sigma is not None else 0.3 * ((k - 1) / 2 - 1) + 0.8
    weights = np.array([math.exp(-(i**2) / (2 * sigma**2)) for i in range(-(k // 2), k // 2 + 1)])
    return weights / weights.sum()


def naive_blur(heatmap: Array, recipe: Recipe) -> Array:
    taps = naive_taps(recipe)
    radius = len(taps) // 2
    mode = NUMPY_PADDING[recipe.padding]
    height, width = heatmap.shape
    if mode == "reflect" and min(height, width) == 1:  # np.pad's reflect of one pixel repeats it, as ours does
        padded = heatmap
        for axis, size in ((0, height), (1, width)):
            widths = [(0, 0), (0, 0)]
            widths[axis] = (radius, radius)
            padded = np.pad(padded, widths, mode="edge" if size == 1 else "reflect")
    else:
        padded = np.pad(heatmap, radius, mode=mode)
    blurred = np.zeros_like(heatmap)
    for y in range(height):
        for x in range(width):
            for i, weight_y in enumerate(taps):
                for j, weight_x in enumerate(taps):
                    blurred[y, x] += weight_y * weight_x * padded[y + i, x + j]
    return blurred


def naive_activation(heatmap: Array, activation: str) -> Array:
    if activation == "none":
        return heatmap
    if activation == "sigmoid":
        positive = [[h >= 0 for h in row] for row in heatmap]
        small = np.exp(-np.abs(heatmap))
        return np.where(positive, 1 / (1 + small), small / (1 + small))
    weights = np.exp(heatmap - heatmap.max())
    return np.asarray(weights / math.fsum(weights.flatten()))


def naive_mass(heatmap: Array, px: int, py: int, radius: int) -> float:
    largest = float(heatmap.max())
    if largest <= 0:
        return 0.0
    pixels = {(y, x): max(float(h), 0.0) / largest for (y, x), h in np.ndenumerate(heatmap)}
    near = [h for (y, x), h in pixels.items() if abs(y - py) <= radius and abs(x - px) <= radius]
    return math.fsum(near) / math.fsum(pixels.values())


def naive_decode(heatmap: Array, recipe: Recipe) -> tuple[float, float, float]:
    """x, y and score of one finite map, as decode/README.md tells it."""
    height, width = heatmap.shape
    given, heatmap = heatmap, naive_activation(heatmap, recipe.activation)
    blurred = naive_blur(heatmap, recipe)
    if recipe.rescale and blurred.max() > 0:
        blurred = blurred * heatmap.max() / blurred.max()
    searched = blurred if recipe.argmax_on == "blurred" else given
    best, px, py = naive_peak(searched)
    score = float(blurred[py, px] if searched is blurred else heatmap[py, px])
    if recipe.argmax_on == "matched":
        _, px, py = naive_peak(naive_response(heatmap, recipe.expected_sigma))
    if recipe.score == "mass":
        score = naive_mass(heatmap, px, py, recipe.mass_radius)
    score = score * recipe.score_scale + recipe.score_offset
    if recipe.activation == "none" and not best > 0:
        return recipe.invalid, recipe.invalid, score

    log = np.log(np.clip(blurred, recipe.clip_min, recipe.clip_max))

    def at(dy: int, dx: int) -> float:
        return float(log[min(max(py + dy, 0), height - 1), min(max(px + dx, 0), width - 1)])

    ox = oy = 0.0
    fitted = None
    if recipe.stencil == "fit" and heatmap[py, px] > 0:
        fitted = naive_fit(heatmap, px, py, recipe.fit_radius)
    elif recipe.stencil == "gaussian":
        fitted = naive_blob(heatmap, px, py, recipe.expected_sigma)
    if fitted is not None:
        ox, oy = fitted
    elif recipe.stencil in ("wide", "fit", "gaussian") and 2 <= px <= width - 3 and 2 <= py <= height - 3:
        dx, dy = (at(0, 1) - at(0, -1)) / 2, (at(1, 0) - at(-1, 0)) / 2
        dxx = (at(0, 2) - 2 * at(0, 0) + at(0, -2)) / 4
        dyy = (at(2, 0) - 2 * at(0, 0) + at(-2, 0)) / 4
        dxy = (at(1, 1) - at(-1, 1) - at(1, -1) + at(-1, -1)) / 4
        if dxx * dyy - dxy**2 != 0:
            ox, oy = -np.linalg.solve(np.array([[dxx, dxy], [dxy, dyy]]), np.array([dx, dy]))
    elif recipe.stencil == "compact":
        dx, dy = (at(0, 1) - at(0, -1)) / 2, (at(1, 0) - at(-1, 0)) / 2
        dxx, dyy = at(0, 1) - 2 * at(0, 0) + at(0, -1), at(1, 0) - 2 * at(0, 0) + at(-1, 0)
        dxy = (at(1, 1) - at(0, 1) - at(1, 0) + 2 * at(0, 0) - at(0, -1) - at(-1, 0) + at(-1, -1)) / 2
        hessian = np.array([[dxx, dxy], [dxy, dyy]]) + 1.1920929e-7 * np.eye(2)
        ox, oy = -np.linalg.solve(hessian, np.array([dx, dy]))
    elif recipe.stencil.startswith("quarter"):
        inside_x, inside_y = 1 < px < width - 1, 1 < py < height - 1
        if recipe.stencil == "quarter":
            moves_x, moves_y = inside_x and 0 < py < height, inside_y and 0 < px < width
        else:
            moves_x = moves_y = inside_x and inside_y
        if moves_x:
            ox = 0.25 * np.sign(searched[py, px + 1] - searched[py, px - 1]) + recipe.extra_shift
        if moves_y:
            oy = 0.25 * np.sign(searched[py + 1, px] - searched[py - 1, px]) + recipe.extra_shift
    if recipe.max_offset is not None:
        ox, oy = (min(max(o, -recipe.max_offset), recipe.max_offset) for o in (ox, oy))
    return px + ox, py + oy, score


def naive_peak(searched: Array) -> tuple[float, int, int]:
    """The first maximum, and its x and y."""
    best, px, py = -math.inf, 0, 0
    for (row, column), value in np.ndenumerate(searched):
        if value > best:
            best, px, py = float(value), column, row
    return best, px, py


def naive_response(heatmap: Array, sigma: float) -> Array:
    """A matched filter's response: the blob's product with the map over the blob's norm, both cut at the border."""
    height, width = heatmap.shape
    reach = math.ceil(2.4 * sigma)
    response = np.zeros_like(heatmap)
    for py, px in np.ndindex(height, width):
        y, x = np.mgrid[
            max(py - reach, 0) : min(py + reach, height - 1) + 1, max(px - reach, 0) : min(px + reach, width - 1) + 1
        ]
        blob = np.exp(-((x - px) ** 2 + (y - py) ** 2) / (2 * sigma**2))
        response[py, px] = (blob * heatmap[y, x]).sum() / math.sqrt((blob**2).sum())
    return response


def naive_blob(heatmap: Array, px: int, py: int, sigma: float) -> tuple[float, float] | None:
    """The offset of a round Gaussian fitted around (px, py), or None: damped least squares by NumPy's."""
    reach = math.ceil(2.8 * sigma)
    near = [(y, x) for y, x in np.ndindex(heatmap.shape) if max(abs(y - py), abs(x - px)) <= reach]
    u, v = (np.array([place[axis] for place in near], float) - start for axis, start in ((1, px), (0, py)))
    pixels = np.array([max(heatmap[place] / heatmap.max(), -1.0) for place in near])
    x = y = 0.0
    s = 0.8 * sigma
    for _ in range(8):
        q = (u - x) ** 2 + (v - y) ** 2
        e = np.exp(-q / (2 * s**2))
        amplitude = e @ pixels / (e @ e)
        if not amplitude > 0:
            return None
        residual = pixels - amplitude * e
        noise = math.sqrt(2 * np.mean(np.minimum(residual, 0) ** 2))
        root = 1 / np.hypot(1, np.maximum(residual, 0) / max(0.025 * amplitude, 2.6 * noise))  # of the weights
        amplitude = (root**2 * e) @ pixels / ((root * e) @ (root * e))
        if not amplitude > 0:
            return None
        derivatives = e * np.array([np.ones_like(u), *(amplitude * each / s**2 for each in (u - x, v - y, q))])
        weighted = (root * derivatives).T
        damping = np.sqrt(1e-3 * (weighted**2).sum(0))
        if not damping.all():
            return None
        right = np.concatenate([root * (pixels - amplitude * e), np.zeros(4)])
        _, step_x, step_y, step_s = np.linalg.lstsq(np.vstack([weighted, np.diag(damping)]), right, rcond=None)[0]
        x, y = (
            float(np.clip(old + np.clip(step, -0.4 * sigma, 0.4 * sigma), -1.2 * sigma, 1.2 * sigma))
            for old, step in ((x, step_x), (y, step_y))
        )
        s = float(np.clip(s * math.exp(np.clip(step_s, -0.3, 0.3)), 0.4 * sigma, 2 * sigma))
    return x, y


def naive_fit(heatmap: Array, px: int, py: int, radius: int) -> tuple[float, float] | None:
    """The offset of a Gaussian fitted around (px, py), or None: Guo's iteration, with NumPy's least squares."""
    rows, values = [], []
    for y in range(max(py - radius, 0), min(py + radius, heatmap.shape[0] - 1) + 1):
        for x in range(max(px - radius, 0), min(px + radius, heatmap.shape[1] - 1) + 1):
            u, v = x - px, y - py
            rows.append([1.0, u, v, u * u, u * v, v * v])
            values.append(max(heatmap[y, x] / heatmap[py, px], -1.0))
    terms, value = np.array(rows), np.array(values)
    is_positive = value > 0
    log = np.log(np.where(is_positive, value, 1.0))
    round_terms = np.column_stack([terms[:, :3], terms[:, 3] + terms[:, 5]])
    root = np.where(is_positive, np.minimum(value, 1.0), 0.0)  # of the weights
    share = np.ones(len(value))
    for step in range(3):
        window = np.exp(-round_terms[:, 3] / (4 * max(0.22 * radius, 1.0) ** 2)) if step == 0 else 1.0
        found = naive_quadratic(round_terms, log, root * window, radius)
        if found is None or abs(found[1]) > 10:
            continue
        _, maximum, fitted = found
        residual = value - np.exp(fitted)
        noise = math.sqrt(2 * np.mean(np.minimum(residual, 0) ** 2))
        share = 1 / (1 + (np.maximum(residual, 0) / max(0.4 * math.exp(maximum), 3 * noise)) ** 8)
        root = np.where(is_positive, np.exp(fitted - maximum) * np.sqrt(share), 0.0)
    for _ in range(2):
        found = naive_quadratic(terms, log, root, radius)
        if found is None:
            return None
        offset, maximum, fitted = found
        root = np.where(is_positive, np.exp(fitted - maximum) * np.sqrt(share), 0.0)
    return (float(offset[0]), float(offset[1])) if maximum <= 0.5 else None


def naive_quadratic(terms: Array, log: Array, root: Array, radius: int) -> tuple[Array, float, Array] | None:
    """Where a quadratic has its maximum, that maximum and its values at all pixels; None if it is no peak."""
    # The same least squares by an orthogonal decomposition, whose diagonal squared are the pivots.
    weighted = root[:, None] * terms
    diagonal = np.zeros(terms.shape[1])
    triangle = np.abs(np.diag(np.linalg.qr(weighted)[1]))
    diagonal[: len(triangle)] = triangle
    if (diagonal**2 <= 1e-3 * (weighted**2).sum(0)).any():
        return None
    c = np.linalg.lstsq(weighted, root * log, rcond=None)[0]
    hessian = np.diag([2 * c[3], 2 * c[3]]) if len(c) == 4 else np.array([[2 * c[3], c[4]], [c[4], 2 * c[5]]])
    if np.linalg.eigvalsh(hessian).max() >= 0:
        return None
    offset = -np.linalg.solve(hessian, c[1:3])
    if np.abs(offset).max() > radius:
        return None
    return offset, float(c[0] + c[1:3] @ offset / 2), terms @ c


FINITE_KINDS = sorted(
    kind for kind in testing.VALUE_KINDS if not any(word in kind for word in ("nan", "infinite", "constant", "plateau"))
)


def test_agrees_with_loops_over_pixels() -> None:
    compared = 0

    @settings(max_examples=150)
    @given(cases(sizes=(1, 2, 3, 5, 7, 11, 13), max_maps=1, dtypes=(torch.float64,)), st.sampled_from(FINITE_KINDS))
    def check(case: Case, kind: str) -> None:
        nonlocal compared
        case = case._replace(kinds=(kind,), layout="contiguous", shape=(1, 1, *case.shape[2:]))
        heatmaps = case.heatmaps()
        coords, scores, _ = reference.decode_reference(heatmaps, case.recipe)
        x, y, score = naive_decode(heatmaps[0, 0].numpy(), case.recipe)
        double = testing.Arithmetic(torch.float64, torch.float64)
        bound = testing.decode_bounds(heatmaps, case.recipe, double).coords[0, 0]
        if bound.max() == math.inf or case.recipe.argmax_on != "raw":  # singular; equal maxima of sums
            bound = torch.zeros(2) if case.recipe.argmax_on != "raw" and math.isfinite(x) else None
            if bound is None or abs(float(coords[0, 0, 0]) - x) > 1e-6:
                return
        compared += 1
        torch.testing.assert_close(scores[0, 0].item(), score, rtol=1e-12, atol=1e-300, equal_nan=True)
        expected = torch.tensor([x, y], dtype=torch.float64)
        same = (coords[0, 0] == expected) | (coords[0, 0].isnan() & expected.isnan())
        assert (same | ((coords[0, 0] - expected).abs() <= 4 * bound + 1e-9)).all(), (coords, expected, bound, case)

    check()
    assert compared > 90


@pytest.mark.parametrize("recipe", recipes.ALL, ids=lambda recipe: recipe.name)
def test_agrees_with_loops_over_pixels_on_blobs(recipe: Recipe) -> None:
    heatmaps = testing.gaussian_blobs(1, 4, 22, 19, margin=1.0, seed=6).heatmaps * 40
    coords, scores, _ = reference.decode_reference(heatmaps, recipe)
    for k in range(4):
        x, y, score = naive_decode(heatmaps[0, k].numpy(), recipe)
        assert coords[0, k].tolist() == pytest.approx([x, y], abs=1e-9)
        assert scores[0, k].item() == pytest.approx(score, rel=1e-12)


# --- taps, padding and blur ------------------------------------------------------------------------------


@pytest.mark.parametrize("padding", ["zeros", "reflect", "symmetric"])
@pytest.mark.parametrize("size", [1, 2, 3, 4, 7, 12])
@pytest.mark.parametrize("radius", [0, 1, 2, 5, 8, 19])
def test_padding_is_numpys(size: int, radius: int, padding: str) -> None:
    """Also where a row is shorter than its padding and is reflected several times."""
    row = np.arange(1.0, size + 1)
    index = reference.source_index(size, radius, padding, torch.device("cpu")).numpy()
    if padding == "zeros":
        inside = (np.arange(-radius, size + radius) >= 0) & (np.arange(-radius, size + radius) < size)
        assert np.array_equal(np.where(inside, row[index], 0.0), np.pad(row, radius))
    elif padding == "reflect" and size == 1:
        assert np.array_equal(row[index], np.full(1 + 2 * radius, row[0]))
    else:
        assert np.array_equal(row[index], np.pad(row, radius, mode=padding))  # type: ignore[call-overload]


@pytest.mark.parametrize("padding", ["zeros", "reflect", "symmetric"])
@pytest.mark.parametrize("size", [(1, 1), (1, 7), (2, 3), (9, 4), (14, 11)])
@pytest.mark.parametrize("kernel_size", [1, 3, 9, 11, 23])
def test_blur_is_a_sum_over_the_padded_map(kernel_size: int, size: tuple[int, int], padding: str) -> None:
    recipe = Recipe(kernel_size=kernel_size, padding=padding)  # type: ignore[arg-type]
    heatmap = torch.rand(size, generator=torch.Generator().manual_seed(1), dtype=torch.float64) - 0.3
    blurred = reference.blur(heatmap[None, None], recipe)[0, 0].numpy()
    assert np.abs(blurred - naive_blur(heatmap.numpy(), recipe)).max() < 1e-14


@pytest.mark.parametrize("kernel_size", [1, 3, 5, 7, 9, 11, 13, 17, 23])
@pytest.mark.parametrize(("padding", "border"), [("zeros", "BORDER_CONSTANT"), ("reflect", "BORDER_REFLECT_101"),
                                                 ("symmetric", "BORDER_REFLECT")])  # fmt: skip
def test_blur_is_opencvs(kernel_size: int, padding: str, border: str) -> None:
    cv2 = pytest.importorskip("cv2", reason="OpenCV is not installed")
    recipe = Recipe(kernel_size=kernel_size, padding=padding)  # type: ignore[arg-type]
    heatmap = np.random.default_rng(3).random((40, 33), dtype=np.float32)
    radius = kernel_size // 2
    # cv2.GaussianBlur has no zero padding, so decoders pad the map and cut it out again.
    padded = cv2.copyMakeBorder(heatmap, radius, radius, radius, radius, getattr(cv2, border))
    expected = cv2.GaussianBlur(padded, (kernel_size, kernel_size), 0)[radius : radius + 40, radius : radius + 33]
    actual = reference.blur(torch.from_numpy(heatmap).double()[None, None], recipe)[0, 0].numpy()
    assert np.abs(actual - expected).max() < 1e-6


# --- single steps ----------------------------------------------------------------------------------------


def test_the_first_maximum_wins_and_nan_is_larger() -> None:
    maps = torch.zeros(1, 4, 4, 5)
    maps[0, 0, 1, 3] = maps[0, 0, 2, 0] = 0.5
    maps[0, 1, 3, 4], maps[0, 1, 2, 2], maps[0, 1, 2, 3] = 9.0, math.nan, math.nan
    maps[0, 2] = -1.0
    values, x, y = reference.find_peak(maps)
    assert x.tolist() == [[3, 2, 0, 0]]
    assert y.tolist() == [[1, 2, 0, 0]]
    assert values[0, 0] == 0.5
    assert values[0, 1].isnan()


def test_rescaling_restores_the_maximum_and_leaves_negative_maps_alone() -> None:
    maps = torch.stack([torch.rand(9, 9), torch.rand(9, 9) - 2]).double()[None]
    blurred = reference.blur(maps, recipes.DARKPOSE)
    rescaled = reference.rescale(blurred, maps)
    assert rescaled[0, 0].max().item() == pytest.approx(maps[0, 0].max().item(), rel=1e-15)
    negative = maps[:, 1:] - 1
    assert torch.equal(reference.rescale(negative, maps[:, 1:]), negative)


@pytest.mark.parametrize("step", [reference.step_wide, reference.step_compact])
def test_a_taylor_step_finds_the_maximum_of_a_quadratic(step: object) -> None:
    y, x = torch.meshgrid(torch.arange(11.0).double(), torch.arange(11.0).double(), indexing="ij")
    dx, dy = x - 5.3, y - 4.6
    logs = -(0.3 * dx * dx + 0.2 * dx * dy + 0.5 * dy * dy)
    at = torch.tensor([[5]])
    gradient, hessian, offset = step(logs[None, None], at, at)  # type: ignore[operator]
    assert offset[0, 0].tolist() == pytest.approx([0.3, -0.4], abs=1e-5)
    assert hessian[0, 0].flatten().tolist() == pytest.approx([-0.6, -0.2, -0.2, -1.0], abs=1e-12)
    assert gradient[0, 0].tolist() == pytest.approx([0.18 - 0.08, 0.06 - 0.4], abs=1e-12)


def test_quarter_border_rules() -> None:
    """x moves if 1 < px < W - 1 and 0 < py < H, y alike; by the old rule both or neither."""
    height, width = 6, 7
    for py in range(height):
        for px in range(width):
            maps = torch.linspace(0, 0.4, height * width).view(1, 1, height, width).clone()
            maps[..., py, px] = 1.0
            x, y = torch.tensor([[px]]), torch.tensor([[py]])
            _, new = reference.step_quarter(maps, x, y, legacy=False)
            _, old = reference.step_quarter(maps, x, y, legacy=True)
            moves_x, moves_y = 1 < px < width - 1, 1 < py < height - 1
            assert new[0, 0].tolist() == [float(moves_x and py > 0), float(moves_y and px > 0)]
            assert old[0, 0].tolist() == [float(moves_x and moves_y)] * 2


@pytest.mark.parametrize("recipe", recipes.ALL, ids=lambda recipe: recipe.name)
def test_finds_the_centre_of_a_blob(recipe: Recipe) -> None:
    blobs = testing.gaussian_blobs(4, 8, 64, 48, margin=10.0, seed=7)
    coords, _, _ = reference.decode_reference(blobs.heatmaps * (255 if recipe == recipes.MEGVII else 1), recipe)
    error = (coords - blobs.centers).norm(dim=-1).mean()
    # The blob of docs/accuracy.md, without its noise.
    limits = {"none": 0.45, "quarter": 0.25, "quarter_legacy": 0.25, "wide": 0.012, "compact": 0.012}
    limit = 0.9 if recipe == recipes.MEGVII else {**limits, "fit": 1e-9, "gaussian": 1e-8}[recipe.stencil]
    assert error < limit


def test_float16_and_bfloat16_are_computed_in_float32() -> None:
    heatmaps = testing.heatmaps_of_kinds(["noisy_blob"], 1, 4, 16, 12)
    for dtype in (torch.float16, torch.bfloat16):
        actual = dark_kernels.decode(heatmaps.to(dtype), recipes.DARKPOSE, True, "reference")
        expected = dark_kernels.decode(heatmaps.to(dtype).float(), recipes.DARKPOSE, True, "reference")
        testing.assert_same_keypoints(actual, expected)


def test_a_weaker_clip_changes_nothing_where_it_does_not_bind() -> None:
    heatmaps = testing.gaussian_blobs(1, 4, 40, 40, margin=12.0).heatmaps
    loose = dataclasses.replace(recipes.MMPOSE_UDP, clip_min=1e-12, clip_max=math.inf)
    one, other = (reference.decode_reference(heatmaps, recipe)[0] for recipe in (recipes.MMPOSE_UDP, loose))
    assert torch.equal(one, other)
