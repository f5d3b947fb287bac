"""Train small heatmap networks with each of the heatmap losses, and see which targets give which accuracy.

    python -m examples.train_heatmaps                    # mean squared error: minutes on two CPU cores
    python -m examples.train_heatmaps --loss all --output examples/results

Stick figures (see `stick_figures.py`) of 64 x 64 pixels, heatmaps of 16 x 16 and of 32 x 32. Every network is trained
twice on the same images from the same start: on biased targets, decoded by a quarter offset, and on unbiased ones,
decoded by DARK. No target map is ever made. Writes `heatmaps.json` (its content: see `report.py`) and prints the table.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import os
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from datetime import datetime, timezone
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor, nn

if not __package__:  # python examples/train_heatmaps.py
    sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from benchmarks.run import commit_of
from dark_kernels import Recipe, decode, metrics, recipes
from dark_kernels.nn import (
    HeatmapAdaptiveWingLoss,
    HeatmapCrossEntropyLoss,
    HeatmapFocalLoss,
    HeatmapJSLoss,
    HeatmapMSELoss,
)
from examples import report, stick_figures
from examples.stick_figures import Conditions
from examples.train_distribution import Residual, convolution, machine, short_floats

SIZE = 64  # of images
SHIFT = 0.5  # heatmap pixel p is at (p + SHIFT) * stride input pixels
SIGMA = 4.0  # of the targets, in input pixels
LEARNING_RATE = 8e-3
CONDITIONS = Conditions(occlusion=False, blur=False)
TEST_SEED = 2**31 + 2  # no training seed: --seeds are below


@dataclasses.dataclass(frozen=True)
class Loss:
    """A loss, and what a network's output is then."""

    make: Callable[..., nn.Module]  # takes sigma and encoding
    activation: Literal["none", "sigmoid", "softmax"] = "none"  # as in a Recipe
    encodings: tuple[str, ...] = ("biased", "unbiased")
    is_of_probabilities: bool = False  # whether the loss takes the sigmoid, and not the output itself
    bias: float = 0.0  # of the network's output before training


LOSSES = {
    "mse": Loss(HeatmapMSELoss),
    "ohkm": Loss(lambda **options: HeatmapMSELoss(weighting="hrnet", topk=8, **options)),
    "adaptive_wing": Loss(HeatmapAdaptiveWingLoss),
    # Unbiased targets have no pixel with a target of 1, and so nothing that is positive.
    "focal": Loss(HeatmapFocalLoss, "sigmoid", ("biased",), is_of_probabilities=True, bias=-2.19),
    "cross_entropy": Loss(HeatmapCrossEntropyLoss, "softmax"),
    "js": Loss(HeatmapJSLoss, "softmax"),
}


class Network(nn.Module):
    """Images [B, 3, S, S] to maps [B, K, S / stride, S / stride], of a stride of 2 or 4: down to an eighth, and up."""

    def __init__(self, stride: int, bias: float) -> None:
        super().__init__()
        self.to_2 = convolution(3, 12, 2)
        self.to_4 = nn.Sequential(convolution(12, 24, 2), Residual(24))
        self.to_8 = nn.Sequential(convolution(24, 48, 2), Residual(48), Residual(48))
        self.from_8 = nn.ConvTranspose2d(48, 24, 4, 2, 1)
        self.at_4 = Residual(24)
        self.from_4 = nn.ConvTranspose2d(24, 12, 4, 2, 1) if stride == 2 else None
        self.head = nn.Conv2d(12 if stride == 2 else 24, len(stick_figures.NAMES), 1)
        # Maps that start at anything else are first of all trained towards zero, and some stay there.
        nn.init.normal_(self.head.weight, std=0.001)
        nn.init.constant_(self.head.bias, bias)

    def forward(self, images: Tensor) -> Tensor:
        at_2 = self.to_2(images - 0.5)
        at_4 = self.to_4(at_2)
        maps = self.at_4(torch.relu(self.from_8(self.to_8(at_4)) + at_4))
        if self.from_4 is not None:
            maps = torch.relu(self.from_4(maps) + at_2)
        return self.head(maps)


def decoder_of(encoding: str, stride: int) -> Recipe:
    """A quarter offset for biased targets; for unbiased ones DARK, with a blur in proportion to the blobs."""
    if encoding == "biased":
        return recipes.QUARTER
    return dataclasses.replace(recipes.DARKPOSE, kernel_size=11 if stride == 2 else 5)


def make_networks(loss: Loss, stride: int, seed: int) -> dict[str, Network]:
    """A network for each encoding, all with the same parameters."""
    networks = {}
    for encoding in loss.encodings:
        torch.manual_seed(seed)
        networks[encoding] = Network(stride, loss.bias).to(memory_format=torch.channels_last)
    return networks


def train(
    networks: dict[str, Network], loss: Loss, stride: int, steps: int, batch_size: int, seed: int
) -> Iterator[dict[str, float]]:
    """Train the networks in place, each on its own targets of the same images; a step for each item."""
    generator = torch.Generator().manual_seed(seed)
    losses = {encoding: loss.make(sigma=SIGMA / stride, encoding=encoding) for encoding in networks}
    parameters = [list(network.parameters()) for network in networks.values()]
    optimizers = [torch.optim.AdamW(each, lr=LEARNING_RATE, weight_decay=1e-4) for each in parameters]
    rates = [
        torch.optim.lr_scheduler.OneCycleLR(optimizer, LEARNING_RATE, total_steps=max(steps, 2), pct_start=0.2)
        for optimizer in optimizers
    ]
    for network in networks.values():
        network.train()
    for _ in range(steps):
        figures = stick_figures.draw(batch_size, SIZE, generator, CONDITIONS)
        images = figures.images.contiguous(memory_format=torch.channels_last)
        keypoints = figures.keypoints / stride - SHIFT
        values = {}
        for (encoding, network), optimizer, rate in zip(networks.items(), optimizers, rates, strict=True):
            output = network(images)
            maps = output.sigmoid() if loss.is_of_probabilities else output
            value = losses[encoding](maps, keypoints, visible=figures.visible)
            optimizer.zero_grad(set_to_none=True)
            value.backward()
            optimizer.step()
            rate.step()
            values[encoding] = value.item()
        yield values


@torch.no_grad()
def evaluate(network: Network, loss: Loss, encoding: str, stride: int, count: int) -> dict[str, float]:
    """Errors in input pixels on `count` figures that training has not seen."""
    network.eval()
    figures = stick_figures.draw(count, SIZE, torch.Generator().manual_seed(TEST_SEED), CONDITIONS)
    heatmaps = network(figures.images.contiguous(memory_format=torch.channels_last))
    recipe = dataclasses.replace(decoder_of(encoding, stride), activation=loss.activation)
    coords = (decode(heatmaps, recipe).coords + SHIFT) * stride
    errors = metrics.distances(coords[figures.visible], figures.keypoints[figures.visible])
    return {"mean_error": float(errors.mean()), "median_error": float(errors.median())}


def parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m examples.train_heatmaps", description=__doc__.split("\n")[0], allow_abbrev=False
    )
    parser.add_argument(
        "--loss", choices=(*LOSSES, "all"), default="mse", help="which, or all of them; default: %(default)s"
    )
    parser.add_argument("--steps", type=int, default=250, help="of each training; default: %(default)s")
    parser.add_argument("--batch-size", type=int, default=24, help="default: %(default)s")
    parser.add_argument("--seeds", type=int, default=3, help="how many trainings of each kind; default: %(default)s")
    parser.add_argument("--images", type=int, default=512, help="held out; default: %(default)s")
    parser.add_argument("--output", type=Path, default=Path("train_heatmaps"), help="folder; default: ./%(default)s")
    options = parser.parse_args(arguments)
    for name, least in (("steps", 1), ("batch_size", 2), ("seeds", 1), ("images", 1)):
        if getattr(options, name) < least:
            parser.error(f"--{name.replace('_', '-')}: got {getattr(options, name)}, expected at least {least}")
    try:
        options.output.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        parser.error(f"--output: got {str(options.output)!r}, expected a folder to write to ({error.strerror})")
    return options


def main(arguments: Sequence[str] | None = None) -> int:
    options = parse(arguments)
    load = os.getloadavg()[0] if hasattr(os, "getloadavg") else 0.0
    commit = commit_of(Path(__file__).resolve().parent.parent)
    names = list(LOSSES) if options.loss == "all" else [options.loss]
    runs: list[dict[str, Any]] = []
    started = time.perf_counter()
    for name in names:
        loss = LOSSES[name]
        for stride in (4, 2):
            for seed in range(options.seeds):
                networks = make_networks(loss, stride, seed)
                for _ in train(networks, loss, stride, options.steps, options.batch_size, seed):
                    pass
                for encoding, network in networks.items():
                    found = evaluate(network, loss, encoding, stride, options.images)
                    runs.append({"loss": name, "map": SIZE // stride, "encoding": encoding, "seed": seed, **found})
                    print(f"{name}, {SIZE // stride} x {SIZE // stride}, {encoding}, seed {seed}: {found}", flush=True)
    record = {
        "schema": report.SCHEMA,
        "datetime": datetime.now(timezone.utc).isoformat(timespec="seconds"),
        "commit": commit,
        "options": {name: getattr(options, name) for name in ("steps", "batch_size", "seeds", "images")},
        "machine": machine(torch.device("cpu"), load),
        "seconds": time.perf_counter() - started,
        "runs": runs,
    }
    record = short_floats(record)
    report.check(record, expected=report.HEATMAP_FIELDS)
    (options.output / "heatmaps.json").write_text(json.dumps(record, indent=1) + "\n", encoding="utf-8")
    print(report.heatmap_table(record))
    print(f"Written to {options.output}: heatmaps.json")
    return 0


if __name__ == "__main__":
    sys.exit(main())
