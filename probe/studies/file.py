"""What a study asks, as study.toml says it. Nothing heavy is imported here, so that a slip is told at once."""

from __future__ import annotations

import json
import tomllib
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, fields, replace
from pathlib import Path
from typing import Any

from probe.errors import StudyError

METHODS = ("exact", "gradient", "integrated", "hybrid")
UNITS = ("head", "kv_group", "layer")
PHASES = ("prefill", "decode", "both")


@dataclass(frozen=True)
class TaskAsk:
    """How one task's prompts are made; None is the task's own default. text: a file for tasks that read one."""

    prompts: int = 64
    corruption: str | None = None
    metric: str | None = None
    length: int | None = None
    text: str | None = None


@dataclass(frozen=True)
class Study:
    """Every model × task × mode × method × seed, and what they share.

    criteria: importance criteria to compute beside, and to compare in the removal curve. unit: what is removed at
    once. positions: "all", or the name of a place such as END. phase: where the edit acts. curve: whether heads are
    also removed one after the other. top: how many of the strongest heads `hybrid` must be certain of. prompts,
    corruption, metric, length, text: of every task, unless `task` has its own. dtype, device, device_map: as
    `probe.load` takes them.
    """

    models: tuple[str, ...]
    tasks: tuple[str, ...]
    modes: tuple[str, ...] = ("mean",)
    methods: tuple[str, ...] = ("exact",)
    seeds: tuple[int, ...] = (0,)
    criteria: tuple[str, ...] = ()
    prompts: int = 64
    corruption: str | None = None
    metric: str | None = None
    length: int | None = None
    text: str | None = None
    unit: str = "head"
    positions: str = "all"
    phase: str = "both"
    curve: bool = True
    top: int = 10
    dtype: str = "float32"
    device: str = "cpu"
    device_map: str | None = None
    task: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)

    def __post_init__(self) -> None:
        """Raises StudyError for what no study can mean, by name."""
        for name, check in _CHECKS.items():
            check(name, getattr(self, name))
        for name, values in (("methods", METHODS), ("unit", UNITS), ("phase", PHASES)):
            found = getattr(self, name)
            for one in found if isinstance(found, tuple) else (found,):
                if one not in values:
                    raise StudyError(f"{name}: found {one!r}, wanted one of {', '.join(values)}")
        _check_own(self)

    def asked(self, task: str) -> TaskAsk:
        """How the prompts of one of the study's tasks are made."""
        shared = TaskAsk(self.prompts, self.corruption, self.metric, self.length, self.text)
        return replace(shared, **self.task.get(task, {}))

    def narrowed(self, model: str, seed: int) -> Study:
        """The part of the study that is of one model and one seed."""
        return replace(self, models=(model,), seeds=(seed,))

    def document(self) -> dict[str, Any]:
        """Every key of the file with its value, defaults filled in; keys without a value left out."""
        return {one.name: value for one in fields(self) if (value := getattr(self, one.name)) not in (None, {})}

    def toml(self) -> str:
        """The file that asks for this study. Equal studies have equal files."""
        lines = [f"{key} = {_value(item)}" for key, item in self.document().items() if key != "task"]
        for name, own in sorted(self.task.items()):
            lines += ["", f"[task.{_value(name)}]", *(f"{key} = {_value(item)}" for key, item in sorted(own.items()))]
        return "\n".join(lines) + "\n"


def read_study(path: str | Path) -> Study:
    """The study of a file. Raises StudyError, naming the file and the key."""
    try:
        found = tomllib.loads(Path(path).read_text(encoding="utf-8"))
    except OSError as error:
        raise StudyError(f"{path}: cannot be read ({error.strerror}); name a study file") from error
    except ValueError as error:
        raise StudyError(f"{path}: not a TOML file ({' '.join(str(error).split())[:200]})") from error
    try:
        return parsed(found)
    except StudyError as error:
        raise StudyError(f"{path}: {error}") from error


def parsed(found: Mapping[str, Any]) -> Study:
    """The study of a mapping such as a TOML file gives. Raises StudyError for unknown keys and wrong types."""
    known = [one.name for one in fields(Study)]
    _refuse_unknown(found, known)
    for name in ("models", "tasks"):
        if name not in found:
            raise StudyError(f"{name}: found none, wanted a list of names")
    values: dict[str, Any] = {key: tuple(item) if isinstance(item, list) else item for key, item in found.items()}
    return Study(**values)


def _check_own(study: Study) -> None:
    known = [one.name for one in fields(TaskAsk)]
    for task, own in study.task.items():
        if task not in study.tasks:
            raise StudyError(f"task.{task}: found settings of a task that is not asked for; add it to `tasks`")
        if not isinstance(own, Mapping):
            raise StudyError(f"task.{task}: found {own!r}, wanted a table of {', '.join(known)}")
        _refuse_unknown(own, known, f"task.{task}.")
        for key, item in own.items():
            _CHECKS[key](f"task.{task}.{key}", item)


def _refuse_unknown(found: Mapping[str, Any], known: list[str], where: str = "") -> None:
    for key in found:
        if key not in known:
            raise StudyError(f"unknown key {where + key!r}; known are {', '.join(known)}")


def _text(name: str, value: object) -> None:
    if not isinstance(value, str) or not value or not _encodable(value):
        raise StudyError(f"{name}: found {value!r}, wanted a text")


def _encodable(value: str) -> bool:
    """Whether UTF-8 can hold it: the lone surrogates of an undecodable file name cannot be written down."""
    return not any("\ud800" <= character <= "\udfff" for character in value)


def _text_or_none(name: str, value: object) -> None:
    if value is not None:
        _text(name, value)


def _flag(name: str, value: object) -> None:
    if not isinstance(value, bool):
        raise StudyError(f"{name}: found {value!r}, wanted true or false")


def _whole(name: str, value: object, least: int) -> None:
    if isinstance(value, bool) or not isinstance(value, int) or not least <= value <= 2**63 - 1:
        raise StudyError(f"{name}: found {value!r}, wanted a whole number from {least} on")


def _count(name: str, value: object) -> None:
    _whole(name, value, 1)


def _count_or_none(name: str, value: object) -> None:
    if value is not None:
        _count(name, value)


def _list(name: str, value: object, check: Callable[[str, object], None], least: int = 1) -> None:
    if not isinstance(value, tuple) or len(value) < least:
        raise StudyError(f"{name}: found {value!r}, wanted a list of {least} or more")
    for one in value:
        check(name, one)
    twice = [one for one in value if value.count(one) > 1]
    if twice:
        raise StudyError(f"{name}: found {twice[0]!r} twice, wanted each once")


def _texts(name: str, value: object) -> None:
    _list(name, value, _text)


def _some_texts(name: str, value: object) -> None:
    _list(name, value, _text, 0)


def _seeds(name: str, value: object) -> None:
    _list(name, value, lambda name, one: _whole(name, one, 0))


def _table(name: str, value: object) -> None:
    if not isinstance(value, Mapping):
        raise StudyError(f"{name}: found {value!r}, wanted tables like [task.ioi]")


_CHECKS: dict[str, Callable[[str, object], None]] = {
    "models": _texts,
    "tasks": _texts,
    "modes": _texts,
    "methods": _texts,
    "seeds": _seeds,
    "criteria": _some_texts,
    "prompts": _count,
    "corruption": _text_or_none,
    "metric": _text_or_none,
    "length": _count_or_none,
    "text": _text_or_none,
    "unit": _text,
    "positions": _text,
    "phase": _text,
    "curve": _flag,
    "top": _count,
    "dtype": _text,
    "device": _text,
    "device_map": _text_or_none,
    "task": _table,
}


def _value(item: Any) -> str:
    """A value in TOML, whose basic strings are JSON's except that DEL must be escaped."""
    return json.dumps(item, ensure_ascii=False).replace("\x7f", "\\u007f")
