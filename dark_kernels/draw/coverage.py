"""How much of each pixel a shape covers, from its distance to the pixel's centre: smooth edges without supersampling.

A shape comes as a `Coverage`: a window of the image and a share from 0 to 1 of each of its pixels. Coordinates are
(x, y), pixel centres at integers.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float64]
# Of a degenerate ellipse's shorter axis, in pixels.
_THINNEST = 1e-3


class Coverage(NamedTuple):
    """Shares of the pixels of a window.

    Attributes:
        top, left: First row and column of the window.
        shares: [h, w] from 0 to 1; empty where the shape is outside of the image.
    """

    top: int
    left: int
    shares: Array

    def without(self, other: Coverage) -> Coverage:
        """What the other, of the same window, does not cover."""
        return self._replace(shares=np.maximum(self.shares - other.shares, 0.0))


class Axes(NamedTuple):
    """Half axes of an ellipse in pixels, and the direction (x, y) of the long one."""

    long: float
    short: float
    direction: Array


class Window(NamedTuple):
    """Pixels of the image around points: the first row and column, and the centres' coordinates."""

    top: int
    left: int
    x: Array  # [1, w]
    y: Array  # [h, 1]

    def covered(self, distance: Array) -> Coverage:
        """From signed distances in pixels, negative inside."""
        return Coverage(self.top, self.left, np.clip(0.5 - distance, 0.0, 1.0))


def window(shape: tuple[int, ...], points: Array, margin: float) -> Window:
    """Pixels of an image of this (H, W, ...) that lie within a margin of the points' bounding box."""
    edges = []
    for axis, size in ((0, shape[1]), (1, shape[0])):
        low = np.clip(np.floor(points[:, axis].min() - margin - 1), 0, size)
        high = np.clip(np.ceil(points[:, axis].max() + margin + 2), 0, size)
        edges.append((int(low), int(max(low, high))))
    (left, right), (top, bottom) = edges
    return Window(top, left, np.arange(left, right)[None].astype(float), np.arange(top, bottom)[:, None].astype(float))


def segment(place: Window, start: Array, end: Array, width: float) -> Coverage:
    """A line with round ends."""
    direction = end - start
    length = float((direction**2).sum())
    x, y = place.x - start[0], place.y - start[1]
    along = np.clip((x * direction[0] + y * direction[1]) / length, 0.0, 1.0) if length > 0 else 0.0
    distance = np.hypot(x - along * direction[0], y - along * direction[1])
    return place.covered(distance - width / 2)


def disk(place: Window, centre: Array, radius: float) -> Coverage:
    """A filled circle."""
    return place.covered(np.hypot(place.x - centre[0], place.y - centre[1]) - radius)


def square(place: Window, centre: Array, radius: float) -> Coverage:
    """A filled square of sides 2 radius."""
    across, down = (
        np.clip(0.5 + radius - np.abs(each), 0.0, 1.0) for each in (place.x - centre[0], place.y - centre[1])
    )
    return Coverage(place.top, place.left, across * down)


def ellipse(place: Window, centre: Array, axes: Axes, grown: float = 0.0) -> Coverage:
    """A filled ellipse, its half axes longer by `grown` pixels; the distance is that of the first order."""
    long, short = max(axes.long + grown, _THINNEST), max(axes.short + grown, _THINNEST)
    x, y = place.x - centre[0], place.y - centre[1]
    u = (x * axes.direction[0] + y * axes.direction[1]) / long
    v = (y * axes.direction[0] - x * axes.direction[1]) / short
    norm = np.hypot(u, v)
    slope = np.hypot(u / long, v / short)
    inside = -min(long, short)
    distance = np.divide(norm * (norm - 1), slope, out=np.full_like(norm, inside), where=slope > 0)
    return place.covered(distance)


def axes_of(covariance: Any, n_sigma: float) -> Axes | None:
    """Half axes of the n-sigma ellipse of a covariance [2, 2]; None of one that has a NaN or an infinity, or a negative
    variance beyond rounding."""
    if not np.isfinite(covariance).all():
        return None
    variances, directions = np.linalg.eigh(np.asarray(covariance, np.float64))
    if variances[0] < -1e-6 * max(variances[1], 1e-30):
        return None
    short, long = n_sigma * np.sqrt(np.maximum(variances, 0.0))
    return Axes(float(long), float(short), directions[:, 1])
