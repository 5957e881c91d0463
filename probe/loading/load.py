"""Checked folders and GGUF files to transformers models: quiet, no code, no pickles, errors in one line."""

from __future__ import annotations

import contextlib
import io
import logging
from collections.abc import Iterator
from pathlib import Path
from typing import Any, cast

import torch
import transformers
from huggingface_hub.errors import StrictDataclassError
from safetensors import SafetensorError
from transformers import AutoModelForCausalLM, AutoTokenizer, PreTrainedModel, PreTrainedTokenizerBase
from transformers.utils import logging as transformers_logging

from probe.errors import ModelError
from probe.loading.files import check_folder, first_line
from probe.loading.gguf import check_gguf

# What transformers raises on files that passed our checks and still do not make a model.
_LIBRARY_ERRORS = (
    OSError,
    ValueError,
    KeyError,
    IndexError,
    TypeError,
    AttributeError,
    RuntimeError,
    ArithmeticError,
    ImportError,
    SafetensorError,
    StrictDataclassError,
)


def from_folder(
    folder: Path, dtype: torch.dtype, name: str | None = None, *, device_map: str | None = None
) -> tuple[PreTrainedModel, PreTrainedTokenizerBase | None]:
    """The model and tokenizer of a local folder; `name` for messages, `device_map` as transformers takes it.

    Raises `ModelError`.
    """
    name = name or folder.name
    config = check_folder(folder, name)
    with _library(name):
        model, report = _class_for(config).from_pretrained(
            folder,
            dtype=dtype,
            use_safetensors=True,
            trust_remote_code=False,
            local_files_only=True,
            output_loading_info=True,
            device_map=device_map,
        )
    absent = sorted(report["missing_keys"])
    if absent:
        raise ModelError(
            f"{name!r}: found no weights for {absent[0]} ({len(absent)} missing), wanted all of "
            f"{type(model).__name__}; get the whole model"
        )
    named = ("tokenizer.json", "tokenizer.model", "vocab.json", "vocab.txt", "spiece.model")
    if not any((folder / file).is_file() for file in named):
        return model, None
    with _library(name):
        return model, AutoTokenizer.from_pretrained(folder, trust_remote_code=False, local_files_only=True)


def _class_for(config: dict[str, Any]) -> Any:
    """The class that the configuration names, where transformers has it; else the causal language model."""
    named = config.get("architectures")
    first = named[0] if isinstance(named, list) and named else None
    found = getattr(transformers, first, None) if isinstance(first, str) else None
    if isinstance(found, type) and issubclass(found, PreTrainedModel):
        return found
    return AutoModelForCausalLM


def from_gguf(path: Path) -> tuple[PreTrainedModel, PreTrainedTokenizerBase]:
    """A GGUF file's model in float32, as an ordinary one that can be saved. Raises `ModelError`."""
    check_gguf(path)
    with _library(path.name):
        read = AutoModelForCausalLM.from_pretrained(
            path.parent,
            gguf_file=path.name,
            dtype=torch.float32,
            trust_remote_code=False,
            local_files_only=True,
        )
        tokenizer = AutoTokenizer.from_pretrained(
            path.parent, gguf_file=path.name, trust_remote_code=False, local_files_only=True
        )
        # The library marks such a model as quantised and will not save it; a plain one has the same weights.
        config = read.config
        del config.quantization_config
        config.architectures = [type(read).__name__]
        with torch.random.fork_rng(devices=[]):
            model = type(read)(config)
        model.load_state_dict(read.state_dict())
    return model, cast(PreTrainedTokenizerBase, tokenizer)


@contextlib.contextmanager
def _library(name: str) -> Iterator[None]:
    """Calls into transformers: quiet, and its errors as ours, in one line."""
    try:
        with quiet():
            yield
    except BaseException as error:
        # tokenizers raises bare Exceptions; its Rust panics are BaseExceptions of a class without a module.
        bare = type(error) is Exception or type(error).__name__ == "PanicException"
        if not bare and not isinstance(error, _LIBRARY_ERRORS):
            raise
        raise ModelError(
            f"{name!r} cannot be loaded ({type(error).__name__}: {first_line(error)}), wanted a model that "
            f"this transformers {transformers.__version__} knows, whole; get it again or choose another"
        ) from None


@contextlib.contextmanager
def quiet() -> Iterator[None]:
    """No progress bars and no log lines from transformers meanwhile; its settings come back as they were."""
    level = transformers_logging.get_verbosity()
    transformers_logging.set_verbosity(logging.ERROR)
    try:
        # The bars look sys.stderr up when they start, and one of them has no other switch.
        with contextlib.redirect_stderr(io.StringIO()):
            yield
    finally:
        transformers_logging.set_verbosity(level)
