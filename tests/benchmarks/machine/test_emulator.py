"""Small kernels as machine code, against PyTorch."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

from ...conftest import RUNS_MACHINE_CODE

if not RUNS_MACHINE_CODE:
    pytest.skip("kernels are not machine code here: make machine-code", allow_module_level=True)

import triton
import triton.language as tl

import dark_kernels
from benchmarks.machine import counts, emulator, predict
from benchmarks.machine.emulator import EmulatorError, Freedom
from benchmarks.machine.launches import Launch, launches_go_to

SIZE = 256
SPECIAL = [0.0, -0.0, 1.0, -1.0, 0.5, 1e-45, -1e-40, 1.2e-38, 3e38, -3e38, float("inf"), float("-inf"), float("nan")]


def numbers(seed: int = 0) -> Tensor:
    """Numbers of all sizes, special ones among them."""
    generator = torch.Generator().manual_seed(seed)
    values = torch.randn(SIZE, generator=generator) * torch.exp2(torch.randint(-140, 120, (SIZE,), generator=generator))
    values[torch.randperm(SIZE, generator=generator)[: len(SPECIAL)]] = torch.tensor(SPECIAL)
    return values


def integers(dtype: torch.dtype, seed: int = 0) -> Tensor:
    """Integers of all sizes and signs."""
    generator = torch.Generator().manual_seed(seed)
    bits = torch.iinfo(dtype).bits
    whole = torch.randint(-(2**62), 2**62, (SIZE,), generator=generator) >> (64 - bits)
    values = whole >> torch.randint(0, bits, (SIZE,), generator=generator)
    values[:4] = torch.tensor([0, 1, -1, torch.iinfo(dtype).min])
    return values.to(dtype)


def assert_same(actual: Tensor, expected: Tensor) -> None:
    torch.testing.assert_close(actual, expected, rtol=0, atol=0, equal_nan=True)


# --- arithmetic ---------------------------------------------------------------------------------------------


@triton.jit
def _integers_kernel(out_ptr, a_ptr, b_ptr, SIZE: tl.constexpr):
    index = tl.arange(0, SIZE)
    a, b = tl.load(a_ptr + index), tl.load(b_ptr + index)
    divisor = tl.where((b == 0) | (b == -1), 3, b)
    shift = b & 31
    tl.store(out_ptr + index, a + b)
    tl.store(out_ptr + SIZE + index, a - b)
    tl.store(out_ptr + 2 * SIZE + index, a * b)
    tl.store(out_ptr + 3 * SIZE + index, a // divisor)
    tl.store(out_ptr + 4 * SIZE + index, a % divisor)
    tl.store(out_ptr + 5 * SIZE + index, a << shift)
    tl.store(out_ptr + 6 * SIZE + index, a >> shift)
    tl.store(out_ptr + 7 * SIZE + index, (a & b) ^ (a | ~b))
    tl.store(out_ptr + 8 * SIZE + index, tl.minimum(a, b))
    tl.store(out_ptr + 9 * SIZE + index, tl.maximum(a, b) - tl.abs(b))
    tl.store(out_ptr + 10 * SIZE + index, tl.where((a < b) | (a == b + 1), a, b))


@pytest.mark.parametrize("num_warps", [1, 4])
@pytest.mark.parametrize("dtype", [torch.int32, torch.int64], ids=str)
def test_integers(dtype: torch.dtype, num_warps: int) -> None:
    a, b = integers(dtype), integers(dtype, 1)
    out = torch.zeros(11, SIZE, dtype=dtype)
    _integers_kernel[(1,)](out, a, b, SIZE=SIZE, num_warps=num_warps)
    divisor = torch.where((b == 0) | (b == -1), 3, b)
    shift = b & 31
    quotient = torch.div(a, divisor, rounding_mode="trunc")
    expected = [
        a + b, a - b, a * b, quotient, a - quotient * divisor, a << shift, a >> shift, (a & b) ^ (a | ~b),
        torch.minimum(a, b), torch.maximum(a, b) - b.abs(), torch.where((a < b) | (a == b + 1), a, b),
    ]  # fmt: skip
    assert_same(out, torch.stack(expected))


@triton.jit
def _floats_kernel(out_ptr, a_ptr, b_ptr, SIZE: tl.constexpr):
    index = tl.arange(0, SIZE)
    a, b = tl.load(a_ptr + index), tl.load(b_ptr + index)
    tl.store(out_ptr + index, a + b)
    tl.store(out_ptr + SIZE + index, a * b)
    tl.store(out_ptr + 2 * SIZE + index, tl.fma(a, b, a))
    tl.store(out_ptr + 3 * SIZE + index, tl.div_rn(a, b))
    tl.store(out_ptr + 4 * SIZE + index, tl.sqrt_rn(tl.abs(a)))
    tl.store(out_ptr + 5 * SIZE + index, tl.floor(a + 1) + tl.ceil(b - 1))
    tl.store(out_ptr + 6 * SIZE + index, tl.where(a < b, 1.0, 2.0))
    tl.store(out_ptr + 7 * SIZE + index, tl.where(a != b, 1.0, 2.0))
    tl.store(out_ptr + 8 * SIZE + index, tl.where((a >= b) & (a == a), a, b))
    tl.store(out_ptr + 9 * SIZE + index, tl.minimum(a, b))
    tl.store(out_ptr + 10 * SIZE + index, tl.maximum(a, b, propagate_nan=tl.PropagateNan.ALL))


def test_floats() -> None:
    """Correctly rounded. Lanes diverge in quotients and roots of denormal numbers, infinities and NaN."""
    a, b = numbers(), numbers(1)
    out = torch.zeros(11, SIZE)
    _floats_kernel[(1,)](out, a, b, SIZE=SIZE, enable_fp_fusion=False)
    fused = (a.double() * b.double() + a.double()).float()
    expected = [
        a + b, a * b, fused, a / b, a.abs().sqrt(), (a + 1).floor() + (b - 1).ceil(), torch.where(a < b, 1.0, 2.0),
        torch.where(a != b, 1.0, 2.0), torch.where(a >= b, a, b), torch.fmin(a, b), torch.maximum(a, b),
    ]  # fmt: skip
    assert_same(out, torch.stack(expected))


@triton.jit
def _doubles_kernel(out_ptr, a_ptr, b_ptr, SIZE: tl.constexpr):
    index = tl.arange(0, SIZE)
    a, b = tl.load(a_ptr + index), tl.load(b_ptr + index)
    tl.store(out_ptr + index, a.to(tl.float64) * b + a)
    tl.store(out_ptr + SIZE + index, tl.where(a < b.to(tl.float64) * 2.0, 1.0, b.to(tl.float64)))
    tl.store(out_ptr + 2 * SIZE + index, (a.to(tl.float64) + b * 1e-9).to(tl.float32))


def test_doubles() -> None:
    a, b = torch.randn(2, SIZE, dtype=torch.float32, generator=torch.Generator().manual_seed(5))
    out = torch.zeros(3, SIZE, dtype=torch.float64)
    _doubles_kernel[(1,)](out, a, b, SIZE=SIZE, enable_fp_fusion=False)
    wide, other = a.double(), b.double()
    last = (wide + (b * 1e-9).double()).float().double()
    assert_same(out, torch.stack([wide * other + wide, torch.where(wide < 2 * other, 1.0, other), last]))


@triton.jit
def _functions_kernel(out_ptr, a_ptr, SIZE: tl.constexpr):
    index = tl.arange(0, SIZE)
    a = tl.load(a_ptr + index)
    tl.store(out_ptr + index, tl.exp(a))
    tl.store(out_ptr + SIZE + index, tl.log(tl.abs(a)))
    tl.store(out_ptr + 2 * SIZE + index, tl.rsqrt(tl.abs(a)))
    tl.store(out_ptr + 3 * SIZE + index, 1.0 / a)


def test_functions() -> None:
    a = torch.linspace(-20, 20, SIZE)
    out = torch.zeros(4, SIZE)
    _functions_kernel[(1,)](out, a, SIZE=SIZE)
    expected = torch.stack([a.exp(), a.abs().log(), a.abs().rsqrt(), 1 / a])
    torch.testing.assert_close(out, expected, rtol=2e-6, atol=2e-6)


@triton.jit
def _conversion_kernel(out_ptr, a_ptr, SIZE: tl.constexpr):
    index = tl.arange(0, SIZE)
    tl.store(out_ptr + index, tl.load(a_ptr + index).to(out_ptr.dtype.element_ty))


@pytest.mark.parametrize("to", [torch.float16, torch.bfloat16, torch.int32, torch.int64, torch.uint8], ids=str)
def test_conversions_of_float32(to: torch.dtype) -> None:
    a = numbers()
    if not to.is_floating_point:
        a = torch.linspace(0, 255, SIZE) if to == torch.uint8 else torch.linspace(-3e4, 3e4, SIZE)
    else:  # ties, and numbers that are denormal in float16
        a[20:40] = 1 + torch.arange(20) * 2.0**-11
        a[40:60] = torch.arange(20) * 2.0**-25
        a[60:80] = 65472.0 + 4 * torch.arange(20)
    out = torch.zeros(SIZE, dtype=to)
    _conversion_kernel[(1,)](out, a, SIZE=SIZE)
    assert_same(out, a.to(to))


@pytest.mark.parametrize(
    "dtype", [torch.float16, torch.bfloat16, torch.int8, torch.uint8, torch.int16, torch.int32, torch.int64], ids=str
)
def test_conversions_to_float32(dtype: torch.dtype) -> None:
    if dtype.is_floating_point:
        a = torch.arange(-128, 128, dtype=torch.int16).mul(251).view(dtype)
    else:
        a = integers(dtype) if dtype != torch.uint8 else torch.arange(256).to(dtype)
    out = torch.zeros(SIZE)
    _conversion_kernel[(1,)](out, a, SIZE=SIZE)
    assert_same(out, a.float())


# --- lanes, warps and programs ------------------------------------------------------------------------------


@triton.jit
def _reductions_kernel(out_ptr, a_ptr, ROWS: tl.constexpr, COLUMNS: tl.constexpr):
    row, column = tl.arange(0, ROWS), tl.arange(0, COLUMNS)
    a = tl.load(a_ptr + row[:, None] * COLUMNS + column)
    tl.store(out_ptr + row, tl.sum(a, axis=1))
    tl.store(out_ptr + ROWS + row, tl.argmax(a, axis=1))
    tl.store(out_ptr + 2 * ROWS + row, tl.max(tl.trans(a), axis=0) + tl.min(tl.min(a, axis=1), axis=0))
    tl.store(out_ptr + 3 * ROWS + row, tl.cumsum(tl.sum(a, axis=1), axis=0))
    tl.store(out_ptr + 4 * ROWS + row, tl.sort(tl.sum(a, axis=1)))


@pytest.mark.parametrize("num_warps", [1, 2, 8])
@pytest.mark.parametrize("shape", [(32, 16), (16, 128)])
def test_reductions_over_lanes_and_warps(shape: tuple[int, int], num_warps: int) -> None:
    """Shuffles within a warp; shared memory and barriers between them."""
    rows, columns = shape
    a = torch.randint(-(10**6), 10**6, shape, generator=torch.Generator().manual_seed(4), dtype=torch.int32)
    out = torch.zeros(5, rows, dtype=torch.int32)
    _reductions_kernel[(1,)](out, a, ROWS=rows, COLUMNS=columns, num_warps=num_warps)
    sums = a.sum(1).int()
    expected = [sums, a.argmax(1).int(), a.amax(1) + a.min(), sums.cumsum(0).int(), sums.sort().values]
    assert_same(out, torch.stack(expected))


@triton.jit
def _loop_kernel(out_ptr, counts_ptr, SIZE: tl.constexpr):
    program = tl.program_id(0) + tl.num_programs(0) * tl.program_id(1)
    count = tl.load(counts_ptr + program)
    total = tl.zeros([SIZE], tl.int32)
    n = 0
    while n < count:
        if n % 3 == 1:
            total += n
        n += 1
    tl.store(out_ptr + program, tl.sum(total, axis=0))


def test_programs_take_ways_of_their_own() -> None:
    counts = torch.arange(12, dtype=torch.int32)
    out = torch.zeros(12, dtype=torch.int32)
    _loop_kernel[(4, 3)](out, counts, SIZE=64)
    assert out.tolist() == [64 * sum(n for n in range(count) if n % 3 == 1) for count in range(12)]


@triton.jit
def _masked_kernel(out_ptr, a_ptr, stride, size, SIZE: tl.constexpr):
    index = tl.arange(0, SIZE)
    tl.store(out_ptr + index, tl.load(a_ptr + index * stride, mask=index < size, other=-1), mask=index < size + 2)


@pytest.mark.parametrize("dtype", [torch.int8, torch.float16, torch.float32, torch.float64, torch.int64], ids=str)
@pytest.mark.parametrize(("stride", "size"), [(1, 128), (1, 127), (3, 40), (1, 0)])
def test_masked_and_wide_accesses(dtype: torch.dtype, stride: int, size: int) -> None:
    a = torch.arange(stride * size).to(dtype)
    out = torch.full((size + 8,), 7, dtype=dtype)
    _masked_kernel[(1,)](out, a, stride, size, SIZE=256)
    expected = torch.full((size + 8,), 7, dtype=dtype)
    expected[:size], expected[size : size + 2] = a[::stride], -1
    assert_same(out, expected)


# --- memory -------------------------------------------------------------------------------------------------


@triton.jit
def _tickets_kernel(
    total_ptr, parts_ptr, counter_ptr, SIZE: tl.constexpr, CACHE: tl.constexpr, ORDER: tl.constexpr, WAITS: tl.constexpr
):
    """Each program leaves a part for the last one."""
    program = tl.program_id(0)
    tl.store(parts_ptr + program * SIZE + tl.arange(0, SIZE), program + tl.zeros([SIZE], tl.int32))
    if WAITS:
        tl.debug_barrier()
    if tl.atomic_add(counter_ptr, 1, sem=ORDER) == tl.num_programs(0) - 1:
        total = 0
        for n in range(tl.num_programs(0)):
            total += tl.sum(tl.load(parts_ptr + n * SIZE + tl.arange(0, SIZE), cache_modifier=CACHE), axis=0)
        tl.store(total_ptr, total)


def total_of_tickets(cache: str = ".cg", order: str = "acq_rel", waits: bool = True, **freedom: Any) -> tuple[int, int]:
    """What the last program found, and what it should have found."""
    total, parts, counter = torch.zeros(1, dtype=torch.int32), torch.zeros(9 * 128, dtype=torch.int32), torch.zeros(1)
    with launches_go_to(lambda launch: emulator.run(launch, Freedom(**freedom))):
        _tickets_kernel[(9,)](total, parts, counter.int(), SIZE=128, CACHE=cache, ORDER=order, WAITS=waits)
    return int(total), 128 * sum(range(9))


@pytest.mark.parametrize("seed", range(5))
@pytest.mark.parametrize("late", [False, True])
def test_tickets(late: bool, seed: int) -> None:
    found, expected = total_of_tickets(seed=seed, late=late)
    assert found == expected


def test_tickets_without_their_order_are_found_out() -> None:
    """A relaxed ticket orders no store before it: that shows where stores become visible late."""
    found, expected = total_of_tickets(order="relaxed", seed=1)
    assert found == expected
    found, expected = total_of_tickets(order="relaxed", seed=1, late=True)
    assert found != expected


def test_programs_run_in_an_order_of_the_seed() -> None:
    orders = []
    for seed in (None, 1, 1, 2):
        ranks = torch.zeros(9, dtype=torch.int32)
        with launches_go_to(lambda launch, seed=seed: emulator.run(launch, Freedom(seed))):
            _rank_kernel[(9,)](ranks, torch.zeros(1, dtype=torch.int32))
        orders.append(ranks.tolist())
    assert orders[0] == list(range(9))
    assert orders[1] == orders[2] != orders[3]
    assert sorted(orders[1]) == sorted(orders[3]) == orders[0]


@triton.jit
def _rank_kernel(ranks_ptr, counter_ptr):
    tl.store(ranks_ptr + tl.program_id(0), tl.atomic_add(counter_ptr, 1))


def test_accesses_beyond_a_tensor_are_found_out() -> None:
    a = torch.zeros(100, dtype=torch.int32)
    with pytest.raises(EmulatorError, match=r"_masked_kernel: 4 bytes at 0x[0-9a-f]+ are no tensor's, at 0x.* LDG"):
        _masked_kernel[(1,)](torch.zeros(256, dtype=torch.int32), a, 1, 101, SIZE=256)
    with pytest.raises(EmulatorError, match=r"are no tensor's, at 0x.* STG"):
        _masked_kernel[(1,)](a, torch.zeros(256, dtype=torch.int32), 1, 99, SIZE=256)


# --- counts -------------------------------------------------------------------------------------------------


def test_counts_are_of_what_was_run() -> None:
    a, out = torch.arange(256.0), torch.zeros(256)
    counts: list[emulator.Counts] = []

    def sink(launch: Launch) -> None:
        counts.append(emulator.run(launch, counting=True))

    with launches_go_to(sink):
        _conversion_kernel[(1,)](out, a, SIZE=256, num_warps=2)
        _loop_kernel[(4, 3)](torch.zeros(12, dtype=torch.int32), torch.arange(12, dtype=torch.int32), SIZE=64)
    copied, looped = counts
    loads = [each for each in copied.instructions if each.opcode == "LDG"]
    assert sum(int(copied.requests[each.index]) for each in loads) == 2 * len(loads)  # of two warps
    assert sum(int(copied.sectors[each.index]) for each in loads) == 256 * 4 // 32
    assert copied.first_bytes == 2 * 256 * 4
    assert copied.cycles[0] > copied.last_read[0] + 600
    assert len(looped.cycles) == 12
    assert looped.cycles[11] > looped.cycles[2]
    assert int(looped.issued.sum()) > 12 * 10


def test_a_case_of_a_suite_is_counted_and_predicted() -> None:
    suite, case = next(predict.cases("decode W4 float32"))
    (work,) = predict.work_of(suite, case)
    assert (work.kernel, work.programs) == ("_decode_fwd_kernel", case.workload.num_maps)
    bytes_of_case = suite.num_bytes(case)
    assert bytes_of_case <= work.memory_bytes < 1.1 * bytes_of_case
    assert len(work.cycles) in (1, work.programs)
    assert 1e-6 < predict.seconds_of(case, [work]) < 1e-5


def test_what_is_not_counted_is_run_for_the_next_launch() -> None:
    """A launch of so many programs is counted by its first ones."""
    keypoints = 10 * torch.rand(40, 17, 2, generator=torch.Generator().manual_seed(1))
    launched: list[Launch] = []

    def run(launch: Launch) -> None:
        launched.append(launch)
        work = counts.count(launch)
        assert work.programs == 680 > len(work.cycles)
        counts.finish(launch)

    with launches_go_to(run):
        maps, _ = dark_kernels.encode(keypoints, (16, 12), 2.0, backend="triton")
    assert len(launched) == 1
    torch.testing.assert_close(maps, dark_kernels.encode(keypoints, (16, 12), 2.0, backend="eager")[0])
