"""Tools that the emulator needs besides Python: a C compiler, and the disassembler that comes with Triton."""

from __future__ import annotations

import contextlib
import ctypes
import functools
import hashlib
import importlib.util
import os
import platform
import shutil
import subprocess
import tempfile
from collections.abc import Iterator
from pathlib import Path

NATIVE = Path(__file__).parent / "native"

# Numbers must be those that the machine code says: no sums are fused or reordered, and rounding may be switched.
_FLAGS = (
    "-O2", "-ftree-vectorize", "-fno-strict-aliasing", "-fno-math-errno", "-ffp-contract=off", "-frounding-math",
    "-shared", "-fPIC", "-w", f"-I{NATIVE}",
)  # fmt: skip
_FLAGS_OF_X86 = ("-march=native", "-mprefer-vector-width=512")


def problem() -> str | None:
    """Why no machine code can be run here, in one line, or None."""
    if compiler() is None:
        return "there is no C compiler: install gcc"
    if importlib.util.find_spec("triton") is None:
        return "triton is not installed"
    if missing := [name for name in ("nvdisasm", "cuobjdump") if not (_tools() / name).exists()]:
        return f"this build of triton comes without {' and '.join(missing)}"
    return None


def compiler() -> str | None:
    """Path of the C compiler."""
    return shutil.which(os.environ.get("CC", "gcc"))


def disassembler() -> str:
    """Path of NVIDIA's disassembler."""
    return str(_tools() / "nvdisasm")


@functools.lru_cache(maxsize=1)
def _tools() -> Path:
    import triton.backends.nvidia

    return Path(triton.backends.nvidia.__file__).parent / "bin"


@functools.lru_cache(maxsize=1)
def cache() -> Path:
    """A folder for what has been compiled: DARK_KERNELS_MACHINE_CACHE, or one of this user's temporary ones."""
    folder = os.environ.get("DARK_KERNELS_MACHINE_CACHE")
    path = Path(folder) if folder else Path(tempfile.gettempdir()) / f"dark-kernels-machine-{os.getuid()}"
    path.mkdir(parents=True, exist_ok=True)
    return path


def build(source: str) -> str:
    """Compile C to a library, unless that was done before; returns its name."""
    flags = (*_FLAGS, *(_FLAGS_OF_X86 if platform.machine() == "x86_64" else ()))
    name = f"{key(source, *flags)}.so"
    if not (cache() / name).exists():
        with _appearing(name) as path:
            command = [str(compiler()), *flags, "-x", "c", "-", "-o", str(path), "-lm"]
            done = subprocess.run(command, input=source, capture_output=True, text=True, check=False)
            if done.returncode:
                raise RuntimeError(f"{command[0]} cannot compile an instruction: {done.stderr[:2000]}")
    return name


@functools.cache
def load(name: str) -> ctypes.CDLL:
    """A library that was built."""
    return ctypes.CDLL(str(cache() / name))


def note(name: str, text: str) -> None:
    """Keep a line for other processes."""
    with _appearing(name) as path:
        path.write_text(text, encoding="utf-8")


def noted(name: str) -> str | None:
    """Return the content that was kept under that name."""
    path = cache() / name
    return path.read_text(encoding="utf-8") if path.exists() else None


@contextlib.contextmanager
def _appearing(name: str) -> Iterator[Path]:
    """A file that is in the cache when it is whole: other processes look for it."""
    with tempfile.TemporaryDirectory(dir=cache()) as folder:
        path = Path(folder) / name
        yield path
        path.rename(cache() / name)


def key(*texts: str) -> str:
    """A name for what is made of texts and of the headers."""
    return hashlib.sha256("\0".join((*texts, _headers())).encode()).hexdigest()[:24]


@functools.lru_cache(maxsize=1)
def _headers() -> str:
    return "".join(path.read_text(encoding="utf-8") for path in sorted(NATIVE.glob("*.h")))
