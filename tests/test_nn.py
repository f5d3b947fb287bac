"""The modules: a head whose loss is that of its maps, its distributions at cells, the schedule, two stages."""

from __future__ import annotations

import copy
import doctest
import inspect
import math
from typing import Any

import pytest
import torch
from torch import Tensor

import dark_kernels
from dark_kernels import decode, gaussian_nll, linear_gaussian_nll, nn, recipes, soft_argmax
from dark_kernels.nn import (
    DARKHead,
    DARKLoss,
    HeatmapAdaptiveWingLoss,
    HeatmapCrossEntropyLoss,
    HeatmapFocalLoss,
    HeatmapJSLoss,
    HeatmapMSELoss,
    SoftArgmax,
    TwoStageDecoder,
    VarianceSchedule,
)

B, C, K, H, W = 2, 5, 3, 4, 6
STRIDE = 4.0
FORMS = [
    pytest.param({"covariance": "isotropic"}, id="isotropic"),
    pytest.param({"covariance": "diagonal", "coordinates": "offset"}, id="diagonal-offset"),
    pytest.param({"covariance": "full"}, id="full"),
    pytest.param({"covariance": "full", "coordinates": "offset", "log_var_bounds": (-0.3, 0.4)}, id="full-bounds"),
    pytest.param({"covariance": "diagonal", "distribution": "laplace"}, id="laplace"),
    pytest.param({"log_var_bounds": (-0.3, 0.4)}, id="isotropic-bounds"),
]
OPTIONS: dict[str, Any] = {"beta": 0.5, "full": True, "reduction": "none"}


def make(
    device: torch.device | str = "cpu", dtype: torch.dtype = torch.float32, **options: Any
) -> tuple[DARKHead, Tensor, Tensor]:
    """A head with random parameters, features and targets. The last target is outside the map."""
    generator = torch.Generator().manual_seed(0)
    head = DARKHead(C, K, stride=STRIDE, **options)
    with torch.no_grad():
        for parameter in head.parameters():
            parameter.copy_(torch.randn(parameter.shape, generator=generator) / 2)
    features = torch.randn(B, C, H, W, generator=generator)
    target = torch.rand(B, K, 2, generator=generator) * torch.tensor([W, H]) * STRIDE
    target[-1, -1] = -1.0
    return head.to(device, dtype), features.to(device, dtype), target.to(device, dtype)


# --- the head: its maps and its loss ---------------------------------------------------------------------


@pytest.mark.parametrize("options", FORMS)
def test_loss_is_that_of_the_maps(options: dict[str, Any], device: torch.device) -> None:
    """Value and gradients, in float64: the fused way against maps and `gaussian_nll`."""
    head, features, target = make(device, torch.float64, **options)
    features.requires_grad_()
    weight = torch.tensor([[1.0, 2.0, 0.5], [0.0, 1.0, 1.0]], device=device)
    shared = {name: getattr(head, name) for name in ("stride", "coordinates", "distribution", "log_var_bounds")}
    variables = (features, *head.parameters())
    fused = head.loss(features, target, keypoint_weight=weight, **OPTIONS)
    of_maps = gaussian_nll(*head(features), target, weight=weight, **shared, **OPTIONS)
    torch.testing.assert_close(fused, of_maps)
    assert fused[-1, -1] == 0
    for one, other in zip(
        torch.autograd.grad(fused.sum(), variables), torch.autograd.grad(of_maps.sum(), variables), strict=True
    ):
        torch.testing.assert_close(one, other)


@pytest.mark.parametrize("options", FORMS)
def test_loss_is_the_function(options: dict[str, Any]) -> None:
    head, features, target = make(**options)
    shared = {name: getattr(head, name) for name in ("stride", "coordinates", "distribution", "log_var_bounds")}
    for fixed_log_var in (None, 0.7):
        expected = linear_gaussian_nll(
            features, head.weight, head.bias, target, fixed_log_var=fixed_log_var, **shared, **OPTIONS
        )
        assert torch.equal(head.loss(features, target, fixed_log_var=fixed_log_var, **OPTIONS), expected)


def test_every_option_of_the_function_is_the_heads_or_the_losses() -> None:
    of_function = set(inspect.signature(linear_gaussian_nll).parameters) - {"features", "weight", "bias", "target"}
    of_loss = set(inspect.signature(DARKHead.loss).parameters)
    of_head = set(inspect.signature(DARKHead).parameters)
    assert of_function <= of_loss | of_head
    assert not of_loss & of_head, "one of the two has to say it"


def test_channels_are_all_means_then_all_variances() -> None:
    head, features, _ = make(covariance="full")
    maps = torch.nn.functional.conv2d(features, head.weight, head.bias)
    mean, log_var = head(features)
    assert mean.shape == (B, K, 2, H, W)
    assert log_var.shape == (B, K, 3, H, W)
    for k in range(K):
        assert torch.equal(mean[:, k, 1], maps[:, 2 * k + 1])
        assert torch.equal(log_var[:, k, 2], maps[:, 2 * K + 3 * k + 2])


@pytest.mark.parametrize(
    ("options", "start", "variance"),
    [
        ({}, [math.log(16)], 16.0),
        ({"initial_log_var": 1.5}, [1.5], math.exp(1.5)),
        ({"initial_log_var": 1, "covariance": "diagonal"}, [1.0, 1.0], math.e),
        ({"initial_log_var": 1.5, "covariance": "full"}, [0.75, 0.0, 0.75], math.exp(1.5)),
        ({"distribution": "laplace"}, [math.log(4)], 32.0),  # 2 b^2
        ({"initial_log_var": -40.0, "covariance": "full"}, [-20.0, 0.0, -20.0], math.exp(-40)),
    ],
)
def test_the_start_is_the_chosen_variance_everywhere(
    options: dict[str, Any], start: list[float], variance: float
) -> None:
    head = DARKHead(C, K, stride=4.0, **options)
    features = torch.randn(B, C, H, W) * 100
    expected = torch.tensor(start)[:, None, None].expand(B, K, -1, H, W)
    torch.testing.assert_close(head(features)[1], expected, rtol=1e-6, atol=0)
    covariances = head.at(features, torch.ones(B, K, 2))[1]
    torch.testing.assert_close(covariances, torch.eye(2).expand(B, K, 2, 2) * variance, rtol=1e-5, atol=0)


def test_the_variance_can_leave_its_start() -> None:
    """A weight of 0 has a gradient all the same."""
    head, features, target = DARKHead(C, K), *make()[1:]
    head.loss(features, target, reduction="mean_valid").backward()
    assert bool((head.weight.grad[2 * K :] != 0).any())  # type: ignore[index]


# --- the head: read elsewhere than at the target ----------------------------------------------------------


@pytest.mark.parametrize("options", FORMS)
def test_reading_at_the_target_is_the_loss(options: dict[str, Any], device: torch.device) -> None:
    """Value and gradients, with all that the loss takes."""
    head, features, target = make(device, torch.float64, **options)
    features.requires_grad_()
    variables = (features, *head.parameters())
    given: dict[str, Any] = {**OPTIONS, "keypoint_weight": torch.rand(B, K, device=device)}
    for fixed_log_var in (None, 0.7):
        expected = head.loss(features, target, fixed_log_var=fixed_log_var, **given)
        actual = head.loss(features, target, fixed_log_var=fixed_log_var, at=target, **given)
        # The detour over the cell's centre rounds once more, of numbers up to 72.
        torch.testing.assert_close(actual, expected, rtol=1e-9, atol=1e-9)
        for one, other in zip(
            torch.autograd.grad(actual.sum(), variables, allow_unused=True),
            torch.autograd.grad(expected.sum(), variables, allow_unused=True),
            strict=True,
        ):
            torch.testing.assert_close(one, other, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("options", FORMS[:4])
def test_reading_elsewhere_is_the_density_there(options: dict[str, Any]) -> None:
    """However far the target is: from one corner of the map to the other."""
    head, features, target = make(dtype=torch.float64, **options)
    with torch.no_grad():
        head.bias.add_(0.5)  # no variance so small that the density has no digits left
    at = torch.tensor([[0.0, 0.0], [W * STRIDE - 1, H * STRIDE - 1], [W * STRIDE - 1, 0.0]]).expand(B, K, 2)
    target[0] = W * STRIDE - 1 - at[0].double()
    target[0, :, 1] = H * STRIDE - 1 - at[0, :, 1].double()
    means, covariances = head.at(features, at)
    loss = head.loss(features, target, full=True, reduction="none", at=at)
    density = torch.distributions.MultivariateNormal(means, covariances).log_prob(target)
    valid = torch.ones(B, K, dtype=torch.bool)
    valid[-1, -1] = False  # a target outside the image
    torch.testing.assert_close(loss[valid], -density[valid], rtol=1e-9, atol=1e-9)
    assert loss[-1, -1] == 0


@pytest.mark.parametrize("elsewhere", [math.nan, -1.0, W * STRIDE, math.inf])
def test_nothing_is_read_outside_the_map(elsewhere: float) -> None:
    head, features, target = make()
    features[:, :, 0, 0] = math.nan  # which stands in for it
    at = torch.full((B, K, 2), 6.0)
    at[0, 0] = elsewhere
    loss = head.loss(features, target, reduction="none", at=at)
    assert loss[0, 0] == 0
    assert bool((loss[0, 1:] != 0).all())
    loss.sum().backward()
    for parameter in head.parameters():
        assert bool(parameter.grad.isfinite().all())  # type: ignore[union-attr]


@pytest.mark.parametrize("dynamic", [None, True])
def test_reading_elsewhere_compiles(dynamic: bool | None) -> None:
    torch._dynamo.reset()
    head, features, target = make(covariance="full")

    def loss(features: Tensor, target: Tensor, at: Tensor) -> Tensor:
        return head.loss(features, target, at=at, reduction="mean_valid")

    compiled = torch.compile(loss, fullgraph=True, backend="aot_eager", dynamic=dynamic)
    for size in (1, 2):
        larger = features.repeat(1, 1, size, size)
        torch.testing.assert_close(compiled(larger, target, target.flip(1)), loss(larger, target, target.flip(1)))


# --- the head: as a module -------------------------------------------------------------------------------


def test_state_dict_is_a_convolutions() -> None:
    head, features, target = make(covariance="full", coordinates="offset")
    convolution = torch.nn.Conv2d(C, K * 5, 1)
    convolution.load_state_dict(head.state_dict())
    other = DARKHead(C, K, "full", coordinates="offset")
    other.load_state_dict(convolution.state_dict())
    assert torch.equal(other.loss(features, target), head.loss(features, target))
    assert torch.equal(copy.deepcopy(head).loss(features, target), head.loss(features, target))


def test_dtype_and_device() -> None:
    head = DARKHead(C, K, dtype=torch.float64, device="meta")
    assert {(parameter.dtype, parameter.device.type) for parameter in head.parameters()} == {(torch.float64, "meta")}
    with torch.device("meta"):
        assert DARKHead(C, K).weight.is_meta
        DARKLoss()


def test_repr() -> None:
    assert repr(DARKHead(C, K, "full", coordinates="offset", log_var_bounds=(-7, 7))) == (
        "DARKHead(5, 3, covariance='full', stride=4, initial_log_var=None, coordinates='offset', "
        "log_var_bounds=(-7, 7))"
    )
    assert "distribution='laplace'" in repr(DARKHead(C, K, distribution="laplace"))
    assert "reduction='sum'" in repr(DARKLoss(reduction="sum"))
    assert "heatmap_stride=4" in repr(TwoStageDecoder(torch.nn.Identity(), DARKHead(C, K)))
    assert repr(VarianceSchedule(2.0, 10)) == "VarianceSchedule(fixed_log_var=2, steps=10), 0 done"


@pytest.mark.parametrize("options", FORMS[:3])
def test_channels_last(options: dict[str, Any], device: torch.device) -> None:
    head, features, target = make(device, **options)
    expected_loss, expected_at = head.loss(features, target), head.at(features, target)
    head, features = head.to(memory_format=torch.channels_last), features.to(memory_format=torch.channels_last)
    features.requires_grad_()
    loss = head.loss(features, target)
    torch.testing.assert_close(loss, expected_loss)
    loss.backward()
    assert features.grad.is_contiguous(memory_format=torch.channels_last)  # type: ignore[union-attr]
    for one, other in zip(head.at(features, target), expected_at, strict=True):
        torch.testing.assert_close(one, other, equal_nan=True)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16], ids=str)
def test_autocast(dtype: torch.dtype, device: torch.device) -> None:
    """Maps are of the low precision, as a convolution's; what is read at cells is not."""
    head, features, target = make(device)
    low = features.to(dtype)
    with torch.autocast(device.type, dtype):
        assert head(features)[0].dtype == dtype
        loss, (means, covariances) = head.loss(low, target), head.at(low, target)
    assert loss.dtype == means.dtype == covariances.dtype == torch.float32
    expected = head.at(low.float(), target)
    torch.testing.assert_close(means, expected[0], equal_nan=True)
    torch.testing.assert_close(covariances, expected[1], equal_nan=True)
    torch.testing.assert_close(loss, head.loss(low.float(), target))
    with torch.autocast(device.type, dtype):
        elsewhere = head.loss(low, target, at=target.flip(1))
    torch.testing.assert_close(elsewhere, head.loss(low.float(), target, at=target.flip(1)))


@pytest.mark.parametrize("compiler", ["aot_eager", "inductor"])
def test_compiles_whole(compiler: str, device: torch.device) -> None:
    torch._dynamo.reset()
    head, features, target = make(device, covariance="full", coordinates="offset")

    def both(features: Tensor, target: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        return head.loss(features, target, reduction="mean_valid"), *head.at(features, target)

    expected = both(features, target)
    gradient = torch.autograd.grad(expected[0], head.weight)
    actual = torch.compile(both, fullgraph=True, backend=compiler)(features, target)
    for one, other in zip((*actual, *torch.autograd.grad(actual[0], head.weight)), (*expected, *gradient), strict=True):
        torch.testing.assert_close(one, other, equal_nan=True)


# --- the head: at cells ----------------------------------------------------------------------------------


@pytest.mark.parametrize("options", FORMS)
def test_at_reads_the_maps(options: dict[str, Any], device: torch.device) -> None:
    """Cell by cell, with the covariance written out."""
    head, features, coords = make(device, torch.float64, **options)
    means, covariances = head.at(features, coords)
    mean_maps, log_var_maps = head(features)
    low, high = head.log_var_bounds or (-math.inf, math.inf)
    for b in range(B):
        for k in range(K):
            column, row = (int(x // STRIDE) for x in coords[b, k].tolist())
            if not (0 <= column < W and 0 <= row < H):
                assert bool(means[b, k].isnan().all() and covariances[b, k].isnan().all())
                continue
            mean, log_var = mean_maps[b, k, :, row, column], log_var_maps[b, k, :, row, column]
            if head.coordinates == "offset":
                mean = mean + torch.tensor([(column + 0.5) * STRIDE, (row + 0.5) * STRIDE]).to(mean)
            torch.testing.assert_close(means[b, k], mean)
            if head.covariance == "full":
                a, b_, c = log_var
                a, c = a.clamp(low / 2, high / 2), c.clamp(low / 2, high / 2)
                factor = torch.stack([torch.stack([a.exp(), 0 * a]), torch.stack([b_, c.exp()])])
                expected = factor @ factor.T
            else:
                log_var = log_var.clamp(low, high).expand(2)
                variances = 2 * (2 * log_var).exp() if head.distribution == "laplace" else log_var.exp()
                expected = variances.diag()
            torch.testing.assert_close(covariances[b, k], expected)


@pytest.mark.parametrize("options", FORMS)
def test_at_says_what_the_loss_means(options: dict[str, Any]) -> None:
    """The loss is the negative log-density of the Gaussian with the mean and the covariance of `at`; Laplace's has
    the variance of the one that torch knows."""
    head, features, target = make(dtype=torch.float64, **options)
    means, covariances = head.at(features, target)
    loss = head.loss(features, target, full=True, reduction="none")[0]  # of the first image all are valid
    if head.distribution == "gaussian":
        density = torch.distributions.MultivariateNormal(means[0], covariances[0]).log_prob(target[0])
    else:
        variances = covariances[0].diagonal(dim1=-2, dim2=-1)
        density = torch.distributions.Laplace(means[0], (variances / 2).sqrt()).log_prob(target[0]).sum(-1)
    torch.testing.assert_close(loss, -density)


@pytest.mark.parametrize(
    ("x", "y", "inside"),
    [
        (0.0, 0.0, True),
        (math.nextafter(STRIDE * W, 0), math.nextafter(STRIDE * H, 0), True),
        (STRIDE * W, 0.0, False),
        (0.0, STRIDE * H, False),
        (-1e-6, 0.0, False),
        (0.0, -5.0, False),
        (math.nan, 0.0, False),
        (0.0, math.inf, False),
        (-math.inf, 0.0, False),
        (1e30, 1e30, False),
    ],
)
def test_at_is_nan_outside_the_map(x: float, y: float, inside: bool) -> None:
    head, features, coords = make(dtype=torch.float64)
    coords[0, 0] = torch.tensor([x, y], dtype=torch.float64)
    means, covariances = head.at(features, coords)
    for result in (means, covariances):
        assert bool(result[0, 0].isfinite().all()) == inside
        assert inside or bool(result[0, 0].isnan().all())
        assert bool(result[0, 1:].isfinite().all())


def test_at_has_gradients_and_an_invalid_cell_has_none() -> None:
    """Not even if the cell that stands in for it holds NaN."""
    head, features, coords = make()
    coords[:] = STRIDE * 1.5
    coords[0, 0] = -1.0
    features[:, :, 0, 0] = math.nan
    features.requires_grad_()
    means, covariances = head.at(features, coords)
    (means[0, 1:].sum() + covariances[0, 1:].sum()).backward()
    assert means[0, 0].isnan().all()
    for parameter in head.parameters():
        assert bool(parameter.grad.isfinite().all() and (parameter.grad != 0).any())  # type: ignore[union-attr]
    read = (features.grad != 0).any(1)  # type: ignore[union-attr]
    assert read.nonzero().tolist() == [[0, 1, 1]]


def test_inputs_are_not_written_to() -> None:
    head, features, target = make(coordinates="offset", log_var_bounds=(-0.1, 0.1))
    before = features.clone(), target.clone()
    head.loss(features, target)
    head.at(features, target)
    TwoStageDecoder(torch.nn.Conv2d(C, K, 1), head)(features)
    assert torch.equal(features, before[0])
    assert torch.equal(target, before[1])


@pytest.mark.parametrize(("batch", "num_keypoints"), [(0, K), (1, 1)])
def test_small_batches(batch: int, num_keypoints: int) -> None:
    head = DARKHead(C, num_keypoints)
    features, coords = torch.randn(batch, C, H, W), torch.ones(batch, num_keypoints, 2)
    assert [result.shape for result in head.at(features, coords)] == [
        (batch, num_keypoints, 2),
        (batch, num_keypoints, 2, 2),
    ]
    assert head.loss(features, coords).isfinite()


# --- errors ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("error", "message", "options"),
    [
        (ValueError, "covariance: got 'round', expected one of 'isotropic', 'diagonal', 'full'",
         {"covariance": "round"}),
        (ValueError, "stride: got 0, expected a positive", {"stride": 0}),
        (ValueError, "coordinates: got 'relative', expected one of", {"coordinates": "relative"}),
        (ValueError, "distribution: got 'normal', expected one of", {"distribution": "normal"}),
        (ValueError, "distribution: got 'laplace' with 3", {"distribution": "laplace", "covariance": "full"}),
        (ValueError, "log_var_bounds: got .*, expected low <= high", {"log_var_bounds": (1.0, -1.0)}),
        (ValueError, "initial_log_var: got inf, expected a finite number", {"initial_log_var": math.inf}),
        (TypeError, "initial_log_var: got str '1', expected a number", {"initial_log_var": "1"}),
        (ValueError, "in_channels: got 0, expected at least 1", {"in_channels": 0}),
        (TypeError, "num_keypoints: got float 17.0, expected an integer", {"num_keypoints": 17.0}),
    ],
)  # fmt: skip
def test_bad_options_of_the_head(error: type[Exception], message: str, options: dict[str, Any]) -> None:
    with pytest.raises(error, match=message):
        DARKHead(**{"in_channels": C, "num_keypoints": K, **options})


@pytest.mark.parametrize("call", ["forward", "loss", "at"])
@pytest.mark.parametrize(
    ("error", "message", "features"),
    [
        (
            ValueError,
            r"features: got shape \[2, 6, 4, 6\], expected \[B, C, H, W\] with C = 5",
            torch.zeros(B, 6, H, W),
        ),
        (ValueError, r"features: got shape \[5, 4, 6\], expected 4 dimensions \[B, C, H, W\]", torch.zeros(C, H, W)),
        (ValueError, r"features: got shape \[2, 5, 0, 6\], expected H >= 1", torch.zeros(B, C, 0, W)),
        (TypeError, "features: got torch.int64, expected one of torch.float16", torch.zeros(B, C, H, W).long()),
        (TypeError, "features: got builtins.NoneType, expected a torch.Tensor", None),
    ],
)
def test_bad_features(error: type[Exception], message: str, features: Any, call: str) -> None:
    head = DARKHead(C, K)
    with pytest.raises(error, match=message):
        head(features) if call == "forward" else getattr(head, call)(features, torch.ones(B, K, 2))


@pytest.mark.parametrize(("call", "name"), [("loss", "target"), ("at", "coords"), ("loss_at", "at")])
@pytest.mark.parametrize(
    ("error", "message", "points"),
    [
        (ValueError, r"got shape \[2, 4, 2\], expected \[2, 3, 2\]", torch.ones(B, 4, 2)),
        (ValueError, r"got shape \[3, 3, 2\], expected \[2, 3, 2\]", torch.ones(3, K, 2)),
        (ValueError, "got a tensor on meta, expected cpu, as features", torch.ones(B, K, 2, device="meta")),
        (TypeError, "got torch.int64, expected one of torch.float16", torch.ones(B, K, 2).long()),
    ],
)
def test_bad_points(error: type[Exception], message: str, points: Tensor, call: str, name: str) -> None:
    head, features = DARKHead(C, K), torch.zeros(B, C, H, W)
    with pytest.raises(error, match=f"{name}: {message}"):
        head.loss(features, torch.ones(B, K, 2), at=points) if call == "loss_at" else getattr(head, call)(
            features, points
        )


def test_another_number_of_keypoints_with_as_many_rows_is_refused() -> None:
    """5 keypoints of 3 channels have the rows of 3 keypoints of 5."""
    with pytest.raises(ValueError, match=r"target: got shape \[2, 3, 2\], expected \[2, 5, 2\]"):
        DARKHead(C, 5).loss(torch.zeros(B, C, H, W), torch.ones(B, 3, 2))


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


# --- DARKLoss --------------------------------------------------------------------------------------------


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


def test_head_and_loss_agree_by_default() -> None:
    head, features, target = make()
    torch.testing.assert_close(DARKLoss()(*head(features), target), head.loss(features, target))


# --- losses of heatmaps ----------------------------------------------------------------------------------

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


# --- the schedule ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("steps", [0, 1, 3])
def test_schedule_is_fixed_and_then_learned(steps: int) -> None:
    schedule = VarianceSchedule(2.0, steps)
    seen = []
    for _ in range(steps + 2):
        seen.append(schedule())
        schedule.step()
    assert seen == [2.0] * steps + [None] * 2


@pytest.mark.parametrize("done", [0, 2, 3, 5])
def test_schedule_survives_a_checkpoint(done: int, tmp_path: Any) -> None:
    schedule = VarianceSchedule(2.0, 3)
    for _ in range(done):
        schedule.step()
    torch.save({"schedule": schedule.state_dict()}, tmp_path / "checkpoint.pt")
    resumed = VarianceSchedule(2.0, 3)
    resumed.load_state_dict(torch.load(tmp_path / "checkpoint.pt", weights_only=True)["schedule"])
    for _ in range(4):
        assert resumed() == schedule()
        resumed.step()
        schedule.step()


@pytest.mark.parametrize("read_inside", [False, True])
def test_schedule_recompiles_once(read_inside: bool) -> None:
    """Two graphs: with the fixed variance, and with the learned one."""
    torch._dynamo.reset()
    head, features, target = make()
    schedule = VarianceSchedule(2.0, 3)
    graphs: list[object] = []

    def counting(graph: torch.fx.GraphModule, inputs: list[Tensor]) -> Any:
        graphs.append(graph)
        return graph.forward

    def loss(fixed_log_var: float | None) -> Tensor:
        return head.loss(features, target, fixed_log_var=schedule() if read_inside else fixed_log_var)

    compiled = torch.compile(loss, fullgraph=True, backend=counting)
    for step in range(7):
        actual = compiled(None if read_inside else schedule())
        torch.testing.assert_close(actual, head.loss(features, target, fixed_log_var=2.0 if step < 3 else None))
        schedule.step()
    assert len(graphs) == 2


def test_the_fixed_variance_does_not_train_the_variance() -> None:
    head, features, target = make()
    head.loss(features, target, fixed_log_var=VarianceSchedule(0.0, 1)()).backward()
    gradient = head.weight.grad
    assert gradient is not None
    assert bool((gradient[: 2 * K] != 0).any())
    assert not gradient[2 * K :].any()


@pytest.mark.parametrize(
    ("error", "message", "arguments"),
    [
        (TypeError, "fixed_log_var: got NoneType None, expected a number", (None, 3)),
        (ValueError, "fixed_log_var: got nan, expected a finite", (math.nan, 3)),
        (TypeError, "steps: got float 3.0, expected an integer", (0.0, 3.0)),
        (ValueError, "steps: got -1, expected at least 0", (0.0, -1)),
    ],
)
def test_bad_schedules(error: type[Exception], message: str, arguments: tuple[Any, Any]) -> None:
    with pytest.raises(error, match=message):
        VarianceSchedule(*arguments)
    with pytest.raises(ValueError, match=r"state_dict: got keys \['last_epoch'\], expected \['step_count'\]"):
        VarianceSchedule(0.0, 1).load_state_dict({"last_epoch": 1})


# --- two stages ------------------------------------------------------------------------------------------


class Fixed(torch.nn.Module):
    """A heatmap head that says the same whatever it sees."""

    def __init__(self, heatmaps: Tensor) -> None:
        super().__init__()
        self.register_buffer("heatmaps", heatmaps)

    def forward(self, features: Tensor) -> Tensor:
        return self.heatmaps  # type: ignore[return-value]


def blobs(points: Tensor, height: int, width: int, sigma: float = 1.0) -> Tensor:
    """Gaussians around `points` [B, K, 2], in heatmap pixels: [B, K, height, width]."""
    y, x = torch.meshgrid(torch.arange(height), torch.arange(width), indexing="ij")
    squared = (x - points[..., 0, None, None]) ** 2 + (y - points[..., 1, None, None]) ** 2
    return torch.exp(-squared / (2 * sigma**2))


def test_two_stages_are_decode_and_at(device: torch.device) -> None:
    head, _, _ = make(device, covariance="full", coordinates="offset")
    features = torch.randn(B, C, 16, 12, device=device)
    points = torch.tensor([[[4.3, 6.2], [5.0, 9.9], [7.6, 3.7]]]).expand(B, K, 2)
    heatmaps = blobs(points, 16, 12).to(device)
    keypoints = TwoStageDecoder(Fixed(heatmaps), head)(features)
    decoded = decode(heatmaps)
    means, covariances = head.at(features, decoded.coords * STRIDE)
    assert torch.equal(keypoints.coords, means)
    assert torch.equal(keypoints.covariances, covariances)
    assert torch.equal(keypoints.scores, decoded.scores)


@pytest.mark.parametrize("scale", [1, 2])
@pytest.mark.parametrize("shift", [0.0, 0.5])
def test_the_cell_is_the_one_that_was_trained(shift: float, scale: int) -> None:
    """A head that says its own cell's centre, heatmaps of either alignment and of another size than the features."""
    head = DARKHead(C, 50, stride=STRIDE, coordinates="offset")
    torch.nn.init.zeros_(head.weight)
    points = 8 + torch.rand(1, 50, 2, generator=torch.Generator().manual_seed(0)) * 40  # input pixels
    heatmaps = blobs(points / (STRIDE / scale) - shift, 16 * scale, 16 * scale, sigma=1.5)
    decoder = TwoStageDecoder(Fixed(heatmaps), head, heatmap_stride=STRIDE / scale, heatmap_shift=shift)
    coords = decoder(torch.zeros(1, C, 16, 16)).coords
    # Decoding is exact to 1e-3 pixels for blobs of this width; nobody can say which side of a border is right.
    clear = ((points / STRIDE).frac() - 0.5).abs().amax(-1) < 0.499
    assert clear.sum() > 40
    assert torch.equal(coords[clear], ((points / STRIDE).floor() * STRIDE + STRIDE / 2)[clear])


@pytest.mark.parametrize("recipe", recipes.ALL, ids=lambda recipe: recipe.name)
def test_no_keypoint_is_nan(recipe: recipes.Recipe) -> None:
    """Whatever number the recipe has for it, which may be a place in the map, and whatever it makes of scores."""
    heatmaps = blobs(torch.full((B, K, 2), 4.0), H * 3, W * 3)
    heatmaps[0, 0] = 0.0
    heatmaps[0, 1, 2, 2] = math.nan
    heatmaps[1, 0] = -1.0
    keypoints = TwoStageDecoder(Fixed(heatmaps), DARKHead(C, K), recipe)(torch.randn(B, C, H * 3, W * 3))
    invalid = torch.tensor([[True, True, False], [True, False, False]])
    assert torch.equal(keypoints.coords.isnan().all(-1), invalid)
    assert keypoints.covariances is not None
    assert torch.equal(keypoints.covariances.isnan().flatten(2).all(-1), invalid)
    assert bool(keypoints.coords[~invalid].isfinite().all())


@pytest.mark.parametrize(("corner", "cell"), [((0, 0), (0, 0)), ((7, 5), (5, 3))])
def test_a_peak_beyond_the_border_is_read_in_the_nearest_cell(corner: tuple[int, int], cell: tuple[int, int]) -> None:
    heatmaps = torch.zeros(B, K, 6, 8)
    heatmaps[:, :, corner[1], corner[0]] = 1.0
    head = DARKHead(C, K, coordinates="offset")
    torch.nn.init.zeros_(head.weight)
    coords = TwoStageDecoder(Fixed(heatmaps), head, recipes.ARGMAX, heatmap_shift=-0.5 if cell == (0, 0) else 0.5)(
        torch.randn(B, C, H, W)
    ).coords
    assert torch.equal(coords, ((torch.tensor(cell) + 0.5) * STRIDE).expand(B, K, 2))


def test_found_cells_are_those_that_are_read(device: torch.device) -> None:
    """So that the head can be trained in them."""
    head, _, target = make(device)
    decoder = TwoStageDecoder(torch.nn.Conv2d(C, K, 1), head, heatmap_shift=0.5).to(device)
    features = torch.randn(B, C, 16, 12, device=device)
    cells, scores = decoder.find_cells(decoder.heatmap_head(features), 16, 12)
    assert not cells.requires_grad
    keypoints = decoder(features)
    assert torch.equal(keypoints.scores, scores)
    torch.testing.assert_close(keypoints.coords, head.at(features, cells)[0], equal_nan=True)
    assert torch.equal((cells / STRIDE).frac()[cells.isfinite()], torch.full_like(cells[cells.isfinite()], 0.5))
    assert head.loss(features, target, at=cells, reduction="mean_valid").isfinite()


def test_two_stages_compile_and_have_gradients(device: torch.device) -> None:
    torch._dynamo.reset()
    torch.manual_seed(0)
    backbone = torch.nn.Conv2d(3, C, 4, stride=4)
    model = torch.nn.Sequential(backbone, TwoStageDecoder(torch.nn.Conv2d(C, K, 1), DARKHead(C, K))).to(device)
    images = torch.randn(B, 3, 64, 48, device=device)
    keypoints = model(images)
    keypoints.coords.sum().backward()
    assert backbone.weight.grad is not None
    assert bool(backbone.weight.grad.any())
    compiled = torch.compile(model, fullgraph=True, backend="aot_eager")(images)
    for one, other in zip(compiled, keypoints, strict=True):
        torch.testing.assert_close(one, other)


def test_two_stages_keep_the_parameters_of_both_heads() -> None:
    decoder = TwoStageDecoder(torch.nn.Conv2d(C, K, 1), DARKHead(C, K))
    assert sorted(decoder.state_dict()) == [
        "distribution_head.bias",
        "distribution_head.weight",
        "heatmap_head.bias",
        "heatmap_head.weight",
    ]


@pytest.mark.parametrize(
    ("error", "message", "changes"),
    [
        (TypeError, "heatmap_head: got Conv, expected a Module", {"heatmap_head": type("Conv", (), {})()}),
        (TypeError, "distribution_head: got Conv2d, expected a DARKHead",
         {"distribution_head": torch.nn.Conv2d(C, K, 1)}),
        (TypeError, "recipe: got str 'darkpose', expected a dark_kernels.Recipe", {"recipe": "darkpose"}),
        (ValueError, "heatmap_stride: got 0, expected a positive", {"heatmap_stride": 0}),
        (ValueError, "heatmap_shift: got nan, expected a finite", {"heatmap_shift": math.nan}),
        (ValueError, "backend: got 'cuda', expected one of", {"backend": "cuda"}),
    ],
)  # fmt: skip
def test_bad_options_of_two_stages(error: type[Exception], message: str, changes: dict[str, Any]) -> None:
    with pytest.raises(error, match=message):
        TwoStageDecoder(**{"heatmap_head": torch.nn.Identity(), "distribution_head": DARKHead(C, K), **changes})


def test_heatmaps_that_do_not_fit_are_refused() -> None:
    decoder = TwoStageDecoder(torch.nn.Conv2d(C, K + 1, 1), DARKHead(C, K))
    with pytest.raises(ValueError, match=r"heatmap_head: got heatmaps of shape \[2, 4, 4, 6\], expected \[2, 3, H, W"):
        decoder(torch.zeros(B, C, H, W))


@pytest.mark.gpu
def test_cuda_graph(gpu: torch.device) -> None:
    """Nothing waits for the device, and nothing is copied to it: finding, reading and both losses are captured."""
    head, features, target = make(gpu, covariance="full")
    decoder = TwoStageDecoder(torch.nn.Conv2d(C, K, 1).to(gpu), head)

    def step() -> tuple[Tensor, ...]:
        cells, scores = decoder.find_cells(decoder.heatmap_head(features), H, W)
        loss = head.loss(features, target) + head.loss(features, target, at=cells)
        return (loss, scores, *head.at(features, cells), *torch.autograd.grad(loss, list(head.parameters())))

    stream = torch.cuda.Stream()
    with torch.cuda.stream(stream):
        for _ in range(2):  # the first compiles
            step()
    torch.cuda.current_stream().wait_stream(stream)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        captured = step()
    features.copy_(torch.randn(features.shape, generator=torch.Generator().manual_seed(1)))
    graph.replay()
    for one, other in zip(captured, step(), strict=True):
        torch.testing.assert_close(one, other, equal_nan=True)


# --- documentation ---------------------------------------------------------------------------------------


def test_examples_in_docstrings() -> None:
    result = doctest.testmod(nn)
    assert result.attempted > 20
    assert result.failed == 0


def test_the_package_has_them() -> None:
    assert dark_kernels.nn.DARKHead is DARKHead


@pytest.mark.parametrize("name", nn.__all__)
def test_docstrings_name_every_argument(name: str) -> None:
    module = getattr(nn, name)
    for parameter in inspect.signature(module).parameters:
        assert f"{parameter}: " in module.__doc__ or f"{parameter}, " in module.__doc__


# --- soft-argmax -----------------------------------------------------------------------------------------


def test_soft_argmax_is_the_function() -> None:
    heatmaps = torch.rand(2, 3, 4, 5)
    for backend in ("auto", "reference"):
        module = SoftArgmax(beta=3, backend=backend)
        assert torch.equal(module(heatmaps), soft_argmax(heatmaps, 3.0, backend))
        assert torch.equal(copy.deepcopy(module)(heatmaps), module(heatmaps))
    assert repr(module) == "SoftArgmax(beta=3)"
    assert not list(module.parameters())
    assert not module.state_dict()


@pytest.mark.parametrize(
    ("error", "message", "options"),
    [(ValueError, "beta: got 0", {"beta": 0}), (TypeError, "beta: got str", {"beta": "1"}),
     (ValueError, "backend: got 'gpu'", {"backend": "gpu"})],
)  # fmt: skip
def test_soft_argmax_refuses_when_it_is_made(error: type[Exception], message: str, options: dict[str, Any]) -> None:
    with pytest.raises(error, match=message):
        SoftArgmax(**options)
