"""The fused passes on a GPU: property tests, every statistic against float64, then times, memory and floors.

    python -m tests.benchmarks.gpu [--only checks,times] [--minutes 30] [--jobs 12] [--out FOLDER]

Every piece runs in a process of its own (`gpu_pieces`): those that time nothing side by side, as they mostly compile,
then the others one by one. `<device>.json` and `<device>.md` are written anew after each piece, so nothing that was
computed is lost; pieces of an earlier run on the same device and versions stay: checks can be run first, times later.
Exit status: 0; 1, something is wrong (a statistic outside its bound, a failed test, too much memory); 2, no CUDA
device; 3, a piece did not run to its end.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import sys
import tempfile
import time
from collections.abc import Iterator
from dataclasses import asdict
from importlib.metadata import version
from pathlib import Path

import torch
import triton

from tests.benchmarks.gpu_checks import checks, decode_checks
from tests.benchmarks.gpu_pieces import Command, Ended, Piece, Record, run_pieces, write_records
from tests.benchmarks.gpu_plan import Plan
from tests.benchmarks.gpu_rates import rates
from tests.benchmarks.gpu_report import Document, complaints, joined, status, table
from tests.benchmarks.gpu_tests import run_share
from tests.benchmarks.gpu_times import compiled_once, decode_times, eager_times, flex_times, memory, times
from tests.benchmarks.measuring import Clock

RESULTS = Path(__file__).parent / "results"

LONGEST = 0.5
"""Share of all minutes that one piece may take."""


def pieces(plan: Plan) -> list[Piece]:
    """Everything there is to run, in this order; the first kind times nothing and runs side by side."""
    together = [*(f"tests {n + 1}/{plan.test_shares}" for n in range(plan.test_shares)), "compile"]
    together += [*(f"checks {length}" for length, _ in reversed(plan.checked)), "checks decoding"]
    alone = ["rates", *(f"times {length}" for length in plan.lengths), "memory", "decoding", "eager"]
    alone += [f"flex {length}" for length in plan.lengths]
    return [*(Piece(name, alone=False) for name in together), *map(Piece, alone)]


def records_of(name: str, plan: Plan, device: torch.device, clock: Clock) -> Iterator[Record]:
    """What one piece finds, as it finds it."""
    part, _, rest = name.partition(" ")
    if name == "checks decoding":
        return decode_checks(plan, device)
    if part == "rates":
        found = rates(device, clock, dtype=plan.dtype, **dict(plan.rates))
        return iter([{"kind": "rates", **vars(found)}])
    if part in ("checks", "times", "flex"):
        one = {"checks": checks, "times": times, "flex": flex_times}[part]
        return one(plan, int(rest), device, clock)
    every = {"compile": compiled_once, "memory": memory, "decoding": decode_times, "eager": eager_times}
    return every[part](plan, device, clock)


def about(device: torch.device) -> Record:
    """What the figures were taken on."""
    versions = {"headprobe": version("headprobe"), "torch": torch.__version__, "triton": triton.__version__}
    if device.type != "cuda":
        return {"name": "no GPU: Triton's interpreter", "memory_gib": 0.0, "capability": "-", "versions": versions}
    found = torch.cuda.get_device_properties(device)
    return {
        "name": found.name,
        "memory_gib": found.total_memory / 2**30,
        "capability": f"{found.major}{found.minor}",
        "versions": {**versions, "cuda": str(torch.version.cuda)},
    }


def described(plan: Plan) -> Record:
    """The plan in words that JSON has."""
    made: Record = json.loads(json.dumps(asdict(plan), default=str))
    return made


def path_for(device: Record, folder: Path) -> Path:
    """The JSON file of a device; its table stands beside it."""
    return folder / f"{re.sub(r'[^a-z0-9]+', '_', device['name'].lower()).strip('_')}.json"


def write(document: Document, folder: Path) -> Path:
    """One JSON and one Markdown table, named after the device; each whole or not at all. Returns the table's path."""
    folder.mkdir(parents=True, exist_ok=True)
    path = path_for(document["device"], folder)
    for target, text in ((path, json.dumps(document, indent=1) + "\n"), (path.with_suffix(".md"), table(document))):
        part = target.with_name(f"{target.name}.part")
        part.write_text(text)
        part.replace(target)
    return path.with_suffix(".md")


def child(name: str, records: Path) -> list[str]:
    """The command line of one piece."""
    return [sys.executable, "-m", "tests.benchmarks.gpu", "--piece", name, "--records", str(records)]


def run(
    chosen: list[Piece],
    plan: Plan,
    device: Record,
    folder: Path,
    *,
    minutes: float,
    jobs: int,
    command: Command = child,
) -> Document:
    """Run the chosen pieces within so many minutes, writing the document after each."""
    begun, path = time.monotonic(), path_for(device, folder)
    old = json.loads(path.read_text()) if path.exists() else None
    ended: dict[str, Ended] = {}
    document = joined(old, device, described(plan), ended)
    with tempfile.TemporaryDirectory() as scratch:
        limits = {"deadline": begun + 60 * minutes, "longest": 60 * minutes * LONGEST}
        for piece, end in run_pieces(chosen, command, Path(scratch), **limits, jobs=jobs):
            ended[piece.name] = end
            document = joined(old, device, described(plan), ended)
            write(document, folder)
            _tell(piece, end, time.monotonic() - begun, 60 * minutes, len(chosen) - len(ended))
    return document


def _tell(piece: Piece, end: Ended, spent: float, allowed: float, waiting: int) -> None:
    """One line a piece: time spent and left, what came of it; and what it said, where it did not end well."""
    how = "done" if end.whole else f"FAILED ({end.status})"
    print(f"[{spent:4.0f} s, {max(allowed - spent, 0):4.0f} s left, {waiting} pieces to go] {piece.name}: {how} after "
          f"{end.seconds:.0f} s, {len(end.records)} results", flush=True)  # fmt: skip
    if end.said:
        print("    " + end.said.replace("\n", "\n    "), flush=True)


def _arguments(arguments: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parts = list(dict.fromkeys(piece.part for piece in pieces(Plan())))
    parser.add_argument("--only", default=",".join(parts), help=f"parts to run, of {', '.join(parts)}")
    parser.add_argument("--minutes", type=float, default=30.0, help="stop what runs after this long, and start no more")
    jobs = max(2, min(16, (os.cpu_count() or 2) - 2))
    parser.add_argument("--jobs", type=int, default=jobs, help="pieces side by side, where nothing is timed")
    parser.add_argument("--out", type=Path, default=RESULTS, help="folder of the two files")
    parser.add_argument("--piece", help=argparse.SUPPRESS)  # one piece, in this process
    parser.add_argument("--records", type=Path, help=argparse.SUPPRESS)
    options = parser.parse_args(arguments)
    unknown = sorted(set(options.only.split(",")) - set(parts))
    if unknown:
        parser.error(f"--only: no part {', '.join(unknown)}; wanted some of {', '.join(parts)}")
    return options


def main(arguments: list[str] | None = None) -> int:
    """Measure on the first CUDA device; see the top of this file for the exit status."""
    options = _arguments(arguments)
    if not torch.cuda.is_available():
        print("no CUDA device here: nothing was measured (`make bench` measures the CPU)", file=sys.stderr)
        return 2
    plan, device = Plan(), torch.device("cuda", 0)
    if options.piece is not None:
        return run_piece(options.piece, options.records, plan, device)
    chosen = [piece for piece in pieces(plan) if piece.part in options.only.split(",")]
    document = run(chosen, plan, about(device), options.out, minutes=options.minutes, jobs=options.jobs)
    print(table(document))
    for complaint in complaints(document):
        print(complaint, file=sys.stderr)
    return status(document)


def run_piece(name: str, records: Path, plan: Plan, device: torch.device) -> int:
    """One piece in this process. Returns its exit status: that of pytest for a share of the tests."""
    if name.startswith("tests "):
        number, _, of = name.removeprefix("tests ").partition("/")
        return run_share(int(number) - 1, int(of), records)
    write_records(records_of(name, plan, device, Clock(device)), records)
    return 0


if __name__ == "__main__":
    sys.exit(main())
