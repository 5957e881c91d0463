from __future__ import annotations

import re
from collections.abc import Callable

from probe.comparisons.compare import compare
from probe.comparisons.comparison import Comparison
from probe.page.sections_compare import compare_figures, compare_sections
from probe.table import HeadTable


def test_every_place_has_its_figure(comparison: Comparison) -> None:
    sections = compare_sections(comparison)
    places = {place for _, content in sections.values() for place in re.findall(r'data-figure="([^"]*)"', content)}
    assert places == set(compare_figures(comparison)) == {"likeness", *(f"against_{index}" for index in range(4))}
    for identifier, (_, content) in sections.items():
        assert content.startswith("<section") or f'id="{identifier}"' in content


def test_every_metric_has_a_row_with_its_chance(comparison: Comparison) -> None:
    content = compare_sections(comparison)["changes"][1]
    assert content.count("<tr>") == 1 + len(comparison.metrics)
    row = re.search(r"<tr><th scope=\"row\"><code>sink_first</code>.*?</tr>", content)
    assert row is not None
    cells = re.findall(r"<td[^>]*>(.*?)</td>", row[0])
    assert cells[:4] == ["2", "2", "13.5", "270"]
    assert re.fullmatch(r"L\d+H\d [+-]0\.70", cells[6])


def test_roles_are_listed_clear_ones_bold(comparison: Comparison) -> None:
    content = compare_sections(comparison)["role-changes"][1]
    turned = comparison.roles[comparison.roles["change"] != "kept"]
    assert set(re.findall(r"<strong>(L\d+H\d)</strong>", content)) == set(turned["name_a"][turned["clear"]])


def test_no_change_is_said_only_of_what_was_tested(make_table: Callable[..., HeadTable]) -> None:
    one, some = make_table(n=1), make_table()
    nothing = compare_sections(compare(one, one, metrics=["entropy", "sink_first"]))["changed"][1]
    assert "Nothing can be said: none of the 2 metrics could be tested. Not tested: " in nothing
    assert "No head changed" not in nothing
    partly = compare_sections(compare(some, some, metrics=["entropy", "sink_rate"]))["changed"][1]
    assert "No head changed beyond what chance gives in the 1 of 2 metrics that were tested." in partly
    assert "Not tested: sink_rate (moves in steps of one sequence)." in partly
    whole = compare_sections(compare(some, some, metrics=["entropy"]))["changed"][1]
    assert "No head changed beyond what chance gives.<" in whole


def test_names_are_escaped(comparison: Comparison) -> None:
    for _, content in compare_sections(comparison).values():
        assert "<img" not in content
    assert "&lt;img" in compare_sections(comparison)["different"][1]
