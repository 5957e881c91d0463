"""What is removed together: a head, a key/value group, a layer, or a named set of heads."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from probe.errors import TokensError
from probe.hooks.heads import Head as Head
from probe.running import Running
from probe.table import head_name

KINDS = ("head", "kv_group", "layer")


@dataclass(frozen=True)
class Unit:
    """Heads that are removed together. kind: `head`, `kv_group`, `layer` or `set`; name: unique in a study.

    A head is `L3H5`, a group `L3G1` (the query heads that read key/value head 1), a layer `L3`, a set `set:…`.
    """

    name: str
    kind: str
    heads: tuple[Head, ...]

    @property
    def layer(self) -> int:
        """The lowest layer touched: what lies below it is the same as in a clean run."""
        return min(layer for layer, _ in self.heads)


def units_of(running: Running, kind: str = "head") -> tuple[Unit, ...]:
    """Every head, key/value group or layer of a model's main stack, in order. Raises TokensError for another kind."""
    heads, group = range(running.n_heads), running.n_heads // running.n_kv_heads
    layers = [site.layer for site in running.sites]
    if kind == "head":
        return tuple(Unit(head_name(layer, head), kind, ((layer, head),)) for layer in layers for head in heads)
    if kind == "kv_group":
        return tuple(
            Unit(f"L{layer}G{number}", kind, tuple((layer, number * group + i) for i in range(group)))
            for layer in layers
            for number in range(running.n_kv_heads)
        )
    if kind == "layer":
        return tuple(Unit(f"L{layer}", kind, tuple((layer, head) for head in heads)) for layer in layers)
    raise TokensError(f"unit {kind!r}; wanted one of {', '.join(KINDS)}")


def set_unit(name: str, heads: Iterable[Head]) -> Unit:
    """A named set of heads, sorted. Raises TokensError for an empty one."""
    chosen = tuple(sorted(set(heads)))
    if not chosen:
        raise TokensError(f"set {name!r} holds no head; wanted at least one")
    return Unit(f"set:{name}", "set", chosen)


def named(units: Sequence[Unit], names: Iterable[str]) -> tuple[Unit, ...]:
    """The units of those names, in the names' order. Raises TokensError naming the first that does not exist."""
    known = {unit.name: unit for unit in units}
    wanted = list(names)
    for name in wanted:
        if name not in known:
            raise TokensError(f"no unit {name!r}; wanted one like {units[0].name}, up to {units[-1].name}")
    return tuple(known[name] for name in wanted)
