"""Rows of encode on maps small enough for a test: outputs are compared with the truth."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import torch
from benchmarks.test_encode import Case

from benchmarks import peers, test_encode
from benchmarks.workloads import Workload

SMALL = Workload("W1", (2, 3, 24, 20), "a small one")
FLOORS = (test_encode.FILL, test_encode.EMPTY)
CASES = [
    (case, name)
    for case in (Case(SMALL, "unbiased"), Case(SMALL, "biased"), Case(SMALL, "udp"), Case(SMALL, "udp", "float16"))
    for name in test_encode._rows_of(case, "cuda")
]


@pytest.fixture(autouse=True)
def _small() -> Iterator[None]:
    yield
    test_encode.inputs_of.cache_clear()
    test_encode._truth.cache_clear()


ON_CPU = [(case, name) for case, name in CASES if name != test_encode.EMPTY]


@pytest.mark.parametrize(("case", "name"), ON_CPU)
def test_rows_compare_their_output(case: Case, name: str) -> None:
    made = test_encode.ROWS[name](case, "cpu")
    output = made.call(test_encode.inputs_of(case, "cpu")[0])
    made.compare(output)
    assert made.bytes == case.num_bytes == 2 * 3 * 24 * 20 * (2 if case.dtype == "float16" else 4)
    if name not in FLOORS:
        for wrong in ((output[0] + 1e-3, output[1]), (output[0], output[1] - 1e-3)):
            with pytest.raises(peers.Wrong, match=r"maps or weights are off by up to 0\.00"):
                made.compare(wrong)


@pytest.mark.gpu
@pytest.mark.parametrize(("case", "name"), CASES)
def test_rows_on_a_gpu(case: Case, name: str, gpu: torch.device) -> None:
    made = test_encode.ROWS[name](case, gpu.type)
    made.compare(made.call(test_encode.inputs_of(case, gpu.type)[0]))


def test_inputs_are_inside_of_their_maps() -> None:
    """Every window of the data loader's way reaches into its map, and every weight is 1."""
    (keypoints, *others) = test_encode.inputs_of(Case(SMALL, "biased"), "cpu")
    assert others
    assert bool((keypoints >= 0).all())
    assert bool((keypoints < torch.tensor([20, 24])).all())
