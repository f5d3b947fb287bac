"""Runs the suites: `test_<suite>[<group> <row>]` compares a row's output with the truth and times it."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch

from benchmarks import rows
from benchmarks.suite import Case, Suite, group_of
from benchmarks.suites import SUITES


def _test_of(suite: Suite) -> Callable[..., None]:
    def test(benchmark: Any, request: pytest.FixtureRequest, case: Case, row: str, device: str) -> None:
        group = group_of(suite, case, device)
        with torch.set_grad_enabled(suite.gradients):
            rows.time_row(
                benchmark,
                request,
                lambda: suite.rows[row].make(group),
                group.inputs,
                device,
                group=case.group,
                identity=case.identity(row),
            )

    test.suite = suite  # type: ignore[attr-defined]
    return test


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    suite, device = metafunc.function.suite, metafunc.config.getoption("--bench-device", default="cpu")
    pairs = [(case, row) for case in suite.cases[device] for row in suite.rows_of(case, device)]
    metafunc.parametrize(("case", "row"), [pytest.param(*pair, id=f"{pair[0].group} {pair[1]}") for pair in pairs])


globals().update({f"test_{name}": _test_of(suite) for name, suite in SUITES.items()})
