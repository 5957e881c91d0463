"""Close-ups against the whole map, on a planted model whose heads' jobs are known, and on the real one."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from probe.closeups import SPAN, closeups, window_around
from probe.errors import ProbeError, ResultsError, TokensError
from probe.look import pattern
from probe.models import load
from probe.planted.models import PLANTED_ROLES
from probe.planted.prompts import planted_text
from probe.scan import scan
from probe.tokens import cut_pieces, natural_text

JOBS = {job: head for head, job in PLANTED_ROLES.items()}


@pytest.fixture(scope="module")
def planted():
    loaded = load("planted")
    ids = cut_pieces(loaded.tokenizer, planted_text(256), length=128, sequences=2, bos=True).ids
    table = scan(loaded, ids, random_sequences=0)
    return loaded, ids, closeups(table, loaded, ids[0])


def test_pairs_and_windows_are_those_of_the_map(planted):
    loaded, ids, table = planted
    for layer in sorted({layer for layer, _ in PLANTED_ROLES}):
        P = pattern(loaded, ids[0], layer).double().numpy()
        for head in range(P.shape[0]):
            row = table.frame.index[(table.frame["layer"] == layer) & (table.frame["head"] == head)][0]
            query, key, weight = (table.profile(f"pair_{part}", row) for part in ("query", "key", "weight"))
            best = P[head, :, 4:].max(-1)
            # float32 weights of one key may differ by rounding between the two ways, so weights are compared.
            assert weight == pytest.approx(np.sort(best)[::-1][:12], rel=1e-5)
            assert P[head, query, key] == pytest.approx(weight, rel=1e-5)
            assert len(set(query.tolist())) == 12
            assert (key >= 4).all()
            first_query, first_key = table.profile("window_at", row)
            shown = P[head, first_query : first_query + SPAN, first_key : first_key + SPAN]
            assert table.profile("window", row) == pytest.approx(shown, rel=1e-5, abs=1e-30)
            assert 0 <= query[0] - first_query < SPAN
            assert 0 <= key[0] - first_key < SPAN


def test_planted_heads_look_where_they_were_built_to(planted):
    _, ids, table = planted
    previous, induction = ((table.frame["layer"] == L) & (table.frame["head"] == h) for L, h in
                           (JOBS["previous_token"], JOBS["induction"]))  # fmt: skip
    row = int(np.flatnonzero(previous)[0])
    assert (table.profile("pair_query", row) - table.profile("pair_key", row) == 1).all()
    row = int(np.flatnonzero(induction)[0])
    tokens = np.array(ids[0])
    query, key = table.profile("pair_query", row), table.profile("pair_key", row)
    assert (tokens[key - 1] == tokens[query]).all()
    # What it copies there is the token at the key: that is what induction is for.
    assert table.profile("writes", row)[0] == tokens[key[0]]


def test_what_a_head_writes_is_the_logits_of_its_own_write(planted):
    loaded, ids, table = planted
    layer, head = JOBS["induction"]
    row = int(np.flatnonzero((table.frame["layer"] == layer) & (table.frame["head"] == head))[0])
    seen = {}
    attention = loaded.model.model.layers[layer].self_attn
    handle = attention.v_proj.register_forward_hook(lambda _m, _i, out: seen.update(v=out[0]))
    with torch.no_grad():
        loaded.model(torch.tensor([ids[0]]))
        handle.remove()
        width = attention.head_dim
        group = head // (loaded.model.config.num_attention_heads // loaded.model.config.num_key_value_heads)
        value = seen["v"][int(table.profile("pair_key", row)[0]), group * width : (group + 1) * width]
        weight = attention.o_proj.weight[:, head * width : (head + 1) * width]
        logits = loaded.model.lm_head(loaded.model.model.norm(weight @ value))
    assert table.profile("writes", row).tolist() == logits.topk(5).indices.tolist()


def test_the_table_says_what_was_looked_at_and_survives_a_folder(planted, tmp_path):
    _, _, table = planted
    assert table.metadata["closeups"] == {"length": 128, "skipped_keys": 4, "pairs": 12, "span": 24}
    table.save(tmp_path)
    again = type(table).load(tmp_path)
    for name in ("pair_query", "pair_key", "pair_weight", "window", "window_at", "writes"):
        np.testing.assert_array_equal(again.profiles[name], table.profiles[name])


def test_a_path_to_the_logits_that_is_not_understood_is_named(tiny_encoder):
    ids = [list(range(5, 40))]
    table = closeups(scan(tiny_encoder, ids, random_sequences=0), tiny_encoder, ids[0], pairs=3)
    assert "not made" in table.metadata["closeups"]["writes"]
    assert (table.profile("writes", 0) == -1).all()
    assert (table.profile("pair_weight", 0) > 0).all()
    assert np.isfinite(table.profile("window", 0)).all()
    # Profiles of a stack that is no decoder carry its name, those of the scan itself too.
    assert {"received.encoder.self", "window.encoder.self"} <= set(table.profiles)
    assert table.has_profile("received", 0)


@pytest.fixture(scope="module")
def tiny_encoder():
    from transformers import BertConfig, BertModel

    torch.manual_seed(0)
    size = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4, "intermediate_size": 64}
    return BertModel(BertConfig(**size, vocab_size=100, max_position_embeddings=64)).eval()


def test_a_table_of_another_model_and_foreign_ids_are_refused(planted, tiny_encoder):
    loaded, ids, table = planted
    with pytest.raises(ResultsError, match=r"a table of 24 heads and a model of 2 × 4"):
        closeups(table, tiny_encoder, [5, 6])
    with pytest.raises(TokensError, match=r"99999"):
        closeups(table, loaded, [1, 99_999])
    with pytest.raises(ProbeError, match=r"0 pairs and a span of 24; wanted at least one of each"):
        closeups(table, loaded, ids[0], pairs=0)
    with pytest.raises(ProbeError, match=r"3 pairs and a span of 0"):
        closeups(table, loaded, ids[0], pairs=3, span=0)


@pytest.mark.parametrize(
    ("query", "key", "length", "rows", "columns"),
    [
        (100, 90, 200, range(81, 105), range(81, 105)),  # near: one stretch, the query four places before its end
        (100, 81, 200, range(81, 105), range(81, 105)),  # the furthest that still fits
        (100, 80, 200, range(81, 105), range(61, 85)),  # one further: two stretches
        (150, 3, 200, range(131, 155), range(0, 24)),  # the start of the sequence
        (199, 4, 200, range(176, 200), range(0, 24)),  # its end
        (5, 4, 10, range(0, 10), range(0, 10)),  # a sequence shorter than a window
        (4, 90, 200, range(0, 24), range(71, 95)),  # bidirectional: the key after the query
    ],
)
def test_windows_hold_their_pair(query, key, length, rows, columns):
    assert window_around(query, key, length, 24) == (rows, columns)
    assert query in rows
    assert key in columns


@pytest.mark.real
def test_on_the_real_model_an_induction_head_looks_after_the_last_time():
    loaded = load("smollm2-135m")
    ids = cut_pieces(loaded.tokenizer, natural_text(), length=256, sequences=1).ids
    table = closeups(scan(loaded, ids, random_sequences=0), loaded, ids[0])
    tokens = np.array(ids[0])
    row = 18 * 9 + 6
    query, key = table.profile("pair_query", row), table.profile("pair_key", row)
    # Most of the twelve: the token before the key is the query's own.
    assert (tokens[key - 1] == tokens[query]).sum() >= 7
    assert (table.profiles["writes"] >= 0).all()
