"""What a model holds and where it can run: the hash of its weights, their finiteness, dtype and device."""

from __future__ import annotations

import hashlib

import torch
from torch import nn
from transformers import PreTrainedModel

from probe.errors import ModelError
from probe.loading.files import first_line

DTYPES = {
    "float64": torch.float64,
    "float32": torch.float32,
    "bfloat16": torch.bfloat16,
    "float16": torch.float16,
}


def weight_hash(model: nn.Module) -> str:
    """SHA-256 over the parameters in order of their names: name, dtype, shape and bytes of each."""
    digest = hashlib.sha256()
    for name, weight in sorted(model.named_parameters()):
        digest.update(f"{name} {weight.dtype} {tuple(weight.shape)}\n".encode())
        raw = weight.detach().cpu().contiguous().reshape(-1).view(torch.uint8)
        digest.update(raw.numpy().data)
    return digest.hexdigest()


def checked_device(device: str) -> torch.device:
    """The torch device of that name. Raises `ModelError` where this machine has none such."""
    try:
        found = torch.device(device)
    except (RuntimeError, TypeError):
        raise ModelError(f"device: found {str(device)[:40]!r}, wanted cpu, cuda, cuda:<n> or mps; choose one") from None
    count = {"cpu": 1, "cuda": torch.cuda.device_count(), "mps": int(torch.backends.mps.is_available())}
    if found.type not in count or (found.index or 0) >= count[found.type]:
        there = [f"{kind} ({number})" for kind, number in count.items() if number]
        raise ModelError(f"device: found {device!r}, wanted one that is here: {', '.join(there)}; choose one")
    return found


def check_finite(model: nn.Module) -> None:
    """Raises `ModelError` naming the first weight that is NaN or infinite."""
    for name, weight in model.named_parameters():
        if not weight.is_floating_point() or not weight.numel():
            continue
        low, high = torch.aminmax(weight.detach())
        if bool(torch.isfinite(low) & torch.isfinite(high)):
            continue
        flat = (~torch.isfinite(weight.detach())).flatten().nonzero()[0]
        index = [int(part) for part in torch.unravel_index(flat[0], weight.shape)]
        value = float(weight.detach()[tuple(index)])
        raise ModelError(f"weights: found {value} at {name}{index}, wanted finite numbers; get the model again")


def checked_dtype(dtype: str) -> torch.dtype:
    """The torch dtype of that name. Raises `ModelError` for any other than the four floating ones."""
    if dtype not in DTYPES:
        raise ModelError(f"dtype: found {str(dtype)[:40]!r}, wanted one of {', '.join(DTYPES)}; choose one")
    return DTYPES[dtype]


def cast_weights(model: PreTrainedModel, dtype: torch.dtype) -> None:
    """Casts the parameters, not the buffers: rotary frequencies stay float32, as when loaded in `dtype`."""
    for weight in model.parameters():
        weight.data = weight.data.to(dtype)
    model.config.dtype = dtype


def place(model: nn.Module, device: torch.device) -> None:
    """Moves a model, in place. Raises `ModelError` where it does not fit."""
    try:
        nn.Module.to(model, device)
    except torch.OutOfMemoryError as error:
        raise ModelError(f"device: the model does not fit on {device} ({first_line(error)}); use cpu") from None
