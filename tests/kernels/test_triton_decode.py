"""The decoding kernels through Triton's interpreter: every rule against the definition, splits, ties, odd inputs."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import fields, replace
from pathlib import Path

import pytest
import torch

from probe.kernels import triton_decode_launch as launch
from probe.kernels import triton_decode_merge as merging
from probe.kernels.decode import decode_statistics
from probe.kernels.decode_testing import assert_decoded_close
from probe.kernels.decoded import Decoded, DecodeRequest
from probe.kernels.inputs import Attention, Mask, Score
from probe.kernels.triton_decode import padded, tile_of
from probe.kernels.triton_jit import interpreted
from tests.kernels.decoding import RULES, decoding, first, tied, tied_keys

REQUEST = DecodeRequest(sinks=3, window=20, top=2)


@pytest.fixture(autouse=True)
def small_splits(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Three splits of two tiles from 300 keys, joined two at a time, run by the interpreter."""
    monkeypatch.setattr(launch, "LEAST_KEYS", 128)
    monkeypatch.setattr(merging, "STEP", 2)
    monkeypatch.setattr(merging, "LISTS", 2)
    with interpreted():
        yield


def check(call: Attention, request: DecodeRequest = REQUEST) -> Decoded:
    found = decode_statistics(call, request, backend="triton")
    assert_decoded_close(found, call, request)
    return found


@pytest.mark.parametrize("rule", RULES)
def test_every_rule(rule: str) -> None:
    check(decoding(rule))


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16], ids=str)
def test_half_precision(dtype: torch.dtype) -> None:
    check(decoding("everything", dtype=dtype))


@pytest.mark.parametrize(("D", "Dv"), [(24, 40), (80, 16)])
def test_widths_that_are_no_power_of_two(D: int, Dv: int) -> None:
    assert (padded(D), padded(Dv), padded(3)) == (1 << (D - 1).bit_length(), 1 << (Dv - 1).bit_length(), 16)
    check(decoding("learned sinks", T=1, D=D, Dv=Dv, S=200))


@pytest.mark.parametrize(
    ("T", "ratio", "S"), [(1, 1, 300), (1, 3, 129), (1, 8, 70), (3, 2, 3), (9, 2, 20), (11, 3, 40)]
)
def test_numbers_of_queries_heads_and_keys(T: int, ratio: int, S: int) -> None:
    """One query and several; groups of one head, three and eight; 3 rows, and 33: more than a tile holds."""
    check(first(decoding("causal", T=T, ratio=ratio, S=S), sequences=1, groups=1 if T * ratio > 16 else 2))


def test_large_scores() -> None:
    check(first(decoding(gain=300.0), sequences=1))


def test_more_splits_than_are_joined_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nine splits; outputs two at a time, strongest keys four at a time."""
    monkeypatch.setattr(launch, "LEAST_KEYS", 64)
    monkeypatch.setattr(merging, "LISTS", 4)
    check(first(decoding(T=1, S=560), sequences=1, groups=1), DecodeRequest(top=5))


def test_tensors_that_are_not_dense() -> None:
    call = decoding(T=1)
    q, k, v = (tensor.transpose(1, 2).contiguous().transpose(1, 2) for tensor in (call.q, call.k, call.v))
    check(replace(call, q=q, k=k[..., ::2].repeat_interleave(2, -1), v=v.flip(0)))


@pytest.mark.parametrize("far", ["keys", "columns"])
def test_offsets_beyond_32_bits(far: str, tmp_path: Path) -> None:
    """Keys, then columns, 2^27 entries apart in a sparse file: the last ones lie past entry 2^31."""
    shape, apart = (1, 1, 20, 20), 1 << 27
    strides = (0, 0, apart, 1) if far == "keys" else (0, 0, 1, apart)
    store = torch.from_file(str(tmp_path / "sparse"), shared=True, size=20 * apart, dtype=torch.float16)
    drawn = torch.randn(shape, generator=torch.Generator().manual_seed(0)).half()
    wide = store.as_strided(shape, strides).copy_(drawn)
    narrow = Attention(drawn[:, :, -1:] * 2, drawn, drawn, Mask(query_offset=19), Score(0.25))
    found = check(replace(narrow, k=wide, v=wide), DecodeRequest(top=2))
    assert torch.equal(found.z, decode_statistics(narrow, DecodeRequest(top=2), backend="triton").z)


def test_ties_go_to_the_lowest_key() -> None:
    found = decode_statistics(first(tied(), sequences=1), DecodeRequest(top=64), backend="triton")
    falling, rising = tied_keys(64)
    assert found.top_key[0, :, 2].tolist() == [falling, rising] * 2
    assert found.argmax[0, :, 2].tolist() == [falling[0], rising[0]] * 2


@pytest.mark.parametrize("top", [1, 3, 100])
def test_numbers_of_strongest_keys(top: int) -> None:
    """One; no power of two; more than a tile has, and more than some rows see."""
    call = decoding("padding both sides", T=1, ratio=1)
    found = check(call, DecodeRequest(top=top))
    assert (found.top_key[1] >= 0).sum(-1).unique().tolist() == [0]
    check(decoding("window", T=2, ratio=1, S=90), DecodeRequest(top=top))


def test_rows_that_see_nothing() -> None:
    """A sequence without a key, with and without a learned sink; NaN in its query changes nothing."""
    call = decoding("an empty sequence", T=1, ratio=1)
    call.q[1] = torch.nan
    for made in (call, replace(call, score=replace(call.score, sinks=torch.ones(2)))):
        found = decode_statistics(made, REQUEST, backend="triton")
        assert not found.z[1].any()
        assert not found.visible[1].any()
        for name in ("lse", "entropy", "max_weight", "row_mass", "distance", "sink_mass", "local_mass"):
            assert getattr(found, name)[1].isnan().all(), name
            assert not getattr(found, name)[0].isnan().any(), name
        assert found.argmax[1].unique().tolist() == found.top_key[1].unique().tolist() == [-1]
        assert not found.top_weight[1].any()


def test_splits_without_a_visible_key_change_nothing() -> None:
    """A window that only the last split touches: the same as those keys alone, whatever is in the others."""
    call = decoding("window", T=1)
    found = check(call)
    for tensor in (call.k, call.v):
        tensor[:, :, :200] = torch.nan
    assert_same(decode_statistics(call, REQUEST, backend="triton"), found)


def test_what_lies_in_padding_and_other_documents_touches_nothing() -> None:
    call = decoding("everything")
    found = check(call)
    for tensor in (call.k, call.v):
        tensor[0, :, :150], tensor[1, :, :120] = torch.nan, torch.nan
    assert_same(decode_statistics(call, REQUEST, backend="triton"), found)


def assert_same(found: Decoded, wanted: Decoded) -> None:
    for entry in fields(Decoded):
        one, two = getattr(found, entry.name), getattr(wanted, entry.name)
        assert torch.equal(one.nan_to_num(nan=-7), two.nan_to_num(nan=-7)), entry.name


@pytest.mark.filterwarnings("ignore:All-NaN slice:RuntimeWarning")  # numpy's word for it, in the interpreter
def test_not_a_number_stays_in_its_row() -> None:
    call = first(decoding(S=150), sequences=1)
    clean = decode_statistics(call, REQUEST, backend="triton")
    call.q[0, 1, 2, 3] = torch.nan
    found = decode_statistics(call, REQUEST, backend="triton")
    for entry in fields(Decoded):
        value, before = getattr(found, entry.name), getattr(clean, entry.name)
        broken = value[0, 1, 2]
        if entry.name in ("argmax", "top_key"):
            assert (broken == -1).all(), entry.name
        elif entry.name != "visible":
            assert broken.isnan().all(), entry.name
        value[0, 1, 2] = before[0, 1, 2]
    assert_same(found, clean)


def test_not_a_number_in_one_key_breaks_the_rows_that_see_it() -> None:
    """In the split that holds it and in what the splits come to."""
    call = decoding(T=1, ratio=1)
    call.k[0, 1, 140, 3] = torch.nan
    found = decode_statistics(call, REQUEST, backend="triton")
    assert found.lse[:, :, 0].isnan().tolist() == [[False, True], [False, False]]
    assert found.z[0, 1].isnan().all()
    assert found.argmax[0, 1, 0] == -1
    assert found.top_key[0, 1, 0].tolist() == [-1, -1]


def test_equal_inputs_give_equal_bits() -> None:
    call = decoding("learned sinks", T=1)
    one, two = (decode_statistics(call, REQUEST, backend="triton") for _ in range(2))
    assert_same(one, two)


def test_several_queries_are_the_same_as_each_alone() -> None:
    call = first(decoding("window"), sequences=1)
    together = decode_statistics(call, REQUEST, backend="triton")
    for t in range(3):
        alone = replace(call, q=call.q[:, :, t : t + 1], mask=replace(call.mask, query_offset=297 + t))
        found = check(alone)
        assert torch.equal(together.top_key[:, :, t], found.top_key[:, :, 0])
        assert torch.equal(together.argmax[:, :, t], found.argmax[:, :, 0])


@pytest.mark.parametrize("rows", [1, 16, 17, 32, 33, 500])
@pytest.mark.parametrize(("top", "most"), [(0, 32), (5, 32), (65, 16)])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
def test_the_tile_holds_the_rows_or_is_the_largest(rows: int, top: int, most: int, dtype: torch.dtype) -> None:
    tile = tile_of(rows, decoding(S=3, dtype=dtype), top)
    assert tile.rows in (16, 32)
    assert tile.rows >= min(rows, 16 if top and dtype == torch.float32 else most)
    assert tile.options["num_warps"] == tile.warps
    assert tile.options.get("maxnreg") == tile.registers
    assert dtype == torch.bfloat16 or tile.registers is None
