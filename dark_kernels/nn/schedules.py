"""VarianceSchedule: an option of the losses that changes in the course of training."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from .._common.checks import check_count, check_number


class VarianceSchedule(nn.Module):
    """A fixed variance for the first steps of training, and the learned one afterwards.

    The means learn to be about right before the variances learn how right they are. The gradient of a mean is divided
    by its variance: one that is learned from the start grows to the size of the first errors, and slows the means down.

        for images, target in batches:
            loss = head.loss(backbone(images), target, fixed_log_var=schedule())
            ...
            schedule.step()

    A module, so that a checkpoint of the model which it is a part of resumes it as well: how many steps are done is in
    its state_dict.

    Under torch.compile, step() belongs outside the compiled function. Reading the schedule inside or outside of it,
    the one switch recompiles once, and the other steps do not.

    Args:
        fixed_log_var: Log variance of the first steps, in squared input pixels (Laplace: the log of the scale). The
            loss of a mean is then its squared error over 2 e^fixed_log_var, and a constant.
        steps: How many steps it is fixed for, 0 or more.

    Raises:
        TypeError: `fixed_log_var` is not a number, or `steps` not an integer.
        ValueError: `fixed_log_var` is not finite, or `steps` is below 0.
    """

    def __init__(self, fixed_log_var: float, steps: int) -> None:
        super().__init__()
        check_number("fixed_log_var", fixed_log_var)
        check_count("steps", steps, least=0)
        self.fixed_log_var = float(fixed_log_var)
        self.steps = steps
        self._set(0)

    def forward(self) -> float | None:
        """Value of the loss's `fixed_log_var` in this step."""
        return self._now

    def step(self) -> None:
        """One training step is done."""
        self._set(self.step_count + 1)

    def get_extra_state(self) -> Tensor:
        """Number of steps done, for the state_dict; the options are the constructor's."""
        return torch.tensor(self.step_count, device="cpu")

    def set_extra_state(self, state: Tensor) -> None:
        """Go on where the state was taken.

        Raises:
            TypeError: It is not an integer.
            ValueError: It is below 0.
        """
        step_count: Any = state.item() if isinstance(state, Tensor) else state
        check_count("step_count", step_count, least=0)
        self._set(step_count)

    def extra_repr(self) -> str:
        return f"fixed_log_var={self.fixed_log_var:g}, steps={self.steps}, step_count={self.step_count}"

    def _set(self, step_count: int) -> None:
        self.step_count = step_count
        # Kept, not worked out in each call: compiled code guards this, which changes once, and not the count.
        self._now = self.fixed_log_var if step_count < self.steps else None
