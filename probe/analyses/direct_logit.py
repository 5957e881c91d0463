"""Direct logit attribution: what every part of the model writes straight into the logit difference (METHODS 17).

The stream that the unembedding reads is the embedding plus everything that was written to it. With the final norm's
scale frozen at its value in the run, the logit difference of a prompt is a sum of one number for each of these.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from probe.analyses.exact import BATCH_TOKENS
from probe.circuits.graph import Graph
from probe.errors import ModelError, TokensError
from probe.hooks.anatomy import Anatomy, BlockParts, anatomy
from probe.hooks.frozen_norm import FrozenNorm, frozen
from probe.hooks.spec import output_projection
from probe.models import Loaded
from probe.running import Running
from probe.tasks.evaluate import logits_at
from probe.tasks.task import Prompt, Task, clean_ids

if TYPE_CHECKING:
    import plotly.graph_objects as go


@dataclass(frozen=True, eq=False)
class DirectLogit:
    """The logit difference of every prompt, part by part, in logits, float64.

    writes: a row for each source of `graph` (input, heads, MLPs). constants: what belongs to no source:
    `attention_bias` (biases of output projections, and the offset of a norm that follows attention), `final_offset`
    (β of the final norm), `unembedding_bias`. logit_diff: mean logit of the answers − mean logit of the wrongs at the
    last judged position, as the run had it. softcap: the cap that the model puts on its logits afterwards (None:
    none); what is attributed is the difference before it.
    """

    task: str
    graph: Graph
    writes: Float[np.ndarray, "S n"]
    constants: Mapping[str, Float[np.ndarray, "n"]]
    logit_diff: Float[np.ndarray, "n"]
    softcap: float | None = None

    @property
    def total(self) -> Float[np.ndarray, "n"]:
        """The sum of all parts: equal to `logit_diff` but for the rounding of the run."""
        return np.asarray(self.writes.sum(0) + sum(self.constants.values()))

    def of(self, source: str) -> Float[np.ndarray, "n"]:
        """One source's share of every prompt. Raises ResultsError for a source that the graph does not have."""
        return np.asarray(self.writes[self.graph.source(source)])

    def plot(self) -> go.Figure:
        """What every head writes, as a map."""
        from probe.plots.sources import direct_map

        return direct_map(self)


def direct_logit(loaded: Loaded, task: Task, *, rows: slice = slice(None)) -> DirectLogit:
    """What each source of a transformers decoder writes into the logit difference of task.prompts[rows].

    One clean forward. Whatever the task's metric, the logit difference is attributed, so that its prompts need
    answers and wrongs (TokensError). A norm that follows a sublayer is frozen at its own scale too. Raises HookError
    or ModelError, by name, for models whose writes cannot be followed, such as those that scale their logits.
    """
    prompts = task.prompts[rows]
    lacking = [index for index, prompt in enumerate(prompts) if not (prompt.answer_ids and prompt.wrong_ids)]
    if lacking or not prompts:
        found = f"prompt {lacking[0]} has answers or wrongs only" if lacking else "no prompt"
        raise TokensError(f"task {task.name}: {found}; direct logit attribution wants prompts with both")
    running = Running(loaded.model)
    if running.is_lens:
        raise ModelError(f"{loaded.name}: a TransformerLens model; load it by name to follow what its parts write")
    parts = anatomy(loaded.model)
    graph = Graph(len(parts.blocks), running.n_heads, parts.parallel)
    step = max(1, BATCH_TOKENS // task.length)
    batches = [_attributed(loaded, parts, prompts[at : at + step]) for at in range(0, len(prompts), step)]
    return DirectLogit(
        task.name,
        graph,
        np.concatenate([torch.stack(one.writes).numpy() for one in batches], 1),
        {name: np.concatenate([one.constants[name].numpy() for one in batches]) for name in batches[0].constants},
        np.concatenate([one.logit_diff.numpy() for one in batches]),
        _softcap(loaded.model),
    )


@dataclass
class _Attributed:
    """The parts of one batch: tensors [n] in float64 on the CPU, sources in the graph's order."""

    writes: list[Float[Tensor, "n"]]
    constants: dict[str, Float[Tensor, "n"]]
    logit_diff: Float[Tensor, "n"]


@dataclass
class _Seen:
    """What hooks keep of a run, at one position a prompt: by module, what it took and what it gave, [n, *]."""

    at: Int[Tensor, "n"]
    took: dict[nn.Module, Tensor] = field(default_factory=dict)
    gave: dict[nn.Module, Tensor] = field(default_factory=dict)

    def hook(self, length: int) -> Callable[..., None]:
        """A forward hook that keeps the rows of interest."""

        def note(module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any], output: Any) -> None:
            given = args[0] if args else kwargs["hidden_states"]
            for kept, value in ((self.took, given), (self.gave, output[0] if isinstance(output, tuple) else output)):
                by_token = value.reshape(len(self.at), length, -1)
                kept[module] = by_token[torch.arange(len(self.at), device=value.device), self.at.to(value.device)]

        return note


def _attributed(loaded: Loaded, parts: Anatomy, prompts: Sequence[Prompt]) -> _Attributed:
    ids = clean_ids(prompts)
    at = torch.tensor([prompt.metric_positions[-1] for prompt in prompts])
    seen = _Seen(at)
    with torch.no_grad(), _watching(loaded.model, parts, seen, ids.shape[1]) as capped:
        logits = logits_at(loaded.model, ids, at[:, None])[:, 0]
    _check_logits(loaded, capped[0], logits)
    direction, bias = _direction(parts.unembedding, prompts)
    final = None if parts.final_norm is None else frozen(parts.final_norm, seen.took[parts.final_norm])
    before = direction if final is None else final.pulled(direction)
    writes = [_dot(seen.took[parts.blocks[0].block], before)]
    sizes = seen.took[parts.blocks[0].block].double().abs()
    biases = torch.zeros_like(before)
    for block in parts.blocks:
        heads, shared = _heads(loaded.model, block, seen)
        mlp = seen.gave[block.mlp if block.mlp_post is None else block.mlp_post]
        writes += [*_dot(heads, before[:, None]).unbind(1), _dot(mlp, before)]
        sizes += heads.abs().sum(1) + shared.abs() + mlp.double().abs()
        biases += shared
    constants = {
        "attention_bias": _dot(biases, before),
        "final_offset": _dot(torch.zeros_like(direction) if final is None else final.offset, direction),
        "unembedding_bias": bias,
    }
    found = _Attributed(
        [one.cpu() for one in writes], {name: one.cpu() for name, one in constants.items()},
        _difference(capped[0], prompts).cpu(),
    )  # fmt: skip
    limit = _rounding(parts, final, logits.dtype, sizes, direction, before).cpu()
    _check_sum(loaded, found, limit)
    return found


@contextmanager
def _watching(model: Any, parts: Anatomy, seen: _Seen, length: int) -> Iterator[list[Tensor]]:
    """Keeps what passes the parts' modules; the list yielded gets the unembedding's own logits [n, V]."""
    logits: list[Tensor] = []
    wanted = {output_projection(model, block.site)[0] for block in parts.blocks} | {parts.blocks[0].block}
    for block in parts.blocks:
        wanted |= {one for one in (block.attention_post, block.mlp_post, block.mlp) if one is not None}
    if parts.final_norm is not None:
        wanted.add(parts.final_norm)

    def keep_logits(_module: nn.Module, _args: object, output: Tensor) -> None:
        index = torch.unique(seen.at, return_inverse=True)[1].to(output.device)
        logits.append(output[torch.arange(len(index), device=output.device), index])

    with ExitStack() as stack:
        for module in wanted:
            stack.callback(module.register_forward_hook(seen.hook(length), with_kwargs=True).remove)
        stack.callback(parts.unembedding.register_forward_hook(keep_logits).remove)
        yield logits


def _heads(model: Any, block: BlockParts, seen: _Seen) -> tuple[Float[Tensor, "n H d"], Float[Tensor, "n d"]]:
    """What each head adds to the stream, float64, and what the layer's attention adds that belongs to no head."""
    projection, weight = output_projection(model, block.site)
    z = seen.took[projection].reshape(-1, *weight.shape[:2])
    heads = torch.einsum("nhv,hvd->nhd", z.double(), weight.double())
    bias = getattr(projection, "bias", None)
    shared = torch.zeros_like(heads[:, 0]) if bias is None else bias.double().expand(len(heads), -1)
    if block.attention_post is None:
        return heads, shared
    post = frozen(block.attention_post, seen.took[block.attention_post])
    by_head = FrozenNorm(post.scale[:, None], post.offset, post.centred)
    return by_head.share(heads), post.share(shared) + post.offset


def _direction(unembedding: nn.Module, prompts: Sequence[Prompt]) -> tuple[Float[Tensor, "n d"], Float[Tensor, "n"]]:
    """Mean row of the answers − mean row of the wrongs, of the unembedding and of its bias; float64."""
    weight = getattr(unembedding, "weight", None)
    if not isinstance(unembedding, nn.Linear) or not isinstance(weight, Tensor):
        raise ModelError(f"the unembedding is a {type(unembedding).__name__}; wanted a plain linear map")
    whole = torch.zeros(len(weight), 1).to(weight) if unembedding.bias is None else unembedding.bias[:, None]
    rows: list[Tensor] = []
    biases: list[Tensor] = []
    for prompt in prompts:
        right, wrong = list(prompt.answer_ids), list(prompt.wrong_ids)
        for table, made in ((weight, rows), (whole, biases)):
            made.append(table[right].double().mean(0) - table[wrong].double().mean(0))
    return torch.stack(rows), torch.cat(biases)


def _difference(logits: Float[Tensor, "n V"], prompts: Sequence[Prompt]) -> Float[Tensor, "n"]:
    pairs = zip(logits.double(), prompts, strict=True)
    return torch.stack([row[list(p.answer_ids)].mean() - row[list(p.wrong_ids)].mean() for row, p in pairs])


def _dot(write: Tensor, direction: Tensor) -> Tensor:
    return (write.double() * direction).sum(-1)


def _softcap(model: Any) -> float | None:
    cap = getattr(model.config.get_text_config(), "final_logit_softcapping", None)
    return None if cap is None else float(cap)


def _check_logits(loaded: Loaded, capped: Float[Tensor, "n V"], logits: Float[Tensor, "n V"]) -> None:
    """The model's logits are those of the unembedding, or these with its soft cap."""
    cap = _softcap(loaded.model)
    wanted = capped.double() if cap is None else cap * torch.tanh(capped.double() / cap)
    # A soft cap takes three operations in the model's dtype, or in float32.
    if not torch.allclose(logits.double(), wanted, rtol=4 * torch.finfo(logits.dtype).eps, atol=1e-30):
        raise ModelError(
            f"{loaded.name}: its logits are not those that its unembedding gives (scaled, or masked, after it); "
            "what is attributed would not be what it answers"
        )


def _rounding(
    parts: Anatomy, final: FrozenNorm | None, dtype: torch.dtype,
    sizes: Float[Tensor, "n d"], direction: Float[Tensor, "n d"], before: Float[Tensor, "n d"],
) -> Float[Tensor, "n"]:  # fmt: skip
    """How far the parts' sum may be from a logit difference computed in `dtype`.

    Each of the 2 L additions to the stream, and each product of d terms (the projections' are not repeated here, so
    count one more), rounds by at most u of the sizes that it adds: u (2 L + 2 d) Σ sizes.
    """
    roundings = 2 * len(parts.blocks) + 2 * direction.shape[1]
    offset = 0.0 if final is None else final.offset.abs()
    within = (sizes * before.abs()).sum(-1) + (direction.abs() * offset).sum(-1)
    unit = max(torch.finfo(dtype).eps, torch.finfo(torch.float32).eps)  # norms compute in float32 at best
    return unit / 2 * roundings * within


def _check_sum(loaded: Loaded, found: _Attributed, limit: Float[Tensor, "n"]) -> None:
    total = torch.stack(found.writes).sum(0) + sum(found.constants.values())
    worst = (total - found.logit_diff).abs() - limit
    if bool((worst > 0).any()):
        at = int(worst.argmax())
        raise ModelError(
            f"{loaded.name}: the parts add up to {float(total[at]):.6g}, the logit difference of prompt {at} is "
            f"{float(found.logit_diff[at]):.6g}; something else writes to the stream"
        )
