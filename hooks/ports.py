"""`with wired(model, anatomy, wiring):` forwards in which every reader of the residual stream reads what it is given.

A head reads the stream three times (its q, k and v port), an MLP once, the unembedding once. A `Wiring` is asked, at
every reader, what that reader shall read in place of the stream, and is told what every writer wrote. With a wiring
that changes nothing the forward is the model's own, up to the rounding of a projection done head by head.

Under grouped-query attention each query head reads through key and value ports of its own, with the group's weights:
attention then runs once for each member of a group, since the model holds one k and v a group.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any

import torch
from jaxtyping import Float
from torch import Tensor, nn

from .anatomy import Anatomy, BlockParts
from .errors import HookError
from .forward_as import forward_as
from .frozen_norm import frozen
from .projections import projections
from .spec import output_projection

if TYPE_CHECKING:
    from transformers import PreTrainedModel

PortGradients = Callable[[int, int, Float[Tensor, "H B T d"]], None]
"""Receives layer, port (0 q, 1 k, 2 v) and the gradient at that port of every head."""


class Wiring:
    """What readers read and what is done with what writers write. This one leaves the model as it is; subclass it.

    stream: the live residual stream [B, T, d_model] at the reader. Writes are what is added to the stream: after a
    norm that follows the part, where there is one. Such a norm is linear in the heads but for its scale, which is
    that of the whole attention output in the same run; a head's write is its share at that scale. Biases and a
    norm's offset belong to no head.
    """

    def start(self, stream: Float[Tensor, "B T d"]) -> Float[Tensor, "B T d"]:
        """What enters block 0, the write of `input`."""
        return stream

    def heads_read(self, layer: int, stream: Float[Tensor, "B T d"]) -> Float[Tensor, "3 H B T d"] | None:
        """What the q, k and v ports of a layer read; None: all of them the stream."""
        return None

    def gradients(self) -> PortGradients | None:
        """Called in the backward pass with what the ports' gradients are; where `heads_read` gives None."""
        return None

    def heads_wrote(self, layer: int, write: Callable[[], Float[Tensor, "H B T d"]]) -> None:
        """`write()` makes every head's write."""

    def mlp_reads(self, layer: int, stream: Float[Tensor, "B T d"]) -> Float[Tensor, "B T d"]:
        """What the MLP of a layer reads."""
        return stream

    def mlp_wrote(self, layer: int, write: Float[Tensor, "B T d"]) -> None:
        """What the MLP of a layer wrote."""

    def logits_read(self, stream: Float[Tensor, "B T d"]) -> Float[Tensor, "B T d"]:
        """What the unembedding reads, before the final norm."""
        return stream


@contextmanager
def wired(model: PreTrainedModel, parts: Anatomy, wiring: Wiring) -> Iterator[None]:
    """Forwards inside ask and tell `wiring`; undone at the end. parts: the model's anatomy.

    Raises HookError for attention whose q, k and v no head can have for itself (`projections`); during a forward for
    a wiring that returns another shape.
    """
    own = [_Block(model, part, wiring) for part in parts.blocks]
    with ExitStack() as stack:
        for block in own:
            block.enter(stack)
        first, last = parts.blocks[0].block, parts.blocks[-1].block
        stack.callback(first.register_forward_pre_hook(_entering(wiring.start), with_kwargs=True).remove)
        stack.callback(last.register_forward_hook(_leaving(wiring.logits_read)).remove)
        yield


def _entering(change: Callable[[Tensor], Tensor]) -> Callable[..., tuple[tuple[Any, ...], dict[str, Any]]]:
    """A pre-hook that puts change(x) in the place of the stream that a block is given."""

    def hook(_module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> tuple[tuple[Any, ...], Any]:
        made = _changed(change, args[0] if args else kwargs["hidden_states"])
        return ((made, *args[1:]), kwargs) if args else (args, {**kwargs, "hidden_states": made})

    return hook


def _leaving(change: Callable[[Tensor], Tensor]) -> Callable[..., Any]:
    """A hook that puts change(x) in the place of the stream that a block gives."""

    def hook(_module: nn.Module, _args: object, output: Any) -> Any:
        if isinstance(output, tuple):
            return (_changed(change, output[0]), *output[1:])
        return _changed(change, output)

    return hook


def _changed(change: Callable[[Tensor], Tensor], stream: Tensor) -> Tensor:
    made = change(stream)
    if made.shape != stream.shape:
        raise HookError(f"a wiring returned {list(made.shape)} for a stream of {list(stream.shape)}")
    return made


@dataclass(frozen=True, eq=False)
class _Read:
    """q, k and v before norms and rotary embedding, each query head with its own k and v.

    distinct: whether query heads of a group may have different k and v.
    """

    q: Float[Tensor, "B T H D"]
    k: Float[Tensor, "B T H D"]
    v: Float[Tensor, "B T H Dv"]
    distinct: bool


class _Block:
    """The forwards that stand in for those of one block's parts."""

    def __init__(self, model: PreTrainedModel, parts: BlockParts, wiring: Wiring) -> None:
        self._parts, self._wiring, self._layer = parts, wiring, parts.layer
        self._attention = model.get_submodule(parts.site.name)
        self._maps = projections(model, parts.site)
        self._projection, self._out = output_projection(model, parts.site)
        if not any(module is self._projection for module in self._attention.modules()):
            raise HookError(f"{parts.site.name}: its output projection stands beside it; wanted it inside")
        self._heads = len(self._maps.weights[0])
        self._members = self._heads // len(self._maps.weights[1])
        self._attend, self._feed = self._attention.forward, parts.mlp.forward
        norms = (parts.attention_norm, parts.attention_post, parts.mlp_norm, parts.mlp_post)
        self._norms = {norm: norm.forward for norm in norms if norm is not None}

    def enter(self, stack: ExitStack) -> None:
        # Norms hand the bare stream through; what reads it calls the norm where it belongs.
        for norm in self._norms:
            stack.enter_context(forward_as(norm, _same))
        stack.enter_context(forward_as(self._attention, self._attention_forward))
        stack.enter_context(forward_as(self._parts.mlp, self._mlp_forward))

    def _normed(self, norm: nn.Module | None, tensor: Tensor) -> Tensor:
        made: Tensor = tensor if norm is None else self._norms[norm](tensor)
        return made

    def _attention_forward(self, *args: Any, **kwargs: Any) -> Any:
        stream = args[0] if args else kwargs["hidden_states"]
        z, rest = self._run(self._read(stream), args, kwargs)
        bias = getattr(self._projection, "bias", None)
        together = z.flatten(2) @ self._out.flatten(0, 1)
        together = together if bias is None else together + bias
        write = self._normed(self._parts.attention_post, together)
        self._wiring.heads_wrote(self._layer, lambda: self._shares(z, together))
        return write if rest is None else (write, *rest)

    def _shares(self, z: Tensor, together: Tensor) -> Float[Tensor, "H B T d"]:
        heads = torch.einsum("bthv,hvd->hbtd", z, self._out)
        post = self._parts.attention_post
        if post is None:
            return heads
        return frozen(self._norms[post], together).share(heads).to(heads.dtype)

    def _read(self, stream: Tensor) -> _Read:
        given = self._wiring.heads_read(self._layer, stream)
        gradients = self._wiring.gradients() if given is None else None
        wanted = (3, self._heads, *stream.shape)
        if given is not None and given.shape != wanted:
            raise HookError(f"a wiring returned {list(given.shape)} for the ports of heads; wanted {list(wanted)}")
        normed = self._normed(self._parts.attention_norm, stream) if given is None and gradients is None else stream
        made = []
        for port, (weight, bias) in enumerate(zip(self._maps.weights, self._maps.biases, strict=True)):
            group = self._heads // len(weight)
            if given is not None:
                read = self._normed(self._parts.attention_norm, given[port])
                one = torch.einsum("hbtm,hdm->bthd", read, weight.repeat_interleave(group, 0))
            elif gradients is not None:
                norm = partial(self._normed, self._parts.attention_norm)
                split = _Split(weight, group, norm, partial(gradients, self._layer, port))
                one = _SplitRead.apply(stream, split)  # type: ignore[no-untyped-call]
            else:
                one = _projected(normed, weight, group)
            made.append(one if bias is None else one + bias.repeat_interleave(group, 0))
        return _Read(made[0], made[1], made[2], distinct=given is not None or gradients is not None)

    def _run(
        self, read: _Read, args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> tuple[Float[Tensor, "B T H Dv"], tuple[Any, ...] | None]:
        """z as it enters W_O, and what else attention returns."""
        members = self._members if read.distinct else 1
        found: list[Tensor] = []
        rest: tuple[Any, ...] | None = None

        def keep(z: Tensor) -> Tensor:
            found.append(z.reshape(*read.q.shape[:3], -1))
            return z

        for member in range(members):
            own = slice(member, None, self._members)
            joined = self._maps.join(read.q, read.k[:, :, own], read.v[:, :, own])
            with ExitStack() as stack:
                for module, output in joined.items():
                    stack.enter_context(forward_as(module, _giving(output)))
                stack.enter_context(forward_as(self._projection, keep))
                output = self._attend(*args, **kwargs)
            rest = output[1:] if isinstance(output, tuple) else None
        if members == 1:
            return found[0], rest
        # Of the run with the keys and values of member m, the heads that are member m of their group.
        return torch.stack([z[:, :, m :: self._members] for m, z in enumerate(found)], 3).flatten(2, 3), rest

    def _mlp_forward(self, stream: Tensor, *args: Any, **kwargs: Any) -> Any:
        given = _changed(partial(self._wiring.mlp_reads, self._layer), stream)
        read = self._normed(self._parts.mlp_norm, given)
        output = self._feed(read, *args, **kwargs)
        gave, rest = (output[0], output[1:]) if isinstance(output, tuple) else (output, None)
        write = self._normed(self._parts.mlp_post, gave)
        self._wiring.mlp_wrote(self._layer, write.view(stream.shape))  # llama4 joins batch and positions
        return write if rest is None else (write, *rest)


def _projected(normed: Tensor, weight: Tensor, group: int) -> Float[Tensor, "B T H D"]:
    joined = normed @ weight.flatten(0, 1).T
    return joined.view(*joined.shape[:-1], *weight.shape[:2]).repeat_interleave(group, 2)


@dataclass(frozen=True, eq=False)
class _Split:
    """One port of a layer: its weight a group, how many heads share it, the norm in front, who is told gradients."""

    weight: Float[Tensor, "G D d"]
    group: int
    norm: Callable[[Tensor], Tensor]
    told: Callable[[Float[Tensor, "H B T d"]], None]


class _SplitRead(torch.autograd.Function):
    """All heads read one stream; the gradient is told head by head before it is summed.

    Copies of the stream a head are made in the backward pass only, of one port of one layer at a time.
    """

    @staticmethod
    def forward(ctx: Any, stream: Tensor, split: _Split) -> Tensor:
        ctx.save_for_backward(stream)
        ctx.split = split
        return _projected(split.norm(stream), split.weight, split.group)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, None]:
        (stream,), split = ctx.saved_tensors, ctx.split
        by_head = torch.einsum("bthd,hdm->hbtm", grads[0], split.weight.repeat_interleave(split.group, 0))
        copies = stream.detach().expand_as(by_head).requires_grad_()
        with torch.enable_grad():
            normed = split.norm(copies)
        ports = by_head if normed is copies else torch.autograd.grad(normed, copies, by_head)[0]
        split.told(ports)
        return ports.sum(0), None


def _giving(output: Tensor) -> Callable[..., Tensor]:
    return lambda *_args: output


def _same(stream: Tensor) -> Tensor:
    return stream
