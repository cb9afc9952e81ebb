import base64
import os
import pickle
import subprocess
import sys
from io import BytesIO
from pathlib import Path

import datasets
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image as Pictures

import mm1_hf
from mm1_hf.data.documents import (
    DOCUMENT_SCHEMA,
    Document,
    DocumentError,
    Image,
    Text,
    document_features,
    image_source,
    open_image_file,
)

from . import odd_documents as odd


def _read(image) -> bytes:
    with open_image_file(image) as file:
        return file.read()


def test_reading_documents_loads_neither_torch_nor_transformers():
    code = (
        "import sys, mm1_hf.data as d; d.TarSource, d.WebDocumentCleaner, d.from_llava;"
        "print(*{'torch', 'transformers', 'datasets'} & set(sys.modules), 'done')"
    )
    root = Path(mm1_hf.__file__).parents[1]
    path = os.pathsep.join(filter(None, [str(root), os.environ.get("PYTHONPATH")]))
    result = subprocess.run(
        [sys.executable, "-c", code],
        env={**os.environ, "PYTHONPATH": path},
        capture_output=True,
        text=True,
        check=False,
    )
    assert result.stdout.strip() == "done", result.stdout + result.stderr


# Rows.


@given(st.lists(odd.documents, max_size=4))
def test_rows_of_all_kinds_share_one_arrow_table_and_come_back(documents):
    table = pa.Table.from_pylist([d.to_row() for d in documents], schema=DOCUMENT_SCHEMA)
    assert [Document.from_row(row) for row in table.to_pylist()] == documents


@pytest.mark.parametrize("name", odd.ODD_DOCUMENTS)
def test_odd_documents_survive_parquet_and_pickle(name, tmp_path):
    document = odd.ODD_DOCUMENTS[name]
    table = pa.Table.from_pylist([document.to_row()], schema=DOCUMENT_SCHEMA)
    pq.write_table(table, tmp_path / "a.parquet")
    (row,) = pq.read_table(tmp_path / "a.parquet").to_pylist()
    assert Document.from_row(row) == document
    assert pickle.loads(pickle.dumps(document)) == document


def test_features_are_the_schema_and_show_images():
    assert document_features().arrow_schema.equals(DOCUMENT_SCHEMA)
    rows = [
        Document(segments=(Text("a"),), key="t", source="s", kind="text").to_row(),
        odd.web("b", odd.picture()).to_row(),
    ]
    dataset = datasets.Dataset.from_list(rows, features=document_features())
    assert [Document.from_row(row).to_row() for row in dataset] == rows
    assert dataset.features["segments"].feature["image"] == datasets.Image(decode=False)


def test_a_row_without_a_field_says_which():
    row = {**odd.web("a").to_row(), "kind": None}
    with pytest.raises(DocumentError, match=r"'page' of source 'web' has no kind"):
        Document.from_row(row)


@pytest.mark.parametrize("entry", [{}, {"text": "a", "image": b"b"}])
def test_a_segment_is_either_text_or_image(entry):
    row = {**odd.web("a").to_row(), "segments": [{"text": "a"}, entry]}
    with pytest.raises(DocumentError, match=r"'page' .*segments\[1\] has (both|neither)"):
        Document.from_row(row)


def test_a_bad_image_in_a_row_names_row_and_segment():
    row = {**odd.web("a").to_row(), "segments": [{"image": {"bytes": None, "path": None}}]}
    with pytest.raises(DocumentError, match=r"'page' .*segments\[0\].*neither bytes nor a path"):
        Document.from_row(row)


# Segments.


@given(odd.documents)
def test_no_two_texts_of_one_turn_are_adjacent(document):
    for first, second in zip(document.segments, document.segments[1:], strict=False):
        if isinstance(first, Text) and isinstance(second, Text):
            assert (first.role, first.turn) != (second.role, second.turn)


@given(st.lists(st.builds(Text, odd.texts)))
def test_merging_keeps_every_character(texts):
    document = Document(segments=tuple(texts), key="k", source="s", kind="text")
    assert document.text == "".join(text.text for text in texts)
    assert len(document.segments) <= 1


@given(odd.documents)
def test_construction_is_idempotent(document):
    again = Document(
        segments=document.segments, key=document.key, source=document.source, kind=document.kind
    )
    assert again == document


def test_a_message_without_text_does_not_vanish():
    segments = (Text("hi", "user", 0), Text("", "assistant", 3), Text("there", "user", 5))
    document = Document(segments=segments, key="k", source="s", kind="conversation")
    assert [(s.role, s.turn) for s in document.segments] == [
        ("user", 0),
        ("assistant", 1),
        ("user", 2),
    ]


def test_lone_surrogates_become_replacement_characters_and_pairs_characters():
    assert Text("a\ud83d b").text == "a\ufffd b"
    assert Text("\ud83d\ude00\udc00").text == "😀\ufffd"


@pytest.mark.parametrize(
    ("kind", "segments", "message"),
    [
        ("text", (Image(b"1"),), "1 images, but none"),
        ("caption", (Image(b"1"), Text("a"), Image(b"2")), "2 images and 1 texts"),
        ("page", (Text("a"),), "kind 'page'"),
        ("interleaved", (Text("a", "user", 0),), "only a conversation has roles"),
        ("interleaved", ("a",), "segment 0 of type str"),
        ("conversation", (Text("a"),), "role None"),
        ("conversation", (Text("a", "tool", 0),), "role 'tool'"),
        ("conversation", (Text("a", "user"),), "a turn is a whole number"),
        ("conversation", (Text("a", "user", 1), Text("b", "user", 0)), "do not go back"),
        ("conversation", (Text("a", "user", 0), Text("b", "system", 0)), "a turn has one role"),
    ],
)
def test_a_document_that_is_none_names_itself_and_what_is_wrong(kind, segments, message):
    with pytest.raises(DocumentError, match=message) as error:
        Document(segments=segments, key="k7", source="web", kind=kind)
    assert "'k7'" in str(error.value) and "'web'" in str(error.value)


# Images.


@pytest.mark.parametrize("form", [bytes, bytearray, memoryview])
def test_bytes_stay_bytes(form):
    assert image_source(form(b"")) == {"bytes": b"", "path": None}


def test_paths_stay_paths(tmp_path):
    assert image_source(tmp_path / "a.jpg") == {"bytes": None, "path": str(tmp_path / "a.jpg")}
    assert image_source({"bytes": None, "path": "a"}) == {"bytes": None, "path": "a"}
    assert image_source({"bytes": b"b", "path": "a"}) == {"bytes": b"b", "path": "a"}


def test_a_data_uri_is_bytes():
    uri = "data:image/png;base64," + base64.b64encode(b"\x01\x02").decode()
    assert image_source(uri) == {"bytes": b"\x01\x02", "path": None}


@pytest.mark.parametrize(
    "image", ["", {}, {"bytes": None, "path": None}, 7, np.zeros(3), None, "data:image/png,%20"]
)
def test_what_is_no_image_is_an_error(image):
    with pytest.raises(DocumentError, match="expected"):
        image_source(image)


def test_an_undecoded_pil_image_gives_its_file_and_can_still_be_decoded(tmp_path):
    content = odd.picture(form="JPEG")
    (tmp_path / "a.jpg").write_bytes(content)
    with Pictures.open(tmp_path / "a.jpg") as image:
        assert _read(image_source(image)) == content
        image.load()
    assert _read(image_source(Pictures.open(BytesIO(content)))) == content


def test_a_pil_image_that_was_drawn_upon_gives_what_was_drawn():
    frames = [Pictures.new("RGB", (8, 8), color) for color in ("red", "blue")]
    file = BytesIO()
    frames[0].save(file, "TIFF", save_all=True, append_images=frames[1:])
    # Some versions of Pillow keep a file of several frames open when one of them is decoded.
    for content in (odd.picture(form="JPEG"), file.getvalue()):
        image = Pictures.open(BytesIO(content))
        image.paste((1, 2, 3), (0, 0, 4, 4))
        stored = Pictures.open(BytesIO(_read(image_source(image))))
        assert np.array_equal(np.asarray(stored), np.asarray(image))


@pytest.mark.parametrize("mode", ["1", "L", "LA", "P", "RGB", "RGBA", "CMYK", "I;16", "F"])
def test_decoded_pixels_of_every_mode_are_kept(mode):
    image = Pictures.fromarray(np.arange(64, dtype=np.uint8).reshape(8, 8))
    image = Pictures.new("I;16", (8, 8), 700) if mode == "I;16" else image.convert(mode)
    stored = Pictures.open(BytesIO(_read(image_source(image))))
    assert stored.mode == mode
    assert np.array_equal(np.asarray(stored), np.asarray(image))


def test_the_orientation_of_a_decoded_photo_is_kept():
    exif = Pictures.Exif()
    exif[0x0112] = 6
    image = Pictures.open(BytesIO(odd.picture(12, 8, form="JPEG", exif=exif)))
    image.load()
    stored = Pictures.open(BytesIO(_read(image_source(image))))
    assert stored.getexif()[0x0112] == 6


def test_decoded_datasets_images_are_taken():
    column = {"image": [{"bytes": odd.picture(), "path": None}]}
    dataset = datasets.Dataset.from_dict(column).cast_column("image", datasets.Image())
    stored = Pictures.open(BytesIO(_read(image_source(dataset[0]["image"]))))
    assert np.array_equal(np.asarray(stored), np.asarray(dataset[0]["image"]))
