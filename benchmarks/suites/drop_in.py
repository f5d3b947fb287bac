"""The integrations, each against what it replaces: a network's output to keypoints, as a pipeline calls it.

DarkPose is a repository and no package: a loop stands for it. Both are compared with the drop-in on the same numbers in
float64. A package that is not installed leaves out the row of what it has, and with it that of a drop-in which is made
of its classes.
"""

from __future__ import annotations

from collections.abc import Callable
from types import SimpleNamespace
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor
from torch.nn.functional import interpolate

from benchmarks import peers, suite
from benchmarks.suite import READ_ONLY, Case, Group, Suite
from benchmarks.workloads import W1, W4, Workload
from dark_kernels.integrations.darkpose import get_final_preds
from dark_kernels.integrations.transformers import post_process_pose_estimation

OURS, REPLACED, LOOP = "drop-in", "what it replaces", "NumPy + OpenCV loop in DarkPose's place"
# In image pixels. A heatmap pixel is 4 of a codec's, and up to 10 of a crop of 500 pixels.
_TOLERANCE, _PEER_TOLERANCE = 2e-3, 2e-2
_SIGMA = (4.9, 5.66)

CODECS: dict[str, tuple[str, dict[str, Any]]] = {
    "MSRAHeatmap": ("MSRAHeatmap", {"sigma": 2}),
    "MSRAHeatmap unbiased": ("MSRAHeatmap", {"sigma": 2, "unbiased": True}),
    "UDPHeatmap": ("UDPHeatmap", {"sigma": 2}),
    "UDPHeatmap combined": ("UDPHeatmap", {"heatmap_type": "combined"}),
    "MegviiHeatmap": ("MegviiHeatmap", {"kernel_size": 11}),
    "SimCCLabel": ("SimCCLabel", {"sigma": _SIGMA, "simcc_split_ratio": 2.0}),
    "SimCCLabel use_dark": ("SimCCLabel", {"sigma": _SIGMA, "simcc_split_ratio": 2.0, "use_dark": True}),
}
PROCESSORS = {"VitPose": "VitPoseImageProcessor", "Sapiens2": "Sapiens2ImageProcessor"}
DARKPOSE = "get_final_preds"
VARIANTS = (DARKPOSE, *CODECS, *PROCESSORS)


class Output(NamedTuple):
    """What a network returns: maps [B, C, H, W], or [B, K, bins] for two axes."""

    first: Tensor
    second: Tensor | None = None


Poses = tuple[np.ndarray, np.ndarray]  # [B, K, 2] in image pixels, and scores [B, K]


def case_of(workload: Workload, variant: str) -> Case:
    group = f"drop-in {variant} {workload.name} float32"
    replaced = LOOP if variant == DARKPOSE else REPLACED
    return Case(group, "drop-in", workload, (READ_ONLY, OURS, replaced), variant, values="real")


def make_output(case: Case, device: str) -> Output:
    maps = case.heatmaps(device)
    name, _ = CODECS.get(case.variant, (None, None))
    if name == "SimCCLabel":  # the maxima of columns and rows, as fine as a SimCC network's
        return Output(*(interpolate(maps.amax(axis), 8 * maps.shape[-1 - axis % 2], mode="linear") for axis in (2, 3)))
    if name == "MegviiHeatmap":
        return Output(maps * 255)
    if case.variant == "UDPHeatmap combined":
        generator = torch.Generator().manual_seed(12)
        offsets = torch.rand((*maps.shape[:2], 2, *maps.shape[2:]), generator=generator).to(device) * 0.3
        return Output(torch.cat([maps[:, :, None], offsets], 2).flatten(1, 2))
    return Output(maps)


def drop_in_of(case: Case, backend: str) -> Callable[[Output], Poses]:
    """Ours, on whatever backend serves it."""
    if case.variant in CODECS:
        decode = _codec(case, ours=True).batch_decode
        return lambda output: _of_codec(list(zip(*decode(*_axes(output)), strict=True)))
    return _process(case, post_process_pose_estimation if case.variant in PROCESSORS else get_final_preds)


def replaced_of(group: Group) -> Callable[[Output], Poses]:
    case = group.case
    if case.variant in CODECS:
        decode = _codec(case, ours=False).decode
        # SimCC's head has a dimension for an instance, and its DARK overwrites its input.
        lead = (lambda array: array[:, None].copy()) if case.variant.startswith("SimCC") else (lambda array: array)
        return lambda output: _of_codec(
            [decode(*each) for each in zip(*(lead(axis.cpu().numpy()) for axis in _axes(output)), strict=True)]
        )
    if case.variant in PROCESSORS:
        return _process(case, lambda processor, *arguments: processor.post_process_pose_estimation(*arguments))
    peers.opencv_blur_loop()  # which has OpenCV, or says that there is none
    return _process(case, lambda config, hm, *box: peers.darkpose_loop(config, hm.cpu().numpy(), *box))


def _codec(case: Case, ours: bool) -> Any:
    name, options = CODECS[case.variant]
    height, width = case.workload.shape[2:]
    sizes = {"input_size": (4 * width, 4 * height), "heatmap_size": (width, height)}
    if name == "SimCCLabel":
        del sizes["heatmap_size"]
    return peers.mmpose_codec(name, ours, **sizes, **options)


def _axes(output: Output) -> tuple[Tensor, ...]:
    return tuple(each for each in output if each is not None)


def _of_codec(samples: list[Any]) -> Poses:
    keypoints, scores = zip(*samples, strict=True)
    return np.concatenate(keypoints), np.concatenate(scores)


def _process(case: Case, function: Callable[..., Any]) -> Callable[[Output], Poses]:
    """A call of a function that takes crops in images: boxes of 96 x 128 pixels at places that are drawn."""
    places = np.random.default_rng(0).uniform(0, 400, (case.workload.shape[0], 2))
    if case.variant in PROCESSORS:
        processor = peers.transformers_processor(PROCESSORS[case.variant])
        boxes = [[[x, y, 96.0, 128.0]] for x, y in places.tolist()]

        def process(output: Output) -> Poses:
            images = function(processor, SimpleNamespace(heatmaps=output.first), boxes)
            poses = [pose for image in images for pose in image]
            return tuple(np.stack([pose[key].cpu().numpy() for pose in poses]) for key in ("keypoints", "scores"))

        return process
    config = SimpleNamespace(TEST=SimpleNamespace(BLUR_KERNEL=11))
    box = places.astype(np.float32), np.full_like(places, 1.28, dtype=np.float32)

    def preds(output: Output) -> Poses:
        keypoints, scores = (
            np.asarray(each.cpu() if isinstance(each, Tensor) else each)
            for each in function(config, output.first, *box)
        )
        return keypoints, scores[..., 0]

    return preds


def find_truth(group: Group) -> Poses:
    in_float64 = Output(*(None if each is None else each.cpu().double() for each in group.inputs[0]))
    return drop_in_of(group.case, "auto")(in_float64)


def compare(poses: Poses, group: Group, tolerance: float = _TOLERANCE) -> tuple[float, str]:
    """Largest error of the keypoints in pixels; raises Wrong where one, or a score, is off by too much."""
    keypoints, scores = (torch.from_numpy(np.asarray(each)).double() for each in poses)
    expected, expected_scores = (torch.from_numpy(np.asarray(each)).double() for each in group.truth)
    suite.within_share(1e-5, "scores are", scores, expected_scores)
    return suite.within(tolerance, "keypoints are", keypoints, expected), "keypoints in px, against itself in float64"


def compare_replaced(poses: Poses, group: Group) -> tuple[float, str]:
    """Compare what takes differences of logs in float32."""
    return compare(poses, group, _PEER_TOLERANCE)


def num_bytes(case: Case) -> int:
    """Bytes that must move: maps or axes read once, float32 keypoints and scores written."""
    if case.variant.startswith("SimCC"):
        return case.workload.num_maps * (8 * sum(case.workload.shape[2:]) * case.torch_dtype.itemsize + 12)
    of_offsets = 8 * case.workload.num_maps if case.variant == "UDPHeatmap combined" else 0
    return case.workload.decode_bytes(case.torch_dtype) + of_offsets


def _as_maps(output: Output, case: Case) -> Tensor:
    """What has to be read, as maps [B, K, ...]."""
    if output.second is not None:
        return torch.cat([output.first, output.second], -1)[:, :, None]
    return output.first[:, ::3].contiguous() if case.variant == "UDPHeatmap combined" else output.first


SUITE = Suite(
    cases={
        "cpu": tuple(case_of(workload, variant) for variant in VARIANTS for workload in (W1, W4)),
        "cuda": tuple(case_of(W1, variant) for variant in VARIANTS),
    },
    inputs=make_output,
    function=drop_in_of,
    truth=find_truth,
    compare=compare,
    num_bytes=num_bytes,
    rows={
        READ_ONLY: suite.read_only(_as_maps),
        OURS: suite.calls(lambda group: drop_in_of(group.case, "auto"), role="ours", capture="always"),
        REPLACED: suite.calls(
            replaced_of, compare_replaced, capture="never", device_note="on the host, but for Sapiens2"
        ),
        LOOP: suite.calls(replaced_of, compare_replaced, capture="never", device_note="on the host"),
    },
)
