"""The commands for circuits: what two of them share (`overlap`)."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from probe.cli_options import Fresh, Json, Seed, visible

if TYPE_CHECKING:
    from probe.analyses.overlap import Overlap
    from probe.analyses.overlap_chance import Measure

OVERLAP_FILE = "overlap.json"

CircuitFile = Annotated[Path, typer.Argument(help="A circuit file that `probe circuit` wrote.")]
Folder = Annotated[Path | None, typer.Option(help=f"Folder to write {OVERLAP_FILE} into.")]
Draws = Annotated[int, typer.Option(help="Random circuits of the same layers to compare with.")]


def overlap(
    a: CircuitFile,
    b: CircuitFile,
    out: Folder = None,
    draws: Draws = 10_000,
    seed: Seed = 0,
    fresh: Fresh = False,
    as_json: Json = False,
) -> None:
    """Say how many heads and edges two circuits share, and how many chance would give them."""
    from probe.analyses.overlap import overlap as compare
    from probe.circuit_files import document, load, load_scores
    from probe.store import results_folder, write_file

    one, other = load(a), load(b)
    scores_a, scores_b = load_scores(a, one), load_scores(b, other)
    found = compare(one, other, draws=draws, seed=seed, scores_a=scores_a, scores_b=scores_b)
    text = json.dumps(found.json(), indent=1, sort_keys=True, allow_nan=False)
    if out is not None:
        asked = {"overlap": [document(one), document(other)], "draws": draws, "seed": seed}
        with results_folder(out, asked, fresh=fresh) as folder:
            write_file(folder.path / OVERLAP_FILE, text.encode() + b"\n")
    if as_json:
        print(text)
        return
    for line in lines(found):
        print(visible(line))
    if out is not None:
        print(visible(f"{out}: {OVERLAP_FILE}, run.json"))


def lines(found: Overlap) -> list[str]:
    """An overlap in words, one line a finding."""
    shared = ", ".join(f"L{layer}H{head}" for layer, head in found.shared) or "none"
    count = found.count
    told = [
        f"{found.model}: {found.sentence}",
        f"shared: {shared}",
        f"p_value {count.p_value:.4g} for sharing as many or more, {count.p_less:.4g} for as few or fewer "
        f"({found.draws:,} random pairs with the same heads per layer: {count.low:g} to {count.high:g}); "
        f"layers left out, chance is {found.expected_plain:.2f}",
        f"Jaccard {found.jaccard:.3f}",
        _scored("weighted Jaccard of all heads' scores", found.weighted_jaccard),
        _scored("rank-biased overlap (p = 0.9)", found.rank_biased),
        _scored("Spearman's correlation", found.spearman),
    ]
    told += [
        f"{row.role or 'no role'}: {row.size_a} and {row.size_b}, {row.shared} shared"
        + (f", {row.elsewhere} with another role in the other circuit" if row.elsewhere else "")
        for row in found.roles
    ]
    if found.edges is not None:
        edges = found.edges
        told.append(
            f"edges: {edges.size_a} and {edges.size_b}, {edges.shared.value:.0f} shared, chance between the same "
            f"layers {edges.shared.expected:.1f} (Jaccard {edges.jaccard:.3f})"
        )
    if found.noise is not None:
        noise = found.noise
        told.append(
            f"over {noise.resamples:,} resamples of the prompts {noise.low:g} to {noise.high:g} heads are shared, "
            f"{noise.mean:.1f} on average; {found.task_a}'s circuit shares {noise.self_a:.1f} of "
            f"{len(found.heads_a)} with itself, {found.task_b}'s {noise.self_b:.1f} of {len(found.heads_b)}"
        )
    return [*told, *(f"note: {note}" for note in found.notes)]


def _scored(name: str, measure: Measure) -> str:
    if measure.value != measure.value:  # NaN: not defined
        return f"{name}: not defined for these scores"
    return f"{name} {measure.value:.3f}, chance {measure.expected:.3f} (p = {measure.p_value:.2g})"
