"""What makes two runs of a study the same: what was asked, the weights, the prompts, the libraries and our own code."""

from __future__ import annotations

import hashlib
import platform
from collections.abc import Sequence
from functools import cache
from importlib.metadata import version
from pathlib import Path
from typing import Any

import probe
from probe.kernels.dispatch import automatic
from probe.models import Loaded
from probe.provenance import DEFINITIONS
from probe.studies.file import Study
from probe.studies.prompts import means_jsonl, prompts_jsonl
from probe.tasks.task import Task

LIBRARIES = ("headprobe", "numpy", "torch", "transformers")
DECIDING = ("analyses", "tasks", "hooks", "kernels")
"""Folders of ours whose code decides a study's numbers."""
ELSEWHERE = ("models", "text", "device", "device_map")
"""Fields of a study that are not compared as they stand: weights, prompts and devices are, whatever their names."""


def asked_of(study: Study, loaded: Loaded, tasks: Sequence[Task]) -> dict[str, Any]:
    """Everything that decides the numbers of one model and one seed, by name. Folders, times, workers do not."""
    document = {name: value for name, value in study.document().items() if name not in ELSEWHERE}
    own = {name: {key: item for key, item in made.items() if key != "text"} for name, made in study.task.items()}
    return {
        "study": {**document, "task": own},
        "model": loaded.name,
        "weight_hash": loaded.weight_hash,
        "device": sorted({weight.device.type for weight in loaded.model.parameters()}),
        "prompts_sha256": hashlib.sha256(prompts_jsonl(tasks)).hexdigest(),
        "means_sha256": hashlib.sha256(means_jsonl(tasks)).hexdigest(),
        "definitions": DEFINITIONS,
        "versions": versions(),
    }


@cache
def versions() -> dict[str, str]:
    """Python, the libraries, what computes attention's statistics on a CPU, and our own deciding code (the start of
    the SHA-256 over its files)."""
    found = {name: version(name) for name in LIBRARIES}
    return {"python": platform.python_version(), **found, "attention": automatic(), "code": _code()[:16]}


def _code() -> str:
    digest = hashlib.sha256()
    home = Path(probe.__file__).parent
    for folder in DECIDING:
        place = (home / folder).resolve()
        for path in sorted(place.rglob("*.py")):
            digest.update(f"{folder}/{path.relative_to(place).as_posix()}\n".encode() + path.read_bytes())
    return digest.hexdigest()
