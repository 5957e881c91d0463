"""Run a model on a task's prompts: logits at the judged positions, for transformers and TransformerLens models."""

from __future__ import annotations

from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor

from probe.errors import TokensError
from probe.hooks.lens import is_lens_model


def logits_at(model: Any, ids: Int[Tensor, "N T"], positions: Int[Tensor, "N K"]) -> Float[Tensor, "N K V"]:
    """Logits of row n at positions[n], in the model's dtype, on its device, in the graph where one is kept.

    A transformers model makes logits of the positions that some row asks for and of no others; a TransformerLens
    model makes them all.
    """
    device = next(model.parameters()).device
    ids, positions = ids.to(device), positions.to(device)
    kept, index = torch.unique(positions, return_inverse=True)
    if is_lens_model(model):
        logits: Tensor = model(ids, return_type="logits")[:, kept]
    else:
        logits = model(ids, use_cache=False, logits_to_keep=kept).logits
    if len(kept) == index.shape[1] and bool((index == torch.arange(len(kept), device=device)).all()):
        return logits  # every row asks for the same positions, in order: no copy
    return logits.gather(1, index[:, :, None].expand(-1, -1, logits.shape[2]))


def logits_decoded(model: Any, ids: Int[Tensor, "N T"], positions: Int[Tensor, "N K"]) -> Float[Tensor, "N K V"]:
    """As `logits_at`, in two calls: what comes before the first judged position is the prompt (prefill), the rest
    is read past a cache (decoding), as when a model answers.

    Raises TokensError for a TransformerLens model, and where nothing comes before.
    """
    split = int(positions.min())
    if is_lens_model(model) or split < 1:
        found = "a TransformerLens model" if is_lens_model(model) else "a prompt that is judged at its first token"
        raise TokensError(f"phase prefill or decode: found {found}; wanted a transformers model and a prompt before")
    device = next(model.parameters()).device
    ids, positions = ids.to(device), positions.to(device)
    cache = model(ids[:, :split], use_cache=True, logits_to_keep=1).past_key_values
    kept, index = torch.unique(positions - split, return_inverse=True)
    logits: Tensor = model(ids[:, split:], past_key_values=cache, use_cache=True, logits_to_keep=kept).logits
    return logits.gather(1, index[:, :, None].expand(-1, -1, logits.shape[2]))
