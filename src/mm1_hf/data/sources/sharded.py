"""What sources of several files have in common: which file, which row, and open handles."""

import os
from abc import abstractmethod
from collections import OrderedDict
from collections.abc import Callable, Mapping, Sequence
from typing import Any, ClassVar

import numpy as np

from mm1_hf.data.documents import Document
from mm1_hf.data.rows import ImageLookup
from mm1_hf.data.sources.contract import (
    Converter,
    NamedSource,
    describe_converter,
    fingerprint,
)
from mm1_hf.data.sources.files import DataFile, FilePatterns, find_files
from mm1_hf.data.sources.indexing import Index, IndexStore


class ShardedSource(NamedSource):
    """Documents of several files, one after the other.

    Args:
        files: The files.
        counts: Documents in each, int64 of shape (files).
        name: Name of the source.
        converter: Makes a document of a row.
        images: Where images that rows name are found.
        options: What else decides which documents there are, for the fingerprint.
        open_files: How many files are kept open at most.
    """

    def __init__(
        self,
        files: Sequence[DataFile],
        *,
        counts: np.ndarray,
        name: str,
        converter: Converter,
        images: ImageLookup,
        options: Sequence[object],
        open_files: int,
    ):
        if open_files < 1:
            raise ValueError(
                f"open_files is {open_files}, but at least one file is read at a time."
            )
        self._files = tuple(files)
        self._starts = np.concatenate([[0], np.cumsum(counts)]).astype(np.int64)
        self._converter = converter
        self._images = images
        self._open_files = open_files
        self._forget_handles()
        super().__init__(
            name=name,
            fingerprint=fingerprint(
                [
                    type(self).__name__,
                    *options,
                    describe_converter(converter, images),
                    *(file.stamp for file in files),
                    *counts,
                ]
            ),
        )

    def __len__(self) -> int:
        return int(self._starts[-1])

    def _document(self, position: int) -> Document:
        shard = int(np.searchsorted(self._starts, position, side="right")) - 1
        place = position - int(self._starts[shard])
        file = self._files[shard]
        row = self._read(self._handle(shard), file, place)
        return self._converter(
            row, source=self._name, key=f"{file.name}#{place}", images=self._images_of(file)
        )

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_handles": OrderedDict(), "_process": -1}

    def __repr__(self) -> str:
        return f"{super().__repr__()[:-1]}, files={len(self._files)})"

    @abstractmethod
    def _open(self, file: DataFile) -> Any:
        """A handle with a method `close`, to read rows of a file with."""

    @abstractmethod
    def _read(self, handle: Any, file: DataFile, place: int) -> Mapping[str, Any]:
        """The row at a place of a file."""

    def _images_of(self, file: DataFile) -> ImageLookup:
        return self._images

    def _handle(self, shard: int) -> Any:
        if self._process != os.getpid():
            # A forked worker inherits handles; the libraries behind them do not all survive that.
            self._forget_handles()
        if shard in self._handles:
            self._handles.move_to_end(shard)
            return self._handles[shard]
        handle = self._handles[shard] = self._open(self._files[shard])
        if len(self._handles) > self._open_files:
            self._handles.popitem(last=False)[1].close()
        return handle

    def _forget_handles(self) -> None:
        self._handles: OrderedDict[int, Any] = OrderedDict()
        self._process = os.getpid()


class IndexedSource(ShardedSource):
    """Documents of files without an index of their own: one is made of each file and kept.

    Args:
        files: Files, globs, URLs, or a folder with files of the right ending.
        name: Name of the source.
        converter: Makes a document of a row.
        images: Where images that rows name are found.
        index_folder: Where indices are kept; beside each file if None.
        index_workers: Processes that compute indices.
        open_files: How many files are kept open at most.
    """

    suffix: ClassVar[str]

    def __init__(
        self,
        files: FilePatterns,
        *,
        build_index: Callable[[DataFile], Index],
        name: str,
        converter: Converter,
        images: ImageLookup,
        index_folder: str | os.PathLike | None,
        index_workers: int,
        open_files: int,
    ):
        found = find_files(files, suffixes=(self.suffix,))
        folder = os.fspath(index_folder) if index_folder is not None else None
        self._indices = IndexStore(build_index, folder)
        super().__init__(
            found,
            counts=self._indices.counts(found, workers=index_workers),
            name=name,
            converter=converter,
            images=images,
            options=(),
            open_files=open_files,
        )
