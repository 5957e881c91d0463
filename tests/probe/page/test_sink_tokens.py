from __future__ import annotations

import numpy as np
import pytest

from probe.page.sink_tokens import first_token, later_sinks
from probe.table import HeadTable

TOKENS = [["<s>", "a", ".", "b", "\n"], ["<s>", ".", "c", "d", "e"]]


def table() -> HeadTable:
    mass = np.array([[[0.5, 0.4, 0.05]], [[0.3, 0.2, 0.05]]])
    at = np.array([[[2, 4, 3]], [[1, 1, 2]]], dtype=np.float32)
    received = np.zeros((1, 3, 5), dtype=np.float32)
    received[0, :, 0] = [0.9, 0.3, 0.0]
    metadata = {"n_sequences": 2, "parameters": {"epsilon": 0.3}}
    return HeadTable.build(
        {"sink_other": mass}, {"received": received, "sink_other_at": at}, metadata, kv_heads=1
    )


def test_later_sinks_are_gathered_by_token() -> None:
    found = later_sinks(table(), TOKENS)
    assert found is not None
    full_stop, line_end = found
    assert (full_stop.token, full_stop.heads, full_stop.picks) == (".", 2, 3)
    assert full_stop.positions == ((1, 2), (2, 1))
    assert full_stop.before == ("<s>", "a")
    # Heads with means 0.4, 0.4 (twice the first) and 0.3: (0.4 + 0.4 + 0.3) / 3.
    assert full_stop.mass == pytest.approx(1.1 / 3)
    assert (line_end.token, line_end.heads, line_end.picks, line_end.positions) == ("\n", 1, 1, ((4, 1),))


def test_without_strings_positions_stand_for_tokens() -> None:
    found = later_sinks(table(), None)
    assert found is not None
    assert {sink.positions[0][0] for sink in found} == {1, 2, 4}
    assert all(sink.token is None and sink.before == () for sink in found)


def test_first_token_is_named_and_counted() -> None:
    first = first_token(table(), TOKENS)
    assert first is not None
    assert first.tokens == (("<s>", 2),)
    assert first.mean == pytest.approx(0.4)
    assert (first.heads_above, first.threshold) == (1, 0.3)


def test_missing_profiles_are_none() -> None:
    bare = HeadTable(table().frame, {}, {})
    assert later_sinks(bare, TOKENS) is None
    assert first_token(bare, TOKENS) is None
