"""The definition of the samples: plain PyTorch, the counter-based generator written out in integers.

Readable on purpose. Every other backend is proved against this file.

Sources: Philox 4x32-10 of J. Salmon et al., "Parallel random numbers: as easy as 1, 2, 3", SC 2011; G. Box and
M. Muller, "A note on the generation of random normal deviates", 1958.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

WORD = 0xFFFFFFFF
MULTIPLIERS = (0xD2511F53, 0xCD9E8D57)
KEY_STEPS = (0x9E3779B9, 0xBB67AE85)


def philox_4x32_10(
    counter: tuple[Tensor, Tensor, Tensor, Tensor], key: tuple[int, int]
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Four random words of 32 bits for each counter of four and a key of two, all as int64.

    A product of two words has 64 bits. int64 keeps them all, though the upper one as a sign.
    """
    for _ in range(10):
        first, second = MULTIPLIERS[0] * counter[0], MULTIPLIERS[1] * counter[2]
        counter = (
            (second >> 32 & WORD) ^ counter[1] ^ key[0],
            second & WORD,
            (first >> 32 & WORD) ^ counter[3] ^ key[1],
            first & WORD,
        )
        key = ((key[0] + KEY_STEPS[0]) & WORD, (key[1] + KEY_STEPS[1]) & WORD)
    return counter


def standard_normals(num_keypoints: int, n: int, seed: int, offset: int, device: torch.device) -> Tensor:
    """[P, n, 2] in float64. Samples 2 i and 2 i + 1 of keypoint p come from the four words of the counter
    (i, p, offset) under the key `seed`: a radius and an angle each, of the upper 24 bits of a word, which any
    floating dtype holds exactly."""
    keypoint = torch.arange(num_keypoints, device=device)[:, None]
    pair = torch.arange((n + 1) // 2, device=device)[None]
    offsets = torch.tensor([offset & WORD, offset >> 32 & WORD], device=device)
    counter = torch.broadcast_tensors(pair, keypoint, *offsets)
    words = philox_4x32_10(tuple(counter), (seed & WORD, seed >> 32 & WORD))
    uniform = [(word >> 8).double() / 2**24 for word in words]
    normals = []
    for to_radius, to_angle in (uniform[:2], uniform[2:]):
        radius = (-2 * torch.log(to_radius + 2**-24)).sqrt()  # above 0, up to 1
        angle = 2 * math.pi * to_angle
        normals.append(torch.stack([radius * angle.cos(), radius * angle.sin()], dim=-1))
    return torch.stack(normals, dim=2).flatten(1, 2)[:, :n]


def sample_keypoints_reference(
    means: Tensor,  # [P, 2]
    covariances: Tensor,  # [P, 2, 2]
    n: int,
    seed: int,
    offset: int,
    tolerance: float,
) -> Tensor:
    """The samples [P, n, 2] of `dark_kernels.sample_keypoints`: mean + L eps, L the Cholesky factor.

    `tolerance`: how negative a determinant may be for a matrix that rounding has made indefinite, relative to the
    product of the variances.
    """
    dtype = torch.float64 if torch.float64 in (means.dtype, covariances.dtype) else torch.float32
    means, covariances = means.to(dtype), covariances.to(dtype)
    normals = standard_normals(means.shape[0], n, seed, offset, means.device).to(dtype)
    xx, yx, yy = covariances[:, 0, 0], covariances[:, 1, 0], covariances[:, 1, 1]
    across = xx.sqrt()
    along = torch.where(xx > 0, yx / across, yx)
    rest = yy - along**2
    is_valid = (xx >= 0) & (xx < math.inf) & (yy >= 0) & (yy < math.inf)
    is_valid = is_valid & (rest >= -tolerance * yy) & ((xx > 0) | (yx == 0))
    zero = torch.zeros_like(xx)
    factor = torch.stack([across, zero, along, rest.clamp(min=0).sqrt()], dim=-1).view(-1, 2, 2)
    factor = torch.where(is_valid[:, None, None], factor, 0.0)
    return means[:, None] + (factor[:, None] * normals[..., None, :]).sum(-1)
