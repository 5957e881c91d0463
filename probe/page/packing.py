"""Arrays inside a page: a little JSON around compressed bytes, which the browser's own decompressor opens."""

from __future__ import annotations

import base64
import zlib
from typing import Any

import numpy as np

from probe.errors import ResultsError

DTYPES = ("uint8", "uint16", "int32", "float32")
"""What the page's script has typed arrays for."""


def pack(array: np.ndarray, *, delta: bool = False) -> dict[str, Any]:
    """`array` as shape, dtype and base64 of zlib (RFC 1950, which browsers call `deflate`) of its bytes, rows first.

    delta: of a uint8 array, send each row of the last two axes as its difference from the row above, modulo 256:
    pictures get smaller by it. Bytes are little-endian, as every browser's are. Raises ResultsError for a dtype that is
    not one of `DTYPES`, and for a delta of another than uint8.
    """
    if array.dtype.name not in DTYPES or (delta and array.dtype != np.uint8):
        wanted = "uint8" if delta else ", ".join(DTYPES)
        raise ResultsError(f"an array of {array.dtype.name} cannot go into a page; wanted {wanted}")
    sent = np.diff(array, axis=-2, prepend=np.zeros_like(array[..., :1, :])) if delta else array
    data = np.ascontiguousarray(sent).astype(array.dtype.newbyteorder("<"), copy=False).tobytes()
    text = base64.b64encode(zlib.compress(data, 9)).decode("ascii")
    return {"shape": list(array.shape), "dtype": array.dtype.name, "delta": delta, "data": text}


def coded(values: np.ndarray, steps: np.ndarray) -> np.ndarray:
    """uint8: which of the ascending positive `steps` (fewer than 255) each value is nearest to, by ratio; 255 where
    NaN."""
    between = np.sqrt(steps[:-1] * steps[1:])
    return np.where(np.isnan(values), 255, np.searchsorted(between, np.nan_to_num(values))).astype(np.uint8)
