"""What is recorded: every kernel of every room, and every way of it that a flag chooses."""

from __future__ import annotations

import json

import pytest

from tests.benchmarks.processes import run

pytest.importorskip("triton", reason="kernels are Triton's")

FLAGS = """\
import collections, json
from benchmarks.static.recording import record_launches
from benchmarks.static.rooms import ROOMS

values = collections.defaultdict(set)
for room in ROOMS:
    for launch in record_launches(room):
        for name, value in launch.kwargs.items():
            if isinstance(value, (bool, str)):
                values[f"{launch.kernel} {name}"].add(value)
print(json.dumps({name: sorted(map(str, found)) for name, found in values.items()}))
"""
# Flags that launchers give one value only, but for inputs that nobody has.
ONE_VALUE = {
    "_soft_argmax_fwd_kernel WIDE_INDEX",  # lines 2^31 elements apart
    "_soft_argmax_bwd_kernel WIDE_INDEX",
    "_soft_argmax_bwd_kernel GRAD_IS_FLAT",  # of a gradient that the operator makes, and makes flat
}


def test_every_flag_is_compiled_both_ways() -> None:
    done = run("-c", FLAGS)
    assert done.returncode == 0, done.stderr
    values = json.loads(done.stdout)
    assert values["_gaussian_nll_fwd_kernel REDUCTION"] == ["mean", "mean_valid", "none", "sum"]
    assert {name for name, found in values.items() if len(found) == 1} == ONE_VALUE
