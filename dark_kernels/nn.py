"""Modules over the functions: a head that predicts a distribution per keypoint, its loss, and decoding with it.

>>> import torch
>>> from dark_kernels.nn import DARKHead, TwoStageDecoder, VarianceSchedule
>>> backbone = torch.nn.Conv2d(3, 32, 4, stride=4)  # yours: images to features [B, C, H, W]
>>> heatmap_head = torch.nn.Conv2d(32, 17, 1)  # what you have
>>> head = DARKHead(32, 17, coordinates="offset")  # what is new
>>> schedule = VarianceSchedule(fixed_log_var=2.0, steps=1000)
>>> images, target = torch.rand(8, 3, 256, 192), torch.rand(8, 17, 2) * 190
>>> loss = head.loss(backbone(images), target, fixed_log_var=schedule(), reduction="mean_valid")
>>> loss.backward()
>>> schedule.step()
>>> keypoints = TwoStageDecoder(heatmap_head, head)(backbone(images))
>>> keypoints.coords.shape, keypoints.covariances.shape  # input pixels
(torch.Size([8, 17, 2]), torch.Size([8, 17, 2, 2]))
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor, nn

from ._checks import check_devices, check_name, check_number, check_positive, check_size, check_tensor
from .backends import check_backend
from .decode.api import decode
from .heatmap_loss.api import (
    heatmap_adaptive_wing,
    heatmap_cross_entropy,
    heatmap_focal,
    heatmap_js,
    heatmap_mse,
)
from .nll.api import gaussian_nll, linear_gaussian_nll
from .recipes import DARKPOSE, Recipe
from .soft_argmax.api import soft_argmax
from .types import Keypoints

__all__ = [
    "DARKHead",
    "DARKLoss",
    "HeatmapAdaptiveWingLoss",
    "HeatmapCrossEntropyLoss",
    "HeatmapFocalLoss",
    "HeatmapJSLoss",
    "HeatmapMSELoss",
    "SoftArgmax",
    "TwoStageDecoder",
    "VarianceSchedule",
]

# covariance -> log variances a keypoint
_COVARIANCES = {"isotropic": 1, "diagonal": 2, "full": 3}

_Sigma = float | list[float] | tuple[float, ...] | Tensor


class DARKHead(nn.Module):
    """A 1x1 convolution that predicts a mean and a covariance for each keypoint in each cell.

    Trained with `loss`, which evaluates it at the keypoints' cells only and never makes its maps; read with `at`,
    at the cells that something else has found (see `TwoStageDecoder`). Calling it makes the maps.

    What training and inference have to agree on belongs to the head (`stride`, `coordinates`, `distribution`,
    `log_var_bounds`); the rest is given to `loss`.

    Args:
        in_channels: C of the features.
        num_keypoints: K.
        covariance: `"isotropic"`, `"diagonal"` (one variance for each axis) or `"full"` (a Cholesky factor).
        stride: Input pixels per cell, positive.
        initial_log_var: Log variance, in squared input pixels, that every cell predicts before training: the rows
            of the variance channels start at 0 and their bias at this. None starts at log(stride^2), a standard
            deviation of one cell. With `distribution="laplace"` the log of the scale; None: log(stride).
        coordinates: Whether means are `"absolute"` or an `"offset"` from the centre of their cell,
            (column + 0.5, row + 0.5) * stride. A convolution does not know where it is, so `"offset"` is easier to
            learn; the default is that of the functions.
        distribution: `"gaussian"` or `"laplace"`.
        log_var_bounds: (low, high), to which log variances are clamped in `loss` and in `at`; of a Cholesky factor
            2 a and 2 c. Not in the maps.
        device, dtype: Of the parameters.

    Attributes:
        weight: [K * P, C, 1, 1] with P = 3, 4 or 5 channels a keypoint: 2 K of means (x and y of the first keypoint,
            of the second, ...), then the log variances (those of the first keypoint, ...).
        bias: [K * P]. Names and shapes are those of a torch.nn.Conv2d, whose state_dict loads.

    Raises:
        TypeError: A number is not one.
        ValueError: A number is out of range, a name unknown, or Laplace is asked for with `"full"`.

    Example:
        >>> import torch
        >>> from dark_kernels.nn import DARKHead
        >>> head = DARKHead(32, 17, coordinates="offset")
        >>> features, target = torch.rand(8, 32, 64, 48), torch.rand(8, 17, 2) * 190
        >>> head.loss(features, target, reduction="mean_valid").backward()
        >>> means, covariances = head.at(features, target)
        >>> means.shape, covariances.shape
        (torch.Size([8, 17, 2]), torch.Size([8, 17, 2, 2]))
    """

    def __init__(
        self,
        in_channels: int,
        num_keypoints: int,
        covariance: str = "isotropic",
        stride: float = 4.0,
        initial_log_var: float | None = None,
        coordinates: str = "absolute",
        distribution: str = "gaussian",
        log_var_bounds: tuple[float, float] | None = None,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        super().__init__()
        _check_count("in_channels", in_channels)
        _check_count("num_keypoints", num_keypoints)
        check_name("covariance", covariance, tuple(_COVARIANCES))
        self.num_log_vars = _COVARIANCES[covariance]
        _check_loss_options(
            self.num_log_vars,
            stride=stride,
            coordinates=coordinates,
            distribution=distribution,
            log_var_bounds=log_var_bounds,
        )
        if initial_log_var is not None:
            check_number("initial_log_var", initial_log_var)
        self.in_channels = in_channels
        self.num_keypoints = num_keypoints
        self.covariance = covariance
        self.stride = float(stride)
        self.initial_log_var = initial_log_var
        self.coordinates = coordinates
        self.distribution = distribution
        self.log_var_bounds = log_var_bounds
        rows = num_keypoints * (2 + self.num_log_vars)
        self.weight = nn.Parameter(torch.empty(rows, in_channels, 1, 1, device=device, dtype=dtype))
        self.bias = nn.Parameter(torch.empty(rows, device=device, dtype=dtype))
        self.reset_parameters()

    @torch.no_grad()
    def reset_parameters(self) -> None:
        """Means as a torch.nn.Conv2d starts them, but for a bias of 0; the chosen variance everywhere."""
        num_means = 2 * self.num_keypoints
        bound = self.in_channels**-0.5
        self.weight[:num_means].uniform_(-bound, bound)
        self.weight[num_means:].zero_()
        self.bias.zero_()
        log_vars = self.bias[num_means:].unflatten(0, (self.num_keypoints, self.num_log_vars))
        start = self.initial_log_var
        if start is None:
            start = math.log(self.stride) * (1 if self.distribution == "laplace" else 2)
        if self.covariance == "full":  # a and c are logs of standard deviations, b stays 0
            log_vars[:, 0::2] = start / 2
        else:
            log_vars[:] = start

    def forward(
        self,
        features: Tensor,  # [B, C, H, W]
    ) -> tuple[Tensor, Tensor]:
        """The maps that `gaussian_nll` and `DARKLoss` take.

        Args:
            features: [B, C, H, W], of the parameters' dtype or under autocast, any strides.

        Returns:
            Means [B, K, 2, H, W] and log variances [B, K, 1 | 2 | 3, H, W], views of one tensor.

        Raises:
            ValueError: `features` has another rank or another C.
        """
        self._check_features(features)
        maps = nn.functional.conv2d(features, self.weight, self.bias)
        mean, log_var = maps.tensor_split([2 * self.num_keypoints], dim=1)
        return (
            mean.unflatten(1, (self.num_keypoints, 2)),
            log_var.unflatten(1, (self.num_keypoints, self.num_log_vars)),
        )

    def loss(
        self,
        features: Tensor,  # [B, C, H, W]
        target: Tensor,  # [B, K, 2]
        keypoint_weight: Tensor | None = None,  # [B, K]
        beta: float = 0.0,
        fixed_log_var: float | None = None,
        full: bool = False,
        reduction: str = "mean",
        backend: str = "auto",
        at: Tensor | None = None,  # [B, K, 2]
    ) -> Tensor:
        """`dark_kernels.linear_gaussian_nll` of this head: the loss of its maps, without the maps.

        In the cell of its own target a head never sees an error of more than a cell, and says so. Where inference
        takes the cells from a heatmap, whose peak may be elsewhere, train it there: `at=` the cells of the peaks
        (`TwoStageDecoder.find_cells`), once there are peaks worth looking at.

        Args:
            features: [B, C, H, W], any strides; the dtype may differ from the parameters'.
            target: [B, K, 2], (x, y) in input pixels. NaN, or outside the map: ignored.
            keypoint_weight: [B, K], multiplies each loss; 0 means not annotated.
            beta: Exponent of beta-NLL.
            fixed_log_var: Takes the place of all predicted log variances, e.g. a `VarianceSchedule`'s.
            full: Add the Gaussian's constant.
            reduction: `"mean"`, `"mean_valid"`, `"sum"` or `"none"`.
            backend: `"auto"`, `"triton"`, `"eager"` or `"reference"`.
            at: [B, K, 2], (x, y) in input pixels: read the head in the cells of these places instead of the
                targets'. NaN, or outside the map: ignored. Still no maps, but more launches than without.

        Returns:
            The loss, [] or [B, K]; float32, or float64 if features or parameters are float64.

        Raises:
            TypeError, ValueError, RuntimeError: As `dark_kernels.linear_gaussian_nll`.
        """
        self._check_features(features)
        # The function learns K from `target`: 3 keypoints of 5 channels have the rows of 5 keypoints of 3.
        self._check_points("target", target, features)
        options: dict[str, Any] = {
            "distribution": self.distribution,
            "beta": beta,
            "fixed_log_var": fixed_log_var,
            "log_var_bounds": self.log_var_bounds,
            "full": full,
            "reduction": reduction,
            "backend": backend,
        }
        if at is None:
            return linear_gaussian_nll(
                features,
                self.weight,
                self.bias,
                target,
                stride=self.stride,
                keypoint_weight=keypoint_weight,
                coordinates=self.coordinates,
                **options,
            )
        self._check_points("at", at, features)
        mean, log_var, center, valid = self._read(features, at)
        if self.coordinates == "absolute":
            mean = mean - center
        # Maps of one cell, which reaches from where the head is read to every target in the image.
        height, width = features.shape[-2:]
        stride = 2 * self.stride * max(height, width)
        target = target.to(mean.dtype)
        x, y = target.unbind(-1)
        valid = valid & (x >= 0) & (x < width * self.stride) & (y >= 0) & (y < height * self.stride)
        target = torch.where(valid[..., None], target - center + stride / 2, math.nan)
        return gaussian_nll(
            mean[..., None, None],
            log_var[..., None, None],
            target,
            stride=stride,
            weight=keypoint_weight,
            coordinates="offset",
            **options,
        )

    def at(
        self,
        features: Tensor,  # [B, C, H, W]
        coords: Tensor,  # [B, K, 2]
    ) -> tuple[Tensor, Tensor]:
        """The predicted distributions in the cells of `coords`: the cells that `loss` reads for such targets.

        The head is evaluated at B * K cells and no map is made. Differentiable in features and parameters.
        Products and sums are float32 (float64 if an input is), under autocast too.

        Args:
            features: [B, C, H, W], any floating dtype and strides.
            coords: [B, K, 2], (x, y) in input pixels; keypoint k is read at the cell floor(coords / stride).
                Heatmap pixels p are at p * stride, or (p + 0.5) * stride, by the convention of the heatmaps.

        Returns:
            Means [B, K, 2] in input pixels, for `"offset"` coordinates too, and covariances [B, K, 2, 2] in squared
            input pixels, positive semi-definite up to rounding. Both are NaN where a coordinate is NaN or outside
            the map.

        Raises:
            TypeError: An argument is not a dense tensor of a floating dtype.
            ValueError: A shape does not fit, or the tensors are on several devices.
        """
        self._check_features(features)
        self._check_points("coords", coords, features)
        mean, log_var, center, valid = self._read(features, coords)
        if self.coordinates == "offset":
            mean = mean + center
        covariance = self._covariance(log_var)
        return torch.where(valid[..., None], mean, math.nan), torch.where(valid[..., None, None], covariance, math.nan)

    def _read(
        self,
        features: Tensor,  # [B, C, H, W]
        coords: Tensor,  # [B, K, 2]
    ) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """Means [B, K, 2] as the head says them and log variances [B, K, 1 | 2 | 3] in the cells of `coords`, the
        centres of these cells [B, K, 2] in input pixels, and whether there is one [B, K]; of no meaning where not."""
        is_double = torch.float64 in (features.dtype, self.weight.dtype)
        dtype = torch.float64 if is_double else torch.float32
        height, width = features.shape[-2:]
        cell = (coords.detach().to(dtype) / self.stride).floor()
        column, row = cell.unbind(-1)
        # Both ends, and before the conversion to integers: a NaN is neither above nor below.
        valid = (column >= 0) & (column < width) & (row >= 0) & (row < height)
        row, column = torch.where(valid, row, 0).long(), torch.where(valid, column, 0).long()
        batch = torch.arange(features.shape[0], device=features.device)[:, None]
        # Before any arithmetic, so that what is not read has no gradient: 0 * NaN would be NaN.
        at_cell = torch.where(valid[..., None], features[batch, :, row, column].to(dtype), 0.0)  # [B, K, C]

        num_means = 2 * self.num_keypoints
        outputs = []
        for weight, bias in zip(
            self.weight.flatten(1).tensor_split([num_means]), self.bias.tensor_split([num_means]), strict=True
        ):
            weight = weight.to(dtype).unflatten(0, (self.num_keypoints, -1))  # [K, P, C]
            bias = bias.to(dtype).unflatten(0, (self.num_keypoints, -1))
            # Not a matrix product, which settings of the process can round to half precision.
            outputs.append((at_cell[:, :, None] * weight).sum(-1) + bias)
        mean, log_var = outputs
        return mean, log_var, (torch.stack([column, row], dim=-1).to(dtype) + 0.5) * self.stride, valid

    def extra_repr(self) -> str:
        text = f"{self.in_channels}, {self.num_keypoints}, covariance={self.covariance!r}, stride={self.stride:g}"
        text += f", initial_log_var={self.initial_log_var}, coordinates={self.coordinates!r}"
        if self.distribution != "gaussian":
            text += f", distribution={self.distribution!r}"
        if self.log_var_bounds is not None:
            text += f", log_var_bounds={self.log_var_bounds}"
        return text

    def _covariance(
        self,
        log_var: Tensor,  # [B, K, 1 | 2 | 3]
    ) -> Tensor:
        """[B, K, 2, 2] of what the network says."""
        if self.covariance == "full":
            a, b, c = log_var.unbind(-1)
            if self.log_var_bounds is not None:
                low, high = self.log_var_bounds
                a, c = a.clamp(low / 2, high / 2), c.clamp(low / 2, high / 2)
            xx, xy, yy = torch.exp(2 * a), b * torch.exp(a), b * b + torch.exp(2 * c)  # L L^T
            return torch.stack([xx, xy, xy, yy], dim=-1).unflatten(-1, (2, 2))
        if self.log_var_bounds is not None:
            log_var = log_var.clamp(*self.log_var_bounds)
        # The variance of a Laplace distribution is twice its squared scale.
        variance = 2 * torch.exp(2 * log_var) if self.distribution == "laplace" else torch.exp(log_var)
        return torch.diag_embed(variance.expand(*variance.shape[:-1], 2))

    def _check_features(self, features: Tensor) -> None:
        check_tensor("features", features, 4, "[B, C, H, W]")
        if features.shape[1] != self.in_channels:
            raise ValueError(
                f"features: got shape {list(features.shape)}, expected [B, C, H, W] with C = {self.in_channels}"
            )
        check_size("features", features)

    def _check_points(self, name: str, points: Tensor, features: Tensor) -> None:
        check_tensor(name, points, 3, "[B, K, 2]")
        expected = (features.shape[0], self.num_keypoints, 2)
        if points.shape != expected:
            raise ValueError(
                f"{name}: got shape {list(points.shape)}, expected {list(expected)}, (x, y) of every keypoint"
            )
        check_devices(features=features, **{name: points})


class DARKLoss(nn.Module):
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

    def __init__(
        self,
        stride: float = 4.0,
        coordinates: str = "absolute",
        distribution: str = "gaussian",
        beta: float = 0.0,
        log_var_bounds: tuple[float, float] | None = None,
        full: bool = False,
        reduction: str = "mean",
        backend: str = "auto",
    ) -> None:
        super().__init__()
        check_backend(backend)
        self._options: dict[str, Any] = {
            "stride": stride,
            "coordinates": coordinates,
            "distribution": distribution,
            "beta": beta,
            "log_var_bounds": log_var_bounds,
            "full": full,
            "reduction": reduction,
        }
        _check_loss_options(1, **self._options)
        self._options["backend"] = backend

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

    def extra_repr(self) -> str:
        return ", ".join(f"{name}={value!r}" for name, value in self._options.items())


class SoftArgmax(nn.Module):
    """`soft_argmax` with its options held: heatmaps to expected coordinates, with a gradient.

    Args:
        beta: Inverse temperature, positive.
        backend: As `soft_argmax` takes it.

    Raises:
        TypeError: `beta` is not a number.
        ValueError: `beta` is not positive or `backend` unknown.

    Example:
        >>> import torch
        >>> from dark_kernels.nn import SoftArgmax
        >>> network = torch.nn.Sequential(torch.nn.Conv2d(3, 17, 1), SoftArgmax(beta=10.0))
        >>> network(torch.rand(8, 3, 64, 48)).shape
        torch.Size([8, 17, 2])
    """

    def __init__(self, beta: float = 1.0, backend: str = "auto") -> None:
        super().__init__()
        check_positive("beta", beta)
        check_backend(backend)
        self.beta = float(beta)
        self.backend = backend

    def forward(
        self,
        heatmaps: Tensor,  # [B, K, H, W]
    ) -> Tensor:
        """Expected coordinates [B, K, 2], (x, y) in heatmap pixels."""
        return soft_argmax(heatmaps, self.beta, self.backend)

    def extra_repr(self) -> str:
        return f"beta={self.beta:g}"


class _HeatmapLoss(nn.Module):
    """A loss of `dark_kernels.heatmap_*` with its options held. A sigma for each keypoint moves with the module."""

    _function: Callable[..., Tensor]
    sigma: float | Tensor

    def __init__(self, sigma: _Sigma, backend: str, **options: Any) -> None:
        super().__init__()
        if isinstance(sigma, list | tuple):
            for number in sigma:
                check_positive("sigma", number)
            sigma = torch.tensor(sigma, dtype=torch.float32)
        if isinstance(sigma, Tensor):
            check_tensor("sigma", sigma, 1, "[K]")
            self.register_buffer("sigma", sigma, persistent=False)
        else:
            check_positive("sigma", sigma)
            self.sigma = sigma
        check_backend(backend)
        # Raise what the loss would raise at the first batch, now: ask it for a batch of none.
        topk = options.get("topk")
        num_keypoints = topk if isinstance(topk, int) and topk > 0 else 1
        empty = torch.zeros(0, num_keypoints, 1, 2, device="cpu", dtype=torch.float32)
        type(self)._function(empty, empty[:, :, 0], backend="reference", **options)
        self._options = {**options, "backend": backend}

    def forward(
        self,
        heatmaps: Tensor,  # [B, K, H, W]
        keypoints: Tensor,  # [B, K, 2] or [B, N, K, 2]
        visible: Tensor | None = None,  # [B, K] or [B, N, K]
        weight: Tensor | None = None,  # [B, K]
    ) -> Tensor:
        """The loss, [] or [B, K]. Arguments and errors as the function's."""
        return type(self)._function(
            heatmaps, keypoints, sigma=self.sigma, visible=visible, weight=weight, **self._options
        )

    def extra_repr(self) -> str:
        sigma = self.sigma.tolist() if isinstance(self.sigma, Tensor) else self.sigma
        return ", ".join(f"{name}={value!r}" for name, value in {"sigma": sigma, **self._options}.items())


class HeatmapMSELoss(_HeatmapLoss):
    """`dark_kernels.heatmap_mse` with its options held.

    In place of MMPose's KeypointMSELoss (the default), HRNet's JointsMSELoss (`weighting="hrnet"`) and its
    JointsOHKMMSELoss (with `topk=8` as well), which take target maps where this takes keypoints.

    Args:
        sigma: Standard deviation of the targets in heatmap pixels, positive, or one for each keypoint.
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
        encoding: str = "unbiased",
        weighting: str = "mmpose",
        topk: int | None = None,
        empty: str = "skip",
        reduction: str = "mean",
        backend: str = "auto",
    ) -> None:
        super().__init__(
            sigma, encoding=encoding, weighting=weighting, topk=topk, empty=empty, reduction=reduction, backend=backend
        )


class HeatmapAdaptiveWingLoss(_HeatmapLoss):
    """`dark_kernels.heatmap_adaptive_wing` with its options held.

    Args:
        sigma: Standard deviation of the targets in heatmap pixels, positive, or one for each keypoint.
        encoding: `"unbiased"`, `"biased"` or `"udp"`.
        alpha, omega, epsilon, theta: Of the loss.
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
        encoding: str = "unbiased",
        alpha: float = 2.1,
        omega: float = 14.0,
        epsilon: float = 1.0,
        theta: float = 0.5,
        empty: str = "skip",
        reduction: str = "mean",
        backend: str = "auto",
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
        encoding: str = "biased",
        empty: str = "skip",
        reduction: str = "mean",
        backend: str = "auto",
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
        encoding: str = "unbiased",
        reduction: str = "mean",
        backend: str = "auto",
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
        encoding: str = "unbiased",
        reduction: str = "mean",
        backend: str = "auto",
    ) -> None:
        super().__init__(sigma, encoding=encoding, reduction=reduction, backend=backend)


class VarianceSchedule:
    """A fixed variance for the first steps of training, and the learned one afterwards.

    The means learn to be about right before the variances learn how right they are: a variance that is learned from
    the start grows to meet the first errors, and what it is divided by then slows the means down.

        for images, target in batches:
            loss = head.loss(backbone(images), target, fixed_log_var=schedule())
            ...
            schedule.step()

    Under torch.compile, step() belongs outside the compiled function. Reading the schedule inside or outside of it,
    the one switch recompiles once, and the other steps do not.

    Args:
        fixed_log_var: Log variance of the first steps, in squared input pixels (Laplace: the log of the scale). The
            loss of a mean is then its squared error over 2 e^fixed_log_var.
        steps: How many steps it is fixed for, 0 or more.

    Raises:
        TypeError: `fixed_log_var` is not a number, or `steps` not an integer.
        ValueError: `fixed_log_var` is not finite, or `steps` is below 0.
    """

    def __init__(self, fixed_log_var: float, steps: int) -> None:
        check_number("fixed_log_var", fixed_log_var)
        _check_count("steps", steps, least=0)
        self.fixed_log_var = float(fixed_log_var)
        self.steps = steps
        self._set(0)

    def __call__(self) -> float | None:
        """What to give the loss as `fixed_log_var` in this step."""
        return self._now

    def step(self) -> None:
        """One training step is done."""
        self._set(self.step_count + 1)

    def state_dict(self) -> dict[str, int]:
        """How many steps are done; the options are the constructor's."""
        return {"step_count": self.step_count}

    def load_state_dict(self, state_dict: Mapping[str, int]) -> None:
        """Go on where `state_dict` was made.

        Raises:
            ValueError: It is not a schedule's.
        """
        if set(state_dict) != {"step_count"}:
            raise ValueError(f"state_dict: got keys {sorted(state_dict)}, expected ['step_count']")
        _check_count("step_count", state_dict["step_count"], least=0)
        self._set(state_dict["step_count"])

    def __repr__(self) -> str:
        return f"VarianceSchedule(fixed_log_var={self.fixed_log_var:g}, steps={self.steps}), {self.step_count} done"

    def _set(self, step_count: int) -> None:
        self.step_count = step_count
        # Kept, not worked out in each call: compiled code guards this, which changes once, and not the count.
        self._now = self.fixed_log_var if step_count < self.steps else None


class TwoStageDecoder(nn.Module):
    """Features to keypoints: a heatmap head finds the cell, a distribution head says what is there.

    The peak of each heatmap is decoded by `recipe`; `distribution_head` is evaluated in the cell of that peak, and
    nowhere else. Its means are the coordinates, its covariances how sure they are.

    Args:
        heatmap_head: Any module from features [B, C, H, W] to heatmaps [B, K, h, w], of any size.
        distribution_head: A `DARKHead` of K keypoints, on the same features.
        recipe: How peaks are decoded. One that refines them finds the cell better where heatmaps are aligned at
            corners (`heatmap_shift=0`), which puts the border of a cell on the pixel.
        heatmap_stride: Input pixels per heatmap pixel; None takes the stride of `distribution_head`.
        heatmap_shift: Heatmap pixel p is at (p + heatmap_shift) * heatmap_stride input pixels. 0 for targets made at
            keypoint / stride (MSRA, DARK; UDP with a stride of (input - 1) / (heatmap - 1)), 0.5 for targets made
            at keypoint / stride - 0.5.
        backend: Of `decode`.

    Raises:
        TypeError: A head is no module, or `recipe` not a Recipe.
        ValueError: A number is out of range, or `backend` is unknown.

    Example: on top of any backbone that returns [B, C, H, W].
        >>> import torch
        >>> from dark_kernels.nn import DARKHead, TwoStageDecoder
        >>> backbone = torch.nn.Conv2d(3, 32, 4, stride=4)
        >>> decoder = TwoStageDecoder(torch.nn.Conv2d(32, 17, 1), DARKHead(32, 17, stride=4))
        >>> keypoints = decoder(backbone(torch.rand(8, 3, 256, 192)))
        >>> keypoints.coords.shape, keypoints.scores.shape, keypoints.covariances.shape
        (torch.Size([8, 17, 2]), torch.Size([8, 17]), torch.Size([8, 17, 2, 2]))
    """

    def __init__(
        self,
        heatmap_head: nn.Module,
        distribution_head: DARKHead,
        recipe: Recipe = DARKPOSE,
        heatmap_stride: float | None = None,
        heatmap_shift: float = 0.0,
        backend: str = "auto",
    ) -> None:
        super().__init__()
        for name, head, kind in (
            ("heatmap_head", heatmap_head, nn.Module),
            ("distribution_head", distribution_head, DARKHead),
        ):
            if not isinstance(head, kind):
                raise TypeError(f"{name}: got {type(head).__name__}, expected a {kind.__name__}")
        if not isinstance(recipe, Recipe):
            raise TypeError(f"recipe: got {type(recipe).__name__} {recipe!r}, expected a dark_kernels.Recipe")
        if heatmap_stride is not None:
            check_positive("heatmap_stride", heatmap_stride)
        check_number("heatmap_shift", heatmap_shift)
        check_backend(backend)
        self.heatmap_head = heatmap_head
        self.distribution_head = distribution_head
        self.recipe = recipe
        # NaN instead of the recipe's own number, which could be somewhere in the map.
        self._recipe = dataclasses.replace(recipe, invalid=math.nan)
        self.heatmap_stride = distribution_head.stride if heatmap_stride is None else float(heatmap_stride)
        self.heatmap_shift = float(heatmap_shift)
        self.backend = backend

    def forward(
        self,
        features: Tensor,  # [B, C, H, W]
    ) -> Keypoints:
        """Keypoints in input pixels.

        Args:
            features: [B, C, H, W].

        Returns:
            Keypoints: `coords` [B, K, 2] in input pixels and `covariances` [B, K, 2, 2] in squared input pixels from
            the distribution head, `scores` [B, K] from the heatmaps. A peak that is decoded to a place outside the
            map is read in the nearest cell. A heatmap without a positive peak, or with a NaN, has no keypoint: its
            coordinates and covariance are NaN. Gradients flow to the distribution head and the features it reads.

        Raises:
            ValueError: `features` or the heatmaps do not fit the distribution head.
        """
        head = self.distribution_head
        heatmaps = self.heatmap_head(features)
        expected = (features.shape[0], head.num_keypoints)
        if heatmaps.dim() != 4 or heatmaps.shape[:2] != expected:
            raise ValueError(
                f"heatmap_head: got heatmaps of shape {list(heatmaps.shape)}, expected "
                f"[{expected[0]}, {expected[1]}, H, W], a map for each keypoint of distribution_head"
            )
        cells, scores = self.find_cells(heatmaps, features.shape[-2], features.shape[-1])
        coords, covariances = head.at(features, cells)
        return Keypoints(coords, scores, covariances)

    def find_cells(
        self,
        heatmaps: Tensor,  # [B, K, h, w]
        height: int,
        width: int,
    ) -> tuple[Tensor, Tensor]:
        """Where the distribution head is read: for `distribution_head.loss(features, target, at=cells)`.

        Args:
            heatmaps: [B, K, h, w], of `heatmap_head`.
            height, width: Of the features.

        Returns:
            The centres of the cells [B, K, 2] in input pixels, NaN where a heatmap has no keypoint, and the scores
            of the peaks [B, K]. Without gradient.
        """
        peaks, scores, _ = decode(heatmaps, self._recipe, backend=self.backend)
        stride = self.distribution_head.stride
        cell = ((peaks + self.heatmap_shift) * (self.heatmap_stride / stride)).floor()
        column, row = cell.unbind(-1)
        cell = torch.stack([column.clamp(0, width - 1), row.clamp(0, height - 1)], dim=-1)
        return (cell + 0.5) * stride, scores

    def extra_repr(self) -> str:
        return (
            f"recipe={self.recipe.name!r}, heatmap_stride={self.heatmap_stride:g}, heatmap_shift={self.heatmap_shift:g}"
        )


def _check_loss_options(num_log_vars: int, **options: Any) -> None:
    """Raise what the loss would raise at the first batch, when the module is made: ask it for a batch of none."""
    empty = torch.zeros(0, 1, 2 + num_log_vars, 1, 1, device="cpu", dtype=torch.float32)
    gaussian_nll(empty[:, :, :2], empty[:, :, 2:], empty[:, :, :2, 0, 0], backend="reference", **options)


def _check_count(name: str, count: int, least: int = 1) -> None:
    if isinstance(count, bool) or not isinstance(count, int):
        raise TypeError(f"{name}: got {type(count).__name__} {count!r}, expected an integer")
    if count < least:
        raise ValueError(f"{name}: got {count}, expected at least {least}")
