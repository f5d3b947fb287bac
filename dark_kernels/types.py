"""Results of the operations: named tuples of tensors, which move, convert, save and load as a whole.

Each has `to(...)` and `cpu()`, which are those of its tensors, and `numpy()`, whose arrays are detached and on the CPU.
What is None stays None. `torch.load` reads them by default, `torch.utils.data.default_collate` batches them, and
`_asdict()` is for formats that know dictionaries.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple, TypeVar

import torch
import torch.utils._pytree as pytree
from torch import Tensor
from torch.utils.data._utils.collate import collate, default_collate_fn_map

_Result = TypeVar("_Result", bound=tuple[Any, ...])


def _mapped(result: _Result, function: Callable[[Tensor], Any]) -> _Result:
    """The same of other tensors; None stays."""
    make: Callable[..., _Result] = type(result)
    return make(*(None if each is None else function(each) for each in result))


def _to(tensor: Tensor, *args: Any, **kwargs: Any) -> Tensor:
    converted = tensor.to(*args, **kwargs)
    return converted if tensor.is_floating_point() else tensor.to(converted.device)


class Keypoints(NamedTuple):
    """Decoded keypoints of a batch of heatmaps, as `decode` returns them.

    `nn.TwoStageDecoder` gives coordinates in input pixels and covariances in squared input pixels instead, both NaN
    where a heatmap has no keypoint; `vote` gives the mean of the samples, and the share of the votes as the score.

    Attributes:
        coords: [B, K, 2], (x, y) in heatmap pixels, pixel centres at integers.
        scores: [B, K], the value of the peak.
        covariances: [B, K, 2, 2] in squared heatmap pixels, rows and columns in the order (x, y);
            positive semi-definite or NaN. None where none was asked for.
    """

    coords: Tensor
    scores: Tensor
    covariances: Tensor | None = None

    def to(self, *args: Any, **kwargs: Any) -> Keypoints:
        """Move to a device, convert what is floating to a dtype, or both, as `Module.to`."""
        return _mapped(self, lambda tensor: _to(tensor, *args, **kwargs))

    def cpu(self) -> Keypoints:
        """Move to the CPU."""
        return _mapped(self, Tensor.cpu)

    def numpy(self) -> Keypoints:
        """The same of NumPy arrays."""
        return _mapped(self, lambda tensor: tensor.numpy(force=True))


class SimCCKeypoints(NamedTuple):
    """Keypoints decoded from classifications of the two axes, as `decode_simcc` returns them.

    Separate from `Keypoints` so that `coords, scores, covariances = keypoints` keeps working.

    Attributes:
        coords: [B, K, 2], (x, y) in pixels: bins over the split ratio, centres of bins at integers.
        scores: [B, K], of the values of the two peaks the smaller, or the mean. From 0 to 1 with an activation.
        visibility: [B, K] in (0, 1], the smaller of the two largest probabilities. None where not asked for.
    """

    coords: Tensor
    scores: Tensor
    visibility: Tensor | None = None

    def to(self, *args: Any, **kwargs: Any) -> SimCCKeypoints:
        """Move to a device, convert what is floating to a dtype, or both, as `Module.to`."""
        return _mapped(self, lambda tensor: _to(tensor, *args, **kwargs))

    def cpu(self) -> SimCCKeypoints:
        """Move to the CPU."""
        return _mapped(self, Tensor.cpu)

    def numpy(self) -> SimCCKeypoints:
        """The same of NumPy arrays."""
        return _mapped(self, lambda tensor: tensor.numpy(force=True))


class Peaks(NamedTuple):
    """The local maxima of a batch of heatmaps, the best P of each map, as `find_peaks` returns them.

    A map's peaks come first, by descending score; `torch.arange(P) < counts[..., None]` says which slots hold one.

    Attributes:
        coords: [B, K, P, 2], (x, y) in heatmap pixels, pixel centres at integers; `recipe.invalid` in unused slots.
        scores: [B, K, P], the values of the peaks; 0 in unused slots.
        counts: [B, K] int64, how many peaks a map has, P at the most.
        covariances: [B, K, P, 2, 2] in squared heatmap pixels, rows and columns in the order (x, y); positive
            semi-definite, or NaN, as in unused slots. None where none was asked for.
    """

    coords: Tensor
    scores: Tensor
    counts: Tensor
    covariances: Tensor | None = None

    def to(self, *args: Any, **kwargs: Any) -> Peaks:
        """Move to a device, convert what is floating to a dtype, or both, as `Module.to`."""
        return _mapped(self, lambda tensor: _to(tensor, *args, **kwargs))

    def cpu(self) -> Peaks:
        """Move to the CPU."""
        return _mapped(self, Tensor.cpu)

    def numpy(self) -> Peaks:
        """The same of NumPy arrays."""
        return _mapped(self, lambda tensor: tensor.numpy(force=True))


class KeptPoses(NamedTuple):
    """Poses that non-maximum suppression leaves of N in each of B images, as `oks_nms` and `soft_oks_nms` return it.

    Without the batch dimension if the poses came without one.

    Attributes:
        keep: bool [B, N], which poses are kept.
        indices: int64 [B, P], the kept poses in the order in which they were kept, the best first; then -1. P is N,
            or the most poses that may be kept.
        counts: int64 [B], how many are kept.
        scores: [B, N], with which score a pose was kept; 0 for those that were not.
    """

    keep: Tensor
    indices: Tensor
    counts: Tensor
    scores: Tensor

    def to(self, *args: Any, **kwargs: Any) -> KeptPoses:
        """Move to a device, convert what is floating to a dtype, or both, as `Module.to`."""
        return _mapped(self, lambda tensor: _to(tensor, *args, **kwargs))

    def cpu(self) -> KeptPoses:
        """Move to the CPU."""
        return _mapped(self, Tensor.cpu)

    def numpy(self) -> KeptPoses:
        """The same of NumPy arrays."""
        return _mapped(self, lambda tensor: tensor.numpy(force=True))


def _collate(batch: list[_Result], *, collate_fn_map: dict[Any, Callable[..., Any]] | None = None) -> _Result:
    """A batch of results, field by field. PyTorch's own way for tuples with names cannot batch None."""
    make: Callable[..., _Result] = type(batch[0])
    fields: list[Any] = []
    for name, values in zip(make._fields, zip(*batch, strict=True), strict=True):  # type: ignore[attr-defined]
        num_absent = sum(value is None for value in values)
        if num_absent not in (0, len(values)):
            raise ValueError(
                f"{name}: got None in {num_absent} of {len(values)} results, expected it in all or in none"
            )
        fields.append(None if num_absent else collate(list(values), collate_fn_map=collate_fn_map))
    return make(*fields)


_TYPES = (Keypoints, SimCCKeypoints, Peaks, KeptPoses)
torch.serialization.add_safe_globals(list(_TYPES))
# As `torch.utils.data._utils.collate.collate` documents it.
default_collate_fn_map.update(dict.fromkeys(_TYPES, _collate))
# An exported program that returns one of these can be saved only under a name; torch's own error asks for this call.
for _type in _TYPES:
    pytree._register_namedtuple(_type, serialized_type_name=f"dark_kernels.{_type.__name__}")
