"""MMPose's codecs: the line before, the line after, and the time of both.

    python -m examples.drop_in_mmpose

Needs mmpose, as `make test-integrations` installs it. A head decodes a batch with its codec: sample by sample on the
host with MMPose's own, at once where the maps are with ours. The rest of a head is the same.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from mmpose.registry import KEYPOINT_CODECS
from torch import Tensor

import dark_kernels.integrations.mmpose  # noqa: F401  a config says this with custom_imports

from . import drop_in

SIZES = {"input_size": (192, 256), "heatmap_size": (48, 64)}
CONFIGS: tuple[dict[str, Any], ...] = (
    {"type": "MSRAHeatmap", **SIZES, "sigma": 2},
    {"type": "MSRAHeatmap", **SIZES, "sigma": 2, "unbiased": True},
    {"type": "UDPHeatmap", **SIZES, "sigma": 2},
    {"type": "MegviiHeatmap", **SIZES, "kernel_size": 11},
)


def main(arguments: Sequence[str] | None = None) -> None:
    options = drop_in.parse(arguments, "drop_in_mmpose", __doc__).parse_args(arguments)
    for config in CONFIGS:
        maps = drop_in.heatmaps(options)
        if config["type"] == "MegviiHeatmap":
            maps = maps * 255
        _compare(config, {**config, "type": f"DarkKernels{config['type']}"}, maps)


def _compare(config: dict[str, Any], our_config: dict[str, Any], maps: Tensor) -> None:
    stock, codec = KEYPOINT_CODECS.build(config), KEYPOINT_CODECS.build(our_config)
    drop_in.compare(
        config["type"],
        (_line(config), lambda: [stock.decode(sample) for sample in maps.cpu().numpy()]),
        (_line(our_config), lambda: list(zip(*codec.batch_decode(maps), strict=True))),
        lambda result: tuple(np.concatenate(each) for each in zip(*result, strict=True)),
        maps,
    )


def _line(config: dict[str, Any]) -> str:
    return f"codec = dict({', '.join(f'{name}={value!r}' for name, value in config.items())})"


if __name__ == "__main__":
    main()
