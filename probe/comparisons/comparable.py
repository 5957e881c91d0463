"""What differs between how two head tables were made, and which of their columns may be put side by side."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from probe.columns import SCAN_COLUMNS
from probe.errors import ResultsError
from probe.roles import RULES
from probe.table import HeadTable

FACTS = (
    "model", "weight_hash", "dtype", "device", "backend", "tokens_hash", "text", "n_sequences", "length", "bos",
    "random_tokens", "seed", "threads",
)  # fmt: skip
"""What a table's metadata says of how it was made, in the order in which differences are told."""
_PARAMETERS = {
    "window": ("local_mass", "streaming_error", "streaming_mass"),
    "sinks": ("streaming_error", "streaming_mass"),
    "epsilon": ("sink_rate",),
}
"""Parameters that are part of a column's definition."""
_NEEDED = {
    "sink": ("sink_first",), "retrieval": ("retrieval_low", "retrieval_control_high"),
    "local": ("streaming_error_high", "sink_first"), "idle": ("output_share",),
}  # fmt: skip


def needed(role: str) -> tuple[str, ...]:
    """The columns that a role's rule reads."""
    return _NEEDED.get(role, (f"{role}_random",))


def deciding(role: str) -> tuple[str, ...]:
    """The metrics whose values or intervals a role's rule reads."""
    return tuple(name.removesuffix("_low").removesuffix("_high") for name in needed(role))


def check_definitions(a: HeadTable, b: HeadTable) -> None:
    """Raises ResultsError for tables whose columns of one name mean different things."""
    versions = [table.metadata.get("definitions") for table in (a, b)]
    if None not in versions and versions[0] != versions[1]:
        raise ResultsError(
            f"definitions of version {versions[0]} and {versions[1]}: columns of one name mean different things; "
            "measure one of the two again"
        )


def told_apart(a: HeadTable, b: HeadTable) -> list[tuple[str, str, str]]:
    """(what, in A, in B) of everything recorded that differs, as text; "not recorded" where one does not say."""
    found = []
    flat = [_flat(table.metadata) for table in (a, b)]
    for name in [*flat[0], *(name for name in flat[1] if name not in flat[0])]:
        values = [_told(facts.get(name)) for facts in flat]
        if values[0] != values[1]:
            found.append((name, values[0], values[1]))
    return found


def _flat(metadata: Mapping[str, Any]) -> dict[str, Any]:
    """Facts, versions, parameters and thresholds in one mapping, by their names as a reader sees them."""
    facts = {name.replace("_", " "): metadata[name] for name in FACTS if name in metadata}
    for part, title in (("parameters", "parameter"), ("role_thresholds", "role threshold"), ("versions", "version of")):
        facts |= {f"{title} {name}": value for name, value in metadata.get(part, {}).items()}
    retrieval = metadata.get("retrieval", {})
    told = [name for name in ("parameters", "n_trials", "n_usable", "haystack_hash", "bos") if name in retrieval]
    return facts | {f"retrieval {name}".replace("_", " "): retrieval[name] for name in told}


def _told(value: Any) -> str:
    if value is None:
        return "not recorded"
    if isinstance(value, Mapping):
        return ", ".join(f"{name} {_told(item)}" for name, item in value.items())
    if isinstance(value, (list, tuple)):
        return " ".join(map(_told, value))
    text = f"{value:,}" if isinstance(value, int) and not isinstance(value, bool) else str(value)
    return f"{text[:12]}…" if len(text) == 64 and set(text) <= set("0123456789abcdef") else text


def columns_compared(a: HeadTable, b: HeadTable) -> tuple[list[str], dict[str, str]]:
    """The metrics to compare, in A's order, and every other one with the reason why not.

    Left out: what only one table has or measured, and what is another quantity in the other: a different window, kept
    sinks or ε, other random tokens, another metric, mode or method of an effect or a circuit. Values of uniform
    attention (`…_chance`) belong to the tokens, not to the heads.
    """
    kept: list[str] = []
    out: dict[str, str] = {}
    for name in [*a.metrics, *(name for name in b.metrics if name not in a.metrics)]:
        reason = _why_not(name, a, b)
        if reason is None:
            kept.append(name)
        elif reason:
            out[name] = reason
    return kept, out


def _why_not(name: str, a: HeadTable, b: HeadTable) -> str | None:
    """None to compare; a reason not to; nothing ("") where neither measured it."""
    measured = [name in table.frame and bool(table.frame[name].notna().any()) for table in (a, b)]
    if not any(measured):
        return ""
    if not all(measured):
        return f"only measured in {'A' if measured[0] else 'B'}"
    if name.endswith("_chance"):
        return "a property of the tokens, not of the heads"
    for parameter, columns in _PARAMETERS.items():
        found = [table.metadata.get("parameters", {}).get(parameter) for table in (a, b)]
        if name in columns and found[0] != found[1]:
            return f"another quantity: {parameter} {_told(found[0])} in A, {_told(found[1])} in B"
    if name.endswith("_random") and name in SCAN_COLUMNS:
        drawn = [table.metadata.get("random_tokens") for table in (a, b)]
        distinct = [made.get("distinct") if isinstance(made, Mapping) else None for made in drawn]
        if distinct[0] != distinct[1]:
            return f"another quantity: {_told(distinct[0])} distinct random tokens in A, {_told(distinct[1])} in B"
    for kind, facts in (("effects", ("task", "metric", "mode", "method")), ("circuits", ("metric", "method"))):
        about = [table.metadata.get(kind, {}).get(name, {}) for table in (a, b)]
        for fact in facts:
            if about[0].get(fact) != about[1].get(fact):
                return f"another quantity: {fact} {_told(about[0].get(fact))} in A, {_told(about[1].get(fact))} in B"
    return None


def roles_compared(a: HeadTable, b: HeadTable) -> tuple[list[str], dict[str, str]]:
    """The roles that both tables could decide by the same rule, and every other one with the reason why not."""
    kept: list[str] = []
    out: dict[str, str] = {}
    if a.thresholds != b.thresholds:
        return [], dict.fromkeys(RULES, "the thresholds of the roles differ")
    for role in RULES:
        undecided = [
            letter for letter, table in (("A", a), ("B", b))
            if any(name not in table.frame or table.frame[name].isna().all() for name in needed(role))
        ]  # fmt: skip
        if undecided:
            out[role] = f"could not be decided in {' and '.join(undecided)}: no {' or '.join(needed(role))}"
        else:
            kept.append(role)
    return kept, out
