"""The command `compare`: two results folders side by side, head by head."""

from __future__ import annotations

import json
import shlex
import sys
from pathlib import Path
from typing import Annotated

import typer

from probe.commands.options import Fresh, Json, Seed, visible

First = Annotated[Path, typer.Argument(help="A results folder with a head table: A.")]
Second = Annotated[Path, typer.Argument(help="Another: B. Changes are B − A.")]
Folder = Annotated[Path | None, typer.Option(help="Folder to write compare.json, .csv, .parquet and a page into.")]
Metric = Annotated[list[str] | None, typer.Option(help="Compare this metric; several times for several. Default: all.")]
MatchBy = Annotated[str, typer.Option("--match", help="Pair heads by name, by behaviour, or auto.")]


def compare(
    a: First,
    b: Second,
    out: Folder = None,
    metric: Metric = None,
    match_by: MatchBy = "auto",
    seed: Seed = 0,
    fresh: Fresh = False,
    as_json: Json = False,
) -> None:
    """Say which heads of two results folders differ: two models, checkpoints, precisions or contexts."""
    from probe.comparisons.compare import compare as side_by_side
    from probe.page.report_compare import write_compare_report
    from probe.store import results_folder

    found = side_by_side(a, b, metrics=metric, match_by=match_by, seed=seed)
    if out is not None:
        asked = {"compare": [found.a.metadata, found.b.metadata], "metrics": metric, "match": match_by, "seed": seed}
        with results_folder(out, asked, fresh=fresh) as folder:
            found.save(folder.path)
            write_compare_report(found, folder.path, command=shlex.join(["probe", *sys.argv[1:]]))
    if as_json:
        print(json.dumps(found.json(), allow_nan=False))
        return
    from probe.comparisons.comparison import COMPARE_FILES
    from probe.page.findings_compare import compare_findings

    print(visible(f"A: {found.label_a}; B: {found.label_b}; changes are B − A"))
    for finding in compare_findings(found):
        print(visible(f"{finding.title}: {finding.text}"))
        for head in finding.heads:
            print(visible(f"  {head}"))
    if out is not None:
        print(visible(f"{out}: {', '.join(('report.html', *COMPARE_FILES, 'run.json'))}"))
