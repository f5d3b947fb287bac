"""What the `library.py` of several rooms needs: memory."""

from __future__ import annotations

import math

import pytest
import torch

from dark_kernels._common import operators


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32, torch.float64], ids=str)
@pytest.mark.parametrize("shape", [(0, 3), (2, 3, 5), (1025, 2048), (3, 1000, 1001)])
def test_memory_in_huge_pages_is_memory(dtype: torch.dtype, shape: tuple[int, ...], device: torch.device) -> None:
    """Of the wanted shape, contiguous, aligned, its own, and writable, whether it comes from NumPy or not."""
    memory = operators.empty_in_huge_pages(shape, dtype, device)
    assert (memory.shape, memory.dtype, memory.device.type) == (shape, dtype, device.type)
    assert memory.is_contiguous()
    assert memory.data_ptr() % 16 == 0
    assert memory.untyped_storage().nbytes() >= math.prod(shape) * dtype.itemsize
    memory.fill_(2.0)
    assert float(memory.double().sum()) == 2 * math.prod(shape)
    other = operators.empty_in_huge_pages(shape, dtype, device).zero_()
    assert not memory.numel() or bool((memory == 2).all())
    assert not other.requires_grad


@pytest.mark.parametrize("dtype", [torch.float16, torch.float64], ids=str)
@pytest.mark.parametrize("shape", [(0, 3), (2, 3, 5), (2, 2049, 4096)])
def test_zeros_in_huge_pages_are_zeros(dtype: torch.dtype, shape: tuple[int, ...], device: torch.device) -> None:
    """Also where the memory has been used and given back before."""
    for _ in range(3):
        zeros = operators.zeros_in_huge_pages(shape, dtype, device)
        assert (zeros.shape, zeros.dtype, zeros.device.type) == (shape, dtype, device.type)
        assert not zeros.any()
        zeros.fill_(2.0)
        del zeros
