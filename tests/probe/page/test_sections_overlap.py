from __future__ import annotations

import re
from dataclasses import replace

import pandas as pd

from probe.analyses.overlap import Overlap
from probe.analyses.overlap_noise import Noise
from probe.circuits.circuit import Circuit
from probe.page.sections_overlap import matrix_figures, matrix_sections, overlap_figures, overlap_section


def words(markup: str) -> str:
    return re.sub(r"\s+", " ", re.sub(r"<[^>]*>", " ", markup))


def places(markup: str) -> set[str]:
    return set(re.findall(r'data-figure="([^"]*)"', markup))


def test_a_pair_has_every_measure_beside_chance(
    several_overlaps: tuple[Overlap, ...], several_circuits: tuple[Circuit, ...]
) -> None:
    pair = several_overlaps[0]
    ((_, markup),) = overlap_section(pair, 2).values()
    assert places(markup) == set(overlap_figures(*several_circuits[:2], 2)) == {"overlap_map_2", "score_scatter_2"}
    text = words(markup)
    assert pair.sentence in text.replace("&#x27;", "'")
    assert f"shared heads, of 18 and 17 14 {pair.count.expected:.2f} {pair.count.low:.0f} to" in text
    assert f"chance is |A||B| / n = {18 * 17 / 270:.2f} heads of 270" in text
    assert "Edges come in paths" in text
    assert "name mover 4 3 3 0" in text
    assert "Edges come in paths" not in words(overlap_section(replace(pair, edges=None))["overlap-0"][1])


def test_nothing_shared_is_said(several_overlaps: tuple[Overlap, ...]) -> None:
    assert "Shared heads None." in words(overlap_section(several_overlaps[1])["overlap-0"][1])


def test_the_matrix_has_a_place_for_what_there_is(
    several_overlaps: tuple[Overlap, ...], transfer_table: pd.DataFrame, removed: pd.DataFrame
) -> None:
    for overlaps, moved, gone in (
        (several_overlaps, transfer_table, removed), (several_overlaps, None, None),
        ((), transfer_table.iloc[:0], removed),
    ):  # fmt: skip
        sections = matrix_sections(overlaps, moved, gone)
        drawn = matrix_figures(["ioi", "greater_than", "induction"], overlaps, moved, gone)
        assert set().union(*(places(markup) for _, markup in sections.values())) == set(drawn)
        assert len(sections) == len(drawn)


def test_pairs_and_parts_stand_in_figures(
    several_overlaps: tuple[Overlap, ...], transfer_table: pd.DataFrame, removed: pd.DataFrame
) -> None:
    noise = Noise(low=9, high=15, mean=12.0, again=14, kept_a=18, kept_b=17, self_a=16.5, self_b=15, resamples=100)
    noisy = replace(several_overlaps[0], noise=noise)
    sections = matrix_sections((noisy, *several_overlaps[1:]), transfer_table, removed)
    text = {name: words(markup) for name, (_, markup) in sections.items()}
    assert "ioi, greater_than 14 of 18 and 17" in text["overlap"]
    assert "9 to 15" in text["overlap"]
    assert "not known" in text["overlap"]
    pair = words(overlap_section(noisy)["overlap-0"][1])
    assert "share 16.5 of 18 heads (ioi) and 15.0 of 17 (greater_than)" in pair
    assert "ioi induction 0.20 [0.080, 0.32] 0.050 [-0.020, 0.10] 0.30" in text["transfer"]
    assert "ioi, induction ioi shared heads 2 0.50 [0.45, 0.55] 0.15 [0.10, 0.20] 0.30" in text["removed"]
