"""The decoding kernel through Triton's interpreter: every rule against the definition, splits, ties, mistakes."""

from __future__ import annotations

import importlib.util
import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from types import ModuleType

import pytest
import torch

from probe.kernels import triton_decode as module
from probe.kernels.decode import decode_statistics
from probe.kernels.decode_testing import assert_decoded_close
from probe.kernels.decoded import DecodeRequest
from probe.kernels.inputs import Attention
from probe.kernels.testing import MismatchError
from probe.kernels.triton_decode import keys_a_split, refusal, tile_of
from probe.kernels.triton_jit import interpreted
from probe.kernels.validate import KernelError
from tests.kernels.decoding import RULES, decoding, tied, tied_keys

REQUEST = DecodeRequest(sinks=3, window=20, top=5)


@pytest.fixture(autouse=True)
def small_splits(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Three splits of two tiles from 300 keys, run by the interpreter."""
    monkeypatch.setattr(module, "LEAST_KEYS", 128)
    with interpreted():
        yield


def check(call: Attention, request: DecodeRequest = REQUEST) -> None:
    assert_decoded_close(decode_statistics(call, request, backend="triton"), call, request)


@pytest.mark.parametrize("rule", RULES)
def test_every_rule(rule: str) -> None:
    check(decoding(rule))


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16], ids=str)
def test_half_precision(dtype: torch.dtype) -> None:
    check(decoding("everything", dtype=dtype))


@pytest.mark.parametrize(("D", "Dv"), [(24, 40), (80, 16)])
def test_widths_that_are_no_power_of_two(D: int, Dv: int) -> None:
    check(decoding("learned sinks", D=D, Dv=Dv, S=200))


@pytest.mark.parametrize(("T", "ratio", "S"), [(1, 1, 300), (1, 7, 129), (9, 2, 64), (3, 2, 3), (25, 3, 70)])
def test_numbers_of_queries_heads_and_keys(T: int, ratio: int, S: int) -> None:
    check(decoding("causal", T=T, ratio=ratio, S=S))


def test_large_scores() -> None:
    check(decoding(gain=300.0))


def test_tensors_that_are_not_dense() -> None:
    call = decoding()
    q, k, v = (tensor.transpose(1, 2).contiguous().transpose(1, 2) for tensor in (call.q, call.k, call.v))
    check(replace(call, q=q, k=k[..., ::2].repeat_interleave(2, -1), v=v.flip(0)))


def test_ties_go_to_the_lowest_key() -> None:
    found = decode_statistics(tied(), DecodeRequest(top=64), backend="triton")
    falling, rising = tied_keys(64)
    assert found.top_key[1, 0, 2].tolist() == found.top_key[0, 2, 2].tolist() == falling
    assert found.top_key[1, 1, 2].tolist() == found.top_key[0, 3, 2].tolist() == rising
    assert found.argmax[0, :, 2].tolist() == [falling[0], rising[0]] * 2


@pytest.mark.filterwarnings("ignore:All-NaN slice:RuntimeWarning")  # numpy's word for it, in the interpreter
def test_not_a_number_stays_in_its_row() -> None:
    call = decoding()
    clean = decode_statistics(call, REQUEST, backend="triton")
    call.q[0, 1, 2, 3] = torch.nan
    found = decode_statistics(call, REQUEST, backend="triton")
    for name in ("z", "lse", "entropy", "max_weight", "row_mass", "distance", "sink_mass", "local_mass", "top_weight"):
        value, before = getattr(found, name), getattr(clean, name)
        assert value[0, 1, 2].isnan().all(), name
        value[0, 1, 2] = before[0, 1, 2]
        assert torch.equal(value, before), name
    assert found.argmax[0, 1, 2] == -1
    assert (found.top_key[0, 1, 2] == -1).all()


def test_equal_inputs_give_equal_bits() -> None:
    call = decoding("learned sinks")
    one, two = (decode_statistics(call, REQUEST, backend="triton") for _ in range(2))
    assert torch.equal(one.z, two.z)
    assert torch.equal(one.entropy, two.entropy)


def test_splits_come_from_the_shapes() -> None:
    assert keys_a_split(300, 4, 64) == 128  # the least, patched above
    assert keys_a_split(131_072, 8, 64) == 2048  # 64 splits x 8 heads = 512 programs
    assert keys_a_split(131_072, 1024, 64) == 131_072
    assert keys_a_split(1 << 20, 1, 64) == 4096  # no more than 256 splits
    assert keys_a_split(0, 1, 64) == 128


@pytest.mark.parametrize("rows", [1, 16, 17, 32, 33, 500])
def test_the_tile_holds_the_rows_or_is_the_largest(rows: int) -> None:
    tile = tile_of(rows, decoding())
    assert tile.rows >= min(rows, 64)
    assert tile.rows in (16, 32, 64)


def test_what_the_kernel_does_not_know_is_refused_by_name() -> None:
    call = decoding()
    wrong = {
        "float64": decoding(dtype=torch.float64),
        "mask.allowed and mask.documents": replace(
            call, mask=replace(call.mask, documents=torch.zeros(2, 300, dtype=torch.long))
        ),
        "score.bias": replace(call, score=replace(call.score, bias=lambda i, j: torch.zeros(len(i), len(j)))),
        "heads are 272 wide": decoding(D=272),
    }
    assert refusal(call) is None
    for reason, made in wrong.items():
        with pytest.raises(KernelError, match=f"'triton' cannot compute this call: .*{reason}"):
            decode_statistics(made, backend="triton")


MUTANTS = {
    "the rescale is dropped": ("output * alpha[:, None]", "output"),
    "the sum is not rescaled": ("total = total * alpha", "total = total"),
    "the entropy is not rebased": ("(surprise + (m - new) * total) * alpha", "surprise * alpha"),
    "the last partial split is forgotten": ("-(-(high - low) // chunk)", "(high - low) // chunk"),
    "the window is one short": ("column[None, :] >= low[:, None]", "column[None, :] > low[:, None]"),
    "a query sees the next key": ("column[None, :] < high[:, None]", "column[None, :] <= high[:, None]"),
    "natural logarithms for base 2": ("peak = (m * LN2.value)", "peak = m"),
    "the entropy stays in base 2": ("surprise / total * LN2.value", "surprise / total"),
    "the query head serves as key head": ("k + b * sk_b + g * sk_g", "k + b * sk_b + g * 0"),
    "heads and queries in the wrong order": ("row // T), row % T", "row % (n_rows // T)), row // (n_rows // T)"),
    "the sinks are one more": ("column - first < sinks", "column - first <= sinks"),
    "sinks in the window count twice": ("& (column - first >= sinks)[None, :]", ""),
    "the kept window is one wider": ("(gap < window)", "(gap <= window)"),
    "padding is not known to the sinks": ("is_sink = (column - first", "is_sink = (column"),
    "a later tile wins a tie": ("largest > m,", "largest >= m,"),
    "the argmax is of the tile": ("lowest, best)", "lowest - start, best)"),
    "keys of equal score are turned round": ("(0x7FFFFFFF - column)", "column"),
    "negative scores rank in reverse": ("bits ^ ((bits >> 31) & 0x7FFFFFFF)", "bits"),
    "the temperature is forgotten": ("row_factor /= ", "row_factor * "),
    "the slope of another head": ("tl.load(slopes + head", "tl.load(slopes + head * 0"),
}  # fmt: skip


def mutated(right: str, wrong: str, folder: Path) -> ModuleType:
    """The module from a changed copy of its source; in a file, as Triton reads the source of what it runs."""
    source = Path(module.__file__ or "").read_text(encoding="utf-8")
    assert right in source, f"{right!r} is no longer there: state the mutant anew"
    path = folder / "mutated_decode.py"
    path.write_text(source.replace(right, wrong), encoding="utf-8")
    spec = importlib.util.spec_from_file_location("mutated_decode", path)
    assert spec is not None
    assert spec.loader is not None
    made = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = made  # dataclasses look their module up
    spec.loader.exec_module(made)
    made.__dict__["LEAST_KEYS"] = 128
    return made


def notices(made: ModuleType) -> bool:
    """Whether one of a few small calls differs from the definition: two splits, the first of two tiles."""
    padding = torch.tensor([[0, 140], [128, 139]])
    everything = decoding("everything", S=140)
    calls = [
        replace(everything, mask=replace(everything.mask, lengths=padding, window=100)),
        decoding("causal", S=140),
        tied(140),
    ]
    try:
        for call in calls:
            assert_decoded_close(made.triton_decode(call, REQUEST), call, REQUEST)
    except MismatchError:
        return True
    tie = made.triton_decode(calls[-1], DecodeRequest(top=40))
    keys = [tie.top_key[0, head, 2].tolist() for head in (0, 1)]
    return keys != list(tied_keys(40, 140)) or tie.argmax[0, :2, 2].tolist() != [keys[0][0], keys[1][0]]


def test_the_copy_itself_passes(tmp_path: Path) -> None:
    assert not notices(mutated("FIELDS = 6", "FIELDS = 6", tmp_path))


@pytest.mark.parametrize("name", MUTANTS)
def test_a_mistake_is_caught(name: str, tmp_path: Path) -> None:
    assert notices(mutated(*MUTANTS[name], tmp_path))
