"""The heads of the planted circuits' model, with some of them shared by its two tasks.

Scores in this file are pre-softmax, after the 1/√D factor.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from jaxtyping import Float
from torch import Tensor

from probe.planted.circuit_words import DOMAIN, TASK_NAMES, domain_of
from probe.planted.heads import Head, Layer
from probe.planted.positions import kernels_for
from probe.planted.stream import Reader, Stream

HEAD_WIDTH = 32
ROPE_THETA = 1e8
LONGEST = 64
"""Tokens that the model reads: its content pairs turn less than 0.21 rad over them."""
SHARE_ORDER = ("mover", "question", "previous_token", "negative_mover")
"""The jobs of each task's circuit, in the order in which `shared=1`, `2`, … makes the two tasks share their heads."""
PLACES: dict[str, tuple[tuple[int, int], tuple[int, int]]] = {
    "previous_token": ((0, 0), (0, 2)),
    "question": ((1, 1), (1, 2)),
    "mover": ((2, 0), (2, 2)),
    "negative_mover": ((2, 1), (2, 3)),
    "backup_mover": ((3, 1), (3, 2)),
}
"""Job → the head of `recall`, and the head of `translate` where it is not shared."""

MATCH, REST, ASLEEP = 8.0, 4.5, 15.0
"""Scores of a mover: on a value whose key was asked for; on the first token; of its backup on itself while the
mover works. 3.5 units between a match and its rest keep the softmax's gradient alive; 7 keep the backup asleep."""
NEGATIVE_GAIN, BACKUP_GAIN = -0.3, 0.5
JUNK_GAIN = 0.3
CODE_WIDTH = len(TASK_NAMES) * DOMAIN
STREAM = Stream(
    positions=0,
    flags=("const", "bos", "sep", "question", "ask", "pad"),
    codes=("key", "query", "alias", "val", "prev", "asked", "done", "out", "junk"),
    code=CODE_WIDTH,
)
"""`key`, `query`, `val`: what a key, question or value token is. `alias`: what a `translate` question is before MLP 0
has made a `query` of it. `prev`: the key before this token. `asked`: the key asked for. `done`: the key that the mover
has answered. `out` is read by the unembedding, `junk` by nobody. Codes are orthogonal, 8 dimensions a domain."""


def circuit_reader() -> Reader:
    """Rotary heads of 32 dims: 5 fast pairs hold distance, 8 slow ones a code, 3 slow ones flags."""
    pairs, half = torch.arange(HEAD_WIDTH // 2), HEAD_WIDTH // 2
    return Reader(
        stream=STREAM,
        kernels=kernels_for(ROPE_THETA ** (-pairs[:5].double() / half), LONGEST),
        cosines=pairs[:5],
        sines=pairs[:5] + half,
        content=torch.cat([pairs[5:13], pairs[5:13] + half]),
        flags={name: 13 + slot for slot, name in enumerate(("bos", "sep", "question"))},
        position_scale=None,
        head_dim=HEAD_WIDTH,
    )


def circuit_layers(read: Reader, shared: int) -> tuple[Layer, ...]:
    """Four layers of eight heads, the first `shared` jobs of `SHARE_ORDER` done by one head for both tasks.

    Where a job is shared, `translate`'s own place is taken by a decoy: the same attention, written to `junk`.
    """
    common = SHARE_ORDER[:shared]
    return _layer_zero(read, common), _layer_one(read, common), _layer_two(read, common), _layer_three(read)


def circuit_values() -> tuple[Float[Tensor, "D m"], ...]:
    """What every head of each layer takes from a token: two codes, of 16 dims each; the same for all groups."""
    made = []
    for first, second in (("key", "val"), ("query", "val"), ("prev", "val"), ("prev", "val")):
        weight = torch.zeros(HEAD_WIDTH, STREAM.size, dtype=torch.float64)
        weight[:CODE_WIDTH, STREAM[first]] = torch.eye(CODE_WIDTH, dtype=torch.float64)
        weight[CODE_WIDTH:, STREAM[second]] = torch.eye(CODE_WIDTH, dtype=torch.float64)
        made.append(weight)
    return tuple(made)


def _writes(taken: str, to: str, gain: float = 1.0, tasks: Sequence[str] = TASK_NAMES) -> Float[Tensor, "m D"]:
    """The `first` or `second` code of a layer's values, of the tasks' domains alone, times `gain`, to a subspace."""
    weight = torch.zeros(STREAM.size, HEAD_WIDTH, dtype=torch.float64)
    offset = 0 if taken == "first" else CODE_WIDTH
    for task in tasks:
        for index in range(*domain_of(task).indices(CODE_WIDTH)):
            weight[STREAM[to].start + index, offset + index] = gain
    return weight


def _own(weight: Float[Tensor, "D m"], source: str, tasks: Sequence[str]) -> Float[Tensor, "D m"]:
    """A matrix that reads subspace `source`, kept to the tasks' domains."""
    kept = torch.zeros(STREAM.size, dtype=torch.float64)
    for task in tasks:
        kept[STREAM[source]][domain_of(task)] = 1
    return weight * kept


def _pair(make: Callable[[Sequence[str]], Head], shared: bool) -> tuple[Head, Head]:
    """`recall`'s head of a job and `translate`'s, or the head of both and a decoy that attends as it does."""
    if not shared:
        return make(TASK_NAMES[:1]), make(TASK_NAMES[1:])
    both = make(TASK_NAMES)
    return both, Head(f"{both.role}_decoy", both.query, _junk())


def _junk() -> Float[Tensor, "m D"]:
    return _writes("second", "junk", JUNK_GAIN)


def _bystanders(read: Reader) -> dict[str, Head]:
    """Heads that attend as real models' do and write what nobody reads, or nothing."""
    kernels, rest = read.kernels, read.flag("bos", "const", 8)
    return {
        "first_token_sink": Head("first_token_sink", rest, _junk()),
        "later_token_sink": Head("later_token_sink", rest + read.flag("sep", "const", 12), _junk()),
        "local": Head("local", read.distance_query(kernels.local, 10, shift=0), _junk()),
        "uniform": Head("uniform", read.empty(), _junk()),
        "idle": Head("idle", read.empty(), torch.zeros(STREAM.size, HEAD_WIDTH, dtype=torch.float64)),
        "previous_token_decoy": Head("previous_token_decoy", _before(read), _junk()),
    }


def _before(read: Reader) -> Float[Tensor, "D m"]:
    return read.distance_query(read.kernels.previous, 25, shift=1)


def _layer_zero(read: Reader, common: Sequence[str]) -> Layer:
    """Each value learns its key: the token before it."""
    other = _bystanders(read)

    def previous(tasks: Sequence[str]) -> Head:
        return Head("previous_token", _before(read), _writes("first", "prev", tasks=tasks))

    first, second = _pair(previous, "previous_token" in common)
    marks = read.flag("bos", "bos") + read.flag("sep", "sep")
    return Layer(
        heads=(
            *(first, other["previous_token_decoy"], second, other["local"]),
            *(other["first_token_sink"], other["later_token_sink"], other["uniform"], other["idle"]),
        ),
        keys=(read.distance_key(), read.distance_key(), marks, marks),
    )


def _layer_one(read: Reader, common: Sequence[str]) -> Layer:
    """`<ask>` learns which key is asked for: it looks at the question, after MLP 0 has read it."""
    other = _bystanders(read)

    def question(tasks: Sequence[str]) -> Head:
        query = read.flag("question", "ask", MATCH) + read.flag("bos", "const", REST)
        return Head("question", query, _writes("first", "asked", tasks=tasks))

    first, second = _pair(question, "question" in common)
    marks = read.flag("bos", "bos") + read.flag("question", "question")
    return Layer(
        heads=(
            *(other["first_token_sink"], first, second, other["uniform"]),
            *(other["previous_token_decoy"], other["local"], other["later_token_sink"], other["idle"]),
        ),
        keys=(marks, marks, read.distance_key(), read.flag("bos", "bos") + read.flag("sep", "sep")),
    )


def _asking(read: Reader, tasks: Sequence[str]) -> Float[Tensor, "D m"]:
    """Query for what the asked key is written on, resting on the first token."""
    return _own(read.code("asked", MATCH), "asked", tasks) + read.flag("bos", "const", REST)


def _layer_two(read: Reader, common: Sequence[str]) -> Layer:
    """The asked key's value is copied to the output, and a head beside the mover takes some of it back."""
    other = _bystanders(read)

    def mover(tasks: Sequence[str]) -> Head:
        output = _writes("second", "out", tasks=tasks) + _writes("first", "done", tasks=tasks)
        return Head("mover", _asking(read, tasks), output)

    def negative(tasks: Sequence[str]) -> Head:
        return Head("negative_mover", _asking(read, tasks), _writes("second", "out", NEGATIVE_GAIN, tasks))

    movers = _pair(mover, "mover" in common)
    against = _pair(negative, "negative_mover" in common)
    keys = read.code("prev") + read.flag("bos", "bos")
    return Layer(
        heads=(
            *(movers[0], against[0], movers[1], against[1]),
            *(other["first_token_sink"], other["later_token_sink"], other["local"], other["uniform"]),
        ),
        keys=(keys, keys, read.flag("bos", "bos") + read.flag("sep", "sep"), read.distance_key()),
    )


def _layer_three(read: Reader) -> Layer:
    """Backups: each asks as the mover does, and rests on its own token while the mover has answered that key."""
    other = _bystanders(read)

    def backup(tasks: Sequence[str]) -> Head:
        return Head("backup_mover", _asking(read, tasks), _writes("second", "out", BACKUP_GAIN, tasks))

    first, second = _pair(backup, shared=False)
    keys = read.code("prev") + read.code("done", ASLEEP / MATCH) + read.flag("bos", "bos")
    return Layer(
        heads=(
            *(other["first_token_sink"], first, second, other["uniform"]),
            *(other["previous_token_decoy"], other["local"], other["later_token_sink"], other["idle"]),
        ),
        keys=(keys, keys, read.distance_key(), read.flag("bos", "bos") + read.flag("sep", "sep")),
    )
