"""Many opinions about a keypoint to one: votes of samples, and of overlapping poses."""

from .api import variance_voting, vote
from .reference import variance_voting_reference, vote_reference

__all__ = ["variance_voting", "variance_voting_reference", "vote", "vote_reference"]
