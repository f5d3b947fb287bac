"""From heatmap pixels to the image: published outputs, and the formulas of that code, per keypoint."""

from __future__ import annotations

import doctest
import itertools
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

import dark_kernels
from dark_kernels import Recipe, recipes, transforms

DATA = Path(__file__).parent / "data"
KEYS = ("coords", "scores", "image_coords")
SIZE = (37, 53)  # (W, H)
CONVENTIONS: list[Any] = [
    pytest.param(transforms.darkpose, {}, id="darkpose"),
    pytest.param(transforms.mmpose_legacy, {}, id="mmpose_legacy"),
    pytest.param(transforms.mmpose_legacy, {"use_udp": True}, id="mmpose_legacy-udp"),
    pytest.param(transforms.mmpose, {}, id="mmpose"),
    pytest.param(transforms.mmpose, {"use_udp": True}, id="mmpose-udp"),
]
Convention = Callable[..., Tensor]


def crops(dtype: torch.dtype = torch.float64, device: torch.device | str = "cpu") -> tuple[Tensor, Tensor]:
    center = torch.tensor([[201.25, 213.5], [-3.0, 1000.75], [0.0, 0.0]], dtype=dtype, device=device)
    scale = torch.tensor([[1.25, 1.75], [0.125, 3.5], [2.0, 2.0]], dtype=dtype, device=device)
    return center, scale


def apply(matrices: Tensor, coords: Tensor) -> Tensor:
    return coords @ matrices[:, :, :2].mT + matrices[:, None, :, 2]


def naive(convention: Convention, use_udp: bool, point: list[float], center: list[float], scale: list[float]) -> list:
    """One keypoint as section 7 writes it. For mmpose 1.x by way of an input of four times the heatmap's size."""
    (x, y), (width, height) = point, SIZE
    if convention is transforms.darkpose:
        f = (200 * scale[0] - 1) / (width - 1)
        return [(x - (width - 1) / 2) * f + center[0], (y - (height - 1) / 2) * f + center[1]]
    spans = (width - 1, height - 1) if use_udp else (width, height)
    if convention is transforms.mmpose_legacy:
        return [p * 200 * s / span + c - 200 * s / 2 for p, s, span, c in zip(point, scale, spans, center, strict=True)]
    image = []
    for p, s, size, span, c in zip(point, scale, SIZE, spans, center, strict=True):
        input_size = 4 * size
        p = p / span * input_size if use_udp else p * input_size / size
        image.append(p / input_size * s + c - s / 2)
    return image


@pytest.mark.parametrize(("convention", "options"), CONVENTIONS)
def test_formulas(convention: Convention, options: dict[str, bool], device: torch.device) -> None:
    center, scale = crops()
    points = [[float(x), float(y)] for x, y in itertools.product((-1.0, 0.0, 17.3, 36.0), (0.0, 26.5, 52.0))]
    matrices = convention(center.to(device), scale.to(device), SIZE, **options)
    assert (matrices.shape, matrices.dtype, matrices.device.type) == ((3, 2, 3), torch.float64, device.type)
    expected = [
        [naive(convention, options.get("use_udp", False), point, *crop) for point in points]
        for crop in zip(center.tolist(), scale.tolist(), strict=True)
    ]
    coords = torch.tensor(points, dtype=torch.float64, device=device).expand(3, -1, -1)
    torch.testing.assert_close(
        apply(matrices, coords).cpu(), torch.tensor(expected, dtype=torch.float64), rtol=1e-14, atol=1e-11
    )


PUBLISHED = [
    ("darkpose_k11", recipes.DARKPOSE, transforms.darkpose, {}),
    ("mmpose0x_default", recipes.QUARTER_LEGACY, transforms.mmpose_legacy, {}),
    ("mmpose0x_unbiased_k11", recipes.MMPOSE_DARK, transforms.mmpose_legacy, {}),
    ("mmpose0x_udp_k11", recipes.MMPOSE_LEGACY_UDP, transforms.mmpose_legacy, {"use_udp": True}),
    ("hf_vitpose_k11", recipes.VITPOSE_HF, transforms.mmpose_legacy, {"use_udp": True}),
]
# Published coordinates are float32, and some pipelines compute in it: three roundings of numbers below 512.
ROUNDING = 3 * 512 * 2.0**-24


@pytest.mark.parametrize("case", ["small", "border", "odd", "tie", "zero"])
@pytest.mark.parametrize(
    ("variant", "recipe", "convention", "options"), [pytest.param(*row, id=row[0]) for row in PUBLISHED]
)
def test_published_image_coordinates(
    case: str, variant: str, recipe: Recipe, convention: Convention, options: dict[str, bool], device: torch.device
) -> None:
    """From published coordinates in the heatmap, and from the heatmaps, in one call of decode."""
    with np.load(DATA / f"{case}.npz") as file:
        heatmaps, center, scale, coords, scores, published = (
            torch.from_numpy(file[name]).to(device)
            for name in ("heatmaps", "center", "scale", *(f"{variant}/{key}" for key in KEYS))
        )
    height, width = heatmaps.shape[-2:]
    valid = scores > 0
    assert published[valid].abs().max() < 512
    matrices = convention(center.double(), scale.double(), (width, height), **options)
    ours = apply(matrices, coords.double())
    torch.testing.assert_close(ours[valid], published[valid].double(), rtol=0, atol=ROUNDING)

    decoded = dark_kernels.decode(heatmaps, recipe, image_transform=matrices.float())
    tolerance = 1e-4 * matrices[..., :2].abs().max().item() + 2 * ROUNDING
    torch.testing.assert_close(decoded.coords[valid], published[valid], rtol=0, atol=tolerance)
    assert (decoded.coords[~valid] == recipe.invalid).all()


@pytest.mark.parametrize(("convention", "options"), CONVENTIONS)
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32])
def test_dtypes(convention: Convention, options: dict[str, bool], dtype: torch.dtype) -> None:
    center, scale = crops(dtype)
    matrices = convention(center, scale, SIZE, **options)
    assert matrices.dtype == dtype
    exact = convention(center.double(), scale.double(), SIZE, **options)
    # The factor is rounded three times (a product, a difference, a quotient), the translation twice more.
    bound = 5 * torch.finfo(dtype).eps * (center.double().abs().amax() + exact.abs().amax())
    assert (matrices - exact).abs().amax() <= bound


@pytest.mark.parametrize(("convention", "options"), CONVENTIONS)
def test_no_crops_and_gradients(convention: Convention, options: dict[str, bool]) -> None:
    center, scale = crops()
    assert convention(center[:0], scale[:0], SIZE, **options).shape == (0, 2, 3)
    center.requires_grad_()
    scale.requires_grad_()
    assert torch.autograd.gradcheck(lambda c, s: convention(c, s, SIZE, **options), (center, scale))


def naive_crop(box: list[float], input_size: tuple[int, int], padding: float) -> tuple[list[float], list[float]]:
    """Centre, and width and height in pixels, of one box (left, top, width, height): widened first, padded then."""
    left, top, width, height = box
    ratio = input_size[0] / input_size[1]
    if width > ratio * height:
        height = width / ratio
    else:
        width = height * ratio
    return [left + box[2] / 2, top + box[3] / 2], [width * padding, height * padding]


@pytest.mark.parametrize("box_format", ["xywh", "xyxy"])
@pytest.mark.parametrize("input_size", [(192, 256), (288, 384), (256, 256), (256, 192)])
def test_boxes(box_format: str, input_size: tuple[int, int], device: torch.device) -> None:
    """Wider and narrower than the input, of its own aspect ratio, and of no size."""
    boxes = [[10.0, 20.0, 30.0, 40.0], [-5.5, 3.0, 200.0, 10.0], [0.0, 0.0, 1.5, 99.0], [7.0, 7.0, 0.0, 0.0]]
    tensor = torch.tensor(boxes, dtype=torch.float64, device=device)
    if box_format == "xyxy":
        tensor = torch.cat([tensor[:, :2], tensor[:, :2] + tensor[:, 2:]], dim=1)
    center, scale = transforms.center_scale_from_boxes(tensor, input_size, box_format, padding=1.1, unit=200.0)
    expected = [naive_crop(box, input_size, 1.1) for box in boxes]
    torch.testing.assert_close(center.tolist(), [center for center, _ in expected])
    torch.testing.assert_close((scale * 200).tolist(), [size for _, size in expected])


def test_a_crop_covers_its_box() -> None:
    """Without padding, a box of the input's aspect ratio is the crop: its corners are those of the heatmap."""
    boxes = torch.tensor([[10.0, 20.0, 30.0, 40.0]], dtype=torch.float64)
    center, scale = transforms.center_scale_from_boxes(boxes, (192, 256), padding=1.0)
    corners = torch.tensor([[[0.0, 0.0], [47.0, 63.0]]], dtype=torch.float64)
    in_image = apply(transforms.mmpose(center, scale, (48, 64), use_udp=True), corners)
    torch.testing.assert_close(in_image, torch.tensor([[[10.0, 20.0], [40.0, 60.0]]], dtype=torch.float64))


def test_doctests() -> None:
    result = doctest.testmod(transforms)
    assert result.failed == 0
    assert result.attempted > 0


# --- what is refused ---------------------------------------------------------------------------------------


@pytest.mark.parametrize(("convention", "options"), CONVENTIONS)
def test_bad_crops(convention: Convention, options: dict[str, bool]) -> None:
    center, scale = crops()
    with pytest.raises(TypeError, match=r"center: got builtins.str, expected a torch.Tensor"):
        convention("center", scale, SIZE, **options)  # type: ignore[arg-type]
    with pytest.raises(TypeError, match=r"scale: got torch.int64, expected one of"):
        convention(center, scale.long(), SIZE, **options)
    with pytest.raises(TypeError, match=r"scale: got torch.float32, expected torch.float64, as center"):
        convention(center, scale.float(), SIZE, **options)
    with pytest.raises(ValueError, match=r"center: got shape \[1, 3, 2\], expected \[B, 2\] or \[2\]"):
        convention(center[None], scale, SIZE, **options)
    with pytest.raises(ValueError, match=r"scale: got shape \[3, 2\], expected \[1, 2\], as center"):
        convention(center[0], scale, SIZE, **options)
    with pytest.raises(ValueError, match=r"scale: got shape \[3, 1\], expected \[B, 2\]"):
        convention(center, scale[:, :1], SIZE, **options)
    with pytest.raises(ValueError, match=r"scale: got shape \[2, 2\], expected \[3, 2\], as center"):
        convention(center, scale[:2], SIZE, **options)
    with pytest.raises(ValueError, match=r"scale: got a tensor on meta, expected cpu, as center"):
        convention(center, scale.to("meta"), SIZE, **options)


@pytest.mark.parametrize(("convention", "options"), CONVENTIONS)
def test_bad_sizes(convention: Convention, options: dict[str, bool]) -> None:
    center, scale = crops()
    with pytest.raises(TypeError, match=r"heatmap_size: got 48, expected \(width, height\)"):
        convention(center, scale, 48, **options)
    with pytest.raises(TypeError, match=r"heatmap_size: got \(48.0, 64\), expected two integers"):
        convention(center, scale, (48.0, 64), **options)
    # A grid of one pixel has no distance between its first and its last.
    least = 1 if convention in (transforms.mmpose, transforms.mmpose_legacy) and not options else 2
    convention(center, scale, (least, least), **options)
    with pytest.raises(ValueError, match=rf"heatmap_size: got \({least - 1}, 64\), expected at least {least} pixel"):
        convention(center, scale, (least - 1, 64), **options)


def test_bad_boxes() -> None:
    boxes = torch.ones(2, 4)
    with pytest.raises(TypeError, match=r"boxes: got builtins.list, expected numbers, in rows of equal length"):
        transforms.center_scale_from_boxes([[0, 0, 1, 1], [0]], (192, 256))
    with pytest.raises(ValueError, match=r"boxes: got shape \[2, 3\], expected \[B, 4\]"):
        transforms.center_scale_from_boxes(boxes[:, :3], (192, 256))
    with pytest.raises(ValueError, match=r"box_format: got 'cxcywh', expected one of 'xywh', 'xyxy'"):
        transforms.center_scale_from_boxes(boxes, (192, 256), "cxcywh")
    with pytest.raises(ValueError, match=r"input_size: got \(0, 256\), expected at least 1 pixel on each axis"):
        transforms.center_scale_from_boxes(boxes, (0, 256))
    for name in ("padding", "unit"):
        with pytest.raises(ValueError, match=rf"{name}: got 0, expected a positive number"):
            transforms.center_scale_from_boxes(boxes, (192, 256), **{name: 0})
