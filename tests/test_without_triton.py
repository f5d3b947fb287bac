"""Where Triton is not installed every room imports, and eager serves it.

In one process for all rooms: importing PyTorch takes longer than what they do.
"""

from __future__ import annotations

import json
import subprocess
import sys

import pytest

from .test_layers import ROOMS

# Of each room, calls or their gradients, and the numbers that they are.
CALLS = {
    "decode": ("dk.decode(blob, dk.recipes.MMPOSE_UDP, covariance=True).coords[0, 0, 0]", 8.0),
    "encode": ("dk.encode(torch.ones(1, 1, 2), (3, 3))[0].max()", 1.0),
    "heatmap_loss": (
        "slope(lambda m: dk.heatmap_mse(m, zeros(1, 1, 2), reduction='sum'), 1, 1, 2, 2)[0, 0, 0, 0]",
        -0.5,
    ),
    "nll": (
        "slope(lambda m: dk.gaussian_nll(m, zeros(1, 1, 1, 2, 2), torch.ones(1, 1, 2)), 1, 1, 2, 2, 2).abs().sum()",
        2.0,
    ),
    "nll, mixture": (
        "slope(lambda m: dk.gaussian_mixture_nll(zeros(1, 1, 2, 2, 2), m, zeros(1, 1, 2, 2, 2), torch.ones(1, 1, 2)),"
        " 1, 1, 2, 2, 2, 2).abs().sum()",
        2.0,
    ),
    # Along the diagonal all are equal: the first.
    "peaks": ("dk.find_peaks(torch.eye(5)[None, None], 3, recipe=dk.recipes.QUARTER).counts", 1.0),
    "poses": (
        "dk.vote(torch.full((1, 1, 3, 2), 7.0)).coords[0, 0, 0]"
        " * dk.oks_nms(zeros(1, 3, 17, 2), torch.ones(1, 3), torch.ones(1, 3)).counts",
        7.0,
    ),
    "sampling": ("dk.sample_keypoints(torch.full((1, 2), 7.0), zeros(1, 2, 2), 3, seed=0).mean()", 7.0),
    "simcc": ("dk.decode_simcc(axis, axis, sigma=1.0, dark=True, visibility=True).scores", 1.0),
    "soft_argmax": ("slope(lambda m: dk.soft_argmax(m)[..., 0], 1, 1, 3, 5)[0, 0, 0, 4]", 2 / 15),
}
SCRIPT = """
import json, sys
sys.modules["triton"] = None
import torch
import dark_kernels as dk

zeros = torch.zeros
axis = torch.tensor([[[0.0, 1.0, 0.5]]])
ramp = torch.arange(17.0) - 8
blob = torch.exp(-(ramp[:, None] ** 2 + ramp**2) / 8)[None, None]

def slope(function, *shape):
    leaf = zeros(shape, requires_grad=True)
    function(leaf).sum().backward()
    return leaf.grad

given = {room: float(eval(call)) for room, call in json.loads(sys.argv[1]).items()}
try:
    dk.decode(blob, backend="triton")
except ValueError as error:
    refused = str(error)
assert sys.modules["triton"] is None
assert not torch.cuda.is_initialized()
print(json.dumps({"given": given, "refused": refused}))
"""


def test_every_room_has_a_call() -> None:
    assert sorted({name.partition(",")[0] for name in CALLS}) == ROOMS


def test_imports_and_eager_need_no_triton() -> None:
    calls = json.dumps({room: call for room, (call, _) in CALLS.items()})
    done = subprocess.run([sys.executable, "-c", SCRIPT, calls], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-2000:]
    result = json.loads(done.stdout)
    expected = {room: number for room, (_, number) in CALLS.items()}
    assert result["given"] == pytest.approx(expected, abs=1e-3)
    # And who asks for it is told.
    for word in ("backend", "got 'triton'", "cannot be imported", "expected", "pip install triton", "backend='auto'"):
        assert word in result["refused"], result["refused"]
