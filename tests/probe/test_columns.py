from __future__ import annotations

from probe.columns import COLUMNS, METRIC_UNITS, SCAN_COLUMNS, describe, effect_name, metrics_of
from probe.tasks.task import METRICS


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


def test_what_stands_beside_an_effect_is_not_a_metric() -> None:
    name = effect_name("ablation", "ioi", "mean", "exact")
    assert name == "ablation_ioi@mean.exact"
    beside = [f"{name}_low", f"{name}_high", f"{name}_p", f"{name}_q", f"n_{name}"]
    assert metrics_of([name, *beside, "entropy", "other_q"]) == ["entropy", name, "other_q"]


def test_an_effect_is_described_by_its_name_and_the_table() -> None:
    assert set(METRIC_UNITS) == set(METRICS)
    about = {"effects": {"ablation_kv_json": {"metric": "neg_loss", "mode": "zero", "method": "exact"}}}
    told = describe("ablation_kv_json", about)
    assert told.title == "What removing the head costs on kv_json (zero ablation, exact)"
    assert told.unit == "nats"
    assert told.formula.startswith("mean over prompts of neg_loss clean − neg_loss")
    assert told.top is None
    alone = describe("attribution_ioi@mean.gradient")
    assert alone.title == "Estimate of what removing the head costs on ioi (mean ablation, gradient)"
    assert alone.unit == "unit of the task's metric"
    assert describe("ablation_ioi@scale:0.5.exact").title.endswith("(scale:0.5 ablation, exact)")
    assert describe("ablation_ioi", about).title == "What removing the head costs on ioi"


def test_a_circuit_score_is_described_by_its_name_and_the_table() -> None:
    told = describe("circuit_ioi", {"circuits": {"circuit_ioi": {"metric": "logit_diff", "method": "eap-ig"}}})
    assert told.title == "Score of the head in the circuit of ioi"
    assert told.unit == "logits"
    assert "logit_diff loses without the head (eap-ig)" in told.formula
    assert describe("circuit_ioi").unit == "the metric"
