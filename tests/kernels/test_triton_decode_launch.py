"""Two launches a call, whatever is asked for; little memory between them; the grid; what is refused."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from probe.kernels import triton_decode_launch as module
from probe.kernels.decode import decode_statistics
from probe.kernels.decoded import DecodeRequest
from probe.kernels.inputs import Attention, Mask, Score
from probe.kernels.triton_decode_launch import keys_a_split, refusal
from probe.kernels.triton_jit import interpreted
from probe.kernels.validate import KernelError
from tests.kernels.decoding import decoding


class Made(TorchDispatchMode):
    """Counts the bytes of every tensor that torch makes, and what torch is asked to compute."""

    def __init__(self) -> None:
        super().__init__()
        self.bytes = 0
        self.computed: list[str] = []

    def __torch_dispatch__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        out = function(*args, **(kwargs or {}))
        name = function.__name__.split(".")[0]
        if name == "new_empty" and isinstance(out, Tensor):
            self.bytes += out.untyped_storage().nbytes()
        elif name not in ("unbind", "slice", "_to_copy"):
            self.computed.append(name)
        return out


@contextmanager
def recorded(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[tuple[str, tuple[int, ...]]]]:
    """Name and grid of every launch; nothing is run."""
    launches: list[tuple[str, tuple[int, ...]]] = []

    class Recorder:
        def __init__(self, kernel: Any) -> None:
            self.kernel = kernel
            self.arg_names = kernel.arg_names

        def __getitem__(self, grid: tuple[int, ...]) -> Any:
            launches.append((self.kernel.__name__, grid))
            return lambda **arguments: None

    with monkeypatch.context() as patched, interpreted():
        for name in ("decode_kernel", "merge_kernel"):
            patched.setattr(module, name, Recorder(getattr(module, name)))
        yield launches


def test_two_launches_and_nothing_computed_by_torch(monkeypatch: pytest.MonkeyPatch) -> None:
    """All heads and sequences at once; torch only makes the tensors."""
    call = decoding("everything")
    call = replace(call, mask=replace(call.mask, documents=None))
    for request in (DecodeRequest(), DecodeRequest(top=2)):
        with recorded(monkeypatch) as launches, Made() as made:
            module.triton_decode(call, request)
        assert launches == [("decode_kernel", (2 * 2,)), ("merge_kernel", (2 * 4 * 3,))]
        assert made.computed == []


def test_documents_are_looked_up_twice(monkeypatch: pytest.MonkeyPatch) -> None:
    """The only thing that torch computes: where the document of each query begins and ends."""
    call = decoding("documents")
    with recorded(monkeypatch) as launches, Made() as made:
        module.triton_decode(call, DecodeRequest())
    assert len(launches) == 2
    assert set(made.computed) <= {"clone", "searchsorted"}
    assert made.computed.count("searchsorted") == 2


@pytest.mark.parametrize(("top", "kept"), [(0, 0), (1, 1), (5, 8), (64, 64)])
def test_memory_does_not_grow_with_the_keys(top: int, kept: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """A million keys, 32 query heads of 128 columns: outputs, sums, strongest keys of 64 splits, and the answer."""
    entry = torch.empty(1, 1, 1, 1, dtype=torch.bfloat16)
    q, k = entry.expand(1, 32, 1, 128), entry.expand(1, 8, 1 << 20, 128)
    call = Attention(q, k, k, Mask(query_offset=(1 << 20) - 1), Score(1.0))
    with recorded(monkeypatch) as launches, Made() as made:
        module.triton_decode(call, DecodeRequest(top=top))
    assert launches == [("decode_kernel", (64 * 8,)), ("merge_kernel", (32,))]
    splits, rows = 64, 32
    between = rows * splits * (128 * 4 + 6 * 4 + 4 + kept * 8)
    answer = rows * (128 * 4 + 7 * 4 + 2 * 8 + top * 12)  # z in float32: the interpreter's way with bfloat16
    assert made.bytes == between + answer < 2.2 * 2**20


def test_more_heads_than_an_axis_of_a_grid_takes(monkeypatch: pytest.MonkeyPatch) -> None:
    """65,535 programs are the most along the second and third axis; everything is on the first."""
    x = torch.zeros(1, 70_000, 1, 1)
    with recorded(monkeypatch) as launches:
        module.triton_decode(Attention(x, x, x, Mask(), Score(1.0)), DecodeRequest())
    assert launches == [("decode_kernel", (70_000,)), ("merge_kernel", (70_000,))]


def test_splits_come_from_the_shapes() -> None:
    assert keys_a_split(300, 4, 64) == 256
    assert keys_a_split(131_072, 8, 64) == 2048  # 64 splits x 8 heads = 512 programs
    assert keys_a_split(131_072, 1024, 64) == 131_072
    assert keys_a_split(1 << 20, 1, 64) == 4096  # no more than 256 splits
    assert keys_a_split(0, 1, 64) == 256
    for keys in (1, 1000, 65_537, 131_071, (1 << 20) - 1):
        for pairs in (1, 3, 8, 100):
            assert -(-keys // keys_a_split(keys, pairs, 64)) <= 256


def test_what_the_kernels_do_not_know_is_refused_by_name() -> None:
    call = decoding()
    rule = lambda i, j: torch.ones(1, 1, len(i), len(j), dtype=torch.bool)  # noqa: E731
    bias = lambda i, j: torch.zeros(1, 1, len(i), len(j))  # noqa: E731
    wrong = {
        "its inputs are float64": (decoding(dtype=torch.float64), 0),
        "mask.allowed is a Python function": (replace(call, mask=replace(call.mask, allowed=rule)), 0),
        "score.bias is a Python function": (replace(call, score=replace(call.score, bias=bias)), 0),
        "its heads are 272 wide, at most 256 fit": (decoding(D=272), 0),
        "top is 257, a program keeps at most 256 keys": (call, 257),
    }
    with interpreted():
        assert refusal(call, DecodeRequest(top=256)) is None
        for reason, (made, top) in wrong.items():
            with pytest.raises(KernelError, match=f"'triton' cannot compute this call: {reason}.*; take 'blockwise'"):
                decode_statistics(made, DecodeRequest(top=top), backend="triton")


def test_gradients_are_not_recorded() -> None:
    call = decoding(T=1, S=20)
    with interpreted():
        found = decode_statistics(replace(call, q=call.q.requires_grad_()), DecodeRequest(top=1), backend="triton")
    assert not found.z.requires_grad
    assert not found.top_weight.requires_grad
