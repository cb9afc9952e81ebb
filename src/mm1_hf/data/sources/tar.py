"""Documents out of WebDataset shards: tar files in which files of one name are one sample."""

import json
import os
import re
import tarfile
from collections.abc import Mapping
from typing import Any, BinaryIO

import numpy as np

from mm1_hf.data.converters import from_webdataset
from mm1_hf.data.documents import DocumentError
from mm1_hf.data.rows import ImageLookup
from mm1_hf.data.sources.contract import Converter
from mm1_hf.data.sources.files import DataFile, FilePatterns, RangeReader, open_file
from mm1_hf.data.sources.indexing import Index
from mm1_hf.data.sources.sharded import IndexedSource

# WebDataset's rule: the extension starts at the first dot of the file name; hidden files, and what
# begins with a name between double underscores, are not part of samples.
_MEMBER = re.compile(r"((?:.*/)?[^./]+)\.([^/]+)", re.DOTALL)
_META = re.compile(r"__[^/]*__(?:$|/)")
_TEXT_EXTENSIONS = ("txt", "text", "caption")
_BLOCK = 512
# Between files of one sample stand headers and padding; up to this many bytes per file it is
# cheaper to read them along than to read twice.
_GAP = 4096


class TarSource(IndexedSource):
    """Samples of WebDataset shards by index.

    Where files start is computed once per shard and kept, so a sample is one read. Files of one
    name belong together even where they do not follow each other. `txt` is text, `json` an object,
    all else bytes.

    Args:
        files: Shards, globs, URLs, or a folder with files ending in `.tar`.
        name: Name of the source.
        converter: Makes a document of a sample: extensions with contents, and `__key__`.
        images: Where images are found that a `json` names and the sample does not hold.
        index_folder: Where indices are kept; beside each shard by default.
        index_workers: Processes that compute indices.
        open_files: How many shards are kept open at most.

    Raises:
        ValueError: If no shard is found, one is compressed, damaged or has a file twice, or an
            index cannot be kept.
    """

    suffix = ".tar"

    def __init__(
        self,
        files: FilePatterns,
        *,
        name: str,
        converter: Converter = from_webdataset,
        images: ImageLookup = None,
        index_folder: str | os.PathLike | None = None,
        index_workers: int = 1,
        open_files: int = 32,
    ):
        super().__init__(
            files,
            build_index=_find_samples,
            name=name,
            converter=converter,
            images=images,
            index_folder=index_folder,
            index_workers=index_workers,
            open_files=open_files,
        )

    def _open(self, file: DataFile) -> "_Shard":
        return _Shard(RangeReader(file), self._indices.load(file))

    def _read(self, handle: "_Shard", file: DataFile, place: int) -> Mapping[str, Any]:
        row: dict[str, Any] = {"__key__": handle.key(place)}
        for extension, content in handle.files(place):
            try:
                row[extension] = _decode(extension, content)
            except ValueError as error:
                raise DocumentError(
                    f"Sample {row['__key__']!r} of {file.path!r}: its {extension!r} cannot be read "
                    f"({error}). Repair or remove the sample."
                ) from None
        return row


class _Shard:
    """An open shard and its index."""

    def __init__(self, reader: RangeReader, index: Index):
        self._reader = reader
        self._index = index
        self._extensions = [str(extension) for extension in index["extensions"]]

    def key(self, place: int) -> str:
        start, stop = self._index["key_starts"][place : place + 2]
        return self._index["keys"][start:stop].tobytes().decode("utf-8", "surrogateescape")

    def files(self, place: int) -> list[tuple[str, bytes]]:
        members = slice(*self._index["sample_starts"][place : place + 2])
        extensions = [self._extensions[number] for number in self._index["extension"][members]]
        offsets = [int(offset) for offset in self._index["offset"][members]]
        sizes = [int(size) for size in self._index["size"][members]]
        start = min(offsets)
        stop = max(o + s for o, s in zip(offsets, sizes, strict=True))
        if stop - start <= sum(sizes) + _GAP * len(sizes):
            block = self._reader.read(start, stop - start)
            contents = [
                block[o - start : o - start + s] for o, s in zip(offsets, sizes, strict=True)
            ]
        else:
            contents = [self._reader.read(o, s) for o, s in zip(offsets, sizes, strict=True)]
        return list(zip(extensions, contents, strict=True))

    def close(self) -> None:
        self._reader.close()


def _decode(extension: str, content: bytes) -> Any:
    kind = extension.rpartition(".")[2]
    if kind in _TEXT_EXTENSIONS:
        return content.decode("utf-8-sig")
    return json.loads(content) if kind == "json" else content


def _find_samples(file: DataFile) -> Index:
    """Keys of samples in the order of their first files, and where each one's files lie."""
    samples: dict[str, dict[str, tuple[int, int]]] = {}
    with open_file(file) as stream:
        for name, offset, size in _members(stream, file):
            match = _MEMBER.fullmatch(name)
            if match is None or _META.match(name):
                continue
            key, extension = match[1], match[2].lower()
            members = samples.setdefault(key, {})
            if extension in members:
                raise ValueError(
                    f"The shard {file.path!r} has {name!r} twice, but a file of a sample occurs "
                    "once. Write the shard again with unique names."
                )
            members[extension] = (offset, size)
    extensions = sorted({e for members in samples.values() for e in members})
    number = {extension: index for index, extension in enumerate(extensions)}
    keys = [key.encode("utf-8", "surrogateescape") for key in samples]
    flat = [(number[e], *place) for members in samples.values() for e, place in members.items()]
    columns = np.array(flat, np.int64).reshape(-1, 3)
    return {
        "count": np.array(len(samples)),
        "extensions": np.array(extensions, np.str_),
        "extension": columns[:, 0],
        "offset": columns[:, 1],
        "size": columns[:, 2],
        "sample_starts": _starts([len(members) for members in samples.values()]),
        "keys": np.frombuffer(b"".join(keys), np.uint8),
        "key_starts": _starts([len(key) for key in keys]),
    }


def _members(stream: BinaryIO, file: DataFile):
    """Names, first bytes and sizes of the regular files in a shard."""
    try:
        tar = tarfile.open(fileobj=stream, mode="r:")  # closed with the stream, which it only reads
    except tarfile.ReadError as error:
        raise ValueError(
            f"The shard {file.path!r} is no tar file that can be read by index ({error}). A "
            "compressed one must be unpacked first."
        ) from None
    while (member := tar.next()) is not None:
        tar.members = []  # pyright: ignore[reportAttributeAccessIssue]  # else it keeps every record
        if member.isdir():
            continue
        if not member.isreg() or member.issparse():
            raise ValueError(
                f"The shard {file.path!r} has the link or special file {member.name!r}, but files "
                "with their content are expected. Write it again with dereferenced links."
            )
        if member.offset_data + member.size > file.size:
            raise ValueError(
                f"The shard {file.path!r} ends within {member.name!r}. Fetch or write it again."
            )
        yield member.name, member.offset_data, member.size
    # tarfile takes a damaged header behind the first for the end, and the rest would be lost.
    stream.seek(tar.offset)
    if any(stream.read(_BLOCK)):
        raise ValueError(
            f"The shard {file.path!r} is damaged at byte {tar.offset}: neither a file nor the end "
            "of the archive is there. Fetch or write it again."
        )


def _starts(sizes: list[int]) -> np.ndarray:
    return np.concatenate([[0], np.cumsum(sizes, dtype=np.int64)]).astype(np.int64)
