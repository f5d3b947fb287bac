"""Matrix products that no setting of the process rounds: every one of ours, in eager, references and `testing`.

PyTorch computes products of float32 in bfloat16 or TF32 where it was told to: by `torch.set_float32_matmul_precision`,
the settings `fp32_precision` of `torch.backends` (from 2.9 on), autocast, or oneDNN's environment. A bfloat16 has 8
bits, of which a step between pixels leaves none. What was told is asked for, and never changed: other threads would
have to live with a flag that is switched off and on again. Where products are rounded, ours are computed in float64,
which none of these settings touches, and rounded once.

Factorisations and solutions of `torch.linalg` need none of this: on CPU they are LAPACK's, which asks for no setting.
"""

from __future__ import annotations

import functools
import math
import os
from collections.abc import Callable

import torch
from torch import Tensor


def product(*matrices: Tensor) -> Tensor:
    """The product of matrices [..., M, K], [..., K, L], ..., from left to right, in full precision.

    A reduced precision that is set later counts as well where the product outlives the call: in a graph that is traced
    now, and for a gradient, whose products PyTorch computes when it is asked for.

    Args:
        matrices: Two or more of one dtype, float32 or float64, and on one device. Batches are broadcast, but [B, M, K]
            and [B, K, L] have to have one B.

    Returns:
        [..., M, N] of that dtype.
    """
    first = matrices[0]
    # `is_cpu` takes a quarter of the time of `device.type`. What traces sees the second.
    if not torch.compiler.is_compiling() and first.is_cpu and (first.dtype == torch.float64 or _is_exact_now(matrices)):
        result = first
        for matrix in matrices[1:]:
            # `matmul` takes a microsecond to find out that this is what it is.
            result = result.bmm(matrix) if result.ndim == 3 == matrix.ndim else result.matmul(matrix)
        return result
    on_cpu = first.device.type == "cpu"
    result = first.to(torch.float64) if on_cpu else first
    for matrix in matrices[1:]:
        # Not every device has float64, and cuBLAS refuses products in deterministic mode.
        result = result.matmul(matrix.to(torch.float64)) if on_cpu else _sum_of_products(result, matrix)
    return result.to(first.dtype)


def _is_exact_now(matrices: tuple[Tensor, ...]) -> bool:
    """True if a CPU computes products of float32 in float32, now and until the last that needs them."""
    return (
        _precision() in _EXACT
        and not (torch.is_grad_enabled() and any(matrix.requires_grad for matrix in matrices))
        and not torch.is_autocast_enabled("cpu")
        and not torch.jit.is_tracing()
        and not _rounds_by_default
    )


# Products that are in memory at once.
_MANY_PRODUCTS = 2**26


def _sum_of_products(left: Tensor, right: Tensor) -> Tensor:
    rows = left.shape[-2]
    num_products = max(left.numel() * right.shape[-1], right.numel() * rows)
    if num_products <= _MANY_PRODUCTS:
        return _summed(left.unsqueeze(-1) * right.unsqueeze(-3))
    block = max(1, rows * _MANY_PRODUCTS // num_products)
    return torch.cat([_summed(part.unsqueeze(-1) * right.unsqueeze(-3)) for part in left.split(block, -2)], -2)


def _summed(products: Tensor) -> Tensor:
    """The sum over the last dimension but one: of a patch's pixels first its rows, which rounds less often."""
    count = products.shape[-2]
    side = math.isqrt(count) if isinstance(count, int) else 0
    if side > 1 and side * side == count:
        products = products.unflatten(-2, (side, side)).sum(-2)
    return products.sum(-2)


def _getter() -> Callable[[], str]:
    """Find PyTorch's question for the precision of a CPU's products of float32.

    From 2.9 on each backend has its own, which an operation's, the backend's and all backends' setting and the older
    function make: ATen's rule is behind the getter. The older function's own raises there once both are in use.
    """
    newer = getattr(torch._C, "_get_fp32_precision_getter", None)
    return torch.get_float32_matmul_precision if newer is None else functools.partial(newer, "mkldnn", "matmul")


_precision = _getter()
# "none": nothing was set.
_EXACT = frozenset({"highest", "ieee", "none"})


def _environment_rounds() -> bool:
    """True if oneDNN, which reads it once, may round by default: on some CPUs that is all products of a process."""
    names = "ONEDNN_DEFAULT_FPMATH_MODE", "DNNL_DEFAULT_FPMATH_MODE"
    return any(os.environ.get(name, "").lower() not in ("", "strict") for name in names)


_rounds_by_default = _environment_rounds()
