"""The header of a GGUF file as untrusted input: lengths and offsets are checked against the file's size."""

from __future__ import annotations

import math
import struct
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

from gguf.constants import GGML_QUANT_SIZES, GGMLQuantizationType

from probe.errors import ModelError
from probe.loading.files import MAX_CONTEXT, first_line


@dataclass(frozen=True)
class GgufTensor:
    """One tensor's header entry: its place in the file is checked, its values are not."""

    name: str
    shape: tuple[int, ...]


def check_gguf(path: Path) -> list[GgufTensor]:
    """The tensors that a GGUF file holds, with every length and offset in its header checked.

    Format: https://github.com/ggml-org/ggml/blob/master/docs/gguf.md, versions 2 and 3, little-endian.
    Nothing is allocated by what the header claims. Raises `ModelError` where the file is cut short,
    damaged, or another format.
    """
    size = path.stat().st_size
    try:
        with path.open("rb") as file:
            return _walk_gguf(_Walker(file, size), size)
    except (EOFError, UnicodeDecodeError, KeyError, ValueError) as error:
        if isinstance(error, ModelError):
            raise
        raise ModelError(
            f"{path.name} is cut short or damaged ({first_line(error)}), wanted a whole GGUF file; get it again"
        ) from None


class _Walker:
    """Reads little-endian fields and never past the end of the file."""

    def __init__(self, file: BinaryIO, size: int) -> None:
        self.file, self.size = file, size

    def skip(self, count: int) -> None:
        if count > self.size - self.file.tell():
            raise EOFError(f"{count:,} bytes announced at byte {self.file.tell():,} of {self.size:,}")
        self.file.seek(count, 1)

    def number(self, code: str) -> int | float:
        found = self.file.read(struct.calcsize("<" + code))
        if len(found) < struct.calcsize("<" + code):
            raise EOFError(f"the header goes on beyond byte {self.size:,}")
        value: int | float = struct.unpack("<" + code, found)[0]
        return value

    def whole(self, code: str) -> int:
        return int(self.number(code))

    def text(self) -> str:
        length = self.whole("Q")
        if length > 65_535:
            raise ValueError(f"a name of {length:,} bytes")
        found = self.file.read(length)
        if len(found) < length:
            raise EOFError(f"the header goes on beyond byte {self.size:,}")
        return found.decode()


_SCALARS = {0: "B", 1: "b", 2: "H", 3: "h", 4: "I", 5: "i", 6: "f", 7: "?", 10: "Q", 11: "q", 12: "d"}
_STRING, _ARRAY = 8, 9


def _walk_gguf(read: _Walker, size: int) -> list[GgufTensor]:
    if read.file.read(4) != b"GGUF":
        raise ValueError("it does not start with GGUF")
    version, tensors, fields = read.whole("I"), read.whole("Q"), read.whole("Q")
    if version not in (2, 3):
        raise ValueError(f"version {version}, not 2 or 3")
    # The shortest field takes 13 bytes and the shortest tensor entry 32: more than fit are a lie.
    if fields * 13 + tensors * 32 > size:
        raise ValueError(f"{fields:,} fields and {tensors:,} tensors announced in {size:,} bytes")
    values: dict[str, int | float] = {}
    for _ in range(fields):
        name = read.text()
        _field(read, name, read.whole("I"), values)
    entries = [_tensor_entry(read) for _ in range(tensors)]
    _check_gguf_sizes(values, entries)
    align = int(values.get("general.alignment", 32))
    if align <= 0 or align & (align - 1):
        raise ValueError(f"alignment {align}")
    start = -(-read.file.tell() // align) * align
    for tensor, offset, length in entries:
        if start + offset + length > size:
            raise EOFError(f"{tensor.name} ends at byte {start + offset + length:,} of {size:,}")
    return [tensor for tensor, _, _ in entries]


def _field(read: _Walker, name: str, kind: int, values: dict[str, int | float]) -> None:
    if kind in _SCALARS:
        values[name] = read.number(_SCALARS[kind])
    elif kind == _STRING:
        read.skip(read.whole("Q"))
    elif kind == _ARRAY:
        inner, count = read.whole("I"), read.whole("Q")
        if inner in _SCALARS:
            read.skip(count * struct.calcsize(_SCALARS[inner]))
        elif inner == _STRING:
            if count * 8 > read.size:
                raise EOFError(f"{count:,} strings announced in {read.size:,} bytes")
            for _ in range(count):
                read.skip(read.whole("Q"))
        else:
            raise ValueError(f"{name} is an array of type {inner}")
    else:
        raise ValueError(f"{name} is of unknown type {kind}")


def _tensor_entry(read: _Walker) -> tuple[GgufTensor, int, int]:
    """A tensor, its offset in the data part and its length, in bytes."""
    name, dimensions = read.text(), read.whole("I")
    if not 0 < dimensions <= 4:
        raise ValueError(f"{name} has {dimensions:,} dimensions")
    shape = tuple(read.whole("Q") for _ in range(dimensions))
    block, nbytes = GGML_QUANT_SIZES[GGMLQuantizationType(read.whole("I"))]
    return GgufTensor(name, shape), read.whole("Q"), math.prod(shape) // block * nbytes


def _check_gguf_sizes(values: dict[str, int | float], entries: list[tuple[GgufTensor, int, int]]) -> None:
    largest = max((max(tensor.shape) for tensor, _, _ in entries), default=0)
    for name, value in values.items():
        most = {
            "block_count": len(entries),
            "embedding_length": largest,
            "feed_forward_length": largest,
            "vocab_size": largest,
            "head_count": largest,
            "head_count_kv": largest,
            "key_length": largest,
            "value_length": largest,
            "context_length": MAX_CONTEXT,
        }.get(name.rpartition(".")[2])
        if most is not None and not 0 < value <= most:
            raise ValueError(f"{name} = {value:,}, where its tensors allow 1 to {most:,}")
