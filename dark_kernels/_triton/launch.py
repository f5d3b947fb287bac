"""What every launch takes: the tensor's device as the current one."""

from __future__ import annotations

import contextlib
from contextlib import AbstractContextManager

import torch
from torch import Tensor

# The compiler for NVIDIA GPUs aims at the next step of occupancy and spills a word or two to reach it. Named a
# limit, it takes the registers that it needs, which are fewer than this. Other vendors' compilers know no such
# option.
REGISTER_LIMIT: dict[str, int] = (
    {} if torch.version.hip is not None or getattr(torch.version, "xpu", None) is not None else {"maxnreg": 128}
)


def on_device_of(tensor: Tensor) -> AbstractContextManager[object]:
    """Make the tensor's device current, since Triton launches on the current one. Free where it already is."""
    device = tensor.device
    if device.type == "cpu":  # the interpreter
        return contextlib.nullcontext()
    module = torch.get_device_module(device)
    if device.index == module.current_device():
        return contextlib.nullcontext()
    return module.device(device)
