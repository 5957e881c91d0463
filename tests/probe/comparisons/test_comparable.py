"""What differs between two tables is named; columns and roles of another meaning are not put side by side."""

from __future__ import annotations

from typing import Any

import pytest

from probe.comparisons.comparable import (
    check_definitions,
    columns_compared,
    deciding,
    needed,
    roles_compared,
    told_apart,
)
from probe.errors import ResultsError
from probe.roles import RULES
from probe.table import HeadTable


def told(table: HeadTable, **metadata: Any) -> HeadTable:
    return HeadTable(table.frame, {}, {**table.metadata, **metadata})


def test_equal_tables_differ_in_nothing(head_table: HeadTable) -> None:
    assert told_apart(head_table, head_table) == []
    kept, out = columns_compared(head_table, head_table)
    assert "sink_first" in kept
    assert "sink_learned" not in kept  # not measured in either: nothing to say
    assert out == dict.fromkeys(("induction_chance", "duplicate_token_chance"), out["induction_chance"])


def test_everything_recorded_is_told(head_table: HeadTable) -> None:
    other = told(
        head_table, length=512, dtype="bfloat16", weight_hash="a" * 64, versions={"torch": "2.13.0", "python": "3.12"},
        parameters={"sinks": 4, "window": 128, "epsilon": 0.3}, retrieval={"n_trials": 40},
    )  # fmt: skip
    found = {what: (mine, theirs) for what, mine, theirs in told_apart(head_table, other)}
    assert found == {
        "weight hash": ("000000000000…", "aaaaaaaaaaaa…"), "dtype": ("float32", "bfloat16"),
        "length": ("4,096", "512"), "parameter window": ("64", "128"),
        "version of transformers": ("5.23.0", "not recorded"), "version of python": ("not recorded", "3.12"),
        "retrieval n trials": ("not recorded", "40"),
    }  # fmt: skip


def test_other_definitions_are_refused(head_table: HeadTable) -> None:
    check_definitions(told(head_table, definitions="1"), told(head_table, definitions="1"))
    check_definitions(head_table, told(head_table, definitions="1"))
    with pytest.raises(ResultsError, match="definitions of version 1 and 2"):
        check_definitions(told(head_table, definitions="1"), told(head_table, definitions="2"))


@pytest.mark.parametrize(
    ("metadata", "names", "why"),
    [
        ({"parameters": {"sinks": 4, "window": 128, "epsilon": 0.3}},
         {"local_mass", "streaming_error", "streaming_mass"}, "another quantity: window 64 in A, 128 in B"),
        ({"parameters": {"sinks": 1, "window": 64, "epsilon": 0.3}}, {"streaming_error", "streaming_mass"}, "sinks 4"),
        ({"parameters": {"sinks": 4, "window": 64, "epsilon": 0.5}}, {"sink_rate"}, "epsilon 0.3 in A, 0.5 in B"),
        ({"random_tokens": {"distinct": 128}},
         {"previous_token_random", "duplicate_token_random", "induction_random"}, "not recorded distinct random"),
    ],
)  # fmt: skip
def test_another_quantity_is_left_out_by_name(
    head_table: HeadTable, metadata: dict[str, Any], names: set[str], why: str
) -> None:
    kept, out = columns_compared(head_table, told(head_table, **metadata))
    left = {name for name in out if not name.endswith("_chance")}
    assert left == names
    assert not left & set(kept)
    assert all(why in out[name] for name in names)


def test_what_only_one_has_is_left_out(head_table: HeadTable, effect_table: HeadTable) -> None:
    kept, out = columns_compared(head_table, effect_table)
    assert kept == []
    assert out["sink_first"] == "only measured in A"
    assert out["ablation_ioi"] == "only measured in B"


def test_effects_of_another_mode_are_left_out(effect_table: HeadTable) -> None:
    about = effect_table.metadata["effects"]
    other = {**about, "ablation_ioi": {**about["ablation_ioi"], "mode": "zero"}}
    kept, out = columns_compared(effect_table, told(effect_table, effects=other))
    assert kept == ["attribution_ioi"]
    assert out == {"ablation_ioi": "another quantity: mode mean in A, zero in B"}


def test_roles_need_their_columns_and_the_same_thresholds(head_table: HeadTable) -> None:
    kept, out = roles_compared(head_table, head_table)
    assert set(kept) | set(out) == set(RULES)
    assert out == {"retrieval": "could not be decided in A and B: no retrieval_low or retrieval_control_high"}
    other = told(head_table, role_thresholds={"sink_first": 0.5})
    assert roles_compared(head_table, other) == ([], dict.fromkeys(RULES, "the thresholds of the roles differ"))


def test_what_decides_a_role_is_what_its_rule_reads(head_table: HeadTable) -> None:
    assert deciding("local") == ("streaming_error", "sink_first")
    assert deciding("induction") == ("induction_random",)
    for role, rule in RULES.items():
        read = head_table.frame.assign(retrieval_low=0.9, retrieval_control_high=0.1)
        without = read.drop(columns=list(needed(role)))
        if role != "idle":
            assert rule(read, head_table.thresholds).any(), role
        assert not rule(without, head_table.thresholds).any(), role
