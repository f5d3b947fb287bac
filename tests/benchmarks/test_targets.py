"""Whether targets are met: which groups they take, what they measure, and what they say."""

from __future__ import annotations

import dataclasses
from typing import Any

import pytest

from benchmarks import results, targets
from benchmarks.targets import TARGETS, Group
from tests.benchmarks.conftest import row


def groups(*rows: dict[str, Any]) -> list[Group]:
    """Groups of rows with everything derived."""
    results.add_derived(list(rows))
    return targets.groups_of({"benchmarks": rows})


def target(what: str) -> targets.Target:
    """The one target that starts with these words."""
    (found,) = [candidate for candidate in TARGETS if candidate.what.startswith(what)]
    return found


def test_numbers_of_a_group() -> None:
    (group,) = groups(
        row("read only", 10e-6),
        row("empty kernel", 2e-6, bytes=0),
        row("decode", 12e-6, host_seconds=25e-6),
        row("reference", 600e-6),
        row("transformers Sapiens2", 300e-6),
    )
    assert targets.over_floor(group) == pytest.approx(1.2)
    assert targets.over_launches(group) == pytest.approx(12 / 14)
    assert targets.host_microseconds(group) == pytest.approx(25)
    assert targets.over("reference")(group) == pytest.approx(50)
    assert targets.over("reference", "transformers Sapiens2", "nobody")(group) == pytest.approx(25)
    assert targets.over("nobody")(group) is None


def test_what_was_not_measured_has_no_number() -> None:
    (group,) = groups(row("decode", 12e-6))
    assert targets.over_floor(group) is None
    assert targets.over_launches(group) is None
    assert targets.host_microseconds(group) is None
    (group,) = groups(row("read only", 10e-6))
    assert group.ours is None
    assert targets.over_floor(group) is None
    assert not any(candidate.applies(group) for candidate in TARGETS)


@pytest.mark.parametrize(
    ("change", "applies"),
    [
        ({"workload": "W2"}, True),
        ({"workload": "W2", "dtype": "float16"}, True),
        ({"workload": "W2", "dtype": "bfloat16"}, False),
        ({"workload": "W1"}, False),
        ({"workload": "W2", "memory_format": "channels_last"}, False),
        ({"workload": "W2", "values": "noise"}, False),
        ({"workload": "W2", "variant": "megvii"}, False),
        ({"workload": "W2", "operation": "gaussian_nll forward"}, False),
    ],
)
def test_a_target_takes_its_own_groups(change: dict[str, str], applies: bool) -> None:
    (group,) = groups(row("decode", 1.0, **change))
    assert target("decode W2, W3, W5").applies(group) is applies


def test_no_recipe_is_spared_the_reference() -> None:
    (group,) = groups(row("decode", 1.0, variant="megvii", workload="W2"), row("reference", 3.0))
    assert target("decode against the reference").applies(group)


def test_limits_are_part_of_the_target() -> None:
    below, above = target("decode W2, W3, W5"), target("decode against the reference")
    assert [below.is_hit(number) for number in (1.0, 1.10, 1.11)] == [True, True, False]
    assert [above.is_hit(number) for number in (19.9, 20.0, 30.0)] == [False, True, True]


def test_verdicts_put_the_worst_first() -> None:
    rows = []
    for workload, seconds in (("W2", 1.05), ("W3", 1.3), ("W5", 1.2)):
        group = f"decode {workload}"
        rows += [row("read only", 1.0, group, workload=workload), row("decode", seconds, group, workload=workload)]
    results.add_derived(rows)
    record = {"benchmarks": rows, "machine_info": {"device": "cuda"}}
    (verdict,) = targets.evaluate(record, [target("decode W2, W3, W5")])
    assert [group.name for group, _ in verdict.numbers] == ["decode W3", "decode W5", "decode W2"]
    assert [group.name for group, _ in verdict.missed] == ["decode W3", "decode W5"]
    assert verdict.word == "missed"
    (verdict,) = targets.evaluate(record, [dataclasses.replace(verdict.target, limit=1.3)])
    assert verdict.word == "hit"
    (verdict,) = targets.evaluate(record, [target("decode W2 channels_last")])
    assert verdict.word == "not measured"


def test_a_device_has_its_own_targets() -> None:
    record = {"benchmarks": [row("decode", 1.0)], "machine_info": {"device": "cpu"}}
    results.add_derived(record["benchmarks"])
    assert {verdict.target.device for verdict in targets.evaluate(record)} == {"cpu"}
