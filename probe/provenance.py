"""Where numbers come from: the part of a table's metadata that every analysis states alike."""

from __future__ import annotations

import platform
from importlib.metadata import version
from typing import Any

import torch

from probe.models import Loaded

DEFINITIONS = "1"
"""Version of the metrics' definitions; tables of different versions are not to be compared."""


def provenance(loaded: Loaded, seed: int) -> dict[str, Any]:
    """The model and its weights, how it ran, the seed, the versions of what computed; JSON values only."""
    weights = next(loaded.model.parameters())
    return {
        "model": loaded.name,
        "source": loaded.source,
        "weight_hash": loaded.weight_hash,
        "dtype": str(weights.dtype).removeprefix("torch."),
        "device": weights.device.type,
        "threads": torch.get_num_threads(),
        "seed": seed,
        "definitions": DEFINITIONS,
        "versions": {
            "headprobe": version("headprobe"),
            "python": platform.python_version(),
            "torch": version("torch"),
            "transformers": version("transformers"),
        },
    }
