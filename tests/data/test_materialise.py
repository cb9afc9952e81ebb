"""Every kind of bad file, before and after measuring, raised or skipped."""

import functools
import io
import json
import logging
import tempfile

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from torch.utils.data import DataLoader

from mm1_hf.data import JsonlSource, MemorySource, Mixture, MM1Collator, PackedDataset
from mm1_hf.data.errors import BadDataError, ErrorPolicy
from mm1_hf.data.materialise import WantedImage, load_images

from . import odd_documents as odd
from . import small_corpus as corpus

PAGES = 8
SKIP = ErrorPolicy(mode="skip", budget_per_source=1.0)


def _bomb() -> bytes:
    """A PNG that promises 30,000 x 30,000 pixels."""
    file = io.BytesIO()
    Image.new("1", (30_000, 30_000)).save(file, "PNG")
    return file.getvalue()


def _flipped(content: bytes) -> bytes:
    middle = len(content) // 2
    return content[:middle] + bytes(64) + content[middle + 64 :]


WHOLE = corpus.picture(7, kind="PNG")
# Bytes (None: no file), reason when decoded, whether the header already tells.
BAD_FILES = {
    "missing": (None, "missing", True),
    "zero_bytes": (b"", "empty", True),
    "html": (b"<html>404 not found</html>" * 20, "not_an_image", True),
    "two_bytes": (b"\xff\xd8", "not_an_image", True),
    "truncated_png": (WHOLE[: len(WHOLE) // 2], "truncated", False),
    "truncated_jpeg": (corpus.picture(7)[:700], "truncated", False),
    "flipped_png": (_flipped(WHOLE), "corrupt", False),
    "bomb": (_bomb(), "too_large", True),
}


@pytest.fixture(scope="module")
def processor():
    return corpus.make_processor()


@pytest.fixture
def folder(tmp_path):
    """Pages of text, picture, text, picture, text; the pictures are files."""
    (tmp_path / "files").mkdir()
    with (tmp_path / "pages.jsonl").open("w") as lines:
        for number in range(PAGES):
            names = [f"{number}-{nth}.png" for nth in range(2)]
            for nth, name in enumerate(names):
                content = corpus.picture(10 * number + nth, kind="PNG")
                (tmp_path / "files" / name).write_bytes(content)
            texts = ["begin ", None, "middle ", None, "end"]
            row = {"texts": texts, "images": [None, names[0], None, names[1], None]}
            lines.write(json.dumps({"key": f"page-{number}", **row}) + "\n")
    return tmp_path


def open_pages(folder, processor, **changes) -> PackedDataset:
    source = JsonlSource(folder / "pages.jsonl", name="web", images=folder / "files")
    settings = {"num_sequences": 4, "cache_folder": folder / "cache", "sequence_length": 64}
    return PackedDataset(Mixture({source: 1}), processor, **{**settings, **changes})


def damage(folder, name: str, content: bytes | None) -> None:
    path = folder / "files" / name
    path.unlink() if content is None else path.write_bytes(content)


def document_in(dataset, key: str) -> dict:
    """The first piece of a document, as a pack of its own."""
    for index in range(len(dataset)):
        for part in corpus.documents_of(dataset[index], dataset.processor):
            if part["document_keys"] == [key]:
                return part
    raise AssertionError(f"{key} is in no pack")


@pytest.mark.parametrize("kind", BAD_FILES)
def test_a_skipped_image_takes_its_placeholders_and_pixels_with_it(folder, processor, kind):
    content, reason, _ = BAD_FILES[kind]
    dataset = open_pages(folder, processor, errors=SKIP)
    before = document_in(dataset, "page-3")
    damage(folder, "3-0.png", content)
    after = document_in(dataset, "page-3")

    first = np.flatnonzero(before["input_ids"] == processor.image_token_id)[:4]
    for name in ("input_ids", "labels"):
        assert np.array_equal(after[name], np.delete(before[name], first))
    assert np.array_equal(after["position_ids"], np.arange(len(after["input_ids"])))
    assert np.array_equal(after["pixel_values"], before["pixel_values"][1:])
    assert dataset.errors.counts() == {"web": {reason: 1}}


@pytest.mark.parametrize("kind", [kind for kind in BAD_FILES if BAD_FILES[kind][2]])
def test_what_was_bad_before_measuring_is_counted_too(folder, processor, kind):
    content, reason, _ = BAD_FILES[kind]
    damage(folder, "3-0.png", content)
    dataset = open_pages(folder, processor, errors=SKIP)
    assert len(document_in(dataset, "page-3")["pixel_values"]) == 1
    assert dataset.errors.counts() == {"web": {reason: 1}}
    (record,) = dataset.errors.records()
    assert (record["key"], record["place"][2]) == ("page-3", 0)


@pytest.mark.parametrize("kind", BAD_FILES)
def test_raise_names_the_document_and_the_image(folder, processor, kind):
    dataset = open_pages(folder, processor)
    damage(folder, "3-1.png", BAD_FILES[kind][0])
    with pytest.raises(BadDataError, match="Image 1 of document 'page-3' of source 'web'"):
        [dataset[index] for index in range(len(dataset))]


def test_a_log_line_names_the_document(folder, processor, caplog):
    dataset = open_pages(folder, processor, errors=SKIP)
    damage(folder, "3-0.png", None)
    with caplog.at_level(logging.WARNING, "mm1_hf.data.errors"):
        document_in(dataset, "page-3")
    assert "page-3" in caplog.text and "3-0.png" in caplog.text


def test_a_document_of_which_nothing_is_left_leaves_the_pack(folder, processor):
    rows = [{"key": "p", "texts": ["some text", None], "images": [None, "1-0.png"]}]
    (folder / "pages.jsonl").write_text("\n".join(json.dumps(row) for row in rows))
    dataset = open_pages(folder, processor, errors=SKIP, sequence_length=4, num_sequences=8)
    damage(folder, "1-0.png", None)
    items = [dataset[index] for index in range(len(dataset))]
    # The picture fills a pack alone, which is now empty.
    empty = [item for item in items if not item["document_keys"]]
    assert empty and all(len(item["input_ids"]) == 0 for item in empty)
    assert MM1Collator(processor)(empty[:1])["input_ids"].shape == (1, 1)


def test_workers_count_together_and_stop_over_the_budget(folder, processor):
    for number in range(4):
        damage(folder, f"{number}-0.png", b"")
    enough = ErrorPolicy(mode="skip", budget_per_source=4)
    dataset = open_pages(folder, processor, errors=enough)

    def load(dataset):
        collate = MM1Collator(processor)
        context = {"num_workers": 2, "multiprocessing_context": "fork"}
        return list(DataLoader(dataset, batch_size=1, collate_fn=collate, **context))

    places = {
        (piece.document, index)
        for index, pack in enumerate(dataset.plan)
        for piece in pack.pieces
        if piece.document < 4
    }
    assert len(places) == 4, "each bad file is met once"
    load(dataset)
    assert dataset.errors.counts() == {"web": {"empty": 4}}
    load(dataset)
    assert dataset.errors.counts() == {"web": {"empty": 4}}, "a second time is no new error"

    strict = ErrorPolicy(mode="skip", budget_per_source=3)
    with pytest.raises(BadDataError, match=r"'web' has 4 .*4 empty.*budget is 3 of the"):
        open_pages(folder, processor, errors=strict)
    # Five packs meet a bad file twice, and two workers may meet theirs in the same moment.
    fresh = open_pages(folder, processor, errors=strict, num_sequences=5)
    with pytest.raises(
        BadDataError, match=r"'web' has [45] .*last in document 'page-\d'.*budget is 3"
    ):
        load(fresh)


def test_a_document_that_changed_since_it_was_measured_is_no_silent_shift(folder, processor):
    dataset = open_pages(folder, processor, errors=SKIP)
    source = dataset._sources["web"]
    document = source[3]
    longer = type(document)(
        segments=document.segments[:-1], key=document.key, source="web", kind="interleaved"
    )
    dataset._sources["web"] = [longer if n == 3 else source[n] for n in range(PAGES)]
    keys = [key for index in range(len(dataset)) for key in dataset[index]["document_keys"]]
    assert "page-3" not in keys
    assert dataset.errors.counts()["web"] == {"changed": 1}


def load(processor, content: bytes, *, num_tiles: int):
    image = WantedImage(0, {"bytes": content, "path": None}, num_tiles)
    return load_images([image], processor.image_processor, pixels="uint8")


def test_an_image_that_makes_other_tiles_than_were_planned_is_refused(processor):
    loaded = load(processor, WHOLE, num_tiles=5)
    assert loaded.tiles is None
    assert "makes 1 tiles, but 5 were measured" in str(loaded.bad[0])


@pytest.mark.parametrize("length", range(0, len(WHOLE), 97))
def test_a_picture_cut_anywhere_is_bad_data_and_nothing_else(processor, length):
    loaded = load(processor, WHOLE[:length], num_tiles=1)
    assert loaded.tiles is None
    assert list(loaded.bad) == [0]


def test_text_that_cannot_be_encoded_any_more_leaves_the_other_documents_alone(folder, processor):
    dataset = open_pages(folder, processor, errors=SKIP)
    whole = [key for index in range(len(dataset)) for key in dataset[index]["document_keys"]]
    token = "\N{SNOWMAN}"
    processor = dataset.processor = corpus.make_processor()
    processor.tokenizer.add_tokens([token], special_tokens=True)
    source = dataset._sources["web"]
    row = source[3].to_row()
    row["segments"][0]["text"] += token
    bad = type(source[3]).from_row(row)
    dataset._sources["web"] = [bad if n == 3 else source[n] for n in range(PAGES)]
    keys = [key for index in range(len(dataset)) for key in dataset[index]["document_keys"]]
    assert keys == [key for key in whole if key != "page-3"]
    assert dataset.errors.counts() == {"web": {"unreadable": 1}}


@functools.lru_cache(maxsize=16)
def tiling_processor(tiling: str, markers: str):
    return corpus.make_processor(tiling=tiling, markers=markers)


@st.composite
def pages(draw):
    """A document of texts and pictures of any shape, as parts."""
    parts = []
    for _ in range(draw(st.integers(0, 4))):
        height, width = draw(st.tuples(st.integers(1, 90), st.integers(1, 90)))
        parts += [odd.picture(width, height, seed=height), draw(st.text("ab \u05e9", max_size=30))]
    return [*parts, "end"]


@settings(max_examples=60)
@given(
    documents=st.lists(pages(), min_size=1, max_size=4),
    tiling=st.sampled_from(["none", "static", "dynamic"]),
    markers=st.sampled_from(["none", "index", "separators"]),
    budget=st.sampled_from([None, 20, 60]),
)
def test_pieces_are_those_of_what_the_processor_makes_of_the_document(
    documents, tiling, markers, budget
):
    processor = tiling_processor(tiling, markers)
    source = MemorySource(
        [odd.web(*parts, key=str(number)) for number, parts in enumerate(documents)], name="web"
    )
    with tempfile.TemporaryDirectory() as folder:
        dataset = PackedDataset(
            Mixture({source: 1}),
            processor,
            num_sequences=6,
            cache_folder=folder,
            sequence_length=80,
            max_images=3,
            window=2,
            pixels="float",
            max_image_tokens=budget,
        )
        items = [dataset[index] for index in range(len(dataset))]
    whole = {}
    for number, parts in enumerate(documents):
        text, images = processor.interleave(
            [part if isinstance(part, str) else Image.open(io.BytesIO(part)) for part in parts]
        )
        least = len(images) * corpus.TOKENS_PER_TILE
        caps = {} if budget is None else {"max_image_tokens": max(budget, least)}
        made = processor(text=text, images=[images] if images else None, **caps)
        ids = np.array([*made["input_ids"][0], processor.tokenizer.eos_token_id])
        whole[number] = ids, made.get("pixel_values")
    for item, pack in zip(items, dataset.plan, strict=True):
        assert len(item["input_ids"]) == pack.tokens
        assert len(item["tiles_per_image"]) == pack.images
        first = first_tile = 0
        for piece in pack.pieces:
            ids, pixels = whole[piece.document]
            last = first + piece.stop - piece.start
            assert np.array_equal(item["input_ids"][first:last], ids[piece.start : piece.stop])
            labels = item["labels"][first:last]
            kept = np.isin(item["input_ids"][first:last], processor.image_token_ids)
            assert not (labels[kept] >= 0).any()
            is_tile = ids == processor.image_token_id
            before, behind = (
                int(is_tile[:at].sum()) // corpus.TOKENS_PER_TILE
                for at in (piece.start, piece.stop)
            )
            last_tile = first_tile + behind - before
            if behind > before:
                tiles = item["pixel_values"][first_tile:last_tile]
                assert np.array_equal(tiles, np.asarray(pixels)[before:behind])
            first, first_tile = last, last_tile
        assert first_tile == len(item["pixel_values"])


@pytest.mark.parametrize("markers", ["index", "separators"])
def test_a_skipped_image_takes_its_markers_with_it_and_leaves_the_others_theirs(folder, markers):
    processor = corpus.make_processor(tiling="dynamic", markers=markers)
    dataset = open_pages(folder, processor, errors=SKIP, sequence_length=256, num_sequences=8)
    before = document_in(dataset, "page-3")
    damage(folder, "3-0.png", b"")
    after = document_in(dataset, "page-3")
    is_image = np.isin(before["input_ids"], processor.image_token_ids)
    (text_after_first,) = np.flatnonzero(np.diff(is_image.astype(int)) == -1)[:1]
    first = np.flatnonzero(is_image[: text_after_first + 1])
    assert len(first) > 5 * corpus.TOKENS_PER_TILE - 1
    assert np.array_equal(after["input_ids"], np.delete(before["input_ids"], first))
    tiles = before["tiles_per_image"][0]
    assert np.array_equal(after["pixel_values"], before["pixel_values"][tiles:])


def test_what_a_budget_lowered_is_in_the_plan(folder):
    processor = corpus.make_processor(tiling="static")
    dataset = open_pages(folder, processor, max_image_tokens=25, sequence_length=128)
    entry = dataset.plan.report["web"]
    assert entry.lowered_images == entry.documents > 0
    tiles = np.concatenate([dataset[index]["tiles_per_image"] for index in range(len(dataset))])
    assert sorted({*tiles.tolist()}) == [1, 5]
    assert (
        open_pages(folder, processor, cache_folder=folder / "other")
        .plan.report["web"]
        .lowered_images
        == 0
    )
