"""What is compiled of all that is launched."""

from __future__ import annotations

import json

import pytest

from tests.benchmarks.processes import run

pytest.importorskip("triton", reason="jobs are launches of kernels")

JOBS = """\
import json, sys
from benchmarks.static.jobs import jobs_of
from benchmarks.static.rooms import ROOMS

def names(*targets, **options):
    return [[launch.kernel, launch.label, target] for launch, target in jobs_of(ROOMS, targets, **options)]

targets = ("sm_80", "sm_90", "gfx942")
print(json.dumps([names(*targets), names(*targets, limited=True), names("sm_90"), names("sm_90", limited=True)]))
"""


@pytest.mark.slow
def test_limited_ones_are_those_whose_launchers_name_a_limit() -> None:
    done = run("-c", JOBS)
    assert done.returncode == 0, done.stderr
    every, limited, every_alone, alone = ({tuple(job) for job in jobs} for jobs in json.loads(done.stdout))
    assert limited < every
    assert alone < every_alone
    assert {target for *_, target in limited} == {"sm_80", "sm_90"}  # AMD's compiler knows no limit
    assert {kernel for kernel, *_ in limited} == {kernel for kernel, *_ in alone}
    assert {job for job in limited if job[2] == "sm_90"} < alone  # the short list
    assert "_decode_fwd_kernel" in {kernel for kernel, *_ in limited}
    assert not {kernel for kernel, *_ in limited} & {"_read_maps_kernel", "_gaussian_nll_fwd_kernel"}  # without a limit
