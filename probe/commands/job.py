"""What the command line was asked to do. Nothing heavy is imported here, so that a slip is told at once."""

from __future__ import annotations

import shlex
from dataclasses import dataclass, fields
from pathlib import Path
from typing import TypeVar

from probe.errors import TokensError

Number = TypeVar("Number", int, float)


@dataclass(frozen=True)
class Job:
    """What was asked. None means the default, which for planted models is smaller."""

    command: str
    model: str
    out: Path
    text: Path | None = None
    tokens: Path | None = None
    context: int | None = None
    sequences: int = 8
    bos: bool = False
    window: int = 64
    sinks: int = 4
    lengths: tuple[int, ...] | None = None
    depths: tuple[float, ...] = (0.0, 25.0, 50.0, 75.0, 100.0)
    trials: int | None = None
    dtype: str = "float32"
    device: str = "cpu"
    seed: int = 0
    fresh: bool = False

    def __post_init__(self) -> None:
        """Raises TokensError for a number that cannot be meant."""
        for name in ("context", "sequences", "window", "trials"):
            value = getattr(self, name)
            if value is not None and value < 1:
                raise TokensError(f"--{name}: found {value}, wanted 1 or more")
        if self.sinks < 0 or self.seed < 0:
            name = "sinks" if self.sinks < 0 else "seed"
            raise TokensError(f"--{name}: found {getattr(self, name)}, wanted 0 or more")


def reproduced(job: Job) -> str:
    """The command that asks for the same again: every option that is not the default, files by name, no folder."""
    words = ["probe", job.command, job.model]
    for option in fields(job):
        value = getattr(job, option.name)
        if option.name in ("command", "model", "out", "fresh") or value == option.default:
            continue
        words.append(f"--{option.name}")
        if isinstance(value, tuple):
            words.append(",".join(f"{number:g}" for number in value))
        elif not isinstance(value, bool):
            words.append(value.name if isinstance(value, Path) else str(value))
    return shlex.join([*words, "--out", "DIR"])


def numbers(option: str, text: str, kind: type[Number]) -> tuple[Number, ...]:
    """The numbers of a list like `512,1024`. Raises TokensError naming the option."""
    try:
        return tuple(kind(part) for part in text.split(","))
    except ValueError:
        wanted = "whole numbers" if kind is int else "numbers"
        raise TokensError(f"{option}: found {text!r}, wanted {wanted} with commas between them") from None
