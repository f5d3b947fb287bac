"""Shared by the tests of losses: names of their cases, and what a backward pass is sent."""

from __future__ import annotations

import dataclasses
from typing import Any

import torch
from torch import Tensor


def changed_fields(case: Any) -> str:
    """Name a dataclass by its fields that are not the default."""
    changed = [
        f"{field.name}={getattr(case, field.name)}"
        for field in dataclasses.fields(case)
        if getattr(case, field.name) != field.default
    ]
    return ",".join(changed) or "default"


def grad_loss_like(loss: Tensor) -> Tensor:
    """A gradient to send back that is different for each element."""
    return (torch.arange(loss.numel(), dtype=loss.dtype, device=loss.device).view(loss.shape) + 1).cos() + 1.5
