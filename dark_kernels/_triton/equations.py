"""The equations of least squares over a patch of pixels: their sums, and their solution."""

from __future__ import annotations

from typing import Any, NamedTuple

import triton
import triton.language as tl

from .sums import reciprocal, sum_of_products


class Moments(NamedTuple):
    """Sums over the pixels of weights times powers of u and v: `uuv` is that of u^2 v."""

    one: Any
    u: Any
    v: Any
    uu: Any
    uv: Any
    vv: Any
    uuu: Any
    uuv: Any
    uvv: Any
    vvv: Any
    uuuu: Any
    uuuv: Any
    uuvv: Any
    uvvv: Any
    vvvv: Any


class LowMoments(NamedTuple):
    """The same up to squares."""

    one: Any
    u: Any
    v: Any
    uu: Any
    uv: Any
    vv: Any


@triton.jit
def moments_of(weights, u, v):
    """`Moments` of [SIZE, SIZE]. `u`: [SIZE] of columns; `v`: [SIZE] of rows.

    Rows are summed first, for each power of v, and those sums over the columns.
    """
    uu = u * u
    uuu = uu * u
    uuuu = uu * uu
    vv = v * v
    rows = tl.sum(weights, axis=0)
    rows_v = sum_of_products(weights, v[:, None])
    rows_vv = sum_of_products(weights, vv[:, None])
    rows_vvv = sum_of_products(weights, (vv * v)[:, None])
    rows_vvvv = sum_of_products(weights, (vv * vv)[:, None])
    return Moments(
        one=tl.sum(rows, axis=0),
        u=sum_of_products(rows, u),
        v=tl.sum(rows_v, axis=0),
        uu=sum_of_products(rows, uu),
        uv=sum_of_products(rows_v, u),
        vv=tl.sum(rows_vv, axis=0),
        uuu=sum_of_products(rows, uuu),
        uuv=sum_of_products(rows_v, uu),
        uvv=sum_of_products(rows_vv, u),
        vvv=tl.sum(rows_vvv, axis=0),
        uuuu=sum_of_products(rows, uuuu),
        uuuv=sum_of_products(rows_v, uuu),
        uuvv=sum_of_products(rows_vv, uu),
        uvvv=sum_of_products(rows_vvv, u),
        vvvv=tl.sum(rows_vvvv, axis=0),
    )


@triton.jit
def low_moments_of(values, u, v):
    """`LowMoments` of [SIZE, SIZE], as `moments_of`."""
    rows = tl.sum(values, axis=0)
    rows_v = sum_of_products(values, v[:, None])
    rows_vv = sum_of_products(values, (v * v)[:, None])
    return LowMoments(
        one=tl.sum(rows, axis=0),
        u=sum_of_products(rows, u),
        v=tl.sum(rows_v, axis=0),
        uu=sum_of_products(rows, u * u),
        uv=sum_of_products(rows_v, u),
        vv=tl.sum(rows_vv, axis=0),
    )


@triton.jit
def solve(matrix, right, least_pivot):
    """The solution of symmetric equations, and whether their matrix is positive definite by a margin.

    `matrix`: its lower triangle, row by row. `least_pivot`: of a diagonal element more than this must be left as a
    pivot. It is eliminated without pivoting, which positive definite matrices do not need: L D L^T, with the pivots D,
    `factors` L and `rows` L D. Tuples are known to the compiler, and so all of it is unrolled. Of a matrix that is not
    positive definite the solution is NaN.
    """
    rows = ()
    factors = ()
    per_pivots = ()
    reduced_right = ()
    is_definite = matrix[0][0] > 0
    for i in tl.static_range(len(right)):
        row = ()
        row_factors = ()
        pivot = matrix[i][i]
        reduced = right[i]
        for j in tl.static_range(i):
            element = matrix[i][j]
            for k in tl.static_range(j):
                element -= row_factors[k] * rows[j][k]
            factor = element * per_pivots[j]
            pivot -= factor * element
            reduced -= factor * reduced_right[j]
            row += (element,)
            row_factors += (factor,)
        rows += (row,)
        factors += (row_factors,)
        per_pivots += (reciprocal(pivot),)
        reduced_right += (reduced,)
        is_definite = is_definite & (pivot > matrix[i][i] * least_pivot)

    solution = ()
    for i in tl.static_range(len(right) - 1, -1, -1):
        unknown = reduced_right[i] * per_pivots[i]
        for j in tl.static_range(i + 1, len(right)):
            unknown -= factors[j][i] * solution[j - i - 1]
        solution = (unknown,) + solution  # noqa: RUF005
    return solution, is_definite
