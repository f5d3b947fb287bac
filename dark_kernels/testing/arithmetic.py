"""Arithmetic of the backends."""

from __future__ import annotations

import dataclasses

import torch


@dataclasses.dataclass(frozen=True)
class Arithmetic:
    """Arithmetic of a backend.

    Attributes:
        blur: dtype of the blurred map.
        step: dtype of the logs and of what follows from them.
        computes_taps: Whether Gaussian weights are computed with exp2 where they are needed.
        relative_logs: Whether logs are taken relative to that of the centre.
        subtracts_peak: The paddings with which what is blurred around a peak is the distance from it.
        subtracts_blurred_peak: The paddings with which it is the distance from the blurred peak.
        narrow_radius: Of a blur up to which it is the distance from the peak where both are named.
        sums_rows_first: Whether a fit sums the rows of its patch and then those sums, which rounds less often.
        shifts_sums: Whether the equations of a blob are summed over distances from the peak's pixel and over residuals
            of the first amplitude, all at once, and then shifted to its centre and made those of the second.
        blob: dtype of the fit of a blob; None for that of the step.
        uses_inverse_roots: Whether a fit's pivots and weights are divided by as a product with a reciprocal, the square
            of an inverse root, which is off by 6 u.
    """

    blur: torch.dtype
    step: torch.dtype
    computes_taps: bool = False
    relative_logs: bool = False
    subtracts_peak: tuple[str, ...] = ()
    subtracts_blurred_peak: tuple[str, ...] = ()
    narrow_radius: int = 0
    sums_rows_first: bool = False
    shifts_sums: bool = False
    blob: torch.dtype | None = None
    uses_inverse_roots: bool = False

    @property
    def eliminates_with(self) -> int:
        """Roundings of an elimination besides those of Higham's theorems: of a factor, and of a last quotient."""
        return 12 if self.uses_inverse_roots else 0


_REFLECTED = ("reflect", "symmetric")

EAGER = Arithmetic(
    torch.float32, torch.float64, subtracts_blurred_peak=_REFLECTED, shifts_sums=True, blob=torch.float32
)
"""eager on CPU: the blur and a blob's fit in the precision of the input, the step in float64. The loops that Numba
compiles round nowhere more: they blur around a peak and fit in float64."""

EAGER_ON_DEVICE = Arithmetic(
    torch.float32, torch.float32, subtracts_blurred_peak=_REFLECTED, sums_rows_first=True, shifts_sums=True
)
"""eager on other devices, which may lack float64."""

TRITON = Arithmetic(
    torch.float32,
    torch.float32,
    computes_taps=True,
    relative_logs=True,
    subtracts_peak=("zeros", *_REFLECTED),
    subtracts_blurred_peak=("zeros", *_REFLECTED),
    narrow_radius=5,
    sums_rows_first=True,
    uses_inverse_roots=True,
)
"""The Triton kernels, compiled or interpreted."""


def arithmetic_of(backend: str, device_type: str, dtype: torch.dtype) -> Arithmetic:
    """Arithmetic of `backend` ("eager", "numba", "triton" or "reference") for heatmaps of that device and dtype."""
    if dtype == torch.float64:  # served by eager where Triton is asked for
        if backend == "reference":
            return Arithmetic(torch.float64, torch.float64)
        return Arithmetic(torch.float64, torch.float64, subtracts_blurred_peak=_REFLECTED, shifts_sums=True)
    if backend == "triton":
        return TRITON
    if backend == "reference":
        return Arithmetic(torch.float32, torch.float32)
    return EAGER if device_type == "cpu" else EAGER_ON_DEVICE


def unit_roundoff(dtype: torch.dtype) -> float:
    """The most by which rounding to `dtype` changes a number, relative to it."""
    return torch.finfo(dtype).eps / 2
