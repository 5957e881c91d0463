"""Where and when a run took place: for run.json, never for tables."""

from __future__ import annotations

import os
import platform
import time
from typing import Any

import numpy as np
import torch


def machine() -> dict[str, Any]:
    """The machine, its processors and threads, and the libraries that compute."""
    return {
        "system": platform.platform(),
        "processor": platform.processor() or platform.machine(),
        "cpus": os.cpu_count(),
        "threads": torch.get_num_threads(),
        "python": platform.python_version(),
        "numpy": np.__version__,
        "torch": torch.__version__,
    }


def now() -> str:
    """The time in UTC, to the second (ISO 8601)."""
    return time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime())
