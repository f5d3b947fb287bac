"""What decode takes besides heatmaps: mirrored maps, chosen channels, a way to the image.

Each against doing that before or after decoding.
"""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

import dark_kernels
from dark_kernels import Keypoints, Recipe, recipes, testing
from dark_kernels.decode.reference import merge_flipped

from ..conftest import SERVICES_WITH_LOOPS
from .cases import COCO_FLIP, assert_agree, is_compiled

DATA = Path(__file__).parent.parent / "data"
KINDS = ["noisy_blob", "weak_blob", "noise", "negative", "blob"]
# Recipes that differ in how they read a map: at its peak, beside it, in a window, everywhere.
SOME_RECIPES = [recipes.DARKPOSE, recipes.VITPOSE_HF, recipes.FIT, recipes.QUARTER, recipes.MEGVII, recipes.ARGMAX]


def by_name(recipe: Recipe) -> str:
    return recipe.name


def two_maps(
    device: torch.device, dtype: torch.dtype = torch.float32, size: tuple[int, int] = (13, 10), keypoints: int = 3
) -> tuple[Tensor, Tensor]:
    first = testing.heatmaps_of_kinds(KINDS, 2, keypoints, *size, seed=3)
    second = testing.heatmaps_of_kinds(["noisy_blob", "noise"], 2, keypoints, *size, seed=4)
    return first.to(device, dtype), second.to(device, dtype)


# --- flip test -------------------------------------------------------------------------------------------


@pytest.mark.parametrize("shift", [False, True])
@pytest.mark.parametrize("recipe", SOME_RECIPES, ids=by_name)
@pytest.mark.parametrize("service", SERVICES_WITH_LOOPS, indirect=True)
def test_a_flip_test_is_decoding_the_mean(recipe: Recipe, shift: bool, service: tuple[str, torch.device]) -> None:
    backend, device = service
    heatmaps, flipped = two_maps(device)
    indices = [2, 1, 0]
    with testing.assert_unchanged(heatmaps), testing.assert_unchanged(flipped):
        actual = dark_kernels.decode(
            heatmaps, recipe, recipe.has_hessian, backend, flipped=flipped, flip_indices=indices, shift_flipped=shift
        )
    merged = merge_flipped(heatmaps, flipped, torch.tensor(indices, device=device), shift)
    assert_agree(actual, service, merged, recipe)


def test_blocks_of_images_change_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    """Eager stores the means of some images at a time; here of two of five, and of one that is larger than allowed."""
    from dark_kernels.decode import eager

    heatmaps = testing.heatmaps_of_kinds(KINDS, 5, 3, 13, 10, seed=3)
    transform = matrices(torch.device("cpu"))[[0, 1, 0, 1, 0]]

    def call() -> Keypoints:
        return dark_kernels.decode(
            heatmaps, recipes.DARKPOSE, True, flipped=heatmaps.roll(1, 0), flip_indices=[1, 0, 2],
            keypoint_indices=[2, 1], image_transform=transform,
        )  # fmt: skip

    expected = call()
    for pixels in (2 * 3 * 13 * 10, 1):
        monkeypatch.setattr(eager, "_MERGED_PIXELS", pixels)
        testing.assert_same_keypoints(call(), expected)


@pytest.mark.parametrize("shift", [False, True])
def test_the_mean_is_the_published_one(shift: bool) -> None:
    """As HRNet and mmpose write it, pixel by pixel."""
    heatmaps, flipped = two_maps(torch.device("cpu"), torch.float64)
    indices = [1, 0, 2]
    expected = torch.empty_like(heatmaps)
    batch, num_keypoints, height, width = heatmaps.shape
    for b in range(batch):
        for k in range(num_keypoints):
            for y in range(height):
                back = [flipped[b, indices[k], y, width - 1 - x].item() for x in range(width)]
                if shift:
                    back[1:] = back[:-1]
                for x in range(width):
                    expected[b, k, y, x] = (heatmaps[b, k, y, x] + back[x]) / 2
    assert torch.equal(merge_flipped(heatmaps, flipped, torch.tensor(indices), shift), expected)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64], ids=str)
@pytest.mark.parametrize("service", SERVICES_WITH_LOOPS, indirect=True)
def test_the_mean_is_not_rounded_to_the_maps_dtype(dtype: torch.dtype, service: tuple[str, torch.device]) -> None:
    backend, device = service
    heatmaps, flipped = two_maps(device, dtype)
    actual = dark_kernels.decode(heatmaps, recipes.DARKPOSE, True, backend, flipped=flipped, flip_indices=[0, 2, 1])
    merged = merge_flipped(heatmaps, flipped, torch.tensor([0, 2, 1], device=device), False)
    assert merged.dtype == (torch.float64 if dtype == torch.float64 else torch.float32)
    if backend == "numba" or (dtype == torch.float64 and backend == "triton"):
        backend = "eager"  # which serves it
    assert_agree(actual, (backend, device), merged, recipes.DARKPOSE)


@pytest.mark.parametrize("layouts", [("channels_last", "contiguous"), ("contiguous", "channels_last"),
                                     ("channels_last", "channels_last"), ("sliced", "transposed"),
                                     ("offset", "expanded_columns")], ids=str)  # fmt: skip
@pytest.mark.parametrize("service", SERVICES_WITH_LOOPS[1:], indirect=True)
def test_the_maps_may_lie_in_memory_as_they_like(layouts: tuple[str, str], service: tuple[str, torch.device]) -> None:
    backend, device = service
    heatmaps, flipped = (
        testing.with_layout(maps, layout) for maps, layout in zip(two_maps(device), layouts, strict=True)
    )
    for indices in (None, [2, 0]):
        actual = dark_kernels.decode(
            heatmaps, recipes.DARKPOSE, True, backend,
            flipped=flipped, flip_indices=[2, 1, 0], shift_flipped=True, keypoint_indices=indices,
        )  # fmt: skip
        merged = merge_flipped(heatmaps, flipped, torch.tensor([2, 1, 0], device=device), True)
        assert_agree(actual, service, merged if indices is None else merged[:, indices], recipes.DARKPOSE)


@pytest.mark.parametrize("service", SERVICES_WITH_LOOPS, indirect=True)
def test_published_flip_test(service: tuple[str, torch.device]) -> None:
    backend, device = service
    with np.load(DATA / "flip_shift0.npz") as file:
        heatmaps, flipped, merged = (
            torch.from_numpy(file[name]).to(device) for name in ("heatmaps", "heatmaps_flipped", "merged")
        )
        indices = torch.from_numpy(file["flip_indices"])
    for recipe in (recipes.DARKPOSE, recipes.MMPOSE_UDP):
        actual = dark_kernels.decode(heatmaps, recipe, backend=backend, flipped=flipped, flip_indices=indices)
        expected = dark_kernels.decode(merged, recipe, backend=backend)
        assert (actual.coords - expected.coords).abs().max() <= (1e-4 if is_compiled(service) else 1e-6)
        assert (actual.scores - expected.scores).abs().max() <= 1e-6


@pytest.mark.parametrize("service", SERVICES_WITH_LOOPS, indirect=True)
def test_real_mirrored_heatmaps(service: tuple[str, torch.device]) -> None:
    """A network's outputs for photographs and for the mirrored photographs."""
    backend, device = service
    example = dark_kernels.data.load()
    maps = example.heatmaps.float().to(device)
    straight, mirrored = example.pairs()
    if backend == "triton" and device.type == "cpu":
        straight, mirrored = straight[:1], mirrored[:1]
    heatmaps, flipped = maps[straight], maps[mirrored]
    merged = (heatmaps + flipped[:, COCO_FLIP].flip(-1)) / 2
    actual = dark_kernels.decode(heatmaps, backend=backend, flipped=flipped, flip_indices=COCO_FLIP)
    expected = dark_kernels.decode(merged, backend=backend)
    assert (actual.coords - expected.coords).abs().max() <= (1e-4 if is_compiled(service) else 1e-6)
    # The two agree on where things are, so the mean is near both.
    alone = dark_kernels.decode(heatmaps, backend=backend)
    assert (actual.coords - alone.coords).norm(dim=-1).median() < 1


@pytest.mark.parametrize("service", SERVICES_WITH_LOOPS, indirect=True)
def test_a_flip_test_of_extreme_values(service: tuple[str, torch.device]) -> None:
    """Sums that overflow, infinities of both signs at one pixel, a NaN in one of the maps."""
    backend, device = service
    heatmaps, flipped = two_maps(device, size=(9, 9), keypoints=4)
    heatmaps[:, 0], flipped[:, 0] = 3e38, 3e38
    heatmaps[:, 1, 4, 2], flipped[:, 1, 4, 6] = math.inf, -math.inf
    flipped[:, 2, 0, 0] = math.nan
    heatmaps[:, 3, 3, 3] = math.inf
    keypoints = dark_kernels.decode(
        heatmaps, recipes.MMPOSE_DARK, backend=backend, flipped=flipped, flip_indices=[0, 1, 2, 3]
    )
    assert keypoints.coords.isfinite().all()
    assert (keypoints.coords[:, 0] == 0).all()
    assert torch.allclose(keypoints.scores[:, 0], torch.tensor(3e38, device=device))
    assert (keypoints.coords[:, 1:3] == -1).all()
    assert keypoints.scores[:, 1:3].isnan().all()
    assert (keypoints.coords[:, 3] == 3).all()


# --- chosen channels -------------------------------------------------------------------------------------


@pytest.mark.parametrize("layout", ["contiguous", "channels_last", "sliced"])
@pytest.mark.parametrize("indices", [[1], [4, 0, 4], []], ids=str)
@pytest.mark.parametrize("service", SERVICES_WITH_LOOPS, indirect=True)
def test_chosen_channels(indices: list[int], layout: str, service: tuple[str, torch.device]) -> None:
    backend, device = service
    heatmaps = testing.with_layout(testing.heatmaps_of_kinds(KINDS, 2, 5, 11, 12, seed=1).to(device), layout)
    for given in (indices, tuple(indices), torch.tensor(indices, dtype=torch.int32), np.array(indices, dtype=np.int64)):
        actual = dark_kernels.decode(heatmaps, recipes.DARKPOSE, True, backend, keypoint_indices=given)
        assert actual.coords.shape == (2, len(indices), 2)
        assert_agree(actual, service, heatmaps[:, indices], recipes.DARKPOSE)
        if backend == "triton" and device.type == "cpu":
            break  # the interpreter is slow, and what is given has been made a tensor long before


@pytest.mark.parametrize("service", [SERVICES_WITH_LOOPS[3], SERVICES_WITH_LOOPS[4]], indirect=True)
def test_indices_on_a_device_are_held_to_the_channels(service: tuple[str, torch.device]) -> None:
    backend, device = service
    heatmaps = testing.heatmaps_of_kinds(KINDS, 2, 5, 11, 12, seed=1).to(device)
    indices = torch.tensor([-3, 99, 2], device=device)
    actual = dark_kernels.decode(heatmaps, recipes.DARKPOSE, True, backend, keypoint_indices=indices)
    assert_agree(actual, service, heatmaps[:, [0, 4, 2]], recipes.DARKPOSE)


# --- to the image ----------------------------------------------------------------------------------------


def matrices(device: torch.device, dtype: torch.dtype = torch.float32) -> Tensor:
    """A scale and a shift, and a rotation with a shear."""
    return torch.tensor([[[4.1, 0, 130.5], [0, 3.9, -20.25]], [[2.5, -1.5, 7.0], [1.0, 3.0, 900.0]]]).to(device, dtype)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
@pytest.mark.parametrize("service", SERVICES_WITH_LOOPS, indirect=True)
def test_keypoints_in_the_image(dtype: torch.dtype, service: tuple[str, torch.device]) -> None:
    backend, device = service
    heatmaps = testing.heatmaps_of_kinds(["blob", "negative", "noisy_blob"], 2, 3, 24, 20, seed=6).to(device)
    transform = matrices(device, dtype)
    with testing.assert_unchanged(transform):
        actual = dark_kernels.decode(heatmaps, recipes.DARKPOSE, True, backend, image_transform=transform)
    plain = dark_kernels.decode(heatmaps, recipes.DARKPOSE, True, backend)
    assert torch.equal(actual.scores, plain.scores)
    linear, shift = transform.double().split([2, 1], dim=-1)
    coords = plain.coords.double() @ linear.mT + shift.mT
    covariances = linear[:, None] @ plain.covariances.double() @ linear[:, None].mT
    valid = plain.scores > 0
    assert valid.sum() == 4
    # Five roundings of numbers up to 1100, and eight of each product of three.
    assert (actual.coords - coords)[valid].abs().max() < 5 * 2**-24 * 1100
    assert torch.equal(actual.covariances.isnan(), plain.covariances.isnan())
    bound = 8 * 2**-24 * (linear[:, None].abs() @ plain.covariances.double().abs() @ linear[:, None].mT.abs())
    error = (actual.covariances - covariances).abs()
    assert ((error <= bound) | covariances.isnan()).all()
    assert not covariances.isnan().all()
    assert (actual.coords[~valid] == recipes.DARKPOSE.invalid).all()
    assert actual.covariances[~valid].isnan().all()


@pytest.mark.parametrize("service", SERVICES_WITH_LOOPS, indirect=True)
def test_no_variance_becomes_negative(service: tuple[str, torch.device]) -> None:
    """A matrix of rank one maps an axis of the ellipse to nearly nothing, and rounding below it."""
    backend, device = service
    heatmaps = testing.gaussian_blobs(1, 6, 24, 20, (1.0, 2.0), seed=3).heatmaps.float().to(device)
    transform = torch.tensor([[[300.1, 100.7, 5.0], [0.0, 0.0, 6.0]]], device=device)
    covariances = dark_kernels.decode(heatmaps, recipes.DARKPOSE, True, backend, image_transform=transform).covariances
    assert (covariances.diagonal(dim1=-2, dim2=-1) >= 0).all()
    assert (covariances[..., 1, 1] == 0).all()


@pytest.mark.parametrize("service", SERVICES_WITH_LOOPS, indirect=True)
def test_all_at_once(service: tuple[str, torch.device]) -> None:
    """From two outputs of a network to chosen keypoints in the image, in one call."""
    backend, device = service
    heatmaps, flipped = two_maps(device)
    actual = dark_kernels.decode(
        heatmaps, recipes.MMPOSE_UDP, True, backend,
        flipped=flipped, flip_indices=(0, 2, 1), shift_flipped=True,
        keypoint_indices=[2, 0], image_transform=matrices(device),
    )  # fmt: skip
    merged = merge_flipped(heatmaps, flipped, torch.tensor([0, 2, 1], device=device), True)[:, [2, 0]]
    expected = dark_kernels.decode(merged, recipes.MMPOSE_UDP, True, "reference", image_transform=matrices(device))
    bounds = testing.decode_bounds(merged.cpu(), recipes.MMPOSE_UDP, testing.TRITON).coords.to(device)
    error = (actual.coords - expected.coords).abs()
    assert (error <= 4.1 * bounds.sum(-1, keepdim=True) + 4 * 2**-24 * 1100).all()


# --- the operator ----------------------------------------------------------------------------------------


def everything(device: torch.device | str, dtype: torch.dtype = torch.float32) -> tuple[Tensor, dict[str, Any]]:
    maps = testing.gaussian_blobs(2, 3, 13, 11, margin=5, seed=1).heatmaps.to(device, dtype)
    extras = {
        "flipped": maps.flip(-1),
        "flip_indices": torch.tensor([0, 1, 2], device=device),
        "shift_flipped": False,
        "keypoint_indices": torch.tensor([1, 2], device=device),
        "image_transform": matrices(device),
    }
    return maps, extras


@pytest.mark.slow
def test_compiles_whole(device: torch.device) -> None:
    torch._dynamo.reset()

    def function(heatmaps: Tensor, flipped: Tensor, transform: Tensor) -> tuple[Tensor, Tensor]:
        keypoints = dark_kernels.decode(
            heatmaps * 0.5, flipped=flipped * 0.5, flip_indices=[0, 2, 1], keypoint_indices=[1, 2],
            image_transform=transform,
        )  # fmt: skip
        return keypoints.coords + 1, keypoints.scores

    heatmaps, flipped = two_maps(device)
    compiled = torch.compile(function, fullgraph=True)
    arguments = heatmaps, flipped, matrices(device)
    torch.testing.assert_close(compiled(*arguments), function(*arguments), rtol=0, atol=1e-4)


@pytest.mark.parametrize("service", SERVICES_WITH_LOOPS, indirect=True)
def test_no_images(service: tuple[str, torch.device]) -> None:
    backend, device = service
    maps = torch.empty(0, 3, 13, 11, device=device)
    keypoints = dark_kernels.decode(
        maps, recipes.DARKPOSE, True, backend, flipped=maps, flip_indices=[0, 2, 1], keypoint_indices=[1, 2],
        image_transform=torch.empty(0, 2, 3, device=device),
    )  # fmt: skip
    assert keypoints.coords.shape == (0, 2, 2)
    assert keypoints.scores.shape == (0, 2)
    assert keypoints.covariances.shape == (0, 2, 2, 2)


@pytest.mark.gpu
def test_a_cuda_graph_keeps_its_indices(gpu: torch.device) -> None:
    """Others may be remembered in the meantime: only some are."""
    heatmaps, _ = two_maps(gpu, size=(64, 48))

    def call(indices: list[int]) -> Keypoints:
        return dark_kernels.decode(heatmaps, recipes.DARKPOSE, True, keypoint_indices=indices)

    expected = call([2, 1])
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        captured = call([2, 1])
    for number in range(200):
        call([number % 3] * (number + 1))
    graph.replay()
    torch.cuda.synchronize(gpu)
    testing.assert_same_keypoints(captured, expected)


# --- what is refused -------------------------------------------------------------------------------------

MAPS = torch.rand(2, 3, 8, 6)


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        ({"flipped": MAPS}, ValueError, "flip_indices: got None with flipped"),
        ({"flip_indices": [0, 1, 2]}, ValueError, "flipped: got None with flip_indices"),
        ({"flipped": MAPS[:1], "flip_indices": [0, 1, 2]}, ValueError, r"flipped: got shape \[1, 3, 8, 6\]"),
        ({"flipped": MAPS.half(), "flip_indices": [0, 1, 2]}, TypeError, "flipped: got torch.float16"),
        ({"flipped": MAPS.tolist(), "flip_indices": [0, 1, 2]}, TypeError, "flipped: got builtins.list"),
        ({"flipped": MAPS.to("meta"), "flip_indices": [0, 1, 2]}, ValueError, "flipped: got a tensor on meta"),
        ({"flipped": MAPS, "flip_indices": [0, 1]}, ValueError, "flip_indices: got 2 indices, expected 3"),
        ({"flipped": MAPS, "flip_indices": [0, 1, 3]}, ValueError, "flip_indices: got 0 to 3, expected .* 0 to 2"),
        ({"flipped": MAPS, "flip_indices": "012"}, TypeError, "flip_indices: got str '012'"),
        ({"flipped": MAPS, "flip_indices": [0, 1, 2], "shift_flipped": 1}, TypeError, "shift_flipped: got 1"),
        ({"shift_flipped": True}, ValueError, "shift_flipped: got True without flipped"),
        ({"shift_flipped": "no"}, TypeError, "shift_flipped: got 'no'"),
        ({"keypoint_indices": [0, -1]}, ValueError, "keypoint_indices: got -1 to 0"),
        ({"keypoint_indices": 1}, TypeError, "keypoint_indices: got int 1"),
        ({"keypoint_indices": [0, 1.0]}, TypeError, "keypoint_indices: got float 1.0 in it"),
        ({"keypoint_indices": [True, False, True]}, TypeError, "keypoint_indices: got bool True in it"),
        ({"keypoint_indices": torch.tensor([0.0])}, TypeError, "keypoint_indices: got torch.float32"),
        ({"keypoint_indices": torch.tensor([True])}, TypeError, "keypoint_indices: got torch.bool"),
        ({"keypoint_indices": torch.tensor(1)}, ValueError, r"keypoint_indices: got shape \[\]"),
        ({"keypoint_indices": torch.tensor([3])}, ValueError, "keypoint_indices: got 3 to 3"),
        ({"image_transform": torch.eye(3)[:2]}, ValueError, "image_transform: got shape"),
        ({"image_transform": torch.zeros(3, 2, 3)}, ValueError, r"got shape \[3, 2, 3\], expected \[2, 2, 3\]"),
        ({"image_transform": torch.zeros(2, 2, 3).int()}, TypeError, "image_transform: got torch.int32"),
        ({"image_transform": np.zeros((2, 2, 3), bool)}, TypeError, "image_transform: got an array of bool"),
        ({"image_transform": torch.zeros(2, 2, 3, device="meta")}, ValueError, "image_transform: got a tensor on meta"),
    ],
    ids=lambda value: value if isinstance(value, str) else None,
)  # fmt: skip
def test_what_is_refused(arguments: dict[str, Any], error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        dark_kernels.decode(MAPS, **arguments)
