"""Documents out of parquet files, on this machine or behind a URL."""

import os
from collections import OrderedDict
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from mm1_hf.data.converters import from_record
from mm1_hf.data.rows import ImageLookup
from mm1_hf.data.sources.contract import Converter
from mm1_hf.data.sources.files import (
    DataFile,
    FilePatterns,
    find_files,
    open_file,
    require_unchanged,
)
from mm1_hf.data.sources.indexing import Index, IndexStore
from mm1_hf.data.sources.sharded import ShardedSource


class ParquetSource(ShardedSource):
    """Rows of parquet files, read by row groups.

    A repository of the Hub is `"hf://datasets/<owner>/<name>/**/*.parquet"`; every file system that
    fsspec knows can be read.

    The smallest piece that parquet can read is a row group, so one document costs the decoding of
    its group, unless the group is among those kept. Write small groups (16 to 128 rows with images,
    `row_group_size=` of pyarrow) for shuffled training, or load with `datasets` once, whose Arrow
    files are read by row.

    Args:
        files: Files, globs, URLs, or a folder with files ending in `.parquet`.
        name: Name of the source.
        converter: Makes a document of a row; by default the row's fields tell its format.
        images: Where images that rows name are found.
        columns: Columns to read; all by default.
        index_folder: Where the numbers of rows are kept, so that opening many remote files does not
            read all their footers again. By default nothing is kept.
        index_workers: Processes that read footers, where `index_folder` is given.
        open_files: How many files are kept open at most.
        row_groups: How many decoded row groups are kept in memory at most, per open file.

    Raises:
        ValueError: If no file is found, or a file is not parquet.
    """

    def __init__(
        self,
        files: FilePatterns,
        *,
        name: str,
        converter: Converter = from_record,
        images: ImageLookup = None,
        columns: Sequence[str] | None = None,
        index_folder: str | os.PathLike | None = None,
        index_workers: int = 1,
        open_files: int = 8,
        row_groups: int = 2,
    ):
        found = find_files(files, suffixes=(".parquet",))
        if index_folder is None:
            counts = np.array([int(_read_footer(file)["count"]) for file in found], np.int64)
        else:
            store = IndexStore(_read_footer, os.fspath(index_folder))
            counts = store.counts(found, workers=index_workers)
        self._columns = list(columns) if columns is not None else None
        self._row_groups = row_groups
        super().__init__(
            found,
            counts=counts,
            name=name,
            converter=converter,
            images=images,
            options=(self._columns,),
            open_files=open_files,
        )

    def _open(self, file: DataFile) -> "_RowGroups":
        return _RowGroups(file, columns=self._columns, kept=self._row_groups)

    def _read(self, handle: "_RowGroups", file: DataFile, place: int) -> Mapping[str, Any]:
        (row,) = handle.row(place).to_pylist()
        return row


class _RowGroups:
    """One open file, and the row groups of it that were decoded last."""

    def __init__(self, file: DataFile, *, columns: list[str] | None, kept: int):
        if file.is_remote:
            self._stream = open_file(file)
        else:
            require_unchanged(file)
            self._stream = pa.memory_map(file.path)
        self._parquet = pq.ParquetFile(self._stream, pre_buffer=file.is_remote)
        known = self._parquet.schema_arrow.names
        unknown = [name for name in columns or [] if name not in known]
        if unknown:
            raise ValueError(
                f"The file {file.path!r} has no columns {', '.join(unknown)}, but "
                f"{', '.join(known)}. Correct columns=."
            )
        metadata = self._parquet.metadata
        rows = [metadata.row_group(i).num_rows for i in range(metadata.num_row_groups)]
        self._starts = np.concatenate([[0], np.cumsum(rows)]).astype(np.int64)
        self._columns = columns
        self._kept = kept
        self._groups: OrderedDict[int, pa.Table] = OrderedDict()

    def row(self, place: int) -> pa.Table:
        """A table of one row."""
        number = int(np.searchsorted(self._starts, place, side="right")) - 1
        group = self._groups.pop(number, None)
        if group is None:
            while len(self._groups) >= max(1, self._kept):
                self._groups.popitem(last=False)
            group = self._parquet.read_row_group(number, columns=self._columns, use_threads=False)
        self._groups[number] = group
        return group.slice(place - int(self._starts[number]), 1)

    def close(self) -> None:
        self._groups.clear()
        self._parquet.close()
        self._stream.close()


def _read_footer(file: DataFile) -> Index:
    try:
        with open_file(file) as stream:
            return {"count": np.array(pq.read_metadata(stream).num_rows)}
    except pa.ArrowInvalid as error:
        raise ValueError(
            f"The file {file.path!r} cannot be read as parquet ({error}). Restore it, or leave it "
            "out."
        ) from None
