"""The demo's picture: photographs with keypoints, on the pixel grid and refined."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, BinaryIO, NamedTuple

import numpy as np

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.backends.backend_agg import FigureCanvasAgg

# The order of COCO's 17 keypoints.
KEYPOINT_NAMES = (
    "nose",
    "left eye",
    "right eye",
    "left ear",
    "right ear",
    "left shoulder",
    "right shoulder",
    "left elbow",
    "right elbow",
    "left wrist",
    "right wrist",
    "left hip",
    "right hip",
    "left knee",
    "right knee",
    "left ankle",
    "right ankle",
)

# COCO's limbs, without the ones from ears to shoulders, which hide the small parts of a face.
LIMBS = (
    (0, 1),
    (0, 2),
    (1, 3),
    (2, 4),
    (5, 6),
    (5, 7),
    (7, 9),
    (6, 8),
    (8, 10),
    (5, 11),
    (6, 12),
    (11, 12),
    (11, 13),
    (13, 15),
    (12, 14),
    (14, 16),
)

_DPI = 110
_STRIDE = 4  # crop pixels to a heatmap pixel
_ZOOM = 5  # heatmap pixels shown on each side of the zoomed peak
_MARGIN = 26  # crop pixels around the keypoints

# The crops are padded with black, so on a black page their edges don't show.
_PAGE, _TEXT, _MUTED = "#000000", "#f2f2f2", "#a8a8b0"
_LEFT, _RIGHT, _MIDDLE = "#35d0ff", "#ffe14d", "#f7f7f7"


class Scene(NamedTuple):
    """One photograph, its heatmaps and what was decoded from them.

    Attributes:
        name: The entry's name.
        photograph: uint8 [H, W, 3].
        heatmaps: [17, H / 4, W / 4].
        argmax: [17, 2], the pixels with the largest values.
        coords: [17, 2], decoded, heatmap pixels.
        covariances: [17, 2, 2] in squared heatmap pixels, or None.
        drawn: bool [17], the keypoints worth drawing.
    """

    name: str
    photograph: np.ndarray
    heatmaps: np.ndarray
    argmax: np.ndarray
    coords: np.ndarray
    covariances: np.ndarray | None
    drawn: np.ndarray


def draw(scenes: Sequence[Scene], recipe_name: str, file: BinaryIO, file_format: str) -> None:
    """Draw one row a scene: argmax, the recipe with 2-sigma ellipses, and one peak from near.

    Args:
        scenes: At least one.
        recipe_name: For the title.
        file: Takes the picture.
        file_format: "png", "jpg", "pdf" or "svg".
    """
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure
    from matplotlib.layout_engine import ConstrainedLayoutEngine

    layout = ConstrainedLayoutEngine(w_pad=0.06, h_pad=0.06, wspace=0.02, hspace=0.03, rect=(0, 0.012, 1, 0.973))
    # A figure of its own, not pyplot's: no window, no global state, whatever MPLBACKEND says.
    figure = Figure(figsize=(11.9, 0.6 + 4.2 * len(scenes)), dpi=_DPI, facecolor=_PAGE, layout=layout)
    canvas = FigureCanvasAgg(figure)
    rows = figure.subplots(len(scenes), 3, squeeze=False)
    for row, scene in zip(rows, scenes, strict=True):
        _draw_scene(row, scene)

    ellipses = any(scene.covariances is not None for scene in scenes)
    titles = (
        ("argmax", "the pixel with the largest value"),
        (recipe_name, "sub-pixel, with 2-sigma ellipses" if ellipses else "the same heatmaps"),
        ("inside the frame", f"square: argmax, cross: {recipe_name}, in heatmap pixels"),
    )
    for axes, (title, subtitle) in zip(rows[0], titles, strict=True):
        axes.set_title(title, color=_TEXT, fontsize=15, fontweight="bold", pad=22)
        axes.annotate(
            subtitle,
            (0.5, 1.0),
            xytext=(0, 8),
            xycoords="axes fraction",
            textcoords="offset points",
            ha="center",
            color=_MUTED,
            fontsize=10.5,
        )
    if file_format == "png":
        _save_small_png(canvas, file)
    else:
        figure.savefig(file, format=file_format, dpi=_DPI, facecolor=_PAGE)


def _save_small_png(canvas: FigureCanvasAgg, file: BinaryIO) -> None:
    """256 colours with dithering: less than half the bytes, and hard to tell from all colours."""
    from PIL import Image

    canvas.draw()
    picture = Image.fromarray(np.asarray(canvas.buffer_rgba())[..., :3])
    palette = picture.quantize(256)
    picture.quantize(palette=palette, dither=Image.Dither.FLOYDSTEINBERG).save(file, format="png", optimize=True)


def to_photograph(coords: np.ndarray) -> np.ndarray:
    """Heatmap pixels to pixels of the photograph: pixel centres are at integers in both."""
    return (coords + 0.5) * _STRIDE - 0.5


def _draw_scene(row: Sequence[Axes], scene: Scene) -> None:
    from matplotlib.patches import Rectangle

    argmax_axes, refined_axes, zoom_axes = row
    left, right, bottom, top = _view(scene)
    for axes in (argmax_axes, refined_axes):
        axes.imshow(scene.photograph, interpolation="lanczos")
        axes.set(xlim=(left, right), ylim=(bottom, top))
        axes.set_axis_off()
    # The heatmap's pixels, which is what the left side is bound to.
    edges = np.arange(0, max(scene.photograph.shape) + 1, _STRIDE) - 0.5
    argmax_axes.vlines(edges, top, bottom, color="white", alpha=0.17, linewidth=0.5)
    argmax_axes.hlines(edges, left, right, color="white", alpha=0.17, linewidth=0.5)

    _draw_pose(argmax_axes, to_photograph(scene.argmax), scene.drawn, marker="s")
    if scene.covariances is not None:
        for index in np.flatnonzero(scene.drawn):
            _draw_ellipse(
                refined_axes,
                to_photograph(scene.coords[index]),
                scene.covariances[index] * _STRIDE**2,
                _colour(int(index)),
            )
    _draw_pose(refined_axes, to_photograph(scene.coords), scene.drawn, marker="o")

    telling = _most_telling(scene)
    if telling is None:
        zoom_axes.set_axis_off()
        return
    _draw_zoom(zoom_axes, scene, telling)
    corner = to_photograph(scene.argmax[telling] - _ZOOM - 0.5)
    side = (2 * _ZOOM + 1) * _STRIDE
    refined_axes.add_patch(Rectangle(tuple(corner), side, side, fill=False, color=_TEXT, linewidth=1.0, alpha=0.75))


def _draw_pose(axes: Axes, points: np.ndarray, drawn: np.ndarray, marker: str) -> None:
    from matplotlib.patheffects import Normal, Stroke

    outline = [Stroke(linewidth=3.6, foreground="black", alpha=0.55), Normal()]
    for one, other in LIMBS:
        if drawn[one] and drawn[other]:
            colours = {_colour(one), _colour(other)} - {_MIDDLE}
            axes.plot(
                *points[[one, other]].T,
                color=colours.pop() if len(colours) == 1 else _MIDDLE,
                linewidth=1.8,
                alpha=0.9,
                solid_capstyle="round",
                path_effects=outline,
                zorder=3,
            )
    for index in np.flatnonzero(drawn):
        axes.plot(
            *points[index],
            marker=marker,
            markersize=5.5,
            markerfacecolor=_colour(int(index)),
            markeredgecolor="black",
            markeredgewidth=0.8,
            zorder=4,
        )


def _draw_ellipse(axes: Axes, centre: np.ndarray, covariance: np.ndarray, colour: str, fill: float = 0.16) -> None:
    """The 2-sigma ellipse; nothing for a covariance of NaN."""
    from matplotlib.colors import to_rgba
    from matplotlib.patches import Ellipse

    if not np.isfinite(covariance).all():
        return
    variances, directions = np.linalg.eigh(covariance)
    width, height = 2 * 2 * np.sqrt(np.maximum(variances, 0))
    angle = np.degrees(np.arctan2(directions[1, 0], directions[0, 0]))
    axes.add_patch(
        Ellipse(
            tuple(centre),
            width,
            height,
            angle=angle,
            facecolor=to_rgba(colour, fill),
            edgecolor=to_rgba(colour, 0.95),
            linewidth=1.4,
            zorder=2,
        )
    )


def _draw_zoom(axes: Axes, scene: Scene, index: int) -> None:
    from matplotlib.patches import Rectangle

    x, y = scene.argmax[index]
    axes.imshow(scene.heatmaps[index], cmap="magma", interpolation="nearest")
    axes.set(xlim=(x - _ZOOM - 0.5, x + _ZOOM + 0.5), ylim=(y + _ZOOM + 0.5, y - _ZOOM - 0.5))
    ticks = range(-_ZOOM, _ZOOM + 1, 2)
    axes.set_xticks([x + tick for tick in ticks])
    axes.set_yticks([y + tick for tick in ticks])
    axes.tick_params(colors=_MUTED, labelsize=9, length=0)
    for spine in axes.spines.values():
        spine.set_color(_MUTED)

    for colour, linewidth in (("black", 5.0), (_TEXT, 2.2)):  # to be seen on dark and on bright
        axes.add_patch(Rectangle((x - 0.5, y - 0.5), 1, 1, fill=False, color=colour, linewidth=linewidth, zorder=3))
    refined = scene.coords[index]
    if scene.covariances is not None:
        _draw_ellipse(axes, refined, scene.covariances[index], _LEFT, fill=0.0)  # the map's colours count
    axes.plot(*refined, marker="+", markersize=17, markeredgewidth=5.0, color="black", zorder=4)
    axes.plot(*refined, marker="+", markersize=15, markeredgewidth=2.6, color=_LEFT, zorder=5)
    axes.set_xlabel(
        f"{KEYPOINT_NAMES[index]}: ({x:.0f}, {y:.0f}) to ({refined[0]:.2f}, {refined[1]:.2f})",
        color=_TEXT,
        fontsize=11,
        labelpad=6,
    )


def _colour(index: int) -> str:
    return _MIDDLE if index == 0 else _LEFT if index % 2 else _RIGHT


def _view(scene: Scene) -> tuple[float, float, float, float]:
    """A square window of the photograph around the drawn keypoints: left, right, bottom, top."""
    height, width = scene.photograph.shape[:2]
    if not scene.drawn.any():
        return -0.5, width - 0.5, height - 0.5, -0.5
    points = to_photograph(np.concatenate([scene.argmax[scene.drawn], scene.coords[scene.drawn]]))
    low, high = points.min(0) - _MARGIN, points.max(0) + _MARGIN
    half = min(float((high - low).max()), width, height) / 2
    x = float(np.clip((low[0] + high[0]) / 2, half - 0.5, width - 0.5 - half))
    y = float(np.clip((low[1] + high[1]) / 2, half - 0.5, height - 0.5 - half))
    return x - half, x + half, y + half, y - half


def _most_telling(scene: Scene) -> int | None:
    """The keypoint to show from near: the one that refinement moved furthest, measured in sigmas where known.

    Sigmas keep diffuse maps, whose steps are long and mean little, from winning.
    """
    if not scene.drawn.any():
        return None
    moved = np.linalg.norm(scene.coords - scene.argmax, axis=1)
    if scene.covariances is not None:
        sigma = np.sqrt(np.trace(scene.covariances, axis1=1, axis2=2) / 2)
        moved = np.where(sigma > 0, moved / sigma, 0.0)  # NaN is not > 0
    return int(np.where(scene.drawn, moved, -1.0).argmax())
