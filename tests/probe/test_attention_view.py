"""The view's weights are the model's own, of exactly the window that was asked."""

from __future__ import annotations

import json
import re
from pathlib import Path

import numpy as np
import pytest
import torch

import probe
from probe.attention_view import WHOLE
from probe.errors import ProbeError
from probe.look import pattern
from probe.models import Loaded, load
from probe.planted.models import PLANTED_ROLES
from probe.planted.prompts import planted_text
from probe.tokens import cut_pieces
from tests.probe.page.test_packing import unpack

JOBS = {job: head for head, job in PLANTED_ROLES.items()}


@pytest.fixture(scope="module")
def planted() -> Loaded:
    return load("planted")


@pytest.fixture(scope="module")
def ids(planted: Loaded) -> list[int]:
    return cut_pieces(planted.tokenizer, planted_text(512), length=300, sequences=1, bos=True).ids[0]


def test_a_window_is_exact(planted: Loaded, ids: list[int]) -> None:
    layer, head = JOBS["induction"]
    view = probe.attention_view(planted, ids, layer, head, queries=range(200, 240), keys=range(10, 90))
    whole = pattern(planted, ids, layer, head)
    assert view.weights.shape == (1, 40, 80)
    assert view.weights[0] == pytest.approx(whole[200:240, 10:90].numpy(), abs=1e-6)
    shown = json.loads(re.findall(r'id="widget-data">(.*?)</script>', view.page, re.DOTALL)[0])["shown"]
    assert unpack(shown["weights"]) / WHOLE == pytest.approx(view.weights, abs=0.5 / WHOLE)
    assert shown["queries"]["first"] == 200
    assert shown["keys"]["texts"] == probe.token_strings(planted.tokenizer, ids[10:90])
    best = np.unravel_index(view.weights[0].argmax(), (40, 80))
    assert shown["start"] == best[0]


def test_all_heads_of_a_layer_and_the_usual_ranges(planted: Loaded, ids: list[int]) -> None:
    short = probe.attention_view(planted, ids[:40], 1)
    assert short.heads == tuple(range(len(short.weights)))
    assert short.queries == short.keys == range(40)
    assert short.weights.sum(axis=-1) == pytest.approx(1, abs=1e-5)
    long = probe.attention_view(planted, torch.tensor(ids), 1)
    assert long.queries == long.keys == range(236, 300)
    assert "queries 236–299 and keys 236–299 of 300 tokens." in long.page
    assert probe.attention_view(planted, ids, 1, queries=range(5, 9)).keys == range(5, 9)
    assert probe.attention_view(planted, ids, 1, keys=range(5, 9)).queries == range(5, 9)


def test_it_shows_and_saves_one_page(planted: Loaded, ids: list[int], tmp_path: Path) -> None:
    view = probe.attention_view(planted, ids[:20], 0, 1)
    assert view.page in (view.save(tmp_path / "view.html")).read_text(encoding="utf-8")
    assert view._repr_html_().startswith("<iframe srcdoc=")
    assert repr(view) == "AttentionView(Attention of L0H1 in planted: queries 0–19 and keys 0–19 of 20 tokens)"


def test_refusals(planted: Loaded, ids: list[int]) -> None:
    with pytest.raises(ProbeError, match="head: found 99"):
        probe.attention_view(planted, ids, 0, 99)
    with pytest.raises(ProbeError, match="queries: found"):
        probe.attention_view(planted, ids, 0, queries=range(290, 310))
    with pytest.raises(ProbeError, match="queries: found a list, wanted a range"):
        probe.attention_view(planted, ids, 1, queries=[1, 2, 3])
    with pytest.raises(ProbeError, match="keys: found 2,000 positions, wanted at most 1,024"):
        probe.attention_view(planted, ids, 0, queries=range(10), keys=range(2000))


def test_the_count_of_elements_sees_a_map(planted: Loaded, ids: list[int]) -> None:
    made: list[int] = []
    with _Sizes(made):
        pattern(planted, ids, 0, 0)
    assert max(made) >= 300 * 300


@pytest.mark.real
def test_a_window_of_a_long_context_costs_no_map(monkeypatch: pytest.MonkeyPatch) -> None:
    """4,096 tokens: nothing as large as a T × T map of one head is ever made, and the window is the map's."""
    loaded = load("smollm2-135m")
    ids = cut_pieces(loaded.tokenizer, probe.natural_text(), length=4096, sequences=1).ids[0]
    made: list[int] = []
    with _Sizes(made):
        view = probe.attention_view(loaded, ids, 1, 3, queries=range(4000, 4096), keys=range(0, 64))
    assert max(made) < 4096 * 4096
    rows = probe.pattern(loaded, ids, 1, 3, queries=range(4000, 4096))
    assert rows.sum(-1).numpy() == pytest.approx(1, abs=1e-4)
    assert view.weights[0] == pytest.approx(rows[:, :64].numpy(), abs=1e-6)


class _Sizes(torch.overrides.TorchFunctionMode):
    """Notes the number of elements of every tensor that torch functions return."""

    def __init__(self, made: list[int]) -> None:
        super().__init__()
        self.made = made

    def __torch_function__(self, function, types, arguments=(), named=None):  # type: ignore[no-untyped-def]
        found = function(*arguments, **(named or {}))
        if isinstance(found, torch.Tensor):
            self.made.append(found.numel())
        return found
