"""Items of the sweep: together they are the whole, each on its own rows, and thumbnails have their bands."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch

from probe.kernels.blockwise import TORCH, blockwise
from probe.kernels.inputs import Attention, Request
from probe.kernels.lookup import Found, pairs_of
from probe.kernels.raw import Raw
from probe.kernels.scores import prepared
from probe.kernels.sequences import rows_per_strip, sequences
from probe.kernels.sums import Item
from probe.kernels.sweep import band_of_key, sweep

Call = Callable[..., Attention]


def swept(call: Attention, request: Request, ways: int) -> Raw:
    raw = Raw(call, request, torch.float32)
    for sequence in sequences(call):
        raw.count(sequence)
        found = Found({name: pairs_of(lookup, sequence) for name, lookup in request.lookups.items()})
        bands = band_of_key(sequence, request.bands, raw.dtype)
        for group in range(call.k.shape[1]):
            tensors = prepared(sequence, group, raw.dtype)
            for way in range(ways):
                item = Item(sequence, group, way, ways, found, request, tensors, bands)
                sweep(item, raw, TORCH, TORCH.workspace([sequence], raw.z)).join()
    return raw


@pytest.mark.parametrize("ways", [1, 2, 7])
def test_any_number_of_items_is_the_whole(ways: int, call: Call, request_for: Callable[..., Request]) -> None:
    made = call(300, rule="left padding", ratio=3)
    request = request_for(made)
    raw = swept(made, request, ways)
    z, wanted = blockwise(made, request)
    found = raw.finish()
    assert torch.equal(raw.z, z)  # a row is one strip's, however strips are dealt
    assert torch.equal(found.entropy.nan_to_num(-1), wanted.entropy.nan_to_num(-1))
    # Sums over rows are joined in another order: float64, 300 rows.
    assert (found.received - wanted.received).abs().max() < 1e-12 * 300
    assert (found.by_distance - wanted.by_distance).abs().max() < 1e-12 * 300


def test_an_item_writes_only_its_own_rows_and_heads(call: Call) -> None:
    made = call(300, B=1)
    raw, sequence = Raw(made, Request(), torch.float32), sequences(made)[0]
    item = Item(sequence, 1, 1, 2, Found({}), Request(), prepared(sequence, 1, raw.dtype), None)
    sweep(item, raw, TORCH, TORCH.workspace([sequence], raw.z))
    step = rows_per_strip(sequence)
    mine = (torch.arange(300) // step) % 2 == 1
    assert item.heads == slice(2, 4)
    assert torch.equal(raw.z[0, 2:].abs().sum(-1) > 0, mine.expand(2, -1))
    assert not raw.z[0, :2].any()
    assert not raw.received.any()  # until it is joined


@pytest.mark.parametrize(("T", "bands"), [(5, 2), (64, 64), (3, 8), (100, 7)])
def test_bands_are_floors(T: int, bands: int, call: Call) -> None:
    found = band_of_key(sequences(call(T))[0], bands, torch.float32)
    assert found is not None
    assert found.argmax(1).tolist() == [bands * i // T for i in range(T)]
    assert (found.sum(1) == 1).all()


def test_a_part_of_a_sequence_has_no_bands(call: Call) -> None:
    assert band_of_key(sequences(call(9, rule="decoding"))[0], 8, torch.float32) is None
    assert band_of_key(sequences(call(9))[0], 0, torch.float32) is None
