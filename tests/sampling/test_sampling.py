"""The generator against its published vectors, backends against each other, samples against their distributions."""

from __future__ import annotations

import inspect
import math
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from dark_kernels import sample_keypoints, testing
from dark_kernels.sampling import eager, reference

from ..conftest import SERVICES

EVERY = pytest.mark.parametrize("service", SERVICES, indirect=True)
EVERY_FUSED = pytest.mark.parametrize("service", SERVICES[1:], indirect=True)
Service = tuple[str, torch.device]

# kat_vectors of Random123, philox4x32-10: counter, key, words.
ONES = 0xFFFFFFFF
VECTORS = [
    ((0, 0, 0, 0), (0, 0), (0x6627E8D5, 0xE169C58D, 0xBC57AC4C, 0x9B00DBD8)),
    ((ONES,) * 4, (ONES, ONES), (0x408F276D, 0x41C83B0E, 0xA20BC7C6, 0x6D5451FD)),
    (
        (0x243F6A88, 0x85A308D3, 0x13198A2E, 0x03707344),
        (0xA4093822, 0x299F31D0),
        (0xD16CFE09, 0x94FDCCEB, 0x5001E420, 0x24126EA1),
    ),
]


def distributions(*shape: int, dtype: torch.dtype = torch.float32) -> tuple[Tensor, Tensor]:
    """Means some hundred pixels from 0 and covariances that are certainly positive definite."""
    generator = torch.Generator().manual_seed(5)
    means = torch.rand(*shape, 2, generator=generator) * 200
    factors = torch.randn(*shape, 2, 2, generator=generator) * 3
    return means.to(dtype), (factors @ factors.mT + torch.eye(2)).to(dtype)


# --- the generator -----------------------------------------------------------------------------------------


@pytest.mark.parametrize(("counter", "key", "words"), VECTORS)
def test_the_reference_is_philox(counter: tuple[int, ...], key: tuple[int, int], words: tuple[int, ...]) -> None:
    found = reference.philox_4x32_10(tuple(torch.tensor(word) for word in counter), key)  # type: ignore[arg-type]
    assert tuple(int(word) for word in found) == words


@pytest.mark.parametrize("seed", [0, 1, 2**32 - 1, 2**32, 2**63, 2**64 - 1])
@pytest.mark.parametrize("offset", [0, 2**33 + 5])
def test_eager_has_the_same_bits(seed: int, offset: int, device: torch.device) -> None:
    """Of a row and a column, without the words that are equal."""
    found = eager._random_words(3, 7, seed, offset, device)
    keypoint, pair = torch.arange(3)[:, None], torch.arange(4)[None]
    words = torch.broadcast_tensors(pair, keypoint, torch.tensor(offset & ONES), torch.tensor(offset >> 32))
    expected = reference.philox_4x32_10(words, (seed & ONES, seed >> 32))  # type: ignore[arg-type]
    for one, other in zip(found, expected, strict=True):
        assert torch.equal(one.cpu(), other)


@pytest.mark.parametrize("service", [SERVICES[2], SERVICES[4]], indirect=True)
def test_the_kernel_is_philox(service: Service) -> None:
    from .words_kernel import words_kernel

    vectors = torch.tensor([[*counter, *key] for counter, key, _ in VECTORS] + [[0] * 6])
    expected = torch.tensor([list(words) for _, _, words in VECTORS])
    words = torch.empty(4, 4, dtype=torch.int32, device=service[1])
    words_kernel[(1,)](words, vectors.t().contiguous().int().to(service[1]), LANES=4)
    assert torch.equal(words.cpu().long().t()[:3] & ONES, expected)


# --- backends against the definition -----------------------------------------------------------------------


def assert_like_reference(
    means: Tensor, covariances: Tensor, n: int, seed: int, offset: int, backend: str, device: torch.device
) -> None:
    """Within float32 roundings of the reference in float64: a normal of up to 5.77 is off by some units of its own
    size (a logarithm, a root, a cosine), and is multiplied and added twice."""
    expected = sample_keypoints(means.double(), covariances.double(), n, seed, offset, backend="reference")
    actual = sample_keypoints(means.to(device), covariances.to(device), n, seed, offset, backend=backend)
    assert actual.dtype == torch.float32
    assert actual.shape == (*means.shape[:-1], n, 2)
    assert actual.is_contiguous()
    sigma = covariances.double().diagonal(dim1=-2, dim2=-1).sqrt()[..., None, :]
    bound = torch.finfo(torch.float32).eps * (2 * means.abs()[..., None, :] + 12 * 5.77 * sigma)
    error = (actual.cpu().double() - expected).abs()
    assert bool((error <= bound).all()), f"off by {float((error / bound).max()):.2f} bounds"


@pytest.mark.parametrize("n", [1, 2, 33])
@pytest.mark.parametrize(("seed", "offset"), [(0, 0), (7, 2**40 + 3), (2**64 - 1, 2**64 - 1), (2**63, 1)])
@EVERY
def test_backends_are_the_reference(n: int, seed: int, offset: int, service: Service) -> None:
    assert_like_reference(*distributions(3, 5), n, seed, offset, *service)


@pytest.mark.gpu
def test_triton_on_a_gpu_is_the_reference(gpu: torch.device) -> None:
    assert_like_reference(*distributions(64, 17), 1001, 11, 13, "triton", gpu)


@EVERY
def test_float64_is_computed_in_float64(service: Service) -> None:
    backend, device = service
    means, covariances = (each.to(device) for each in distributions(2, 3, dtype=torch.float64))
    expected = sample_keypoints(means, covariances, 9, 3, backend="reference")
    for one, other in ((means, covariances), (means.float().double(), covariances)):
        assert sample_keypoints(one, other, 9, 3, backend=backend).dtype == torch.float64
    torch.testing.assert_close(
        sample_keypoints(means, covariances, 9, 3, backend=backend), expected, rtol=1e-14, atol=1e-12
    )


@EVERY_FUSED
def test_half_precision(service: Service) -> None:
    """Arithmetic is float32: of the numbers that the halves are."""
    backend, device = service
    means, covariances = (each.half().to(device) for each in distributions(2, 3))
    expected = sample_keypoints(means.float(), covariances.float(), 9, 3, backend=backend)
    assert torch.equal(sample_keypoints(means, covariances, 9, 3, backend=backend), expected)


@EVERY
def test_samples_depend_on_their_place_alone(service: Service) -> None:
    """Neither on how many are drawn, nor on the keypoints behind; on the seed, the offset and the keypoint."""
    backend, device = service
    means, covariances = (torch.zeros(7, 2, device=device), torch.eye(2, device=device).expand(7, 2, 2))

    def draw(n: int = 6, seed: int = 1, offset: int = 0, keypoints: int = 7) -> Tensor:
        return sample_keypoints(means[:keypoints], covariances[:keypoints], n, seed, offset, backend=backend)

    whole = draw()
    assert torch.equal(whole, draw())
    # The bits are the same; a cosine may depend on how many are computed together.
    torch.testing.assert_close(draw(n=3), whole[:, :3], rtol=1e-6, atol=1e-6)
    torch.testing.assert_close(draw(keypoints=4), whole[:4], rtol=1e-6, atol=1e-6)
    batched = sample_keypoints(means[None], covariances[None], 6, 1, backend=backend)
    torch.testing.assert_close(batched[0], whole, rtol=1e-6, atol=1e-6)
    everything = [whole, draw(seed=2), draw(offset=1), draw(seed=1 + 2**32), draw(offset=2**32)]
    assert torch.cat(everything).unique().numel() == 5 * whole.numel()


@pytest.mark.parametrize("layout", ["transposed", "sliced", "offset", "expanded_batch"])
@EVERY_FUSED
def test_any_strides(layout: str, service: Service) -> None:
    backend, device = service
    means, covariances = (each.to(device) for each in distributions(2, 3))
    odd = testing.with_layout(covariances, layout)
    means = means.transpose(0, 1).contiguous().transpose(0, 1)
    expected = sample_keypoints(means.contiguous(), odd.contiguous(), 4, 2, backend=backend)
    with testing.assert_unchanged(odd), testing.assert_unchanged(means):
        assert torch.equal(sample_keypoints(means, odd, 4, 2, backend=backend), expected)


@pytest.mark.parametrize("shape", [(0,), (0, 17), (3, 0)])
@EVERY
def test_no_keypoints(shape: tuple[int, ...], service: Service) -> None:
    backend, device = service
    means, covariances = torch.zeros(*shape, 2, device=device), torch.zeros(*shape, 2, 2, device=device)
    assert sample_keypoints(means, covariances, 4, 0, backend=backend).shape == (*shape, 4, 2)


def test_a_single_keypoint_without_a_batch() -> None:
    samples = sample_keypoints(torch.tensor([3.0, 4.0]), torch.zeros(2, 2), 5, 0)
    assert samples.tolist() == [[3, 4]] * 5


# --- covariances that are on the edge, or none --------------------------------------------------------------


@EVERY
def test_eigenvalues_of_zero(service: Service) -> None:
    """Samples on a line, along an axis or not, and at a point."""
    backend, device = service
    covariances = torch.tensor(
        [[[4.0, 0.0], [0.0, 0.0]], [[0.0, 0.0], [0.0, 4.0]], [[0.0, 0.0], [0.0, 0.0]], [[4.0, 6.0], [6.0, 9.0]],
         [[1e-40, 0.0], [0.0, 4.0]]],  # a number below the normal ones, which an approximate root takes for 0
        device=device,
    )  # fmt: skip
    x, y = sample_keypoints(torch.zeros(5, 2, device=device), covariances, 50, 0, backend=backend).unbind(-1)
    assert bool((y[0] == 0).all())
    assert bool((x[1] == 0).all())
    assert bool((x[2] == 0).all() & (y[2] == 0).all())
    torch.testing.assert_close(y[3], x[3] * 1.5)
    assert all(len(each.unique()) == 50 for each in (x[0], y[1], x[3], y[4]))


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16])
@EVERY
def test_rounding_makes_no_covariance_indefinite(dtype: torch.dtype, service: Service) -> None:
    """Of a hundred lines in all directions, rounded, some have a negative eigenvalue."""
    backend, device = service
    angle = torch.linspace(0.02, 3.1, 100, dtype=torch.float64)
    direction = torch.stack([angle.cos(), angle.sin()], dim=-1)
    covariances = (9 * direction[:, :, None] * direction[:, None]).to(dtype)
    assert bool((torch.linalg.det(covariances.double()) < 0).any())
    samples = sample_keypoints(torch.zeros(100, 2, device=device), covariances.to(device), 20, 4, backend=backend)
    assert bool((samples.cpu().double() @ direction[:, :, None]).flatten(1).std(1).gt(1).all())


NONE = {
    "nan": [[math.nan, 0.0], [0.0, 1.0]],
    "nan below": [[1.0, 0.0], [math.nan, 1.0]],
    "inf": [[math.inf, 0.0], [0.0, 1.0]],
    "negative": [[-1.0, 0.0], [0.0, 1.0]],
    "negative below": [[1.0, 0.0], [0.0, -1.0]],
    "indefinite": [[1.0, 2.0], [2.0, 1.0]],
    "no variance to correlate with": [[0.0, 1.0], [1.0, 1.0]],
}


@EVERY
def test_without_a_covariance_all_samples_are_the_mean(service: Service) -> None:
    backend, device = service
    covariances = torch.tensor([*NONE.values(), [[1.0, 0.0], [0.0, 1.0]]], device=device)
    means = torch.arange(16.0, device=device).view(8, 2)
    samples = sample_keypoints(means, covariances, 4, 0, backend=backend)
    assert torch.equal(samples[:-1], means[:-1, None].expand(-1, 4, -1))
    assert bool((samples[-1] != means[-1]).all())
    means[0, 0], means[1, 1] = math.nan, math.inf
    dirty = sample_keypoints(means, covariances, 4, 0, backend=backend)
    assert torch.equal(dirty[2:], samples[2:])
    assert dirty[0, :, 1].tolist() == [1.0] * 4
    assert bool(dirty[0, :, 0].isnan().all())
    assert dirty[1, :, 1].tolist() == [math.inf] * 4


# --- distributions -----------------------------------------------------------------------------------------


def test_samples_have_the_distribution() -> None:
    """Mean, covariance and fourth moments of 400 000 normals, and their independence, within 5 standard errors."""
    count = 200_000
    zeros, unit = torch.zeros(1, 2, dtype=torch.float64), torch.eye(2, dtype=torch.float64)[None]
    normals = sample_keypoints(zeros, unit, count, 12345)[0]
    for values, expected, variance in (
        (normals, 0.0, 1.0),
        (normals**2, 1.0, 2.0),
        (normals**4, 3.0, 96.0),
        (normals[:-1] * normals[1:], 0.0, 1.0),  # of one counter, and of the next one
        (normals[:, :1] * normals[:, 1:], 0.0, 1.0),  # of one radius
        (normals[:, :1] ** 2 * normals[:, 1:] ** 2, 1.0, 8.0),
    ):
        error = (values.mean(0) - expected).abs().max()
        assert float(error) < 5 * math.sqrt(variance / len(values))
    inside = float(((normals**2).sum(1) <= -2 * math.log(0.1)).double().mean())
    assert inside == pytest.approx(0.9, abs=5 * math.sqrt(0.09 / count))
    # Neighbouring keypoints and seeds are no more alike than chance has it.
    other = sample_keypoints(zeros.expand(2, 2), unit.expand(2, 2, 2), count, 12346)
    for one, another in ((normals, other[0]), (other[0], other[1])):
        assert abs(float((one * another).mean())) < 5 / math.sqrt(2 * count)


def test_covariances_are_those_of_the_samples() -> None:
    means, covariances = distributions(4, dtype=torch.float64)
    samples = sample_keypoints(means, covariances, 50_000, 9)
    for mean, covariance, drawn in zip(means, covariances, samples, strict=True):
        errors = (drawn.mean(0) - mean) / (covariance.diagonal() / len(drawn)).sqrt()
        assert float(errors.abs().max()) < 5
        variances = covariance.diagonal()
        standard_error = ((variances[:, None] * variances + covariance**2) / len(drawn)).sqrt()
        assert float(((drawn.T.cov() - covariance) / standard_error).abs().max()) < 5


@settings(max_examples=40)
@given(
    numbers=st.lists(st.sampled_from([0.0, 1e-30, 1e-6, 1.0, -1.0, 3.0, 1e6, 1e18, -1e18]), min_size=3, max_size=3),
    seed=st.integers(0, 2**64 - 1),
    backend=st.sampled_from(["eager", "reference"]),
)
def test_finite_covariances_give_finite_samples(numbers: list[float], seed: int, backend: str) -> None:
    xx, yx, yy = numbers
    covariances = torch.tensor([[xx, yx], [yx, yy]])
    samples = sample_keypoints(torch.ones(2), covariances, 8, seed, backend=backend)
    assert bool(samples.isfinite().all())


# --- what is refused, and PyTorch --------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("error", "message", "change"),
    [
        (TypeError, "means: got builtins.list", {"means": [1.0, 2.0]}),
        (ValueError, r"means: got shape \[3, 3\], expected \[..., 2\]", {"means": torch.ones(3, 3)}),
        (ValueError, r"means: got shape \[\], expected", {"means": torch.ones(())}),
        (ValueError, r"covariances: got shape \[3, 2\], expected 3 dimensions", {"covariances": torch.ones(3, 2)}),
        (ValueError, r"covariances: got shape \[2, 2, 2\], expected \[3, 2, 2\]", {"covariances": torch.ones(2, 2, 2)}),
        (ValueError, "n: got 0, expected at least 1", {"n": 0}),
        (TypeError, "n: got float 2.0, expected an integer", {"n": 2.0}),
        (ValueError, "seed: got -1, expected 0 to 2", {"seed": -1}),
        (ValueError, "offset: got 18446744073709551616", {"offset": 2**64}),
        (TypeError, "seed: got bool True", {"seed": True}),
        (ValueError, "covariances: got a tensor on meta", {"covariances": torch.ones(3, 2, 2, device="meta")}),
        (ValueError, "backend: got 'best'", {"backend": "best"}),
    ],
)
def test_refuses(error: type[Exception], message: str, change: dict[str, Any]) -> None:
    arguments = {"means": torch.ones(3, 2), "covariances": torch.ones(3, 2, 2), "n": 2, "seed": 0}
    with pytest.raises(error, match=message):
        sample_keypoints(**{**arguments, **change})


def test_signature() -> None:
    assert list(inspect.signature(sample_keypoints).parameters) == [
        "means", "covariances", "n", "seed", "offset", "backend",
    ]  # fmt: skip


def test_the_global_generator_is_not_touched() -> None:
    before = torch.random.get_rng_state()
    sample_keypoints(torch.zeros(1, 2), torch.eye(2)[None], 10, 0)
    assert torch.equal(torch.random.get_rng_state(), before)


@pytest.mark.slow
def test_compiles_whole(device: torch.device) -> None:
    torch._dynamo.reset()

    def draw(means: Tensor, covariances: Tensor) -> Tensor:
        return sample_keypoints(means * 2, covariances, 6, seed=2**64 - 1).mean(-2)

    compiled = torch.compile(draw, fullgraph=True, backend="aot_eager", dynamic=True)
    for batch in (3, 4):
        inputs = [each.to(device) for each in distributions(batch, 5)]
        torch.testing.assert_close(compiled(*inputs), draw(*inputs))
