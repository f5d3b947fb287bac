"""DARKHead: features to a distribution for each keypoint."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor, nn

from .._common.checks import check_count, check_devices, check_name, check_number, check_shape, check_size, check_tensor
from .._common.names import Coordinates, Covariance, Distribution, Reduction
from .._common.units import look_at_targets
from ..backends import Backend
from ..nll.api import gaussian_nll, linear_gaussian_nll
from .losses import empty_maps

# covariance -> log variances a keypoint
_COVARIANCES: dict[Covariance, int] = {"isotropic": 1, "diagonal": 2, "full": 3}


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
            deviation of one cell. With `distribution="laplace"` it is the log of the scale, and None starts at
            log(stride), a scale of one cell.
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
        covariance: Covariance = "isotropic",
        stride: float = 4.0,
        initial_log_var: float | None = None,
        coordinates: Coordinates = "absolute",
        distribution: Distribution = "gaussian",
        log_var_bounds: tuple[float, float] | None = None,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        super().__init__()
        check_count("in_channels", in_channels)
        check_count("num_keypoints", num_keypoints)
        check_name("covariance", covariance, tuple(_COVARIANCES))
        self.num_log_vars = _COVARIANCES[covariance]
        # What the loss would raise at the first batch, now.
        gaussian_nll(
            *empty_maps(self.num_log_vars),
            backend="reference",
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

        The convolution is a layer of the network, as the ones before it: autocast and what the process says of the
        precision of convolutions (`torch.backends`) decide how it is computed. What `loss` and `at` compute is float32
        in all of these.

        Args:
            features: [B, C, H, W], of the parameters' dtype, or any floating dtype under autocast; any strides.

        Returns:
            Means [B, K, 2, H, W] and log variances [B, K, 1 | 2 | 3, H, W], views of one tensor.

        Raises:
            TypeError: `features` is not a dense tensor of a floating dtype.
            ValueError: It has another rank, another C, or an empty H or W.
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
        reduction: Reduction = "mean",
        backend: Backend = "auto",
        at: Tensor | None = None,  # [B, K, 2]
    ) -> Tensor:
        """`dark_kernels.linear_gaussian_nll` of this head: the loss of its maps, without the maps.

        A head that is trained in the cell of its target, and read in the cell of a heatmap's peak, has never seen a
        peak that is wrong: its covariances there are too small. Once the heatmaps have peaks worth looking at, train
        it in their cells: `at=` what `TwoStageDecoder.find_cells` returns.

        Args:
            features: [B, C, H, W], any strides; the dtype may differ from the parameters'.
            target: [B, K, 2], (x, y) in input pixels. NaN, or outside the map: ignored (and said once, of a batch on
                the CPU most of which is outside).
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
        look_at_targets(target, features, self.stride, keypoint_weight)
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
        """Covariances [B, K, 2, 2] in squared input pixels."""
        if self.covariance == "full":
            a, b, c = log_var.unbind(-1)
            if self.log_var_bounds is not None:
                low, high = self.log_var_bounds
                a, c = a.clamp(low / 2, high / 2), c.clamp(low / 2, high / 2)
            # Finite, for no product of a b of 0 to be NaN.
            step = torch.exp(a / 2).clamp(max=torch.finfo(a.dtype).max)
            xx, xy, yy = torch.exp(2 * a), b * step * step, b * b + torch.exp(2 * c)  # L L^T
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
        check_shape(name, points, (features.shape[0], self.num_keypoints, 2), "(x, y) of every keypoint")
        check_devices(features=features, **{name: points})
