"""Device functions of target maps, for the kernel that writes them and for those that never do."""

from __future__ import annotations

import triton
import triton.language as tl

# exp(-d^2 / (2 sigma^2)) is 2^(HALF_LOG2_E * d^2 / sigma^2).
MINUS_HALF_LOG2_E = tl.constexpr(-0.7213475204444817)
# Maps of up to so many pixels have their rows found in float32, where (pixel + 1/2) / width is off by much less than
# half of 1 / width.
EXACT_PIXELS = 2**19


@triton.jit
def find_pixels(pixel, width, IS_SMALL: tl.constexpr):
    """Row and column of flat indices, as float32."""
    if IS_SMALL:  # many times cheaper than dividing integers
        index = pixel.to(tl.float32)
        row = tl.floor((index + 0.5) * (1.0 / width))
        column = index - row * width
    else:
        row = (pixel // width).to(tl.float32)
        column = (pixel % width).to(tl.float32)
    return row, column


@triton.jit
def _window(center, radius, IS_WINDOWED: tl.constexpr):
    """The pixel of a coordinate, and its window: from `first` up to, and without, `end`. Of no meaning for a NaN."""
    pixel = center
    first = center - radius
    end = center + radius + 1.0
    if IS_WINDOWED:
        pixel = center + 0.5
        pixel = tl.where(pixel < 0, tl.ceil(pixel), tl.floor(pixel))  # towards 0
        # trunc(pixel - radius) and trunc(pixel + radius + 1), from whole numbers: a fused product of 3 and sigma could
        # be a little off.
        first = pixel - tl.where(pixel < radius, tl.floor(radius), tl.ceil(radius))
        end = pixel + 1.0 + tl.where(pixel + 1.0 < -radius, tl.ceil(radius), tl.floor(radius))
    return pixel, first, end


@triton.jit
def load_spread(sigma, sigmas_ptr, sigmas_stride_k, keypoint, exists, HAS_SIGMAS: tl.constexpr):
    """3 sigma and -log2(e) / (2 sigma^2) of keypoints; NaN and 0 where sigma is not positive."""
    spread = tl.zeros(exists.shape, dtype=tl.float32) + sigma
    if HAS_SIGMAS:
        spread = tl.load(sigmas_ptr + keypoint * sigmas_stride_k, mask=exists, other=0.0).to(tl.float32)
    is_spread = spread > 0
    radius = tl.where(is_spread, 3.0 * spread, float("nan"))
    return radius, tl.where(is_spread, MINUS_HALF_LOG2_E / (spread * spread), 0.0)


@triton.jit
def load_person(
    keypoints_ptr,  # [B, N, K, 2]
    keypoints_stride_b,
    keypoints_stride_n,
    keypoints_stride_k,
    keypoints_stride_c,
    visible_ptr,  # [B, N, K]
    visible_stride_b,
    visible_stride_n,
    visible_stride_k,
    batch,  # int64
    person,
    keypoint,  # int64 [M]
    exists,  # [M]
    height,
    width,
    radius,  # [M]
    ENCODING: tl.constexpr,
    HAS_VISIBLE: tl.constexpr,
):
    """Weight, 0 where nothing is drawn, centre and window of one person's keypoints: x, y, left, right, top, bottom."""
    IS_WINDOWED: tl.constexpr = ENCODING != "unbiased"
    pointer = keypoints_ptr + batch * keypoints_stride_b + person * keypoints_stride_n + keypoint * keypoints_stride_k
    x = tl.load(pointer, mask=exists, other=0.0).to(tl.float32)
    y = tl.load(pointer + keypoints_stride_c, mask=exists, other=0.0).to(tl.float32)
    pixel_x, left, right = _window(x, radius, IS_WINDOWED)
    pixel_y, top, bottom = _window(y, radius, IS_WINDOWED)
    # Not for a NaN, which is neither above nor below.
    is_drawn = exists & (left < width) & (right >= 0) & (top < height) & (bottom >= 0)
    weight = tl.full(exists.shape, 1.0, dtype=tl.float32)
    if HAS_VISIBLE:
        pointer = visible_ptr + batch * visible_stride_b + person * visible_stride_n + keypoint * visible_stride_k
        weight = tl.load(pointer, mask=exists, other=0.0).to(tl.float32)
        is_drawn = is_drawn & (weight >= 0.5)
        weight = tl.minimum(weight, 1.0)
    if ENCODING == "biased":
        x = pixel_x
        y = pixel_y
    weight = tl.where(is_drawn, weight, 0.0)
    return weight, tl.where(is_drawn, x, 0.0), tl.where(is_drawn, y, 0.0), left, right, top, bottom


@triton.jit
def draw_person(
    weight,  # [M], as all that follow but for row and column
    x,
    y,
    left,
    right,
    top,
    bottom,
    exponent,
    row,  # [P]
    column,  # [P]
    IS_WINDOWED: tl.constexpr,
):
    """Pixels of one person's target maps: [M, P]."""
    dx = column[None, :] - x[:, None]
    dy = row[None, :] - y[:, None]
    values = tl.exp2((dx * dx + dy * dy) * exponent[:, None])
    is_drawn = (weight > 0)[:, None]
    if IS_WINDOWED:
        is_drawn = is_drawn & (column[None, :] >= left[:, None]) & (column[None, :] < right[:, None])
        is_drawn = is_drawn & (row[None, :] >= top[:, None]) & (row[None, :] < bottom[:, None])
    return tl.where(is_drawn, values, 0.0)


@triton.jit
def weight_of_crowd(
    weight,  # [M], of the first person
    keypoints_ptr,
    keypoints_stride_b,
    keypoints_stride_n,
    keypoints_stride_k,
    keypoints_stride_c,
    visible_ptr,
    visible_stride_b,
    visible_stride_n,
    visible_stride_k,
    num_people,
    batch,
    keypoint,
    exists,
    height,
    width,
    radius,
    ENCODING: tl.constexpr,
    HAS_VISIBLE: tl.constexpr,
    SEVERAL: tl.constexpr,
):
    """The largest weight of all people: [M]."""
    if SEVERAL:
        for person in range(1, num_people):
            of_one, _, _, _, _, _, _ = load_person(
                keypoints_ptr, keypoints_stride_b, keypoints_stride_n, keypoints_stride_k, keypoints_stride_c,
                visible_ptr, visible_stride_b, visible_stride_n, visible_stride_k, batch, person, keypoint, exists,
                height, width, radius, ENCODING, HAS_VISIBLE,
            )  # fmt: skip
            weight = tl.maximum(weight, of_one)
    return weight


@triton.jit
def draw_targets(
    weight,  # of the first person, as the six that follow
    x,
    y,
    left,
    right,
    top,
    bottom,
    keypoints_ptr,
    keypoints_stride_b,
    keypoints_stride_n,
    keypoints_stride_k,
    keypoints_stride_c,
    visible_ptr,
    visible_stride_b,
    visible_stride_n,
    visible_stride_k,
    num_people,
    batch,
    keypoint,
    exists,
    height,
    width,
    radius,
    exponent,
    row,
    column,
    ENCODING: tl.constexpr,
    HAS_VISIBLE: tl.constexpr,
    SEVERAL: tl.constexpr,
):
    """Pixels of the target maps, of all people the largest: [M, P]. The first person is loaded once for all pixels."""
    IS_WINDOWED: tl.constexpr = ENCODING != "unbiased"
    target = draw_person(weight, x, y, left, right, top, bottom, exponent, row, column, IS_WINDOWED)
    if SEVERAL:
        for person in range(1, num_people):
            weight, x, y, left, right, top, bottom = load_person(
                keypoints_ptr, keypoints_stride_b, keypoints_stride_n, keypoints_stride_k, keypoints_stride_c,
                visible_ptr, visible_stride_b, visible_stride_n, visible_stride_k, batch, person, keypoint, exists,
                height, width, radius, ENCODING, HAS_VISIBLE,
            )  # fmt: skip
            of_one = draw_person(weight, x, y, left, right, top, bottom, exponent, row, column, IS_WINDOWED)
            target = tl.maximum(target, of_one)
    return target
