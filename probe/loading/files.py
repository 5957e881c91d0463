"""Model files as untrusted input: a folder or GGUF file is checked before any library reads it."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from safetensors import SafetensorError, safe_open

from probe.errors import ModelError

PICKLES = (".bin", ".pt", ".pth", ".ckpt", ".pkl")
_CONFIG_BYTES = 1 << 24
# Sizes in a configuration that can be no larger than the largest dimension of a tensor in the file.
_SIZES = (
    "hidden_size",
    "n_embd",
    "d_model",
    "intermediate_size",
    "n_inner",
    "d_ff",
    "vocab_size",
    "head_dim",
)
_COUNTS = ("num_hidden_layers", "n_layer", "num_layers", "num_attention_heads", "n_head", "num_heads")
MAX_CONTEXT = 1 << 27


def check_folder(folder: Path, name: str) -> dict[str, Any]:
    """The configuration of a model folder whose weights are whole safetensors files, or a refusal.

    Raises `ModelError` where there is no `config.json`, where it asks for remote code or names impossible
    sizes, where the weights are pickles, missing, cut short or damaged.
    """
    config = _read_json(folder / "config.json", f"{name!r} is not a model folder: found no config.json")
    _refuse_code(config, name)
    tokenizer = folder / "tokenizer_config.json"
    if tokenizer.is_file():
        _refuse_code(_read_json(tokenizer, ""), name)
    shapes = [shape for file in _weight_files(folder, name) for shape in _safetensors_shapes(file)]
    _check_sizes(config, shapes, name)
    return config


def _read_json(file: Path, missing: str) -> dict[str, Any]:
    if not file.is_file():
        raise ModelError(f"{missing}; wanted a folder with config.json and *.safetensors; check the path")
    if file.stat().st_size > _CONFIG_BYTES:
        raise ModelError(f"{file.name}: found {file.stat().st_size:,} bytes, wanted at most {_CONFIG_BYTES:,}")
    try:
        found = json.loads(file.read_text(encoding="utf-8"), parse_constant=_constant)
    except (ValueError, RecursionError) as error:
        reason = "nested too deeply" if isinstance(error, RecursionError) else str(error).splitlines()[0]
        raise ModelError(f"{file.name} is damaged ({reason}), wanted a JSON object; get the model again") from None
    if not isinstance(found, dict):
        raise ModelError(f"{file.name}: found a {type(found).__name__}, wanted a JSON object; get the model again")
    return found


def _constant(name: str) -> float:
    if name == "NaN":
        raise ValueError("NaN in it")
    return float(name.replace("Infinity", "inf"))


def _refuse_code(config: dict[str, Any], name: str) -> None:
    if config.get("auto_map"):
        raise ModelError(
            f"{name!r} asks for code of its own (auto_map in its configuration), which is never run; "
            "use a model whose class transformers has"
        )


def _weight_files(folder: Path, name: str) -> list[Path]:
    index = folder / "model.safetensors.index.json"
    if index.is_file():
        named = _read_json(index, "").get("weight_map")
        if not isinstance(named, dict) or not all(isinstance(file, str) for file in named.values()):
            raise ModelError(f"{index.name}: found no weight_map of file names; get the model again")
        files = [folder / file for file in sorted(set(named.values()))]
        for file in files:
            if file.parent != folder or file.name in ("", "..") or not file.is_file():
                raise ModelError(
                    f"{name!r}: found no weights file {file.name!r} in it, wanted every file that "
                    f"{index.name} names; get the model again"
                )
        return files
    files = sorted(folder.glob("*.safetensors"))
    if files:
        return files
    pickles = sorted(file.name for file in folder.iterdir() if file.suffix in PICKLES)
    if pickles:
        raise ModelError(
            f"{name!r} holds its weights as pickles ({pickles[0]}), which can run code and are never read; "
            "convert them to safetensors"
        )
    raise ModelError(f"{name!r}: found no weights, wanted *.safetensors; get the whole model")


def _safetensors_shapes(file: Path) -> Iterator[tuple[int, ...]]:
    try:
        with safe_open(file, framework="pt") as tensors:
            names = tensors.keys()
            for name in names:
                yield tuple(tensors.get_slice(name).get_shape())
    except (SafetensorError, OSError, OverflowError, ValueError) as error:
        raise ModelError(
            f"{file.name} is cut short or damaged ({first_line(error)}), wanted a whole safetensors file; get it again"
        ) from None


def _check_sizes(config: dict[str, Any], shapes: list[tuple[int, ...]], name: str) -> None:
    """Refuses sizes that the file cannot hold, before a model of that size is built."""
    nested = [value for value in config.values() if isinstance(value, dict)]
    largest = max((max(shape, default=1) for shape in shapes), default=0)
    for part in (config, *nested):
        for key in (*_SIZES, *_COUNTS, "max_position_embeddings", "n_positions"):
            value = part.get(key)
            if value is None:
                continue
            most = largest if key in _SIZES else max(len(shapes), largest) if key in _COUNTS else MAX_CONTEXT
            if key in ("num_hidden_layers", "n_layer", "num_layers"):
                most = len(shapes)
            if isinstance(value, bool) or not isinstance(value, int) or not 0 < value <= most:
                raise ModelError(
                    f"{name!r}: found {key} = {str(value)[:40]} in its configuration, wanted 1 to {most:,}, "
                    "which its weights allow; get the model again"
                )


def first_line(error: BaseException) -> str:
    """The first line of an error's text, for a message of one line."""
    lines = str(error).strip().splitlines()
    return lines[0][:200] if lines else type(error).__name__
