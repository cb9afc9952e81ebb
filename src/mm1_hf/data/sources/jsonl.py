"""Documents out of JSON Lines, with their images in a folder."""

import json
import os
from collections.abc import Mapping
from typing import Any

import numpy as np

from mm1_hf.data.converters import from_record
from mm1_hf.data.documents import DocumentError
from mm1_hf.data.rows import ImageLookup
from mm1_hf.data.sources.contract import Converter
from mm1_hf.data.sources.files import DataFile, FilePatterns, RangeReader, open_file
from mm1_hf.data.sources.indexing import Index
from mm1_hf.data.sources.sharded import IndexedSource


class JsonlSource(IndexedSource):
    """Lines of JSON, each one row; relative paths of images start from the file's folder.

    Where lines start is computed once per file and kept, so any line is read alone.

    Args:
        files: Files, globs, URLs, or a folder with files ending in `.jsonl`.
        name: Name of the source.
        converter: Makes a document of a row; by default the row's fields tell its format.
        images: Where images that rows name are found; the folder of each file by default.
        index_folder: Where indices are kept; beside each file by default.
        index_workers: Processes that compute indices.
        open_files: How many files are kept open at most.

    Raises:
        ValueError: If no file is found, a file is compressed, or an index cannot be kept.
    """

    suffix = ".jsonl"

    def __init__(
        self,
        files: FilePatterns,
        *,
        name: str,
        converter: Converter = from_record,
        images: ImageLookup = None,
        index_folder: str | os.PathLike | None = None,
        index_workers: int = 1,
        open_files: int = 32,
    ):
        super().__init__(
            files,
            build_index=_find_lines,
            name=name,
            converter=converter,
            images=images,
            index_folder=index_folder,
            index_workers=index_workers,
            open_files=open_files,
        )

    def _open(self, file: DataFile) -> "_Lines":
        return _Lines(RangeReader(file), self._indices.load(file))

    def _read(self, handle: "_Lines", file: DataFile, place: int) -> Mapping[str, Any]:
        start, size = int(handle.starts[place]), int(handle.sizes[place])
        line = handle.reader.read(start, size)
        try:
            return json.loads(line)
        except ValueError as error:
            raise DocumentError(
                f"Document {place} of {file.path!r} (bytes {start} to {start + size}) is no JSON "
                f"({error}). Repair or remove the line."
            ) from None

    def _images_of(self, file: DataFile) -> ImageLookup:
        return file.folder if self._images is None else self._images


class _Lines:
    def __init__(self, reader: RangeReader, index: Index):
        self.reader = reader
        self.starts, self.sizes = index["starts"], index["sizes"]

    def close(self) -> None:
        self.reader.close()


def _find_lines(file: DataFile) -> Index:
    """First bytes and sizes of the lines that are not blank."""
    starts, sizes, position = [], [], 0
    with open_file(file) as lines:
        if lines.read(2) == b"\x1f\x8b":
            raise ValueError(
                f"The file {file.path!r} is compressed, but a line inside can then not be read "
                "alone. Unpack it, or convert it to parquet."
            )
        lines.seek(0)
        for line in lines:
            if not line.isspace():
                starts.append(position)
                sizes.append(len(line))
            position += len(line)
    return {
        "count": np.array(len(starts)),
        "starts": np.array(starts, np.int64),
        "sizes": np.array(sizes, np.int64),
    }
