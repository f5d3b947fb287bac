"""Train a small pose network on the CPU in minutes, and see whether its distributions tell the truth.

    python -m examples.train_distribution --output runs/first
    python -m examples.train_distribution --steps 20000 --device cuda

A SimpleBaseline-like network (Xiao et al., ECCV 2018) with a heatmap head and two DARKHeads learns the keypoints of
stick figures (see `stick_figures.py`). On held-out images the same heatmaps are decoded by argmax, quarter offset and
DARK, and both heads say where the keypoints are and how sure they are:

- `target`: trained, as published, in the cell of the annotated keypoint;
- `peak`: trained in the cell of the heatmap's peak, which is where it is read, after a start like the other's.

Writes `results.json` (its content: see `report.py`) and `picture.png`, and prints the tables.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import math
import os
import platform
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from datetime import datetime, timezone
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

if not __package__:  # python examples/train_distribution.py
    sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from benchmarks.run import commit_of
from dark_kernels import Recipe, decode, metrics, recipes
from dark_kernels.nn import DARKHead, TwoStageDecoder, VarianceSchedule
from examples import picture, report, stick_figures
from examples.stick_figures import Conditions, Figures

STRIDE = 4
SIZES = (80, 96, 112)  # of images; a batch has one of them
HEATMAP_SIGMA = 1.5  # heatmap pixels
SHIFT = 0.5  # heatmap pixel p is at (p + SHIFT) * STRIDE input pixels
CHANNELS = 48  # of the features
LOG_VAR_BOUNDS = (-4.0, 8.0)  # standard deviations of 0.14 to 55 pixels
DECODERS: dict[str, Recipe] = {"argmax": recipes.ARGMAX, "quarter": recipes.QUARTER, "dark": recipes.DARKPOSE}
HEADS = ("target", "peak")

VALIDATION_SEED, TEST_SEED = 2**31, 2**31 + 2  # no training seed: --seed is below
_NUM_KEYPOINTS = len(stick_figures.NAMES)


# --- network ---------------------------------------------------------------------------------------------


def convolution(inputs: int, outputs: int, stride: int = 1) -> nn.Sequential:
    """3x3, with a batch norm and a ReLU."""
    return nn.Sequential(
        nn.Conv2d(inputs, outputs, 3, stride, 1, bias=False), nn.BatchNorm2d(outputs), nn.ReLU(inplace=True)
    )


class Residual(nn.Module):
    """ResNet's block of two convolutions, around which its input is added to its output."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.body = nn.Sequential(
            convolution(channels, channels),
            nn.Conv2d(channels, channels, 3, 1, 1, bias=False),
            nn.BatchNorm2d(channels),
        )

    def forward(self, maps: Tensor) -> Tensor:
        return torch.relu(maps + self.body(maps))


class Backbone(nn.Module):
    """Images [B, 3, S, S] to features [B, CHANNELS, S / 4, S / 4]: down to a sixteenth, and up by deconvolutions."""

    def __init__(self) -> None:
        super().__init__()
        self.to_4 = nn.Sequential(convolution(3, 16, 2), convolution(16, 32, 2), Residual(32))
        self.to_8 = nn.Sequential(convolution(32, 64, 2), Residual(64))
        self.to_16 = nn.Sequential(convolution(64, 96, 2), Residual(96), Residual(96))
        self.from_16 = nn.ConvTranspose2d(96, 64, 4, 2, 1)
        self.at_8 = Residual(64)
        self.from_8 = nn.ConvTranspose2d(64, CHANNELS, 4, 2, 1)
        self.across_4 = nn.Conv2d(32, CHANNELS, 1)
        self.at_4 = Residual(CHANNELS)

    def forward(self, images: Tensor) -> Tensor:
        at_4 = self.to_4(images - 0.5)
        at_8 = self.to_8(at_4)
        at_8 = self.at_8(torch.relu(self.from_16(self.to_16(at_8)) + at_8))
        return self.at_4(torch.relu(self.from_8(at_8) + self.across_4(at_4)))


class Network(nn.Module):
    """The backbone and three heads. `decoders[name]` reads the head of that name where the heatmaps have a peak."""

    def __init__(self) -> None:
        super().__init__()
        self.backbone = Backbone()
        self.heatmap_head = nn.Conv2d(CHANNELS, _NUM_KEYPOINTS, 1)
        self.decoders = nn.ModuleDict(
            {
                name: TwoStageDecoder(
                    self.heatmap_head,
                    DARKHead(
                        CHANNELS,
                        _NUM_KEYPOINTS,
                        covariance="full",
                        stride=STRIDE,
                        coordinates="offset",
                        log_var_bounds=LOG_VAR_BOUNDS,
                    ),
                    heatmap_shift=SHIFT,
                )
                for name in HEADS
            }
        )


def target_heatmaps(figures: Figures) -> Tensor:
    """Gaussians at the annotated places, zeros where there is none: [B, K, S / 4, S / 4]."""
    pixels = torch.arange(figures.images.shape[-1] // STRIDE, device=figures.images.device)
    center = figures.keypoints / STRIDE - SHIFT
    rows, columns = (torch.exp(-((pixels - center[..., axis, None]) ** 2) / (2 * HEATMAP_SIGMA**2)) for axis in (1, 0))
    return rows[..., :, None] * columns[..., None, :] * figures.visible[..., None, None]


# --- training --------------------------------------------------------------------------------------------


class Losses(NamedTuple):
    """Losses of one step."""

    heatmap: float
    target: float
    peak: float


def train(
    network: Network,
    steps: int,
    batch_size: int,
    seed: int,
    conditions: Conditions,
    device: torch.device,
    learning_rate: float = 2e-3,
    fixed_share: float = 0.3,
    nll_weight: float = 1.0,
    fixed_log_var: float = 0.0,
) -> Iterator[Losses]:
    """Train in place, one step for each item.

    For the first `fixed_share` of the steps the variance is fixed, and both heads are read in the cells of the
    targets; then the variances are learned, and the head `peak` is read at the peaks.
    """
    generator = torch.Generator().manual_seed(seed)
    optimizer = torch.optim.AdamW(network.parameters(), lr=learning_rate, weight_decay=1e-4)
    rate = torch.optim.lr_scheduler.OneCycleLR(optimizer, learning_rate, total_steps=max(steps, 2), pct_start=0.15)
    variance = VarianceSchedule(fixed_log_var=fixed_log_var, steps=int(steps * fixed_share))
    network.train()
    for _ in range(steps):
        size = SIZES[int(torch.randint(len(SIZES), (), generator=generator))]
        figures = stick_figures.draw(batch_size, size, generator, conditions, device)
        features = network.backbone(figures.images.contiguous(memory_format=torch.channels_last))
        heatmaps = network.heatmap_head(features)
        weight = figures.visible[..., None, None]
        squares = (weight * (heatmaps - target_heatmaps(figures)) ** 2).sum((2, 3))
        heatmap_loss = squares.sum() / figures.visible.sum()
        fixed = variance()
        head_losses = {}
        for name, decoder in network.decoders.items():
            if name == "peak" and fixed is None:
                head_losses[name] = decoder.loss(
                    features, figures.keypoints, heatmaps, figures.visible, reduction="mean_valid"
                )
            else:
                head_losses[name] = decoder.distribution_head.loss(
                    features, figures.keypoints, figures.visible, fixed_log_var=fixed, reduction="mean_valid"
                )
        loss = heatmap_loss + nll_weight * sum(head_losses.values())
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        nn.utils.clip_grad_norm_(network.parameters(), 5.0)
        optimizer.step()
        rate.step()
        variance.step()
        yield Losses(*torch.stack([heatmap_loss, *head_losses.values()]).tolist())


# --- held-out images -------------------------------------------------------------------------------------


class HeldOut(NamedTuple):
    """Results for the annotated keypoints of held-out images, N of them.

    Attributes:
        figures: The last batch, for the picture.
        keypoints: [N, 2], annotated, in input pixels.
        occluded, blurred: bool [N].
        height: [N], of the keypoint's figure.
        scores: [N], of the heatmaps' peaks.
        coords: name -> [N, 2]: of each decoder and of each head.
        covariances: name of the head -> [N, 2, 2].
    """

    figures: Figures
    keypoints: Tensor
    occluded: Tensor
    blurred: Tensor
    height: Tensor
    scores: Tensor
    coords: dict[str, Tensor]
    covariances: dict[str, Tensor]


@torch.no_grad()
def predict(network: Network, images: Tensor) -> tuple[dict[str, Tensor], dict[str, Tensor], Tensor]:
    """Coordinates of each decoder and head in input pixels, covariances of each head, scores."""
    features = network.backbone(images.contiguous(memory_format=torch.channels_last))
    heatmaps = network.heatmap_head(features)
    coords, covariances = {}, {}
    for name, recipe in DECODERS.items():
        coords[name] = (decode(heatmaps, recipe).coords + SHIFT) * STRIDE
    for name, decoder in network.decoders.items():
        coords[name], scores, covariances[name] = decoder(features)
    return coords, covariances, scores


def evaluate(
    network: Network, count: int, seed: int, conditions: Conditions, device: torch.device, batch_size: int = 64
) -> HeldOut:
    """Draw `count` images of all sizes that training has not seen, and look at them."""
    generator = torch.Generator().manual_seed(seed)
    network.eval()
    columns: dict[str, list[Tensor]] = {}
    for i, start in enumerate(range(0, count, batch_size)):
        batch = min(batch_size, count - start)
        figures = stick_figures.draw(batch, SIZES[i % len(SIZES)], generator, conditions, device)
        coords, covariances, scores = predict(network, figures.images)
        found = {
            "keypoints": figures.keypoints, "occluded": figures.occluded, "blurred": figures.blurred,
            "height": figures.height[:, None].expand(scores.shape), "scores": scores,
            **{f"coords {name}": values for name, values in coords.items()},
            **{f"covariances {name}": values for name, values in covariances.items()},
        }  # fmt: skip
        for name, values in found.items():
            columns.setdefault(name, []).append(values[figures.visible].cpu())
    table = {name: torch.cat(values) for name, values in columns.items()}
    return HeldOut(
        figures,
        *(table[name] for name in ("keypoints", "occluded", "blurred", "height", "scores")),
        {name: table[f"coords {name}"] for name in (*DECODERS, *HEADS)},
        {name: table[f"covariances {name}"] for name in HEADS},
    )


def groups_of(held_out: HeldOut) -> dict[str, Tensor]:
    """Masks of the groups: bool [N] each."""
    hard = held_out.occluded | held_out.blurred
    return dict(zip(report.GROUPS, (torch.ones_like(hard), ~hard, held_out.occluded, held_out.blurred), strict=True))


def summarize(validation: HeldOut, test: HeldOut) -> dict[str, Any]:
    """The fields `held_out` (but for the images), `places`, `distributions` and `peak_score` of `report.py`."""
    groups = groups_of(test)
    errors = {name: metrics.distances(coords, test.keypoints) for name, coords in test.coords.items()}

    def by_group(measure: Callable[[Tensor], float], least: int = 1) -> dict[str, float | None]:
        values = {name: measure(chosen) if chosen.sum() >= least else None for name, chosen in groups.items()}
        return {name: None if value is None else _finite(value) for name, value in values.items()}

    places, distributions = {}, {}
    for name, error in errors.items():
        found = error.isfinite()
        places[name] = {
            "mean_error": by_group(lambda chosen, e=error, f=found: float(e[chosen & f].mean())),
            "median_error": _finite(float(error.median())),
            "pck": {p: float((error < float(p) / 100 * test.height).double().mean()) for p in report.PCK},
        }
    for name, covariances in test.covariances.items():
        coords, sigma = test.coords[name], metrics.sigmas(covariances)

        def of(chosen: Tensor, m: Tensor = coords, c: Tensor = covariances) -> tuple[Tensor, Tensor, Tensor]:
            return m[chosen], c[chosen], test.keypoints[chosen]

        # The scale of all covariances that makes the annotations of the validation images most likely.
        on_validation = metrics.squared_distances(
            validation.coords[name], validation.covariances[name], validation.keypoints
        )
        scale = float(on_validation[on_validation.isfinite()].mean() / 2)
        distributions[name] = {
            "rank_correlation": by_group(
                lambda chosen, s=sigma, e=errors[name]: float(metrics.rank_correlation(s[chosen], e[chosen])), least=3
            ),
            "mean_sigma": by_group(lambda chosen, c=covariances: float(metrics.sharpness(c[chosen]))),
            "coverage": {group: _coverage(*of(chosen)) if chosen.any() else None for group, chosen in groups.items()},
            "calibration_error": by_group(lambda chosen, o=of: float(metrics.calibration_error(*o(chosen)).mean())),
            "nll": by_group(lambda chosen, o=of: float(metrics.negative_log_likelihood(*o(chosen)))),
            "scale": scale,
            "coverage_scaled": _coverage(coords, covariances * scale, test.keypoints),
        }
    return {
        "places": places,
        "distributions": distributions,
        "peak_score": {
            "rank_correlation": by_group(
                lambda chosen: float(metrics.rank_correlation(-test.scores[chosen], errors["dark"][chosen])), least=3
            )
        },
    }


def _coverage(coords: Tensor, covariances: Tensor, keypoints: Tensor) -> dict[str, float]:
    levels = [int(level) / 100 for level in report.LEVELS]
    return dict(zip(report.LEVELS, metrics.coverage(coords, covariances, keypoints, levels).tolist(), strict=True))


def _finite(value: float) -> float | None:
    """JSON has no NaN."""
    return value if math.isfinite(value) else None


def draw_picture(path: Path, network: Network, test: HeldOut) -> None:
    """See `picture.draw`."""
    coords, covariances, _ = predict(network, test.figures.images)
    picture.draw(
        path,
        test.figures,
        coords,
        covariances,
        {name: metrics.distances(found, test.keypoints) for name, found in test.coords.items()},
        {name: metrics.sigmas(found) for name, found in test.covariances.items()},
        {
            name: metrics.squared_distances(test.coords[name], found, test.keypoints)
            for name, found in test.covariances.items()
        },
        groups_of(test),
    )


# --- command ---------------------------------------------------------------------------------------------


def parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m examples.train_distribution", description=__doc__.split("\n")[0], allow_abbrev=False
    )
    parser.add_argument("--steps", type=int, default=3000, help="of training; default: %(default)s")
    parser.add_argument("--batch-size", type=int, default=32, help="default: %(default)s")
    parser.add_argument("--seed", type=int, default=0, help="default: %(default)s")
    parser.add_argument("--device", default="cpu", help="cpu, cuda, cuda:1, ...; default: %(default)s")
    parser.add_argument(
        "--output", type=Path, default=Path("train_distribution"), help="folder; default: ./%(default)s"
    )
    parser.add_argument("--images", type=int, default=1024, help="held out for each split; default: %(default)s")
    parser.add_argument("--no-occlusion", action="store_true", help="nothing stands in front of the figures")
    parser.add_argument("--no-blur", action="store_true", help="the camera does not move")
    parser.add_argument("--no-augment", action="store_true", help="upright figures of one size")
    options = parser.parse_args(arguments)
    for name in ("steps", "batch_size", "images"):
        value = getattr(options, name)
        # A batch of one has no variance for its batch norms.
        least = 2 if name == "batch_size" else 1
        if value < least:
            parser.error(f"--{name.replace('_', '-')}: got {value}, expected at least {least}")
    if not 0 <= options.seed < VALIDATION_SEED:
        parser.error(f"--seed: got {options.seed}, expected 0 to {VALIDATION_SEED - 1}")
    try:
        options.device = torch.device(options.device)
        (torch.zeros(1, device=options.device) + 1).item()
    except (RuntimeError, AssertionError, NotImplementedError) as error:
        reason = str(error).strip().split("\n")[0]
        parser.error(f"--device: got {str(options.device)!r}, expected one that is here, such as cpu ({reason})")
    try:
        options.output.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        parser.error(f"--output: got {str(options.output)!r}, expected a folder to write to ({error.strerror})")
    return options


def machine(device: torch.device, load: float) -> dict[str, Any]:
    """Describe the machine, without a host name: results are published."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    name = torch.cuda.get_device_name(device) if device.type == "cuda" else f"{_cpu_name()}, {cores} cores"
    return {
        "device": device.type,
        "device_name": name,
        "cores": cores,
        "threads": torch.get_num_threads(),
        "load": load,
        "python": platform.python_version(),
        "torch": torch.__version__,
    }


def _cpu_name() -> str:
    try:
        with open("/proc/cpuinfo", encoding="utf-8") as lines:
            names = [line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")]
    except OSError:
        names = []
    return names[0] if names else platform.processor() or platform.machine()


def main(arguments: Sequence[str] | None = None) -> int:
    options = parse(arguments)
    try:
        import matplotlib  # noqa: F401
        from rich.console import Console
        from rich.markdown import Markdown
        from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
    except ModuleNotFoundError as error:
        print(f"train_distribution: needs {error.name}: pip install 'dark-kernels[cli]'", file=sys.stderr)
        return 2
    console = Console()
    load = os.getloadavg()[0] if hasattr(os, "getloadavg") else 0.0
    commit = commit_of(Path(__file__).resolve().parent.parent)
    conditions = Conditions(not options.no_occlusion, not options.no_blur, not options.no_augment)

    torch.manual_seed(options.seed)
    network = Network().to(options.device, memory_format=torch.channels_last)
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    losses: list[list[float]] = []
    every = max(1, options.steps // 100)
    recent: list[Losses] = []
    started = time.perf_counter()
    with Progress(*columns, console=console) as progress:
        task = progress.add_task("training", total=options.steps)
        steps = train(network, options.steps, options.batch_size, options.seed, conditions, options.device)
        for step, loss in enumerate(steps, 1):
            recent.append(loss)
            if step % every == 0 or step == options.steps:
                means = [sum(column) / len(recent) for column in zip(*recent, strict=True)]
                losses.append([step, *means])
                recent = []
                words = ", ".join(f"{name} {mean:.2f}" for name, mean in zip(Losses._fields, means, strict=True))
                progress.update(task, description=f"training ({words})")
            progress.advance(task)
    trained = time.perf_counter()
    validation, test = (
        evaluate(network, options.images, seed, conditions, options.device) for seed in (VALIDATION_SEED, TEST_SEED)
    )
    record: dict[str, Any] = {
        "schema": report.SCHEMA,
        "datetime": datetime.now(timezone.utc).isoformat(timespec="seconds"),
        "commit": commit,
        "options": {
            "steps": options.steps,
            "batch_size": options.batch_size,
            "seed": options.seed,
            **dataclasses.asdict(conditions),
        },
        "machine": machine(options.device, load),
        "seconds": {"training": trained - started, "evaluation": time.perf_counter() - trained},
        "held_out": {
            "validation_images": options.images,
            "test_images": options.images,
            "keypoints": {name: int(chosen.sum()) for name, chosen in groups_of(test).items()},
        },
        **summarize(validation, test),
        "losses": losses,
    }
    record = short_floats(record)
    report.check(record)
    (options.output / "results.json").write_text(json.dumps(record, indent=1) + "\n", encoding="utf-8")
    draw_picture(options.output / "picture.png", network, test)
    tables = report.tables(record)
    if console.is_terminal:
        console.print(Markdown(tables))
    else:  # which would be cut to 80 columns
        print(tables)
    console.print(f"Written to {options.output}: results.json, picture.png", markup=False, highlight=False)
    return 0


def short_floats(value: Any) -> Any:
    """Five digits of every float."""
    if isinstance(value, float):
        return float(f"{value:.5g}")
    if isinstance(value, dict):
        return {name: short_floats(each) for name, each in value.items()}
    return [short_floats(each) for each in value] if isinstance(value, list) else value


if __name__ == "__main__":
    sys.exit(main())
