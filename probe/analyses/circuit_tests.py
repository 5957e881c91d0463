"""Completeness and minimality of a head circuit (Wang et al. 2022, arXiv 2211.00593, section 4; METHODS §11).

F is the mean metric; C is the circuit, M the model, K heads that are taken away from both. A head that is taken away,
and every head outside C where C stands alone, has its z on the corrupted twin (Wang et al.: the mean over ABC
prompts; `HeadRuns` takes other modes), at every position (theirs: at the positions of its class).

Complete: |F(C∖K) − F(M∖K)| is small for every K, or C lacks heads that matter once K is gone, such as backups.
Minimal: for every v of C there is a K for which |F(C∖K) − F(C∖(K ∪ {v}))| is large, or v could go.

What is picked because it is large is picked on one half of the prompts (`head_runs.halves`) and reported on the
other, so that the largest of many is not large by chance.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float

from probe.analyses.faithfulness import carried
from probe.analyses.head_runs import HeadRuns, halves
from probe.analyses.units import Head
from probe.errors import TokensError
from probe.ratio import ratio_of_means
from probe.statistics import bootstrap

DRAWS = 10
STEPS = 5


@dataclass(frozen=True)
class Difference:
    """A difference of the mean metric over prompts, with its 95 % interval, and as a share of m(N) − m(∅)."""

    mean: float
    low: float
    high: float
    share: float


@dataclass(frozen=True)
class Completeness:
    """What the circuit and the model score without the heads K.

    kind: `none` (K is empty: faithfulness itself), `group` (a role), `random` or `greedy`. name: the group's, or the
    number of the draw or step. removed: K. circuit, model: F(C∖K) and F(M∖K). difference: their difference, whose
    size is the incompleteness: above 0, the circuit does better without K than the model does.
    """

    kind: str
    name: str
    removed: tuple[Head, ...]
    circuit: float
    model: float
    difference: Difference


@dataclass(frozen=True)
class Minimality:
    """What a head is worth to the circuit, where that is most.

    group: which K was picked (`none`, a group's name, or `random <draw>`). removed: that K. loss: F(C∖K) −
    F(C∖(K ∪ {head})), positive where the head helps. A head whose loss is near 0 could go.
    """

    head: Head
    group: str
    removed: tuple[Head, ...]
    loss: Difference


def completeness(
    runs: HeadRuns,
    circuit: Sequence[Head],
    groups: Mapping[str, Sequence[Head]],
    *,
    draws: int = DRAWS,
    steps: int = STEPS,
    seed: int = 0,
) -> tuple[Completeness, ...]:
    """F(C∖K) against F(M∖K), on the second half of the prompts, for K empty, each group, random and greedy sets.

    groups: name → heads, such as roles; what of them is not in the circuit is left out, and so is a group of which
    nothing is left. draws: random K, of which every subset of C is as likely. steps: greedy K of 1, 2, … heads, each
    the one that on the first half makes the gap largest beside those before (all of C are tried; ties go to the
    lowest); it ends early where no head makes it larger.

    Cost: about |C| · steps + groups + draws forwards over all prompts. Raises TokensError for an empty circuit,
    unknown heads, and where the heads carry nothing (`faithfulness.carried`).
    """
    members = _members(runs, circuit)
    first, second = (runs.on(part) for part in halves(runs.task))
    named: list[tuple[str, str, tuple[Head, ...]]] = [("none", "", ())]
    named += [("group", name, inside) for name, inside in _inside(groups, members).items()]
    rng = np.random.default_rng(seed)
    for draw in range(draws):
        chosen = rng.random(len(members)) < 0.5
        named.append(("random", str(draw), tuple(head for head, out in zip(members, chosen, strict=True) if out)))
    path = _greedy(first, members, steps)
    named += [("greedy", str(step + 1), tuple(sorted(path[: step + 1]))) for step in range(len(path))]
    sets = [removed for _, _, removed in named]
    alone, model = second.kept([_without(members, removed) for removed in sets]), second.replaced(sets)
    whole = carried(second, seed=seed)
    return tuple(
        Completeness(kind, name, removed, float(a.mean()), float(m.mean()), _difference(second, a - m, whole, seed))
        for (kind, name, removed), a, m in zip(named, alone, model, strict=True)
    )


def minimality(
    runs: HeadRuns,
    circuit: Sequence[Head],
    groups: Mapping[str, Sequence[Head]],
    *,
    draws: int = 3,
    seed: int = 0,
) -> tuple[Minimality, ...]:
    """For every head of the circuit, what it is worth beside that K, of those tried, where it is worth most.

    K tried for head v: none; every group that holds v, without v; `draws` random subsets of C without v, of which
    each is as likely. Picked by |loss| on the first half of the prompts, reported on the second; ties go to the
    first tried. In the order of the layers.

    Cost: about |C| · (2 + groups that hold the head + 2 · draws) forwards over all prompts at most. Raises as
    `completeness`.
    """
    members = _members(runs, circuit)
    first, second = (runs.on(part) for part in halves(runs.task))
    inside, rng = _inside(groups, members), np.random.default_rng(seed)
    tried: list[tuple[Head, str, tuple[Head, ...]]] = []
    for head in members:
        tried.append((head, "none", ()))
        tried += [(head, name, _without(group, [head])) for name, group in inside.items() if head in group]
        for draw in range(draws):
            chosen = rng.random(len(members)) < 0.5
            taken = [other for other, out in zip(members, chosen, strict=True) if out and other != head]
            tried.append((head, f"random {draw}", tuple(taken)))
    sizes = np.abs(_losses(first, members, [(head, removed) for head, _, removed in tried]).mean(axis=1))
    picked: dict[Head, int] = {}
    for place, (head, _, _) in enumerate(tried):
        if head not in picked or sizes[place] > sizes[picked[head]]:
            picked[head] = place
    best = [tried[place] for place in picked.values()]
    losses, whole = _losses(second, members, [(head, removed) for head, _, removed in best]), carried(second, seed=seed)
    return tuple(
        Minimality(head, name, removed, _difference(second, loss, whole, seed))
        for (head, name, removed), loss in zip(best, losses, strict=True)
    )


def _losses(
    runs: HeadRuns, members: Sequence[Head], asked: Sequence[tuple[Head, tuple[Head, ...]]]
) -> Float[np.ndarray, "asked n"]:
    """F(C∖K) − F(C∖(K ∪ {v})) of each prompt, for every (v, K)."""
    before = runs.kept([_without(members, removed) for _, removed in asked])
    after = runs.kept([_without(members, (head, *removed)) for head, removed in asked])
    return np.asarray(before - after)


def _greedy(runs: HeadRuns, members: tuple[Head, ...], steps: int) -> tuple[Head, ...]:
    """Heads of C in the order in which their leaving widens the gap between circuit and model most."""
    path: tuple[Head, ...] = ()
    widest = abs(float((runs.kept([members]) - runs.clean).mean()))
    for _ in range(min(steps, len(members))):
        left = _without(members, path)
        sets = [(*path, head) for head in left]
        gaps = np.abs((runs.kept([_without(members, one) for one in sets]) - runs.replaced(sets)).mean(axis=1))
        best = int(np.argmax(gaps))
        if gaps[best] <= widest:
            break
        path, widest = (*path, left[best]), float(gaps[best])
    return path


def _difference(runs: HeadRuns, values: Float[np.ndarray, "n"], whole: Float[np.ndarray, "n"], seed: int) -> Difference:
    found = bootstrap(values[:, None], groups=runs.task.groups, seed=seed)
    share = ratio_of_means(values[:, None], whole, groups=runs.task.groups, seed=seed)
    return Difference(float(found.mean[0]), float(found.low[0]), float(found.high[0]), float(share.mean[0]))


def _members(runs: HeadRuns, circuit: Sequence[Head]) -> tuple[Head, ...]:
    members = tuple(sorted(set(circuit)))
    strangers = [head for head in members if head not in runs.heads]
    if strangers or not members:
        found = f"head {strangers[0]}, which the model lacks" if strangers else "no head"
        raise TokensError(f"a circuit with {found}; wanted one or more heads of {runs.loaded.name}")
    return members


def _inside(groups: Mapping[str, Sequence[Head]], members: tuple[Head, ...]) -> dict[str, tuple[Head, ...]]:
    """What of each group is in the circuit; groups of which nothing is, left out."""
    found = {name: tuple(head for head in members if head in set(group)) for name, group in groups.items()}
    return {name: group for name, group in found.items() if group}


def _without(members: Sequence[Head], removed: Sequence[Head]) -> tuple[Head, ...]:
    return tuple(head for head in members if head not in removed)
