"""The command line: right numbers, one-line errors, and no file left behind by a run that fails."""

from __future__ import annotations

import os
import pickle
import re
import signal
import subprocess
import sys
import tracemalloc
from collections.abc import Callable
from importlib import resources
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet
import pytest
import safetensors.torch
import torch
from typer.testing import CliRunner

import dark_kernels
from dark_kernels import recipes
from dark_kernels_cli import app, decoder, decoding, files, main, picture, results, showing

from .conftest import BATCH, KEYPOINTS, Run, assert_error, assert_results, write_heatmaps

# ------------------------------------------------------------------------------------------------ right numbers


@pytest.mark.parametrize("output", [".npz", ".csv", ".parquet"])
@pytest.mark.parametrize("source", [".npy", ".npz", ".pt", ".safetensors"])
def test_values_are_those_of_decode(
    tmp_path: Path, run: Callable[..., Run], heatmaps: torch.Tensor, source: str, output: str
) -> None:
    path = write_heatmaps(tmp_path / f"in{source}", heatmaps)
    target = tmp_path / f"out{output}"
    result = run("decode", path, target, "--covariance", "--batch-size", 2)
    assert (result.code, result.err) == (0, "")
    assert repr(str(target)) in result.out
    assert "backend eager" in result.out
    # Batch by batch, as the command does it: a vectorised sum may round its last bit by its length.
    parts = [dark_kernels.decode(part, covariance=True) for part in heatmaps.split(2)]
    expected = dark_kernels.Keypoints(*(torch.cat(pieces) for pieces in zip(*parts, strict=True)))
    assert expected.covariances is not None
    assert expected.covariances.isnan().any()
    assert not expected.covariances.isnan().all()
    assert_results(target, expected)
    torch.testing.assert_close(expected, dark_kernels.decode(heatmaps, covariance=True), equal_nan=True)


@pytest.mark.parametrize("recipe", ["MMPOSE_UDP", "argmax"])
def test_recipe_and_no_covariance(tmp_path: Path, run: Callable[..., Run], heatmaps: torch.Tensor, recipe: str) -> None:
    path = write_heatmaps(tmp_path / "in.npy", heatmaps)
    for output in (".npz", ".csv", ".parquet"):
        assert run("decode", path, tmp_path / f"out{output}", "--recipe", recipe).code == 0
        assert_results(tmp_path / f"out{output}", dark_kernels.decode(heatmaps, recipes.get(recipe)))


@pytest.mark.parametrize("source", [".pt", ".safetensors"])
def test_bfloat16(tmp_path: Path, run: Callable[..., Run], heatmaps: torch.Tensor, source: str) -> None:
    path = write_heatmaps(tmp_path / f"in{source}", heatmaps.bfloat16())
    assert run("decode", path, tmp_path / "out.npz").code == 0
    assert_results(tmp_path / "out.npz", dark_kernels.decode(heatmaps.bfloat16()))


@pytest.mark.parametrize("dtype", ["<f2", ">f2", ">f4", "<f8", ">f8"])
@pytest.mark.parametrize("order", ["C", "F"])
def test_npy_of_any_float_byte_order_and_layout(
    tmp_path: Path, run: Callable[..., Run], heatmaps: torch.Tensor, dtype: str, order: Any
) -> None:
    array = np.array(heatmaps.numpy(), dtype=dtype, order=order)
    np.save(tmp_path / "in.npy", array)
    assert run("decode", tmp_path / "in.npy", tmp_path / "out.npz").code == 0
    native = np.ascontiguousarray(array).astype(array.dtype.newbyteorder("="))
    assert_results(tmp_path / "out.npz", dark_kernels.decode(torch.from_numpy(native)))


@pytest.mark.parametrize("content", ["tensor", "parameter", "list"])
def test_pt_contents(tmp_path: Path, run: Callable[..., Run], heatmaps: torch.Tensor, content: str) -> None:
    torch.save(
        {"tensor": heatmaps, "parameter": torch.nn.Parameter(heatmaps), "list": [torch.zeros(3), heatmaps]}[content],
        tmp_path / "in.pt",
    )
    assert run("decode", tmp_path / "in.pt", tmp_path / "out.npz").code == 0
    assert_results(tmp_path / "out.npz", dark_kernels.decode(heatmaps))


@pytest.mark.parametrize("source", [".npz", ".pt", ".safetensors"])
def test_key(tmp_path: Path, run: Callable[..., Run], heatmaps: torch.Tensor, source: str) -> None:
    path = tmp_path / f"in{source}"
    both = {"first": heatmaps, "second": heatmaps.flip(-1).contiguous()}
    if source == ".npz":
        np.savez(path, first=both["first"].numpy(), second=both["second"].numpy())
    elif source == ".pt":
        torch.save(both, path)
    else:
        safetensors.torch.save_file(both, path)
    assert run("decode", path, tmp_path / "out.npz", "--key", "second").code == 0
    assert_results(tmp_path / "out.npz", dark_kernels.decode(both["second"]))
    (tmp_path / "out.npz").unlink()
    assert_error(
        run("decode", path, tmp_path / "out.npz"), tmp_path, path, match="2 arrays .* --key among 'first'.*'second'"
    )
    assert_error(
        run("decode", path, tmp_path / "out.npz", "--key", "third"),
        tmp_path,
        path,
        match="'third', .*'first'.*'second'",
    )


@pytest.mark.parametrize("shape", [(0, 3, 8, 8), (2, 0, 8, 8)])
@pytest.mark.parametrize("source", [".npy", ".npz", ".pt", ".safetensors"])
def test_nothing_to_decode(tmp_path: Path, run: Callable[..., Run], source: str, shape: tuple[int, ...]) -> None:
    path = write_heatmaps(tmp_path / f"in{source}", torch.zeros(shape))
    for output in (".npz", ".csv", ".parquet"):
        assert run("decode", path, tmp_path / f"out{output}", "--covariance").code == 0
    with np.load(tmp_path / "out.npz") as archive:
        assert archive["coords"].shape == (*shape[:2], 2)
        assert archive["covariances"].shape == (*shape[:2], 2, 2)
    assert (tmp_path / "out.csv").read_text() == "batch,keypoint,x,y,score,var_x,cov_xy,var_y\n"
    assert pyarrow.parquet.read_table(tmp_path / "out.parquet").num_rows == 0


def test_csv_text(tmp_path: Path, run: Callable[..., Run]) -> None:
    """Shortest text that reads back, `nan` where there is no value, plain line ends."""
    maps = np.zeros((1, 2, 5, 7), np.float32)
    maps[0, 0, 3, 4] = 0.1
    np.save(tmp_path / "in.npy", maps)
    assert run("decode", tmp_path / "in.npy", tmp_path / "out.csv", "--covariance").code == 0
    assert (tmp_path / "out.csv").read_bytes() == (
        b"batch,keypoint,x,y,score,var_x,cov_xy,var_y\n0,0,4.0,3.0,0.1,nan,nan,nan\n0,1,0.0,0.0,0.0,nan,nan,nan\n"
    )


def test_npy_is_mapped_and_converted_a_batch_at_a_time(
    tmp_path: Path, run: Callable[..., Run], monkeypatch: pytest.MonkeyPatch
) -> None:
    path, batch, size = tmp_path / "in.npy", 64, 64 * 17 * 64 * 48 * 2
    np.save(path, np.random.default_rng(0).random((batch, 17, 64, 48), dtype=np.float32).astype(np.float16))
    modes, shapes = [], []
    load, decode = np.load, decoding.decode

    def watched_load(*arguments: Any, **options: Any) -> Any:
        modes.append(options.get("mmap_mode"))
        return load(*arguments, **options)

    def watched_decode(heatmaps: torch.Tensor, **options: Any) -> dark_kernels.Keypoints:
        if heatmaps.device.type != "meta":
            shapes.append(tuple(heatmaps.shape))
        return decode(heatmaps, **options)

    monkeypatch.setattr(np, "load", watched_load)
    monkeypatch.setattr(decoding, "decode", watched_decode)
    tracemalloc.start()  # sees NumPy's memory, so the mapped file's copies
    try:
        assert run("decode", path, tmp_path / "out.npz", "--batch-size", 10).code == 0
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert modes == ["r"]
    assert shapes == [(10, 17, 64, 48)] * 6 + [(4, 17, 64, 48)]
    assert peak < 0.5 * size


def test_reads_are_copies_of_what_was_asked_for(tmp_path: Path, heatmaps: torch.Tensor) -> None:
    for extension in (".npy", ".npz", ".pt", ".safetensors"):
        opened = files.open_heatmaps(write_heatmaps(tmp_path / f"in{extension}", heatmaps), None)
        assert (opened.shape, opened.dtype) == (tuple(heatmaps.shape), torch.float32)
        torch.testing.assert_close(opened.read(1, 3), heatmaps[1:3], rtol=0, atol=0)


def test_default_batch_is_bounded_in_bytes(
    tmp_path: Path, run: Callable[..., Run], heatmaps: torch.Tensor, monkeypatch: pytest.MonkeyPatch
) -> None:
    sizes = []
    monkeypatch.setattr(decoder, "_BATCH_BYTES", 2 * heatmaps[0].nbytes + 1)
    call = decoder.Operation.__call__

    def watched(operation: decoder.Operation, maps: torch.Tensor, **options: Any) -> results.Results:
        sizes.append(len(maps))
        return call(operation, maps, **options)

    monkeypatch.setattr(decoder.Operation, "__call__", watched)
    assert run("decode", write_heatmaps(tmp_path / "in.npy", heatmaps), tmp_path / "out.npz").code == 0
    assert sizes == [2, 2, 1]


# ------------------------------------------------------------------------------------------------------- errors


def test_missing_file_directory_and_extensions(tmp_path: Path, run: Callable[..., Run], heatmaps: torch.Tensor) -> None:
    good = write_heatmaps(tmp_path / "in.npy", heatmaps)
    folder = tmp_path / "folder.npy"
    folder.mkdir()
    other = tmp_path / "in.txt"
    other.write_text("1 2 3")
    here = (good, folder, other)
    out = tmp_path / "out.npz"
    for arguments, match in (
        ((tmp_path / "absent.npy", out), "'.*absent.npy': no such file"),
        ((folder, out), "folder.npy': is a directory"),
        ((other, out), r"got extension '.txt', expected one of .npy, .npz, .pt, .safetensors, .h5"),
        ((tmp_path / "bare", out), r"got extension ''"),
        ((good, tmp_path / "out.xml"), r"got extension '.xml', expected one of .npz, .csv, .parquet, .npy, .json, .h5"),
        ((good, tmp_path / "absent" / "out.npz"), "there is no folder '.*absent'"),
        ((good, folder / "..." / "out.csv"), "there is no folder"),
        ((good, other / "out.csv"), "there is no folder|cannot be written"),
    ):
        assert_error(run("decode", *arguments), tmp_path, *here, match=match)
    (tmp_path / "out.npz").mkdir()
    assert_error(run("decode", good, out), tmp_path, *here, out, match="out.npz': is a directory")


@pytest.mark.parametrize(
    ("options", "match"),
    [
        (["--recipe", "drak"], "recipe: got 'drak', expected one of darkpose, mmpose_dark, .*argmax"),
        (["--device", "gpu"], "device: got 'gpu', expected one of cpu"),
        (["--device", "cuda:99"], "device: got 'cuda:99', expected one of cpu"),
        (["--device", "meta"], "device: got 'meta', expected one of cpu"),
        (["--backend", "fast"], "backend: got 'fast', expected one of 'auto', 'triton', 'numba', 'eager', 'reference'"),
        (["--recipe", "quarter", "--covariance"], "covariance: got True with recipe 'quarter'"),
        (["--key", "heatmaps"], "--key 'heatmaps', expected none"),
        (["--batch-size", "0"], "--batch-size: got 0, expected 1 or more"),
        (["--batch-size", "many"], "--batch-size.*integer"),
        (["--recipe"], "--recipe"),
        (["--colour"], "--colour"),
        (["third"], "out.csv.: got extension '.csv', expected one of .npy"),
    ],
)
def test_options_that_are_wrong(
    tmp_path: Path, run: Callable[..., Run], heatmaps: torch.Tensor, options: list[str], match: str
) -> None:
    path = write_heatmaps(tmp_path / "in.npy", heatmaps)
    assert_error(run("decode", path, tmp_path / "out.csv", *options), tmp_path, path, match=match)


@pytest.mark.skipif("TRITON_INTERPRET" in os.environ, reason="Triton then takes CPU tensors")
def test_triton_on_cpu_is_refused(tmp_path: Path, run: Callable[..., Run], heatmaps: torch.Tensor) -> None:
    path = write_heatmaps(tmp_path / "in.npy", heatmaps)
    result = run("decode", path, tmp_path / "out.csv", "--backend", "triton", "--device", "cpu")
    assert_error(result, tmp_path, path, match="backend: got 'triton'")


@pytest.mark.parametrize("source", [".npy", ".npz", ".pt", ".safetensors"])
def test_shapes_and_dtypes_that_are_wrong(tmp_path: Path, run: Callable[..., Run], source: str) -> None:
    path = tmp_path / f"in{source}"
    for tensor, match in (
        (torch.zeros(3, 8, 8), r"got shape \[3, 8, 8\], expected 4 dimensions \[B, K, H, W\]"),
        (torch.zeros(()), r"got shape \[\], expected 4 dimensions"),
        (torch.zeros(2, 3, 0, 8), r"got shape \[2, 3, 0, 8\], expected H >= 1"),
        (torch.zeros(2, 3, 8, 8, dtype=torch.complex64), r"got dtype \S+, expected .*(float16|F16)"),
        (torch.zeros(2, 3, 8, 8, dtype=torch.bool), r"got dtype \S+, expected .*(float16|F16)"),
    ):
        if source == ".npy":
            np.save(path, tensor.numpy())
        elif source == ".npz":
            np.savez(path, heatmaps=tensor.numpy())
        elif source == ".pt":
            torch.save(tensor, path)
        else:
            safetensors.torch.save_file({"heatmaps": tensor}, path)
        assert_error(run("decode", path, tmp_path / "out.npz"), tmp_path, path, match=match)


class NotPlain:
    """What a pickle may hold and a file of arrays may not; unpickling one would be seen."""

    unpickled = False

    def __reduce__(self) -> tuple[Any, ...]:
        return setattr, (NotPlain, "unpickled", True)


def test_pickles_are_refused_and_never_loaded(tmp_path: Path, run: Callable[..., Run]) -> None:
    array = np.empty((1, 1, 2, 2), dtype=object)
    array[:] = NotPlain()
    np.save(tmp_path / "object.npy", array, allow_pickle=True)
    (tmp_path / "pickle.npy").write_bytes(pickle.dumps(NotPlain()))
    np.savez(tmp_path / "object.npz", heatmaps=array)
    (tmp_path / "pickle.npz").write_bytes(pickle.dumps(NotPlain()))
    torch.save({"heatmaps": torch.zeros(1, 1, 8, 8), "more": NotPlain()}, tmp_path / "object.pt")
    (tmp_path / "pickle.pt").write_bytes(pickle.dumps(NotPlain()))
    torch.save({"model": {"weight": torch.zeros(3)}}, tmp_path / "nested.pt")
    torch.save(3.5, tmp_path / "number.pt")
    torch.save(torch.zeros(1, 1, 8, 8).to_sparse(), tmp_path / "sparse.pt")
    (tmp_path / "pickle.safetensors").write_bytes(pickle.dumps(NotPlain()))
    here = sorted(tmp_path.iterdir())
    for path in here:
        result = run("decode", path, tmp_path / "out.npz")
        assert_error(result, tmp_path, *here, match="plain arrays|damaged|holds a|no array|dense one")
    assert not NotPlain.unpickled


@pytest.mark.parametrize("source", [".npy", ".npz", ".pt", ".safetensors"])
def test_damaged_files(tmp_path: Path, run: Callable[..., Run], heatmaps: torch.Tensor, source: str) -> None:
    path = write_heatmaps(tmp_path / f"in{source}", heatmaps)
    whole = path.read_bytes()
    # All but the last byte, half, into the header, one byte, none, garbage, text.
    contents = [whole[:length] for length in (len(whole) - 1, len(whole) // 2, 70, 9, 1, 0)]
    contents += [os.urandom(500), b"not an array\n" * 50]
    for content in contents:
        path.write_bytes(content)
        assert_error(run("decode", path, tmp_path / "out.csv"), tmp_path, path, match="in.*damaged")


def test_same_file(tmp_path: Path, run: Callable[..., Run], heatmaps: torch.Tensor) -> None:
    path = write_heatmaps(tmp_path / "in.npz", heatmaps)
    before = path.read_bytes()
    link, hard = tmp_path / "link.npz", tmp_path / "hard.npz"
    link.symlink_to(path)
    os.link(path, hard)
    for target in (path, tmp_path / "." / "in.npz", link, hard):
        assert_error(run("decode", path, target), tmp_path, path, link, hard, match="same file")
    assert path.read_bytes() == before


@pytest.mark.parametrize("arguments", [["bogus"], ["decode"], ["decode", "in.npy"], ["--bogus"], ["info", "more"]])
def test_wrong_usage(
    tmp_path: Path, run: Callable[..., Run], monkeypatch: pytest.MonkeyPatch, arguments: list[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    assert_error(run(*arguments), tmp_path, match="--help")
    result = CliRunner().invoke(app.app, arguments)
    assert (result.exit_code, result.output.count("\n")) == (2, 1)


@pytest.mark.parametrize(("extension", "module"), [(".parquet", "pyarrow"), (".safetensors", "safetensors")])
def test_missing_packages_are_named(
    tmp_path: Path,
    run: Callable[..., Run],
    heatmaps: torch.Tensor,
    monkeypatch: pytest.MonkeyPatch,
    extension: str,
    module: str,
) -> None:
    source = write_heatmaps(tmp_path / (f"in{extension}" if module == "safetensors" else "in.npy"), heatmaps)
    target = tmp_path / (f"out{extension}" if module == "pyarrow" else "out.csv")
    for name in [name for name in sys.modules if name.partition(".")[0] == module]:
        monkeypatch.setitem(sys.modules, name, None)
    assert_error(run("decode", source, target), tmp_path, source, match=rf"{module}.*pip install 'dark-kernels\[cli\]'")


# --------------------------------------------------------------------------------------- nothing is left behind


@pytest.mark.parametrize(
    ("raised", "code"),
    [
        (KeyboardInterrupt(), 130),
        (torch.OutOfMemoryError("CUDA out of memory.\nTried to allocate"), 2),
        (MemoryError(), 2),
        (OSError(28, "No space left on device"), 2),
        (ValueError("two\nlines"), 2),
        (signal.SIGTERM, 143),
        (RuntimeError("a bug"), None),
    ],
    ids=lambda value: type(value).__name__,
)
@pytest.mark.parametrize("existing", [False, True])
def test_a_run_that_fails_in_the_middle(
    tmp_path: Path,
    run: Callable[..., Run],
    heatmaps: torch.Tensor,
    monkeypatch: pytest.MonkeyPatch,
    raised: Any,
    code: int | None,
    existing: bool,
) -> None:
    path, target = write_heatmaps(tmp_path / "in.npy", heatmaps), tmp_path / "out.csv"
    if existing:
        target.write_text("from before")
    calls = []
    decode = decoding.decode

    def failing_decode(maps: torch.Tensor, **options: Any) -> dark_kernels.Keypoints:
        calls.append(maps.shape[0])
        if len(calls) == 3:  # the check, the first batch, this
            assert len(list(tmp_path.iterdir())) == 2 + existing, "the output should be in the making"
            if isinstance(raised, signal.Signals):
                os.kill(os.getpid(), raised)
            else:
                raise raised
        return decode(maps, **options)

    monkeypatch.setattr(decoding, "decode", failing_decode)
    handler = signal.getsignal(signal.SIGTERM)
    if code is None:
        with pytest.raises(RuntimeError, match="a bug"):  # a bug is not dressed up as the user's
            main(["decode", str(path), str(target), "--batch-size", "2"])
    else:
        result = run("decode", path, target, "--batch-size", 2)
        assert result.code == code
        assert result.out == ""
        assert len(result.err.strip().splitlines()) == (1 if code == 2 else 0), result.err
    assert len(calls) == 3
    assert sorted(tmp_path.iterdir()) == sorted([path, target] if existing else [path])
    if existing:
        assert target.read_text() == "from before"
    assert signal.getsignal(signal.SIGTERM) is handler


@pytest.mark.parametrize("output", [".npz", ".csv", ".parquet"])
def test_a_write_that_fails(
    tmp_path: Path, run: Callable[..., Run], heatmaps: torch.Tensor, monkeypatch: pytest.MonkeyPatch, output: str
) -> None:
    path, target = write_heatmaps(tmp_path / "in.npy", heatmaps), tmp_path / f"out{output}"
    form = results.FORMATS[output[1:]]

    def failing_write(file: Any, found: results.Results) -> None:
        form.write(file, found)
        raise OSError(28, "No space left on device")

    monkeypatch.setitem(results.FORMATS, output[1:], form._replace(write=failing_write))
    assert_error(run("decode", path, target), tmp_path, path, match="cannot be written: No space left on device")


def test_output_replaces_and_links_stay(tmp_path: Path, run: Callable[..., Run], heatmaps: torch.Tensor) -> None:
    path = write_heatmaps(tmp_path / "in.npy", heatmaps)
    target, link = tmp_path / "out.npz", tmp_path / "link.npz"
    target.write_bytes(b"from before")
    link.symlink_to(target)
    assert run("decode", path, link).code == 0
    assert link.is_symlink()
    assert_results(target, dark_kernels.decode(heatmaps))
    assert sorted(tmp_path.iterdir()) == sorted([path, target, link])
    (tmp_path / "plain").write_bytes(b"")
    assert target.stat().st_mode == (tmp_path / "plain").stat().st_mode


# ----------------------------------------------------------------------------------------- demo, info, recipes


@pytest.fixture(scope="module")
def real_heatmaps() -> dict[str, np.ndarray]:
    with (resources.files("dark_kernels") / "data" / "real_heatmaps.npz").open("rb") as file:
        return dict(np.load(file))


def test_demo(tmp_path: Path, run: Callable[..., Run], real_heatmaps: dict[str, np.ndarray]) -> None:
    target = tmp_path / "picture.png"
    result = run("demo", "--output", target, "--device", "cpu", "--all")
    assert (result.code, result.err) == (0, "")
    assert "backend: eager on cpu (Triton does not run on cpu tensors)" in result.out
    content = target.read_bytes()
    assert content.startswith(b"\x89PNG")
    assert 50_000 < len(content) < 700_000
    assert list(tmp_path.iterdir()) == [target]

    expected = dark_kernels.decode(torch.from_numpy(real_heatmaps["heatmaps"]), covariance=True)
    assert expected.covariances is not None
    sigmas = (expected.covariances.diagonal(dim1=-2, dim2=-1).sum(-1) / 2).sqrt()
    rows = re.findall(r"(\w+ ?\w+) +(-?\d+\.\d\d) +(-?\d+\.\d\d) +(\d\.\d{3}) +(\d+\.\d\d|-)", result.out)
    assert len(rows) == 8 * 17
    for index, (keypoint, x, y, score, sigma) in enumerate(rows):
        entry, joint = divmod(index, 17)
        assert keypoint == picture.KEYPOINT_NAMES[joint]
        assert x == f"{expected.coords[entry, joint, 0]:.2f}"
        assert y == f"{expected.coords[entry, joint, 1]:.2f}"
        assert score == f"{expected.scores[entry, joint]:.3f}"
        assert sigma == ("-" if sigmas[entry, joint].isnan() else f"{sigmas[entry, joint]:.2f}")


@pytest.mark.parametrize("threshold", [0.45, 0.7, 2.0])
def test_demo_lists_what_it_draws(
    tmp_path: Path, run: Callable[..., Run], monkeypatch: pytest.MonkeyPatch, threshold: float
) -> None:
    scenes: list[picture.Scene] = []
    make = picture.make

    def watched(scene: picture.Scene, *arguments: Any) -> None:
        scenes.append(scene)
        make(scene, *arguments)

    monkeypatch.setattr(picture, "make", watched)
    result = run("demo", "-o", tmp_path / "picture.png", "--device", "cpu", "--min-score", threshold)
    assert (result.code, result.err) == (0, "")
    (scene,) = scenes
    listed = re.findall(r"(\w+ ?\w+) +-?\d+\.\d\d +-?\d+\.\d\d +\d\.\d{3} ", result.out)
    drawn = [name for name, is_drawn in zip(picture.KEYPOINT_NAMES, scene.drawn, strict=True) if is_drawn]
    assert listed == drawn
    assert len(drawn) == {0.45: 11, 0.7: 7, 2.0: 0}[threshold]


def test_zooms_of_the_demo_do_not_overlap() -> None:
    places = np.zeros((17, 2))
    places[:, 0] = np.arange(17)
    scene = picture.Scene(
        np.zeros((256, 256, 3), np.uint8), np.zeros((17, 64, 64)), places, places + 0.3, None, np.arange(17) > 0
    )
    assert picture._most_telling(scene) == [1, 8, 15]


def test_demo_without_covariance(tmp_path: Path, run: Callable[..., Run]) -> None:
    result = run("demo", "-o", tmp_path / "picture.svg", "--recipe", "argmax", "--device", "cpu")
    assert (result.code, result.err) == (0, "")
    assert len(re.findall(r"\d\.\d{3} +-", result.out)) == 11
    assert b"<svg" in (tmp_path / "picture.svg").read_bytes()


def test_demo_errors(tmp_path: Path, run: Callable[..., Run], monkeypatch: pytest.MonkeyPatch) -> None:
    for options, match in (
        (["-o", tmp_path / "picture.gif"], "got extension '.gif', expected one of .png"),
        (["-o", tmp_path / "absent" / "picture.png"], "there is no folder"),
        (["-o", tmp_path / "picture.png", "--recipe", "nope"], "recipe: got 'nope'"),
        (["-o", tmp_path / "picture.png", "--device", "nope"], "device: got 'nope'"),
    ):
        assert_error(run("demo", *options), tmp_path, match=match)

    def failing(scene: Any, name: str, file: Any, file_format: str) -> None:
        file.write(b"half a picture")
        raise KeyboardInterrupt

    monkeypatch.setattr(picture, "make", failing)
    assert run("demo", "-o", tmp_path / "picture.png").code == 130
    assert list(tmp_path.iterdir()) == []


def test_picture_puts_pixels_where_they_are() -> None:
    # The four photograph pixels 0 to 3 of a heatmap pixel 0 have their middle at 1.5.
    np.testing.assert_array_equal(
        picture.to_photograph(np.array([[0.0, 0.0], [31.41, 63.0]])), [[1.5, 1.5], [127.14, 253.5]]
    )


def test_info(run: Callable[..., Run]) -> None:
    result = run("info")
    assert (result.code, result.err) == (0, "")
    for name, version in (
        ("dark_kernels", dark_kernels.__version__),
        ("python", sys.version.split()[0]),
        ("torch", torch.__version__),
        ("numpy", np.__version__),
        ("triton", r"(\d+\.\d+\S*|not installed)"),
        ("numba", r"(\d+\.\d+\S*|not installed)"),
    ):
        pattern = version if name in ("triton", "numba") else re.escape(version)
        assert re.search(rf"^ *{name} +{pattern} *$", result.out, re.MULTILINE), name
    assert re.search(r"cpu .* eager +Triton does not run on cpu tensors", result.out)


@pytest.mark.parametrize("width", [70, 200])
def test_recipes(run: Callable[..., Run], monkeypatch: pytest.MonkeyPatch, width: int) -> None:
    monkeypatch.setenv("COLUMNS", str(width))
    result = run("recipes")
    assert (result.code, result.err) == (0, "")
    rows = {line.split()[0]: line for line in result.out.splitlines() if line.split()}
    for recipe in recipes.ALL:
        assert [cell for cell in recipe.summary().values() if cell not in rows[recipe.name]] == []


def test_version_and_help(run: Callable[..., Run]) -> None:
    assert run("--version") == Run(0, f"dark-kernels {dark_kernels.__version__}\n", "")
    result = run("--help")
    assert result.code == 0
    assert all(name in result.out for name in ("demo", "decode", "info", "recipes"))
    assert run("decode", "--help").code == 0


# ------------------------------------------------------------------------------------- in a process of their own


def test_as_a_module_without_triton(tmp_path: Path, heatmaps: torch.Tensor) -> None:
    """What `python -m dark_kernels` does, with nothing of this process in the way and Triton out of reach."""
    arguments = [
        "dark-kernels",
        "decode",
        str(write_heatmaps(tmp_path / "in.npy", heatmaps)),
        str(tmp_path / "out.csv"),
    ]
    script = (
        "import runpy, sys; sys.modules['triton'] = None\n"
        f"sys.argv = {[*arguments, '--device', 'cpu']!r}\n"
        "runpy.run_module('dark_kernels', run_name='__main__')"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (0, "")
    assert_results(tmp_path / "out.csv", dark_kernels.decode(heatmaps))


@pytest.mark.parametrize("missing", ["typer", "rich"])
def test_without_typer_or_rich(missing: str) -> None:
    script = f"import sys; sys.modules[{missing!r}] = None\nfrom dark_kernels.cli import main\nmain(['--help'])"
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=False)
    assert done.returncode == 2
    assert re.fullmatch(rf"dark-kernels: error: .*{missing}.*pip install 'dark-kernels\[cli\]'\n", done.stderr)


def test_a_pipe_is_written_to_and_stays_one(tmp_path: Path, run: Callable[..., Run], heatmaps: torch.Tensor) -> None:
    source, pipe = write_heatmaps(tmp_path / "in.npy", heatmaps), tmp_path / "out.csv"
    os.mkfifo(pipe)
    reader = subprocess.Popen(["cat", str(pipe)], stdout=subprocess.PIPE, text=True)
    assert run("decode", source, pipe).code == 0
    text, _ = reader.communicate(timeout=60)
    assert text.splitlines()[0] == "batch,keypoint,x,y,score"
    assert len(text.splitlines()) == 1 + BATCH * KEYPOINTS
    assert pipe.is_fifo()


@pytest.mark.parametrize("extension", [".npy", ".npz", ".pt", ".safetensors"])
def test_no_memory_is_said_and_no_damage(
    tmp_path: Path,
    run: Callable[..., Run],
    heatmaps: torch.Tensor,
    extension: str,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Whether a file is read, or its maps are decoded."""
    source, target = write_heatmaps(tmp_path / f"in{extension}", heatmaps), tmp_path / "out.csv"

    def fails(*arguments: Any, **options: Any) -> Any:
        raise RuntimeError("[enforce fail] DefaultCPUAllocator: can't allocate memory: you tried to allocate 9 bytes.")

    for place in ("_from_numpy" if extension.startswith(".np") else "_from_tensor", None):
        with monkeypatch.context() as patched:
            if place is None:
                patched.setattr(decoder.Operation, "__call__", fails)
            elif extension == ".safetensors":
                patched.setattr(files, "_pick", fails)
            else:
                patched.setattr(files, place, fails)
            done = run("decode", source, target)
        assert done.code == 2
        assert "out of memory" in done.err
        assert "damaged" not in done.err
        assert len(done.err.splitlines()) == 1
        assert not target.exists()


def test_what_an_encoding_lacks_is_escaped(tmp_path: Path, heatmaps: torch.Tensor) -> None:
    source = write_heatmaps(tmp_path / "in.npy", heatmaps)
    target = tmp_path / "schl\u00fcssel.csv"
    command = [sys.executable, "-m", "dark_kernels", "decode", str(source), str(target)]
    environment = {**os.environ, "PYTHONIOENCODING": "ascii"}
    done = subprocess.run(command, env=environment, capture_output=True, timeout=120)
    assert done.returncode == 0, done.stderr
    assert b"schl\\xfcssel.csv" in done.stdout
    assert target.exists()


def test_recipes_in_a_narrow_terminal(run: Callable[..., Run], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(showing.Console, "is_terminal", True)
    monkeypatch.setenv("COLUMNS", "60")
    done = run("recipes")
    assert done.code == 0
    assert max(map(len, done.out.splitlines())) <= 60
    for recipe in recipes.ALL:
        assert re.search(rf"^{recipe.name}: ", done.out, re.MULTILINE)


def test_maps_of_one_image_in_a_file(tmp_path: Path, run: Callable[..., Run], heatmaps: torch.Tensor) -> None:
    source = write_heatmaps(tmp_path / "in.npy", heatmaps[0])
    done = run("decode", source, tmp_path / "out.csv")
    assert done.code == 2
    assert "[1, K, H, W]" in done.err
    assert "[None]" not in done.err
