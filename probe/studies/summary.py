"""The few numbers of a study worth printing: how well the model does each task, and its strongest units."""

from __future__ import annotations

from typing import Any

from probe.formats import records
from probe.studies.run import PartResult
from probe.text import number, with_interval

TOP = 10


def part_summary(part: PartResult) -> dict[str, Any]:
    """One model and seed as plain values: folder, files, and of every task the metric, accuracy, strongest units."""
    tasks = {}
    for task, ablation in part.ablations.items():
        judged, lead = ablation.study.baseline, ablation.effects
        tasks[task] = {
            "metric": ablation.study.task.metric, "mode": lead.mode, "method": lead.method,
            "clean": float(lead.clean.mean()), "accuracy": None if judged is None else judged.accuracy,
            "prompts": ablation.study.n, "layer_forwards": {f"{one.mode}.{one.method}": one.layer_forwards
                                                            for one in ablation.study.effects},
            "top": records(ablation.top(TOP)),
        }  # fmt: skip
    files = sorted(path.name for path in part.folder.iterdir() if path.is_file())
    return {
        "model": part.model, "seed": part.seed, "folder": str(part.folder), "files": files,
        "computed": part.computed, "tasks": tasks,
    }  # fmt: skip


def part_lines(part: PartResult) -> list[str]:
    """The same in lines for a terminal."""
    lines = []
    for task, ablation in part.ablations.items():
        lead, strongest = ablation.effects, ablation.top(TOP)
        lines.append(
            f"{part.model}, seed {part.seed}, {task} ({lead.mode}, {lead.method}): clean "
            f"{number(float(lead.clean.mean()))} {ablation.study.task.metric}; the strongest of {len(lead.units)} "
            f"{ablation.study.noun}, effect [95 % interval], q:"
        )
        lines += [
            f"  {name:<8} {with_interval(strongest, index, 'effect')}  {number(q)}"
            for index, (name, q) in enumerate(zip(strongest["name"], strongest["effect_q"], strict=True))
        ]
    summary = part_summary(part)
    lines.append(f"{part.folder}: {', '.join(summary['files'])}")
    return lines
