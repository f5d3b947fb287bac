"""heatmap_mse() and its siblings: what users call."""

from __future__ import annotations

from typing import get_args

from torch import Tensor

from .._common.checks import (
    ENCODINGS,
    check_devices,
    check_keypoints,
    check_name,
    check_positive,
    check_sigma,
    check_size,
    check_tensor,
    check_weight,
    to_float,
)
from .._common.names import Empty, Encoding, HeatmapReduction, Weighting
from .._common.units import look_at_units
from ..backends import Backend, check_backend
from .library import heatmap_loss_function
from .options import Options
from .reference import heatmap_loss_reference

_WEIGHTINGS: tuple[Weighting, ...] = get_args(Weighting)
_EMPTY: tuple[Empty, ...] = get_args(Empty)
_REDUCTIONS: tuple[HeatmapReduction, ...] = get_args(HeatmapReduction)


def heatmap_mse(
    heatmaps: Tensor,  # [B, K, H, W]
    keypoints: Tensor,  # [B, K, 2] or [B, N, K, 2]
    sigma: float | Tensor = 2.0,  # a number or [K]
    visible: Tensor | None = None,  # [B, K] or [B, N, K]
    weight: Tensor | None = None,  # [B, K]
    encoding: Encoding = "unbiased",
    weighting: Weighting = "mmpose",
    topk: int | None = None,
    empty: Empty = "skip",
    reduction: HeatmapReduction = "mean",
    backend: Backend = "auto",
) -> Tensor:
    """Compute the mean squared error between heatmaps and the Gaussians of `encode`, without drawing them.

    A pixel's target t is a function of the keypoint (x, y), computed where it is needed. With w the weight of a map,
    its loss is the mean over H and W of

    - `weighting="mmpose"`: w (h - t)^2, as in MMPose's KeypointMSELoss
    - `weighting="hrnet"`: w^2 (h - t)^2 / 2, as in HRNet's JointsMSELoss, which multiplies both maps by w

    The numbers are those of these losses on materialised targets, to the rounding of float32. On CUDA, ROCm and XPU
    the forward pass is one launch that reads each element once and writes [B, K] (and one that adds these up); the
    backward pass is another, which reads each element once and writes the gradient. Nothing else of map size exists, on
    a CPU neither. Two runs agree bit for bit; nothing waits for the device.

    The first batches on a CPU are looked at: if more than half of the keypoints lie beyond the map, which input pixels
    do, a UserWarning says so once.

    w is `weight` times the weight that `encode` returns: 0 where a keypoint is invisible, NaN or infinite, or its
    window is outside the map. A map with a weight that is not positive is ignored: its loss is 0, and so is its
    gradient, whatever it holds. A NaN in a map that counts makes its loss NaN.

    Args:
        heatmaps: [B, K, H, W], predictions; float16, bfloat16, float32 or float64, any strides.
        keypoints: [B, K, 2], or [B, N, K, 2] for N people in an image, of whose targets each pixel has the largest;
            (x, y) in heatmap pixels, see `encode`. A constant: no gradient flows to it, nor to `visible`, `weight` and
            `sigma`.
        sigma: Standard deviation of the targets in heatmap pixels, positive, or [K] of them.
        visible: [B, K] or [B, N, K], like `keypoints`; any dtype. Below 0.5 a keypoint is not there.
        weight: [B, K], any dtype; 0 means not annotated.
        encoding: `"unbiased"` (DARK), `"biased"` (MSRA) or `"udp"`, see `encode`.
        weighting: `"mmpose"` or `"hrnet"`; the two differ by a factor, and for weights that are neither 0 nor 1.
        topk: Online hard keypoint mining: of each image only the `topk` maps with the largest losses count; published
            is 8. With `"hrnet"` that is HRNet's JointsOHKMMSELoss, with `"mmpose"` and weights of 0 and 1 MMPose's
            KeypointOHKMMSELoss.
        empty: `"skip"` ignores maps whose keypoint is absent, `"zero"` trains them towards zero with the weight in
            `weight`.
        reduction: `"mean"` divides the sum of the maps' losses by B * K (by B * topk), `"sum"` by 1; `"none"` returns
            [B, K].
        backend: `"auto"` (Triton where the device has it, else eager), `"triton"`, `"eager"` (vectorised PyTorch on any
            device) or `"reference"` (the definition, which draws targets and has all derivatives). float64 is served by
            eager where Triton is asked for.

    Returns:
        The loss, [] or [B, K]; float32, or float64 if the heatmaps are float64. The gradient has the dtype of the
        heatmaps. 0 for B = 0 or K = 0.

    Raises:
        TypeError: An argument is not a dense tensor of a dtype above, or not a number.
        ValueError: A shape does not fit, tensors are on several devices, a constant requires grad, a number is out of
            range, or a name is unknown.
        RuntimeError: A second derivative is asked for (take `backend="reference"`).

    Example:
        >>> import torch, dark_kernels
        >>> heatmaps = torch.zeros(8, 17, 64, 48, requires_grad=True)
        >>> keypoints, visible = torch.rand(8, 17, 2) * 40, torch.ones(8, 17)
        >>> dark_kernels.heatmap_mse(heatmaps, keypoints, sigma=2.0, visible=visible).backward()
        >>> heatmaps.grad.shape
        torch.Size([8, 17, 64, 48])
    """
    check_name("weighting", weighting, _WEIGHTINGS)
    if topk is not None:
        _check_topk(topk, heatmaps)
    return _heatmap_loss(
        "mse", heatmaps, keypoints, sigma, visible, weight, encoding, empty, reduction, backend,
        squares_weight=weighting == "hrnet", topk=topk,
    )  # fmt: skip


def heatmap_adaptive_wing(
    heatmaps: Tensor,  # [B, K, H, W]
    keypoints: Tensor,  # [B, K, 2] or [B, N, K, 2]
    sigma: float | Tensor = 2.0,  # a number or [K]
    visible: Tensor | None = None,  # [B, K] or [B, N, K]
    weight: Tensor | None = None,  # [B, K]
    encoding: Encoding = "unbiased",
    alpha: float = 2.1,
    omega: float = 14.0,
    epsilon: float = 1.0,
    theta: float = 0.5,
    empty: Empty = "skip",
    reduction: HeatmapReduction = "mean",
    backend: Backend = "auto",
) -> Tensor:
    """Adaptive wing loss between heatmaps and the Gaussians that `encode` draws at the keypoints, which are not drawn.

    For small errors d = abs(t - h) it is omega log(1 + (d / epsilon)^(alpha - t)), steep near the peak and like a
    squared error in the background; from d = theta on it is linear (Wang et al., "Adaptive Wing Loss for Robust Face
    Alignment via Heatmap Regression", ICCV 2019). The loss of a map is the mean over H and W, times its weight. (MMPose
    multiplies both maps by the weight instead: the same for weights of 0 and 1.)

    What is moved and what is ignored: see `heatmap_mse`.

    Args:
        heatmaps: [B, K, H, W], predictions; float16, bfloat16, float32 or float64, any strides.
        keypoints: [B, K, 2] or [B, N, K, 2], (x, y) in heatmap pixels. A constant, as all tensors that follow.
        sigma: Standard deviation of the targets in heatmap pixels, positive, or [K] of them.
        visible: [B, K] or [B, N, K], like `keypoints`; below 0.5 a keypoint is not there.
        weight: [B, K]; 0 means not annotated.
        encoding: `"unbiased"`, `"biased"` or `"udp"`, see `encode`.
        alpha: At least 2, so that the loss has a slope everywhere.
        omega: Scale of the loss, positive.
        epsilon: Scale of the errors, positive.
        theta: Error from which on the loss is linear, positive.
        empty: `"skip"` ignores maps whose keypoint is absent, `"zero"` trains them towards zero.
        reduction: `"mean"` divides the sum of the maps' losses by B * K, `"sum"` by 1; `"none"` returns [B, K].
        backend: `"auto"`, `"triton"`, `"eager"` or `"reference"`.

    Returns:
        The loss, [] or [B, K]; float32, or float64 if the heatmaps are float64.

    Raises:
        TypeError, ValueError, RuntimeError: As `heatmap_mse`.

    Example:
        >>> import torch, dark_kernels
        >>> heatmaps = torch.zeros(8, 17, 64, 48, requires_grad=True)
        >>> dark_kernels.heatmap_adaptive_wing(heatmaps, torch.rand(8, 17, 2) * 40).backward()
    """
    for name, number in (("alpha", alpha), ("omega", omega), ("epsilon", epsilon), ("theta", theta)):
        check_positive(name, number)
    if alpha < 2:
        raise ValueError(f"alpha: got {alpha}, expected at least 2")
    return _heatmap_loss(
        "adaptive_wing", heatmaps, keypoints, sigma, visible, weight, encoding, empty, reduction, backend,
        wing=(float(alpha), float(omega), float(epsilon), float(theta)),
    )  # fmt: skip


def heatmap_focal(
    heatmaps: Tensor,  # [B, K, H, W]
    keypoints: Tensor,  # [B, K, 2] or [B, N, K, 2]
    sigma: float | Tensor = 2.0,  # a number or [K]
    visible: Tensor | None = None,  # [B, K] or [B, N, K]
    weight: Tensor | None = None,  # [B, K]
    encoding: Encoding = "biased",
    empty: Empty = "skip",
    reduction: HeatmapReduction = "mean",
    backend: Backend = "auto",
) -> Tensor:
    """CenterNet's focal loss between maps of probabilities and the Gaussians that `encode` draws at the keypoints,
    which are not drawn.

    A pixel whose target t is 1 is positive and costs -(1 - p)^2 log p; all others cost -(1 - t)^4 p^2 log(1 - p) (Zhou
    et al., "Objects as Points", 2019, eq. 1). The loss of a map is the sum over H and W, times its weight. Only
    `encoding="biased"` has a pixel with a target of 1 at every keypoint, hence the default; with the others a keypoint
    has to lie on the centre of a pixel for that.

    p is clamped to [1e-30, 1 - 2^-24], with no gradient outside. What is moved and what is ignored: see `heatmap_mse`.

    Args:
        heatmaps: [B, K, H, W], probabilities: after the sigmoid; float16, bfloat16, float32 or float64, any strides.
        keypoints: [B, K, 2] or [B, N, K, 2], (x, y) in heatmap pixels. A constant, as all tensors that follow.
        sigma: Standard deviation of the targets in heatmap pixels, positive, or [K] of them.
        visible: [B, K] or [B, N, K], like `keypoints`; below 0.5 a keypoint is not there.
        weight: [B, K]; 0 means not annotated.
        encoding: `"biased"`, `"unbiased"` or `"udp"`, see `encode`.
        empty: `"skip"` ignores maps whose keypoint is absent, `"zero"` trains them towards zero, as CenterNet does.
        reduction: `"mean"` divides the sum of the maps' losses by the number of positive pixels in maps that count (by
            1 if there is none), `"sum"` by 1; `"none"` returns [B, K].
        backend: `"auto"`, `"triton"`, `"eager"` or `"reference"`.

    Returns:
        The loss, [] or [B, K]; float32, or float64 if the heatmaps are float64.

    Raises:
        TypeError, ValueError, RuntimeError: As `heatmap_mse`.

    Example:
        >>> import torch, dark_kernels
        >>> logits = torch.zeros(8, 17, 64, 48, requires_grad=True)
        >>> people = torch.rand(8, 3, 17, 2) * 40  # three in each image
        >>> dark_kernels.heatmap_focal(logits.sigmoid(), people).backward()
    """
    return _heatmap_loss("focal", heatmaps, keypoints, sigma, visible, weight, encoding, empty, reduction, backend)


def heatmap_cross_entropy(
    heatmaps: Tensor,  # [B, K, H, W]
    keypoints: Tensor,  # [B, K, 2] or [B, N, K, 2]
    sigma: float | Tensor = 2.0,  # a number or [K]
    visible: Tensor | None = None,  # [B, K] or [B, N, K]
    weight: Tensor | None = None,  # [B, K]
    encoding: Encoding = "unbiased",
    reduction: HeatmapReduction = "mean",
    backend: Backend = "auto",
) -> Tensor:
    """Compute the cross-entropy between the softmax over each map and the normalised Gaussian of `encode`.

    The loss of a map is -sum t / sum(t) * log_softmax(h) over H * W, times its weight; a map whose keypoint is absent,
    or whose target is all zeros, is ignored. The logarithm of the sum of exponentials is accumulated while the map is
    read once, relative to the largest logit: no logit is too large.

    The logits are decoded with `dataclasses.replace(recipes.DARKPOSE, activation="softmax")`.

    What is moved and what is ignored: see `heatmap_mse`. A logit of -inf is a pixel with no probability, where no
    target may be: the loss would be inf.

    Args:
        heatmaps: [B, K, H, W], logits; float16, bfloat16, float32 or float64, any strides.
        keypoints: [B, K, 2] or [B, N, K, 2], (x, y) in heatmap pixels. A constant, as all tensors that follow.
        sigma: Standard deviation of the targets in heatmap pixels, positive, or [K] of them.
        visible: [B, K] or [B, N, K], like `keypoints`; below 0.5 a keypoint is not there.
        weight: [B, K]; 0 means not annotated.
        encoding: `"unbiased"`, `"biased"` or `"udp"`, see `encode`.
        reduction: `"mean"` divides the sum of the maps' losses by B * K, `"sum"` by 1; `"none"` returns [B, K].
        backend: `"auto"`, `"triton"`, `"eager"` or `"reference"`.

    Returns:
        The loss, [] or [B, K]; float32, or float64 if the heatmaps are float64.

    Raises:
        TypeError, ValueError, RuntimeError: As `heatmap_mse`.

    Example:
        >>> import torch, dark_kernels
        >>> logits = torch.zeros(8, 17, 64, 48, requires_grad=True)
        >>> dark_kernels.heatmap_cross_entropy(logits, torch.rand(8, 17, 2) * 40).backward()
    """
    return _heatmap_loss(
        "cross_entropy", heatmaps, keypoints, sigma, visible, weight, encoding, "skip", reduction, backend
    )


def heatmap_js(
    heatmaps: Tensor,  # [B, K, H, W]
    keypoints: Tensor,  # [B, K, 2] or [B, N, K, 2]
    sigma: float | Tensor = 2.0,  # a number or [K]
    visible: Tensor | None = None,  # [B, K] or [B, N, K]
    weight: Tensor | None = None,  # [B, K]
    encoding: Encoding = "unbiased",
    reduction: HeatmapReduction = "mean",
    backend: Backend = "auto",
) -> Tensor:
    """Compute the Jensen-Shannon divergence between the softmax over each map and the normalised Gaussian of `encode`.

    This is DSNT's regulariser (Nibali et al., "Numerical Coordinate Regression with Convolutional Neural
    Networks", 2018).

    With p = softmax(h) over H * W, q = t / sum(t) and m = (p + q) / 2 the loss of a map is (KL(p, m) + KL(q, m)) / 2,
    between 0 and log 2, times its weight; a map whose keypoint is absent, or whose target is all zeros, is ignored. The
    forward pass walks over each map twice, the second time in the cache. The logits are decoded with
    `dataclasses.replace(recipes.DARKPOSE, activation="softmax")`.

    What is moved and what is ignored: see `heatmap_mse`.

    Args:
        heatmaps: [B, K, H, W], logits, as in `heatmap_cross_entropy`.
        keypoints: As in `heatmap_cross_entropy`, with `sigma`, `visible`, `weight`, `encoding`, `reduction` and
            `backend`.
        sigma: See there.
        visible: See there.
        weight: See there.
        encoding: See there.
        reduction: See there.
        backend: See there.

    Returns:
        The loss, [] or [B, K]; float32, or float64 if the heatmaps are float64.

    Raises:
        TypeError, ValueError, RuntimeError: As `heatmap_mse`.

    Example:
        >>> import torch, dark_kernels
        >>> logits = torch.zeros(8, 17, 64, 48, requires_grad=True)
        >>> dark_kernels.heatmap_js(logits, torch.rand(8, 17, 2) * 40, sigma=1.0).backward()
    """
    return _heatmap_loss("js", heatmaps, keypoints, sigma, visible, weight, encoding, "skip", reduction, backend)


def _heatmap_loss(
    kind: str,
    heatmaps: Tensor,
    keypoints: Tensor,
    sigma: float | Tensor,
    visible: Tensor | None,
    weight: Tensor | None,
    encoding: Encoding,
    empty: Empty,
    reduction: HeatmapReduction,
    backend: Backend,
    squares_weight: bool = False,
    wing: tuple[float, float, float, float] = (0.0, 0.0, 0.0, 0.0),
    topk: int | None = None,
) -> Tensor:
    """Check what all losses take, and call one."""
    check_tensor("heatmaps", heatmaps, 4, "[B, K, H, W]")
    check_size("heatmaps", heatmaps)
    check_keypoints(keypoints, visible)
    batch, num_keypoints = heatmaps.shape[:2]
    if keypoints.shape[0] != batch or keypoints.shape[-2] != num_keypoints:
        raise ValueError(
            f"keypoints: got shape {list(keypoints.shape)}, expected [{batch}, {num_keypoints}, 2] or "
            f"[{batch}, N, {num_keypoints}, 2], as heatmaps"
        )
    check_sigma(sigma, num_keypoints)
    check_weight("weight", weight, (batch, num_keypoints))
    sigmas = sigma if isinstance(sigma, Tensor) else None
    check_devices(heatmaps=heatmaps, keypoints=keypoints, visible=visible, weight=weight, sigma=sigmas)
    check_name("encoding", encoding, ENCODINGS)
    check_name("empty", empty, _EMPTY)
    check_name("reduction", reduction, _REDUCTIONS)
    check_backend(backend)
    height, width = heatmaps.shape[2:]
    expected = "(x, y) in heatmap pixels: of input pixels, divided by input size over heatmap size"
    people = weight[:, None] if weight is not None and keypoints.dim() == 4 else weight
    look_at_units("keypoints", keypoints, (width, height), (visible, people), expected)
    options = Options(kind, encoding, squares_weight, empty == "zero", *wing)
    if backend == "reference":
        return heatmap_loss_reference(heatmaps, keypoints, sigma, visible, weight, options, topk, reduction)
    if keypoints.dim() == 3:  # one person in each image
        keypoints, visible = keypoints[:, None], None if visible is None else visible[:, None]
    number = 0.0 if isinstance(sigma, Tensor) else float(sigma)
    tensors = (heatmaps, keypoints, to_float(visible), to_float(weight), sigmas)
    return heatmap_loss_function(*tensors, number, options, topk, reduction, backend)


def _check_topk(topk: int, heatmaps: Tensor) -> None:
    if isinstance(topk, bool) or not isinstance(topk, int):
        raise TypeError(f"topk: got {type(topk).__name__} {topk!r}, expected an integer or None")
    check_tensor("heatmaps", heatmaps, 4, "[B, K, H, W]")
    if not 1 <= topk <= heatmaps.shape[1]:
        raise ValueError(f"topk: got {topk} with {heatmaps.shape[1]} keypoints, expected 1 to that many")
