"""Every part's share against formulas written out, the sum against the run, and models that cannot be followed."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import nn
from transformers import Gemma2Config, Gemma2ForCausalLM, GraniteConfig, GraniteForCausalLM

from probe.analyses import direct_logit as module
from probe.analyses.direct_logit import direct_logit
from probe.errors import ModelError, ResultsError, TokensError
from probe.hooks.errors import HookError
from probe.models import load
from probe.tasks.build import build
from probe.tasks.task import Prompt, Task, clean_ids


def bent(model):
    """Weights large enough to bend norms and softmax, in float64."""
    generator = torch.Generator().manual_seed(0)
    for parameter in model.parameters():
        parameter.data = 0.2 * torch.randn(parameter.shape, generator=generator) + (1 if parameter.ndim == 1 else 0)
    return model.double().eval().requires_grad_(False)


def written_out(model, task, blocks, attention, projection, final):
    """What `input`, heads and MLPs write through the final norm with its σ taken from the stream; hook by hook."""
    held = {}
    handles = [blocks[0].register_forward_pre_hook(lambda _m, args: held.update(input=args[0]))]
    for layer, block in enumerate(blocks):
        out = getattr(getattr(block, attention), projection)
        handles.append(out.register_forward_pre_hook(lambda _m, args, at=("z", layer): held.update({at: args[0]})))
        handles.append(block.mlp.register_forward_hook(lambda _m, _a, out, at=("m", layer): held.update({at: out})))
    handles.append(final.register_forward_pre_hook(lambda _m, args: held.update(last=args[0])))
    model(clean_ids(task.prompts))
    for handle in handles:
        handle.remove()
    table = model.get_output_embeddings().weight
    rows = []
    for index, prompt in enumerate(task.prompts):
        place = prompt.metric_positions[-1]
        u = table[list(prompt.answer_ids)].mean(0) - table[list(prompt.wrong_ids)].mean(0)
        x = held["last"][index, place]
        centre = isinstance(final, nn.LayerNorm)
        sigma = (x.var(unbiased=False) if centre else x.square().mean()) + final.eps

        def share(write, u=u, sigma=sigma, centre=centre):
            write = write - write.mean() if centre else write
            return float((write * final.weight / sigma.sqrt()) @ u)

        row = [share(held["input"][index, place])]
        for layer, block in enumerate(blocks):
            out = getattr(getattr(block, attention), projection)
            weight = out.weight.T if isinstance(out, nn.Linear) else out.weight
            z = held["z", layer][index, place].view(4, -1)
            row += [share(z[head] @ weight.view(4, -1, weight.shape[1])[head]) for head in range(4)]
            row.append(share(held["m", layer][index, place]))
        rows.append(row)
    return np.array(rows).T


@pytest.mark.parametrize("family", ["llama", "gpt2"])
def test_equals_the_formula_written_out(make_llama, make_gpt2, make_task, family):
    task = make_task(4)
    if family == "llama":
        model = make_llama()
        wanted = written_out(model, task, model.model.layers, "self_attn", "o_proj", model.model.norm)
    else:
        model = make_gpt2()
        wanted = written_out(model, task, model.transformer.h, "attn", "c_proj", model.transformer.ln_f)
    found = direct_logit(load(model), task)
    assert found.writes.shape == wanted.shape == (len(found.graph.sources), 4)
    np.testing.assert_allclose(found.writes, wanted, rtol=1e-10, atol=1e-10)
    np.testing.assert_allclose(found.total, found.logit_diff, rtol=1e-10, atol=1e-10)
    assert np.array_equal(found.of("a1.h2"), found.writes[found.graph.source("a1.h2")])
    biased = {name for name, value in found.constants.items() if np.abs(value).max() > 1e-3}
    assert biased == (set() if family == "llama" else {"attention_bias", "final_offset"})


def test_norms_after_sublayers_are_frozen_and_the_soft_cap_is_named(make_task):
    config = Gemma2Config(vocab_size=31, hidden_size=24, intermediate_size=32, num_hidden_layers=2,
                          num_attention_heads=4, num_key_value_heads=2, head_dim=8, max_position_embeddings=64,
                          final_logit_softcapping=2.0)  # fmt: skip
    model, task = bent(Gemma2ForCausalLM(config)).float(), make_task(4)
    found = direct_logit(load(model), task)
    np.testing.assert_allclose(found.total, found.logit_diff, rtol=0, atol=1e-4)
    assert found.softcap == 2.0
    logits = model(clean_ids(task.prompts)).logits
    capped = [float(row[p.metric_positions[-1]][p.answer_ids[0]] - row[p.metric_positions[-1]][p.wrong_ids[0]])
              for row, p in zip(logits, task.prompts, strict=True)]  # fmt: skip
    assert np.abs(found.logit_diff - capped).max() > 0.1, "what is attributed is the difference before the cap"
    # Heads through a post-norm at the scale of the whole attention output: they add up to what it gave.
    held = {}
    handles = [
        model.model.layers[0].post_attention_layernorm.register_forward_hook(lambda _m, _a, out: held.update(gave=out)),
        model.model.norm.register_forward_pre_hook(lambda _m, args: held.update(last=args[0])),
    ]
    model(clean_ids(task.prompts))
    for handle in handles:
        handle.remove()
    for index, prompt in enumerate(task.prompts):
        gave, last = (held[name][index, prompt.metric_positions[-1]] for name in ("gave", "last"))
        sigma = (last.square().mean() + config.rms_norm_eps).sqrt()
        u = model.lm_head.weight[prompt.answer_ids[0]] - model.lm_head.weight[prompt.wrong_ids[0]]
        whole = float((gave * (1 + model.model.norm.weight) / sigma) @ u)
        heads = sum(found.of(f"a0.h{head}")[index] for head in range(4))
        assert heads == pytest.approx(whole, abs=1e-4)


def test_batches_and_rows_do_not_matter(make_llama, make_task, monkeypatch):
    loaded, task = load(make_llama()), make_task(5)
    whole = direct_logit(loaded, task)
    monkeypatch.setattr(module, "BATCH_TOKENS", 2 * task.length)
    np.testing.assert_allclose(direct_logit(loaded, task).writes, whole.writes, rtol=1e-12, atol=1e-12)
    np.testing.assert_allclose(
        direct_logit(loaded, task, rows=slice(1, 3)).writes, whole.writes[:, 1:3], rtol=1e-12, atol=1e-12
    )


def test_planted_names_are_moved_by_their_mover():
    found = direct_logit(load("planted"), build("names", load("planted"), prompts=8))
    means = dict(zip(found.graph.sources, found.writes.mean(1), strict=True))
    assert np.abs(found.total - found.logit_diff).max() < 1e-4
    assert means["a2.h2"] > 0.9 * found.logit_diff.mean()
    others = [abs(value) for name, value in means.items() if name != "a2.h2"]
    assert max(others) < 0.1 * means["a2.h2"]


def test_what_cannot_be_attributed_is_refused(make_llama, make_task):
    task = make_task(2)
    bare = Task("bare", "neg_loss", tuple(
        Prompt(p.clean_ids, (), (), p.metric_positions, "", target_ids=p.target_ids) for p in task.prompts
    ))  # fmt: skip
    with pytest.raises(TokensError, match="answers"):
        direct_logit(load(make_llama()), bare)
    with pytest.raises(TokensError, match="no prompt"):
        direct_logit(load(make_llama()), task, rows=slice(0, 0))
    with pytest.raises(ResultsError, match=r"a9\.h9"):
        direct_logit(load(make_llama()), task).of("a9.h9")


def test_models_that_cannot_be_followed_are_refused(make_llama, make_task):
    config = GraniteConfig(vocab_size=31, hidden_size=24, intermediate_size=32, num_hidden_layers=2,
                           num_attention_heads=4, num_key_value_heads=2, max_position_embeddings=64,
                           logits_scaling=2.0)  # fmt: skip
    with pytest.raises(ModelError, match="not those that its unembedding gives"):
        direct_logit(load(bent(GraniteForCausalLM(config))), make_task(2))
    config.residual_multiplier = 0.5
    with pytest.raises(HookError):
        direct_logit(load(bent(GraniteForCausalLM(config))), make_task(2))


def test_a_write_that_nobody_made_is_noticed(make_llama, make_task):
    """Something added to the stream beyond the last block's parts: the sum no longer holds, and it is said."""
    model, task = make_llama(), make_task(2)
    # Only on real prompts: the anatomy, proved on a dozen random tokens, cannot see it.
    handle = model.model.layers[1].register_forward_hook(
        lambda _m, _a, out: out + (0.5 if out.shape[1] == task.length else 0.0)
    )
    with pytest.raises(ModelError, match="something else writes to the stream"):
        direct_logit(load(model), task)
    handle.remove()


@pytest.mark.real
def test_on_a_real_model_it_adds_up_and_knows_the_movers():
    loaded = load("smollm2-135m")
    found = direct_logit(loaded, build("ioi", loaded, prompts=8))
    assert np.abs(found.total - found.logit_diff).max() < 1e-4
    means = dict(zip(found.graph.sources, found.writes.mean(1), strict=True))
    assert max(means, key=means.__getitem__) == "a23.h3"
    # Exact mean-ablation of the same heads has these signs.
    assert means["a29.h1"] > 0.5
    assert means["a29.h0"] < -0.5
    assert means["a24.h4"] < -0.5
