"""One job of the circuit benchmark in a process of its own.

`python -m tests.benchmarks.circuits_child JOB PROMPTS STEPS FILE` writes the scores, [S, P] or [S], to FILE (npy)
and prints seconds and memory as JSON. The model, its prompts and all imports stand before the clock starts.
"""

from __future__ import annotations

import json
import sys

import numpy as np

from probe.analyses.edge_attribution import attribute
from probe.models import load
from probe.tasks.build import build
from tests.benchmarks.child import measured
from tests.benchmarks.edge_peer import attribute_at_once

NAME, TASK = "smollm2-135m", "ioi"
JOBS = {
    "ours": lambda loaded, task, steps: attribute(loaded, task, method="eap-ig", steps=steps).edges,
    # circuitkit sums an edge's targets, at the points 1/m … 1 of the path: `nodes` at right ends.
    "nodes-right": lambda loaded, task, steps: attribute(loaded, task, steps=steps, points="right").nodes.mean(1),
    "at-once": lambda loaded, task, steps: attribute_at_once(loaded, task, steps=steps),
}


def main() -> None:
    """Prepare the job, run it once, cold."""
    job, prompts, steps, file = sys.argv[1:]
    loaded = load(NAME)
    task = build(TASK, loaded, prompts=int(prompts))
    found: list[np.ndarray] = []
    taken = measured(lambda: found.append(JOBS[job](loaded, task, int(steps))))
    np.save(file, found[0])
    print(json.dumps(taken))


if __name__ == "__main__":
    main()
