"""Two head tables side by side: which head stands where, what changed beyond the intervals, and how much is chance."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import pandas as pd
from jaxtyping import Bool, Float

from probe.columns import SCAN_COLUMNS
from probe.comparisons.comparable import check_definitions, columns_compared, deciding, roles_compared, told_apart
from probe.comparisons.comparison import Comparison
from probe.comparisons.matching import Matching, match, tells_apart
from probe.comparisons.mean_difference import FEWEST, ROUNDING, Means, differences, paired
from probe.errors import ResultsError
from probe.page.telling import names
from probe.rank_correlation import rank_correlation
from probe.statistics import LEVEL, benjamini_hochberg
from probe.table import HeadTable, profile_key

ROLE_COLUMNS = ["role", "name_a", "name_b", "change", "clear"]
COARSE = ("sink_rate",)
"""Shares of sequences: with 8 of them they move in steps of 1/8, and no interval of a mean is to be trusted."""


def compare(
    a: HeadTable | str | Path,
    b: HeadTable | str | Path,
    *,
    metrics: Sequence[str] | str | None = None,
    match_by: str = "auto",
    labels: tuple[str, str] | None = None,
    seed: int = 0,
) -> Comparison:
    """Put two head tables, or the results folders that hold them, side by side.

    metrics: those to compare, or one by its name; None: all that both have (`comparable.columns_compared`).
    match_by: `name`, `behaviour` or `auto` (`matching.match`).
    labels: what to call the two; default: their models, or what tells them apart.

    Differences are b − a with the interval and p of `mean_difference.differences`: independent samples, so too wide
    where both read the same tokens; there values sequence by sequence are paired, where both tables keep them. An
    interval leaves out 0 in 5 % of the heads of which nothing changed: `by_chance` says how many. q is corrected for
    all heads (Benjamini and Hochberg 1995, valid for metrics and heads that go up and down together). Metrics in
    `COARSE` are compared and not tested. A difference of at most `ROUNDING` of the largest of |a|, |b| and the metric's
    spread over the heads is what float32 rounding gives: it counts as equal, tested with p = 1.
    Heads matched by behaviour were chosen to be alike, so the differences left between them are smaller than between
    heads paired without looking.
    Raises ResultsError for folders without a head table, other definitions, an empty list of metrics, a metric that
    cannot be compared, infinite values, and heads that cannot be matched.
    """
    one, other = _table(a), _table(b)
    check_definitions(one, other)
    kept, left_out = columns_compared(one, other)
    wanted = [metrics] if isinstance(metrics, str) else metrics
    if wanted is not None and not len(wanted):
        raise ResultsError(f"an empty list of metrics to compare; name one or more of {', '.join(kept) or 'none'}, "
                           "or leave the list out for all")  # fmt: skip
    for name in wanted or ():
        if name not in kept:
            why = left_out.get(name, "neither table has it")
            raise ResultsError(f"{name} cannot be compared ({why}); these can: {', '.join(kept) or 'none'}")
    if not kept:
        why = "; ".join(f"{name}: {reason}" for name, reason in left_out.items()) or "they hold none"
        raise ResultsError(f"no metric to compare in these two tables ({why})")
    matching = match(one, other, kept, match_by, seed=seed)
    chosen = [name for name in kept if wanted is None or name in wanted]
    heads = _heads(one, other, matching, chosen, seed)
    roles, roles_left_out = _roles(one, other, matching, heads)
    label_a, label_b = labels or _labels(one, other)
    return Comparison(
        one, other, label_a, label_b, matching, heads, _summary(one, other, heads), roles,
        tuple(told_apart(one, other)), left_out, roles_left_out,
    )  # fmt: skip


def _table(source: HeadTable | str | Path) -> HeadTable:
    """A table as it is; of a results folder what it holds for every head."""
    if isinstance(source, HeadTable):
        return source
    from probe.results import read_results  # reads every kind of folder, and all that takes

    results = read_results(source)
    if results.table is None:
        raise ResultsError(f"{source}: {results.kind} results of several tables; name the folder of one")
    return results.table


def _labels(a: HeadTable, b: HeadTable) -> tuple[str, str]:
    """Models by name; where they are the same, with what tells them apart first: length, dtype, weights, tokens."""
    models = [str(table.metadata.get("model", "unnamed")) for table in (a, b)]
    if models[0] != models[1]:
        return models[0], models[1]
    for name, words in (("length", "{:,} tokens"), ("dtype", "{}"), ("weight_hash", "weights {:.8}"),
                        ("n_sequences", "{} sequences"), ("tokens_hash", "tokens {:.8}")):  # fmt: skip
        values = [table.metadata.get(name) for table in (a, b)]
        if values[0] != values[1] and all(isinstance(value, (int, str)) for value in values):
            return f"{models[0]}, {words.format(values[0])}", f"{models[1]}, {words.format(values[1])}"
    return f"{models[0]}, first", f"{models[1]}, second"


def _heads(a: HeadTable, b: HeadTable, matching: Matching, metrics: Sequence[str], seed: int) -> pd.DataFrame:
    """`Comparison.heads`."""
    mine, theirs = matching.rows[:, 0], matching.rows[:, 1]
    keys, parts = _keys(a, b, mine, theirs), []
    for metric in metrics:
        first, second = _means(a, metric, mine), _means(b, metric, theirs)
        values = _paired_values(a, b, metric, matching)
        made = differences(first, second) if values is None else paired(*values, seed=seed)
        equal = _equal(first.mean, second.mean, made.value)
        p = np.where(equal & ~np.isnan(made.p), 1.0, made.p)
        parts.append(pd.DataFrame({
            "metric": metric, **keys,
            "a": first.mean, "a_low": first.low, "a_high": first.high,
            "b": second.mean, "b_low": second.low, "b_high": second.high,
            "difference": made.value, "difference_low": made.low, "difference_high": made.high,
            "p": p, "q": benjamini_hochberg(p), "changed": p < 1 - LEVEL, "equal": equal, "paired": values is not None,
        }))  # fmt: skip
    heads = pd.concat(parts, ignore_index=True)
    return heads.assign(q_all=benjamini_hochberg(heads["p"].to_numpy()), size=_sizes(heads))


def _equal(
    a: Float[np.ndarray, "pairs"], b: Float[np.ndarray, "pairs"], difference: Float[np.ndarray, "pairs"]
) -> Bool[np.ndarray, "pairs"]:
    """Pairs whose values differ by no more than rounding does; one near 0 is held to the spread of the others."""
    both = np.concatenate([a, b])
    spread = np.nanstd(both) if np.isfinite(both).any() else 0.0
    largest = np.maximum(np.maximum(np.abs(a), np.abs(b)), spread)
    return np.asarray(np.abs(difference) <= ROUNDING * largest)


def _sizes(heads: pd.DataFrame) -> pd.Series:
    """Differences in standard deviations of the metric over the heads of both tables; NaN where those are all alike."""
    spread = {
        metric: np.nanstd(values) if tells_apart(values) else np.nan
        for metric, part in heads.groupby("metric", sort=False)
        for values in [part[["a", "b"]].to_numpy(dtype=np.float64).ravel()]
    }
    return heads["difference"] / heads["metric"].map(spread)


def _keys(a: HeadTable, b: HeadTable, mine: np.ndarray, theirs: np.ndarray) -> dict[str, np.ndarray]:
    """The names and keys of both heads of every pair."""
    found: dict[str, np.ndarray] = {}
    for letter, table, rows in (("a", a, mine), ("b", b, theirs)):
        found[f"name_{letter}"] = np.array(names(table.frame), dtype=object)[rows]
    for key in ("stack", "kind", "layer", "head"):
        for letter, table, rows in (("a", a, mine), ("b", b, theirs)):
            found[f"{key}_{letter}"] = table.frame[key].to_numpy()[rows]
    return found


def _means(table: HeadTable, metric: str, rows: np.ndarray) -> Means:
    def column(name: str) -> Float[np.ndarray, "pairs"]:
        if name not in table.frame:
            return np.full(len(rows), np.nan)
        return np.asarray(table.frame[name].to_numpy(dtype=np.float64)[rows])

    return Means(column(metric), column(f"{metric}_low"), column(f"{metric}_high"), _units(table, metric)[rows])


def _units(table: HeadTable, metric: str) -> Float[np.ndarray, "heads"]:
    """Independent units behind each head's mean: sequences, needles, prompts; infinite where they are not recorded.

    NaN for `COARSE` metrics, whose differences are given and not tested. Prompts of one group are counted one by one,
    for a table does not say how they were grouped; they are resampled together, so only the degrees of freedom come
    out too large.
    """
    frame, metadata = table.frame, table.metadata
    known: float | None = None
    if metric in COARSE:
        return np.full(len(frame), np.nan)
    if metric in SCAN_COLUMNS:
        known = metadata.get("n_sequences")
        if metric.endswith("_random") and isinstance(made := metadata.get("random_tokens"), Mapping):
            known = made.get("sequences", known)
    elif metric.startswith("retrieval"):
        run = metadata.get("retrieval", metadata)
        known = run.get("n_needles", run.get("n_trials"))
    else:
        known = metadata.get("effects", {}).get(metric, {}).get("prompts")
    units = np.full(len(frame), np.inf if known is None else float(known))
    if f"n_{metric}" in frame:
        counted = frame[f"n_{metric}"].to_numpy(dtype=np.float64)
        units = np.minimum(units, counted) if metric.startswith("retrieval") else counted
    return units


def _paired_values(
    a: HeadTable, b: HeadTable, metric: str, matching: Matching
) -> tuple[Float[np.ndarray, "n pairs"], Float[np.ndarray, "n pairs"]] | None:
    """Both tables' values of every sequence, where they read the same ones and both kept them; else None.

    The same tokens, and for `_random` metrics the same draw of random ones too.
    """
    hashes = [table.metadata.get("tokens_hash") for table in (a, b)]
    if hashes[0] is None or hashes[0] != hashes[1] or metric in COARSE:
        return None
    drawn = [table.metadata.get("random_tokens") for table in (a, b)]
    if metric.endswith("_random") and (not isinstance(drawn[0], Mapping) or drawn[0] != drawn[1]):
        return None
    first, second = _sequences(a, metric), _sequences(b, metric)
    if first is None or second is None or len(first) != len(second):
        return None
    for letter, values in (("A", first), ("B", second)):
        if np.isinf(values).any():
            raise ResultsError(f"{letter}: infinite values in sequences_{metric}; their mean says nothing: measure it "
                               "again, or compare other metrics")  # fmt: skip
    return first[:, matching.rows[:, 0]], second[:, matching.rows[:, 1]]


def _sequences(table: HeadTable, metric: str) -> Float[np.ndarray, "n heads"] | None:
    """The values behind a metric's means, sequence by sequence; None where the table did not keep them."""
    frame = table.frame
    columns: list[np.ndarray] = [np.empty(0)] * len(frame)
    for (stack, kind), part in frame.groupby(["stack", "kind"], sort=False):
        key = profile_key(f"sequences_{metric}", str(stack), str(kind))
        if key not in table.profiles:
            return None
        place = {layer: index for index, layer in enumerate(part["layer"].drop_duplicates())}
        for row, layer, head in zip(part.index, part["layer"], part["head"], strict=True):
            columns[frame.index.get_loc(row)] = table.profiles[key][place[layer], head]
    return np.stack(columns, axis=1).astype(np.float64)


def _summary(a: HeadTable, b: HeadTable, heads: pd.DataFrame) -> pd.DataFrame:
    """`Comparison.metrics`."""
    rows = []
    for metric, part in heads.groupby("metric", sort=False):
        both = part[part["difference"].notna()]
        apart = both[~both["equal"]]
        found = both[both["q"] < 1 - LEVEL]
        sizes = (found if len(found) else apart)["difference"].abs()
        top = sizes.index[int(sizes.to_numpy().argmax())] if len(sizes) else None
        tested = int(both["p"].notna().sum())
        ranks = rank_correlation(both["a"].to_numpy(), both["b"].to_numpy())
        width = (both["difference_high"] - both["difference_low"]).dropna() / 2
        rows.append({
            "metric": metric, "compared": len(both), "tested": tested,
            "untested": "" if tested else _untested(a, b, str(metric), both), "paired": bool(part["paired"].all()),
            "changed": int(both["changed"].sum()), "by_chance": (1 - LEVEL) * tested, "found": len(found),
            "sees": float(width.median()) if len(width) else np.nan,
            "moved": float(np.sqrt((found["size"] ** 2).sum() / len(both))) if len(both) else np.nan,
            "spearman": ranks.value, "spearman_low": ranks.low, "spearman_high": ranks.high,
            "largest": "" if top is None else str(both["name_a"][top]),
            "largest_difference": float(both["difference"][top]) if top is not None else 0.0 if len(both) else np.nan,
        })  # fmt: skip
    order = ["moved", "found", "changed"]
    return pd.DataFrame(rows).sort_values(order, ascending=False, kind="stable").reset_index(drop=True)


def _untested(a: HeadTable, b: HeadTable, metric: str, both: pd.DataFrame) -> str:
    """Why no head of a metric has a p."""
    if metric in COARSE:
        return "moves in steps of one sequence"
    if not len(both):
        return "no head has it in both"
    few = [letter for letter, table in (("A", a), ("B", b)) if not (_units(table, metric) >= FEWEST).any()]
    if few:
        unit = "sequences" if metric in SCAN_COLUMNS else "needles" if metric.startswith("retrieval") else "prompts"
        return f"fewer than {FEWEST} {unit} in {' and '.join(few)}"
    bare = [letter for letter in ("A", "B") if both[f"{letter.lower()}_low"].isna().all()]
    return f"no interval in {' and '.join(bare)}" if bare else "no head has an interval, or enough values, in both"


def _roles(
    a: HeadTable, b: HeadTable, matching: Matching, heads: pd.DataFrame
) -> tuple[pd.DataFrame, dict[str, str]]:
    """`Comparison.roles` and `roles_left_out`."""
    kept, left_out = roles_compared(a, b)
    certain = heads[heads["q"] < 1 - LEVEL]
    changed = set(zip(certain["metric"], certain["name_a"], strict=True))
    labels, jobs, rows = (names(a.frame), names(b.frame)), (a.frame["roles"].tolist(), b.frame["roles"].tolist()), []
    for role in kept:
        for mine, theirs in matching.rows:
            has = role in jobs[0][mine], role in jobs[1][theirs]
            if any(has):
                change = "kept" if all(has) else "lost" if has[0] else "gained"
                clear = change != "kept" and any((name, labels[0][mine]) in changed for name in deciding(role))
                rows.append((role, labels[0][mine], labels[1][theirs], change, clear))
    return pd.DataFrame(rows, columns=ROLE_COLUMNS), left_out
