"""Importance from attention alone: how far a head looks, and how sharply; baselines without any gradient."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from probe.hooks.attention import AttentionCall
from probe.kernels.inputs import Request
from probe.kernels.metrics import head_metrics
from probe.observe import observed
from probe.running import Running
from probe.tasks.task import Task, clean_ids

BASELINES = ("streaming_error", "entropy", "entropy_normalised")


def attention_baselines(
    model: Any, task: Task, rows: slice, *, sinks: int = 4, window: int | None = None, backend: str = "auto"
) -> dict[str, Float[np.ndarray, "n L H"]]:
    """METRICS' `streaming_error`, `entropy` and `entropy_normalised` of every head on prompts[rows], float64.

    From the kernels' row statistics; no pattern is built. window: None takes a quarter of the prompt's length, at
    most METRICS' 64: a window that holds the prompt drops nothing, and the error is then 0 everywhere.
    """
    running = Running(model)
    prompts = task.prompts[rows]
    near = max(1, min(64, task.length // 4)) if window is None else window
    request = Request(sinks=sinks, window=near, bands=0)
    position = torch.arange(task.length, device=running.device).expand(len(prompts), -1)
    layers: list[dict[str, Tensor]] = []

    def handler(call: AttentionCall) -> Tensor:
        z, statistics = observed(call, request, backend=backend)
        learned, ordered = call.sinks is not None, call.rule().causal
        layers.append(head_metrics(statistics, z, position, learned_sink=learned, ordered=ordered))
        return z

    with running.instrument(handler):
        running.forward(clean_ids(prompts))
    return {name: torch.stack([layer[name] for layer in layers], 1).cpu().numpy() for name in BASELINES}
