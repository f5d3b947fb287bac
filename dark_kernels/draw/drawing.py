"""What users call: shapes of keypoints onto an image or axes."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from ..types import Keypoints
from . import coverage
from .coverage import Array
from .skeletons import COLOURS, SKELETONS, Edge, Skeleton, from_edges, of_size
from .surfaces import MARKERS, Surface, checked_colours, surface_of

# Of a heatmap's overlay, from the map's lowest value to its highest.
_HEAT = ("#000004", "#3b0f70", "#8c2981", "#de4968", "#fe9f6d", "#fcfdbf")
# Lengths in pixels of an image or points on axes, at the scale 1.
_LINE, _THIN, _DOT, _HOLLOW, _TEXT = 2.2, 1.3, 2.9, 3.9, 11.0
# Length of a limb from which on its line and the markers of its ends are whole, and how small they are at least.
_ROOM, _SMALLEST = 10.0, 0.4


class _Poses(NamedTuple):
    """Keypoints of N poses: coords [N, K, 2], scores [N, K] or None, covariances [N, K, 2, 2] or None, which of them
    are drawn [N, K], their skeleton, and a colour for each group of it."""

    coords: Array
    scores: Array | None
    covariances: Array | None
    drawn: NDArray[np.bool_]
    skeleton: Skeleton
    colours: Mapping[str, str]

    def colour(self, index: int) -> str:
        return self.colours[self.skeleton.groups[index]]


def poses(
    on: Any,
    keypoints: Any,  # [N, K, 2] or [K, 2]
    scores: Any = None,  # [N, K] or [K]
    covariances: Any = None,  # [N, K, 2, 2] or [K, 2, 2]
    *,
    skeleton: str | Skeleton | Iterable[Edge] | None = None,
    threshold: float = 0.0,
    n_sigma: float = 2.0,
    marker: str = "dot",
    write_scores: bool = False,
    colours: str | Mapping[str, str] | None = None,
    scale: float | None = None,
) -> Any:
    """Draw poses: ellipses of covariances, limbs, keypoints and, if asked for, scores.

    Coordinates are pixels of what is drawn on, pixel centres at integers. `decode` gives those of the image with
    `image_transform`.

    Args:
        on: An image, uint8 [H, W, 3] or of Pillow, which stays as it is, or axes of matplotlib, which are drawn on and
            whose limits stay.
        keypoints: `Keypoints`, which bring scores and covariances, or coordinates [N, K, 2] of N poses or [K, 2] of
            one: an array, a tensor or a list.
        scores: [N, K] or [K], as the coordinates, or booleans; None draws every keypoint.
        covariances: [N, K, 2, 2] or [K, 2, 2] in squared pixels; None draws no ellipses.
        skeleton: Name of a data set (`SKELETONS`: coco, coco_wholebody, hand, face, mpii), a `Skeleton`, or limbs
            (i, j) of your own. None takes the data set with K keypoints, and no limbs where there is none.
        threshold: Keypoints with a score above it are drawn, and limbs between two of them. Keypoints and covariances
            that are not finite are left out.
        n_sigma: Size of ellipses in standard deviations. 2 holds 86 % of a Gaussian.
        marker: Of a keypoint: "dot", "ring", "square" or "cross".
        write_scores: Also write the scores beside the keypoints.
        colours: Of everything "#rrggbb", or of some groups of the skeleton ({"left": "#ff0000"}); `COLOURS` has the
            others.
        scale: Of all lines and markers; None fits an image's to its size, and takes 1 on axes.

    Returns:
        A new image of the kind of `on`, RGB, or the axes.

    Raises:
        TypeError: `on` is neither an image nor axes, or an argument is no numbers.
        ValueError: A shape does not fit, or a name is unknown.
        ImportError: Pillow is needed, for text on images, and not installed.

    Example:
        >>> import numpy as np
        >>> from dark_kernels import draw
        >>> image = np.zeros((100, 120, 3), np.uint8)
        >>> draw.poses(image, [[20.0, 30.0], [80.5, 60.25]], skeleton=[(0, 1)]).shape
        (100, 120, 3)
    """
    surface = _surface(on, scale)
    found = _poses(keypoints, scores, covariances, skeleton, threshold, colours)
    _check_marker(marker)
    if found.covariances is not None:
        _draw_ellipses(surface, found, _positive("n_sigma", n_sigma))
    _draw_limbs(surface, found)
    _draw_keypoints(surface, found, marker)
    if write_scores:
        _draw_scores(surface, found)
    return surface.result()


def keypoints(
    on: Any,
    keypoints: Any,  # [N, K, 2] or [K, 2]
    scores: Any = None,  # [N, K] or [K]
    *,
    skeleton: str | Skeleton | Iterable[Edge] | None = None,
    threshold: float = 0.0,
    marker: str = "dot",
    colours: str | Mapping[str, str] | None = None,
    scale: float | None = None,
) -> Any:
    """Draw keypoints alone, as `poses` does: same arguments, result and errors. The skeleton gives them colours."""
    surface = _surface(on, scale)
    _check_marker(marker)
    _draw_keypoints(surface, _poses(keypoints, scores, None, skeleton, threshold, colours), marker)
    return surface.result()


def limbs(
    on: Any,
    keypoints: Any,  # [N, K, 2] or [K, 2]
    scores: Any = None,  # [N, K] or [K]
    *,
    skeleton: str | Skeleton | Iterable[Edge] | None = None,
    threshold: float = 0.0,
    colours: str | Mapping[str, str] | None = None,
    scale: float | None = None,
) -> Any:
    """Draw limbs alone, as `poses` does: same arguments, result and errors."""
    surface = _surface(on, scale)
    _draw_limbs(surface, _poses(keypoints, scores, None, skeleton, threshold, colours))
    return surface.result()


def ellipses(
    on: Any,
    keypoints: Any,  # [N, K, 2] or [K, 2]
    scores: Any = None,  # [N, K] or [K]
    covariances: Any = None,  # [N, K, 2, 2] or [K, 2, 2]
    *,
    n_sigma: float = 2.0,
    fill: float = 0.16,
    skeleton: str | Skeleton | Iterable[Edge] | None = None,
    threshold: float = 0.0,
    colours: str | Mapping[str, str] | None = None,
    scale: float | None = None,
) -> Any:
    """Draw ellipses of covariances alone, as `poses` does: same arguments, result and errors. `fill` is the opacity of
    their insides, from 0 to 1."""
    surface = _surface(on, scale)
    found = _poses(keypoints, scores, covariances, skeleton, threshold, colours)
    if found.covariances is None:
        raise ValueError("covariances: got None, expected those of the keypoints, as decode(covariance=True) gives")
    _draw_ellipses(surface, found, _positive("n_sigma", n_sigma), _share("fill", fill))
    return surface.result()


def scores(
    on: Any,
    keypoints: Any,  # [N, K, 2] or [K, 2]
    scores: Any = None,  # [N, K] or [K]
    *,
    skeleton: str | Skeleton | Iterable[Edge] | None = None,
    threshold: float = 0.0,
    colours: str | Mapping[str, str] | None = None,
    scale: float | None = None,
) -> Any:
    """Write scores beside their keypoints, as `poses` does: same arguments, result and errors."""
    surface = _surface(on, scale)
    _draw_scores(surface, _poses(keypoints, scores, None, skeleton, threshold, colours))
    return surface.result()


def heatmap(
    on: Any,
    heatmaps: Any,  # [K, H, W] or [H, W]
    *,
    image_transform: Any = None,  # [2, 3]
    opacity: float = 0.7,
) -> Any:
    """Lay heatmaps over an image: dark and clear where they are low, bright where they are high.

    Of several maps each pixel shows the largest. Values are shown from 0 (or the lowest, where all are above or some
    below) to the highest; what is not finite is clear.

    Args:
        on: As in `poses`.
        heatmaps: [H, W], or [K, H, W] of several keypoints: an array or a tensor of numbers.
        image_transform: [2, 3], heatmap pixels to pixels of what is drawn on, one of the matrices that
            `dark_kernels.transforms` makes. None stretches the maps over the whole image, border to border, and leaves
            heatmap pixels as they are on axes.
        opacity: Of the highest value, from 0 to 1.

    Returns:
        As in `poses`.

    Raises:
        TypeError, ValueError: As in `poses`; or the matrix has no inverse.

    Example:
        >>> import numpy as np
        >>> from dark_kernels import draw
        >>> draw.heatmap(np.zeros((256, 192, 3), np.uint8), np.random.rand(17, 64, 48)).shape
        (256, 192, 3)
    """
    surface = _surface(on, None)
    maps = _numbers("heatmaps", heatmaps)
    if maps.ndim not in (2, 3) or maps.size == 0:
        raise ValueError(f"heatmaps: got shape {list(maps.shape)}, expected [K, H, W] or [H, W], none of them 0")
    finite = np.where(np.isfinite(maps), maps, -np.inf)
    largest = finite if maps.ndim == 2 else finite.max(0)
    high = largest.max()
    low = min(0.0, float(largest[np.isfinite(largest)].min(initial=0.0)))
    shares = np.where(np.isfinite(largest), (largest - low) / (high - low) if high > low else 0.0, 0.0)
    places = np.linspace(0.0, 1.0, len(_HEAT))
    stops = np.array([[int(colour[place : place + 2], 16) for place in (1, 3, 5)] for colour in _HEAT])
    colours = np.stack([np.interp(shares, places, stops[:, channel]) for channel in range(3)], axis=-1)
    # The root keeps the flanks of a blob in sight.
    opacities = _share("opacity", opacity) * np.sqrt(shares)
    surface.overlay(opacities, colours.astype(np.uint8), _matrix(on, image_transform, largest.shape))
    return surface.result()


def tracks(
    on: Any,
    coords: Any,  # [T, N, K, 2], [T, K, 2]
    scores: Any = None,  # [T, N, K], [T, K]
    *,
    skeleton: str | Skeleton | Iterable[Edge] | None = None,
    threshold: float = 0.0,
    colours: str | Mapping[str, str] | None = None,
    scale: float | None = None,
) -> Any:
    """Draw the ways of keypoints through frames: lines that fade towards the past, and a dot where each is now.

    A line is interrupted where a keypoint is not finite, or its score not above the threshold.

    Args:
        on: As in `poses`.
        coords: [T, K, 2] of one pose in T frames, the newest last, or [T, N, K, 2] of N; in pixels of what is drawn
            on. A sequence of `Keypoints` brings scores.
        scores: [T, K] or [T, N, K], as the coordinates; None takes every keypoint.
        skeleton, threshold, colours, scale: As in `poses`.

    Returns:
        As in `poses`.

    Raises:
        TypeError, ValueError: As in `poses`.

    Example:
        >>> import numpy as np
        >>> from dark_kernels import draw
        >>> frames = np.linspace((20.0, 30.0), (80.0, 60.0), 10)[:, None]  # [10, 1, 2]
        >>> draw.tracks(np.zeros((100, 120, 3), np.uint8), frames).shape
        (100, 120, 3)
    """
    surface = _surface(on, scale)
    if isinstance(coords, (list, tuple)) and coords and all(isinstance(each, Keypoints) for each in coords):
        scores = np.stack([_numbers("scores", each.scores) for each in coords])
        coords = np.stack([_numbers("coords", each.coords) for each in coords])
    places = _numbers("coords", coords)
    if places.ndim not in (3, 4) or places.shape[-1] != 2 or len(places) == 0:
        raise ValueError(f"coords: got shape {list(places.shape)}, expected [T, K, 2] or [T, N, K, 2] of T frames")
    num_frames, num_keypoints = len(places), places.shape[-2]
    values = None if scores is None else _numbers("scores", scores)
    if values is not None and values.shape != places.shape[:-1]:
        raise ValueError(f"scores: got shape {list(values.shape)}, expected {list(places.shape[:-1])}, as coords")
    found = _poses(
        places.reshape(-1, num_keypoints, 2),
        None if values is None else values.reshape(-1, num_keypoints),
        None,
        skeleton,
        threshold,
        colours,
    )
    by_frame = found.coords.reshape(num_frames, -1, num_keypoints, 2)
    drawn = found.drawn.reshape(num_frames, -1, num_keypoints)
    # Of the lines from each frame to the next.
    opacities = np.linspace(0.0, 1.0, num_frames)[1:]
    for pose in range(by_frame.shape[1]):
        for index in range(num_keypoints):
            way, known = by_frame[:, pose, index], drawn[:, pose, index]
            both = known[1:] & known[:-1]
            if both.any():
                segments = np.stack([way[:-1], way[1:]], axis=1)[both]
                surface.lines(segments, found.colour(index), _LINE * surface.scale, opacities[both], outline=False)
            if known[-1]:
                surface.marker(way[-1], "dot", found.colour(index), _DOT * surface.scale)
    return surface.result()


# ---------------------------------------------------------------------------------------------------- the parts


def _draw_ellipses(surface: Surface, found: _Poses, n_sigma: float, fill: float = 0.16) -> None:
    assert found.covariances is not None
    for pose, index in np.argwhere(found.drawn):
        axes = coverage.axes_of(found.covariances[pose, index], n_sigma)
        if axes is not None:
            surface.ellipse(found.coords[pose, index], axes, found.colour(index), _THIN * surface.scale, fill)


def _draw_limbs(surface: Surface, found: _Poses) -> None:
    for coords, drawn in zip(found.coords, found.drawn, strict=True):
        for edge in found.skeleton.edges:
            if drawn[list(edge)].all():
                colour = found.colours[found.skeleton.group_of(edge)]
                width = _LINE * surface.scale * _shrunk(surface, coords, edge)
                surface.lines(coords[None, list(edge)], colour, width, np.ones(1), outline=True)


def _draw_keypoints(surface: Surface, found: _Poses, marker: str) -> None:
    whole = (_DOT if marker == "dot" else _HOLLOW) * surface.scale
    for coords, drawn in zip(found.coords, found.drawn, strict=True):
        radii = np.full(len(coords), whole)
        for edge in found.skeleton.edges:
            if drawn[list(edge)].all():
                radii[list(edge)] = np.minimum(radii[list(edge)], whole * _shrunk(surface, coords, edge))
        for index in np.flatnonzero(drawn):
            surface.marker(coords[index], marker, found.colour(int(index)), radii[index])


def _shrunk(surface: Surface, coords: Array, edge: Edge) -> float:
    """Factor for a limb that is short, as of a finger: what is drawn of it stays apart from the next."""
    length = float(np.hypot(*(coords[edge[0]] - coords[edge[1]]))) * surface.unit
    return min(1.0, max(_SMALLEST, length / (_ROOM * surface.scale)))


def _draw_scores(surface: Surface, found: _Poses) -> None:
    if found.scores is None:
        raise ValueError("scores: got None, expected those of the keypoints")
    for pose, index in np.argwhere(found.drawn):
        place, text = found.coords[pose, index], f"{found.scores[pose, index]:.2f}"
        surface.text(place, text, found.colour(index), _TEXT * surface.scale, 2 * _DOT * surface.scale)


# --------------------------------------------------------------------------------------------------- arguments


def _poses(
    keypoints: Any,
    scores: Any,
    covariances: Any,
    skeleton: str | Skeleton | Iterable[Edge] | None,
    threshold: float,
    colours: str | Mapping[str, str] | None,
) -> _Poses:
    if isinstance(keypoints, Keypoints):
        scores = keypoints.scores if scores is None else scores
        covariances = keypoints.covariances if covariances is None else covariances
        keypoints = keypoints.coords
    coords = _numbers("keypoints", keypoints)
    if coords.ndim not in (2, 3) or coords.shape[-1] != 2:
        raise ValueError(f"keypoints: got shape {list(coords.shape)}, expected [N, K, 2] or [K, 2], (x, y) of each")
    parts: list[Array | None] = []
    for name, value, more in (("scores", scores, ()), ("covariances", covariances, (2, 2))):
        numbers = None if value is None else _numbers(name, value)
        expected = (*coords.shape[:-1], *more)
        if numbers is not None and numbers.shape != expected:
            raise ValueError(f"{name}: got shape {list(numbers.shape)}, expected {list(expected)}, as the keypoints")
        parts.append(numbers if numbers is None or coords.ndim == 3 else numbers[None])
    if coords.ndim == 2:
        coords = coords[None]
    bones = _skeleton(skeleton, coords.shape[1])
    if isinstance(threshold, bool) or not isinstance(threshold, (int, float)) or math.isnan(threshold):
        raise TypeError(f"threshold: got {threshold!r}, expected a number")
    drawn = np.asarray(np.isfinite(coords).all(-1) & (True if parts[0] is None else parts[0] > threshold))
    return _Poses(coords, parts[0], parts[1], drawn, bones, _colours(colours, bones))


def _skeleton(skeleton: str | Skeleton | Iterable[Edge] | None, num_keypoints: int) -> Skeleton:
    if skeleton is None:
        return of_size(num_keypoints)
    if isinstance(skeleton, str):
        if skeleton.lower() not in SKELETONS:
            raise ValueError(f"skeleton: got {skeleton!r}, expected one of {', '.join(map(repr, SKELETONS))}, or limbs")
        skeleton = SKELETONS[skeleton.lower()]
    if not isinstance(skeleton, Skeleton):
        if not isinstance(skeleton, Iterable):
            raise TypeError(f"skeleton: got {type(skeleton).__name__}, expected a name, a Skeleton or pairs (i, j)")
        return from_edges(skeleton, num_keypoints)
    if len(skeleton.groups) != num_keypoints:
        raise ValueError(f"skeleton: got one of {len(skeleton.groups)} keypoints, expected {num_keypoints}, as drawn")
    return skeleton


def _colours(colours: str | Mapping[str, str] | None, skeleton: Skeleton) -> Mapping[str, str]:
    groups = {**COLOURS, **{group: COLOURS.get(group, COLOURS["centre"]) for group in skeleton.groups}}
    if colours is None:
        return groups
    if isinstance(colours, str):
        checked_colours(colours)
        return dict.fromkeys(groups, colours)
    if not isinstance(colours, Mapping):
        raise TypeError(f"colours: got {type(colours).__name__}, expected '#rrggbb' or a dictionary of groups")
    checked_colours(list(colours.values()))
    for group in colours:
        if group not in groups:
            raise ValueError(f"colours: got group {group!r}, expected one of {', '.join(map(repr, groups))}")
    return {**groups, **colours}


def _surface(on: Any, scale: float | None) -> Surface:
    return surface_of(on, None if scale is None else _positive("scale", scale))


def _matrix(on: Any, image_transform: Any, shape: tuple[int, ...]) -> Array:
    if image_transform is not None:
        matrix = _numbers("image_transform", image_transform)
        if matrix.shape != (2, 3):
            raise ValueError(f"image_transform: got shape {list(matrix.shape)}, expected [2, 3], of one image")
        if not np.isfinite(matrix).all() or matrix[0, 0] * matrix[1, 1] == matrix[0, 1] * matrix[1, 0]:
            raise ValueError(f"image_transform: got {matrix.tolist()}, expected a matrix with an inverse")
        return matrix
    if hasattr(on, "transData"):
        return np.eye(2, 3)
    height, width = on.shape[:2] if isinstance(on, np.ndarray) else on.size[::-1]
    x, y = width / shape[1], height / shape[0]
    return np.array([[x, 0.0, (x - 1) / 2], [0.0, y, (y - 1) / 2]])


def _numbers(name: str, value: Any) -> Array:
    """An array in float64 of an array, a tensor or nested lists."""
    if hasattr(value, "detach"):
        value = value.detach().cpu().double().numpy()
    try:
        array = np.asarray(value)
        if array.dtype.kind not in "fiub":
            raise TypeError
        return array.astype(np.float64)
    except (TypeError, ValueError):
        raise TypeError(f"{name}: got {type(value).__name__}, expected numbers: an array, a tensor or lists") from None


def _check_marker(marker: str) -> None:
    if marker not in MARKERS:
        raise ValueError(f"marker: got {marker!r}, expected one of {', '.join(map(repr, MARKERS))}")


def _positive(name: str, value: float) -> float:
    if isinstance(value, bool) or not isinstance(value, (int, float)) or not 0 < value < math.inf:
        raise ValueError(f"{name}: got {value!r}, expected a positive number")
    return float(value)


def _share(name: str, value: float) -> float:
    if isinstance(value, bool) or not isinstance(value, (int, float)) or not 0 <= value <= 1:
        raise ValueError(f"{name}: got {value!r}, expected a number from 0 to 1")
    return float(value)
