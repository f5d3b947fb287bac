"""Limits of registers: a number for every kind of work and every Triton, and no kind that nothing launches."""

from __future__ import annotations

import json

import pytest

from tests.benchmarks.processes import run

pytest.importorskip("triton", reason="limits are by Triton's version")

from dark_kernels._triton.registers import LIMITS, limit_for

# What the launchers ask for, and what would be launched then.
ASKED_FOR = """\
import json
from unittest import mock
from benchmarks.static.recording import record_launches
from benchmarks.static.rooms import ROOMS
from dark_kernels._triton import registers

asked = []
with mock.patch.object(registers, "limit_for", lambda work, version: asked.append(work) or 96):
    limited = [launch for room in ROOMS for launch in record_launches(room) if "maxnreg" in launch.kwargs]
print(json.dumps([sorted(set(asked)), len(limited)]))
"""


def test_every_limit_is_of_a_launch_that_the_compile_report_compiles() -> None:
    done = run("-c", ASKED_FOR)
    assert done.returncode == 0, done.stderr
    asked, num_limited = json.loads(done.stdout)
    assert asked == sorted(LIMITS)
    assert num_limited > 100


@pytest.mark.parametrize("work", LIMITS)
def test_a_limit_is_what_ptx_takes(work: str) -> None:
    for version in ("3.4.0", "3.5.1", "3.6.0", "3.7.1"):
        assert 0 < limit_for(work, version) < 256


def test_a_limit_follows_the_version() -> None:
    """Older Tritons have their own number where there is one; a newer one than any is as the newest."""
    for work, limit in LIMITS.items():
        for version in ("3.7.1", "3.7.0+git1234", "3.10.0", "4.0.0"):
            assert limit_for(work, version) == limit.registers
        for version in ("3.4.0", "3.5.1", "3.6.0"):
            assert limit_for(work, version) == (limit.before_3_7 or limit.registers)
    assert any(limit.before_3_7 for limit in LIMITS.values())


def test_work_without_a_limit_is_an_error() -> None:
    with pytest.raises(KeyError, match="knitting"):
        limit_for("knitting", "3.7.1")
