from __future__ import annotations

from probe.columns import COLUMNS, SCAN_COLUMNS, describe, metrics_of


def test_every_metric_of_a_scan_is_there_once_in_order() -> None:
    assert len({column.name for column in COLUMNS}) == len(COLUMNS)
    assert SCAN_COLUMNS[:4] == ("sink_first", "sink_rate", "sink_other", "sink_learned")
    assert SCAN_COLUMNS[-2:] == ("output_norm", "output_share")
    assert len(SCAN_COLUMNS) == 22


def test_metrics_are_told_from_keys_bounds_and_counts() -> None:
    columns = [
        "stack",
        "layer",
        "ablation_ioi",
        "n_induction",
        "induction_low",
        "induction",
        "induction_high",
    ]
    assert metrics_of([*columns, "n_other", "sink_first", "roles"]) == [
        "sink_first", "induction", "ablation_ioi", "n_other",
    ]  # fmt: skip


def test_an_added_metric_is_described_plainly() -> None:
    assert describe("mine").formula == "added by the caller"
    assert describe("entropy").unit == "nats"
