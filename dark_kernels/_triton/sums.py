"""Sums that every thread of a program gets to the last bit, and quotients without a division."""

from __future__ import annotations

import triton
import triton.language as tl


@triton.jit
def sum_of_products(one, other, axis: tl.constexpr = 0):
    """tl.sum(one * other, axis), of products that are rounded.

    A GPU sums over lanes by exchange: each lane adds what another one sends to what it has. The compiler fuses a bare
    product with that addition, in which the lane's own product is then exact and the one that was sent is rounded. So
    two lanes would get sums that differ by a unit, and where a condition is made of them go different ways, into code
    in which all of them have to meet. A product that is fused with a zero already is left alone, and costs the same.
    """
    return tl.sum(rounded_product(one, other), axis=axis)


@triton.jit
def rounded_product(one, other):
    """one * other, which the compiler fuses with no addition: see `sum_of_products`."""
    return tl.fma(one, other, 0.0)


@triton.jit
def reciprocal(value):
    """1 / value of a positive number: the square of an inverse root, for which a GPU has one instruction.

    Off by 6 units of roundoff. NaN of a negative number, and 0 of infinity.
    """
    root = tl.rsqrt(value)
    return root * root
