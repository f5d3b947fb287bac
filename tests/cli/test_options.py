"""Options that change what is decoded, the other operations, and what the command says of itself."""

from __future__ import annotations

import dataclasses
import json
import re
import subprocess
import sys
import typing
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import dark_kernels
from dark_kernels import Recipe, data, recipes, transforms
from dark_kernels_cli import app, boxes, options

from .conftest import BATCH, KEYPOINTS, Run, assert_error, assert_results, write_heatmaps

# ------------------------------------------------------------------------------------------- fields of a recipe


def test_options_are_the_fields_of_a_recipe() -> None:
    fields = {field.name for field in dataclasses.fields(Recipe)} - {"name"}
    assert set(options.RECIPE_FIELDS) == fields
    hints = typing.get_type_hints(Recipe)
    for name, (kind, words) in options.RECIPE_FIELDS.items():
        assert kind in (hints[name], *typing.get_args(hints[name])), name
        assert words.endswith(".")


@pytest.mark.parametrize(
    ("words", "fields"),
    [
        (["--max-offset", "0.2"], {"max_offset": 0.2}),
        (["--kernel-size", "5", "--no-rescale"], {"kernel_size": 5, "rescale": False}),
        (["--stencil", "compact", "--clip-min", "0.01"], {"stencil": "compact", "clip_min": 0.01}),
        (["--recipe", "matched", "--blob-sigma", "1.6"], {"blob_sigma": 1.6}),
        (["--activation", "sigmoid", "--score", "mass", "--score-radius", "2"],
         {"activation": "sigmoid", "score": "mass", "score_radius": 2}),
        (["--invalid", "nan"], {"invalid": float("nan")}),
    ],
)  # fmt: skip
def test_fields(
    tmp_path: Path, run: Callable[..., Run], heatmaps: torch.Tensor, words: list[str], fields: dict[str, Any]
) -> None:
    source = write_heatmaps(tmp_path / "in.npy", heatmaps)
    done = run("decode", source, tmp_path / "out.npz", *words)
    assert (done.code, done.err) == (0, "")
    base = recipes.MATCHED if "matched" in words else recipes.DARKPOSE
    expected = dark_kernels.decode(heatmaps, dataclasses.replace(base, **fields))
    assert not torch.equal(expected.coords, dark_kernels.decode(heatmaps, base).coords) or "score" in fields
    assert_results(tmp_path / "out.npz", expected)


@pytest.mark.parametrize(
    ("words", "match"),
    [
        (["--kernel-size", "4"], "--kernel-size: got 4, expected an odd positive int"),
        (["--max-offset", "-1"], "--max-offset: got -1.0, expected a positive finite number"),
        (["--max-offset", "much"], "--max-offset"),
        (["--sigma", "2"], "--sigma: got 2.0, expected None with blur='opencv'"),
        (["--stencil", "narrow"], "--stencil: got 'narrow', expected one of 'wide', 'compact'"),
        (["--stencil", "none", "--covariance"], "covariance: got True with recipe 'darkpose'"),
    ],
)
def test_fields_that_are_wrong(
    tmp_path: Path, run: Callable[..., Run], heatmaps: torch.Tensor, words: list[str], match: str
) -> None:
    source = write_heatmaps(tmp_path / "in.npy", heatmaps)
    assert_error(run("decode", source, tmp_path / "out.csv", *words), tmp_path, source, match=match)


# ------------------------------------------------------------------------------------------- boxes and flip tests


@pytest.mark.parametrize("recipe", [recipe.name for recipe in recipes.ALL])
def test_boxes_take_the_pipeline_of_the_recipe(
    tmp_path: Path, run: Callable[..., Run], heatmaps: torch.Tensor, recipe: str
) -> None:
    rows = torch.tensor([[10.0 * i, 5.0, 60.0, 70.0 + i] for i in range(BATCH)], dtype=torch.float64)
    np.save(tmp_path / "boxes.npy", rows.numpy())
    source, size = write_heatmaps(tmp_path / "in.npy", heatmaps), (11, 13)
    done = run("decode", source, tmp_path / "out.npz", "--boxes", tmp_path / "boxes.npy", "--recipe", recipe)
    assert (done.code, done.err) == (0, "")
    name = {
        "darkpose": "darkpose", "mmpose_udp": "mmpose_udp", "sapiens_hf": "mmpose_udp",
        "mmpose_legacy_udp": "mmpose_legacy_udp", "vitpose_hf": "mmpose_legacy_udp", "quarter_legacy": "mmpose_legacy",
    }.get(recipe, "mmpose")  # fmt: skip
    unit = 1.0 if name.startswith("mmpose") and "legacy" not in name else 200.0
    center, scale = transforms.center_scale_from_boxes(rows, size, unit=unit)
    function = getattr(transforms, name.removesuffix("_udp"))
    matrices = function(center, scale, size, **({"use_udp": True} if name.endswith("_udp") else {}))
    assert_results(
        tmp_path / "out.npz", dark_kernels.decode(heatmaps, recipes.get(recipe), image_transform=matrices.float())
    )
    assert run(
        "decode", source, tmp_path / "other.npz", "--boxes", tmp_path / "boxes.npy", "--recipe", recipe, "--pipeline",
        name, "--box-padding", "1.25", "--box-format", "xywh",
    ).code == 0  # fmt: skip
    assert (tmp_path / "other.npz").read_bytes() == (tmp_path / "out.npz").read_bytes()


def test_boxes_in_every_file(tmp_path: Path) -> None:
    corners = np.array([[1.0, 2.0, 31.0, 42.0], [5.0, 6.0, 25.5, 16.0]])
    np.save(tmp_path / "b.npy", corners)
    (tmp_path / "b.json").write_text(json.dumps(corners.tolist()))
    (tmp_path / "named.csv").write_text("image_id,y1,x1,x2,y2\n3,2,1,31,42\n8,6,5,25.5,16\n")
    (tmp_path / "plain.csv").write_text("1,2,31,42\n5,6,25.5,16\n")
    for name in ("b.npy", "b.json", "named.csv", "plain.csv"):
        found = boxes.read(tmp_path / name, "xyxy")
        np.testing.assert_array_equal(found.boxes, corners)
        assert (found.image_ids is None) == (name != "named.csv")


def test_boxes_that_are_wrong(tmp_path: Path, run: Callable[..., Run], heatmaps: torch.Tensor) -> None:
    source = write_heatmaps(tmp_path / "in.npy", heatmaps)
    np.save(tmp_path / "few.npy", np.ones((2, 4)))
    np.save(tmp_path / "five.npy", np.ones((BATCH, 5)))
    np.save(tmp_path / "good.npy", np.ones((BATCH, 4)))
    (tmp_path / "bad.json").write_text("[{")
    (tmp_path / "other.json").write_text('{"boxes": 3}')
    (tmp_path / "words.csv").write_text("a,b,c,d\n")
    (tmp_path / "boxes.txt").write_text("1 2 3 4")
    here = sorted(tmp_path.iterdir())
    for words, match in (
        (["few.npy"], "--boxes: got 2, expected 5, one for each entry"),
        (["five.npy"], r"got shape \[5, 5\], expected \[B, 4\]"),
        (["bad.json"], "bad.json': holds no boxes, or is damaged"),
        (["other.json"], "other.json': holds no boxes"),
        (["words.csv"], "words.csv': holds no boxes"),
        (["boxes.txt"], "got extension '.txt', expected one of .npy, .csv, .json"),
        (["absent.csv"], "absent.csv': no such file"),
        (["good.npy", "--box-format", "xyz"], "--box-format: got 'xyz', expected one of xywh, xyxy"),
        (["good.npy", "--pipeline", "vitpose"], "--pipeline: got 'vitpose', expected one of darkpose, mmpose"),
        (["good.npy", "--box-padding", "0"], "padding: got 0.0, expected a positive number"),
    ):
        done = run("decode", source, tmp_path / "out.csv", "--boxes", tmp_path / words[0], *words[1:])
        assert_error(done, tmp_path, *here, match=match)


@pytest.mark.parametrize("shift", [False, True])
def test_flipped(tmp_path: Path, run: Callable[..., Run], shift: bool) -> None:
    example = data.load()
    plain, mirrored = example.pairs()
    for name, entries in (("in", plain), ("flipped", mirrored)):
        np.save(tmp_path / f"{name}.npy", example.heatmaps[entries].numpy())
    expected = dark_kernels.decode(
        example.heatmaps[plain], flipped=example.heatmaps[mirrored], flip_indices=data.COCO_FLIP_INDICES,
        shift_flipped=shift,
    )  # fmt: skip
    indices = ",".join(map(str, data.COCO_FLIP_INDICES))
    for words in ([], ["--flip-indices", indices], ["--batch-size", 1]):
        done = run(
            "decode", tmp_path / "in.npy", tmp_path / "out.npz", "--flipped", tmp_path / "flipped.npy",
            *(["--shift-flipped"] if shift else []), *words,
        )  # fmt: skip
        assert (done.code, done.err) == (0, "")
        with np.load(tmp_path / "out.npz") as archive:
            np.testing.assert_allclose(archive["coords"], expected.coords.numpy(), rtol=0, atol=1e-5)


def test_flip_tests_that_are_wrong(tmp_path: Path, run: Callable[..., Run], heatmaps: torch.Tensor) -> None:
    source = write_heatmaps(tmp_path / "in.npy", heatmaps)
    few = write_heatmaps(tmp_path / "few.npy", heatmaps[:2])
    for words, match in (
        (["--flipped", source], "--flip-indices: got none, expected 3 channels of --flipped"),
        (["--flipped", source, "--flip-indices", "0,2"], "--flip-indices: got '0,2', expected 3 channels"),
        (["--flipped", source, "--flip-indices", "0,1,3"], "--flip-indices: got '0,1,3', expected 3 channels, 0 to 2"),
        (["--flipped", source, "--flip-indices", "a,b,c"], "--flip-indices: got 'a,b,c', expected 3 integers"),
        (["--flipped", few, "--flip-indices", "0,1,2"], r"few.npy': got shape \[2, 3, 13, 11\].* expected \[5, 3, 13"),
        (["--flip-indices", "0,1,2"], "--flipped: got none with --flip-indices"),
        (["--shift-flipped"], "--flipped: got none with --flip-indices or --shift-flipped"),
    ):
        done = run("decode", source, tmp_path / "out.csv", *words)
        assert_error(done, tmp_path, source, few, match=match)


# ----------------------------------------------------------------------------------------------- peaks and simcc


def test_peaks(tmp_path: Path, run: Callable[..., Run], heatmaps: torch.Tensor) -> None:
    source = write_heatmaps(tmp_path / "in.npy", heatmaps)
    words = ["--max-peaks", 4, "--threshold", 0.005, "--window", 5, "--covariance", "--batch-size", 2]
    expected = dark_kernels.find_peaks(heatmaps, 4, 0.005, 5, covariance=True).numpy()
    for target in ("out.npz", "out.csv", "out.parquet", "out.json"):
        done = run("peaks", source, tmp_path / target, *words)
        assert (done.code, done.err) == (0, "")
    with np.load(tmp_path / "out.npz") as archive:
        for name, right in expected._asdict().items():
            np.testing.assert_allclose(archive[name], right, rtol=1e-5, err_msg=name)
    lines = (tmp_path / "out.csv").read_text().splitlines()
    assert lines[0] == "batch,keypoint,peak,x,y,score,var_x,cov_xy,var_y"
    assert len(lines) == 1 + expected.counts.sum()
    row = lines[2].split(",")
    batch, keypoint, peak = map(int, row[:3])
    assert float(row[3]) == pytest.approx(float(expected.coords[batch, keypoint, peak, 0]), rel=1e-5)
    assert len(json.loads((tmp_path / "out.json").read_text())) == BATCH


@pytest.mark.parametrize(
    ("words", "match"),
    [
        (["out.csv", "--max-peaks", "0"], "max_peaks: got 0"),
        (["out.csv", "--window", "2"], "window: got 2"),
        (["out.csv", "--plateau", "some"], "plateau: got 'some'"),
        (["out.npy"], "--format: got npy for peaks, expected one of npz, csv"),
        (["out.csv", "--kernel-size", "2"], "--kernel-size: got 2"),
    ],
)
def test_peaks_that_are_wrong(
    tmp_path: Path, run: Callable[..., Run], heatmaps: torch.Tensor, words: list[str], match: str
) -> None:
    source = write_heatmaps(tmp_path / "in.npy", heatmaps)
    assert_error(run("peaks", source, tmp_path / words[0], *words[1:]), tmp_path, source, match=match)


def test_simcc(tmp_path: Path, run: Callable[..., Run]) -> None:
    generator = torch.Generator().manual_seed(0)
    x, y = torch.rand(BATCH, KEYPOINTS, 40, generator=generator), torch.rand(BATCH, KEYPOINTS, 60, generator=generator)
    np.save(tmp_path / "x.npy", x.numpy())
    np.save(tmp_path / "y.npy", y.numpy())
    np.savez(tmp_path / "both.npz", simcc_x=x.numpy(), simcc_y=y.numpy())
    expected = dark_kernels.decode_simcc(x, y, sigma=(4.9, 5.66), dark=True, split_ratio=2.0, visibility=True).numpy()
    words = ["--sigma", "4.9,5.66", "--dark", "--visibility", "--batch-size", 2]
    for sources in (("x.npy", "y.npy"), ("both.npz", "both.npz")):
        done = run("simcc", *(tmp_path / name for name in sources), tmp_path / "out.npz", *words)
        assert (done.code, done.err) == (0, "")
        with np.load(tmp_path / "out.npz") as archive:
            assert set(archive) == {"coords", "scores", "visibility"}
            for name, right in expected._asdict().items():
                np.testing.assert_allclose(archive[name], right, rtol=1e-5, err_msg=name)
    assert run("simcc", tmp_path / "x.npy", tmp_path / "y.npy", tmp_path / "out.csv", *words).code == 0
    assert (tmp_path / "out.csv").read_text().startswith("batch,keypoint,x,y,score,visibility\n")


def test_simcc_that_is_wrong(tmp_path: Path, run: Callable[..., Run]) -> None:
    np.save(tmp_path / "x.npy", np.ones((5, 3, 8), np.float32))
    np.save(tmp_path / "few.npy", np.ones((4, 3, 8), np.float32))
    np.save(tmp_path / "maps.npy", np.ones((5, 3, 8, 8), np.float32))
    here = sorted(tmp_path.iterdir())
    for names, words, match in (
        (("x.npy", "few.npy"), [], "few.npy': got 4 entries, expected 5, as X"),
        (("x.npy", "maps.npy"), [], r"maps.npy': got shape \[5, 3, 8, 8\], expected 3 dimensions"),
        (("x.npy", "x.npy"), [], "--key 'simcc_x', expected none"),
        (("x.npy", "absent.npy"), [], "absent.npy': no such file"),
        (("maps.npy", "x.npy"), ["--dark"], "expected 3 dimensions"),
    ):
        done = run("simcc", *(tmp_path / name for name in names), tmp_path / "out.csv", *words)
        assert_error(done, tmp_path, *here, match=match)
    np.save(tmp_path / "y.npy", np.ones((5, 3, 9), np.float32))
    here = sorted(tmp_path.iterdir())
    for words, match in (
        (["--dark"], "sigma: got None"),
        (["--sigma", "4.9"], "--sigma: got '4.9', expected 2 numbers"),
        (["--score", "best"], "score: got 'best'"),
        (["--split-ratio", "0"], "split_ratio: got 0.0"),
    ):
        done = run("simcc", tmp_path / "x.npy", tmp_path / "y.npy", tmp_path / "out.csv", *words)
        assert_error(done, tmp_path, *here, match=match)


# --------------------------------------------------------------------------------------------- what it says of itself


def test_json_of_info_and_recipes(run: Callable[..., Run]) -> None:
    info = json.loads(run("info", "--json").out)
    assert info["versions"]["dark_kernels"] == dark_kernels.__version__
    assert info["devices"]["cpu"]["float32"]["backend"] == "eager"
    rows = json.loads(run("recipes", "--json").out)
    assert [row["name"] for row in rows] == [recipe.name for recipe in recipes.ALL]
    for row, recipe in zip(rows, recipes.ALL, strict=True):
        infinite = {"clip_max": float("inf")} if row["clip_max"] is None else {}
        assert Recipe(**{**row, **infinite}) == recipe


@pytest.mark.parametrize("words", [[], ["-h"], ["--help"]])
def test_help_without_a_command(run: Callable[..., Run], words: list[str]) -> None:
    done = run(*words)
    assert (done.code, done.err) == (0, "")
    names = ("demo", "decode", "peaks", "simcc", "draw", "info", "recipes", "completion")
    assert all(re.search(rf"^  {name} ", done.out, re.MULTILINE) for name in names)


@pytest.mark.parametrize("command", ["demo", "decode", "peaks", "simcc", "draw", "info", "recipes", "completion"])
def test_help_of_commands(run: Callable[..., Run], command: str) -> None:
    done = run(command, "-h")
    assert (done.code, done.err) == (0, "")
    assert done.out == run(command, "--help").out


def test_help_imports_nothing_that_takes_time() -> None:
    script = (
        "import sys\nfrom dark_kernels_cli import main\n"
        "for words in ([], ['-h'], ['decode', '--help'], ['--version'], ['completion', 'bash']):\n"
        "    try: main(words)\n    except SystemExit as leaving: assert not leaving.code, leaving.code\n"
        "print(sorted({'torch', 'numpy', 'dark_kernels', 'matplotlib'} & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert done.stdout.splitlines()[-1] == "[]"


@pytest.mark.parametrize("shell", ["bash", "zsh"])
def test_completion_names_every_command_and_option(run: Callable[..., Run], shell: str) -> None:
    done = run("completion", shell)
    assert (done.code, done.err) == (0, "")
    for command in ("demo", "decode", "peaks", "simcc", "draw", "info", "recipes"):
        assert command in done.out
    for option in ("--max-offset", "--no-rescale", "--boxes", "--json"):
        assert option in done.out


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        (["dec"], {"decode"}),
        (["decode", "--max"], {"--max-offset"}),
        (["peaks", "in.npy", "--max"], {"--max-offset", "--max-peaks"}),
        (["info", "--j"], {"--json"}),
        (["--ver"], {"--version"}),
    ],
)
def test_completion_in_bash(run: Callable[..., Run], words: list[str], expected: set[str]) -> None:
    script = run("completion", "bash").out
    line = " ".join(["dark-kernels", *words])
    ask = f'COMP_WORDS=({line}); COMP_CWORD={len(words)}; _dark_kernels; printf "%s\\n" "${{COMPREPLY[@]}}"'
    try:
        done = subprocess.run(["bash", "-c", f"{script}\n{ask}"], capture_output=True, text=True, check=True)
    except FileNotFoundError:
        pytest.skip("there is no bash")
    assert set(done.stdout.split()) == expected


def test_completion_of_another_shell(tmp_path: Path, run: Callable[..., Run]) -> None:
    assert_error(run("completion", "fish"), tmp_path, match="SHELL: got 'fish', expected one of bash, zsh")


def test_commands_have_one_help_each() -> None:
    assert len({command.callback.__doc__ for command in app.app.registered_commands if command.callback}) == 8
