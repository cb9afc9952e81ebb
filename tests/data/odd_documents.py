"""Documents as the web has them: drawn at random, and one of every odd kind."""

from io import BytesIO

import numpy as np
from hypothesis import strategies as st
from PIL import Image as Pictures

from mm1_hf.data.documents import Document, Image, Text

ODD_TEXTS = (
    "",
    " ",
    "<image>",
    "see <image> here <image>",
    "שלום עולם \u202eabc\u202c",
    "👩‍👩‍👧‍👦 👋🏽 🇫🇷",
    "line\nline\r\n\tline",
    "</s><s>[INST]",
    "nul \x00 inside",
    "\ufeffbom",
    "e\u0301 \u1e9b\u0323",
)


def picture(
    width: int = 8, height: int = 8, *, seed: int = 0, form: str = "PNG", **options
) -> bytes:
    pixels = np.random.default_rng(seed).integers(0, 255, (height, width, 3), dtype=np.uint8)
    file = BytesIO()
    Pictures.fromarray(pixels).save(file, form, **options)
    return file.getvalue()


def web(*segments: str | bytes | dict, key: str = "page") -> Document:
    """An interleaved document of strings (texts) and bytes or dicts (images)."""
    return Document(
        segments=tuple(Text(s) if isinstance(s, str) else Image(s) for s in segments),
        key=key,
        source="web",
        kind="interleaved",
    )


ODD_DOCUMENTS = {
    "nothing": web(),
    "no text": web(b"\x89PNG"),
    "only images": web(b"1", b"2", b"3"),
    "200 images": web(*(f"{n}".encode() for n in range(200))),
    "zero bytes": web("before ", b"", " after"),
    "empty strings": web("", b"1", "", b"2", ""),
    "literal placeholder": web("<image>", b"1", "a <image> b<image>"),
    "right to left": web("שלום", b"1", "مرحبا"),
    "emoji": web("👩‍👩‍👧‍👦", b"1", "🇫🇷"),
    "missing file": web("x", {"bytes": None, "path": "gone.jpg"}),
}

texts = st.text(max_size=12) | st.sampled_from(ODD_TEXTS)
keys = st.text(min_size=1, max_size=8)
image_files = st.one_of(
    st.builds(lambda b: {"bytes": b, "path": None}, st.binary(max_size=6)),
    st.builds(lambda p: {"bytes": None, "path": p}, st.sampled_from(["a.jpg", "b/c.png"])),
    st.just({"bytes": b"x", "path": "https://host/d.jpg"}),
)


def _segments():
    text = st.builds(Text, texts)
    return st.lists(text | st.builds(Image, image_files), max_size=6)


@st.composite
def conversations(draw) -> Document:
    turns = draw(
        st.lists(
            st.tuples(st.sampled_from(["system", "user", "assistant"]), _segments()), max_size=4
        )
    )
    segments = []
    for number, (role, drawn) in enumerate(turns):
        for segment in drawn or [Text("")]:
            content = segment.text if isinstance(segment, Text) else segment.image
            segments.append(type(segment)(content, role, number))
    return Document(segments=tuple(segments), key=draw(keys), source="s", kind="conversation")


interleaved = st.builds(
    Document,
    segments=_segments().map(tuple),
    key=keys,
    source=st.just("s"),
    kind=st.just("interleaved"),
)
captions = st.builds(
    Document,
    segments=st.tuples(st.builds(Image, image_files), st.builds(Text, texts)),
    key=keys,
    source=st.just("s"),
    kind=st.just("caption"),
)
plain_texts = st.builds(
    Document,
    segments=st.tuples(st.builds(Text, texts)),
    key=keys,
    source=st.just("s"),
    kind=st.just("text"),
)
documents = st.one_of(interleaved, captions, plain_texts, conversations())
