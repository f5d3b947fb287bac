"""Modules that return keypoints: soft-argmax, and a heatmap head with a distribution head."""

from __future__ import annotations

import dataclasses
import math

import torch
from torch import Tensor, nn

from .._common.checks import check_number, check_positive, to_recipe
from .._common.names import RecipeName, Reduction
from ..backends import Backend, check_backend
from ..decode.api import decode
from ..recipes import DARKPOSE, Recipe
from ..soft_argmax.api import soft_argmax
from ..types import Keypoints
from .heads import DARKHead


class SoftArgmax(nn.Module):
    """`dark_kernels.soft_argmax` with its options held: heatmaps to expected coordinates, with a gradient.

    Args:
        beta: Inverse temperature, positive.
        backend: `"auto"`, `"triton"`, `"eager"` or `"reference"`.

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

    def __init__(self, beta: float = 1.0, backend: Backend = "auto") -> None:
        super().__init__()
        check_positive("beta", beta)
        check_backend(backend)
        self.beta = float(beta)
        self.backend = backend

    def forward(
        self,
        heatmaps: Tensor,  # [B, K, H, W]
    ) -> Tensor:
        """Expected coordinates [B, K, 2], (x, y) in heatmap pixels. Errors as those of `dark_kernels.soft_argmax`."""
        return soft_argmax(heatmaps, self.beta, self.backend)

    def extra_repr(self) -> str:
        return f"beta={self.beta:g}"


class TwoStageDecoder(nn.Module):
    """Features to keypoints: a heatmap head finds the cell, a distribution head says what is there.

    The peak of each heatmap is decoded by `recipe`; `distribution_head` is evaluated in the cell of that peak, and
    nowhere else. Its means are the coordinates, its covariances how sure they are.

    Args:
        heatmap_head: Any module from features [B, C, H, W] to heatmaps [B, K, h, w], of any size.
        distribution_head: A `DARKHead` of K keypoints, on the same features.
        recipe: How peaks are decoded, and what the heatmaps and the scores are (`activation`, `score`). With
            `heatmap_shift=0` pixels lie on the borders of cells, so that a recipe which refines peaks finds the cell
            better than one which does not.
        heatmap_stride: Input pixels per heatmap pixel; None takes the stride of `distribution_head`.
        heatmap_shift: Heatmap pixel p is at (p + heatmap_shift) * heatmap_stride input pixels. 0 for targets made at
            keypoint / stride (MSRA, DARK; UDP with a stride of (input - 1) / (heatmap - 1)), 0.5 for targets made
            at keypoint / stride - 0.5.
        backend: `"auto"`, `"triton"`, `"eager"` or `"reference"`, with which the peaks are decoded.

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
        recipe: Recipe | RecipeName = DARKPOSE,
        heatmap_stride: float | None = None,
        heatmap_shift: float = 0.0,
        backend: Backend = "auto",
    ) -> None:
        super().__init__()
        for name, head, kind in (
            ("heatmap_head", heatmap_head, nn.Module),
            ("distribution_head", distribution_head, DARKHead),
        ):
            if not isinstance(head, kind):
                raise TypeError(f"{name}: got {type(head).__name__}, expected a {kind.__name__}")
        recipe = to_recipe(recipe, covariance=False)
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
    ) -> Keypoints[Tensor, Tensor]:
        """Keypoints in input pixels.

        Args:
            features: [B, C, H, W].

        Returns:
            Keypoints: `coords` [B, K, 2] in input pixels and `covariances` [B, K, 2, 2] in squared input pixels from
            the distribution head, `scores` [B, K] from the heatmaps. A peak that is decoded to a place outside the
            map is read in the nearest cell. A heatmap without a positive peak (of logits, by the recipe's `activation`:
            without one above -inf), or with a NaN, has no keypoint: its coordinates and covariance are NaN. Gradients
            flow to the distribution head and the features it reads.

        Raises:
            ValueError: `features` or the heatmaps do not fit the distribution head.
        """
        cells, scores = self._cells_of("heatmap_head", self.heatmap_head(features), features)
        coords, covariances = self.distribution_head.at(features, cells)
        return Keypoints(coords, scores, covariances)

    def loss(
        self,
        features: Tensor,  # [B, C, H, W]
        target: Tensor,  # [B, K, 2]
        heatmaps: Tensor | None = None,  # [B, K, h, w]
        keypoint_weight: Tensor | None = None,  # [B, K]
        beta: float = 0.0,
        fixed_log_var: float | None = None,
        full: bool = False,
        reduction: Reduction = "mean",
        backend: Backend = "auto",
    ) -> Tensor:
        """The loss of the distribution head where `forward` reads it: in the cells of the heatmaps' peaks.

        For the part of training in which the heatmaps have peaks worth looking at; until then take
        `distribution_head.loss`, which reads the cells of the targets. Trained there alone, a head has never seen a
        peak that is wrong, and its covariances are too small.

        Args:
            features: [B, C, H, W].
            target: [B, K, 2], (x, y) in input pixels. NaN, or outside the map: ignored.
            heatmaps: [B, K, h, w], what `heatmap_head` says of these features, if that is known already.
            keypoint_weight, beta, fixed_log_var, full, reduction, backend: As those of `DARKHead.loss`.

        Returns:
            The loss, [] or [B, K], as that of `DARKHead.loss`. A heatmap without a keypoint has none, and heatmaps get
            no gradient.

        Raises:
            TypeError, ValueError, RuntimeError: As `DARKHead.loss`, and `heatmaps` do not fit.
        """
        if heatmaps is None:
            with torch.no_grad():
                heatmaps = self.heatmap_head(features)
        cells, _ = self._cells_of("heatmaps", heatmaps, features)
        return self.distribution_head.loss(
            features, target, keypoint_weight, beta, fixed_log_var, full, reduction, backend, at=cells
        )

    def find_cells(
        self,
        heatmaps: Tensor,  # [B, K, h, w]
        height: int,
        width: int,
    ) -> tuple[Tensor, Tensor]:
        """Cells at which the distribution head is read: for `distribution_head.loss(features, target, at=cells)`.

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

    def _cells_of(self, name: str, heatmaps: Tensor, features: Tensor) -> tuple[Tensor, Tensor]:
        """`find_cells` of heatmaps [B, K, h, w], after a look at their shape."""
        batch, num_keypoints = features.shape[0], self.distribution_head.num_keypoints
        if heatmaps.dim() != 4 or heatmaps.shape[:2] != (batch, num_keypoints):
            raise ValueError(
                f"{name}: got heatmaps of shape {list(heatmaps.shape)}, expected [{batch}, {num_keypoints}, H, W], "
                "a map for each keypoint of distribution_head"
            )
        return self.find_cells(heatmaps, features.shape[-2], features.shape[-1])

    def extra_repr(self) -> str:
        return (
            f"recipe={self.recipe.name!r}, heatmap_stride={self.heatmap_stride:g}, heatmap_shift={self.heatmap_shift:g}"
        )
