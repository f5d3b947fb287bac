"""What is recorded: every kernel of every room, and every way of it that a flag chooses."""

from __future__ import annotations

import json

import pytest

from tests.benchmarks.processes import run

pytest.importorskip("triton", reason="kernels are Triton's")

# Constants are flags, those in structs included, and so is whether an optional argument is given.
FLAGS = """\
import collections, importlib, json
from benchmarks.static.recording import record_launches
from benchmarks.static.rooms import ROOMS

def fields(name, value):
    value = getattr(value, "value", value)  # of a tl.constexpr
    if not hasattr(value, "_asdict"):
        return [(name, value)]
    return [each for inside, field in value._asdict().items() for each in fields(inside, field)]

values = collections.defaultdict(set)
for room in ROOMS:
    for launch in record_launches(room):
        for name, value in (each for constant in launch.kwargs.items() for each in fields(*constant)):
            if isinstance(value, (bool, str)):
                values[f"{launch.kernel} {name}"].add(value)
        names = getattr(importlib.import_module(launch.module), launch.kernel).arg_names
        for name, value in zip(names, launch.args):
            values[f"{launch.kernel} {name} is None"].add(value is None)
            for inside, field in value._asdict().items() if hasattr(value, "_asdict") else ():
                values[f"{launch.kernel} {name}.{inside} is None"].add(field is None)
values = {name: found for name, found in values.items() if found != {False} or not name.endswith("is None")}
print(json.dumps({name: sorted(map(str, found)) for name, found in values.items()}))
"""
# Flags that launchers give one value only.
ONE_VALUE = {
    "_soft_argmax_fwd_kernel WIDE_INDEX",  # lines 2^31 elements apart
    "_soft_argmax_bwd_kernel WIDE_INDEX",
    "_soft_argmax_bwd_kernel GRAD_IS_FLAT",  # of a gradient that the operator makes, and makes flat
    # Fields of structs that other kernels need.
    "_find_peaks_fwd_kernel SHIFTS_FLIPPED",  # a flip test's
    "_gaussian_mixture_nll_fwd_kernel scalars.beta is None",  # of losses without components
    "_gaussian_mixture_nll_fwd_kernel scalars.fixed_log_var is None",
    "_gaussian_nll_bwd_kernel FULL",  # a constant of the loss, without a gradient
    "_linear_gaussian_nll_bwd_head_kernel FULL",
    "_linear_gaussian_nll_bwd_features_kernel head.bias_ptr is None",  # without a gradient there
    "_linear_gaussian_nll_bwd_features_kernel head.bias_stride is None",
}


def test_every_flag_is_compiled_both_ways() -> None:
    done = run("-c", FLAGS)
    assert done.returncode == 0, done.stderr
    values = json.loads(done.stdout)
    assert values["_gaussian_nll_fwd_kernel REDUCTION"] == ["mean", "mean_valid", "none", "sum"]
    assert {name for name, found in values.items() if len(found) == 1} == ONE_VALUE
