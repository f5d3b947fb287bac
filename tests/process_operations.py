"""Every public operation on inputs of its own: what settings of a process must not change.

As a program (`python -m tests.process_operations results.pt`) it stores what they return in this process.
"""

from __future__ import annotations

import dataclasses
import functools
import importlib.util
import sys
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

import dark_kernels
from dark_kernels import metrics, recipes, testing, transforms

# What an operation returns: the dtype of its inputs, and the backend.
Operation = Callable[[torch.dtype, str], Any]
Results = tuple[Tensor, ...]

_BATCH, _KEYPOINTS, _HEIGHT, _WIDTH = 2, 3, 21, 18
STRIDE = 4.0
KAPPAS = (0.05, 0.08, 0.1)


def uniform(*shape: int, low: float = 0.0, high: float = 1.0, seed: int = 0) -> Tensor:
    """float64 numbers, the same ones for a seed."""
    generator = torch.Generator().manual_seed(seed)
    return low + (high - low) * torch.rand(*shape, generator=generator, dtype=torch.float64)


@functools.cache
def _inputs() -> dict[str, Tensor]:
    """In float64, of which each is a float32."""
    size = torch.tensor([_WIDTH, _HEIGHT], dtype=torch.float64)
    lower = uniform(_BATCH, _KEYPOINTS, 2, 2, low=-1, seed=8).tril() + 2 * torch.eye(2, dtype=torch.float64)
    inputs = {
        "heatmaps": testing.heatmaps_of_kinds(["noisy_blob", "weak_blob"], 1, 2 * 3, _HEIGHT, _WIDTH, seed=3),
        "bytes": testing.heatmaps_of_kinds(["noisy_blob", "noise"], 1, 2 * 3, _HEIGHT, _WIDTH, seed=4) * 255,
        "flipped": testing.heatmaps_of_kinds(["noisy_blob", "weak_blob"], 1, 2 * 3, _HEIGHT, _WIDTH, seed=5),
        "offsets": uniform(_BATCH, _KEYPOINTS, 2, _HEIGHT, _WIDTH, low=-1, seed=6),
        "transforms": uniform(_BATCH, 2, 3, low=-4, high=4, seed=7),
        "keypoints": uniform(_BATCH, _KEYPOINTS, 2, seed=9) * size,
        "targets": uniform(_BATCH, _KEYPOINTS, 2, seed=10) * size * STRIDE,
        "weights": uniform(_BATCH, _KEYPOINTS, low=0.5, seed=11),
        "covariances": lower @ lower.mT,
        "maps": uniform(_BATCH, _KEYPOINTS, 3 * 5, _HEIGHT, _WIDTH, low=-1, seed=12),
        "features": uniform(_BATCH, 40, _HEIGHT, _WIDTH, low=-1, seed=13),
        "head": uniform(_KEYPOINTS * 5, 40, low=-0.1, high=0.1, seed=14),
        "bias": uniform(_KEYPOINTS * 5, low=-0.1, high=0.1, seed=15),
        "simcc_x": torch.softmax(8 * uniform(_BATCH, _KEYPOINTS, 2 * _WIDTH, seed=16), -1),
        "simcc_y": torch.softmax(8 * uniform(_BATCH, _KEYPOINTS, 2 * _HEIGHT, seed=17), -1),
        "samples": uniform(_BATCH, _KEYPOINTS, 30, 2, high=16.0, seed=18),
        "poses": uniform(2, 7, _KEYPOINTS, 2, high=40.0, seed=19),
        "areas": uniform(2, 7, low=2000.0, high=4000.0, seed=20),
        "scores": uniform(2, 7, seed=21),
        "many_maps": testing.gaussian_blobs(8, 17, 64, 48, seed=22, dtype=torch.float64).heatmaps,
        "many_keypoints": uniform(8, 17, 2, high=47.0, seed=23),
    }
    inputs = {name: value.float().double() for name, value in inputs.items()}
    for name in ("heatmaps", "bytes", "flipped"):
        inputs[name] = inputs[name].reshape(_BATCH, _KEYPOINTS, _HEIGHT, _WIDTH)
    inputs["similarities"] = uniform(2, 4, 7, low=0.8, seed=24).float().double()
    return inputs


@functools.cache
def _integers() -> dict[str, Tensor]:
    return {"flip_indices": torch.tensor([0, 2, 1]), "image_ids": torch.tensor([3, 1, 3, 1, 3, 3, 1])}


@functools.cache
def _input(name: str, dtype: torch.dtype) -> Tensor:
    return _inputs()[name].to(dtype)


def prepare() -> None:
    """Make all inputs, of which none depends on what is set later."""
    _integers()
    for name in _inputs():
        for dtype in (torch.float32, torch.float64):
            _input(name, dtype)


def _decode(recipe: recipes.Recipe) -> Operation:
    maps = "bytes" if recipe == recipes.MEGVII else "heatmaps"
    return lambda dtype, backend: dark_kernels.decode(_input(maps, dtype), recipe, recipe.has_hessian, backend=backend)


def _decode_in_the_image(dtype: torch.dtype, backend: str) -> Any:
    return dark_kernels.decode(
        _input("heatmaps", dtype), recipes.FIT, covariance=True, flipped=_input("flipped", dtype),
        flip_indices=_integers()["flip_indices"], image_transform=_input("transforms", dtype), backend=backend,
    )  # fmt: skip


def _decode_logits(activation: str, score: str) -> Operation:
    """Heatmaps with logits of up to 4."""
    recipe = dataclasses.replace(recipes.MMPOSE_UDP, activation=activation, score=score)
    return lambda dtype, backend: dark_kernels.decode(4 * _input("heatmaps", dtype), recipe, True, backend)


def _gradients(function: Callable[..., Tensor], *names: str) -> Operation:
    """The value of a function of inputs and, where gradients are on, those by each input."""

    def run(dtype: torch.dtype, backend: str) -> Results:
        leaves = [_input(name, dtype).detach() for name in names]
        if not torch.is_grad_enabled():
            return (function(*leaves, dtype=dtype, backend=backend),)
        leaves = [leaf.requires_grad_() for leaf in leaves]
        loss = function(*leaves, dtype=dtype, backend=backend)
        return loss, *torch.autograd.grad(loss.sum(), leaves)

    return run


def _gaussian_nll(maps: Tensor, channels: int, dtype: torch.dtype, backend: str, **options: Any) -> Tensor:
    mean, log_var = maps[:, :, :2], maps[:, :, 2 : 2 + channels]
    target, weight = _input("targets", dtype), _input("weights", dtype)
    return dark_kernels.gaussian_nll(mean, log_var, target, STRIDE, weight, backend=backend, **options)


def _linear_gaussian_nll(
    features: Tensor, head: Tensor, bias: Tensor, dtype: torch.dtype, backend: str, **options: Any
) -> Tensor:
    return dark_kernels.linear_gaussian_nll(
        features, head, bias, _input("targets", dtype), STRIDE, coordinates="offset", backend=backend, **options
    )


def _gaussian_mixture_nll(maps: Tensor, dtype: torch.dtype, backend: str) -> Tensor:
    by_component = maps[:, :, :12].unflatten(2, (3, 4))
    logits, mean, log_var = by_component[:, :, :, 0], by_component[:, :, :, 1:3], by_component[:, :, :, 3]
    return dark_kernels.gaussian_mixture_nll(
        logits, mean, log_var, _input("targets", dtype), STRIDE, coordinates="offset", backend=backend
    )


def _heatmap_loss(name: str, **options: Any) -> Operation:
    def loss(maps: Tensor, dtype: torch.dtype, backend: str) -> Tensor:
        function = getattr(dark_kernels, name)
        maps = maps.sigmoid() if name == "heatmap_focal" else maps
        return function(maps, _input("keypoints", dtype), backend=backend, **options)

    return _gradients(loss, "heatmaps")


def _head(dtype: torch.dtype, backend: str) -> Results:
    head = dark_kernels.nn.DARKHead(40, _KEYPOINTS, "full", device="cpu", dtype=dtype)
    head.load_state_dict({"weight": _input("head", dtype)[:, :, None, None], "bias": _input("bias", dtype)})
    return head.at(_input("features", dtype), _input("targets", dtype))


def _metrics(dtype: torch.dtype, backend: str) -> Results:
    coords, targets = _input("keypoints", dtype), _input("targets", dtype) / STRIDE
    covariances = 20 * _input("covariances", dtype)
    found = metrics.distances(coords, targets)
    return (
        found,
        metrics.pckh(coords, targets, _input("weights", dtype)[:, 0] * 20),
        metrics.squared_distances(coords, covariances, targets),
        metrics.coverage(coords, covariances, targets),
        metrics.calibration_error(coords, covariances, targets),
        metrics.negative_log_likelihood(coords, covariances, targets),
        metrics.sigmas(covariances),
        metrics.sharpness(covariances),
        metrics.rank_correlation(found.flatten(), _input("weights", dtype).flatten()),
    )


def _transforms(dtype: torch.dtype, backend: str) -> Results:
    size, boxes = (_WIDTH, _HEIGHT), _input("poses", dtype)[0, :, :2].flatten(1) + 1
    center, scale = transforms.center_scale_from_boxes(boxes, (192, 256))
    made = (transforms.darkpose, transforms.mmpose_legacy, transforms.mmpose)
    return center, scale, *(make(center, scale, size) for make in made)


def _nms(function: str, **options: Any) -> Operation:
    def run(dtype: torch.dtype, backend: str) -> Any:
        poses, scores, areas = (_input(name, dtype) for name in ("poses", "scores", "areas"))
        if "image_ids" in options:
            options["image_ids"] = _integers()["image_ids"]
            poses, scores, areas = poses[0], scores[0], areas[0]
        return getattr(dark_kernels, function)(poses, scores, areas, 0.2, kappas=KAPPAS, backend=backend, **options)

    return run


def _oks(**options: Any) -> Operation:
    def run(dtype: torch.dtype, backend: str) -> Tensor:
        poses, areas = _input("poses", dtype), _input("areas", dtype)
        return dark_kernels.oks(poses, poses.flip(1), areas, areas, KAPPAS, backend=backend, **options)

    return run


def _numbers(values: Any) -> Tensor:
    """What an operation returns that is no tensor."""
    return torch.tensor(values, dtype=torch.float64, device="cpu")


def _results(dtype: torch.dtype, **options: Any) -> list[dict[str, Any]]:
    poses, scores = _input("poses", dtype)[0], _input("scores", dtype)[0]
    keypoints = dark_kernels.Keypoints(poses, scores[:, None].expand(poses.shape[:2]))
    return metrics.coco_results(keypoints, [1, 1, 1, 2, 2, 3, 3], **options)


def _coco_results(dtype: torch.dtype, backend: str) -> Tensor:
    found = _results(dtype, pose_scores=[0.5, 0.25, 1, 2, 3, 4, 5]) + _results(dtype)
    return _numbers([[each["score"], *each["keypoints"]] for each in found])


def _average_precision(dtype: torch.dtype, backend: str) -> Results:
    """Of two persons an image in another order, some keypoints of which are swapped, a little and half a pixel off."""
    results, people = _results(dtype), []
    for index, (each, area) in enumerate(zip(results, _input("areas", torch.float64)[0].tolist(), strict=True)):
        numbers = [number + 0.5 + index / 10 for number in each["keypoints"]]
        numbers[2::3] = [2] * _KEYPOINTS
        numbers = numbers[3:6] + numbers[:3] + numbers[6:] if index % 2 else numbers
        people.append(
            {"id": index + 1, "image_id": each["image_id"], "category_id": 1, "area": area, "keypoints": numbers}
        )
    annotations = {"images": [{"id": 1}, {"id": 2}, {"id": 3}], "annotations": people}
    found = []
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", metrics.AnnotationWarning)
        for symmetric in (None, [(0, 1)]):
            statistics = metrics.oks_average_precision(results, annotations, KAPPAS, area="bbox", symmetric=symmetric)
            found.append(_numbers(list(statistics.values())))
    return tuple(found)


OPERATIONS: dict[str, Operation] = {
    **{f"decode-{recipe.name}": _decode(recipe) for recipe in recipes.ALL},
    "decode-flip-image": _decode_in_the_image,
    "decode-sigmoid": _decode_logits("sigmoid", "mass"),
    "decode-softmax": _decode_logits("softmax", "peak"),
    "decode_offsets": lambda dtype, backend: dark_kernels.decode_offsets(
        torch.cat([_input("heatmaps", dtype)[:, :, None], _input("offsets", dtype)], 2).flatten(1, 2), backend=backend
    ),
    "find_peaks": lambda dtype, backend: dark_kernels.find_peaks(
        _input("heatmaps", dtype), 3, 0.1, backend=backend, covariance=True
    ),
    "find_peaks-fit": lambda dtype, backend: dark_kernels.find_peaks(
        _input("heatmaps", dtype), 2, 0.2, recipe=recipes.FIT, backend=backend, covariance=True
    ),
    "decode_simcc": lambda dtype, backend: dark_kernels.decode_simcc(
        _input("simcc_x", dtype), _input("simcc_y", dtype), 2.0, True, 2.0, visibility=True, backend=backend
    ),
    "decode_simcc-softmax": lambda dtype, backend: dark_kernels.decode_simcc(
        _input("simcc_x", dtype), _input("simcc_y", dtype), 2.0, True, 2.0, activation="softmax", logit_scale=8.0,
        backend=backend,
    ),
    "gaussian_nll": _gradients(functools.partial(_gaussian_nll, channels=2), "maps"),
    "gaussian_nll-cholesky": _gradients(functools.partial(_gaussian_nll, channels=3, coordinates="offset"), "maps"),
    "gaussian_nll-laplace": _gradients(functools.partial(_gaussian_nll, channels=1, distribution="laplace"), "maps"),
    "linear_gaussian_nll": _gradients(_linear_gaussian_nll, "features", "head", "bias"),
    "linear_gaussian_nll-none": _gradients(
        functools.partial(_linear_gaussian_nll, reduction="none"), "features", "head", "bias"
    ),
    "gaussian_mixture_nll": _gradients(_gaussian_mixture_nll, "maps"),
    "encode": lambda dtype, backend: dark_kernels.encode(
        _input("keypoints", dtype), (_HEIGHT, _WIDTH), dtype=dtype, backend=backend
    ),
    "heatmap_mse": _heatmap_loss("heatmap_mse"),
    "heatmap_mse-topk": _heatmap_loss("heatmap_mse", topk=2),
    "heatmap_adaptive_wing": _heatmap_loss("heatmap_adaptive_wing"),
    "heatmap_focal": _heatmap_loss("heatmap_focal"),
    "heatmap_cross_entropy": _heatmap_loss("heatmap_cross_entropy"),
    "heatmap_js": _heatmap_loss("heatmap_js"),
    "soft_argmax": _gradients(
        lambda maps, dtype, backend: dark_kernels.soft_argmax(maps, 2.0, backend=backend), "heatmaps"
    ),
    "oks": _oks(),
    "oks-symmetric": _oks(symmetric=[(0, 2)]),
    "oks-symmetric-pose": _oks(symmetric=torch.tensor([[0, 2]], device="cpu"), swap="pose"),
    "oks_nms": _nms("oks_nms"),
    "oks_nms-images": _nms("oks_nms", image_ids=None),
    "soft_oks_nms": _nms("soft_oks_nms"),
    "soft_oks_nms-images": _nms("soft_oks_nms", method="linear", image_ids=None),
    "sample_keypoints": lambda dtype, backend: dark_kernels.sample_keypoints(
        _input("keypoints", dtype), _input("covariances", dtype), 5, 3, backend=backend
    ),
    "vote": lambda dtype, backend: dark_kernels.vote(
        _input("samples", dtype), _input("heatmaps", dtype).clamp(min=0.01), backend=backend
    ),
    "vote-bandwidth": lambda dtype, backend: dark_kernels.vote(_input("samples", dtype), None, 2.0, backend=backend),
    "variance_voting": lambda dtype, backend: dark_kernels.variance_voting(
        _input("poses", dtype), 1 + _input("poses", dtype)[..., 0] / 40, _input("similarities", dtype), backend=backend
    ),
    "decode-many": lambda dtype, backend: dark_kernels.decode(_input("many_maps", dtype), backend=backend),
    "heatmap_mse-many": _gradients(
        lambda maps, dtype, backend: dark_kernels.heatmap_mse(
            maps, _input("many_keypoints", dtype), backend=backend
        ),
        "many_maps",
    ),
    "head": _head,
    "metrics": _metrics,
    "coco_results": _coco_results,
    "transforms": _transforms,
}  # fmt: skip
# Operations without a choice of backend.
ALONE = ("average_precision", "coco_results", "head", "metrics", "transforms")
if importlib.util.find_spec("faster_coco_eval") is not None:  # the extra `metrics`
    OPERATIONS["average_precision"] = _average_precision


def run(name: str, dtype: torch.dtype, backend: str) -> Results:
    """What an operation returns, tensors alone."""
    results = OPERATIONS[name](dtype, backend)
    results = (results,) if isinstance(results, Tensor) else results
    return tuple(each.detach() for each in results if isinstance(each, Tensor))


def forget() -> None:
    """Drop what the package has kept of earlier calls."""
    for name, module in list(sys.modules.items()):
        if name.startswith("dark_kernels."):
            for value in vars(module).values():
                if hasattr(value, "cache_clear"):
                    value.cache_clear()


if __name__ == "__main__":
    stored = {
        (name, backend): run(name, torch.float32, backend)
        for name in OPERATIONS
        for backend in (("eager",) if name in ALONE else ("eager", "reference"))
    }
    torch.save(stored, Path(sys.argv[1]))
