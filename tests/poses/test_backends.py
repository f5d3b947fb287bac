"""Every backend against plain Python loops, and what counts as a pose and as visible."""

from __future__ import annotations

import dataclasses
import functools
import math
from typing import Any

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from torch import Tensor

from dark_kernels import COCO_KAPPAS, KeptPoses, oks, oks_nms, soft_oks_nms, testing

from ..conftest import SERVICES
from .cases import KAPPAS, Scenes, assert_kept, make_scenes, similarity

EVERY = pytest.mark.parametrize("service", SERVICES, indirect=True)
EVERY_FUSED = pytest.mark.parametrize("service", SERVICES[1:], indirect=True)
KERNELS = pytest.mark.parametrize("service", [SERVICES[2], SERVICES[4]], indirect=True)
METHODS = ("hard", "gaussian", "linear")
Service = tuple[str, torch.device]


def suppress(scenes: Scenes, backend: str) -> KeptPoses:
    function = oks_nms if scenes.method == "hard" else soft_oks_nms
    arguments = (scenes.poses, scenes.scores, scenes.areas)
    return function(*arguments, visible=scenes.visible, mask=scenes.mask, backend=backend, **scenes.options)


@functools.cache
def scenes_of(method: str, visible: bool, count: int = 1000) -> Scenes:
    return make_scenes(count, method, visible)


def some_of(service: Service) -> slice:
    """All of the scenes; fewer for the interpreter, and for the reference's own loops."""
    backend, device = service
    if backend == "reference":
        return slice(0, 100)
    return slice(0, 25) if backend == "triton" and device.type == "cpu" else slice(None)


def taken(scenes: Scenes, part: slice) -> Scenes:
    tensors = (each if each is None else each[part] for each in (scenes.poses, scenes.scores, scenes.areas))
    visible = None if scenes.visible is None else scenes.visible[part]
    return Scenes(*tensors, scenes.mask[part], visible, scenes.method, scenes.max_poses, scenes.kept[part])


# --- similarities ------------------------------------------------------------------------------------------


def some_poses(batch: int = 2, num: int = 5, other: int = 3) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    generator = torch.Generator().manual_seed(1)
    poses_a = torch.rand(batch, num, len(KAPPAS), 2, generator=generator) * 20
    poses_b = torch.rand(batch, other, len(KAPPAS), 2, generator=generator) * 20
    areas_a = torch.rand(batch, num, generator=generator) * 3000
    return poses_a, poses_b, areas_a, torch.rand(batch, other, generator=generator) * 3000


@pytest.mark.parametrize("shown", ["all", "a", "b", "both"])
@EVERY
def test_oks_is_the_formula(shown: str, service: Service) -> None:
    backend, device = service
    poses_a, poses_b, areas_a, areas_b = some_poses()
    generator = torch.Generator().manual_seed(2)
    seen_a, seen_b = (torch.rand(each.shape[:3], generator=generator) < 0.6 for each in (poses_a, poses_b))
    seen_a[0, 0] = False  # nothing is visible: 0
    seen_a = seen_a if shown in ("a", "both") else None
    seen_b = seen_b if shown in ("b", "both") else None
    expected = torch.zeros(2, 5, 3, dtype=torch.float64)
    for b in range(2):
        for i in range(5):
            for j in range(3):
                seen = [
                    (seen_a is None or bool(seen_a[b, i, k])) and (seen_b is None or bool(seen_b[b, j, k]))
                    for k in range(len(KAPPAS))
                ]
                expected[b, i, j] = similarity(
                    poses_a[b, i].tolist(), poses_b[b, j].tolist(), float(areas_a[b, i]), float(areas_b[b, j]),
                    seen=seen,
                )  # fmt: skip
    arguments = [each.to(device) for each in (poses_a, poses_b, areas_a, areas_b)]
    visible = [None if each is None else each.to(device) for each in (seen_a, seen_b)]
    actual = oks(*arguments, KAPPAS, *visible, backend=backend)
    assert actual.dtype == torch.float32
    # x e^-x is at most 0.37, and each x is off by a few roundings; a mean adds some more.
    torch.testing.assert_close(actual.cpu().double(), expected, rtol=0, atol=16 * torch.finfo(torch.float32).eps)
    doubled = oks(*(each.double() for each in arguments), KAPPAS, *visible, backend=backend)
    torch.testing.assert_close(doubled.cpu(), expected, rtol=0, atol=1e-14)


@EVERY
def test_oks_of_coco_by_hand(service: Service) -> None:
    """Each keypoint at 2 kappa sqrt(area) from the other's: e^(-1/2) of itself in the mean."""
    backend, device = service
    area = 6400.0
    kappas = torch.tensor(COCO_KAPPAS, dtype=torch.float64, device=device)
    poses = torch.zeros(1, 17, 2, dtype=torch.float64, device=device)
    moved = poses.clone()
    moved[..., 1] = 2 * kappas * area**0.5
    areas = torch.full((1,), area, dtype=torch.float64, device=device)
    assert oks(poses, moved, areas, areas, backend=backend).item() == pytest.approx(math.exp(-0.5))
    assert oks(poses, poses, areas, areas, backend=backend).item() == 1
    # 17 keypoints, of which one is at its place: the mean is over all.
    moved[:] = 1e9
    moved[0, 3] = 0
    assert oks(poses, moved, areas, areas, backend=backend).item() == pytest.approx(1 / 17)


@EVERY
def test_oks_of_poses_without_an_area(service: Service) -> None:
    """COCO's epsilon: a pose is like itself, and like nothing else."""
    backend, device = service
    poses = torch.tensor([[[1.0, 2.0]], [[1.0, 2.5]]], device=device)
    areas = torch.zeros(2, device=device)
    assert oks(poses, poses, areas, areas, (0.1,), backend=backend).tolist() == [[1, 0], [0, 1]]


@EVERY
def test_oks_is_finite(service: Service) -> None:
    """NaN and infinity in one place are like nothing there, and change nothing elsewhere."""
    backend, device = service
    poses_a, poses_b, areas_a, areas_b = (each.to(device) for each in some_poses())
    clean = oks(poses_a, poses_b, areas_a, areas_b, KAPPAS, backend=backend)
    for bad in (math.nan, math.inf, -math.inf):
        poses, areas = poses_a.clone(), areas_a.clone()
        poses[0, 1, 2, 0] = bad
        areas[1, 3] = bad
        dirty = oks(poses, poses_b, areas, areas_b, KAPPAS, backend=backend)
        poses[0, 1, 2, 0] = 1e15
        far = oks(poses, poses_b, areas_a, areas_b, KAPPAS, backend=backend)
        assert torch.equal(dirty[0], far[0])
        assert bool((dirty[1, 3] == 0).all())
        assert torch.equal(dirty[1, :3], clean[1, :3])
        twice = oks(poses.fill_(bad), poses, areas_a, areas_a, KAPPAS, backend=backend)  # inf - inf
        assert bool((twice == 0).all())
    huge = torch.full_like(poses_a, 3e38)
    result = oks(huge, -huge, torch.full_like(areas_a, 3e38), torch.full_like(areas_a, 3e38), KAPPAS, backend=backend)
    assert bool((result == 0).all())
    negative = oks(poses_a, poses_b, -areas_a, areas_b, KAPPAS, backend=backend)
    assert bool((negative == 0).all())


@pytest.mark.parametrize("layout", ["transposed", "batch_innermost", "sliced", "offset", "expanded_batch"])
@EVERY_FUSED
def test_oks_reads_any_strides(layout: str, service: Service) -> None:
    backend, device = service
    poses_a, poses_b, areas_a, areas_b = (each.to(device) for each in some_poses())
    odd = testing.with_layout(poses_a, layout)
    areas = areas_a.t().contiguous().t()
    actual = oks(odd, poses_b, areas, areas_b, KAPPAS, backend=backend)
    assert torch.equal(actual, oks(odd.contiguous(), poses_b, areas_a, areas_b, KAPPAS, backend=backend))


@EVERY
def test_leading_dimensions(service: Service) -> None:
    """None, one or several; tiles that are full and tiles that are not."""
    backend, device = service
    poses_a, poses_b, areas_a, areas_b = (each.to(device) for each in some_poses(6, 33, 2))
    whole = oks(poses_a, poses_b, areas_a, areas_b, KAPPAS, backend=backend)
    # Sums of another shape may take another order.
    one = oks(poses_a[2], poses_b[2], areas_a[2], areas_b[2], KAPPAS, backend=backend)
    torch.testing.assert_close(one, whole[2])
    several = (each.unflatten(0, (3, 2)) for each in (poses_a, poses_b, areas_a, areas_b))
    torch.testing.assert_close(oks(*several, KAPPAS, backend=backend), whole.unflatten(0, (3, 2)))


@pytest.mark.parametrize("shape", [(0, 2, 3), (2, 0, 3), (2, 3, 0), (0, 0, 0)])
@EVERY
def test_oks_of_nothing(shape: tuple[int, int, int], service: Service) -> None:
    backend, device = service
    batch, num, other = shape
    arguments = (each.to(device) for each in some_poses(batch, num, other))
    assert oks(*arguments, KAPPAS, backend=backend).shape == shape


@EVERY
def test_half_precision_and_other_dtypes(service: Service) -> None:
    """Arithmetic is float32: halves are the numbers that they are; visibilities are what is above 0."""
    backend, device = service
    poses_a, poses_b, areas_a, areas_b = (each.to(device) for each in some_poses())
    half = poses_a.half(), poses_b, areas_a, areas_b.half()
    expected = oks(*(each.float() for each in half), KAPPAS, backend=backend)
    assert torch.equal(oks(*half, KAPPAS, backend=backend), expected)
    seen = torch.tensor([2, 0, 1, 0], device=device).expand(2, 5, 4)
    results = [
        oks(poses_a, poses_b, areas_a, areas_b, torch.tensor(KAPPAS), visible_a=seen.to(dtype), backend=backend)
        for dtype in (torch.bool, torch.uint8, torch.int64, torch.float16, torch.float64)
    ]
    assert all(torch.equal(result, results[0]) for result in results)


# --- suppression -------------------------------------------------------------------------------------------


@pytest.mark.parametrize("visible", [False, True])
@pytest.mark.parametrize("method", METHODS)
@EVERY
def test_suppression_is_the_plain_loop(method: str, visible: bool, service: Service) -> None:
    backend, device = service
    scenes = scenes_of(method, visible)
    assert len(scenes.kept) == 1000
    scenes = taken(scenes, some_of(service))
    assert_kept(suppress(scenes.to(device), backend), scenes.expected)


@pytest.mark.parametrize("service", [SERVICES[2], SERVICES[4]], indirect=True)
def test_more_poses_than_are_settled_at_once(service: Service, monkeypatch: pytest.MonkeyPatch) -> None:
    """Such an image is gone through from its best pose on, as all are with image ids."""
    from dark_kernels.poses import kernels

    monkeypatch.setattr(kernels, "MOST_RIVALS", 2)
    backend, device = service
    scenes = taken(scenes_of("hard", True), slice(0, 12))
    assert_kept(suppress(scenes.to(device), backend), scenes.expected)


@EVERY
def test_a_chain_of_poses_like_their_neighbours(service: Service) -> None:
    """Each is dropped by the one before it, unless that is dropped itself: every other one is kept, whatever the order
    of scores, in which equal ones count by their places."""
    backend, device = service
    num = 37
    x = torch.arange(num) * 1.0
    poses = torch.stack([x, torch.zeros(num)], -1)[:, None, :].expand(-1, 2, -1)
    scores = torch.stack([torch.linspace(1, 0.1, num), torch.full((num,), 0.5), torch.linspace(0.1, 1, num)])
    areas = torch.full((3, num), 50.0)
    kept = oks_nms(
        poses.expand(3, -1, -1, -1).to(device), scores.to(device), areas.to(device), 0.5, (0.1, 0.1), backend=backend
    )
    assert kept.counts.tolist() == [19, 19, 19]
    assert kept.indices[0, :19].tolist() == kept.indices[1, :19].tolist() == list(range(0, num, 2))
    assert kept.indices[2, :19].tolist() == list(range(num - 1, -1, -2))


@pytest.mark.parametrize("method", METHODS)
def test_eager_in_float64_is_the_plain_loop(method: str) -> None:
    scenes = scenes_of(method, True)
    assert_kept(suppress(scenes.to("cpu", torch.float64), "eager"), scenes.expected)


@EVERY
def test_the_default_device_does_not_matter(service: Service) -> None:
    backend, device = service
    scenes = taken(scenes_of("hard", True), slice(0, 2)).to(device)
    with torch.device("meta"):
        kept = suppress(scenes, backend)
    assert_kept(kept, scenes.expected)


@EVERY
def test_flags_of_any_dtype(service: Service) -> None:
    """Visibilities and masks are what is above 0."""
    backend, device = service
    scenes = taken(scenes_of("hard", True), slice(0, 3)).to(device)
    for dtype in (torch.uint8, torch.int64, torch.float16, torch.float32, torch.float64):
        flags = dataclasses.replace(scenes, visible=2 * scenes.visible.to(dtype), mask=2 * scenes.mask.to(dtype))
        assert_kept(suppress(flags, backend), scenes.expected)


@pytest.mark.parametrize("masked", [False, True])
@pytest.mark.parametrize("method", METHODS)
@EVERY
def test_image_ids_are_a_batch(method: str, masked: bool, service: Service) -> None:
    """Poses of several images by turns, against the padded form; what does not exist is left out, or masked."""
    backend, device = service
    scenes = taken(scenes_of(method, True), slice(0, 10)).to(device)
    padded = suppress(scenes, backend)
    num = scenes.scores.shape[1]
    turn = torch.arange(10 * num, device=device).view(10, num).t().flatten()  # the first of each image, ...
    if not masked:
        turn = turn[scenes.mask.flatten()[turn]]
    ids = turn // num * 7 - 20  # and there are ids that no pose has
    function = oks_nms if method == "hard" else soft_oks_nms
    flat = function(
        *(each.flatten(0, 1)[turn] for each in (scenes.poses, scenes.scores, scenes.areas)),
        visible=scenes.visible.flatten(0, 1)[turn],
        mask=scenes.mask.flatten()[turn] if masked else None,
        image_ids=ids.int() if masked else ids,
        backend=backend,
        **scenes.options,
    )
    assert torch.equal(flat.keep, padded.keep.flatten()[turn])
    torch.testing.assert_close(flat.scores, padded.scores.flatten()[turn])
    assert flat.indices.shape == turn.shape
    assert flat.counts.shape == ()
    count = int(flat.counts)
    rows = zip(padded.indices, padded.counts.tolist(), strict=True)
    expected = torch.cat([row[:length] + num * b for b, (row, length) in enumerate(rows)])
    assert torch.equal(turn[flat.indices[:count]], expected)
    assert bool((flat.indices[count:] == -1).all())


@pytest.fixture
def small_blocks(monkeypatch: pytest.MonkeyPatch) -> None:
    """Ids take several blocks, though poses are few."""
    pytest.importorskip("triton", reason="Triton is not installed")
    from dark_kernels.poses import kernels

    monkeypatch.setattr(kernels, "BLOCK_IDS", 4)


@pytest.mark.parametrize("dtype", [torch.uint8, torch.int32, torch.int64])
@pytest.mark.usefixtures("small_blocks")
@EVERY_FUSED
def test_ids_are_any_integers(dtype: torch.dtype, service: Service) -> None:
    """In the order of what they are: negative ones first, and those that differ in a bit alone are different."""
    backend, device = service
    limits = torch.iinfo(dtype)
    ids = [limits.max, limits.max - 1, limits.min, 1, limits.max, limits.min + 1, limits.min, 0, limits.max]
    spread = torch.tensor(ids, dtype=dtype).repeat_interleave(2).to(device)[::2]  # a stride
    poses, scores = torch.zeros(9, 1, 2, device=device), torch.linspace(0.1, 0.9, 9, device=device)
    kept = oks_nms(poses, scores, torch.ones_like(scores), kappas=(0.1,), image_ids=spread, backend=backend)
    expected = sorted(range(9), key=lambda i: (ids[i], -i))
    expected = [
        i for i, before in zip(expected, [None, *expected], strict=False) if before is None or ids[i] != ids[before]
    ]
    assert kept.indices.tolist() == expected + [-1] * (9 - len(expected))
    assert int(kept.counts) == len(expected)
    assert kept.keep.nonzero().flatten().tolist() == sorted(expected)


@settings(max_examples=25, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    poses=st.lists(
        st.tuples(
            st.sampled_from([-3, 0, 2**40, 2**40 + 1]),  # whose image
            st.integers(0, 2),  # which person: all of a person's poses are the same, others are far
            st.sampled_from([0.75, 0.5, 0.25, 0.25, math.nan, -math.inf]),
            st.booleans(),
        ),
        min_size=1,
        max_size=14,
    ),
    method=st.sampled_from(METHODS),
    max_poses=st.integers(1, 6),
)
@pytest.mark.usefixtures("small_blocks")
@EVERY_FUSED
def test_image_ids_are_the_reference(
    service: Service, poses: list[tuple[int, int, float, bool]], method: str, max_poses: int
) -> None:
    """Any images, ties, and what is no pose; no decision is by a rounding."""
    backend, device = service
    image, person, score, exists = (list(column) for column in zip(*poses, strict=True))
    people = torch.tensor([[0.0, 0], [1e4, 0], [0, 1e4]], device=device)
    arguments = (people[person][:, None], torch.tensor(score, device=device), torch.ones(len(poses), device=device))
    options: dict[str, Any] = {} if method == "hard" else {"method": method, "max_poses": max_poses}
    options |= {"kappas": (0.1,), "mask": torch.tensor(exists, device=device)}
    options |= {"image_ids": torch.tensor(image, device=device)}
    function = oks_nms if method == "hard" else soft_oks_nms
    kept, expected = (function(*arguments, **options, backend=each) for each in (backend, "reference"))
    assert kept.indices.tolist() == expected.indices.tolist()
    assert torch.equal(kept.keep, expected.keep)
    assert torch.equal(kept.counts, expected.counts)
    torch.testing.assert_close(kept.scores, expected.scores)


@KERNELS
def test_all_of_the_outputs_is_written(service: Service) -> None:
    """Memory that is new holds NaN and the largest integers."""
    backend, device = service
    scenes = taken(scenes_of("linear", True), slice(0, 3)).to(device)
    flat = [each.flatten(0, 1) for each in (scenes.poses, scenes.scores, scenes.areas)]
    ids = torch.arange(len(flat[0]), device=device) % 3
    expected = [suppress(scenes, backend), soft_oks_nms(*flat, image_ids=ids, backend=backend, **scenes.options)]
    torch.use_deterministic_algorithms(True)
    try:
        poisoned = [suppress(scenes, backend), soft_oks_nms(*flat, image_ids=ids, backend=backend, **scenes.options)]
    finally:
        torch.use_deterministic_algorithms(False)
    for kept, other in zip(poisoned, expected, strict=True):
        assert all(torch.equal(*pair) for pair in zip(kept, other, strict=True))


@EVERY
def test_one_image_has_no_batch(service: Service) -> None:
    backend, device = service
    scenes = taken(scenes_of("gaussian", True), slice(5, 6)).to(device)
    padded = suppress(scenes, backend)
    tensors = (each[0] for each in (scenes.poses, scenes.scores, scenes.areas))
    alone = soft_oks_nms(*tensors, visible=scenes.visible[0], mask=scenes.mask[0], backend=backend, **scenes.options)
    for one, other in zip(alone, padded, strict=True):
        torch.testing.assert_close(one, other[0])


@pytest.mark.parametrize("method", METHODS)
@EVERY
def test_of_equal_scores_the_first_counts(method: str, service: Service) -> None:
    backend, device = service
    poses = torch.zeros(1, 5, 1, 2, device=device)
    poses[0, 3:] = 1000  # two people
    scores = torch.tensor([[0.5, 0.75, 0.75, 0.75, 0.5]], device=device)
    areas = torch.full((1, 5), 100.0, device=device)
    if method == "hard":
        kept = oks_nms(poses, scores, areas, kappas=(0.1,), backend=backend)
        assert kept.indices.tolist() == [[1, 3, -1, -1, -1]]
        return
    kept = soft_oks_nms(poses, scores, areas, kappas=(0.1,), method=method, max_poses=6, backend=backend)
    assert kept.indices.tolist() == [[1, 3, 2, 4, 0, -1] if method == "gaussian" else [1, 3, 0, 2, 4, -1]]
    assert kept.counts.tolist() == [5]


@EVERY
def test_a_threshold_is_exceeded(service: Service) -> None:
    """Hard suppression drops what is above, linear devalues what is not below: at 1, equal poses."""
    backend, device = service
    poses, areas = torch.zeros(1, 2, 1, 2, device=device), torch.ones(1, 2, device=device)
    scores = torch.tensor([[0.5, 0.75]], device=device)
    hard = oks_nms(poses, scores, areas, 1.0, (0.1,), backend=backend)
    assert hard.counts.tolist() == [2]
    assert hard.indices.tolist() == [[1, 0]]
    soft = soft_oks_nms(poses, scores, areas, 1.0, "linear", kappas=(0.1,), backend=backend)
    assert soft.scores.tolist() == [[0, 0.75]]
    assert soft.counts.tolist() == [2]


@EVERY
def test_a_threshold_that_float32_has_not(service: Service) -> None:
    """It divides, and is not 0."""
    backend, device = service
    poses = torch.tensor([0.0, 0, 1000], device=device)[:, None, None].expand(3, 1, 2)
    scores = torch.tensor([0.75, 0.5, 0.25], device=device)
    kept = soft_oks_nms(poses, scores, torch.ones_like(scores), 1e-50, kappas=(0.1,), backend=backend)
    assert kept.scores.tolist() == [0.75, 0, 0.25]


@EVERY
def test_a_pose_is_like_itself_by_one(service: Service) -> None:
    """However many keypoints: at a threshold of 1 nothing is dropped."""
    backend, device = service
    for num_keypoints in (3, 7, 11, 17, 21):
        poses = torch.rand(1, 2, num_keypoints, 2, device=device) * 100
        poses[:, 1] = poses[:, 0]
        areas, kappas = torch.full((1, 2), 900.0, device=device), (0.1,) * num_keypoints
        assert bool((oks(poses, poses, areas, areas, kappas, backend=backend) == 1).all())
        assert int(oks_nms(poses, areas, areas, 1.0, kappas, backend=backend).counts) == 2


@pytest.mark.parametrize("method", METHODS)
@EVERY
def test_what_is_no_pose(method: str, service: Service) -> None:
    """NaN and -inf scores are none; NaN coordinates and areas match nothing; a score of +inf is the best."""
    backend, device = service
    inf, nan = math.inf, math.nan
    poses = torch.zeros(1, 8, 2, 2, device=device)
    poses[0, 5] = nan
    areas = torch.full((1, 8), 100.0, device=device)
    areas[0, 6] = nan
    scores = torch.tensor([[nan, 0.5, -inf, inf, 0.25, 0.2, 0.1, 0.05]], device=device)
    mask = torch.tensor([[1.0, 1, 1, 1, 1, 1, 1, nan]], device=device)
    options = {"kappas": (0.1, 0.1), "mask": mask, "backend": backend}
    if method == "hard":
        kept = oks_nms(poses, scores, areas, **options)
        assert kept.indices.tolist() == [[3, 5, 6, -1, -1, -1, -1, -1]]
        assert kept.scores.tolist() == [pytest.approx([0, 0, 0, inf, 0, 0.2, 0.1, 0])]
    else:
        kept = soft_oks_nms(poses, scores, areas, method=method, max_poses=8, **options)
        assert kept.counts.tolist() == [5]
        assert kept.indices[0, 0] == 3
        assert sorted(kept.indices[0, 1:5].tolist()) == [1, 4, 5, 6]
        assert kept.scores[0, 5:7].tolist() == pytest.approx([0.2, 0.1])
    assert not bool(kept.scores.isnan().any())
    nothing = oks_nms(poses, torch.full_like(scores, nan), areas, kappas=(0.1, 0.1), backend=backend)
    assert int(nothing.counts) == 0
    assert not bool(nothing.keep.any())


@pytest.mark.parametrize("batched", [True, False])
@pytest.mark.parametrize("shape", [(0, 3), (2, 0), (0, 0)])
@EVERY
def test_suppression_of_nothing(shape: tuple[int, int], batched: bool, service: Service) -> None:
    backend, device = service
    batch = shape[0]
    poses, scores = torch.zeros(*shape, 17, 2, device=device), torch.zeros(shape, device=device)
    kept = soft_oks_nms(poses, scores, scores, max_poses=4, backend=backend)
    assert kept.indices.tolist() == [[-1] * 4] * batch
    assert kept.counts.tolist() == [0] * batch
    assert kept.keep.shape == kept.scores.shape == shape
    if not batched:
        ids = torch.zeros(0, dtype=torch.int64, device=device)
        flat = oks_nms(poses.new_zeros(0, 17, 2), scores.new_zeros(0), scores.new_zeros(0), image_ids=ids)
        assert [tuple(each.shape) for each in flat] == [(0,), (0,), (), (0,)]
        assert int(flat.counts) == 0


@pytest.mark.parametrize("has_ids", [False, True])
@EVERY_FUSED
def test_more_poses_than_a_block(has_ids: bool, service: Service) -> None:
    """Hundreds of copies of one pose and a second one at the end."""
    backend, device = service
    num = 1300
    if backend == "triton" and device.type == "cpu":  # with ids blocks are smaller, and each pose is a program
        num = 140 if has_ids else 600
    poses = torch.zeros(num, 1, 2, device=device)
    poses[-1] = 1000
    scores = torch.linspace(0.1, 0.9, num, device=device)
    areas = torch.full((num,), 100.0, device=device)
    ids = torch.zeros(num, dtype=torch.int64, device=device) if has_ids else None
    kept = oks_nms(poses, scores, areas, kappas=(0.1,), image_ids=ids, backend=backend)
    assert kept.indices[:3].tolist() == [num - 1, num - 2, -1]
    assert kept.keep.nonzero().flatten().tolist() == [num - 2, num - 1]


@pytest.mark.parametrize("layout", ["transposed", "batch_innermost", "sliced", "offset"])
@EVERY_FUSED
def test_suppression_reads_any_strides(layout: str, service: Service) -> None:
    backend, device = service
    scenes = taken(scenes_of("linear", True), slice(0, 5)).to(device)
    expected = suppress(scenes, backend)
    scenes.poses = testing.with_layout(scenes.poses, layout)
    scenes.scores, scenes.areas, scenes.mask = (
        each.t().contiguous().t() for each in (scenes.scores, scenes.areas, scenes.mask)
    )
    for one, other in zip(suppress(scenes, backend), expected, strict=True):
        assert torch.equal(one, other)


@EVERY
def test_inputs_are_not_written_to(service: Service) -> None:
    backend, device = service
    scenes = taken(scenes_of("gaussian", True), slice(0, 3)).to(device)
    with (
        testing.assert_unchanged(scenes.poses),
        testing.assert_unchanged(scenes.scores),
        testing.assert_unchanged(scenes.areas),
    ):
        suppress(scenes, backend)
        oks(scenes.poses, scenes.poses, scenes.areas, scenes.areas, KAPPAS, backend=backend)


@settings(max_examples=30)
@given(
    num=st.integers(1, 9),
    method=st.sampled_from(METHODS),
    max_poses=st.integers(1, 10),
    seed=st.integers(0, 2**16),
)
def test_what_is_kept_is_consistent(num: int, method: str, max_poses: int, seed: int) -> None:
    """Indices, counts, flags and scores say the same; kept poses are not alike; the best is always kept."""
    generator = torch.Generator().manual_seed(seed)
    poses = torch.rand(3, num, 2, 2, generator=generator) * 6
    scores = torch.rand(3, num, generator=generator) + 0.01
    mask = torch.rand(3, num, generator=generator) < 0.8
    areas = torch.full((3, num), 50.0)
    options = {"kappas": (0.1, 0.2), "mask": mask}
    if method == "hard":
        kept, width = oks_nms(poses, scores, areas, 0.7, **options), num
    else:
        kept, width = soft_oks_nms(poses, scores, areas, 0.7, method, max_poses, **options), max_poses
    assert kept.indices.shape == (3, width)
    alike = oks(poses, poses, areas, areas, (0.1, 0.2))
    for b in range(3):
        count = int(kept.counts[b])
        indices = kept.indices[b, :count].tolist()
        assert kept.indices[b, count:].tolist() == [-1] * (width - count)
        assert sorted(indices) == kept.keep[b].nonzero().flatten().tolist()
        assert all(mask[b, i] for i in indices)
        assert kept.scores[b, indices].tolist() == sorted(kept.scores[b].tolist(), reverse=True)[:count]
        if indices:
            assert indices[0] == int(torch.where(mask[b], scores[b], 0).argmax())
        if method == "hard":
            assert all(alike[b, i, j] <= 0.7 for i in indices for j in indices if i != j)
        else:
            assert count == min(width, int(mask[b].sum()))
