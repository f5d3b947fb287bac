"""Whether the installed Triton still has the faults that its interpreter is patched for."""

from __future__ import annotations

import pytest

from .conftest import is_interpreting

if not is_interpreting():
    pytest.skip("kernels are not interpreted here", allow_module_level=True)

import triton

from . import interpreter
from .interpreter import PATCHES, Patch


@pytest.mark.parametrize("patch", PATCHES, ids=lambda patch: patch.name)
def test_a_patch_mends_a_fault_that_triton_has(patch: Patch) -> None:
    assert not patch.has_fault()
    with interpreter.unpatched():
        assert patch.has_fault(), (
            f"Triton {triton.__version__} has mended this, last seen in {patch.seen_in[-1]}: {patch.fault} "
            "The patch is no longer needed: remove it, or apply it to older versions only."
        )
