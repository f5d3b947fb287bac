"""What is drawn on: pixels of an image, or axes of matplotlib. Both know the same few shapes.

Lengths are in pixels of the image, and in points on axes. A colour is "#rrggbb".
"""

from __future__ import annotations

import importlib
import sys
from collections.abc import Sequence
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from . import coverage
from .coverage import Array, Axes, Coverage

MARKERS = ("dot", "ring", "square", "cross")
_OUTLINE = "#000000"
_OUTLINE_OPACITY = 0.55


class Surface(Protocol):
    """Shapes that a surface can take.

    Attributes:
        scale: Factor of the lengths of lines and markers.
        unit: A pixel of the coordinates in the surface's own lengths.
    """

    scale: float
    unit: float

    def lines(self, segments: Array, colour: str, width: float, opacities: Array, outline: bool) -> None:
        """Lines [S, 2, 2] of one colour; where they overlap the most opaque one counts."""

    def ellipse(self, centre: Array, axes: Axes, colour: str, width: float, fill: float) -> None:
        """An ellipse's edge, and its inside with the opacity `fill`."""

    def marker(self, centre: Array, kind: str, colour: str, radius: float) -> None:
        """One of `MARKERS`, with a dark outline."""

    def text(self, place: Array, text: str, colour: str, size: float, offset: float) -> None:
        """Text whose left end, halfway up, is so far to the right of this place."""

    def overlay(self, shares: Array, colours: NDArray[np.uint8], matrix: Array) -> None:
        """Maps' colours [h, w, 3] with opacities [h, w], which `matrix` [2, 3] takes to the surface."""

    def result(self) -> Any:
        """What is given back: the image with all of it, or the axes."""


def surface_of(on: Any, scale: float | None) -> Surface:
    """The surface for what a user draws on; `scale` None fits it to the size of an image.

    Raises:
        TypeError: It is neither an image nor axes.
        ValueError: It is an array of another shape.
    """
    pillow, matplotlib = sys.modules.get("PIL.Image"), sys.modules.get("matplotlib.axes")
    if matplotlib is not None and isinstance(on, matplotlib.Axes):
        return AxesSurface(on, 1.0 if scale is None else scale)
    if pillow is not None and isinstance(on, pillow.Image):
        return ImageSurface(np.array(on.convert("RGB")), scale, pillow.fromarray)
    if not isinstance(on, np.ndarray):
        kind = f"{type(on).__module__}.{type(on).__name__}"
        raise TypeError(f"on: got {kind}, expected an array [H, W, 3] of uint8, a PIL image or matplotlib's axes")
    if on.dtype != np.uint8:
        raise TypeError(f"on: got an array of {on.dtype}, expected uint8, red, green and blue from 0 to 255")
    if on.ndim != 3 or on.shape[-1] != 3:
        raise ValueError(f"on: got shape {list(on.shape)}, expected an image [H, W, 3]")
    return ImageSurface(on.copy(), scale, None)


def require(module: str) -> Any:
    """Import a module of Pillow.

    Raises:
        ImportError: It is not installed; the message names the extra.
    """
    try:
        return importlib.import_module(module)
    except ImportError as error:
        raise ImportError(f"text on images needs Pillow: pip install 'dark-kernels[draw]' ({error})") from error


def channels(colour: str) -> Array:
    """Red, green and blue from 0 to 255."""
    return np.array([int(colour[place : place + 2], 16) for place in (1, 3, 5)], np.float64)


class ImageSurface:
    """Pixels of an image, which belong to this surface alone."""

    def __init__(self, pixels: NDArray[np.uint8], scale: float | None, make: Any) -> None:
        self._pixels = pixels
        self._make = make
        self.unit = 1.0
        # Lines that suit a crop of 256 pixels, and grow with the image.
        self.scale = max(1.0, min(pixels.shape[:2]) / 300) if scale is None else scale

    def lines(self, segments: Array, colour: str, width: float, opacities: Array, outline: bool) -> None:
        halo = width + 2 * self._outline_width
        place = coverage.window(self._pixels.shape, segments.reshape(-1, 2), halo)
        for each, opacity in ((halo, _OUTLINE_OPACITY), (width, 1.0))[0 if outline else 1 :]:
            shares = np.zeros((len(place.y), place.x.shape[1]))
            for (start, end), own in zip(segments, opacities, strict=True):
                inner = coverage.window(self._pixels.shape, np.stack([start, end]), each)
                rows = slice(inner.top - place.top, inner.top - place.top + len(inner.y))
                columns = slice(inner.left - place.left, inner.left - place.left + inner.x.shape[1])
                part = shares[rows, columns]
                np.maximum(part, own * coverage.segment(inner, start, end, each).shares, out=part)
            self._paint(Coverage(place.top, place.left, shares), _OUTLINE if each is halo else colour, opacity)

    def ellipse(self, centre: Array, axes: Axes, colour: str, width: float, fill: float) -> None:
        place = coverage.window(self._pixels.shape, centre[None], axes.long + width)
        outer = coverage.ellipse(place, centre, axes, width / 2)
        inner = coverage.ellipse(place, centre, axes, -width / 2)
        self._paint(inner, colour, fill)
        self._paint(outer.without(inner), colour, 0.95)

    def marker(self, centre: Array, kind: str, colour: str, radius: float) -> None:
        edge = self._outline_width
        place = coverage.window(self._pixels.shape, centre[None], 2 * radius + 2 * edge)
        if kind == "cross":
            arms = [np.array([radius, 0.0]), np.array([0.0, radius])]
            for width, each in ((radius * 0.7 + 2 * edge, _OUTLINE), (radius * 0.7, colour)):
                for arm in arms:
                    self._paint(coverage.segment(place, centre - arm, centre + arm, width), each, 1.0)
            return
        shape = coverage.square if kind == "square" else coverage.disk
        outer, inner = shape(place, centre, radius + edge), shape(place, centre, radius)
        if kind == "dot":
            self._paint(outer, _OUTLINE, 0.8)
            self._paint(inner, colour, 1.0)
            return
        hollow = shape(place, centre, max(radius - 1.6 * edge, 0.0))
        hole = shape(place, centre, max(radius - 2.6 * edge, 0.0))
        self._paint(outer.without(hole), _OUTLINE, 0.8)
        self._paint(inner.without(hollow), colour, 1.0)

    def text(self, place: Array, text: str, colour: str, size: float, offset: float) -> None:
        image, draw, font = (require(f"PIL.{name}") for name in ("Image", "ImageDraw", "ImageFont"))
        letters = font.load_default(size)
        border = max(1, round(size / 9))
        left, top, right, bottom = letters.getbbox(text, stroke_width=border)
        masks = []
        for stroke in (border, 0):
            mask = image.new("L", (int(right - left), int(bottom - top)))
            origin = (-left, -top)
            draw.Draw(mask).text(origin, text, fill=255, font=letters, stroke_width=stroke)
            masks.append(np.asarray(mask) / 255)
        # What is far outside stays there, within the range of integers.
        corner = np.round(np.clip(place + np.array([offset, (top - bottom) / 2]), -1e6, 1e6)).astype(int)
        for shares, each in zip(masks, (_OUTLINE, colour), strict=True):
            self._paint(self._clipped(int(corner[1]), int(corner[0]), shares), each, 0.9)

    def overlay(self, shares: Array, colours: NDArray[np.uint8], matrix: Array) -> None:
        height, width = self._pixels.shape[:2]
        determinant = matrix[0, 0] * matrix[1, 1] - matrix[0, 1] * matrix[1, 0]
        x = np.arange(width)[None] - matrix[0, 2]
        y = np.arange(height)[:, None] - matrix[1, 2]
        columns = (matrix[1, 1] * x - matrix[0, 1] * y) / determinant
        rows = (matrix[0, 0] * y - matrix[1, 0] * x) / determinant
        layers = np.concatenate([colours.astype(np.float64) * shares[..., None], shares[..., None]], axis=-1)
        sampled = _bilinear(layers, columns, rows)
        painted = self._pixels * (1.0 - sampled[..., 3:]) + sampled[..., :3]
        self._pixels[:] = np.round(np.clip(painted, 0, 255)).astype(np.uint8)

    def result(self) -> Any:
        return self._pixels if self._make is None else self._make(self._pixels)

    @property
    def _outline_width(self) -> float:
        return 0.9 * self.scale

    def _clipped(self, top: int, left: int, shares: Array) -> Coverage:
        """What of a window lies inside the image."""
        height, width = self._pixels.shape[:2]
        above, before = max(0, -top), max(0, -left)
        part = shares[above : max(above, height - top), before : max(before, width - left)]
        return Coverage(top + above, left + before, part)

    def _paint(self, shape: Coverage, colour: str, opacity: float) -> None:
        if opacity == 0:
            return
        # Of a limb's window few pixels are covered.
        rows, columns = np.nonzero(shape.shares)
        shares = opacity * shape.shares[rows, columns][:, None]
        places = (rows + shape.top, columns + shape.left)
        painted = self._pixels[places] * (1.0 - shares) + channels(colour) * shares
        self._pixels[places] = np.round(painted).astype(np.uint8)


def _bilinear(layers: Array, columns: Array, rows: Array) -> Array:
    """Values [H, W, C] of layers [h, w, C] at these places: linear between centres of pixels, the border's up to half a
    pixel beyond them, and 0 farther outside."""
    height, width = layers.shape[:2]
    inside = (columns >= -0.5) & (columns <= width - 0.5) & (rows >= -0.5) & (rows <= height - 0.5)
    columns, rows = np.clip(columns, 0, width - 1), np.clip(rows, 0, height - 1)
    left, top = np.floor(columns).astype(int), np.floor(rows).astype(int)
    right, bottom = np.minimum(left + 1, width - 1), np.minimum(top + 1, height - 1)
    x, y = (columns - left)[..., None], (rows - top)[..., None]
    upper = layers[top, left] * (1 - x) + layers[top, right] * x
    lower = layers[bottom, left] * (1 - x) + layers[bottom, right] * x
    return (upper * (1 - y) + lower * y) * inside[..., None]


class AxesSurface:
    """Axes of matplotlib, which are drawn on as they are: their limits stay."""

    def __init__(self, axes: Any, scale: float) -> None:
        self._axes = axes
        self.scale = scale
        (left, bottom), (right, top) = axes.transData.transform([(0.0, 0.0), (1.0, 1.0)])
        self.unit = min(abs(right - left), abs(top - bottom)) * 72 / axes.figure.dpi

    def lines(self, segments: Array, colour: str, width: float, opacities: Array, outline: bool) -> None:
        from matplotlib.collections import LineCollection
        from matplotlib.colors import to_rgba
        from matplotlib.patheffects import Normal, Stroke

        halo = Stroke(linewidth=width + 1.8 * self.scale, foreground=_OUTLINE, alpha=_OUTLINE_OPACITY)
        self._add(
            LineCollection(
                list(segments),
                colors=[to_rgba(colour, opacity) for opacity in opacities],
                linewidths=width,
                capstyle="round",
                path_effects=[halo, Normal()] if outline else None,
                zorder=3,
            )
        )

    def ellipse(self, centre: Array, axes: Axes, colour: str, width: float, fill: float) -> None:
        from matplotlib.colors import to_rgba
        from matplotlib.patches import Ellipse

        angle = np.degrees(np.arctan2(axes.direction[1], axes.direction[0]))
        face, edge = to_rgba(colour, fill), to_rgba(colour, 0.95)
        patch = Ellipse(
            tuple(centre), 2 * axes.long, 2 * axes.short, angle=angle, facecolor=face, edgecolor=edge, linewidth=width,
            zorder=2,
        )  # fmt: skip
        self._axes.add_artist(patch)

    def marker(self, centre: Array, kind: str, colour: str, radius: float) -> None:
        from matplotlib.lines import Line2D
        from matplotlib.patheffects import Normal, Stroke

        shape = {"dot": "o", "ring": "o", "square": "s", "cross": "+"}[kind]
        filled, outline = kind == "dot", 1.8 * self.scale
        edge = 0.0 if filled else 1.5 * self.scale
        halo = Stroke(linewidth=edge + outline, foreground=_OUTLINE, alpha=0.8)
        self._add(
            Line2D(
                [centre[0]],
                [centre[1]],
                marker=shape,
                markersize=2 * radius,
                markerfacecolor=colour if filled else "none",
                markeredgecolor=colour,
                markeredgewidth=edge,
                linestyle="none",
                path_effects=[halo, Normal()],
                zorder=4,
            )
        )

    def text(self, place: Array, text: str, colour: str, size: float, offset: float) -> None:
        from matplotlib.patheffects import Normal, Stroke

        self._axes.annotate(
            text,
            tuple(place),
            xytext=(offset, 0),
            textcoords="offset points",
            color=colour,
            fontsize=size,
            ha="left",
            va="center",
            path_effects=[Stroke(linewidth=size / 4, foreground=_OUTLINE), Normal()],
            zorder=5,
            annotation_clip=True,
        )

    def overlay(self, shares: Array, colours: NDArray[np.uint8], matrix: Array) -> None:
        from matplotlib.image import AxesImage
        from matplotlib.transforms import Affine2D

        height, width = shares.shape
        affine = Affine2D(np.concatenate([matrix, [[0.0, 0.0, 1.0]]]))
        image = AxesImage(
            self._axes, extent=(-0.5, width - 0.5, height - 0.5, -0.5), interpolation="bilinear", zorder=1
        )
        image.set_data(np.concatenate([colours / 255, shares[..., None]], axis=-1))
        image.set_transform(affine + self._axes.transData)
        self._add(image)

    def result(self) -> Any:
        return self._axes

    def _add(self, artist: Any) -> None:
        self._axes.add_artist(artist)


def checked_colours(colours: str | Sequence[str]) -> None:
    """Check that each is "#rrggbb"."""
    for colour in [colours] if isinstance(colours, str) else colours:
        digits = colour[1:] if isinstance(colour, str) and colour.startswith("#") else ""
        if len(digits) != 6 or not all(digit in "0123456789abcdefABCDEF" for digit in digits):
            raise ValueError(f"colours: got {colour!r}, expected red, green and blue as '#rrggbb'")
