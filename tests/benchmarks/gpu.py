"""The fused passes on a GPU: every statistic against float64, then times, memory and floors. Needs no arguments.

    python -m tests.benchmarks.gpu

Writes `results/<device>.json` and `results/<device>.md`. Without a CUDA device it says so and exits with 2; with a
statistic outside its bound it writes what it found and exits with 1.
"""

from __future__ import annotations

import json
import re
import sys
from collections.abc import Callable
from dataclasses import dataclass, replace
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch
import triton
from torch.nn.attention import SDPBackend

from probe.kernels.decode import decode_statistics
from probe.kernels.decode_testing import assert_decoded_close
from probe.kernels.decoded import DecodeRequest
from probe.kernels.dispatch import attention_statistics
from probe.kernels.inputs import Attention, Lookup, Mask, Request, Score
from probe.kernels.testing import MismatchError
from probe.kernels.triton_config import CHEAP
from probe.kernels.triton_launch import ColumnsWanted, RowsMade, RowsWanted, launch_columns, launch_rows
from tests.benchmarks.gpu_peers import eager, flex, sdpa, tried
from tests.benchmarks.gpu_rates import rates
from tests.benchmarks.gpu_truth import HeadTruth, shares
from tests.benchmarks.measuring import Clock, Rates, Timing, floors, line, table

RESULTS = Path(__file__).parent / "results"
MIB = 2**20


@dataclass(frozen=True)
class Plan:
    """What is measured, on which shapes: the issue's, or a tiny one that runs anywhere."""

    heads: int = 32
    kv_heads: int = 8
    width: int = 128
    dtype: torch.dtype = torch.bfloat16
    lengths: tuple[int, ...] = (8192, 32_768, 131_072)
    eager_lengths: tuple[int, ...] = (8192, 32_768)
    memory_lengths: tuple[int, ...] = (16_384, 32_768, 65_536, 131_072)
    checked: tuple[tuple[int, int], ...] = ((1000, 4), (8192, 4), (32_768, 2), (131_072, 1))
    """Tokens, and how many of the heads are computed in float64 (spread over them, the last one among them)."""
    decode_keys: tuple[int, ...] = (8192, 131_072, 1_048_576)
    bands: int = 64
    rates: tuple[tuple[str, int], ...] = ()
    """Sizes of what `gpu_rates.rates` measures, where they are not its own."""


def make_call(plan: Plan, length: int, device: torch.device, *, queries: int | None = None) -> Attention:
    """Random tensors of the plan's shape: scores of a standard deviation of 2, the same on every run."""
    generator = torch.Generator(device).manual_seed(length)

    def draw(heads: int, n: int) -> torch.Tensor:
        return torch.randn(1, heads, n, plan.width, generator=generator, device=device, dtype=plan.dtype)

    n = length if queries is None else queries
    q, k, v = (2 * draw(plan.heads, n)), draw(plan.kv_heads, length), draw(plan.kv_heads, length)
    return Attention(q, k, v, Mask(query_offset=length - n), Score(plan.width**-0.5))


def full_request(call: Attention, *, bands: int, parts: bool) -> Request:
    """Every statistic there is, over repeated random tokens."""
    generator = torch.Generator(call.q.device).manual_seed(1)
    B, T = call.q.shape[0], call.q.shape[2]
    ids = torch.randint(0, max(T // 8, 2), (B, T), generator=generator, device=call.q.device)
    before = torch.cat([torch.full_like(ids[:, :1], -1), ids[:, :-1]], 1)
    direction = torch.randn(call.q.shape, generator=generator, device=call.q.device, dtype=call.q.dtype)
    return Request(
        lookups={"duplicate_token": Lookup(ids, ids, gap=1), "induction": Lookup(ids, before)},
        bands=bands,
        parts=parts,
        argmax=True,
        received_max=True,
        received_value=True,
        thresholds=(0.1, 0.01),
        direction=direction,
        mean=call.v.repeat_interleave(call.q.shape[1] // call.k.shape[1], 1).mean(2, keepdim=True),
    )


def checks(plan: Plan, device: torch.device) -> list[dict[str, Any]]:
    """The worst error of every statistic over all checked lengths and heads, as a share of its bound."""
    worst: dict[str, tuple[float, str]] = {}

    def note(name: str, share: float, where: str) -> None:
        if name not in worst or not share <= worst[name][0]:
            worst[name] = (share, where)

    for length, count in plan.checked:
        call = make_call(plan, length, device)
        heads = [plan.heads - 1 - n * (plan.heads // count) for n in range(count)]
        for parts in (True, False):
            request = full_request(call, bands=plan.bands, parts=parts)
            z, found = attention_statistics(call, request, backend="triton")
            for head in heads:
                for name, share in shares(HeadTruth(call, request, 0, head), z, found).items():
                    note(name, share, f"{length:,} tokens, head {head}")
    for length in (keys for keys in plan.decode_keys if keys <= max(8192, min(plan.decode_keys))):
        for name, share in _decode_check(plan, length, device).items():
            note(f"decoding: {name}", share, f"{length:,} keys")
    return [{"what": name, "worst": share, "where": where} for name, (share, where) in worst.items()]


def _decode_check(plan: Plan, keys: int, device: torch.device) -> dict[str, float]:
    """Against the dense definition, which a few queries can afford; computed on the CPU's tensors."""
    call, request = make_call(plan, keys, device, queries=3), DecodeRequest(top=64)
    found = decode_statistics(call, request, backend="triton")
    here = replace(call, q=call.q.cpu(), k=call.k.cpu(), v=call.v.cpu())
    moved = replace(found, **{name: value.cpu() for name, value in vars(found).items()})
    try:
        return assert_decoded_close(moved, here, request)
    except MismatchError as error:
        print(f"decoding over {keys:,} keys: {error}", file=sys.stderr)
        return {"all": float("inf")}


CHEAP_ROWS = RowsWanted(fields=CHEAP)
CONSUMED = RowsWanted(fields=CHEAP, partials=True)
WRITTEN = RowsWanted(fields=CHEAP, parts=True)


def both_passes(call: Attention, wanted: RowsWanted) -> RowsMade:
    """Pass 1, then the received mass from its log-sum-exp."""
    made = launch_rows(call, wanted)
    launch_columns(call, made.fields["lse"], ColumnsWanted())
    return made


def times(plan: Plan, device: torch.device, clock: Clock, best: Rates) -> list[dict[str, Any]]:
    """One row for each piece of work and length; `ratio` is to torch's flash attention on the same tensors."""
    rows: list[dict[str, Any]] = []
    for length in plan.lengths:
        call = make_call(plan, length, device)
        base: Timing | None = None
        work: list[tuple[str, int, Callable[[], Any]]] = [
            ("flash sdpa, output alone", 1, sdpa(call, SDPBackend.FLASH_ATTENTION)),
            ("cuDNN sdpa, output alone", 1, sdpa(call, SDPBackend.CUDNN_ATTENTION)),
            ("pass 1: output, lse", 1, lambda call=call: launch_rows(call, RowsWanted(classes=False))),
            ("pass 1: output, lse, cheap statistics", 1, lambda call=call: launch_rows(call, CHEAP_ROWS)),
            ("pass 2: received", 1, _columns_alone(call)),
            ("both passes, class outputs consumed", 2, lambda call=call: both_passes(call, CONSUMED)),
            ("both passes, class outputs written", 2, lambda call=call: both_passes(call, WRITTEN)),
        ]
        for what, passes, run in work:
            timing, why_not = tried(lambda run=run: clock.time(run))
            base = timing if base is None and "flash" in what else base
            least = floors(length, plan.heads, plan.kv_heads, plan.width, passes, best)
            rows.append(_row(length, what, timing, why_not, base, None if "pass 2" in what else least))
        made, why_not = tried(lambda call=call: flex(call))
        timing, why_not = tried(lambda made=made: clock.time(made)) if why_not is None else (None, why_not)
        rows.append(_row(length, "FlexAttention with lse, the statistics in torch", timing, why_not, base))
        if length in plan.eager_lengths:
            timing, why_not = tried(lambda call=call: clock.time(eager(call)))
            rows.append(_row(length, "eager T × T in float32, the statistics from it", timing, why_not, base))
    for keys in plan.decode_keys:
        call = make_call(plan, keys, device, queries=1)
        for top in (0, 64):
            run = lambda call=call, top=top: decode_statistics(call, DecodeRequest(top=top), backend="triton")  # noqa: E731
            timing, why_not = tried(lambda run=run: clock.time(run))
            rows.append(_row(keys, f"decoding one token, {top} strongest keys", timing, why_not, None))
        timing, why_not = tried(lambda call=call: clock.time(sdpa_one(call)))
        rows.append(_row(keys, "decoding one token, sdpa, output alone", timing, why_not, None))
    return rows


def sdpa_one(call: Attention) -> Callable[[], Any]:
    """The output of one query over all its keys, by whichever kernel torch takes."""
    attend = torch.nn.functional.scaled_dot_product_attention
    return lambda: attend(call.q, call.k, call.v, scale=call.score.scale, enable_gqa=True)


def _columns_alone(call: Attention) -> Callable[[], Any]:
    lse = launch_rows(call, RowsWanted(classes=False)).fields["lse"]
    return lambda: launch_columns(call, lse, ColumnsWanted())


def _row(
    length: int,
    what: str,
    timing: Timing | None,
    why_not: str | None,
    base: Timing | None,
    least: dict[str, float] | None = None,
) -> dict[str, Any]:
    if timing is None:
        return {"tokens": length, "what": what, "why_not": why_not}
    numbers = {"seconds": timing.median, "low": timing.low, "high": timing.high, "runs": timing.runs}
    ratio = None if base is None else timing.median / base.median
    return {"tokens": length, "what": what, **numbers, "ratio": ratio, "floors": least}


def memory(plan: Plan, device: torch.device) -> dict[str, Any]:
    """Peak memory of both passes beside their inputs and z, at each length, and a line through it.

    Allowed: 32 MiB, and for each row or column vector (log-sum-exp and received included) its own 4 bytes a token and
    head: 16 MiB at 131,072 tokens of 32 heads.
    """
    points = []
    cases = {"lse and received": RowsWanted(classes=False), "cheap statistics and received, classes consumed": CONSUMED}
    for what, wanted in cases.items():
        for length in plan.memory_lengths:
            call = make_call(plan, length, device)
            mib = _peak(lambda call=call, wanted=wanted: both_passes(call, wanted), device) / MIB
            z = call.q.numel() * call.q.element_size() / MIB
            vectors = (len(wanted.fields) + 1) * 4 * plan.heads * length / MIB
            points.append({"what": what, "tokens": length, "mib": mib - z, "allowed_mib": 32 + vectors})
    fits = {}
    for what in cases:
        mine = [point for point in points if point["what"] == what]
        fits[what] = vars(line([point["tokens"] for point in mine], [point["mib"] for point in mine]))
    return {"points": points, "lines": fits}


def _peak(work: Callable[[], Any], device: torch.device) -> float:
    """Bytes allocated at most during the work, above those before it; 0 where the device does not count."""
    work()
    if device.type != "cuda":
        return 0.0
    torch.cuda.synchronize(device)
    torch.cuda.empty_cache()
    before = torch.cuda.memory_allocated(device)
    torch.cuda.reset_peak_memory_stats(device)
    work()
    torch.cuda.synchronize(device)
    return float(torch.cuda.max_memory_allocated(device) - before)


def about(device: torch.device) -> dict[str, Any]:
    """What the figures were taken on."""
    versions = {"headprobe": version("headprobe"), "torch": torch.__version__, "triton": triton.__version__}
    if device.type != "cuda":
        return {"name": "no GPU: Triton's interpreter", "memory_gib": 0.0, "capability": "-", "versions": versions}
    found = torch.cuda.get_device_properties(device)
    versions["cuda"] = str(torch.version.cuda)
    capability = f"{found.major}{found.minor}"
    return {
        "name": found.name,
        "memory_gib": found.total_memory / 2**30,
        "capability": capability,
        "versions": versions,
    }


def measure(plan: Plan, device: torch.device, clock: Clock) -> dict[str, Any]:
    """The whole document. Checks come first: times of wrong numbers are worth nothing, but are written beside them."""
    checked = checks(plan, device)
    best = rates(device, clock, dtype=plan.dtype, **dict(plan.rates))
    return {
        "device": about(device),
        "plan": {name: str(value) for name, value in vars(plan).items()},
        "rates": vars(best),
        "checks": checked,
        "times": times(plan, device, clock, best),
        "memory": memory(plan, device),
    }


def write(document: dict[str, Any], folder: Path) -> Path:
    """One JSON and one Markdown table, named after the device. Returns the table's path."""
    name = re.sub(r"[^a-z0-9]+", "_", document["device"]["name"].lower()).strip("_")
    folder.mkdir(parents=True, exist_ok=True)
    (folder / f"{name}.json").write_text(json.dumps(document, indent=1) + "\n")
    path = folder / f"{name}.md"
    path.write_text(table(document))
    return path


def main() -> int:
    """Measure on the first CUDA device. Exit status: 0, 1 (a statistic is outside its bound), 2 (no CUDA device)."""
    if not torch.cuda.is_available():
        print("no CUDA device here: nothing was measured (`make bench` measures the CPU)", file=sys.stderr)
        return 2
    device = torch.device("cuda")
    document = measure(Plan(), device, Clock(device))
    path = write(document, RESULTS)
    print(path.read_text())
    wrong = [row["what"] for row in document["checks"] if not row["worst"] <= 1]
    if wrong:
        print(f"outside their bounds: {', '.join(wrong)}", file=sys.stderr)
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main())
