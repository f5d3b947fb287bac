"""Poses to poses: object keypoint similarity, and non-maximum suppression by it."""

from .api import COCO_KAPPAS, oks, oks_nms, soft_oks_nms
from .reference import oks_nms_reference, oks_reference

__all__ = ["COCO_KAPPAS", "oks", "oks_nms", "oks_nms_reference", "oks_reference", "soft_oks_nms"]
