"""Where the documents of a file start: computed once per file, kept beside it or in a folder."""

import hashlib
import os
import tempfile
import zipfile
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from functools import partial
from multiprocessing import get_context
from pathlib import Path
from typing import NamedTuple

import numpy as np

from mm1_hf.data.sources.files import DataFile

# Raise it when indices are computed or laid out differently: older ones are then made anew.
_INDEX_VERSION = 1

Index = Mapping[str, np.ndarray]


class IndexStore(NamedTuple):
    """Finds, makes and keeps the indices of files.

    Attributes:
        build: Computes the index of a file; one of its arrays is `count`, the number of documents.
        folder: Where indices are kept; None: beside each file.
    """

    build: Callable[[DataFile], Index]
    folder: str | None

    def path(self, file: DataFile) -> Path:
        """Where the index of a file is kept.

        Raises:
            ValueError: If the file is behind a URL and no folder is given.
        """
        if self.folder is not None:
            # Files of the same name in several folders must not share an index.
            place = hashlib.blake2b(file.path.encode(), digest_size=6).hexdigest()
            return Path(self.folder) / f"{file.name}.{place}.mm1index.npz"
        if file.is_remote:
            raise ValueError(
                f"The index of {file.path!r} cannot be kept beside it. Pass index_folder=, a local "
                "folder."
            )
        return Path(f"{file.path}.mm1index.npz")

    def load(self, file: DataFile) -> Index:
        """The index of a file, made and kept if there is none or the file has changed."""
        kept = self._read(file)
        if kept is not None:
            return kept
        index = {**self.build(file), "stamp": np.array(self._stamp(file))}
        _write(self.path(file), index)
        return index

    def count(self, file: DataFile) -> int:
        """Number of documents in a file."""
        kept = self._read(file, "count")
        return int((self.load(file) if kept is None else kept)["count"])

    def counts(self, files: Sequence[DataFile], *, workers: int) -> np.ndarray:
        """Numbers of documents, int64 of shape (files), by several processes if `workers` > 1."""
        count = partial(_count, self)
        if workers <= 1 or len(files) == 1:
            return np.array([count(file) for file in files], np.int64)
        # Forking a process that runs torch's threads can hang.
        with ProcessPoolExecutor(workers, mp_context=get_context("spawn")) as pool:
            return np.array(list(pool.map(count, files)), np.int64)

    def _stamp(self, file: DataFile) -> str:
        return f"{_INDEX_VERSION}|{self.build.__qualname__}|{file.stamp}"

    def _read(self, file: DataFile, *names: str) -> Index | None:
        """Arrays of the index that is kept (all if no names are given), if it is of this file."""
        try:
            # Opened here, because numpy leaves a file that is no archive open.
            with open(self.path(file), "rb") as raw, np.load(raw, allow_pickle=False) as kept:
                if str(kept["stamp"]) == self._stamp(file):
                    return {name: kept[name] for name in names or kept.files}
        except (OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile):
            pass  # absent, or cut short by a crash: an index can always be made again
        return None


def _count(store: IndexStore, file: DataFile) -> int:
    return store.count(file)


def _write(path: Path, index: Index) -> None:
    """Write an index whole or not at all, since several processes may be at it."""
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        handle, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}-", suffix=".npz")
    except OSError as error:
        raise ValueError(
            f"The index {str(path)!r} cannot be written ({error}). Pass index_folder=, a folder "
            "that can."
        ) from None
    try:
        with os.fdopen(handle, "wb") as file:
            np.savez(file, **dict(index))  # pyright: ignore[reportArgumentType]
        os.replace(name, path)
    except BaseException:
        os.unlink(name)
        raise
