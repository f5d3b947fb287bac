"""Losses with their options held: of distributions, and of heatmaps."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from .._common.checks import check_positive, check_tensor
from .._common.names import Coordinates, Distribution, Empty, Encoding, HeatmapReduction, Reduction, Weighting
from ..backends import Backend, check_backend
from ..heatmap_loss.api import (
    heatmap_adaptive_wing,
    heatmap_cross_entropy,
    heatmap_focal,
    heatmap_js,
    heatmap_mse,
)
from ..nll.api import gaussian_nll

_Sigma = float | list[float] | tuple[float, ...] | Tensor


class _Loss(nn.Module):
    """A loss function with its options held, which `repr` shows.

    What the function would raise of them at the first batch is raised when the module is made: it is asked for the loss
    of `empty`, a batch of 0 images. Only whether the backend serves the tensors is left to the first batch.
    """

    _function: Callable[..., Tensor]
    _options: dict[str, Any]

    def __init__(self, *empty: Tensor, backend: Backend, **options: Any) -> None:
        super().__init__()
        check_backend(backend)
        type(self)._function(*empty, backend="reference", **options)
        self._options = {**options, "backend": backend}

    def extra_repr(self) -> str:
        return ", ".join(f"{name}={value!r}" for name, value in self._options.items())


# --- of distributions --------------------------------------------------------------------------------------


class DARKLoss(_Loss):
    """`dark_kernels.gaussian_nll` with its options held: the loss of maps that a network has made.

    For a `DARKHead` take its own `loss`, which gives the same numbers without the maps.

    Args:
        stride: Input pixels per cell, positive.
        coordinates: Whether means are `"absolute"` or an `"offset"` from the centre of their cell.
        distribution: `"gaussian"` or `"laplace"`.
        beta: Exponent of beta-NLL, 0 <= beta <= 1.
        log_var_bounds: (low, high), to which log variances are clamped.
        full: Add the Gaussian's constant log(2 pi).
        reduction: `"mean"`, `"mean_valid"`, `"sum"` or `"none"`.
        backend: `"auto"`, `"triton"`, `"eager"` or `"reference"`.

    Raises:
        TypeError: A number is not one.
        ValueError: A number is out of range or a name unknown.

    Example:
        >>> import torch
        >>> from dark_kernels.nn import DARKHead, DARKLoss
        >>> head, loss = DARKHead(32, 17), DARKLoss(reduction="mean_valid")
        >>> loss(*head(torch.rand(8, 32, 64, 48)), torch.rand(8, 17, 2) * 190).backward()
    """

    _function = staticmethod(gaussian_nll)

    def __init__(
        self,
        stride: float = 4.0,
        coordinates: Coordinates = "absolute",
        distribution: Distribution = "gaussian",
        beta: float = 0.0,
        log_var_bounds: tuple[float, float] | None = None,
        full: bool = False,
        reduction: Reduction = "mean",
        backend: Backend = "auto",
    ) -> None:
        super().__init__(
            *empty_maps(num_log_vars=1), stride=stride, coordinates=coordinates, distribution=distribution, beta=beta,
            log_var_bounds=log_var_bounds, full=full, reduction=reduction, backend=backend,
        )  # fmt: skip

    def forward(
        self,
        mean: Tensor,  # [B, K, 2, H, W]
        log_var: Tensor,  # [B, K, 1 | 2 | 3, H, W]
        target: Tensor,  # [B, K, 2]
        weight: Tensor | None = None,  # [B, K]
        fixed_log_var: float | None = None,
    ) -> Tensor:
        """The loss, [] or [B, K]. Arguments and errors as `dark_kernels.gaussian_nll`."""
        return gaussian_nll(mean, log_var, target, weight=weight, fixed_log_var=fixed_log_var, **self._options)


def empty_maps(num_log_vars: int) -> tuple[Tensor, Tensor, Tensor]:
    """Means, log variances and targets of a batch of 0 images, with which `gaussian_nll` only checks its options."""
    maps = torch.zeros(0, 1, 2 + num_log_vars, 1, 1, device="cpu", dtype=torch.float32)
    return maps[:, :, :2], maps[:, :, 2:], maps[:, :, :2, 0, 0]


# --- of heatmaps -------------------------------------------------------------------------------------------


class _HeatmapLoss(_Loss):
    """A loss of `dark_kernels.heatmap_*`, which all take these. A sigma for each keypoint moves with the module."""

    sigma: float | Tensor

    def __init__(self, sigma: _Sigma, **options: Any) -> None:
        topk = options.get("topk")
        num_keypoints = topk if isinstance(topk, int) and topk > 0 else 1  # no more maps are mined than there are
        maps = torch.zeros(0, num_keypoints, 1, 2, device="cpu", dtype=torch.float32)
        super().__init__(maps, maps[:, :, 0], **options)
        if isinstance(sigma, (list, tuple)):
            for number in sigma:
                check_positive("sigma", number)
            sigma = torch.tensor(sigma, dtype=torch.float32)
        if isinstance(sigma, Tensor):
            check_tensor("sigma", sigma, 1, "[K]")
            self.register_buffer("sigma", sigma, persistent=False)
        else:
            check_positive("sigma", sigma)
            self.sigma = sigma

    def forward(
        self,
        heatmaps: Tensor,  # [B, K, H, W]
        keypoints: Tensor,  # [B, K, 2] or [B, N, K, 2]
        visible: Tensor | None = None,  # [B, K] or [B, N, K]
        weight: Tensor | None = None,  # [B, K]
    ) -> Tensor:
        """The loss, [] or [B, K]. Arguments and errors as those of the function `dark_kernels.heatmap_*`."""
        return type(self)._function(
            heatmaps, keypoints, sigma=self.sigma, visible=visible, weight=weight, **self._options
        )

    def extra_repr(self) -> str:
        sigma = self.sigma.tolist() if isinstance(self.sigma, Tensor) else self.sigma
        return f"sigma={sigma!r}, {super().extra_repr()}"


class HeatmapMSELoss(_HeatmapLoss):
    """`dark_kernels.heatmap_mse` with its options held.

    In place of MMPose's KeypointMSELoss (the default), HRNet's JointsMSELoss (`weighting="hrnet"`) and its
    JointsOHKMMSELoss (with `topk=8` as well), which take target maps where this takes keypoints.

    Args:
        sigma: Standard deviation of the targets in heatmap pixels, positive, or a list or tensor of one for each
            keypoint, which moves with the module and is not in its state_dict.
        encoding: `"unbiased"`, `"biased"` or `"udp"`, see `dark_kernels.encode`.
        weighting: `"mmpose"` or `"hrnet"`.
        topk: How many maps of each image count, those with the largest losses; None for all of them.
        empty: `"skip"` ignores maps whose keypoint is absent, `"zero"` trains them towards zero.
        reduction: `"mean"`, `"sum"` or `"none"`.
        backend: `"auto"`, `"triton"`, `"eager"` or `"reference"`.

    Raises:
        TypeError: A number is not one.
        ValueError: A number is out of range or a name unknown.

    Example:
        >>> import torch
        >>> from dark_kernels.nn import HeatmapMSELoss
        >>> loss = HeatmapMSELoss(sigma=2.0, encoding="unbiased")
        >>> heatmaps = torch.nn.Conv2d(32, 17, 1)(torch.rand(8, 32, 64, 48))
        >>> loss(heatmaps, torch.rand(8, 17, 2) * 40, visible=torch.ones(8, 17)).backward()
    """

    _function = staticmethod(heatmap_mse)

    def __init__(
        self,
        sigma: _Sigma = 2.0,
        encoding: Encoding = "unbiased",
        weighting: Weighting = "mmpose",
        topk: int | None = None,
        empty: Empty = "skip",
        reduction: HeatmapReduction = "mean",
        backend: Backend = "auto",
    ) -> None:
        super().__init__(
            sigma, encoding=encoding, weighting=weighting, topk=topk, empty=empty, reduction=reduction, backend=backend
        )


class HeatmapAdaptiveWingLoss(_HeatmapLoss):
    """`dark_kernels.heatmap_adaptive_wing` with its options held.

    Args:
        sigma: Standard deviation of the targets in heatmap pixels, positive, or one for each keypoint.
        encoding: `"unbiased"`, `"biased"` or `"udp"`.
        alpha, omega, epsilon, theta: Shape and scale of the loss, see the function.
        empty: `"skip"` or `"zero"`.
        reduction: `"mean"`, `"sum"` or `"none"`.
        backend: `"auto"`, `"triton"`, `"eager"` or `"reference"`.

    Raises:
        TypeError, ValueError: As `HeatmapMSELoss`.
    """

    _function = staticmethod(heatmap_adaptive_wing)

    def __init__(
        self,
        sigma: _Sigma = 2.0,
        encoding: Encoding = "unbiased",
        alpha: float = 2.1,
        omega: float = 14.0,
        epsilon: float = 1.0,
        theta: float = 0.5,
        empty: Empty = "skip",
        reduction: HeatmapReduction = "mean",
        backend: Backend = "auto",
    ) -> None:
        super().__init__(
            sigma, encoding=encoding, alpha=alpha, omega=omega, epsilon=epsilon, theta=theta, empty=empty,
            reduction=reduction, backend=backend,
        )  # fmt: skip


class HeatmapFocalLoss(_HeatmapLoss):
    """`dark_kernels.heatmap_focal` with its options held: of probabilities, so put a sigmoid before it.

    Args:
        sigma: Standard deviation of the targets in heatmap pixels, positive, or one for each keypoint.
        encoding: `"biased"`, `"unbiased"` or `"udp"`.
        empty: `"skip"` or `"zero"`.
        reduction: `"mean"`, `"sum"` or `"none"`.
        backend: `"auto"`, `"triton"`, `"eager"` or `"reference"`.

    Raises:
        TypeError, ValueError: As `HeatmapMSELoss`.
    """

    _function = staticmethod(heatmap_focal)

    def __init__(
        self,
        sigma: _Sigma = 2.0,
        encoding: Encoding = "biased",
        empty: Empty = "skip",
        reduction: HeatmapReduction = "mean",
        backend: Backend = "auto",
    ) -> None:
        super().__init__(sigma, encoding=encoding, empty=empty, reduction=reduction, backend=backend)


class HeatmapCrossEntropyLoss(_HeatmapLoss):
    """`dark_kernels.heatmap_cross_entropy` with its options held: of logits, whose softmax over a map is compared.

    Args:
        sigma: Standard deviation of the targets in heatmap pixels, positive, or one for each keypoint.
        encoding: `"unbiased"`, `"biased"` or `"udp"`.
        reduction: `"mean"`, `"sum"` or `"none"`.
        backend: `"auto"`, `"triton"`, `"eager"` or `"reference"`.

    Raises:
        TypeError, ValueError: As `HeatmapMSELoss`.
    """

    _function = staticmethod(heatmap_cross_entropy)

    def __init__(
        self,
        sigma: _Sigma = 2.0,
        encoding: Encoding = "unbiased",
        reduction: HeatmapReduction = "mean",
        backend: Backend = "auto",
    ) -> None:
        super().__init__(sigma, encoding=encoding, reduction=reduction, backend=backend)


class HeatmapJSLoss(_HeatmapLoss):
    """`dark_kernels.heatmap_js` with its options held: of logits, whose softmax over a map is compared.

    Args:
        sigma: Standard deviation of the targets in heatmap pixels, positive, or one for each keypoint.
        encoding: `"unbiased"`, `"biased"` or `"udp"`.
        reduction: `"mean"`, `"sum"` or `"none"`.
        backend: `"auto"`, `"triton"`, `"eager"` or `"reference"`.

    Raises:
        TypeError, ValueError: As `HeatmapMSELoss`.
    """

    _function = staticmethod(heatmap_js)

    def __init__(
        self,
        sigma: _Sigma = 2.0,
        encoding: Encoding = "unbiased",
        reduction: HeatmapReduction = "mean",
        backend: Backend = "auto",
    ) -> None:
        super().__init__(sigma, encoding=encoding, reduction=reduction, backend=backend)
