from __future__ import annotations

from dataclasses import replace

import pandas as pd

from probe.analyses.overlap import Overlap
from probe.analyses.overlap_noise import Noise
from probe.page.findings_overlap import not_done_finding, overlap_findings, overlap_limits, overlap_uncertainty


def test_a_pair_is_said_in_full(several_overlaps: tuple[Overlap, ...]) -> None:
    pair = several_overlaps[0]
    (found,) = overlap_findings([pair])
    assert found.title == "What ioi and greater_than share"
    assert found.figure == str(len(pair.shared))
    assert found.text == pair.sentence
    assert found.heads == (", ".join(f"L{layer}H{head}" for layer, head in pair.shared),)
    noise = Noise(low=9, high=15, mean=12.0, again=14, kept_a=18, kept_b=17, self_a=16.5, self_b=15, resamples=100)
    noisy = replace(pair, noise=noise)
    (found,) = overlap_findings([noisy])
    assert "9 to 15 over resampled prompts. Resampled: circuits of these sizes" in found.text


def test_pairs_are_counted_against_chance(several_overlaps: tuple[Overlap, ...]) -> None:
    more, heads = overlap_findings(several_overlaps)
    # One pair shares most of its heads; the third task's heads are nobody else's.
    assert more.figure == "1"
    assert more.text.startswith("1 of 3 pairs of circuits share more heads than random sets")
    assert more.heads[0].startswith("ioi, greater_than:  14 of 18 and 17, by chance ")
    assert heads.figure == "14"
    assert heads.text.startswith("28 heads are in some circuit, 14 of them in more than one, 0 in all 3.")


def test_no_shared_head_is_said(several_overlaps: tuple[Overlap, ...]) -> None:
    more, _ = overlap_findings(several_overlaps[1:])
    assert more.text.startswith("None of 2 pairs")
    (pair,) = overlap_findings(several_overlaps[1:2])
    assert (pair.figure, pair.heads) == ("0", ())


def test_transfer_counts_other_tasks_only(transfer_table: pd.DataFrame) -> None:
    (found,) = overlap_findings([], transfer_table)
    assert found.figure == "0"
    assert found.text.startswith("None of 2 times")
    assert found.heads[0] == "ioi on induction:  0.20 [0.080, 0.32], random 0.050 [-0.020, 0.10]"
    better = transfer_table.assign(faithfulness_low=0.15)
    assert overlap_findings([], better)[0].figure == "2"


def test_limits_and_uncertainty(several_overlaps: tuple[Overlap, ...]) -> None:
    assert overlap_limits([]) == overlap_uncertainty([]) == []
    assert "how often 500 pairs of random sets" in overlap_uncertainty(several_overlaps)[0]
    noted = replace(several_overlaps[0], notes=("methods differ",))
    assert "ioi, greater_than: methods differ" in overlap_limits([noted])


def test_shared_heads_count_where_both_tasks_need_them(removed: pd.DataFrame) -> None:
    twin = removed.assign(task="induction")
    (found,) = overlap_findings([], None, pd.concat([removed, twin]))
    assert found.figure == "1"
    assert found.heads[0] == "ioi, shared with induction:  0.50 [0.45, 0.55], random 0.15 [0.10, 0.20]"
    (one_sided,) = overlap_findings([], None, pd.concat([removed, twin.assign(lost_low=0.1)]))
    assert one_sided.text.startswith("For none of 1 pairs")
    # Measured on one task only, it cannot be said of both.
    assert overlap_findings([], None, removed)[0].figure == "0"


def test_tasks_not_done_are_named_with_their_reason() -> None:
    found = not_done_finding({"colored_objects": "the model is not better than guessing"})
    assert (found.figure, found.heads) == ("1", ("colored_objects: the model is not better than guessing",))
