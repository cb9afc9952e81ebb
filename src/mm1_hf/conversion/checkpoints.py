"""Weights that can be looked at without reading them, and read one tensor at a time.

Source of the file format: huggingface/safetensors, README, "Format": the length of a JSON header in
eight bytes, the header, the data.
"""

import json
import math
import struct
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import BinaryIO, NamedTuple, Protocol

import torch

from mm1_hf.conversion.renaming import TensorInfo

DTYPES = {
    "BOOL": torch.bool,
    "U8": torch.uint8,
    "I8": torch.int8,
    "I16": torch.int16,
    "I32": torch.int32,
    "I64": torch.int64,
    "F16": torch.float16,
    "BF16": torch.bfloat16,
    "F32": torch.float32,
    "F64": torch.float64,
}

# Large enough that calls cost nothing, small enough to stay in a processor's cache.
CHUNK_BYTES = 1 << 18

# The format's own limit.
_LONGEST_HEADER = 100_000_000


class Checkpoint(Protocol):
    """Tensors by name."""

    @property
    def tensors(self) -> Mapping[str, TensorInfo]:
        """Names, shapes and dtypes."""
        ...

    def read(self, name: str) -> torch.Tensor:
        """One tensor."""
        ...

    def elements(self, name: str, start: int, length: int) -> torch.Tensor:
        """A run of elements of one tensor, row by row, as a flat tensor."""
        ...


class _Place(NamedTuple):
    file: Path
    start: int
    length: int


class FileCheckpoint:
    """Safetensors files, one or many; only their headers are read at first.

    Args:
        files: The files; no name may occur in two of them.

    Raises:
        ValueError: If a file is damaged, of an unknown dtype, or repeats a name.
    """

    def __init__(self, files: Iterable[Path]):
        self.files = tuple(files)
        self.tensors: dict[str, TensorInfo] = {}
        self._places: dict[str, _Place] = {}
        self._buffer = memoryview(bytearray(CHUNK_BYTES))
        for file in self.files:
            for name, (info, place) in _read_header(file).items():
                if name in self.tensors:
                    raise ValueError(
                        f"{name} stands in {self._places[name].file.name} and in {file.name}. "
                        "Name the file that is meant, or remove the other."
                    )
                self.tensors[name] = info
                self._places[name] = place

    def read(self, name: str) -> torch.Tensor:
        """One tensor, in memory of its own."""
        shape = self.tensors[name].shape
        return self.elements(name, 0, math.prod(shape)).reshape(shape)

    def elements(self, name: str, start: int, length: int) -> torch.Tensor:
        """A run of elements of one tensor, row by row, as a flat tensor in memory of its own."""
        place, dtype = self._places[name], self.tensors[name].dtype
        if not length:
            return torch.empty(0, dtype=dtype)
        data = bytearray(length * dtype.itemsize)
        with place.file.open("rb", buffering=0) as file:
            file.seek(place.start + start * dtype.itemsize)
            _fill(file, memoryview(data), place.file)
        return torch.frombuffer(data, dtype=dtype)

    def copy(self, name: str, target: BinaryIO, *, start: int, length: int) -> None:
        """Copy the bytes of a run of elements, through a buffer that stays small."""
        place, size = self._places[name], self.tensors[name].dtype.itemsize
        left = length * size
        with place.file.open("rb", buffering=0) as file:
            file.seek(place.start + start * size)
            while left:
                # Writes that end at multiples of their size let the system use large pages.
                room = CHUNK_BYTES - target.tell() % CHUNK_BYTES
                chunk = self._buffer[: min(left, room)]
                _fill(file, chunk, place.file)
                write_all(target, chunk)
                left -= len(chunk)


class MemoryCheckpoint:
    """A state dict as a checkpoint."""

    def __init__(self, state_dict: Mapping[str, torch.Tensor]):
        self._state_dict = state_dict
        self.tensors = {
            name: TensorInfo(tuple(tensor.shape), tensor.dtype)
            for name, tensor in state_dict.items()
        }

    def read(self, name: str) -> torch.Tensor:
        """One tensor; its memory is shared."""
        return self._state_dict[name].detach()

    def elements(self, name: str, start: int, length: int) -> torch.Tensor:
        """A run of elements of one tensor, row by row, as a flat tensor."""
        return self.read(name).reshape(-1)[start : start + length]


def num_bytes(info: TensorInfo) -> int:
    """Size of a tensor's data."""
    return math.prod(info.shape) * info.dtype.itemsize


def write_all(file: BinaryIO, data: memoryview) -> None:
    """Write all of it to an unbuffered file, of which one call may take less."""
    while len(data):
        data = data[file.write(data) :]


def _fill(file, buffer: memoryview, path: Path) -> None:
    """Read until the buffer is full: one call may give less than was asked for."""
    done = 0
    while done < len(buffer):
        count = file.readinto(buffer[done:])
        if not count:
            raise OSError(f"{path} ended too early: it changed while it was read.")
        done += count


def _read_header(path: Path) -> dict[str, tuple[TensorInfo, _Place]]:
    size = path.stat().st_size
    with path.open("rb") as file:
        prefix = file.read(8)
        length = struct.unpack("<Q", prefix)[0] if len(prefix) == 8 else size
        if length > min(size - 8, _LONGEST_HEADER):
            raise ValueError(f"{path} is no safetensors file, or it is cut off. Fetch it again.")
        try:
            header = json.loads(file.read(length))
        except ValueError:
            raise ValueError(f"{path} is no safetensors file: its header is not JSON.") from None
    entries = {}
    for name, entry in header.items():
        if name == "__metadata__":
            continue
        if entry["dtype"] not in DTYPES:
            raise ValueError(
                f"{name} in {path} has dtype {entry['dtype']}, but only {', '.join(DTYPES)} can be "
                "converted. Convert weights that are not quantised."
            )
        info = TensorInfo(tuple(entry["shape"]), DTYPES[entry["dtype"]])
        start, end = entry["data_offsets"]
        if end - start != num_bytes(info) or 8 + length + end > size:
            raise ValueError(
                f"{path} is cut off or damaged: {name} of shape {info.shape} should take "
                f"{num_bytes(info)} bytes from {8 + length + start} on, but the file has {size}. "
                "Fetch it again."
            )
        entries[name] = (info, _Place(path, 8 + length + start, end - start))
    return entries
