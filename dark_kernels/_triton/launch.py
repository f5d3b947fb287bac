"""What every launch takes: the tensor's device as the current one."""

from __future__ import annotations

import contextlib
from contextlib import AbstractContextManager

import torch
from torch import Tensor


def on_device_of(tensor: Tensor) -> AbstractContextManager[object]:
    """Make the tensor's device current, since Triton launches on the current one. Free where it already is."""
    device = tensor.device
    if device.type == "cpu":  # the interpreter
        return contextlib.nullcontext()
    module = torch.get_device_module(device)
    if device.index == module.current_device():
        return contextlib.nullcontext()
    return module.device(device)
