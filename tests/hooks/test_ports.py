"""Every reader reads what it is given and nobody else does; what is written adds up to the stream; gradients split."""

from __future__ import annotations

import pytest
import torch
import transformers as tf

from probe.hooks.anatomy import anatomy
from probe.hooks.errors import HookError
from probe.hooks.ports import Wiring, wired
from probe.hooks.spec import output_projection

FAMILIES = ("llama", "qwen3", "qwen2", "mistral", "phi3", "gemma2", "gemma3", "gpt2", "gpt_neox", "llama4")
HEADS = 6
# Norms of Llama's kin compute in float32 whatever they are given: one of their roundings, of streams of size 10, gains
# of 3 and 4 norms on the way to the logits. The others are float64 throughout.
CLOSE = {"gpt2": 1e-12, "gpt_neox": 1e-12}
FLOAT32 = 1e-4


def run(model, ids):
    with torch.no_grad():
        return model(input_ids=ids, use_cache=False).logits


def prepared(build, name):
    model = build(name).model.double()
    ids = torch.randint(3, 53, (2, 12), generator=torch.Generator().manual_seed(2))
    return model, anatomy(model), ids


class Stream(Wiring):
    """Every port is given the stream, on the path of ports that differ."""

    def heads_read(self, layer, stream):
        return stream.expand(3, HEADS, *stream.shape)


class Sum(Wiring):
    """Adds up what is written and compares it with the stream at every reader."""

    def __init__(self, parallel):
        self.parallel, self.total, self.error = parallel, None, 0.0

    def compare(self, stream):
        self.error = max(self.error, float((stream - self.total).abs().max()))
        return stream

    def start(self, stream):
        self.total = stream.clone()
        return stream

    def heads_wrote(self, layer, write):
        self.total = self.total + write().sum(0) + self.biases[layer]

    def mlp_reads(self, layer, stream):
        return stream if self.parallel else self.compare(stream)

    def mlp_wrote(self, layer, write):
        self.total = self.total + write

    def logits_read(self, stream):
        return self.compare(stream)


@pytest.mark.parametrize("name", FAMILIES)
def test_a_wiring_that_changes_nothing_leaves_the_model_as_it_is(name, build):
    model, parts, ids = prepared(build, name)
    plain = run(model, ids)
    for wiring in (Wiring(), Stream()):
        with wired(model, parts, wiring):
            torch.testing.assert_close(run(model, ids), plain, rtol=0, atol=CLOSE.get(name, FLOAT32))
    assert torch.equal(run(model, ids), plain), "undone"


@pytest.mark.parametrize("name", FAMILIES)
def test_what_is_written_adds_up_to_the_stream(name, build):
    model, parts, ids = prepared(build, name)
    wiring = Sum(parts.parallel)
    biases = [getattr(output_projection(model, part.site)[0], "bias", None) for part in parts.blocks]
    wiring.biases = [0 if bias is None else bias for bias in biases]
    with wired(model, parts, wiring):
        run(model, ids)
    assert wiring.error < CLOSE.get(name, FLOAT32)


class Pushed(Wiring):
    """Adds something to what one port of one head of the first layer reads; keeps what that layer's heads write."""

    def __init__(self, port, head):
        self.port, self.head, self.wrote = port, head, None

    def heads_read(self, layer, stream):
        if layer:
            return None
        read = stream.expand(3, HEADS, *stream.shape).clone()
        push = torch.randn(stream.shape, generator=torch.Generator().manual_seed(5), dtype=stream.dtype)
        read[self.port, self.head] += push
        return read

    def heads_wrote(self, layer, write):
        if not layer:
            self.wrote = write()


@pytest.mark.parametrize("name", ["llama", "qwen3", "phi3", "gpt2", "gpt_neox"])
@pytest.mark.parametrize("port", [0, 1, 2])
def test_a_port_is_read_by_its_own_head_alone(name, port, build):
    model, parts, ids = prepared(build, name)
    wrote = []
    for head in (None, 1, 4):
        wiring = Pushed(port, head) if head is not None else Pushed(port, slice(0, 0))
        with wired(model, parts, wiring):
            run(model, ids)
        wrote.append(wiring.wrote)
    for head, changed in zip((1, 4), wrote[1:], strict=True):
        moved = (changed - wrote[0]).abs().amax((1, 2, 3))
        others = [other for other in range(HEADS) if other != head]
        assert float(moved[head]) > 1e-3
        assert float(moved[others].max()) == 0


class Watched(Wiring):
    """Keeps the gradient at every port, and at the stream that enters."""

    def __init__(self):
        self.ports, self.leaf = {}, None

    def start(self, stream):
        self.leaf = stream.detach().requires_grad_()
        return self.leaf

    def gradients(self):
        def told(layer, port, grads):
            self.ports[layer, port] = grads

        return told


class Nudged(Wiring):
    def __init__(self, layer, port, head, nudge):
        self.where, self.nudge = (layer, port, head), nudge

    def heads_read(self, layer, stream):
        if layer != self.where[0]:
            return None
        read = stream.expand(3, HEADS, *stream.shape).clone()
        read[self.where[1:]] += self.nudge
        return read


@pytest.mark.parametrize("name", ["gpt2", "gpt_neox"])
def test_gradients_at_ports_are_the_slopes_of_nudged_ports(name, build):
    model, parts, ids = prepared(build, name)
    model.requires_grad_(False)
    watched = Watched()
    with wired(model, parts, watched):
        score = model(input_ids=ids, use_cache=False).logits[:, -1, 7].sum()
        torch.autograd.grad(score, watched.leaf)
    generator = torch.Generator().manual_seed(3)
    for layer, port, head in ((0, 0, 1), (0, 1, 2), (0, 2, 5), (1, 1, 0), (1, 2, 3)):
        nudge = torch.randn(2, 12, 48, dtype=torch.float64, generator=generator) * 1e-5
        ends = []
        for sign in (1, -1):
            with wired(model, parts, Nudged(layer, port, head, sign * nudge)):
                ends.append(float(run(model, ids)[:, -1, 7].sum()))
        slope = (ends[0] - ends[1]) / 2
        told = float((watched.ports[layer, port][head] * nudge).sum())
        # A central difference errs by its third derivative, 1e-10 of the first here, and by rounding, 1e-15 / 1e-5.
        assert told == pytest.approx(slope, rel=1e-6, abs=1e-12)


def test_gradients_split_by_query_head_under_grouped_keys(build):
    """Ports of a group that read one stream: their gradients sum to the gradient of that stream."""
    model, parts, ids = prepared(build, "llama")
    model.requires_grad_(False)
    watched = Watched()
    with wired(model, parts, watched):
        score = model(input_ids=ids, use_cache=False).logits[:, -1, 7].sum()
        (whole,) = torch.autograd.grad(score, watched.leaf)
    leaf = torch.zeros_like(whole).requires_grad_()

    class Leaf(Wiring):
        def start(self, stream):
            return stream.detach() + leaf

    with wired(model, parts, Leaf()):
        score = model(input_ids=ids, use_cache=False).logits[:, -1, 7].sum()
        (plain,) = torch.autograd.grad(score, leaf)
    # Norms in float32: their backward errs by its roundings.
    torch.testing.assert_close(whole, plain, rtol=1e-4, atol=1e-5 * float(plain.abs().max()))
    assert watched.ports[0, 1].shape == (HEADS, 2, 12, 48)
    assert not torch.allclose(watched.ports[0, 1][0], watched.ports[0, 1][1])


def test_wirings_of_another_shape_and_compressed_projections_are_refused(build):
    model, parts, ids = prepared(build, "llama")

    class Narrow(Wiring):
        def heads_read(self, layer, stream):
            return stream.expand(3, 2, *stream.shape)

    class Short(Wiring):
        def start(self, stream):
            return stream[:, 1:]

    with wired(model, parts, Narrow()), pytest.raises(HookError, match="for the ports of heads"):
        run(model, ids)
    with wired(model, parts, Short()), pytest.raises(HookError, match="for a stream of"):
        run(model, ids)
    olmo = tf.Olmo2ForCausalLM(
        tf.Olmo2Config(vocab_size=53, hidden_size=48, intermediate_size=32, num_hidden_layers=1, num_attention_heads=6,
                       pad_token_id=0, eos_token_id=None)
    ).eval()  # fmt: skip
    with pytest.raises(HookError, match="joins heads"), wired(olmo, anatomy(olmo), Wiring()):
        pass
