"""The training example's picture: held-out figures with ellipses, and whether the ellipses tell the truth."""

from __future__ import annotations

import math
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor

from dark_kernels import draw as drawing
from dark_kernels import metrics
from examples import report
from examples.stick_figures import LIMBS, Figures

if TYPE_CHECKING:
    from matplotlib.axes import Axes

_COLORS = {"argmax": "#9aa0a6", "quarter": "#e8a33d", "dark": "#3d7fe8", "target": "#c2549d", "peak": "#1f9d55"}
_CLEAR, _OCCLUDED, _TRUTH = "#7dffb0", "#ff5a4f", "#ffffff"


def draw(
    path: Path,
    figures: Figures,
    coords: dict[str, Tensor],  # name -> [B, K, 2], of the figures
    covariances: dict[str, Tensor],  # name -> [B, K, 2, 2]
    errors: dict[str, Tensor],  # name -> [N], of all held-out keypoints
    sigmas: dict[str, Tensor],  # name -> [N]
    squared: dict[str, Tensor],  # name -> [N], squared Mahalanobis distances
    groups: dict[str, Tensor],  # name -> bool [N]
) -> None:
    """Write a PNG: a clear, an occluded, a blurred and an occluded and blurred figure; three diagrams."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    page = Figure(figsize=(14, 8.4), dpi=100, layout="constrained")
    FigureCanvasAgg(page)  # not pyplot's: no window, no global state
    above, below = page.subfigures(2, 1, height_ratios=(1, 1.15))
    titles = ("clear", "occluded", "blurred", "occluded and blurred")
    for axes, title, index in zip(above.subplots(1, 4), titles, _choose(figures), strict=True):
        _draw_figure(axes, figures, coords["peak"], covariances["peak"], index)
        axes.set_title(title, fontsize=11)
    above.suptitle(
        "Held-out figures: annotation (white cross), predicted mean (dot) and 95 % ellipse; red: behind something",
        fontsize=12,
    )
    cumulative, honest, covered = below.subplots(1, 3)
    _draw_errors(cumulative, errors)
    _draw_sigmas(honest, errors["peak"], sigmas["peak"], groups)
    _draw_coverage(covered, squared)
    page.savefig(path, format="png", metadata={"Software": None})


def _choose(figures: Figures) -> list[int]:
    """One figure of each kind, or the nearest to it that there is; three keypoints behind something are enough."""
    occluded = (figures.occluded & figures.visible).sum(1).float()
    few = -(occluded - 3).abs()
    blurred = figures.blurred[:, 0]
    wanted = [
        torch.where(~blurred, -occluded, -99.0),
        torch.where(~blurred, few, -99.0),
        torch.where(blurred, -occluded, -99.0),
        torch.where(blurred, few, -99.0),
    ]
    return [int(score.argmax()) for score in wanted]


def _draw_figure(axes: Axes, figures: Figures, coords: Tensor, covariances: Tensor, index: int) -> None:
    size = figures.images.shape[-1]
    axes.imshow(figures.images[index].permute(1, 2, 0).clamp(0, 1).cpu().numpy(), extent=(0, size, size, 0))
    truth, found = figures.keypoints[index].cpu().numpy(), coords[index].cpu().numpy()
    visible, occluded = figures.visible[index].cpu().numpy(), figures.occluded[index].cpu().numpy()
    drawing.limbs(axes, found, visible, skeleton=LIMBS, scale=0.4)
    radius = math.sqrt(metrics.chi_square(0.95))
    for chosen, colour in ((visible & ~occluded, _CLEAR), (visible & occluded, _OCCLUDED)):
        drawing.ellipses(axes, found, chosen, covariances[index], n_sigma=radius, fill=0.0, colours=colour)
        drawing.keypoints(axes, found, chosen, colours=colour, scale=0.7)
    axes.plot(*truth[visible].T, "x", color=_TRUTH, markersize=5, markeredgewidth=1.1, zorder=5)
    axes.set(xlim=(0, size), ylim=(size, 0), xticks=[], yticks=[])


def _draw_errors(axes: Axes, errors: dict[str, Tensor]) -> None:
    shares = np.linspace(0, 1, 400)
    for name, values in errors.items():
        axes.plot(np.quantile(values.numpy(), shares), shares * 100, color=_COLORS[name], label=report.PLACES[name])
    axes.set(xlim=(0, 8), ylim=(0, 100), xlabel="error, input pixels", ylabel="keypoints with a smaller one, %")
    axes.set_title("Where: distribution of the errors", fontsize=11)
    axes.legend(fontsize=8, loc="lower right")
    axes.grid(alpha=0.3)


def _draw_sigmas(axes: Axes, errors: Tensor, sigmas: Tensor, groups: dict[str, Tensor]) -> None:
    """Root mean squared error of a tenth of the keypoints after the other, by what was predicted for them."""
    axes.set(xscale="log", yscale="log", xlabel="predicted sigma, pixels", ylabel="rms error of an axis, pixels")
    markers = {"clear": ("o", "#1f9d55"), "occluded": ("s", _OCCLUDED), "blurred": ("^", "#3d7fe8")}
    top = 0.0
    for name, (marker, color) in markers.items():
        chosen = groups[name] & errors.isfinite()
        if chosen.sum() < 20:
            continue
        tenths = sigmas[chosen].argsort().tensor_split(10)
        predicted = [float(sigmas[chosen][tenth].mean()) for tenth in tenths]
        actual = [float((errors[chosen][tenth] ** 2).mean().sqrt() / math.sqrt(2)) for tenth in tenths]
        axes.plot(predicted, actual, marker + "-", color=color, label=name, linewidth=0.8)
        top = max(top, *predicted, *actual)
    if top:
        low = 0.3
        axes.plot([low, top], [low, top], color="black", linewidth=0.8, linestyle="--", label="honest")
        axes.legend(fontsize=8)
        axes.set(xlim=(low, 1.2 * top), ylim=(low, 1.2 * top))
    ticks = [0.3, 0.5, 1, 2, 5, 10, 20]
    for axis in (axes.xaxis, axes.yaxis):
        axis.set_ticks(ticks, labels=[f"{tick:g}" for tick in ticks])
        axis.set_ticks([], minor=True)
    axes.set_title(f"How sure: {report.PLACES['peak']},\na tenth of each group to a point", fontsize=11)
    axes.grid(alpha=0.3)


def _draw_coverage(axes: Axes, squared: dict[str, Tensor]) -> None:
    levels, marked = np.arange(1, 100), [int(level) for level in report.LEVELS]

    def inside(values: Tensor, level: int) -> float:
        return float((values <= metrics.chi_square(level / 100)).double().mean()) * 100

    for name, values in squared.items():
        axes.plot(
            levels, [inside(values, int(level)) for level in levels], color=_COLORS[name], label=report.PLACES[name]
        )
        axes.plot(marked, [inside(values, level) for level in marked], "o", color=_COLORS[name])
    axes.plot([0, 100], [0, 100], color="black", linewidth=0.8, linestyle="--", label="honest")
    axes.set(xlim=(0, 100), ylim=(0, 100), xlabel="ellipse, %", ylabel="keypoints inside, %")
    axes.set_title("How sure: coverage", fontsize=11)
    axes.legend(fontsize=8, loc="upper left")
    axes.grid(alpha=0.3)
