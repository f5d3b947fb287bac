"""Two stages are `decode` and the head at its cells; soft-argmax is the function."""

from __future__ import annotations

import copy
import math
from typing import Any

import pytest
import torch
from torch import Tensor

from dark_kernels import decode, recipes, soft_argmax
from dark_kernels.nn import DARKHead, SoftArgmax, TwoStageDecoder, VarianceSchedule

from .cases import STRIDE, B, C, H, K, W, make

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


def test_inputs_are_not_written_to() -> None:
    head, features, target = make(coordinates="offset", log_var_bounds=(-0.1, 0.1))
    before = features.clone(), target.clone()
    head.loss(features, target)
    head.at(features, target)
    TwoStageDecoder(torch.nn.Conv2d(C, K, 1), head)(features)
    assert torch.equal(features, before[0])
    assert torch.equal(target, before[1])


def test_repr() -> None:
    assert "heatmap_stride=4" in repr(TwoStageDecoder(torch.nn.Identity(), DARKHead(C, K)))


@pytest.mark.parametrize(
    ("error", "message", "changes"),
    [
        (TypeError, "heatmap_head: got Conv, expected a Module", {"heatmap_head": type("Conv", (), {})()}),
        (TypeError, "distribution_head: got Conv2d, expected a DARKHead",
         {"distribution_head": torch.nn.Conv2d(C, K, 1)}),
        (TypeError, "recipe: got int 3, expected a dark_kernels.Recipe", {"recipe": 3}),
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


# --- training where it is read ---------------------------------------------------------------------------


def make_decoder(dtype: torch.dtype = torch.float64) -> tuple[TwoStageDecoder, Tensor, Tensor]:
    generator = torch.Generator().manual_seed(3)
    decoder = TwoStageDecoder(torch.nn.Conv2d(4, 3, 1), DARKHead(4, 3), heatmap_shift=0.5).to(dtype)
    features = torch.randn(2, 4, 7, 6, generator=generator, dtype=dtype)
    return decoder, features, torch.rand(2, 3, 2, generator=generator, dtype=dtype) * 24


@pytest.mark.parametrize("given", [False, True])
def test_the_loss_reads_the_cells_that_forward_reads(given: bool) -> None:
    decoder, features, target = make_decoder()
    features.requires_grad_()
    heatmaps = decoder.heatmap_head(features)
    weight = torch.tensor([[1.0, 0.5, 0.0], [2.0, 1.0, 1.0]])
    actual = decoder.loss(features, target, heatmaps if given else None, weight, beta=0.5, reduction="none")
    cells, _ = decoder.find_cells(heatmaps, 7, 6)
    expected = decoder.distribution_head.loss(features, target, weight, 0.5, reduction="none", at=cells)
    torch.testing.assert_close(actual, expected, rtol=0, atol=0)
    actual.sum().backward()
    assert decoder.heatmap_head.weight.grad is None
    assert decoder.distribution_head.weight.grad is not None


def test_the_loss_takes_a_schedule_and_ignores_what_has_no_keypoint() -> None:
    decoder, features, target = make_decoder()
    heatmaps = decoder.heatmap_head(features).detach()
    heatmaps[0, 0] = -1.0
    loss = decoder.loss(features, target, heatmaps, fixed_log_var=VarianceSchedule(1.0, 5)(), reduction="none")
    assert loss[0, 0] == 0
    assert bool((loss[:, 1:] > 0).all())


def test_the_loss_refuses_heatmaps_of_others() -> None:
    decoder, features, target = make_decoder()
    with pytest.raises(ValueError, match=r"heatmaps: got heatmaps of shape \[2, 4, 7, 6\], expected \[2, 3, H, W\]"):
        decoder.loss(features, target, torch.rand(2, 4, 7, 6))
