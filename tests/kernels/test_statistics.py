"""What every backend returns: each field's shape, dtype and place, as the class states them."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import fields

import pytest
import torch

from probe.kernels.dispatch import attention_statistics
from probe.kernels.inputs import Attention, Request
from probe.kernels.statistics import EFFECTS, Statistics

B, H, T, S, DV, BANDS = 2, 4, 12, 12, 5, 8
ROWS = ("lse", "entropy", "max_weight", "distance", "first", "previous", "current", "local", "row_mass")
SHAPES = {
    **dict.fromkeys((*ROWS, "sink_mass", "local_mass", "visible"), (B, H, T)),
    **dict.fromkeys(("sink_part", "local_part"), (B, H, T, DV)),
    **dict.fromkeys(("received", "received_rows", "by_distance"), (B, H, S)),
    "thumbnail": (B, H, BANDS, BANDS),
    "argmax": (B, H, T),
    "received_max": (B, H, S),
    "received_value": (B, H, S),
    "received_counts": (B, H, 2, S),
    "streaming": (B, H, 2),
}
WHOLE = ("visible", "received_rows", "argmax", "received_counts")
SUMS = ("received", "by_distance", "thumbnail", "received_value", "streaming")


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16, torch.float16])
def test_every_field_has_the_stated_shape_and_dtype(
    dtype: torch.dtype, call: Callable[..., Attention], more_for: Callable[..., Request]
) -> None:
    made = call(T, Dv=DV, dtype=dtype)
    z, found = attention_statistics(made, more_for(made, parts=False))
    assert (z.shape, z.dtype) == ((B, H, T, DV), dtype)
    rows = torch.float64 if dtype == torch.float64 else torch.float32
    assert {entry.name for entry in fields(Statistics)} == {*SHAPES, "lookup", "effects"}
    for name, shape in SHAPES.items():
        value = getattr(found, name)
        wanted = torch.long if name in WHOLE else torch.float64 if name in SUMS else rows
        assert (tuple(value.shape), value.dtype) == (shape, wanted), name
    assert {name: (tuple(value.shape), value.dtype) for name, value in found.lookup.items()} == dict.fromkeys(
        ("duplicate_token", "induction"), ((B, H, T), rows)
    )


def test_what_nobody_asked_for_is_not_there(call: Callable[..., Attention], more_for: Callable[..., Request]) -> None:
    made = call(T)
    optional = ("argmax", "received_max", "received_value", "received_counts", "streaming", "effects")
    for backend in ("blockwise", "reference"):
        found = attention_statistics(made, Request(), backend=backend)[1]
        assert [name for name in optional if getattr(found, name) is not None] == []
        spared = attention_statistics(made, Request(parts=False, distances=False), backend=backend)[1]
        assert spared.streaming is not None
        for value in (spared.sink_part, spared.local_part, spared.by_distance):
            assert value.isnan().all()
        assert not found.sink_part.isnan().any()
        effects = attention_statistics(made, more_for(made), backend=backend)[1].effects
        assert effects is not None
        assert {name: (tuple(value.shape), value.dtype) for name, value in effects.items()} == dict.fromkeys(
            EFFECTS, ((B, H), torch.float64)
        )


def test_no_thumbnail_where_queries_are_not_the_keys(call: Callable[..., Attention]) -> None:
    for backend in ("blockwise", "reference"):
        for rule, settings in (("decoding", {}), ("causal", {"bands": 0})):
            found = attention_statistics(call(T, rule=rule), Request(**settings), backend=backend)[1]
            assert found.thumbnail is None
