"""From the records of all pieces to one document, one Markdown table and an exit status."""

from __future__ import annotations

from dataclasses import asdict
from typing import Any

from tests.benchmarks.gpu_pieces import Ended, Record
from tests.benchmarks.measuring import Rates, floors, line

Document = dict[str, Any]


def joined(old: Document | None, device: Record, plan: Record, ended: dict[str, Ended]) -> Document:
    """The document of a run. Pieces of an older document stay where this run has none of that name, and where device,
    versions and plan are the same; else they are dropped: numbers of two set-ups are not put side by side."""
    kept = old["pieces"] if old is not None and (old["device"], old["plan"]) == (device, plan) else {}
    return {"device": device, "plan": plan, "pieces": {**kept, **{name: asdict(end) for name, end in ended.items()}}}


def of_kind(document: Document, kind: str) -> list[Record]:
    """All records of a kind, in the order of the pieces."""
    return [record for piece in document["pieces"].values() for record in piece["records"] if record["kind"] == kind]


def worst_checks(document: Document) -> list[Record]:
    """The worst error of every statistic over all lengths and heads, as a share of its bound (NaN counts as worst)."""
    worst: dict[str, Record] = {}
    for record in of_kind(document, "check"):
        held = worst.get(record["what"])
        if held is None or not record["worst"] <= held["worst"]:
            worst[record["what"]] = record
    return list(worst.values())


def wrong(document: Document) -> list[str]:
    """What is wrong with the kernels, a line each: statistics outside their bounds, failed tests, passes that raised (a
    peer that does not run here is no fault), more memory than allowed."""
    lines = [
        f"{row['what']}: {row['worst']:.3g} times its bound ({row['where']})"
        for row in worst_checks(document)
        if not row["worst"] <= 1
    ]
    lines += [f"failed: {row['name']}" for row in of_kind(document, "test") if row["outcome"] == "failed"]
    lines += [
        f"{row['what']} at {row['tokens']:,}: {row['why_not']}"
        for row in of_kind(document, "time")
        if "why_not" in row and not row["peer"]
    ]
    return lines + [
        f"{row['what']} at {row['tokens']:,}: {row['mib']:,.1f} MiB, {row['allowed_mib']:,.0f} are allowed"
        for row in of_kind(document, "memory")
        if not row["mib"] <= row["allowed_mib"]
    ]


def complaints(document: Document) -> list[str]:
    """What is wrong, and the pieces that did not run to their end."""
    broken = [f"{name}: {piece['status']}" for name, piece in document["pieces"].items() if piece["status"] != "0"]
    return wrong(document) + broken


def status(document: Document) -> int:
    """0; 1 where something is wrong with the kernels; 3 where only a piece did not run to its end."""
    return 1 if wrong(document) else 3 if complaints(document) else 0


def table(document: Document) -> str:
    """The document as Markdown: device, tests, checks, times, memory, and what did not run."""
    device = document["device"]
    versions = ", ".join(f"{name} {number}" for name, number in device["versions"].items())
    lines = [f"{device['name']}, {device['memory_gib']:.0f} GiB, sm_{device['capability']}; {versions}."]
    lines += [
        f"Measured at best: {rates['products'] / 1e12:,.0f} TFLOP/s in bf16 products, "
        f"{rates['exponentials'] / 1e12:,.2f} T exponentials/s, {rates['bytes'] / 1e9:,.0f} GB/s copied."
        for rates in of_kind(document, "rates")[:1]
    ]
    outcomes = [record["outcome"] for record in of_kind(document, "test")]
    if outcomes:
        counted = ", ".join(f"{outcomes.count(word)} {word}" for word in sorted(set(outcomes)))
        lines += ["", f"Property tests on this device: {counted}."]
    lines += _section(
        "checked against float64 | worst error, as a share of its bound | at",
        [f"{row['what']} | {row['worst']:.2f} | {row['where']}" for row in worst_checks(document)],
    )
    head = "tokens | what | ms (quartiles) | × flash sdpa | least ms: products, exponentials, bytes | × its floor"
    lines += _section(head, _time_rows(document))
    points = of_kind(document, "memory")
    lines += _section(
        "what | tokens | MiB beside inputs and z | allowed",
        [f"{row['what']} | {row['tokens']:,} | {row['mib']:,.1f} | {row['allowed_mib']:,.0f}" for row in points],
    )
    lines += _lines_through(points)
    broken = {name: piece for name, piece in document["pieces"].items() if piece["status"] != "0"}
    lines += _section(
        "did not run to its end | how it ended",
        [
            f"{name} | {piece['status']} after {piece['seconds']:.0f} s; {len(piece['records'])} results kept"
            for name, piece in broken.items()
        ],
    )
    return "\n".join(lines) + "\n"


def _section(head: str, rows: list[str]) -> list[str]:
    if not rows:
        return []
    return ["", f"| {head} |", "|---" * (head.count("|") + 1) + "|", *(f"| {row} |" for row in rows)]


def _lines_through(points: list[Record]) -> list[str]:
    """A straight line through the memory of each case that has two points or more."""
    out = []
    for what in dict.fromkeys(point["what"] for point in points):
        mine = [point for point in points if point["what"] == what]
        if len(mine) > 1:
            fit = line([point["tokens"] for point in mine], [point["mib"] for point in mine])
            out.append(
                f"\n{what}: {fit.slope * 1024:.2f} MiB a thousand tokens + {fit.intercept:.1f} MiB; "
                f"the points lie within {100 * fit.worst:.1f} % of that line."
            )
    return out


def _time_rows(document: Document) -> list[str]:
    rows = of_kind(document, "time")
    flash = {row["tokens"]: row["seconds"] for row in rows if row["what"].startswith("flash") and "seconds" in row}
    rates = of_kind(document, "rates")
    best = Rates(**{name: rates[0][name] for name in ("products", "exponentials", "bytes")}) if rates else None
    return [_time_row(row, flash.get(row["tokens"]), best, document["plan"]) for row in sorted(rows, key=_place)]


def _place(row: Record) -> tuple[bool, int]:
    return row["what"].startswith("decoding"), row["tokens"]


def _time_row(row: Record, flash: float | None, best: Rates | None, plan: Record) -> str:
    if "why_not" in row:
        return f"{row['tokens']:,} | {row['what']} | {row['why_not']} | | | "
    least = times = ""
    if best is not None and row["passes"]:
        floor = floors(row["tokens"], plan["heads"], plan["kv_heads"], plan["width"], row["passes"], best)
        least = ", ".join(f"{1000 * floor[name]:.3g}" for name in ("products", "exponentials", "bytes"))
        times = f"{row['seconds'] / max(floor.values()):.2f}"
    ratio = f"{row['seconds'] / flash:.2f}" if flash and not row["what"].startswith("decoding") else ""
    taken = f"{1000 * row['seconds']:.4g} ({1000 * row['low']:.3g}–{1000 * row['high']:.3g})"
    once = " once" if row["runs"] == 1 else ""
    return f"{row['tokens']:,} | {row['what']} | {taken}{once} | {ratio} | {least} | {times}"
