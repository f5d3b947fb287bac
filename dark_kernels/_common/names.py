"""Types of arguments: the names that they take, from which `check_name` has its lists, and what may be an array."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal, TypeVar

from numpy.typing import NDArray
from torch import Tensor

# Tensors give tensors, arrays arrays.
ArrayT = TypeVar("ArrayT", Tensor, NDArray[Any])
# Numbers in rows, of a few.
Numbers = Tensor | NDArray[Any] | Sequence[Any]

# Of recipes, as `recipes.ALL` has them.
RecipeName = Literal[
    "darkpose", "mmpose_dark", "mmpose_udp", "mmpose_legacy_udp", "vitpose_hf", "sapiens_hf", "quarter",
    "quarter_legacy", "megvii", "argmax", "fit", "matched",
]  # fmt: skip

# Of decoding.
Plateau = Literal["first", "all", "none"]
AxisScore = Literal["min", "mean"]
Activation = Literal["none", "sigmoid", "softmax"]
BoxFormat = Literal["xywh", "xyxy"]

# Of losses.
Encoding = Literal["unbiased", "biased", "udp"]
Weighting = Literal["mmpose", "hrnet"]
Empty = Literal["skip", "zero"]
HeatmapReduction = Literal["mean", "none", "sum"]
Reduction = Literal["mean", "none", "sum", "mean_valid"]
Coordinates = Literal["absolute", "offset"]
Distribution = Literal["gaussian", "laplace"]
Covariance = Literal["isotropic", "diagonal", "full"]

# Of poses and metrics.
Swap = Literal["pairs", "pose"]
SoftMethod = Literal["gaussian", "linear"]
Average = Literal["micro", "macro", "none"]
KindOfSize = Literal["longest", "diagonal", "area", "head"]
AreaSource = Literal["bbox", "keypoints"]
