"""Heatmaps out of files and keypoints into files."""

from __future__ import annotations

import importlib
import io
import os
import pickle
import secrets
import signal
import warnings
import zipfile
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from types import FrameType
from typing import Any, BinaryIO, NamedTuple, NoReturn

import numpy as np
import torch
from torch import Tensor

_TORCH_DTYPES = {
    np.dtype(np.float16): torch.float16,
    np.dtype(np.float32): torch.float32,
    np.dtype(np.float64): torch.float64,
}
_SAFETENSORS_DTYPES = {"F16": torch.float16, "BF16": torch.bfloat16, "F32": torch.float32, "F64": torch.float64}
_CSV_ROWS = 1 << 16  # rows turned into text at a time


class UserError(Exception):
    """Something that the user can put right. Its text is one line, and no traceback goes with it."""


class HeatmapFile(NamedTuple):
    """An array in a file, of which a part can be read.

    Attributes:
        shape: Of the whole array; any rank, it is not this file's business to judge it.
        dtype: One that decode() takes.
        read: read(start, stop) is entries start to stop of the first dimension, a CPU tensor.
    """

    shape: tuple[int, ...]
    dtype: torch.dtype
    read: Callable[[int, int], Tensor]


class Results(NamedTuple):
    """Keypoints of a whole file: coords [B, K, 2], scores [B, K], covariances [B, K, 2, 2] or None."""

    coords: np.ndarray
    scores: np.ndarray
    covariances: np.ndarray | None


def require(module: str) -> Any:
    """Import a module of the `cli` extra.

    Raises:
        UserError: It is not installed.
    """
    try:
        return importlib.import_module(module)
    except ImportError as error:
        raise UserError(f"{module} is needed here: pip install 'dark-kernels[cli]' ({one_line(error)})") from error


def is_out_of_memory(error: BaseException) -> bool:
    """True of what NumPy and PyTorch raise where there is no memory. On a CPU that of PyTorch is of no class of its
    own, and only its text tells."""
    is_told = isinstance(error, RuntimeError) and "DefaultCPUAllocator" in str(error)
    return is_told or isinstance(error, (MemoryError, torch.OutOfMemoryError))


def one_line(error: BaseException | str) -> str:
    """The first sentence or so of a message, on one line."""
    text = " ".join((str(error).strip() or type(error).__name__).splitlines()[0].split())
    return text if len(text) <= 300 else text[:297] + "..."


def shown(path: Path) -> str:
    """A path for messages: quoted, so that spaces, line breaks and undecodable bytes can be seen."""
    return repr(str(path))


# ---------------------------------------------------------------------------------------------------- reading


def open_heatmaps(path: Path, key: str | None) -> HeatmapFile:
    """Open the heatmaps in a .npy, .npz, .pt or .safetensors file.

    Args:
        path: The file. A .npz is loaded; the others are memory-mapped or read a part at a time, so they may
            be larger than memory (a .pt in PyTorch's format from before 1.6 is loaded, too).
        key: Which of several arrays; None takes the only one, or the only one with four dimensions.

    Raises:
        UserError: There is no such file, it cannot be read, or it does not say which array is meant.
    """
    reader = _READERS.get(path.suffix.lower())
    if reader is None:
        raise UserError(f"{shown(path)}: got extension {path.suffix!r}, expected one of {', '.join(_READERS)}")
    try:
        if path.is_dir():
            raise UserError(f"{shown(path)}: is a directory, expected a file")
        if not path.exists():
            raise UserError(f"{shown(path)}: no such file")
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            return reader(path, key)
    except (UserError, MemoryError):
        raise
    except OSError as error:
        raise UserError(f"{shown(path)}: cannot be read: {one_line(error.strerror or error)}") from error
    except Exception as error:  # what parsers raise on damaged files can't be listed
        if is_out_of_memory(error):
            raise
        raise UserError(
            f"{shown(path)}: not a {path.suffix.lower()} file of plain arrays, or damaged: {one_line(error)}"
        ) from error


def _open_npy(path: Path, key: str | None) -> HeatmapFile:
    _refuse_key(path, key)
    with path.open("rb") as file:
        if not file.read(6) == b"\x93NUMPY":
            raise UserError(f"{shown(path)}: not a .npy file, or damaged: it does not start with NumPy's mark")
    array = np.load(path, mmap_mode="r", allow_pickle=False)
    return _from_numpy(path, array)


def _open_npz(path: Path, key: str | None) -> HeatmapFile:
    with zipfile.ZipFile(path) as archive:
        members = {name.removesuffix(".npy"): name for name in archive.namelist() if name.endswith(".npy")}
        shapes = {}
        for name, member in members.items():
            with archive.open(member) as file:
                shapes[name] = _npy_shape(file)
        with archive.open(members[_pick(path, key, shapes)]) as file:
            return _from_numpy(path, np.lib.format.read_array(file, allow_pickle=False))


def _npy_shape(file: Any) -> tuple[int, ...]:
    version = np.lib.format.read_magic(file)
    read_header = np.lib.format.read_array_header_1_0 if version == (1, 0) else np.lib.format.read_array_header_2_0
    return tuple(read_header(file)[0])


def _from_numpy(path: Path, array: np.ndarray) -> HeatmapFile:
    native = array.dtype.newbyteorder("=")
    dtype = _TORCH_DTYPES.get(native)
    if dtype is None:
        raise UserError(f"{shown(path)}: got dtype {array.dtype}, expected float16, float32 or float64")

    def read(start: int, stop: int) -> Tensor:
        return torch.from_numpy(np.array(array[start:stop], dtype=native, order="C"))

    return HeatmapFile(array.shape, dtype, read)


def _open_pt(path: Path, key: str | None) -> HeatmapFile:
    is_archive = zipfile.is_zipfile(path)
    with path.open("rb") as file:
        if not is_archive and file.read(2) == b"PK":
            raise UserError(f"{shown(path)}: damaged: it begins as an archive whose end is missing")
    try:
        # Mapped where the format allows it, so that only what is decoded is read.
        content = torch.load(os.fspath(path), map_location="cpu", weights_only=True, mmap=is_archive)
    except (pickle.UnpicklingError, RuntimeError) as error:
        if is_out_of_memory(error):
            raise
        raise UserError(
            f"{shown(path)}: holds more than tensors, or is damaged; expected what "
            "torch.load(weights_only=True) reads: a tensor, or a dict, list or tuple of tensors"
        ) from error
    if isinstance(content, Tensor):
        _refuse_key(path, key)
        return _from_tensor(path, content)
    if isinstance(content, (list, tuple)):
        content = dict(enumerate(content))
    if not isinstance(content, Mapping):
        raise UserError(
            f"{shown(path)}: holds a {type(content).__name__}, expected a tensor, or a dict, list or tuple of tensors"
        )
    tensors = {str(name): value for name, value in content.items() if isinstance(value, Tensor)}
    return _from_tensor(path, tensors[_pick(path, key, {name: tuple(value.shape) for name, value in tensors.items()})])


def _from_tensor(path: Path, tensor: Tensor) -> HeatmapFile:
    if tensor.dtype not in {*_TORCH_DTYPES.values(), torch.bfloat16}:
        raise UserError(
            f"{shown(path)}: got dtype {_name(tensor.dtype)}, expected float16, bfloat16, float32 or float64"
        )
    if tensor.layout != torch.strided or tensor.is_nested or tensor.device.type != "cpu":
        raise UserError(f"{shown(path)}: got a {tensor.layout} tensor on {tensor.device.type}, expected a dense one")
    return HeatmapFile(tuple(tensor.shape), tensor.dtype, lambda start, stop: tensor[start:stop])


def _open_safetensors(path: Path, key: str | None) -> HeatmapFile:
    file = require("safetensors").safe_open(path, framework="pt")
    slices = {name: file.get_slice(name) for name in file.keys()}  # noqa: SIM118 (it is no dict)
    chosen = slices[_pick(path, key, {name: tuple(part.get_shape()) for name, part in slices.items()})]
    dtype = _SAFETENSORS_DTYPES.get(chosen.get_dtype())
    if dtype is None:
        raise UserError(
            f"{shown(path)}: got dtype {chosen.get_dtype()}, expected one of {', '.join(_SAFETENSORS_DTYPES)}"
        )
    return HeatmapFile(tuple(chosen.get_shape()), dtype, lambda start, stop: chosen[start:stop])


_READERS: dict[str, Callable[[Path, str | None], HeatmapFile]] = {
    ".npy": _open_npy,
    ".npz": _open_npz,
    ".pt": _open_pt,
    ".safetensors": _open_safetensors,
}


def _pick(path: Path, key: str | None, shapes: Mapping[str, tuple[int, ...]]) -> str:
    listing = ", ".join(f"{name!r} {list(shape)}" for name, shape in shapes.items())
    if not shapes:
        raise UserError(f"{shown(path)}: holds no array, expected heatmaps [B, K, H, W]")
    if key is not None:
        if key not in shapes:
            raise UserError(f"{shown(path)}: has no array {key!r}, expected one of {listing}")
        return key
    candidates = [name for name, shape in shapes.items() if len(shape) == 4] if len(shapes) > 1 else list(shapes)
    if len(candidates) != 1:
        raise UserError(
            f"{shown(path)}: got {len(candidates)} arrays with 4 dimensions, expected one; "
            f"choose with --key among {listing}"
        )
    return candidates[0]


def _refuse_key(path: Path, key: str | None) -> None:
    if key is not None:
        raise UserError(f"{shown(path)}: got --key {key!r}, expected none: this file holds one array without a name")


def _name(dtype: torch.dtype) -> str:
    return str(dtype).removeprefix("torch.")


# ---------------------------------------------------------------------------------------------------- writing


def check_output(path: Path, extensions: tuple[str, ...]) -> None:
    """Raise UserError unless a file of one of these extensions can be put there."""
    if path.suffix.lower() not in extensions:
        raise UserError(f"{shown(path)}: got extension {path.suffix!r}, expected one of {', '.join(extensions)}")
    try:
        if path.is_dir():
            raise UserError(f"{shown(path)}: is a directory, expected a file")
        if not path.parent.is_dir():
            raise UserError(f"{shown(path)}: there is no folder {shown(path.parent)}")
        if path.suffix.lower() == ".parquet":
            require("pyarrow.parquet")  # now rather than after the work
    except OSError as error:
        raise UserError(f"{shown(path)}: cannot be written: {one_line(error.strerror or error)}") from error


def check_distinct(source: Path, target: Path) -> None:
    """Raise UserError if both are one file."""
    with suppress(OSError):  # one of them does not exist: they differ
        if source.samefile(target):
            raise UserError(f"{shown(target)}: input and output are the same file, expected two")


@contextmanager
def replacing(path: Path) -> Iterator[BinaryIO]:
    """A new file that takes the place of `path` when the block ends well, and else leaves no trace.

    A pipe or a device stays what it is, and is written to when the block has ended well.

    Raises:
        UserError: The file cannot be written.
    """
    partial: Path | None = None
    try:
        path = Path(os.path.realpath(path))  # a link keeps pointing to where it did
        if path.exists() and not path.is_file():
            whole = io.BytesIO()
            yield whole
            with path.open("wb") as file:
                file.write(whole.getbuffer())
            return
        # Beside the target, for a move within a file system is all or nothing.
        partial = path.with_name(f".dark-kernels-{secrets.token_hex(8)}.part")
        with _termination_raises():
            with partial.open("xb") as file:
                yield file
            os.replace(partial, path)
    except OSError as error:
        raise UserError(f"{shown(path)}: cannot be written: {one_line(error.strerror or error)}") from error
    finally:
        if partial is not None:
            with suppress(OSError):
                partial.unlink(missing_ok=True)


@contextmanager
def _termination_raises() -> Iterator[None]:
    """Let SIGTERM, what batch systems and timeouts send, be an exception, so that cleaning up comes before the end."""

    def leave(number: int, frame: FrameType | None) -> NoReturn:
        raise SystemExit(128 + number)

    try:
        before = signal.signal(signal.SIGTERM, leave)
    except ValueError:  # only the main thread may
        yield
        return
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before or signal.SIG_DFL)


def write_results(file: BinaryIO, extension: str, results: Results) -> None:
    """Write keypoints as .npz (coords, scores[, covariances]), .csv or .parquet (a row for each keypoint).

    Not-a-number is the text `nan` in .csv and a floating-point NaN, not a null, in .parquet.
    """
    WRITERS[extension.lower()](file, results)


def _write_npz(file: BinaryIO, results: Results) -> None:
    np.savez(file, **{name: array for name, array in results._asdict().items() if array is not None})


def _columns(results: Results) -> dict[str, np.ndarray]:
    batch, keypoint = np.indices(results.scores.shape).reshape(2, -1)
    x, y = results.coords.reshape(-1, 2).T
    columns = {"batch": batch, "keypoint": keypoint, "x": x, "y": y, "score": results.scores.reshape(-1)}
    if results.covariances is not None:
        variances = results.covariances.reshape(-1, 4)
        columns |= {"var_x": variances[:, 0], "cov_xy": variances[:, 1], "var_y": variances[:, 3]}
    return columns


def _write_csv(file: BinaryIO, results: Results) -> None:
    columns = _columns(results)
    file.write((",".join(columns) + "\n").encode())
    for start in range(0, results.scores.size, _CSV_ROWS):
        # NumPy's text of a float32 is the shortest that reads back as that float32.
        texts = [column[start : start + _CSV_ROWS].astype(str).tolist() for column in columns.values()]
        file.write("".join(",".join(row) + "\n" for row in zip(*texts, strict=True)).encode())


def _write_parquet(file: BinaryIO, results: Results) -> None:
    pyarrow, parquet = require("pyarrow"), require("pyarrow.parquet")
    columns = {name: pyarrow.array(np.ascontiguousarray(column)) for name, column in _columns(results).items()}
    parquet.write_table(pyarrow.table(columns), file)


WRITERS: dict[str, Callable[[BinaryIO, Results], None]] = {
    ".npz": _write_npz,
    ".csv": _write_csv,
    ".parquet": _write_parquet,
}
