"""How a row is timed: wrong ones are not, and those that can't run have a reason."""

from __future__ import annotations

import subprocess
import types
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from benchmarks import measure, peers, rows
from benchmarks.rows import Row
from benchmarks.unfinished import Unfinished


class FakeBenchmark:
    """What of pytest-benchmark's fixture a row uses."""

    def __init__(self) -> None:
        self.extra_info: dict[str, Any] = {}
        self.group = ""
        self.timed = 0

    def pedantic(self, function: Callable[..., Any], setup: Any = None, rounds: int = 1, iterations: int = 1) -> None:
        arguments, _ = setup() if setup else ((), {})
        function(*arguments)
        self.timed += rounds


IDENTITY = {"operation": "decode", "row": "a row"}


def _time(row: Row, request: pytest.FixtureRequest, device: str = "cpu") -> FakeBenchmark:
    benchmark = FakeBenchmark()
    rows.time_row(benchmark, request, lambda: row, [1, 2], device, "a group", IDENTITY)
    return benchmark


def _row(**fields: Any) -> Row:
    defaults: dict[str, Any] = {"call": lambda _: 1, "compare": lambda _: (0.5, "things"), "bytes": 8}
    return Row(**{**defaults, **fields})


def test_a_row_is_timed_on_the_host(request: pytest.FixtureRequest) -> None:
    benchmark = _time(_row(note="a note"), request)
    assert benchmark.timed >= 5
    assert benchmark.group == "a group"
    wanted = {"role": "peer", "note": "a note", "error": 0.5, "bytes": 8, "clock": "host", "copies": 2, **IDENTITY}
    assert wanted.items() <= benchmark.extra_info.items()


def test_a_row_is_timed_beside_a_busy_process(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    started: list[subprocess.Popen[bytes]] = []
    start = subprocess.Popen

    def watched(*arguments: Any, **named: Any) -> Any:
        started.append(start(*arguments, **named))
        return started[-1]

    monkeypatch.setattr(subprocess, "Popen", watched)
    assert _time(_row(), request).timed >= 5
    assert not started
    busy: list[bool] = []
    row = _row(call=lambda _: busy.append(bool(started) and started[0].poll() is None), is_disturbed=True)
    assert _time(row, request).timed >= 5
    assert len(started) == 1
    assert busy[0] is False  # the call whose output is compared
    assert all(busy[1:])
    assert started[0].poll() is not None


def test_a_wrong_peer_is_reported_and_not_timed(request: pytest.FixtureRequest) -> None:
    def compare(_: Any) -> Any:
        raise peers.Wrong("off by 3 px")

    with pytest.raises(pytest.skip.Exception, match="wrong: off by 3 px"):
        _time(_row(compare=compare), request)
    ((name, reported),) = request.node.user_properties
    assert name == rows.WRONG
    assert reported == {"group": "a group", "extra_info": IDENTITY, "reason": "off by 3 px"}


def test_a_wrong_row_of_ours_fails(request: pytest.FixtureRequest) -> None:
    def compare(_: Any) -> Any:
        raise peers.Wrong("off by 3 px")

    with pytest.raises(AssertionError, match="a row: off by 3 px"):
        _time(_row(compare=compare, role="ours"), request)


def test_what_is_not_installed_is_skipped(request: pytest.FixtureRequest) -> None:
    def call(_: Any) -> Any:
        raise peers.NotInstalled("no such package")

    with pytest.raises(pytest.skip.Exception, match="no such package"):
        _time(_row(call=call), request)


def test_wrong_and_skipped_rows_are_kept_apart(tmp_path: Path, record: dict[str, Any]) -> None:
    from benchmarks import conftest

    unfinished = Unfinished(tmp_path / "rows.jsonl", record)
    stash = {conftest._UNFINISHED: unfinished}

    def report(name: str, skipped: bool, properties: list[tuple[str, Any]], reason: str = "Skipped: why") -> None:
        item: Any = types.SimpleNamespace(
            name=name, user_properties=properties, config=types.SimpleNamespace(stash=stash)
        )
        longrepr = ("rows.py", 1, reason) if skipped else None
        result = types.SimpleNamespace(skipped=skipped, longrepr=longrepr)
        hook = conftest.pytest_runtest_makereport(item)
        next(hook)
        with pytest.raises(StopIteration):
            hook.send(types.SimpleNamespace(get_result=lambda: result))  # type: ignore[attr-defined]

    wrong = [(rows.WRONG, {"reason": "off"})]
    report("x", True, wrong)
    report("x", False, wrong)  # the teardown says it again
    report("y", True, [])
    report("z", True, [], f"Skipped: {conftest._NO_TIME}")  # a later run has it
    assert unfinished.rows["wrong"] == [{"reason": "off"}]
    assert unfinished.rows["skipped"] == [{"name": "y", "reason": "Skipped: why"}]
    assert unfinished.names == {"x", "y"}


@pytest.fixture
def _pretended_device(monkeypatch: pytest.MonkeyPatch) -> None:
    """Enough of torch.cuda to walk through the timing code."""
    for name in ("empty_cache", "synchronize", "reset_peak_memory_stats"):
        monkeypatch.setattr(torch.cuda, name, lambda: None)
    monkeypatch.setattr(torch.cuda, "memory_allocated", lambda: 100)
    monkeypatch.setattr(torch.cuda, "max_memory_allocated", lambda: 350)

    class Replay:
        calls = 6

        def __init__(self, call: Any, inputs: Any) -> None:
            if call(inputs[0]) == "not capturable":
                raise RuntimeError("operation not permitted when stream is capturing")

        def __call__(self) -> None:
            pass

    monkeypatch.setattr(measure, "GraphReplay", Replay)


@pytest.mark.usefixtures("_pretended_device")
def test_a_row_is_replayed_on_a_device(request: pytest.FixtureRequest) -> None:
    info = _time(_row(capture="always", role="ours"), request, "cuda").extra_info
    assert (info["clock"], info["calls_per_round"], info["peak_bytes"]) == ("graph replay", 6, 250)
    assert info["host_seconds"] > 0


@pytest.mark.usefixtures("_pretended_device")
def test_a_peer_that_cannot_be_captured_is_timed_by_the_host(
    request: pytest.FixtureRequest, capsys: pytest.CaptureFixture[str]
) -> None:
    info = _time(_row(call=lambda _: "not capturable"), request, "cuda").extra_info
    assert (info["clock"], info["calls_per_round"]) == ("host, synchronised", 1)
    assert "can't be captured (operation not permitted" in capsys.readouterr().out
    with pytest.raises(RuntimeError, match="capturing"):
        _time(_row(call=lambda _: "not capturable", role="ours", capture="always"), request, "cuda")


@pytest.mark.usefixtures("_pretended_device")
def test_what_waits_for_the_device_is_not_captured(request: pytest.FixtureRequest) -> None:
    info = _time(_row(capture="never"), request, "cuda").extra_info
    assert info["clock"] == "host, synchronised"
    assert info["host_seconds"] is None
