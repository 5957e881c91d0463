"""The command that writes results in the forms that others read."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Annotated

import typer

from probe.commands.options import Fresh, Json, visible

Folder = Annotated[Path, typer.Argument(help="A folder that a probe command has written.")]
To = Annotated[str, typer.Option("--to", help="parquet, csv, json, latex, markdown, duo, scores, png, svg or card.")]
Columns = Annotated[str, typer.Option("--column", help="Metrics of the head table, commas between.")]
Top = Annotated[int | None, typer.Option(help="Only the heads with the highest values of the first column.")]
Reduce = Annotated[str, typer.Option(help="duo: query heads of a key/value head become their max or mean.")]
Licence = Annotated[str, typer.Option(help="card: licence of the results, as the hub spells it.")]
Place = Annotated[Path | None, typer.Option("--out", help="File or folder to write. Default: export/ in the folder.")]


def export(
    folder: Folder,
    to: To,
    column: Columns = "",
    top: Top = None,
    reduce: Reduce = "max",
    licence: Licence = "unknown",
    out: Place = None,
    fresh: Fresh = False,
    as_json: Json = False,
) -> None:
    """Write a results folder's table, scores, figures or dataset card in a form that others read."""
    from probe.export import export as write

    columns = [name.strip() for name in column.split(",")] if column else []
    made = write(folder, to, columns=columns, top=top, reduce=reduce, licence=licence, out=out, fresh=fresh)
    if as_json:
        print(json.dumps({"files": [str(path) for path in made.paths], "notes": list(made.notes)}))
        return
    for note in made.notes:
        print(visible(note), file=sys.stderr)
    for path in made.paths:
        print(visible(str(path)))
