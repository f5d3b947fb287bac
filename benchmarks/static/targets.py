"""The GPUs that kernels are compiled for."""

from __future__ import annotations

from typing import Any

NVIDIA_TARGETS = ("sm_75", "sm_80", "sm_86", "sm_87", "sm_89", "sm_90", "sm_100", "sm_120")
AMD_TARGETS = ("gfx90a", "gfx942", "gfx1100")
TARGETS = NVIDIA_TARGETS + AMD_TARGETS
# The long list of configurations is compiled for one GPU of each maker, the short one for all.
LONG_LIST_TARGETS = ("sm_90", "gfx942")


def gpu_target(name: str) -> Any:
    """Triton's `GPUTarget` of that name, with its lanes a warp."""
    from triton.backends.compiler import GPUTarget

    if name.startswith("sm_"):
        return GPUTarget("cuda", int(name[3:]), 32)
    return GPUTarget("hip", name, 32 if name.startswith(("gfx10", "gfx11", "gfx12")) else 64)
