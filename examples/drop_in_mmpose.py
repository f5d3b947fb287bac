"""MMPose's codecs: the line before, the line after, and the time of both.

    python -m examples.drop_in_mmpose

Needs mmpose, as `make test-integrations` installs it. A head decodes a batch with its codec: sample by sample on the
host with MMPose's own, at once where the maps are with ours. The rest of a head is the same.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from torch import Tensor
from torch.nn.functional import interpolate

from . import drop_in

SIZES = {"input_size": (192, 256), "heatmap_size": (48, 64)}
CONFIGS: tuple[dict[str, Any], ...] = (
    {"type": "MSRAHeatmap", **SIZES, "sigma": 2},
    {"type": "MSRAHeatmap", **SIZES, "sigma": 2, "unbiased": True},
    {"type": "UDPHeatmap", **SIZES, "sigma": 2},
    {"type": "MegviiHeatmap", **SIZES, "kernel_size": 11},
    {"type": "SimCCLabel", "input_size": (192, 256), "sigma": (4.9, 5.66), "simcc_split_ratio": 2.0, "use_dark": True},
)


def main(arguments: Sequence[str] | None = None) -> None:
    options = drop_in.parse(arguments, "drop_in_mmpose", __doc__).parse_args(arguments)
    with drop_in.needs("mmpose"):
        from mmpose.registry import KEYPOINT_CODECS

        import dark_kernels.integrations.mmpose  # noqa: F401  a config says this with custom_imports
    maps = drop_in.heatmaps(options)
    for config in CONFIGS:
        our_config = {**config, "type": f"DarkKernels{config['type']}"}
        codecs = KEYPOINT_CODECS.build(config), KEYPOINT_CODECS.build(our_config)
        _compare((config, our_config), codecs, _outputs(config, maps))


def _outputs(config: dict[str, Any], maps: Tensor) -> tuple[Tensor, ...]:
    """A network's output, as the codec takes it."""
    if config["type"] == "MegviiHeatmap":
        return (maps * 255,)
    if config["type"] != "SimCCLabel":
        return (maps,)
    # The maxima of columns and rows, as fine as a SimCC network's.
    bins = [int(size * config["simcc_split_ratio"]) for size in config["input_size"]]
    return tuple(interpolate(maps.amax(axis), size, mode="linear") for axis, size in zip((-2, -1), bins, strict=True))


def _compare(
    configs: tuple[dict[str, Any], dict[str, Any]], codecs: tuple[Any, Any], outputs: tuple[Tensor, ...]
) -> None:
    stock, codec = codecs

    def decode_samples() -> list[Any]:
        """As a head does it: SimCC's with a dimension for one instance. MMPose's DARK overwrites its input: a copy."""
        arrays = [output.cpu().numpy() for output in outputs]
        if len(arrays) == 2:
            arrays = [array[:, None].copy() for array in arrays]
        return [stock.decode(*sample) for sample in zip(*arrays, strict=True)]

    drop_in.compare(
        configs[0]["type"],
        (_line(configs[0]), decode_samples),
        (_line(configs[1]), lambda: list(zip(*codec.batch_decode(*outputs), strict=True))),
        lambda result: tuple(np.concatenate(each) for each in zip(*result, strict=True)),
        outputs[0],
    )


def _line(config: dict[str, Any]) -> str:
    return f"codec = dict({', '.join(f'{name}={value!r}' for name, value in config.items())})"


if __name__ == "__main__":
    main()
