"""Poses to poses: object keypoint similarity, suppression by it, and votes of samples and of overlapping poses."""

from .api import COCO_KAPPAS, oks, oks_nms, soft_oks_nms, variance_voting, vote
from .reference import oks_nms_reference, oks_reference, variance_voting_reference, vote_reference

__all__ = [
    "COCO_KAPPAS",
    "oks",
    "oks_nms",
    "oks_nms_reference",
    "oks_reference",
    "soft_oks_nms",
    "variance_voting",
    "variance_voting_reference",
    "vote",
    "vote_reference",
]
