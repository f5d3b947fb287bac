"""A kernel that does nothing but draw random words."""

from __future__ import annotations

import triton
import triton.language as tl

from dark_kernels.sampling.kernels import philox


@triton.jit
def words_kernel(words_ptr, vectors_ptr, LANES: tl.constexpr):  # type: ignore[no-untyped-def]
    """Words [4, LANES] of counters and keys [6, LANES], all as int32."""
    lane = tl.arange(0, LANES)
    a = tl.load(vectors_ptr + lane).to(tl.uint32, bitcast=True)
    b = tl.load(vectors_ptr + LANES + lane).to(tl.uint32, bitcast=True)
    c = tl.load(vectors_ptr + 2 * LANES + lane).to(tl.uint32, bitcast=True)
    d = tl.load(vectors_ptr + 3 * LANES + lane).to(tl.uint32, bitcast=True)
    key_0 = tl.load(vectors_ptr + 4 * LANES + lane).to(tl.uint32, bitcast=True)
    key_1 = tl.load(vectors_ptr + 5 * LANES + lane).to(tl.uint32, bitcast=True)
    a, b, c, d = philox(a, b, c, d, key_0, key_1)
    tl.store(words_ptr + lane, a.to(tl.int32, bitcast=True))
    tl.store(words_ptr + LANES + lane, b.to(tl.int32, bitcast=True))
    tl.store(words_ptr + 2 * LANES + lane, c.to(tl.int32, bitcast=True))
    tl.store(words_ptr + 3 * LANES + lane, d.to(tl.int32, bitcast=True))
