"""gaussian_nll() and linear_gaussian_nll(): what users call."""

from __future__ import annotations

from typing import get_args

from torch import Tensor

from .._common.checks import (
    COORDINATES,
    REDUCTIONS,
    check_bounds,
    check_devices,
    check_labels,
    check_name,
    check_number,
    check_positive,
    check_size,
    check_tensor,
    to_float,
)
from .._common.names import Coordinates, Distribution, Reduction
from .._common.units import look_at_targets
from ..backends import Backend, check_backend
from .library import gaussian_nll_function, linear_gaussian_nll_function
from .options import options_of
from .reference import gaussian_nll_reference, linear_gaussian_nll_reference

_DISTRIBUTIONS: tuple[Distribution, ...] = get_args(Distribution)


def gaussian_nll(
    mean: Tensor,  # [B, K, 2, H, W]
    log_var: Tensor,  # [B, K, 1 | 2 | 3, H, W]
    target: Tensor,  # [B, K, 2]
    stride: float = 4.0,
    weight: Tensor | None = None,  # [B, K]
    coordinates: Coordinates = "absolute",
    distribution: Distribution = "gaussian",
    beta: float = 0.0,
    fixed_log_var: float | None = None,
    log_var_bounds: tuple[float, float] | None = None,
    full: bool = False,
    reduction: Reduction = "mean",
    backend: Backend = "auto",
) -> Tensor:
    """Compute the negative log-likelihood of keypoints under the distributions predicted in their cells.

    Keypoint (b, k) reads 2 means and 1 to 3 log variances of its own maps, in the cell floor(target / stride) alone.
    With d = target - mean and s the log variance its loss is

    - 1 channel, isotropic: s + d.d e^-s / 2
    - 2 channels, one for each axis: sum over the axes of s / 2 + d^2 e^-s / 2
    - 3 channels (a, b, c), covariance L L^T with L = [[e^a, 0], [b, e^c]]: a + c + (z1^2 + z2^2) / 2,
      z = L^-1 d
    - `distribution="laplace"`, s the log of the scale (1 or 2 channels): sum over the axes of
      log 2 + s + abs(d) e^-s

    Sources: learned variances are those of Nix and Weigend, "Estimating the mean and variance of the target probability
    distribution", ICNN 1994, and their logarithms of Kendall and Gal, "What Uncertainties Do We Need in Bayesian Deep
    Learning for Computer Vision?", NeurIPS 2017, eq. 8. A loss may be negative: it is minus the log of a density.

    On CUDA, ROCm and XPU the forward pass is one launch and the backward pass another, which writes
    each element of the gradient once. The backward pass keeps the values at the cells, not the maps. Two runs agree
    bit for bit; nothing waits for the device.

    A keypoint is ignored if its target is NaN, infinite or outside the maps, or its weight is not positive: its
    loss is 0, and so is its gradient, whatever the maps hold. If more than half of the targets in one of the first
    batches on a CPU lie outside, a UserWarning says so once.

    Of finite maps no keypoint's loss or gradient is NaN. A target that is met exactly has the loss of its log variance
    alone, however small the variance is: a gradient of 0 for the mean, and for the log variance that of the loss's
    first term. A loss is infinite where it is beyond the range of its dtype, and so is a gradient. With a Cholesky
    factor, or where variance^beta over- or underflows, a gradient whose true value is finite may be made of numbers
    that are not: it may then be infinite, and is 0 where opposite infinities are added or infinity is multiplied by 0.
    A second derivative may be NaN where the loss or its gradient is infinite, and a reduced loss where infinite ones of
    both signs are added. `log_var_bounds` keeps all of this away.

    Args:
        mean: [B, K, 2, H, W], (x, y) in input pixels; float16, bfloat16, float32 or float64, any strides.
        log_var: [B, K, 1 | 2 | 3, H, W], of log squared input pixels (Cholesky: log input pixels, input pixels,
            log input pixels); dtype and strides may differ from those of `mean`.
        target: [B, K, 2], (x, y) in input pixels, a floating dtype. A constant: no gradient flows to it.
        stride: Input pixels per cell, positive.
        weight: [B, K], multiplies each loss; 0 means not annotated. Any dtype. A constant as well.
        coordinates: `"absolute"` means, or `"offset"` from the centre of their cell,
            (column + 0.5, row + 0.5) * stride.
        distribution: `"gaussian"` or `"laplace"`.
        beta: Multiplies the loss of each axis by its own variance^beta, held constant (beta-NLL: Seitzer et al.,
            "On the Pitfalls of Heteroscedastic Uncertainty Estimation with Probabilistic Neural Networks", ICLR
            2022, eq. 5); 0 <= beta <= 1. At 1 the mean has the gradient of half the squared error, keypoints that
            are hard to predict included. The variance is e^s; for a Cholesky factor, of both axes at once, the
            square root of the determinant.
        fixed_log_var: Takes the place of all predicted log variances, which then get a gradient of 0. A
            Cholesky factor is that of the isotropic covariance e^fixed_log_var.
        log_var_bounds: (low, high), to which log variances are clamped, with no gradient outside. Of a Cholesky
            factor 2 a and 2 c are clamped, and b is not. Does not touch `fixed_log_var`.
        full: Add the Gaussian's constant log(2 pi). Laplace's 2 log 2 is always there.
        reduction: `"mean"` divides the sum by B * K, `"mean_valid"` by the sum of the weights of the keypoints
            that are not ignored (0 if there is none), `"sum"` by 1; `"none"` returns [B, K].
        backend: `"auto"` (Triton where the device has it, else eager), `"triton"`, `"eager"` (vectorised
            PyTorch on any device) or `"reference"` (the definition, which has all derivatives). float64 is
            served by eager where Triton is asked for.

    Returns:
        The loss, [] or [B, K]; float32, or float64 if a map is float64. Gradients have the dtypes of the maps. 0
        for B = 0 or K = 0.

    Raises:
        TypeError: An argument is not a dense tensor of a dtype above, or not a number.
        ValueError: A shape does not fit, tensors are on several devices, `target` or `weight` requires grad, a
            number is out of range, a name is unknown, or Laplace is asked for with a Cholesky factor.
        RuntimeError: A second derivative is asked for (take `backend="reference"`).

    Example:
        >>> import torch, dark_kernels
        >>> mean = torch.rand(8, 17, 2, 64, 48, requires_grad=True)
        >>> log_var = torch.zeros(8, 17, 1, 64, 48, requires_grad=True)
        >>> target = torch.rand(8, 17, 2) * 190
        >>> dark_kernels.gaussian_nll(mean, log_var, target, stride=4.0).backward()
        >>> mean.grad.shape
        torch.Size([8, 17, 2, 64, 48])
    """
    check_tensor("mean", mean, 5, "[B, K, 2, H, W]")
    check_tensor("log_var", log_var, 5, "[B, K, 1 | 2 | 3, H, W]")
    if mean.shape[2] != 2:
        raise ValueError(
            f"mean: got shape {list(mean.shape)}, expected [B, K, 2, H, W] with 2 channels (x, y) a keypoint"
        )
    check_size("mean", mean)
    if log_var.shape[2] not in (1, 2, 3):
        raise ValueError(
            f"log_var: got shape {list(log_var.shape)}, expected [B, K, C, H, W] with C = 1 (isotropic), 2 (one "
            "for each axis) or 3 (Cholesky factor)"
        )
    if log_var.shape[:2] != mean.shape[:2] or log_var.shape[3:] != mean.shape[3:]:
        raise ValueError(
            f"log_var: got shape {list(log_var.shape)}, expected the B, K, H and W of mean, {list(mean.shape)}"
        )
    check_labels("weight", target, weight, mean.shape[0], mean.shape[1])
    check_devices(mean=mean, log_var=log_var, target=target, weight=weight)
    _check_options(
        stride, coordinates, distribution, beta, fixed_log_var, log_var_bounds, reduction, backend, log_var.shape[2]
    )
    look_at_targets(target, mean, stride, weight)
    if backend == "reference":
        return gaussian_nll_reference(
            mean, log_var, target, stride, weight, coordinates, distribution, beta, fixed_log_var, log_var_bounds,
            full, reduction,
        )  # fmt: skip
    options = options_of(stride, coordinates, distribution, beta, fixed_log_var, log_var_bounds, full)
    return gaussian_nll_function(mean, log_var, target, to_float(weight), options, reduction, backend)


def linear_gaussian_nll(
    features: Tensor,  # [B, C, H, W]
    weight: Tensor,  # [K * P, C] or [K * P, C, 1, 1]
    bias: Tensor | None,  # [K * P]
    target: Tensor,  # [B, K, 2]
    stride: float = 4.0,
    keypoint_weight: Tensor | None = None,  # [B, K]
    coordinates: Coordinates = "absolute",
    distribution: Distribution = "gaussian",
    beta: float = 0.0,
    fixed_log_var: float | None = None,
    log_var_bounds: tuple[float, float] | None = None,
    full: bool = False,
    reduction: Reduction = "mean",
    backend: Backend = "auto",
) -> Tensor:
    """`gaussian_nll` of the maps that a 1x1 convolution makes, without making them.

    The convolution is evaluated at the B * K cells that the loss reads: the same loss and the same gradients as

        maps = torch.nn.functional.conv2d(features, weight[:, :, None, None], bias)
        gaussian_nll(maps[:, :2 * K].unflatten(1, (K, 2)), maps[:, 2 * K:].unflatten(1, (K, P - 2)), target, ...)

    for H * W times less arithmetic, and with no map of K * P channels in memory. Products are accumulated in
    float32, those of keypoints that share a cell included. On CUDA, ROCm and XPU the forward pass is one launch, the
    backward pass two (the gradients of the head and zeros, then the features' cells). Two runs agree bit for bit.

    Where the head's outputs are finite, no loss of a keypoint and no gradient is NaN, as in `gaussian_nll`. Where the
    gradient of an output is infinite, so is that of its bias, and for features and weights it counts as the largest
    number of its dtype: times 0 it is 0, and opposite ones leave 0. So does an infinite gradient of a keypoint's
    features, alone or added to others of its cell. A sum over outputs, keypoints or images that overflows in both
    directions is 0.

    Args:
        features: [B, C, H, W], float16, bfloat16, float32 or float64, any strides; contiguous and channels_last
            features get a gradient of their own layout.
        weight: [K * P, C], or [K * P, C, 1, 1] as a convolution keeps it. P is 3, 4 or 5: 2 means and 1 to 3 log
            variances a keypoint (see `gaussian_nll`). The first 2 K channels are means (x and y of the first
            keypoint, of the second, ...), the others log variances (those of the first keypoint, ...).
        bias: [K * P] or None.
        target: [B, K, 2], (x, y) in input pixels, a floating dtype. A constant: no gradient flows to it.
        stride: Input pixels per cell, positive.
        keypoint_weight: [B, K], multiplies each loss; 0 means not annotated. Any dtype. A constant as well.
        coordinates: See `gaussian_nll`, as for all arguments that follow.
        distribution: `"gaussian"` or `"laplace"`.
        beta: Exponent of beta-NLL.
        fixed_log_var: Takes the place of all predicted log variances.
        log_var_bounds: (low, high), to which log variances are clamped.
        full: Add the Gaussian's constant.
        reduction: `"mean"`, `"mean_valid"`, `"sum"` or `"none"`.
        backend: `"auto"`, `"triton"`, `"eager"` or `"reference"`.

    Returns:
        The loss, [] or [B, K]; float32, or float64 if features, weight or bias are float64.

    Raises:
        TypeError: An argument is not a dense tensor of a dtype above, or not a number.
        ValueError: A shape does not fit, tensors are on several devices, `target` or `keypoint_weight` requires
            grad, a number is out of range, a name is unknown, or Laplace is asked for with a Cholesky factor.
        RuntimeError: A second derivative is asked for (take `backend="reference"`).

    Example:
        >>> import torch, dark_kernels
        >>> features = torch.rand(8, 32, 64, 48)
        >>> head = torch.nn.Conv2d(32, 17 * 3, 1)
        >>> target = torch.rand(8, 17, 2) * 190
        >>> dark_kernels.linear_gaussian_nll(features, head.weight, head.bias, target, stride=4.0).backward()
        >>> head.weight.grad.shape
        torch.Size([51, 32, 1, 1])
    """
    check_tensor("features", features, 4, "[B, C, H, W]")
    check_size("features", features)
    if features.shape[1] == 0:
        raise ValueError(f"features: got shape {list(features.shape)}, expected C >= 1")
    if isinstance(weight, Tensor) and weight.dim() == 4 and weight.shape[2] == 1 and weight.shape[3] == 1:
        weight = weight[:, :, 0, 0]
    check_tensor("weight", weight, 2, "[K * P, C]")
    if weight.shape[1] != features.shape[1]:
        raise ValueError(
            f"weight: got shape {list(weight.shape)}, expected [K * P, C] with the C = {features.shape[1]} of features"
        )
    if bias is not None:
        check_tensor("bias", bias, 1, "[K * P]")
        if bias.shape[0] != weight.shape[0]:
            raise ValueError(
                f"bias: got shape {list(bias.shape)}, expected [{weight.shape[0]}], one number for each row of weight"
            )
    check_tensor("target", target, 3, "[B, K, 2]")
    num_keypoints, num_rows = target.shape[1], weight.shape[0]
    # Not "in" a tuple, which torch.compile does not compare with a K that it keeps open.
    if num_rows != 3 * num_keypoints and num_rows != 4 * num_keypoints and num_rows != 5 * num_keypoints:
        raise ValueError(
            f"weight: got {num_rows} rows with {num_keypoints} keypoints in target, expected K * P with P = 3, 4 or 5"
        )
    check_labels("keypoint_weight", target, keypoint_weight, features.shape[0], num_keypoints)
    check_devices(features=features, weight=weight, bias=bias, target=target, keypoint_weight=keypoint_weight)
    _check_options(
        stride, coordinates, distribution, beta, fixed_log_var, log_var_bounds, reduction, backend,
        num_rows // num_keypoints - 2 if num_keypoints else 1,
    )  # fmt: skip
    look_at_targets(target, features, stride, keypoint_weight)
    if backend == "reference":
        return linear_gaussian_nll_reference(
            features, weight, bias, target, stride, keypoint_weight, coordinates, distribution, beta, fixed_log_var,
            log_var_bounds, full, reduction,
        )  # fmt: skip
    options = options_of(stride, coordinates, distribution, beta, fixed_log_var, log_var_bounds, full)
    return linear_gaussian_nll_function(
        features, weight, bias, target, to_float(keypoint_weight), options, reduction, backend
    )


def _check_options(
    stride: float,
    coordinates: Coordinates,
    distribution: Distribution,
    beta: float,
    fixed_log_var: float | None,
    log_var_bounds: tuple[float, float] | None,
    reduction: Reduction,
    backend: Backend,
    channels: int,
) -> None:
    check_name("coordinates", coordinates, COORDINATES)
    check_name("distribution", distribution, _DISTRIBUTIONS)
    check_name("reduction", reduction, REDUCTIONS)
    check_backend(backend)
    check_positive("stride", stride)
    check_number("beta", beta)
    if not 0 <= beta <= 1:
        raise ValueError(f"beta: got {beta}, expected 0 <= beta <= 1")
    if fixed_log_var is not None:
        check_number("fixed_log_var", fixed_log_var)
    check_bounds("log_var_bounds", log_var_bounds)
    if distribution == "laplace" and channels == 3:
        raise ValueError(
            "distribution: got 'laplace' with 3 log variances a keypoint, expected 1 or 2; there is no Cholesky "
            "form of it"
        )
