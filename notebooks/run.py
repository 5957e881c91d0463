"""Execute the notebooks: `python -m notebooks.run` in place, `--check` without writing, `--out FOLDER` elsewhere."""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import sys
from collections.abc import Callable
from pathlib import Path

import nbformat
from nbclient import NotebookClient
from nbclient.exceptions import CellExecutionError
from nbformat import NotebookNode

HERE = Path(__file__).resolve().parent
STAMP = "executed_source"
"""Key of the notebook's metadata that holds the hash of the source its outputs came from."""
CELL_SECONDS = 900

# The annotations stand in for the types that nbformat does not give.
_read: Callable[..., NotebookNode] = nbformat.read
_write: Callable[..., None] = nbformat.write
_node: Callable[..., NotebookNode] = nbformat.from_dict


def source_hash(notebook: NotebookNode) -> str:
    """SHA-256 of the cells' types and sources as canonical JSON; outputs do not count."""
    cells = [[cell.cell_type, cell.source] for cell in notebook.cells]
    return hashlib.sha256(json.dumps(cells, separators=(",", ":")).encode()).hexdigest()


def execute(path: Path) -> NotebookNode:
    """The notebook, run from top to bottom in a fresh kernel of this Python, stamped with its source's hash.

    Old outputs are dropped first. Raises CellExecutionError for the first cell that fails.
    """
    notebook = _read(path, as_version=4)
    for cell in notebook.cells:
        if cell.cell_type == "code":
            cell.outputs, cell.execution_count = [], None
    client = NotebookClient(
        notebook,
        timeout=CELL_SECONDS,
        kernel_name="python3",
        record_timing=False,
        resources={"metadata": {"path": str(path.parent)}},
    )
    # Hugging Face's import of tqdm warns, with the path of the Python, where ipywidgets is not installed.
    client.execute(env={**os.environ, "PYTHONWARNINGS": "ignore:IProgress not found"})
    # The kernel's patch version would change the file without changing what it says.
    notebook.metadata = _node(
        {
            "kernelspec": {"display_name": "Python 3", "language": "python", "name": "python3"},
            "language_info": {"name": "python"},
            STAMP: source_hash(notebook),
        }
    )
    nbformat.validate(notebook)
    return notebook


def stale(path: Path) -> str | None:
    """Why the outputs in the file are not those of its source, or None where they are."""
    notebook = _read(path, as_version=4)
    if notebook.metadata.get(STAMP) != source_hash(notebook):
        return "its source was changed after its outputs were made; run `python -m notebooks.run`"
    code = [cell for cell in notebook.cells if cell.cell_type == "code"]
    if [cell.execution_count for cell in code] != list(range(1, len(code) + 1)):
        return "its cells were not run once each, from top to bottom; run `python -m notebooks.run`"
    return None


def main(arguments: list[str] | None = None) -> int:
    """The command: 0 where every notebook ran, 1 with one line for each that did not."""
    parser = argparse.ArgumentParser(prog="python -m notebooks.run", description=__doc__)
    where = parser.add_mutually_exclusive_group()
    where.add_argument("--check", action="store_true", help="run and compare; write nothing")
    where.add_argument("--out", type=Path, help="write the executed notebooks into this folder")
    asked = parser.parse_args(arguments)
    failed = False
    for path in sorted(HERE.glob("*.ipynb")):
        problem = stale(path) if asked.check else None
        try:
            notebook = execute(path)
        except CellExecutionError as error:
            problem = f"{error.ename}: {error.evalue}"
        else:
            if not asked.check:
                folder = asked.out or path.parent
                folder.mkdir(parents=True, exist_ok=True)
                _write(notebook, folder / path.name)
        failed = failed or problem is not None
        print(f"{path.name}: {problem or 'ran from top to bottom'}", file=sys.stderr if problem else sys.stdout)
    return int(failed)


if __name__ == "__main__":
    sys.exit(main())
