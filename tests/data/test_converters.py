import base64
import json
from functools import partial

import pyarrow as pa
import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from mm1_hf.data.converters import (
    from_caption,
    from_llava,
    from_messages,
    from_mmc4,
    from_obelics,
    from_record,
    from_text,
    from_webdataset,
    to_caption,
    to_llava,
    to_messages,
    to_mmc4,
    to_obelics,
)
from mm1_hf.data.documents import Document, DocumentError, Image, Text

from . import odd_documents as odd


def _shape(document: Document) -> list:
    """Texts, and what images are read from."""
    return [
        s.text if isinstance(s, Text) else (s.image["bytes"] or s.image["path"])
        for s in document.segments
    ]


# There and back.


@given(odd.interleaved)
def test_parallel_lists_lose_nothing(document):
    assert from_obelics(to_obelics(document), source="s") == document


@given(odd.interleaved, st.sampled_from(["before", "after"]))
def test_sentences_with_images_lose_nothing(document, place):
    row = to_mmc4(document, image_place=place)
    assert from_mmc4(row, source="s", image_place=place) == document


@given(odd.captions)
def test_caption_pairs_lose_nothing(document):
    assert from_caption(to_caption(document), source="s") == document


@given(odd.conversations())
def test_messages_lose_nothing(document):
    assert from_messages(to_messages(document), source="s") == document


@given(odd.conversations())
def test_messages_lose_nothing_through_arrow(document):
    assume(document.segments)
    (row,) = pa.Table.from_pylist([to_messages(document)]).to_pylist()
    assert from_messages(row, source="s") == document


@given(odd.conversations())
def test_llava_loses_nothing_that_it_can_hold_and_refuses_the_rest(document):
    users_only = all(s.role == "user" for s in document.segments if isinstance(s, Image))
    literal = any(
        "<image>" in s.text for s in document.segments if isinstance(s, Text) and s.role == "user"
    )
    if users_only and not (document.images and literal):
        assert from_llava(to_llava(document), source="s") == document
    else:
        with pytest.raises(DocumentError, match="cannot hold"):
            to_llava(document)


@given(st.one_of(odd.interleaved, odd.conversations()))
def test_a_record_tells_its_format(document):
    convert = to_messages if document.kind == "conversation" else to_obelics
    assert from_record(convert(document), source="s") == document
    assert from_record(document.to_row(), source="elsewhere") == document


@pytest.mark.parametrize("name", odd.ODD_DOCUMENTS)
def test_odd_documents_survive_both_web_formats(name):
    document = odd.ODD_DOCUMENTS[name]
    assert from_obelics(to_obelics(document), source="web") == document
    assert from_mmc4(to_mmc4(document), source="web") == document


# Each format as it is found.


def test_obelics_rows_hold_urls_and_join_paragraphs():
    row = {
        "images": [None, None, "https://h/1.jpg", None],
        "texts": ["one", "two", None, "three"],
        "metadata": "[]",
    }
    document = from_obelics(row, source="web", key="7")
    assert _shape(document) == ["one\n\ntwo", "https://h/1.jpg", "three"]
    assert (document.key, document.kind) == ("7", "interleaved")


def test_mmc4_places_images_at_their_sentences_in_order():
    row = {
        "text_list": ["A.", "B.", "C."],
        "image_info": [
            {"image_name": "x.png", "raw_url": "https://h/x", "matched_text_index": 1},
            {"image_name": "y.png", "raw_url": "https://h/y", "matched_text_index": 1},
        ],
    }
    convert = partial(from_mmc4, row, source="web", key="7")
    assert _shape(convert()) == ["A.", "https://h/x", "https://h/y", "B. C."]
    assert _shape(convert(images="pics")) == ["A.", "pics/x.png", "pics/y.png", "B. C."]
    after = convert(image_place="after", images={"x.png": b"x", "y.png": b"y"})
    assert _shape(after) == ["A. B.", b"x", b"y", "C."]


def test_llava_records_place_images_in_human_messages_only():
    record = {
        "id": 12,
        "image": "coco/1.jpg",
        "conversations": [
            {"from": "human", "value": "<image>\nWhat?"},
            {"from": "gpt", "value": "A tag <image>."},
        ],
    }
    document = from_llava(record, source="llava", images="pics")
    assert _shape(document) == ["pics/coco/1.jpg", "\nWhat?", "A tag <image>."]
    assert [s.role for s in document.segments] == ["user", "user", "assistant"]
    assert document.key == "12"


def test_a_llava_record_without_images_is_text_whatever_it_says():
    record = {
        "id": "a",
        "image": None,
        "conversations": [{"from": "human", "value": "Write <image>"}],
    }
    assert _shape(from_llava(record, source="s")) == ["Write <image>"]


def test_messages_take_images_in_every_common_form():
    encoded = base64.b64encode(b"four").decode()
    parts = [
        {"type": "image", "image": b"one", "text": None},
        {"type": "image", "url": "https://h/two.jpg"},
        {"type": "image_url", "image_url": {"url": f"data:image/png;base64,{encoded}"}},
        {"type": "image", "base64": encoded},
        {"type": "image"},
        {"type": "text", "text": "How many <image>?"},
    ]
    row = {
        "id": "m",
        "messages": [
            {"role": "system", "content": "Be brief."},
            {"role": "user", "content": parts},
            {"role": "assistant", "content": None},
        ],
        "images": [b"five"],
    }
    document = from_messages(row, source="chat")
    assert _shape(document) == [
        "Be brief.",
        b"one",
        "https://h/two.jpg",
        b"four",
        b"four",
        b"five",
        "How many <image>?",
        "",
    ]


def test_captions_keep_literal_placeholders_as_text():
    document = from_caption({"image": b"1", "caption": "an <image>"}, source="s", key="k")
    assert document.segments == (Image(b"1"), Text("an <image>"))


@pytest.mark.parametrize(
    ("row", "kind"),
    [
        ({"image": b"1", "text": "a"}, "caption"),
        ({"file_name": "a.jpg", "text": "a"}, "caption"),
        ({"image": None, "text": "a"}, "text"),
        ({"text": ""}, "text"),
    ],
)
def test_a_record_of_two_fields_tells_its_format(row, kind):
    assert from_record(row, source="s", key="k").kind == kind


# WebDataset samples.


def test_a_sample_of_an_image_and_a_text_is_a_caption_with_its_url():
    row = {"__key__": "d/1", "jpg": b"1", "txt": "a", "json": {"url": "https://h/1.jpg"}}
    document = from_webdataset(row, source="tar")
    assert document.kind == "caption" and document.key == "d/1" and document.text == "a"
    assert document.images == ({"bytes": b"1", "path": "https://h/1.jpg"},)


def test_a_sample_whose_json_is_a_document_finds_its_images_by_name_and_extension():
    record = {"texts": ["a", None, None], "images": [None, "page.0.jpg", "1.png"]}
    row = {"__key__": "d/page", "json": record, "0.jpg": b"0", "1.png": b"1"}
    assert _shape(from_webdataset(row, source="tar")) == ["a", b"0", b"1"]
    row["json"] = {"texts": [None], "images": ["2.png"]}
    with pytest.raises(DocumentError, match=r"'2.png', but the images here are '0.jpg'"):
        from_webdataset(row, source="tar")


def test_a_sample_of_text_alone_is_text():
    assert from_webdataset({"__key__": "1", "txt": "a"}, source="tar").kind == "text"


@pytest.mark.parametrize("files", [{}, {"cls": b"3"}, {"1.jpg": b"1", "2.jpg": b"2", "txt": "a"}])
def test_a_sample_of_no_known_form_lists_its_files(files):
    with pytest.raises(DocumentError, match=", ".join(files) or "none"):
        from_webdataset({"__key__": "1", **files}, source="tar")


# Errors name source, row and field.


@pytest.mark.parametrize(
    ("convert", "row", "field", "found"),
    [
        (from_obelics, {"images": [None], "texts": []}, "images", "1 entries beside 0"),
        (from_obelics, {"images": [None], "texts": [None]}, "images[0]", "neither"),
        (from_obelics, {"images": [b"1"], "texts": ["a"]}, "images[0]", "an image and a text"),
        (from_obelics, {"images": [None], "texts": [3]}, "texts[0]", "3 of type int"),
        (from_obelics, {"images": [{}], "texts": [None]}, "images[0]", "neither bytes nor a path"),
        (from_obelics, {"texts": ["a"]}, "images", "nothing"),
        (from_obelics, {"texts": "a", "images": []}, "texts", "'a' of type str"),
        (
            from_mmc4,
            {"text_list": ["a"], "image_info": [{"matched_text_index": 1}]},
            "image_info[0].matched_text_index",
            "1 of type int",
        ),
        (
            from_mmc4,
            {"text_list": ["a"], "image_info": [{"matched_text_index": 0}]},
            "image_info[0].image_name",
            "NoneType",
        ),
        (from_mmc4, {"text_list": ["a"], "image_info": ["x"]}, "image_info[0]", "'x' of type str"),
        (from_caption, {"caption": "a"}, "image", "the row has 'caption'"),
        (from_caption, {"image": b"1"}, "caption", "nothing"),
        (from_caption, {"image": 5, "caption": "a"}, "image", "of type int"),
        (from_text, {"txt": "a"}, "text", "nothing"),
        (from_llava, {}, "conversations", "nothing"),
        (from_llava, {"conversations": [{"from": "bot"}]}, "conversations[0].from", "'bot'"),
        (from_llava, {"conversations": [{"from": "gpt"}]}, "conversations[0].value", "nothing"),
        (
            from_llava,
            {"image": "a.jpg", "conversations": [{"from": "human", "value": "no"}]},
            "image",
            "1 images for 0 placeholders",
        ),
        (
            from_llava,
            {"image": ["a.jpg"], "conversations": [{"from": "human", "value": "<image>" * 3}]},
            "image",
            "1 images for 3 placeholders",
        ),
        (from_messages, {"messages": [{"role": "tool"}]}, "messages[0].role", "'tool'"),
        (
            from_messages,
            {"messages": [{"role": "user", "content": [{"type": "video"}]}]},
            "messages[0].content[0]",
            "'video'",
        ),
        (
            from_messages,
            {"messages": [{"role": "user", "content": [{"type": "image"}]}]},
            "messages[0].content[0]",
            "one more in the row's 'images'",
        ),
        (from_messages, {"messages": [], "images": [b"1"]}, "images", "1 stand nowhere"),
    ],
)
def test_errors_name_source_row_and_field(convert, row, field, found):
    with pytest.raises(DocumentError) as error:
        convert(row, source="web", key="k7")
    message = str(error.value)
    for part in ("'k7'", "'web'", repr(field), found, "expected"):
        assert part in message, message


def test_a_record_of_no_known_format_lists_what_is_known():
    with pytest.raises(DocumentError, match=r"the fields pixels, but .* text_list and image_info"):
        from_record({"pixels": 1}, source="s", key="k")


def test_a_row_without_a_key_asks_for_one():
    with pytest.raises(DocumentError, match="Pass key="):
        from_text({"text": "a"}, source="s")


def test_a_row_that_is_no_mapping_is_an_error():
    with pytest.raises(DocumentError, match="of type list"):
        from_record(["a"], source="s", key="k")


@pytest.mark.parametrize("convert", [to_obelics, to_mmc4, to_caption])
def test_formats_without_roles_refuse_conversations(convert):
    document = Document(segments=(Text("a", "user", 0),), key="k", source="s", kind="conversation")
    with pytest.raises(DocumentError, match="'k'"):
        convert(document)


@pytest.mark.parametrize("convert", [to_messages, to_llava, to_caption])
def test_formats_of_another_shape_refuse_web_documents(convert):
    with pytest.raises(DocumentError, match="'page' of source 'web'"):
        convert(odd.web("a", b"1"))


def test_what_can_be_written_as_json_is():
    record = to_llava(
        Document(
            segments=(Image("a.jpg", "user", 0), Text("?", "user", 0)),
            key="k",
            source="s",
            kind="conversation",
        )
    )
    assert json.loads(json.dumps(record))["image"] == "a.jpg"
