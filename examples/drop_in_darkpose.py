"""DarkPose's `get_final_preds`: the line before, the line after, and the time of both.

    python -m examples.drop_in_darkpose [--heatmaps FILE] [--darkpose path/to/DarkPose]

DarkPose is a repository and no package. Without a checkout of it, the line before is stood in for by a loop that does
the same with OpenCV (`benchmarks.peers.darkpose_loop`), which the extra `bench` installs.
The heatmaps are packaged ones, or your network's from a file; the crops that they are of are drawn.
"""

from __future__ import annotations

import importlib
import sys
from collections.abc import Sequence
from pathlib import Path
from types import SimpleNamespace

import numpy as np

from benchmarks.peers import darkpose_loop
from dark_kernels.integrations.darkpose import get_final_preds

from . import drop_in


def main(arguments: Sequence[str] | None = None) -> None:
    parser = drop_in.parse(arguments, "drop_in_darkpose", __doc__)
    parser.add_argument("--darkpose", type=Path, help="a checkout of DarkPose")
    options = parser.parse_args(arguments)
    maps = drop_in.heatmaps(options)
    generator = np.random.default_rng(0)
    center = generator.uniform(50, 400, (len(maps), 2)).astype(np.float32)
    scale = generator.uniform(0.5, 2.5, (len(maps), 2)).astype(np.float32)
    config = SimpleNamespace(TEST=SimpleNamespace(BLUR_KERNEL=11))

    if options.darkpose:
        sys.path.insert(0, str(options.darkpose / "lib"))
        with drop_in.needs(f"DarkPose in {options.darkpose}"):
            published = importlib.import_module("core.inference").get_final_preds
    else:
        with drop_in.needs("OpenCV"):
            importlib.import_module("cv2")
        published = darkpose_loop
    drop_in.compare(
        "DarkPose" if options.darkpose else "DarkPose, a stand-in for it",
        (
            "from core.inference import get_final_preds",
            lambda: published(config, maps.clone().cpu().numpy(), center, scale),
        ),
        (
            "from dark_kernels.integrations.darkpose import get_final_preds",
            lambda: tuple(each.cpu().numpy() for each in get_final_preds(config, maps, center, scale)),
        ),
        lambda result: (result[0], result[1][..., 0]),
        maps,
    )


if __name__ == "__main__":
    main()
