"""The graph of a model's parts: who writes to the residual stream, who reads from it, and who can read whom.

Sources write: `input` (the embedding), heads `a<layer>.h<head>`, MLPs `m<layer>`. Targets read: a head's three ports
`a<layer>.h<head><q>`, `<k>`, `<v>`, an MLP, `logits`. An edge goes from a source to every target that comes after it
(METHODS 12.1). Under grouped-query attention every query head has a key port and a value port of its own: the stream
is read once for each, by the weights that the group shares.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from functools import cached_property

import numpy as np
from jaxtyping import Bool

from probe.errors import ResultsError

PORTS = ("q", "k", "v")
INPUT, LOGITS = "input", "logits"
_NAME = re.compile(r"a(0|[1-9]\d*)\.h(0|[1-9]\d*)(?:<([qkv])>)?|m(0|[1-9]\d*)")


@dataclass(frozen=True)
class Graph:
    """Sources, targets and possible edges of a decoder.

    n_layers: blocks, each with one MLP. n_heads: query heads a layer. layers: those that have attention (None: all).
    parallel: attention and MLP of a block read the same stream, so that no edge joins them.

    Order everywhere: layer by layer, the heads (each q, k, v as a target), then the MLP; `input` first, `logits`
    last. The ports of GPT-2 small make 32,491 edges.
    """

    n_layers: int
    n_heads: int
    parallel: bool = False
    layers: tuple[int, ...] | None = None

    @property
    def attention(self) -> tuple[int, ...]:
        """The layers that have attention, ascending."""
        return tuple(range(self.n_layers)) if self.layers is None else self.layers

    @cached_property
    def sources(self) -> tuple[str, ...]:
        """Names of what writes, in order."""
        return (INPUT, *(name for layer in range(self.n_layers) for name in (*self._heads(layer), f"m{layer}")))

    @cached_property
    def targets(self) -> tuple[str, ...]:
        """Names of what reads, in order."""
        blocks = (
            name
            for layer in range(self.n_layers)
            for name in (*(f"{head}<{port}>" for head in self._heads(layer) for port in PORTS), f"m{layer}")
        )
        return (*blocks, LOGITS)

    @cached_property
    def heads(self) -> tuple[str, ...]:
        """Names of the heads, in order."""
        return tuple(name for layer in range(self.n_layers) for name in self._heads(layer))

    @cached_property
    def possible(self) -> Bool[np.ndarray, "sources targets"]:
        """True where an edge can be: the source has written before the target reads."""
        written = np.array([self._written(name) for name in self.sources])
        read = np.array([self._read(name) for name in self.targets])
        return np.asarray(written[:, None] < read[None, :])

    @property
    def n_edges(self) -> int:
        """Number of possible edges."""
        return int(self.possible.sum())

    def source(self, name: str) -> int:
        """Row of a source. Raises ResultsError for a name that the graph does not have."""
        return self._index(name, self._source_rows, "source")

    def target(self, name: str) -> int:
        """Column of a target. Raises ResultsError for a name that the graph does not have."""
        return self._index(name, self._target_columns, "target")

    def inputs_of(self, source: str) -> tuple[int, ...]:
        """Columns by which a source reads: three of a head, one of an MLP, none of `input`."""
        if source == INPUT:
            return ()
        names = [source] if source.startswith("m") else [f"{source}<{port}>" for port in PORTS]
        return tuple(self.target(name) for name in names)

    @cached_property
    def _source_rows(self) -> dict[str, int]:
        return {name: row for row, name in enumerate(self.sources)}

    @cached_property
    def _target_columns(self) -> dict[str, int]:
        return {name: column for column, name in enumerate(self.targets)}

    def _index(self, name: str, known: dict[str, int], what: str) -> int:
        if name not in known:
            raise ResultsError(
                f"no {what} {name!r} in a graph of {self.n_layers} layers of {self.n_heads} heads; "
                f"wanted one like {self.sources[1]}, m0, {INPUT if what == 'source' else LOGITS}"
            )
        return known[name]

    def _heads(self, layer: int) -> tuple[str, ...]:
        return tuple(head_node(layer, head) for head in range(self.n_heads)) if layer in self.attention else ()

    def _written(self, name: str) -> int:
        """When a source has written: a block is four moments, attention reads and writes, the MLP reads and writes."""
        if name == INPUT:
            return -1
        layer, kind = layer_of(name), name[0]
        return 4 * layer + (3 if kind == "m" or self.parallel else 1)

    def _read(self, name: str) -> int:
        if name == LOGITS:
            return 4 * self.n_layers
        layer, kind = layer_of(name), name[0]
        return 4 * layer + (2 if kind == "m" and not self.parallel else 0)


def head_node(layer: int, head: int) -> str:
    """The node's name of a head, `a18.h6`; tables call it L18H6."""
    return f"a{layer}.h{head}"


def layer_of(name: str) -> int:
    """The layer of a head, port or MLP by name. Raises ResultsError for another name."""
    found = _NAME.fullmatch(name)
    if found is None:
        raise ResultsError(
            f"no layer in node name {name!r}; wanted a<layer>.h<head>, with <q>, <k> or <v>, or m<layer>"
        )
    return int(found.group(1) or found.group(4) or 0)


def head_of(name: str) -> tuple[int, int] | None:
    """(layer, head) of a head's or a port's name; None for an MLP, `input` and `logits`."""
    found = _NAME.fullmatch(name)
    return (int(found.group(1)), int(found.group(2))) if found is not None and found.group(1) is not None else None
