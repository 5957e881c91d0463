from __future__ import annotations

import base64
import struct
import zlib

import numpy as np

from probe.page.thumbnails import data_uri, membership, palette, png, shade, thumbnail


def decode(image: bytes) -> tuple[np.ndarray, np.ndarray]:
    """Indices and palette of a PNG as `png` writes it, every checksum verified."""
    assert image[:8] == b"\x89PNG\r\n\x1a\n"
    chunks, place = {}, 8
    while place < len(image):
        (size,) = struct.unpack(">I", image[place : place + 4])
        body = image[place + 4 : place + 8 + size]
        assert struct.unpack(">I", image[place + 8 + size : place + 12 + size]) == (zlib.crc32(body),)
        chunks[body[:4]] = body[4:]
        place += 12 + size
    width, height, depth, colour = struct.unpack(">IIBB", chunks[b"IHDR"][:10])
    assert (depth, colour) == (8, 3)
    lines = np.frombuffer(zlib.decompress(chunks[b"IDAT"]), np.uint8).reshape(height, width + 1)
    return lines[:, 1:], np.frombuffer(chunks[b"PLTE"], np.uint8).reshape(-1, 3)


def test_png_holds_what_was_given() -> None:
    indices = np.random.default_rng(0).integers(0, 256, (5, 7)).astype(np.uint8)
    back, colours = decode(png(indices, palette()))
    assert (back == indices).all()
    assert (colours == palette()).all()


def test_scale_is_a_quarter_a_decade_and_missing_is_apart() -> None:
    weights = np.array([[0.0, 1e-5, 1e-4, 1e-3, 1e-2, 1e-1, 1.0, np.nan]])
    assert shade(weights).tolist() == [[0, 0, 0, 64, 127, 190, 254, 255]]


def test_palette_darkens_all_the_way_so_that_print_keeps_the_order() -> None:
    colours = palette().astype(float)
    lightness = colours[:255] @ [0.2126, 0.7152, 0.0722]
    assert (np.diff(lightness) <= 0).all()
    assert colours[0].tolist() == [255, 255, 255]
    assert lightness[254] < 40


def test_pictures_are_small_data_addresses() -> None:
    uri = thumbnail(np.tril(np.random.default_rng(0).random((64, 64))) / 30)
    assert uri.startswith("data:image/png;base64,")
    assert len(base64.b64decode(uri.split(",")[1])) < 6000
    back, colours = decode(base64.b64decode(membership(np.array([[True, False]]), (1, 2, 3)).split(",")[1]))
    assert colours[back[0, 0]].tolist() == [1, 2, 3]
    assert data_uri(b"x") == "data:image/png;base64,eA=="
