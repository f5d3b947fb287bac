"""find_peaks(): what users call."""

from __future__ import annotations

from typing import Any, Literal, get_args, overload

from numpy.typing import NDArray
from torch import Tensor

from .._common.checks import check_count, check_maps, check_name, check_number, to_float, to_recipe
from .._common.inputs import is_batch, take
from .._common.names import ArrayT, Plateau, RecipeName
from .._common.plans import planned
from ..backends import Backend, check_backend, is_plain
from ..recipes import DARKPOSE, Recipe
from ..types import Peaks
from .library import find_peaks_directly, find_peaks_operator
from .options import Rule
from .reference import find_peaks_reference

MOST_PEAKS = 128  # a list of that many fits in the registers of a warp
PLATEAUS: tuple[Plateau, ...] = get_args(Plateau)


@overload
def find_peaks(
    heatmaps: ArrayT,
    max_peaks: int,
    threshold: float = ...,
    window: int = ...,
    recipe: Recipe | RecipeName = ...,
    plateau: Plateau = ...,
    backend: Backend = ...,
    *,
    covariance: Literal[False] = ...,
) -> Peaks[ArrayT, None]: ...
@overload
def find_peaks(
    heatmaps: ArrayT,
    max_peaks: int,
    threshold: float = ...,
    window: int = ...,
    recipe: Recipe | RecipeName = ...,
    plateau: Plateau = ...,
    backend: Backend = ...,
    *,
    covariance: Literal[True],
) -> Peaks[ArrayT, ArrayT]: ...
@overload
def find_peaks(
    heatmaps: ArrayT,
    max_peaks: int,
    threshold: float = ...,
    window: int = ...,
    recipe: Recipe | RecipeName = ...,
    plateau: Plateau = ...,
    backend: Backend = ...,
    *,
    covariance: bool,
) -> Peaks[ArrayT, ArrayT | None]: ...
@planned
def find_peaks(
    heatmaps: Tensor | NDArray[Any],  # [B, K, H, W]
    max_peaks: int,
    threshold: float = 0.0,
    window: int = 3,
    recipe: Recipe | RecipeName = DARKPOSE,
    plateau: Plateau = "first",
    backend: Backend = "auto",
    *,
    covariance: bool = False,
) -> Peaks[Any, Any]:
    """Turn heatmaps with several keypoints in a map, as bottom-up networks make them, into their best peaks.

    A pixel is a peak if it exceeds `threshold` and all neighbours in the `window` x `window` square around it; of equal
    neighbours see `plateau`. The best `max_peaks` of each map are kept, by descending value, of equal ones the first in
    row-major order, and each is refined as `decode` refines the one that it finds (see there for recipes and
    covariances): if that exceeds the threshold it is in the first slot, with `plateau="first"` or "all". A recipe that
    searches the smoothed map (MEGVII, or any with `argmax_on="blurred"`) finds its peaks there: neighbours are compared
    in the smoothed map, and what has to exceed the threshold is its value after rescaling. With a matched filter
    (MATCHED, or any with `argmax_on="matched"`) the raw map is searched, since the filter merges peaks that are close:
    then the first slot need not be the keypoint of `decode`, and what is refined with `stencil="gaussian"` stays at its
    own peak. On CUDA, ROCm and XPU this is one launch that reads each element once from device memory.

    All shapes are known beforehand and nothing waits for the device. Slots that no peak takes hold `recipe.invalid`
    for both coordinates, 0 for the score and NaN for the covariance; `counts` says how many are taken.

    Of maps that are logits (`activation` of the recipe) the peaks are found among the logits, and what has to exceed
    the threshold is what they stand for. With `score="mass"` each peak is scored with the share of the map around it,
    and still it is the value of the peak that has to exceed the threshold and by which peaks are ordered.

    A map with a NaN has no peaks, as it has no keypoint. A peak stays on its pixel if its map holds +inf (to which a
    rescaled smoothed map lifts all of its positive peaks), or if it is not positive, which a negative threshold
    admits. Coordinates are finite unless `recipe.invalid` is not. Little peaks of noise have no shape to refine, and a
    step from there can leave the map: a threshold keeps them out, and `recipe.max_offset` bounds the step.

    The result does not depend on `heatmaps` in a differentiable way: a tensor that requires grad is accepted and the
    outputs carry no gradient. The input is never written to.

    Args:
        heatmaps: [B, K, H, W], [K, H, W] or [H, W], a tensor or a NumPy array of the dtypes that `decode` takes, any
            strides; results lack the same dimensions, and are arrays of arrays. Arithmetic is float32, in float64 for
            float64; integers are copied to float32.
        max_peaks: P, 1 to 128, and more than a map has pixels if you like.
        threshold: What the value of a peak has to exceed, in units of the maps, or of probabilities if those are
            logits, and so before `recipe.score_scale` and `score_offset`; a finite number.
        window: Odd, in pixels. 1 takes every pixel above the threshold for a peak. The kernel's time grows with its
            square.
        recipe: Which map is searched, the raw or the smoothed one, and how a peak is refined: a row of
            `dark_kernels.recipes`, its name or a `Recipe` of your own.
        plateau: `"first"`: a pixel has to be larger than its earlier neighbours, in row-major order, and not smaller
            than the later ones, so that of a plateau the first pixel is a peak. `"all"`: not smaller than any, as in
            a comparison with the max-pooled map, which keeps all of a plateau. `"none"`: larger than all, which keeps
            nothing of it. Pixels are compared within a window and not beyond: a plateau that goes on outside of it, and
            up, or around a corner, can have a peak that a look at the whole would refuse.
        backend: As in `decode`.
        covariance: Also return the covariance of each peak.

    Returns:
        Peaks: `coords` [B, K, P, 2] as (x, y) in heatmap pixels with pixel centres at integers, `scores` [B, K, P],
        `counts` [B, K] in int64, and `covariances` [B, K, P, 2, 2] in squared heatmap pixels or None; float32, or
        float64 for float64 heatmaps.

    Raises:
        TypeError: `heatmaps` is not dense or not of one of these dtypes, `recipe` is neither a Recipe nor a name, or a
            number is none.
        ValueError: `heatmaps` has another rank, or not H >= 1 and W >= 1; `max_peaks`, `window` or `threshold` is out
            of its range; `plateau` or `backend` is unknown, or the backend cannot serve this tensor; `covariance` is
            asked of a recipe whose stencil has no Hessian.

    Example:
        >>> import torch, dark_kernels
        >>> heatmaps = torch.rand(2, 17, 64, 48)
        >>> peaks = dark_kernels.find_peaks(heatmaps, max_peaks=30, threshold=0.1)
        >>> peaks.coords.shape, peaks.counts.shape
        (torch.Size([2, 17, 30, 2]), torch.Size([2, 17]))
    """
    if not is_batch(heatmaps, 4):
        given = take("heatmaps", heatmaps, 4, "[B, K, H, W], [K, H, W] or [H, W]", least=2)
        return given.give_back(
            find_peaks(given.tensor, max_peaks, threshold, window, recipe, plateau, backend, covariance=covariance)
        )
    check_maps(heatmaps)
    recipe = to_recipe(recipe, covariance)
    check_backend(backend)
    check_count("max_peaks", max_peaks)
    if max_peaks > MOST_PEAKS:
        raise ValueError(f"max_peaks: got {max_peaks}, expected at most {MOST_PEAKS}")
    check_count("window", window)
    if window % 2 == 0:
        raise ValueError(f"window: got {window}, expected an odd number of pixels")
    check_number("threshold", threshold)
    check_name("plateau", plateau, PLATEAUS)

    heatmaps = to_float(heatmaps)
    if heatmaps.requires_grad:
        heatmaps = heatmaps.detach()
    if backend == "reference":
        return Peaks(*find_peaks_reference(heatmaps, max_peaks, threshold, window, recipe, plateau, covariance))
    rule, numbers = Rule(max_peaks, float(threshold), window, plateau), recipe.operator_arguments
    if is_plain(heatmaps):
        return Peaks(*find_peaks_directly(heatmaps, rule, numbers, covariance, backend))
    coords, scores, counts, covariances = find_peaks_operator(heatmaps, *rule, *numbers, covariance, backend)
    return Peaks(coords, scores, counts, covariances if covariance else None)
