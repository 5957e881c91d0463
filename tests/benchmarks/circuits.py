"""Edge attribution beside two peers, in one run: time, memory, and that the scores agree. One JSON and one table.

    python -m tests.benchmarks.circuits [--quick] [--brief] [--turns 3]

SmolLM2-135M, IOI, integrated gradients in 5 steps. Beside `attribute` (all 123,211 edges) run

- the way of the EAP-IG package (`edge_peer.py`): all edges, one tensor of prompts x positions x sources x width;
- circuitkit 0.2: 300 nodes and no edges, in bfloat16 as it comes and in float32, on the same prompts, token for token.

Every run has a process of its own, cold, in turns; the clock starts when the model stands and everything is imported.
Memory is the peak above what stood then. A ratio is the median of the turns' ratios; circuitkit in bfloat16, which
takes minutes where the processor has no bfloat16, and the runs of 64 prompts are made once.

circuitkit wants other versions than we do, so that it has an environment of its own; `CIRCUITKIT_PYTHON` names its
python, else `out/circuitkit/bin/python` here is looked for; without one its row says so. To make it:

    python3 -m venv out/circuitkit
    out/circuitkit/bin/python -m pip install torch==2.13.0 transformers==5.23.0 circuitkit==0.2.0
"""

from __future__ import annotations

import argparse
import csv
import json
import os
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from probe.circuits.graph import Graph, head_node
from probe.loading.cache import smollm2_folder
from probe.models import load
from probe.tasks.build import build
from probe.tasks.task import Task
from tests.benchmarks.circuits_child import NAME, TASK
from tests.benchmarks.cpu import RESULTS, machine

STEPS, BATCH = 5, 4
"""Steps of the path; circuitkit's prompts a batch, as it comes."""
ROOT = Path(__file__).parents[2]
Run = dict[str, Any]


def main() -> None:
    """Run everything, print the table, write `results/circuits.json` and `results/circuits.md`."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="4 and 8 prompts, one turn: does it run?")
    parser.add_argument("--turns", type=int, default=3, help="how often each run of 16 prompts is made")
    parser.add_argument("--brief", action="store_true", help="without bfloat16 and without the peer's 64 prompts")
    asked = parser.parse_args()
    few, many, turns = (4, 8, 1) if asked.quick else (16, 64, asked.turns)
    loaded = load(NAME)
    task = build(TASK, loaded, prompts=few)
    config = loaded.model.config
    graph = Graph(config.num_hidden_layers, config.num_attention_heads)
    with tempfile.TemporaryDirectory() as folder:
        rows = compared(task, graph, Path(folder), turns, asked.brief) + larger(many, Path(folder), asked.brief)
    document = {"machine": machine(), "task": f"IOI, prompts of {task.length} tokens, {STEPS} steps", "rows": rows}
    if not asked.quick:
        (RESULTS / "circuits.json").write_text(json.dumps(document, indent=1) + "\n")
        (RESULTS / "circuits.md").write_text(table(document))
    print(table(document))


def compared(task: Task, graph: Graph, folder: Path, turns: int, brief: bool) -> list[Run]:
    """Ours and every peer on the same prompts, in turns."""
    prompts = len(task.prompts)
    works: dict[str, Callable[[], Run]] = {
        f"headprobe, {graph.n_edges:,} edges": partial(child, "ours", prompts, folder),
        f"as the EAP-IG package, {graph.n_edges:,} edges": partial(child, "at-once", prompts, folder),
    }
    kit = circuitkit_python()
    if kit is not None:
        file = written(task, folder)
        for dtype in ("float32",) if brief else ("bfloat16", "float32"):
            name = f"circuitkit {kit_version(kit)}, nodes, {dtype}"
            works[name] = partial(circuitkit, kit, task, file, dtype, folder)
    runs: dict[str, list[Run]] = {name: [] for name in works}
    for turn in range(turns):
        for name, work in works.items():
            if turn == 0 or not name.endswith("bfloat16"):
                runs[name].append(work())
    (ours, first), (peer, second), *kits = runs.items()
    rows = [row(ours, prompts, first), row(peer, prompts, second, beside=first)]
    rows[1]["scores"] = close(second[0]["scores"], first[0]["scores"]) + " of ours"
    nodes = child("nodes-right", prompts, folder)["scores"] if kits else np.empty(0)
    for name, found in kits:
        rows.append(row(name, prompts, found, beside=first))
        rows[-1]["scores"] = f"heads {close(*heads(found[0]['scores'], nodes, graph))} of ours at its right-end points"
    if kit is None:
        rows.append({"what": "circuitkit 0.2, nodes", "prompts": prompts, "why_not": "not measured: no environment"})
    return rows


def larger(prompts: int, folder: Path, brief: bool) -> list[Run]:
    """Both ways to all edges on more prompts, once; in brief ours alone."""
    if brief:
        return [row("headprobe, all edges", prompts, [child("ours", prompts, folder)])]
    ours, peer = (child(job, prompts, folder) for job in ("ours", "at-once"))
    rows = [row("headprobe, all edges", prompts, [ours]), row("as the EAP-IG package", prompts, [peer], beside=[ours])]
    rows[1]["scores"] = close(peer["scores"], ours["scores"]) + " of ours"
    return rows


def child(job: str, prompts: int, folder: Path) -> Run:
    """One job of ours in a fresh process."""
    file = folder / "scores.npy"
    command = [sys.executable, "-m", "tests.benchmarks.circuits_child", job, str(prompts), str(STEPS), str(file)]
    answer: Run = json.loads(ran(command, ROOT).splitlines()[-1])
    return {**answer, "scores": np.load(file)}


def circuitkit(python: str, task: Task, file: Path, dtype: str, folder: Path) -> Run:
    """One run of circuitkit, in an empty folder; it must have read our very tokens."""
    script, out = Path(__file__).with_name("circuitkit_child.py"), folder / "circuitkit.json"
    with tempfile.TemporaryDirectory() as empty:
        # -P: the script's folder is not searched for modules, or ours would hide others of the same name.
        command = [python, "-P", str(script), str(smollm2_folder()), str(file), dtype, str(BATCH), str(STEPS), str(out)]
        ran(command, Path(empty))
    answer: Run = json.loads(out.read_text())
    if answer["tokens"] != [list(prompt.clean_ids) for prompt in task.prompts]:
        raise SystemExit("circuitkit read other tokens than we did: nothing to compare")
    return answer


def written(task: Task, folder: Path) -> Path:
    """The prompts as circuitkit reads them."""
    file = folder / "prompts.csv"
    with file.open("w", newline="") as stream:
        writer = csv.writer(stream)
        writer.writerow(("clean", "corrupted", "correct_idx", "incorrect_idx"))
        for prompt in task.prompts:
            writer.writerow((prompt.clean, prompt.corrupted, prompt.answer_ids[0], prompt.wrong_ids[0]))
    return file


def circuitkit_python() -> str | None:
    """The python of circuitkit's environment, where there is one."""
    named = os.environ.get("CIRCUITKIT_PYTHON", str(ROOT / "out" / "circuitkit" / "bin" / "python"))
    return named if Path(named).is_file() else None


def kit_version(python: str) -> str:
    """Of circuitkit, in that environment."""
    return ran([python, "-c", "from importlib.metadata import version; print(version('circuitkit'))"], ROOT).strip()


def ran(command: list[str], where: Path) -> str:
    """What a command prints. Stops with its last words where it fails."""
    done = subprocess.run(
        command, cwd=where, capture_output=True, text=True, check=False, env={**os.environ, "HF_HUB_OFFLINE": "1"}
    )
    if done.returncode:
        raise SystemExit(f"{' '.join(command[:4])} failed:\n{done.stderr[-2000:]}")
    return done.stdout


def row(what: str, prompts: int, runs: list[Run], beside: list[Run] | None = None) -> Run:
    """Medians over the turns; beside: the runs of these turns, and maybe of later ones, that the ratio is to."""
    seconds = [run["seconds"] for run in runs]
    made: Run = {
        "what": what, "prompts": prompts, "turns": len(runs),
        "seconds": statistics.median(seconds), "low": min(seconds), "high": max(seconds),
        "memory_mib": max(run["memory_mib"] for run in runs), "peak_mib": max(run["peak_mib"] for run in runs),
    }  # fmt: skip
    if beside is not None:
        made["ratio"] = statistics.median(a["seconds"] / b["seconds"] for a, b in zip(runs, beside, strict=False))
        made["memory_ratio"] = made["memory_mib"] / max(run["memory_mib"] for run in beside)
    return made


def heads(theirs: dict[str, float], ours: np.ndarray, graph: Graph) -> tuple[np.ndarray, np.ndarray]:
    """Sizes of every head's score, theirs and ours; theirs are of a metric that is a mean over the batch, and unsigned.

    MLPs are left out: circuitkit takes their gradient at what they read, not at what they write.
    """
    wanted = [(layer, head) for layer in range(graph.n_layers) for head in range(graph.n_heads)]
    found = np.array([theirs[f"A{layer}.{head}"] for layer, head in wanted]) * BATCH
    return found, np.abs([ours[graph.source(head_node(layer, head))] for layer, head in wanted])


def close(found: np.ndarray, wanted: np.ndarray) -> str:
    """The largest difference as a share of the largest score."""
    return f"within {np.abs(found - wanted).max() / np.abs(wanted).max():.1e} of the largest"


def table(document: dict[str, Any]) -> str:
    """The rows as a Markdown table."""
    about = document["machine"]
    lines = [
        f"{about['processor']}, {about['cores']} threads, float32 unless named; {document['task']}; "
        + ", ".join(f"{name} {number}" for name, number in about["versions"].items()),
        "",
        "| what | prompts | seconds (range, turns) | × our time | MiB above the model | of the process | scores |",
        "|---|---|---|---|---|---|---|",
    ]
    for one in document["rows"]:
        if "why_not" in one:
            lines.append(f"| {one['what']} | {one['prompts']} | {one['why_not']} | | | | |")
            continue
        spread = f"{one['seconds']:.1f} ({one['low']:.1f}–{one['high']:.1f}, {one['turns']})"
        ratio = f"{one['ratio']:.2f}" if "ratio" in one else ""
        memory = f"{one['memory_mib']:,.0f} | {one['peak_mib']:,.0f}"
        cells = (one["what"], str(one["prompts"]), spread, ratio, memory, one.get("scores", ""))
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    main()
