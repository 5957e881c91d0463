from __future__ import annotations

import numpy as np
import pandas as pd
import pytest

from probe.roles import RULES, THRESHOLDS, assign, explain


def roles_of(**values: float) -> list[str]:
    row = {"stack": "decoder", "kind": "self", "layer": 0, "head": 0, "kv_head": 0, **values}
    rest = {**row, "head": 1, **dict.fromkeys(values, np.nan)}
    return assign(pd.DataFrame([row, rest]), THRESHOLDS)[0]


@pytest.mark.parametrize(
    ("values", "expected"),
    [
        ({"sink_first": 0.31}, ["sink"]),
        ({"sink_first": 0.3}, []),
        ({"previous_token_random": 0.41, "previous_token": 0.0}, ["previous_token"]),
        ({"previous_token": 0.9, "previous_token_random": 0.4}, []),
        ({"induction_random": 0.41, "duplicate_token_random": 0.41}, ["induction", "duplicate_token"]),
        ({"retrieval_low": 0.1, "retrieval_control_high": 0.09}, ["retrieval"]),
        ({"retrieval_low": 0.1, "retrieval_control_high": 0.1}, []),
        ({"retrieval_low": 0.5}, []),
        ({"streaming_error_high": 0.049, "sink_first": 0.3}, ["local"]),
        ({"streaming_error_high": 0.049, "sink_first": 0.31}, ["sink"]),
        ({"streaming_error": 0.0, "sink_first": 0.1}, []),
        ({"output_share": 0.049}, ["idle"]),
        ({"output_share": 0.05}, []),
    ],
)
def test_thresholds_are_those_of_the_definition(values: dict[str, float], expected: list[str]) -> None:
    assert roles_of(**values) == expected


def test_not_measured_gives_no_role() -> None:
    assert roles_of() == []
    assert roles_of(**dict.fromkeys(["sink_first", "induction_random", "output_share"], np.nan)) == []


def test_every_role_says_its_rule_with_the_thresholds_in_use() -> None:
    for role in RULES:
        assert role in explain(role, THRESHOLDS) or any(sign in explain(role, THRESHOLDS) for sign in "<>≥")
    assert "sink_first > 0.25" in explain("sink", {**THRESHOLDS, "sink_first": 0.25})
