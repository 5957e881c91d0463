"""One job of the CPU benchmark in a process of its own: `python -m tests.benchmarks.child JOB LENGTH` prints JSON."""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from probe.kernels.dispatch import attention_statistics
from probe.kernels.inputs import Attention, Mask, Request, Score
from probe.observe import token_lookups


def attention_call(length: int) -> tuple[Attention, Request, tuple[Tensor, Tensor, Tensor]]:
    """A SmolLM2-shaped layer (9 query heads, 3 key/value heads, D = 64): the call, every statistic, and q, k, v
    with keys repeated, as sdpa reads them. Tokens repeat about as often as English does."""
    generator = torch.Generator().manual_seed(0)
    q, k, v = (torch.randn(1, heads, length, 64, generator=generator) for heads in (9, 3, 3))
    rank = torch.arange(1, 20_000, dtype=torch.float64)
    tokens = torch.multinomial(rank.reciprocal(), length, replacement=True, generator=generator)[None]
    expanded = (q, k.repeat_interleave(3, 1), v.repeat_interleave(3, 1))
    return Attention(q, k, v, Mask(), Score(0.125)), Request(lookups=token_lookups(tokens)), expanded


def statistics_of(call: Attention, request: Request) -> Any:
    """All statistics and the output."""
    with torch.no_grad():
        return attention_statistics(call, request)


def dense_statistics(call: Attention) -> list[Tensor]:
    """What people write today: T × T weights in float32, then each statistic a reduction of them."""
    with torch.no_grad():
        group = call.q.shape[1] // call.k.shape[1]
        k, v = call.k.repeat_interleave(group, 1), call.v.repeat_interleave(group, 1)
        T = k.shape[2]
        future = torch.ones(T, T, dtype=torch.bool).triu(1)
        P = (call.q @ k.mT * call.score.scale).masked_fill(future, -torch.inf).softmax(-1)
        return [P @ v, *reduced(P, v)]


def reduced(P: Tensor, v: Tensor) -> list[Tensor]:
    """Row, column and partial-output statistics of a pattern [.., T, T]."""
    T = P.shape[-1]
    distance = torch.arange(T)[:, None] - torch.arange(T)
    near, sink = (distance >= 0) & (distance < 64), torch.arange(T) < 4
    keep = P * (near | sink)
    return [
        -torch.xlogy(P, P).sum(-1),
        P.amax(-1),
        (P * distance).sum(-1),
        (P * near).sum(-1),
        keep.sum(-1),
        keep @ v,
        P.sum(-2),
        P.diagonal(dim1=-2, dim2=-1),
        P.diagonal(-1, dim1=-2, dim2=-1),
        torch.nn.functional.adaptive_avg_pool2d(P, 64),
    ]


def model_and_tokens(length: int) -> tuple[Any, list[list[int]]]:
    """SmolLM2-135M and the first tokens of the natural text."""
    from probe.models import load
    from probe.tokens import cut_pieces, natural_text

    loaded = load("smollm2-135m")
    if loaded.tokenizer is None:
        raise SystemExit("smollm2-135m came without its tokenizer")
    return loaded, cut_pieces(loaded.tokenizer, natural_text(), length=length, sequences=1).ids


def kernel(length: int) -> Callable[[], Any]:
    """One layer's statistics."""
    call, request, _ = attention_call(length)
    return lambda: statistics_of(call, request)


def forward(length: int) -> Callable[[], Any]:
    """The plain forward of the stack, sdpa, no logits, no cache."""
    loaded, ids = model_and_tokens(length)
    base, tensor = loaded.model.base_model, torch.tensor(ids)

    def run() -> Any:
        with torch.no_grad():
            return base(input_ids=tensor, use_cache=False).last_hidden_state

    return run


def scan(length: int) -> Callable[[], Any]:
    """`probe.scan` of one sequence: every metric and profile, without the once-a-model parts."""
    from probe.scan import scan as run

    loaded, ids = model_and_tokens(length)
    return lambda: run(loaded, ids, random_sequences=0, verify=False)


def attentions(length: int) -> Callable[[], Any]:
    """transformers' own way: eager attention, all patterns kept, then reduced."""
    loaded, ids = model_and_tokens(length)
    loaded.model.set_attn_implementation("eager")
    base, tensor = loaded.model.base_model, torch.tensor(ids)

    def run() -> Any:
        with torch.no_grad():
            patterns = base(input_ids=tensor, use_cache=False, output_attentions=True).attentions
            return [_without_values(pattern) for pattern in patterns]

    return run


def lens(length: int) -> Callable[[], Any]:
    """TransformerLens' way: run_with_cache of every pattern, then reduced."""
    from transformer_lens.model_bridge import TransformerBridge

    loaded, ids = model_and_tokens(length)
    bridge = TransformerBridge.boot_transformers(
        "smollm2-135m", hf_model=loaded.model, tokenizer=loaded.tokenizer, device="cpu"
    )
    tensor = torch.tensor(ids)

    def run() -> Any:
        with torch.no_grad():
            _, cache = bridge.run_with_cache(
                tensor, names_filter=lambda name: name.endswith("hook_pattern"), return_type=None
            )
            return [_without_values(cache[name]) for name in cache]

    return run


def _without_values(pattern: Tensor) -> list[Tensor]:
    return reduced(pattern, torch.zeros(*pattern.shape[:2], pattern.shape[-1], 64))


JOBS = {job.__name__: job for job in (kernel, forward, scan, attentions, lens)}


def main() -> None:
    """Prepare the job, run it once, print its seconds and memory.

    What a process does once and not once a run comes first: reading a compiled stage (see `numba_backend`).
    """
    short, request, _ = attention_call(64)
    statistics_of(short, request)
    print(json.dumps(measured(JOBS[sys.argv[1]](int(sys.argv[2])))))


def measured(run: Callable[[], Any]) -> dict[str, float]:
    """One run: its seconds, its peak memory above what stood before, and the peak of the whole process."""
    before = _status("VmRSS")
    Path("/proc/self/clear_refs").write_text("5")
    begun = time.perf_counter()
    run()
    seconds = time.perf_counter() - begun
    peak = _status("VmHWM")
    return {"seconds": seconds, "memory_mib": (peak - before) / 1024, "peak_mib": peak / 1024}


def _status(name: str) -> int:
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith(name))


if __name__ == "__main__":
    main()
