"""One row of a published data set while it is read; errors name the file, the row and the field."""

import base64
import math
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NoReturn, cast, overload


class StoredPicture:
    """A picture in a table, read when it is asked for.

    Args:
        load: Reads it: bytes of an image file, a path, or a PIL image.
    """

    def __init__(self, load: Callable[[], Any]):
        self._load = load

    def read(self) -> Any:
        """The bytes of an image file, a path, or a PIL image."""
        return self._load()


class RowPictures(Sequence[Any]):
    """Pictures of an example; those in tables are read each time they are asked for.

    So a benchmark of many gigabytes is held by name only.

    Args:
        pictures: Paths, bytes, PIL images, or `StoredPicture`.
    """

    def __init__(self, pictures: Sequence[Any]):
        self._pictures = tuple(pictures)

    @classmethod
    def join(cls, parts: Sequence["RowPictures"]) -> "RowPictures":
        """The pictures of several, in order."""
        return cls([picture for part in parts for picture in part._pictures])

    def __len__(self) -> int:
        return len(self._pictures)

    @overload
    def __getitem__(self, index: int) -> Any: ...

    @overload
    def __getitem__(self, index: slice) -> "RowPictures": ...

    def __getitem__(self, index: int | slice) -> Any:
        if isinstance(index, slice):
            return RowPictures(self._pictures[index])
        picture = self._pictures[index]
        return picture.read() if isinstance(picture, StoredPicture) else picture

    def __iter__(self) -> Iterator[Any]:
        return (self[index] for index in range(len(self)))

    @property
    def paths(self) -> tuple[str, ...]:
        """Their paths, or nothing where one of them is held otherwise. Reads no picture."""
        named = [os.fspath(p) for p in self._pictures if isinstance(p, (str, os.PathLike))]
        return tuple(named) if len(named) == len(self._pictures) else ()

    def __repr__(self) -> str:
        return f"RowPictures({len(self)})"


@dataclass(frozen=True)
class Record:
    """One row.

    Attributes:
        fields: Values by name. Pictures of tables are `StoredPicture`.
        place: Where the row stands, for errors.
        folders: Where paths of pictures may start, in this order.
        number: Position in its file, or, when it becomes an example, among the rows read; the key
            of rows without a name.
    """

    fields: Mapping[str, Any]
    place: str
    folders: tuple[Path, ...] = ()
    number: int = 0

    def fail(self, name: str, found: str, expected: str) -> NoReturn:
        """Raise an error that names file, row and field."""
        raise ValueError(f"{self.place}, field {name!r}: found {found}, but {expected}.")

    def get(self, *names: str) -> Any:
        """The first of the fields that is there and holds something; None if there is none."""
        for name in names:
            value = self.fields.get(name)
            if not _is_missing(value):
                return value
        return None

    def require(self, *names: str) -> Any:
        """The first of the fields that is there.

        Raises:
            ValueError: If there is none.
        """
        value = self.get(*names)
        if value is None:
            known = ", ".join(map(repr, self.fields)) or "none"
            wanted = " or ".join(map(repr, names))
            self.fail(names[0], "nothing", f"a value in {wanted} is expected; fields: {known}")
        return value

    def text(self, *names: str) -> str:
        """A text, or a number as text.

        Raises:
            ValueError: If there is none, or it is something else.
        """
        value = self.require(*names)
        if isinstance(value, bool) or not isinstance(value, (str, int, float)):
            self.fail(names[0], _describe(value), "a text is expected")
        return str(value)

    def texts(self, *names: str, of: tuple[str, ...] = ()) -> tuple[str, ...]:
        """A list of texts, or one text; an absent field is an empty list.

        Args:
            *names: Names of the field.
            of: Where entries may be mappings, the names under which those hold the text.

        Raises:
            ValueError: If an entry is no text.
        """
        value = self.get(*names)
        if value is None:
            return ()
        if hasattr(value, "tolist"):
            value = value.tolist()
        entries = [value] if isinstance(value, (str, int, float)) else value
        if not isinstance(entries, Sequence):
            self.fail(names[0], _describe(value), "a list of texts is expected")
        found = []
        for place, entry in enumerate(cast(Sequence[Any], entries)):
            if isinstance(entry, Mapping):
                entry = next((entry[name] for name in of if entry.get(name) is not None), entry)
            if isinstance(entry, bool) or not isinstance(entry, (str, int, float)):
                self.fail(f"{names[0]}[{place}]", _describe(entry), "a text is expected")
            found.append(str(entry))
        return tuple(found)

    def pictures(self, *names: str) -> RowPictures:
        """The pictures of a field: one or a list; an absent field has none.

        A picture is one of a table, bytes, a PIL image, a mapping with `bytes` or `path`, a path,
        or the base64 text of an image file. A path that starts in none of `folders` is kept as it
        would be in the first; whoever opens it reports that it is missing.

        Raises:
            ValueError: If a value is nothing of this.
        """
        value = self.get(*names)
        if value is None:
            return RowPictures(())
        entries = value if isinstance(value, (list, tuple)) else [value]
        return RowPictures([self._picture(entry, names[0]) for entry in entries])

    def _picture(self, value: Any, name: str) -> Any:
        if isinstance(value, Mapping):
            held = value.get("bytes")
            value = held if held is not None else value.get("path")
        if isinstance(value, StoredPicture):
            return StoredPicture(lambda: self._stored(value.read(), name))
        if isinstance(value, os.PathLike):
            value = os.fspath(value)
        if isinstance(value, str):
            # Base64 of the smallest picture is longer than any usual path, and has no suffix.
            if len(value) > 80 and "." not in value[-6:]:
                try:
                    return base64.b64decode(value, validate=True)
                except ValueError:
                    self.fail(name, _describe(value), "a path or base64 text is expected")
            return self._path(value)
        if isinstance(value, bytes) or hasattr(value, "convert"):
            return value
        self.fail(name, _describe(value), "an image, its bytes or its path is expected")

    def _stored(self, value: Any, name: str) -> Any:
        if isinstance(value, StoredPicture) or value is None:
            self.fail(name, _describe(value), "an image, its bytes or its path is expected")
        return self._picture(value, name)

    def _path(self, text: str) -> Path:
        candidates = [folder / text for folder in self.folders] or [Path(text)]
        return next((path for path in candidates if path.is_file()), candidates[0])


def _is_missing(value: Any) -> bool:
    return value is None or (isinstance(value, float) and math.isnan(value))


def _describe(value: Any) -> str:
    if value is None:
        return "nothing"
    text = repr(value)
    return f"{type(value).__name__} {text if len(text) <= 60 else text[:57] + '...'}"
