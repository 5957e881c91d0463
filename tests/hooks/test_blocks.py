"""Forwards started in the middle give the bits of whole ones, in every family that allows it, and are undone."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from probe.hooks.blocks import blocks, record_prefix, resumed, same_start
from probe.hooks.errors import HookError
from probe.hooks.sites import sites
from probe.hooks.spec import main_sites

CAUSAL = ("llama", "gpt2", "mistral", "gemma2", "gpt_oss", "gpt_neox", "qwen3")


def runs(case):
    ids = case.inputs["input_ids"]
    return lambda: case.model(input_ids=ids, use_cache=False).logits


@pytest.mark.parametrize("name", CAUSAL)
def test_a_forward_started_at_any_block_has_the_bits_of_the_whole_one(name, build):
    case = build(name)
    run = runs(case)
    with torch.no_grad():
        prefix, whole = record_prefix(case.model, run)
        assert len(prefix.hidden) == len(blocks(case.model)) == len(main_sites(sites(case.model)))
        for layer, hidden in enumerate(prefix.hidden):
            with resumed(case.model, prefix, layer, hidden):
                assert torch.equal(run(), whole)
        assert torch.equal(run(), whole), "undone"
    assert same_start(case.model, run)


def test_what_is_resumed_from_decides_and_lower_blocks_do_not_run(build):
    case = build("llama")
    run = runs(case)
    ran = []
    with torch.no_grad():
        prefix, whole = record_prefix(case.model, run)
        inside = blocks(case.model)[0].self_attn
        handle = inside.register_forward_hook(lambda *_: ran.append(0))
        last = len(prefix.hidden) - 1
        with resumed(case.model, prefix, last, prefix.hidden[last] + 1):
            changed = run()
        handle.remove()
    assert not torch.equal(changed, whole)
    assert ran == []


def test_everything_is_undone_after_an_error(build):
    case = build("llama")
    run = runs(case)
    with torch.no_grad():
        prefix, whole = record_prefix(case.model, run)

        class Sudden(Exception):
            pass

        with pytest.raises(Sudden), resumed(case.model, prefix, 1, prefix.hidden[1]):
            raise Sudden
        assert torch.equal(run(), whole)
    assert all("forward" not in vars(block) for block in blocks(case.model))


def test_a_wrong_shape_and_a_missing_block_are_named(build):
    case = build("llama")
    run = runs(case)
    with torch.no_grad():
        prefix, _ = record_prefix(case.model, run)
        with pytest.raises(HookError, match="no block 9"), resumed(case.model, prefix, 9, prefix.hidden[0]):
            pass
        with (
            pytest.raises(HookError, match="as resumed"),
            resumed(case.model, prefix, 1, prefix.hidden[1].repeat(2, 1, 1)),
        ):
            run()


class Shared(nn.Module):
    """Adds what entered the first block to what leaves the last: more than the stream passes between blocks."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model
        self.first: torch.Tensor | None = None

    def run(self, ids: torch.Tensor) -> torch.Tensor:
        layers = blocks(self.model)
        handle = layers[0].self_attn.register_forward_hook(self._keep)
        try:
            logits = self.model(input_ids=ids, use_cache=False).logits
        finally:
            handle.remove()
        return logits + self.first.sum()

    def _keep(self, _module: nn.Module, _args: object, output: tuple[torch.Tensor, ...]) -> None:
        self.first = output[0].detach() * (1 if self.first is None else 2)


def test_a_model_whose_blocks_share_more_than_the_stream_is_not_started_in_the_middle(build):
    case = build("llama")
    shared = Shared(case.model)
    assert not same_start(case.model, lambda: shared.run(case.inputs["input_ids"]))


def test_a_module_without_attention_is_refused():
    with pytest.raises(HookError):
        blocks(nn.Linear(2, 2))
