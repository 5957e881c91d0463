"""What a rule that edits heads is given: one call of one layer, narrowed to the rows and heads it may change."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from .call import AttentionCall
from .errors import HookError


@dataclass(frozen=True, eq=False)
class Part:
    """One call of one layer, narrowed to b rows of the batch and h of the H heads.

    whole: the layer's call, all rows and all heads; current: its z [B, H, T, Dv], as the edits before left it.
    rows: a slice of the batch. heads: the heads' numbers in the layer, ascending. layer: the layer's number.
    `call` and `z` are cut out when they are first asked for, so that a rule that reads neither pays for neither.
    """

    whole: AttentionCall
    current: Float[Tensor, "B H T Dv"]
    rows: slice
    heads: Int[Tensor, "h"]
    layer: int

    @cached_property
    def call(self) -> AttentionCall:
        """q [b, h, T, D], k and v [b, h, S, D*] repeated for each query head, the mask; `attend` computes from these.

        It knows nothing of edits: attention as the model would compute it, or would with tensors replaced.
        """
        return self.whole.narrowed(self.rows, self.heads)

    @cached_property
    def z(self) -> Float[Tensor, "b h T Dv"]:
        """A copy of what these heads give at present: the model's z, or what the edit before made of it."""
        return self.current[self.rows][:, self.heads.to(self.current.device)]

    @property
    def shape(self) -> tuple[int, int, int, int]:
        """(b, h, T, Dv): what a rule returns."""
        batch, _, queries, width = self.current.shape
        return len(range(*self.rows.indices(batch))), len(self.heads), queries, width

    @property
    def offset(self) -> int:
        """Position of query row 0 on the axis of the keys: S - T past a cache."""
        return self.whole.offset

    @property
    def start(self) -> int:
        """Position of query row 0 in the sequence; 0 at prefill."""
        return self.whole.start

    def pick(self, tensor: Float[Tensor, "#b H n D"], name: str, *, grouped: bool = False) -> Float[Tensor, "#b h n D"]:
        """Of a tensor of all the layer's heads, what belongs to this part's heads, on their device.

        grouped: one of key/value heads is taken too, each for its group of query heads.
        Raises HookError, by `name`, for other axes, another number of heads or rows, or another dtype than z's:
        nothing is cast, and nothing repeated but one row for all.
        """
        heads, groups = self.whole.q.shape[1], self.whole.k.shape[1]
        counts = {heads, groups} if grouped else {heads}
        where = f"layer {self.layer}: {name} {tuple(tensor.shape)}"
        if tensor.ndim != 4 or tensor.shape[0] not in (1, self.shape[0]) or tensor.shape[1] not in counts:
            wanted = " or ".join(str(count) for count in sorted(counts, reverse=True))
            rows = "1" if self.shape[0] == 1 else f"1 or {self.shape[0]}"
            raise HookError(f"{where}; wanted [{rows} rows, {wanted} heads, positions, width]")
        if tensor.dtype != self.current.dtype:
            raise HookError(f"{where} are {tensor.dtype}; the model computes in {self.current.dtype}: convert them")
        chosen = self.heads if tensor.shape[1] == heads else self.heads // (heads // groups)
        return tensor[:, as_index(chosen)].to(self.current.device)

    def own_values(self) -> Float[Tensor, "b h T Dv"]:
        """v of each query's own token: what a head gives that looks at nothing else."""
        tokens = slice(self.offset, self.offset + self.shape[2])
        values = self.whole.v[self.rows, :, tokens]
        return values[:, self.heads.to(values.device) // (self.whole.q.shape[1] // values.shape[1])]

    def padding(self) -> Bool[Tensor, "b T"]:
        """True where a query of the part is padding."""
        known = None if self.whole.mask is None else self.whole.mask.tokens()
        if known is None:
            return torch.zeros(self.shape[0], self.shape[2], dtype=torch.bool, device=self.current.device)
        queries = known[:, self.offset : self.offset + self.shape[2]].expand(len(self.current), -1)
        return ~queries[self.rows].to(self.current.device)

    def first_tokens(self, count: int) -> Bool[Tensor, "b S"]:
        """True at the keys that are among the first `count` tokens of their row, padding not counted.

        True nowhere once a sliding cache has dropped them.
        """
        place = torch.arange(self.whole.k.shape[2], device=self.current.device) + self.start - self.offset
        first = None if self.whole.mask is None else self.whole.mask.first_token()
        first = torch.zeros(1, dtype=torch.long) if first is None else first
        first = first.to(place.device).expand(len(self.current))[self.rows, None]
        return (place >= first) & (place < first + count)


Rule = Callable[[Part], Tensor]
"""Returns z [b, h, T, Dv] of the part, in z's dtype, and leaves the tensors of the part as they are."""


def as_index(numbers: Int[Tensor, "n"]) -> slice | Int[Tensor, "n"]:
    """Ascending numbers as a slice where they have no gap, which makes a view of what it indexes, else as they are."""
    first, last = int(numbers[0]), int(numbers[-1])
    return slice(first, last + 1) if last - first + 1 == len(numbers) else numbers
