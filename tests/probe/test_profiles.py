"""Means over sequences of what does not fit a table, sequences of different lengths among them."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import Tensor

from probe.kernels import reference_metrics as dense
from probe.kernels.blockwise import blockwise
from probe.kernels.inputs import Attention, Mask, Request, Score
from probe.kernels.reference import pattern, visibility
from probe.kernels.statistics import Statistics
from probe.profiles import Profiles

LAYERS, HEADS, BANDS = 2, 3, 8


def layer(T: int, seed: int) -> tuple[Attention, Statistics, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    q, k, v = (torch.randn(1, HEADS, T, 8, generator=generator) * 2 for _ in range(3))
    call = Attention(q, k, v, Mask(), Score(8**-0.5))
    return call, blockwise(call, Request(bands=BANDS))[1], torch.arange(T)[None]


def read(lengths: list[int]) -> tuple[dict[str, np.ndarray], list[list[list[dense.Head]]]]:
    """Profiles of sequences of these lengths, and the dense heads [sequence][layer][head]."""
    profiles, heads = Profiles(LAYERS, HEADS), []
    for number, T in enumerate(lengths):
        sequence = []
        for depth in range(LAYERS):
            call, statistics, position = layer(T, 10 * number + depth)
            profiles.add(depth, statistics, position)
            P, seen = pattern(call)[0], visibility(call)[0]
            ids = torch.zeros(T, dtype=torch.long)
            sequence.append([dense.Head(P[h], seen[h], call.v[0, h], ids) for h in range(HEADS)])
        profiles.next_sequence()
        heads.append(sequence)
    return profiles.arrays(), heads


@pytest.mark.parametrize("lengths", [[64], [64, 64], [64, 40, 100], [100, 3, 64]])
def test_every_profile_is_the_mean_of_its_dense_formula(lengths: list[int]) -> None:
    found, heads = read(lengths)
    longest = max(lengths)
    assert found["received"].shape == (LAYERS, HEADS, longest)
    assert found["offset_mass"].shape == (LAYERS, HEADS, 2 + int(np.log2(longest - 1)))
    assert found["thumbnail"].shape == (LAYERS, HEADS, BANDS, BANDS)
    assert found["sink_other_at"].shape == (len(lengths), LAYERS, HEADS)
    assert [found[name].dtype for name in ("received", "offset_mass", "thumbnail")] == [np.float32] * 3
    for depth in range(LAYERS):
        for h in range(HEADS):
            own = [sequence[depth][h] for sequence in heads]
            received = np.full((len(own), longest), np.nan)
            offsets = np.zeros((len(own), found["offset_mass"].shape[-1]))
            for number, head in enumerate(own):
                received[number, : head.T] = dense.alpha(head)
                bins = dense.offset_mass(head)
                offsets[number, : len(bins)] = bins
                alpha = [float(a) if head.T - k >= 32 and k else -1.0 for k, a in enumerate(dense.alpha(head))]
                place = int(np.argmax(alpha)) if max(alpha) >= 0 else -1
                assert found["sink_other_at"][number, depth, h] == place
            assert np.allclose(found["received"][depth, h], np.nanmean(received, 0), atol=1e-5)
            assert np.allclose(found["offset_mass"][depth, h], offsets.mean(0), atol=1e-5)
            small = np.stack([dense.thumbnail(head, BANDS).numpy() for head in own])
            assert np.allclose(found["thumbnail"][depth, h], np.nanmean(small, 0), atol=1e-5)


def test_distances_of_unequal_sequences_still_sum_to_one() -> None:
    found, _ = read([100, 40, 7])
    assert np.allclose(found["offset_mass"].sum(-1), 1, atol=1e-6)
    assert np.allclose(np.nansum(found["thumbnail"], -1), 1, atol=1e-6)


def test_a_sequence_without_queries_that_count_is_left_out() -> None:
    """One token has no distance to speak of: NaN, and no part in the mean."""
    found, _ = read([50, 1])
    alone, _ = read([50])
    assert np.array_equal(found["offset_mass"], alone["offset_mass"])
    single, _ = read([1])
    assert np.isnan(single["offset_mass"]).all()
    assert np.array_equal(single["received"], np.ones((LAYERS, HEADS, 1), dtype=np.float32))
    assert (single["sink_other_at"] == -1).all()


def test_bands_that_no_token_hits_are_nan() -> None:
    found, _ = read([3])
    empty = np.isnan(found["thumbnail"]).all((0, 1, 3))
    assert empty.tolist() == [band not in (0, 2, 5) for band in range(BANDS)]
