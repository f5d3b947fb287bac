"""Heatmaps out of files."""

from __future__ import annotations

import atexit
import io
import os
import pickle
import shutil
import sys
import tempfile
import warnings
import zipfile
from collections.abc import Callable, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from .errors import UserError, one_line, require, shown

# What decode() takes, and of integers what holds them exactly.
_NUMPY_DTYPES = {
    **{np.dtype(f"f{size}"): np.dtype(f"f{size}") for size in (2, 4, 8)},
    **{np.dtype(f"{kind}{size}"): np.dtype(np.float32) for kind in "iu" for size in (1, 2)},
    **{np.dtype(f"{kind}{size}"): np.dtype(np.float64) for kind in "iu" for size in (4, 8)},
}
_TORCH_DTYPES = {
    **{each: each for each in (torch.float16, torch.bfloat16, torch.float32, torch.float64)},
    **{each: torch.float32 for each in (torch.uint8, torch.int8, torch.int16, torch.uint16)},
    **{each: torch.float64 for each in (torch.int32, torch.int64, torch.uint32, torch.uint64)},
}
_SAFETENSORS_DTYPES = {
    "F16": torch.float16, "BF16": torch.bfloat16, "F32": torch.float32, "F64": torch.float64, "U8": torch.float32,
    "I8": torch.float32, "I16": torch.float32, "U16": torch.float32, "I32": torch.float64, "U32": torch.float64,
    "I64": torch.float64, "U64": torch.float64,
}  # fmt: skip


_MARKS = ((b"\x93NUMPY", ".npy"), (b"PK", ".zip"), (b"\x89HDF", ".h5"))
# In place of a file: stdin, or stdout.
STREAM = Path("-")


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


def is_out_of_memory(error: BaseException) -> bool:
    """True of what NumPy and PyTorch raise where there is no memory. On a CPU that of PyTorch is of no class of its
    own, and only its text tells."""
    is_told = isinstance(error, RuntimeError) and "DefaultCPUAllocator" in str(error)
    return is_told or isinstance(error, (MemoryError, torch.OutOfMemoryError))


# ---------------------------------------------------------------------------------------------------- reading


def open_heatmaps(path: Path, key: str | None, dimensions: int = 4) -> HeatmapFile:
    """Open the heatmaps in a .npy, .npz, .pt, .safetensors or .h5 file, or those that come from stdin.

    Args:
        path: The file. A .npz is loaded; the others are memory-mapped or read a part at a time, so they may
            be larger than memory (a .pt in PyTorch's format from before 1.6 is loaded, too).
        key: Which of several arrays; None takes the only one, or the only one with so many dimensions.
        dimensions: Of heatmaps 4.

    Raises:
        UserError: There is no such file, it cannot be read, or it does not say which array is meant.
    """
    if path == STREAM:
        return open_heatmaps(_kept_stdin(), key, dimensions)
    try:
        reader = reader_of(path)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            return reader(path, key, dimensions)
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


def reader_of(path: Path) -> Callable[[Path, str | None, int], HeatmapFile]:
    """What reads a file, by its extension.

    Raises:
        UserError: There is no such file, or nothing reads it.
    """
    reader = _READERS.get(path.suffix.lower())
    if reader is None:
        raise UserError(f"{shown(path)}: got extension {path.suffix!r}, expected one of {', '.join(_READERS)}")
    if path.is_dir():
        raise UserError(f"{shown(path)}: is a directory, expected a file")
    if not path.exists():
        raise UserError(f"{shown(path)}: no such file")
    return reader


def _kept_stdin() -> Path:
    """What comes from stdin, in a file that is removed at the end, with the extension of what it is."""
    content = sys.stdin.buffer.read()
    suffix = next((suffix for mark, suffix in _MARKS if content.startswith(mark)), ".safetensors")
    if suffix == ".zip":
        with suppress(zipfile.BadZipFile), zipfile.ZipFile(io.BytesIO(content)) as archive:
            suffix = ".npz" if all(name.endswith(".npy") for name in archive.namelist()) else ".pt"
    folder = Path(tempfile.mkdtemp(prefix="dark-kernels-"))
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    path = folder / f"stdin{'.npz' if suffix == '.zip' else suffix}"
    path.write_bytes(content)
    return path


def _open_npy(path: Path, key: str | None, dimensions: int) -> HeatmapFile:
    _refuse_key(path, key)
    with path.open("rb") as file:
        if not file.read(6) == b"\x93NUMPY":
            raise UserError(f"{shown(path)}: not a .npy file, or damaged: it does not start with NumPy's mark")
    array = np.load(path, mmap_mode="r", allow_pickle=False)
    return _from_numpy(path, array)


def _open_npz(path: Path, key: str | None, dimensions: int) -> HeatmapFile:
    with zipfile.ZipFile(path) as archive:
        members = {name.removesuffix(".npy"): name for name in archive.namelist() if name.endswith(".npy")}
        shapes = {}
        for name, member in members.items():
            with archive.open(member) as file:
                shapes[name] = _npy_shape(file)
        with archive.open(members[_pick(path, key, dimensions, shapes)]) as file:
            return _from_numpy(path, np.lib.format.read_array(file, allow_pickle=False))


def _npy_shape(file: Any) -> tuple[int, ...]:
    version = np.lib.format.read_magic(file)
    read_header = np.lib.format.read_array_header_1_0 if version == (1, 0) else np.lib.format.read_array_header_2_0
    return tuple(read_header(file)[0])


def _from_numpy(path: Path, array: np.ndarray) -> HeatmapFile:
    dtype = _NUMPY_DTYPES.get(array.dtype.newbyteorder("="))
    if dtype is None:
        raise UserError(f"{shown(path)}: got dtype {array.dtype}, expected float16, float32, float64 or integers")

    def read(start: int, stop: int) -> Tensor:
        return torch.from_numpy(np.array(array[start:stop], dtype=dtype, order="C"))

    return HeatmapFile(array.shape, torch.from_numpy(np.empty(0, dtype)).dtype, read)


def _open_pt(path: Path, key: str | None, dimensions: int) -> HeatmapFile:
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
    return _from_tensor(
        path, tensors[_pick(path, key, dimensions, {name: tuple(value.shape) for name, value in tensors.items()})]
    )


def _from_tensor(path: Path, tensor: Tensor) -> HeatmapFile:
    dtype = _TORCH_DTYPES.get(tensor.dtype)
    if dtype is None:
        raise UserError(
            f"{shown(path)}: got dtype {_name(tensor.dtype)}, expected float16, bfloat16, float32, float64 or integers"
        )
    if tensor.layout != torch.strided or tensor.is_nested or tensor.device.type != "cpu":
        raise UserError(f"{shown(path)}: got a {tensor.layout} tensor on {tensor.device.type}, expected a dense one")
    return HeatmapFile(tuple(tensor.shape), dtype, lambda start, stop: tensor[start:stop].to(dtype))


def _open_safetensors(path: Path, key: str | None, dimensions: int) -> HeatmapFile:
    file = require("safetensors").safe_open(path, framework="pt")
    slices = {name: file.get_slice(name) for name in file.keys()}  # noqa: SIM118 (it is no dict)
    chosen = slices[_pick(path, key, dimensions, {name: tuple(part.get_shape()) for name, part in slices.items()})]
    dtype = _SAFETENSORS_DTYPES.get(chosen.get_dtype())
    if dtype is None:
        raise UserError(
            f"{shown(path)}: got dtype {chosen.get_dtype()}, expected one of {', '.join(_SAFETENSORS_DTYPES)}"
        )
    return HeatmapFile(tuple(chosen.get_shape()), dtype, lambda start, stop: chosen[start:stop].to(dtype))


def _open_h5(path: Path, key: str | None, dimensions: int) -> HeatmapFile:
    file = require("h5py", "hdf5").File(path, "r")
    arrays: dict[str, Any] = {}
    file.visititems(lambda name, each: arrays.update({name: each} if hasattr(each, "shape") else {}))
    return _from_numpy(
        path, arrays[_pick(path, key, dimensions, {name: tuple(each.shape) for name, each in arrays.items()})]
    )


_READERS: dict[str, Callable[[Path, str | None, int], HeatmapFile]] = {
    ".npy": _open_npy,
    ".npz": _open_npz,
    ".pt": _open_pt,
    ".safetensors": _open_safetensors,
    ".h5": _open_h5,
    ".hdf5": _open_h5,
}
EXTENSIONS = tuple(_READERS)


def _pick(path: Path, key: str | None, dimensions: int, shapes: Mapping[str, tuple[int, ...]]) -> str:
    listing = ", ".join(f"{name!r} {list(shape)}" for name, shape in shapes.items())
    if not shapes:
        raise UserError(f"{shown(path)}: holds no array, expected one of {dimensions} dimensions")
    if key is not None:
        if key not in shapes:
            raise UserError(f"{shown(path)}: has no array {key!r}, expected one of {listing}")
        return key
    candidates = (
        [name for name, shape in shapes.items() if len(shape) == dimensions] if len(shapes) > 1 else list(shapes)
    )
    if len(candidates) != 1:
        raise UserError(
            f"{shown(path)}: got {len(candidates)} arrays with {dimensions} dimensions, expected one; "
            f"choose with --key among {listing}"
        )
    return candidates[0]


def _refuse_key(path: Path, key: str | None) -> None:
    if key is not None:
        raise UserError(f"{shown(path)}: got --key {key!r}, expected none: this file holds one array without a name")


def _name(dtype: torch.dtype) -> str:
    return str(dtype).removeprefix("torch.")
