"""Commands of `dark-kernels`. Each command is a function; its docstring is its help."""

from __future__ import annotations

import importlib.metadata
import importlib.resources
import platform
import sys
import textwrap
import time
from pathlib import Path
from typing import Annotated, Any, NoReturn

import numpy as np
import rich.box
import torch
import typer
from rich.console import Console
from rich.markup import escape
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
from rich.table import Table
from typer.core import TyperGroup

from .. import __version__, data, decode
from ..backends import Choice, check_backend, choose
from ..recipes import ALL, ARGMAX, DARKPOSE, Recipe
from ..recipes import get as get_recipe
from . import files
from .files import UserError

_BATCH_BYTES = 64 << 20  # heatmaps decoded at a time unless --batch-size says otherwise
_TABLE_WIDTH = 130  # columns of the recipes' table
_PICTURES = (".png", ".jpg", ".pdf", ".svg")


class _Commands(TyperGroup):
    """Commands whose errors are one line on stderr and exit code 2, those of wrong usage included."""

    def main(self, *args: Any, **options: Any) -> Any:
        if not options.get("standalone_mode", True):
            return super().main(*args, **options)
        options["standalone_mode"] = False  # errors come here as exceptions
        for stream in (sys.stdout, sys.stderr):
            if hasattr(stream, "reconfigure"):  # what an encoding lacks is escaped
                stream.reconfigure(errors="backslashreplace")
        try:
            code = super().main(*args, **options)
        except UserError as error:
            _fail(str(error))
        except (KeyboardInterrupt, typer.Abort):
            raise SystemExit(130) from None
        except OSError as error:  # of stdout: those of files have been told already
            _fail(files.one_line(error))
        except Exception as error:
            if files.is_out_of_memory(error):
                _fail(f"out of memory: {files.one_line(error)}; try a smaller --batch-size")
            # Typer's own usage errors, told by their method: their class moved between its versions.
            if not hasattr(error, "format_message"):
                raise
            _fail(f"{' '.join(error.format_message().split())} (dark-kernels --help tells more)")
        sys.exit(code if isinstance(code, int) else 0)


def _fail(message: str) -> NoReturn:
    print("dark-kernels: error: " + " ".join(message.split()), file=sys.stderr)
    raise SystemExit(2)


app = typer.Typer(
    cls=_Commands,
    name="dark-kernels",
    help="Pose heatmaps to keypoints with sub-pixel coordinates and covariances.",
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
)

RecipeOption = Annotated[str, typer.Option("--recipe", metavar="NAME", help="A name from `dark-kernels recipes`.")]
DeviceOption = Annotated[
    str | None,
    typer.Option(
        "--device", metavar="DEVICE", help="cpu, cuda, cuda:1, ...; by default cuda if there is one, else cpu."
    ),
]
BackendOption = Annotated[
    str,
    typer.Option("--backend", metavar="NAME", help="auto, triton, numba, eager or reference; auto takes the fastest."),
]


def _show_version(value: bool) -> None:
    if value:
        print(f"dark-kernels {__version__}")
        raise typer.Exit


@app.callback()
def dark_kernels(
    version: Annotated[
        bool, typer.Option("--version", callback=_show_version, is_eager=True, help="Show the version and exit.")
    ] = False,
) -> None:
    """Pose heatmaps to keypoints with sub-pixel coordinates and covariances."""


# --------------------------------------------------------------------------------------------------------- demo


@app.command("demo")
def demo(
    output: Annotated[
        Path, typer.Option("--output", "-o", metavar="FILE", help="The picture: .png, .jpg, .pdf or .svg.")
    ] = Path("dark_kernels_demo.png"),
    recipe: RecipeOption = DARKPOSE.name,
    device: DeviceOption = None,
    backend: BackendOption = "auto",
    min_score: Annotated[
        float, typer.Option("--min-score", metavar="PEAK", help="Draw keypoints whose peak is at least this high.")
    ] = 0.45,
    every: Annotated[
        bool, typer.Option("--all", help="Print all eight entries, not only the two in the picture.")
    ] = False,
) -> None:
    """Decode the heatmaps in the package and draw them."""
    files.check_output(output, _PICTURES)
    files.require("matplotlib")
    heatmaps, names, crops = data.load()

    decoder = _Decoder(recipe, device, backend, heatmaps.dtype)
    keypoints = decoder(heatmaps, covariance=decoder.recipe.has_hessian)
    peaks = decoder(heatmaps, covariance=False, recipe=ARGMAX)

    from . import picture

    drawn = ("astronaut_upper", "camera_upper")
    unmirrored = [name for name in names if not name.endswith("_flip")]
    scenes = [
        picture.Scene(
            name,
            crops[unmirrored.index(name)],
            heatmaps[entry].float().numpy(),
            peaks.coords[entry],
            keypoints.coords[entry],
            None if keypoints.covariances is None else keypoints.covariances[entry],
            (peaks.scores[entry] >= min_score) & (peaks.scores[entry] > 0),
        )
        for entry, name in enumerate(names)
        if name in drawn
    ]
    with files.replacing(output) as file:
        picture.draw(scenes, decoder.recipe.name, file, output.suffix.lower().removeprefix("."))

    table = Table(
        title=f"recipe {decoder.recipe.name}, heatmap pixels, sigma = sqrt(trace(covariance) / 2)",
        box=rich.box.SIMPLE_HEAD,
    )
    for column in ("picture", "keypoint", "x", "y", "score", "sigma"):
        table.add_column(column, justify="left" if column in ("picture", "keypoint") else "right", no_wrap=True)
    for entry, name in enumerate(names):
        if not every and name not in drawn:
            continue
        for index, keypoint in enumerate(picture.KEYPOINT_NAMES):
            x, y = keypoints.coords[entry, index]
            table.add_row(
                name if index == 0 else "",
                keypoint,
                f"{x:.2f}",
                f"{y:.2f}",
                f"{keypoints.scores[entry, index]:.3f}",
                _sigma(keypoints.covariances, entry, index),
                end_section=index == len(picture.KEYPOINT_NAMES) - 1,
            )
    _print(table)
    print(f"backend: {decoder.choice.backend} on {decoder.device} ({decoder.choice.reason})")
    print(f"picture: {files.shown(output)}")


def _sigma(covariances: np.ndarray | None, entry: int, index: int) -> str:
    if covariances is None:
        return "-"
    sigma = float(np.sqrt(np.trace(covariances[entry, index]) / 2))
    return "-" if np.isnan(sigma) else f"{sigma:.2f}"


# ------------------------------------------------------------------------------------------------------- decode


@app.command("decode")
def decode_file(
    source: Annotated[
        Path, typer.Argument(metavar="IN", help="Heatmaps [B, K, H, W]: .npy, .npz, .pt or .safetensors.")
    ],
    target: Annotated[Path, typer.Argument(metavar="OUT", help="Keypoints: .npz, .csv or .parquet.")],
    recipe: RecipeOption = DARKPOSE.name,
    covariance: Annotated[bool, typer.Option("--covariance", help="Also write the keypoints' covariances.")] = False,
    device: DeviceOption = None,
    backend: BackendOption = "auto",
    batch_size: Annotated[
        int | None,
        typer.Option("--batch-size", metavar="N", help="Entries decoded at a time; by default about 64 MiB."),
    ] = None,
    key: Annotated[
        str | None, typer.Option("--key", metavar="NAME", help="Which array, where IN holds several.")
    ] = None,
) -> None:
    """Decode a file of heatmaps.

    IN may be larger than memory, except a .npz. OUT has the arrays coords [B, K, 2] and scores [B, K] (.npz), or
    a row for each keypoint: batch, keypoint, x, y, score (.csv, .parquet); with --covariance also the array
    covariances [B, K, 2, 2], or var_x, cov_xy, var_y. Heatmap pixels, pixel centres at integers. What has no value
    is nan. OUT appears when it is complete; an OUT from before stays if anything goes wrong.
    """
    chosen = _recipe(recipe)
    if batch_size is not None and batch_size < 1:
        raise UserError(f"--batch-size: got {batch_size}, expected 1 or more")
    files.check_output(target, tuple(files.WRITERS))
    heatmaps = files.open_heatmaps(source, key)
    files.check_distinct(source, target)
    if len(heatmaps.shape) != 4:
        shape, hint = list(heatmaps.shape), " (those of one image are [1, K, H, W])" if len(heatmaps.shape) == 3 else ""
        raise UserError(f"{files.shown(source)}: got shape {shape}, expected 4 dimensions [B, K, H, W]{hint}")
    decoder = _Decoder(recipe, device, backend, heatmaps.dtype)
    try:
        # decode() judges shape, dtype and recipe; on "meta" it does so without any data.
        decode(torch.empty(heatmaps.shape, dtype=heatmaps.dtype, device="meta"), chosen, covariance)
    except (TypeError, ValueError) as error:
        raise UserError(f"{files.shown(source)}: {error}") from error

    batch, num_keypoints, height, width = heatmaps.shape
    if batch_size is None:
        entry_bytes = num_keypoints * height * width * heatmaps.dtype.itemsize
        batch_size = max(1, _BATCH_BYTES // max(1, entry_bytes))
    started = time.perf_counter()
    with files.replacing(target) as file:
        results = _decode_batches(heatmaps, decoder, covariance, batch_size)
        files.write_results(file, target.suffix, results)
    print(
        f"{files.shown(target)}: {batch} x {num_keypoints} keypoints, recipe {chosen.name}, "
        f"backend {decoder.choice.backend} on {decoder.device} ({decoder.choice.reason}), "
        f"{time.perf_counter() - started:.1f} s"
    )


def _decode_batches(heatmaps: files.HeatmapFile, decoder: _Decoder, covariance: bool, batch_size: int) -> files.Results:
    batch, num_keypoints = heatmaps.shape[:2]
    dtype = np.float64 if heatmaps.dtype == torch.float64 else np.float32
    results = files.Results(
        np.empty((batch, num_keypoints, 2), dtype),
        np.empty((batch, num_keypoints), dtype),
        np.empty((batch, num_keypoints, 2, 2), dtype) if covariance else None,
    )
    console = Console(stderr=True)
    columns = (TextColumn("decoding"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    # Gone when done, and never there where stderr is a file: an error is then the only line.
    with Progress(*columns, console=console, transient=True, disable=not console.is_terminal) as progress:
        task = progress.add_task("", total=batch)
        for start in range(0, batch, batch_size):
            stop = min(start + batch_size, batch)
            part = decoder(heatmaps.read(start, stop), covariance)
            for whole, piece in zip(results, part, strict=True):
                if whole is not None:
                    whole[start:stop] = piece
            progress.advance(task, stop - start)
    return results


# --------------------------------------------------------------------------------------------- info and recipes


@app.command("info")
def info() -> None:
    """Show versions, devices, and which backend serves which device."""
    versions = Table("package", "version", box=rich.box.SIMPLE_HEAD)
    for name, version in (
        ("dark_kernels", __version__),
        ("python", platform.python_version()),
        ("torch", torch.__version__),
        # What Triton's wheel is called depends on who built it.
        ("triton", _version("triton", "pytorch-triton", "pytorch-triton-rocm", "pytorch-triton-xpu", "triton-windows")),
        ("numba", _version("numba")),
        ("numpy", np.__version__),
    ):
        versions.add_row(name, version)
    _print(versions)

    devices = Table("device", "name", "dtype", "backend", "why", box=rich.box.SIMPLE_HEAD)
    for device, name in _devices().items():
        kind = torch.device(device).type
        dtypes_of: dict[Choice, list[str]] = {}  # of decode, which has all backends
        for dtype in (torch.float16, torch.float32, torch.float64):
            dtypes_of.setdefault(choose("auto", kind, dtype, has_loops=True), []).append(
                str(dtype).removeprefix("torch.")
            )
        for choice, dtypes in dtypes_of.items():
            which = "any" if len(dtypes) == 3 else ", ".join(dtypes)
            devices.add_row(device, escape(name), which, choice.backend, escape(choice.reason))
    _print(devices)


@app.command("recipes")
def recipes() -> None:
    """Show the decoders and their fields."""
    console = Console()
    if console.is_terminal and console.width < _TABLE_WIDTH:
        for recipe in ALL:
            name, *fields = [(field, value) for field, value in recipe.summary().items() if value]
            line = f"{name[1]}: {', '.join(f'{field} {value}' for field, value in fields)}"
            print(textwrap.fill(line, console.width, subsequent_indent="    ", break_on_hyphens=False))
        return
    table = Table(box=rich.box.SIMPLE_HEAD, pad_edge=False)
    for column in ALL[0].summary():
        table.add_column(column, no_wrap=True)
    for recipe in ALL:
        table.add_row(*(escape(cell) for cell in recipe.summary().values()))
    # In a file lines are as long as they are: cut names could not be copied.
    Console(width=max(console.width, _TABLE_WIDTH)).print(table, soft_wrap=True)


# ------------------------------------------------------------------------------------------------ what they share


class _Decoder:
    """decode() with the user's recipe, device and backend: CPU tensors in, NumPy arrays out."""

    recipe: Recipe
    device: torch.device
    choice: Choice

    def __init__(self, recipe: str, device: str | None, backend: str, dtype: torch.dtype) -> None:
        self.recipe = _recipe(recipe)
        self.device = _device(device)
        try:
            check_backend(backend)
            self.choice = choose(backend, self.device.type, dtype, has_loops=True)
        except ValueError as error:
            raise UserError(str(error)) from error
        self._backend = backend

    def __call__(self, heatmaps: torch.Tensor, covariance: bool, recipe: Recipe | None = None) -> files.Results:
        on_device = heatmaps.to(self.device)
        try:
            keypoints = decode(on_device, recipe or self.recipe, covariance, self._backend)
        except (TypeError, ValueError) as error:
            raise UserError(str(error)) from error
        return files.Results(*(None if part is None else part.cpu().numpy() for part in keypoints))  # type: ignore[arg-type]


def _recipe(name: str) -> Recipe:
    try:
        return get_recipe(name)
    except ValueError as error:
        raise UserError(str(error)) from error


def _devices() -> dict[str, str]:
    """The devices of this machine and their names."""
    devices = {"cpu": platform.processor() or platform.machine()}
    for kind in ("cuda", "xpu"):
        module = getattr(torch, kind, None)
        if module is not None and module.is_available():
            devices |= {f"{kind}:{index}": module.get_device_name(index) for index in range(module.device_count())}
    if torch.backends.mps.is_available():
        devices["mps"] = "Apple GPU"
    return devices


def _device(name: str | None) -> torch.device:
    devices = _devices()
    if name is None:
        return torch.device("cuda" if "cuda:0" in devices else "cpu")
    for spelling in (name, f"{name}:0"):
        if spelling.lower() in devices:
            return torch.device(spelling.lower())
    raise UserError(f"device: got {name!r}, expected one of {', '.join(devices)}")


def _version(*distributions: str) -> str:
    """Version of the first of these that is installed, from its metadata: nothing is imported."""
    for distribution in distributions:
        try:
            return importlib.metadata.version(distribution)
        except importlib.metadata.PackageNotFoundError:
            continue
    return "not installed"


def _print(table: Table) -> None:
    Console().print(table)
