"""One attention call, as a handler sees it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field, replace

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from .dense import pattern_rows
from .fused import fused_attention
from .mask import LazyMask, MaskRule

HandlerResult = Tensor | tuple[Tensor, Tensor | None]


@dataclass(frozen=True)
class Site:
    """Where in a model a call happens.

    name: path of the attention module, "model.layers.3.self_attn".
    stack: "decoder", "encoder" or "vision".
    kind: "self" or "cross".
    layer: the model's own number: the first integer in the path.
    """

    name: str
    stack: str
    kind: str
    layer: int


@dataclass
class AttentionCall:
    """Queries, keys and values after rotary embedding, norms and the cache; k and v once per key/value head.

    mask: the mask as a question; None: the model passed none, and `causal` says it all.
    causal: when mask is None, query t sees keys up to t + S - T.
    scale, softcap, sinks, bias: score = softcap * tanh(scale * q.k / softcap) + bias, and sinks [H] are the
        logits of one more key, visible to all, with v = 0. bias is [1 or B, 1 or H, T, S].
    window: the window that the module states; `mask` has it already.
    dropout: on the weights; 0 in evaluation.
    """

    site: Site
    module: nn.Module
    q: Float[Tensor, "B H T D"]
    k: Float[Tensor, "B G S D"]
    v: Float[Tensor, "B G S Dv"]
    mask: LazyMask | None
    causal: bool
    scale: float
    softcap: float | None = None
    window: int | None = None
    sinks: Float[Tensor, "H"] | None = None
    bias: Float[Tensor, "#B #H T S"] | None = None
    dropout: float = 0.0
    inner: Callable[[], HandlerResult] | None = field(default=None, repr=False)
    """What `attend` asks instead of computing: the handler of an enclosing instrument, or another library."""
    asked: bool = field(default=False, repr=False)
    inner_pattern: Tensor | None = field(default=None, repr=False)

    def attend(self) -> Float[Tensor, "B H T Dv"]:
        """The plain output z, in q's dtype, differentiable and safe to edit in place.

        At the speed of `scaled_dot_product_attention`, learned sinks included; a soft cap, or sinks together
        with a bias, go by strips of rows. Inside another `instrument`, what that one's handler returns.
        """
        self.asked = True
        if self.inner is not None:
            result = self.inner()
            z, self.inner_pattern = result if isinstance(result, tuple) else (result, None)
        elif self.softcap is not None or (self.sinks is not None and self.bias is not None):
            z = self._by_strips()
        else:
            z = fused_attention(self)
        # The fused kernels save their output for the backward pass, which an edit in place would spoil.
        return z.clone() if z.requires_grad else z

    @property
    def offset(self) -> int:
        """Position of query row 0 on the axis of the keys, of a self-attention call."""
        return self.k.shape[2] - self.q.shape[2] if self.mask is None else self.mask.offset

    @property
    def start(self) -> int:
        """Tokens that the model read before this call's first one, of a self-attention call: 0 at prefill.

        More than `offset` where a sliding cache has dropped keys.
        """
        return self.offset if self.mask is None else self.mask.start

    def narrowed(self, rows: slice, heads: Int[Tensor, "h"]) -> AttentionCall:
        """The same call for some sequences and some query heads, with k and v repeated for each of these.

        It computes from its own tensors (`inner` is None), so that they can be replaced.
        """
        batch, count = self.q.shape[:2]
        heads = heads.to(self.q.device)
        groups = heads // (count // self.k.shape[1])

        def part(extra: Tensor) -> Tensor:
            extra = extra[rows] if extra.shape[0] > 1 else extra
            return extra[:, heads] if extra.shape[1] > 1 else extra

        return replace(
            self,
            q=self.q[rows][:, heads],
            k=self.k[rows][:, groups],
            v=self.v[rows][:, groups],
            mask=None if self.mask is None else self.mask.narrowed(*rows.indices(batch), heads),
            sinks=None if self.sinks is None else self.sinks[heads],
            bias=None if self.bias is None else part(self.bias),
            inner=None,
            asked=False,
            inner_pattern=None,
        )

    def rule(self) -> MaskRule:
        """The mask in the words of the kernels; see `LazyMask.rule`. The bias is not part of it."""
        if self.mask is not None:
            return self.mask.rule(cross=self.site.kind == "cross")
        return MaskRule(self.causal, None, self.k.shape[2] - self.q.shape[2] if self.causal else 0, None, None)

    def pattern(
        self, rows: Int[Tensor, "rows"] | None = None, *, dtype: torch.dtype | None = None
    ) -> Float[Tensor, "B H rows S"]:
        """The exact attention weights of the chosen query rows (None: all), computed in float32 or wider.

        Given in `dtype` (None: q's own, as models return them). With learned sinks a row sums to less than 1;
        a row that may see nothing is 0. Memory: B * H * rows * S elements, a few times.
        """
        weights = pattern_rows(self, rows)
        return weights.to(self.q.dtype if dtype is None else dtype)

    def _by_strips(self) -> Tensor:
        batch, heads, queries, _ = self.q.shape
        keys, groups = self.k.shape[2], self.k.shape[1]
        step = max(1, (1 << 21) // (batch * heads * keys))
        strips = []
        for start in range(0, queries, step):
            rows = torch.arange(start, min(start + step, queries), device=self.q.device)
            weights = torch.nn.functional.dropout(self.pattern(rows), self.dropout, training=self.dropout > 0)
            grouped = weights.view(batch, groups, heads // groups, len(rows), keys)
            strips.append((grouped @ self.v[:, :, None]).flatten(1, 2))
        return torch.cat(strips, dim=2)
