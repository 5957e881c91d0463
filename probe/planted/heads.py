"""The hand-written heads of the planted models: which subspaces of the stream each one reads and writes.

Scores in this file are pre-softmax, after the 1/√D factor.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from probe.planted.stream import CODE, HEAD_DIM, Reader, Stream

N_HEADS = 8
N_KV_HEADS = 4
JUNK_GAIN = 0.3
GRADED_SINK_SCORE = 4.0
"""Score of the graded first-token sink on the first token; every other key scores 0."""
GRADED_INDUCTION_SCORE = 10.0
BACKUP_GAIN = 0.5
"""The backup makes good half of what is lost with the induction head, so that losing that one still shows."""


@dataclass(frozen=True)
class Head:
    """One planted head: its role, its query matrix `[128, m]` and its output matrix `[m, 128]`."""

    role: str
    query: Float[Tensor, "D m"]
    output: Float[Tensor, "m D"]


@dataclass(frozen=True)
class Layer:
    """Eight heads, and the key matrices `[128, m]` of the four pairs that share one."""

    heads: tuple[Head, ...]
    keys: tuple[Float[Tensor, "D m"], ...]


def value(stream: Stream) -> Float[Tensor, "D m"]:
    """Value of every head: the token's code (dims 0-63) and whether it is not the first token (dim 64)."""
    weight = torch.zeros(HEAD_DIM, stream.size, dtype=torch.float64)
    weight[:CODE, stream["tok"]] = torch.eye(CODE, dtype=torch.float64)
    weight[CODE, stream["nonbos"]] = 1
    return weight


def _writes(stream: Stream, code: str | None = None, gain: float = 1.0, flag: str | None = None) -> Tensor:
    weight = torch.zeros(stream.size, HEAD_DIM, dtype=torch.float64)
    if code is not None:
        weight[stream[code], :CODE] = gain * torch.eye(CODE, dtype=torch.float64)
    if flag is not None:
        weight[stream[flag], CODE] = 1
    return weight


def planted_layers(read: Reader) -> tuple[Layer, Layer, Layer]:
    """Three layers of eight heads; roles as in `planted.PLANTED_ROLES`."""
    return _layer_zero(read), _layer_one(read), _layer_two(read)


def _uniform(read: Reader) -> Head:
    return Head("uniform", read.empty(), _writes(read.stream, "junk", JUNK_GAIN))


def _idle(read: Reader) -> Head:
    return Head("idle", read.empty(), _writes(read.stream))


def _previous(read: Reader, output: Tensor) -> Head:
    return Head("previous_token", read.distance_query(read.kernels.previous, 60, shift=1), output)


def _local(read: Reader) -> Head:
    query = read.distance_query(read.kernels.local, 30, shift=0)
    return Head("local", query, _writes(read.stream, "junk", JUNK_GAIN))


def _first_token_sink(read: Reader) -> Head:
    return Head("first_token_sink", read.flag("bos", "const", 20), _writes(read.stream, "junk"))


def _later_token_sink(read: Reader) -> Head:
    query = read.flag("delim", "const", 30) + read.flag("bos", "const", 15)
    return Head("later_token_sink", query, _writes(read.stream, "junk"))


def _layer_zero(read: Reader) -> Layer:
    """Heads that need only the embedding.

    The duplicate head must not rest on itself, where the content matches too: it subtracts a kernel that
    peaks at distance 0. A match scores 490 − 110 K(Δ), itself 380, and its rest on the first token 490 − 94
    = 396.
    """
    stream = read.stream
    duplicate = Head(
        "duplicate_token",
        read.code("tok", 490)
        + read.distance_query(read.kernels.current, -110, shift=0)
        + read.flag("bos", "const", 490 - 94),
        _writes(stream, flag="dup"),
    )
    graded = Head("graded_sink", read.flag("bos", "const", GRADED_SINK_SCORE), _writes(stream, "junk", JUNK_GAIN))
    sinks = read.flag("bos", "bos") + read.flag("delim", "delim")
    return Layer(
        heads=(
            _previous(read, _writes(stream, "prev")),
            _local(read),
            _uniform(read),
            duplicate,
            _first_token_sink(read),
            _later_token_sink(read),
            graded,
            _idle(read),
        ),
        keys=(
            read.distance_key(),
            read.code("tok") + read.distance_key(first_token=False) + read.flag("bos", "bos"),
            sinks,
            sinks,
        ),
    )


def _match(read: Reader, strength: float) -> Float[Tensor, "D m"]:
    """Query for keys whose previous token is this token, resting on the first token below 0.8 of a match."""
    return read.code("tok", strength) + read.flag("bos", "const", 0.8 * strength)


def _layer_one(read: Reader) -> Layer:
    """Induction and what it is read by; S-inhibition, which marks the name that came twice."""
    stream = read.stream
    inhibition = read.flag("dup", "end", 30) + read.flag("name", "end", 30) + read.flag("bos", "const", 45)
    after = read.code("prev") + read.flag("bos", "bos")
    sinks = read.flag("bos", "bos") + read.flag("delim", "delim")
    marks = read.flag("dup", "dup") + read.flag("name", "name") + read.flag("bos", "bos")
    graded = _writes(stream, "junk", JUNK_GAIN)
    return Layer(
        heads=(
            Head("induction", _match(read, 60), _writes(stream, "out", flag="done")),
            Head("negative_induction", _match(read, 60), _writes(stream, "out", -0.3)),
            Head("s_inhibition", inhibition, _writes(stream, "inh")),
            _local(read),
            _first_token_sink(read),
            _later_token_sink(read),
            Head("graded_induction", _match(read, GRADED_INDUCTION_SCORE), graded),
            _idle(read),
        ),
        keys=(after, marks + read.distance_key(), sinks, after),
    )


def _layer_two(read: Reader) -> Layer:
    """The backup of the induction head, asleep while that one works; the name mover; bystanders."""
    stream = read.stream
    backup = read.code("tok", 60) + read.flag("bos", "const", 48) + read.flag("bos", "done", 60)
    mover = read.code("inh", -20) + read.flag("name", "end", 60) + read.flag("bos", "const", 30)
    return Layer(
        heads=(
            Head("backup_induction", backup, _writes(stream, "out", BACKUP_GAIN)),
            _idle(read),
            Head("name_mover", mover, _writes(stream, "out")),
            _idle(read),
            _uniform(read),
            _previous(read, _writes(stream, "junk", JUNK_GAIN)),
            _first_token_sink(read),
            _idle(read),
        ),
        keys=(
            read.code("prev") + read.flag("bos", "bos"),
            read.code("tok") + read.flag("name", "name") + read.flag("bos", "bos"),
            read.distance_key(),
            read.flag("bos", "bos"),
        ),
    )
