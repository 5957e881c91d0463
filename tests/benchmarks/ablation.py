"""The measured claims about ablation studies, side by side in one run: one JSON and one table.

    python -m tests.benchmarks.ablation [--quick]

SmolLM2, 64 IOI prompts, zero ablation, every head. The exact sweep takes turns, layer by layer, with the plain
loops that people write: one head hooked at a time in the transformers model (logits of the last position only, no
cache) and in TransformerLens' bridge as it comes. The loops cost the same for every head, so one head a layer is
timed and the time for all is 9 times theirs (`--whole` times them all); the numbers of those heads are compared.
"""

from __future__ import annotations

import argparse
import copy
import json
import statistics
import time
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from transformer_lens.model_bridge import TransformerBridge

from probe.analyses.agreement import agreement, means, strongest
from probe.analyses.effects import Effects
from probe.analyses.methods import clean_scores, effects, removed
from probe.analyses.workbench import Workbench, here
from probe.models import Loaded, load
from probe.tasks.build import build
from probe.tasks.metrics import measure
from probe.tasks.task import Task, clean_ids
from tests.benchmarks.cpu import RESULTS, machine

NAME, MODE = "smollm2-135m", "zero"


def main() -> None:
    """Run everything, print the table, write `results/ablation.json` and `results/ablation.md`."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--quick", action="store_true", help="four prompts, every tenth layer: does it run?")
    parser.add_argument("--whole", action="store_true", help="time the plain loops for every head, not one a layer")
    asked = parser.parse_args()
    loaded = load(NAME)
    task = build("ioi", loaded, prompts=4 if asked.quick else 64)
    rows, exact = sweep(loaded, task, step=10 if asked.quick else 1, whole=asked.whole)
    rows += methods(loaded, task, exact)
    rows += bfloat16(task, exact, step=10)
    document = {"machine": machine(), "task": f"IOI, {len(task.prompts)} prompts of {task.length} tokens", "rows": rows}
    if not asked.quick:
        (RESULTS / "ablation.json").write_text(json.dumps(document, indent=1) + "\n")
        (RESULTS / "ablation.md").write_text(table(document))
    print(table(document))


def sweep(loaded: Loaded, task: Task, *, step: int, whole: bool) -> tuple[list[dict[str, Any]], Effects]:
    """The exact sweep beside both loops, taking turns layer by layer."""
    bench = Workbench(loaded, task)
    # Its own copy of the weights: a bridge rebuilds the model that it is given.
    other: Any = copy.deepcopy(loaded.model)
    bridge = TransformerBridge.boot_transformers(NAME, hf_model=other, tokenizer=loaded.tokenizer, device="cpu")
    heads, layers = bench.running.n_heads, [site.layer for site in bench.running.sites][::step]
    clean, _ = clean_scores(bench, MODE, here(bench))
    # Warm: the first edit of a model proves its hook points, the first forward of a shape picks its kernels.
    removed(bench, MODE, bench.units[-1:], here(bench))
    plain_head(loaded, task, 0, 0), bridge_head(bridge, task, 0, 0)
    ours: list[float] = []
    theirs: dict[str, list[float]] = {"transformers": [], "TransformerLens bridge": []}
    ablated = np.full((len(bench.units), len(task.prompts)), np.nan)
    worst = dict.fromkeys(theirs, 0.0)
    for layer in layers:
        members = [index for index, unit in enumerate(bench.units) if unit.layer == layer]
        units = [bench.units[index] for index in members]
        seconds, (found, _) = timed(lambda units=units: removed(bench, MODE, units, here(bench)))
        ours.append(seconds)
        ablated[members] = found
        for head in range(heads) if whole else [layer % heads]:
            loops: dict[str, Callable[[], np.ndarray]] = {
                "transformers": lambda layer=layer, head=head: plain_head(loaded, task, layer, head),
                "TransformerLens bridge": lambda layer=layer, head=head: bridge_head(bridge, task, layer, head),
            }
            for name, loop in loops.items():
                seconds, values = timed(loop)
                theirs[name].append(seconds)
                worst[name] = max(worst[name], float(np.abs(values - found[head]).max()))
    depth, count = bench.sweep.depth, heads * len(layers)
    floor = sum(depth - layer for layer in layers) / (depth * len(layers))
    rows = [
        {
            "what": f"exact sweep, {count} heads", "beside": f"plain loop, {name}",
            "ratio": statistics.mean(times) * count / sum(ours), "seconds": sum(ours),
            "beside_seconds": statistics.mean(times) * count, "difference": worst[name],
            "note": f"floor of sharing the prefix {1 / floor:.2f}; {len(times)} heads of the loop timed",
        }
        for name, times in theirs.items()
    ]  # fmt: skip
    cost = sum(bench.sweep.cost(unit) for unit in bench.units) + bench.sweep.depth
    return rows, Effects(task.name, MODE, "exact", bench.units, clean, ablated, cost)


def plain_head(loaded: Loaded, task: Task, layer: int, head: int) -> np.ndarray:
    """One head's z set to 0 by a hook on the output projection: what a careful user writes."""
    width = loaded.model.config.head_dim

    def zero(_module: torch.nn.Module, inputs: tuple[torch.Tensor]) -> tuple[torch.Tensor]:
        z = inputs[0].clone()
        z[..., head * width : (head + 1) * width] = 0
        return (z,)

    projection = loaded.model.get_submodule(f"model.layers.{layer}.self_attn.o_proj")
    handle = projection.register_forward_pre_hook(zero)
    try:
        with torch.no_grad():
            logits = loaded.model(clean_ids(task.prompts), use_cache=False, logits_to_keep=1).logits
    finally:
        handle.remove()
    return measure(logits, task.prompts, task.metric).double().numpy()


def bridge_head(bridge: TransformerBridge, task: Task, layer: int, head: int) -> np.ndarray:
    """The same through TransformerLens' own hooks."""

    def zero(z: torch.Tensor, hook: object) -> torch.Tensor:
        z[:, :, head] = 0
        return z

    name = f"blocks.{layer}.attn.hook_z"
    with torch.no_grad():
        logits = bridge.run_with_hooks(clean_ids(task.prompts), fwd_hooks=[(name, zero)])[:, -1:]
    return measure(logits, task.prompts, task.metric).double().numpy()


def methods(loaded: Loaded, task: Task, exact: Effects) -> list[dict[str, Any]]:
    """Gradient and hybrid against the sweep: rank agreement, the same top ten, layer-forwards."""
    bench, rows = Workbench(loaded, task), []
    for method in ("gradient", "hybrid"):
        seconds, found = timed(lambda method=method: effects(bench, MODE, method, here(bench)))
        agreed = agreement(found, exact)
        ten, wanted = (set(strongest(means(one), 10)) for one in (found, exact))
        note = f"{len(ten & wanted)} of the sweep's ten strongest"
        rows.append(
            {
                "what": f"{method}, all heads", "beside": "exact sweep, layer-forwards",
                "ratio": exact.layer_forwards / found.layer_forwards, "seconds": seconds,
                "layer_forwards": found.layer_forwards, "beside_layer_forwards": exact.layer_forwards,
                "note": f"{note}; Spearman {agreed.spearman:.2f} over {agreed.n} heads; {found.notes[-1]}",
            }
        )  # fmt: skip
    return rows


def bfloat16(task: Task, exact: Effects, *, step: int) -> list[dict[str, Any]]:
    """The sweep in bfloat16 on some layers, beside the same layers in float32, and the error that it brings."""
    times: dict[str, float] = {}
    numbers: dict[str, np.ndarray] = {}
    chosen = [index for index, unit in enumerate(exact.units) if unit.layer % step == step - 1]
    for dtype in ("float32", "bfloat16"):
        bench = Workbench(load(NAME, dtype=dtype), task)
        clean, _ = clean_scores(bench, MODE, here(bench))
        removed(bench, MODE, bench.units[-1:], here(bench))
        units = [bench.units[index] for index in chosen]
        times[dtype], (ablated, _) = timed(lambda bench=bench, units=units: removed(bench, MODE, units, here(bench)))
        numbers[dtype] = clean - ablated
    error = numbers["bfloat16"].mean(1) - numbers["float32"].mean(1)
    return [
        {
            "what": f"exact sweep in bfloat16, {len(chosen)} heads", "beside": "the same in float32",
            "ratio": times["float32"] / times["bfloat16"], "seconds": times["bfloat16"],
            "difference": float(np.abs(error).max()),
            "note": "difference: the largest of a head's mean effect, in logits",
        }
    ]  # fmt: skip


def timed(work: Callable[[], Any]) -> tuple[float, Any]:
    """Seconds of a call, and what it gave."""
    begun = time.perf_counter()
    found = work()
    return time.perf_counter() - begun, found


def table(document: dict[str, Any]) -> str:
    """The rows as a Markdown table."""
    about = document["machine"]
    lines = [
        f"{about['processor']}, {about['cores']} threads, float32; {document['task']}; "
        + ", ".join(f"{name} {number}" for name, number in about["versions"].items()),
        "",
        "| what | beside | times faster | seconds | largest difference | |",
        "|---|---|---|---|---|---|",
    ]
    for row in document["rows"]:
        difference = f"{row['difference']:.1e}" if "difference" in row else ""
        seconds = f"{row['seconds']:.0f}" + (f" / {row['beside_seconds']:.0f}" if "beside_seconds" in row else "")
        if "layer_forwards" in row:
            seconds += f" ({row['layer_forwards']:.0f} / {row['beside_layer_forwards']:.0f} layer-forwards)"
        cells = (row["what"], row["beside"], f"{row['ratio']:.2f}", seconds, difference, row["note"])
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    main()
