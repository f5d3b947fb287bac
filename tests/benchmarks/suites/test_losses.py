"""encode and the losses: outputs that are wrong are found, and bytes are those of the gradients."""

from __future__ import annotations

import dataclasses

import pytest
import torch

from benchmarks import suite
from benchmarks.suites import encode, heatmap_loss, nll
from benchmarks.workloads import W1, W2
from tests.benchmarks.suites.small import assert_wrong, case_named, group_of, run

# --- encode -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("encoding", "dtype"), [("unbiased", "float32"), ("biased", "float32"), ("udp", "float16")])
@pytest.mark.parametrize("name", [encode.OURS, suite.REFERENCE, encode.NUMPY])
def test_wrong_maps_and_weights_are_found(name: str, encoding: str, dtype: str) -> None:
    if name == encode.NUMPY and encoding == "udp":
        encoding, dtype = "unbiased", "float32"
    row, output = run(group_of(encode.SUITE, encode.case_of(W1, encoding, dtype=dtype)), name)
    assert row.bytes == 2 * 3 * 40 * 30 * (2 if dtype == "float16" else 4)
    for wrong in ((output[0] + 1e-3, output[1]), (output[0], output[1] - 1e-3)):
        assert_wrong(row, wrong, r"maps or weights are off by up to 0\.00")


def test_keypoints_are_inside_of_their_maps() -> None:
    """Every window of the data loader's way reaches into its map, and every weight is 1."""
    keypoints, *others = group_of(encode.SUITE, encode.case_of(W1, "biased")).inputs
    assert others
    assert bool((keypoints >= 0).all())
    assert bool((keypoints < torch.tensor([30, 40])).all())


# --- losses at keypoints ------------------------------------------------------------------------------------

LOSS_ROWS = [
    ("gaussian_nll", "gaussian_nll"),
    ("gaussian_nll", suite.REFERENCE),
    ("gaussian_nll", nll.LOOP),
    ("linear_gaussian_nll", "linear_gaussian_nll"),
    ("linear_gaussian_nll", suite.REFERENCE),
    ("linear_gaussian_nll", nll.CONV_REFERENCE),
    ("linear_gaussian_nll", nll.CONV_OURS),
    ("gaussian_mixture_nll", "gaussian_mixture_nll"),
    ("gaussian_mixture_nll", suite.REFERENCE),
]


@pytest.mark.parametrize(("function", "name"), LOSS_ROWS)
@pytest.mark.parametrize("dtype", ["float32", "float16"])
@pytest.mark.parametrize("backward", [True, False])
def test_losses_are_those_of_the_reference(function: str, name: str, dtype: str, backward: bool) -> None:
    row, output = run(group_of(nll.SUITE, nll.case_of(function, W1, (), dtype, backward)), name)
    assert len(output) == (1 if not backward else 3 if function == "gaussian_nll" else 4)
    for i in range(len(output)):
        wrong = [each * (1.1 if i == j else 1) for j, each in enumerate(output)]
        assert_wrong(row, tuple(wrong), "the loss is off" if i == 0 else "gradient is off")


def test_some_targets_are_outside_and_most_are_not() -> None:
    case = group_of(nll.SUITE, nll.case_of("gaussian_nll", W1, ()), shape=(16, 17, 40, 30)).case
    target = nll.make_arguments(case, "cpu").target / nll.STRIDE
    inside = (target >= 0).all(-1) & (target < torch.tensor([30, 40])).all(-1)
    assert 0.7 < inside.float().mean() < 0.95


@pytest.mark.parametrize("function", ["gaussian_nll", "linear_gaussian_nll", "gaussian_mixture_nll"])
@pytest.mark.parametrize("dtype", ["float32", "float16"])
def test_the_floor_writes_as_many_bytes_as_the_gradients_have(function: str, dtype: str) -> None:
    group = group_of(nll.SUITE, nll.case_of(function, W1, (), dtype))
    wanted = sum(tensor.numel() * tensor.itemsize for tensor in group.inputs[0] if tensor.requires_grad)
    assert nll.gradient_bytes(group.case) == wanted
    row, written = run(group, nll.FILL)
    assert written.numel() * written.itemsize == row.bytes
    assert wanted <= row.bytes < wanted + 4
    assert nll.step_bytes(group.case) > wanted
    forward = dataclasses.replace(group.case, operation=f"{function} forward")
    assert nll.step_bytes(forward) < wanted


# --- heatmap losses -----------------------------------------------------------------------------------------

HEATMAP_ROWS = [
    *((function, encoding, function) for function in heatmap_loss.FUNCTIONS for encoding in ("unbiased", "biased")),
    ("heatmap_mse", "unbiased", suite.REFERENCE),
    ("heatmap_mse", "unbiased", heatmap_loss.NUMPY),
    ("heatmap_mse", "biased", heatmap_loss.NUMPY),
]


@pytest.mark.parametrize(("function", "encoding", "name"), HEATMAP_ROWS)
@pytest.mark.parametrize("dtype", ["float32", "float16"])
def test_heatmap_losses_are_those_of_the_reference(function: str, encoding: str, name: str, dtype: str) -> None:
    group = group_of(heatmap_loss.SUITE, heatmap_loss.case_of(function, W2, (), dtype, encoding))
    row, (loss, gradient) = run(group, name)
    for wrong, message in (((loss * 1.1, gradient), "the loss is off"), ((loss, gradient * 1.1), "gradient is off")):
        assert_wrong(row, wrong, message)


def test_the_floor_of_a_heatmap_loss_moves_the_maps_three_times() -> None:
    group = group_of(heatmap_loss.SUITE, heatmap_loss.case_of("heatmap_mse", W2, (), "float16"))
    row, _ = run(group, heatmap_loss.FLOOR)
    assert row.bytes == 3 * group.inputs[0].heatmaps.numel() * 2


def test_a_forward_pass_has_no_floor_on_a_cpu() -> None:
    case = case_named(nll.SUITE, "gaussian_nll forward W1 float32")
    assert nll.SUITE.rows_of(case, "cpu") == ["gaussian_nll", suite.REFERENCE]
    assert nll.SUITE.rows_of(case, "cuda") == [suite.EMPTY, "gaussian_nll", suite.REFERENCE]


def test_rows_of_ours_are_named_after_their_function() -> None:
    for each in (nll.SUITE, heatmap_loss.SUITE):
        for device in suite.DEVICES:
            for case in each.cases[device]:
                assert [name for name in case.rows if each.rows[name].role == "ours"] == [case.function]
