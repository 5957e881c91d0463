"""Fields are read by type; what is missing, wrong or left over is named."""

from __future__ import annotations

import math

import pytest

from probe.errors import ResultsError
from probe.strict import Fields


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
