"""The commands for circuits: find one (`circuit`), compare two (`overlap`), or those of many tasks (`matrix`)."""

from __future__ import annotations

import json
import shlex
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from probe.commands.options import Device, Dtype, Fresh, Json, Model, Out, Seed, visible
from probe.progress import on_terminal

if TYPE_CHECKING:
    from probe.analyses.overlap import Overlap
    from probe.analyses.overlap_chance import Measure
    from probe.circuits.folder import Ready
    from probe.circuits.plan import CircuitPlan
    from probe.models import Loaded

OVERLAP_FILE = "overlap.json"

CircuitFile = Annotated[Path, typer.Argument(help="A circuit file that `probe circuit` wrote.")]
Folder = Annotated[Path | None, typer.Option(help=f"Folder to write {OVERLAP_FILE} into.")]
Draws = Annotated[int, typer.Option(help="Random circuits of the same layers to compare with.")]
Task = Annotated[str, typer.Option(help="A task with corrupted twins; see `probe tasks`.")]
Tasks = Annotated[str, typer.Option(help="Two tasks or more, with commas between; see `probe tasks`.")]
Prompts = Annotated[int, typer.Option(help="Prompts that score the parts.")]
Judged = Annotated[int, typer.Option(help="Other prompts, at most, that faithfulness is measured on.")]
Method = Annotated[str, typer.Option(help="How edges are scored: eap-ig, or eap.")]
Heads = Annotated[str, typer.Option("--heads", help="How heads are ranked: as their edges, or exact (slow).")]
Steps = Annotated[int, typer.Option(help="Steps of the path of eap-ig.")]
Faithful = Annotated[float, typer.Option(help="How near to the whole task a circuit must come: 0.8 takes 0.8 to 1.2.")]
Tests = Annotated[bool, typer.Option("--tests", help="Test the heads for completeness and minimality too.")]
Corruption = Annotated[str | None, typer.Option(help="How the corrupted twins are made. Default: the task's own.")]
Metric = Annotated[str | None, typer.Option(help="What is measured. Default: the task's own.")]
Length = Annotated[int | None, typer.Option(help="Tokens of a prompt, for tasks that can choose.")]
Anyway = Annotated[bool, typer.Option("--anyway", help="Go on with a task that the model cannot do.")]


def circuit(
    model: Model,
    task: Task,
    out: Out,
    prompts: Prompts = 64,
    judged: Judged = 32,
    method: Method = "eap-ig",
    head_method: Heads = "",
    steps: Steps = 5,
    faithful: Faithful = 0.8,
    tests: Tests = False,
    corruption: Corruption = None,
    metric: Metric = None,
    length: Length = None,
    seed: Seed = 0,
    dtype: Dtype = "float32",
    device: Device = "cpu",
    anyway: Anyway = False,
    fresh: Fresh = False,
    as_json: Json = False,
) -> None:
    """Find the heads and edges that a task runs on, and how much of it they do; stopped, it goes on where it was."""
    from probe.circuits.folder import circuit_folder
    from probe.circuits.plan import CircuitPlan
    from probe.circuits.summary import circuit_lines, circuit_summary
    from probe.models import load

    plan = CircuitPlan(method, head_method, steps, faithful, judged, tests=tests, seed=seed)
    _check_task(task)
    loaded = load(model, dtype=dtype, device=device)
    asked = _ready(loaded, task, plan, prompts, anyway, corruption=corruption, metric=metric, length=length)
    with on_terminal() as progress:
        found = circuit_folder(asked, out, fresh=fresh, say=_say, progress=progress, command=_command())
    if as_json:
        print(json.dumps(circuit_summary(found.circuit), allow_nan=False))
        return
    for line in circuit_lines(found.circuit):
        print(visible(line))
    print(visible(f"{out}: circuit.json, report.html, edges.parquet, nodes.parquet, heads.parquet, run.json"))


def matrix(
    model: Model,
    tasks: Tasks,
    out: Out,
    prompts: Prompts = 64,
    judged: Judged = 32,
    method: Method = "eap-ig",
    head_method: Heads = "",
    steps: Steps = 5,
    faithful: Faithful = 0.8,
    tests: Tests = False,
    draws: Draws = 10,
    seed: Seed = 0,
    dtype: Dtype = "float32",
    device: Device = "cpu",
    fresh: Fresh = False,
    as_json: Json = False,
) -> None:
    """Find the circuits of several tasks, and say what every pair shares and what sharing does."""
    from probe.circuits.matrix import matrix as compare
    from probe.circuits.plan import CircuitPlan
    from probe.circuits.summary import circuit_lines, circuit_summary
    from probe.errors import TokensError
    from probe.models import load

    plan = CircuitPlan(method, head_method, steps, faithful, judged, tests=tests, seed=seed)
    names = [name.strip() for name in tasks.split(",")]
    for name in names:
        _check_task(name)
    if len(names) < 2 or len(set(names)) < len(names) or draws < 1:
        raise TokensError(f"tasks {tasks}, {draws} draws; wanted two different tasks or more, 1 draw or more")
    loaded = load(model, dtype=dtype, device=device)
    asked, not_done = [], {}
    for name in names:
        try:
            asked.append(_ready(loaded, name, plan, prompts, False))
        except TokensError as error:
            not_done[name] = str(error)
            _say(f"{name} is not done: {error}")
    with on_terminal() as progress:
        found = compare(
            asked, out, not_done=not_done, draws=draws, fresh=fresh, say=_say, progress=progress, command=_command()
        )
    if as_json:
        document = {"circuits": [circuit_summary(one) for one in found.circuits], "not_done": dict(found.not_done),
                    "overlaps": [one.json() for one in found.overlaps]}  # fmt: skip
        print(json.dumps(document, allow_nan=False))
        return
    for one in found.circuits:
        print(visible(circuit_lines(one)[0]))
    for pair in found.overlaps:
        print(visible(pair.sentence))
    print(visible(f"{out}: report.html, matrix.json, transfer.parquet, removed.parquet, one folder a task"))


def _ready(loaded: Loaded, name: str, plan: CircuitPlan, prompts: int, anyway: bool, **how: Any) -> Ready:
    from probe.circuits.folder import ready
    from probe.tasks.build import build

    return ready(loaded, build(name, loaded, prompts=prompts, seed=plan.seed, **how), plan, anyway=anyway, say=_say)


def _check_task(name: str) -> None:
    from probe.errors import StudyError
    from probe.tasks.build import TASKS

    if name not in TASKS:
        raise StudyError(f"unknown task {name!r}; known are {', '.join(TASKS)}")


def _command() -> str:
    """The command that was given, to be given again."""
    return shlex.join(["probe", *sys.argv[1:]])


def _say(line: str) -> None:
    print(visible(line), file=sys.stderr)


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
    from probe.circuits.files import document, load, load_scores
    from probe.store import results_folder, write_file

    one, other = load(a), load(b)
    scores_a, scores_b = load_scores(a, one), load_scores(b, other)
    found = compare(one, other, draws=draws, seed=seed, scores_a=scores_a, scores_b=scores_b)
    text = json.dumps(found.json(), indent=1, sort_keys=True, allow_nan=False)
    if out is not None:
        asked = {"overlap": [document(one), document(other)], "draws": draws, "seed": seed}
        with results_folder(out, asked, fresh=fresh) as folder:
            write_file(folder.path / OVERLAP_FILE, text.encode() + b"\n")
            folder.run = {"command": _command()}
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
