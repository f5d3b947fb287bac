"""What is drawn where: pixels are counted and weighed, since a picture that nobody looks at can be wrong for long."""

from __future__ import annotations

import subprocess
import sys
import warnings
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch

from dark_kernels import Keypoints, draw
from dark_kernels.draw import coverage

HEIGHT, WIDTH = 60, 80
LEFT, RIGHT, CENTRE = (draw.COLOURS[group] for group in ("left", "right", "centre"))


def canvas(value: int = 0, height: int = HEIGHT, width: int = WIDTH) -> np.ndarray:
    return np.full((height, width, 3), value, np.uint8)


def weight(image: np.ndarray, value: int = 0) -> np.ndarray:
    """How much each pixel differs from the canvas."""
    return np.abs(image.astype(float) - value).sum(-1)


def middle(image: np.ndarray, value: int = 0) -> np.ndarray:
    """Centre of mass (x, y) of what was drawn."""
    mass = weight(image, value)
    y, x = np.mgrid[: image.shape[0], : image.shape[1]]
    return np.array([(mass * x).sum(), (mass * y).sum()]) / mass.sum()


def rgb(colour: str) -> tuple[int, ...]:
    return tuple(bytes.fromhex(colour[1:]))


POSE = np.array([[20.0, 15.0], [60.0, 15.0], [40.0, 45.0]])


# ------------------------------------------------------------------------------------------------- right places


@pytest.mark.parametrize("marker", ["dot", "ring", "square", "cross"])
@pytest.mark.parametrize("place", [(40.0, 30.0), (40.25, 30.5), (33.4, 21.9)])
def test_markers_are_where_keypoints_are(marker: str, place: tuple[float, float]) -> None:
    image = draw.keypoints(canvas(), [place], marker=marker, colours="#ffffff")
    # A share that follows from a distance is that of a straight edge: of a small circle it is a little off.
    np.testing.assert_allclose(middle(image), place, atol=0.05)


@pytest.mark.parametrize("end", [(60.0, 20.0), (61.3, 47.7), (20.0, 50.0), (20.0, 20.0)])
def test_limbs_reach_from_end_to_end(end: tuple[float, float]) -> None:
    start = np.array([20.0, 20.0])
    image = draw.limbs(canvas(), [start, end], skeleton=[(0, 1)], scale=1.0)
    np.testing.assert_allclose(middle(image), (start + end) / 2, atol=0.05)
    for x, y in (start, end):
        assert image[round(y), round(x)].min() > 100
    length = np.hypot(*(end - start))
    # 2.2 pixels wide, less if it is short, with round ends; CENTRE is nearly white.
    width = 2.2 * min(1.0, max(0.4, length / 10))
    assert weight(image).sum() / (3 * 247) == pytest.approx(width * length + np.pi * width**2 / 4, abs=0.7)


@pytest.mark.parametrize("degrees", [0, 30, 90, 135])
def test_ellipses_are_n_sigma_along_their_axes(degrees: float) -> None:
    angle = np.radians(degrees)
    long, short = np.array([np.cos(angle), np.sin(angle)]), np.array([-np.sin(angle), np.cos(angle)])
    covariance = 36.0 * np.outer(long, long) + 9.0 * np.outer(short, short)
    centre = np.array([40.3, 29.8])
    image = draw.ellipses(canvas(), centre[None], None, covariance[None], n_sigma=3.0, fill=0.0, colours="#ffffff")
    np.testing.assert_allclose(middle(image), centre, atol=0.05)
    for direction, radius in ((long, 18.0), (short, 9.0)):
        # Along a line from the centre the edge is met once.
        distances = np.arange(0, 24, 0.5)
        brightness = []
        for distance in distances:
            x, y = np.round(centre + distance * direction).astype(int)
            brightness.append(float(image[y, x, 0]))
        met = (distances * brightness).sum() / np.sum(brightness)
        assert met == pytest.approx(radius, abs=0.6)


def test_area_of_an_ellipse() -> None:
    covariance = np.array([[20.0, 6.0], [6.0, 12.0]])
    place = coverage.window((HEIGHT, WIDTH), np.array([[40.0, 30.0]]), 30.0)
    axes = coverage.axes_of(covariance, 2.0)
    assert axes is not None
    area = coverage.ellipse(place, np.array([40.2, 30.1]), axes).shares.sum()
    assert area == pytest.approx(np.pi * 4 * np.sqrt(np.linalg.det(covariance)), rel=0.01)


@pytest.mark.parametrize("angle", [0.0, 1.0])
def test_heatmaps_lie_where_keypoints_do(angle: float) -> None:
    """The brightest pixel is where the matrix takes the peak, and by default borders meet borders."""
    maps = np.zeros((2, 16, 12))
    maps[0, 5, 7], maps[1, 10, 3] = 1.0, 0.5
    image = draw.heatmap(canvas(0, 160, 120), maps)
    y, x = np.unravel_index(weight(image).argmax(), image.shape[:2])
    assert (x, y) in {(74, 54), (75, 54), (74, 55), (75, 55)}  # (7 + 0.5) 10 - 0.5 = 74.5
    assert weight(image)[104, 34] > 50  # the other keypoint's
    matrix = [[4 * np.cos(angle), -4 * np.sin(angle), 40.0], [4 * np.sin(angle), 4 * np.cos(angle), 20.0]]
    image = draw.heatmap(canvas(0, 160, 120), maps[:1], image_transform=matrix)
    expected = np.array(matrix) @ (7, 5, 1)
    np.testing.assert_allclose(middle(image), expected, atol=0.3)


def test_values_that_are_not_finite_are_clear() -> None:
    maps = np.full((8, 8), np.nan)
    np.testing.assert_array_equal(draw.heatmap(canvas(), maps), canvas())
    maps[2, 2], maps[3, 3] = 1.0, np.inf
    assert np.isfinite(draw.heatmap(canvas(), maps)).all()
    np.testing.assert_array_equal(draw.heatmap(canvas(90), np.zeros((8, 8))), canvas(90))


def test_tracks_fade_and_break() -> None:
    coords = np.stack([np.linspace(10.0, 70.0, 13), np.full(13, 30.0)], axis=-1)[:, None]
    image = draw.tracks(canvas(), coords)
    assert image[30, 66, 0] > image[30, 40, 0] > image[30, 16, 0] > 0
    scores = np.ones((13, 1))
    scores[5] = 0.0
    broken = draw.tracks(canvas(), coords, scores)
    assert broken[30, 35].max() == 0  # at the sixth frame
    assert broken[30, 60].max() > 0
    pairs = zip(torch.tensor(coords), torch.tensor(scores), strict=True)
    frames = [Keypoints(place[None], score[None]) for place, score in pairs]
    np.testing.assert_array_equal(draw.tracks(canvas(), frames), broken)


# ------------------------------------------------------------------------------------------------ what is drawn


def test_limbs_only_where_both_ends_pass() -> None:
    edges = [(0, 1), (1, 2), (2, 0)]
    scores = [0.9, 0.5, 0.51]
    image = draw.limbs(canvas(), POSE, scores, skeleton=edges, threshold=0.5)
    np.testing.assert_array_equal(image, draw.limbs(canvas(), POSE, skeleton=[(2, 0)]))
    image = draw.keypoints(canvas(), POSE, scores, threshold=0.5)
    np.testing.assert_array_equal(image, draw.keypoints(canvas(), POSE[[0, 2]]))


def test_no_keypoint_is_drawn_where_there_is_none() -> None:
    coords = np.array([[np.nan, 10.0], [np.inf, 10.0], [30.0, 30.0], [40.0, 40.0], [1e30, 1e30]])
    scores = [1.0, 1.0, 0.0, np.nan, 1.0]
    covariances = np.full((5, 2, 2), np.nan)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        image = draw.poses(canvas(), coords, scores, covariances, skeleton=[(0, 1), (2, 3)], write_scores=True)
    np.testing.assert_array_equal(image, canvas())


@pytest.mark.parametrize("place", [(0.0, 0.0), (79.0, 59.0), (-30.0, 20.0), (200.0, -50.0), (40.0, 59.4)])
def test_borders(place: tuple[float, float]) -> None:
    """What lies across a border is cut there, and what lies outside leaves no trace."""
    wide = canvas(0, 300, 500)
    covariance = np.eye(2)[None] * 30
    coords = np.array([place, (30.0, 30.0)])
    arguments = {"skeleton": [(0, 1)], "scale": 1.0}
    scores = [0.5, 0.25]
    both = np.stack([covariance[0]] * 2)
    whole = draw.poses(wide, coords + 100, scores, both, write_scores=True, **arguments)
    cut = draw.poses(canvas(), coords, scores, both, write_scores=True, **arguments)
    np.testing.assert_array_equal(cut, whole[100 : 100 + HEIGHT, 100 : 100 + WIDTH])


def test_degenerate_covariances() -> None:
    covariances = np.array([np.zeros((2, 2)), [[25.0, 0.0], [0.0, 0.0]], [[-1.0, 0.0], [0.0, 1.0]]])
    image = draw.ellipses(canvas(), POSE, None, covariances)
    assert weight(image)[15, 20] > 0  # a dot
    assert weight(image)[15, 55] > 0  # a line
    assert weight(image)[30:].sum() == 0  # no covariance


def test_colours_of_sides_and_ones_own() -> None:
    coords = np.stack([np.arange(17) * 20 + 10, np.full(17, 30)], axis=-1)
    wide = canvas(0, 60, 360)
    image = draw.keypoints(wide, coords)
    assert [tuple(image[30, x]) for x in (10, 30, 50)] == [rgb(CENTRE), rgb(LEFT), rgb(RIGHT)]
    red = draw.keypoints(wide, coords, colours={"left": "#ff0000"})
    assert [tuple(red[30, x]) for x in (10, 30, 50)] == [rgb(CENTRE), (255, 0, 0), rgb(RIGHT)]
    assert tuple(draw.keypoints(canvas(), POSE, colours="#123456")[15, 20]) == (0x12, 0x34, 0x56)


def test_short_limbs_have_small_markers() -> None:
    """Of fingers and faces, which would be one blob."""
    hand = np.stack([np.linspace(20, 60, 11), np.full(11, 30.0)], axis=-1)
    edges = [(i, i + 1) for i in range(10)]
    image = draw.poses(canvas(), hand, skeleton=edges, colours="#ffffff")
    column = weight(image)[:, 40]
    assert 2 < (column > 0).sum() < 2 * 2.9
    alone = draw.poses(canvas(), hand[::5], skeleton=[(0, 1), (1, 2)], colours="#ffffff")
    assert (weight(alone)[:, 40] > 0).sum() >= 2 * 2.9
    one_by_one = draw.keypoints(canvas(), hand, skeleton=(), colours="#ffffff")
    assert weight(one_by_one).sum() > 1.5 * weight(draw.keypoints(canvas(), hand, skeleton=edges)).sum()


def test_scores_are_written_and_larger_images_have_larger_ones() -> None:
    pytest.importorskip("PIL")
    image = draw.scores(canvas(), POSE, [0.5, 0.25, 1.0])
    assert weight(image)[10:20, 24:50].sum() > 0
    large = draw.scores(canvas(0, 900, 900), POSE * 5, [0.5, 0.25, 1.0])
    assert (weight(large) > 0).sum() > 4 * (weight(image) > 0).sum()
    other = draw.scores(canvas(), POSE, [0.5, 0.25, 0.75])
    assert (other != image).any()
    np.testing.assert_array_equal(draw.scores(canvas(), POSE, [0.5, 0.25, 1.0], threshold=0.9)[:30], canvas()[:30])


def test_poses_are_their_parts() -> None:
    scores, covariances = np.array([0.9, 0.8, 0.1]), np.stack([np.eye(2) * 16] * 3)
    edges = [(0, 1), (1, 2)]
    whole = draw.poses(canvas(), POSE, scores, covariances, skeleton=edges, threshold=0.5, write_scores=True)
    parts = draw.ellipses(canvas(), POSE, scores, covariances, threshold=0.5)
    parts = draw.limbs(parts, POSE, scores, skeleton=edges, threshold=0.5)
    parts = draw.keypoints(parts, POSE, scores, threshold=0.5)
    parts = draw.scores(parts, POSE, scores, threshold=0.5)
    np.testing.assert_array_equal(whole, parts)


# ------------------------------------------------------------------------------------- what comes in, what goes out


def inputs(kind: str) -> Any:
    if kind == "tensors":
        return torch.tensor(POSE), torch.tensor([0.9, 0.8, 0.7]), torch.eye(2).expand(3, 2, 2) * 9
    if kind == "lists":
        return POSE.tolist(), [0.9, 0.8, 0.7], (np.eye(2)[None].repeat(3, 0) * 9).tolist()
    if kind == "batch":
        return POSE[None], np.array([[0.9, 0.8, 0.7]]), np.eye(2)[None, None].repeat(3, 1) * 9
    return POSE.astype(np.float32), np.array([0.9, 0.8, 0.7], np.float32), np.eye(2)[None].repeat(3, 0) * 9


@pytest.mark.parametrize("kind", ["tensors", "lists", "batch"])
def test_any_numbers_will_do(kind: str) -> None:
    expected = draw.poses(canvas(), *inputs("arrays"))
    np.testing.assert_array_equal(draw.poses(canvas(), *inputs(kind)), expected)
    coords, scores, covariances = inputs("tensors")
    keypoints = Keypoints(coords[None], scores[None], covariances[None])
    np.testing.assert_array_equal(draw.poses(canvas(), keypoints), expected)


def test_nothing_is_mutated() -> None:
    image, (coords, scores, covariances) = canvas(7), inputs("arrays")
    maps = np.random.default_rng(0).random((3, 6, 8))
    before = [each.copy() for each in (image, coords, scores, covariances, maps)]
    image.flags.writeable = False
    results = [
        draw.poses(image, coords, scores, covariances, write_scores=True),
        draw.heatmap(image, maps),
        draw.tracks(image, coords[None]),
    ]
    for each, old in zip((image, coords, scores, covariances, maps), before, strict=True):
        np.testing.assert_array_equal(each, old)
    for result in results:
        assert result.flags.writeable
        assert not np.shares_memory(result, image)
        assert result.dtype == np.uint8
        assert result.shape == image.shape


@pytest.mark.parametrize("mode", ["RGB", "L", "RGBA", "P"])
def test_pil_images(mode: str) -> None:
    pillow = pytest.importorskip("PIL.Image")
    image = pillow.new(mode, (WIDTH, HEIGHT))
    drawn = draw.poses(image, *inputs("arrays"))
    assert isinstance(drawn, pillow.Image)
    assert (drawn.mode, drawn.size) == ("RGB", (WIDTH, HEIGHT))
    assert image.getextrema() == pillow.new(mode, (WIDTH, HEIGHT)).getextrema()
    np.testing.assert_array_equal(np.asarray(drawn), draw.poses(canvas(), *inputs("arrays")))


def test_a_slice_and_a_mirrored_image() -> None:
    image = np.random.default_rng(0).integers(0, 255, (HEIGHT, 2 * WIDTH, 3), np.uint8)
    view = image[:, ::-2]
    np.testing.assert_array_equal(draw.keypoints(view, POSE), draw.keypoints(view.copy(), POSE))


def test_no_poses_and_no_keypoints() -> None:
    for shape in ((0, 17, 2), (3, 0, 2), (0, 2)):
        np.testing.assert_array_equal(draw.poses(canvas(), np.zeros(shape)), canvas())


def test_nothing_is_imported_before_it_is_needed() -> None:
    script = (
        "import sys, numpy as np, dark_kernels\nfrom dark_kernels import draw\n"
        "draw.poses(np.zeros((9, 9, 3), np.uint8), [[3.0, 4.0]])\n"
        "assert not {'PIL', 'matplotlib', 'supervision'} & set(sys.modules)\n"
        "sys.modules['PIL'] = None\n"
        "try: draw.scores(np.zeros((9, 9, 3), np.uint8), [[3.0, 4.0]], [0.5])\n"
        "except ImportError as error: print(error)"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert "pip install 'dark-kernels[draw]'" in done.stdout


# ---------------------------------------------------------------------------------------------------- on axes


@pytest.fixture
def axes() -> Any:
    pytest.importorskip("matplotlib")
    from matplotlib.figure import Figure

    figure = Figure(figsize=(WIDTH / 20, HEIGHT / 20), dpi=100)
    axes = figure.add_axes((0, 0, 1, 1))
    axes.imshow(canvas(), extent=(-0.5, WIDTH - 0.5, HEIGHT - 0.5, -0.5))
    axes.set(xlim=(-0.5, WIDTH - 0.5), ylim=(HEIGHT - 0.5, -0.5))
    axes.set_axis_off()
    return axes


def rendered(axes: Any) -> np.ndarray:
    from matplotlib.backends.backend_agg import FigureCanvasAgg

    canvas_ = FigureCanvasAgg(axes.figure)
    canvas_.draw()
    return np.asarray(canvas_.buffer_rgba())[..., :3]


@pytest.mark.parametrize(
    "drawing",
    [
        lambda on, s: draw.keypoints(on, POSE[:1], colours="#ffffff", scale=s),
        lambda on, s: draw.limbs(on, POSE, skeleton=[(0, 1), (1, 2)], scale=s),
        lambda on, s: draw.ellipses(on, POSE, None, np.stack([[[25.0, 9.0], [9.0, 12.0]]] * 3), scale=s),
        lambda on, s: draw.tracks(on, POSE[:, None], scale=s),
        lambda on, s: draw.heatmap(on, np.eye(6), image_transform=[[5.0, 1.0, 20.0], [-1.0, 5.0, 15.0]]),
        lambda on, s: draw.scores(on, POSE, [0.5, 0.25, 0.75], scale=s),
    ],
    ids=["keypoints", "limbs", "ellipses", "tracks", "heatmap", "scores"],
)
def test_axes_show_what_images_do(axes: Any, drawing: Callable[[Any, float], Any]) -> None:
    """At 5 pixels of the page to one of the image, in the same place and of the same size."""
    limits = axes.axis()
    assert drawing(axes, 5 * 72 / 100) is axes
    assert axes.axis() == limits
    page, image = rendered(axes), drawing(canvas(), 1.0)
    assert weight(page).any()
    np.testing.assert_allclose((middle(page) + 0.5) / 5 - 0.5, middle(image), atol=0.6)


@pytest.mark.parametrize("degrees", [0, 30, 90, 135])
def test_an_ellipse_on_axes_is_two_sigma_along_its_axes(axes: Any, degrees: float) -> None:
    angle = np.radians(degrees)
    long, short = np.array([np.cos(angle), np.sin(angle)]), np.array([-np.sin(angle), np.cos(angle)])
    centre = np.array([20.0, 10.0])
    draw.ellipses(axes, centre[None], None, (9.0 * np.outer(long, long) + 1.0 * np.outer(short, short))[None])
    (ellipse,) = axes.patches
    inside = ellipse.get_patch_transform().inverted().transform
    for direction, sigma in ((long, 3.0), (short, 1.0)):
        for side in (-1, 1):
            assert np.linalg.norm(inside(centre + side * 2 * sigma * direction)) == pytest.approx(1.0)
    draw.ellipses(axes, centre[None], None, np.full((1, 2, 2), np.nan))
    assert len(axes.patches) == 1


def test_all_of_it_on_axes(axes: Any) -> None:
    draw.poses(axes, *inputs("arrays"), skeleton=[(0, 1)], write_scores=True, marker="square")
    assert weight(rendered(axes)).any()


# ------------------------------------------------------------------------------------------------------ errors


@pytest.mark.parametrize(
    ("call", "kind", "match"),
    [
        (lambda: draw.poses("photo.png", POSE), TypeError, "on: got builtins.str, expected an array"),
        (lambda: draw.poses(torch.zeros(9, 9, 3), POSE), TypeError, "on: got torch.Tensor, expected an array"),
        (lambda: draw.poses(canvas() / 255, POSE), TypeError, "on: got an array of float64, expected uint8"),
        (lambda: draw.poses(canvas()[..., 0], POSE), ValueError, r"on: got shape \[60, 80\], expected an image"),
        (lambda: draw.poses(canvas(), POSE[:, :1]), ValueError, r"keypoints: got shape \[3, 1\], expected \[N, K, 2\]"),
        (lambda: draw.poses(canvas(), "abc"), TypeError, "keypoints: got str, expected numbers"),
        (lambda: draw.poses(canvas(), [[1.0, 2.0], [3.0]]), TypeError, "keypoints: got list, expected numbers"),
        (lambda: draw.poses(canvas(), POSE, [1.0]), ValueError, r"scores: got shape \[1\], expected \[3\]"),
        (lambda: draw.poses(canvas(), POSE, None, np.eye(2)), ValueError, r"covariances: got shape \[2, 2\], expected"),
        (lambda: draw.poses(canvas(), POSE, skeleton="cat"), ValueError, "skeleton: got 'cat', expected one of 'coco'"),
        (lambda: draw.poses(canvas(), POSE, skeleton="coco"), ValueError, "skeleton: got one of 17 keypoints, exp.* 3"),
        (lambda: draw.poses(canvas(), POSE, skeleton=[(0, 3)]), ValueError, r"skeleton: got \(0, 3\) in it, expected"),
        (lambda: draw.poses(canvas(), POSE, skeleton=[(0, 1.5)]), TypeError, "skeleton: got .*expected pairs"),
        (lambda: draw.poses(canvas(), POSE, skeleton=3), TypeError, "skeleton: got int, expected a name"),
        (lambda: draw.poses(canvas(), POSE, threshold=None), TypeError, "threshold: got None, expected a number"),
        (lambda: draw.poses(canvas(), POSE, marker="star"), ValueError, "marker: got 'star', expected one of 'dot'"),
        (lambda: draw.poses(canvas(), POSE, colours="red"), ValueError, "colours: got 'red', expected .*'#rrggbb'"),
        (lambda: draw.poses(canvas(), POSE, colours={"up": "#ff0000"}), ValueError, "colours: got group 'up'"),
        (lambda: draw.poses(canvas(), POSE, colours=["#ff0000"]), TypeError, "colours: got list, expected '#rrggbb'"),
        (lambda: draw.poses(canvas(), POSE, scale=0), ValueError, "scale: got 0, expected a positive number"),
        (lambda: draw.poses(canvas(), *inputs("arrays"), n_sigma=-1), ValueError, "n_sigma: got -1, expected"),
        (lambda: draw.poses(canvas(), POSE, write_scores=True), ValueError, "scores: got None, expected"),
        (lambda: draw.scores(canvas(), POSE), ValueError, "scores: got None, expected those of the keypoints"),
        (lambda: draw.ellipses(canvas(), POSE), ValueError, "covariances: got None, expected"),
        (lambda: draw.ellipses(canvas(), *inputs("arrays"), fill=2), ValueError, "fill: got 2, expected a number"),
        (lambda: draw.heatmap(canvas(), np.zeros(4)), ValueError, r"heatmaps: got shape \[4\], expected \[K, H, W\]"),
        (lambda: draw.heatmap(canvas(), np.zeros((0, 4))), ValueError, r"heatmaps: got shape \[0, 4\]"),
        (lambda: draw.heatmap(canvas(), np.eye(4), opacity=2), ValueError, "opacity: got 2, expected"),
        (
            lambda: draw.heatmap(canvas(), np.eye(4), image_transform=np.zeros((2, 3))),
            ValueError,
            "image_transform: got .*with an inverse",
        ),
        (
            lambda: draw.heatmap(canvas(), np.eye(4), image_transform=np.eye(3)),
            ValueError,
            r"image_transform: got shape \[3, 3\], expected \[2, 3\]",
        ),
        (lambda: draw.tracks(canvas(), POSE), ValueError, r"coords: got shape \[3, 2\], expected \[T, K, 2\]"),
        (lambda: draw.tracks(canvas(), POSE[None], [1.0]), ValueError, r"scores: got shape \[1\], expected \[1, 3\]"),
    ],
)
def test_errors(call: Callable[[], Any], kind: type[Exception], match: str) -> None:
    with pytest.raises(kind, match=match):
        call()
