"""Execute the notebooks: `python -m notebooks.run` in place, `--check` without writing, `--out FOLDER` elsewhere.

Two run at a time, each on one thread: on two cores that is faster than one after the other on both.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import sys
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import nbformat
from nbclient import NotebookClient
from nbclient.exceptions import CellExecutionError
from nbformat import NotebookNode

from probe.tokens import natural_text

HERE = Path(__file__).resolve().parent
STAMP = "executed_source"
"""Key of the notebook's metadata that holds the hash of the source its outputs came from."""
TEXT = "read_text"
"""Key of the metadata that holds the hash of the Python's own prose, which most notebooks read."""
CELL_SECONDS = 900
AT_ONCE = 2

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
    # One thread: sums do not depend on how many cores there are, and notebooks that run together do not wait on them.
    quiet = {"PYTHONWARNINGS": "ignore:IProgress not found", "OMP_NUM_THREADS": "1"}
    client.execute(env={**os.environ, **quiet})
    # The kernel's patch version would change the file without changing what it says.
    notebook.metadata = _node(
        {
            "kernelspec": {"display_name": "Python 3", "language": "python", "name": "python3"},
            "language_info": {"name": "python"},
            STAMP: source_hash(notebook),
            TEXT: hashlib.sha256(natural_text().encode()).hexdigest(),
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
    parser.add_argument("--at-once", type=int, default=AT_ONCE, metavar="N", help=f"how many (default {AT_ONCE})")
    parser.add_argument("names", nargs="*", metavar="NAME", help="notebooks to run, such as tour (default: all)")
    asked = parser.parse_args(arguments)
    paths = {path.stem: path for path in sorted(HERE.glob("*.ipynb"))}
    unknown = [name for name in asked.names if name not in paths]
    if unknown:
        parser.error(f"no notebook {unknown[0]!r}; there are {', '.join(paths)}")
    if asked.at_once < 1:
        parser.error(f"{asked.at_once} at once; wanted 1 or more")
    chosen = [paths[name] for name in asked.names or paths]
    with ThreadPoolExecutor(asked.at_once) as pool:
        problems = list(pool.map(lambda path: _run(path, asked.check, asked.out or path.parent), chosen))
    return int(any(problems))


def _run(path: Path, check: bool, folder: Path) -> str | None:
    """Run one notebook, write it unless `check`, print how it went; what was wrong, or None."""
    problem = stale(path) if check else None
    try:
        notebook = execute(path)
    except CellExecutionError as error:
        problem = f"{error.ename}: {error.evalue}"
    else:
        if not check:
            folder.mkdir(parents=True, exist_ok=True)
            _write(notebook, folder / path.name)
    print(f"{path.name}: {problem or 'ran from top to bottom'}", file=sys.stderr if problem else sys.stdout, flush=True)
    return problem


if __name__ == "__main__":
    sys.exit(main())
