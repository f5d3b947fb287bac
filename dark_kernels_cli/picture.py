"""The demo's picture: a photograph with keypoints, on the pixel grid and refined, and some of them from near."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, BinaryIO, NamedTuple

import numpy as np

from dark_kernels import draw

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

KEYPOINT_NAMES = draw.SKELETONS["coco"].keypoints
# Without the limbs from ears to shoulders, which hide the small parts of a face.
_SKELETON = draw.SKELETONS["coco"]._replace(
    edges=tuple(edge for edge in draw.SKELETONS["coco"].edges if edge not in ((3, 5), (4, 6)))
)

_DPI = 110
_STRIDE = 4  # crop pixels to a heatmap pixel
_ZOOM = 3  # heatmap pixels shown on each side of a zoomed peak
_ZOOMS = 4
_MARGIN = 20  # crop pixels around the keypoints
_N_SIGMA = 1.0

# The crops are padded with black, so on a black page their edges don't show.
_PAGE, _TEXT, _MUTED = "#000000", "#f2f2f2", "#a8a8b0"
_REFINED = draw.COLOURS["left"]


class Scene(NamedTuple):
    """One photograph, its heatmaps and what was decoded from them.

    Attributes:
        photograph: uint8 [H, W, 3].
        heatmaps: [17, H / 4, W / 4].
        argmax: [17, 2], the pixels with the largest values.
        coords: [17, 2], decoded, heatmap pixels.
        covariances: [17, 2, 2] in squared heatmap pixels, or None.
        drawn: bool [17], the keypoints worth drawing.
    """

    photograph: np.ndarray
    heatmaps: np.ndarray
    argmax: np.ndarray
    coords: np.ndarray
    covariances: np.ndarray | None
    drawn: np.ndarray


def make(scene: Scene, recipe_name: str, file: BinaryIO, file_format: str) -> None:
    """Draw a scene twice, by argmax and by the recipe with ellipses, and below the keypoints that moved furthest.

    Args:
        scene: What to show.
        recipe_name: For the titles.
        file: Takes the picture.
        file_format: "png", "jpg", "pdf" or "svg".
    """
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    # A figure of its own, not pyplot's: no window, no global state, whatever MPLBACKEND says.
    figure = Figure(figsize=(12.4, 10.9), dpi=_DPI, facecolor=_PAGE)
    canvas = FigureCanvasAgg(figure)
    above = figure.add_gridspec(1, 2, left=0.01, right=0.99, bottom=0.375, top=0.93, wspace=0.02)
    below = figure.add_gridspec(1, _ZOOMS, left=0.02, right=0.98, bottom=0.105, top=0.335, wspace=0.1)
    argmax_axes, refined_axes = (figure.add_subplot(above[0, column]) for column in (0, 1))
    _draw_photographs(argmax_axes, refined_axes, scene, recipe_name)
    for number, index in enumerate(_most_telling(scene), start=1):
        _draw_zoom(figure.add_subplot(below[0, number - 1]), scene, index, number)
        _frame(refined_axes, scene, index, number)
    _draw_legend(figure, recipe_name, scene.covariances is not None)
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


def _draw_photographs(argmax_axes: Axes, refined_axes: Axes, scene: Scene, recipe_name: str) -> None:
    left, right, bottom, top = _view(scene)
    refined = "sub-pixel" if scene.covariances is None else "sub-pixel, with one-sigma ellipses"
    titles = (("argmax", "the pixel with the largest value"), (recipe_name, refined))
    for axes, (title, subtitle) in zip((argmax_axes, refined_axes), titles, strict=True):
        axes.imshow(scene.photograph, interpolation="lanczos")
        axes.set(xlim=(left, right), ylim=(bottom, top))
        axes.set_axis_off()
        axes.set_title(title, color=_TEXT, fontsize=17, fontweight="bold", pad=24)
        _write(axes, subtitle, (0.5, 1.0), (0, 9))
    # The heatmap's pixels, which is what the left side is bound to.
    edges = np.arange(0, max(scene.photograph.shape) + 1, _STRIDE) - 0.5
    argmax_axes.vlines(edges, top, bottom, color="white", alpha=0.2, linewidth=0.5)
    argmax_axes.hlines(edges, left, right, color="white", alpha=0.2, linewidth=0.5)

    shown: dict[str, Any] = {"scores": scene.drawn, "skeleton": _SKELETON, "scale": 1.15}
    draw.poses(argmax_axes, to_photograph(scene.argmax), marker="square", **shown)
    covariances = None if scene.covariances is None else scene.covariances * _STRIDE**2
    draw.poses(refined_axes, to_photograph(scene.coords), covariances=covariances, n_sigma=_N_SIGMA, **shown)


def _frame(axes: Axes, scene: Scene, index: int, number: int) -> None:
    """Where in the photograph a zoom is."""
    from matplotlib.patches import Rectangle

    corner = to_photograph(scene.argmax[index] - _ZOOM - 0.5)
    side = (2 * _ZOOM + 1) * _STRIDE
    axes.add_patch(Rectangle(tuple(corner), side, side, fill=False, color=_TEXT, linewidth=0.9, alpha=0.7))
    axes.annotate(
        str(number), tuple(corner), xytext=(3, -4), textcoords="offset points", color=_TEXT, va="top", weight="bold"
    )


def _draw_zoom(axes: Axes, scene: Scene, index: int, number: int) -> None:
    from matplotlib.patches import Rectangle

    x, y = scene.argmax[index]
    axes.imshow(scene.heatmaps[index], cmap="magma", interpolation="nearest")
    axes.set(xlim=(x - _ZOOM - 0.5, x + _ZOOM + 0.5), ylim=(y + _ZOOM + 0.5, y - _ZOOM - 0.5), xticks=[], yticks=[])
    for spine in axes.spines.values():
        spine.set_color(_MUTED)
    refined = scene.coords[index][None]
    look: dict[str, Any] = {"colours": _REFINED, "scale": 1.5}
    if scene.covariances is not None:
        draw.ellipses(axes, refined, None, scene.covariances[index][None], n_sigma=_N_SIGMA, fill=0.0, **look)
    for colour, linewidth in (("black", 4.5), (_TEXT, 2.0)):  # to be seen on dark and on bright
        axes.add_patch(Rectangle((x - 0.5, y - 0.5), 1, 1, fill=False, color=colour, linewidth=linewidth, zorder=3))
    draw.keypoints(axes, refined, **look)
    axes.set_title(f"{number}  {KEYPOINT_NAMES[index]}", color=_TEXT, fontsize=11.5, pad=6)
    words = f"({x:.0f}, {y:.0f})  →  ({refined[0, 0]:.2f}, {refined[0, 1]:.2f})"
    _write(axes, words, (0.5, 0.0), (0, -15))


def _draw_legend(figure: Figure, recipe_name: str, has_ellipses: bool) -> None:
    from matplotlib.lines import Line2D

    def entry(label: str, **look: Any) -> Line2D:
        return Line2D([], [], label=label, **{"linestyle": "none", "color": _TEXT, "markersize": 9, **look})

    hollow = {"markerfacecolor": "none", "markeredgewidth": 1.6}
    entries = [entry("argmax", marker="s", **hollow), entry(f"{recipe_name}, sub-pixel", marker="o", color=_REFINED)]
    if has_ellipses:
        entries.append(entry("its covariance, one sigma", marker="o", color=_REFINED, markersize=14, **hollow))
    for group in ("left", "right", "centre"):
        label = "between both" if group == "centre" else f"the person's {group}"
        entries.append(entry(label, linestyle="-", linewidth=2.4, color=draw.COLOURS[group]))
    figure.legend(
        handles=entries, loc="lower center", ncols=len(entries), frameon=False, labelcolor=_TEXT, fontsize=10.5,
        bbox_to_anchor=(0.5, 0.012), columnspacing=1.8, handletextpad=0.5,
    )  # fmt: skip


def _write(axes: Axes, words: str, place: tuple[float, float], offset: tuple[float, float]) -> None:
    axes.annotate(
        words, place, xytext=offset, xycoords="axes fraction", textcoords="offset points", ha="center", color=_MUTED,
        fontsize=10.5,
    )  # fmt: skip


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


def _most_telling(scene: Scene) -> Sequence[int]:
    """Keypoints to show from near: of the drawn ones those that refinement moved furthest, in sigmas where known.

    Sigmas keep diffuse maps, whose steps are long and mean little, from winning.
    """
    moved = np.linalg.norm(scene.coords - scene.argmax, axis=1)
    if scene.covariances is not None:
        sigma = np.sqrt(np.trace(scene.covariances, axis1=1, axis2=2) / 2)
        moved = np.where(sigma > 0, moved / sigma, 0.0)  # NaN is not > 0
    chosen: list[int] = []
    for index in np.argsort(-moved, kind="stable"):
        apart = np.abs(scene.argmax[chosen] - scene.argmax[index]).max(-1)
        if scene.drawn[index] and (apart > 2 * _ZOOM).all():  # frames that don't overlap
            chosen.append(int(index))
    return sorted(chosen[:_ZOOMS])
