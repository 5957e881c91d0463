"""Smaller, and the same picture to the last bit; left alone where that cannot be promised."""

from __future__ import annotations

import struct
import zlib

import numpy as np
import pytest

from probe.small_png import small_png

rng = np.random.default_rng(0)
PICTURE = np.kron(rng.integers(0, 256, (6, 9, 4)), np.ones((8, 8, 1))).astype(np.uint8)
PICTURE[..., 3] = 255


def chunk(kind: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))


def written(picture: np.ndarray, filters: list[int], level: int = 1) -> bytes:
    """RGBA as a browser writes it, in two pieces of data; filter 2: the difference from the line above."""
    height, width, _ = picture.shape
    flat = picture.reshape(height, -1)
    above = np.vstack([np.zeros_like(flat[:1]), flat[:-1]])
    lines = [bytes([how]) + (line - up if how == 2 else line).tobytes()
             for how, line, up in zip(filters, flat, above, strict=True)]  # fmt: skip
    packed = zlib.compress(b"".join(lines), level)
    head = struct.pack(">IIBBBBB", width, height, 8, 6, 0, 0, 0)
    data = chunk(b"IDAT", packed[:50]) + chunk(b"tEXt", b"made\0by hand") + chunk(b"IDAT", packed[50:])
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", head) + data + chunk(b"IEND", b"")


def pixels(png: bytes) -> np.ndarray:
    """An RGB picture of plain lines, read by the format's own rules: every chunk's checksum among them."""
    place, data, width, height = 8, b"", 0, 0
    while place < len(png):
        (length,) = struct.unpack(">I", png[place : place + 4])
        kind, body = png[place + 4 : place + 8], png[place + 8 : place + 8 + length]
        assert struct.unpack(">I", png[place + 8 + length : place + 12 + length])[0] == zlib.crc32(kind + body)
        if kind == b"IHDR":
            width, height, *form = struct.unpack(">IIBBBBB", body)
            assert form == [8, 2, 0, 0, 0]
        data += body if kind == b"IDAT" else b""
        place += 12 + length
    lines = np.frombuffer(zlib.decompress(data), np.uint8).reshape(height, 1 + 3 * width)
    assert not lines[:, 0].any()
    return lines[:, 1:].reshape(height, width, 3)


@pytest.mark.parametrize("filters", [[0] * 48, [2] * 48, [0, 2] * 24], ids=["plain", "differences", "mixed"])
def test_the_picture_is_smaller_and_the_same(filters: list[int]) -> None:
    png = written(PICTURE, filters)
    found = small_png(png)
    assert len(found) < len(png)
    assert np.array_equal(pixels(found), PICTURE[..., :3])


def test_what_can_be_seen_through_is_left_alone() -> None:
    clear = PICTURE.copy()
    clear[3, 4, 3] = 254
    png = written(clear, [2] * 48)
    assert small_png(png) == png


def test_other_filters_and_other_forms_are_left_alone() -> None:
    png = written(PICTURE, [0] * 47 + [4])
    assert small_png(png) == png
    rgb = small_png(written(PICTURE, [0] * 48))
    assert small_png(rgb) == rgb
