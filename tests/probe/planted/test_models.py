"""The planted models do what their roles say, on real forwards, computed without the kernels."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import cache

import pytest
import torch
from torch import Tensor
from transformers import PreTrainedModel

from probe.errors import ModelError, TokensError
from probe.planted.heads import GRADED_SINK_SCORE, planted_layers
from probe.planted.models import PLANTED_ROLES, PLANTED_TOLERANCE, planted_gpt2, planted_llama
from probe.planted.positions import LOCAL_WINDOW, kernels_for, max_min_mixture
from probe.planted.prompts import name_prompt, needle_prompt, planted_text, repeated_tokens
from probe.planted.stream import rope_reader
from probe.planted.words import BOS, DELIMITER, NEEDLE_WORDS, planted_tokenizer

BUILDERS: dict[str, Callable[..., PreTrainedModel]] = {"llama": planted_llama, "gpt2": planted_gpt2}
KINDS = list(BUILDERS)
N_LAYERS, N_HEADS = 3, 8


@cache
def planted(kind: str, shuffled: bool = False) -> PreTrainedModel:
    model = BUILDERS[kind](shuffled=shuffled)
    model.set_attn_implementation("eager")
    return model


@torch.no_grad()
def attention_maps(model: PreTrainedModel, ids: list[int]) -> tuple[Tensor, Tensor]:
    """Logits [T, V] and attention [L, H, T, T] in float64."""
    out = model(torch.tensor([ids]), output_attentions=True)
    return out.logits[0], torch.stack([layer[0].double() for layer in out.attentions])


def scores(maps: Tensor, ids: list[int]) -> dict[str, Tensor]:
    """The metrics' definitions, [L, H] each, by masks over the dense map of `<bos> <sep> R R`."""
    tokens = torch.tensor(ids)
    t = len(ids)
    row, column = torch.arange(t)[:, None], torch.arange(t)[None, :]
    duplicate = (tokens[:, None] == tokens[None, :]) & (column < row)
    follows = (tokens[:, None] == tokens.roll(1)[None, :]) & (column >= 1) & (column <= row)
    second = torch.arange(t)[:, None] >= 2 + (t - 1) // 2

    def mean(target: Tensor, rows: Tensor) -> Tensor:
        return (maps * target).sum(-1)[..., rows.squeeze(-1)].mean(-1)

    later = torch.arange(t)[:, None] >= 1
    return {
        "previous_token": mean(column == row - 1, later),
        "duplicate_token": mean(duplicate, second),
        "induction": mean(follows, follows.any(-1, keepdim=True)),
        "first_token_sink": mean(column == 0, later),
        "later_token_sink": mean(column == 1, later),
        "local": mean((column > row - LOCAL_WINDOW) & (column <= row), later),
        "rest": mean(column == 0, later & ~second),
    }


EXPECTED = {
    "previous_token": "previous_token",
    "duplicate_token": "duplicate_token",
    "induction": "induction",
    "negative_induction": "induction",
    "first_token_sink": "first_token_sink",
    "later_token_sink": "later_token_sink",
    "local": "local",
    "backup_induction": "first_token_sink",
    "s_inhibition": "first_token_sink",
    "name_mover": "first_token_sink",
}


def check_roles(kind: str, length: int) -> None:
    ids = repeated_tokens(length, seed=length)
    logits, maps = attention_maps(planted(kind), ids)
    found = scores(maps, ids)
    for (layer, head), role in PLANTED_ROLES.items():
        if role in EXPECTED:
            value = float(found[EXPECTED[role]][layer, head])
            assert abs(value - 1) <= PLANTED_TOLERANCE, (layer, head, role, value)
        if role in ("uniform", "idle"):
            even = torch.tril(torch.ones(length, length, dtype=torch.float64))
            even /= even.sum(-1, keepdim=True)
            assert float((maps[layer, head] - even).abs().max()) <= PLANTED_TOLERANCE, (layer, head)
        if role in ("duplicate_token", "induction", "negative_induction"):
            # What a head does where it has nothing to find is part of its job.
            assert float(found["rest"][layer, head]) >= 1 - PLANTED_TOLERANCE, (layer, head, role)
    second = slice(2 + (length - 1) // 2, length - 1)
    assert torch.equal(logits[second].argmax(-1), torch.tensor(ids)[second.start + 1 : length])


@pytest.mark.parametrize("length", [64, 512])
@pytest.mark.parametrize("kind", KINDS)
def test_every_head_does_its_job(kind: str, length: int) -> None:
    check_roles(kind, length)


@pytest.mark.full
@pytest.mark.parametrize("kind", KINDS)
def test_every_head_does_its_job_at_4096(kind: str) -> None:
    check_roles(kind, 4096)


@pytest.mark.parametrize("kind", KINDS)
def test_graded_heads_are_not_saturated(kind: str) -> None:
    ids = repeated_tokens(128)
    _, maps = attention_maps(planted(kind), ids)
    row = torch.arange(128, dtype=torch.float64)
    weight = torch.tensor(GRADED_SINK_SCORE, dtype=torch.float64).exp()
    # Every embedding has one length, so the score is exact up to float32: 4·(2¹⁰ roundings of 2⁻²⁴) < 1e-3.
    expected = weight / (weight + row)
    assert torch.allclose(maps[0, 6, :, 0], expected, atol=1e-3, rtol=0)
    induction = float(scores(maps, ids)["induction"][1, 6])
    assert 0.6 < induction < 0.95


@pytest.mark.parametrize("length", [64, 512])
@pytest.mark.parametrize("kind", KINDS)
def test_the_twin_finds_nothing(kind: str, length: int) -> None:
    ids = repeated_tokens(length, seed=1)
    logits, maps = attention_maps(planted(kind, shuffled=True), ids)
    found = scores(maps, ids)
    even = torch.ones(length, length, dtype=torch.float64).tril()
    uniform = scores((even / even.sum(-1, keepdim=True)).expand(1, 1, -1, -1), ids)
    for name, values in found.items():
        # Scores of standard deviation under 0.35 move a mass from uniform by e^(3·0.35) < 3 at three of them.
        assert float(values.max()) <= 3 * float(uniform[name]), name
    strongest = max(float(maps[:, :, k:, k].mean(-1).max()) for k in range(1, length - 32))
    assert strongest < 0.3
    second = slice(2 + (length - 1) // 2, length - 1)
    correct = logits[second].argmax(-1) == torch.tensor(ids)[second.start + 1 : length]
    assert float(correct.double().mean()) < 0.1


def test_the_twin_has_the_same_values_and_outputs() -> None:
    model, twin = planted("llama"), planted("llama", shuffled=True)
    for name in ("v_proj", "o_proj"):
        ours = model.get_parameter(f"model.layers.1.self_attn.{name}.weight")
        assert torch.equal(ours, twin.get_parameter(f"model.layers.1.self_attn.{name}.weight"))
    assert not torch.equal(
        model.get_parameter("model.layers.1.self_attn.k_proj.weight"),
        twin.get_parameter("model.layers.1.self_attn.k_proj.weight"),
    )


@contextmanager
def zeroed(model: PreTrainedModel, *heads: tuple[int, int]) -> Iterator[None]:
    """What the named heads write is 0: a hook on the input of the output projection."""
    handles = []
    gpt2 = hasattr(model, "transformer")
    for layer, head in heads:
        path = f"transformer.h.{layer}.attn.c_proj" if gpt2 else f"model.layers.{layer}.self_attn.o_proj"

        def hook(module: object, inputs: tuple[Tensor], head: int = head) -> tuple[Tensor]:
            changed = inputs[0].clone()
            changed[..., head * 128 : (head + 1) * 128] = 0
            return (changed,)

        handles.append(model.get_submodule(path).register_forward_pre_hook(hook))
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


def copying(model: PreTrainedModel, ids: list[int]) -> tuple[float, float, Tensor]:
    """Accuracy on the second copy, mean logit of the right token there, and the maps."""
    logits, maps = attention_maps(model, ids)
    second = torch.arange(2 + (len(ids) - 1) // 2, len(ids) - 1)
    right = torch.tensor(ids)[second + 1]
    return (
        float((logits[second].argmax(-1) == right).double().mean()),
        float(logits[second, right].mean()),
        maps,
    )


PREVIOUS, DUPLICATE, INDUCTION, NEGATIVE = (0, 0), (0, 3), (1, 0), (1, 1)
INHIBITION, BACKUP, MOVER = (1, 2), (2, 0), (2, 2)


@pytest.mark.parametrize("kind", KINDS)
def test_zeroing_breaks_copying_where_the_circuit_says(kind: str) -> None:
    model, ids = planted(kind), repeated_tokens(256)
    accuracy, intact, _ = copying(model, ids)
    assert accuracy == 1
    with zeroed(model, INDUCTION):
        accuracy, without, maps = copying(model, ids)
    assert accuracy == 1, "the backup takes over"
    # The stream's copy has strength 1 − 0.3 (negative head); the backup's 0.5 stands in for the lost 1.
    assert without / intact == pytest.approx(0.2 / 0.7, abs=0.03)
    assert float(scores(maps, ids)["induction"][BACKUP]) >= 1 - PLANTED_TOLERANCE
    with zeroed(model, INDUCTION, BACKUP):
        accuracy, logit, _ = copying(model, ids)
    assert accuracy == 0
    assert logit < 0
    with zeroed(model, BACKUP):
        accuracy, logit, _ = copying(model, ids)
    assert accuracy == 1
    assert logit == pytest.approx(intact, abs=0.05)
    with zeroed(model, NEGATIVE):
        accuracy, logit, _ = copying(model, ids)
    # The output gain is 40 and the negative head takes 0.3 of it, less what the last norm takes back.
    assert 9 < logit - intact < 12.5
    with zeroed(model, PREVIOUS):
        accuracy, _, _ = copying(model, ids)
    assert accuracy == 0
    with zeroed(model, (2, 5), DUPLICATE, MOVER, INHIBITION):
        accuracy, _, _ = copying(model, ids)
    assert accuracy == 1, "heads outside the circuit"


def name_difference(model: PreTrainedModel, length: int = 64, prompts: int = 6) -> float:
    """Mean logit difference of the right name over the wrong one."""
    total = 0.0
    for seed in range(prompts):
        prompt = name_prompt(length, seed=seed)
        logits, _ = attention_maps(model, prompt.ids)
        total += float(logits[-1, prompt.io] - logits[-1, prompt.s])
    return total / prompts


@pytest.mark.parametrize("kind", KINDS)
def test_zeroing_breaks_names_where_the_circuit_says(kind: str) -> None:
    model = planted(kind)
    prompt = name_prompt(64)
    logits, maps = attention_maps(model, prompt.ids)
    assert int(logits[-1].argmax()) == prompt.io
    assert float(maps[MOVER][-1, prompt.positions["IO"]]) >= 1 - PLANTED_TOLERANCE
    assert float(maps[INHIBITION][-1, prompt.positions["S2"]]) >= 1 - PLANTED_TOLERANCE
    intact = name_difference(model)
    assert intact > 30
    for head in (DUPLICATE, INHIBITION, MOVER):
        with zeroed(model, head):
            assert name_difference(model) < 1, head
    for head in (PREVIOUS, INDUCTION):
        with zeroed(model, head):
            assert name_difference(model) == pytest.approx(intact, abs=1), head


@pytest.mark.parametrize("kind", KINDS)
def test_greedy_generation_copies_the_needle(kind: str) -> None:
    prompt = needle_prompt(512, depth=30, seed=3)
    ids = torch.tensor([prompt.ids])
    out = planted(kind).generate(
        ids, attention_mask=torch.ones_like(ids), max_new_tokens=11, do_sample=False, pad_token_id=BOS
    )
    assert out[0, 512:].tolist() == prompt.answer_ids


@pytest.mark.parametrize("kind", KINDS)
def test_building_is_deterministic_and_leaves_the_random_state(kind: str) -> None:
    built = []
    for state, seed in ((7, 1), (8, 1), (8, 2)):
        torch.manual_seed(state)
        before = torch.random.get_rng_state()
        built.append(BUILDERS[kind](max_length=64, seed=seed))
        assert torch.equal(torch.random.get_rng_state(), before)
    first, again, other = built
    for (name, a), b in zip(first.named_parameters(), again.parameters(), strict=True):
        assert torch.equal(a, b), name
        assert not a.requires_grad
    assert not torch.equal(next(first.parameters()), next(other.parameters()))
    assert not first.training


def test_the_residual_basis_is_dense() -> None:
    weight = planted("llama").get_parameter("model.layers.0.self_attn.q_proj.weight")
    row = weight[weight.norm(dim=1) > 0][0].double()
    # A random direction of 512 dims has Σx⁴/(Σx²)² near 3/512; a written one has 1.
    assert float(row.pow(4).sum() / row.square().sum() ** 2) < 0.05


def test_roles_match_the_layers_in_order() -> None:
    layers = planted_layers(rope_reader(lambda frequencies: kernels_for(frequencies, 64), 1e10))
    named = {(i, j): head.role for i, layer in enumerate(layers) for j, head in enumerate(layer.heads)}
    assert named == PLANTED_ROLES


def test_mixture_solves_a_game_with_a_known_answer() -> None:
    # Matching pennies with stakes 1 and 3: the value 3/4 at (3/4, 1/4).
    found = max_min_mixture(torch.tensor([[1.0, 0.0], [0.0, 3.0]], dtype=torch.float64))
    assert torch.allclose(found, torch.tensor([0.75, 0.25], dtype=torch.float64), atol=2e-3)


@pytest.mark.parametrize("length", [0, 63, 65_537])
@pytest.mark.parametrize("kind", KINDS)
def test_impossible_lengths_are_refused(kind: str, length: int) -> None:
    with pytest.raises(ModelError, match=f"found max_length {length}, wanted 64 to 65536"):
        BUILDERS[kind](max_length=length)


def test_prompts_hold_what_they_say() -> None:
    ids = repeated_tokens(129, seed=5)
    assert ids[:2] == [BOS, DELIMITER]
    assert ids[2:66] == ids[66:] + ids[65:66]
    assert len(set(ids[2:66])) == 64
    needle = needle_prompt(100, depth=100, seed=1)
    assert len(needle.ids) == 100
    start, stop = needle.answer
    assert needle.ids[start:stop] == needle.answer_ids
    assert needle.ids[-1] == needle.ids[needle.needle[0]]
    assert sum(token in NEEDLE_WORDS for token in needle.ids) == 13
    names = name_prompt(24, seed=2)
    assert [names.ids[names.positions[key]] for key in ("IO", "S1", "S2")] == [names.io, names.s, names.s]
    assert names.ids == name_prompt(24, seed=2).ids


@pytest.mark.parametrize(
    "make",
    [
        lambda: repeated_tokens(4),
        lambda: repeated_tokens(10_000),
        lambda: needle_prompt(13),
        lambda: needle_prompt(64, depth=101),
        lambda: needle_prompt(64, depth=float("nan")),
        lambda: name_prompt(7),
        lambda: planted_text(0),
    ],
)
def test_impossible_prompts_are_refused(make: Callable[[], object]) -> None:
    with pytest.raises(TokensError, match="wanted"):
        make()


def test_the_tokenizer_reads_planted_text() -> None:
    tokenizer = planted_tokenizer()
    text = planted_text(300)
    ids = tokenizer(text, add_special_tokens=False)["input_ids"]
    assert len(ids) == 300
    assert tokenizer.unk_token_id not in ids
    assert tokenizer.decode(ids) == text
    assert DELIMITER in ids
    assert tokenizer("<bos> Ada", add_special_tokens=False)["input_ids"] == [BOS, 4]
    assert len(tokenizer) == 4096
