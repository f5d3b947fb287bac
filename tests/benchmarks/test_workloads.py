"""The workloads, the rotation of inputs, and how times are taken."""

from __future__ import annotations

import itertools
import os
from pathlib import Path
from typing import NamedTuple

import pytest
import torch

from benchmarks import measure, run, workloads
from benchmarks.workloads import Workload

SMALL = Workload("W1", (2, 3, 40, 30), "a small one")


@pytest.fixture(autouse=True)
def _small(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(workloads, "ALL", (SMALL,))


@pytest.mark.parametrize("values", ["blobs", "real", "noise"])
@pytest.mark.parametrize("dtype", list(workloads.DTYPES.values()), ids=str)
@pytest.mark.parametrize("memory_format", ["contiguous", "channels_last"])
def test_maps_are_what_was_asked_for(values: str, dtype: torch.dtype, memory_format: str) -> None:
    maps = workloads.make_heatmaps(SMALL, dtype, memory_format, values)  # type: ignore[arg-type]
    assert maps.shape == SMALL.shape
    assert maps.dtype == dtype
    assert maps.is_contiguous(
        memory_format=getattr(
            torch,
            f"{memory_format}_format"
            if memory_format[0] == "z"
            else memory_format
            if memory_format == "channels_last"
            else "contiguous_format",
        )
    )
    assert maps.isfinite().all()
    again = workloads.make_heatmaps(SMALL, dtype, memory_format, values)  # type: ignore[arg-type]
    assert torch.equal(maps, again)
    if values != "real":
        other = workloads.make_heatmaps(SMALL, dtype, memory_format, values, seed=1)  # type: ignore[arg-type]
        assert not torch.equal(maps, other)


def test_unknown_values_are_refused() -> None:
    with pytest.raises(ValueError, match="zeros"):
        workloads.make_heatmaps(SMALL, values="zeros")  # type: ignore[arg-type]


def test_bytes_of_a_workload() -> None:
    elements = 2 * 3 * 40 * 30
    assert SMALL.input_bytes(torch.float16) == 2 * elements
    assert SMALL.decode_bytes(torch.float32) == 4 * elements + 6 * 12
    assert SMALL.decode_bytes(torch.float32, covariance=True) == 4 * elements + 6 * 28


def test_rotated_inputs_leave_the_cache_and_keep_strides() -> None:
    maps = workloads.make_heatmaps(SMALL, memory_format="channels_last")
    copies = workloads.rotated_inputs(maps, cache_bytes=2 * maps.numel() * 4)
    assert len(copies) == 4
    assert len({copy.data_ptr() for copy in copies}) == 4
    assert all(torch.equal(copy, maps) and copy.stride() == maps.stride() for copy in copies)
    assert len(workloads.rotated_inputs(maps, cache_bytes=1)) == 1
    setup = measure.rotation(copies)
    assert [setup()[0][0].data_ptr() for _ in range(5)] == [copies[i % 4].data_ptr() for i in range(5)]


class Arguments(NamedTuple):
    maps: torch.Tensor
    ids: torch.Tensor
    mask: torch.Tensor | None = None


def test_tuples_of_tensors_are_rotated_and_doubled() -> None:
    maps = torch.rand(4, 8).t().requires_grad_()
    arguments = Arguments(maps, torch.arange(16))
    num_bytes = 32 * 4 + 16 * 8
    first, *copies = workloads.rotated_inputs(arguments, cache_bytes=num_bytes)
    assert first is arguments
    assert len(copies) == 1
    for other in (*copies, workloads.doubled(arguments)):
        assert isinstance(other, Arguments)
        assert other.maps.data_ptr() != maps.data_ptr()
        assert other.maps.is_leaf
        assert other.maps.requires_grad
        assert other.maps.stride() == maps.stride()
        assert torch.equal(other.ids, arguments.ids)
        assert other.mask is None
        torch.testing.assert_close(other.maps, maps, check_dtype=False)
    assert workloads.doubled(arguments).maps.dtype == torch.float64
    assert len(workloads.rotated_inputs(arguments, cache_bytes=num_bytes, num_bytes=num_bytes // 4)) == 8


def test_maps_are_spread_evenly() -> None:
    batch = torch.arange(3 * 5 * 2).view(3, 5, 2)
    assert torch.equal(workloads.spread(batch, 100), batch.view(1, 15, 2))
    assert workloads.spread(batch, 3)[0, :, 0].tolist() == [0, 14, 28]


def test_rounds_keep_to_a_budget() -> None:
    assert measure.rounds_for(1.0, budget=10) == 10
    assert measure.rounds_for(100.0, budget=10, fewest=2) == 2
    assert measure.rounds_for(1e-9, most=50) == 50


def test_a_replay_is_whole_turns_of_the_inputs_and_long_enough() -> None:
    assert measure.calls_for(1e-3, num_inputs=3) == 3
    assert measure.calls_for(1e-4, num_inputs=3) == 21
    assert measure.calls_for(1.0, num_inputs=16) == 16
    assert measure.calls_for(0.0, num_inputs=7) % 7 == 0
    assert measure.calls_for(0.0, num_inputs=7) <= 2000


def test_cache_of_this_cpu() -> None:
    assert measure.cache_bytes("cpu") >= 256 * 1024


def test_commit_outside_of_git_is_unknown(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("GIT_CEILING_DIRECTORIES", os.fspath(tmp_path.parent))
    assert run.commit_of(tmp_path) == "unknown"


@pytest.mark.parametrize("memory_format", ["contiguous", "channels_last"])
@pytest.mark.parametrize("dtype", ["float32", "float16"])
def test_the_read_only_kernel_reads_every_element(dtype: str, memory_format: str, device: torch.device) -> None:
    pytest.importorskip("triton", reason="the read-only kernel needs triton")
    from benchmarks import kernels

    maps = workloads.make_heatmaps(SMALL, workloads.DTYPES[dtype], memory_format, device=device.type)  # type: ignore[arg-type]
    largest = torch.full(SMALL.shape[:2], float("nan"), device=device)
    kernels.read_maps(largest, maps)
    in_memory = maps.as_strided((maps.numel(),), (1,)).view(*SMALL.shape[:2], -1)
    assert torch.equal(largest, in_memory.amax(-1).float())


def test_the_empty_kernel_touches_nothing(device: torch.device) -> None:
    pytest.importorskip("triton", reason="the empty kernel needs triton")
    from benchmarks import kernels

    untouched = torch.full((3,), float("nan"), device=device)
    kernels.launch_nothing(untouched, 5)
    assert untouched.isnan().all()


@pytest.mark.gpu
def test_a_replay_keeps_outputs_apart(gpu: torch.device) -> None:
    """Outputs rotate as inputs do: none is where the last one was."""
    addresses = []

    def call(values: torch.Tensor) -> torch.Tensor:
        output = values + 1
        addresses.append(output.data_ptr())
        return output

    inputs = [torch.zeros(4096, device=gpu) for _ in range(3)]
    replay = measure.GraphReplay(call, inputs)
    captured = addresses[-replay.calls :]
    assert len(set(captured)) >= 3
    assert all(first != second for first, second in itertools.pairwise(captured))


@pytest.mark.gpu
def test_a_replay_holds_whole_turns_of_the_inputs(gpu: torch.device) -> None:
    inputs = [torch.full((4,), float(i), device=gpu) for i in range(3)]
    total = torch.zeros(4, device=gpu)
    replay = measure.GraphReplay(total.add_, inputs)
    assert replay.calls % 3 == 0
    total.zero_()
    replay()
    assert total.tolist() == [replay.calls / 3 * (0 + 1 + 2)] * 4
    assert measure.host_seconds(total.add_, inputs[0]) > 0
