"""What the package owes PyTorch, told once: a row for each way to call a public function.

`test_contract.py` runs every kind of test for every row. A new operation needs a row here, and a kind that does not
apply to it a reason in `without`.
"""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor

import dark_kernels
from dark_kernels import recipes, testing

from .process_operations import KAPPAS, STRIDE, uniform

# The tensors of a call, by the names of the arguments.
Inputs = dict[str, Tensor]


@dataclasses.dataclass(frozen=True)
class Row:
    """A call of a public function, and what holds for it."""

    name: str  # of the function, and behind a hyphen what is special about the call
    inputs: Callable[[int, int], Inputs]  # of a batch and a number of keypoints: small, float32, on the CPU
    options: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    operators: tuple[str, ...] = ()  # that a call goes through, in order
    backward: tuple[str, ...] = ()  # that its backward pass goes through
    leaves: tuple[str, ...] = ()  # inputs that it is differentiable in
    constants: tuple[str, ...] = ()  # inputs that are refused if they require grad
    parameters: tuple[str, ...] = ()  # inputs that do not begin with the batch
    kernels: tuple[int, int] = (1, 0)  # launches of ours, forward and backward
    others: int | None = 0  # PyTorch's own launches of the forward pass; None: however many
    compiler: str = "aot_eager"  # Inductor takes seconds, and sees no more of an operator than its outputs
    without: Mapping[str, str] = dataclasses.field(default_factory=dict)  # kinds of test that do not apply, and why

    @property
    def function(self) -> Callable[..., Any]:
        return getattr(dark_kernels, self.name.partition("-")[0])

    @functools.cached_property
    def names(self) -> tuple[str, ...]:
        """Of the inputs."""
        return tuple(self.inputs(1, 2))

    def __call__(self, inputs: Inputs, backend: str = "auto") -> Any:
        return self.function(**inputs, **self.options, backend=backend)


def tensors(result: Any) -> tuple[Tensor, ...]:
    """What a function returns, without what it leaves out."""
    results = (result,) if isinstance(result, Tensor) else result
    return tuple(each for each in results if each is not None)


# --- inputs ----------------------------------------------------------------------------------------------


def _peaks(batch: int, keypoints: int, seed: int = 1) -> Tensor:
    """Two blobs a map, so that two peaks have covariances: opcheck takes two NaN for different."""
    return torch.cat([_blobs(batch, keypoints, seed), _blobs(batch, keypoints, seed + 1)], dim=3)


def _blobs(batch: int, keypoints: int, seed: int = 1) -> Tensor:
    """Maps whose blobs are far enough from the borders for covariances."""
    return testing.gaussian_blobs(batch, keypoints, 13, 11, margin=5, seed=seed).heatmaps.float()


def _numbers(*shape: int, low: float = 0.0, high: float = 1.0, seed: int = 0) -> Tensor:
    return uniform(*shape, low=low, high=high, seed=seed).float()


def _flip_test(batch: int, keypoints: int) -> Inputs:
    return {
        "heatmaps": _blobs(batch, keypoints),
        "flipped": _blobs(batch, keypoints).flip(1, 3),
        "flip_indices": torch.arange(keypoints).flip(0),
        "keypoint_indices": torch.arange(keypoints).flip(0),
        "image_transform": _numbers(batch, 2, 3, low=1, high=4, seed=2),
    }


def _offset_maps(batch: int, keypoints: int) -> Inputs:
    offsets = _numbers(batch, keypoints, 2, 13, 11, low=-1, seed=3)
    return {"heatmaps": torch.cat([_blobs(batch, keypoints)[:, :, None], offsets], dim=2).flatten(1, 2)}


def _axes(batch: int, keypoints: int) -> Inputs:
    """Two axes of blobs that lie within them."""
    centre = _numbers(batch, keypoints, 2, 1, low=10, high=20, seed=4)
    return {
        name: torch.exp(-((torch.arange(float(width)) - centre[:, :, axis]) ** 2) / 8)
        for axis, (name, width) in enumerate((("simcc_x", 31), ("simcc_y", 40)))
    }


def _labels(batch: int, keypoints: int, people: int | None = None) -> Inputs:
    """Keypoints within maps of 5 by 6 pixels."""
    shape = (batch, keypoints) if people is None else (batch, people, keypoints)
    return {
        "keypoints": _numbers(*shape, 2, high=4, seed=5),
        "visible": torch.ones(shape),
        "sigma": torch.linspace(1, 2, keypoints),
    }


def _maps_to_train(batch: int, keypoints: int) -> Inputs:
    """Probabilities, which all heatmap losses take."""
    return {
        "heatmaps": _numbers(batch, keypoints, 5, 6, low=0.1, high=0.9, seed=6),
        "keypoints": _labels(batch, keypoints)["keypoints"],
    }


def _maps_with_labels(batch: int, keypoints: int) -> Inputs:
    return {
        **_maps_to_train(batch, keypoints),
        **_labels(batch, keypoints, people=2),
        "weight": _numbers(batch, keypoints, low=0.5, seed=7),
    }


def _targets(batch: int, keypoints: int) -> Tensor:
    """In pixels of maps of 3 by 4 cells, of which each is 4 pixels wide."""
    return _numbers(batch, keypoints, 2, high=3 * STRIDE, seed=8)


def _weights(batch: int, keypoints: int) -> Tensor:
    return _numbers(batch, keypoints, low=0.5, seed=9)


def _regression(batch: int, keypoints: int, channels: int = 2) -> Inputs:
    return {
        "mean": _numbers(batch, keypoints, 2, 3, 4, low=-1, high=12, seed=10),
        "log_var": _numbers(batch, keypoints, channels, 3, 4, low=-1, high=3, seed=11),
        "target": _targets(batch, keypoints),
    }


def _head(batch: int, keypoints: int) -> Inputs:
    return {
        "features": _numbers(batch, 3, 3, 4, low=-1, seed=12),
        "weight": _numbers(keypoints * 4, 3, low=-1, seed=13),
        "bias": _numbers(keypoints * 4, low=-1, seed=14),
        "target": _targets(batch, keypoints),
    }


def _mixture(batch: int, keypoints: int) -> Inputs:
    return {
        "logits": _numbers(batch, keypoints, 3, 3, 4, low=-1, seed=15),
        "mean": _numbers(batch, keypoints, 3, 2, 3, 4, low=-1, high=12, seed=16),
        "log_var": _numbers(batch, keypoints, 3, 3, 4, low=-1, high=3, seed=17),
        "target": _targets(batch, keypoints),
    }


def _poses(batch: int, keypoints: int) -> Inputs:
    """Five poses an image."""
    return {
        "poses": _numbers(batch, 5, keypoints, 2, high=20, seed=18),
        "scores": _numbers(batch, 5, seed=19),
        "areas": torch.full((batch, 5), 900.0),
    }


def _pairs(batch: int, keypoints: int) -> Inputs:
    poses = _poses(batch, keypoints)
    return {
        "poses_a": poses["poses"], "poses_b": poses["poses"][:, :2] + 1,
        "areas_a": poses["areas"], "areas_b": poses["areas"][:, :2],
    }  # fmt: skip


def _seen_poses(batch: int, keypoints: int) -> Inputs:
    poses = _poses(batch, keypoints)
    return {**poses, "visible": torch.ones(batch, 5, keypoints) > 0, "mask": poses["scores"] > 0.1}


def _poses_of_images(batch: int, keypoints: int) -> Inputs:
    """As many poses as a batch has entries, of two images."""
    poses = {name: each[:, 0] for name, each in _poses(batch, keypoints).items()}
    return {**poses, "image_ids": 3 - 2 * (torch.arange(batch) % 2)}


def _samples(batch: int, keypoints: int) -> Inputs:
    return {"samples": _numbers(batch, keypoints, 6, 2, low=1, high=9, seed=20)}


def _distributions(batch: int, keypoints: int) -> Inputs:
    lower = _numbers(batch, keypoints, 2, 2, low=-1, seed=21).tril() + 2 * torch.eye(2)
    return {"means": _numbers(batch, keypoints, 2, high=20, seed=22), "covariances": lower @ lower.mT}


# --- rows ------------------------------------------------------------------------------------------------

# What only a function with a gradient has.
OF_GRADIENTS = (
    "compiled_without_a_gradient", "torch_func", "a_second_derivative_raises", "gradcheck",
    "nothing_is_kept_without_a_gradient", "gradients_accumulate_over_uses", "autocast_of_a_network",
)  # fmt: skip
NO_GRADIENT = {
    **dict.fromkeys(OF_GRADIENTS, "it has no gradient"),
    "constants_are_refused_with_a_gradient": "it takes what requires grad, and returns what does not",
}
# What only a function without one has.
GRADIENT = {
    "no_gradient_flows": "it has a gradient",
    "vmap": "test_torch_func has vmap of its gradient",
}
# A row behind another of its function has other numbers in the same graph.
VARIANT = dict.fromkeys(
    (
        "opcheck_of_other_inputs", "compiles_with_all_sizes_dynamic", "compiled_without_a_gradient",
        "the_reference_compiles_whole", "strict", "gradcheck",
    ),
    "the first row of the function has the same graph",
)  # fmt: skip
_ONE_BY_ONE = {"the_reference_compiles_whole": "the definition goes from pose to pose, as the numbers say"}
# Areas that are none become NaN in the graph.
_WRITES_NAN = (
    {"exports_with_a_dynamic_batch_and_survives_a_file": "PyTorch 2.8 writes no NaN of a graph into a file"}
    if torch.__version__ < (2, 9)
    else {}
)
_BLURS = {"interpreted": "a blur of whole maps takes the interpreter seconds, and is tested there in tests/decode"}
_KAPPAS = {"no_keypoints": "kappas say how many keypoints there are"}
_ONE_FLOAT = {"mixed": "it has one input of a floating dtype"}


_GOES_THE_WHOLE_WAY = {"a_known_call_is_repeated": "a gradient is asked for, as a rule, which takes the host longer"}
_SWAPS = {"a_known_call_is_repeated": "PyTorch's own operations swap keypoints"}
_TICKETS = {"a_known_call_is_repeated": "its programs count how many have finished, a stream's on its own"}


def _loss(name: str, inputs: Callable[[int, int], Inputs], **fields: Any) -> Row:
    """A loss of heatmaps."""
    constants = tuple(each for each in inputs(1, 1) if each != "heatmaps")
    without = {**GRADIENT, **_GOES_THE_WHOLE_WAY, **(VARIANT if "-" in name else {}), **fields.pop("without", {})}
    return Row(
        name, inputs, operators=("heatmap_loss",), backward=("heatmap_loss_backward",), leaves=("heatmaps",),
        constants=constants, kernels=(1, 1), without=without, **fields,
    )  # fmt: skip


def _nll(name: str, inputs: Callable[[int, int], Inputs], *leaves: str, **fields: Any) -> Row:
    """A negative log-likelihood."""
    operator = name.partition("-")[0]
    constants = tuple(each for each in inputs(1, 1) if each not in leaves)
    without = {**GRADIENT, **_GOES_THE_WHOLE_WAY, **(VARIANT if "-" in name else {}), **fields.pop("without", {})}
    return Row(
        name, inputs, operators=(operator,), backward=(f"{operator}_backward",), leaves=leaves, constants=constants,
        without=without, **fields,
    )  # fmt: skip


def _decode(name: str, recipe: recipes.Recipe, without: Mapping[str, str] | None = None, **fields: Any) -> Row:
    return Row(
        name,
        lambda batch, keypoints: {"heatmaps": _blobs(batch, keypoints)},
        {"recipe": recipe, "covariance": recipe.has_hessian},
        operators=("decode",),
        without={**NO_GRADIENT, **_ONE_FLOAT, **(VARIANT if "-" in name else {}), **(without or {})},
        **fields,
    )


_BETA = {"gradcheck": "beta-NLL's gradient is not that of its value, by definition"}
_POSES_ARE_THE_BATCH = {
    "vmap": "its first dimension is that of the poses, which are not on their own",
    "strict": "torch.export.load does not find the range of a size that begins a tensor it has unsqueezed",
    "eager_on_a_gpu": "it has to know how full the fullest image is",
}

ROWS = (
    _decode("decode", recipes.DARKPOSE, compiler="inductor"),
    _decode("decode-quarter", recipes.QUARTER, compiler="inductor"),
    _decode("decode-udp", recipes.MMPOSE_UDP),
    _decode("decode-vitpose", recipes.VITPOSE_HF),
    _decode("decode-megvii", dataclasses.replace(recipes.MEGVII, kernel_size=3), _BLURS),
    _decode("decode-fit", recipes.FIT),
    _decode("decode-matched", dataclasses.replace(recipes.MATCHED, blob_sigma=1.0)),
    _decode("decode-softmax", dataclasses.replace(recipes.DARKPOSE, activation="softmax", score="mass")),
    Row(
        "decode-flip_test", _flip_test, {"recipe": recipes.MMPOSE_UDP, "covariance": True, "shift_flipped": True},
        operators=("decode",), parameters=("flip_indices", "keypoint_indices"),
        without={**NO_GRADIENT, "mixed": "both maps have one dtype"},
    ),
    Row(
        "decode_offsets", _offset_maps, {"kernel_size": 3}, operators=("decode",),
        without={**NO_GRADIENT, **_ONE_FLOAT, **_BLURS},
    ),
    Row(
        "find_peaks", lambda batch, keypoints: {"heatmaps": _peaks(batch, keypoints)},
        {"max_peaks": 2, "threshold": 0.0625, "recipe": recipes.MMPOSE_UDP, "covariance": True},
        operators=("find_peaks",), compiler="inductor", without={**NO_GRADIENT, **_ONE_FLOAT},
    ),
    Row(
        "find_peaks-quarter", lambda batch, keypoints: {"heatmaps": _peaks(batch, keypoints)},
        {"max_peaks": 7, "recipe": recipes.QUARTER},
        operators=("find_peaks",), without={**NO_GRADIENT, **_ONE_FLOAT, **VARIANT},
    ),
    Row(
        "find_peaks-matched", lambda batch, keypoints: {"heatmaps": _peaks(batch, keypoints)},
        {"max_peaks": 2, "threshold": 0.0625, "recipe": dataclasses.replace(recipes.MATCHED, blob_sigma=1.0)},
        operators=("find_peaks",), without={**NO_GRADIENT, **_ONE_FLOAT, **VARIANT},
    ),
    Row(
        "decode_simcc", _axes, {"sigma": (2.0, 3.0), "dark": True, "split_ratio": 2.0, "visibility": True},
        operators=("decode_simcc",), without=NO_GRADIENT,
    ),
    Row(
        "decode_simcc-plain", _axes, {"score": "mean"}, operators=("decode_simcc",),
        without={**NO_GRADIENT, **VARIANT},
    ),
    Row(
        "decode_simcc-softmax", _axes,
        {"sigma": 2.0, "dark": True, "visibility": True, "activation": "softmax", "logit_scale": 10.0},
        operators=("decode_simcc",), without={**NO_GRADIENT, **VARIANT},
    ),
    Row(
        "encode", lambda batch, keypoints: {"keypoints": _labels(batch, keypoints)["keypoints"]}, {"size": (5, 6)},
        operators=("encode",), constants=("keypoints",), without={**NO_GRADIENT, **_ONE_FLOAT},
    ),
    Row(
        "encode-people", lambda batch, keypoints: _labels(batch, keypoints, people=2),
        {"size": (5, 6), "encoding": "udp", "dtype": torch.float16},
        operators=("encode",), constants=("keypoints", "visible", "sigma"), parameters=("sigma",), without=NO_GRADIENT,
    ),
    _loss("heatmap_mse", _maps_to_train, others=1),
    _loss(
        "heatmap_mse-hardest", _maps_with_labels, parameters=("sigma",), others=None,
        options={"encoding": "udp", "weighting": "hrnet", "topk": 1, "empty": "zero"},
        without={"no_keypoints": "of no keypoints none is the hardest"},
    ),
    _loss("heatmap_adaptive_wing", _maps_to_train, options={"reduction": "none"}),
    _loss("heatmap_focal", _maps_to_train, others=1, options={"reduction": "sum"}),
    _loss("heatmap_focal-mean", _maps_with_labels, parameters=("sigma",), others=None),
    _loss("heatmap_cross_entropy", _maps_to_train, options={"reduction": "none"}),
    _loss("heatmap_js", _maps_to_train, others=1),
    Row(
        "soft_argmax", lambda batch, keypoints: {"heatmaps": _blobs(batch, keypoints)}, {"beta": 5.0},
        operators=("soft_argmax",), backward=("soft_argmax_backward",), leaves=("heatmaps",), kernels=(1, 1),
        without={**GRADIENT, **_ONE_FLOAT},
    ),
    _nll("gaussian_nll", _regression, "mean", "log_var", kernels=(1, 1)),
    _nll(
        "gaussian_nll-beta",
        lambda batch, keypoints: {**_regression(batch, keypoints, 3), "weight": _weights(batch, keypoints)},
        "mean", "log_var", kernels=(1, 1), compiler="inductor", without=_BETA,
        options={"beta": 0.5, "coordinates": "offset", "log_var_bounds": (-3, 3), "full": True,
                 "reduction": "mean_valid"},
    ),
    _nll(
        "gaussian_nll-laplace", lambda batch, keypoints: _regression(batch, keypoints, 1), "mean", "log_var",
        kernels=(1, 1), options={"distribution": "laplace", "reduction": "none"},
    ),
    _nll(
        "linear_gaussian_nll", _head, "features", "weight", "bias", kernels=(1, 2), compiler="inductor",
        parameters=("weight", "bias"), options={"coordinates": "offset", "reduction": "none"},
    ),
    _nll(
        "linear_gaussian_nll-weighted",
        lambda batch, keypoints: {
            **{name: each for name, each in _head(batch, keypoints).items() if name != "bias"},
            "keypoint_weight": _weights(batch, keypoints),
        },
        "features", "weight", kernels=(1, 2), parameters=("weight",), options={"bias": None, "reduction": "mean_valid"},
    ),
    _nll("gaussian_mixture_nll", _mixture, "logits", "mean", "log_var", kernels=(1, 1)),
    _nll(
        "gaussian_mixture_nll-bounds",
        lambda batch, keypoints: {**_mixture(batch, keypoints), "weight": _weights(batch, keypoints)},
        "logits", "mean", "log_var", kernels=(1, 1), compiler="inductor",
        options={"coordinates": "offset", "log_var_bounds": (-3, 3), "reduction": "mean_valid"},
    ),
    _nll(
        "gaussian_mixture_nll-none", _mixture, "logits", "mean", "log_var", kernels=(1, 1),
        options={"reduction": "none"},
    ),
    Row("oks", _pairs, {"kappas": KAPPAS[:2]}, operators=("oks",), without={**NO_GRADIENT, **_KAPPAS}),
    Row(
        "oks-pairs", _pairs, {"kappas": KAPPAS[:2], "symmetric": [(0, 1)]}, kernels=(0, 0), others=None,
        without={**NO_GRADIENT, **_KAPPAS, **_WRITES_NAN, **_SWAPS},
    ),
    Row(
        "oks-pose", _pairs, {"kappas": KAPPAS[:2], "symmetric": [(0, 1)], "swap": "pose"},
        operators=("oks", "oks"), kernels=(2, 0), others=None, without={**NO_GRADIENT, **_KAPPAS, **_SWAPS},
    ),
    Row(
        "oks_nms", _poses, {"kappas": KAPPAS[:2]}, operators=("oks_nms",), kernels=(2, 0),
        without={**NO_GRADIENT, **_KAPPAS, **_ONE_BY_ONE},
    ),
    Row(
        "oks_nms-images", _poses_of_images, {"kappas": KAPPAS[:2]}, operators=("oks_nms",),
        without={**NO_GRADIENT, **_KAPPAS, **_ONE_BY_ONE, **_POSES_ARE_THE_BATCH, **_TICKETS},
    ),
    Row(
        "soft_oks_nms", _seen_poses, {"kappas": KAPPAS[:2], "max_poses": 3}, operators=("oks_nms",), others=None,
        without={**NO_GRADIENT, **_KAPPAS, **_ONE_BY_ONE},
    ),
    Row(
        "soft_oks_nms-images", _poses_of_images, {"kappas": KAPPAS[:2], "method": "linear"}, operators=("oks_nms",),
        without={**NO_GRADIENT, **_KAPPAS, **_ONE_BY_ONE, **_POSES_ARE_THE_BATCH, **_TICKETS},
    ),
    Row(
        "vote", lambda batch, keypoints: {**_samples(batch, keypoints), "heatmaps": _blobs(batch, keypoints) + 0.1},
        operators=("vote",), without=NO_GRADIENT,
    ),
    Row(
        "vote-bandwidth", _samples, {"bandwidth": 2.0}, operators=("vote",), without={**NO_GRADIENT, **_ONE_FLOAT},
    ),
    Row("vote-mean", _samples, operators=("vote",), without={**NO_GRADIENT, **_ONE_FLOAT, **VARIANT}),
    Row(
        "variance_voting",
        lambda batch, keypoints: {
            "poses": _poses(batch, keypoints)["poses"],
            "variances": _numbers(batch, 5, keypoints, low=0.5, seed=23),
            "similarities": _numbers(batch, 3, 5, low=0.8, seed=24),
        },
        {"spread": 0.5}, leaves=("poses", "variances", "similarities"), kernels=(0, 0), others=None,
        without={
            **GRADIENT,
            "triton": "it has no kernel",
            "a_second_derivative_raises": "PyTorch's own operations have all derivatives",
            "constants_are_refused_with_a_gradient": "it has a gradient in all of its inputs",
        },
    ),
    Row(
        "sample_keypoints", _distributions, {"n": 5, "seed": 7, "offset": 2**40}, operators=("sample_keypoints",),
        without={**NO_GRADIENT, "vmap": "a keypoint's place in the batch says which numbers are drawn for it",
                 "a_known_call_is_repeated": "each call has an offset of its own"},
    ),
)  # fmt: skip
