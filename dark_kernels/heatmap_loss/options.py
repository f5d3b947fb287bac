"""Options of a loss: names and numbers that the operators and both of their backends take."""

from __future__ import annotations

from typing import NamedTuple

# What p is clamped to in the focal loss. The upper bound is the float32 below 1.
LOWEST_PROBABILITY, HIGHEST_PROBABILITY = 1e-30, 1 - 2**-24


class Options(NamedTuple):
    """Options of a loss, in the order of the operators' arguments."""

    kind: str  # "mse", "adaptive_wing", "focal", "cross_entropy" or "js"
    encoding: str
    squares_weight: bool  # whether half the squared weight counts, and not the weight
    keeps_empty: bool  # whether maps without a keypoint are trained towards zero, and not ignored
    alpha: float  # of the adaptive wing loss, as all that follow
    omega: float
    epsilon: float
    theta: float

    @property
    def is_mean(self) -> bool:
        """True if the loss of a map is a mean over its pixels, and not a sum."""
        return self.kind in ("mse", "adaptive_wing")

    @property
    def compares_distributions(self) -> bool:
        """True if the softmax of a map is compared with its target over the target's sum."""
        return self.kind in ("cross_entropy", "js")

    @property
    def num_saved(self) -> int:
        """Numbers of each map that the forward pass leaves for the backward pass or the reduction."""
        return {"mse": 0, "adaptive_wing": 0, "focal": 1, "cross_entropy": 3, "js": 4}[self.kind]
