"""gaussian_mixture_nll(): what users call."""

from __future__ import annotations

from torch import Tensor

from .._common import checks
from .._common.names import Coordinates, Reduction
from .._common.units import look_at_targets
from ..backends import Backend, check_backend
from .library_mixture import gaussian_mixture_nll_function
from .options import options_of
from .reference_mixture import gaussian_mixture_nll_reference


def gaussian_mixture_nll(
    logits: Tensor,  # [B, K, M, H, W]
    mean: Tensor,  # [B, K, M, 2, H, W]
    log_var: Tensor,  # [B, K, M, H, W]
    target: Tensor,  # [B, K, 2]
    stride: float = 4.0,
    weight: Tensor | None = None,  # [B, K]
    coordinates: Coordinates = "absolute",
    log_var_bounds: tuple[float, float] | None = None,
    reduction: Reduction = "mean",
    backend: Backend = "auto",
) -> Tensor:
    """Compute the negative log-likelihood of keypoints under mixtures of M Gaussians predicted in their cells.

    A mixture is for keypoints that may be in one of several places: left or right knee, in front or occluded (Bishop,
    "Mixture Density Networks", 1994). Keypoint (b, k) reads M logits, means and log variances of its own maps, in the
    cell floor(target / stride) alone. With d_j = target - mean_j and s_j the log variance, the same on both axes, its
    loss is

        -log sum_j softmax(logits)_j e^(-s_j - d_j.d_j e^-s_j / 2) / (2 pi)

    The constant log(2 pi) is part of it, so with M = 1 this is `gaussian_nll(full=True)` of one log variance. A
    loss may be negative: it is minus the log of a density.

    On CUDA, ROCm and XPU the forward pass is one launch and the backward pass another, which writes each element of
    the gradient once. The backward pass keeps 4 M slopes of each keypoint, not the maps. Two runs agree bit for bit;
    nothing waits for the device.

    A keypoint is ignored if its target is NaN, infinite or outside the maps, or its weight is not positive: its
    loss is 0, and so is its gradient, whatever the maps hold. A component is switched off by a logit of -inf: it
    gets a gradient of 0, whatever its mean and log variance hold. With all of them off no density is left, and the
    loss is inf with a gradient of 0. A NaN in a component that is on makes the loss NaN; finite numbers, however
    large, do not. A component that meets the target exactly may have any variance (see `gaussian_nll`). Where all
    densities underflow, the loss is infinite, the components share the gradient equally, and a second derivative may be
    NaN.

    Args:
        logits: [B, K, M, H, W], unnormalised log weights of the components, M >= 1 (few: 8 rather than 100);
            float16, bfloat16, float32 or float64, any strides.
        mean: [B, K, M, 2, H, W], (x, y) in input pixels; dtype and strides may differ from those of `logits`, as
            may those of `log_var`.
        log_var: [B, K, M, H, W], of log squared input pixels.
        target: [B, K, 2], (x, y) in input pixels, a floating dtype. A constant: no gradient flows to it.
        stride: Input pixels per cell, positive.
        weight: [B, K], multiplies each loss; 0 means not annotated. Any dtype. A constant as well.
        coordinates: `"absolute"` means, or `"offset"` from the centre of their cell,
            (column + 0.5, row + 0.5) * stride.
        log_var_bounds: (low, high), to which log variances are clamped, with no gradient outside. A lower bound
            keeps a component from collapsing onto a single target, where the likelihood has no maximum.
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
            number is out of range, or a name is unknown.
        RuntimeError: A second derivative is asked for (take `backend="reference"`).

    Example:
        >>> import torch, dark_kernels
        >>> head = torch.nn.Conv2d(32, 17 * 3 * 4, 1)  # 3 components for each of 17 keypoints
        >>> logits, mean, log_var = head(torch.rand(8, 32, 64, 48)).split([17 * 3, 17 * 6, 17 * 3], dim=1)
        >>> logits, log_var = logits.unflatten(1, (17, 3)), log_var.unflatten(1, (17, 3))
        >>> mean = mean.unflatten(1, (17, 3, 2))
        >>> target = torch.rand(8, 17, 2) * 190
        >>> dark_kernels.gaussian_mixture_nll(logits, mean, log_var, target, coordinates="offset").backward()
        >>> head.weight.grad.shape
        torch.Size([204, 32, 1, 1])
    """
    checks.check_tensor("logits", logits, 5, "[B, K, M, H, W]")
    checks.check_tensor("mean", mean, 6, "[B, K, M, 2, H, W]")
    checks.check_tensor("log_var", log_var, 5, "[B, K, M, H, W]")
    checks.check_size("logits", logits)
    batch, num_keypoints, num_components, height, width = logits.shape
    if num_components == 0:
        raise ValueError(f"logits: got shape {list(logits.shape)}, expected [B, K, M, H, W] with M >= 1 components")
    expected = [batch, num_keypoints, num_components, 2, height, width]
    if list(mean.shape) != expected:
        raise ValueError(
            f"mean: got shape {list(mean.shape)}, expected {expected}, (x, y) of every component of logits"
        )
    if log_var.shape != logits.shape:
        raise ValueError(
            f"log_var: got shape {list(log_var.shape)}, expected {list(logits.shape)}, one for every component of "
            "logits"
        )
    checks.check_labels("weight", target, weight, batch, num_keypoints)
    checks.check_devices(logits=logits, mean=mean, log_var=log_var, target=target, weight=weight)
    checks.check_positive("stride", stride)
    checks.check_name("coordinates", coordinates, checks.COORDINATES)
    checks.check_bounds("log_var_bounds", log_var_bounds)
    checks.check_name("reduction", reduction, checks.REDUCTIONS)
    check_backend(backend)
    look_at_targets(target, logits, stride, weight)
    if backend == "reference":
        return gaussian_mixture_nll_reference(
            logits, mean, log_var, target, stride, weight, coordinates, log_var_bounds, reduction
        )
    options = options_of(stride, coordinates, log_var_bounds=log_var_bounds, full=True)
    weight = checks.to_float(weight)
    return gaussian_mixture_nll_function(logits, mean, log_var, target, weight, options, reduction, backend)
