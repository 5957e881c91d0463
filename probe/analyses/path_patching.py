"""Path patching: what one head does to the answer through one way in, and through no other head.

After Wang et al. (arXiv 2211.00593, appendix B) and Merullo et al. (arXiv 2310.08744), in three steps (METHODS 10):
run the prompts and their corrupted twins; run the prompts with the sender's output taken from the twin and every other
head's output held at its clean value, and record what the receivers read; run the prompts with the receivers reading
that. The published code leaves out senders above the lowest receiver's layer when receivers differ in depth; here
every sender reaches the receivers above it.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from jaxtyping import Float

from probe.analyses.exact import BATCH_TOKENS, DEVICE_BATCH_TOKENS, Where
from probe.analyses.path_runs import LOGITS, HeldRuns, Receivers
from probe.analyses.twins import check_apart, paired_prompts
from probe.circuits.graph import INPUT, PORTS, Graph, head_of, layer_of
from probe.errors import TokensError
from probe.hooks.anatomy import anatomy
from probe.models import Loaded
from probe.running import Running
from probe.tasks.task import Task

if TYPE_CHECKING:
    import plotly.graph_objects as go

HOLDS = ("everywhere", "position", "nothing")
MLPS = ("live", "frozen")


@dataclass(frozen=True, eq=False)
class PathEffects:
    """What each sender does through the receivers.

    clean, corrupted: [n] the metric of each prompt and of its twin; patched: [senders, n] the clean prompt's with the
    path from that sender to the receivers corrupted; float64, in the metric's unit. position, hold, mlps: as asked
    for. layer_forwards: the cost; one is one block run over these prompts.
    """

    task: str
    metric: str
    senders: tuple[str, ...]
    receivers: tuple[str, ...]
    position: str | int | None
    hold: str
    mlps: str
    clean: Float[np.ndarray, "n"]
    corrupted: Float[np.ndarray, "n"]
    patched: Float[np.ndarray, "senders n"]
    layer_forwards: float

    @property
    def effect(self) -> Float[np.ndarray, "senders n"]:
        """clean − patched: positive where the path helps."""
        return np.asarray(self.clean - self.patched)

    @property
    def normalised(self) -> Float[np.ndarray, "senders"]:
        """(patched − clean) / (corrupted − clean), a ratio of means over prompts: 1 where the path is all there is."""
        clean = self.clean.mean()
        return np.asarray((self.patched.mean(-1) - clean) / (self.corrupted.mean() - clean))

    @property
    def published(self) -> Float[np.ndarray, "senders"]:
        """−100 × normalised, as Merullo et al. print it (they average batches of 25, each normalised by itself)."""
        return -100 * self.normalised

    def plot(self) -> go.Figure:
        """What every head does through the receivers, as a map."""
        from probe.plots.sources import path_map

        return path_map(self)


def path_patch(
    loaded: Loaded,
    task: Task,
    receivers: str | Sequence[str] = LOGITS,
    *,
    senders: Sequence[str] | None = None,
    position: str | int | None = None,
    hold: str = "everywhere",
    mlps: str = "live",
    rows: slice = slice(None),
) -> PathEffects:
    """The effect of each sender on task.prompts[rows] by the paths that reach the receivers without another head.

    receivers: "logits", or ports such as a18.h6<q>; a18.h6 is all three of them, which is that head's z. senders:
    heads such as a9.h1, or `input`, the embedding (None: all heads). position: where the sender's output is taken
    from the twin, a name of the task's or a number (None: everywhere). hold: where all other heads keep their clean z:
    "everywhere" (Wang et al.); at the "position" alone, as Merullo et al. do, which is the same where nothing comes
    after it; "nothing", which is activation patching through everything. mlps: "live", computed anew, or "frozen" at
    their clean output wherever heads are held.

    A sender in layer l takes the blocks from l to the highest receiver and those from the lowest receiver above l to
    the end (to `logits`: those from l to the end); senders of a layer run as one batch. One with no receiver above it
    is not run: its effect is 0. Raises TokensError for an unknown position, hold or mlps, for prompts without twins or
    judged like their twins, and for neg_kl; ResultsError for nodes that the model does not have; HookError for
    frozen MLPs in a model whose MLPs cannot be told.
    """
    running = Running(loaded.model)
    graph = _graph(running)
    asked = Receivers.of(_ports(graph, receivers))
    names = _senders(graph, senders)
    _check(task, hold, mlps, position)
    prompts = paired_prompts(task, rows)
    mlp = [block.mlp for block in anatomy(loaded.model).blocks] if mlps == "frozen" else None
    runs = HeldRuns(running, task.metric, Where((position,) if isinstance(position, int) else position), hold, mlp)
    groups = _by_layer(names)
    clean, corrupted, patched = np.empty(len(prompts)), np.empty(len(prompts)), np.empty((len(names), len(prompts)))
    for part in _chunks(running, task.length, len(prompts), max(len(group) for group in groups.values())):
        both = runs.read(prompts[part])
        clean[part], corrupted[part] = both.clean, both.corrupted
        for layer, members in groups.items():
            heads = [head_of(names[index]) for index in members]
            patched[members, part] = runs.patched(both, layer, [head[1] for head in heads if head], asked)
    check_apart(task, clean, corrupted)
    cost = 2 * runs.depth + sum(len(group) * runs.cost(layer, asked) for layer, group in groups.items())
    shown = tuple([receivers] if isinstance(receivers, str) else receivers)
    return PathEffects(task.name, task.metric, names, shown, position, hold, mlps, clean, corrupted, patched, cost)


def _graph(running: Running) -> Graph:
    """The nodes by name; which MLP reads which stream does not matter here."""
    layers = tuple(site.layer for site in running.sites)
    return Graph(max(layers) + 1, running.n_heads, layers=layers)


def _ports(graph: Graph, receivers: str | Sequence[str]) -> tuple[str, ...]:
    """Receivers as targets of the graph: heads are their three ports. Raises ResultsError for unknown ones."""
    given = [receivers] if isinstance(receivers, str) else list(receivers)
    if not given or (LOGITS in given and len(given) > 1):
        raise TokensError(f"receivers {given}; wanted {LOGITS} alone, or one or more ports such as a3.h1<q>")
    heads = {name: [f"{name}<{port}>" for port in PORTS] for name in graph.heads}
    ports = [port for name in given for port in heads.get(name, [name])]
    for name in ports:
        graph.target(name)
        if name.startswith("m"):
            raise TokensError(f"receiver {name}: an MLP; wanted {LOGITS}, or ports of heads such as a3.h1<q>")
    return tuple(dict.fromkeys(ports))


def _senders(graph: Graph, senders: Sequence[str] | None) -> tuple[str, ...]:
    """Heads and `input`, by name. Raises ResultsError for unknown ones, TokensError for others and for none."""
    names = tuple(graph.heads if senders is None else senders)
    for name in names:
        graph.source(name)
        if name.startswith("m"):
            raise TokensError(f"sender {name}: an MLP; wanted heads, or {INPUT}")
    if not names:
        raise TokensError("no sender; wanted at least one")
    return names


def _check(task: Task, hold: str, mlps: str, position: str | int | None) -> None:
    for name, value, known in (("hold", hold, HOLDS), ("mlps", mlps, MLPS)):
        if value not in known:
            raise TokensError(f"{name} {value!r}; wanted one of {', '.join(known)}")
    if hold == "nothing" and mlps == "frozen":
        raise TokensError("frozen MLPs where no head is held; wanted mlps live with hold nothing")
    if isinstance(position, int) and not 0 <= position < task.length:
        raise TokensError(f"position {position}; wanted 0 to {task.length - 1}, or a name")


def _by_layer(names: Sequence[str]) -> dict[int, list[int]]:
    """Layer → places of its senders in the list; `input` writes before layer 0, in -1."""
    groups: dict[int, list[int]] = {}
    for index, name in enumerate(names):
        groups.setdefault(-1 if name == INPUT else layer_of(name), []).append(index)
    return groups


def _chunks(running: Running, length: int, count: int, copies: int) -> Iterator[slice]:
    """Stretches of prompts for which a copy for each sender of a layer fits one run, of one prompt at least."""
    tokens = BATCH_TOKENS if running.device.type == "cpu" else DEVICE_BATCH_TOKENS
    step = max(1, tokens // (length * copies))
    for start in range(0, count, step):
        yield slice(start, min(start + step, count))
