"""Rows of common formats become documents, and documents become such rows again.

Every `from_…` takes a row and names it in errors; `from_x(to_x(document), source=…)` gives the
document back wherever the format can hold it.
"""

from collections.abc import Callable, Mapping
from functools import partial
from typing import Any, Literal

from mm1_hf.data.chat_converters import from_llava, from_messages, to_llava, to_messages
from mm1_hf.data.documents import Document, DocumentError, Image, Text
from mm1_hf.data.rows import ImageLookup, Row, describe, join_texts

__all__ = [
    "CONVERTERS_VERSION",
    "from_caption",
    "from_llava",
    "from_messages",
    "from_mmc4",
    "from_obelics",
    "from_record",
    "from_text",
    "from_webdataset",
    "to_caption",
    "to_llava",
    "to_messages",
    "to_mmc4",
    "to_obelics",
]

# Part of every source's fingerprint. Raise it when a converter gives another document for a row.
CONVERTERS_VERSION = 1

IMAGE_EXTENSIONS = ("jpg", "jpeg", "png", "webp", "gif", "bmp", "tif", "tiff", "ppm")

ImagePlace = Literal["before", "after"]

# OBELICS parts its paragraphs by a blank line; MMC4 has sentences. Between a text and an image
# nothing is put.
PARAGRAPH_SEPARATOR = "\n\n"
SENTENCE_SEPARATOR = " "


def from_obelics(
    row: Mapping[str, Any],
    *,
    source: str,
    key: str | None = None,
    images: ImageLookup = None,
    separator: str = PARAGRAPH_SEPARATOR,
) -> Document:
    """A web document as two parallel lists, as OBELICS has it.

    At every index of `images` and `texts` one of the two is None.

    Args:
        row: Has `images` and `texts`; other fields are not kept.
        source: Name of the source.
        key: Key of the document where the row has none.
        images: Where images that the row names are found.
        separator: What stands between two texts without an image between them (our choice).

    Raises:
        DocumentError: If the lists differ in length, or both or neither entry is given at an index.
    """
    reader = Row(row, form="parallel lists as in OBELICS", source=source, key=key, images=images)
    pictures, texts = reader.get_list("images"), reader.get_list("texts")
    if len(pictures) != len(texts):
        reader.fail(
            "images",
            f"{len(pictures)} entries beside {len(texts)} in 'texts'",
            "lists of the same length are expected, None where the other one has an entry",
        )
    segments: list[Text | Image] = []
    for index, (picture, text) in enumerate(zip(pictures, texts, strict=True)):
        if (picture is None) == (text is None):
            reader.fail(
                f"images[{index}]",
                "neither an image nor a text" if text is None else "an image and a text",
                "exactly one of images and texts is expected at an index; remove the entry",
            )
        if picture is None:
            segments.append(reader.text(text, field=f"texts[{index}]"))
        else:
            segments.append(reader.image(picture, field=f"images[{index}]"))
    return Document(
        segments=join_texts(segments, separator=separator),
        key=reader.key,
        source=source,
        kind="interleaved",
    )


def to_obelics(document: Document) -> dict[str, Any]:
    """Parallel lists `images` and `texts`, and the `key`.

    Raises:
        DocumentError: If the document is a conversation.
    """
    _refuse_conversation(document, "parallel lists")
    return {
        "key": document.key,
        "images": [dict(s.image) if isinstance(s, Image) else None for s in document.segments],
        "texts": [s.text if isinstance(s, Text) else None for s in document.segments],
    }


def from_mmc4(
    row: Mapping[str, Any],
    *,
    source: str,
    key: str | None = None,
    images: ImageLookup = None,
    image_place: ImagePlace = "before",
    separator: str = SENTENCE_SEPARATOR,
) -> Document:
    """A web document as sentences with images assigned to them, as MMC4 has it.

    Images of one sentence keep their order in `image_info`.

    Args:
        row: Has `text_list` and `image_info`, whose entries have `matched_text_index` and the
            image: as `image`, or as `image_name` if `images` is given, else as `raw_url`.
        source: Name of the source.
        key: Key of the document where the row has none.
        images: The folder of the images, or images by name.
        image_place: Whether an image stands before or after its sentence. The dataset does not say;
            before is our choice.
        separator: What stands between two sentences without an image between them.

    Raises:
        DocumentError: If an entry has no image, or is assigned to a sentence that does not exist.
    """
    reader = Row(row, form="sentences as in MMC4", source=source, key=key, images=images)
    if image_place not in ("before", "after"):
        raise ValueError(f"image_place is {image_place!r}, but 'before' or 'after' is expected.")
    sentences = reader.get_list("text_list")
    assigned: dict[int, list[Image]] = {}
    for index, info in enumerate(reader.get_list("image_info")):
        field = f"image_info[{index}]"
        if not isinstance(info, Mapping):
            reader.fail(field, describe(info), "a mapping is expected")
        sentence = info.get("matched_text_index")
        if not isinstance(sentence, int) or not 0 <= sentence < len(sentences):
            reader.fail(
                f"{field}.matched_text_index",
                describe(sentence),
                f"an index into the {len(sentences)} sentences is expected",
            )
        order = ("image", "image_name") if images is not None else ("image", "raw_url")
        name = next((n for n in order if info.get(n) is not None), "image_name")
        image = reader.image(info.get(name), field=f"{field}.{name}")
        assigned.setdefault(sentence, []).append(image)
    segments: list[Text | Image] = []
    for index, sentence in enumerate(sentences):
        text = reader.text(sentence, field=f"text_list[{index}]")
        here = assigned.get(index, [])
        segments += [*here, text] if image_place == "before" else [text, *here]
    return Document(
        segments=join_texts(segments, separator=separator),
        key=reader.key,
        source=source,
        kind="interleaved",
    )


def to_mmc4(document: Document, *, image_place: ImagePlace = "before") -> dict[str, Any]:
    """Sentences (one per text segment) with images assigned to them, and the `key`.

    An image without a text on its side is assigned to an empty sentence.

    Raises:
        DocumentError: If the document is a conversation.
    """
    _refuse_conversation(document, "sentences with images")
    is_before = image_place == "before"
    segments = document.segments if is_before else document.segments[::-1]
    sentences: list[str] = []
    infos: list[dict[str, Any]] = []
    for segment in segments:
        if isinstance(segment, Text):
            sentences.append(segment.text)
        else:
            infos.append({"image": dict(segment.image), "matched_text_index": len(sentences)})
    if any(info["matched_text_index"] == len(sentences) for info in infos):
        sentences.append("")
    if not is_before:
        sentences.reverse()
        infos.reverse()
        for info in infos:
            info["matched_text_index"] = len(sentences) - 1 - info["matched_text_index"]
    return {"key": document.key, "text_list": sentences, "image_info": infos}


def from_caption(
    row: Mapping[str, Any],
    *,
    source: str,
    key: str | None = None,
    images: ImageLookup = None,
    image_field: str = "image",
    text_field: str = "caption",
) -> Document:
    """An image and its caption, the image first.

    Args:
        row: Has the two fields.
        source: Name of the source.
        key: Key of the document where the row has none.
        images: The folder of the images, or images by name.
        image_field: Name of the field with the image.
        text_field: Name of the field with the caption.

    Raises:
        DocumentError: If one of the fields is absent.
    """
    reader = Row(row, form="a caption pair", source=source, key=key, images=images)
    if row.get(image_field) is None:
        known = ", ".join(map(repr, row))
        reader.fail(image_field, "nothing", f"an image is expected; the row has {known}")
    image = reader.image(row[image_field], field=image_field)
    text = reader.text(row.get(text_field), field=text_field)
    return Document(segments=(image, text), key=reader.key, source=source, kind="caption")


def to_caption(document: Document) -> dict[str, Any]:
    """`key`, `image` and `caption` of a document of one image and then at most one text.

    Raises:
        DocumentError: If the document has another form.
    """
    forms = [type(segment) for segment in document.segments]
    if document.kind != "caption" or forms not in ([Image], [Image, Text]):
        raise DocumentError(
            f"Document {document.key!r} of source {document.source!r} is of kind "
            f"{document.kind!r} with segments {[f.__name__ for f in forms]}, but a caption pair is "
            "an image and then a text."
        )
    return {"key": document.key, "image": dict(document.images[0]), "caption": document.text}


def from_text(
    row: Mapping[str, Any],
    *,
    source: str,
    key: str | None = None,
    images: ImageLookup = None,
    text_field: str = "text",
) -> Document:
    """A text without images.

    Raises:
        DocumentError: If the field is absent or no string.
    """
    reader = Row(row, form="plain text", source=source, key=key, images=images)
    text = reader.text(row.get(text_field), field=text_field)
    return Document(segments=(text,), key=reader.key, source=source, kind="text")


def _from_own(
    row: Mapping[str, Any], *, source: str, key: str | None = None, images: ImageLookup = None
) -> Document:
    reader = Row(row, form="the document schema", source=source, key=key, images=images)
    segments = []
    for index, entry in enumerate(reader.get_list("segments")):
        if not isinstance(entry, Mapping):
            reader.fail(f"segments[{index}]", describe(entry), "a mapping is expected")
        if entry.get("image") is not None:
            image = reader.image(entry["image"], field=f"segments[{index}].image").image
            entry = {**entry, "image": image}
        segments.append(entry)
    own_source = row.get("source") or source
    return Document.from_row({**row, "key": reader.key, "source": own_source, "segments": segments})


# The first entry whose fields a row has (and are not None) tells its format.
_DOCUMENT_FORMATS: dict[tuple[str, ...], Callable[..., Document]] = {
    ("segments",): _from_own,
    ("messages",): from_messages,
    ("conversations",): from_llava,
    ("text_list", "image_info"): from_mmc4,
    ("texts", "images"): from_obelics,
}
_FORMATS: dict[tuple[str, ...], Callable[..., Document]] = {
    **_DOCUMENT_FORMATS,
    ("image", "caption"): from_caption,
    ("image", "text"): partial(from_caption, text_field="text"),
    ("file_name", "text"): partial(from_caption, image_field="file_name", text_field="text"),
    ("text",): from_text,
}


def from_record(
    row: Mapping[str, Any], *, source: str, key: str | None = None, images: ImageLookup = None
) -> Document:
    """A row of any format that its field names tell: ours, or one of the `from_…` here.

    Rows of our own schema keep the source they name.

    Raises:
        DocumentError: If the fields tell no format, or the row is no valid one of its format.
    """
    reader = Row(row, form="a row", source=source, key=key, images=images)
    convert = _find_format(row, _FORMATS)
    if convert is not None:
        return convert(row, source=source, key=reader.key, images=images)
    found = ", ".join(str(name) for name, value in row.items() if value is not None) or "none"
    known = "; ".join(" and ".join(fields) for fields in _FORMATS)
    raise DocumentError(
        f"Row {reader.key!r} of source {source!r} has the fields {found}, but a known format has "
        f"one of: {known}. Pass converter=, a function of (row, *, source, key)."
    )


def from_webdataset(
    row: Mapping[str, Any], *, source: str, key: str | None = None, images: ImageLookup = None
) -> Document:
    """A sample of a WebDataset shard: the files that share a name, by their extensions.

    A `json` of a known format of several segments (see `from_record`) tells the document, and names
    its images by file name or extension. Else one image and `txt` (or the `caption` or `text` of
    the `json`) are a caption, and a `txt` alone is a text. The `url` that img2dataset leaves in the
    `json` becomes the path of the image, whose bytes are held.

    Args:
        row: Extensions with bytes, `txt` as a string and `json` as an object; and `__key__`.
        source: Name of the source.
        key: Key of the document where the row has no `__key__`.
        images: Where images are found that the `json` names and the sample does not hold.

    Raises:
        DocumentError: If the files make no document of these forms.
    """
    reader = Row(row, form="a WebDataset sample", source=source, key=key, images=images)
    members = {name: value for name, value in row.items() if not name.startswith("__")}
    pictures = {n: v for n, v in members.items() if n.rpartition(".")[2] in IMAGE_EXTENSIONS}
    record = members.get("json")
    record = record if isinstance(record, Mapping) else {}
    convert = _find_format(record, _DOCUMENT_FORMATS)
    if convert is not None:
        base = reader.key.rpartition("/")[2]
        named = {f"{base}.{name}": value for name, value in pictures.items()}
        known = {**pictures, **named} if pictures else images
        return convert({**record, "key": reader.key}, source=source, images=known)
    texts = (members.get("txt"), record.get("caption"), record.get("text"))
    text = next((text for text in texts if text is not None), None)
    if len(pictures) > 1 or (text is None and not pictures):
        reader.fail(
            "__key__",
            f"the files {', '.join(members) or 'none'}",
            "one image, a txt, both, or a json of a known format is expected",
        )
    segments: list[Text | Image] = []
    for name, content in pictures.items():
        place = {"bytes": content, "path": record.get("url") or f"{reader.key}.{name}"}
        segments.append(reader.image(place, field=name))
    if text is not None:
        segments.append(reader.text(text, field="txt"))
    kind = "caption" if pictures else "text"
    return Document(segments=tuple(segments), key=reader.key, source=source, kind=kind)


def _find_format(
    row: Mapping[str, Any], formats: Mapping[tuple[str, ...], Callable[..., Document]]
) -> Callable[..., Document] | None:
    for fields, convert in formats.items():
        if all(row.get(field) is not None for field in fields):
            return convert
    return None


def _refuse_conversation(document: Document, form: str) -> None:
    if document.kind == "conversation":
        raise DocumentError(
            f"Document {document.key!r} of source {document.source!r} is a conversation, whose "
            f"roles {form} cannot hold. Use to_messages."
        )
