"""Two tables side by side: nothing changes between equals, chance gives what is said, planted changes are found."""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from dataclasses import replace
from functools import cache
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch

import probe
from probe.comparisons.compare import compare
from probe.comparisons.comparison import Comparison
from probe.errors import ResultsError
from probe.models import Loaded, load
from probe.planted.models import PLANTED_ROLES, PLANTED_TOLERANCE
from probe.planted.prompts import repeated_tokens
from probe.scan import scan
from probe.table import HeadTable

LAYERS, HEADS = 20, 20
LOOKS = ("sink_first", "previous_token", "current_token", "entropy", "max_weight")


def drawn(seed: int, moved: tuple[tuple[int, int], ...] = (), n: int = 8, tokens: str = "") -> HeadTable:
    """Heads with levels of their own, noise by sequence, one level the same for every seed; some moved by 0.2."""
    level = np.random.default_rng(0).uniform(0.2, 0.7, (LAYERS, HEADS))
    for head in moved:
        level[head] += 0.2
    rng = np.random.default_rng([1, seed])
    values = {name: level + rng.normal(0, 0.03, (n, LAYERS, HEADS)) for name in ("sink_first", "max_weight")}
    metadata = {"model": "drawn", "n_sequences": n, "tokens_hash": tokens or f"{seed:064x}", "seed": seed}
    return HeadTable.build(values, {}, metadata, kv_heads=4)


def loaded_planted() -> Loaded:
    return load("planted")


def planted_scan(model: Loaded, length: int = 64, first: int = 0, count: int = 5) -> HeadTable:
    ids = [repeated_tokens(length, seed=seed) for seed in range(first, first + count)]
    return scan(model, ids, window=20, random_sequences=0, verify=False)


@cache
def plain_scan() -> HeadTable:
    return planted_scan(loaded_planted())


@cache
def edited(heads: tuple[tuple[int, int], ...]) -> Loaded:
    """The planted model, some heads looking at everything alike: their queries are 0."""
    found = loaded_planted()
    with torch.no_grad():
        for layer, head in heads:
            found.model.model.layers[layer].self_attn.q_proj.weight[128 * head : 128 * (head + 1)] = 0
    return replace(found, weight_hash="e" * 64)


# Nothing changed


def test_a_table_does_not_differ_from_itself(head_table: HeadTable) -> None:
    found = compare(head_table, head_table)
    assert len(found.found) == 0
    assert (found.heads["difference"].dropna() == 0).all()
    assert not found.heads["changed"].any()
    assert set(found.roles["change"]) == {"kept"}
    np.testing.assert_allclose(found.metrics["spearman"].dropna(), 1)
    assert found.differs == ()
    assert not any(found.table().frame["roles"])


def test_chance_changes_are_as_many_as_is_said() -> None:
    counts, tested, found = 0, 0, 0
    for seed in range(4):
        metrics = compare(drawn(2 * seed), drawn(2 * seed + 1)).metrics
        counts, tested, found = counts + metrics["changed"].sum(), tested + metrics["tested"].sum(), found + metrics[
            "found"].sum()  # fmt: skip
    assert tested == 4 * 2 * LAYERS * HEADS
    # Four standard errors of a binomial, and 0.006 for the reasons in tests/probe/test_mean_difference.py.
    assert counts / tested == pytest.approx(0.05, abs=4 * math.sqrt(0.05 * 0.95 / tested) + 0.006)
    # Under the null one family in twenty has any head with q < 0.05; eight families here.
    assert found <= 3


def test_the_expected_number_is_five_percent_of_the_heads_tested() -> None:
    row = compare(drawn(0), drawn(1), metrics=["sink_first"]).metrics.iloc[0]
    assert row["by_chance"] == pytest.approx(0.05 * LAYERS * HEADS)
    assert row["tested"] == row["compared"] == LAYERS * HEADS


# Something changed


def test_two_moved_heads_are_found_and_no_others() -> None:
    found = compare(drawn(0), drawn(1, ((3, 4), (11, 17))))
    assert set(found.found["name_a"]) == {"L3H4", "L11H17"}
    rows = found.of("sink_first").set_index("name_a").loc[["L3H4", "L11H17"]]
    assert (rows["difference_low"] > 0.1).all()
    assert (rows["difference_low"] < 0.2).all()
    assert (rows["difference_high"] > 0.2).all()
    frame = found.table().frame
    assert [(row.layer, row.head) for row in frame.itertuples() if "changed" in row.roles] == [(3, 4), (11, 17)]


def test_pairs_of_sequences_see_what_independent_samples_do_not() -> None:
    noise = np.random.default_rng(4).normal(0, 0.2, (8, LAYERS, HEADS))
    shift = np.zeros((LAYERS, HEADS))
    shift[5, 5] = 0.02
    tables = []
    for index in range(2):
        values = {"sink_first": 0.5 + noise + np.random.default_rng(index).normal(0, 0.002, noise.shape)
                  + index * shift}  # fmt: skip
        metadata = {"model": "drawn", "n_sequences": 8, "tokens_hash": "7" * 64}
        tables.append(HeadTable.build(values, {}, metadata, kv_heads=4))
    together = compare(*tables)
    assert together.heads["paired"].all()
    assert set(together.found["name_a"]) == {"L5H5"}
    bare = [HeadTable(table.frame, {}, table.metadata) for table in tables]
    apart = compare(*bare)
    assert not apart.heads["paired"].any()
    assert not apart.heads["changed"].any()
    np.testing.assert_allclose(together.heads["difference"], apart.heads["difference"], atol=1e-12)


def test_other_sequences_are_never_paired() -> None:
    assert not compare(drawn(0), drawn(1)).heads["paired"].any()
    same = compare(drawn(0, tokens="5" * 64), drawn(1, tokens="5" * 64))
    assert same.heads["paired"].all()


def test_two_edited_heads_of_a_model_are_found_and_no_others() -> None:
    heads = ((2, 2), (2, 5))  # in the last layer, so that no other head reads what they write
    # Planted heads vary by rounding alone, so p is that of signs: with 10 sequences small enough for 120 tests.
    found = compare(planted_scan(loaded_planted(), count=10), planted_scan(edited(heads), count=10), metrics=LOOKS)
    assert set(found.found["name_a"]) == {"L2H2", "L2H5"}
    others = found.heads[~found.heads["name_a"].isin(["L2H2", "L2H5"])]
    assert (others["difference"] == 0).all()
    assert found.label_a != found.label_b
    assert [what for what, _, _ in found.differs] == ["weight hash"]


def test_edited_heads_are_found_on_other_text_too() -> None:
    after = planted_scan(edited(((2, 2), (2, 5))), first=50)
    rows = compare(plain_scan(), after, metrics=LOOKS).of("entropy").set_index("name_a")
    assert not rows["paired"].any()
    moved = rows["difference"].abs() > 0.2
    assert set(rows.index[moved]) == {"L2H2", "L2H5"}
    assert (rows["q"][moved] < 0.05).all()


def test_a_longer_context_changes_the_heads_that_spread_and_no_sinks() -> None:
    found = compare(plain_scan(), planted_scan(loaded_planted(), 256))
    assert ("length", "64", "256") in found.differs
    rows, back = (found.of(metric).set_index("name_a") for metric in ("sink_first", "previous_token"))
    for (layer, head), role in PLANTED_ROLES.items():
        row = rows.loc[f"L{layer}H{head}"]
        if role == "first_token_sink":
            assert abs(row["difference"]) < 2 * PLANTED_TOLERANCE
        if role == "previous_token":
            assert abs(back["difference"][f"L{layer}H{head}"]) < 2 * PLANTED_TOLERANCE
        if role in ("uniform", "idle", "graded_sink"):
            # (1/T) Σ 1/(i+1) falls with the length T.
            assert row["difference_high"] < -0.02, role
            assert row["changed"], role


def test_retrieval_scores_count_their_needles(make_table: Callable[..., HeadTable]) -> None:
    table = make_table().frame[["stack", "kind", "layer", "head", "kv_head"]].assign(
        retrieval=0.5, retrieval_low=0.4, retrieval_high=0.6, n_retrieval=40
    )  # fmt: skip

    def of(needles: int, shift: float) -> HeadTable:
        moved = table.assign(**{name: table[name] + shift for name in table if name.startswith("retrieval")})
        return HeadTable(moved.assign(roles=[[]] * len(moved)), {}, {"retrieval": {"n_needles": needles}})

    few, some = (compare(of(needles, 0), of(needles, 0.3)).heads for needles in (3, 10))
    assert few["p"].isna().all()
    np.testing.assert_allclose(few["difference"], 0.3)
    assert (some["q"] < 0.01).all()


def test_shares_of_few_sequences_are_not_tested(head_table: HeadTable, make_table: Callable[..., HeadTable]) -> None:
    found = compare(head_table, make_table(seed=1), metrics=["sink_rate", "sink_first"])
    rates = found.of("sink_rate")
    assert rates["difference"].abs().max() == 1
    assert rates[["difference_low", "difference_high", "p", "q"]].isna().all(axis=None)
    assert found.metrics.set_index("metric")["tested"].to_dict() == {"sink_rate": 0, "sink_first": 270}


# Rounding, pairs, what is not tested


def of_values(values: dict[str, np.ndarray], **metadata: object) -> HeadTable:
    facts = {"model": "drawn", "n_sequences": 8, "tokens_hash": "7" * 64, **metadata}
    return HeadTable.build(values, {}, facts, kv_heads=4)


def test_float_rounding_is_no_change() -> None:
    level = np.random.default_rng(0).uniform(0, 1, (8, 4, 4))
    level[:, 0, 0] = 0.0  # a head that does nothing is held to the spread of the others
    moved = level + 1e-7 * np.random.default_rng(1).uniform(1, 1.1, level.shape)
    moved[:, 3, 3] += np.linspace(0.009, 0.011, 8)
    found = compare(of_values({"sink_first": level}), of_values({"sink_first": moved}))
    assert set(found.found["name_a"]) == {"L3H3"}
    rows = found.heads.set_index("name_a")
    assert rows["paired"].all()
    assert rows["equal"].sum() == 15
    assert (rows["p"][rows["equal"]] == 1).all()
    assert (rows["difference"] > 0).all()
    still = compare(of_values({"sink_first": level}), of_values({"sink_first": level + 1e-7}))
    assert not still.heads["changed"].any()
    assert still.metrics["largest"].tolist() == [""]


def test_random_metrics_are_paired_for_one_draw_only() -> None:
    values = {name: np.random.default_rng(0).uniform(0, 1, (8, 4, 4)) for name in ("sink_first", "induction_random")}

    def pairs(one: object, other: object) -> dict[str, bool]:
        tables = [of_values(values, random_tokens=made) for made in (one, other)]
        rows = compare(*tables).metrics.set_index("metric")
        return {str(name): bool(value) for name, value in rows["paired"].items()}

    draw = {"sequences": 8, "distinct": 128, "bos": None, "seed": 0}
    assert pairs(draw, draw) == {"sink_first": True, "induction_random": True}
    assert pairs(draw, {**draw, "seed": 1}) == {"sink_first": True, "induction_random": False}
    assert pairs(None, None) == {"sink_first": True, "induction_random": False}


def test_independent_random_metrics_count_their_own_sequences() -> None:
    values = {"induction_random": np.random.default_rng(0).uniform(0, 1, (8, 4, 4))}
    made = [of_values(values, n_sequences=2, random_tokens={"sequences": 8, "seed": seed}) for seed in (0, 1)]
    tables = [HeadTable(table.frame.drop(columns="n_induction_random", errors="ignore"), {}, table.metadata)
              for table in made]  # fmt: skip
    assert compare(*tables).metrics["tested"].tolist() == [16]


def test_why_a_metric_is_not_tested_is_said() -> None:
    values = {name: np.random.default_rng(0).uniform(0, 1, (2, 4, 4)) for name in ("sink_first", "sink_rate")}
    few = of_values(values, n_sequences=2)
    rows = compare(few, few).metrics.set_index("metric")
    assert rows["untested"].to_dict() == {
        "sink_first": "fewer than 4 sequences in A and B", "sink_rate": "moves in steps of one sequence",
    }  # fmt: skip
    assert compare(drawn(0), drawn(1)).metrics["untested"].tolist() == ["", ""]


def test_infinite_values_are_refused_by_metric() -> None:
    one, other = drawn(0, tokens="5" * 64), drawn(1, tokens="5" * 64)
    other.profiles["sequences_max_weight"][0, 0, 0] = np.inf
    with pytest.raises(ResultsError, match=r"^B: infinite values in sequences_max_weight"):
        compare(one, other)
    assert len(compare(one, other, metrics=["sink_first"]).heads) == LAYERS * HEADS


def test_one_metric_may_be_named_and_none_is_refused() -> None:
    found = compare(drawn(0), drawn(1), metrics="max_weight")
    assert found.metrics["metric"].tolist() == ["max_weight"]
    with pytest.raises(ResultsError, match=r"retrieval cannot be compared \(neither table has it\)"):
        compare(drawn(0), drawn(1), metrics="retrieval")
    with pytest.raises(ResultsError, match="an empty list of metrics to compare; name one or more of sink_first, max"):
        compare(drawn(0), drawn(1), metrics=[])


# Roles, ranks, labels


def test_roles_are_counted_and_clear_where_what_decides_them_changed() -> None:
    a, b = drawn(0), drawn(1, ((3, 4), (11, 17)))
    found = compare(a, b)
    has = [np.array(["sink" in roles for roles in table.frame["roles"]]) for table in (a, b)]
    turned = found.roles[found.roles["role"] == "sink"].set_index("name_a")
    assert (turned["change"] == "gained").sum() == (~has[0] & has[1]).sum()
    assert (turned["change"] == "lost").sum() == (has[0] & ~has[1]).sum()
    assert (turned["change"] == "kept").sum() == (has[0] & has[1]).sum()
    changed = set(found.of("sink_first").query("q < 0.05")["name_a"])
    assert set(turned.index[turned["clear"]]) == changed & set(turned.index[turned["change"] != "kept"])
    assert not turned["clear"][turned["change"] == "kept"].any()


def test_one_sequence_gives_differences_without_intervals() -> None:
    found = compare(drawn(0, n=1), drawn(1, n=1))
    assert found.heads["difference"].notna().all()
    assert found.heads[["difference_low", "difference_high", "p", "q"]].isna().all(axis=None)
    assert (found.metrics["tested"] == 0).all()
    assert len(found.found) == 0


def test_labels_say_what_tells_the_two_apart(head_table: HeadTable) -> None:
    def other(**metadata: object) -> HeadTable:
        return HeadTable(head_table.frame, {}, {**head_table.metadata, **metadata})

    name = head_table.metadata["model"]
    def beside(table: HeadTable) -> Comparison:
        return compare(head_table, table, metrics=["sink_first"])

    assert beside(other(model="b")).label_b == "b"
    found = beside(other(length=512, dtype="bfloat16"))
    assert (found.label_a, found.label_b) == (f"{name}, 4,096 tokens", f"{name}, 512 tokens")
    assert beside(other(weight_hash="f" * 64)).label_b == f"{name}, weights ffffffff"
    assert compare(drawn(0), drawn(1), labels=("x", "y")).label_a == "x"


def test_effects_are_compared_with_their_prompts(effect_table: HeadTable) -> None:
    found = compare(effect_table, effect_table)
    assert list(found.metrics["metric"]) == ["ablation_ioi", "attribution_ioi"]
    assert found.heads["p"].notna().any()
    assert found.matching.metrics == ()


# Files, folders, refusals


def test_folders_are_read_and_files_written(tmp_path: Path) -> None:
    table = drawn(0)
    table.save(tmp_path / "a")
    found = probe.compare(tmp_path / "a", table)
    assert isinstance(found, Comparison)
    found.save(tmp_path / "out")
    back = pd.read_parquet(tmp_path / "out" / "compare.parquet")
    pd.testing.assert_frame_equal(back, found.heads, check_dtype=False)
    document = json.loads((tmp_path / "out" / "compare.json").read_text(), parse_constant=pytest.fail)
    assert len(document["matching"]["pairs"]) == LAYERS * HEADS
    assert document["found"] == []
    assert (tmp_path / "out" / "compare.csv").read_bytes().count(b"\r\n") == 1 + len(found.heads)
    again = tmp_path / "again"
    probe.compare(tmp_path / "a", table).save(again)
    for file in again.iterdir():
        assert file.read_bytes() == (tmp_path / "out" / file.name).read_bytes()


def test_what_cannot_be_compared_is_refused(head_table: HeadTable, effect_table: HeadTable) -> None:
    with pytest.raises(ResultsError, match=r"no metric to compare in these two tables \(sink_first: only measured"):
        compare(head_table, effect_table)
    with pytest.raises(ResultsError, match=r"induction_chance cannot be compared \(a property of the tokens"):
        compare(head_table, head_table, metrics=["induction_chance"])
    with pytest.raises(ResultsError, match=r"nothing cannot be compared \(neither table has it\); these can: sink_f"):
        compare(head_table, head_table, metrics=["nothing"])
    with pytest.raises(ResultsError, match="sink_rate was not compared"):
        compare(head_table, head_table, metrics=["entropy"]).of("sink_rate")


def test_heads_matched_by_behaviour_are_compared_across_names(
    head_table: HeadTable, make_table: Callable[..., HeadTable]
) -> None:
    small = HeadTable(head_table.frame[head_table.frame["layer"] < 9].reset_index(drop=True), {}, head_table.metadata)
    found = compare(small, make_table(seed=2))
    assert found.matching.how == "behaviour"
    rows = found.of("entropy")
    assert len(rows) == len(found.matching.rows) < 81
    frame = found.table().frame
    assert len(frame) == 81
    assert frame["difference_entropy"].isna().sum() == len(found.matching.alone_a)
    assert (rows["name_a"] != rows["name_b"]).any()
