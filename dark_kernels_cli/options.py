"""Options that several commands have, and the fields of a recipe as options."""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any, Literal, TypeVar, get_args, get_type_hints

import typer

_Function = TypeVar("_Function", bound=Callable[..., Any])

Recipe = Annotated[str, typer.Option("--recipe", metavar="NAME", help="A name from `dark-kernels recipes`.")]
Device = Annotated[
    str | None,
    typer.Option(
        "--device", metavar="DEVICE", help="cpu, cuda, cuda:1, ...; by default cuda if there is one, else cpu."
    ),
]
Backend = Annotated[
    str,
    typer.Option(
        "--backend", metavar="NAME", help="auto, triton, numba, eager or reference; auto takes Triton on a GPU."
    ),
]
BatchSize = Annotated[
    int | None,
    typer.Option("--batch-size", metavar="N", help="Entries decoded at a time; by default about 64 MiB."),
]
Key = Annotated[str | None, typer.Option("--key", metavar="NAME", help="Which array, where IN holds several.")]
Format = Annotated[
    str | None,
    typer.Option(
        "--format",
        metavar="NAME",
        help="npz, npy, csv, parquet, json, coco, hdf5, deeplabcut or sleap; by default that of OUT's extension.",
    ),
]
Covariance = Annotated[bool, typer.Option("--covariance", help="Also write the keypoints' covariances.")]
Json = Annotated[bool, typer.Option("--json", help="Print JSON, for programs.")]
Threshold = Annotated[float, typer.Option("--threshold", metavar="SCORE", help="Draw keypoints with a higher score.")]
Skeleton = Annotated[
    str | None,
    typer.Option(
        "--skeleton",
        metavar="NAME",
        help="coco, coco_wholebody, hand, face, mpii or none; by default that with as many keypoints.",
    ),
]
Image = Annotated[Path | None, typer.Option("--image", metavar="FILE", help="The image to draw on.")]

# Of each field of a recipe its type and what it is. A test holds them together with `dark_kernels.Recipe`.
RECIPE_FIELDS: dict[str, tuple[Any, str]] = {
    "blur": (Literal["opencv", "gaussian", "none"], "Which kernel smooths."),
    "kernel_size": (int, "Of the blur, odd."),
    "sigma": (float, "Of the blur, in pixels."),
    "padding": (Literal["zeros", "reflect", "symmetric"], "Beyond the border of a map."),
    "rescale": (bool, "Scale a smoothed map to its peak before."),
    "clip_min": (float, "Least value whose log is taken."),
    "clip_max": (float, "Largest value whose log is taken."),
    "stencil": (
        Literal["wide", "compact", "fit", "gaussian", "quarter", "quarter_legacy", "none"],
        "How the peak is refined.",
    ),
    "invalid": (float, "Coordinate where there is no peak."),
    "argmax_on": (Literal["raw", "blurred", "matched"], "In which map the peak is searched."),
    "max_offset": (float, "Most pixels that refinement may move."),
    "extra_shift": (float, "Added to both coordinates."),
    "score_scale": (float, "Factor of scores."),
    "score_offset": (float, "Added to scores."),
    "target_sigma": (float, "Of the targets the network was trained on, in pixels."),
    "fit_radius": (int, "Pixels that stencil fit takes, on each axis."),
    "activation": (Literal["none", "sigmoid", "softmax"], "What the maps need, if they are logits."),
    "score": (Literal["peak", "mass"], "What the score is."),
    "score_radius": (int, "Of the window of score mass, in pixels."),
    "blob_sigma": (float, "Of the blobs that recipe matched expects, in pixels."),
}


def with_recipe_fields(function: _Function) -> _Function:
    """The same command with an option for each field of a recipe. Those that were given arrive as `fields`."""
    hints = get_type_hints(function, include_extras=True)
    plain = [
        each.replace(annotation=hints[each.name])
        for each in inspect.signature(function).parameters.values()
        if each.name != "fields"
    ]
    added = []
    for name, (kind, words) in RECIPE_FIELDS.items():
        spelled = name.replace("_", "-")
        flags = f"--{spelled}/--no-{spelled}" if kind is bool else f"--{spelled}"
        # Of names the recipe itself says which there are.
        names = "|".join(get_args(kind)) or None
        option = typer.Option(flags, help=words, metavar=names, show_default=False)
        annotation = Annotated[(str if names else kind) | None, option]  # type: ignore[valid-type]
        added.append(inspect.Parameter(name, inspect.Parameter.KEYWORD_ONLY, default=None, annotation=annotation))

    @functools.wraps(function)
    def command(**arguments: Any) -> Any:
        fields = {name: arguments.pop(name) for name in RECIPE_FIELDS}
        return function(**arguments, fields={name: value for name, value in fields.items() if value is not None})

    parameters = [each.replace(kind=inspect.Parameter.KEYWORD_ONLY) for each in plain] + added
    command.__signature__ = inspect.Signature(parameters)  # type: ignore[attr-defined]
    command.__annotations__ = {each.name: each.annotation for each in parameters}
    return command  # type: ignore[return-value]
