"""Folders of `.npy` files that grow while they are written and appear only when they are whole.

A killed writer leaves no half-written folder behind under the final name, and two writers of the
same folder do not disturb each other: the first to finish wins.
"""

import json
import os
import shutil
import uuid
from collections.abc import Mapping
from pathlib import Path
from types import TracebackType
from typing import Any

import numpy as np

_META = "meta.json"


class ArrayFolder:
    """Writes named one-dimensional arrays piece by piece; used as a context manager.

    Args:
        folder: The folder to make. It exists only after the block has ended without an error.
        dtypes: Name and type of each array.
    """

    def __init__(self, folder: str | os.PathLike, dtypes: Mapping[str, Any]):
        self._folder = Path(folder)
        self._partial = self._folder.with_name(f"{self._folder.name}.{uuid.uuid4().hex}.partial")
        self._dtypes = {name: np.dtype(dtype) for name, dtype in dtypes.items()}
        self._lengths = dict.fromkeys(self._dtypes, 0)
        self._files = {}
        self.meta: dict[str, Any] = {}

    def __enter__(self) -> "ArrayFolder":
        self._partial.mkdir(parents=True)
        for name in self._dtypes:
            self._files[name] = open(self._partial / f"{name}.npy", "wb")
            self._write_header(name)
        return self

    def append(self, name: str, values: np.ndarray) -> None:
        """Add values at the end of an array."""
        values = np.ascontiguousarray(values, dtype=self._dtypes[name])
        self._files[name].write(values.data)
        self._lengths[name] += len(values)

    def _write_header(self, name: str) -> None:
        file = self._files[name]
        header = {
            "descr": np.lib.format.dtype_to_descr(self._dtypes[name]),
            "fortran_order": False,
            "shape": (self._lengths[name],),
        }
        file.seek(0)
        # numpy pads the header of a one-dimensional array so that its length may grow in place.
        np.lib.format.write_array_header_1_0(file, header)

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        for name, file in self._files.items():
            if kind is None:
                self._write_header(name)
            file.close()
        if kind is not None:
            shutil.rmtree(self._partial)
            return
        (self._partial / _META).write_text(json.dumps(self.meta, indent=1), encoding="utf-8")
        try:
            os.rename(self._partial, self._folder)
        except OSError:
            shutil.rmtree(self._partial)
            if not self._folder.exists():
                raise


def read_meta(folder: str | os.PathLike) -> dict[str, Any] | None:
    """What a finished folder says about itself; None if there is no finished folder."""
    path = Path(folder) / _META
    return json.loads(path.read_text(encoding="utf-8")) if path.exists() else None


def open_array(folder: str | os.PathLike, name: str) -> np.ndarray:
    """An array of a finished folder, mapped into memory, not read."""
    path = Path(folder) / f"{name}.npy"
    if not path.exists():
        raise ValueError(f"{path} does not exist: the folder is damaged. Delete it and rebuild it.")
    return np.load(path, mmap_mode="r")
