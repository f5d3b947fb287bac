"""SimCC classifications of the two axes to keypoints."""

from .api import decode_simcc
from .reference import decode_simcc_reference

__all__ = ["decode_simcc", "decode_simcc_reference"]
