"""Small maps for all tests of suites."""

from __future__ import annotations

import pytest

from benchmarks import workloads
from tests.benchmarks.suites.small import WORKLOADS


@pytest.fixture(autouse=True)
def _small(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(workloads, "ALL", WORKLOADS)
