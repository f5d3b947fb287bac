"""decode_simcc(): what users call."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal, get_args, overload

from numpy.typing import NDArray
from torch import Tensor

from .._common import checks
from .._common.inputs import is_batch, take, to_tensor
from .._common.names import Activation, ArrayT, AxisScore
from .._common.plans import planned
from ..backends import Backend, check_backend
from ..recipes import simcc_kernel_size
from ..types import SimCCKeypoints
from .library import decode_simcc_function
from .reference import decode_simcc_reference

_SCORES: tuple[AxisScore, ...] = get_args(AxisScore)
_ACTIVATIONS: tuple[Activation, ...] = get_args(Activation)
# Farther out the product of the scale with a logit has no float32, and one of nothing with infinity no value.
_LOGIT_SCALES = (1e-30, 1e30)


@overload
def decode_simcc(
    simcc_x: ArrayT,
    simcc_y: Tensor | NDArray[Any],
    sigma: float | Sequence[float] | None = ...,
    dark: bool = ...,
    split_ratio: float = ...,
    score: AxisScore = ...,
    visibility: Literal[False] = ...,
    beta: float = ...,
    backend: Backend = ...,
    *,
    activation: Activation = ...,
    logit_scale: float = ...,
) -> SimCCKeypoints[ArrayT, None]: ...
@overload
def decode_simcc(
    simcc_x: ArrayT,
    simcc_y: Tensor | NDArray[Any],
    sigma: float | Sequence[float] | None = ...,
    dark: bool = ...,
    split_ratio: float = ...,
    score: AxisScore = ...,
    *,
    visibility: Literal[True],
    beta: float = ...,
    backend: Backend = ...,
    activation: Activation = ...,
    logit_scale: float = ...,
) -> SimCCKeypoints[ArrayT, ArrayT]: ...
@overload
def decode_simcc(
    simcc_x: ArrayT,
    simcc_y: Tensor | NDArray[Any],
    sigma: float | Sequence[float] | None,
    dark: bool,
    split_ratio: float,
    score: AxisScore,
    visibility: Literal[True],
    beta: float = ...,
    backend: Backend = ...,
    *,
    activation: Activation = ...,
    logit_scale: float = ...,
) -> SimCCKeypoints[ArrayT, ArrayT]: ...
@overload
def decode_simcc(
    simcc_x: ArrayT,
    simcc_y: Tensor | NDArray[Any],
    sigma: float | Sequence[float] | None = ...,
    dark: bool = ...,
    split_ratio: float = ...,
    score: AxisScore = ...,
    *,
    visibility: bool,
    beta: float = ...,
    backend: Backend = ...,
    activation: Activation = ...,
    logit_scale: float = ...,
) -> SimCCKeypoints[ArrayT, ArrayT | None]: ...
@overload
def decode_simcc(
    simcc_x: ArrayT,
    simcc_y: Tensor | NDArray[Any],
    sigma: float | Sequence[float] | None,
    dark: bool,
    split_ratio: float,
    score: AxisScore,
    visibility: bool,
    beta: float = ...,
    backend: Backend = ...,
    *,
    activation: Activation = ...,
    logit_scale: float = ...,
) -> SimCCKeypoints[ArrayT, ArrayT | None]: ...
@planned
def decode_simcc(
    simcc_x: Tensor | NDArray[Any],  # [B, K, Wx]
    simcc_y: Tensor | NDArray[Any],  # [B, K, Wy]
    sigma: float | Sequence[float] | None = None,
    dark: bool = False,
    split_ratio: float = 1.0,
    score: AxisScore = "min",
    visibility: bool = False,
    beta: float = 150.0,
    backend: Backend = "auto",
    *,
    activation: Activation = "none",
    logit_scale: float = 1.0,
) -> SimCCKeypoints[Any, Any]:
    """Turn SimCC's classifications of the two axes into keypoints.

    For each axis: find the first largest bin and, with `dark`, smooth the axis and take one Newton step towards the
    maximum of its log (Li et al., "SimCC: a Simple Coordinate Classification Perspective for Human Pose Estimation",
    ECCV 2022; DARK: Zhang et al., CVPR 2020, see `decode`). These are the numbers of mmpose 1.x's SimCCLabel codec, and
    with `score="mean"` of rtmlib. On CUDA, ROCm and XPU this is one launch that reads each element once.

    Most networks are trained on the softmax of their outputs. With `activation` the axes are logits and scores are
    probabilities. Results are those of the activated axes, except that the largest bin is found among the logits (the
    sigmoids of 40 and of 41 are both 1). mmpose's KLDiscretLoss takes softmax(beta * axis), with
    a beta of 10 in RTMPose's configs (`activation="softmax", logit_scale=10`) and of 1 in those of SimCC. A softmax
    spreads over the width of the targets: those of RTMPose for crops of 192 x 256 pixels score 0.21 themselves.

    A keypoint whose score is not positive (or NaN, as it is where an axis holds a NaN) is invalid: both coordinates are
    -1, whatever the split ratio, and the score stays what it is. With an activation it is invalid only where an axis
    holds a NaN, or nothing above -inf (whose probability is 0): logits may be negative, and a probability may be too
    small for its dtype. A peak of +inf stays in its bin, and so does a peak whose step is not finite. Of several +inf
    a softmax gives each the same share. Coordinates are always finite; nothing bounds a step, which can be long on
    noise, and near an end of an axis, where the zeros beyond it bend the log.

    Like `argmax` it is not differentiable: inputs may require grad, and outputs carry no gradient. Inputs are never
    written to.

    Args:
        simcc_x: [B, K, Wx], [K, Wx] or [Wx], float16, bfloat16, float32 or float64, any strides; results lack the same
            dimensions. Arithmetic is float32, in float64 if an input is. NumPy arrays (results are arrays), uint8,
            int8, int16 and uint16 are taken as in `decode`: for the logits of a quantised network `logit_scale` is the
            scale.
        simcc_y: [B, K, Wy]; dtype and strides may differ from those of `simcc_x`.
        sigma: Standard deviation in bins of the targets that the network was trained on: a number, or (x, y). Needed
            with `dark`, where the width of the blur follows from it (at least 0.5), and with `visibility`.
        dark: Refine the largest bin by DARK's step.
        split_ratio: Bins per pixel, positive. Coordinates are bins over it.
        score: Of the two peaks `"min"` is the smaller (mmpose) and `"mean"` the mean (rtmlib).
        visibility: Return visibilities: the smaller over the axes of max softmax(beta * sigma * axis), of
            the axes as they came in. NaN where an axis holds a NaN.
        beta: Of the visibilities, positive.
        backend: `"auto"` (Triton where the device has it, else eager), `"triton"`, `"eager"` (vectorised PyTorch on
            any device) or `"reference"` (the definition: whole axes, slow). float64 is served by eager where Triton is
            asked for.
        activation: `"none"` takes the axes as they are, `"softmax"` as logits of a distribution over the bins of an
            axis, `"sigmoid"` as logits of independent bins.
        logit_scale: Multiplies logits before their activation, from 1e-30 to 1e30. `"none"` ignores it.

    Returns:
        SimCCKeypoints: `coords` [B, K, 2] as (x, y) in pixels, `scores` [B, K] (from 0 to 1 with an activation), and
        `visibility` [B, K] or None; float32, or float64 if an input is. Empty for B = 0 or K = 0.

    Raises:
        TypeError: An input is not dense or not of one of the dtypes above, or a number or flag is none.
        ValueError: A shape does not fit, the inputs are on several devices, a number is out of range, a name is
            unknown, `sigma` is missing, or `backend` cannot serve these tensors.

    Example:
        >>> import torch, dark_kernels
        >>> simcc_x, simcc_y = torch.rand(8, 17, 384), torch.rand(8, 17, 512)
        >>> keypoints = dark_kernels.decode_simcc(simcc_x, simcc_y, sigma=(4.9, 5.66), dark=True, split_ratio=2.0)
        >>> keypoints.coords.shape
        torch.Size([8, 17, 2])
    """
    if not is_batch(simcc_x, 3):
        given = take("simcc_x", simcc_x, 3, "[B, K, Wx], [K, Wx] or [Wx]", least=1)
        axis = given.also("simcc_y", simcc_y, 3)
        return given.give_back(
            decode_simcc(
                given.tensor, axis, sigma, dark, split_ratio, score, visibility, beta, backend,
                activation=activation, logit_scale=logit_scale,
            )
        )  # fmt: skip
    simcc_y = to_tensor("simcc_y", simcc_y)
    _check_axes(simcc_x, simcc_y)
    simcc_x, simcc_y = checks.to_float(simcc_x), checks.to_float(simcc_y)
    sigmas = _pair(sigma)
    for name, flag in (("dark", dark), ("visibility", visibility)):
        if not isinstance(flag, bool):
            raise TypeError(f"{name}: got {flag!r}, expected True or False")
        if flag and sigmas is None:
            raise ValueError(
                f"sigma: got None with {name}=True, expected the standard deviation in bins of the training targets, "
                "a number or (x, y)"
            )
    checks.check_positive("split_ratio", split_ratio)
    checks.check_name("score", score, _SCORES)
    checks.check_positive("beta", beta)
    check_backend(backend)
    checks.check_name("activation", activation, _ACTIVATIONS)
    checks.check_positive("logit_scale", logit_scale)
    if not _LOGIT_SCALES[0] <= logit_scale <= _LOGIT_SCALES[1]:
        raise ValueError(f"logit_scale: got {logit_scale}, expected a number from 1e-30 to 1e30")
    kernel_sizes = (0, 0)
    if dark and sigmas is not None:
        kernel_sizes = simcc_kernel_size(sigmas[0]), simcc_kernel_size(sigmas[1])
        if min(kernel_sizes) < 1:
            raise ValueError(
                f"sigma: got {sigma} with dark=True, expected at least 0.5, for a blur of at least one bin"
            )
    simcc_x, simcc_y = simcc_x.detach(), simcc_y.detach()
    if backend == "reference":
        return SimCCKeypoints(
            *decode_simcc_reference(
                simcc_x,
                simcc_y,
                sigmas,
                dark,
                split_ratio,
                score,
                visibility,
                beta,
                activation=activation,
                logit_scale=logit_scale,
            )
        )
    sharpness = (0.0, 0.0)
    if visibility and sigmas is not None:
        sharpness = float(beta * sigmas[0]), float(beta * sigmas[1])
    options = (*kernel_sizes, *sharpness, float(split_ratio), score == "mean")
    # Where it is not used all numbers are one: on a GPU each is another kernel.
    logit_scale = 1.0 if activation == "none" else float(logit_scale)
    return SimCCKeypoints(*decode_simcc_function(simcc_x, simcc_y, *options, backend, activation, logit_scale))


def _check_axes(simcc_x: Tensor, simcc_y: Tensor) -> None:
    checks.check_tensor("simcc_x", simcc_x, 3, "[B, K, Wx]", checks.MAP_DTYPES)
    checks.check_tensor("simcc_y", simcc_y, 3, "[B, K, Wy]", checks.MAP_DTYPES)
    for name, axis in (("simcc_x", simcc_x), ("simcc_y", simcc_y)):
        if axis.shape[2] == 0:
            raise ValueError(f"{name}: got shape {list(axis.shape)}, expected at least one bin")
    if simcc_x.shape[:2] != simcc_y.shape[:2]:
        batch, num_keypoints = simcc_x.shape[:2]
        raise ValueError(
            f"simcc_y: got shape {list(simcc_y.shape)}, expected [{batch}, {num_keypoints}, Wy], "
            f"as simcc_x has {list(simcc_x.shape)}"
        )
    checks.check_devices(simcc_x=simcc_x, simcc_y=simcc_y)


def _pair(sigma: float | Sequence[float] | None) -> tuple[float, float] | None:
    """(x, y) of a number or of two of them (a list or an array as well)."""
    if sigma is None:
        return None
    sigma = _plain(sigma)
    if isinstance(sigma, (int, float)):
        checks.check_positive("sigma", sigma)
        return sigma, sigma
    try:
        x, y = map(_plain, sigma)
    except (TypeError, ValueError):
        raise TypeError(f"sigma: got {sigma!r}, expected a number, (x, y) or None") from None
    checks.check_positive("sigma", x)
    checks.check_positive("sigma", y)
    return x, y


def _plain(value: Any) -> Any:
    """A scalar of NumPy's as the number that it is."""
    return value.item() if type(value).__module__ == "numpy" and value.ndim == 0 else value
