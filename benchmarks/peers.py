"""Others that do the same job, or a part of it that they can't do without.

Each is made by a function that returns it, or raises `NotInstalled` with the reason. A peer whose output is wrong is
reported as wrong (`Wrong`) and not timed. Decoders take [B, K, H, W] and return coordinates [B, K, 2] and scores
[B, K].
"""

from __future__ import annotations

import importlib
import math
import sys
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from torch import Tensor

from dark_kernels import Keypoints, Recipe, recipes, transforms
from dark_kernels.recipes import simcc_kernel_size

Decoder = Callable[[Tensor], tuple[Tensor, Tensor]]


class NotInstalled(Exception):
    """A peer can't run here; the message says why."""


class Wrong(Exception):
    """A peer's output is not what its own definition says; the message says by how much."""


def _module(name: str, *needed: str) -> Any:
    """An installed module that has what is needed of it."""
    package = name.partition(".")[0]
    what = "is not installed"
    try:
        importlib.import_module(package)
        what = "can't be used here"
        module = importlib.import_module(name)
    except Exception as error:  # a package whose own dependencies are missing or broken raises anything
        raise NotInstalled(f"{package} {what} ({type(error).__name__}: {_first_line(error)})") from error
    missing = [attribute for attribute in needed if not hasattr(module, attribute)]
    if missing:
        version = getattr(importlib.import_module(package), "__version__", "of unknown version")
        raise NotInstalled(f"{package} {version} has no {name}.{missing[0]}")
    return module


def compiled(function: Callable[..., Any], run: Callable[[Callable[..., Any]], Any]) -> Callable[..., Any]:
    """`torch.compile(function)`, once `run` has run it, so that nothing is left to compile.

    Raises:
        NotInstalled: It does not compile here: no C++ compiler, no Triton, or something that Dynamo can't trace.
    """
    torch._dynamo.reset()
    candidate = torch.compile(function, dynamic=False)
    try:
        run(candidate)
    except Exception as error:
        raise NotInstalled(f"torch.compile fails here ({type(error).__name__}: {_first_line(error)})") from error
    return candidate


def _first_line(error: Exception) -> str:
    return (str(error).strip().splitlines() or ["no reason given"])[0]


# --- decoders -------------------------------------------------------------------------------------------------


def opencv_blur_loop(kernel_size: int = 11) -> Callable[[Tensor], Tensor]:
    """A loop of `cv2.GaussianBlur(map, (k, k), 0)` over the maps of [B, K, H, W] float32: blurred maps.

    Not a decoder, only what nearly every published DARK decoder does first (the padding by hand, the
    rescaling, the argmax and the Taylor step come on top, per map, in Python). Borders as OpenCV's default has
    them: `reflect` in our words.
    """
    cv2 = _module("cv2", "GaussianBlur")
    buffers: dict[torch.Size, Tensor] = {}

    def blur(heatmaps: Tensor) -> Tensor:
        # One buffer for all calls: memory that is new to the process would cost the loop as much again.
        blurred = buffers.setdefault(heatmaps.shape, torch.empty_like(heatmaps))
        for image, blurred_image in zip(heatmaps.numpy(), blurred.numpy(), strict=True):
            for heatmap, blurred_map in zip(image, blurred_image, strict=True):
                cv2.GaussianBlur(heatmap, (kernel_size, kernel_size), 0, dst=blurred_map)
        return blurred

    return blur


def opencv_dark_loop(recipe: Recipe) -> Decoder:
    """DARK as DarkPose and mmpose do it: NumPy's argmax over all maps, then a Python loop with OpenCV's blur, for
    recipes with the opencv blur, zero padding, rescaling and the wide stencil. Maps on a device are copied to the host
    first, as they have to be.

    Source: the DARK paper (F. Zhang et al., CVPR 2020, eq. 4 to 12), and the derivatives of its code.
    """
    cv2 = _module("cv2", "GaussianBlur")
    assert (recipe.blur, recipe.padding, recipe.rescale, recipe.stencil) == ("opencv", "zeros", True, "wide")
    size, border = recipe.kernel_size, recipe.kernel_size // 2

    def log_of_smoothed(heatmap: np.ndarray, padded: np.ndarray, peak: float) -> np.ndarray:
        padded[border:-border, border:-border] = heatmap
        smoothed = cv2.GaussianBlur(padded, (size, size), 0)[border:-border, border:-border]
        largest = smoothed.max()
        if largest > 0:
            smoothed = smoothed * (peak / largest)
        return np.log(np.clip(smoothed, recipe.clip_min, recipe.clip_max))

    def taylor_step(logs: np.ndarray, x: int, y: int) -> tuple[float, float]:
        around = logs[y - 2 : y + 3, x - 2 : x + 3].tolist()
        center = around[2][2]
        dx, dy = (around[2][3] - around[2][1]) / 2, (around[3][2] - around[1][2]) / 2
        dxx = (around[2][4] - 2 * center + around[2][0]) / 4
        dyy = (around[4][2] - 2 * center + around[0][2]) / 4
        dxy = (around[3][3] - around[1][3] - around[3][1] + around[1][1]) / 4
        determinant = dxx * dyy - dxy * dxy
        if determinant == 0:
            return 0.0, 0.0
        return (dxy * dy - dyy * dx) / determinant, (dxy * dx - dxx * dy) / determinant

    def decode(heatmaps: Tensor) -> tuple[Tensor, Tensor]:
        maps = heatmaps.float().cpu().numpy()
        batch, num_keypoints, height, width = maps.shape
        flat = maps.reshape(batch, num_keypoints, -1)
        index, scores = flat.argmax(-1), flat.max(-1)
        coords = np.stack([index % width, index // width], axis=-1).astype(np.float32)
        coords[scores <= 0] = recipe.invalid
        padded = np.zeros((height + 2 * border, width + 2 * border), dtype=np.float32)
        for image in range(batch):
            for keypoint in range(num_keypoints):
                logs = log_of_smoothed(maps[image, keypoint], padded, scores[image, keypoint])
                x, y = (int(coordinate) for coordinate in coords[image, keypoint])
                if scores[image, keypoint] > 0 and 2 <= x <= width - 3 and 2 <= y <= height - 3:
                    coords[image, keypoint] += taylor_step(logs, x, y)
        return torch.from_numpy(coords), torch.from_numpy(scores)

    return decode


def opencv_simcc_loop(sigma: tuple[float, float]) -> Callable[[Tensor, Tensor], tuple[Tensor, Tensor]]:
    """SimCC with DARK as mmpose does it: NumPy's argmax over all axes, then OpenCV's blur of one axis after the other
    and NumPy's derivatives. Takes [B, K, Wx] and [B, K, Wy]; axes on a device are copied to the host first."""
    cv2 = _module("cv2", "GaussianBlur")

    def log_of_smoothed(rows: np.ndarray, kernel_size: int) -> np.ndarray:
        border, smoothed = kernel_size // 2, np.empty_like(rows)
        for row, result in zip(rows, smoothed, strict=True):
            padded = np.pad(row, border)[None]
            blurred = cv2.GaussianBlur(padded, (kernel_size, 1), 0)[0, border : border + row.size]
            result[:] = blurred * (row.max() / blurred.max())
        return np.pad(np.log(np.clip(smoothed, 1e-3, 50)), ((0, 0), (2, 2)), mode="edge")

    def refined(rows: np.ndarray, bins: np.ndarray, axis_sigma: float) -> np.ndarray:
        logs = log_of_smoothed(rows, simcc_kernel_size(axis_sigma))
        before_2, before, center, after, after_2 = (
            np.take_along_axis(logs, bins[:, None] + step, axis=1)[:, 0] for step in range(5)
        )
        return bins - (after - before) / 2 / (1e-9 + (after_2 - 2 * center + before_2) / 4)

    def decode(simcc_x: Tensor, simcc_y: Tensor) -> tuple[Tensor, Tensor]:
        coords, peaks = [], []
        for axis, axis_sigma in zip((simcc_x, simcc_y), sigma, strict=True):
            rows = axis.float().flatten(0, 1).cpu().numpy()
            coords.append(refined(rows, rows.argmax(1), axis_sigma))
            peaks.append(rows.max(1))
        scores = np.minimum(*peaks)
        found = np.where((scores > 0)[:, None], np.stack(coords, axis=-1), -1.0).astype(np.float32)
        shape = simcc_x.shape[:2]
        return torch.from_numpy(found).view(*shape, 2), torch.from_numpy(scores).view(shape)

    return decode


def transformers_vitpose(kernel_size: int = 11) -> Decoder:
    """Heatmap half of transformers' `VitPoseImageProcessor.post_process_pose_estimation`, before it maps the
    keypoints to the image: NumPy and SciPy on the host."""
    module = _module(
        "transformers.models.vitpose.image_processing_vitpose",
        "get_keypoint_predictions",
        "post_dark_unbiased_data_processing",
    )

    def decode(heatmaps: Tensor) -> tuple[Tensor, Tensor]:
        maps = heatmaps.float().cpu().numpy()
        coords, scores = module.get_keypoint_predictions(maps)
        coords = module.post_dark_unbiased_data_processing(coords, maps, kernel=kernel_size)
        return torch.from_numpy(np.asarray(coords)), torch.from_numpy(scores[..., 0])

    return decode


def transformers_sapiens(kernel_size: int = 11) -> Decoder:
    """Heatmap half of transformers' `Sapiens2ImageProcessor.post_process_pose_estimation`, before it maps the
    keypoints to the image: PyTorch, on the heatmaps' own device."""
    module = _module(
        "transformers.models.sapiens2.image_processing_sapiens2",
        "get_keypoint_predictions",
        "post_dark_unbiased_data_processing",
    )

    def decode(heatmaps: Tensor) -> tuple[Tensor, Tensor]:
        maps = heatmaps.float()
        keypoints, scores = module.get_keypoint_predictions(maps)
        return module.post_dark_unbiased_data_processing(keypoints, maps, kernel_size), scores

    return decode


def kornia_soft_argmax(temperature: float = 1.0) -> Callable[[Tensor], Tensor]:
    """kornia's `spatial_soft_argmax2d`: coordinates [B, K, 2]. Another estimator than a decoder: the mean position
    under the softmax of a map (times what kornia calls its temperature), and not its peak."""
    module = _module("kornia.geometry.subpix", "spatial_soft_argmax2d")
    temperatures: dict[torch.device, Tensor] = {}

    def decode(heatmaps: Tensor) -> Tensor:
        if heatmaps.device not in temperatures:
            temperatures[heatmaps.device] = torch.full((), temperature, device=heatmaps.device)
        coords: Tensor = module.spatial_soft_argmax2d(heatmaps, temperatures[heatmaps.device], False)
        return coords

    return decode


def softmax_and_grid(heatmaps: Tensor, beta: float) -> Tensor:
    """Expected coordinates [B, K, 2] as training scripts write them: a softmax, and its products with two grids."""
    height, width = heatmaps.shape[-2:]
    probability = (beta * heatmaps).flatten(2).softmax(dim=-1).view(heatmaps.shape)
    x = torch.arange(width, dtype=heatmaps.dtype, device=heatmaps.device)
    y = torch.arange(height, dtype=heatmaps.dtype, device=heatmaps.device)[:, None]
    return torch.stack([(probability * x).sum((-2, -1)), (probability * y).sum((-2, -1))], dim=-1)


def max_pool_and_topk(heatmaps: Tensor, max_peaks: int) -> tuple[Tensor, Tensor]:
    """Local maxima as most bottom-up decoders find them: values and flat indices, [B, K, max_peaks] each."""
    pooled = torch.nn.functional.max_pool2d(heatmaps, 3, 1, 1)
    best = torch.where(heatmaps == pooled, heatmaps, 0.0).flatten(2).topk(max_peaks)
    return best.values, best.indices


def import_torchvision() -> None:
    """`import torchvision`, where it was compiled for another PyTorch as well: for CUDA, say, beside a CPU build.

    It then lacks its operators, and its import fails because it wants to describe two of them. Nothing here runs them.
    """
    try:
        importlib.import_module("torchvision")
    except RuntimeError:
        for module in [module for module in sys.modules if module.partition(".")[0] == "torchvision"]:
            del sys.modules[module]
        for name in ("nms", "qnms"):
            torch.library.define(f"torchvision::{name}", "(Tensor boxes, Tensor scores, float threshold) -> Tensor")
        importlib.import_module("torchvision")


def transformers_processor(name: str) -> Any:
    """An image processor of transformers, with its default sizes."""
    try:
        import_torchvision()
    except ImportError as error:
        raise NotInstalled(f"torchvision is not installed ({_first_line(error)})") from error
    return getattr(_module("transformers", name), name)()


def mmpose_codec(name: str, ours: bool, **options: Any) -> Any:
    """A codec of MMPose, or ours in its place, which is made of it."""
    module = _module("mmpose.codecs", name)
    if ours:
        module, name = importlib.import_module("dark_kernels.integrations.mmpose"), f"DarkKernels{name}"
    return getattr(module, name)(**options)


def darkpose_loop(config: Any, hm: np.ndarray, center: np.ndarray, scale: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """What DarkPose's `get_final_preds` does, with `opencv_dark_loop`: DarkPose is a repository and no package."""
    assert recipes.DARKPOSE.kernel_size == config.TEST.BLUR_KERNEL
    coords, scores = opencv_dark_loop(recipes.DARKPOSE)(torch.from_numpy(hm))
    matrices = transforms.darkpose(torch.from_numpy(center), torch.from_numpy(scale), (hm.shape[3], hm.shape[2]))
    preds = coords @ matrices[:, :, :2].mT + matrices[:, None, :, 2]
    return preds.numpy(), scores[..., None].numpy()


# --- losses ---------------------------------------------------------------------------------------------------


def numpy_targets(
    keypoints: np.ndarray,  # [B, K, 2]
    size: tuple[int, int],
    sigma: float,
    encoding: str,
) -> np.ndarray:
    """Target maps [B, K, H, W] as data loaders make them, one keypoint of one sample after the other, and a batch of
    their samples: of MSRA (`"biased"`) by windows of 3 sigma, of DARK (`"unbiased"`) by whole maps. Every window has to
    reach into its map.

    Source: the papers of `dark_kernels.encode`; the way of their data loaders.
    """
    height, width = size

    def window(target: np.ndarray, point: np.ndarray) -> None:
        radius = round(3 * sigma)
        offset = np.arange(-radius, radius + 1, dtype=np.float32)
        blob = np.exp(-(offset[:, None] ** 2 + offset**2) / (2 * sigma**2))
        x, y = (point + 0.5).astype(np.int64)
        left, right = max(x - radius, 0), min(x + radius + 1, width)
        top, bottom = max(y - radius, 0), min(y + radius + 1, height)
        inside = target[top:bottom, left:right]
        cut = blob[top - y + radius : bottom - y + radius, left - x + radius : right - x + radius]
        np.maximum(inside, cut, out=inside)

    def whole(target: np.ndarray, point: np.ndarray) -> None:
        column, row = np.arange(width, dtype=np.float32), np.arange(height, dtype=np.float32)[:, None]
        blob = np.exp(-((column - point[0]) ** 2 + (row - point[1]) ** 2) / (2 * sigma**2))
        np.maximum(target, blob, out=target)

    draw = window if encoding == "biased" else whole
    samples = []
    for points in keypoints:
        sample = np.zeros((len(points), height, width), dtype=np.float32)
        for target, point in zip(sample, points, strict=True):
            draw(target, point)
        samples.append(sample)
    return np.stack(samples)


def mse_on_numpy_targets(heatmaps: Tensor, keypoints: Tensor, sigma: float, encoding: str) -> Tensor:
    """torch's mse between heatmaps [B, K, H, W] and `numpy_targets`, which are copied to the device: the sum of the
    means of all maps."""
    size = heatmaps.shape[2], heatmaps.shape[3]
    targets = torch.from_numpy(numpy_targets(keypoints.cpu().numpy(), size, sigma, encoding)).to(heatmaps.device)
    return torch.nn.functional.mse_loss(heatmaps.float(), targets, reduction="sum") / (size[0] * size[1])


def gaussian_nll_loop(
    mean: Tensor,  # [B, K, 2, H, W]
    log_var: Tensor,  # [B, K, 1, H, W]
    target: Tensor,  # [B, K, 2]
    stride: float,
) -> Tensor:
    """The isotropic negative log-likelihood, summed, one keypoint after the other: how a training script writes it.
    Means are offsets from the centres of their cells. Both ends of a map are checked."""
    height, width = mean.shape[-2:]
    total = mean.new_zeros(())
    positions = target.tolist()  # once: a transfer a keypoint would be slower still
    for image in range(mean.shape[0]):
        for keypoint in range(mean.shape[1]):
            x, y = positions[image][keypoint]
            if not (math.isfinite(x) and math.isfinite(y)):
                continue
            column, row = math.floor(x / stride), math.floor(y / stride)
            if not (0 <= column < width and 0 <= row < height):
                continue
            center = mean.new_tensor([column + 0.5, row + 0.5]) * stride
            difference = target[image, keypoint] - center - mean[image, keypoint, :, row, column]
            log_variance = log_var[image, keypoint, 0, row, column]
            total = total + log_variance + difference.dot(difference) * torch.exp(-log_variance) / 2
    return total


def conv2d_and_loss(loss_of_maps: Callable[..., Tensor]) -> Callable[..., Tensor]:
    """A head as a convolution over whole maps, and then a loss of its means and log-variances."""

    def loss(features: Tensor, weight: Tensor, bias: Tensor, target: Tensor) -> Tensor:
        num_keypoints = target.shape[1]
        maps = torch.nn.functional.conv2d(features, weight[:, :, None, None], bias)
        mean = maps[:, : 2 * num_keypoints].unflatten(1, (num_keypoints, 2))
        return loss_of_maps(mean, maps[:, 2 * num_keypoints :].unflatten(1, (num_keypoints, 1)), target)

    return loss


# --- samples --------------------------------------------------------------------------------------------------


def randn_and_product(means: Tensor, covariances: Tensor, num_samples: int) -> Tensor:
    """Samples [B K, S, 2] of means [B, K, 2] and covariances [B, K, 2, 2] by torch's own generator."""
    normals = torch.randn(*means.shape[:-1], num_samples, 2, device=means.device)
    factors = torch.linalg.cholesky_ex(covariances).L
    return torch.baddbmm(means.flatten(0, 1)[:, None], normals.flatten(0, 1), factors.flatten(0, 1).mT)


def grid_sample_and_sums(
    samples: Tensor,  # [B, K, S, 2]
    heatmaps: Tensor,  # [B, K, H, W]
) -> Keypoints:
    """Mean and covariance of samples, weighed by torch's own bilinear sampling of the maps, which end in zeros beyond
    the border, as for `vote`."""
    batch, num_keypoints, height, width = heatmaps.shape
    num_samples, samples = samples.shape[2], samples.flatten(0, 1)
    x, y = samples.unbind(-1)  # a tensor of two numbers would be a copy from the host, which nothing can capture
    grid = torch.stack([x * (2 / (width - 1)) - 1, y * (2 / (height - 1)) - 1], dim=-1)
    maps = heatmaps.flatten(0, 1)[:, None]
    weights = torch.nn.functional.grid_sample(maps, grid[:, None], align_corners=True)[:, 0, 0]
    weights = weights.clamp(min=0)[..., None]
    total = weights.sum(1)
    mean = (weights * samples).sum(1) / total
    difference = samples - mean[:, None]
    covariance = (weights * difference).mT @ difference / total[..., None]
    shape = batch, num_keypoints
    scores = (total / num_samples).view(shape)
    return Keypoints(mean.view(*shape, 2), scores, covariance.view(*shape, 2, 2))


# --- poses ----------------------------------------------------------------------------------------------------


def numpy_oks_nms_loop(
    poses: Tensor,  # [B, N, K, 2]
    scores: Tensor,  # [B, N]
    areas: Tensor,  # [B, N]
    kappas: tuple[float, ...],
    threshold: float,
) -> list[np.ndarray]:
    """Suppression as pose libraries have it: on the host, one image and one kept pose after the other, the others at
    once in NumPy. Indices of the kept poses of each image, the best first."""
    variances = (2 * np.array(kappas)) ** 2
    kept = []
    for image_poses, image_scores, image_areas in zip(
        poses.cpu().numpy(), scores.cpu().numpy(), areas.cpu().numpy(), strict=True
    ):
        left = np.argsort(-image_scores, kind="stable")
        kept_here = []
        while left.size:
            best, left = left[0], left[1:]
            kept_here.append(best)
            squares = ((image_poses[left] - image_poses[best]) ** 2).sum(-1)
            area = (image_areas[left] + image_areas[best]) / 2 + 2.2e-16
            similarity = np.exp(-squares / variances / area[:, None] / 2).mean(1)
            left = left[similarity <= threshold]
        kept.append(np.array(kept_here))
    return kept
