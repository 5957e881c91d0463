"""One way to run a model under the instrument, whether transformers or TransformerLens made it."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator
from contextlib import AbstractContextManager, contextmanager
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from probe.errors import ModelError
from probe.hooks import attention, lens
from probe.hooks.attention import Handler, Site
from probe.hooks.spec import main_sites, output_projection, spec_of
from probe.hooks.verify import verify

Write = Callable[[Site, Float[Tensor, "B T HDv"]], None]
"""Receives a site and what its output projection reads: the heads joined, after any gate."""


class Running:
    """A model ready to be observed: its main stack's sites, its forward, its heads' writes.

    n_heads, n_kv_heads, n_ctx (None where unstated), vocabulary, bos (None where it has none).
    """

    def __init__(self, model: nn.Module) -> None:
        """Read the model's shape. Raises HookError, or ModelError for models with several text stacks."""
        self.model = model
        self.is_lens = lens.is_lens_model(model)
        described: Any = model.cfg if self.is_lens else model.config
        if self.is_lens:
            self.sites = [Site(f"blocks.{n}.attn", "decoder", "self", n) for n in range(described.n_layers)]
            self.n_heads = int(described.n_heads)
            self.n_kv_heads = int(described.n_key_value_heads or described.n_heads)
            self.n_ctx: int | None = int(described.n_ctx)
            self.vocabulary = int(described.d_vocab)
            self.bos: int | None = _lens_bos(model)
        else:
            if getattr(described, "is_encoder_decoder", False):
                raise ModelError(
                    f"{type(model).__name__} has an encoder and a decoder; wanted a model with one stack; "
                    "give its encoder or its decoder alone"
                )
            spec = spec_of(model)  # type: ignore[arg-type]  # no TransformerLens model: `is_lens`
            self.sites = main_sites(attention.sites(model))
            self.n_heads, self.n_kv_heads, self.n_ctx = spec.n_heads, spec.n_kv_heads, spec.n_ctx
            text = described.get_text_config()
            self.vocabulary = int(text.vocab_size)
            self.bos = text.bos_token_id if isinstance(text.bos_token_id, int) else None

    @property
    def device(self) -> torch.device:
        """Where the model's parameters are."""
        return next(self.model.parameters()).device

    def verify(self) -> None:
        """Prove the hook points before any number is believed. Raises HookError by name."""
        if not self.is_lens:  # the lens instrument proves its own
            chosen = set(self.sites)
            verify(self.model, sites=lambda site: site in chosen)  # type: ignore[arg-type]

    def instrument(
        self, handler: Handler, *, layers: Collection[int] | None = None
    ) -> AbstractContextManager[list[Site]]:
        """`hooks.attention.instrument`, or its TransformerLens twin, on the main stack."""
        chosen = set(self.sites)
        start: Any = lens.instrument if self.is_lens else attention.instrument
        made: AbstractContextManager[list[Site]] = start(
            self.model, handler, layers=layers, sites=lambda site: site in chosen
        )
        return made

    def forward(self, ids: Int[Tensor, "B T"]) -> None:
        """Run the stack without keeping logits or a cache."""
        ids = ids.to(self.device)
        with torch.no_grad():
            if self.is_lens:
                self.model(ids, return_type=None)
                return
            base: Any = getattr(self.model, "base_model", self.model)
            base(input_ids=ids, **({"use_cache": False} if hasattr(self.model.config, "use_cache") else {}))

    def head_writes(self, site: Site) -> Float[Tensor, "H Dv d_model"]:
        """W_O of each head at a site."""
        if self.is_lens:
            weight: Tensor = self.model.get_submodule(site.name).W_O  # type: ignore[assignment]
            return weight.detach()
        return output_projection(self.model, site)[1].detach()

    @contextmanager
    def watching_writes(self, write: Write) -> Iterator[None]:
        """Show `write` the input of every site's output projection; undone at the end."""
        handles = []
        try:
            for site in self.sites:
                module: Any = (
                    self.model.get_submodule(f"{site.name}.hook_z") if self.is_lens
                    else output_projection(self.model, site)[0]
                )  # fmt: skip
                handles.append(module.register_forward_pre_hook(_shown(site, write)))
            yield
        finally:
            for handle in handles:
                handle.remove()


def _lens_bos(model: nn.Module) -> int | None:
    """BOS of the transformers model inside a bridge; of a HookedTransformer's tokenizer."""
    inner: Any = getattr(model, "original_model", None)
    owner = inner.config.get_text_config() if inner is not None else getattr(model, "tokenizer", None)
    bos = getattr(owner, "bos_token_id", None)
    return bos if isinstance(bos, int) else None


def _shown(site: Site, write: Write) -> Callable[[nn.Module, tuple[Tensor, ...]], None]:
    def hook(_module: nn.Module, inputs: tuple[Tensor, ...]) -> None:
        write(site, inputs[0].detach().flatten(2))

    return hook
