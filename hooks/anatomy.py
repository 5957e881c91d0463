"""What a decoder's blocks are made of: norms, attention, MLP, in which order. Found by watching one forward.

Names differ from family to family, so that parts are told by what they take and give: the attention's norm is the
module whose input is the stream and whose output is what attention reads. A block is understood when the stream that
leaves it is the stream that entered it plus what its attention and its MLP write; anything else is refused by name.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from functools import partial
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from .blocks import blocks
from .call import Site
from .errors import HookError
from .sample import random_inputs
from .sites import sites
from .spec import main_sites

if TYPE_CHECKING:
    from transformers import PreTrainedModel


@dataclass(frozen=True, eq=False)
class BlockParts:
    """One block that has attention and one MLP.

    attention_norm, mlp_norm: what attention and the MLP read the stream through; None: they read it as it is.
    attention_post, mlp_post: norms of what they give, before it is added to the stream; None: it is added as it is.
    A part's *write* is what is added. parallel: both read the stream that enters the block; the two norms may then be
    one module.
    """

    site: Site
    block: nn.Module
    attention: nn.Module
    attention_norm: nn.Module | None
    attention_post: nn.Module | None
    mlp: nn.Module
    mlp_norm: nn.Module | None
    mlp_post: nn.Module | None
    parallel: bool

    @property
    def layer(self) -> int:
        """The block's number."""
        return self.site.layer


@dataclass(frozen=True, eq=False)
class Anatomy:
    """All blocks, and what makes logits of the stream that leaves the last one.

    final_norm: None where the unembedding reads the stream as it is. unembedding: the map to logits; a family may
    still scale or cap what it gives.
    """

    blocks: tuple[BlockParts, ...]
    final_norm: nn.Module | None
    unembedding: nn.Module

    @property
    def parallel(self) -> bool:
        """Whether attention and MLP of a block read the same stream; equal in all blocks."""
        return self.blocks[0].parallel


@dataclass
class _Ran:
    """What a module took and gave in the forward."""

    module: nn.Module
    name: str
    read: Tensor
    gave: Tensor


@dataclass
class _Trace:
    """What the modules of one block did, in the order in which they began."""

    whole: _Ran | None = None
    inside: list[_Ran] = field(default_factory=list)


def anatomy(model: PreTrainedModel) -> Anatomy:
    """The parts of a transformers decoder, from one forward of a dozen random tokens.

    Raises HookError, by name, for blocks that are not understood: a norm after the addition (BERT, GPT-1), a scaled
    residual (Granite), a feed-forward that is not one module (OPT), a block without attention (hybrids), blocks that
    are not equally parallel.
    """
    found = {site.layer: site for site in main_sites(sites(model))}
    layers = blocks(model)
    lacking = [index for index in range(len(layers)) if index not in found]
    if lacking:
        raise HookError(f"block {lacking[0]} of {type(model).__name__} has no attention; wanted it in every block")
    unembedding: nn.Module | None = model.get_output_embeddings()  # type: ignore[no-untyped-call]
    if unembedding is None:
        raise HookError(f"{type(model).__name__} gives no logits; wanted a language model with its unembedding")
    traces = [_Trace() for _ in layers]
    ends: list[_Ran] = []
    with torch.no_grad(), _watching(model, layers, traces, ends, unembedding):
        model(**random_inputs(model))
    parts = tuple(_parts(found[index], layers[index], trace) for index, trace in enumerate(traces))
    odd = [part.layer for part in parts if part.parallel != parts[0].parallel]
    if odd:
        raise HookError(f"blocks 0 and {odd[0]} of {type(model).__name__} differ in what their MLP reads")
    return Anatomy(parts, _final_norm(traces[-1], ends, unembedding, type(model).__name__), unembedding)


@contextmanager
def _watching(
    model: nn.Module, layers: nn.ModuleList, traces: list[_Trace], ends: list[_Ran], unembedding: nn.Module
) -> Iterator[None]:
    inner = {id(module) for module in layers.modules()}
    with ExitStack() as stack:

        def watch(module: nn.Module, name: str, keep: Any) -> None:
            def note(_module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any], output: Any) -> None:
                given = args[0] if args else kwargs.get("hidden_states")
                gave = output[0] if isinstance(output, tuple) else output
                if isinstance(given, Tensor) and isinstance(gave, Tensor):
                    keep(_Ran(module, name, given, gave))

            stack.callback(module.register_forward_hook(note, with_kwargs=True).remove)

        for block, trace in zip(layers, traces, strict=True):
            watch(block, "", partial(setattr, trace, "whole"))
            for name, child in block.named_children():
                watch(child, name, trace.inside.append)
        for name, module in model.named_modules():
            if id(module) not in inner and module is not layers and not len(list(module.children())):
                watch(module, name, ends.append)
        yield


def _parts(site: Site, block: nn.Module, trace: _Trace) -> BlockParts:
    where = f"block {site.layer} ({type(block).__name__})"
    path = site.name.split(".")
    child = path[path.index(str(site.layer)) + 1]
    whole = trace.whole
    attention = next((ran for ran in trace.inside if ran.name == child), None)
    if whole is None or attention is None:
        raise HookError(f"{where}: did not show what its attention reads; wanted hidden states as first argument")
    norms = [ran for ran in trace.inside if _is_norm(ran.module)]
    before = _feeding(norms, whole.read, attention.read)
    if before is None and not torch.equal(whole.read, attention.read):
        raise HookError(f"{where}: attention reads neither the stream nor a norm of it")
    after = _following(norms, attention.gave)
    write = attention.gave if after is None else after.gave
    middle = whole.read + write
    mlp = _mlp(trace, child, where)
    sequential = _feeding(norms, middle, mlp.read)
    side = _feeding(norms, whole.read, mlp.read)
    parallel = sequential is None and (side is not None or torch.equal(mlp.read, whole.read))
    if not parallel and sequential is None and not torch.equal(mlp.read, middle):
        raise HookError(f"{where}: {mlp.name} reads neither the stream nor a norm of it (a scaled or normed residual?)")
    closing = _following(norms, mlp.gave)
    last = mlp.gave if closing is None else closing.gave
    _check_sum(where, whole, write, last)
    return BlockParts(
        site, block, attention.module, _module(before), _module(after), mlp.module,
        _module(side if parallel else sequential), _module(closing), parallel,
    )  # fmt: skip


def _check_sum(where: str, whole: _Ran, attention: Tensor, mlp: Tensor) -> None:
    """Three numbers are added in two roundings, in an order that families choose: 4 u of the sum of their sizes."""
    sizes = whole.read.double().abs() + attention.double().abs() + mlp.double().abs()
    error = (whole.gave.double() - whole.read.double() - attention.double() - mlp.double()).abs()
    if not bool((error <= 2 * torch.finfo(whole.gave.dtype).eps * sizes).all()):
        raise HookError(
            f"{where}: the stream that leaves is not the one that entered plus what attention and MLP write "
            "(a norm after the addition, or a scaled residual); its parts cannot be told apart"
        )


def _mlp(trace: _Trace, attention: str, where: str) -> _Ran:
    """The one part that is no attention, norm or dropout."""
    others = [
        ran
        for ran in trace.inside
        if ran.name != attention and not _is_norm(ran.module) and not isinstance(ran.module, nn.Dropout | nn.Identity)
    ]
    if len(others) != 1:
        names = ", ".join(ran.name for ran in others) or "none"
        raise HookError(f"{where}: wanted one module beside attention and norms, the MLP; found {names}")
    return others[0]


def _is_norm(module: nn.Module) -> bool:
    return "norm" in type(module).__name__.lower()


def _feeding(norms: list[_Ran], stream: Tensor, read: Tensor) -> _Ran | None:
    """The norm that takes the stream and gives what is read."""
    # Two norms of one stream may have equal weights: the very tensor that is read decides before equal ones do.
    for same in (_identical, torch.equal):
        found = next((ran for ran in norms if torch.equal(ran.read, stream) and same(ran.gave, read)), None)
        if found is not None:
            return found
    return None


def _identical(one: Tensor, other: Tensor) -> bool:
    return one is other


def _following(norms: list[_Ran], gave: Tensor) -> _Ran | None:
    return next((ran for ran in norms if torch.equal(ran.read, gave)), None)


def _module(ran: _Ran | None) -> nn.Module | None:
    return None if ran is None else ran.module


def _final_norm(last: _Trace, ends: list[_Ran], unembedding: nn.Module, name: str) -> nn.Module | None:
    if last.whole is None:
        raise HookError(f"{name}: the last block did not run")
    read = next((ran.read for ran in ends if ran.module is unembedding), None)
    if read is None:
        raise HookError(f"{name}: its unembedding did not run")
    if torch.equal(read, last.whole.gave):
        return None
    found = _feeding([ran for ran in ends if _is_norm(ran.module)], last.whole.gave, read)
    if found is None:
        raise HookError(f"{name}: its unembedding reads neither the stream nor a norm of it")
    return found.module
