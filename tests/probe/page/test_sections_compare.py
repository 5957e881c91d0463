from __future__ import annotations

import re

from probe.comparisons.comparison import Comparison
from probe.page.sections_compare import compare_figures, compare_sections


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


def test_names_are_escaped(comparison: Comparison) -> None:
    for _, content in compare_sections(comparison).values():
        assert "<img" not in content
    assert "&lt;img" in compare_sections(comparison)["different"][1]
