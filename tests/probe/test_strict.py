"""Fields are read by type; what is missing, wrong or left over is named."""

from __future__ import annotations

import math
from pathlib import Path

import pytest

from probe.errors import ResultsError
from probe.strict import Fields, parsed_json, read_json, read_text


def test_every_type_comes_back():
    row = Fields({
        "text": "é", "flag": True, "whole": 3, "number": 2, "none": None, "numbers": [1.5, None],
        "texts": ["a", "\ud800"], "pairs": [[1, 2]], "object": {"x": 1}, "objects": [{"y": 2}],
    }, "file.json")  # fmt: skip
    assert (row.text("text"), row.flag("flag"), row.whole("whole"), row.number("number")) == ("é", True, 3, 2.0)
    assert math.isnan(row.number("none"))
    first, second = row.numbers("numbers")
    assert first == 1.5
    assert math.isnan(second)
    assert row.texts("texts") == ("a", "\ud800")
    assert row.pairs("pairs") == ((1, 2),)
    assert row.object("object").whole("x") == 1
    assert row.objects("objects")[0].where == "file.json: objects[0]"
    with pytest.raises(ResultsError, match="no field 'text'"):
        row.text("text")  # each is read once
    Fields({}, "file.json").end()


@pytest.mark.parametrize(
    ("read", "value"),
    [
        ("text", 1), ("text", "\ud800"), ("flag", 1), ("whole", True), ("whole", 1.0), ("number", "1"),
        ("number", math.inf), ("numbers", [True]), ("items", {}), ("texts", [1]), ("pairs", [[1]]),
        ("pairs", [[1, True]]), ("object", []), ("objects", [1]),
    ],
)  # fmt: skip
def test_other_types_are_refused_by_name(read: str, value: object):
    with pytest.raises(ResultsError, match=r"^file.json: x"):
        getattr(Fields({"x": value}, "file.json"), read)("x")


def test_a_field_left_over_is_refused():
    row = Fields({"a": 1, "b": 2}, "file.json")
    row.whole("a")
    with pytest.raises(ResultsError, match="unknown field 'b'"):
        row.end()
    with pytest.raises(ResultsError, match="wanted an object"):
        Fields([], "file.json")


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("[" * 200_000, "not a JSON file"), ("{", "not a JSON file"), ("[NaN]", "NaN is no number"),
        ('{"a": 1, "a": 2}', "'a' is there twice"),
    ],
)  # fmt: skip
def test_a_text_that_is_no_json_is_refused_in_one_line(text: str, said: str):
    with pytest.raises(ResultsError, match=f"^here: .*{said}") as told:
        parsed_json(text, "here")
    assert "\n" not in str(told.value)


def test_a_file_is_read_up_to_a_size(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    path = tmp_path / "file.json"
    path.write_text('{"a": 1}')
    assert read_json(path) == {"a": 1}
    monkeypatch.setattr("probe.strict.MOST_BYTES", 7)
    with pytest.raises(ResultsError, match=r"file\.json: 8 bytes; wanted at most 7"):
        read_text(path)
    path.write_text("[]")
    with pytest.raises(ResultsError, match="holds a list; wanted one object"):
        read_json(path)
