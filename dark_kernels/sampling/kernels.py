"""The samples as a Triton kernel, and its launcher."""

from __future__ import annotations

from typing import Any, NamedTuple

import triton
import triton.language as tl
from torch import Tensor

from .._triton.launch import launch, on_device_of

TURN = tl.constexpr(2 * 3.141592653589793 / 2**24)  # radians of one step of 24 bits


class Means(NamedTuple):
    """Means [P, 2] of keypoints."""

    ptr: Any
    stride_p: Any
    stride_c: Any


class Covariances(NamedTuple):
    """Covariances [P, 2, 2] of keypoints."""

    ptr: Any
    stride_p: Any
    stride_r: Any
    stride_c: Any


@triton.jit
def philox(a, b, c, d, key_0, key_1):
    """Philox 4x32-10 (Salmon et al., SC 2011): four random words (uint32) for a counter of four and a key of two."""
    for _ in tl.static_range(10):
        to_a = tl.umulhi(c, 0xCD9E8D57) ^ b ^ key_0
        to_c = tl.umulhi(a, 0xD2511F53) ^ d ^ key_1
        b = c * 0xCD9E8D57
        d = a * 0xD2511F53
        a = to_a
        c = to_c
        key_0 = key_0 + 0x9E3779B9
        key_1 = key_1 + 0xBB67AE85
    return a, b, c, d


@triton.jit
def two_normals(to_radius, to_angle):
    """Two independent standard normals of two words, from their upper 24 bits (Box and Muller).

    The cosine and sine are series around the axis that is closest. Those of the device would be ready for angles of
    any size, which takes local memory.
    """
    uniform = ((to_radius >> 8).to(tl.float32) + 1.0) * (1.0 / 16777216.0)
    # A logarithm that is off by a rounding may be above 0 next to 1.
    radius = tl.sqrt(tl.maximum(-2.0 * tl.log(uniform), 0.0))
    step = (to_angle >> 8).to(tl.int32)
    quarter = (step + 0x200000) >> 22
    angle = (step - (quarter << 22)).to(tl.float32) * TURN
    square = angle * angle
    # sum of (-1)^k angle^k / k!, to float32's last digit up to an eighth of a turn
    sine = 1.0 - square / 42 * (1.0 - square / 72)
    sine = angle * (1.0 - square / 6 * (1.0 - square / 20 * sine))
    cosine = 1.0 - square / 30 * (1.0 - square / 56 * (1.0 - square / 90))
    cosine = 1.0 - square / 2 * (1.0 - square / 12 * cosine)
    is_odd = (quarter & 1) == 1
    x = tl.where(is_odd, sine, cosine)
    y = tl.where(is_odd, cosine, sine)
    x = tl.where(((quarter + 1) & 2) == 2, -x, x)
    y = tl.where((quarter & 2) == 2, -y, y)
    return radius * x, radius * y


@triton.jit(do_not_specialize=["num_pairs", "n", "seed_low", "seed_high", "offset_low", "offset_high"])
def _sample_keypoints_fwd_kernel(
    samples_ptr,  # [P, n, 2], contiguous
    means,  # Means
    covariances,  # Covariances
    num_pairs,  # P times (n + 1) // 2
    n,
    seed_low,
    seed_high,
    offset_low,
    offset_high,
    tolerance,
    BLOCK_SIZE: tl.constexpr,
):
    """BLOCK_SIZE pairs of samples, a counter of the generator each.

    Must write 8 bytes a sample and read 24 (float32) a keypoint, and does: a keypoint's samples are next to each other,
    and find its numbers in cache. They are written in pieces of 8 bytes, since rows of an odd number are not aligned
    to more, and neighbouring lanes write neighbouring samples.
    """
    index = tl.program_id(0).to(tl.int64) * BLOCK_SIZE + tl.arange(0, BLOCK_SIZE)
    exists = index < num_pairs
    pairs = (n + 1) // 2
    keypoint = index // pairs
    pair = index % pairs

    pointer = means.ptr + keypoint * means.stride_p
    mean_x = tl.load(pointer, mask=exists, other=0.0).to(tl.float32)
    mean_y = tl.load(pointer + means.stride_c, mask=exists, other=0.0).to(tl.float32)
    pointer = covariances.ptr + keypoint * covariances.stride_p
    xx = tl.load(pointer, mask=exists, other=0.0).to(tl.float32)
    pointer += covariances.stride_r
    yx = tl.load(pointer, mask=exists, other=0.0).to(tl.float32)
    yy = tl.load(pointer + covariances.stride_c, mask=exists, other=0.0).to(tl.float32)

    # Rounded as every other backend rounds: a few units more, and a covariance on the edge would be none.
    across = tl.sqrt_rn(tl.where(xx > 0, xx, 0.0))
    along = tl.where(xx == 0, yx, tl.div_rn(yx, across))
    rest = yy - along * along
    # NaN and infinity fail one of these.
    is_valid = (xx >= 0) & (xx < float("inf")) & (yy >= 0) & (yy < float("inf")) & (rest >= -tolerance * yy)
    is_valid = is_valid & ((xx > 0) | (yx == 0))
    across = tl.where(is_valid, across, 0.0)
    along = tl.where(is_valid, along, 0.0)
    rest = tl.where(is_valid, tl.sqrt_rn(tl.where(rest > 0, rest, 0.0)), 0.0)

    zero = (index * 0).to(tl.uint32)
    a, b, c, d = philox(
        pair.to(tl.uint32),
        keypoint.to(tl.uint32),
        zero + offset_low.to(tl.uint32, bitcast=True),
        zero + offset_high.to(tl.uint32, bitcast=True),
        zero + seed_low.to(tl.uint32, bitcast=True),
        zero + seed_high.to(tl.uint32, bitcast=True),
    )
    first_0, second_0 = two_normals(a, b)
    first_1, second_1 = two_normals(c, d)
    x = tl.join(mean_x + across * first_0, mean_x + across * first_1)  # [BLOCK_SIZE, 2]
    y = tl.join(mean_y + (along * first_0 + rest * second_0), mean_y + (along * first_1 + rest * second_1))
    sample = 2 * pair[:, None] + tl.arange(0, 2)[None, :]
    pointers = samples_ptr + 2 * (keypoint[:, None] * n + sample)
    pointers = pointers[:, :, None] + tl.arange(0, 2)[None, None, :]
    mask = exists[:, None] & (sample < n)
    tl.store(pointers, tl.join(x, y), mask=mask[:, :, None])


# --- launcher ----------------------------------------------------------------------------------------------


def _words(number: int) -> tuple[int, int]:
    """The lower and the upper 32 bits, as signed integers, which is how Triton takes them whatever they are."""
    words = number & 0xFFFFFFFF, number >> 32 & 0xFFFFFFFF
    return tuple(word - (word >> 31 << 32) for word in words)  # type: ignore[return-value]


def sample_keypoints_fwd(
    samples: Tensor,  # [P, n, 2]
    means: Tensor,  # [P, 2]
    covariances: Tensor,  # [P, 2, 2]
    seed: int,
    offset: int,
    tolerance: float,
) -> None:
    """Fill `samples` (float32, contiguous)."""
    num_keypoints, n, _ = samples.shape
    num_pairs = num_keypoints * ((n + 1) // 2)
    block_size = min(256, triton.next_power_of_2(num_pairs))
    with on_device_of(samples):
        launch(
            _sample_keypoints_fwd_kernel,
            (triton.cdiv(num_pairs, block_size), 1, 1),
            (
                samples,
                Means(means, *means.stride()),
                Covariances(covariances, *covariances.stride()),
                *(num_pairs, n, *_words(seed), *_words(offset), tolerance),
            ),
            {"BLOCK_SIZE": block_size, "num_warps": max(1, block_size // 64)},
        )
