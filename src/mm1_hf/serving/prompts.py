"""What a page sends, text with pictures anywhere in it, read into parts of a message."""

import base64
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from PIL import Image

from mm1_hf.model.decoding_mm1 import open_image

# Of one picture, as bytes of its file; a page keeps them in memory. Our choice.
MAX_PICTURE_BYTES = 30_000_000


class Picture(NamedTuple):
    """A picture of a prompt.

    Attributes:
        name: What the page calls it, the name of its file as a rule.
        image: Its pixels, decoded.
    """

    name: str
    image: Image.Image


Piece = str | Picture


def read_pieces(pieces: Any) -> list[Piece]:
    """Check and decode what a page sent.

    A picture is only what was sent as a picture: text stays text, whatever it says, and is neither
    an address nor a placeholder.

    Args:
        pieces: In reading order `{"type": "text", "text": …}` and
            `{"type": "image", "name": …, "data": "data:image/png;base64,…"}`.

    Raises:
        ValueError: If there is nothing in it, a piece is of another form, or a picture cannot be
            read; names the picture.
    """
    if not isinstance(pieces, Sequence) or isinstance(pieces, str):
        raise ValueError(f"A list of pieces is expected, but a {type(pieces).__name__} came.")
    found: list[Piece] = []
    for piece in pieces:
        kind = piece.get("type") if isinstance(piece, Mapping) else type(piece).__name__
        if kind == "image":
            number = 1 + sum(isinstance(other, Picture) for other in found)
            found.append(_read_picture(piece, number))
        elif kind == "text" and isinstance(piece.get("text"), str):
            found.append(piece["text"])
        else:
            raise ValueError(f"A piece is text or an image, but one of type {kind!r} came.")
    if not any(isinstance(piece, Picture) or piece.strip() for piece in found):
        raise ValueError("There is nothing to answer yet: write something, or drop a picture.")
    return found


def as_messages(pieces: Sequence[Piece]) -> list[dict]:
    """One user turn for `MM1Processor.apply_chat_template`, which escapes its texts."""
    content = [
        {"type": "image", "image": piece.image}
        if isinstance(piece, Picture)
        else {"type": "text", "text": piece}
        for piece in pieces
    ]
    return [{"role": "user", "content": content}]


def _read_picture(piece: Mapping, number: int) -> Picture:
    name = str(piece.get("name") or "without a name")
    called = f"Picture {number} ({name})"
    head, comma, encoded = str(piece.get("data") or "").partition(",")
    # An address or a path here would make the server read what the sender may not.
    if not (comma and head.startswith("data:") and head.endswith(";base64")):
        raise ValueError(f"{called} came without its data. Drop the file itself, not its address.")
    if len(encoded) * 3 // 4 > MAX_PICTURE_BYTES:
        raise ValueError(
            f"{called} has {len(encoded) * 3 // 4 / 1e6:.0f} MB, but at most "
            f"{MAX_PICTURE_BYTES / 1e6:.0f} MB are taken. Save it smaller."
        )
    try:
        image = open_image(base64.b64decode(encoded, validate=True), called)
        image.load()
    except (OSError, ValueError, SyntaxError):
        raise ValueError(
            f"{called} cannot be read as a picture. A whole PNG, JPEG, WebP or the like is "
            f"expected, of at most {(Image.MAX_IMAGE_PIXELS or 0) / 1e6:.0f} million pixels."
        ) from None
    return Picture(name, image)


__all__ = ["MAX_PICTURE_BYTES", "Picture", "Piece", "as_messages", "read_pieces"]
