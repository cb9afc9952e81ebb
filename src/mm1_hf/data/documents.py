"""One shape for captions, web documents, plain text and conversations: ordered segments.

Rows of every kind share one Arrow schema, so files of different kinds concatenate.
"""

import base64
import binascii
import os
from collections.abc import Mapping
from dataclasses import dataclass, replace
from io import BytesIO
from typing import TYPE_CHECKING, Any, BinaryIO, Literal, NoReturn, TypedDict, get_args

import pyarrow as pa

if TYPE_CHECKING:
    import datasets

DocumentKind = Literal["caption", "interleaved", "text", "conversation"]
Role = Literal["system", "user", "assistant"]

KINDS: tuple[str, ...] = get_args(DocumentKind)
ROLES: tuple[str, ...] = get_args(Role)

# The storage form of `datasets.Image`, so that viewers of the Hub show the pictures.
IMAGE_TYPE = pa.struct([("bytes", pa.binary()), ("path", pa.string())])

DOCUMENT_SCHEMA = pa.schema(
    [
        ("key", pa.string()),
        ("source", pa.string()),
        ("kind", pa.string()),
        (
            "segments",
            pa.list_(
                pa.struct(
                    [
                        ("text", pa.string()),
                        ("image", IMAGE_TYPE),
                        ("role", pa.string()),
                        ("turn", pa.int32()),
                    ]
                )
            ),
        ),
    ]
)

# Modes that PNG keeps; pictures in others are stored as TIFF.
_PNG_MODES = ("1", "L", "LA", "I;16", "P", "RGB", "RGBA")
_EXIF_ORIENTATION = 0x0112


class DocumentError(ValueError):
    """A row or segment that is no valid document; the message names its key and field."""


class ImageSource(TypedDict):
    """Where an image's file is: its bytes, its path or URL, or both (then the bytes count)."""

    bytes: bytes | None
    path: str | None


@dataclass(frozen=True, slots=True)
class Text:
    """A run of text, taken literally: `<image>` in it is seven characters.

    Lone surrogates, which broken JSON escapes leave behind and UTF-8 cannot hold, become U+FFFD.

    Args:
        text: The characters.
        role: Who says it, in a conversation.
        turn: Which message of the conversation it belongs to, counted from 0.

    Raises:
        DocumentError: If `text` is not a string.
    """

    text: str
    role: Role | None = None
    turn: int | None = None

    def __post_init__(self) -> None:
        if not isinstance(self.text, str):
            raise DocumentError(
                f"A text is of type {type(self.text).__name__}, but a string is expected. Use "
                "Image for pictures, and leave out what is missing."
            )
        object.__setattr__(self, "text", _without_lone_surrogates(self.text))


@dataclass(frozen=True, slots=True)
class Image:
    """A picture at its place in the document, not decoded.

    Args:
        image: Anything that `image_source` understands; kept as an `ImageSource`.
        role: Who shows it, in a conversation.
        turn: Which message of the conversation it belongs to, counted from 0.

    Raises:
        DocumentError: If `image` is nothing that holds or names an image file.
    """

    image: ImageSource
    role: Role | None = None
    turn: int | None = None

    def __post_init__(self) -> None:
        object.__setattr__(self, "image", image_source(self.image))


Segment = Text | Image


@dataclass(frozen=True, slots=True, kw_only=True)
class Document:
    """Texts and images in reading order, with what is needed to find them again.

    Adjacent texts of the same role and turn become one. An empty text is kept only where it is all
    that a message of a conversation holds, because the message itself must not vanish. Turns are
    numbered anew without gaps. A document without segments is legal: what to do with it is the
    caller's policy.

    Args:
        segments: `Text` and `Image` in reading order.
        key: Names the document within its source, for logs and errors.
        source: Name of the source it comes from.
        kind: `"caption"` (at most one image and one text), `"interleaved"`, `"text"` (no image) or
            `"conversation"` (every segment has a role and a turn; no other kind has them).

    Raises:
        DocumentError: If the segments do not fit the kind; names key, segment and what was found.
    """

    segments: tuple[Segment, ...]
    key: str
    source: str
    kind: DocumentKind

    def __post_init__(self) -> None:
        for name in ("key", "source"):
            if not isinstance(getattr(self, name), str):
                self._fail(f"has {name} {getattr(self, name)!r}", "a string is expected")
        if self.kind not in KINDS:
            self._fail(f"is of kind {self.kind!r}", f"expected one of {', '.join(KINDS)}")
        for index, segment in enumerate(self.segments):
            if not isinstance(segment, (Text, Image)):
                self._fail(
                    f"has segment {index} of type {type(segment).__name__}",
                    "Text or Image is expected",
                )
            self._check_role(index, segment)
        object.__setattr__(self, "segments", _normalise(self.segments))
        self._check_kind()

    @property
    def images(self) -> tuple[ImageSource, ...]:
        """The images in reading order."""
        return tuple(s.image for s in self.segments if isinstance(s, Image))

    @property
    def text(self) -> str:
        """All texts joined, without anything where images stand."""
        return "".join(s.text for s in self.segments if isinstance(s, Text))

    def to_row(self) -> dict[str, Any]:
        """A row of `DOCUMENT_SCHEMA`."""
        return {
            "key": self.key,
            "source": self.source,
            "kind": self.kind,
            "segments": [
                {
                    "text": segment.text if isinstance(segment, Text) else None,
                    "image": dict(segment.image) if isinstance(segment, Image) else None,
                    "role": segment.role,
                    "turn": segment.turn,
                }
                for segment in self.segments
            ],
        }

    @classmethod
    def from_row(cls, row: Mapping[str, Any]) -> "Document":
        """The document of a row that `to_row` wrote, through Arrow, parquet or `datasets`.

        Raises:
            DocumentError: If the row lacks a field, or a segment is not either text or image.
        """
        missing = [name for name in DOCUMENT_SCHEMA.names if row.get(name) is None]
        if missing:
            raise DocumentError(
                f"Row {row.get('key')!r} of source {row.get('source')!r} has no "
                f"{', '.join(missing)}, but a row of the document schema has "
                f"{', '.join(DOCUMENT_SCHEMA.names)}. Convert rows of other forms first."
            )
        segments = []
        for index, entry in enumerate(row["segments"]):
            text, image = entry.get("text"), entry.get("image")
            if (text is None) == (image is None):
                raise DocumentError(
                    f"Row {row['key']!r} of source {row['source']!r}, segments[{index}] has "
                    f"{'both' if text is not None else 'neither'} of text and image, but exactly "
                    "one is expected. Split it into two segments, or remove it."
                )
            place = {"role": entry.get("role"), "turn": entry.get("turn")}
            try:
                segments.append(Image(image, **place) if text is None else Text(text, **place))
            except DocumentError as error:
                raise DocumentError(
                    f"Row {row['key']!r} of source {row['source']!r}, segments[{index}]: {error}"
                ) from None
        return cls(segments=tuple(segments), key=row["key"], source=row["source"], kind=row["kind"])

    def _check_role(self, index: int, segment: Segment) -> None:
        found = f"has segment {index} with role {segment.role!r} and turn {segment.turn!r}"
        if self.kind != "conversation":
            if segment.role is not None or segment.turn is not None:
                self._fail(found, "only a conversation has roles and turns")
            return
        if segment.role not in ROLES:
            self._fail(found, f"a conversation's roles are {', '.join(ROLES)}")
        turn = segment.turn
        if isinstance(turn, bool) or not isinstance(turn, int) or turn < 0:
            self._fail(found, "a turn is a whole number from 0")
        if index == 0:
            return
        before = self.segments[index - 1]
        assert before.turn is not None, "the segment before was checked before"
        if turn < before.turn:
            self._fail(found, f"turns do not go back (segment {index - 1} has {before.turn})")
        if turn == before.turn and segment.role != before.role:
            self._fail(found, f"a turn has one role (segment {index - 1} has {before.role!r})")

    def _check_kind(self) -> None:
        images = len(self.images)
        texts = len(self.segments) - images
        if self.kind == "text" and images:
            self._fail(f"of kind 'text' has {images} images", "none is expected")
        if self.kind == "caption" and (images > 1 or texts > 1):
            self._fail(
                f"of kind 'caption' has {images} images and {texts} texts",
                "at most one of each is expected; use kind 'interleaved'",
            )

    def _fail(self, found: str, expected: str) -> NoReturn:
        raise DocumentError(
            f"Document {self.key!r} of source {self.source!r} {found}, but {expected}."
        )


def document_features() -> "datasets.Features":
    """`DOCUMENT_SCHEMA` for `datasets`; viewers show the images, loading leaves them encoded."""
    import datasets  # takes a second, and only writers need it

    segment = {
        "text": datasets.Value("string"),
        "image": datasets.Image(decode=False),
        "role": datasets.Value("string"),
        "turn": datasets.Value("int32"),
    }
    return datasets.Features(
        {
            "key": datasets.Value("string"),
            "source": datasets.Value("string"),
            "kind": datasets.Value("string"),
            "segments": datasets.List(segment),
        }
    )


def image_source(image: Any) -> ImageSource:
    """Turn any form of an image into its file, without decoding where a file exists.

    Args:
        image: Bytes of a file; a path or URL; a base64 data URI; the dict with `bytes` and `path`
            that `datasets.Image` stores; or a PIL image. A PIL image that is not decoded yet gives
            the file it was opened from; another one is written as PNG (TIFF where PNG cannot hold
            its mode), without loss.

    Raises:
        DocumentError: If it is none of these, or names neither bytes nor a path.
    """
    if isinstance(image, (bytes, bytearray, memoryview)):
        return {"bytes": bytes(image), "path": None}
    if isinstance(image, str) and image.startswith("data:"):
        return {"bytes": _decode_data_uri(image), "path": None}
    if isinstance(image, (str, os.PathLike)):
        return _of_path(os.fspath(image))
    if isinstance(image, Mapping):
        content, path = image.get("bytes"), image.get("path")
        if content is None and path is not None:
            return image_source(path)
        if content is not None:
            path = os.fspath(path) if path is not None else None
            return {"bytes": bytes(content), "path": path}
        raise DocumentError(
            "An image has neither bytes nor a path, but one of them is expected. Remove the image, "
            "or keep its path so that the policy for bad data can name it."
        )
    if hasattr(image, "getexif") and hasattr(image, "save"):
        return _of_pil(image)
    raise DocumentError(
        f"An image is of type {type(image).__name__}, but bytes, a path, a dict with bytes and "
        "path, or a PIL image is expected. Encode arrays with PIL.Image.fromarray first."
    )


def open_image_file(image: ImageSource) -> BinaryIO:
    """Open an image's file for reading, wherever it is (fsspec reads URLs).

    Raises:
        OSError: If the file cannot be opened.
    """
    if image["bytes"] is not None:
        return BytesIO(image["bytes"])
    path = image["path"]
    assert path is not None, "image_source lets no such image pass"
    if "://" not in path:
        return open(path, "rb")
    from fsspec.core import url_to_fs

    filesystem, place = url_to_fs(path)
    return filesystem.open(place, "rb")


def _of_path(path: str | bytes) -> ImageSource:
    if not path or isinstance(path, bytes):
        raise DocumentError(
            f"An image has the path {path!r}, but a path or URL as a string is expected."
        )
    return {"bytes": None, "path": path}


def _decode_data_uri(uri: str) -> bytes:
    header, _, payload = uri.partition(",")
    try:
        if not header.endswith(";base64"):
            raise binascii.Error("not marked as base64")
        return base64.b64decode(payload, validate=True)
    except binascii.Error as error:
        raise DocumentError(
            f"An image is the data URI {uri[:40]!r}… ({error}), but "
            "'data:image/…;base64,' and base64 text are expected."
        ) from None


def _of_pil(image: Any) -> ImageSource:
    # `tile` lists what is still to be decoded: with it the file is what the user sees, while a
    # decoded image may have been drawn upon.
    if getattr(image, "tile", None) and getattr(image, "fp", None) and image.tell() == 0:
        place = image.fp.tell()
        try:
            image.fp.seek(0)
            content = image.fp.read()
        finally:
            image.fp.seek(place)
        return {"bytes": content, "path": getattr(image, "filename", None) or None}
    file = BytesIO()
    orientation = image.getexif().get(_EXIF_ORIENTATION, 1)
    options = {"exif": image.getexif()} if orientation != 1 else {}
    image.save(file, format="PNG" if image.mode in _PNG_MODES else "TIFF", **options)
    return {"bytes": file.getvalue(), "path": None}


def _normalise(segments: tuple[Segment, ...]) -> tuple[Segment, ...]:
    merged: list[Segment] = []
    for segment in segments:
        last = merged[-1] if merged else None
        if (
            isinstance(segment, Text)
            and isinstance(last, Text)
            and (segment.role, segment.turn) == (last.role, last.turn)
        ):
            merged[-1] = Text(last.text + segment.text, last.role, last.turn)
        else:
            merged.append(segment)
    sizes: dict[int | None, int] = {}
    for segment in merged:
        sizes[segment.turn] = sizes.get(segment.turn, 0) + 1
    kept = [
        segment
        for segment in merged
        if not (isinstance(segment, Text) and not segment.text)
        or (segment.turn is not None and sizes[segment.turn] == 1)
    ]
    numbers = {turn: number for number, turn in enumerate(dict.fromkeys(s.turn for s in kept))}
    return tuple(
        segment
        if segment.turn is None or segment.turn == numbers[segment.turn]
        else replace(segment, turn=numbers[segment.turn])
        for segment in kept
    )


def _without_lone_surrogates(text: str) -> str:
    try:
        text.encode()
    except UnicodeEncodeError:
        return text.encode("utf-16-le", "surrogatepass").decode("utf-16-le", "replace")
    return text
