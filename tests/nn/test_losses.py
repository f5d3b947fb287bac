"""The losses with their options held: those of the functions."""

from __future__ import annotations

import inspect
from typing import Any

import pytest
import torch

import dark_kernels
from dark_kernels import gaussian_nll
from dark_kernels.nn import (
    DARKLoss,
    HeatmapAdaptiveWingLoss,
    HeatmapCrossEntropyLoss,
    HeatmapFocalLoss,
    HeatmapJSLoss,
    HeatmapMSELoss,
)

from .cases import B, H, K, W, make

# --- of distributions ------------------------------------------------------------------------------------


def test_dark_loss_is_the_function() -> None:
    _, _, target = make()
    mean, log_var = torch.randn(B, K, 2, H, W), torch.randn(B, K, 2, H, W)
    weight = torch.rand(B, K)
    options: dict[str, Any] = {
        "stride": 5.0, "coordinates": "offset", "distribution": "laplace", "beta": 0.3, "log_var_bounds": (-1.0, 1.0),
        "full": True, "reduction": "sum", "backend": "eager",
    }  # fmt: skip
    loss = DARKLoss(**options)
    assert torch.equal(loss(mean, log_var, target), gaussian_nll(mean, log_var, target, **options))
    assert torch.equal(
        loss(mean, log_var, target, weight, fixed_log_var=0.5),
        gaussian_nll(mean, log_var, target, weight=weight, fixed_log_var=0.5, **options),
    )


def test_dark_loss_holds_every_option_with_the_functions_default() -> None:
    held = inspect.signature(DARKLoss).parameters
    given = inspect.signature(DARKLoss.forward).parameters
    for name, parameter in inspect.signature(gaussian_nll).parameters.items():
        assert (name in held) != (name in given)
        if name in held:
            assert held[name].default == parameter.default


def test_repr() -> None:
    assert repr(DARKLoss(reduction="sum")) == (
        "DARKLoss(stride=4.0, coordinates='absolute', distribution='gaussian', beta=0.0, log_var_bounds=None, "
        "full=False, reduction='sum', backend='auto')"
    )


def test_head_and_loss_agree_by_default() -> None:
    head, features, target = make()
    torch.testing.assert_close(DARKLoss()(*head(features), target), head.loss(features, target))


@pytest.mark.parametrize(
    ("error", "message", "options"),
    [
        (ValueError, "stride: got -4, expected a positive", {"stride": -4}),
        (ValueError, "beta: got 2, expected 0 <= beta <= 1", {"beta": 2}),
        (ValueError, "reduction: got 'avg', expected one of", {"reduction": "avg"}),
        (ValueError, "backend: got 'cuda', expected one of", {"backend": "cuda"}),
        (TypeError, "log_var_bounds: got 7, expected", {"log_var_bounds": 7}),
    ],
)
def test_bad_options_of_the_loss(error: type[Exception], message: str, options: dict[str, Any]) -> None:
    with pytest.raises(error, match=message):
        DARKLoss(**options)


def test_a_loss_for_a_device_that_is_not_here_can_be_made() -> None:
    """The backend's name is checked, and whether it serves only when it is called."""
    DARKLoss(backend="triton")


# --- of heatmaps -----------------------------------------------------------------------------------------

HEATMAP_LOSSES = {
    HeatmapMSELoss: (dark_kernels.heatmap_mse, {"weighting": "hrnet", "topk": 2}),
    HeatmapAdaptiveWingLoss: (
        dark_kernels.heatmap_adaptive_wing, {"alpha": 2.3, "omega": 3.0, "epsilon": 0.5, "theta": 0.2},
    ),
    HeatmapFocalLoss: (dark_kernels.heatmap_focal, {"empty": "zero"}),
    HeatmapCrossEntropyLoss: (dark_kernels.heatmap_cross_entropy, {}),
    HeatmapJSLoss: (dark_kernels.heatmap_js, {}),
}  # fmt: skip
EVERY_HEATMAP_LOSS = pytest.mark.parametrize("module", HEATMAP_LOSSES, ids=lambda module: module.__name__)


@EVERY_HEATMAP_LOSS
def test_heatmap_loss_is_the_function(module: Any) -> None:
    function, options = HEATMAP_LOSSES[module]
    options = {**options, "encoding": "udp", "reduction": "sum", "backend": "eager"}
    heatmaps, keypoints = torch.rand(B, K, H, W), torch.rand(B, 2, K, 2) * 4
    visible, weight = torch.rand(B, 2, K), torch.rand(B, K)
    for sigma in (1.5, [1.0, 2.0, 1.5], torch.tensor([1.0, 2.0, 1.5])):
        loss = module(sigma, **options)
        held = torch.tensor(sigma) if isinstance(sigma, list) else sigma
        expected = function(heatmaps, keypoints, sigma=held, visible=visible, weight=weight, **options)
        assert torch.equal(loss(heatmaps, keypoints, visible, weight), expected)
    assert list(loss.state_dict()) == []
    assert loss.to(torch.device("meta")).sigma.is_meta
    assert "sigma=1.5, encoding='unbiased'" in repr(module(1.5, encoding="unbiased"))


@EVERY_HEATMAP_LOSS
def test_heatmap_losses_hold_every_option_with_the_functions_default(module: Any) -> None:
    held = inspect.signature(module).parameters
    given = inspect.signature(module.forward).parameters
    for name, parameter in inspect.signature(HEATMAP_LOSSES[module][0]).parameters.items():
        assert (name in held) != (name in given)
        if name in held:
            assert held[name].default == parameter.default
        assert f"{name}" in module.__doc__ or name in given


@EVERY_HEATMAP_LOSS
def test_bad_options_of_heatmap_losses(module: Any) -> None:
    """When the module is made. Whether the backend serves is checked only when it is called."""
    for options, message in (
        ({"sigma": 0}, "sigma: got 0, expected a positive"),
        ({"sigma": [1.0, -1.0]}, "sigma: got -1.0, expected a positive"),
        ({"sigma": torch.ones(2, 2)}, r"sigma: got shape \[2, 2\], expected 1 dimensions"),
        ({"encoding": "msra"}, "encoding: got 'msra'"),
        ({"reduction": "avg"}, "reduction: got 'avg'"),
        ({"backend": "cuda"}, "backend: got 'cuda'"),
    ):
        with pytest.raises(ValueError, match=message):
            module(**options)
    module(backend="triton")
    with torch.device("meta"):
        module()


def test_mining_of_more_keypoints_than_one() -> None:
    assert "topk=8" in repr(HeatmapMSELoss(topk=8, weighting="hrnet"))
    with pytest.raises(ValueError, match="topk: got 0"):
        HeatmapMSELoss(topk=0)
