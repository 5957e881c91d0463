"""What the explorer shows of every head, gathered from tables: close-ups, token texts, circuits, where to begin."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from itertools import pairwise
from typing import Any

import numpy as np
import pandas as pd
from jaxtyping import Bool, Float

from probe.circuits.circuit import Circuit
from probe.circuits.graph import head_of
from probe.columns import METRIC_UNITS
from probe.errors import ResultsError
from probe.page.packing import coded, pack
from probe.page.telling import names, telling
from probe.page.thumbnails import FLOOR, palette, shade
from probe.roles import RULES, explain
from probe.table import HeadTable, head_name, profile_key
from probe.text import show_token

SHADES = np.concatenate([
    np.geomspace(FLOOR, 1e-3, 3)[:-1], np.geomspace(1e-3, 1e-2, 6)[:-1], np.geomspace(1e-2, 1, 21)
])  # fmt: skip
"""The weights that a thumbnail's shades stand for: fewest where all of them look white, so that a thousand thumbnails
fit into a page."""
RECEIVED = np.geomspace(1e-5, 1, 251)
RECEIVED_BINS = 112
WHOLE = 1000
"""Weights of windows are whole thousandths."""
BEFORE, AFTER = 9, 5
"""Tokens of context kept around the query and the key of a pair."""
PEAKS, EDGES = 3, 4


def explorer_data(
    table: HeadTable,
    tokens: Sequence[str] | None = None,
    strings: Mapping[int, str] | None = None,
    circuits: Sequence[Circuit] = (),
    heads: Collection[str] | None = None,
) -> dict[str, Any]:
    """Everything that the explorer's script draws beyond the table's own numbers (`table_data`).

    tokens: of the sequence that the close-ups were made on, the first that was scanned; None: positions stand for
    tokens. strings: id → text, of the tokens that heads write; None: ids stand for them. heads: names of those whose
    pictures and close-ups go along; None: all. Raises ResultsError for tokens that do not reach as far as the
    close-ups, for circuits of another model's shape, and for heads that the table does not have.
    """
    left_out = _left_out(table, heads)
    groups = [
        {"label": f"{stack} {kind}", "rows": [int(row) for row in part.index], **_closeups(table, part, left_out)}
        for (stack, kind), part in table.frame.reset_index(drop=True).groupby(["stack", "kind"], sort=False)
    ]
    arrays = [group["arrays"] for group in groups]
    used = _used(arrays)
    if tokens is not None and used.size > len(tokens):
        raise ResultsError(
            f"close-ups reach position {used.size - 1:,} and only {len(tokens):,} tokens were given: give those of the "
            "first scanned sequence"
        )
    row, metric = _beginning(table)
    ids = np.concatenate([kept.get("writes", np.empty(0, np.int32)).ravel() for kept in arrays])
    return {
        "groups": [
            {**group, "arrays": {name: pack(array, delta=name == "thumbnail")
                                 for name, array in group["arrays"].items()}}
            for group in groups
        ],
        "texts": [] if tokens is None else _segments(tokens, used, arrays),
        "strings": {
            str(one): show_token(strings[one]) for one in np.unique(ids).tolist() if strings and one in strings
        },
        "circuits": [_circuit(table, circuit) for circuit in circuits],
        "left_out": sorted(left_out),
        "rules": {role: explain(role, table.thresholds) for role in RULES},
        # In one order, also where a file gave its own.
        "closeups": dict(sorted(table.metadata.get("closeups", {}).items())) or None,
        "sequences": table.metadata.get("n_sequences"),
        "length": table.metadata.get("length"),
        "shades": [palette()[code].tolist() for code in shade(SHADES)],
        "received": {"floor": RECEIVED[0], "levels": len(RECEIVED) - 1},
        "whole": WHOLE,
        "start": {"row": row, "metric": metric},
    }  # fmt: skip


def _left_out(table: HeadTable, heads: Collection[str] | None) -> set[int]:
    """Rows of the heads that are not among `heads`."""
    if heads is None:
        return set()
    rows = {name: row for row, name in enumerate(names(table.frame))}
    strange = [name for name in heads if name not in rows]
    if strange:
        raise ResultsError(f"no head {strange[0]!r} in this table of {len(rows)} heads; heads are named as L18H6 is")
    return set(rows.values()) - {rows[name] for name in heads}


def _closeups(table: HeadTable, part: pd.DataFrame, left_out: Collection[int]) -> dict[str, Any]:
    """What was kept of a stack's heads, one row a head in the order of `part`, in the dtypes that `pack` takes."""
    stack, kind = part["stack"].iloc[0], part["kind"].iloc[0]
    layers = {layer: place for place, layer in enumerate(part["layer"].drop_duplicates())}
    at = part["layer"].map(layers).to_numpy(), part["head"].to_numpy()

    def kept(name: str) -> np.ndarray | None:
        key = profile_key(name, stack, kind)
        # Indexing by lists copies: the table's own arrays stay as they are.
        return np.asarray(table.profiles[key][at]) if key in table.profiles else None

    arrays, edges = {}, []
    for name in ("pair_query", "pair_key", "pair_weight", "window_at", "writes"):
        if (found := kept(name)) is not None:
            arrays[name] = found
    if (found := kept("thumbnail")) is not None:
        arrays["thumbnail"] = coded(found, SHADES)
    if (found := kept("window")) is not None:
        arrays["window"] = np.round(np.nan_to_num(found) * WHOLE).astype(np.uint16)
    if (found := kept("offset_mass")) is not None:
        arrays["offset_mass"] = found.astype(np.float32)
    if (found := kept("received")) is not None:
        edges = _bins(found.shape[-1])
        binned = np.fmax.reduceat(found, edges[:-1], axis=-1)
        arrays["received"] = coded(binned, RECEIVED)
        arrays |= _peaks(found)
    gone = part.index.isin(list(left_out))
    for name, array in arrays.items():
        array[gone] = -1 if name in ("pair_query", "pair_key", "window_at", "writes", "peak_at") else 0
    return {"arrays": arrays, "edges": edges}


def _bins(length: int) -> list[int]:
    """Bin edges over positions: single ones first, then bins that widen with the position."""
    grid = np.geomspace(1, length + 1, RECEIVED_BINS).round().astype(int) - 1
    return sorted({*range(min(12, length)), *grid.tolist(), length})


def _peaks(received: Float[np.ndarray, "heads T"]) -> dict[str, np.ndarray]:
    """The positions that receive most, most first, and how much: [heads, PEAKS], −1 and 0 where there are fewer."""
    known = np.nan_to_num(received, nan=0.0)
    place = np.argsort(-known, axis=-1, kind="stable")[:, :PEAKS].astype(np.int32)
    value = np.take_along_axis(known, place, axis=-1).astype(np.float32)
    return {"peak_at": np.where(value > 0, place, -1).astype(np.int32), "peak": value}


def _used(groups: Sequence[Mapping[str, np.ndarray]]) -> Bool[np.ndarray, "T"]:
    """Which positions of the sequence the close-ups show; as long as the furthest of them."""
    spans: set[tuple[int, int]] = set()
    for arrays in groups:
        for name, before, after in (
            ("pair_query", BEFORE, AFTER), ("pair_key", BEFORE, AFTER),
            ("window_at", 0, arrays["window"].shape[-1] - 1 if "window" in arrays else 0),
        ):  # fmt: skip
            found = np.unique(arrays.get(name, np.empty(0, np.int32)))
            spans |= {(max(0, int(one) - before), int(one) + after) for one in found if one >= 0}
    last = max((int(arrays[name].max(initial=-1)) for arrays in groups for name in ("pair_query", "pair_key")
                if name in arrays), default=-1)  # fmt: skip
    used = np.zeros(last + 1, dtype=bool)
    for first, end in spans:
        used[first : end + 1] = True
    return used


def _segments(
    tokens: Sequence[str], used: Bool[np.ndarray, "T"], groups: Sequence[Mapping[str, np.ndarray]]
) -> list[tuple[int, list[str]]]:
    """First position and shown texts of every run of positions that are used, or receive much."""
    reach = np.zeros(len(tokens), dtype=bool)
    reach[: len(used)] = used
    # What follows the furthest pair is context too.
    reach[len(used) : len(used) + AFTER] = len(used) > 0
    for arrays in groups:
        peaks = arrays.get("peak_at", np.empty(0, np.int32))
        reach[peaks[(peaks >= 0) & (peaks < len(tokens))]] = True
    turns = np.flatnonzero(np.diff(np.concatenate([[0], reach, [0]])))
    return [
        (int(first), [show_token(text) for text in tokens[first:end]])
        for first, end in pairwise(turns.tolist())
        if reach[first]
    ]


def _beginning(table: HeadTable) -> tuple[int, str | None]:
    """The head to open on and the metric to colour by: a head that stands for a behaviour, else the largest effect."""
    shown = telling(table, 1)
    if shown:
        return shown[0].row, shown[0].metric
    measured = [name for name in table.metrics if table.frame[name].notna().any()]
    if not measured:
        return 0, None
    return int(np.nanargmax(table.frame[measured[0]].abs().to_numpy(dtype=float))), measured[0]


def _circuit(table: HeadTable, circuit: Circuit) -> dict[str, Any]:
    """Scores, roles and strongest edges of the heads of one circuit, by row of the table."""
    frame = table.frame.reset_index(drop=True)
    own = frame[(frame["stack"] == "decoder") & (frame["kind"] == "self")]
    rows = {(int(layer), int(head)): int(row) for row, layer, head in zip(own.index, own["layer"], own["head"],
                                                                         strict=True)}  # fmt: skip
    nodes: list[Any] = [None] * len(frame)
    for node in circuit.nodes[: len(circuit.graph.heads)]:
        place = head_of(node.name)
        if place is None or place not in rows:
            raise ResultsError(
                f"the circuit of {circuit.task} has head {node.name}, which the table of {len(frame)} heads does not "
                "have: give circuits of the same model"
            )
        nodes[rows[place]] = [_short(node.score), _short(node.low), _short(node.high), int(node.in_circuit), node.role]
    return {
        "task": circuit.task, "unit": METRIC_UNITS.get(circuit.metric, circuit.metric), "method": circuit.method,
        "prompts": circuit.prompts, "size": len(circuit.heads), "nodes": nodes, "edges": _edges(circuit, rows),
    }  # fmt: skip


def _edges(circuit: Circuit, rows: Mapping[tuple[int, int], int]) -> dict[int, dict[str, list[Any]]]:
    """Row → the strongest circuit edges `into` it and `out` of it: [other end, its row or −1, port, score]."""
    found: dict[int, dict[str, list[Any]]] = {}
    for edge in sorted(circuit.edges, key=lambda edge: -abs(edge.score)):
        if not edge.in_circuit:
            continue
        for name, other, side in ((edge.target, edge.source, "into"), (edge.source, edge.target, "out")):
            place = head_of(name)
            if place is None:
                continue
            listed = found.setdefault(rows[place], {}).setdefault(side, [])
            if len(listed) < EDGES:
                far = head_of(other)
                port = edge.target.partition("<")[2].rstrip(">")
                listed.append([_end(other), -1 if far is None else rows[far], port, _short(edge.score)])
    return found


def _end(name: str) -> str:
    """A part of the graph in words."""
    place = head_of(name)
    if place is not None:
        return head_name(*place)
    return {"input": "embedding", "logits": "logits"}.get(name) or f"MLP {name[1:]}"


def _short(value: float) -> float:
    return float(f"{value:.4g}")
