"""Checkpoints written tensor by tensor: first the layout of all files, then the data.

Nothing but the tensor at hand is in memory, whatever the size of the model; and a folder appears
under its name only when all of it is there.
"""

import json
import os
import secrets
import shutil
import struct
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple

import torch

from mm1_hf.conversion.checkpoints import DTYPES, num_bytes, write_all
from mm1_hf.conversion.renaming import TensorInfo

# transformers' own default since version 5.
MAX_SHARD_BYTES = 50 * 10**9

_PAGE_BYTES = 4096

_DTYPE_NAMES = {dtype: name for name, dtype in DTYPES.items()}


class Entry(NamedTuple):
    """One tensor to be written.

    Attributes:
        name: Its key.
        info: Its shape and dtype, which place it before it exists.
        write: Writes its bytes to a file; called when its turn has come.
    """

    name: str
    info: TensorInfo
    write: Callable[[BinaryIO], None]


def write_tensor(tensor: torch.Tensor, file: BinaryIO) -> None:
    """Write the data of a tensor, row by row."""
    data: Any = tensor.contiguous().reshape(-1).view(torch.uint8).numpy()
    write_all(file, memoryview(data))


def plan_shards(entries: Sequence[Entry], *, max_shard_bytes: int) -> list[list[Entry]]:
    """Distribute tensors to files, in their order; a larger tensor gets a file of its own.

    Raises:
        ValueError: If `max_shard_bytes` is not positive.
    """
    if max_shard_bytes < 1:
        raise ValueError(f"max_shard_bytes must be positive, but it is {max_shard_bytes}.")
    shards: list[list[Entry]] = [[]]
    size = 0
    for entry in entries:
        length = num_bytes(entry.info)
        if shards[-1] and size + length > max_shard_bytes:
            shards.append([])
            size = 0
        shards[-1].append(entry)
        size += length
    return shards


def write_checkpoint(
    folder: Path, entries: Sequence[Entry], *, max_shard_bytes: int, stem: str = "model"
) -> None:
    """Write `stem.safetensors`, or numbered shards and the index that transformers reads.

    Args:
        folder: Where to write.
        entries: The tensors.
        max_shard_bytes: Largest file, unless a single tensor is larger.
        stem: Name of the files.

    Raises:
        ValueError: If a tensor turns out to be of another size than was planned.
    """
    shards = plan_shards(entries, max_shard_bytes=max_shard_bytes)
    if len(shards) == 1:
        write_file(folder / f"{stem}.safetensors", shards[0])
        return
    places = {}
    for number, shard in enumerate(shards, start=1):
        name = f"{stem}-{number:05d}-of-{len(shards):05d}.safetensors"
        write_file(folder / name, shard)
        places |= {entry.name: name for entry in shard}
    total = sum(num_bytes(entry.info) for entry in entries)
    index = {"metadata": {"total_size": total}, "weight_map": dict(sorted(places.items()))}
    text = json.dumps(index, indent=2) + "\n"
    (folder / f"{stem}.safetensors.index.json").write_text(text, encoding="utf-8")


def write_file(path: Path, entries: Sequence[Entry]) -> None:
    """Write one safetensors file.

    Raises:
        ValueError: If a tensor turns out to be of another size than was planned.
    """
    # Wide dtypes first, so that every tensor is aligned in a mapped file.
    entries = sorted(entries, key=lambda entry: -entry.info.dtype.itemsize)
    header: dict[str, dict] = {"__metadata__": {"format": "pt"}}
    end = 0
    for entry in entries:
        start, end = end, end + num_bytes(entry.info)
        header[entry.name] = {
            "dtype": _DTYPE_NAMES[entry.info.dtype],
            "shape": list(entry.info.shape),
            "data_offsets": [start, end],
        }
    encoded = json.dumps(header, separators=(",", ":")).encode()
    # The format allows blanks behind the header. Data that begin on a page are written a tenth
    # faster, and can be mapped.
    encoded += b" " * (-(8 + len(encoded)) % _PAGE_BYTES)
    with path.open("wb", buffering=0) as file:
        write_all(file, memoryview(struct.pack("<Q", len(encoded)) + encoded))
        for entry in entries:
            before = file.tell()
            entry.write(file)
            if file.tell() - before != num_bytes(entry.info):
                raise ValueError(
                    f"{entry.name} took {file.tell() - before} bytes, but {num_bytes(entry.info)} "
                    f"were planned for {entry.info.shape} of {entry.info.dtype}."
                )


@contextmanager
def whole_folder(target: Path) -> Iterator[Path]:
    """A folder beside `target` that becomes `target` when all went well, and vanishes if not.

    Raises:
        ValueError: If `target` exists and is not an empty folder.
    """
    if target.exists() and (not target.is_dir() or any(target.iterdir())):
        raise ValueError(
            f"{str(target)!r} exists already and is not empty. Nothing is overwritten: choose "
            "another target, or remove it."
        )
    folder = target.parent / f".{target.name}-{secrets.token_hex(4)}.partial"
    folder.mkdir(parents=True)
    try:
        yield folder
        if target.exists():
            target.rmdir()
        os.rename(folder, target)
    except BaseException:
        shutil.rmtree(folder, ignore_errors=True)
        raise
