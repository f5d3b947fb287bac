"""A snapshot of what users write: changing it is a decision, and this file is where it is made."""

from __future__ import annotations

import importlib
import inspect
import pkgutil
import re
import typing

import pytest
import torch

import dark_kernels
from dark_kernels import (
    KeptPoses,
    Keypoints,
    Peaks,
    Recipe,
    SimCCKeypoints,
    decode,
    decode_offsets,
    decode_simcc,
    draw,
    find_peaks,
    gaussian_mixture_nll,
    metrics,
    nn,
    recipes,
    soft_argmax,
    testing,
    transforms,
)
from dark_kernels.integrations import darkpose, transformers

MODULES = [module.name for module in pkgutil.walk_packages(dark_kernels.__path__, "dark_kernels.")]
ROWS = [
    "ARGMAX", "DARKPOSE", "FIT", "MATCHED", "MEGVII", "MMPOSE_DARK", "MMPOSE_LEGACY_UDP", "MMPOSE_UDP", "QUARTER",
    "QUARTER_LEGACY", "SAPIENS_HF", "VITPOSE_HF",
]  # fmt: skip
HEATMAP_LOSSES = [
    "heatmap_adaptive_wing", "heatmap_cross_entropy", "heatmap_focal", "heatmap_js", "heatmap_mse",
]  # fmt: skip


def test_package() -> None:
    assert {"Keypoints", "Recipe", "__version__", "decode", "nn", "recipes"} <= set(dark_kernels.__all__)
    assert {"SimCCKeypoints", "decode_offsets", "decode_simcc", "soft_argmax"} <= set(dark_kernels.__all__)
    assert {"COCO_KAPPAS", "KeptPoses", "oks", "oks_nms", "soft_oks_nms"} <= set(dark_kernels.__all__)
    assert {"metrics", "sample_keypoints", "variance_voting", "vote"} <= set(dark_kernels.__all__)
    assert {"encode", "gaussian_mixture_nll", *HEATMAP_LOSSES} <= set(dark_kernels.__all__)
    assert re.fullmatch(r"\d+\.\d+\.\d+([ab.]\S+)?", dark_kernels.__version__)


def test_draw() -> None:
    assert draw.__all__ == sorted(draw.__all__, key=lambda name: (not name.isupper(), name.lower() == name, name))
    assert list(draw.SKELETONS) == ["coco", "coco_wholebody", "hand", "face", "mpii"]
    parameters = inspect.signature(draw.poses).parameters
    assert {name: p.default for name, p in parameters.items() if p.default is not p.empty} == {
        "scores": None, "covariances": None, "skeleton": None, "threshold": 0.0, "n_sigma": 2.0, "marker": "dot",
        "write_scores": False, "colours": None, "scale": None,
    }  # fmt: skip


def test_recipes() -> None:
    assert {"ALL", *ROWS, "Recipe", "blur_taps", "get", "opencv_taps", "simcc_kernel_size"} <= set(recipes.__all__)
    assert {recipe.name.upper() for recipe in recipes.ALL} == set(ROWS)


def test_transforms_and_integrations() -> None:
    assert transforms.__all__ == ["center_scale_from_boxes", "darkpose", "mmpose", "mmpose_legacy"]
    assert darkpose.__all__ == ["get_final_preds"]
    assert list(inspect.signature(darkpose.get_final_preds).parameters) == ["config", "hm", "center", "scale"]
    assert transformers.__all__ == ["post_process_pose_estimation", "post_process_sapiens2", "post_process_vitpose"]
    arguments = {
        transformers.post_process_vitpose: {"kernel_size": 11, "threshold": None, "target_sizes": None},
        transformers.post_process_sapiens2: {
            "outputs_flipped": None, "kernel_size": 11, "threshold": None, "source_sizes": None, "target_sizes": None,
        },
    }  # fmt: skip
    for function, expected in arguments.items():
        parameters = inspect.signature(function).parameters
        assert list(parameters) == ["processor", "outputs", "boxes", *expected]
        assert {name: p.default for name, p in parameters.items() if p.default is not p.empty} == expected


def test_decode() -> None:
    signature = inspect.signature(decode)
    assert {name: parameter.default for name, parameter in signature.parameters.items()} == {
        "heatmaps": inspect.Parameter.empty,
        "recipe": recipes.DARKPOSE,
        "covariance": False,
        "backend": "auto",
        "flipped": None,
        "flip_indices": None,
        "shift_flipped": False,
        "image_transform": None,
        "keypoint_indices": None,
    }
    by_position = [name for name, one in signature.parameters.items() if one.kind is one.POSITIONAL_OR_KEYWORD]
    assert by_position == ["heatmaps", "recipe", "covariance", "backend"]
    assert typing.get_origin(typing.get_type_hints(decode)["return"]) is Keypoints


def test_decode_offsets() -> None:
    signature = inspect.signature(decode_offsets)
    assert {name: parameter.default for name, parameter in signature.parameters.items()} == {
        "heatmaps": inspect.Parameter.empty,
        "kernel_size": 11,
        "radius_factor": 0.0546875,
        "backend": "auto",
        "image_transform": None,
    }


def test_decode_simcc() -> None:
    signature = inspect.signature(decode_simcc)
    assert {name: parameter.default for name, parameter in signature.parameters.items()} == {
        "simcc_x": inspect.Parameter.empty,
        "simcc_y": inspect.Parameter.empty,
        "sigma": None,
        "dark": False,
        "split_ratio": 1.0,
        "score": "min",
        "visibility": False,
        "beta": 150.0,
        "backend": "auto",
        "activation": "none",
        "logit_scale": 1.0,
    }
    assert typing.get_origin(typing.get_type_hints(decode_simcc)["return"]) is SimCCKeypoints


def test_soft_argmax() -> None:
    signature = inspect.signature(soft_argmax)
    assert {name: parameter.default for name, parameter in signature.parameters.items()} == {
        "heatmaps": inspect.Parameter.empty,
        "beta": 1.0,
        "backend": "auto",
    }


def test_find_peaks() -> None:
    assert {"Peaks", "find_peaks"} <= set(dark_kernels.__all__)
    signature = inspect.signature(find_peaks)
    assert {name: parameter.default for name, parameter in signature.parameters.items()} == {
        "heatmaps": inspect.Parameter.empty,
        "max_peaks": inspect.Parameter.empty,
        "threshold": 0.0,
        "window": 3,
        "recipe": recipes.DARKPOSE,
        "plateau": "first",
        "backend": "auto",
        "covariance": False,
    }
    assert signature.parameters["covariance"].kind is inspect.Parameter.KEYWORD_ONLY
    assert typing.get_origin(typing.get_type_hints(find_peaks)["return"]) is Peaks
    assert Peaks._fields == ("coords", "scores", "counts", "covariances")


def test_gaussian_mixture_nll() -> None:
    signature = inspect.signature(gaussian_mixture_nll)
    assert {name: parameter.default for name, parameter in signature.parameters.items()} == {
        "logits": inspect.Parameter.empty,
        "mean": inspect.Parameter.empty,
        "log_var": inspect.Parameter.empty,
        "target": inspect.Parameter.empty,
        "stride": 4.0,
        "weight": None,
        "coordinates": "absolute",
        "log_var_bounds": None,
        "reduction": "mean",
        "backend": "auto",
    }
    assert all(parameter.kind is inspect.Parameter.POSITIONAL_OR_KEYWORD for parameter in signature.parameters.values())


def test_encode_and_heatmap_mse() -> None:
    defaults = [
        {name: parameter.default for name, parameter in inspect.signature(function).parameters.items()}
        for function in (dark_kernels.encode, dark_kernels.heatmap_mse)
    ]
    empty = inspect.Parameter.empty
    assert list(defaults[0].items()) == [
        ("keypoints", empty), ("size", empty), ("sigma", 2.0), ("encoding", "unbiased"), ("visible", None),
        ("dtype", torch.float32), ("backend", "auto"),
    ]  # fmt: skip
    assert list(defaults[1].items()) == [
        ("heatmaps", empty), ("keypoints", empty), ("sigma", 2.0), ("visible", None), ("weight", None),
        ("encoding", "unbiased"), ("weighting", "mmpose"), ("topk", None), ("empty", "skip"), ("reduction", "mean"),
        ("backend", "auto"),
    ]  # fmt: skip


def test_keypoints_and_recipe() -> None:
    assert Keypoints._fields == ("coords", "scores", "covariances")
    assert SimCCKeypoints._fields == ("coords", "scores", "visibility")
    public = [name for name in vars(Recipe) if not name.startswith("_") and isinstance(vars(Recipe)[name], property)]
    assert public == [
        "operator_arguments", "blur_kernel_size", "blur_sigma", "taps", "target_variance", "known_variance",
        "mass_radius", "expected_sigma", "has_hessian",
    ]  # fmt: skip


def test_kept_poses() -> None:
    assert KeptPoses._fields == ("keep", "indices", "counts", "scores")


def test_metrics() -> None:
    assert metrics.__all__ == sorted(metrics.__all__, key=lambda name: (not name.isupper(), name))
    assert {"calibration_error", "coverage", "negative_log_likelihood", "sharpness"} <= set(metrics.__all__)
    assert {"coco_results", "oks_average_precision", "pckh"} <= set(metrics.__all__)


def test_nn() -> None:
    assert nn.__all__ == [
        "DARKHead", "DARKLoss", "HeatmapAdaptiveWingLoss", "HeatmapCrossEntropyLoss", "HeatmapFocalLoss",
        "HeatmapJSLoss", "HeatmapMSELoss", "SoftArgmax", "TwoStageDecoder", "VarianceSchedule",
    ]  # fmt: skip
    defaults = {
        nn.DARKHead: {
            "covariance": "isotropic", "stride": 4.0, "initial_log_var": None, "coordinates": "absolute",
            "distribution": "gaussian", "log_var_bounds": None, "device": None, "dtype": None,
        },
        nn.DARKLoss: {
            "stride": 4.0, "coordinates": "absolute", "distribution": "gaussian", "beta": 0.0, "log_var_bounds": None,
            "full": False, "reduction": "mean", "backend": "auto",
        },
        nn.HeatmapMSELoss: {
            "sigma": 2.0, "encoding": "unbiased", "weighting": "mmpose", "topk": None, "empty": "skip",
            "reduction": "mean", "backend": "auto",
        },
        nn.TwoStageDecoder: {
            "recipe": recipes.DARKPOSE, "heatmap_stride": None, "heatmap_shift": 0.0, "backend": "auto",
        },
        nn.SoftArgmax: {"beta": 1.0, "backend": "auto"},
        nn.VarianceSchedule: {},
    }  # fmt: skip
    for module, expected in defaults.items():
        parameters = inspect.signature(module).parameters
        assert {name: p.default for name, p in parameters.items() if p.default is not p.empty} == expected


def test_testing() -> None:
    assert testing.__all__ == sorted(testing.__all__, key=lambda name: (not name.isupper(), name.lower() == name, name))


@pytest.mark.parametrize("name", MODULES)
def test_all_names_exist_and_are_documented(name: str) -> None:
    if ".kernels" in name or "._triton" in name:
        pytest.importorskip("triton", reason="Triton is not installed")
    for package in ("mmpose", "supervision"):
        if name == f"dark_kernels.integrations.{package}":
            pytest.importorskip(package, reason=f"{package} is not installed; `make test-integrations` installs it")
    module = importlib.import_module(name)
    assert module.__doc__, f"{name} has no docstring"
    for public in getattr(module, "__all__", []):
        value = getattr(module, public)
        if inspect.isfunction(value) or inspect.isclass(value):
            assert value.__doc__, f"{name}.{public} has no docstring"
