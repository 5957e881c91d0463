"""A model's blocks, and starting a forward in the middle: what lies below a block need not be computed twice."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, TypeVar

import torch
from jaxtyping import Float
from torch import Tensor, nn

from .errors import HookError
from .forward_as import forward_as
from .sites import sites
from .spec import main_sites

if TYPE_CHECKING:
    from transformers import PreTrainedModel

Result = TypeVar("Result")


@dataclass(frozen=True)
class Prefix:
    """What one forward left at the door of every block.

    hidden: [blocks] of [B, T, d_model], the residual stream that enters block l, in the model's dtype.
    outputs: [blocks], how many values block l returns: 0 for a tensor alone, else the length of its tuple.
    """

    hidden: tuple[Float[Tensor, "B T d_model"], ...]
    outputs: tuple[int, ...]


def blocks(model: PreTrainedModel) -> nn.ModuleList:
    """The list of blocks that holds the main stack's attention; block l is layer l.

    Raises HookError where layers are not the items of one list, as in models of several stages.
    """
    found = main_sites(sites(model))
    owners: dict[str, list[int]] = {}
    for site in found:
        parts = site.name.split(".")
        place = next((index for index, part in enumerate(parts) if part.isdigit()), None)
        if place is None or int(parts[place]) != site.layer:
            raise HookError(f"{type(model).__name__}: {site.name} is not layer {site.layer} of a list of blocks")
        owners.setdefault(".".join(parts[:place]), []).append(site.layer)
    lists = [model.get_submodule(name) for name in owners]
    if len(lists) != 1 or not isinstance(lists[0], nn.ModuleList):
        raise HookError(f"{type(model).__name__}: blocks stand in {', '.join(owners)}; wanted one list of blocks")
    return lists[0]


def record_prefix(model: PreTrainedModel, run: Callable[[], Result]) -> tuple[Prefix, Result]:
    """Call `run`, which runs the model once, and keep what enters every block (no graph).

    Raises HookError where a block did not run exactly once, or does not take its input as first argument.
    """
    layers = blocks(model)
    hidden: dict[int, Tensor] = {}
    outputs: dict[int, int] = {}

    def entering(index: int) -> Callable[..., None]:
        def note(module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
            given = args[0] if args else kwargs.get("hidden_states")
            if not isinstance(given, Tensor) or index in hidden:
                raise HookError(f"block {index} ({type(module).__name__}) cannot be started from its input alone")
            hidden[index] = given.detach()

        return note

    def leaving(index: int) -> Callable[..., None]:
        def note(_module: nn.Module, _args: object, output: object) -> None:
            outputs[index] = len(output) if isinstance(output, tuple) else 0

        return note

    with ExitStack() as stack:
        for index, block in enumerate(layers):
            stack.callback(block.register_forward_pre_hook(entering(index), with_kwargs=True).remove)
            stack.callback(block.register_forward_hook(leaving(index)).remove)
        result = run()
    missing = [index for index in range(len(layers)) if index not in hidden]
    if missing:
        raise HookError(f"block {missing[0]} of {len(layers)} did not run; a forward cannot be started there")
    count = range(len(layers))
    return Prefix(tuple(hidden[index] for index in count), tuple(outputs[index] for index in count)), result


@contextmanager
def resumed(model: PreTrainedModel, prefix: Prefix, layer: int, hidden: Float[Tensor, "B T d_model"]) -> Iterator[None]:
    """Forwards start at block `layer`, from `hidden`; the blocks below are not run. Undone at the end.

    The ids given to the model must have the shape [B, T]; positions and masks are made from them as ever.
    """
    layers = blocks(model)
    if not 0 <= layer < len(layers):
        raise HookError(f"no block {layer}; the model has 0 to {len(layers) - 1}")

    def start(_module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> tuple[tuple[Any, ...], Any]:
        given = args[0] if args else kwargs["hidden_states"]
        if given.shape != hidden.shape:
            raise HookError(f"block {layer} was given {list(given.shape)}; wanted {list(hidden.shape)} as resumed")
        here = hidden.to(given.device)
        return ((here, *args[1:]), kwargs) if args else (args, {**kwargs, "hidden_states": here})

    with ExitStack() as stack:
        for index in range(layer):
            stack.enter_context(forward_as(layers[index], _passing(prefix.outputs[index])))
        stack.callback(layers[layer].register_forward_pre_hook(start, with_kwargs=True).remove)
        yield


def _passing(outputs: int) -> Callable[..., Tensor | tuple[Tensor | None, ...]]:
    """The forward of a block that hands on what it is given, in the form that it returns."""

    def passed(hidden_states: Tensor, *_args: object, **_kwargs: object) -> Tensor | tuple[Tensor | None, ...]:
        return hidden_states if not outputs else (hidden_states, *[None] * (outputs - 1))

    return passed


def same_start(model: PreTrainedModel, run: Callable[[], Tensor]) -> bool:
    """Whether a forward started at each block gives the logits of the whole one, bit for bit.

    run: runs the model once and returns its logits. False for models whose blocks share more than the stream
    (streams side by side, keys and values of an earlier block): they are to be run whole.
    """
    with torch.no_grad():
        try:
            prefix, whole = record_prefix(model, run)
            for layer in range(len(prefix.hidden)):
                with resumed(model, prefix, layer, prefix.hidden[layer]):
                    if not torch.equal(run(), whole):
                        return False
        except (HookError, TypeError, AttributeError):
            return False
    return True
