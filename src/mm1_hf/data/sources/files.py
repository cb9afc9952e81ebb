"""Files, local or behind a URL, as sources see them: found once, checked when opened."""

import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple

FilePatterns = str | os.PathLike | Sequence[str | os.PathLike]


class DataFile(NamedTuple):
    """A file and what tells whether it has changed.

    Attributes:
        path: Absolute path, or URL.
        size: Bytes.
        version: Time of the last change in nanoseconds, or what the file system of a URL knows.
    """

    path: str
    size: int
    version: str

    @property
    def is_remote(self) -> bool:
        """Whether `path` is a URL."""
        return "://" in self.path

    @property
    def name(self) -> str:
        """File name without its folder."""
        return self.path.rpartition("/")[2] if self.is_remote else os.path.basename(self.path)

    @property
    def folder(self) -> str:
        """Path or URL of the folder."""
        return self.path.rpartition("/")[0] if self.is_remote else os.path.dirname(self.path)

    @property
    def stamp(self) -> str:
        """Name, size and version: equal stamps mean the same file, wherever its folder lies."""
        return f"{self.name}|{self.size}|{self.version}"


def find_files(patterns: FilePatterns, *, suffixes: tuple[str, ...]) -> tuple[DataFile, ...]:
    """Find files by path, folder, glob or URL.

    Args:
        patterns: One or several; the files of a glob or folder are sorted, and several patterns
            keep their order.
        suffixes: Endings of the files that are taken out of a folder.

    Raises:
        ValueError: If a pattern matches nothing, or two give the same file.
    """
    if isinstance(patterns, (str, os.PathLike)):
        patterns = [patterns]
    found: list[DataFile] = []
    for pattern in patterns:
        text = os.fspath(pattern)
        files = _find_remote(text, suffixes) if "://" in text else _find_local(text, suffixes)
        if not files:
            raise ValueError(
                f"No file is found at {text!r}; expected a file, a glob, or a folder with files "
                f"ending in {', '.join(suffixes)}. Check the path."
            )
        found += files
    seen: set[str] = set()
    for file in found:
        if file.path in seen:
            raise ValueError(
                f"The file {file.path!r} is given twice. Name each file once; to see documents "
                "more often, raise the weight of the source."
            )
        seen.add(file.path)
    if not found:
        raise ValueError("No files are given, but a source needs at least one.")
    return tuple(found)


def open_file(file: DataFile) -> BinaryIO:
    """Open a file for reading, after a look whether it is the one that was found.

    Raises:
        ValueError: If a local file has changed since, because offsets into it would be wrong.
    """
    if file.is_remote:
        filesystem, path = _remote(file.path)
        return filesystem.open(path, "rb")
    require_unchanged(file)
    return open(file.path, "rb")


class RangeReader:
    """Reads ranges of one file; a local one without a shared position, so forks do not interfere.

    Args:
        file: The file.
    """

    def __init__(self, file: DataFile):
        self._file = file
        self._handle = self._filesystem = None
        if file.is_remote:
            self._filesystem, self._path = _remote(file.path)
        else:
            require_unchanged(file)
            self._handle = open(file.path, "rb", buffering=0)

    def read(self, start: int, size: int) -> bytes:
        """The `size` bytes from `start`.

        Raises:
            ValueError: If the file ends before.
        """
        if self._handle is not None:
            content = _read_at(self._handle, start, size)
        else:
            assert self._filesystem is not None
            content = self._filesystem.cat_file(self._path, start=start, end=start + size)
        if len(content) != size:
            raise ValueError(
                f"The file {self._file.path!r} ends at byte {start + len(content)}, but its index "
                f"expects {size} bytes from {start}. Restore the file, or make the source again."
            )
        return content

    def close(self) -> None:
        """Close the file."""
        if self._handle is not None:
            self._handle.close()

    def __del__(self) -> None:
        # Sources are dropped, not closed: nobody knows when a worker has read its last document.
        if getattr(self, "_handle", None) is not None:
            self.close()


def _read_at(handle: Any, start: int, size: int) -> bytes:
    if not hasattr(os, "pread"):
        handle.seek(start)
        return handle.read(size)
    pieces = []
    while size > 0:
        # One call gives at most about 2 GiB on Linux.
        piece = os.pread(handle.fileno(), size, start)
        if not piece:
            break
        pieces.append(piece)
        start, size = start + len(piece), size - len(piece)
    return pieces[0] if len(pieces) == 1 else b"".join(pieces)


def _find_local(pattern: str, suffixes: tuple[str, ...]) -> list[DataFile]:
    path = Path(pattern).expanduser()
    if path.is_file():
        paths = [path]
    elif path.is_dir():
        paths = [p for p in path.rglob("*") if p.name.endswith(suffixes) and p.is_file()]
    else:
        anchor = Path(path.anchor or ".")
        relative = str(path.relative_to(path.anchor)) if path.anchor else str(path)
        paths = [p for p in anchor.glob(relative) if p.is_file()]
    return sorted(_stat(p.absolute()) for p in paths)


def _stat(path: Path) -> DataFile:
    status = path.stat()
    return DataFile(str(path), status.st_size, str(status.st_mtime_ns))


def _find_remote(pattern: str, suffixes: tuple[str, ...]) -> list[DataFile]:
    filesystem, path = _remote(pattern)
    if any(character in path for character in "*?["):
        paths = [p for p, info in filesystem.glob(path, detail=True).items() if _is_file(info)]
    elif filesystem.isdir(path):
        paths = [p for p in filesystem.find(path) if p.endswith(suffixes)]
    else:
        paths = [path] if filesystem.exists(path) else []
    return [
        DataFile(
            filesystem.unstrip_protocol(p), filesystem.info(p)["size"] or 0, filesystem.ukey(p)
        )
        for p in sorted(paths)
    ]


def _is_file(info: dict) -> bool:
    return info.get("type") == "file"


def _remote(url: str) -> tuple[Any, str]:
    from fsspec.core import url_to_fs

    return url_to_fs(url)


def require_unchanged(file: DataFile) -> None:
    """Raise `ValueError` if a local file is not the one that was found."""
    now = _stat(Path(file.path))
    if now != file:
        raise ValueError(
            f"The file {file.path!r} has changed since the source was made (it had {file.size} "
            f"bytes at time {file.version}, now {now.size} at {now.version}). Make the source "
            "again, and everything that was computed from it."
        )
