"""What rules are given: cut out right, and not before it is asked for."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch

from probe.hooks.edits import Edit, Part
from probe.hooks.errors import HookError
from probe.hooks.part import as_index

PartOf = Callable[..., Part]


@pytest.mark.parametrize("name", ["llama", "gpt2", "mistral", "gpt_oss", "t5", "bert", "llama4"])
@pytest.mark.parametrize(("heads", "rows"), [((0, 4), slice(1, 2)), ((3, 4, 5), slice(0, 2, 1)), ((2,), slice(0, 1))])
def test_the_narrowed_call_computes_the_same_heads(
    name: str, heads: tuple[int, ...], rows: slice, part_of: PartOf, dense: Any
) -> None:
    part = part_of(name, heads, rows)
    assert part.shape == (rows.stop - rows.start, len(heads), *part.current.shape[2:])
    assert torch.equal(part.z, part.current[rows][:, list(heads)])
    for tensor in (part.call.q, part.call.k, part.call.v):
        assert tensor.shape[:2] == part.shape[:2]
    seen = dense.visible(part.whole).any(-1)[:, 0].expand(len(part.current), -1)[rows]
    difference = (part.call.attend() - part.z).abs().amax((1, 3))[seen]
    assert difference.max() <= dense.bound(part.whole)
    weights = dense.weights(part.whole).expand(len(part.current), -1, -1, -1)[rows][:, list(heads)]
    assert (part.call.pattern() - weights).abs().max() <= dense.bound(part.whole)


def test_nothing_is_cut_before_it_is_asked_for(part_of: PartOf) -> None:
    part = part_of("llama")
    assert (part.shape, part.offset, part.start) == ((2, 3, 12, 8), 0, 0)
    part.own_values()
    part.pick(part.current, "values")
    part.first_tokens(1)
    assert not {"call", "z"} & set(vars(part))
    assert part.call is part.call
    assert part.z.data_ptr() != part.current.data_ptr()


@pytest.mark.parametrize(("name", "offset"), [("llama", 7), ("mistral", 3)])
def test_past_a_cache(name: str, offset: int, build: Callable[[str], Any], watch: Callable[..., Any]) -> None:
    """offset is a place among the keys, start one in the sequence; mistral's cache keeps a window of four."""
    case = build(name)
    ids = case.inputs["input_ids"][:1]
    parts: list[Part] = []

    def keep(part: Part) -> torch.Tensor:
        parts.append(part)
        return part.z

    with torch.no_grad():
        cache = case.model(ids[:, :7], use_cache=True).past_key_values
        watch(case.model, {"input_ids": ids[:, 7:8], "past_key_values": cache}, [Edit(((1, 1),), keep)])
    part = parts[0]
    assert (part.start, part.offset) == (7, offset)
    assert torch.equal(part.own_values(), part.call.v[:, :, -1:])
    # Of the first five tokens, the window has the last: positions 4 to 7 are its keys.
    assert part.first_tokens(5).sum() == (1 if name == "mistral" else 5)


def test_first_tokens_and_padding(part_of: PartOf) -> None:
    part = part_of("llama")  # row 1 begins with three tokens of padding
    assert part.first_tokens(2).nonzero().tolist() == [[0, 0], [0, 1], [1, 3], [1, 4]]
    assert part.padding().nonzero().tolist() == [[1, 0], [1, 1], [1, 2]]
    assert part_of("llama", rows=slice(1, 2)).first_tokens(1).nonzero().tolist() == [[0, 3]]


def test_picking_heads_of_a_tensor(part_of: PartOf) -> None:
    part = part_of("llama", heads=(1, 4))
    tensor = torch.arange(6.0, dtype=torch.float64)[None, :, None, None]
    assert part.pick(tensor, "values").flatten().tolist() == [1, 4]
    groups = torch.arange(2.0, dtype=torch.float64)[None, :, None, None]
    assert part.pick(groups, "v", grouped=True).flatten().tolist() == [0, 1]
    with pytest.raises(HookError, match=r"layer 1: values \(1, 2, 1, 1\); wanted \[1 or 2 rows, 6 heads"):
        part.pick(groups, "values")
    with pytest.raises(HookError, match=r"are torch\.float32; the model computes in torch\.float64"):
        part.pick(tensor.float(), "values")


def test_indices_without_a_gap_are_slices() -> None:
    assert as_index(torch.tensor([3, 4, 5])) == slice(3, 6)
    assert as_index(torch.tensor([2])) == slice(2, 3)
    apart = as_index(torch.tensor([1, 3]))
    assert isinstance(apart, torch.Tensor)
    assert apart.tolist() == [1, 3]
