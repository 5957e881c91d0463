from __future__ import annotations

from collections.abc import Callable

import numpy as np

from probe.comparisons.compare import compare
from probe.comparisons.comparison import Comparison
from probe.page.findings_compare import compare_findings, compare_limits, compare_uncertainty, told
from probe.table import HeadTable


def test_findings_say_what_changed(comparison: Comparison) -> None:
    changed, metrics, roles, ranks, match, differs = compare_findings(comparison)
    assert changed.figure == "2"
    assert "2 of 270 heads differ" in changed.text
    assert "by more than 0.2 standard deviations of a metric over the heads; 2 differ by more than" in changed.text
    assert len(changed.heads) == 2
    assert all("sink_first" in head for head in changed.heads)
    assert (metrics.figure, len(metrics.heads)) == ("1", 1)
    assert metrics.heads[0].startswith("sink_first  2 heads; 2 intervals, 14 by chance; largest L")
    assert roles.text.startswith("Heads gained or lost a role 2 times and kept one 30")
    assert "Clear: 2 of the changes" in roles.text
    assert ranks.figure == "1.00"
    assert match.figure == "270"
    assert "268 of 270 are nearer" in match.text
    assert "length: 4,096 → 8,192" in differs.heads


def test_the_number_counts_notable_changes_and_the_text_both() -> None:
    level = np.random.default_rng(0).uniform(0, 1, (8, 4, 4))
    moved = level.copy()
    moved[:, 1, 1] += np.linspace(0.39, 0.41, 8)
    moved[:, 2, 2] += np.linspace(0.0009, 0.0011, 8)
    facts = {"n_sequences": 8, "tokens_hash": "7" * 64}
    first = compare_findings(compare(*(HeadTable.build({"entropy": values}, {}, facts, kv_heads=4)
                                       for values in (level, moved))))[0]  # fmt: skip
    assert first.figure == "1"
    assert first.text.startswith("1 of 16 heads differ between the two by more than 0.2 standard deviations")
    assert "2 differ by more than float32 rounding" in first.text


def test_what_was_not_tested_is_counted_and_named() -> None:
    draw = np.random.default_rng(0).uniform(0, 1, (8, 4, 4))
    made = {"sequences": 8, "seed": 0}

    def of(values: dict[str, np.ndarray]) -> list[str]:
        table = HeadTable.build(values, {}, {"n_sequences": 2, "random_tokens": made, "tokens_hash": "7" * 64},
                                kv_heads=4)  # fmt: skip
        return [f"{one.figure} {one.text}" for one in compare_findings(compare(table, table))[:2]]

    short = {"entropy": draw[:2], "distance": draw[:2], "sink_rate": draw[:2]}
    some = of({**short, "induction_random": draw})
    assert some[0].endswith(" 1 of 4 metrics were tested.")
    assert some[1].startswith("0 0 of 1 metrics tested differ in some head")
    assert "Not tested: entropy, distance (fewer than 4 sequences in A and B)." in some[1]
    assert "Not tested: sink_rate (moves in steps of one sequence)." in some[1]
    assert of(short)[1].startswith("– None of the 3 metrics could be tested. Not tested: ")


def test_pairing_is_said_for_every_kind_of_metric() -> None:
    values = {name: np.random.default_rng(0).uniform(0, 1, (8, 4, 4)) for name in ("entropy", "induction_random")}

    def lines(seed: int, lost: str = "") -> str:
        tables = [HeadTable.build(values, {}, {"n_sequences": 8, "tokens_hash": "7" * 64,
                                               "random_tokens": {"sequences": 8, "seed": number}}, kv_heads=4)
                  for number in (0, seed)]  # fmt: skip
        tables[1].profiles.pop(f"sequences_{lost}", None)
        return " ".join(compare_uncertainty(compare(*tables)))

    assert "2 metrics are compared sequence by sequence" in lines(0)
    assert "independent" not in lines(0)
    assert "1 metrics are compared sequence by sequence" in lines(1)
    assert "Not known to have read the same random tokens: induction_random, compared as independent." in lines(1)
    assert "keeps no values by sequence of entropy: compared as independent, with intervals that are too wide" in lines(
        0, "entropy")  # fmt: skip
    assert "induction_random could not be paired by sequence: compared as independent" in lines(0, "induction_random")


def test_nothing_changed_is_said_plainly(head_table: HeadTable) -> None:
    changed, metrics, roles, *_ = compare_findings(compare(head_table, head_table, metrics=["sink_first", "entropy"]))
    assert (changed.figure, metrics.figure, roles.figure) == ("0", "0", "0")
    assert changed.heads == metrics.heads == roles.heads == ()
    assert roles.text.startswith("No head gained or lost a role")


def test_one_sequence_is_not_tested(make_table: Callable[..., HeadTable]) -> None:
    found = compare(make_table(n=1), make_table(n=1, seed=1), metrics=["sink_first"])
    assert compare_findings(found)[0].text.startswith("Not tested: a difference has an interval only from 4")
    assert any("1 sequences are few" in line for line in compare_uncertainty(found))


def test_pairs_are_said_to_be_pairs(head_table: HeadTable, comparison: Comparison) -> None:
    paired = compare(head_table, head_table, metrics=["sink_first"])
    assert any("1 metrics are compared sequence by sequence" in line for line in compare_uncertainty(paired))
    bare = HeadTable(head_table.frame, {}, head_table.metadata)
    assert any("too wide" in line for line in compare_uncertainty(compare(bare, bare, metrics=["sink_first"])))
    assert not any("same tokens" in line for line in compare_uncertainty(comparison))


def test_limits_name_what_is_left_out(comparison: Comparison) -> None:
    lines = compare_limits(comparison)
    assert "induction_chance is not compared: a property of the tokens, not of the heads." in lines
    assert any("different length" in line for line in lines)
    assert not any("paired for being alike" in line for line in lines)


def test_heads_matched_by_behaviour_come_with_a_warning(
    head_table: HeadTable, make_table: Callable[..., HeadTable]
) -> None:
    found = compare(head_table, make_table(seed=1), match_by="behaviour", metrics=["sink_first"])
    assert any("paired for being alike" in line for line in compare_limits(found))
    match = next(one for one in compare_findings(found) if one.title == "Which head is which")
    assert f"{len(found.matching.alone_a)} heads of A" in match.text
    by_name = compare(head_table, make_table(seed=1), metrics=["sink_first"])
    match = next(one for one in compare_findings(by_name) if one.title == "Which head is which")
    assert "names may mean nothing between these two" in match.text


def test_a_change_is_told_in_one_line() -> None:
    row = {"a": 0.2, "b": 0.35, "difference": 0.15, "difference_low": 0.11, "difference_high": 0.19}
    assert told(row) == "0.20 → 0.35, +0.15 [0.11, 0.19]"
