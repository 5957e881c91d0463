"""The dense formulas themselves, on weights whose every column can be worked out by hand."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest
import torch

from probe.kernels import reference_metrics as dense
from probe.kernels.reference_metrics import Head


def head(P: list[list[float]], tokens: list[int], **settings: object) -> Head:
    weights = torch.tensor(P, dtype=torch.float64)
    T = len(tokens)
    v = torch.eye(T, dtype=torch.float64)
    return Head(weights, torch.ones(T, T).tril().bool(), v, torch.tensor(tokens), **settings)


EXAMPLE = head(
    [[1, 0, 0, 0], [0.25, 0.75, 0, 0], [0.5, 0.5, 0, 0], [0.1, 0.2, 0.3, 0.4]],
    [5, 6, 5, 6],
    min_rows=2,
    window=2,
    sinks=1,
)


@pytest.mark.parametrize(
    ("name", "wanted"),
    [
        ("sink_first", (0.25 + 0.5 + 0.1) / 3),
        ("sink_rate", 1.0),  # (1 + .25 + .5 + .1) / 4 = .4625
        ("sink_other", (0.75 + 0.5 + 0.2) / 3),
        ("sink_learned", math.nan),
        ("previous_token", (0.25 + 0.5 + 0.3) / 3),
        ("current_token", (0.75 + 0 + 0.4) / 3),
        ("duplicate_token", (0.5 + 0.2) / 2),  # row 2 on key 0, row 3 on key 1
        ("induction", (0.5 + 0.3) / 2),  # row 2 on key 1, row 3 on key 2
        ("duplicate_token_chance", (1 / 3 + 1 / 4) / 2),
        ("induction_chance", (1 / 3 + 1 / 4) / 2),
        ("max_weight", (0.75 + 0.5 + 0.4) / 3),
        ("distance", (0.25 + (1 + 0.5) + (0.3 + 0.4 + 0.3)) / 3),
        ("local_mass", (1 + 0.5 + 0.7) / 3),
        ("streaming_mass", (1 + 1 + 1 + 0.8) / 4),
    ],
)
def test_a_small_map_by_hand(name: str, wanted: float) -> None:
    assert dense.SCAN[name](EXAMPLE) == pytest.approx(wanted, abs=1e-15, nan_ok=True)


def test_entropies_by_hand() -> None:
    rows = [-sum(p * math.log(p) for p in row) for row in ([0.25, 0.75], [0.5, 0.5], [0.1, 0.2, 0.3, 0.4])]
    assert dense.entropy(EXAMPLE) == pytest.approx(sum(rows) / 3)
    shares = [rows[0] / math.log(2), rows[1] / math.log(3), rows[2] / math.log(4)]
    assert dense.entropy_normalised(EXAMPLE) == pytest.approx(sum(shares) / 3)


def test_streaming_error_by_hand() -> None:
    # v is the identity, so z is the row of weights; only row 3 drops a key (key 1, mass .2).
    kept = [0.1 / 0.8, 0, 0.3 / 0.8, 0.4 / 0.8]
    lost = sum((a - b) ** 2 for a, b in zip([0.1, 0.2, 0.3, 0.4], kept, strict=True))
    size = 1 + (0.25**2 + 0.75**2) + 0.5 + (0.01 + 0.04 + 0.09 + 0.16)
    assert dense.streaming_error(EXAMPLE) == pytest.approx(lost / size)


def test_outputs_by_hand() -> None:
    write = torch.diag(torch.tensor([1.0, 2.0, 0.0, 0.0], dtype=torch.float64))
    one, two = replace(EXAMPLE, write=write), replace(EXAMPLE, write=write * 3)
    norms = [1, math.hypot(0.25, 1.5), math.hypot(0.5, 1), math.hypot(0.1, 0.4)]
    assert dense.write_norms(one).tolist() == pytest.approx(norms)
    assert dense.output_norm(one) == pytest.approx(sum(norms[1:]) / 3)
    assert dense.output_share([one, two], 0) == pytest.approx(1 / 4)
    assert math.isnan(dense.output_share([replace(one, write=write * 0)], 0))
    with pytest.raises(ValueError, match="write is None"):
        dense.output_norm(EXAMPLE)


def test_a_learned_sink_is_what_the_row_leaves() -> None:
    sunk = replace(EXAMPLE, P=EXAMPLE.P / 2, learned_sink=True)
    assert dense.sink_learned(sunk) == pytest.approx(0.5)
    assert dense.streaming_mass(sunk) == pytest.approx((1 + 1 + 1 + 0.9) / 4)
    assert dense.entropy(sunk) == pytest.approx(dense.entropy(EXAMPLE) / 2 + math.log(2) / 2)


def test_a_bidirectional_head_counts_every_query_and_has_no_order() -> None:
    both = replace(EXAMPLE, seen=torch.ones(4, 4, dtype=torch.bool), ordered=False)
    assert dense.sink_first(both) == pytest.approx((1 + 0.25 + 0.5 + 0.1) / 4)
    for name in ("previous_token", "current_token", "duplicate_token", "induction", "distance", "local_mass"):
        assert math.isnan(dense.SCAN[name](both)), name
    assert math.isnan(dense.streaming_error(both))
    assert math.isnan(dense.streaming_mass(both))


def test_a_window_hides_the_first_key_from_late_queries() -> None:
    seen = EXAMPLE.seen & (EXAMPLE.distance < 2)
    P = torch.tensor([[1, 0, 0, 0], [0.5, 0.5, 0, 0], [0, 0.5, 0.5, 0], [0, 0, 0.25, 0.75]], dtype=torch.float64)
    local = replace(EXAMPLE, P=P, seen=seen)
    assert dense.sink_first(local) == 0.5  # of query 1 alone
    assert dense.alpha(local).tolist() == [0.75, 0.5, 0.375, 0.75]
    assert dense.duplicate_token(local) == 0  # queries count whose copies are out of sight


def test_one_token_has_no_means() -> None:
    single = head([[1.0]], [3])
    for name, formula in dense.SCAN.items():
        wanted = {"sink_rate": 1.0, "streaming_mass": 1.0, "streaming_error": 0.0}.get(name, math.nan)
        assert formula(single) == pytest.approx(wanted, nan_ok=True), name


def test_profiles_by_hand() -> None:
    assert dense.offset_mass(EXAMPLE) == pytest.approx(
        [(0.75 + 0.4) / 3, (0.25 + 0.5 + 0.3) / 3, (0.5 + 0.2 + 0.1) / 3]
    )
    assert dense.thumbnail(EXAMPLE, 2).flatten().tolist() == pytest.approx([1, 0, (1 + 0.3) / 2, 0.7 / 2])
    assert not dense.thumbnail(EXAMPLE, 8)[::2].isnan().any()
    assert dense.thumbnail(EXAMPLE, 8)[1::2].isnan().all()


def test_random_scores_are_over_the_second_copy() -> None:
    perfect = torch.zeros(5, 5, dtype=torch.float64)  # [BOS] 7 8 | 7 8
    for row, key in enumerate((0, 0, 0, 2, 3)):
        perfect[row, key] = 1
    ids = torch.tensor([0, 7, 8, 7, 8])
    found = dense.random_scores(replace(head([[0.0] * 5] * 5, ids.tolist()), P=perfect), half=2)
    assert found == {"previous_token_random": 1.0, "duplicate_token_random": 0.0, "induction_random": 1.0}
