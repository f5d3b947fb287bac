"""The command demo: the heatmaps in the package, decoded and drawn."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import rich.box
from rich.console import Console
from rich.table import Table

from dark_kernels import data, decode
from dark_kernels.recipes import ARGMAX

from . import outputs
from .decoder import Operation, recipe_of
from .errors import require, shown

_PICTURES = (".png", ".jpg", ".pdf", ".svg")
_IN_THE_PICTURE = "astronaut_upper"


def demo(output: Path, recipe: str, device: str | None, backend: str, min_score: float, every: bool) -> None:
    """Decode the heatmaps in the package and draw them."""
    outputs.check_output(output, _PICTURES)
    require("matplotlib")
    example = data.load()
    heatmaps, names, crops = example

    chosen = recipe_of(recipe, {})
    decoder = Operation(decode, device, backend, heatmaps.dtype)
    keypoints = decoder(heatmaps, recipe=chosen, covariance=chosen.has_hessian)
    peaks = decoder(heatmaps, recipe=ARGMAX)

    from . import picture

    place = names.index(_IN_THE_PICTURE)
    drawn = peaks.scores[place] > max(min_score, 0.0)
    scene = picture.Scene(
        crops[example.pairs()[0].index(place)],
        heatmaps[place].float().numpy(),
        peaks.coords[place],
        keypoints.coords[place],
        None if keypoints.covariances is None else keypoints.covariances[place],
        drawn,
    )
    with outputs.replacing(output) as file:
        picture.make(scene, chosen.name, file, output.suffix.lower().removeprefix("."))

    table = Table(
        title=f"recipe {chosen.name}, heatmap pixels, sigma = sqrt(trace(covariance) / 2)",
        box=rich.box.SIMPLE_HEAD,
    )
    for column in ("picture", "keypoint", "x", "y", "score", "sigma"):
        table.add_column(column, justify="left" if column in ("picture", "keypoint") else "right", no_wrap=True)
    for entry, name in enumerate(names):
        listed = [index for index in range(len(drawn)) if every or (entry == place and drawn[index])]
        for index in listed:
            x, y = keypoints.coords[entry, index]
            table.add_row(
                name if index == listed[0] else "",
                picture.KEYPOINT_NAMES[index],
                f"{x:.2f}",
                f"{y:.2f}",
                f"{keypoints.scores[entry, index]:.3f}",
                _sigma(keypoints.covariances, entry, index),
                end_section=index == listed[-1],
            )
    Console().print(table)
    print(f"backend: {decoder.choice.backend} on {decoder.device} ({decoder.choice.reason})")
    print(f"picture: {shown(output)}")


def _sigma(covariances: np.ndarray | None, entry: int, index: int) -> str:
    if covariances is None:
        return "-"
    sigma = float(np.sqrt(np.trace(covariances[entry, index]) / 2))
    return "-" if np.isnan(sigma) else f"{sigma:.2f}"
