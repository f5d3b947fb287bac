"""Files that are written: which, and that they appear when they are whole."""

from __future__ import annotations

import glob
import io
import os
import secrets
import signal
import sys
from collections.abc import Collection, Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from types import FrameType
from typing import BinaryIO, NamedTuple, NoReturn

from .errors import UserError, one_line, shown
from .files import EXTENSIONS, STREAM, reader_of


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
    several = len(found) != 1 or _is_folder(target, extensions) or any(_is_folder(each, EXTENSIONS) for each in sources)
    if STREAM in found and len(found) > 1:
        raise UserError(f"IN: got - and {len(found) - 1} more, expected - alone")
    if not several or found[0] == STREAM:
        return [Job(found[0], target)]
    for path in found:
        reader_of(path)  # before the first is decoded
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
    if _is_folder(source, EXTENSIONS):
        found = sorted(path for path in source.iterdir() if path.suffix.lower() in EXTENSIONS)
        if not found:
            raise UserError(f"{shown(source)}: holds no file of heatmaps, expected {', '.join(EXTENSIONS)}")
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
