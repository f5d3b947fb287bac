"""What oks and the suppressions refuse, and with which words."""

from __future__ import annotations

import inspect
from typing import Any

import pytest
import torch
from torch import Tensor

from dark_kernels import COCO_KAPPAS, oks, oks_nms, soft_oks_nms

Arguments = dict[str, Any]


def arguments() -> Arguments:
    return {
        "poses": torch.rand(2, 3, 4, 2),
        "scores": torch.rand(2, 3),
        "areas": torch.rand(2, 3),
        "kappas": (0.1,) * 4,
    }


REFUSED: list[tuple[type[Exception], str, Arguments]] = [
    (TypeError, "poses: got builtins.list", {"poses": [[1.0]]}),
    (TypeError, "poses: got torch.int64", {"poses": torch.ones(2, 3, 4, 2, dtype=torch.int64)}),
    (ValueError, r"poses: got shape \[4, 2\], expected 3 dimensions \[B, N, K, 2\] or \[N, K, 2\]",
     {"poses": torch.rand(4, 2)}),
    (ValueError, r"poses: got shape \[2, 3, 4, 3\], expected .* \(x, y\)", {"poses": torch.rand(2, 3, 4, 3)}),
    (ValueError, r"scores: got shape \[3, 2\], expected \[2, 3\], one for each pose", {"scores": torch.rand(3, 2)}),
    (ValueError, r"areas: got shape \[2\], expected 2 dimensions", {"areas": torch.rand(2)}),
    (TypeError, "scores: got torch.int64", {"scores": torch.ones(2, 3, dtype=torch.int64)}),
    (ValueError, "kappas: got 17 of them, expected 4", {"kappas": COCO_KAPPAS}),
    (ValueError, "kappas: got 0.0, expected a positive number", {"kappas": (0.1, 0.0, 0.1, 0.1)}),
    (TypeError, "kappas: got str 'a', expected a number", {"kappas": ("a",) * 4}),
    (ValueError, r"kappas: got shape \[3\], expected \[4\]", {"kappas": torch.ones(3)}),
    (ValueError, "threshold: got 0, expected a positive number", {"threshold": 0}),
    (TypeError, "threshold: got str", {"threshold": "0.9"}),
    (ValueError, r"visible: got shape \[2, 3\], expected \[2, 3, 4\]", {"visible": torch.ones(2, 3)}),
    (TypeError, "mask: got builtins.list, expected a torch.Tensor or None", {"mask": [1]}),
    (ValueError, r"mask: got shape \[2, 4\], expected \[2, 3\]", {"mask": torch.ones(2, 4)}),
    (TypeError, "image_ids: got torch.float32, expected integers", {"image_ids": torch.ones(2)}),
    (ValueError, r"image_ids: got ids with poses \[2, 3, 4, 2\]", {"image_ids": torch.ones(2, dtype=torch.int64)}),
    (ValueError, "areas: got a tensor on meta, expected cpu", {"areas": torch.rand(2, 3, device="meta")}),
    (ValueError, "backend: got 'cuda'", {"backend": "cuda"}),
]  # fmt: skip


@pytest.mark.parametrize("function", [oks_nms, soft_oks_nms])
@pytest.mark.parametrize(("error", "message", "change"), REFUSED, ids=[message for _, message, _ in REFUSED])
def test_refuses(function: Any, error: type[Exception], message: str, change: Arguments) -> None:
    with pytest.raises(error, match=message):
        function(**{**arguments(), **change})


@pytest.mark.parametrize(
    ("error", "message", "change"),
    [
        (ValueError, "method: got 'hard', expected one of 'gaussian', 'linear'", {"method": "hard"}),
        (ValueError, "max_poses: got 0, expected at least 1", {"max_poses": 0}),
        (TypeError, "max_poses: got float 2.0, expected an integer", {"max_poses": 2.0}),
        (TypeError, "max_poses: got bool True", {"max_poses": True}),
    ],
)
def test_soft_refuses(error: type[Exception], message: str, change: Arguments) -> None:
    with pytest.raises(error, match=message):
        soft_oks_nms(**{**arguments(), **change})


def test_image_ids_are_one_for_each_pose() -> None:
    with pytest.raises(ValueError, match=r"image_ids: got shape \[2\], expected \[3\]"):
        oks_nms(torch.rand(3, 17, 2), torch.rand(3), torch.rand(3), image_ids=torch.ones(2, dtype=torch.int64))


@pytest.mark.parametrize(
    ("message", "change"),
    [
        (r"poses_b: got shape \[3, 4, 4, 2\], expected \[2, 4, 4, 2\], leading", {"poses_b": torch.rand(3, 4, 4, 2)}),
        (r"poses_b: got shape \[2, 4, 5, 2\], expected \[2, 4, 4, 2\]", {"poses_b": torch.rand(2, 4, 5, 2)}),
        (r"poses_a: got shape \[4, 2\], expected 3 dimensions", {"poses_a": torch.rand(4, 2)}),
        (r"areas_b: got shape \[2, 3\], expected \[2, 4\]", {"areas_b": torch.rand(2, 3)}),
        (r"visible_b: got shape \[2, 3, 4\], expected \[2, 4, 4\]", {"visible_b": torch.ones(2, 3, 4)}),
    ],
)
def test_oks_refuses(message: str, change: Arguments) -> None:
    given = {
        "poses_a": torch.rand(2, 3, 4, 2), "poses_b": torch.rand(2, 4, 4, 2), "areas_a": torch.rand(2, 3),
        "areas_b": torch.rand(2, 4), "kappas": (0.1,) * 4,
    }  # fmt: skip
    assert oks(**given).shape == (2, 3, 4)
    with pytest.raises(ValueError, match=message):
        oks(**{**given, **change})


def test_kappas_of_coco() -> None:
    """spec: ten times them."""
    by_ten = (.26, .25, .25, .35, .35, .79, .79, .72, .72, .62, .62, 1.07, 1.07, .87, .87, .89, .89)  # fmt: skip
    assert pytest.approx([kappa * 10 for kappa in COCO_KAPPAS]) == list(by_ten)


def test_kappas_may_be_a_tensor_or_an_array() -> None:
    given = arguments()
    kappas = torch.tensor([0.1, 0.2, 0.05, 0.1], dtype=torch.float64)
    expected = oks_nms(**{**given, "kappas": tuple(kappas.tolist())})
    for same in (kappas, kappas.numpy(), list(kappas)):
        for one, other in zip(oks_nms(**{**given, "kappas": same}), expected, strict=True):
            assert torch.equal(one, other)


@pytest.mark.parametrize("backend", ["eager", "reference"])
def test_no_gradient_flows(backend: str) -> None:
    given = arguments()
    poses = given["poses"].requires_grad_()
    scores: Tensor = given["scores"].requires_grad_()
    assert not oks_nms(**given, backend=backend).scores.requires_grad
    assert not oks(poses, poses, scores, scores, given["kappas"], backend=backend).requires_grad


def test_signatures() -> None:
    """Changing these is a decision."""
    suppression = ["kappas", "visible", "mask", "image_ids", "backend"]
    assert list(inspect.signature(oks_nms).parameters) == ["poses", "scores", "areas", "threshold", *suppression]
    soft = ["poses", "scores", "areas", "threshold", "method", "max_poses", *suppression]
    assert list(inspect.signature(soft_oks_nms).parameters) == soft
    pairs = ["poses_a", "poses_b", "areas_a", "areas_b", "kappas", "visible_a", "visible_b", "backend"]
    assert list(inspect.signature(oks).parameters) == [*pairs, "symmetric", "swap"]
