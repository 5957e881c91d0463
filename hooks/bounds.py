"""How far a correct fused attention may stand from the float64 one: bounds from the data, not tuned.

A sum of n float32 products errs by at most gamma_n = n u / (1 - n u) times the sum of their sizes, u = 2**-24
(Higham, Accuracy and Stability of Numerical Algorithms, section 3.1); what is stored in the model's dtype
errs by its own unit roundoff once more.
"""

from __future__ import annotations

import torch
from torch import Tensor

from .call import AttentionCall


def z_bound(call: AttentionCall) -> float:
    """Largest |z - z64| of a correct kernel.

    A score errs by delta = (gamma_{D+4} + u) * max(scale * |q|.|k| + |bias| + |sink|), which changes
    weights by a factor within exp(+-2 delta); the weighted sum adds gamma_{S+4}, and storing weights
    and output 4 u.
    """
    group = call.q.shape[1] // call.k.shape[1]
    sizes = call.q.abs().double() @ call.k.abs().double().repeat_interleave(group, 1).transpose(-1, -2)
    largest = float(sizes.max()) * call.scale
    for extra in (call.bias, call.sinks):
        if extra is not None:
            shown = extra[extra > torch.finfo(extra.dtype).min / 2]
            largest += float(shown.abs().max()) if shown.numel() else 0.0
    unit = torch.finfo(call.q.dtype).eps / 2
    delta = (_gamma(call.q.shape[-1] + 4) + unit) * largest
    weights = float(torch.expm1(torch.tensor(2 * delta, dtype=torch.float64)))
    return (weights + _gamma(call.k.shape[2] + 4) + 4 * unit) * float(call.v.abs().max())


def output_bound(entered: Tensor, weight: Tensor, bias: Tensor | None, z_error: float, dtype: torch.dtype) -> Tensor:
    """Largest error of entered @ weight + bias, each output; entered [T, H*Dv], weight [H*Dv, d_model].

    z_error: how far `entered` itself may be off.
    """
    sizes = entered.abs() @ weight.abs() + (0 if bias is None else bias.abs())
    unit = torch.finfo(dtype).eps / 2
    return sizes * (_gamma(entered.shape[-1] + 4) + 4 * unit) + z_error * weight.abs().sum(0)


def _gamma(terms: int) -> float:
    unit = 2.0**-24
    return terms * unit / (1 - terms * unit)
