"""The GPU kernels through Triton's interpreter: every rule and shape against the float64 definitions."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from probe.kernels import triton_launch
from probe.kernels.dispatch import attention_statistics
from probe.kernels.inputs import Attention, Lookup, Mask, Request, Score
from probe.kernels.statistics import Statistics
from probe.kernels.testing import MismatchError
from probe.kernels.triton_backend import fused
from probe.kernels.triton_jit import interpreted
from probe.kernels.validate import KernelError

Call = Callable[..., Attention]
More = Callable[..., Request]
Check = Callable[..., dict[str, float]]

CALLABLE = ("bias", "everything", "nothing seen", "nothing seen, bidirectional", "packed")
"""Rules that exist as Python functions only."""

RULES = (
    "causal", "bidirectional", "window 1", "window 17", "window beyond", "bidirectional window", "soft cap",
    "learned sinks", "decoding", "decoding in a window", "left padding", "right padding", "sigmoid", "documents",
    "slopes", "slopes, bidirectional", "temperature", "everything in tensors",
)  # fmt: skip


def on_cpu(call: Attention, request: Request) -> tuple[Tensor, Statistics]:
    with interpreted():
        return fused(call, request)


def test_every_rule_is_here(rules: list[str]) -> None:
    assert {*RULES, *CALLABLE} == set(rules)


@pytest.mark.parametrize("rule", RULES)
def test_every_rule_agrees_with_the_definitions(rule: str, call: Call, more_for: More, check: Check) -> None:
    """40 positions of three heads a group: two blocks of keys, four of rows, none of them whole."""
    made = call(40, rule=rule, groups=1, ratio=3)
    check(made, more_for(made, bands=3), on_cpu)


@pytest.mark.full
@pytest.mark.parametrize("rule", RULES)
@pytest.mark.parametrize("T", [1, 2, 31, 33, 97])
@pytest.mark.parametrize(("groups", "ratio"), [(2, 1), (2, 3), (1, 8)])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float16])
def test_the_whole_grid(
    rule: str, T: int, groups: int, ratio: int, dtype: torch.dtype, call: Call, more_for: More, check: Check
) -> None:
    made = call(T, rule=rule, groups=groups, ratio=ratio, dtype=dtype)
    for settings in ({}, {"parts": False, "distances": False, "sinks": 0, "window": 1}):
        check(made, more_for(made, **settings), on_cpu, rounding(dtype))


def rounding(dtype: torch.dtype) -> float:
    """Half precision rounds the weights before they meet v; the interpreter computes bfloat16 in float32."""
    return torch.finfo(dtype).eps / 2 if dtype == torch.float16 else 0.0


@pytest.mark.parametrize(("D", "Dv"), [(24, 80), (8, 16), (96, 40)])
def test_widths_that_are_no_power_of_two(D: int, Dv: int, call: Call, more_for: More, check: Check) -> None:
    made = call(20, D=D, Dv=Dv, groups=2, ratio=1, B=1)
    check(made, more_for(made, bands=0), on_cpu)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_inputs(dtype: torch.dtype, call: Call, more_for: More, check: Check) -> None:
    made = call(40, groups=1, ratio=2, B=1, dtype=dtype)
    check(made, more_for(made, bands=0), on_cpu, rounding(dtype))


@pytest.mark.parametrize("T", [1, 33])
@pytest.mark.parametrize("parts", [True, False])
def test_lengths_beside_a_block(T: int, parts: bool, call: Call, more_for: More, check: Check) -> None:
    made = call(T, groups=2, ratio=1, B=1)
    check(made, more_for(made, parts=parts, distances=parts, bands=0), on_cpu)


@pytest.mark.parametrize(
    "settings",
    [{"sinks": 0, "window": 5}, {"sinks": 30, "window": 1}, {"sinks": 3, "window": 100}, {"sinks": 90, "window": 90}],
)
def test_empty_key_classes(settings: dict[str, int], call: Call, more_for: More, check: Check) -> None:
    """No sinks; no rest; nothing but sinks: masses of 0, and effects that are 0 where nothing is left to take over."""
    made = call(35, groups=1, ratio=2, B=1)
    check(made, more_for(made, bands=0, parts=False, **settings), on_cpu)
    check(made, more_for(made, bands=0, distances=False, **settings), on_cpu)


def test_cross_attention(call: Call, more_for: More, check: Check) -> None:
    """Fewer queries than keys, no order; the queries beyond a window past the keys see nothing and count 0."""
    whole = call(50, groups=1, ratio=2, B=1)
    few = replace(whole, q=whole.q[:, :, :9], mask=Mask(causal=False))
    check(few, more_for_keys(few, more_for), on_cpu)
    far = replace(whole, k=whole.k[:, :, :20], v=whole.v[:, :, :20], mask=Mask(causal=False, window=6))
    z, found = on_cpu(far, Request(bands=0, direction=torch.ones_like(z_like(far))))
    assert (found.visible[0, 0, 25:] == 0).all()
    assert found.lse[..., 25:].isnan().all()
    assert (z[:, :, 25:] == 0).all()
    first = replace(far, q=far.q[:, :, :25])
    seen = on_cpu(first, Request(bands=0, direction=torch.ones_like(z_like(first))))[1]
    assert found.effects is not None
    assert seen.effects is not None
    assert torch.allclose(found.effects["zero"], seen.effects["zero"], rtol=1e-6)
    check(far, more_for_keys(far, more_for), on_cpu)


def z_like(made: Attention) -> Tensor:
    return torch.empty(*made.q.shape[:3], made.v.shape[3])


def more_for_keys(made: Attention, more_for: More) -> Request:
    labels = torch.arange(made.q.shape[2])[None] % 5, torch.arange(made.k.shape[2])[None] % 5
    square = replace(made, q=made.q[:, :, :1].expand(-1, -1, made.k.shape[2], -1))
    wide = more_for(square, bands=0)
    rows = made.q.shape[2]
    direction = torch.randn(z_like(made).shape, generator=torch.Generator().manual_seed(3))
    assert rows > 0
    return replace(wide, lookups={"same": Lookup(*labels, gap=-100)}, direction=direction)


def test_memory_that_is_not_in_order(call: Call, more_for: More, check: Check) -> None:
    """q, k and v as models keep them: [B, T, H, D] turned round, and every second column."""
    made = call(20, groups=2, ratio=1, B=1)
    turned = [tensor.transpose(1, 2).contiguous().transpose(1, 2) for tensor in (made.q, made.k, made.v)]
    spread = turned[0].repeat_interleave(2, -1)[..., ::2]
    assert not spread.is_contiguous()
    request = more_for(made, bands=0)
    check(replace(made, q=spread, k=turned[1], v=turned[2]), request, on_cpu)


def test_several_kinds_of_labels_at_once(call: Call, check: Check) -> None:
    """Previous, duplicate, induction, a needle and three segments: seven lookups in one pass."""
    made = call(33, groups=1, ratio=2, B=1)
    place = torch.arange(33)[None]
    ids = torch.randint(0, 5, (1, 33), generator=torch.Generator().manual_seed(1))
    every = torch.zeros_like(place)
    lookups = {
        "previous": Lookup(place - 1, place),
        "duplicate": Lookup(ids, ids, gap=1),
        "induction": Lookup(ids, torch.cat([torch.full((1, 1), -1), ids[:, :-1]], 1)),
        "needle": Lookup(every, torch.where((place >= 7) & (place < 11), 0, -1)),
        "far": Lookup(every, every, gap=20),
    }
    lookups |= {f"segment {n}": Lookup(every + n, place // 11) for n in range(3)}
    worst = check(made, Request(sinks=2, window=4, bands=0, lookups=lookups), on_cpu)
    assert {f"lookup.{name}" for name in lookups} <= set(worst)
    found = on_cpu(made, Request(sinks=2, window=4, bands=0, lookups=lookups))[1]
    assert torch.allclose(found.lookup["previous"][..., 1:], found.previous[..., 1:], atol=1e-7)
    segments = sum(found.lookup[f"segment {n}"] for n in range(3))
    assert torch.allclose(segments, torch.ones_like(found.row_mass), atol=1e-5)


def test_of_equal_keys_the_lowest_is_the_argmax(call: Call) -> None:
    made = call(40, groups=1, ratio=2, B=1)
    flat = replace(made, q=torch.zeros_like(made.q))
    for window, wanted in ((None, torch.zeros(40)), (6, (torch.arange(40) - 5).clamp(min=0))):
        masked = replace(flat, mask=Mask(window=window))
        found = on_cpu(masked, Request(sinks=2, window=9, bands=0, argmax=True))[1].argmax
        assert found is not None
        assert torch.equal(found[0, 1], wanted.long())


def test_equal_inputs_give_equal_bits(call: Call, more_for: More) -> None:
    made = call(40, groups=1, ratio=3, B=1)
    one, two = (on_cpu(made, more_for(made, bands=3)) for _ in range(2))
    assert torch.equal(one[0], two[0])
    assert torch.equal(one[1].received, two[1].received)
    assert torch.equal(one[1].entropy, two[1].entropy)
    assert one[1].effects is not None
    assert two[1].effects is not None
    assert all(torch.equal(one[1].effects[name], two[1].effects[name]) for name in one[1].effects)


def test_a_sequence_beside_another_changes_nothing(call: Call) -> None:
    """Rows of a batch, and padding's contents, touch no bit of each other."""
    made = call(20, rule="left padding", groups=1, ratio=2)
    spoilt = replace(made, q=made.q.clone(), k=made.k.clone(), v=made.v.clone())
    for tensor in (spoilt.q, spoilt.k, spoilt.v):
        tensor[1, :, : 20 // 3] = torch.nan
    one, two = (on_cpu(which, Request(sinks=2, window=5, bands=3)) for which in (made, spoilt))
    for name in ("lse", "entropy", "received", "by_distance", "local_part", "thumbnail"):
        first, second = getattr(one[1], name), getattr(two[1], name)
        assert torch.equal(first.nan_to_num(-7), second.nan_to_num(-7)), name
    assert torch.equal(one[0], two[0])


def test_nan_in_a_query_stays_in_its_row(call: Call) -> None:
    made = call(20, groups=1, ratio=2, B=1)
    q = made.q.clone()
    q[0, 1, 7, 3] = torch.nan
    found = on_cpu(replace(made, q=q), Request(sinks=2, window=5, bands=0))[1]
    clean = on_cpu(made, Request(sinks=2, window=5, bands=0))[1]
    rest = torch.arange(20) != 7
    for name in ("lse", "entropy", "max_weight", "distance", "first", "local", "sink_mass", "row_mass"):
        assert getattr(found, name)[0, 1, 7].isnan(), name
        assert torch.equal(getattr(found, name)[:, :, rest], getattr(clean, name)[:, :, rest]), name
    assert found.received[0, 1, :8].isnan().all()
    assert torch.equal(found.received[0, 0], clean.received[0, 0])
    assert (found.visible == clean.visible).all()


@contextmanager
def counted(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[str]]:
    launches: list[str] = []
    plain = triton_launch._launch

    def launch(made: Any, *arguments: Any) -> None:
        launches.append(made.kernel)
        plain(made, *arguments)

    with monkeypatch.context() as patched:
        patched.setattr(triton_launch, "_launch", launch)
        yield launches


def test_one_launch_a_pass(call: Call, more_for: More, monkeypatch: pytest.MonkeyPatch) -> None:
    """All heads and sequences of a layer at once, whatever is asked for."""
    made = call(20, rule="left padding", groups=2, ratio=2)
    with counted(monkeypatch) as launches:
        on_cpu(made, more_for(made, bands=3))
    assert launches == ["rows", "columns", "distances"]
    with counted(monkeypatch) as launches:
        on_cpu(made, Request(bands=0, distances=False))
    assert launches == ["rows", "columns"]


class Largest(TorchDispatchMode):
    """Remembers the most entries of any tensor that torch reads or makes."""

    def __init__(self) -> None:
        super().__init__()
        self.entries = 0

    def __torch_dispatch__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        out = function(*args, **(kwargs or {}))
        for tensor in torch.utils._pytree.tree_leaves((args, kwargs, out)):
            if isinstance(tensor, Tensor):
                self.entries = max(self.entries, tensor.untyped_storage().nbytes() // tensor.element_size())
        return out


def test_torch_reduces_nothing_of_queries_by_keys(call: Call) -> None:
    made = call(200, D=16, groups=1, ratio=1, B=1)
    request = Request(bands=3, parts=False, lookups={})
    with Largest() as seen:
        on_cpu(made, request)
    assert 200 * 16 <= seen.entries < 200 * 200 / 2
    with Largest() as seen:
        attention_statistics(made, request, backend="reference")
    assert seen.entries >= 200 * 200


def test_rules_that_cannot_be_said_are_refused_by_name(call: Call) -> None:
    refused = {
        "bias": (call(8, rule="bias"), "score.bias is a Python function"),
        "mask": (call(8, rule="packed"), "mask.allowed is a Python function"),
        "wide": (call(8, D=16, Dv=300), "a head wider than 256"),
        "double": (call(8, dtype=torch.float64), "float64 inputs"),
        "scale": (replace(call(8), score=Score(-1.0)), "a negative scale"),
    }
    for made, message in refused.values():
        with interpreted(), pytest.raises(KernelError, match=f"{message}.*use backend='blockwise'"):
            attention_statistics(made, backend="triton")
    many = call(200, groups=1, ratio=1, B=1)
    with interpreted(), pytest.raises(KernelError, match="more than 128 kept sinks"):
        attention_statistics(many, Request(sinks=150), backend="triton")


def test_a_cpu_is_refused_outside_the_interpreter(call: Call) -> None:
    with pytest.raises(KernelError, match="triton backend runs on CUDA but q is on cpu; use backend='blockwise'"):
        attention_statistics(call(8), backend="triton")
    made = call(8, groups=1, ratio=1, B=1)
    with interpreted():
        z = attention_statistics(made, Request(bands=0), backend="triton")[0]
    assert torch.allclose(z, attention_statistics(made, Request(bands=0))[0], atol=1e-5)


def test_distances_need_an_order(call: Call) -> None:
    made = call(8, rule="bidirectional")
    with interpreted(), pytest.raises(KernelError, match="mass by distance"):
        triton_launch.launch_distances(made, torch.zeros(2, 4, 8))


def test_the_check_of_the_kernels_can_fail(call: Call, request_for: More, check: Check) -> None:
    made = call(20, groups=1, ratio=2, B=1)

    def other_scale(attention: Attention, request: Request) -> tuple[Tensor, Statistics]:
        score = replace(attention.score, scale=attention.score.scale * 1.001)
        return on_cpu(replace(attention, score=score), request)

    with pytest.raises(MismatchError):
        check(made, request_for(made), other_scale)


def test_neither_z_nor_statistics_record_gradients(call: Call) -> None:
    made = call(8, groups=1, ratio=1, B=1)
    z, found = on_cpu(replace(made, q=made.q.clone().requires_grad_()), Request(bands=0))
    assert not z.requires_grad
    assert not found.lse.requires_grad
