"""sample_keypoints(): what users call."""

from __future__ import annotations

import math

import numpy as np
import torch
from torch import Tensor

from .._common import checks
from .._common.inputs import call_with_tensors
from .._common.names import ArrayT
from ..backends import Backend, check_backend
from .library import call_sample_keypoints
from .reference import sample_keypoints_reference

# A covariance that its own rounding, of a few units, has made indefinite is still one. float32's is the least: float64
# numbers often come from there.
_TOLERANCE = 8


def sample_keypoints(
    means: ArrayT,  # [..., 2]
    covariances: ArrayT,  # [..., 2, 2]
    n: int,
    seed: int,
    offset: int = 0,
    backend: Backend = "auto",
) -> ArrayT:
    """Draw n samples of each keypoint's Gaussian: mean + L eps, where L L^T is the covariance.

    The random bits are a function of `seed`, `offset`, the place of the keypoint and the number of the sample alone
    (Philox 4x32-10: Salmon et al., "Parallel random numbers: as easy as 1, 2, 3", SC 2011). They are the same on every
    backend, device and dtype: samples differ by the rounding of their arithmetic only. The first samples are the same
    however many are drawn. PyTorch's own generators are not touched. The eps are normal (Box and Muller) up to 5.77
    standard deviations, the limit of 24 bits.

    On CUDA, ROCm and XPU this is one launch that writes each sample once; nothing waits for the device. A CUDA graph
    keeps the seed and offset with which it was captured. No gradient flows through the samples.

    An invalid covariance (NaN, infinite, a negative variance, indefinite by more than rounding) makes all samples the
    mean. `decode` returns such a covariance where it has none. A mean that is NaN or infinite gives samples that are.
    A singular covariance is valid.

    Args:
        means: [..., 2], (x, y); float16, bfloat16, float32 or float64, any strides. With a NumPy array all may be, and
            the result is one.
        covariances: [..., 2, 2] with the same leading dimensions, in the squared unit of the means, rows and columns
            in the order (x, y); dtype may differ. Symmetric: the upper triangle is not read.
        n: Samples of each keypoint, at least 1.
        seed: 0 to 2^64 - 1.
        offset: 0 to 2^64 - 1. Another offset gives other samples: pass the number of a step, say.
        backend: `"auto"` (Triton where the device has it, else eager), `"triton"`, `"eager"` (vectorised
            PyTorch on any device) or `"reference"` (the definition). float64 is served by eager where Triton is
            asked for.

    Returns:
        [..., n, 2]; float32, or float64 if means or covariances are float64.

    Raises:
        TypeError: An argument is not a dense tensor of a dtype above, or not an integer.
        ValueError: A shape does not fit, tensors are on two devices, a number is out of range, or `backend` is
            unknown or cannot serve.

    Example:
        >>> import torch, dark_kernels
        >>> keypoints = dark_kernels.decode(torch.rand(8, 17, 64, 48), covariance=True)
        >>> samples = dark_kernels.sample_keypoints(keypoints.coords, keypoints.covariances, n=100, seed=0)
        >>> samples.shape
        torch.Size([8, 17, 100, 2])
    """
    if isinstance(means, np.ndarray):
        return call_with_tensors(
            sample_keypoints, means=means, covariances=covariances, n=n, seed=seed, offset=offset, backend=backend
        )
    checks.check_tensor("means", means, means.dim() if isinstance(means, Tensor) else 1, "[..., 2]")
    if means.dim() == 0 or means.shape[-1] != 2:
        raise ValueError(f"means: got shape {list(means.shape)}, expected [..., 2], (x, y) of every keypoint")
    checks.check_tensor("covariances", covariances, means.dim() + 1, "[..., 2, 2]")
    checks.check_shape("covariances", covariances, (*means.shape, 2), "one for each mean")
    checks.check_devices(means=means, covariances=covariances)
    checks.check_count("n", n)
    _check_word("seed", seed)
    _check_word("offset", offset)
    check_backend(backend)
    leading = means.shape[:-1]
    num_keypoints = math.prod(leading)
    means, covariances = means.detach().reshape(num_keypoints, 2), covariances.detach().reshape(num_keypoints, 2, 2)
    tolerance = _TOLERANCE * max(torch.finfo(covariances.dtype).eps, torch.finfo(torch.float32).eps)
    if backend == "reference":
        samples = sample_keypoints_reference(means, covariances, n, seed, offset, tolerance)
    else:
        # An operator takes 64 bits with a sign.
        seed, offset = (number if number < 2**63 else number - 2**64 for number in (seed, offset))
        samples = call_sample_keypoints(means, covariances, n, seed, offset, tolerance, backend)
    return samples.view(*leading, n, 2)


def _check_word(name: str, value: int) -> None:
    """An integer of 64 bits without a sign."""
    if isinstance(value, bool) or not isinstance(value, int):
        raise TypeError(f"{name}: got {type(value).__name__} {value!r}, expected an integer")
    if not 0 <= value < 2**64:
        raise ValueError(f"{name}: got {value}, expected 0 to 2^64 - 1")
