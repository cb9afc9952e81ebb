"""A row of somebody's format while it is read; errors name the row and the field."""

import os
from collections.abc import Mapping, Sequence
from typing import Any, NoReturn

from mm1_hf.data.documents import DocumentError, Image, Text

# A folder (or URL of one) that relative paths start from, or images by the name a row calls them.
ImageLookup = str | os.PathLike | Mapping[str, Any] | None

KEY_FIELDS = ("key", "id", "__key__")


class Row:
    """One row of a format, ready to be looked up.

    Args:
        fields: The row.
        form: Name of the format, for errors.
        source: Name of the source.
        key: Key of the document where the row has none.
        images: Where images that the row names are found.

    Raises:
        DocumentError: If the row is no mapping, or neither it nor the caller has a key.
    """

    def __init__(
        self,
        fields: Mapping[str, Any],
        *,
        form: str,
        source: str,
        key: str | None,
        images: ImageLookup = None,
    ):
        self._form = form
        self.source = source
        self._images = images
        if not isinstance(fields, Mapping):
            raise DocumentError(
                f"Row {key!r} of source {source!r} is of type {type(fields).__name__}, but a "
                f"mapping of field names to values ({form}) is expected."
            )
        self.fields = fields
        own = next((fields[name] for name in KEY_FIELDS if fields.get(name) is not None), key)
        if own is None:
            raise DocumentError(
                f"A row of source {source!r} has none of the fields {', '.join(KEY_FIELDS)}. Pass "
                "key=, so that logs and errors can name the document."
            )
        self.key = str(own)

    def fail(self, field: str, found: str, expected: str) -> NoReturn:
        """Raise a `DocumentError` that names source, row and field."""
        raise DocumentError(
            f"Row {self.key!r} of source {self.source!r}, field {field!r}: found {found}, but "
            f"{expected} ({self._form})."
        )

    def get_list(self, name: str, *, optional: bool = False) -> Sequence[Any]:
        """A list in a field; an absent one is empty if `optional`."""
        value = self.fields.get(name)
        if value is None and optional:
            return []
        if isinstance(value, (str, bytes)) or not isinstance(value, Sequence):
            self.fail(name, describe(value), "a list is expected")
        return value

    def text(self, value: Any, *, field: str, **place: Any) -> Text:
        """A text segment of a value found in `field`."""
        if not isinstance(value, str):
            self.fail(field, describe(value), "a string is expected")
        return Text(value, **place)

    def image(self, value: Any, *, field: str, **place: Any) -> Image:
        """An image segment of a value found in `field`, looked up where it is a name."""
        value = self._look_up(value, field)
        try:
            return Image(value, **place)
        except DocumentError as error:
            raise DocumentError(
                f"Row {self.key!r} of source {self.source!r}, field {field!r}: {error}"
            ) from None

    def _look_up(self, value: Any, field: str) -> Any:
        name = value.get("path") if isinstance(value, Mapping) else value
        has_bytes = isinstance(value, Mapping) and value.get("bytes") is not None
        if has_bytes or not isinstance(name, (str, os.PathLike)) or self._images is None:
            return value
        name = os.fspath(name)
        if isinstance(self._images, Mapping):
            if name not in self._images:
                known = ", ".join(map(repr, list(self._images)[:8])) or "none"
                self.fail(field, f"the name {name!r}", f"the images here are {known}")
            return self._images[name]
        if not name or "://" in name or name.startswith("data:") or os.path.isabs(name):
            return value
        folder = os.fspath(self._images)
        return f"{folder.rstrip('/')}/{name}" if "://" in folder else os.path.join(folder, name)


def join_texts(segments: Sequence[Text | Image], *, separator: str) -> tuple[Text | Image, ...]:
    """Put `separator` between texts that no image parts, and leave empty texts out."""
    joined: list[Text | Image] = []
    for segment in segments:
        if isinstance(segment, Text):
            if not segment.text:
                continue
            if joined and isinstance(joined[-1], Text):
                joined[-1] = Text(f"{joined[-1].text}{separator}{segment.text}")
                continue
        joined.append(segment)
    return tuple(joined)


def describe(value: Any) -> str:
    """A value as an error shows it: its type and, if short, itself."""
    if value is None:
        return "nothing"
    text = repr(value)
    return f"{text if len(text) <= 60 else text[:57] + '...'} of type {type(value).__name__}"
