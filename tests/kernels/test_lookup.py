"""Label lookups: pairs kept, pairs too many to keep, and dense strips give the same masses."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch

from probe.kernels import lookup, reference
from probe.kernels.blockwise import blockwise
from probe.kernels.inputs import Attention, Lookup, Request
from probe.kernels.lookup import Pairs, pairs_of
from probe.kernels.sequences import sequences

Call = Callable[..., Attention]
Check = Callable[..., dict[str, float]]


def labels(kind: str, T: int, B: int = 2) -> torch.Tensor:
    generator = torch.Generator().manual_seed(0)
    return {
        "distinct": torch.arange(T).expand(B, T),
        "same": torch.zeros(B, T, dtype=torch.long),
        "few": torch.randint(-1, 3, (B, T), generator=generator),
        "none": torch.full((B, T), -1),
        "large": torch.randint(0, 3, (B, T), generator=generator) * (2**40),
    }[kind]


@pytest.mark.parametrize("kind", ["distinct", "same", "few", "none", "large"])
@pytest.mark.parametrize("gap", [0, 1, 5])
@pytest.mark.parametrize("rule", ["causal", "window 17", "bidirectional", "left padding", "packed"])
def test_every_kind_of_label(kind: str, gap: int, rule: str, call: Call, check: Check) -> None:
    ids = labels(kind, 100)
    check(call(100, rule=rule, groups=1), Request(bands=0, lookups={"x": Lookup(ids, ids, gap=gap)}))


@pytest.mark.parametrize("kind", ["same", "few"])
@pytest.mark.parametrize("rule", ["causal", "window 17", "decoding", "left padding"])
def test_kept_not_kept_and_dense_agree(
    kind: str, rule: str, call: Call, check: Check, monkeypatch: pytest.MonkeyPatch
) -> None:
    made = call(200, rule=rule, ratio=3, groups=1)
    S = made.k.shape[2]
    ids = labels(kind, S)
    masses = {}
    for path, budget, share in (("kept", 10**9, 2.0), ("sparse", -1, 2.0), ("dense", -1, -1.0)):
        monkeypatch.setattr(lookup, "PAIRS_A_TOKEN", budget)
        monkeypatch.setattr(lookup, "DENSE_SHARE", share)
        asked = Lookup(ids[:, S - 200 :], ids, gap=1)
        request = Request(bands=0, lookups={"x": asked})
        check(made, request)
        masses[path] = blockwise(made, request)[1].lookup["x"]
        kept = [pairs for pairs in asked.found.values() if isinstance(pairs, Pairs)]
        assert len(kept) == 2
        assert all(bool(pairs.places) == (path == "kept") for pairs in kept)
    # Kept or found strip by strip, the same numbers are added in the same order.
    assert torch.equal(masses["kept"].nan_to_num(-1), masses["sparse"].nan_to_num(-1))


def test_too_many_pairs_are_not_kept(call: Call) -> None:
    ids = labels("same", 300)
    sequence = sequences(call(300))[0]
    assert not Pairs(Lookup(ids, ids), sequence).keep  # 45,150 pairs; at most 64 a token, 38,400, are kept
    kept = Pairs(Lookup(labels("distinct", 300), labels("distinct", 300)), sequence)
    assert kept.keep
    assert kept.order[kept.low].tolist() == list(range(300))
    assert (kept.high - kept.low).tolist() == [1] * 300


def test_pairs_are_found_once_for_all_layers(call: Call) -> None:
    ids = labels("few", 50)
    asked = Lookup(ids, ids, gap=1)
    request = Request(lookups={"x": asked})
    first = blockwise(call(50, seed=1), request)
    found = dict(asked.found)
    assert len(found) == 2
    blockwise(call(50, seed=2, ratio=3), request)
    assert all(asked.found[key] is pairs for key, pairs in found.items())
    again = blockwise(call(50, seed=1), request)
    assert torch.equal(first[1].lookup["x"], again[1].lookup["x"])


def test_another_cut_of_the_batch_is_looked_up_anew(call: Call, check: Check) -> None:
    """One lookup serves calls of other lengths and windows without mixing their pairs."""
    ids = labels("few", 80)
    request = Request(bands=0, lookups={"x": Lookup(ids, ids, gap=1)})
    for rule in ("causal", "left padding", "window 17", "right padding", "causal"):
        check(call(80, rule=rule), request)
    check(call(80, ratio=5, groups=1), request)


def test_a_needle_is_a_lookup(call: Call) -> None:
    made = call(60)
    inside = torch.zeros(2, 60, dtype=torch.long) - 1
    inside[:, 20:26] = 1
    request = Request(lookups={"needle": Lookup(torch.ones(2, 60, dtype=torch.long), inside)})
    found = blockwise(made, request)[1].lookup["needle"]
    wanted = reference.pattern(made)[..., 20:26].sum(-1)
    assert (found - wanted).abs().max() < 1e-6
    assert (found[..., :20] == 0).all()


def test_pairs_know_the_sequence(call: Call) -> None:
    made = call(30, rule="left padding")
    ids = labels("few", 30)
    asked = Lookup(ids, ids, gap=1)
    for sequence in sequences(made):
        first = sequence.first_key
        pairs = pairs_of(asked, sequence)
        wanted = [
            (i, j)
            for i in range(sequence.n_rows)
            for j in range(i)
            if ids[sequence.index, first + i] == ids[sequence.index, first + j] >= 0
        ]
        runs = zip(pairs.low.tolist(), pairs.high.tolist(), strict=True)
        found = [(i, j) for i, (low, high) in enumerate(runs) for j in pairs.order[low:high].tolist()]
        assert found == wanted
