"""decode() and decode_offsets(): what users call."""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Sequence
from typing import Any, Literal, overload

import torch
from numpy.typing import NDArray
from torch import Tensor

from .._common.checks import MAP_DTYPES, check_dense, check_devices, check_maps, check_positive, check_tensor, to_recipe
from .._common.inputs import is_batch, take, to_numbers, to_tensor
from .._common.names import ArrayT, Numbers, RecipeName
from .._common.plans import held, planned
from ..backends import Backend, check_backend, is_plain
from ..recipes import DARKPOSE, Recipe
from ..types import Keypoints
from .library import decode_directly, decode_operator
from .options import NO_EXTRAS, Extras, in_floats, named
from .reference import decode_reference

# What is done to the first map of each three that UDP's combined heatmaps consist of.
UDP_COMBINED = Recipe(
    name="udp_combined", kernel_size=23, padding="reflect", rescale=False, stencil="none", argmax_on="blurred"
)


@overload
def decode(
    heatmaps: ArrayT,
    recipe: Recipe | RecipeName = ...,
    covariance: Literal[False] = ...,
    backend: Backend = ...,
    *,
    flipped: Tensor | NDArray[Any] | None = ...,
    flip_indices: Sequence[int] | Tensor | NDArray[Any] | None = ...,
    shift_flipped: bool = ...,
    image_transform: Numbers | None = ...,
    keypoint_indices: Sequence[int] | Tensor | NDArray[Any] | None = ...,
) -> Keypoints[ArrayT, None]: ...
@overload
def decode(
    heatmaps: ArrayT,
    recipe: Recipe | RecipeName = ...,
    *,
    covariance: Literal[True],
    backend: Backend = ...,
    flipped: Tensor | NDArray[Any] | None = ...,
    flip_indices: Sequence[int] | Tensor | NDArray[Any] | None = ...,
    shift_flipped: bool = ...,
    image_transform: Numbers | None = ...,
    keypoint_indices: Sequence[int] | Tensor | NDArray[Any] | None = ...,
) -> Keypoints[ArrayT, ArrayT]: ...
@overload
def decode(
    heatmaps: ArrayT,
    recipe: Recipe | RecipeName,
    covariance: Literal[True],
    backend: Backend = ...,
    *,
    flipped: Tensor | NDArray[Any] | None = ...,
    flip_indices: Sequence[int] | Tensor | NDArray[Any] | None = ...,
    shift_flipped: bool = ...,
    image_transform: Numbers | None = ...,
    keypoint_indices: Sequence[int] | Tensor | NDArray[Any] | None = ...,
) -> Keypoints[ArrayT, ArrayT]: ...
@overload
def decode(
    heatmaps: ArrayT,
    recipe: Recipe | RecipeName = ...,
    *,
    covariance: bool,
    backend: Backend = ...,
    flipped: Tensor | NDArray[Any] | None = ...,
    flip_indices: Sequence[int] | Tensor | NDArray[Any] | None = ...,
    shift_flipped: bool = ...,
    image_transform: Numbers | None = ...,
    keypoint_indices: Sequence[int] | Tensor | NDArray[Any] | None = ...,
) -> Keypoints[ArrayT, ArrayT | None]: ...
@overload
def decode(
    heatmaps: ArrayT,
    recipe: Recipe | RecipeName,
    covariance: bool,
    backend: Backend = ...,
    *,
    flipped: Tensor | NDArray[Any] | None = ...,
    flip_indices: Sequence[int] | Tensor | NDArray[Any] | None = ...,
    shift_flipped: bool = ...,
    image_transform: Numbers | None = ...,
    keypoint_indices: Sequence[int] | Tensor | NDArray[Any] | None = ...,
) -> Keypoints[ArrayT, ArrayT | None]: ...
@planned
def decode(
    heatmaps: Tensor | NDArray[Any],  # [B, C, H, W]
    recipe: Recipe | RecipeName = DARKPOSE,
    covariance: bool = False,
    backend: Backend = "auto",
    *,
    flipped: Tensor | NDArray[Any] | None = None,  # [B, C, H, W]
    flip_indices: Sequence[int] | Tensor | NDArray[Any] | None = None,  # [C]
    shift_flipped: bool = False,
    image_transform: Numbers | None = None,  # [B, 2, 3]
    keypoint_indices: Sequence[int] | Tensor | NDArray[Any] | None = None,  # [K]
) -> Keypoints[Any, Any]:
    """Turn heatmaps into keypoints with sub-pixel coordinates.

    For each map: find the first maximum in row-major order, smooth the map around it, and take one Newton
    step towards the maximum of the log of the smoothed map (DARK: Zhang et al., "Distribution-Aware
    Coordinate Representation for Human Pose Estimation", CVPR 2020, eq. 4 to 12), or what else the recipe
    says: `recipes.FIT` fits a Gaussian to the pixels around the maximum, and holds at the border of a map;
    `recipes.MATCHED`, the most accurate, takes that of a matched filter and fits a round Gaussian from there.
    On CUDA, ROCm and XPU this is one launch that reads each element once; channels_last maps take two.

    C is the number of maps of an image and K that of the keypoints asked for, which is C without `keypoint_indices`.

    A map whose peak is not positive, or which holds a NaN, has no keypoint: both coordinates are
    `recipe.invalid`, and the score is the raw peak. A peak of +inf stays on its pixel, and so does a peak
    whose step is not finite. Coordinates are finite unless `recipe.invalid` is not.

    Maps that are logits are decoded with `dataclasses.replace(recipe, activation="softmax")`, or "sigmoid": the peak is
    found among the logits, and what they stand for is worked out where pixels are read, which is the same single
    launch. Such a map has a keypoint unless its largest logit is -inf or it holds a NaN; scores are from 0 to 1, 0 for
    nothing but -inf. +inf in a softmax leaves other pixels nothing, and several share evenly.

    With `score="mass"` in the recipe the score is the share that the pixels around the peak have in all positive values
    of the map: 0 to 1, 0 in a map without a positive value, NaN in one with a NaN. In a map with pixels of +inf it is 1
    beside one of them. A clutter pixel has little of it, whatever its height, and a blob nearly all.

    The result does not depend on `heatmaps` in a differentiable way, as with `argmax`: a tensor that
    requires grad is accepted and the outputs carry no gradient. The input is never written to.

    Args:
        heatmaps: [B, C, H, W], or [C, H, W] and [H, W] without the dimensions that results lack then. A tensor or a
            NumPy array (results are arrays, computed on the CPU) of float16, bfloat16, float32 or float64, any strides
            (channels_last, slices and expanded tensors are read where they are). Arithmetic is float32, in float64 for
            float64. Also uint8, int8, int16 or uint16, whose numbers are taken as they are, without scaling: float32
            copies are decoded, on a CPU of some images at a time. A recipe that clips at 50 (UDP's) cuts off maps from
            0 to 255. Lists of maps, and arrays of other libraries, are refused; the message says what converts them.
        recipe: Which decoder, a row of `dark_kernels.recipes`, its name (`"mmpose_udp"`) or a `Recipe` of your own.
        covariance: Also return the covariance of each keypoint: minus the inverse Hessian of the log of
            the smoothed map at the peak, less what the blur added, or the covariance of the Gaussian that was
            fitted (by `stencil="gaussian"` a round one); less `recipe.target_sigma` squared, if given. NaN where the
            peak is invalid, was not refined, or is not a maximum with a positive semi-definite rest.
        backend: `"auto"` (Triton where the device has it, else eager), `"triton"`, `"numba"` (loops compiled for a CPU,
            by the first call ever, which takes half a minute; eager serves what they lack, other dtypes than float32,
            activations and masses), `"eager"` (vectorised PyTorch on any device) or `"reference"` (the definition:
            whole maps, slow). float64 is served by eager where Triton is asked for.
        flipped: [B, C, H, W], what the network says of the mirrored images, as it came out and of the shape, dtype and
            device of `heatmaps`, a tensor or an array (flip test). The mean of both is decoded, in float32, or float64
            for float64 heatmaps. A kernel reads both maps once and stores no mean; eager stores those of some images at
            a time.
        flip_indices: For each of the C channels, the one that holds this keypoint in `flipped`, where left and right
            have swapped. Ints, or an integer tensor (see below).
        shift_flipped: Move the flipped-back map one pixel to the right before the mean is taken, its column 0 staying
            where it is, as mmpose's `shift_heatmap` and HRNet's `SHIFT_HEATMAP` do.
        image_transform: [B, 2, 3], affine matrices A as `dark_kernels.transforms` makes: a tensor of one of the
            floating dtypes above, or numbers in an array or in lists, [2, 3] for maps without a batch. Coordinates
            become A (x, y, 1), and a covariance C becomes A C A^T with the first two columns of A. Keypoints without a
            peak stay `recipe.invalid`. Numbers that are not finite come out as such.
        keypoint_indices: The channels to decode, in that order, repetitions allowed; no others are read. Ints, or an
            integer tensor.

    Indices given as ints or on the CPU are checked. Those on a device are not looked at by the host, which would have
    to wait; numbers out of range count as the nearest channel. Ints are copied to a device once and remembered, so a
    CUDA graph that is captured has to follow a first call.

    Returns:
        Keypoints: `coords` [B, K, 2] as (x, y) in heatmap pixels with pixel centres at integers, `scores`
        [B, K] (see `Recipe.score`), and `covariances` [B, K, 2, 2] in squared heatmap pixels or None; float32, or
        float64 for float64 heatmaps. Empty for B = 0 or K = 0. With `image_transform` coordinates and covariances are
        those of the image.

    Raises:
        TypeError: `heatmaps`, `flipped` or `image_transform` is not dense or not of one of the dtypes above, `recipe`
            is neither a Recipe nor a name, or indices are not integers.
        ValueError: A tensor has another shape or device than the above, or an empty H or W; an index is out of range;
            one of `flipped` and `flip_indices` comes without the other; `backend` or the recipe's name is unknown, or
            the backend cannot serve this tensor; `covariance` is asked of a recipe whose stencil has no Hessian.

    Example:
        >>> import torch, dark_kernels
        >>> heatmaps = torch.rand(8, 17, 64, 48)
        >>> keypoints = dark_kernels.decode(heatmaps)
        >>> keypoints.coords.shape
        torch.Size([8, 17, 2])
    """
    if not is_batch(heatmaps, 4):
        given = take("heatmaps", heatmaps, 4, "[B, C, H, W], [C, H, W] or [H, W]", least=2)
        matrices = None if image_transform is None else to_numbers("image_transform", image_transform, given.tensor)
        keypoints = decode(
            given.tensor,
            recipe,
            covariance,
            backend,
            flipped=given.also("flipped", flipped, 4),
            flip_indices=flip_indices,
            shift_flipped=shift_flipped,
            image_transform=given.also("image_transform", matrices, 3),
            keypoint_indices=keypoint_indices,
        )
        return given.give_back(keypoints)
    check_maps(heatmaps)
    recipe = to_recipe(recipe, covariance)
    check_backend(backend)
    extras = NO_EXTRAS
    optional = (flipped, flip_indices, image_transform, keypoint_indices)
    if any(each is not None for each in optional) or shift_flipped is not False:
        extras = Extras(
            *_check_flip(heatmaps, flipped, flip_indices, shift_flipped),
            _check_indices("keypoint_indices", keypoint_indices, heatmaps),
            _check_transform(image_transform, heatmaps),
        )
    return _decode(heatmaps, recipe, covariance, backend, extras)


@overload
def decode_offsets(
    heatmaps: Tensor,
    kernel_size: int = ...,
    radius_factor: float = ...,
    backend: Backend = ...,
    *,
    image_transform: Numbers | None = ...,
) -> Keypoints[Tensor, None]: ...
@overload
def decode_offsets(
    heatmaps: NDArray[Any],
    kernel_size: int = ...,
    radius_factor: float = ...,
    backend: Backend = ...,
    *,
    image_transform: Numbers | None = ...,
) -> Keypoints[NDArray[Any], None]: ...
@planned
def decode_offsets(
    heatmaps: Tensor | NDArray[Any],  # [B, 3 K, H, W]
    kernel_size: int = 11,
    radius_factor: float = 0.0546875,
    backend: Backend = "auto",
    *,
    image_transform: Numbers | None = None,  # [B, 2, 3]
) -> Keypoints[Any, Any]:
    """Turn UDP's combined heatmaps into keypoints: a map of the keypoint's disk and two of the offsets to its centre.

    For each keypoint: smooth the first map, find its first maximum, and add what the two offset maps, which are not
    smoothed, say there (Huang et al., "The Devil is in the Details: Delving into Unbiased Data Processing for Human
    Pose Estimation", CVPR 2020, section 4; mmpose's `UDPHeatmap(heatmap_type="combined")`).

    A map whose smoothed peak is not positive, or which holds a NaN, has no keypoint: both coordinates are -1. Where an
    offset is not finite, or the map has an infinite pixel, the peak stays on its pixel. The input is never written to.

    Args:
        heatmaps: [B, 3 K, H, W] or [3 K, H, W], of the kinds and dtypes that `decode` takes; channels in threes (disk,
            x offset, y offset). Arithmetic is float32, in float64 for float64.
        kernel_size: mmpose's `blur_kernel_size`, a positive int: the map is smoothed with 2 kernel_size + 1 taps,
            of the sigma that OpenCV derives from their number.
        radius_factor: Offsets are in units of `radius_factor * max(W, H)` heatmap pixels.
        backend: As in `decode`.
        image_transform: [B, 2, 3] or [2, 3], as in `decode`.

    Returns:
        Keypoints: `coords` [B, K, 2] as (x, y) in heatmap pixels (or in the image, with `image_transform`), `scores`
        [B, K], the smoothed map's maximum, and no covariances; float32, or float64 for float64 heatmaps.

    Raises:
        TypeError: A tensor or array is not a dense one of these dtypes, or a number is none.
        ValueError: `heatmaps` has another rank, an empty H or W, or a number of channels that 3 does not divide; a
            number is out of range; `backend` is unknown or cannot serve this tensor.

    Example:
        >>> import torch, dark_kernels
        >>> dark_kernels.decode_offsets(torch.rand(8, 51, 64, 48)).coords.shape
        torch.Size([8, 17, 2])
    """
    if not is_batch(heatmaps, 4):
        given = take("heatmaps", heatmaps, 4, "[B, 3 K, H, W] or [3 K, H, W]", least=3)
        matrices = None if image_transform is None else to_numbers("image_transform", image_transform, given.tensor)
        matrices = given.also("image_transform", matrices, 3)
        return given.give_back(
            decode_offsets(given.tensor, kernel_size, radius_factor, backend, image_transform=matrices)
        )
    check_positive("radius_factor", radius_factor)
    recipe = _offsets_recipe(kernel_size)
    check_maps(heatmaps)
    check_backend(backend)
    channels, height, width = heatmaps.shape[1:]
    if channels % 3 != 0:
        raise ValueError(
            f"heatmaps: got shape {list(heatmaps.shape)}, expected [B, 3 K, H, W] with channels in threes: "
            "disk, x offset, y offset"
        )
    image_transform = _check_transform(image_transform, heatmaps)
    maps = heatmaps.unflatten(1, (channels // 3, 3))
    extras = Extras(
        image_transform=image_transform,
        offsets=maps[:, :, 1:].detach(),
        offset_scale=float(radius_factor * max(height, width)),
    )
    return _decode(maps[:, :, 0], recipe, False, backend, extras)


def _decode(heatmaps: Tensor, recipe: Recipe, covariance: bool, backend: Backend, extras: Extras) -> Keypoints:
    if heatmaps.requires_grad:
        heatmaps = heatmaps.detach()
    if backend == "reference":
        heatmaps, extras = in_floats(heatmaps, extras)
        return Keypoints(*decode_reference(heatmaps, recipe, covariance, **named(extras)))
    numbers = recipe.operator_arguments
    if is_plain(heatmaps) and (extras is NO_EXTRAS or is_plain(*[one for one in extras if isinstance(one, Tensor)])):
        return Keypoints(*decode_directly(heatmaps, numbers, covariance, backend, extras))
    coords, scores, covariances = decode_operator(heatmaps, *numbers, covariance, backend, *extras)
    return Keypoints(coords, scores, covariances if covariance else None)


def _offsets_recipe(kernel_size: int) -> Recipe:
    if isinstance(kernel_size, bool) or not isinstance(kernel_size, int):
        raise TypeError(f"kernel_size: got {type(kernel_size).__name__} {kernel_size!r}, expected an int")
    if kernel_size < 1:
        raise ValueError(f"kernel_size: got {kernel_size}, expected a positive int")
    return _OFFSETS_RECIPES.get(kernel_size) or _recipe_of(kernel_size)


def _recipe_of(kernel_size: int) -> Recipe:
    return dataclasses.replace(UDP_COMBINED, kernel_size=2 * kernel_size + 1)


# Made beforehand: torch.compile reads a recipe, but cannot follow how one is made where all numbers are symbols.
_OFFSETS_RECIPES = {kernel_size: _recipe_of(kernel_size) for kernel_size in range(1, 33)}


def _check_flip(
    heatmaps: Tensor,
    flipped: Tensor | NDArray[Any] | None,
    flip_indices: Sequence[int] | Tensor | NDArray[Any] | None,
    shift_flipped: bool,
) -> tuple[Tensor | None, Tensor | None, bool]:
    if not isinstance(shift_flipped, bool):
        raise TypeError(f"shift_flipped: got {shift_flipped!r}, expected True or False")
    if flipped is None and flip_indices is None:
        if shift_flipped:
            raise ValueError(
                "shift_flipped: got True without flipped, expected the maps of the mirrored images as well"
            )
        return None, None, False
    if flipped is None:
        raise ValueError("flipped: got None with flip_indices, expected the maps of the mirrored images as well")
    if flip_indices is None:
        raise ValueError(
            f"flip_indices: got None with flipped, expected {heatmaps.shape[1]} channels of flipped, one for each "
            "of heatmaps"
        )
    flipped = to_tensor("flipped", flipped)
    check_tensor("flipped", flipped, 4, "[B, C, H, W]", MAP_DTYPES)
    if flipped.shape != heatmaps.shape:
        raise ValueError(f"flipped: got shape {list(flipped.shape)}, expected {list(heatmaps.shape)}, as heatmaps")
    if flipped.dtype != heatmaps.dtype:
        raise TypeError(f"flipped: got {flipped.dtype}, expected {heatmaps.dtype}, as heatmaps")
    check_devices(heatmaps=heatmaps, flipped=flipped)
    indices = _check_indices("flip_indices", flip_indices, heatmaps)
    if indices is None or indices.shape[0] != heatmaps.shape[1]:
        count = 0 if indices is None else indices.shape[0]
        raise ValueError(f"flip_indices: got {count} indices, expected {heatmaps.shape[1]}, one for each channel")
    return flipped.detach(), indices, shift_flipped


def _check_transform(image_transform: Numbers | None, heatmaps: Tensor) -> Tensor | None:
    if image_transform is None:
        return None
    image_transform = to_numbers("image_transform", image_transform, heatmaps)
    check_tensor("image_transform", image_transform, 3, "[B, 2, 3]")
    batch = heatmaps.shape[0]
    if image_transform.shape != (batch, 2, 3):
        raise ValueError(
            f"image_transform: got shape {list(image_transform.shape)}, expected [{batch}, 2, 3], one for each image"
        )
    check_devices(heatmaps=heatmaps, image_transform=image_transform)
    return image_transform.detach()


def _check_indices(name: str, indices: Sequence[int] | Tensor | NDArray[Any] | None, heatmaps: Tensor) -> Tensor | None:
    """[K] int64 on the device of the heatmaps."""
    if indices is None:
        return None
    if isinstance(indices, Tensor):
        return _check_index_tensor(name, indices, heatmaps)
    if hasattr(indices, "tolist"):  # an array
        indices = indices.tolist()
    if isinstance(indices, str) or not isinstance(indices, Sequence):
        raise TypeError(f"{name}: got {type(indices).__name__} {indices!r}, expected a sequence of ints or a tensor")
    for index in indices:
        if isinstance(index, bool) or not isinstance(index, int):
            raise TypeError(f"{name}: got {type(index).__name__} {index!r} in it, expected ints")
    num_channels = heatmaps.shape[1]
    if indices and not (min(indices) >= 0 and max(indices) < num_channels):
        raise ValueError(
            f"{name}: got {min(indices)} to {max(indices)}, expected channels of heatmaps, 0 to {num_channels - 1}"
        )
    if not is_plain(heatmaps):
        return _indices(tuple(indices), heatmaps.device)
    return held(_remembered_indices(tuple(indices), heatmaps.device))


def _check_index_tensor(name: str, indices: Tensor, heatmaps: Tensor) -> Tensor:
    kinds = (torch.uint8, torch.int8, torch.int16, torch.int32, torch.int64)
    if indices.dtype not in kinds:
        raise TypeError(f"{name}: got {indices.dtype}, expected integers")
    check_dense(name, indices)
    if indices.dim() != 1:
        raise ValueError(f"{name}: got shape {list(indices.shape)}, expected one dimension")
    num_channels = heatmaps.shape[1]
    if indices.device.type == "cpu" and indices.numel() > 0 and is_plain(heatmaps, indices):
        lowest, highest = (int(value) for value in indices.aminmax())
        if not 0 <= lowest <= highest < num_channels:
            raise ValueError(
                f"{name}: got {lowest} to {highest}, expected channels of heatmaps, 0 to {num_channels - 1}"
            )
    return indices.to(heatmaps.device, torch.int64)


def _indices(indices: tuple[int, ...], device: torch.device) -> Tensor:
    return torch.tensor(indices, dtype=torch.int64, device=device)


_remembered_indices = functools.lru_cache(maxsize=64)(_indices)
