"""Conversations: chat messages and LLaVA's JSON, to and from documents."""

from collections.abc import Mapping
from typing import Any, cast

from mm1_hf.data.documents import ROLES, Document, DocumentError, Image, Role, Segment, Text
from mm1_hf.data.rows import ImageLookup, Row, describe

LLAVA_PLACEHOLDER = "<image>"
_LLAVA_ROLES = {"system": "system", "human": "user", "gpt": "assistant"}
_LLAVA_NAMES = {role: name for name, role in _LLAVA_ROLES.items()}
_IMAGE_PARTS = ("image", "image_url")
_IMAGE_FIELDS = ("image", "image_url", "url", "path", "base64")


def from_messages(
    row: Mapping[str, Any], *, source: str, key: str | None = None, images: ImageLookup = None
) -> Document:
    """Chat messages, as `apply_chat_template` takes them, with their images.

    The content of a message is a string or a list of parts. An image part holds its image
    (`image`, `url`, `path`, `base64`, or `image_url` as a string or with a `url`), or nothing: then
    it takes the next of the row's `images`.

    Args:
        row: Has `messages` and, for image parts without an image, `images`.
        source: Name of the source.
        key: Key of the document where the row has no `key` or `id`.
        images: Where images that the row names are found.

    Raises:
        DocumentError: If a role or part is unknown, or image parts and `images` do not agree in
            number; names row and field.
    """
    reader = Row(row, form="chat messages", source=source, key=key, images=images)
    waiting = list(reader.get_list("images", optional=True))
    given = len(waiting)
    segments: list[Segment] = []
    for turn, message in enumerate(reader.get_list("messages")):
        field = f"messages[{turn}]"
        role = message.get("role") if isinstance(message, Mapping) else None
        if role not in ROLES:
            reader.fail(f"{field}.role", describe(role), f"one of {', '.join(ROLES)} is expected")
        content = message.get("content")
        if content is None or isinstance(content, str) or len(content) == 0:
            segments.append(Text(content or "", role, turn))
            continue
        for index, part in enumerate(content):
            segments.append(
                _part(
                    reader,
                    part,
                    field=f"{field}.content[{index}]",
                    waiting=waiting,
                    role=role,
                    turn=turn,
                )
            )
    if waiting:
        reader.fail(
            "images",
            f"{given} images, of which {len(waiting)} stand nowhere",
            'one part {"type": "image"} per image is expected in the messages',
        )
    return Document(segments=tuple(segments), key=reader.key, source=source, kind="conversation")


def to_messages(document: Document) -> dict[str, Any]:
    """Chat messages of a conversation: `id`, `messages` with parts, and `images` in order.

    `from_messages` gives the same document back.

    Raises:
        DocumentError: If the document is no conversation.
    """
    _require_conversation(document, "chat messages")
    messages: list[dict[str, Any]] = []
    for segment in document.segments:
        if segment.turn == len(messages):
            messages.append({"role": segment.role, "content": []})
        messages[-1]["content"].append(
            {"type": "image"}
            if isinstance(segment, Image)
            else {"type": "text", "text": segment.text}
        )
    return {"id": document.key, "messages": messages, "images": list(document.images)}


def from_llava(
    row: Mapping[str, Any], *, source: str, key: str | None = None, images: ImageLookup = None
) -> Document:
    """A record of LLaVA's JSON: `id`, `image` (one or a list) and `conversations`.

    `<image>` in what a human says stands for the next image; elsewhere, and in a record without
    images, it is text.

    Args:
        row: The record.
        source: Name of the source.
        key: Key of the document where the row has no `id`.
        images: The folder of the images, or images by name.

    Raises:
        DocumentError: If a speaker is unknown, or placeholders and images differ in number.
    """
    reader = Row(row, form="LLaVA's JSON", source=source, key=key, images=images)
    field = "images" if row.get("image") is None and row.get("images") is not None else "image"
    named = row.get(field)
    waiting = [] if named is None else list(named) if isinstance(named, (list, tuple)) else [named]
    given, used = len(waiting), 0
    segments: list[Segment] = []
    for turn, message in enumerate(reader.get_list("conversations")):
        place = f"conversations[{turn}]"
        speaker = message.get("from") if isinstance(message, Mapping) else None
        role = _LLAVA_ROLES.get(speaker, speaker) if isinstance(speaker, str) else None
        if role not in ROLES:
            known = ", ".join((*_LLAVA_ROLES, *ROLES[1:]))
            reader.fail(f"{place}.from", describe(speaker), f"one of {known} is expected")
        value = reader.text(message.get("value"), field=f"{place}.value").text
        pieces = value.split(LLAVA_PLACEHOLDER) if role == "user" and given else [value]
        for index, piece in enumerate(pieces):
            if index:
                used += 1
                if waiting:
                    image = waiting.pop(0)
                    segments.append(reader.image(image, field=field, role=role, turn=turn))
            segments.append(Text(piece, cast(Role, role), turn))
    if used != given:
        reader.fail(
            field,
            f"{given} images for {used} placeholders {LLAVA_PLACEHOLDER!r} in human messages",
            "as many of the one as of the other are expected",
        )
    return Document(segments=tuple(segments), key=reader.key, source=source, kind="conversation")


def to_llava(document: Document) -> dict[str, Any]:
    """A record of LLaVA's JSON; `from_llava` gives the same document back.

    An image is its path, or, where its bytes are held, the dict of both (which JSON cannot write).

    Raises:
        DocumentError: If the document is no conversation, or one that the format cannot hold: with
            an image outside the user's messages, or a literal `<image>` in one beside images.
    """
    _require_conversation(document, "LLaVA's JSON")
    conversations: list[dict[str, str]] = []
    for index, segment in enumerate(document.segments):
        if segment.turn == len(conversations):
            assert segment.role is not None, "a conversation's segments have roles"
            conversations.append({"from": _LLAVA_NAMES[segment.role], "value": ""})
        if isinstance(segment, Image):
            if segment.role != "user":
                _cannot_hold(document, index, f"an image of role {segment.role!r}")
            conversations[-1]["value"] += LLAVA_PLACEHOLDER
        else:
            conversations[-1]["value"] += segment.text
    record: dict[str, Any] = {"id": document.key, "conversations": conversations}
    if document.images:
        written = sum(
            c["value"].count(LLAVA_PLACEHOLDER) for c in conversations if c["from"] == "human"
        )
        if written != len(document.images):
            _cannot_hold(document, None, f"a literal {LLAVA_PLACEHOLDER!r} beside images")
        images = [i["path"] if i["bytes"] is None else dict(i) for i in document.images]
        record["image"] = images[0] if len(images) == 1 else images
    return record


def _part(
    reader: Row, part: Any, *, field: str, waiting: list[Any], role: Any, turn: int
) -> Segment:
    kind = part.get("type") if isinstance(part, Mapping) else None
    if kind == "text":
        return reader.text(part.get("text"), field=f"{field}.text", role=role, turn=turn)
    if kind not in _IMAGE_PARTS:
        found = describe(part) if kind is None else f"a part of type {kind!r}"
        reader.fail(field, found, "a part of type text or image is expected")
    # Rows out of Arrow name every field of every part; what a part does not have is None.
    name = next((name for name in _IMAGE_FIELDS if part.get(name) is not None), None)
    if name is None:
        if not waiting:
            reader.fail(
                field,
                "an image part",
                "an image in it, or one more in the row's 'images', is expected",
            )
        return reader.image(waiting.pop(0), field="images", role=role, turn=turn)
    value = part[name]
    if name == "image_url" and isinstance(value, Mapping):
        value = value.get("url")
    if name == "base64":
        value = f"data:image/unknown;base64,{value}"
    return reader.image(value, field=f"{field}.{name}", role=role, turn=turn)


def _require_conversation(document: Document, form: str) -> None:
    if document.kind != "conversation":
        raise DocumentError(
            f"Document {document.key!r} of source {document.source!r} is of kind "
            f"{document.kind!r}, but {form} hold conversations."
        )


def _cannot_hold(document: Document, index: int | None, found: str) -> None:
    place = "" if index is None else f", segment {index}"
    raise DocumentError(
        f"Document {document.key!r} of source {document.source!r}{place} has {found}, which "
        "LLaVA's JSON cannot hold. Use to_messages."
    )
