"""The functions against the image processors of the installed transformers, and what they do right on purpose."""

from __future__ import annotations

import itertools
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from benchmarks import peers
from dark_kernels import testing
from dark_kernels.integrations.transformers import (
    post_process_pose_estimation,
    post_process_sapiens2,
    post_process_vitpose,
)

from .conftest import require

KEYS = ("keypoints", "scores", "labels", "bbox")
# Boxes of eight crops in three images, wider and narrower than the crops.
BOXES = [
    [[10.0, 20.0, 100.0, 180.0], [200.5, 30.25, 90.0, 60.0], [0.0, 0.0, 300.0, 400.0]],
    [[-10.0, 5.0, 60.0, 80.0]],
    [[50.0, 60.0, 70.0, 90.0], [1.0, 2.0, 30.0, 400.0], [300.0, 100.0, 120.0, 160.0], [5.5, 6.5, 75.0, 25.0]],
]
TARGET = (480, 640)  # (height, width)


def outputs(heatmaps: Tensor) -> Any:
    return SimpleNamespace(heatmaps=heatmaps)


def crop_sizes(boxes: Any = BOXES, width: int = 192, height: int = 256) -> list[float]:
    """Width in image pixels of the crop of each box: what 1e-4 heatmap pixels are a share of."""
    return [1.25 * max(box[2], box[3] * width / height) for box in itertools.chain(*boxes)]


def assert_same(ours: Any, published: Any, heatmap_width: int, sizes: list[float]) -> None:
    """1e-4 heatmap pixels, and five roundings of numbers below 1024, where the score is positive."""
    assert [len(image) for image in ours] == [len(image) for image in published]
    pairs = zip(itertools.chain(*ours), itertools.chain(*published), strict=True)
    for (pose, expected), size in zip(pairs, sizes, strict=True):
        assert tuple(pose) == tuple(expected) == KEYS
        torch.testing.assert_close(pose["scores"], expected["scores"], rtol=0, atol=0)
        torch.testing.assert_close(pose["labels"], expected["labels"])
        torch.testing.assert_close(pose["bbox"], expected["bbox"])
        valid = pose["scores"] > 0
        assert pose["keypoints"].shape == expected["keypoints"].shape
        assert pose["keypoints"].dtype == expected["keypoints"].dtype
        tolerance = 1e-4 * size / (heatmap_width - 1) + 5 * 1024 * 2.0**-24
        torch.testing.assert_close(pose["keypoints"][valid], expected["keypoints"][valid], rtol=0, atol=tolerance)
        assert (pose["keypoints"][~valid] == -1).all()


# --- VitPose -------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module", params=["torchvision", "pil"])
def vitpose(request: pytest.FixtureRequest) -> Any:
    """Both image processors that transformers has for VitPose."""
    require("transformers")
    peers.import_torchvision()
    if request.param == "pil":
        return require("transformers.models.vitpose.image_processing_pil_vitpose").VitPoseImageProcessorPil()
    return require("transformers").VitPoseImageProcessor()


@pytest.mark.parametrize("options", [{}, {"threshold": 0.3}, {"kernel_size": 3}, {"kernel_size": 8, "threshold": 0.0}])
def test_vitpose_on_real_heatmaps(vitpose: Any, real_heatmaps: Tensor, options: dict[str, Any]) -> None:
    untouched = real_heatmaps.clone()
    published = vitpose.post_process_pose_estimation(outputs(real_heatmaps), BOXES, **options)
    for function in (post_process_vitpose, post_process_pose_estimation):
        ours = function(vitpose, outputs(real_heatmaps), BOXES, **options)
        assert_same(ours, published, 64, crop_sizes())
    assert torch.equal(real_heatmaps, untouched)


def test_vitpose_positional_arguments(vitpose: Any, real_heatmaps: Tensor) -> None:
    arguments = (outputs(real_heatmaps), BOXES, 7, 0.5, None)
    published = vitpose.post_process_pose_estimation(*arguments)
    assert_same(post_process_pose_estimation(vitpose, *arguments), published, 64, crop_sizes())


def test_vitpose_boxes_as_an_array(vitpose: Any, real_heatmaps: Tensor) -> None:
    boxes = np.array(list(itertools.chain(*BOXES))).reshape(2, 4, 4)
    published = vitpose.post_process_pose_estimation(outputs(real_heatmaps), boxes)
    assert_same(
        post_process_pose_estimation(vitpose, outputs(real_heatmaps), boxes), published, 64, crop_sizes(boxes.tolist())
    )


def test_vitpose_from_a_model(vitpose: Any) -> None:
    """Random weights from a config: a photograph's way from the pixels to keypoints."""
    transformers = require("transformers")
    backbone = transformers.VitPoseBackboneConfig(
        image_size=[64, 48], patch_size=[16, 16], hidden_size=32, num_hidden_layers=2, num_attention_heads=2,
        out_indices=[2], out_features=["stage2"],
    )  # fmt: skip
    torch.manual_seed(0)
    config = transformers.VitPoseConfig(backbone_config=backbone, num_labels=17, use_simple_decoder=False)
    model = transformers.VitPoseForPoseEstimation(config).eval()
    processor = type(vitpose)(size={"height": 64, "width": 48})
    images = [np.random.default_rng(seed).integers(0, 256, (120, 160, 3), dtype=np.uint8) for seed in range(2)]
    boxes = [[[10.0, 20.0, 60.0, 90.0], [70.0, 10.0, 80.0, 40.0]], [[0.0, 0.0, 160.0, 120.0]]]
    inputs = processor(images, boxes=boxes, return_tensors="pt")
    with torch.no_grad():
        result = model(**inputs)
    result.heatmaps = result.heatmaps - result.heatmaps.amin() + 0.01  # untrained: of both signs, about zero
    published = processor.post_process_pose_estimation(result, boxes)
    ours = post_process_pose_estimation(processor, result, boxes)
    assert len(list(itertools.chain(*ours))) == 3
    assert_same(ours, published, result.heatmaps.shape[-1], crop_sizes(boxes, 48, 64))


def test_vitpose_sizes_are_height_and_width(vitpose: Any, real_heatmaps: Tensor) -> None:
    """The published code takes them for (width, height): it is given them that way round."""
    relative = [[[x / 640, y / 480, w / 640, h / 480] for x, y, w, h in image] for image in BOXES]
    swapped = [TARGET[::-1]] * 8
    published = vitpose.post_process_pose_estimation(outputs(real_heatmaps), relative, target_sizes=swapped)
    absolute = post_process_vitpose(vitpose, outputs(real_heatmaps), BOXES)
    for sizes in ([TARGET] * 8, torch.tensor([TARGET] * 8), [TARGET] * 3, np.array([TARGET] * 3)):
        ours = post_process_vitpose(vitpose, outputs(real_heatmaps), relative, target_sizes=sizes)
        assert_same(ours, published, 64, crop_sizes())
        assert_same(ours, absolute, 64, crop_sizes())


def test_vitpose_with_one_keypoint(vitpose: Any, real_heatmaps: Tensor) -> None:
    """Where the published code raises: each keypoint alone gives what it gives among the others."""
    together = post_process_vitpose(vitpose, outputs(real_heatmaps), BOXES)
    with pytest.raises(ValueError, match="broadcast"):
        vitpose.post_process_pose_estimation(outputs(real_heatmaps[:, :1]), BOXES)
    for keypoint in (0, 9):
        alone = post_process_vitpose(vitpose, outputs(real_heatmaps[:, keypoint : keypoint + 1]), BOXES)
        for one, all_of_them in zip(itertools.chain(*alone), itertools.chain(*together), strict=True):
            assert (one["keypoints"].shape, one["scores"].shape) == ((1, 2), (1,))
            assert torch.equal(one["keypoints"][0], all_of_them["keypoints"][keypoint])


def test_vitpose_of_large_batches(vitpose: Any) -> None:
    """Beyond 2^24 padded pixels the published code reads others than it means to; a batch's end alone it reads well."""
    heatmaps = testing.gaussian_blobs(20, 133, 96, 72, seed=0).heatmaps.float()
    assert heatmaps.shape[0] * heatmaps.shape[1] * 98 * 74 > 2**24
    boxes = [[[10.0, 20.0, 96.0, 128.0]]] * 20
    ours = post_process_vitpose(vitpose, outputs(heatmaps), boxes)
    published = vitpose.post_process_pose_estimation(outputs(heatmaps[-1:]), boxes[-1:])
    assert_same(ours[-1:], published, 72, crop_sizes(boxes[-1:]))
    wrong = vitpose.post_process_pose_estimation(outputs(heatmaps), boxes)[-1][0]["keypoints"]
    assert ((ours[-1][0]["keypoints"] - wrong).abs().amax(-1) > 0.1).float().mean() > 0.1


# --- Sapiens2 ------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def sapiens() -> Any:
    transformers = require("transformers")
    peers.import_torchvision()
    if not hasattr(transformers, "Sapiens2ImageProcessor"):
        pytest.skip("this version of transformers has no Sapiens2")
    return transformers.Sapiens2ImageProcessor()


SIZES = [(480, 640), (300, 200), (1000, 1000)]
TARGETS = [(240, 640), (600, 400), (1000, 500)]


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"threshold": 0.3},
        {"kernel_size": 5},
        {"source_sizes": SIZES, "target_sizes": TARGETS},
        {"source_sizes": torch.tensor(SIZES), "target_sizes": torch.tensor(TARGETS), "threshold": 0.1},
    ],
)
@pytest.mark.parametrize("flip", [False, True])
def test_sapiens_on_real_heatmaps(sapiens: Any, real_heatmaps: Tensor, options: dict[str, Any], flip: bool) -> None:
    if flip:
        options = {**options, "outputs_flipped": outputs(real_heatmaps.roll(1, -1))}
    untouched = real_heatmaps.clone()
    published = sapiens.post_process_pose_estimation(outputs(real_heatmaps), BOXES, **options)
    size = [2 * size for size in crop_sizes(BOXES, sapiens.size["width"], sapiens.size["height"])]  # targets double
    for function in (post_process_sapiens2, post_process_pose_estimation):
        assert_same(function(sapiens, outputs(real_heatmaps), BOXES, **options), published, 64, size)
    assert torch.equal(real_heatmaps, untouched)


def test_sapiens_positional_arguments(sapiens: Any, real_heatmaps: Tensor) -> None:
    arguments = (outputs(real_heatmaps), BOXES, outputs(real_heatmaps.roll(1, -1)), 7, 0.5, SIZES, None)
    published = sapiens.post_process_pose_estimation(*arguments)
    size = crop_sizes(BOXES, sapiens.size["width"], sapiens.size["height"])
    assert_same(post_process_pose_estimation(sapiens, *arguments), published, 64, size)


def test_sapiens_without_boxes(sapiens: Any) -> None:
    empty = outputs(torch.zeros(0, 308, 256, 192))
    assert sapiens.post_process_pose_estimation(empty, [[], []]) == [[], []]
    assert post_process_pose_estimation(sapiens, empty, [[], []]) == [[], []]


# --- without the package ---------------------------------------------------------------------------------------


def processor() -> Any:
    return SimpleNamespace(size={"height": 256, "width": 192})


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
def test_dtypes(dtype: torch.dtype, device: torch.device) -> None:
    """VitPose's results are on the CPU, Sapiens2's where the maps are. Scores of float64 stay that for VitPose."""
    heatmaps = testing.gaussian_blobs(1, 3, 24, 18, seed=0).heatmaps.to(device, dtype)
    for function, place in ((post_process_vitpose, "cpu"), (post_process_sapiens2, device.type)):
        pose = function(processor(), outputs(heatmaps), [[[0.0, 0.0, 18.0, 24.0]]])[0][0]
        expected = function(processor(), outputs(heatmaps.float()), [[[0.0, 0.0, 18.0, 24.0]]])[0][0]
        for key in KEYS:
            stays = key == "scores" and dtype == torch.float64 and function is post_process_vitpose
            assert (pose[key].dtype, pose[key].device.type) == (dtype if stays else expected[key].dtype, place)
            torch.testing.assert_close(pose[key].to(expected[key].dtype), expected[key], rtol=0, atol=1e-4)


@pytest.mark.parametrize("function", [post_process_vitpose, post_process_sapiens2])
def test_maps_without_a_keypoint(function: Any) -> None:
    heatmaps = testing.gaussian_blobs(1, 4, 24, 18, seed=0).heatmaps
    heatmaps[0, 1] = 0.0
    heatmaps[0, 2, 3, 3] = torch.nan
    pose = function(processor(), outputs(heatmaps), [[[5.0, 5.0, 18.0, 24.0]]])[0][0]
    assert (pose["keypoints"][1:3] == -1).all()
    assert (pose["keypoints"][[0, 3]] > 0).all()
    pose = function(processor(), outputs(heatmaps), [[[5.0, 5.0, 18.0, 24.0]]], threshold=0.0)[0][0]
    assert pose["labels"].tolist() == [0, 3]


@pytest.mark.parametrize("function", [post_process_vitpose, post_process_sapiens2])
def test_images_without_boxes(function: Any) -> None:
    heatmaps = testing.gaussian_blobs(1, 4, 24, 18, seed=0).heatmaps
    box = [0.0, 0.0, 18.0, 24.0]
    assert [len(image) for image in function(processor(), outputs(heatmaps), [[], [box], []])] == [0, 1, 0]
    assert function(processor(), outputs(heatmaps[:0]), [[], []]) == [[], []]
    assert function(processor(), outputs(heatmaps[:0]), []) == []


def test_what_is_refused() -> None:
    heatmaps = testing.gaussian_blobs(2, 3, 24, 18, seed=0).heatmaps
    one, two = [[[0.0, 0.0, 18.0, 24.0]]], [[[0.0, 0.0, 18.0, 24.0]] * 2]
    for function in (post_process_vitpose, post_process_sapiens2):
        with pytest.raises(ValueError, match=r"boxes: got 1 in 1 images, expected 2, one for each of the heatmaps"):
            function(processor(), outputs(heatmaps), one)
        with pytest.raises(ValueError, match=r"boxes: got \[0.0, 0.0, 1.0\], expected \(left, top, width, height\)"):
            function(processor(), outputs(heatmaps), [[[0.0, 0.0, 1.0]]])
    with pytest.raises(
        ValueError, match=r"target_sizes: got 3, expected 1, one for each image, or 2, one for each box"
    ):
        post_process_vitpose(processor(), outputs(heatmaps), two, target_sizes=[TARGET] * 3)
    with pytest.raises(ValueError, match=r"source_sizes: got None, expected \(height, width\) of each image"):
        post_process_sapiens2(processor(), outputs(heatmaps), two, target_sizes=[TARGET])
    with pytest.raises(ValueError, match=r"target_sizes: got 2, expected 1, one for each image"):
        post_process_sapiens2(processor(), outputs(heatmaps), two, source_sizes=[TARGET], target_sizes=[TARGET] * 2)
    with pytest.raises(ValueError, match=r"kernel_size: got 4, expected an odd positive int"):
        post_process_sapiens2(processor(), outputs(heatmaps), two, kernel_size=4)


def test_swapped_arguments_are_told() -> None:
    processor = SimpleNamespace(size={"width": 192, "height": 256})
    with pytest.raises(TypeError, match=r"processor: got .*, which has no size; expected the image processor first"):
        post_process_pose_estimation(outputs(torch.rand(8, 17, 64, 48)), processor, BOXES)
    for post_process in (post_process_pose_estimation, post_process_vitpose, post_process_sapiens2):
        given = outputs(torch.rand(len(BOXES), 17, 64, 48))
        with pytest.raises(TypeError, match=r"processor: got .*, which has no size; expected the image processor"):
            post_process(BOXES, processor, given)
        for other in (BOXES, given.heatmaps, None, SimpleNamespace(logits=given.heatmaps)):
            with pytest.raises(
                TypeError, match=r"outputs: got .*, which has no tensor of heatmaps; expected the outputs"
            ):
                post_process(processor, other, given)
        for boxes in (None, given, [[10.0, 20.0, 30.0, 40.0]]):
            with pytest.raises(TypeError, match=r"boxes: got .*, expected for each image a list of its boxes"):
                post_process(processor, given, boxes)
    with pytest.raises(TypeError, match=r"outputs_flipped: got .*, which has no tensor of heatmaps"):
        post_process_sapiens2(processor, given, BOXES, given.heatmaps)
