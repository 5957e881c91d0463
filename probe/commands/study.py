"""The commands for ablation studies: one entry (`ablate`), a file (`run`), and the tasks there are (`tasks`)."""

from __future__ import annotations

import json
import sys
from dataclasses import asdict
from pathlib import Path
from typing import Annotated, Any

import typer

from probe.commands.job import numbers
from probe.commands.options import Device, Dtype, Fresh, Json, Model, Out, visible
from probe.progress import on_terminal
from probe.studies.file import METHODS, PHASES, UNITS, Study, read_study

Names = Annotated[str, typer.Option(help="One or several, with commas between; see `probe tasks`.")]
Mode = Annotated[str, typer.Option(help="What stands in a head's place: zero, mean, resample, …; several with commas.")]
Method = Annotated[str, typer.Option(help=f"{', '.join(METHODS)}; several with commas.")]
Seeds = Annotated[str, typer.Option(help="Of prompts, draws and resamples; several with commas.")]
Criteria = Annotated[str, typer.Option(help="Importance criteria to compare with, commas between.")]
Unit = Annotated[str, typer.Option(help=f"What is removed at once: {', '.join(UNITS)}.")]
Positions = Annotated[str, typer.Option(help="all, or the name of a place in the prompts: END, S2, …")]
Phase = Annotated[str, typer.Option(help=f"Where the edit acts: {', '.join(PHASES)}.")]
Corruption = Annotated[str | None, typer.Option(help="How the corrupted twins are made. Default: the task's own.")]
Metric = Annotated[str | None, typer.Option(help="What is measured. Default: the task's own.")]
Length = Annotated[int | None, typer.Option(help="Tokens of a prompt, for tasks that can choose.")]
Reads = Annotated[Path | None, typer.Option(help="UTF-8 file, for tasks that read a text.")]
NoCurve = Annotated[bool, typer.Option("--no-curve", help="Do not remove heads one after the other.")]
Top = Annotated[int, typer.Option(help="How many of the strongest heads `hybrid` must be certain of.")]
DeviceMap = Annotated[
    str | None, typer.Option(help="Spread a large model over the devices here: auto, balanced, … (headprobe[big]).")
]
Executor = Annotated[str, typer.Option(help="local, or ray for several machines (headprobe[ray]).")]
Workers = Annotated[int, typer.Option(help="Processes that compute; each loads the model.")]
Anyway = Annotated[bool, typer.Option("--anyway", help="Go on with a task that the model cannot do.")]


def ablate(
    model: Model,
    task: Names,
    out: Out,
    mode: Mode = "mean",
    method: Method = "exact",
    prompts: Annotated[int, typer.Option(help="Prompts that are measured.")] = 64,
    seed: Seeds = "0",
    criteria: Criteria = "",
    unit: Unit = "head",
    positions: Positions = "all",
    phase: Phase = "both",
    corruption: Corruption = None,
    metric: Metric = None,
    length: Length = None,
    text: Reads = None,
    no_curve: NoCurve = False,
    top: Top = 10,
    dtype: Dtype = "float32",
    device: Device = "cpu",
    device_map: DeviceMap = None,
    executor: Executor = "local",
    workers: Workers = 1,
    fresh: Fresh = False,
    anyway: Anyway = False,
    as_json: Json = False,
) -> None:
    """Remove every head, one at a time, and say what it does to a task; stopped, it goes on where it was."""
    asked = Study(
        (model,), _several(task), _several(mode), _several(method), numbers("--seed", seed, int),
        _several(criteria) if criteria else (), prompts=prompts, corruption=corruption, metric=metric, length=length,
        text=None if text is None else str(text), unit=unit, positions=positions, phase=phase, curve=not no_curve,
        top=top, dtype=dtype, device=device, device_map=device_map,
    )  # fmt: skip
    _run(asked, out, as_json, executor=executor, workers=workers, fresh=fresh, anyway=anyway)


def run_study(
    study: Annotated[Path, typer.Argument(help="A study file (TOML).")],
    out: Out,
    executor: Executor = "local",
    workers: Workers = 1,
    fresh: Fresh = False,
    anyway: Anyway = False,
    as_json: Json = False,
) -> None:
    """Run a study file: models × tasks × modes × methods × seeds; stopped, it goes on where it was."""
    _run(read_study(study), out, as_json, executor=executor, workers=workers, fresh=fresh, anyway=anyway)


def tasks(as_json: Json = False) -> None:
    """List the tasks that a model can be asked."""
    from probe.tasks.build import TASKS

    if as_json:
        rows = [{"name": name, **asdict(kind), "make": kind.make.__name__} for name, kind in TASKS.items()]
        print(json.dumps(rows))
        return
    width = max(map(len, TASKS))
    for name, kind in TASKS.items():
        twins = f"; corruptions {', '.join(kind.corruptions)}" if kind.corruptions else ""
        print(f"{name:<{width}}  {kind.what} ({kind.metric}{twins})")


def _several(names: str) -> tuple[str, ...]:
    return tuple(name.strip() for name in names.split(","))


def _run(asked: Study, out: Path, as_json: bool, **how: Any) -> None:
    """Run a study and print what came of it: the summary on standard output, the rest on standard error."""
    from probe.formats import plain
    from probe.studies.study import study
    from probe.studies.summary import part_lines, part_summary

    with on_terminal() as progress:
        parts = study(asked, out=out, say=_say, progress=progress, **how)
    if as_json:
        print(json.dumps(plain([part_summary(part) for part in parts]), allow_nan=False))
        return
    for part in parts:
        for line in part_lines(part):
            print(visible(line))


def _say(line: str) -> None:
    print(visible(line), file=sys.stderr)
