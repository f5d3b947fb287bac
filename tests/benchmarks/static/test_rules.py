"""Each rule names what breaks it, and only that."""

from __future__ import annotations

import pytest

from benchmarks.static import rules
from benchmarks.static.assembly import Resources


def test_an_error_is_named_by_its_last_line() -> None:
    (failure,) = rules.compiles(RuntimeError("first\n\n  what went wrong  \n"))
    assert failure == "does not compile: RuntimeError: what went wrong"
    assert list(rules.compiles(RuntimeError())) == ["does not compile: RuntimeError: no message"]


def test_resources_have_to_be_named() -> None:
    assert list(rules.names_resources(None, "cuobjdump")) == ["cuobjdump names no resource usage"]
    assert not list(rules.names_resources(Resources(32, 0), "cuobjdump"))


def test_spills() -> None:
    assert list(rules.spills_nothing(Resources(96, 8))) == ["spills 8 bytes"]
    assert not list(rules.spills_nothing(Resources(96, 0, scalar_spills=4)))
    assert not list(rules.spills_nothing(None))  # which another rule names


def test_fused_sums() -> None:
    exchange = "mul.f32 %r5, %r1, %r2;\nshfl.sync.bfly.b32 %r6, %r5, 16, 31, -1;\n"
    (failure,) = rules.sums_agree(exchange + "fma.rn.f32 %r7, %r1, %r2, %r6;\n")
    assert failure.startswith("1 sums over lanes")
    assert not list(rules.sums_agree(exchange + "add.f32 %r7, %r5, %r6;\n"))


@pytest.mark.parametrize("access", ["load", "store"])
def test_narrow_accesses(access: str) -> None:
    def judge(widths: list[int], functions: tuple[str, ...] = ("walk",), contiguous: bool = True) -> list[str]:
        return list(rules.accesses_are_wide(access, functions, widths, contiguous))

    assert judge([16, 4]) == [f"a {access} of 4 bytes in the streaming loop over contiguous maps, expected 16"]
    assert judge([]) == [f"no {access} of walk found in the assembly"]
    assert not judge([16, 16])
    assert not judge([4], contiguous=False)
    assert not judge([], contiguous=False)
    assert not judge([], functions=())  # a kernel that is not judged
