"""Small maps as PNG images, written with the standard library: 8-bit, palette, safe to put in a page."""

from __future__ import annotations

import base64
import struct
import zlib

import numpy as np
from jaxtyping import Float, UInt8

FLOOR = 1e-4
"""The weight at which the scale of a thumbnail starts; one decade is a quarter of the scale."""

_STOPS = ((255, 255, 255), (222, 235, 247), (158, 202, 225), (66, 146, 198), (8, 81, 156), (8, 29, 88))
_MISSING = (225, 225, 225)


def palette() -> UInt8[np.ndarray, "256 3"]:
    """White to dark blue, lightness falling all the way (safe without colour); 255 is 'no value'."""
    at = np.linspace(0, 254, len(_STOPS))
    stops = np.array(_STOPS, dtype=float)
    colours = np.stack([np.interp(np.arange(255), at, stops[:, channel]) for channel in range(3)], axis=1)
    return np.vstack([colours.round(), _MISSING]).astype(np.uint8)


def shade(weights: Float[np.ndarray, "rows columns"]) -> UInt8[np.ndarray, "rows columns"]:
    """Palette indices: 0 up to `FLOOR`, then linear in log10 up to 254 at weight 1; 255 where NaN."""
    missing = np.isnan(weights)
    level = 1 + np.log10(np.clip(np.where(missing, 0, weights), FLOOR, 1)) / -np.log10(FLOOR)
    return np.where(missing, 255, np.round(254 * level)).astype(np.uint8)


def png(indices: UInt8[np.ndarray, "rows columns"], colours: UInt8[np.ndarray, "n 3"]) -> bytes:
    """A palette PNG (W3C PNG, colour type 3, bit depth 8)."""
    height, width = indices.shape
    lines = b"".join(b"\x00" + row.tobytes() for row in np.ascontiguousarray(indices, dtype=np.uint8))
    header = struct.pack(">IIBBBBB", width, height, 8, 3, 0, 0, 0)
    parts = (
        (b"IHDR", header),
        (b"PLTE", colours.tobytes()),
        (b"IDAT", zlib.compress(lines, 9)),
        (b"IEND", b""),
    )
    return b"\x89PNG\r\n\x1a\n" + b"".join(
        struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data)) for kind, data in parts
    )


def data_uri(image: bytes) -> str:
    """The image as a `data:` address."""
    return "data:image/png;base64," + base64.b64encode(image).decode("ascii")


def thumbnail(weights: Float[np.ndarray, "rows columns"]) -> str:
    """A map of weights in [0, 1] as the address of its picture."""
    return data_uri(png(shade(weights), palette()))


def membership(hits: np.ndarray, colour: tuple[int, int, int]) -> str:
    """A yes/no map [rows, columns]: `colour` where true, light grey where not."""
    return data_uri(png(hits.astype(np.uint8), np.array([(236, 238, 241), colour], dtype=np.uint8)))
