from __future__ import annotations

import csv
import io
import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from probe.columns import KEYS, SCAN_COLUMNS
from probe.errors import ResultsError
from probe.statistics import bootstrap
from probe.table import HeadTable, head_name

FILES = ("heads.parquet", "heads.csv", "heads.json", "profiles.safetensors")


def small(**metadata: object) -> HeadTable:
    values = np.random.default_rng(0).uniform(size=(4, 2, 6))
    values[1, 0, 3] = np.nan
    per_sequence = {
        "induction_random": values,
        "sink_first": values / 4,
        "induction_chance": np.ones((4, 1, 1)),
    }
    profiles = {"received": np.ones((2, 6, 10), dtype=np.float32)}
    return HeadTable.build(per_sequence, profiles, {"n_sequences": 4, "seed": 7, **metadata}, kv_heads=2)


def test_one_row_a_head_with_its_key_value_head() -> None:
    frame = small().frame
    assert list(frame.columns[:5]) == list(KEYS)
    assert frame[["layer", "head", "kv_head"]].to_numpy().tolist() == [
        [layer, head, head // 3] for layer in range(2) for head in range(6)
    ]


def test_means_and_intervals_are_the_bootstrap_of_the_sequences() -> None:
    values = np.random.default_rng(0).uniform(size=(4, 2, 6))
    values[1, 0, 3] = np.nan
    expected = bootstrap(values.reshape(4, 12), seed=7)
    frame = small().frame
    assert frame["induction_random"].tolist() == expected.mean.tolist()
    assert frame["induction_random_low"].tolist() == expected.low.tolist()
    assert frame["induction_random_high"].tolist() == expected.high.tolist()


def test_counts_are_written_only_where_they_differ() -> None:
    frame = small().frame
    assert frame["n_induction_random"].tolist() == [4, 4, 4, 3, *[4] * 8]
    assert "n_induction_chance" not in frame
    assert frame["induction_chance"].tolist() == [1.0] * 12


def test_order_is_the_definitions_and_what_was_not_measured_is_nan() -> None:
    frame = small().frame
    metrics = [name for name in frame if name in SCAN_COLUMNS]
    assert metrics == list(SCAN_COLUMNS)
    assert frame["entropy"].isna().all()
    assert frame["entropy_low"].isna().all()
    assert "retrieval" not in frame
    assert frame.columns[-1] == "roles"


def test_roles_follow_thresholds_kept_in_the_metadata() -> None:
    table = small()
    expected = [["induction"] if score > 0.4 else [] for score in table.frame["induction_random"]]
    assert table.frame["roles"].tolist() == expected
    strict = small(role_thresholds={"pattern_random": 2.0})
    assert strict.metadata["role_thresholds"]["sink_first"] == 0.3
    assert all(roles == [] for roles in strict.frame["roles"])


def test_one_sequence_has_no_interval(make_table: Callable[..., HeadTable]) -> None:
    frame = make_table(n=1).frame
    assert frame["sink_first"].notna().all()
    assert frame["sink_first_low"].isna().all()
    assert not any("local" in roles for roles in frame["roles"])


def test_round_trip_is_exact(head_table: HeadTable, tmp_path: Path) -> None:
    head_table.save(tmp_path)
    back = HeadTable.load(tmp_path)
    assert sorted(path.name for path in tmp_path.iterdir()) == sorted(FILES)
    assert list(back.frame.columns) == list(head_table.frame.columns)
    for name in head_table.frame:
        if name in ("stack", "kind", "roles"):
            assert back.frame[name].tolist() == head_table.frame[name].tolist()
        else:
            assert back.frame[name].to_numpy().tobytes() == head_table.frame[name].to_numpy().tobytes()
    assert back.metadata == head_table.metadata
    assert {key: value.tobytes() for key, value in back.profiles.items()} == {
        key: value.tobytes() for key, value in head_table.profiles.items()
    }


def test_equal_input_gives_equal_bytes(tmp_path: Path) -> None:
    small().save(tmp_path / "a")
    small().save(tmp_path / "b")
    HeadTable.load(tmp_path / "a").save(tmp_path / "c")
    for name in FILES:
        first = (tmp_path / "a" / name).read_bytes()
        assert (tmp_path / "b" / name).read_bytes() == first
        assert (tmp_path / "c" / name).read_bytes() == first


def test_csv_and_json_hold_the_same_numbers(tmp_path: Path) -> None:
    table = small(model="=HYPERLINK()")
    table.save(tmp_path)
    document = json.loads((tmp_path / "heads.json").read_text(), parse_constant=pytest.fail)
    rows = list(csv.DictReader(io.StringIO((tmp_path / "heads.csv").read_text())))
    assert document["metadata"]["model"] == "=HYPERLINK()"
    for row, record, value in zip(rows, document["heads"], table.frame["sink_first"], strict=True):
        assert float(row["sink_first"]) == record["sink_first"] == value
        assert row["entropy"] == ""
        assert record["entropy"] is None
        assert row["roles"].split() == record["roles"]


@pytest.mark.parametrize("name", ["heads.parquet", "profiles.safetensors"])
def test_a_flipped_bit_anywhere_is_found(tmp_path: Path, name: str) -> None:
    small().save(tmp_path)
    whole = (tmp_path / name).read_bytes()
    reference = HeadTable.load(tmp_path).frame
    for place in range(8, len(whole), max(1, len(whole) // 60)):
        broken = bytearray(whole)
        broken[place] ^= 0x10
        (tmp_path / name).write_bytes(broken)
        try:
            back = HeadTable.load(tmp_path).frame
        except ResultsError:
            continue
        # Parquet's footer holds statistics and offsets that reading does not need: values must be untouched.
        pd.testing.assert_frame_equal(back, reference, check_exact=True)
    (tmp_path / name).write_bytes(whole[: len(whole) // 2])
    with pytest.raises(ResultsError, match=name):
        HeadTable.load(tmp_path)


def test_a_bit_flipped_in_a_value_is_refused(tmp_path: Path) -> None:
    small().save(tmp_path)
    data = bytearray((tmp_path / "heads.parquet").read_bytes())
    data[len(data) // 10] ^= 1
    (tmp_path / "heads.parquet").write_bytes(data)
    with pytest.raises(ResultsError, match=r"heads\.parquet: damaged"):
        HeadTable.load(tmp_path)


def test_files_of_two_saves_are_not_mixed(tmp_path: Path) -> None:
    table = small()
    table.save(tmp_path)
    table.profiles["received"] = table.profiles["received"] * 2
    table.save(tmp_path / "other")
    (tmp_path / "profiles.safetensors").write_bytes(
        (tmp_path / "other" / "profiles.safetensors").read_bytes()
    )
    with pytest.raises(ResultsError, match="another save"):
        HeadTable.load(tmp_path)
    (tmp_path / "profiles.safetensors").unlink()
    with pytest.raises(ResultsError, match=r"profiles\.safetensors: cannot be read"):
        HeadTable.load(tmp_path)


def test_columns_of_another_analysis_join_in_order() -> None:
    table = small()
    added = table.frame[["layer", "head"]].iloc[::-1].copy()
    added["retrieval"] = added["layer"] * 10.0 + added["head"]
    added["retrieval_low"], added["retrieval_high"] = added["retrieval"], added["retrieval"]
    added["retrieval_control_high"] = 5.5
    joined = table.with_columns(added)
    assert joined.frame["retrieval"].tolist() == [*range(6), *range(10, 16)]
    assert [("retrieval" in roles) for roles in joined.frame["roles"]] == [False] * 6 + [True] * 6
    assert joined.metrics[-1] == "retrieval_control_high"
    assert "retrieval" not in table.frame
    with pytest.raises(ResultsError, match="1 heads have no row"):
        table.with_columns(added.iloc[1:])
    with pytest.raises(ResultsError, match="named twice"):
        table.with_columns(pd.concat([added, added]))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"kv_heads": 4}, "6 heads cannot share 4"),
        ({"layers": [1]}, "1 layer numbers for 2 layers"),
        ({"per_sequence": {}}, "no metric"),
        ({"per_sequence": {"sink_first": np.ones((2, 6))}}, "wanted \\[sequences, layers, heads\\]"),
        ({"per_sequence": {"a": np.ones((2, 2, 6)), "b": np.ones((2, 3, 6))}}, "different models"),
        ({"per_sequence": {"sink_first": np.full((2, 2, 6), np.inf)}}, "sink_first: infinite"),
    ],
)
def test_what_does_not_fit_is_refused(change: dict[str, object], message: str) -> None:
    arguments: dict[str, object] = {
        "per_sequence": {"sink_first": np.ones((2, 2, 6))},
        "profiles": {},
        "metadata": {},
        "kv_heads": 2,
        **change,
    }
    with pytest.raises(ResultsError, match=message):
        HeadTable.build(**arguments)


def test_names_of_heads() -> None:
    assert [head_name(10, 7), head_name(3, 2, "encoder")] == ["L10H7", "EL3H2"]


def test_profiles_are_found_by_row_also_in_another_stack() -> None:
    table = HeadTable.build(
        {"entropy": np.ones((2, 2, 3))}, {}, {}, kv_heads=1, stack="encoder", layers=[4, 9]
    )
    table.profiles["received.encoder.self"] = np.arange(6.0).reshape(2, 3, 1)
    assert table.profile("received", 5).tolist() == [5.0]
    assert table.has_profile("received", 0)
    assert not table.has_profile("thumbnail", 0)
    assert head_name(*table.frame.loc[5, ["layer", "head", "stack"]]) == "EL9H2"


def test_a_table_of_heads_alone_is_there_to_be_filled(tmp_path: Path) -> None:
    table = HeadTable.of_heads([0, 2], 4, {"model": "m"}, kv_heads=2)
    assert table.metrics == []
    assert table.frame["layer"].tolist() == [0] * 4 + [2] * 4
    assert table.frame["kv_head"].tolist() == [0, 0, 1, 1] * 2
    added = table.frame[["layer", "head"]].assign(x=0.5, x_p=0.1, x_q=0.2, x_low=0.4, x_high=0.6, n_x=3)
    joined = table.with_columns(added)
    assert list(joined.frame)[5:] == ["x", "x_low", "x_high", "x_p", "x_q", "n_x", "roles"]
    assert joined.metrics == ["x"]
    assert not joined.scanned
    assert small().scanned
    joined.save(tmp_path)
    assert HeadTable.load(tmp_path).frame.equals(joined.frame)
    with pytest.raises(ResultsError, match="4 heads cannot share 3 key/value heads"):
        HeadTable.of_heads([0], 4, {}, kv_heads=3)
