"""Rules that make the report fail: each takes what was read and gives sentences that say what is wrong."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from benchmarks.static.assembly import Resources, fused_exchanges

# A load or store of the streaming loop is at least this wide where the map is one aligned run of memory.
WIDE_ACCESS = 16


def compiles(error: Exception) -> Iterator[str]:
    """A target must compile; the last line of an error says why it did not."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    yield f"does not compile: {type(error).__name__}: {lines[-1] if lines else 'no message'}"


def names_resources(resources: Resources | None, source: str) -> Iterator[str]:
    """A rule that could not be read must not pass. `source`: what should have named registers and spills."""
    if resources is None:
        yield f"{source} names no resource usage"


def sums_agree(ptx: str) -> Iterator[str]:
    """A sum over lanes must be the same in all of them, which a product that is fused into it is not."""
    if count := fused_exchanges(ptx):
        yield f"{count} sums over lanes are fused with a lane's product, see _triton/sums.py"


def spills_nothing(resources: Resources | None) -> Iterator[str]:
    """Registers must hold what a thread computes with."""
    if resources is not None and resources.spilled_bytes:
        yield f"spills {resources.spilled_bytes} bytes"


def accesses_are_wide(access: str, functions: Sequence[str], widths: Sequence[int], contiguous: bool) -> Iterator[str]:
    """The loads (or stores) of a streaming loop over contiguous maps must move `WIDE_ACCESS` bytes.

    Args:
        access: load or store.
        functions: Where the loop's accesses stand; none if the kernel is not judged by them.
        widths: Bytes of each that the assembly has.
        contiguous: Whether the maps are one run of memory.
    """
    if not functions or not contiguous:
        return
    if not widths:
        yield f"no {access} of {' or '.join(functions)} found in the assembly"
    elif min(widths) < WIDE_ACCESS:
        yield (f"a {access} of {min(widths)} bytes in the streaming loop over contiguous maps, expected {WIDE_ACCESS}")
