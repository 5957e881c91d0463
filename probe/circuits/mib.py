"""The MIB benchmark's graph files (Mueller et al., 2025): a score and a mark on every edge of a model's graph."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Bool, Float

from probe.circuits.graph import LOGITS, Graph, layer_of
from probe.errors import ResultsError
from probe.store import write_file
from probe.strict import read_json

THEIR_SIGN = -1.0
"""The published IOI file has the metric's change where an edge is corrupted: helpful edges are negative."""

_SHAPE = ("n_layers", "n_heads", "d_model")


@dataclass(frozen=True, eq=False)
class MibGraph:
    """A graph with what the file says about it.

    scores: [sources, targets] float64, positive where the edge helps the task, 0 where none can be. kept: the edges
    that the file marks as in the circuit; kept_nodes: the nodes it marks. d_model: width of the model's stream.
    """

    graph: Graph
    d_model: int
    scores: Float[np.ndarray, "S P"]
    kept: Bool[np.ndarray, "S P"]
    kept_nodes: tuple[str, ...]


def load_mib(path: str | Path, *, sign: float = THEIR_SIGN) -> MibGraph:
    """The graph of a file in the format of the MIB circuit track and the EAP-IG package.

    sign: what the file's scores are multiplied by; -1 for files that hold the change of the metric, such as the
    published one, 1 for those that hold the damage already. Raises ResultsError, naming the file, for another
    format, for unknown, missing or impossible nodes and edges, and for scores that are no finite number.
    """
    place = Path(path)
    found = read_json(place)
    try:
        return _parsed(found, sign)
    except ResultsError as error:
        raise ResultsError(f"{place}: {error}") from error


def save_mib(mib: MibGraph, path: str | Path, *, sign: float = THEIR_SIGN) -> None:
    """Write the format that `load_mib` reads; `sign` as there. The published file comes back byte for byte."""
    graph = mib.graph
    nodes = {name: {"in_graph": name in mib.kept_nodes} for name in (*graph.sources, LOGITS)}
    edges = {
        f"{graph.sources[row]}->{graph.targets[column]}": {
            "score": sign * float(mib.scores[row, column]),
            "in_graph": bool(mib.kept[row, column]),
        }
        for row, column in _their_order(graph)
    }
    shape = {"n_layers": graph.n_layers, "n_heads": graph.n_heads, "parallel_attn_mlp": graph.parallel}
    made = {"cfg": {**shape, "d_model": mib.d_model}, "nodes": nodes, "edges": edges}
    write_file(Path(path), json.dumps(made, allow_nan=False).encode())


def _their_order(graph: Graph) -> list[tuple[int, int]]:
    """All edges as the package lists them: half a block of targets after the other, in each source by source."""
    halves = {LOGITS: 2 * graph.n_layers}
    halves |= {name: 2 * layer_of(name) + name.startswith("m") for name in graph.targets if name != LOGITS}
    places = [(int(row), int(column)) for row, column in np.argwhere(graph.possible)]
    return sorted(places, key=lambda place: (halves[graph.targets[place[1]]], place))


def _parsed(found: dict[str, Any], sign: float) -> MibGraph:
    cfg, nodes, edges = (_object(found, name) for name in ("cfg", "nodes", "edges"))
    for name in _SHAPE:
        if isinstance(cfg.get(name), bool) or not isinstance(cfg.get(name), int) or not 1 <= cfg[name] <= 2**20:
            raise ResultsError(f"cfg.{name}: found {cfg.get(name)!r}; wanted a whole number from 1 on")
    if not isinstance(cfg.get("parallel_attn_mlp"), bool):
        raise ResultsError(f"cfg.parallel_attn_mlp: found {cfg.get('parallel_attn_mlp')!r}; wanted true or false")
    # Every node has an entry, so that a short file cannot ask for a graph too large to be built.
    if len(nodes) != 2 + cfg["n_layers"] * (cfg["n_heads"] + 1):
        raise ResultsError(f"{len(nodes)} nodes for {cfg['n_layers']} layers of {cfg['n_heads']} heads; wanted each")
    graph = Graph(cfg["n_layers"], cfg["n_heads"], cfg["parallel_attn_mlp"])
    for name in nodes:
        if name != LOGITS:
            graph.source(name)
    scores, kept = np.zeros(graph.possible.shape), np.zeros(graph.possible.shape, dtype=bool)
    for name, edge in edges.items():
        place = _place(graph, name)
        scores[place], kept[place] = sign * _score(name, edge), _mark(name, edge)
    if len(edges) != graph.n_edges:
        raise ResultsError(f"{len(edges):,} edges; wanted each of {graph.n_edges:,}")
    return MibGraph(graph, cfg["d_model"], scores, kept, tuple(name for name in nodes if _mark(name, nodes[name])))


def _object(found: dict[str, Any], name: str) -> dict[str, Any]:
    if not isinstance(found.get(name), dict):
        raise ResultsError(f"no object {name!r}; wanted a graph file with cfg, nodes and edges")
    return dict(found[name])


def _place(graph: Graph, name: str) -> tuple[int, int]:
    source, arrow, target = name.partition("->")
    if not arrow:
        raise ResultsError(f"edge {name!r}: wanted source->target")
    place = graph.source(source), graph.target(target)
    if not graph.possible[place]:
        raise ResultsError(f"edge {name} goes against the order of the model (with the stream it makes a cycle)")
    return place


def _score(name: str, edge: Any) -> float:
    score = edge.get("score") if isinstance(edge, dict) else None
    if isinstance(score, bool) or not isinstance(score, int | float) or not np.isfinite(score):
        raise ResultsError(f"edge {name}: score {score!r}; wanted a finite number")
    return float(score)


def _mark(name: str, part: Any) -> bool:
    mark = part.get("in_graph") if isinstance(part, dict) else None
    if not isinstance(mark, bool):
        raise ResultsError(f"{name}: in_graph {mark!r}; wanted true or false")
    return mark
