"""SmolLM2 beside itself with rounded weights: nearly nothing changes, and pairing sees the little that does."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch

from probe.comparisons.compare import compare
from probe.models import load
from probe.scan import scan
from probe.table import HeadTable
from probe.tokens import cut_pieces, natural_text

LENGTH, SEQUENCES = 96, 5


@pytest.fixture(scope="module")
def tables() -> tuple[HeadTable, HeadTable, HeadTable]:
    """As it is; its matrices rounded to 8 bits a row; as it is on twice the length."""
    loaded = load("smollm2-135m")

    def read(length: int) -> HeadTable:
        ids = cut_pieces(loaded.tokenizer, natural_text(), length=length, sequences=SEQUENCES, bos=False, limit=8192,
                         source="pydoc_data.topics").ids  # fmt: skip
        return scan(loaded, ids, window=16, random_sequences=0, verify=False)

    plain, longer = read(LENGTH), read(2 * LENGTH)
    with torch.no_grad():
        for weight in loaded.model.parameters():
            if weight.ndim == 2:
                step = weight.abs().amax(1, keepdim=True) / 127
                weight.copy_((weight / step).round() * step)
    loaded = replace(loaded, weight_hash="8" * 64)
    return plain, read(LENGTH), longer


@pytest.mark.real
def test_rounded_weights_change_little_and_pairs_see_it(tables: tuple[HeadTable, HeadTable, HeadTable]) -> None:
    plain, rounded, _ = tables
    found = compare(plain, rounded)
    assert found.heads["paired"][found.heads["metric"] != "sink_rate"].all()
    tested = found.heads["p"].notna()
    assert found.heads["size"][tested].abs().median() < 0.05
    assert (found.matching.chance < 0.05).mean() > 0.99
    apart = compare(*(HeadTable(table.frame, {}, table.metadata) for table in (plain, rounded)))
    assert apart.heads["changed"].mean() < 0.01 < 0.2 < found.heads["changed"].mean()


@pytest.mark.real
def test_heads_find_themselves_by_what_they_do(tables: tuple[HeadTable, HeadTable, HeadTable]) -> None:
    plain, rounded, longer = tables
    for other, fewest, share in ((rounded, 200, 0.9), (longer, 40, 0.5)):
        rows = compare(plain, other, metrics=["sink_first"], match_by="behaviour").matching.rows
        assert len(rows) > fewest
        assert np.mean(rows[:, 0] == rows[:, 1]) > share  # of heads paired at random 1 in 270


@pytest.mark.real
def test_twice_the_length_changes_what_depends_on_it(tables: tuple[HeadTable, HeadTable, HeadTable]) -> None:
    plain, _, longer = tables
    found = compare(plain, longer)
    assert ("length", "96", "192") in found.differs
    rows = found.of("distance")
    assert (rows["difference"] > 0).mean() > 0.95
    assert (rows["q"] < 0.05).mean() > 0.5
    assert not found.heads["paired"].any()
