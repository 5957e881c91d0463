"""The measured claims of the README, on a CPU: ratios side by side in one run, one JSON and one table.

    python -m tests.benchmarks.cpu [--quick]

Each comparison takes turns, A B A B …; a ratio is the median of the pairs' ratios. Whole scans run in a process of
their own each, whose peak memory is read from the operating system.
"""

from __future__ import annotations

import argparse
import json
import platform
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch

from probe.kernels.dispatch import automatic
from tests.benchmarks.child import attention_call, dense_statistics, statistics_of

RESULTS = Path(__file__).parent / "results"


def main() -> None:
    """Run everything, print the table, write `results/cpu.json` and `results/cpu.md`."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--quick", action="store_true", help="one pair each: a check that it runs, not a measurement")
    pairs = 1 if parser.parse_args().quick else 7
    rows = [kernel(length, pairs) for length in (2048, 8192)]
    rows += [against_dense(4096, min(pairs, 3)), kernel_memory(16_384)]
    rows.append(scan_row(2048, "scan", min(pairs, 3)))
    rows += [scan_row(2048, peer, min(pairs, 2)) for peer in ("attentions", "lens")]
    rows.append(scan_row(8192, "scan", 1))
    document = {"machine": machine(), "rows": rows}
    RESULTS.mkdir(exist_ok=True)
    (RESULTS / "cpu.json").write_text(json.dumps(document, indent=1) + "\n")
    (RESULTS / "cpu.md").write_text(table(document))
    print(table(document))


def machine() -> dict[str, Any]:
    """What the figures were taken on."""
    names = [line.split(":")[1].strip() for line in _lines("/proc/cpuinfo") if line.startswith("model name")]
    return {
        "processor": names[0] if names else platform.processor(),
        "cores": torch.get_num_threads(),
        "system": platform.system(),
        "attention": automatic(),
        "versions": {name: version(name) for name in ("headprobe", "torch", "transformers", "transformer-lens")},
    }


def kernel(length: int, pairs: int) -> dict[str, Any]:
    """Output and all statistics of one layer against sdpa's output alone, on the same tensors."""
    call, request, expanded = attention_call(length)

    def plain() -> None:
        torch.nn.functional.scaled_dot_product_attention(*expanded, is_causal=True)

    return _row(
        f"one layer, {length:,} tokens, all statistics",
        "sdpa forward",
        lambda: statistics_of(call, request),
        plain,
        pairs,
    )


def against_dense(length: int, pairs: int) -> dict[str, Any]:
    """The same statistics from T × T weights."""
    call, request, _ = attention_call(length)
    return _row(
        f"one layer, {length:,} tokens, all statistics",
        "the same from the T × T weights (float32)",
        lambda: statistics_of(call, request),
        lambda: dense_statistics(call),
        pairs,
    )


def kernel_memory(length: int) -> dict[str, Any]:
    """Peak memory of one layer above its inputs, in a process of its own."""
    found = child("kernel", length)
    dense = 9 * length * length * 4 / 2**20
    return {
        "what": f"one layer, {length:,} tokens, all statistics",
        "beside": f"one T × T float32 pattern would take {dense:,.0f} MiB",
        "seconds": found["seconds"],
        "memory_mib": found["memory_mib"],
    }


def scan_row(length: int, job: str, pairs: int) -> dict[str, Any]:
    """A whole model at one length, each run in its own process, against the plain sdpa forward."""
    ours, plain = [], []
    for _ in range(pairs):
        plain.append(child("forward", length))
        ours.append(child(job, length))
    titles = {
        "scan": "probe.scan",
        "attentions": "output_attentions=True, reduced",
        "lens": "TransformerLens run_with_cache of all patterns, reduced",
    }
    ratios = [a["seconds"] / b["seconds"] for a, b in zip(ours, plain, strict=True)]
    return {
        "what": f"{titles[job]}, SmolLM2-135M, {length:,} tokens",
        "beside": "plain sdpa forward",
        "ratio": statistics.median(ratios),
        "low": min(ratios),
        "high": max(ratios),
        "seconds": statistics.median(a["seconds"] for a in ours),
        "memory_mib": max(a["memory_mib"] for a in ours),
        "memory_above_mib": max(a["memory_mib"] for a in ours) - max(b["memory_mib"] for b in plain),
    }


def child(job: str, length: int) -> dict[str, float]:
    """Run one job in a fresh process: its seconds, and its peak memory above what stood before."""
    command = [sys.executable, "-m", "tests.benchmarks.child", job, str(length)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        raise SystemExit(f"{' '.join(command[2:])} failed:\n{done.stderr[-2000:]}")
    answer: dict[str, float] = json.loads(done.stdout.splitlines()[-1])
    return answer


def table(document: dict[str, Any]) -> str:
    """The rows as a Markdown table."""
    about = document["machine"]
    lines = [
        f"{about['processor']}, {about['cores']} threads, float32, attention by {about['attention']}; "
        + ", ".join(f"{name} {number}" for name, number in about["versions"].items()),
        "",
        "| what | beside | time ratio (range) | seconds | peak memory | above the plain forward |",
        "|---|---|---|---|---|---|",
    ]
    for row in document["rows"]:
        ratio = f"{row['ratio']:.2f} ({row['low']:.2f}–{row['high']:.2f})" if "ratio" in row else ""
        memory = f"{row['memory_mib']:,.0f} MiB" if "memory_mib" in row else ""
        above = f"{row['memory_above_mib']:+,.0f} MiB" if "memory_above_mib" in row else ""
        lines.append(f"| {row['what']} | {row['beside']} | {ratio} | {row['seconds']:.3g} | {memory} | {above} |")
    return "\n".join(lines) + "\n"


def _row(what: str, beside: str, ours: Callable[[], Any], theirs: Callable[[], Any], pairs: int) -> dict[str, Any]:
    ours(), theirs()
    times = [(_seconds(ours), _seconds(theirs)) for _ in range(pairs)]
    ratios = [a / b for a, b in times]
    return {
        "what": what,
        "beside": beside,
        "ratio": statistics.median(ratios),
        "low": min(ratios),
        "high": max(ratios),
        "seconds": statistics.median(a for a, _ in times),
    }


def _seconds(work: Callable[[], Any]) -> float:
    begun = time.perf_counter()
    work()
    return time.perf_counter() - begun


def _lines(path: str) -> list[str]:
    file = Path(path)
    return file.read_text().splitlines() if file.exists() else []


if __name__ == "__main__":
    main()
