"""What functions take besides tensors with a batch: arrays, single images and maps, integers, recipes by name."""

from __future__ import annotations

import functools
import warnings
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

import dark_kernels
from dark_kernels import Keypoints, recipes, testing, transforms

MAPS = testing.gaussian_blobs(2, 3, 20, 16, margin=5, seed=0, dtype=torch.float32).heatmaps
AXES = torch.rand(2, 3, 31, generator=torch.Generator().manual_seed(1))
POINTS = 3 + 9 * torch.rand(2, 3, 2, generator=torch.Generator().manual_seed(2))
INTEGERS = [torch.uint8, torch.int8, torch.int16, torch.uint16]


def decode_flipped(maps: Any) -> Keypoints:
    num_channels = maps.shape[-3] if maps.ndim > 2 else 1
    return dark_kernels.decode(maps, flipped=maps, flip_indices=list(range(num_channels))[::-1])


# Of maps [B, K, H, W], and of one image and one map.
OF_MAPS: dict[str, Callable[[Any], Any]] = {
    "decode": functools.partial(dark_kernels.decode, covariance=True),
    "decode_flipped": decode_flipped,
    "decode_reference": functools.partial(dark_kernels.decode, backend="reference"),
    "find_peaks": functools.partial(dark_kernels.find_peaks, max_peaks=4, covariance=True),
    "soft_argmax": dark_kernels.soft_argmax,
}


def outputs(result: Any) -> list[Any]:
    return list(result) if isinstance(result, tuple) else [result]


def assert_arrays(actual: Any, expected: Any) -> None:
    """Arrays in a result of the same type, equal to the tensors of the other to the last bit."""
    assert type(actual) is type(expected) or not isinstance(actual, tuple)
    for one, other in zip(outputs(actual), outputs(expected), strict=True):
        assert (one is None) == (other is None)
        if other is not None:
            assert isinstance(one, np.ndarray)
            np.testing.assert_array_equal(one, other.numpy())


def assert_tensors(actual: Any, expected: Any) -> None:
    for one, other in zip(outputs(actual), outputs(expected), strict=True):
        assert (one is None) == (other is None)
        if other is not None:
            assert isinstance(one, Tensor)
            torch.testing.assert_close(one, other, rtol=0, atol=0, equal_nan=True)


def part(result: Any, *place: int) -> Any:
    parts = tuple(each if each is None else each[place] for each in outputs(result))
    return parts if isinstance(result, tuple) else parts[0]


@pytest.mark.parametrize("name", OF_MAPS)
def test_arrays_give_arrays(name: str) -> None:
    call = OF_MAPS[name]
    assert_arrays(call(MAPS.numpy()), call(MAPS))
    assert_arrays(call(MAPS.double().numpy()), call(MAPS.double()))
    assert_arrays(call(MAPS.half().numpy()), call(MAPS.half()))


@pytest.mark.parametrize("name", OF_MAPS)
def test_one_image_and_one_map_give_results_without_these_dimensions(name: str) -> None:
    call = OF_MAPS[name]
    assert_tensors(call(MAPS[1]), part(call(MAPS[1:]), 0))
    assert_tensors(call(MAPS[1, 2]), part(call(MAPS[1:, 2:]), 0, 0))
    assert_arrays(call(MAPS[1].numpy()), call(MAPS[1]))
    assert_arrays(call(MAPS[1, 2].numpy()), call(MAPS[1, 2]))


@pytest.mark.parametrize("dtype", INTEGERS, ids=str)
@pytest.mark.parametrize("name", OF_MAPS)
def test_integers_are_read_as_they_are(name: str, dtype: torch.dtype) -> None:
    call, integers = OF_MAPS[name], (100 * MAPS).round().to(dtype)
    before = integers.clone()
    assert_tensors(call(integers), call(integers.float()))
    assert torch.equal(integers, before)
    assert_arrays(call(integers.numpy()), call(integers.float()))


def test_integers_of_many_images_are_read_in_blocks() -> None:
    integers = torch.randint(0, 255, (7, 2, 512, 300), dtype=torch.uint8, generator=torch.Generator().manual_seed(3))
    assert_tensors(dark_kernels.decode(integers), dark_kernels.decode(integers.float()))


def test_integers_in_every_backend(service: tuple[str, torch.device]) -> None:
    backend, device = service
    integers = (100 * MAPS[:1, :2]).round().to(device, torch.uint8)
    for options in ({}, {"flipped": integers, "flip_indices": [1, 0]}):
        floats = {name: each.float() if isinstance(each, Tensor) else each for name, each in options.items()}
        assert_tensors(
            dark_kernels.decode(integers, backend=backend, **options),
            dark_kernels.decode(integers.float(), backend=backend, **floats),
        )


def test_axes_offsets_and_targets() -> None:
    simcc, offsets = dark_kernels.decode_simcc, dark_kernels.decode_offsets
    assert_arrays(simcc(AXES.numpy(), AXES.numpy(), 2.0, True), simcc(AXES, AXES, 2.0, True))
    assert_arrays(simcc(AXES.numpy(), AXES), simcc(AXES, AXES))
    assert_tensors(simcc(AXES[0], AXES[0], 2.0, visibility=True), part(simcc(AXES, AXES, 2.0, visibility=True), 0))
    assert_tensors(simcc(AXES[1, 2], AXES[1, 2]), part(simcc(AXES, AXES), 1, 2))
    integers = (100 * AXES).to(torch.int8)
    floats = integers.float()
    assert_tensors(simcc(integers, integers, activation="softmax"), simcc(floats, floats, activation="softmax"))
    assert_arrays(offsets(MAPS.numpy()), offsets(MAPS))
    assert_tensors(offsets(MAPS[0]), part(offsets(MAPS), 0))
    visible = torch.tensor([[1.0, 0.0, 1.0]] * 2)
    size, sigmas = (20, 16), torch.tensor([1.0, 2.0, 3.0])
    expected = dark_kernels.encode(POINTS, size, sigmas, visible=visible)
    assert_arrays(dark_kernels.encode(POINTS.numpy(), size, sigmas.numpy(), visible=visible.numpy() > 0), expected)
    assert_tensors(dark_kernels.encode(POINTS[0], size, sigmas, visible=visible[0]), part(expected, 0))
    people = dark_kernels.encode(POINTS[:, None], size)
    assert_arrays(dark_kernels.encode(POINTS[:, None].numpy(), size), people)


def test_poses_and_samples() -> None:
    poses, scores, areas = torch.rand(2, 5, 17, 2) * 50, torch.rand(2, 5), torch.full((2, 5), 900.0)
    variances, visible = torch.rand(2, 5, 17) + 1, torch.rand(2, 5, 17) > 0.2
    similarities = dark_kernels.oks(poses, poses, areas, areas, visible_a=visible)
    rows: list[tuple[Callable[..., Any], dict[str, Any]]] = [
        (dark_kernels.oks, {"poses_a": poses, "poses_b": poses, "areas_a": areas, "areas_b": areas,
                            "visible_a": visible}),
        (dark_kernels.oks_nms, {"poses": poses, "scores": scores, "areas": areas, "visible": visible}),
        (dark_kernels.soft_oks_nms, {"poses": poses[0], "scores": scores[0], "areas": areas[0],
                                     "image_ids": torch.tensor([1, 1, 2, 2, 2])}),
        (dark_kernels.variance_voting, {"poses": poses, "variances": variances, "similarities": similarities}),
        (dark_kernels.vote, {"samples": poses.movedim(1, 2)[:, :3] / 5, "heatmaps": MAPS}),
        (dark_kernels.sample_keypoints, {"means": POINTS, "covariances": torch.eye(2).expand(2, 3, 2, 2), "n": 4,
                                         "seed": 1}),
    ]  # fmt: skip
    for function, arguments in rows:
        arrays = {name: each.numpy() if isinstance(each, Tensor) else each for name, each in arguments.items()}
        assert_arrays(function(**arrays), function(**arguments))


# --- which arrays ------------------------------------------------------------------------------------------


def read_only(array: np.ndarray) -> np.ndarray:
    array = array.copy()
    array.flags.writeable = False
    return array


ARRAYS: dict[str, Callable[[np.ndarray], np.ndarray]] = {
    "read-only": read_only,
    "broadcast": lambda array: np.broadcast_to(array[:1], array.shape),
    "backwards": lambda array: np.ascontiguousarray(array[:, :, ::-1, ::-1])[:, :, ::-1, ::-1],
    "other bytes": lambda array: array.astype(array.dtype.newbyteorder()),
    "a field": lambda array: np.rec.fromarrays([np.zeros(array.shape, np.int8), array], names="a,b")["b"],
    "channels last": lambda array: np.asfortranarray(array),
}


@pytest.mark.parametrize("kind", ARRAYS)
def test_arrays_however_they_lie_in_memory(kind: str) -> None:
    array = ARRAYS[kind](MAPS.numpy())
    expected = dark_kernels.decode(torch.from_numpy(np.array(array, dtype=np.float32)), covariance=True)
    before = array.copy()
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert_arrays(dark_kernels.decode(array, covariance=True), expected)
    np.testing.assert_array_equal(array, before)


class Dlpack:
    """An array of another library."""

    def __dlpack__(self) -> object:
        raise NotImplementedError


class Picture:
    """An image of PIL's has this."""

    __array_interface__: dict[str, Any] = {}  # noqa: RUF012


@pytest.mark.parametrize(
    ("heatmaps", "message"),
    [
        (MAPS.tolist(), r"heatmaps: got builtins.list, expected .*; convert it with numpy.asarray\(heatmaps\)"),
        (list(MAPS), r"heatmaps: got builtins.list, expected .*; convert it with torch.stack\(heatmaps\)"),
        (list(MAPS.numpy()), r"heatmaps: got builtins.list, expected .*; convert it with numpy.asarray\(heatmaps\)"),
        (Dlpack(), r"Dlpack, expected a torch.Tensor or a numpy.ndarray; convert it with torch.from_dlpack\(heatmaps"),
        (Picture(), r"Picture, expected a torch.Tensor or a numpy.ndarray; convert it with numpy.asarray\(heatmaps\)"),
        (np.ma.masked_array(MAPS.numpy()), r"heatmaps: got numpy.ma.MaskedArray, expected .*heatmaps.filled\(0\)"),
        (np.array([[None]]), r"heatmaps: got an array of object, expected one of numbers"),
        (np.array([["a"]]), r"heatmaps: got an array of <U1, expected one of numbers"),
        (MAPS.numpy() > 0, r"heatmaps: got torch.bool, expected one of torch.float16"),
        (MAPS.numpy().astype(np.int64), r"heatmaps: got torch.int64, expected one of .*torch.uint8"),
        (None, r"heatmaps: got builtins.NoneType, expected a torch.Tensor or a numpy.ndarray$"),
    ],
    ids=lambda value: type(value).__name__,
)
@pytest.mark.parametrize("name", OF_MAPS)
def test_what_is_no_array_is_refused(name: str, heatmaps: Any, message: str) -> None:
    functions = {"find_peaks": OF_MAPS["find_peaks"], "soft_argmax": OF_MAPS["soft_argmax"]}
    with pytest.raises(TypeError, match=message):
        functions.get(name, dark_kernels.decode)(heatmaps)


def test_ranks_are_refused() -> None:
    with pytest.raises(ValueError, match=r"heatmaps: got shape \[16\], expected \[B, C, H, W\], \[C, H, W\] or \[H, W"):
        dark_kernels.decode(MAPS[0, 0, 0])
    with pytest.raises(ValueError, match=r"heatmaps: got shape \[1, 2, 3, 20, 16\], expected \[B, K, H, W\]"):
        dark_kernels.find_peaks(MAPS[None].numpy(), 3)
    with pytest.raises(ValueError, match=r"heatmaps: got shape \[20, 16\], expected \[B, 3 K, H, W\] or \[3 K, H, W\]"):
        dark_kernels.decode_offsets(MAPS[0, 0])
    with pytest.raises(ValueError, match=r"simcc_x: got shape \[\], expected \[B, K, Wx\], \[K, Wx\] or \[Wx\]"):
        dark_kernels.decode_simcc(AXES[0, 0, 0], AXES)
    with pytest.raises(ValueError, match=r"keypoints: got shape \[2\], expected \[B, N, K, 2\], \[B, K, 2\] or \[K, 2"):
        dark_kernels.encode(POINTS[0, 0].numpy(), (5, 5))
    with pytest.raises(ValueError, match=r"flipped: got shape \[1, 3, 20, 15\], expected \[1, 3, 20, 16\]"):
        dark_kernels.decode(MAPS[0], flipped=MAPS[0, :, :, 1:], flip_indices=[0, 1, 2])


# --- names and matrices ------------------------------------------------------------------------------------


@pytest.mark.parametrize("recipe", recipes.ALL, ids=lambda recipe: recipe.name)
def test_recipes_by_name(recipe: recipes.Recipe) -> None:
    for name in (recipe.name, recipe.name.upper()):
        assert_tensors(dark_kernels.decode(MAPS, name), dark_kernels.decode(MAPS, recipe))
    assert_tensors(
        dark_kernels.find_peaks(MAPS, 2, recipe=recipe.name), dark_kernels.find_peaks(MAPS, 2, recipe=recipe)
    )
    head = dark_kernels.nn.DARKHead(4, 3)
    assert dark_kernels.nn.TwoStageDecoder(torch.nn.Conv2d(4, 3, 1), head, recipe.name).recipe is recipe


def test_unknown_names_are_refused_with_what_there_is() -> None:
    with pytest.raises(ValueError, match=r"recipe: got 'dark', expected one of darkpose, mmpose_dark"):
        dark_kernels.decode(MAPS, "dark")


MATRICES = torch.tensor([[[2.0, 0.0, 5.0], [0.0, 3.0, 7.0]], [[1.0, 0.5, 0.0], [0.0, 1.0, 1.0]]])


@pytest.mark.parametrize(
    "matrices",
    [MATRICES.tolist(), MATRICES.numpy(), MATRICES.numpy().astype(np.float64), list(MATRICES.numpy())],
    ids=["lists", "array", "float64", "list of arrays"],
)
def test_matrices_in_lists_and_arrays(matrices: Any) -> None:
    expected = dark_kernels.decode(MAPS, covariance=True, image_transform=MATRICES)
    assert_tensors(dark_kernels.decode(MAPS, covariance=True, image_transform=matrices), expected)
    assert_arrays(dark_kernels.decode(MAPS.numpy(), covariance=True, image_transform=matrices), expected)
    one = dark_kernels.decode(MAPS[1, 2], covariance=True, image_transform=matrices[1])
    assert_tensors(one, part(expected, 1, 2))
    offsets = dark_kernels.decode_offsets(MAPS, image_transform=MATRICES)
    assert_tensors(dark_kernels.decode_offsets(MAPS[1], image_transform=matrices[1]), part(offsets, 1))


@pytest.mark.parametrize("matrices", [[[1.0, 2.0], [3.0]], [["a"]], [[None]], "a", 1.0])
def test_matrices_that_are_none(matrices: Any) -> None:
    with pytest.raises(TypeError, match=r"image_transform: got .*, expected"):
        dark_kernels.decode(MAPS, image_transform=matrices)


CROPS: list[Callable[[Any, Any], Any]] = [
    lambda center, scale: transforms.darkpose(center, scale, (48, 64)),
    lambda center, scale: transforms.mmpose_legacy(center, scale, (48, 64), use_udp=True),
    lambda center, scale: transforms.mmpose(center, scale, (48, 64)),
]


@pytest.mark.parametrize("convention", CROPS, ids=["darkpose", "mmpose_legacy", "mmpose"])
def test_crops_in_lists_and_arrays(convention: Callable[[Any, Any], Any]) -> None:
    center, scale = torch.tensor([[100.0, 120.0], [30.0, 40.0]]), torch.tensor([[2.0, 3.0], [1.0, 2.0]])
    expected = convention(center, scale)
    assert_tensors(convention(center.tolist(), scale.tolist()), expected)
    assert_tensors(convention(center.int().tolist(), scale.tolist()), expected)
    assert_tensors(convention(center, scale.numpy()), expected)
    assert_tensors(convention((100, 120), (2, 3)), expected[0])
    assert_arrays(convention(center.numpy(), scale.numpy()), expected)
    assert_arrays(convention(center.numpy().astype(np.int64), scale.tolist()), expected)
    assert convention(center.double().numpy(), scale.double().numpy()).dtype == np.float64


def test_boxes_in_lists_and_arrays() -> None:
    boxes = torch.tensor([[100.0, 100.0, 50.0, 80.0], [0.0, 0.0, 10.0, 20.0]])
    expected = transforms.center_scale_from_boxes(boxes, (192, 256))
    assert_tensors(transforms.center_scale_from_boxes(boxes.int().tolist(), (192, 256)), expected)
    assert_arrays(transforms.center_scale_from_boxes(boxes.numpy(), (192, 256)), expected)
    assert_tensors(transforms.center_scale_from_boxes([100, 100, 50, 80], (192, 256)), part(expected, 0))


# --- PyTorch -----------------------------------------------------------------------------------------------


def test_single_images_integers_and_names_are_compiled_whole() -> None:
    compiled = torch.compile(
        lambda maps: dark_kernels.decode(maps, "mmpose_udp", True), fullgraph=True, backend="aot_eager"
    )
    for maps in (MAPS, MAPS[0], MAPS[0, 0], (100 * MAPS).to(torch.uint8)):
        assert_tensors(compiled(maps), dark_kernels.decode(maps, "mmpose_udp", True))


def test_a_single_image_has_a_gradient() -> None:
    maps = MAPS[0].clone().requires_grad_()
    dark_kernels.soft_argmax(maps).square().sum().backward()
    batch = MAPS[:1].clone().requires_grad_()
    dark_kernels.soft_argmax(batch).square().sum().backward()
    assert batch.grad is not None
    torch.testing.assert_close(maps.grad, batch.grad[0], rtol=0, atol=0)


def test_fakes_of_integers_and_single_images() -> None:
    with torch._subclasses.FakeTensorMode():
        for maps in (torch.empty(3, 20, 16), torch.empty(3, 20, 16, dtype=torch.uint8)):
            keypoints = dark_kernels.decode(maps, covariance=True)
            assert keypoints.coords.shape == (3, 2)
            assert keypoints.coords.dtype == torch.float32
            assert keypoints.covariances.shape == (3, 2, 2)


def test_vmap_over_single_images() -> None:
    coords = torch.vmap(lambda maps: dark_kernels.decode(maps).coords)(MAPS)
    torch.testing.assert_close(coords, dark_kernels.decode(MAPS).coords, rtol=0, atol=0)


def test_results_are_keypoints() -> None:
    assert isinstance(dark_kernels.decode(MAPS.numpy()), Keypoints)
    assert isinstance(dark_kernels.decode(MAPS[0]), Keypoints)
