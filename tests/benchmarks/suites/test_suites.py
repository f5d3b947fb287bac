"""Every suite: its rows return what the truth says, and its names are those of the results on file."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from benchmarks import measure, peers, results
from benchmarks.suite import COMPILED, DEVICES, EMPTY, READ_ONLY, REFERENCE, Case, Suite
from benchmarks.suites import SUITES, decode, nll, nms, peaks
from tests.benchmarks.suites.small import case_named, cases_of, group_of, run

RESULTS = Path(__file__).resolve().parents[3] / "benchmarks" / "results"
GROUPS = [
    pytest.param(suite, case, id=f"{name}: {case.group}") for name, suite in SUITES.items() for case in cases_of(suite)
]


def may_be_wrong(case: Case, row: str) -> bool:
    """Of equal neighbours, which float16 and resized maps have, the pooled map keeps all."""
    return row == peaks.POOL and (case.dtype == "float16" or case.values == "real")


@pytest.mark.parametrize(("suite", "case"), GROUPS)
def test_rows_compare_their_output(suite: Suite, case: Case) -> None:
    run_all(suite, case, "cpu")


@pytest.mark.gpu
@pytest.mark.parametrize(("suite", "case"), GROUPS)
def test_rows_on_a_gpu(suite: Suite, case: Case, gpu: torch.device) -> None:
    run_all(suite, case, gpu.type)


def run_all(suite: Suite, case: Case, device: str) -> None:
    """Every row of a group, but those that would take seconds to compile."""
    torch.manual_seed(0)
    group = group_of(suite, case, device)
    with torch.set_grad_enabled(suite.gradients):
        for name in suite.rows_of(case, device):
            if "torch.compile" in name:
                continue
            try:
                row, _ = run(group, name)
            except peers.NotInstalled:
                continue
            except peers.Wrong:
                assert may_be_wrong(case, name)
                continue
            assert row.role == suite.rows[name].role
            assert (row.bytes > 0) == (row.role != "overhead")
            assert (row.capture == "always") == (row.role not in results.OTHERS or name == nms.BATCH)


@pytest.mark.gpu
@pytest.mark.parametrize(
    ("suite", "group", "names"),
    [
        (nll.SUITE, "gaussian_nll forward + backward W1 float32", ("gaussian_nll", nll.FILL, nll.MEMSET)),
        (decode.SUITE, "decode W1 float32", (decode.OURS, READ_ONLY)),
    ],
)
def test_rows_can_be_captured(suite: Suite, group: str, names: tuple[str, ...], gpu: torch.device) -> None:
    on_gpu = group_of(suite, case_named(suite, group), gpu.type)
    with torch.set_grad_enabled(suite.gradients):
        for name in (*names, EMPTY, REFERENCE):
            row, _ = run(on_gpu, name)
            replay = measure.GraphReplay(row.call, on_gpu.inputs)
            assert replay.calls % len(on_gpu.inputs) == 0


def test_what_is_compiled_is_compared(monkeypatch: pytest.MonkeyPatch) -> None:
    """The function that is handed to torch.compile; compiling takes seconds."""
    monkeypatch.setattr(peers, "compiled", lambda function, run: (run(function), function)[1])
    names = []
    for suite in SUITES.values():
        for case in cases_of(suite):
            for name in case.rows:
                if "torch.compile" in name and (suite, name) not in names:
                    names.append((suite, name))
                    with torch.set_grad_enabled(suite.gradients):
                        run(group_of(suite, case), name)
    assert len(names) == 8


@pytest.mark.parametrize("path", results.device_files(RESULTS), ids=lambda path: path.name)
def test_results_on_file_are_of_rows_that_suites_have(path: Path) -> None:
    """Who renames a row, a group or what else identifies it has to measure it again."""
    record = results.load(path)
    device = record["machine_info"]["device"]
    known = [
        (case.group, case.identity(row))
        for suite in SUITES.values()
        for case in suite.cases[device]
        for row in suite.rows_of(case, device)
    ]
    for row in [*record["benchmarks"], *record["wrong"]]:
        identity = {name: row["extra_info"][name] for name in results.IDENTITY_FIELDS}
        assert (row["group"], identity) in known


def test_groups_are_those_of_one_suite() -> None:
    for device in DEVICES:
        groups = [case.group for suite in SUITES.values() for case in suite.cases[device]]
        assert len(set(groups)) == len(groups)


def test_a_cpu_launches_nothing() -> None:
    (case,) = (case for case in decode.SUITE.cases["cuda"] if case.group == "decode W1 float32")
    assert EMPTY in decode.SUITE.rows_of(case, "cuda")
    assert EMPTY not in decode.SUITE.rows_of(case, "cpu")
    assert COMPILED in decode.SUITE.rows_of(case, "cpu")
