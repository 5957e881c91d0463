"""The second launch alone: many splits of made-up keys, joined as `merge` defines it."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

from probe.kernels import triton_decode_merge as module
from probe.kernels.decoded import DecodeRequest
from probe.kernels.inputs import Attention, Mask, Score
from probe.kernels.merge import Part, learned_sink, merge, merge_stack
from probe.kernels.testing import FACTOR
from probe.kernels.triton_decode_merge import MERGE_OPTIONS, STATISTICS, merge_constants_of, merge_kernel
from probe.kernels.triton_jit import interpreted
from probe.kernels.triton_tiles import HIDDEN

LOG2E = 1.4426950408889634
H, SPLITS, KEYS, DV = 4, 41, 3, 5
"""Rows, one query each; splits of three keys."""

S = SPLITS * KEYS


def drawn() -> tuple[Tensor, Tensor, Tensor]:
    """Scores [H, SPLITS, KEYS] with a few splits out of sight and equal largest scores, values, and who is seen."""
    generator = torch.Generator().manual_seed(1)
    s = torch.randn(H, SPLITS, KEYS, generator=generator) * 4
    s[0, [7, 33], 1] = s[0, 20, 2] = 30.0
    s[2, :, :] = 0.25
    seen = torch.rand(H, SPLITS, 1, generator=generator).expand(-1, -1, KEYS) < 0.8
    seen = seen | (s == 30.0).any(-1, keepdim=True)
    return s, torch.randn(SPLITS, KEYS, DV, generator=generator), seen


def raw(s: Tensor, v: Tensor, seen: Tensor) -> dict[str, Tensor]:
    """What the first launch writes, from its definition."""
    units = torch.where(seen, s * LOG2E, HIDDEN.value)
    m = units.amax(-1)
    w = torch.where(seen, torch.exp2(units - m[..., None]), 0)
    surprise = (w * (units - m[..., None])).sum(-1)
    number = torch.arange(S).view(SPLITS, KEYS)
    distance, sink, local = ((w * x).sum(-1) for x in (S - 1 - number, number < 4, number > 100))
    first = torch.where(units == m[..., None], number, 10**6).amin(-1)
    return {
        "out": torch.einsum("hsk,skd->hsd", w, v).contiguous(),
        "sums": torch.stack([m, w.sum(-1), surprise, distance, sink, local], 1).contiguous(),
        "arg": torch.where(seen.any(-1), first, -1).int(),
    }


def parts(s: Tensor, v: Tensor, seen: Tensor) -> Part:
    """The same as parts in float64, by the formulas of `Part`."""
    s, v = s.double().movedim(1, 0), v.double()
    seen = seen.movedim(1, 0)
    hidden = s.masked_fill(~seen, -torch.inf)
    number = torch.arange(S).view(SPLITS, 1, KEYS)
    P = torch.where(seen, hidden.softmax(-1), 0)
    first = torch.where(hidden == hidden.amax(-1, keepdim=True), number, 10**6).amin(-1)
    return Part(
        lse=hidden.logsumexp(-1),
        mass=P.sum(-1),
        output=torch.einsum("shk,skd->shd", P, v),
        entropy=-torch.xlogy(P, P).sum(-1),
        peak=hidden.amax(-1),
        argmax=first.masked_fill(~seen.any(-1), -1),
        means={
            "distance": (P * (S - 1 - number)).sum(-1),
            "sink_mass": (P * (number < 4)).sum(-1),
            "local_mass": (P * (number > 100)).sum(-1),
        },
    )


def joined(call: Attention, written: dict[str, Tensor]) -> dict[str, Tensor]:
    """The kernel on what the first launch wrote; the statistics by name."""
    made = {
        "z": torch.empty(H, DV),
        "statistics": torch.empty(len(STATISTICS), H),
        **{name: torch.empty(H, dtype=torch.long) for name in ("argmax", "visible")},
        **{"top_weight": torch.empty(H, 0), "top_key": torch.empty(H, 0, dtype=torch.long)},
    }
    numbers = {"B": 1, "H": H, "T": 1, "S": S, "offset": S - 1, "splits": SPLITS}
    given: dict[str, Any] = {**written, **made, **numbers, "learned": call.score.sinks, "mask_window": 0, "n_top": 0}
    constants = merge_constants_of(call, DecodeRequest())
    arguments = {name: given[name] for name in merge_kernel.arg_names if name not in constants}
    with interpreted():
        merge_kernel[(H,)](**arguments, **constants, **MERGE_OPTIONS)
    return made | dict(zip(STATISTICS, made.pop("statistics"), strict=True))


def call_of(sinks: Tensor | None) -> Attention:
    q, k, v = (torch.empty(1, heads, n, width) for heads, n, width in ((H, 1, 4), (1, S, 4), (1, S, DV)))
    return Attention(q, k, v, Mask(query_offset=S - 1), Score(1.0, sinks=sinks))


@pytest.mark.parametrize("sinks", [None, torch.tensor([-2.0, 3.0, 9.0, 60.0])], ids=["plain", "learned sinks"])
@pytest.mark.parametrize(("step", "lists"), [(32, 8), (1, 2), (16, 8)])
def test_the_kernel_is_the_merge(sinks: Tensor | None, step: int, lists: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whatever number of splits is read at once; 41 of them fill none of these numbers."""
    monkeypatch.setattr(module, "STEP", step)
    monkeypatch.setattr(module, "LISTS", lists)
    s, v, seen = drawn()
    wanted = merge_stack(parts(s, v, seen))
    if sinks is not None:
        wanted = merge(wanted, learned_sink(sinks, wanted))
    found = joined(call_of(sinks), raw(s, v, seen))
    unit = FACTOR * torch.finfo(torch.float32).eps * (1 + 60)
    plain = {"lse": wanted.lse, "entropy": wanted.entropy, "z": wanted.output}
    masses = {"row_mass": wanted.mass, "max_weight": wanted.max_weight, **wanted.means}
    for name, value in plain.items():
        assert (found[name] - value).abs().max() <= unit * (1 if name != "z" else float(v.abs().max())), name
    for name, value in masses.items():
        assert ((found[name] - value).abs() <= unit * value + 1e-35).all(), name
    assert found["argmax"].tolist() == wanted.argmax.tolist()
    assert found["argmax"][0] == 7 * KEYS + 1  # of three equal ones
    assert found["visible"].tolist() == [S] * H


def test_splits_without_a_key_change_no_bit() -> None:
    """The same sums among more empty splits, before, between and behind."""
    s, v, seen = drawn()
    seen = seen & (torch.arange(SPLITS) % 2 == 0)[None, :, None]
    full = joined(call_of(None), raw(s, v, seen))
    written = raw(s, v, seen)
    written["out"][:, 1::2] = -0.0
    written["sums"][:, 1, 1::2] = -0.0
    for name, value in joined(call_of(None), written).items():
        assert torch.equal(value, full[name]), name


def test_of_equal_scores_the_first_split_wins() -> None:
    s, v, seen = drawn()
    s[:] = 1.5
    found = joined(call_of(None), raw(s, v, seen))
    first = seen.any(-1).int().argmax(-1)
    assert found["argmax"].tolist() == (first * KEYS).tolist()
