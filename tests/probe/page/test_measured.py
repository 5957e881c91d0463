"""The page's first lines say what the files record, and nothing else."""

from __future__ import annotations

from typing import Any

from probe.page.material import Material, as_texts
from probe.page.measured import measured, summary
from probe.table import HeadTable
from probe.token_file import TokenTexts


def test_a_scan_and_a_retrieval_run_are_told(head_table: HeadTable, retrieval_result: Any) -> None:
    page = Material(head_table, retrieval_result)
    assert summary(page) == (
        "270 heads in 30 layers, read on 8 sequences of 4,096 tokens. Begin-of-sequence token: none added."
    )
    model, scan, retrieval = measured(page)
    assert model == "Model: invented-30x9 <b>not a model</b>, float32 on cpu, weights 000000000000…."
    assert "the first 4 tokens and the last 64" in scan
    assert retrieval.startswith("Retrieval: 40 sentences hidden in 512 to 4,096 tokens")
    assert "beside random heads" in retrieval


def test_what_is_not_recorded_is_not_told() -> None:
    assert measured(Material(HeadTable.of_heads(range(2), 3, {}, kv_heads=1))) == ["Model: unnamed."]


def test_token_strings_become_texts_without_made_up_ids() -> None:
    assert as_texts(None) is None
    whole = TokenTexts(((1,),), (("a",),))
    assert as_texts(whole) is whole
    found = as_texts([["a", "b"]], {3: "c"})
    assert found == TokenTexts((), (("a", "b"),), {3: "c"})
    table = HeadTable.of_heads(range(1), 1, {}, kv_heads=1)
    assert Material(table, texts=found).tokens == (("a", "b"),)
    assert Material(table, texts=as_texts(None, {3: "c"})).tokens is None
