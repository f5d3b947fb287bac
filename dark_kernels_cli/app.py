"""Commands of `dark-kernels` and their options. A command's docstring is its help; other modules do the work."""

from __future__ import annotations

import importlib
import importlib.metadata
import sys
from pathlib import Path
from typing import Annotated, Any, NoReturn

import typer
from typer.core import TyperGroup

from . import options
from .errors import UserError, one_line


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
            _fail(one_line(error))
        except Exception as error:
            # Typer's own usage errors, told by their method: their class moved between its versions.
            if hasattr(error, "format_message"):
                _fail(f"{' '.join(error.format_message().split())} (dark-kernels --help tells more)")
            if "torch" in sys.modules and importlib.import_module(f"{__package__}.files").is_out_of_memory(error):
                _fail(f"out of memory: {one_line(error)}; try a smaller --batch-size")
            raise
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
    context_settings={"help_option_names": ["-h", "--help"]},
)


def _run(name: str, /, **arguments: Any) -> None:
    """Call a function of a module of this package, `module.function`."""
    module, _, function = name.partition(".")
    getattr(importlib.import_module(f"{__package__}.{module}"), function)(**arguments)


def _show_version(value: bool) -> None:
    if value:
        print(f"dark-kernels {importlib.metadata.version('dark-kernels')}")
        raise typer.Exit


@app.callback(invoke_without_command=True)
def dark_kernels(
    context: typer.Context,
    version: Annotated[
        bool, typer.Option("--version", callback=_show_version, is_eager=True, help="Show the version and exit.")
    ] = False,
) -> None:
    """Pose heatmaps to keypoints with sub-pixel coordinates and covariances."""
    if context.invoked_subcommand is None:
        print(context.get_help())


@app.command("demo")
def demo(
    output: Annotated[
        Path, typer.Option("--output", "-o", metavar="FILE", help="The picture: .png, .jpg, .pdf or .svg.")
    ] = Path("dark_kernels_demo.png"),
    recipe: options.Recipe = "darkpose",
    device: options.Device = None,
    backend: options.Backend = "auto",
    min_score: Annotated[
        float, typer.Option("--min-score", metavar="PEAK", help="Draw and list keypoints whose peak is higher.")
    ] = 0.45,
    every: Annotated[
        bool, typer.Option("--all", help="List all keypoints of all eight entries, not only those in the picture.")
    ] = False,
) -> None:
    """Decode the heatmaps in the package and draw them."""
    _run("demo.demo", output=output, recipe=recipe, device=device, backend=backend, min_score=min_score, every=every)


@app.command("decode")
@options.with_recipe_fields
def decode(
    sources: Annotated[
        list[Path],
        typer.Argument(
            metavar="IN", help="Heatmaps [B, K, H, W]: .npy, .npz, .pt, .safetensors or .h5; a folder; - for stdin."
        ),
    ],
    target: Annotated[Path, typer.Argument(metavar="OUT", help="A file; of several IN a folder; - for stdout.")],
    fields: dict[str, Any],
    recipe: options.Recipe = "darkpose",
    covariance: options.Covariance = False,
    device: options.Device = None,
    backend: options.Backend = "auto",
    batch_size: options.BatchSize = None,
    key: options.Key = None,
    form: options.Format = None,
    flipped: Annotated[
        Path | None, typer.Option("--flipped", metavar="FILE", help="Maps of the mirrored images, as they came out.")
    ] = None,
    flip_indices: Annotated[
        str | None,
        typer.Option("--flip-indices", metavar="I,J,...", help="Of each keypoint its channel there; COCO's for 17."),
    ] = None,
    shift_flipped: Annotated[
        bool, typer.Option("--shift-flipped", help="Move them a pixel to the right, as mmpose's shift_heatmap.")
    ] = False,
    boxes: Annotated[
        Path | None,
        typer.Option(
            "--boxes", metavar="FILE", help="Box of each entry, .json (COCO), .csv or .npy: coordinates of the image."
        ),
    ] = None,
    box_format: Annotated[str, typer.Option("--box-format", metavar="NAME", help="xywh or xyxy.")] = "xywh",
    box_padding: Annotated[
        float, typer.Option("--box-padding", metavar="FACTOR", help="Size of a crop in sizes of its box.")
    ] = 1.25,
    pipeline: Annotated[
        str | None,
        typer.Option(
            "--pipeline",
            metavar="NAME",
            help="Whose crops: darkpose, mmpose or mmpose_legacy, these also with _udp; by default the recipe's.",
        ),
    ] = None,
    picture: Annotated[
        Path | None, typer.Option("--picture", metavar="FILE", help="Also draw the keypoints, over their heatmaps.")
    ] = None,
    image: options.Image = None,
    threshold: options.Threshold = 0.3,
    skeleton: options.Skeleton = None,
) -> None:
    """Decode files of heatmaps.

    A file of heatmaps may be larger than memory, except a .npz. A file of keypoints has arrays coords [B, K, 2] and
    scores [B, K] (.npz, .h5), [B, K, 3] of x, y, score (.npy), an object for each entry (.json), or a row for each
    keypoint: batch, keypoint, x, y, score (.csv, .parquet); with --covariance also covariances [B, K, 2, 2], or
    var_x, cov_xy, var_y. --format coco writes COCO's results, deeplabcut and sleap the .h5 of these. Heatmap pixels,
    pixel centres at integers, or with --boxes pixels of the image. What has no value is nan. OUT appears when it is
    complete; an OUT from before stays if anything goes wrong. Several IN, or a folder, go into the folder OUT.
    """
    _run(
        "decoding.decode_files", sources=sources, target=target, form=form, recipe=recipe, fields=fields,
        covariance=covariance, device=device, backend=backend, batch_size=batch_size, key=key, flipped=flipped,
        flip_indices=flip_indices, shift_flipped=shift_flipped, boxes=boxes, box_format=box_format,
        box_padding=box_padding, pipeline=pipeline, picture=picture, image=image, threshold=threshold,
        skeleton=skeleton,
    )  # fmt: skip


@app.command("peaks")
@options.with_recipe_fields
def peaks(
    sources: Annotated[list[Path], typer.Argument(metavar="IN", help="Heatmaps, as of `decode`.")],
    target: Annotated[Path, typer.Argument(metavar="OUT", help="A file; of several IN a folder; - for stdout.")],
    fields: dict[str, Any],
    max_peaks: Annotated[int, typer.Option("--max-peaks", metavar="N", help="Of each map, at most 128.")] = 30,
    threshold: Annotated[float, typer.Option("--threshold", metavar="PEAK", help="Peaks have a higher value.")] = 0.1,
    window: Annotated[int, typer.Option("--window", metavar="PIXELS", help="In which a peak is the largest.")] = 3,
    plateau: Annotated[str, typer.Option("--plateau", metavar="NAME", help="Pixels kept: first, all, none.")] = "first",
    recipe: options.Recipe = "darkpose",
    covariance: options.Covariance = False,
    device: options.Device = None,
    backend: options.Backend = "auto",
    batch_size: options.BatchSize = None,
    key: options.Key = None,
    form: options.Format = None,
) -> None:
    """Find several peaks in each map, for bottom-up networks.

    A file of peaks has arrays coords [B, K, P, 2], scores [B, K, P] and counts [B, K] (.npz, .h5), or a row for each
    peak: batch, keypoint, peak, x, y, score (.csv, .parquet).
    """
    _run(
        "decoding.find_peaks_of_files", sources=sources, target=target, form=form, max_peaks=max_peaks,
        threshold=threshold, window=window, plateau=plateau, recipe=recipe, fields=fields, covariance=covariance,
        device=device, backend=backend, batch_size=batch_size, key=key,
    )  # fmt: skip


@app.command("simcc")
def simcc(
    source_x: Annotated[Path, typer.Argument(metavar="X", help="Bins of x, [B, K, Wx]: a file as of `decode`.")],
    source_y: Annotated[Path, typer.Argument(metavar="Y", help="Bins of y, [B, K, Wy]; X again with --key-y.")],
    target: Annotated[Path, typer.Argument(metavar="OUT", help="Keypoints, as of `decode`; - for stdout.")],
    sigma: Annotated[
        str | None, typer.Option("--sigma", metavar="X,Y", help="Of the targets, in bins; for --dark and --visibility.")
    ] = None,
    dark: Annotated[bool, typer.Option("--dark", help="Refine, as mmpose's use_dark.")] = False,
    split_ratio: Annotated[float, typer.Option("--split-ratio", metavar="N", help="Bins to a pixel.")] = 2.0,
    score: Annotated[str, typer.Option("--score", metavar="NAME", help="min (mmpose) or mean (rtmlib).")] = "min",
    visibility: Annotated[bool, typer.Option("--visibility", help="Also write visibilities.")] = False,
    activation: Annotated[str, typer.Option("--activation", metavar="NAME", help="none, softmax, sigmoid.")] = "none",
    logit_scale: Annotated[float, typer.Option("--logit-scale", metavar="N", help="Factor of logits.")] = 1.0,
    device: options.Device = None,
    backend: options.Backend = "auto",
    batch_size: options.BatchSize = None,
    key_x: Annotated[str | None, typer.Option("--key-x", metavar="NAME", help="Which array of X.")] = None,
    key_y: Annotated[str | None, typer.Option("--key-y", metavar="NAME", help="Which array of Y.")] = None,
    form: options.Format = None,
) -> None:
    """Decode SimCC's classifications of the two axes (SimCC, RTMPose)."""
    _run(
        "decoding.decode_simcc_files", source_x=source_x, source_y=source_y, target=target, form=form, sigma=sigma,
        dark=dark, split_ratio=split_ratio, score=score, visibility=visibility, activation=activation,
        logit_scale=logit_scale, device=device, backend=backend, batch_size=batch_size, key_x=key_x, key_y=key_y,
    )  # fmt: skip


@app.command("draw")
def draw(
    image: Annotated[Path, typer.Argument(metavar="IMAGE", help="What Pillow reads: .png, .jpg, ...")],
    keypoints: Annotated[
        Path, typer.Argument(metavar="KEYPOINTS", help="In pixels of the image, as `decode` writes them, or a .h5.")
    ],
    target: Annotated[Path, typer.Argument(metavar="OUT", help="The picture: .png, .jpg, .webp, ...")],
    entry: Annotated[
        list[int] | None, typer.Option("--entry", metavar="N", help="Which entry, from 0; again for more. All else.")
    ] = None,
    image_id: Annotated[
        int | None, typer.Option("--image-id", metavar="ID", help="Entries of this image, of COCO's results.")
    ] = None,
    threshold: options.Threshold = 0.3,
    skeleton: options.Skeleton = None,
    n_sigma: Annotated[float, typer.Option("--n-sigma", metavar="N", help="Size of ellipses.")] = 2.0,
    scores: Annotated[bool, typer.Option("--scores", help="Write scores beside keypoints.")] = False,
) -> None:
    """Draw keypoints onto an image: limbs, ellipses of covariances, scores."""
    _run(
        "drawing.draw_file", image=image, keypoints=keypoints, target=target, entries=entry, image_id=image_id,
        threshold=threshold, skeleton=skeleton, n_sigma=n_sigma, scores=scores,
    )  # fmt: skip


@app.command("info")
def info(as_json: options.Json = False) -> None:
    """Show versions, devices, and which backend serves which device."""
    _run("showing.info", as_json=as_json)


@app.command("recipes")
def recipes(as_json: options.Json = False) -> None:
    """Show the decoders and their fields."""
    _run("showing.recipes", as_json=as_json)


@app.command("completion")
def completion(
    shell: Annotated[str, typer.Argument(metavar="SHELL", help="bash or zsh.")],
) -> None:
    """Print a script that completes commands, options and files: source <(dark-kernels completion bash)."""
    _run("completion.completion", shell=shell, command=typer.main.get_command(app))
