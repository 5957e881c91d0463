"""The GPU kernels on a GPU, at the tile sizes they are compiled for: the rules of `test_triton_backend`, its bounds.

    python -m pytest tests/kernels/test_triton_gpu.py -m gpu

Nearly all of the time is compiling; `make bench-gpu` shares the tests among processes. Truth is computed on the CPU.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import pytest
import torch
from torch import Tensor

from probe.kernels.decode import decode_statistics
from probe.kernels.dispatch import attention_statistics
from probe.kernels.inputs import Attention, Lookup, Mask, Request, Score
from probe.kernels.statistics import Statistics
from probe.kernels.testing import MismatchError
from probe.kernels.validate import KernelError
from tests.kernels.conftest import RULES
from tests.kernels.on_device import NEEDS_GPU, moved, rounding

pytestmark = NEEDS_GPU

Call = Callable[..., Attention]
More = Callable[..., Request]
Check = Callable[..., dict[str, float]]

SAYABLE = [name for name, make in RULES.items() if not {"allowed", "bias"} & {*make(8, 4, 8)[0], *make(8, 4, 8)[1]}]
"""The rules that are not Python functions."""


def on_gpu(call: Attention, request: Request) -> tuple[Tensor, Statistics]:
    z, found = moved(attention_statistics(moved(call), moved(request), backend="triton"), "cpu")
    return z, found


def test_every_tensor_is_moved(call: Call, more_for: More) -> None:
    there = moved(call(8, rule="everything in tensors"))
    assert there.q.is_cuda
    assert there.mask.lengths.is_cuda
    assert there.score.sinks.is_cuda
    assert moved(more_for(call(8))).lookups["induction"].key_label.is_cuda


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32], ids=str)
def test_the_commonest_call(dtype: torch.dtype, call: Call, more_for: More, check: Check) -> None:
    made = call(300, D=64, groups=2, ratio=3, dtype=dtype)
    check(made, more_for(made, bands=5), on_gpu, rounding(dtype))
    z = attention_statistics(moved(made), Request(bands=0))[0]  # "auto" on this device
    assert z.is_cuda
    assert z.dtype == dtype


@pytest.mark.full
@pytest.mark.parametrize(("dtype", "D"), [(torch.bfloat16, 64), (torch.float32, 32)], ids=str)
@pytest.mark.parametrize("rule", SAYABLE)
def test_every_rule(rule: str, dtype: torch.dtype, D: int, call: Call, more_for: More, check: Check) -> None:
    """300 positions: whole tiles without a mask, tiles at both edges, and an end inside a tile."""
    made = call(300, rule=rule, D=D, groups=1, ratio=3, dtype=dtype)
    check(made, more_for(made, bands=5), on_gpu, rounding(dtype))


@pytest.mark.full
@pytest.mark.parametrize("window", [63, 64, 65, 150])
def test_windows_with_whole_tiles_inside(window: int, call: Call, more_for: More, check: Check) -> None:
    made = replace(call(400, D=64, groups=1, ratio=2, dtype=torch.bfloat16), mask=Mask(window=window))
    check(made, more_for(made, bands=5, window=40), on_gpu, rounding(torch.bfloat16))


@pytest.mark.full
def test_documents_with_whole_tiles_inside(call: Call, more_for: More, check: Check) -> None:
    made = call(400, D=64, groups=1, ratio=2, dtype=torch.bfloat16)
    made = replace(made, mask=Mask(documents=torch.stack([torch.arange(400) // 190, torch.arange(400) // 333])))
    check(made, more_for(made, bands=5), on_gpu, rounding(torch.bfloat16))


@pytest.mark.full
@pytest.mark.parametrize(
    ("dtype", "D"),
    [
        *((torch.bfloat16, D) for D in (16, 32, 64, 80, 96, 128, 192, 256)),
        *((torch.float16, D) for D in (64, 128)),
        *((torch.float32, D) for D in (16, 64, 128, 256)),
    ],
    ids=str,
)
def test_every_width(D: int, dtype: torch.dtype, call: Call, more_for: More, check: Check) -> None:
    made = call(200, D=D, groups=1, ratio=2, B=1, dtype=dtype)
    check(made, more_for(made, bands=5), on_gpu, rounding(dtype))


@pytest.mark.full
@pytest.mark.parametrize(("D", "Dv"), [(24, 80), (8, 16), (1, 1), (192, 128), (64, 256)])
def test_widths_that_differ(D: int, Dv: int, call: Call, more_for: More, check: Check) -> None:
    """Among them the width of one that the chance level of the lookups is computed with."""
    made = call(150, D=D, Dv=Dv, groups=2, ratio=1, B=1)
    check(made, more_for(made, bands=0), on_gpu)


@pytest.mark.full
@pytest.mark.parametrize("T", [1, 2, 15, 16, 17, 63, 64, 65, 127, 128, 129, 255, 256, 257])
@pytest.mark.parametrize("parts", [True, False])
def test_lengths_beside_a_tile(T: int, parts: bool, call: Call, more_for: More, check: Check) -> None:
    """Also the integers that a launch treats apart: 1, and those that 16 divides."""
    made = call(T, D=64, groups=2, ratio=1, B=1, dtype=torch.bfloat16)
    check(made, more_for(made, parts=parts, distances=parts, bands=3), on_gpu, rounding(torch.bfloat16))


@pytest.mark.full
@pytest.mark.parametrize(("groups", "ratio", "B"), [(1, 1, 1), (1, 8, 2), (1, 71, 1), (4, 5, 3)])
def test_groups_of_heads(groups: int, ratio: int, B: int, call: Call, more_for: More, check: Check) -> None:
    made = call(150, D=64, groups=groups, ratio=ratio, B=B, dtype=torch.bfloat16)
    check(made, more_for(made, bands=3), on_gpu, rounding(torch.bfloat16))


@pytest.mark.full
@pytest.mark.parametrize(
    "settings",
    [{"sinks": 0, "window": 5}, {"sinks": 100, "window": 1}, {"sinks": 3, "window": 300}, {"sinks": 128, "window": 90}],
)
def test_empty_and_wide_key_classes(settings: dict[str, int], call: Call, more_for: More, check: Check) -> None:
    made = call(200, D=64, groups=1, ratio=2, B=1, dtype=torch.bfloat16)
    for parts in (True, False):
        check(made, more_for(made, bands=0, parts=parts, **settings), on_gpu, rounding(torch.bfloat16))


@pytest.mark.full
def test_cross_attention(call: Call, check: Check) -> None:
    whole = call(300, D=64, groups=1, ratio=2, B=1, dtype=torch.bfloat16)
    few = replace(whole, q=whole.q[:, :, :70], mask=Mask(causal=False))
    lookup = Lookup(torch.arange(70)[None] % 5, torch.arange(300)[None] % 5, gap=-1000)
    check(few, Request(bands=0, lookups={"same": lookup}, argmax=True), on_gpu, rounding(torch.bfloat16))


@pytest.mark.full
def test_eight_lookups_at_once(call: Call, check: Check) -> None:
    made = call(300, D=64, groups=1, ratio=2, B=1, dtype=torch.bfloat16)
    place = torch.arange(300)[None]
    lookups = {f"segment {n}": Lookup(torch.full_like(place, n), place // 60) for n in range(5)}
    lookups |= {"previous": Lookup(place - 1, place), "far": Lookup(place * 0, place * 0, gap=150)}
    lookups["none"] = Lookup(place * 0 - 1, place)
    check(made, Request(sinks=2, window=40, bands=0, lookups=lookups), on_gpu, rounding(torch.bfloat16))


@pytest.mark.full
def test_memory_as_models_have_it(call: Call, more_for: More, check: Check) -> None:
    """[B, T, H, D] turned round, slices of one projection that no 16 bytes align, every second column."""
    made = call(130, D=40, groups=2, ratio=1, B=1, dtype=torch.bfloat16)

    def strange(one: Attention, request: Request) -> tuple[Tensor, Statistics]:
        there = moved(one)
        joint = torch.cat([there.q, there.k, there.v], -1).transpose(1, 2).contiguous()
        joint = torch.nn.functional.pad(joint, (1, 0))
        parts = [joint[..., 1 + 40 * n : 41 + 40 * n].transpose(1, 2) for n in range(3)]
        parts[1] = parts[1].repeat_interleave(2, -1)[..., ::2]
        assert not any(part.is_contiguous() for part in parts)
        assert parts[0].data_ptr() % 16
        turned = replace(there, q=parts[0], k=parts[1], v=parts[2])
        z, found = moved(attention_statistics(turned, moved(request), backend="triton"), "cpu")
        return z, found

    check(made, more_for(made, bands=0), strange, rounding(torch.bfloat16))


@pytest.mark.full
def test_what_was_in_memory_before_does_not_show(call: Call, more_for: More) -> None:
    """Results are written everywhere: the same bits on memory full of NaN, and on a second run."""
    made = call(300, rule="left padding", D=64, groups=1, ratio=3, dtype=torch.bfloat16)
    made, request = moved((made, more_for(made, bands=5)))
    one = attention_statistics(made, request, backend="triton")
    spoilt = [torch.full((2**22,), torch.nan, device="cuda") for _ in range(16)]
    del spoilt  # goes back to the allocator, which hands the same memory out again
    two = attention_statistics(made, request, backend="triton")
    assert torch.equal(one[0], two[0])
    for name in ("lse", "entropy", "local", "received", "by_distance", "local_part", "sink_part", "thumbnail"):
        first, second = getattr(one[1], name), getattr(two[1], name)
        assert torch.equal(first.nan_to_num(-7), second.nan_to_num(-7)), name
        assert torch.equal(first.isnan(), second.isnan()), name


@pytest.mark.full
def test_padding_touches_no_bit(call: Call) -> None:
    made = call(150, rule="left padding", D=64, groups=1, ratio=2, dtype=torch.bfloat16)
    spoilt = replace(made, q=made.q.clone(), k=made.k.clone(), v=made.v.clone())
    for tensor in (spoilt.q, spoilt.k, spoilt.v):
        tensor[1, :, :50] = torch.nan
    one, two = (on_gpu(which, Request(sinks=2, window=40, bands=3)) for which in (made, spoilt))
    assert torch.equal(one[0], two[0])
    for name in ("lse", "entropy", "received", "by_distance", "local_part", "thumbnail"):
        first, second = getattr(one[1], name), getattr(two[1], name)
        assert torch.equal(first.nan_to_num(-7), second.nan_to_num(-7)), name


@pytest.mark.full
def test_nan_in_a_query_stays_in_its_row(call: Call) -> None:
    made = call(200, D=64, groups=1, ratio=2, B=1, dtype=torch.bfloat16)
    q = made.q.clone()
    q[0, 1, 70, 3] = torch.nan
    request = Request(sinks=2, window=40, bands=0, argmax=True)
    found, clean = on_gpu(replace(made, q=q), request)[1], on_gpu(made, request)[1]
    rest = torch.arange(200) != 70
    for name in ("lse", "entropy", "max_weight", "distance", "first", "local", "sink_mass", "row_mass"):
        assert getattr(found, name)[0, 1, 70].isnan(), name
        assert torch.equal(getattr(found, name)[:, :, rest], getattr(clean, name)[:, :, rest]), name
    assert found.received[0, 1, :71].isnan().all()
    assert torch.equal(found.received[0, 0], clean.received[0, 0])
    assert found.argmax is not None
    assert (found.argmax < 200).all()


@pytest.mark.full
def test_of_equal_keys_the_lowest_is_the_argmax(call: Call) -> None:
    """Ties within a tile, between tiles and between the classes of keys."""
    made = call(300, D=64, groups=1, ratio=2, B=1, dtype=torch.bfloat16)
    flat = replace(made, q=torch.zeros_like(made.q))
    for window, wanted in ((None, torch.zeros(300)), (130, (torch.arange(300) - 129).clamp(min=0))):
        found = on_gpu(replace(flat, mask=Mask(window=window)), Request(sinks=2, window=40, bands=0, argmax=True))[1]
        assert found.argmax is not None
        assert torch.equal(found.argmax[0, 1], wanted.long())


@pytest.mark.full
@pytest.mark.parametrize("gain", [0.0, 1e-3, 40.0])
def test_scores_of_any_size(gain: float, call: Call, more_for: More, check: Check) -> None:
    """Flat rows; rows of one key, whose other weights are below the smallest float."""
    made = call(300, D=64, groups=1, ratio=2, B=1, gain=gain)
    check(made, more_for(made, bands=3), on_gpu)


@pytest.mark.full
@pytest.mark.skipif(torch.cuda.device_count() < 2, reason="one CUDA device here")
def test_the_second_device(call: Call) -> None:
    """Tensors decide where a kernel runs, not the current device."""
    made = call(100, D=64, groups=1, ratio=2, B=1, dtype=torch.bfloat16)
    one, two = (attention_statistics(moved(made, device), Request(bands=3))[0].cpu() for device in ("cuda:0", "cuda:1"))
    assert torch.equal(one, two)
    late = replace(made, q=made.q[:, :, -1:], mask=Mask(query_offset=99))
    assert decode_statistics(moved(late, "cuda:1")).z.device == torch.device("cuda:1")


def test_rules_that_cannot_be_said_are_refused(call: Call) -> None:
    for made, message in ((call(8, dtype=torch.float64), "float64"), (call(8, rule="bias"), "bias")):
        with pytest.raises(KernelError, match=message):
            attention_statistics(moved(made))


def test_the_check_can_fail(call: Call, request_for: More, check: Check) -> None:
    made = call(300, D=64, groups=2, ratio=3)

    def other_scale(one: Attention, request: Request) -> tuple[Tensor, Statistics]:
        return on_gpu(replace(one, score=Score(one.score.scale * 1.001)), request)

    with pytest.raises(MismatchError):
        check(made, request_for(made), other_scale)
