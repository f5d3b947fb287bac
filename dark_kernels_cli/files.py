"""Heatmaps out of files, and files that appear when they are whole."""

from __future__ import annotations

import atexit
import glob
import io
import os
import pickle
import secrets
import shutil
import signal
import sys
import tempfile
import warnings
import zipfile
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from types import FrameType
from typing import Any, BinaryIO, NamedTuple, NoReturn

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
        reader = _reader_of(path)
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


def _reader_of(path: Path) -> Callable[[Path, str | None, int], HeatmapFile]:
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


# ---------------------------------------------------------------------------------------------------- writing


def check_output(path: Path, extensions: tuple[str, ...]) -> None:
    """Raise UserError unless a file of one of these extensions can be put there."""
    if path == STREAM:
        return
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


class Job(NamedTuple):
    """A file to read and one to write."""

    source: Path
    target: Path


def jobs(sources: Sequence[Path], target: Path, extension: str | None, extensions: Collection[str]) -> list[Job]:
    """What to read and what to write: one file to one, or several, all of a folder or of a pattern, into a folder.

    Args:
        sources: Files, folders, patterns such as `maps/*.npy` that the shell left as they are, or - alone.
        target: A file or -; of several sources a folder, which is made.
        extension: Of the files in a folder that is written to; None is .npz.
        extensions: Of files that can be written: what has one is no folder.

    Raises:
        UserError: There is nothing to read, two results would have one name, or the target cannot be a folder.
    """
    found = [path for source in sources for path in _expanded(source)]
    several = len(found) != 1 or _is_folder(target, extensions) or any(_is_folder(each, _READERS) for each in sources)
    if STREAM in found and len(found) > 1:
        raise UserError(f"IN: got - and {len(found) - 1} more, expected - alone")
    if not several or found[0] == STREAM:
        return [Job(found[0], target)]
    for path in found:
        _reader_of(path)  # before the first is decoded
    if target == STREAM or target.suffix.lower() in extensions or target.is_file():
        raise UserError(f"OUT: got {shown(target)} for {len(found)} files, expected a folder")
    made = [Job(path, target / (path.stem + (extension or ".npz"))) for path in found]
    names: dict[Path, Path] = {}
    for source, each in made:
        if each in names:
            raise UserError(f"IN: got {shown(names[each])} and {shown(source)}, which would both become {shown(each)}")
        names[each] = source
    try:
        target.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UserError(f"{shown(target)}: cannot be made: {one_line(error.strerror or error)}") from error
    return made


def _is_folder(path: Path, extensions: Collection[str]) -> bool:
    return path.is_dir() and path.suffix.lower() not in extensions


def _expanded(source: Path) -> list[Path]:
    if _is_folder(source, _READERS):
        found = sorted(path for path in source.iterdir() if path.suffix.lower() in _READERS)
        if not found:
            raise UserError(f"{shown(source)}: holds no file of heatmaps, expected {', '.join(_READERS)}")
        return found
    if any(sign in str(source) for sign in "*?[") and not source.exists():
        found = sorted(map(Path, glob.glob(str(source), recursive=True)))
        if not found:
            raise UserError(f"{shown(source)}: no file of that pattern")
        return found
    return [source]


@contextmanager
def replacing(path: Path) -> Iterator[BinaryIO]:
    """A new file that takes the place of `path` when the block ends well, and else leaves no trace.

    A pipe, a device or stdout stays what it is, and is written to when the block has ended well.

    Raises:
        UserError: The file cannot be written.
    """
    partial: Path | None = None
    if path == STREAM:
        whole = io.BytesIO()
        yield whole
        sys.stdout.buffer.write(whole.getbuffer())
        sys.stdout.buffer.flush()
        return
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
