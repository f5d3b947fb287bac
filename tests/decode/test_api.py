"""decode(): the published decoders' numbers from every backend, what an invalid map gives, and what is refused."""

from __future__ import annotations

import dataclasses
import math
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

import dark_kernels
from dark_kernels import Keypoints, Recipe, recipes, testing

from ..conftest import GOLDEN_SERVICES, SERVICES_WITH_LOOPS, require_service

DATA = Path(__file__).parent.parent / "data"
FILES = ("border", "odd", "small", "tie", "zero")
VARIANTS: dict[str, Recipe] = {
    "darkpose_k11": recipes.DARKPOSE,
    "mmpose_msra_dark_k11": recipes.MMPOSE_DARK,
    "mmpose_msra_quarter": recipes.QUARTER,
    "mmpose_udp_gaussian_k11": recipes.MMPOSE_UDP,
    "mmpose_megvii_k11": recipes.MEGVII,
    "mmpose0x_default": recipes.QUARTER_LEGACY,
    "mmpose0x_unbiased_k11": recipes.MMPOSE_DARK,
    "mmpose0x_udp_k11": recipes.MMPOSE_LEGACY_UDP,
    "hf_vitpose_k11": recipes.VITPOSE_HF,
    "hf_sapiens2_k11": recipes.SAPIENS_HF,
    "sapiens_lite_udp_k11": recipes.MMPOSE_UDP,
    "rtmlib_vitpose_k11": recipes.MMPOSE_LEGACY_UDP,
}
# The blurred maximum of this map is an exact plateau. A quarter step follows the sign of a difference of two equal
# numbers there, which in the published output is the rounding noise of cv2.GaussianBlur.
PLATEAU = ("tie", "mmpose_megvii_k11", 10)

WITH_HESSIAN = [recipe for recipe in recipes.ALL if recipe.has_hessian]


def by_name(recipe: Recipe) -> str:
    return recipe.name


# --- published outputs -----------------------------------------------------------------------------------


def test_every_published_output_is_compared() -> None:
    for name in FILES:
        with np.load(DATA / f"{name}.npz") as file:
            assert {entry.split("/")[0] for entry in file.files if "/" in entry} == set(VARIANTS)


@pytest.mark.slow
@pytest.mark.parametrize("recipe", dict.fromkeys(VARIANTS.values()), ids=by_name)
@pytest.mark.parametrize("name", FILES)
@pytest.mark.parametrize(("backend", "kind", "dtype"), GOLDEN_SERVICES)
def test_published_outputs(name: str, recipe: Recipe, backend: str, kind: str, dtype: torch.dtype) -> None:
    """Of everything published that the recipe stands for."""
    device = require_service(backend, kind)
    with np.load(DATA / f"{name}.npz") as file:
        heatmaps = torch.from_numpy(file["heatmaps"])
        published = {
            variant: [torch.from_numpy(file[f"{variant}/{what}"]).double() for what in ("coords", "scores")]
            for variant in VARIANTS
            if VARIANTS[variant] == recipe
        }
    if recipe == recipes.MEGVII:
        heatmaps = heatmaps * 255
    ours = dark_kernels.decode(heatmaps.to(device, dtype), recipe, backend=backend)
    our_coords, our_scores = ours.coords.cpu().double(), ours.scores.cpu().double()
    for variant, (coords, scores) in published.items():
        valid = scores > 0  # a NaN is not: that is what megvii published for an empty map
        compared = valid.clone()
        if (name, variant) == PLATEAU[:2]:
            assert compared[0, PLATEAU[2]]
            compared[0, PLATEAU[2]] = False
        assert compared.sum() >= 13 if name == "zero" else compared.sum() >= 16
        assert (our_coords - coords)[compared].abs().max() <= 1e-4
        torch.testing.assert_close(our_scores[valid], scores[valid], rtol=4e-7, atol=0)
        assert (our_coords[~valid] == recipe.invalid).all()


# --- covariance ------------------------------------------------------------------------------------------


# A round Gaussian is fitted to round blobs.
SIGMAS = [
    pytest.param(recipe, sigma, id=f"{recipe.name}-{sigma}")
    for recipe in WITH_HESSIAN
    for sigma in (1.5, 2.0, 3.0, (1.5, 2.5), (2.0, 3.0))
    if recipe.stencil != "gaussian" or not isinstance(sigma, tuple)
]


@pytest.mark.parametrize(("recipe", "sigma"), SIGMAS)
@pytest.mark.parametrize("service", SERVICES_WITH_LOOPS, indirect=True)
def test_the_covariance_of_a_gaussian_blob_is_its_own(
    recipe: Recipe, sigma: float | tuple[float, float], service: tuple[str, torch.device]
) -> None:
    """The log of a Gaussian is a quadratic, so differences are exact, also of a rotated blob.

    What is left is that eleven taps cut a Gaussian of sigma 2 off at 2.5 sigma: 1 % of the blob's and the blur's
    variance together. `VITPOSE_HF`, whose taps reach 6 sigma, is exact but for sampling and rounding.
    """
    backend, device = service
    # Wide enough for clips at 1e-3 not to bind, and the border not to be seen.
    batch = 1 if is_interpreted(service) else 2
    blobs = testing.gaussian_blobs(batch, 3, 64, 64, sigma, margin=24.0, seed=2)
    heatmaps = blobs.heatmaps.float().to(device)
    covariances = dark_kernels.decode(heatmaps, recipe, True, backend).covariances.cpu().double()
    sigmas = sigma if isinstance(sigma, tuple) else (sigma, sigma)
    truncation = 0.0 if recipe == recipes.VITPOSE_HF else 0.01 * (max(sigmas) ** 2 + recipe.blur_sigma**2)
    # A rounding of 1e-6 in the log, seen through a squared variance.
    rounding = 4e-6 * (max(sigmas) ** 2 + recipe.blur_sigma**2) ** 2
    error = (covariances - blobs.covariances).abs().max()
    assert error < truncation + rounding + sampling_error(sigmas, recipe.blur_sigma)


def sampling_error(sigmas: tuple[float, float], blur_sigma: float) -> float:
    """How far the convolution of two sampled Gaussians is from a sampled Gaussian, in the covariance.

    Poisson's sum formula: the product of two Gaussians of variances a and b is one of variance s = a b / (a + b), whose
    samples sum to its integral but for a ripple of relative size 2 exp(-2 pi^2 s). A second difference of logs
    sees it four times.
    """
    narrow, blurring = min(sigmas) ** 2, blur_sigma**2
    ripple = 2 * math.exp(-2 * math.pi**2 * narrow * blurring / (narrow + blurring))
    return 4 * ripple * (max(sigmas) ** 2 + blurring) ** 2


@pytest.mark.parametrize("backend", ["reference", "eager"])
@pytest.mark.parametrize("stencil", ["wide", "compact"])
def test_the_covariance_is_exact_where_the_blur_is(stencil: Any, backend: str) -> None:
    blobs = testing.gaussian_blobs(2, 3, 64, 64, (1.7, 2.5), margin=24.0, seed=4)
    none = Recipe(stencil=stencil, blur="none", rescale=False)
    # Nineteen taps of sigma 1.2 reach 7.5 sigma.
    long = Recipe(stencil=stencil, blur="gaussian", kernel_size=19, sigma=1.2)
    assert sampling_error((1.7, 2.5), 1.2) < 1e-4
    for recipe, tolerance in ((none, 1e-9), (long, sampling_error((1.7, 2.5), 1.2) + 1e-9)):
        covariances = dark_kernels.decode(blobs.heatmaps, recipe, True, backend).covariances
        assert (covariances - blobs.covariances).abs().max() < tolerance


@pytest.mark.parametrize("recipe", WITH_HESSIAN, ids=by_name)
def test_target_sigma_is_subtracted(recipe: Recipe, service: tuple[str, torch.device]) -> None:
    backend, device = service
    heatmaps = testing.gaussian_blobs(1, 3, 40, 40, 2.5, margin=16.0).heatmaps.float().to(device)
    plain = dark_kernels.decode(heatmaps, recipe, True, backend).covariances
    less = dark_kernels.decode(heatmaps, dataclasses.replace(recipe, target_sigma=2.0), True, backend).covariances
    assert plain.isfinite().all()
    torch.testing.assert_close(plain - less, 4.0 * torch.eye(2, device=device).expand_as(plain), rtol=0, atol=1e-5)
    # More than there is: no covariance.
    none = dark_kernels.decode(heatmaps, dataclasses.replace(recipe, target_sigma=2.6), True, backend).covariances
    assert none.isnan().all()


@pytest.mark.parametrize("stencil", ["wide", "compact"])
def test_what_is_left_has_to_be_positive_in_every_direction(stencil: Any, service: tuple[str, torch.device]) -> None:
    """Across a slanting ridge narrower than the target less than nothing is left, with both variances positive."""
    backend, device = service
    x, y = torch.meshgrid(torch.arange(40.0) - 20.2, torch.arange(40.0) - 19.7, indexing="xy")
    along, across = (x + y) / math.sqrt(2), (x - y) / math.sqrt(2)
    heatmaps = torch.exp(-0.5 * ((along / 4) ** 2 + (across / 1.5) ** 2))[None, None].to(device)
    recipe = Recipe(stencil=stencil, blur="none", rescale=False)
    plain = dark_kernels.decode(heatmaps, recipe, True, backend).covariances
    assert plain[0, 0].flatten().tolist() == pytest.approx([9.125, 6.875, 6.875, 9.125], rel=1e-4)
    less = dark_kernels.decode(heatmaps, dataclasses.replace(recipe, target_sigma=1.7), True, backend).covariances
    assert less.isnan().all()


@pytest.mark.parametrize("recipe", WITH_HESSIAN, ids=by_name)
def test_there_is_no_covariance_without_a_keypoint(recipe: Recipe, service: tuple[str, torch.device]) -> None:
    backend, device = service
    heatmaps = testing.heatmaps_of_kinds(["zeros", "negative", "some_nan", "some_infinite"], 1, 4, 20, 20).to(device)
    assert dark_kernels.decode(heatmaps, recipe, True, backend).covariances.isnan().all()


def test_wide_has_no_covariance_near_the_border(service: tuple[str, torch.device]) -> None:
    backend, device = service
    x, y = torch.meshgrid(torch.arange(24.0), torch.arange(24.0), indexing="xy")
    centers = [(1, 12), (2, 12), (21, 12), (22, 12), (12, 1), (12, 2), (12, 21), (12, 22)]
    maps = torch.stack([torch.exp(-((x - a) ** 2 + (y - b) ** 2) / 2) for a, b in centers])[None].to(device)
    keypoints = dark_kernels.decode(maps, recipes.DARKPOSE, True, backend)
    expected = [True, False, False, True] * 2
    assert keypoints.covariances.isnan().all(-1).all(-1)[0].tolist() == expected
    assert [list(map(float, center)) for center, stays in zip(centers, expected, strict=True) if stays] == [
        coord for coord, stays in zip(keypoints.coords[0].tolist(), expected, strict=True) if stays
    ]


# --- maps without a keypoint, and numbers that are none --------------------------------------------------


def decode_all(heatmaps: Tensor, recipe: Recipe, service: tuple[str, torch.device]) -> Keypoints:
    backend, device = service
    heatmaps = heatmaps.to(device)
    with testing.assert_unchanged(heatmaps):
        return dark_kernels.decode(heatmaps, recipe, recipe.has_hessian, backend)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.float64], ids=str)
@pytest.mark.parametrize("recipe", recipes.ALL, ids=by_name)
def test_a_map_without_a_positive_peak_is_invalid(
    recipe: Recipe, dtype: torch.dtype, service: tuple[str, torch.device]
) -> None:
    maps = torch.stack(
        [
            torch.zeros(16, 12),
            -torch.zeros(16, 12),
            torch.full((16, 12), -0.25),
            -torch.rand(16, 12, generator=torch.Generator().manual_seed(0)) - 0.125,
            torch.full((16, 12), -math.inf),
            torch.full((16, 12), math.nan),
            torch.full((16, 12), 0.5).index_fill(1, torch.tensor([7]), math.nan),
        ]
    )
    for invalid in (7.5, math.nan) if is_interpreted(service) else (recipe.invalid, 7.5, math.nan):
        actual = decode_all(maps[None].to(dtype), dataclasses.replace(recipe, invalid=invalid), service)
        expected = torch.full_like(actual.coords, invalid)
        torch.testing.assert_close(actual.coords, expected, rtol=0, atol=0, equal_nan=True)
        if actual.covariances is not None:
            assert actual.covariances.isnan().all()
        assert actual.scores[0, 5:].isnan().all()
        if recipe.argmax_on == "raw":  # the score stays the raw peak
            peaks = maps[None, :5].to(dtype).to(actual.scores).amax((-2, -1))
            assert actual.scores[:, :5].tolist() == peaks.tolist()


@pytest.mark.parametrize("place", [(8, 6), (0, 0), (15, 11), (1, 6)])
@pytest.mark.parametrize("recipe", recipes.ALL, ids=by_name)
def test_an_infinite_peak_stays_on_its_pixel(
    recipe: Recipe, place: tuple[int, int], service: tuple[str, torch.device]
) -> None:
    y, x = place
    maps = torch.rand(1, 3, 16, 12, generator=torch.Generator().manual_seed(0))
    maps[:, 1] = 0.0
    maps[:, 2] -= 0.5
    maps[..., y, x] = math.inf
    actual = decode_all(maps, recipe, service)
    # Zero padding weakens a blurred peak at the border less than the blob around it, so it stays there too.
    assert actual.coords.tolist() == [[[float(x), float(y)]] * 3]
    assert (actual.scores == math.inf).all()


@pytest.mark.parametrize("padding", ["zeros", "reflect", "symmetric"])
def test_a_blurred_map_of_many_infinities_has_a_pixel_for_a_peak(
    padding: str, service: tuple[str, torch.device]
) -> None:
    """Sums of what stands for infinities must not overflow: infinity over infinity is no scale."""
    maps = torch.rand(1, 4, 6, 11, generator=torch.Generator().manual_seed(0))
    maps[:, 0] = math.inf
    maps[:, 1, 4, [1, 9]] = math.inf  # at one distance from many pixels, and from their mirror images
    maps[:, 2, 4, ::2], maps[:, 2, 2, ::2] = math.inf, -math.inf
    maps[:, 3, :, :6] = math.inf
    recipe = dataclasses.replace(recipes.MEGVII, padding=padding)  # type: ignore[arg-type]
    actual = decode_all(maps, recipe, service)
    pixels = decode_all(maps.clamp(-1e30, 1e30), dataclasses.replace(recipe, stencil="none"), service)
    assert actual.coords.tolist() == pixels.coords.tolist()
    assert (actual.scores == math.inf).all()


@pytest.mark.parametrize("padding", ["zeros", "reflect", "symmetric"])
@pytest.mark.parametrize("kernel_size", [17, 23, 31])
def test_a_wide_blur_of_a_narrow_peak_keeps_its_digits(
    kernel_size: int, padding: Any, service: tuple[str, torch.device]
) -> None:
    """A hundredth of the peak is left of it: distances from the peak would cancel, and take two digits with them."""
    backend, device = service
    recipe = Recipe(kernel_size=kernel_size, padding=padding, rescale=False, stencil="compact")
    maps = torch.zeros(1, 9, 40, 36)
    number = torch.arange(9)
    maps[0, number, 4 * number + 2, 4 * number] = 1.0
    actual = dark_kernels.decode(maps.to(device), recipe, backend=backend)
    expected = dark_kernels.decode(maps.double(), recipe, backend="reference")
    assert (actual.coords.cpu().double() - expected.coords).abs().max() < 1e-4


@pytest.mark.parametrize("recipe", recipes.ALL, ids=by_name)
def test_minus_infinity_is_a_very_low_number(recipe: Recipe, service: tuple[str, torch.device]) -> None:
    """Also where only some of the stencil's points see it: zero times infinity would be NaN for the others."""
    height, width, margin, num_keypoints = 26, 24, 11.0, 4
    if is_interpreted(service) and recipe.rescale:  # which reads all of the map
        height, width, margin, num_keypoints = 17, 16, 7.0, 2
    maps = testing.gaussian_blobs(1, num_keypoints, height, width, margin=margin, seed=1, dtype=torch.float32).heatmaps
    for k, (dy, dx) in enumerate([(6, 0), (0, -6), (-5, 5), (7, 1)][:num_keypoints]):
        y, x = divmod(int(maps[0, k].argmax()), width)
        maps[0, k, y + dy, x + dx] = -math.inf
    actual, expected = (decode_all(each, recipe, service) for each in (maps, maps.clamp(min=-1e30)))
    assert actual.coords.isfinite().all()
    torch.testing.assert_close(actual.coords, expected.coords, rtol=0, atol=1e-4)
    if recipe == recipes.DARKPOSE:
        assert (actual.coords - actual.coords.round()).abs().max() > 0.01


@pytest.mark.parametrize("kind", sorted(testing.VALUE_KINDS))
@pytest.mark.parametrize("recipe", recipes.ALL, ids=by_name)
def test_coordinates_are_finite(recipe: Recipe, kind: str, service: tuple[str, torch.device]) -> None:
    num_keypoints, *size = (1, 11, 9) if is_interpreted(service) else (3, 33, 28)
    maps = testing.heatmaps_of_kinds([kind], 1, num_keypoints, *size, seed=11)
    assert decode_all(maps, recipe, service).coords.isfinite().all()


@pytest.mark.filterwarnings("ignore:The given NumPy array is not writable")
@pytest.mark.parametrize("recipe", recipes.ALL, ids=by_name)
def test_inputs_are_never_written_to(recipe: Recipe, service: tuple[str, torch.device]) -> None:
    """One map's memory stands for all of an expanded tensor: who wrote to one would write to all."""
    kinds = ["noisy_blob", "negative", "some_minus_infinite"]
    maps = testing.heatmaps_of_kinds(kinds, 1, 3, 13, 11, seed=12)
    for layout in ("sliced",) if is_interpreted(service) else ("contiguous", "channels_last", "sliced"):
        decode_all(testing.with_layout(maps, layout), recipe, service)
    read_only = np.array(maps.numpy())
    read_only.flags.writeable = False
    expanded = torch.from_numpy(np.broadcast_to(read_only[:, :1], (2, *read_only[:, :1].shape[1:])))
    before = read_only.tobytes()
    decode_all(expanded, recipe, service)
    assert read_only.tobytes() == before


def is_interpreted(service: tuple[str, torch.device]) -> bool:
    """Whether a map takes tens of milliseconds."""
    return service[0] == "triton" and service[1].type == "cpu"


@pytest.mark.parametrize("max_offset", [0.25, 1.0])
@pytest.mark.parametrize("recipe", WITH_HESSIAN, ids=by_name)
def test_max_offset_bounds_each_axis(recipe: Recipe, max_offset: float, service: tuple[str, torch.device]) -> None:
    maps = testing.heatmaps_of_kinds(["noise"], 1, 4 if is_interpreted(service) else 12, 17, 15, seed=13)
    pixels = dataclasses.replace(recipes.ARGMAX, argmax_on=recipe.argmax_on, blob_sigma=recipe.blob_sigma)
    peaks = decode_all(maps, pixels, service).coords
    free = decode_all(maps, recipe, service).coords - peaks
    held = decode_all(maps, dataclasses.replace(recipe, max_offset=max_offset), service).coords - peaks
    assert (free.abs() > max_offset).any()
    torch.testing.assert_close(held, free.clamp(-max_offset, max_offset), rtol=0, atol=2e-6)


# --- what comes back -------------------------------------------------------------------------------------


@pytest.mark.parametrize("shape", [(0, 17, 64, 48), (2, 0, 64, 48), (0, 0, 1, 1), (2, 1, 5, 4)])
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32, torch.float64], ids=str)
def test_shapes_and_dtypes(shape: tuple[int, ...], dtype: torch.dtype, service: tuple[str, torch.device]) -> None:
    backend, device = service
    heatmaps = torch.zeros(shape, dtype=dtype, device=device)
    for recipe in (recipes.DARKPOSE, recipes.MMPOSE_LEGACY_UDP, recipes.QUARTER, recipes.MEGVII):
        for covariance in (False, True) if recipe.has_hessian else (False,):
            actual = dark_kernels.decode(heatmaps, recipe, covariance, backend)
            assert isinstance(actual, Keypoints)
            assert actual.coords.shape == (*shape[:2], 2)
            assert actual.scores.shape == shape[:2]
            assert (actual.covariances is not None) == covariance
            for each in actual:
                if each is not None:
                    assert each.dtype == (torch.float64 if dtype == torch.float64 else torch.float32)
                    assert each.device.type == device.type
                    assert each.is_contiguous()
            if actual.covariances is not None:
                assert actual.covariances.shape == (*shape[:2], 2, 2)


def test_a_tensor_that_requires_grad(service: tuple[str, torch.device]) -> None:
    backend, device = service
    heatmaps = testing.heatmaps_of_kinds(["noisy_blob"], 1, 2, 16, 12).to(device)
    expected = dark_kernels.decode(heatmaps, recipes.MMPOSE_UDP, True, backend)
    leaf = heatmaps.clone().requires_grad_()
    for tracked in (leaf, torch.nn.Parameter(heatmaps), leaf * 1):
        actual = dark_kernels.decode(tracked, recipes.MMPOSE_UDP, True, backend)
        assert not any(each.requires_grad for each in actual if each is not None)
        testing.assert_same_keypoints(actual, expected)
    for mode in (torch.no_grad, torch.inference_mode):
        with mode():
            testing.assert_same_keypoints(dark_kernels.decode(heatmaps, recipes.MMPOSE_UDP, True, backend), expected)


def test_darkpose_is_the_default_and_auto_chooses() -> None:
    heatmaps = testing.heatmaps_of_kinds(["noisy_blob"], 1, 2, 16, 12)
    for maps in (heatmaps, heatmaps.double()):
        testing.assert_same_keypoints(
            dark_kernels.decode(maps), dark_kernels.decode(maps, recipes.DARKPOSE, False, "eager")
        )


def test_float64_is_computed_in_float64_where_triton_is_asked_for(service: tuple[str, torch.device]) -> None:
    backend, device = service
    heatmaps = testing.heatmaps_of_kinds(["noisy_blob", "weak_blob"], 1, 4, 25, 22, dtype=torch.float64).to(device)
    for recipe in recipes.ALL:
        actual = dark_kernels.decode(heatmaps, recipe, recipe.has_hessian, backend)
        testing.assert_decodes_like_reference(actual, heatmaps, recipe)


def test_the_reference_in_float32_is_within_its_own_rounding() -> None:
    heatmaps = testing.heatmaps_of_kinds(["noisy_blob", "blob", "weak_blob"], 2, 6, 32, 24, seed=3)
    for recipe in recipes.ALL:
        actual = dark_kernels.decode(heatmaps, recipe, recipe.has_hessian, "reference")
        arithmetic = testing.arithmetic_of("reference", "cpu", torch.float32)
        testing.assert_decodes_like_reference(actual, heatmaps, recipe, arithmetic)


# --- what is refused -------------------------------------------------------------------------------------

GOOD = torch.rand(1, 2, 8, 6)
DARK = recipes.DARKPOSE


def quantized() -> Tensor:
    return torch.quantize_per_tensor(GOOD, 0.1, 0, torch.quint8)


REFUSED: list[Any] = [
    ("rank 1", lambda: (GOOD[0, 0, 0],), ValueError, ["heatmaps", "[6]", "[B, C, H, W]", "[H, W]"]),
    ("rank 5", lambda: (GOOD[None],), ValueError, ["heatmaps", "[1, 1, 2, 8, 6]", "[B, C, H, W]"]),
    ("rank 0", lambda: (torch.tensor(1.0),), ValueError, ["heatmaps", "[]", "[B, C, H, W]"]),
    ("no rows", lambda: (torch.rand(1, 2, 0, 6),), ValueError, ["heatmaps", "[1, 2, 0, 6]", "H >= 1"]),
    ("no columns", lambda: (torch.rand(1, 2, 8, 0),), ValueError, ["heatmaps", "[1, 2, 8, 0]", "W >= 1"]),
    ("empty twice", lambda: (torch.rand(0, 2, 8, 0),), ValueError, ["heatmaps", "[0, 2, 8, 0]", "W >= 1"]),
    *[
        (str(dtype), lambda dtype=dtype: (torch.zeros(1, 2, 8, 6, dtype=dtype),), TypeError,
         ["heatmaps", str(dtype), "torch.float16", "torch.float32"])
        for dtype in (torch.int32, torch.int64, torch.uint32, torch.bool, torch.complex64, torch.float8_e4m3fn)
    ],
    ("list", lambda: (GOOD.tolist(),), TypeError, ["heatmaps", "list", "torch.Tensor", "numpy.asarray"]),
    ("None", lambda: (None,), TypeError, ["heatmaps", "NoneType", "torch.Tensor"]),
    ("sparse", lambda: (GOOD.to_sparse(),), TypeError, ["heatmaps", "sparse", "dense", "to_dense()"]),
    ("quantised", lambda: (quantized(),), TypeError, ["heatmaps", "quantized", "dense", "dequantize()"]),
    ("nested", lambda: (torch.nested.nested_tensor([GOOD[0], GOOD[0]]),), TypeError, ["heatmaps", "nested", "dense"]),
    ("jagged", lambda: (torch.nested.nested_tensor([GOOD[0], GOOD[0]], layout=torch.jagged),), TypeError,
     ["heatmaps", "nested", "dense"]),
    ("unknown backend", lambda: (GOOD, DARK, False, "cuda"), ValueError,
     ["backend", "'cuda'", "'auto'", "'triton'", "'eager'", "'reference'"]),
    ("unknown recipe", lambda: (GOOD, "dark"), ValueError, ["recipe", "'dark'", "darkpose, mmpose_dark"]),
    ("recipe class", lambda: (GOOD, Recipe), TypeError, ["recipe", "type", "Recipe"]),
    ("no recipe", lambda: (GOOD, None), TypeError, ["recipe", "NoneType", "Recipe"]),
    *[
        (f"covariance of {recipe.name}", lambda recipe=recipe: (GOOD, recipe, True), ValueError,
         ["covariance", repr(recipe.name), repr(recipe.stencil), "'wide'", "'compact'", "'fit'"])
        for recipe in recipes.ALL if not recipe.has_hessian
    ],
]  # fmt: skip


@pytest.mark.parametrize(("arguments", "error", "words"), [pytest.param(*row[1:], id=row[0]) for row in REFUSED])
@pytest.mark.filterwarnings("ignore::UserWarning", "ignore::DeprecationWarning")
def test_refusals_say_what_came_and_what_was_expected(
    arguments: Callable[[], tuple[Any, ...]], error: type[Exception], words: list[str]
) -> None:
    with pytest.raises(error) as raised:
        dark_kernels.decode(*arguments())
    message = str(raised.value)
    assert raised.type is error
    for word in ("got", "expected", *words):
        assert word in message, message
    assert "\n" not in message


@pytest.mark.parametrize("backend", ["auto", "eager", "reference", "triton", "numba"])
@pytest.mark.parametrize(
    ("heatmaps", "error"), [(GOOD[None], ValueError), (GOOD.int(), TypeError), (torch.rand(1, 2, 0, 6), ValueError)]
)
def test_refusals_do_not_depend_on_the_backend(heatmaps: Tensor, error: type[Exception], backend: str) -> None:
    with pytest.raises(error, match="heatmaps: got"):
        dark_kernels.decode(heatmaps, DARK, False, backend)


def run_python(script: str, **environment: str | None) -> str:
    """What a fresh interpreter prints; a variable of None is removed from its environment."""
    variables = {**os.environ, **environment}
    variables = {name: value for name, value in variables.items() if value is not None}
    done = subprocess.run([sys.executable, "-c", script], env=variables, capture_output=True, text=True, timeout=240)
    assert done.returncode == 0, done.stderr[-2000:]
    return done.stdout.strip()


def test_triton_is_refused_for_cpu_tensors_outside_its_interpreter() -> None:
    pytest.importorskip("triton", reason="Triton is not installed")
    script = """
import torch, dark_kernels
try:
    dark_kernels.decode(torch.rand(1, 2, 8, 6), backend="triton")
except ValueError as error:
    print(error)
"""
    message = run_python(script, TRITON_INTERPRET=None)
    for word in ("backend", "got 'triton'", "'cpu'", "expected", "'cuda'", "TRITON_INTERPRET=1", "backend='auto'"):
        assert word in message, message


def test_a_cpu_needs_no_numba() -> None:
    script = """
import sys
sys.modules["numba"] = None
import torch
import dark_kernels
maps = torch.rand(2, 3, 16, 12)
for one, other in zip(dark_kernels.decode(maps), dark_kernels.decode(maps, backend="eager")):
    assert one is other is None or torch.equal(one, other)
try:
    dark_kernels.decode(maps, backend="numba")
except ValueError as error:
    print(error)
"""
    message = run_python(script, TRITON_INTERPRET=None)
    for word in ("backend", "got 'numba'", "cannot be imported", "expected", "dark-kernels[cpu]", "backend='auto'"):
        assert word in message, message


def test_nothing_imports_numba_unless_it_is_asked_for() -> None:
    script = """
import sys
import torch
import dark_kernels, dark_kernels.testing
dark_kernels.decode(torch.rand(2, 3, 16, 12))
dark_kernels.decode(torch.rand(2, 3, 16, 12), backend="eager")
dark_kernels.soft_argmax(torch.rand(2, 3, 16, 12))
assert not [name for name in sys.modules if name.split(".")[0] in ("numba", "llvmlite")]
print("lazy")
"""
    assert run_python(script, TRITON_INTERPRET=None) == "lazy"


def test_neither_import_nor_a_call_on_cpu_imports_triton_or_touches_a_device() -> None:
    script = """
import sys
import torch
import dark_kernels, dark_kernels.testing
keypoints = dark_kernels.decode(torch.rand(2, 3, 16, 12))
loaded = [name for name in sys.modules if name.split(".")[0] in ("triton", "hypothesis", "pytest")]
assert not loaded, loaded
assert "dark_kernels.decode.kernels" not in sys.modules
assert not torch.cuda.is_initialized()
print("lazy")
"""
    assert run_python(script, TRITON_INTERPRET=None) == "lazy"
