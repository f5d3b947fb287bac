"""Every backend against the reference in float64: values, gradients, dtypes, layouts, odd inputs."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given, settings
from torch import Tensor

from dark_kernels import soft_argmax, testing

from ..conftest import SERVICES, require_service
from .cases import Case, assert_like_truth, cases, run

DTYPES = (torch.float16, torch.bfloat16, torch.float32, torch.float64)
EVERY = pytest.mark.parametrize("service", SERVICES, indirect=True)
EVERY_FUSED = pytest.mark.parametrize("service", SERVICES[1:], indirect=True)
Service = tuple[str, torch.device]


def test_eager_is_the_reference_for_any_map() -> None:
    @settings(max_examples=150)
    @given(cases(dtypes=DTYPES))
    def check(case: Case) -> None:
        assert_like_truth(case, "eager")

    check()


def test_the_interpreted_kernels_are_the_reference_for_any_map() -> None:
    device = require_service("triton", "cpu")

    @settings(max_examples=60)
    @given(cases(max_maps=2, dtypes=(torch.float32, torch.float16)))
    def check(case: Case) -> None:
        assert_like_truth(case, "triton", device)

    check()


@pytest.mark.gpu
@pytest.mark.parametrize("backend", ["eager", "triton"])
def test_any_map_on_a_device(backend: str, gpu: torch.device) -> None:
    @settings(max_examples=150)
    @given(cases(dtypes=DTYPES))
    def check(case: Case) -> None:
        assert_like_truth(case, backend, gpu)

    check()


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("beta", [1.0, 100.0])
@EVERY_FUSED
def test_dtypes(dtype: torch.dtype, beta: float, service: Service) -> None:
    assert_like_truth(Case(("noisy_blob", "noise"), (1, 2, 16, 12), dtype, beta=beta), *service)


@EVERY
def test_the_default_dtype_does_not_matter(service: Service) -> None:
    backend, device = service
    before = torch.get_default_dtype()
    torch.set_default_dtype(torch.float64)
    try:
        coords = soft_argmax(torch.ones(1, 2, 3, 4, dtype=torch.float32, device=device), backend=backend)
    finally:
        torch.set_default_dtype(before)
    assert coords.dtype == torch.float32
    assert coords.tolist() == [[[1.5, 1.0]] * 2]


@pytest.mark.parametrize("layout", sorted(testing.LAYOUTS))
@EVERY_FUSED
def test_layouts(layout: str, service: Service) -> None:
    assert_like_truth(Case(shape=(2, 2, 7, 9), layout=layout, seed=3), *service)


# Blocks are of 256 pixels (128 with strides), or four times as many.
@pytest.mark.parametrize("size", [(1, 1), (40, 1), (1, 257), (3, 128), (9, 129), (5, 700), (90, 92), (2, 4100)])
@EVERY_FUSED
def test_sizes_around_a_block(size: tuple[int, int], service: Service) -> None:
    for layout in ("contiguous", "transposed"):
        assert_like_truth(Case(("noise",), (1, 1, *size), layout=layout, beta=3.0), *service)


@EVERY
def test_float16_does_not_overflow(service: Service) -> None:
    """Numbers of 1e4, which times beta are beyond float16; the coordinates are those of the peak."""
    backend, device = service
    maps = torch.full((1, 1, 6, 8), -1e4)
    maps[0, 0, 4, 5] = 1e4
    heatmaps = maps.half().to(device).requires_grad_()
    coords, gradient = run(heatmaps, torch.ones(1, 1, 2, device=device), 100.0, backend)
    assert coords.tolist() == [[[5.0, 4.0]]]
    assert bool((gradient == 0).all())


@EVERY
def test_large_numbers_keep_their_digits(service: Service) -> None:
    """A map and the same map far up: the logarithm of a sum would have lost what is less than a thousandth."""
    backend, device = service
    maps = torch.randint(0, 64, (1, 2, 9, 8), generator=torch.Generator().manual_seed(0)) / 16
    results = [
        run((maps + shift).to(device).requires_grad_(), torch.ones(1, 2, 2, device=device), 1.0, backend)
        for shift in (0.0, 2.0**17)
    ]
    for one, other in zip(*results, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-6, atol=1e-6)


@EVERY_FUSED
def test_runs_agree_bit_for_bit(service: Service) -> None:
    backend, device = service
    case = Case(seed=5)
    once, again = (run(case.heatmaps(device), case.grad_coords(device), case.beta, backend) for _ in range(2))
    for one, other in zip(once, again, strict=True):
        assert torch.equal(one, other)


# --- numbers that are none -------------------------------------------------------------------------------


def results(maps: Tensor, service: Service, beta: float = 2.0) -> tuple[list[float], Tensor]:
    """Of one map [H, W]: its coordinates and its gradient."""
    backend, device = service
    heatmaps = maps[None, None].to(device).requires_grad_()
    coords, gradient = run(heatmaps, torch.tensor([[[1.0, -2.0]]], device=device), beta, backend)
    return coords.flatten().tolist(), gradient[0, 0].cpu()


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.float64], ids=str)
@EVERY
def test_infinities(dtype: torch.dtype, service: Service) -> None:
    maps = torch.rand(5, 7, generator=torch.Generator().manual_seed(0)).to(dtype)
    maps[1, 2] = -math.inf
    lower = maps.clone()
    lower[1, 2] = -1000.0
    coords, gradient = results(maps, service)
    expected_coords, expected_gradient = results(lower, service)
    assert coords == pytest.approx(expected_coords, rel=1e-6)
    torch.testing.assert_close(gradient, expected_gradient)
    assert gradient[1, 2] == 0
    assert (gradient != 0).sum() == 34

    maps[3, 1] = maps[3, 5] = math.inf
    coords, gradient = results(maps, service)
    assert coords == pytest.approx([3.0, 3.0], rel=1e-6)
    assert bool((gradient == 0).all())
    coords, gradient = results(torch.full_like(maps, -math.inf), service)
    assert coords == pytest.approx([3.0, 2.0], rel=1e-6)
    assert bool((gradient == 0).all())


@pytest.mark.parametrize("others", [0.5, math.inf, -math.inf, math.nan])
@EVERY
def test_a_nan_is_seen(others: float, service: Service) -> None:
    """In its own map only."""
    backend, device = service
    maps = torch.rand(1, 2, 5, 7, generator=torch.Generator().manual_seed(0))
    maps[0, 0] = others
    maps[0, 0, 2, 3] = math.nan
    coords, gradient = run(maps.to(device).requires_grad_(), torch.ones(1, 2, 2, device=device), 1.0, backend)
    assert coords.isnan().tolist() == [[[True, True], [False, False]]]
    assert bool(gradient[0, 0].isnan().all())
    assert bool(gradient[0, 1].isfinite().all())


@EVERY_FUSED
def test_no_nan_of_finite_maps(service: Service) -> None:
    """Of what over- and underflows, at any beta."""
    backend, device = service
    generator = torch.Generator().manual_seed(1)
    numbers = torch.tensor([0, 1, 1e-30, 88, 1e4, 1e30, 3.4028234663852886e38])
    numbers = torch.cat([numbers, -numbers])
    maps = numbers[torch.randint(len(numbers), (3, 5, 4, 3), generator=generator)]
    for beta in (1e-30, 1.0, 1e30):
        coords, gradient = run(maps.to(device).requires_grad_(), torch.ones(3, 5, 2, device=device), beta, backend)
        assert bool(((coords >= 0) & (coords <= torch.tensor([2.0, 3.0], device=device))).all())
        assert not bool(gradient.isnan().any())


@pytest.mark.parametrize("shape", [(0, 17, 4, 5), (2, 0, 4, 5), (0, 0, 1, 1)])
@EVERY
def test_nothing_to_do(shape: tuple[int, ...], service: Service) -> None:
    backend, device = service
    heatmaps = torch.rand(shape, device=device, requires_grad=True)
    coords = soft_argmax(heatmaps, backend=backend)
    assert coords.shape == (*shape[:2], 2)
    coords.sum().backward()
    assert heatmaps.grad is not None
    assert heatmaps.grad.shape == shape


@EVERY
def test_a_sharp_softmax_is_the_argmax_and_a_flat_one_the_centre(service: Service) -> None:
    backend, device = service
    maps = torch.rand(2, 3, 9, 12, generator=torch.Generator().manual_seed(2)).to(device)
    index = maps.flatten(2).argmax(-1)
    expected = torch.stack([index % 12, index // 12], -1).float()
    torch.testing.assert_close(soft_argmax(maps, 1e5, backend), expected, rtol=0, atol=1e-4)
    center = torch.tensor([5.5, 4.0], device=device).expand(2, 3, 2)
    torch.testing.assert_close(soft_argmax(maps, 1e-6, backend), center, rtol=0, atol=1e-4)
