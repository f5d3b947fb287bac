"""MMPose's codecs: the line before, the line after, and the time of both.

    python -m examples.drop_in_mmpose [--config CONFIG] [--heatmaps FILE]

Needs mmpose, as `make test-integrations` installs it. Takes the codec of your config, else one of each kind; and your
head's heatmaps from a file, else packaged ones (for SimCC the maxima of their columns and rows). A head decodes a batch
with its codec: sample by sample on the host with MMPose's own, at once where the maps are with ours. The rest of a head
is the same.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from torch import Tensor
from torch.nn.functional import interpolate

from . import drop_in

CODECS: tuple[dict[str, Any], ...] = (
    {"type": "MSRAHeatmap", "sigma": 2},
    {"type": "MSRAHeatmap", "sigma": 2, "unbiased": True},
    {"type": "UDPHeatmap", "sigma": 2},
    {"type": "MegviiHeatmap", "kernel_size": 11},
    {"type": "SimCCLabel", "sigma": (4.9, 5.66), "simcc_split_ratio": 2.0, "use_dark": True},
)
TYPES = tuple(dict.fromkeys(config["type"] for config in CODECS))


def main(arguments: Sequence[str] | None = None) -> None:
    parser = drop_in.parse(arguments, "drop_in_mmpose", __doc__)
    parser.add_argument("--config", type=Path, help="your config, of which the codec is taken")
    options = parser.parse_args(arguments)
    with drop_in.needs("mmpose"):
        from mmpose.registry import KEYPOINT_CODECS

        import dark_kernels.integrations.mmpose  # noqa: F401  a config says this with custom_imports
    maps = drop_in.heatmaps(options)
    for config in CODECS if options.config is None else (_codec_of(options.config),):
        config = {**_sizes(config["type"], maps), **config}
        _check(config, maps)
        our_config = {**config, "type": f"DarkKernels{config['type']}"}
        codecs = KEYPOINT_CODECS.build(config), KEYPOINT_CODECS.build(our_config)
        _compare((config, our_config), codecs, _outputs(config, maps))


def _codec_of(path: Path) -> dict[str, Any]:
    """The codec of a config: of its head, or by its usual name."""
    from mmengine.config import Config

    try:
        config = Config.fromfile(path, import_custom_modules=False)
    except Exception as error:  # a config is a program
        reason = (str(error).splitlines() or [""])[0]
        raise SystemExit(f"--config: can't read {path} ({type(error).__name__}: {reason})") from None
    codec = config.get("model", {}).get("head", {}).get("decoder") or config.get("codec")
    kind = codec.get("type") if isinstance(codec, dict) else None
    if kind not in TYPES:
        raise SystemExit(f"--config: got the codec {kind} in {path}, expected one of {', '.join(TYPES)}")
    return dict(codec)


def _sizes(kind: str, maps: Tensor) -> dict[str, tuple[int, int]]:
    """Of a network whose maps are a quarter of its input."""
    height, width = maps.shape[-2:]
    sizes = {"input_size": (4 * width, 4 * height)}
    return sizes if kind == "SimCCLabel" else {**sizes, "heatmap_size": (width, height)}


def _check(config: dict[str, Any], maps: Tensor) -> None:
    """End the program where the maps are not what a codec decodes."""
    height, width = maps.shape[-2:]
    size = tuple(config.get("heatmap_size", (width, height)))
    if size != (width, height):
        raise SystemExit(f"--heatmaps: got maps of {width} x {height}, expected the codec's {size[0]} x {size[1]}")
    if config.get("heatmap_type") == "combined" and maps.shape[1] % 3:
        raise SystemExit(f"--heatmaps: got {maps.shape[1]} maps, expected 3 K, two of offsets behind each heatmap")


def _outputs(config: dict[str, Any], maps: Tensor) -> tuple[Tensor, ...]:
    """A network's output, as the codec takes it."""
    if config["type"] != "SimCCLabel":
        return (maps,)
    # The maxima of columns and rows, as fine as a SimCC network's.
    bins = [int(size * config.get("simcc_split_ratio", 2.0)) for size in config["input_size"]]
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
