"""Parquet, CSV and JSON of a head table: lossless, formula-safe, valid under the published schema."""

from __future__ import annotations

import csv
import io
import json
from pathlib import Path
from typing import Any

import jsonschema
import pandas as pd
import pytest

from probe.exports.request import Asked
from probe.exports.table_files import csv_table, json_table, parquet_table, schema
from probe.formats import read_parquet
from probe.table import HeadTable


def document(table: HeadTable, asked: Asked = Asked()) -> Any:  # noqa: B008 (frozen)
    return json.loads(json_table(table, asked).files["heads.json"])


def check(found: Any) -> None:
    jsonschema.Draft202012Validator(schema()).validate(found)


def test_the_schema_is_a_schema():
    jsonschema.Draft202012Validator.check_schema(schema())


def test_json_of_tables_is_valid(head_table: HeadTable, effect_table: HeadTable, nasty: HeadTable):
    for table in (head_table, effect_table, nasty):
        check(document(table))
    found = document(nasty, Asked(("retrieval",), top=2))
    check(found)
    assert [head["retrieval"] for head in found["heads"]] == [0.55, 0.5]
    assert list(found["columns"]) == ["retrieval"]
    assert found["columns"]["retrieval"]["unit"] == "share of the answer"
    assert document(nasty)["heads"][0]["sink_learned"] is None


@pytest.mark.parametrize(
    "change",
    [
        lambda found: found.pop("metadata"),
        lambda found: found.update(version=2),
        lambda found: found.update(extra=1),
        lambda found: found["heads"].clear(),
        lambda found: found["heads"][0].pop("kv_head"),
        lambda found: found["heads"][0].update(layer=-1),
        lambda found: found["heads"][0].update(stack="tower"),
        lambda found: found["heads"][0].update(retrieval="0.5"),
        lambda found: found["columns"]["retrieval"].pop("formula"),
    ],
)
def test_the_schema_refuses_what_is_wrong(small: HeadTable, change: Any):
    found = document(small)
    change(found)
    with pytest.raises(jsonschema.ValidationError):
        check(found)


def test_parquet_keeps_every_number_and_the_metadata(nasty: HeadTable, tmp_path: Path):
    path = tmp_path / "heads.parquet"
    path.write_bytes(parquet_table(nasty, Asked()).files["heads.parquet"])
    frame, documents = read_parquet(path)
    pd.testing.assert_frame_equal(frame, nasty.frame.reset_index(drop=True))
    assert documents["probe"] == nasty.metadata


def test_no_cell_or_header_of_the_csv_is_a_formula(nasty: HeadTable):
    roles = nasty.frame.assign(roles=[["=cmd()", "@x"]] * 12)
    text = csv_table(HeadTable(roles, {}, nasty.metadata), Asked()).files["heads.csv"].decode()
    rows = list(csv.reader(io.StringIO(text, newline="")))
    assert len(rows) == 13
    cells = [cell for row in rows for cell in row]
    assert any(cell.startswith("'=1+1|") for cell in rows[0])
    assert not [cell for cell in cells if cell[:1] in ("=", "+", "@", "\t", "\r")]
    assert "'=cmd() @x" in cells


def test_equal_tables_give_equal_bytes(small: HeadTable):
    for make in (parquet_table, csv_table, json_table):
        assert make(small, Asked()).files == make(HeadTable(small.frame.copy(), {}, small.metadata), Asked()).files
