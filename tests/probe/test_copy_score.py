"""The copy score against the five steps written out for each head and place."""

from __future__ import annotations

import pytest
import torch

from probe.analyses.copy_score import copy_scores
from probe.hooks.anatomy import anatomy
from probe.models import load
from probe.tasks.build import build
from probe.tasks.task import clean_ids

PLACES = [[2, 5], [], [8], [1, 2, 3]]


def written_out(model, prompts, layer, head, sign):
    """Stream after block 0 → input norm → W_V, W_O of the head → final norm → unembedding, place by place."""
    held = []
    handle = model.model.layers[0].register_forward_hook(lambda _m, _a, out: held.append(out))
    model(clean_ids(prompts), use_cache=False)
    handle.remove()
    stream = held[0] if layer else model.model.embed_tokens(clean_ids(prompts))
    attention, norm = model.model.layers[layer].self_attn, model.model.layers[layer].input_layernorm
    value = attention.v_proj.weight.view(2, 8, -1)[head // 2]
    out = attention.o_proj.weight.view(-1, 4, 8)[:, head]
    hits = 0
    for index, places in enumerate(PLACES):
        for place in places:
            write = sign * (out @ (value @ norm(stream[index, place])))
            logits = model.lm_head(model.model.norm(write))
            hits += prompts[index].clean_ids[place] in logits.topk(5).indices.tolist()
    return hits / 6


def test_equals_the_steps_written_out(make_llama, make_task, monkeypatch):
    model, prompts = make_llama(), make_task(4).prompts
    heads = [(0, 0), (0, 3), (1, 1), (1, 2), (2, 0), (2, 3)]
    loaded, parts = load(model), anatomy(model)
    found = copy_scores(loaded, parts, prompts, PLACES, heads)
    wanted = {head: tuple(written_out(model, prompts, *head, sign) for sign in (1, -1)) for head in heads}
    assert found == wanted
    assert len({score for pair in wanted.values() for score in pair}) > 2, "scores differ, so the comparison can fail"
    monkeypatch.setattr("probe.analyses.copy_score.BATCH_TOKENS", 1)
    assert copy_scores(loaded, parts, prompts, PLACES, heads) == wanted


def test_a_head_that_writes_nothing_copies_nothing(make_llama, make_task):
    model = make_llama()
    model.model.layers[1].self_attn.o_proj.weight.data[:, 8:16] = 0
    found = copy_scores(load(model), anatomy(model), make_task(4).prompts, PLACES, [(1, 1)])
    assert found == {(1, 1): (0.0, 0.0)}


def test_planted_heads_copy_or_do_not():
    loaded = load("planted")
    prompts = build("names", loaded, prompts=4).prompts
    places = [[prompt.positions["IO"], prompt.positions["S2"]] for prompt in prompts]
    found = copy_scores(loaded, anatomy(loaded.model), prompts, places, [(1, 0), (1, 1), (2, 2), (1, 2)])
    assert found[1, 0] == (1.0, 0.0)  # induction
    assert found[1, 1] == (0.0, 1.0)  # negative induction
    assert found[2, 2] == (1.0, 0.0)  # name mover
    assert found[1, 2] == pytest.approx((0.0, 0.0), abs=0.2)  # S-inhibition writes where nobody unembeds


def test_the_model_is_left_as_it_was(make_llama, make_task):
    model, prompts = make_llama(), make_task(4).prompts
    before = model(clean_ids(prompts)).logits
    copy_scores(load(model), anatomy(model), prompts, PLACES, [(1, 0)])
    assert torch.equal(model(clean_ids(prompts)).logits, before)
