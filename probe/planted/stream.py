"""The planted models' abstract residual stream, and how a head reads it: codes, flags and distances.

The stream is a direct sum of named subspaces, in which no architecture appears; `planted.py` rotates it at
random.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor
from transformers import PreTrainedModel

from probe.planted.positions import Kernels

CODE = 64
"""Dimensions of a token's random unit code, which one head's query, key and value must hold."""
HEAD_DIM = 128
BALLAST = 8.0
"""Length of the constant direction: it is the bias of every head, and keeps the norm layers near-constant."""
EMBEDDING_NORM = (BALLAST**2 + 4) ** 0.5
"""Length of every embedding (without positions): `pad` fills up what flags and code leave."""
FLAGS = ("const", "bos", "delim", "name", "end", "nonbos", "done", "dup", "pad")
CODES = ("tok", "prev", "out", "inh", "junk")


@dataclass(frozen=True)
class Stream:
    """Where each named subspace lies in the abstract stream; `positions` dims hold a position table.

    flags: names of one dimension each; codes: names of `code` dimensions each.
    """

    positions: int
    flags: tuple[str, ...] = FLAGS
    codes: tuple[str, ...] = CODES
    code: int = CODE

    @property
    def size(self) -> int:
        """Dimensions of the abstract stream."""
        return len(self.flags) + len(self.codes) * self.code + self.positions

    def __getitem__(self, name: str) -> slice:
        if name in self.flags:
            start, width = self.flags.index(name), 1
        elif name == "pos":
            start, width = len(self.flags) + len(self.codes) * self.code, self.positions
        else:
            start, width = len(self.flags) + self.codes.index(name) * self.code, self.code
        return slice(start, start + width)


@dataclass(frozen=True)
class Reader:
    """Builds query and key matrices `[D, m]` for one way of knowing positions.

    cosines, sines: the head dimensions of each frequency's pair. content: the head dimensions that hold a
    code. flags: head dimension of each flag. position_scale: length of a position pair in the table, or
    None for RoPE, which turns the pairs itself. head_dim: D.
    """

    stream: Stream
    kernels: Kernels
    cosines: Tensor
    sines: Tensor
    content: Tensor
    flags: dict[str, int]
    position_scale: float | None
    head_dim: int = HEAD_DIM

    def empty(self) -> Float[Tensor, "D m"]:
        """Zeros, to write the weights of a layer into."""
        return torch.zeros(self.head_dim, self.stream.size, dtype=torch.float64)

    def code(self, source: str, gain: float = 1.0) -> Float[Tensor, "D m"]:
        """Reads a token code from subspace `source` into the content dimensions."""
        weight = self.empty()
        weight[self.content, self.stream[source]] = gain * torch.eye(self.stream.code, dtype=torch.float64)
        return weight

    def flag(self, slot: str, source: str, gain: float = 1.0) -> Float[Tensor, "D m"]:
        """Reads flag `source` (or the constant, as 1) into the head dimension of flag `slot`."""
        weight = self.empty()
        weight[self.flags[slot], self.stream[source]] = gain / (BALLAST if source == "const" else 1)
        return weight

    def distance_query(self, amplitudes: Float[Tensor, "F"], strength: float, shift: int) -> Float[Tensor, "D m"]:
        """Query of the score strength · Σ a_i cos(ω_i (Δ − shift)) against `distance_key`."""
        weight = self.empty()
        turn = self.kernels.frequencies * shift
        cos, sin = strength * amplitudes * turn.cos(), strength * amplitudes * turn.sin()
        if self.position_scale is None:
            weight[self.cosines, self.stream["const"].start] = cos / BALLAST
            weight[self.sines, self.stream["const"].start] = -sin / BALLAST
            return weight
        table = torch.arange(self.stream["pos"].start, self.stream["pos"].stop)
        for dims, own, other in ((self.cosines, cos, sin), (self.sines, cos, -sin)):
            first, second = (table[0::2], table[1::2]) if dims is self.cosines else (table[1::2], table[0::2])
            weight[dims, first] = own / self.position_scale**2
            weight[dims, second] = other / self.position_scale**2
        return weight

    def distance_key(self, *, first_token: bool = True) -> Float[Tensor, "D m"]:
        """Key of every positional head; `first_token=False` leaves `<bos>`, at position 0, without one."""
        weight = self.empty()
        if self.position_scale is None:
            weight[self.cosines, self.stream["const"].start] = 1 / BALLAST
        else:
            table = torch.arange(self.stream["pos"].start, self.stream["pos"].stop)
            weight[self.cosines, table[0::2]] = 1
            weight[self.sines, table[1::2]] = 1
        if not first_token:
            weight[self.cosines, self.stream["bos"].start] = -(self.position_scale or 1.0)
        return weight


def rotation(width: int, size: int, generator: torch.Generator) -> Float[Tensor, "d m"]:
    """Random orthonormal columns `[width, size]`, all orthogonal to the all-ones vector (as LayerNorm needs)."""
    columns = torch.randn(width, size, generator=generator, dtype=torch.float64)
    columns -= columns.mean(0)
    rotated: Tensor = torch.linalg.qr(columns).Q
    return rotated


def write_weights(model: PreTrainedModel, weights: dict[str, Float[Tensor, "..."]]) -> None:
    """Puts weights into a new model, in eval mode without gradients; the rest keeps its start (norms 1, biases 0)."""
    model.train(False)
    model.requires_grad_(False)
    for name, weight in weights.items():
        model.get_parameter(name).copy_(weight)


def rope_reader(kernels_of: Callable[[Tensor], Kernels], theta: float) -> Reader:
    """Reader for rotary models (pair i: dims i and i + 64): 27 fast pairs hold distance, slow ones content.

    Content needs pairs that hardly turn over the whole context: pairs 28-59 for the code, 60-63 for flags.
    """
    pairs = torch.arange(HEAD_DIM // 2)
    frequencies = theta ** (-pairs[:27].double() / (HEAD_DIM // 2))
    code = pairs[28:60]
    return Reader(
        stream=Stream(positions=0),
        kernels=kernels_of(frequencies),
        cosines=pairs[:27],
        sines=pairs[:27] + HEAD_DIM // 2,
        content=torch.cat([code, code + HEAD_DIM // 2]),
        flags={name: 60 + slot for slot, name in enumerate(("bos", "delim", "dup", "name"))},
        position_scale=None,
    )


def table_reader(kernels: Kernels, scale: float) -> Reader:
    """Reader for models with a table of positions, whose rows hold pairs scale · (cos ωp, sin ωp)."""
    pairs = torch.arange(kernels.frequencies.numel())
    taken = 2 * pairs.numel()
    return Reader(
        stream=Stream(positions=taken),
        kernels=kernels,
        cosines=2 * pairs,
        sines=2 * pairs + 1,
        content=torch.arange(taken, taken + CODE),
        flags={name: taken + CODE + slot for slot, name in enumerate(("bos", "delim", "dup", "name"))},
        position_scale=scale,
    )
