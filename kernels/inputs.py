"""What one attention call is: tensors, who may see whom, how scores become weights, and what to count.

Letters used throughout `kernels`:

    B  sequences in the batch        T  queries            D   width of q and k in one head
    H  query heads                   S  keys               Dv  width of v in one head
    G  key/value heads; query head h reads key/value head h // (H // G)

Query row t stands at position `t + query_offset` on the axis of the keys, so that a decoding step or a
chunk is a call like any other. No [T, S] tensor is ever part of a description.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

from jaxtyping import Bool, Float, Int
from torch import Tensor

BlockMask = Callable[[Int[Tensor, "rows"], Int[Tensor, "columns"]], Bool[Tensor, "#B #H rows columns"]]
"""Query positions and key positions in, visibility out: any rule, evaluated block by block."""

BlockBias = Callable[[Int[Tensor, "rows"], Int[Tensor, "columns"]], Float[Tensor, "#B #H rows columns"]]
"""Query rows and key columns in, additive score bias out (T5's relative bias, ALiBi)."""


@dataclass(frozen=True)
class Mask:
    """Who may see whom. Query at position i sees key j when every rule below agrees.

    causal: j <= i.
    window: i - j < window, and when not causal also j - i < window (None: no limit).
    query_offset: position of query row 0.
    lengths: [B, 2] first and last-plus-one valid key of each sequence (padding on either side); None: all.
        A query at a padded position sees nothing, and positions count from the first valid key.
    allowed: any further rule, block by block, in the positions of the padded axis; None: none.
    documents: [B, S] number of the document at each position, never falling; a query sees its own document only.
        Documents cut visibility and nothing else: positions, sinks and bands stay those of the whole sequence.
    """

    causal: bool = True
    window: int | None = None
    query_offset: int = 0
    lengths: Int[Tensor, "B 2"] | None = None
    allowed: BlockMask | None = None
    documents: Int[Tensor, "B S"] | None = None


@dataclass(frozen=True)
class Score:
    """How q·k becomes a weight: s = softcap * tanh(scale * q·k / (τ * softcap)) + bias − slope * |i − j|, then
    softmax or sigmoid.

    sinks: [H] learned sink logits, one more always visible key with v = 0.
    slopes: [H] of a bias by distance (ALiBi, Press et al. 2022, arXiv 2108.12409); i and j are positions.
    temperature: [B, T] positive, τ of each query; None: 1.
    bias is the rule for everything else; it is a function, so a GPU kernel cannot have it.
    """

    scale: float
    softcap: float | None = None
    bias: BlockBias | None = None
    sinks: Float[Tensor, "H"] | None = None
    sigmoid: bool = False
    slopes: Float[Tensor, "H"] | None = None
    temperature: Float[Tensor, "B T"] | None = None


@dataclass(frozen=True)
class Attention:
    """One attention call as the model makes it: q after rotary embedding and norms, k and v per key/value head."""

    q: Float[Tensor, "B H T D"]
    k: Float[Tensor, "B G S D"]
    v: Float[Tensor, "B G S Dv"]
    mask: Mask
    score: Score


@dataclass(frozen=True)
class Lookup:
    """Mass on the keys that carry a query's label: key j counts for query i iff key_label[j] == query_label[i].

    `duplicate_token` is (t, t, gap=1), `induction` is (t_i, t_{j-1}, gap=0), a needle is (1, 1 inside the span).
    Labels below 0 match nothing. Only keys with i - j >= gap count (positions on the axis of the keys).
    """

    query_label: Int[Tensor, "B T"]
    key_label: Int[Tensor, "B S"]
    gap: int = 0
    found: dict[tuple[int, ...], object] = field(default_factory=dict, repr=False, compare=False)
    """Matching pairs by sequence, kept by a backend so that one forward pass finds them once, not once a layer."""


@dataclass(frozen=True)
class Request:
    """What to count beside the output.

    sinks, window: the kept keys of a streaming head: j < sinks, or i - j < window.
    lookups: named label lookups, see `Lookup`.
    bands: side of the thumbnail; 0 for none.
    parts: the partial outputs of the kept classes, one z each; without them, their streaming sums alone.
    distances: the mass by distance.
    argmax, received_max, received_value, thresholds: statistics that cost more than they are mostly worth.
    direction: g of `Statistics.effects`, ∂metric/∂z of the same call; mean: what stands for z in the effect `mean`.
    """

    sinks: int = 4
    window: int = 64
    lookups: dict[str, Lookup] = field(default_factory=dict)
    bands: int = 64
    parts: bool = True
    distances: bool = True
    argmax: bool = False
    received_max: bool = False
    received_value: bool = False
    thresholds: tuple[float, ...] = ()
    direction: Float[Tensor, "B H T Dv"] | None = None
    mean: Float[Tensor, "#B H #T Dv"] | None = None
