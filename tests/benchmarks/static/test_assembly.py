"""What is read from assembly: the widths of loads and stores, sums over lanes, registers and spills."""

from __future__ import annotations

import pytest

from benchmarks.static import assembly

PTX = """\
	.loc	1 49 24                         // kernels.py:49:24 @[ kernels.py:151:95 ]
	@%p5 ld.global.v4.b32 { %r53, %r54, %r55, %r56 }, [ %rd33 + 0 ];
	@%p6 ld.global.L1::evict_first.v2.b64 { %rd1, %rd2 }, [ %rd34 + 0 ];
	cp.async.cg.shared.global [ %r1 + 0 ], [ %rd5 + 0 ], 0x10, %r2;
	.loc	2 110 29
	@%p88 ld.global.b16 { %rs17 }, [ %rd35 + 0 ];
	ld.shared.b32 %r9, [%r8];
	st.global.b32 [ %rd1 + 0 ], { %r1 };
	.file	1 "/somewhere/decode/kernels.py"
	.file	2 "/somewhere/_triton/blur.py"
"""
AMDGCN = """\
	.file	1 "/somewhere/decode" "kernels.py"
	.loc	1 49 24                         ; kernels.py:49:24
	buffer_load_dwordx4 v[22:25], v22, s[56:59], 0 offen
	global_load_b128 v[0:3], v[4:5], off
	global_load_dwordx2 v[0:1], v[4:5], off
	s_load_dwordx4 s[12:15], s[0:1], 0x28
	.loc	1 50 24
	buffer_load_ushort v24, v18, s[8:11], 0 offen
	global_load_d16_b16 v1, v[2:3], off
	global_load_ubyte v1, v[2:3], off
	buffer_store_dwordx4 v[0:3], v4, s[0:3], 0 offen
"""
AMDGCN_RESOURCES = """\
; Occupancy: 8
    .private_segment_fixed_size: 12
    .sgpr_spill_count: 4
    .vgpr_count:     42
    .vgpr_spill_count: 5
"""


def test_access_widths_of_ptx() -> None:
    scan, blur = ("decode/kernels.py", 49), ("_triton/blur.py", 110)
    assert assembly.access_widths(PTX, "store") == [(blur, 4)]
    assert assembly.access_widths(PTX) == [(scan, 16), (scan, 16), (scan, 16), (blur, 2)]


def test_access_widths_of_amdgcn() -> None:
    first, second = ("decode/kernels.py", 49), ("decode/kernels.py", 50)
    widths = [(first, 16), (first, 16), (first, 8), (second, 2), (second, 2), (second, 1)]
    assert assembly.access_widths(AMDGCN) == widths
    assert assembly.access_widths(AMDGCN, "store") == [(second, 16)]


def test_sums_of_which_lanes_disagree() -> None:
    exchange = "mul.f32 %r5, %r1, %r2;\nshfl.sync.bfly.b32 %r6, %r5, 16, 31, -1;\n"
    assert assembly.fused_exchanges(exchange + "fma.rn.f32 %r7, %r1, %r2, %r6;\n") == 1
    assert assembly.fused_exchanges(exchange + "add.f32 %r7, %r5, %r6;\nfma.rn.f32 %r8, %r1, %r2, %r7;\n") == 0
    rounded = exchange.replace("mul.f32 %r5, %r1, %r2;", "fma.rn.f32 %r5, %r1, %r2, 0f00000000;")
    assert assembly.fused_exchanges(rounded + "add.f32 %r7, %r5, %r6;\n") == 0


def test_resources_of_amdgcn() -> None:
    """Spilled vector registers are four bytes each; scratch is counted where it is more."""
    assert assembly.amdgcn_resources(AMDGCN_RESOURCES) == assembly.Resources(42, 20, 4, 8)
    scratch = AMDGCN_RESOURCES.replace("size: 12", "size: 64")
    assert assembly.amdgcn_resources(scratch) == assembly.Resources(42, 64, 4, 8)


def test_resources_that_are_not_named() -> None:
    assert assembly.amdgcn_resources(AMDGCN) is None


@pytest.mark.parametrize(
    ("registers", "num_warps", "resident"),
    [(64, 1, 32), (65, 1, 28), (96, 1, 20), (97, 1, 16), (128, 4, 16), (129, 4, 12), (168, 1, 12), (255, 8, 8)],
)
def test_warps_of_an_sm_are_those_of_its_four_schedulers(registers: int, num_warps: int, resident: int) -> None:
    assert assembly._resident_warps(registers, 90, num_warps) == resident
    assert assembly._resident_warps(16, 75, num_warps) == 32
