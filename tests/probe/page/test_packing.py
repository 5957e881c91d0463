"""What goes into a page comes out of it; what its script could not read is refused."""

from __future__ import annotations

import base64
import zlib
from typing import Any

import numpy as np
import pytest

from probe.errors import ResultsError
from probe.page.packing import DTYPES, coded, pack


def unpack(packed: dict[str, Any]) -> np.ndarray:
    """What the page's script does."""
    data = np.frombuffer(zlib.decompress(base64.b64decode(packed["data"])), np.dtype(packed["dtype"]).newbyteorder("<"))
    found = data.reshape(packed["shape"])
    return found.cumsum(axis=-2, dtype=found.dtype) if packed["delta"] else found


@pytest.mark.parametrize("dtype", DTYPES)
def test_arrays_come_back_as_they_went(dtype: str) -> None:
    array = (np.random.default_rng(0).random((3, 4, 5)) * 250).astype(dtype)
    assert (unpack(pack(array)) == array).all()
    assert (unpack(pack(array[:, ::2])) == array[:, ::2]).all()
    assert pack(array)["shape"] == [3, 4, 5]


def test_a_picture_sent_as_differences_is_the_same_and_smaller() -> None:
    picture = np.add.outer(np.arange(64), np.arange(64)).astype(np.uint8)[None] * np.uint8(3)
    assert (unpack(pack(picture, delta=True)) == picture).all()
    assert len(pack(picture, delta=True)["data"]) < len(pack(picture)["data"])


def test_other_dtypes_are_refused_by_name() -> None:
    with pytest.raises(ResultsError, match="float64 cannot go into a page; wanted uint8, uint16"):
        pack(np.zeros(3))
    with pytest.raises(ResultsError, match="int32 cannot go into a page; wanted uint8"):
        pack(np.zeros((2, 2), np.int32), delta=True)


def test_codes_are_the_nearest_steps_by_ratio() -> None:
    steps = np.geomspace(1e-3, 1, 4)
    values = np.array([0, 1e-9, 1e-3, 2e-3, 5e-3, 0.05, 0.9, 1, np.nan])
    assert coded(values, steps).tolist() == [0, 0, 0, 0, 1, 2, 3, 3, 255]
