"""The figures: what is drawn is where it is said to be, and is what the conditions say."""

from __future__ import annotations

import pytest
import torch

from examples import stick_figures
from examples.stick_figures import LIMBS, MIRRORED, NAMES, Conditions, draw

PLAIN = Conditions(occlusion=False, blur=False)


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def test_a_seed_says_everything(device: torch.device) -> None:
    for one, other in zip(draw(4, 48, generator()), draw(4, 48, generator(), device=device), strict=True):
        torch.testing.assert_close(one, other.cpu(), rtol=0, atol=1e-4)
    assert not torch.equal(draw(4, 48, generator()).images, draw(4, 48, generator(1)).images)


@pytest.mark.parametrize("size", [48, 96])
def test_shapes_and_ranges(size: int) -> None:
    figures = draw(8, size, generator())
    keypoints = len(NAMES)
    assert figures.images.shape == (8, 3, size, size)
    assert bool(((figures.images > -0.5) & (figures.images < 1.5)).all())
    assert figures.keypoints.shape == (8, keypoints, 2)
    inside = ((figures.keypoints >= 0) & (figures.keypoints < size)).all(-1)
    assert torch.equal(figures.visible, inside)
    assert figures.visible.float().mean() > 0.9


def test_conditions() -> None:
    figures = draw(200, 32, generator())
    assert 0.05 < figures.occluded.float().mean() < 0.3
    assert 0.2 < figures.blurred[:, 0].float().mean() < 0.5
    plain = draw(200, 32, generator(), PLAIN)
    assert not plain.occluded.any()
    assert not plain.blurred.any()


def test_a_keypoint_is_on_its_limb() -> None:
    """The colour at both ends of a limb is that of its middle, for it is one line."""
    figures = draw(64, 96, generator(), PLAIN)
    elbow, wrist = NAMES.index("left elbow"), NAMES.index("left wrist")
    ends = figures.keypoints[:, [elbow, wrist]]
    places = torch.stack([ends[:, 0], ends.mean(1), ends[:, 1]], dim=1)  # [B, 3, 2]
    grid = places / 96 * 2 - 1
    colors = torch.nn.functional.grid_sample(figures.images, grid[:, None], align_corners=False)[:, :, 0]
    difference = (colors[..., 0] - colors[..., 1]).abs().amax(1)
    elsewhere = (colors[..., 1] - colors[..., 1].roll(1, 0)).abs().amax(1)
    assert difference.median() < 0.1 < elsewhere.median()


def test_annotations_are_as_exact_as_they_say() -> None:
    """Two draws that differ in the jitter alone are not at hand; but limbs have known lengths."""
    figures = draw(2000, 32, generator(), Conditions(False, False, augment=False))
    elbow, wrist = (figures.keypoints[:, NAMES.index(f"left {name}")] for name in ("elbow", "wrist"))
    length = (wrist - elbow).norm(dim=-1) / figures.height
    expected = 2**0.5 * stick_figures.JITTER * 32 / (0.8 * 32)
    assert length.mean().item() == pytest.approx(0.16, rel=0.01)
    assert length.std().item() == pytest.approx(expected, rel=0.1)  # of 2000: 3 % is one standard error and a half


def test_mirrored_sides() -> None:
    assert all(NAMES[MIRRORED[k]] == _other(name) for k, name in enumerate(NAMES))
    upright = draw(100, 32, generator(), Conditions(False, False, augment=False)).keypoints
    left, right = (upright[:, NAMES.index(f"{side} shoulder"), 0] for side in ("left", "right"))
    assert bool((left > right).all()), "figures face the camera"
    turned = draw(300, 32, generator(), PLAIN).keypoints
    left, right = (turned[:, NAMES.index(f"{side} shoulder"), 0] for side in ("left", "right"))
    assert bool((left > right).all()), "and do so when they are mirrored"


def test_limbs_are_of_one_side() -> None:
    for a, b in LIMBS:
        sides = {NAMES[k].split()[0] for k in (a, b)}
        assert len(sides) == 1 or {NAMES[k].split()[1] for k in (a, b)} in ({"shoulder"}, {"hip"})


def _other(name: str) -> str:
    if name.startswith("left"):
        return name.replace("left", "right")
    return name.replace("right", "left")
