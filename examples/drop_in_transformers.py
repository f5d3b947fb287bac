"""VitPose's image processor in transformers: the line before, the line after, and the time of both.

    python -m examples.drop_in_transformers [--heatmaps FILE]

Needs transformers, as `make test-integrations` installs it. The heatmaps are packaged ones and not a VitPose's, so
nothing is downloaded; or your model's `outputs.heatmaps`, saved to a file. The boxes are drawn.
"""

from __future__ import annotations

from collections.abc import Sequence
from types import SimpleNamespace

import numpy as np

from benchmarks.peers import import_torchvision
from dark_kernels.integrations.transformers import post_process_pose_estimation

from . import drop_in


def main(arguments: Sequence[str] | None = None) -> None:
    options = drop_in.parse(arguments, "drop_in_transformers", __doc__).parse_args(arguments)
    maps = drop_in.heatmaps(options)
    with drop_in.needs("transformers"):
        import_torchvision()
        from transformers import VitPoseImageProcessor

    processor = VitPoseImageProcessor()
    outputs = SimpleNamespace(heatmaps=maps)
    boxes = [[[x, y, 96.0, 128.0]] for x, y in np.random.default_rng(0).uniform(0, 400, (len(maps), 2)).tolist()]
    drop_in.compare(
        "VitPose",
        (
            "results = processor.post_process_pose_estimation(outputs, boxes)",
            lambda: processor.post_process_pose_estimation(outputs, boxes),
        ),
        (
            "results = post_process_pose_estimation(processor, outputs, boxes)",
            lambda: post_process_pose_estimation(processor, outputs, boxes),
        ),
        lambda results: tuple(
            np.stack([pose[key].numpy() for image in results for pose in image]) for key in ("keypoints", "scores")
        ),
        maps,
    )


if __name__ == "__main__":
    main()
