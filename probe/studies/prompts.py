"""prompts.jsonl: every prompt of a study's tasks, so that anyone can compute an effect again without the toolkit."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import fields
from pathlib import Path
from typing import Any

from probe.errors import ResultsError
from probe.formats import canonical
from probe.strict import Fields, parsed_json
from probe.tasks.task import Prompt, Task


def prompts_jsonl(tasks: Iterable[Task]) -> bytes:
    """The measured prompts, one JSON object a line, ASCII (METRICS, Studies)."""
    return _lines((task, task.prompts) for task in tasks)


def means_jsonl(tasks: Iterable[Task]) -> bytes:
    """The held-out prompts that means are taken from, in the same form; empty where no task holds any out."""
    return _lines((task, task.held_out) for task in tasks)


def _lines(some: Iterable[tuple[Task, tuple[Prompt, ...]]]) -> bytes:
    records = (_record(task, index, one) for task, prompts in some for index, one in enumerate(prompts))
    return "".join(canonical(record) + "\n" for record in records).encode()


def _record(task: Task, index: int, prompt: Prompt) -> dict[str, Any]:
    return {"task": task.name, "index": index, "metric": task.metric, **vars(prompt)}


def read_prompts(path: Path) -> dict[str, tuple[Prompt, ...]]:
    """The prompts of a file that `prompts_jsonl` or `means_jsonl` made, by task, in order.

    Raises ResultsError, naming the line, for a file that is missing, damaged or of another form.
    """
    try:
        lines = path.read_bytes().decode("ascii").splitlines()
    except (OSError, ValueError) as error:
        raise ResultsError(f"{path}: cannot be read ({error}); run the study again to replace it") from error
    found: dict[str, list[Prompt]] = {}
    for number, line in enumerate(lines, 1):
        where = f"{path}, line {number}"
        row = Fields(parsed_json(line, where), where)
        task, index = row.text("task"), row.whole("index")
        row.text("metric")
        prompt = _prompt(row)
        if index != len(found.setdefault(task, [])):
            raise ResultsError(f"{row.where}: prompt {index} of {task} where {len(found[task])} was due; run again")
        found[task].append(prompt)
    return {task: tuple(prompts) for task, prompts in found.items()}


def _prompt(row: Fields) -> Prompt:
    """A prompt from the fields of its line."""
    values = {one.name: row.any(one.name) for one in fields(Prompt)}
    row.end()
    for name, value in values.items():
        if name.endswith("_ids") or name == "metric_positions":
            if value is None and name in ("target_ids", "corrupted_ids"):
                continue
            if not isinstance(value, list) or any(type(one) is not int for one in value):
                raise ResultsError(f"{row.where}: {name}: found {value!r:.40}; wanted whole numbers")
            values[name] = tuple(value)
        elif name == "positions":
            if not isinstance(value, dict) or any(type(one) is not int for one in value.values()):
                raise ResultsError(f"{row.where}: positions: found {value!r:.40}; wanted names and whole numbers")
        elif not (isinstance(value, str) or (value is None and name == "corrupted")):
            raise ResultsError(f"{row.where}: {name}: found {value!r:.40}; wanted a text")
    return Prompt(**values)
