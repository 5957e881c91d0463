"""A study from its file to its folders: everything that can be refused is refused first, then the work begins."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Callable
from pathlib import Path

from probe.analyses.ablation import able_baseline
from probe.analyses.importance import CRITERIA
from probe.analyses.replacement import check_mode
from probe.errors import ResultsError, StudyError
from probe.models import Loaded
from probe.progress import Progress, silent
from probe.store import RUN_FILE, write_file
from probe.studies.bench import Benches, loaded_for
from probe.studies.executors import EXECUTORS
from probe.studies.file import Study, read_study
from probe.studies.folder import check_folder, remembered
from probe.studies.identity import asked_of
from probe.studies.plan import plan
from probe.studies.run import STUDY_FILE, Part, PartResult, Workers, run_part
from probe.tasks.build import TASKS, build
from probe.tasks.task import Task
from probe.tokens import read_text

Say = Callable[[str], None]


def study(
    asked: Study | str | Path,
    *,
    out: str | Path,
    executor: str = "local",
    workers: int = 1,
    fresh: bool = False,
    anyway: bool = False,
    say: Say | None = None,
    progress: Progress = silent,
) -> list[PartResult]:
    """Run a study, or go on with it where it was stopped; results are in `out` as they come (METRICS, Studies).

    asked: a study, or the path of its file. executor: `local` (this process, or `workers` new ones, which a script
    may start under `if __name__ == "__main__"` only) or `ray`. Several models or seeds have a sub-folder each.
    fresh: move aside a folder that holds another study. anyway: go on with a task that the model cannot do. say:
    takes how well the model does each task, the plan with its cost, and every notice, a line each.

    Returns one result a model and seed, in that order. Raises ProbeError, HookError or KernelError, one line, for
    what is refused before the work begins, and ResultsError for a disk or a worker that fails in it: every piece
    that was done is kept.
    """
    found = asked if isinstance(asked, Study) else read_study(asked)
    if executor not in EXECUTORS or workers < 1:
        raise StudyError(f"executor {executor!r}, {workers} workers; wanted {' or '.join(EXECUTORS)}, 1 or more")
    _check_names(found)
    tell = say or (lambda line: None)
    place, models = Path(out), _Models()
    singles = [found.narrowed(model, seed) for model in found.models for seed in found.seeds]
    folders = [place if len(singles) == 1 else place / folder_name(*_one(single)) for single in singles]
    if len(singles) > 1 and (place / RUN_FILE).exists():
        raise ResultsError(f"{place} holds one run, and this study wants a folder for several; name another folder")
    parts = [
        _prepared(single, folder, models.get(single), fresh=fresh, anyway=anyway, say=tell)
        for single, folder in zip(singles, folders, strict=True)
    ]
    for part in parts:
        tell(f"{part.asked['model']}, seed {part.study.seeds[0]}: {part.plan.sentence(workers)}")
    if len(parts) > 1:
        place.mkdir(parents=True, exist_ok=True)
        write_file(place / STUDY_FILE, found.toml().encode())
    how = Workers(executor, workers)
    return [run_part(part, models.get(part.study), how, fresh=fresh, say=tell, progress=progress) for part in parts]


def folder_name(model: str, seed: int) -> str:
    """The sub-folder of a model and seed: the model's name as far as any file system takes it, told apart by a hash
    where that loses something."""
    kept = re.sub(r"[^A-Za-z0-9._-]+", "-", model).strip(".-")[:80]
    mark = "" if kept == model else "-" + hashlib.sha256(model.encode()).hexdigest()[:8]
    return f"{kept}{mark}.seed{seed}"


def _check_names(study: Study) -> None:
    """Raises StudyError and TokensError for names that do not exist, before any model is loaded."""
    for name, values, known in (("task", study.tasks, TASKS), ("criterion", study.criteria, CRITERIA)):
        for one in values:
            if one not in known:
                raise StudyError(f"unknown {name} {one!r}; known are {', '.join(known)}")
    for mode in study.modes:
        check_mode(mode)
    for mode in study.modes:
        check_mode(mode)


class _Models:
    """The last model that was loaded: two need not fit together, and a study asks for one after the other."""

    def __init__(self) -> None:
        self._last: tuple[str, Loaded] | None = None

    def get(self, study: Study) -> Loaded:
        model, _ = _one(study)
        if self._last is None or self._last[0] != model:
            self._last = None
            self._last = (model, loaded_for(study, model))
        return self._last[1]


def _one(study: Study) -> tuple[str, int]:
    return study.models[0], study.seeds[0]


def _prepared(study: Study, folder: Path, loaded: Loaded, *, fresh: bool, anyway: bool, say: Say) -> Part:
    """Prompts, verdicts and plan of one model and seed. Raises ProbeError for everything that cannot go on."""
    tasks = {name: _task(study, name, loaded) for name in study.tasks}
    asked = asked_of(study, loaded, list(tasks.values()))
    check_folder(folder, asked, fresh=fresh)
    benches = Benches(loaded, list(tasks.values()), study)
    for task in tasks.values():
        for mode in study.modes:
            benches.of(task.name).replacement(mode)
    benches.verify()
    baselines = {name: able_baseline(loaded, task, anyway=anyway) for name, task in tasks.items()}
    for one in baselines.values():
        say(f"{loaded.name}: {one.sentence}")
    done = remembered(folder, asked)
    return Part(study, folder, tasks, baselines, asked, plan(study, benches, list(tasks.values()), done))


def _task(study: Study, name: str, loaded: Loaded) -> Task:
    own = study.asked(name)
    text = None if own.text is None else read_text(Path(own.text))
    return build(
        name, loaded, prompts=own.prompts, seed=study.seeds[0], corruption=own.corruption, metric=own.metric,
        length=own.length, text=text,
    )  # fmt: skip
