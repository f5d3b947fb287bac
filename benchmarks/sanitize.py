"""Every kernel on small maps, under compute-sanitizer's memcheck and racecheck where it is installed.

    python -m benchmarks.sanitize --output results

Runs itself once without the sanitizer, which compiles the kernels and checks their numbers, and then under each tool.
Writes what a tool said to `<output>/sanitizer-<tool>.txt`. Exit code 0 also where the sanitizer is not installed: it
says so.
"""

from __future__ import annotations

import argparse
import itertools
import os
import shutil
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

import torch

import dark_kernels
from benchmarks import workloads
from benchmarks.workloads import Workload
from dark_kernels import recipes

TOOLS = ("memcheck", "racecheck")
# With a prime on every axis, so that the last block of everything is cut.
_SMALL = Workload("small", (2, 3, 23, 29), "for the sanitizer")
_SECONDS = 60  # that a tool may take
_FOUND = 9  # exit code for what the sanitizer found


def run_kernels(device: str) -> int:
    """Decode with every recipe, SimCC as well, find peaks, take a step with every loss, suppress, sample and vote.

    Returns how many calls were made.

    Raises:
        AssertionError: A number is not that of the reference.
    """
    calls = 0
    generator = torch.Generator(device=device).manual_seed(0)
    for dtype in (torch.float32, torch.float16):
        calls += _run_simcc(dtype, generator)
    for dtype, memory_format in itertools.product((torch.float32, torch.float16), ("contiguous", "channels_last")):
        heatmaps = workloads.blobs(_SMALL.shape, generator, dtype)
        if memory_format == "channels_last":
            heatmaps = heatmaps.contiguous(memory_format=torch.channels_last)
        for recipe in recipes.ALL:
            got = dark_kernels.decode(heatmaps, recipe, covariance=recipe.has_hessian)
            exact = dark_kernels.decode(heatmaps.double(), recipe, backend="reference")
            single = dark_kernels.decode(heatmaps, recipe, backend="reference")
            # Where a map has no blob, its noise decides and the reference's own float32 is off as well.
            allowed = 1e-3 + 10 * (single.coords - exact.coords).abs()
            assert ((got.coords - exact.coords).abs() <= allowed).all(), f"{recipe.name} {dtype} {memory_format}"
            calls += 1
        calls += _run_soft_argmax(heatmaps)
        calls += _run_find_peaks(heatmaps)
        for channels, distribution in ((1, "gaussian"), (2, "gaussian"), (3, "gaussian"), (1, "laplace")):
            calls += _run_losses(channels, distribution, dtype, memory_format, generator)
        for encoding in ("unbiased", "udp"):
            calls += _run_heatmap_losses(heatmaps, encoding, generator)
    calls += _run_poses(generator)
    if device != "cpu":
        torch.cuda.synchronize()
    return calls


def _run_soft_argmax(heatmaps: torch.Tensor) -> int:
    """Both passes, on maps of many lines a block and on maps wider than a block."""
    for maps in (heatmaps, heatmaps.flatten(1)[:, None, None]):
        maps = maps.detach().requires_grad_()
        exact = maps.detach().double().requires_grad_()
        coords, expected = dark_kernels.soft_argmax(maps, 9.0), dark_kernels.soft_argmax(exact, 9.0, "reference")
        assert ((coords - expected).abs() <= 1e-2).all()
        (gradient,), (wanted,) = (
            torch.autograd.grad(each.sum(), leaf) for each, leaf in ((coords, maps), (expected, exact))
        )
        # A position is good to a rounding of the map's width.
        allowed = (32 + maps.shape[-1]) * torch.finfo(maps.dtype).eps * float(wanted.abs().max())
        assert float((gradient - wanted).abs().max()) <= allowed
    return 2


def _run_simcc(dtype: torch.dtype, generator: torch.Generator) -> int:
    """Axes that are held whole, and axes that are walked along; peaks at an end, and below a clip; logits."""
    calls = 0
    for widths, sigma in itertools.product(((23, 130), (2100, 1)), (0.9, 4.9)):
        axes = [torch.rand((2, 3, width), generator=generator, device=generator.device).to(dtype) for width in widths]
        for scale in (1e-2, 1.0):
            scaled = [axis * scale for axis in axes]
            got = dark_kernels.decode_simcc(*scaled, sigma, True, visibility=True)
            expected = dark_kernels.decode_simcc(*(axis.double() for axis in scaled), sigma, True, visibility=True)
            assert torch.equal(got.scores.double(), expected.scores)
            assert ((got.visibility - expected.visibility).abs() <= 1e-4).all()
            assert got.coords.isfinite().all()
            calls += 1
        options = {"activation": "softmax", "logit_scale": 10.0}
        got = dark_kernels.decode_simcc(*axes, sigma, True, visibility=True, **options)
        expected = dark_kernels.decode_simcc(*(axis.double() for axis in axes), sigma, True, visibility=True, **options)
        assert ((got.scores - expected.scores).abs() <= 1e-5).all()
        assert ((got.visibility - expected.visibility).abs() <= 1e-4).all()
        assert got.coords.isfinite().all()
        calls += 1
    return calls


def _run_find_peaks(heatmaps: torch.Tensor) -> int:
    """Every rule for plateaus, with lists that are full and lists that are not; on the raw and on the smoothed map."""
    raw, smoothed = recipes.MMPOSE_UDP, recipes.MEGVII
    options = (("first", 3, 3, raw), ("all", 100, 5, raw), ("none", 1, 1, raw), ("first", 2, 3, smoothed))
    for plateau, max_peaks, window, recipe in options:
        arguments = (max_peaks, 0.0625, window, recipe, plateau)
        got = dark_kernels.find_peaks(heatmaps, *arguments, covariance=recipe.has_hessian)
        exact = dark_kernels.find_peaks(heatmaps.double(), *arguments, "reference")
        single = dark_kernels.find_peaks(heatmaps, *arguments, "reference")
        assert torch.equal(got.counts, exact.counts)
        assert ((got.scores - exact.scores).abs() <= (0 if recipe is raw else 1e-6)).all()
        allowed = 1e-3 + 10 * (single.coords - exact.coords).abs()
        assert ((got.coords - exact.coords).abs() <= allowed).all(), f"{plateau} {recipe.name} {heatmaps.dtype}"
    return len(options)


def _run_losses(
    channels: int, distribution: str, dtype: torch.dtype, memory_format: str, generator: torch.Generator
) -> int:
    batch, num_keypoints, height, width = _SMALL.shape
    device = generator.device

    def normal(*shape: int) -> torch.Tensor:
        return torch.randn(shape, generator=generator, device=device).to(dtype)

    def maps(num_channels: int) -> torch.Tensor:
        if memory_format == "channels_last":
            drawn = normal(batch, height, width, num_keypoints, num_channels).permute(0, 3, 4, 1, 2)
        else:
            drawn = normal(batch, num_keypoints, num_channels, height, width)
        return drawn.requires_grad_()

    # Some outside of the maps, which must not be read.
    target = torch.rand((batch, num_keypoints, 2), generator=generator, device=device) * 140 - 10
    options = {"coordinates": "offset", "distribution": distribution, "reduction": "sum"}
    features = normal(batch, 19, height, width)
    if memory_format == "channels_last":
        features = features.contiguous(memory_format=torch.channels_last)
    head = normal(num_keypoints * (2 + channels), 19).div(4).requires_grad_()
    bias = normal(num_keypoints * (2 + channels)).requires_grad_()
    for function, tensors in (
        (dark_kernels.gaussian_nll, (maps(2), maps(channels))),
        (dark_kernels.linear_gaussian_nll, (features.requires_grad_(), head, bias)),
    ):
        gradients = torch.autograd.grad(function(*tensors, target, **options), tensors)
        exact = [tensor.detach().double().requires_grad_() for tensor in tensors]
        expected = torch.autograd.grad(function(*exact, target.double(), **options, backend="reference"), exact)
        for got, wanted in zip(gradients, expected, strict=True):
            scale = float(wanted.abs().max()) or 1.0
            assert float((got - wanted).abs().max()) <= 32 * torch.finfo(dtype).eps * scale
    return 2


def _run_poses(generator: torch.Generator) -> int:
    """Images padded and behind each other, of more poses than a block has lanes; samples and their votes."""
    device = generator.device

    def uniform(*shape: int) -> torch.Tensor:
        return torch.rand(shape, generator=generator, device=device)

    poses, scores, areas = uniform(3, 67, 5, 2) * 40, uniform(3, 67), 100 + 400 * uniform(3, 67)
    kappas, flat = (0.1,) * 5, [poses[0], scores[0], areas[0]]
    ids = torch.arange(67, device=device) % 5
    dark_kernels.oks(poses, poses[:, :13], areas, areas[:, :13], kappas)
    for function, tensors, options in (
        (dark_kernels.oks_nms, [poses, scores, areas], {"mask": scores > 0.1}),
        (dark_kernels.oks_nms, flat, {"image_ids": ids}),
        (dark_kernels.soft_oks_nms, [poses, scores, areas], {"method": "gaussian"}),
        (dark_kernels.soft_oks_nms, [poses, scores, areas], {"method": "linear", "visible": poses[..., 0] > 4}),
    ):
        kept = function(*tensors, 0.5, kappas=kappas, **options)
        exact = function(*(tensor.double() for tensor in tensors), 0.5, kappas=kappas, backend="reference", **options)
        assert torch.equal(kept.indices, exact.indices)
    means, covariances = uniform(2, 3, 2) * 20, torch.eye(2, device=device).expand(2, 3, 2, 2)
    samples = dark_kernels.sample_keypoints(means, covariances, 67, 1)
    expected = dark_kernels.sample_keypoints(means.double(), covariances, 67, 1, backend="reference")
    assert float((samples - expected).abs().max()) < 1e-4
    for weights in ({"heatmaps": uniform(2, 3, 23, 29)}, {"bandwidth": 1.0}):
        voted = dark_kernels.vote(samples, **weights)
        exact = dark_kernels.vote(samples.double(), **weights, backend="reference")
        assert float((voted.coords - exact.coords).abs().max()) < 1e-4
    return 8


def _run_heatmap_losses(heatmaps: torch.Tensor, encoding: str, generator: torch.Generator) -> int:
    batch, num_keypoints, *size = heatmaps.shape
    shape = (batch, 2, num_keypoints, 2)
    # Some outside of the maps.
    people = torch.rand(shape, generator=generator, device=heatmaps.device) * 50 - 10
    targets, _ = dark_kernels.encode(people, (size[0], size[1]), encoding=encoding, dtype=heatmaps.dtype)
    expected, _ = dark_kernels.encode(people, (size[0], size[1]), encoding=encoding, backend="reference")
    eps = torch.finfo(heatmaps.dtype).eps
    assert float((targets - expected).abs().max()) <= 32 * eps
    losses = (
        dark_kernels.heatmap_mse, dark_kernels.heatmap_adaptive_wing, dark_kernels.heatmap_focal,
        dark_kernels.heatmap_cross_entropy, dark_kernels.heatmap_js,
    )  # fmt: skip
    for loss in losses:
        maps = heatmaps.detach().clamp(0.05, 0.95).requires_grad_()
        exact = maps.detach().double().requires_grad_()
        gradients = [
            torch.autograd.grad(loss(each, people, encoding=encoding, reduction="sum", backend=backend), each)[0]
            for each, backend in ((maps, "auto"), (exact, "reference"))
        ]
        assert float((gradients[0] - gradients[1]).abs().max()) <= 64 * eps * float(gradients[1].abs().max())
    return 1 + len(losses)


def find_sanitizer() -> str | None:
    """compute-sanitizer on the PATH or where CUDA is usually installed."""
    homes = [os.environ.get("CUDA_HOME"), os.environ.get("CUDA_PATH"), "/usr/local/cuda"]
    folders = [os.environ.get("PATH", ""), *(str(Path(home) / "bin") for home in homes if home)]
    return shutil.which("compute-sanitizer", path=os.pathsep.join(folders))


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.sanitize", description=__doc__.split("\n")[0])
    parser.add_argument("--output", type=Path, default=Path("benchmarks/results"), help="folder for what was said")
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cuda")
    parser.add_argument("--kernels-only", action="store_true", help="run the kernels, in this process, without a tool")
    options = parser.parse_args(arguments)
    if options.device == "cuda" and not torch.cuda.is_available():
        print("benchmarks.sanitize: no CUDA device", file=sys.stderr)
        return 2
    if options.kernels_only:
        print(f"{run_kernels(options.device)} calls, numbers as the reference's")
        return 0

    command = [sys.executable, "-m", "benchmarks.sanitize", "--kernels-only", "--device", options.device]
    root = Path(__file__).resolve().parent.parent
    code = subprocess.run(command, cwd=root, check=False).returncode
    if code:
        print(f"benchmarks.sanitize: the kernels fail without a sanitizer (exit code {code})", file=sys.stderr)
        return code
    sanitizer = find_sanitizer()
    if sanitizer is None:
        print("compute-sanitizer is not installed: memcheck and racecheck not run")
        return 0
    options.output.mkdir(parents=True, exist_ok=True)
    worst = 0
    # Without PyTorch's cache every tensor is an allocation of its own, whose end memcheck knows.
    environment = {**os.environ, "PYTORCH_NO_CUDA_MEMORY_CACHING": "1"}
    for tool in TOOLS:
        prefix = [sanitizer, "--tool", tool, "--error-exitcode", str(_FOUND), "--target-processes", "application-only"]
        path = options.output / f"sanitizer-{tool}.txt"
        try:
            done = subprocess.run(
                [*prefix, *command], cwd=root, env=environment, capture_output=True, text=True, timeout=_SECONDS,
                check=False,
            )  # fmt: skip
        except subprocess.TimeoutExpired:
            said, code = f"not finished after {_SECONDS} s", 0
        else:
            said, code = (done.stdout + done.stderr).strip(), done.returncode
        path.write_text(f"{said}\n", encoding="utf-8")
        last = said.splitlines()[-1] if said else "said nothing"
        print(f"{tool}: exit code {code}; {last}; written to {path}")
        worst = worst or code
    return worst


if __name__ == "__main__":
    sys.exit(main())
