"""prompts.jsonl: every prompt of a study's tasks, so that anyone can compute an effect again without the toolkit."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from probe.formats import canonical
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
