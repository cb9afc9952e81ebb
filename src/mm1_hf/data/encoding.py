"""Documents become token ids, once, with one placeholder per image.

The whole document is tokenised as one string, as the processor would; nothing is tokenised in
pieces, so a word at a seam gets the same tokens in training and in use. How many tokens an image
takes, and which of them are markers, enters later (`expand`), because it needs sizes, not text.

Letters: T tokens with one placeholder per image, L tokens with all placeholders, I images, R runs.
"""

import re
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from itertools import groupby
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from mm1_hf.data.documents import Document, Image, ImageSource
from mm1_hf.model.interleaving_mm1 import interleave
from mm1_hf.model.sample_plan_mm1 import image_layout

if TYPE_CHECKING:
    from mm1_hf.model.processing_mm1 import MM1Processor
    from mm1_hf.model.tiling_mm1 import TilePlan

_GENERATION = re.compile(r"\{%-?\s*generation\s*-?%\}")


class EncodedDocument(NamedTuple):
    """Tokens of one document.

    Attributes:
        input_ids: int32, shape (T,); one `image_token_id` per image.
        supervised: bool, shape (T,); whether a token is a target. Never an image, never the first.
        images: Where the images' files are, in the order of their placeholders.
        image_token_id: The placeholder. No text contains it: text is escaped.
    """

    input_ids: np.ndarray
    supervised: np.ndarray
    images: list[ImageSource]
    image_token_id: int


class ExpandedDocument(NamedTuple):
    """Tokens of one document with all placeholders of its images.

    Attributes:
        input_ids: int32, shape (L,).
        supervised: bool, shape (L,).
        image: int32, shape (L,): which image of the document a placeholder or marker belongs to, -1
            for text.
    """

    input_ids: np.ndarray
    supervised: np.ndarray
    image: np.ndarray


class Runs(NamedTuple):
    """A document as runs of tokens: each one an image, or text between two images or turns.

    Attributes:
        tokens: int32, shape (R,).
        is_image: bool, shape (R,).
        targets: int32, shape (R,): supervised tokens; they stand at the end of the run.
    """

    tokens: np.ndarray
    is_image: np.ndarray
    targets: np.ndarray


def encode(document: Document, processor: "MM1Processor") -> EncodedDocument:
    """Tokenise one document; see `encode_many`."""
    return encode_many([document], processor)[0]


def encode_many(documents: Sequence[Document], processor: "MM1Processor") -> list[EncodedDocument]:
    """Tokenise documents in one call of the tokenizer.

    Captions, interleaved documents and text: the tokens that the tokenizer itself puts around a
    text (a beginning of sequence, where it has one) and always an end of sequence; every text token
    but the first is supervised. Conversations: what the processor's chat template renders, nothing
    added; supervised is what stands between its `generation` marks. Text is escaped throughout, so
    a literal `<image>` stays text.

    Raises:
        ValueError: If the tokenizer has no end of sequence, the chat template marks no answers, or
            a text holds a control token that cannot be escaped; names the document.
    """
    texts: list[_Marked] = []
    for document in documents:
        with _named(document):
            is_chat = document.kind == "conversation"
            texts.append(_render(document, processor) if is_chat else _join(document, processor))
    encoded: list[EncodedDocument | None] = [None] * len(texts)
    for adds_special in (True, False):
        chosen = [n for n, text in enumerate(texts) if text.adds_special == adds_special]
        if not chosen:
            continue
        tokenised = processor.tokenizer(
            [texts[n].text for n in chosen],
            add_special_tokens=adds_special,
            padding=False,
            truncation=False,
            return_attention_mask=False,
            return_token_type_ids=False,
            return_offsets_mapping=True,
            verbose=False,
        )
        rows = zip(chosen, tokenised["input_ids"], tokenised["offset_mapping"], strict=True)
        for n, ids, offsets in rows:
            with _named(documents[n]):
                encoded[n] = _finish(texts[n], ids, offsets, processor)
    return [document for document in encoded if document is not None]


def expand(
    document: EncodedDocument,
    image_tokens: Sequence[int],
    *,
    image_ids: Mapping[int, np.ndarray] | None = None,
) -> ExpandedDocument:
    """Put all tokens of each image in the place of its one placeholder; none is a target.

    Args:
        document: A document of I images.
        image_tokens: Tokens of each image, shape (I,), markers included. An image of 0 tokens
            disappears.
        image_ids: What `make_image_ids` gives, by number of the image. The other images become
            placeholders throughout.

    Raises:
        ValueError: If there are more or fewer numbers than images, or the ids of an image are not
            as many as its number.
    """
    is_image = document.input_ids == document.image_token_id
    repeats = _per_token(is_image, image_tokens)
    image = np.where(is_image, np.cumsum(is_image) - 1, -1).astype(np.int32)
    input_ids = np.repeat(document.input_ids, repeats)
    begins = (np.cumsum(repeats) - repeats)[is_image]
    for number, ids in (image_ids or {}).items():
        if len(ids) != image_tokens[number]:
            raise ValueError(
                f"Image {number} of the document becomes {len(ids)} tokens, but "
                f"{image_tokens[number]} were given for it. Use the processor that counted them."
            )
        input_ids[begins[number] : begins[number] + len(ids)] = ids
    return ExpandedDocument(
        input_ids, np.repeat(document.supervised, repeats), np.repeat(image, repeats)
    )


def make_image_ids(plan: "TilePlan", processor: "MM1Processor", *, image: int = 0) -> np.ndarray:
    """Token ids of one image: the placeholders of its tiles, and the markers around them.

    Args:
        plan: The tiles of the image.
        processor: Has the markers, their ids, and the tokens per tile.
        image: Number of the image in its sample, from 0; `markers="index"` writes it.

    Raises:
        ValueError: If a number is too large for the markers.
    """
    layout = image_layout(plan, image=image, markers=processor.markers)
    names = [processor.image_token if piece is None else piece for piece in layout]
    repeats = [processor.num_image_tokens if piece is None else 1 for piece in layout]
    ids = np.array(processor.tokenizer.convert_tokens_to_ids(names), dtype=np.int32)
    return np.repeat(ids, repeats)


def find_runs(document: EncodedDocument, image_tokens: Sequence[int]) -> Runs:
    """Runs between which a document may be cut: around images, and behind every answer of a chat.

    The tokens of all runs are those of `expand`.
    """
    is_image = document.input_ids == document.image_token_id
    repeats = _per_token(is_image, image_tokens)
    begins = np.ones(len(is_image), dtype=bool)
    answer_ended = document.supervised[:-1] & ~document.supervised[1:]
    begins[1:] = is_image[1:] | is_image[:-1] | answer_ended
    starts = np.flatnonzero(begins)
    targets = np.add.reduceat(document.supervised, starts, dtype=np.int32)
    return Runs(np.add.reduceat(repeats, starts).astype(np.int32), is_image[starts], targets)


class _Marked(NamedTuple):
    """A text to tokenise, the characters of it that are answers (None: everything), and images."""

    text: str
    answers: list[tuple[int, int]] | None
    images: list[ImageSource]
    adds_special: bool


@contextmanager
def _named(document: Document) -> Iterator[None]:
    try:
        yield
    except ValueError as error:
        raise ValueError(
            f"Document {document.key!r} of source {document.source!r}: {error}"
        ) from error


def _join(document: Document, processor: "MM1Processor") -> _Marked:
    parts = [s.image if isinstance(s, Image) else s.text for s in document.segments]
    joined = interleave(parts, image_token=processor.image_token, escape=processor.escape)
    return _Marked(joined.text, None, joined.images, adds_special=True)


def _render(document: Document, processor: "MM1Processor") -> _Marked:
    # Imported here: planning from cached lengths needs no transformers.
    from transformers.utils.chat_template_utils import render_jinja_template

    template: Any = processor.chat_template
    if isinstance(template, dict):
        template = template["default"]
    if not template or not _GENERATION.search(template):
        raise ValueError(
            "the chat template has no {% generation %} block, so no token of a conversation would "
            "be a target. Put {% generation %} … {% endgeneration %} around the answers."
        )
    rendered, answers = render_jinja_template(
        conversations=[_messages(document, processor)],
        chat_template=template,
        return_assistant_tokens_mask=True,
        **processor.tokenizer.special_tokens_map,
    )
    bos = processor.tokenizer.bos_token
    starts_itself = bos is not None and rendered[0].startswith(bos)
    images = [s.image for s in document.segments if isinstance(s, Image)]
    spans = [(int(start), int(stop)) for start, stop in answers[0]]
    return _Marked(rendered[0], spans, images, adds_special=not starts_itself)


def _messages(document: Document, processor: "MM1Processor") -> list[dict[str, Any]]:
    messages = []
    for (_, role), segments in groupby(document.segments, key=lambda s: (s.turn, s.role)):
        content: list[dict[str, str]] = [
            {"type": "image"}
            if isinstance(segment, Image)
            else {"type": "text", "text": processor.escape(segment.text)}
            for segment in segments
        ]
        messages.append({"role": role, "content": content})
    return messages


def _finish(
    text: _Marked, ids: list[int], offsets: list[tuple[int, int]], processor: "MM1Processor"
) -> EncodedDocument:
    tokenizer = processor.tokenizer
    if text.answers is None:
        if tokenizer.eos_token_id is None:
            raise ValueError(
                "the tokenizer has no end of sequence, but every document must end with one. Set "
                "tokenizer.eos_token."
            )
        if not ids or ids[-1] != tokenizer.eos_token_id:
            ids = [*ids, tokenizer.eos_token_id]
        input_ids = np.array(ids, dtype=np.int32)
        supervised = np.ones(len(ids), dtype=bool)
    else:
        input_ids = np.array(ids, dtype=np.int32)
        supervised = _overlaps(np.array(offsets).reshape(-1, 2), text.answers)
    is_image = input_ids == processor.image_token_id
    if int(is_image.sum()) != len(text.images):
        raise ValueError(
            f"{int(is_image.sum())} placeholders came out of a text with {len(text.images)} "
            "images. The chat template must write exactly the processor's image token for each "
            "image part."
        )
    supervised &= ~is_image
    supervised[:1] = False
    return EncodedDocument(input_ids, supervised, text.images, processor.image_token_id)


def _overlaps(offsets: np.ndarray, spans: list[tuple[int, int]]) -> np.ndarray:
    """Whether tokens share a character with a span, as transformers marks assistant tokens."""
    inside = np.zeros(len(offsets), dtype=bool)
    for start, stop in spans:
        inside |= (offsets[:, 0] < stop) & (offsets[:, 1] > start)
    return inside


def _per_token(is_image: np.ndarray, image_tokens: Sequence[int]) -> np.ndarray:
    found = int(is_image.sum())
    if found != len(image_tokens):
        raise ValueError(
            f"The document has {found} images, but token counts for {len(image_tokens)} were "
            "given. Give one per image; 0 removes an image."
        )
    repeats = np.ones(len(is_image), dtype=np.int64)
    repeats[is_image] = image_tokens
    return repeats
