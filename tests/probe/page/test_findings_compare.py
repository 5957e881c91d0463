from __future__ import annotations

from collections.abc import Callable

from probe.comparisons.compare import compare
from probe.comparisons.comparison import Comparison
from probe.page.findings_compare import compare_findings, compare_limits, compare_uncertainty, told
from probe.table import HeadTable


def test_findings_say_what_changed(comparison: Comparison) -> None:
    changed, metrics, roles, ranks, match, differs = compare_findings(comparison)
    assert changed.figure == "2"
    assert "2 of 270 heads differ" in changed.text
    assert "2 of them by more than 0.2 standard deviations" in changed.text
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
