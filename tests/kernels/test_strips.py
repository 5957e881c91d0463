"""The pieces of the sweep: cutting a batch into sequences, visible spans, strips and their view by distance."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import pytest
import torch

from probe.kernels import reference
from probe.kernels.inputs import Attention, Mask
from probe.kernels.scores import prepared
from probe.kernels.sequences import Sequence, sequences
from probe.kernels.strips import HIDDEN, Strip, Workspace, strip
from probe.kernels.testing import bound_of

Call = Callable[..., Attention]


def strips(sequence: Sequence, group: int, step: int) -> list[Strip]:
    """All strips of one group, `step` rows each; copies, as they share a workspace."""
    dtype = torch.float64 if sequence.q.dtype == torch.float64 else torch.float32
    tensors = prepared(sequence, group, dtype)
    work = Workspace(sequence.group, step, sequence.n_keys, tensors[2])
    # Whatever stood in the workspace before must not matter.
    work.scores.fill_(torch.nan)
    work.weights[:, step:].fill_(torch.nan)
    out = []
    for start in range(0, sequence.n_rows, step):
        part = strip(sequence, group, start, min(start + step, sequence.n_rows), work, tensors)
        out.append(replace(part, weights=part.weights.clone()))
    return out


def test_sequences_are_cut_to_their_own_tokens(call: Call) -> None:
    made = replace(call(20), mask=Mask(lengths=torch.tensor([[0, 20], [6, 15]])))
    whole, part = sequences(made)
    assert (whole.n_rows, whole.n_keys, whole.offset, whole.index) == (20, 20, 0, 0)
    assert (part.n_rows, part.n_keys, part.offset, part.first_row, part.first_key) == (9, 9, 0, 6, 6)
    assert torch.equal(part.k, made.k[1, :, 6:15])
    assert part.q.data_ptr() == made.q[1, :, 6:].data_ptr()  # a view: nothing is copied


def test_a_padded_chunk_counts_from_the_first_valid_key(call: Call) -> None:
    made = replace(call(20, rule="decoding"), mask=Mask(query_offset=9, lengths=torch.tensor([[12, 29], [0, 10]])))
    late, early = sequences(made)
    assert (late.first_row, late.n_rows, late.offset, late.first_key, late.n_keys) == (3, 17, 0, 12, 17)
    assert (early.first_row, early.n_rows, early.offset, early.n_keys) == (0, 1, 9, 10)


def test_sequences_without_a_query_or_a_key_are_left_out(call: Call) -> None:
    assert sequences(replace(call(20), mask=Mask(lengths=torch.tensor([[5, 5], [0, 0]])))) == []
    made = replace(call(20, rule="decoding"), mask=Mask(query_offset=9, lengths=torch.tensor([[0, 9], [0, 29]])))
    assert [sequence.index for sequence in sequences(made)] == [1]


@pytest.mark.parametrize(
    "rule", ["causal", "window 17", "window 1", "bidirectional", "bidirectional window", "decoding"]
)
def test_spans_are_the_visible_keys(rule: str, call: Call) -> None:
    made = call(40, rule=rule)
    seen = reference.visibility(made)[0, 0]
    sequence = sequences(made)[0]
    low, high = sequence.spans(torch.device("cpu"))
    for row in range(40):
        keys = seen[row].nonzero().flatten()
        wanted = (int(keys[0]), int(keys[-1]) + 1)
        assert sequence.span(row + sequence.offset) == wanted == (int(low[row]), int(high[row]))
        assert not sequence.blind(row + sequence.offset)


def test_a_query_far_past_the_last_key_is_blind(call: Call) -> None:
    made = replace(call(10), mask=Mask(causal=False, window=4, query_offset=8))
    sequence = sequences(made)[0]
    assert [sequence.blind(position) for position in (8, 12, 13, 100)] == [False, False, True, True]


@pytest.mark.parametrize("rule", ["causal", "window 17", "everything", "decoding", "left padding", "bidirectional"])
@pytest.mark.parametrize("step", [16, 64, 7])
def test_strips_are_the_rows_of_the_weights(rule: str, step: int, call: Call) -> None:
    made = call(70, rule=rule, ratio=3, dtype=torch.float64)
    wanted, z, unit = reference.pattern(made), reference.output(made), bound_of(made).unit
    for sequence in sequences(made):
        for group in range(2):
            for part in strips(sequence, group, step):
                rows = slice(sequence.first_row + part.start, sequence.first_row + part.stop)
                keys = slice(sequence.first_key + part.low, sequence.first_key + part.high)
                inverse = 1 / part.total.clamp(min=1e-300)[..., None]
                P = part.weights * inverse
                truth = wanted[sequence.index, group * 3 : group * 3 + 3, rows]
                assert ((P - truth[..., keys]).abs() <= unit * truth[..., keys] + 1e-300).all()
                outside = truth.sum(-1) - truth[..., keys].sum(-1)
                assert outside.abs().max() <= 1e-15  # no weight beyond [low, high)
                assert (part.weights[truth[..., keys] == 0] == 0).all()
                assert (
                    part.output * inverse - z[sequence.index, group * 3 : group * 3 + 3, rows]
                ).abs().max() <= 10 * unit
                assert (part.mass * inverse[..., 0] - truth.sum(-1)).abs().max() <= unit


@pytest.mark.parametrize("rule", ["causal", "window 17", "decoding"])
def test_the_view_by_distance_is_the_same_memory_turned(rule: str, call: Call) -> None:
    made = call(70, rule=rule)
    sequence = sequences(made)[0]
    tensors = prepared(sequence, 1, torch.float32)
    work = Workspace(sequence.group, 16, sequence.n_keys, tensors[2])
    for start in range(0, 70, 16):
        part = strip(sequence, 1, start, min(start + 16, 70), work, tensors)
        view = part.by_distance()
        assert view.untyped_storage().data_ptr() == part.weights.untyped_storage().data_ptr()
        n = view.shape[-1]
        for row in range(part.stop - part.start):
            position = start + row + sequence.offset
            for distance in range(n):
                key = position - distance
                wanted = part.weights[:, row, key - part.low] if part.low <= key < part.high else torch.zeros(2)
                assert torch.equal(view[:, row, n - 1 - distance], wanted)


def test_a_strip_says_what_a_mask_shows(call: Call) -> None:
    made = call(40, rule="nothing seen")
    seen = reference.visibility(made)[0, 0]
    for part in strips(sequences(made)[0], 0, 16):
        assert part.seen is not None
        assert torch.equal(part.seen[0], seen[part.start : part.stop, part.low : part.high])
        blind = ~seen[part.start : part.stop].any(-1)
        assert (part.total[:, blind] == 0).all()
        assert (part.total[:, ~blind] > 0).all()
    assert all(part.seen is None for part in strips(sequences(call(40))[0], 0, 16))


def test_hidden_is_a_number_that_weighs_nothing() -> None:
    assert float(torch.exp2(torch.tensor(HIDDEN))) == 0
    assert float(torch.tensor(HIDDEN) * 0) == 0
    assert float(torch.sigmoid(torch.tensor(HIDDEN))) == 0
