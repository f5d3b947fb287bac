"""The head: its loss is that of its maps, at the targets and elsewhere; its distributions at cells."""

from __future__ import annotations

import copy
import inspect
import math
from typing import Any

import pytest
import torch
from torch import Tensor

from dark_kernels import gaussian_nll, linear_gaussian_nll
from dark_kernels.nn import DARKHead, DARKLoss

from .cases import STRIDE, B, C, H, K, W, make

FORMS = [
    pytest.param({"covariance": "isotropic"}, id="isotropic"),
    pytest.param({"covariance": "diagonal", "coordinates": "offset"}, id="diagonal-offset"),
    pytest.param({"covariance": "full"}, id="full"),
    pytest.param({"covariance": "full", "coordinates": "offset", "log_var_bounds": (-0.3, 0.4)}, id="full-bounds"),
    pytest.param({"covariance": "diagonal", "distribution": "laplace"}, id="laplace"),
    pytest.param({"log_var_bounds": (-0.3, 0.4)}, id="isotropic-bounds"),
]
OPTIONS: dict[str, Any] = {"beta": 0.5, "full": True, "reduction": "none"}


# --- its maps and its loss -------------------------------------------------------------------------------


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


# --- read elsewhere than at the target -------------------------------------------------------------------


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


# --- as a module -----------------------------------------------------------------------------------------


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


# --- at cells --------------------------------------------------------------------------------------------


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


@pytest.mark.parametrize("log_var", [-3000.0, -400.0, -100.0, 100.0, 400.0, 3000.0])
def test_no_covariance_of_a_finite_head_is_nan(log_var: float) -> None:
    """Where variances underflow they are 0, and where they overflow infinite; a covariance of 0 stays 0."""
    head = DARKHead(C, K, covariance="full", initial_log_var=log_var)
    covariances = head.at(torch.rand(B, C, H, W), torch.ones(B, K, 2))[1]
    assert not bool(covariances.isnan().any())
    assert bool((covariances[..., 0, 1] == 0).all())


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
