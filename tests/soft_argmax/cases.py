"""Calls of soft_argmax, and how far a backend's numbers may be from those of the reference in float64.

u is the unit roundoff, p the probabilities, m their mean position, E = beta (largest - map) the exponents.

1. A weight e^-E has a relative error of (4 E + 16) u: the difference, its product with beta, and two exponentials of
   numbers that add up to E. A sum of N weights adds the rounding of as many additions as one lane makes, less than
   N / 64 + 48 of them.
2. m is a quotient of two such sums: |dm| <= sum p (|x| + |m|) (4 E + 16 + additions) u + 4 u |m|.
3. A gradient is beta p s with s = (x - m) . grad, which is made of parts as large as the map: |ds| <= |dm| |grad| +
   4 u (size + |m|) |grad|. It is rounded once more to the dtype of the map.
"""

from __future__ import annotations

import dataclasses

import torch
from hypothesis import strategies as st
from torch import Tensor

from dark_kernels import soft_argmax, testing

FINITE_KINDS = (
    "noise", "signed_noise", "blob", "noisy_blob", "two_blobs", "strong_blob", "strong_noise", "blob_on_negative",
    "ties", "plateau", "constant", "zeros", "one_pixel", "negative", "tiny", "huge", "huge_and_tiny",
)  # fmt: skip


# Smaller ones, relative to the largest, are as good as none.
_LEAST_WEIGHT = 2e-35


@dataclasses.dataclass(frozen=True)
class Case:
    """One call. The maps are made from the other fields, so that a failing example prints small."""

    kinds: tuple[str, ...] = ("noisy_blob", "noise", "strong_blob")
    shape: tuple[int, int, int, int] = (2, 3, 13, 11)
    dtype: torch.dtype = torch.float32
    layout: str = "contiguous"
    seed: int = 0
    beta: float = 10.0

    def heatmaps(self, device: torch.device | str = "cpu") -> Tensor:
        """A leaf that requires grad."""
        maps = testing.heatmaps_of_kinds(self.kinds, *self.shape, seed=self.seed, dtype=torch.float64)
        largest = torch.finfo(self.dtype).max
        maps = maps.clamp(-largest, largest).to(device, self.dtype)
        return testing.with_layout(maps, self.layout).detach().requires_grad_()

    def grad_coords(self, device: torch.device | str = "cpu") -> Tensor:
        generator = torch.Generator().manual_seed(self.seed + 1)
        return torch.randn(*self.shape[:2], 2, generator=generator).to(device)


@st.composite
def cases(draw: st.DrawFn, max_maps: int = 6, dtypes: tuple[torch.dtype, ...] = (torch.float32,)) -> Case:
    """Any call, small."""
    sizes = st.sampled_from((1, 2, 3, 5, 7, 8, 16, 17, 30))
    widths = st.sampled_from((1, 2, 5, 8, 15, 16, 31, 64, 127, 128, 129, 255, 256, 257, 300, 520))
    width = draw(widths)
    height = draw(sizes if width < 100 else st.integers(1, 6))
    batch = draw(st.integers(1, 2))
    return Case(
        kinds=tuple(draw(st.lists(st.sampled_from(FINITE_KINDS), min_size=1, max_size=3))),
        shape=(batch, draw(st.integers(1, max_maps // batch)), height, width),
        dtype=draw(st.sampled_from(dtypes)),
        layout=draw(st.sampled_from(sorted(testing.LAYOUTS))),
        seed=draw(st.integers(0, 2**16)),
        beta=draw(st.sampled_from((0.1, 1.0, 20.0, 1000.0))),
    )


def run(heatmaps: Tensor, grad_coords: Tensor, beta: float, backend: str) -> tuple[Tensor, Tensor]:
    """Coordinates and the gradient."""
    coords = soft_argmax(heatmaps, beta, backend)
    (gradient,) = torch.autograd.grad(coords, heatmaps, grad_coords.to(coords.dtype))
    return coords.detach(), gradient


def assert_like_truth(case: Case, backend: str, device: torch.device | str = "cpu") -> None:
    """Assert that a backend is within its bounds, and that everything about its output is as documented."""
    heatmaps, grad_coords = case.heatmaps(device), case.grad_coords(device)
    with testing.assert_unchanged(heatmaps):
        coords, gradient = run(heatmaps, grad_coords, case.beta, backend)
    assert coords.shape == (*case.shape[:2], 2)
    assert coords.dtype == (torch.float64 if case.dtype == torch.float64 else torch.float32)
    assert gradient.shape == case.shape
    assert gradient.dtype == case.dtype
    doubled = heatmaps.detach().cpu().double().requires_grad_()
    expected = run(doubled, grad_coords.cpu().double(), case.beta, "reference")
    bounds = _bounds(doubled.detach(), grad_coords.cpu().double(), case, *expected)
    for name, one, other, bound in zip(("coords", "gradient"), (coords, gradient), expected, bounds, strict=True):
        error = (one.cpu().double() - other).abs()
        if not (error <= bound).all():
            place = tuple((~(error <= bound)).nonzero()[0].tolist())
            raise AssertionError(f"{name}{list(place)}: {one[place]}, {other[place]} +- {bound[place]:.3g}, {case}")


def _bounds(maps: Tensor, grad_coords: Tensor, case: Case, coords: Tensor, gradient: Tensor) -> tuple[Tensor, Tensor]:
    height, width = maps.shape[-2:]
    double = torch.finfo(torch.float64).eps / 2
    u = double + torch.finfo(torch.float64 if case.dtype == torch.float64 else torch.float32).eps / 2
    exponents = case.beta * (maps.amax((-2, -1), keepdim=True) - maps)
    probability = (-exponents).flatten(2).softmax(-1).view(maps.shape)
    units = 4 * exponents.clamp(max=1e6) + 16 + height * width / 64 + 48
    x, y = torch.arange(width).double(), torch.arange(height).double()[:, None]
    lost = _LEAST_WEIGHT * height * width * (height + width)
    mean_x, mean_y = (each[..., None, None] for each in coords.unbind(-1))
    off_x = (probability * (x + mean_x) * units).sum((-2, -1), keepdim=True) * u + 4 * u * mean_x + lost
    off_y = (probability * (y + mean_y) * units).sum((-2, -1), keepdim=True) * u + 4 * u * mean_y + lost
    coord_bound = torch.cat([off_x, off_y], -1)[..., 0, :]
    grad_x, grad_y = (each[..., None, None].abs() for each in grad_coords.unbind(-1))
    relative = (units + (probability * units).sum((-2, -1), keepdim=True)) * u
    slope = grad_x * (x - mean_x).abs() + grad_y * (y - mean_y).abs()
    slope_off = grad_x * (off_x + 4 * u * (width + mean_x)) + grad_y * (off_y + 4 * u * (height + mean_y))
    gradient_bound = case.beta * probability * (slope * relative + slope_off)
    out = torch.finfo(case.dtype)
    least = _LEAST_WEIGHT * case.beta * (grad_x * width + grad_y * height)
    rounding = gradient.abs() * out.eps + out.smallest_normal * out.eps
    return coord_bound, gradient_bound * (1 + out.eps) + rounding + least
