"""The Triton kernels, compiled where there is a device and interpreted elsewhere: the reference's numbers for any map.

In the interpreter a map takes 30 to 80 ms, and up to a second where a whole map is blurred.
"""

from __future__ import annotations

import dataclasses
import math
import os
import subprocess
import sys
from collections import Counter
from collections.abc import Callable
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from torch import Tensor

import dark_kernels
from dark_kernels import Keypoints, Recipe, recipes, testing
from dark_kernels.decode import reference

from ..conftest import is_compiled, require_service
from ..strategies import Case, cases

pytest.importorskip("triton", reason="Triton is not installed")

DEVICES = ["cpu", pytest.param("cuda", marks=pytest.mark.gpu)]
TINY_SIZES = (1, 2, 3, 5, 7, 8, 11, 13)


@pytest.fixture(params=DEVICES)
def triton_device(request: pytest.FixtureRequest) -> torch.device:
    """Where the kernels run: interpreted on the CPU, or compiled."""
    return require_service("triton", request.param)


@pytest.fixture
def launches(monkeypatch: pytest.MonkeyPatch) -> list[dict[str, Any]]:
    """The constexprs of each launch, recorded as they happen."""
    from dark_kernels.decode import kernels

    recorded: list[dict[str, Any]] = []
    kernel = kernels._decode_fwd_kernel

    class Recorder:
        def __getitem__(self, grid: object) -> Callable[..., None]:
            def launch(*arguments: Any, **constants: Any) -> None:
                recorded.append(constants)
                kernel[grid](*arguments, **constants)

            return launch

    monkeypatch.setattr(kernels, "_decode_fwd_kernel", Recorder())
    return recorded


def decode_poisoned(heatmaps: Tensor, recipe: Recipe, covariance: bool = False) -> Keypoints:
    """What the launcher writes into outputs that hold NaN, between guards that it must not write to."""
    from dark_kernels.decode import kernels

    batch, num_keypoints = heatmaps.shape[:2]
    guarded, outputs = [], []
    for shape in ((batch, num_keypoints, 2), (batch, num_keypoints), (batch, num_keypoints, 2, 2)):
        size = math.prod(shape)
        memory = torch.full((size + 16,), math.nan, dtype=torch.float32, device=heatmaps.device)
        memory[:8] = memory[-8:] = 12345.0
        guarded.append(memory)
        outputs.append(memory[8 : 8 + size].view(shape))
    if not covariance:
        outputs[2] = outputs[2].new_empty(0)
    kernels.decode_fwd(*outputs, heatmaps, recipe.operator_arguments, covariance)
    for memory in guarded:
        assert bool((memory[:8] == 12345.0).all() & (memory[-8:] == 12345.0).all()), "written beside an output"
    return Keypoints(outputs[0], outputs[1], outputs[2] if covariance else None)


def check_case(case: Case, device: torch.device, tally: Counter[str]) -> None:
    heatmaps = case.heatmaps(device)
    with testing.assert_unchanged(heatmaps):
        actual = dark_kernels.decode(heatmaps, case.recipe, case.covariance, backend="triton")
    arithmetic = testing.arithmetic_of("triton", device.type, heatmaps.dtype)
    tally.update(testing.assert_decodes_like_reference(actual, heatmaps, case.recipe, arithmetic)._asdict())


@pytest.mark.slow
def test_equals_the_reference_for_any_map() -> None:
    device = require_service("triton", "cpu")
    tally: Counter[str] = Counter()

    @settings(max_examples=80)
    @given(cases(sizes=TINY_SIZES, max_maps=2, dtypes=(torch.float32, torch.float32, torch.float16, torch.bfloat16)))
    def check(case: Case) -> None:
        check_case(case, device, tally)

    check()
    # Half a dozen draws and their mutants are most of these few: a share of them says nothing. Eager, which the same
    # maps are bounded for, has enough of them for a share.
    assert tally["bounded"] > 20


@pytest.mark.gpu
def test_equals_the_reference_for_any_map_on_a_device(gpu: torch.device) -> None:
    tally: Counter[str] = Counter()

    # Each recipe and dtype compiles a kernel.
    @settings(max_examples=150)
    @given(cases())
    def check(case: Case) -> None:
        check_case(case, gpu, tally)

    check()
    assert tally["bounded"] > 0.6 * tally["refined"] > 0


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16], ids=str)
@pytest.mark.parametrize("recipe", recipes.ALL, ids=lambda recipe: recipe.name)
def test_equals_the_reference_in_each_dtype(recipe: Recipe, dtype: torch.dtype, triton_device: torch.device) -> None:
    scale = 255 if recipe == recipes.MEGVII else 1
    size = (19, 17) if triton_device.type == "cpu" else (64, 48)
    kinds = ["noisy_blob", "blob", "weak_blob", "noise"]
    heatmaps = (testing.heatmaps_of_kinds(kinds, 1, 4, *size, seed=17) * scale).to(triton_device, dtype)
    actual = decode_poisoned(heatmaps, recipe, recipe.has_hessian)
    arithmetic = testing.arithmetic_of("triton", triton_device.type, dtype)
    compared = testing.assert_decodes_like_reference(actual, heatmaps, recipe, arithmetic)
    assert compared.refined == 4
    assert compared.bounded == 4


@pytest.mark.parametrize("recipe", [r for r in recipes.ALL if r.has_hessian], ids=lambda recipe: recipe.name)
def test_is_good_to_a_ten_thousandth_of_a_pixel_on_blobs(recipe: Recipe, triton_device: torch.device) -> None:
    heatmaps = testing.gaussian_blobs(1, 4, 32, 24, seed=1).heatmaps.float().to(triton_device)
    bounds = testing.decode_bounds(heatmaps.cpu(), recipe, testing.TRITON)
    assert bounds.coords.max() < 1e-4
    actual = decode_poisoned(heatmaps, recipe, covariance=True)
    assert testing.assert_decodes_like_reference(actual, heatmaps, recipe, testing.TRITON).bounded == 4


@pytest.mark.parametrize("size", [(1, 1), (1, 40), (37, 1), (2, 2), (3, 5), (32, 32), (33, 32), (47, 47)])
def test_outputs_are_written_whole_for_any_size(size: tuple[int, int], triton_device: torch.device) -> None:
    """Sizes around the block of the scan, 1024 and 2048 pixels; NaN in an output means that it was not written."""
    for recipe in (recipes.DARKPOSE, recipes.MMPOSE_UDP, recipes.FIT, recipes.QUARTER, recipes.ARGMAX):
        heatmaps = testing.heatmaps_of_kinds(["noisy_blob", "negative"], 1, 2, *size, seed=6).to(triton_device)
        actual = decode_poisoned(heatmaps, recipe, recipe.has_hessian)
        testing.assert_decodes_like_reference(actual, heatmaps, recipe, testing.TRITON)


@pytest.mark.parametrize("place", ["first", "last", "tied"])
@pytest.mark.parametrize("num_pixels", [1023, 1024, 1025, 2047, 2048, 2049, 4099])
def test_the_first_maximum_is_found_wherever_it_is(num_pixels: int, place: str, triton_device: torch.device) -> None:
    for height, width in ((1, num_pixels), (num_pixels, 1)):
        maps = torch.zeros(1, 1, height, width, device=triton_device)
        flat = maps.view(-1)
        where = {"first": [0], "last": [num_pixels - 1], "tied": [num_pixels // 2, num_pixels // 2 + 1, num_pixels - 1]}
        flat[where[place]] = 0.5
        x, y = decode_poisoned(maps, recipes.ARGMAX).coords.view(2).tolist()
        assert y * width + x == where[place][0]


@pytest.mark.parametrize("layout", sorted(testing.LAYOUTS))
def test_layout_does_not_matter(layout: str, triton_device: torch.device) -> None:
    maps = testing.heatmaps_of_kinds(["noisy_blob", "noise"], 2, 2, 15, 12, seed=5).to(triton_device)
    heatmaps = testing.with_layout(maps, layout)
    for recipe in (recipes.DARKPOSE, recipes.MMPOSE_LEGACY_UDP, recipes.QUARTER):
        actual = decode_poisoned(heatmaps, recipe)
        expected = decode_poisoned(heatmaps.contiguous(), recipe)
        if not is_compiled(triton_device):
            testing.assert_same_keypoints(actual, expected)
            continue
        # Strides are part of what is compiled, and the compiler fuses products and sums as it likes.
        for keypoints in (actual, expected):
            testing.assert_decodes_like_reference(keypoints, heatmaps, recipe, testing.TRITON)


@pytest.mark.parametrize("recipe", recipes.ALL, ids=lambda recipe: recipe.name)
def test_a_map_alone_and_a_second_run_agree_bit_for_bit(recipe: Recipe, triton_device: torch.device) -> None:
    size = (13, 11) if triton_device.type == "cpu" else (64, 48)
    heatmaps = testing.heatmaps_of_kinds(["noisy_blob", "noise"], 2, 2, *size, seed=8).to(triton_device)
    together = decode_poisoned(heatmaps, recipe, recipe.has_hessian)
    testing.assert_same_keypoints(decode_poisoned(heatmaps, recipe, recipe.has_hessian), together)
    for b in range(2):
        for k in range(2):
            alone = decode_poisoned(heatmaps[b : b + 1, k : k + 1], recipe, recipe.has_hessian)
            one = Keypoints(*(None if each is None else each[b : b + 1, k : k + 1] for each in together))
            testing.assert_same_keypoints(alone, one)


@pytest.mark.parametrize("kind", ["one", "tied", "nan", "first_and_last"])
def test_interleaved_maps_of_many_parts(kind: str, triton_device: torch.device) -> None:
    """More parts than are joined at once; what decides lies in parts far apart, and in a map of the last group."""
    height, width = 97, 131  # 12707 pixels, 17 parts
    maps = torch.zeros(1, 33, height * width, device=triton_device)
    maps[..., 40] = 0.25
    last = height * width - 1
    maps[:, 32, {"one": [9000], "tied": [800, 12000], "nan": [12500], "first_and_last": [0, last]}[kind]] = 0.5
    if kind == "nan":
        maps[:, 32, 3000] = math.nan
    maps = maps.view(1, 33, height, width).contiguous(memory_format=torch.channels_last)
    coords, scores, _ = decode_poisoned(maps, recipes.ARGMAX)
    expected = {"one": 9000, "tied": 800, "nan": None, "first_and_last": 0}[kind]
    assert coords[0, 5].tolist() == [40, 0]
    if expected is None:
        assert coords[0, 32].tolist() == [-1, -1]
        assert bool(scores[0, 32].isnan())
    else:
        assert coords[0, 32].tolist() == [expected % width, expected // width]
        assert scores[0, 32] == 0.5


# --- equal numbers ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("recipe", [recipes.MMPOSE_LEGACY_UDP, recipes.VITPOSE_HF], ids=lambda recipe: recipe.name)
def test_a_plateau_has_no_slope(recipe: Recipe, triton_device: torch.device) -> None:
    """UDP adds 1e-7 to a Hessian of zero: a gradient of one rounding would be a step of half a pixel."""
    heatmaps = torch.tensor([0.1, 0.3, 0.7, 1 / 3], device=triton_device).view(1, 4, 1, 1).expand(-1, -1, 16, 16)
    for padding in ("reflect", "symmetric"):
        actual = decode_poisoned(heatmaps, dataclasses.replace(recipe, padding=padding))
        assert actual.coords.tolist() == [[[0.0, 0.0]] * 4]


def test_of_equal_blurred_maxima_the_first_is_found(triton_device: torch.device) -> None:
    maps = torch.zeros(1, 2, 23, 20, device=triton_device)
    for k, places in enumerate([((6, 13), (16, 5)), ((11, 4), (11, 15))]):
        for y, x in places:
            maps[0, k, y - 1 : y + 2, x - 1 : x + 2] = torch.tensor([[0.3, 0.6, 0.3], [0.6, 0.9, 0.6], [0.3, 0.6, 0.3]])
    maps *= 255
    small = dataclasses.replace(recipes.MEGVII, kernel_size=3)
    coords = decode_poisoned(maps, small).coords
    # A symmetric blob is not moved, but for half a pixel.
    assert coords.tolist() == [[[13.5, 6.5], [4.5, 11.5]]]


@pytest.mark.parametrize("levels", [(0.95, 0.97, 0.3), (0.3, 0.95, 0.97), (0.97, 0.95, 0.96)], ids=str)
def test_the_blurred_maximum_is_found_in_any_tile(levels: tuple[float, ...], triton_device: torch.device) -> None:
    """Tiles that can't hold it are passed over: plateaus little higher than what was found before are not."""
    maps = torch.zeros(1, 1, 20, 52, device=triton_device)
    for i, level in enumerate(levels):
        maps[..., 4:13, 4 + 16 * i : 13 + 16 * i] = level
    maps[..., 18, 1] = 1.0  # the raw peak, of which the blur leaves little
    recipe = dataclasses.replace(recipes.MEGVII, kernel_size=5)
    actual = decode_poisoned(maps, recipe)
    testing.assert_decodes_like_reference(actual, maps, recipe, testing.TRITON)
    assert int(actual.coords[0, 0, 0]) // 16 == levels.index(max(levels))


@pytest.mark.parametrize("stencil", ["wide", "compact"])
@pytest.mark.parametrize("sigma", [0.6, 0.8, 1.2])
def test_logs_of_steep_blobs(sigma: float, stencil: Any, triton_device: torch.device) -> None:
    """Neighbours of a pixel are down to a thousandth of it: beyond what a series for the log of a ratio is good for."""
    heatmaps = testing.gaussian_blobs(1, 6, 17, 14, sigma, 4.0, seed=2, dtype=torch.float32).heatmaps.to(triton_device)
    for blur in (Recipe(stencil=stencil, blur="none", rescale=False), Recipe(stencil=stencil, kernel_size=3)):
        actual = decode_poisoned(heatmaps, blur, covariance=True)
        compared = testing.assert_decodes_like_reference(actual, heatmaps, blur, testing.TRITON)
        assert compared.bounded == 6


# --- the rare map where a clip binds ---------------------------------------------------------------------

# Recipe, peak, and width of the second blob: some of the stencil's values reach a clip with one scale and not with
# another.
BINDING = [
    pytest.param(recipes.MMPOSE_UDP, 1.97e-3, 2.2, id="udp-lower"),
    pytest.param(recipes.MMPOSE_UDP, 100.0, 2.2, id="udp-upper"),
    pytest.param(recipes.SAPIENS_HF, 1.97e-3, 2.2, id="sapiens-lower"),
    pytest.param(recipes.SAPIENS_HF, 100.0, 2.2, id="sapiens-upper"),
    pytest.param(recipes.DARKPOSE, 3e-10, 3.0, id="darkpose-lower"),
    pytest.param(recipes.MMPOSE_DARK, 3e-10, 3.0, id="mmpose-dark-lower"),
]


@pytest.mark.parametrize(("recipe", "peak", "width"), BINDING)
@pytest.mark.parametrize("backend", ["eager", "triton"])
def test_the_scale_is_taken_from_the_whole_map_where_a_clip_binds(
    recipe: Recipe, peak: float, width: float, backend: str, triton_device: torch.device
) -> None:
    """Two blobs: the broader one, which the peak's surroundings do not show, has the blurred maximum."""
    narrow, broad = (testing.gaussian_blobs(1, 1, 32, 32, sigma, 8.0, seed=3).heatmaps[0, 0] for sigma in (1.2, width))
    y, x = divmod(int(narrow.argmax()), 32)
    broad = 0.97 * torch.roll(broad, (32 // 2, 32 // 2), (0, 1))
    maps = (torch.maximum(narrow / narrow.max(), broad) * peak)[None, None].float().to(triton_device)
    assert divmod(int(maps.argmax()), 32) == (y, x)

    expected = dark_kernels.decode(maps.double(), recipe, backend="reference")
    without = dark_kernels.decode(maps.double(), dataclasses.replace(recipe, rescale=False), backend="reference")
    near = maps.double().clone()
    far = torch.arange(32, device=triton_device)
    near[..., (far - y).abs() > 8, :] = 0
    near[..., :, (far - x).abs() > 8] = 0
    from_window = dark_kernels.decode(near, recipe, backend="reference")

    actual = dark_kernels.decode(maps, recipe, backend=backend)
    arithmetic = testing.arithmetic_of(backend, triton_device.type, maps.dtype)
    # So the test can fail: no scale at all, or that of the surroundings, is a hundred times further off than it may be.
    allowed = testing.decode_bounds(maps.cpu(), recipe, arithmetic).coords.max()
    for wrong in (without, from_window):
        assert (expected.coords - wrong.coords).abs().max() > 100 * allowed
    testing.assert_decodes_like_reference(actual, maps, recipe, arithmetic)


# --- offsets ---------------------------------------------------------------------------------------------


def wide_view(maps: Tensor, stride_h: int, stride_w: int, storage: Tensor) -> Tensor:
    """A view of `storage` with the contents of one small map at the given strides."""
    view = storage.as_strided((1, 1, *maps.shape[-2:]), (0, 0, stride_h, stride_w))
    view.copy_(maps)
    return view


def test_launch_flags(launches: list[dict[str, Any]], triton_device: torch.device) -> None:
    maps = torch.rand(1, 1, 6, 5, device=triton_device)
    decode_poisoned(maps, recipes.ARGMAX)
    decode_poisoned(maps.mT, recipes.ARGMAX)
    decode_poisoned(maps[..., :4], recipes.ARGMAX)
    decode_poisoned(maps.expand(2, 3, -1, -1), recipes.ARGMAX)
    assert [launch["SCAN"].IS_FLAT for launch in launches] == [True, False, False, True]
    assert not any(launch["SCAN"].WIDE_INDEX for launch in launches)


@pytest.mark.parametrize("recipe", recipes.ALL, ids=lambda recipe: recipe.name)
def test_64_bit_offsets_inside_a_map_give_the_same_numbers(
    recipe: Recipe, triton_device: torch.device, monkeypatch: pytest.MonkeyPatch
) -> None:
    from dark_kernels.decode import kernels

    size = (13, 11) if triton_device.type == "cpu" else (64, 48)
    heatmaps = testing.heatmaps_of_kinds(["noisy_blob", "weak_blob", "some_nan"], 1, 3, *size, seed=9)
    heatmaps = heatmaps.to(triton_device)
    index_flags = kernels.index_flags

    def widened(*arguments: Any) -> dict[str, bool]:
        return {**index_flags(*arguments), "WIDE_INDEX": True}

    for maps in (heatmaps, heatmaps.mT):
        narrow = decode_poisoned(maps, recipe)
        with monkeypatch.context() as patch:
            patch.setattr(kernels, "index_flags", widened)
            patch.setattr(kernels, "launch_key", lambda *_: None)
            testing.assert_same_keypoints(decode_poisoned(maps, recipe), narrow)


@pytest.mark.slow
def test_64_bit_offsets_compile_for_strides_of_one() -> None:
    """Triton turns an argument of 1 into a constant, which has no `.to`. A contiguous map has a stride of 1."""
    script = """
import triton
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource
from dark_kernels import recipes
from dark_kernels._triton.launch import constant
from dark_kernels._triton.maps import Heatmaps, Scan
from dark_kernels.decode import kernels

kernel = kernels._decode_fwd_kernel
absent = ("covariances_ptr", "flipped", "offsets", "transform_ptr", "keypoint_indices_ptr", "flip_indices_ptr")
for name in ("darkpose", "megvii"):
    for ones in (set(), {"width", "height"}):
        recipe = kernels.recipe_constants(recipes.get(name).operator_arguments, False)
        shape = kernels.launch_shape(2**32, 4)
        options = {"num_warps": shape["num_warps"]}
        scan = Scan(shape["BLOCK_SIZE"], shape["LOADS"], IS_FLAT=True, USES_RECIPROCAL=False, WIDE_INDEX=True)
        constants = {"OFFSET_SCALE": 0.0, "SCAN": constant(scan), "RECIPE": constant(recipe)}
        constants = {**constants, **dict.fromkeys(absent), **dict.fromkeys(ones, 1)}
        types = {argument: "constexpr" if argument in constants else "*fp32" if argument.endswith("_ptr") else "i64"
                 for argument in kernel.arg_names}
        types["heatmaps"] = Heatmaps("*fp32", "i64", "i64", "i64", "constexpr")
        types["parts"] = kernels.Parts("constexpr", "constexpr", "constexpr")
        constants[(kernel.arg_names.index("heatmaps"), Heatmaps._fields.index("stride_w"))] = 1
        constants |= {(kernel.arg_names.index("parts"), field): None for field in range(3)}
        triton.compile(ASTSource(kernel, types, constants), target=GPUTarget("cuda", 90, 32), options=options)
print("compiled")
"""
    environment = {name: value for name, value in os.environ.items() if name != "TRITON_INTERPRET"}
    done = subprocess.run([sys.executable, "-c", script], env=environment, capture_output=True, text=True, timeout=240)
    assert done.stdout.strip() == "compiled", done.stderr[-2000:]


@pytest.mark.slow
@pytest.mark.parametrize("backend", ["eager", "triton"])
@pytest.mark.usefixtures("much_memory")
def test_maps_whose_rows_lie_more_than_2_to_the_31_apart(
    backend: str, launches: list[dict[str, Any]], triton_device: torch.device
) -> None:
    """Two rows of pixels, far apart. Of the 4 GiB between them no page but two is ever touched on a CPU."""
    stride = 2**31 + 1024
    if triton_device.type != "cpu" and torch.cuda.mem_get_info(triton_device)[0] < 10 * 2**30:
        pytest.skip("less than 10 GiB of free device memory")
    maps = torch.rand(2, 7, generator=torch.Generator().manual_seed(0)).half().to(triton_device)
    storage = torch.empty(stride + 8, dtype=torch.float16, device=triton_device)
    heatmaps = wide_view(maps, stride, 1, storage)
    for recipe in (recipes.MMPOSE_UDP, recipes.QUARTER):
        actual = dark_kernels.decode(heatmaps, recipe, backend=backend)
        assert backend == "eager" or launches[-1]["SCAN"].WIDE_INDEX
        expected = dark_kernels.decode(maps[None, None], recipe, backend=backend)
        testing.assert_same_keypoints(actual, expected)


@pytest.mark.slow
@pytest.mark.parametrize("backend", ["eager", "triton"])
@pytest.mark.parametrize("far", ["batch", "keypoint"])
@pytest.mark.usefixtures("much_memory")
def test_maps_that_lie_more_than_2_to_the_31_apart(backend: str, far: str, triton_device: torch.device) -> None:
    """The stride fits into 32 bits and two of it don't: a product in 32 bits would read the third map elsewhere."""
    stride = 2**30 + 4096
    if triton_device.type != "cpu" and torch.cuda.mem_get_info(triton_device)[0] < 10 * 2**30:
        pytest.skip("less than 10 GiB of free device memory")
    maps = testing.heatmaps_of_kinds(["noisy_blob"], 1, 3, 9, 7, seed=1, dtype=torch.float16).to(triton_device)
    storage = torch.empty(2 * stride + 63, dtype=torch.float16, device=triton_device)
    shape, strides = ((3, 1), (stride, 0)) if far == "batch" else ((1, 3), (0, stride))
    heatmaps = storage.as_strided((*shape, 9, 7), (*strides, 7, 1))
    heatmaps.copy_(maps.view(*shape, 9, 7))
    for recipe in (recipes.DARKPOSE, recipes.MMPOSE_UDP):
        actual = dark_kernels.decode(heatmaps, recipe, backend=backend)
        expected = dark_kernels.decode(maps, recipe, backend=backend)
        assert actual.coords.view(3, 2).tolist() == expected.coords.view(3, 2).tolist()


# --- on a device -----------------------------------------------------------------------------------------


@pytest.mark.gpu
@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16], ids=str)
@pytest.mark.parametrize("layout", ["contiguous", "channels_last", "sliced", "transposed"])
@pytest.mark.parametrize("recipe", recipes.ALL, ids=lambda recipe: recipe.name)
def test_all_recipes_on_a_device(recipe: Recipe, layout: str, dtype: torch.dtype, gpu: torch.device) -> None:
    kinds = sorted(testing.VALUE_KINDS)
    maps = testing.heatmaps_of_kinds(kinds, 4, len(kinds), 64, 48, seed=10, dtype=torch.float64)
    maps = maps * (255 if recipe == recipes.MEGVII else 1)
    heatmaps = testing.with_layout(maps.to(gpu, dtype), layout)
    actual = decode_poisoned(heatmaps, recipe, recipe.has_hessian)
    compared = testing.assert_decodes_like_reference(actual, heatmaps, recipe, testing.TRITON)
    assert compared.bounded > 0.5 * compared.refined > 0


@pytest.mark.gpu
@pytest.mark.parametrize("backend", ["triton", "eager"])
@pytest.mark.parametrize("recipe", recipes.ALL, ids=lambda recipe: recipe.name)
def test_a_cuda_graph_replays_on_changed_inputs(recipe: Recipe, backend: str, gpu: torch.device) -> None:
    first, second = (
        testing.heatmaps_of_kinds(["noisy_blob", "noise", "weak_blob"], 4, 3, 64, 48, seed=seed).to(gpu)
        for seed in (1, 2)
    )
    held = first.clone()
    stream = torch.cuda.Stream(gpu)
    stream.wait_stream(torch.cuda.current_stream(gpu))
    with torch.cuda.stream(stream):
        for _ in range(2):
            dark_kernels.decode(held, recipe, recipe.has_hessian, backend=backend)
    torch.cuda.current_stream(gpu).wait_stream(stream)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        captured = dark_kernels.decode(held, recipe, recipe.has_hessian, backend=backend)
    for maps in (second, first):
        held.copy_(maps)
        graph.replay()
        torch.cuda.synchronize(gpu)
        testing.assert_same_keypoints(captured, dark_kernels.decode(maps, recipe, recipe.has_hessian, backend=backend))


@pytest.mark.gpu
def test_a_new_batch_size_compiles_nothing(gpu: torch.device) -> None:
    from triton import knobs

    compiled: list[object] = []
    heatmaps = torch.rand(37, 5, 33, 29, device=gpu)
    dark_kernels.decode(heatmaps[:3], recipes.DARKPOSE)
    knobs.runtime.jit_post_compile_hook = lambda **arguments: compiled.append(arguments["key"])
    try:
        for batch, num_keypoints in ((1, 1), (2, 1), (16, 5), (37, 3), (5, 5)):
            dark_kernels.decode(heatmaps[:batch, :num_keypoints].contiguous(), recipes.DARKPOSE)
    finally:
        knobs.runtime.jit_post_compile_hook = None
    assert compiled == []


@pytest.mark.gpu
def test_auto_launches_the_kernel_once(gpu: torch.device, launches: list[dict[str, Any]]) -> None:
    dark_kernels.decode(torch.rand(8, 17, 64, 48, device=gpu))
    assert len(launches) == 1


@pytest.mark.gpu
def test_a_device_that_is_not_the_current_one(gpu: torch.device) -> None:
    if torch.cuda.device_count() < 2:
        pytest.skip("one device only")
    heatmaps = testing.heatmaps_of_kinds(["noisy_blob"], 2, 3, 64, 48, seed=1)
    other = torch.device("cuda", 1)
    with torch.cuda.device(0):
        actual = dark_kernels.decode(heatmaps.to(other), recipes.DARKPOSE, True)
        assert torch.cuda.current_device() == 0
    assert actual.coords.device == other
    testing.assert_decodes_like_reference(actual, heatmaps, recipes.DARKPOSE, testing.TRITON)


@pytest.mark.gpu
@pytest.mark.slow
@pytest.mark.usefixtures("much_memory")
def test_more_than_2_to_the_31_elements(gpu: torch.device) -> None:
    shape = (1, 17, 11500, 11500)  # 2.2e9 elements, in fp16 4.2 GiB
    if torch.cuda.mem_get_info(gpu)[0] < 16 * 2**30:
        pytest.skip("less than 16 GiB of free device memory")
    heatmaps = torch.zeros(shape, dtype=torch.float16, device=gpu)
    blob = testing.gaussian_blobs(1, 17, 32, 32, seed=1)
    heatmaps[..., -32:, -32:] = blob.heatmaps.to(gpu, torch.float16)
    expected = dark_kernels.decode(blob.heatmaps.half(), recipes.DARKPOSE, backend="reference").coords + (11500 - 32)
    actual = dark_kernels.decode(heatmaps, recipes.DARKPOSE).coords.cpu()
    assert (actual - expected).abs().max() < 2e-3  # 11500 px has a rounding of 5e-4


@pytest.mark.gpu
@pytest.mark.slow
@pytest.mark.usefixtures("much_memory")
def test_one_map_of_more_than_2_to_the_31_elements(gpu: torch.device) -> None:
    side = 46400
    if torch.cuda.mem_get_info(gpu)[0] < 16 * 2**30:
        pytest.skip("less than 16 GiB of free device memory")
    heatmaps = torch.zeros(1, 1, side, side, dtype=torch.float16, device=gpu)
    blob = testing.gaussian_blobs(1, 1, 32, 32, seed=1)
    heatmaps[..., -32:, -32:] = blob.heatmaps.to(gpu, torch.float16)
    expected = dark_kernels.decode(blob.heatmaps.half(), recipes.DARKPOSE, backend="reference").coords + (side - 32)
    actual = dark_kernels.decode(heatmaps, recipes.DARKPOSE).coords.cpu()
    assert (actual - expected).abs().max() < 1e-2  # 46400 px has a rounding of 2e-3


def test_the_reference_is_what_all_this_compares_with() -> None:
    """The kernels never call it, so they can't agree with it by construction."""
    from dark_kernels.decode import kernels

    assert reference.__name__ not in {getattr(value, "__module__", None) for value in vars(kernels).values()}
