"""Laws of lengths: what is measured is what is made; stale is refused; killed is continued."""

import json
from pathlib import Path

import numpy as np
import pytest

from mm1_hf.data import measuring
from mm1_hf.data.documents import Document, Image, Text
from mm1_hf.data.encoding import encode, expand
from mm1_hf.data.lengths import DocumentLengths
from mm1_hf.data.measuring import fingerprint, measure_lengths, measure_shard, plan_shards
from mm1_hf.data.sources import MemorySource
from mm1_hf.model.sample_plan_mm1 import MARKER_TOKENS

from . import odd_documents as odd
from .small_corpus import TOKENS_PER_TILE, make_processor

ARRAYS = (
    *("tokens", "images", "lowered", "offsets"),
    *("run_tokens", "run_is_image", "run_tiles", "run_targets"),
)


@pytest.fixture(scope="module")
def processor():
    return make_processor(tiling="static")


def readable_documents() -> list[Document]:
    images = [
        {"bytes": odd.picture(width, height, form=form), "path": None}
        for width, height, form in [(8, 8, "PNG"), (30, 9, "JPEG"), (9, 300, "PNG")]
    ]
    pages = [
        odd.web(),
        odd.web(images[0]),
        odd.web("a <image> b", images[1], images[2], "שלום"),
        odd.web("", images[0], "", images[0], key="two"),
        odd.web("👩‍👩‍👧‍👦"),
    ]
    chat = (
        Image(images[1], "user", 0),
        Text("what?", "user", 0),
        Text("this", "assistant", 1),
    )
    return [*pages, Document(segments=chat, key="c", source="web", kind="conversation")] * 3


def source_of(documents, name="web") -> MemorySource:
    return MemorySource(documents, name=name)


def same(left: DocumentLengths, right: DocumentLengths) -> bool:
    return all(np.array_equal(getattr(left, name), getattr(right, name)) for name in ARRAYS)


def test_measured_tokens_are_those_that_the_processor_makes(processor, tmp_path):
    documents = readable_documents()
    lengths = measure_lengths(source_of(documents), processor, tmp_path / "lengths")
    for number, document in enumerate(documents):
        encoded = encode(document, processor)
        runs = lengths.runs(number)
        expanded = expand(encoded, runs.image_tokens)
        assert lengths.tokens[number] == len(expanded.input_ids) == runs.tokens.sum()
        assert lengths.images[number] == len(encoded.images)
        assert runs.image_tokens.tolist() == [5 * TOKENS_PER_TILE] * len(encoded.images)
        if encoded.images:
            files = [image["bytes"] for image in encoded.images]
            made = processor(text=processor.image_token * len(files), images=files)
            assert runs.tiles.sum() == len(made["pixel_values"])


def test_sharding_and_processes_change_nothing(processor, tmp_path):
    source = source_of(readable_documents())
    whole = measure_lengths(source, processor, tmp_path / "whole")
    sharded = measure_lengths(source, processor, tmp_path / "sharded", documents_per_shard=4)
    assert same(whole, sharded)
    assert sorted(p.name for p in tmp_path.iterdir()) == ["sharded", "whole"]


@pytest.mark.slow
def test_measuring_in_processes_changes_nothing(processor, tmp_path):
    source = source_of(readable_documents())
    whole = measure_lengths(source, processor, tmp_path / "whole")
    parallel = measure_lengths(
        source, processor, tmp_path / "parallel", documents_per_shard=9, num_processes=2
    )
    assert same(whole, parallel)


def test_a_killed_measuring_continues_with_the_next_shard(processor, tmp_path, monkeypatch):
    source = source_of(readable_documents())
    whole = measure_lengths(source, processor, tmp_path / "whole")
    shards = plan_shards(source, tmp_path / "killed", documents_per_shard=5)
    for shard in shards[:2]:
        measure_shard(source, processor, shard)
    measured = []
    encode_many = measuring.encode_many

    def counting(documents, processor):
        measured.extend(documents)
        return encode_many(documents, processor)

    monkeypatch.setattr(measuring, "encode_many", counting)
    resumed = measure_lengths(source, processor, tmp_path / "killed", documents_per_shard=5)
    assert same(whole, resumed)
    assert len(measured) == len(source) - 10


def test_an_interrupted_shard_leaves_nothing_behind(processor, tmp_path, monkeypatch):
    source = source_of(readable_documents())

    def interrupt(*_, **__):
        raise KeyboardInterrupt

    monkeypatch.setattr(measuring, "length_arrays", interrupt)
    with pytest.raises(KeyboardInterrupt):
        measure_lengths(source, processor, tmp_path / "lengths")
    assert not [path for path in tmp_path.rglob("*") if path.is_file()]


def test_finished_lengths_are_opened_and_not_measured_again(processor, tmp_path, monkeypatch):
    source = source_of(readable_documents())
    first = measure_lengths(source, processor, tmp_path / "lengths")
    monkeypatch.setattr(measuring, "encode_many", None)
    assert same(first, measure_lengths(source, processor, tmp_path / "lengths"))


def change_tiling():
    return make_processor(tiling="none")


def change_template():
    processor = make_processor(tiling="static")
    processor.chat_template += " "
    return processor


def change_vocabulary():
    processor = make_processor(tiling="static")
    processor.tokenizer.add_tokens(["new"])
    return processor


def change_tokens_per_tile():
    processor = make_processor(tiling="static")
    processor.num_image_tokens += 1
    return processor


def change_markers():
    """The same tokenizer, the markers not in use."""
    processor = make_processor(tiling="static")
    processor.tokenizer.add_tokens(list(MARKER_TOKENS["index"]), special_tokens=True)
    processor.markers = "index"
    return processor


@pytest.mark.parametrize(
    "change",
    [change_tiling, change_template, change_vocabulary, change_tokens_per_tile, change_markers],
)
def test_stale_lengths_are_refused(processor, tmp_path, change):
    source = source_of(readable_documents())
    measure_lengths(source, processor, tmp_path / "lengths")
    with pytest.raises(ValueError, match="stale"):
        measure_lengths(source, change(), tmp_path / "lengths")


@pytest.mark.parametrize("setting", ["min_tiles", "max_tiles", "max_split_images"])
def test_settings_of_dynamic_tiling_make_lengths_stale(tmp_path, setting):
    source = source_of(readable_documents())
    measure_lengths(source, make_processor(tiling="dynamic"), tmp_path / "lengths")
    changed = make_processor(tiling="dynamic", **{setting: 5})
    with pytest.raises(ValueError, match="stale"):
        measure_lengths(source, changed, tmp_path / "lengths")


def test_another_budget_makes_lengths_stale(processor, tmp_path):
    source = source_of(readable_documents())
    measure_lengths(source, processor, tmp_path / "lengths", max_image_tokens=40)
    for other in (None, 41):
        with pytest.raises(ValueError, match=r"stale.*max_image_tokens"):
            measure_lengths(source, processor, tmp_path / "lengths", max_image_tokens=other)
    with pytest.raises(ValueError, match="max_image_tokens is 0"):
        measure_lengths(source, processor, tmp_path / "none", max_image_tokens=0)


def test_a_document_is_one_sample(tmp_path):
    """Three images are left whole and two are cut; an unreadable one does not count."""
    processor = make_processor(tiling="dynamic", markers="index")
    image = {"bytes": odd.picture(40, 40), "path": None}
    documents = [odd.web(*[image] * 2), odd.web(*[image] * 3), odd.web(image, b"", image)]
    lengths = measure_lengths(
        source_of(documents), processor, tmp_path / "lengths", on_error="skip"
    )
    tiles = [[n for n in lengths.runs(d).tiles.tolist() if n] for d in range(3)]
    assert tiles == [[5, 5], [1, 1, 1], [5, 5]]
    assert lengths.runs(0).image_tokens.tolist() == [5 * (TOKENS_PER_TILE + 3)] * 2


def test_what_a_budget_lowers_is_counted_and_logged(processor, tmp_path, caplog):
    image = {"bytes": odd.picture(40, 40), "path": None}
    documents = [odd.web(*[image] * number) for number in (1, 2, 9)]
    budget = 6 * TOKENS_PER_TILE
    with caplog.at_level("WARNING", "mm1_hf.data.measuring"):
        lengths = measure_lengths(
            source_of(documents), processor, tmp_path / "lengths", max_image_tokens=budget
        )
    assert lengths.lowered.tolist() == [0, 1, 9]
    assert lengths.runs(1).tiles.tolist()[:2] == [1, 5]
    assert lengths.images.tolist() == [1, 2, 9], "no image is left out"
    assert "Source 'web': 10 images have fewer tiles" in caplog.text
    meta = json.loads((tmp_path / "lengths" / "meta.json").read_text())
    assert meta["lowered"] == {"images": 10}
    unlimited = measure_lengths(source_of(documents), processor, tmp_path / "unlimited")
    assert not unlimited.lowered.any()


def test_markers_that_cannot_number_a_document_are_an_error_or_counted(tmp_path):
    processor = make_processor(tiling="static", markers="index")
    image = {"bytes": odd.picture(), "path": None}
    source = source_of([odd.web(*[image] * 33, key="many")])
    with pytest.raises(ValueError, match=r"'many' of source 'web', image 32: its number"):
        measure_lengths(source, processor, tmp_path / "raising")
    lengths = measure_lengths(source, processor, tmp_path / "lengths", on_error="skip")
    assert lengths.tokens.tolist() == [0]


def test_other_documents_make_lengths_stale(processor, tmp_path):
    documents = readable_documents()
    measure_lengths(source_of(documents), processor, tmp_path / "lengths")
    with pytest.raises(ValueError, match="stale"):
        measure_lengths(source_of(documents[1:]), processor, tmp_path / "lengths")


def test_stale_shards_are_refused(processor, tmp_path):
    source = source_of(readable_documents())
    shard = plan_shards(source, tmp_path / "lengths")[0]
    measure_shard(source, change_tiling(), shard)
    with pytest.raises(ValueError, match="stale"):
        measure_shard(source, processor, shard)


def test_using_a_tokenizer_does_not_make_lengths_stale():
    processor = make_processor()
    source = source_of(readable_documents())
    before = fingerprint(source, processor)
    processor.tokenizer(["a", "b c d"], padding=True, truncation=True, max_length=2)
    assert fingerprint(source, processor) == before


def bad_documents() -> list[Document]:
    return [
        odd.web("ok", {"bytes": odd.picture(), "path": None}, key="good"),
        odd.web("before ", b"", " after", key="zero bytes"),
        odd.web("x", {"bytes": None, "path": "gone.jpg"}, key="missing"),
        odd.web("x", b"no picture at all", key="junk"),
        odd.web("x", odd.picture()[:20], key="half a header"),
    ]


@pytest.mark.parametrize("bad", [1, 2, 3, 4])
def test_an_unreadable_header_is_raised_with_image_and_document(processor, tmp_path, bad):
    document = bad_documents()[bad]
    with pytest.raises(ValueError, match=f"(?i)image 0 of document '{document.key}'"):
        measure_lengths(source_of([document]), processor, tmp_path / "lengths")


def test_a_skipped_image_takes_its_placeholder_with_it_and_is_counted(processor, tmp_path):
    documents = bad_documents()
    lengths = measure_lengths(
        source_of(documents), processor, tmp_path / "lengths", on_error="skip"
    )
    assert lengths.images.tolist() == [1, 0, 0, 0, 0]
    for number, document in enumerate(documents):
        expanded = expand(encode(document, processor), lengths.runs(number).image_tokens)
        assert lengths.tokens[number] == len(expanded.input_ids)
    meta = json.loads((tmp_path / "lengths" / "meta.json").read_text())
    assert meta["unreadable"] == {"images": 4}
    assert "'junk'" in "".join(meta["examples"])


class BrokenSource(MemorySource):
    def __getitem__(self, index):
        if index == 1:
            raise KeyError("broken row")
        return super().__getitem__(index)


def test_a_document_that_cannot_be_read_has_no_tokens_and_is_counted(processor, tmp_path):
    source = BrokenSource(readable_documents()[:3], name="web")
    with pytest.raises(KeyError):
        measure_lengths(source, processor, tmp_path / "raising")
    lengths = measure_lengths(source, processor, tmp_path / "lengths", on_error="skip")
    assert (lengths.tokens == 0).tolist() == [False, True, False]
    meta = json.loads((tmp_path / "lengths" / "meta.json").read_text())
    assert meta["unreadable"] == {"documents": 1}


def test_only_the_header_of_a_file_is_read(processor, tmp_path, monkeypatch):
    path = tmp_path / "large.jpg"
    path.write_bytes(odd.picture(300, 300, form="JPEG"))
    monkeypatch.setattr(Path, "read_bytes", None)
    monkeypatch.setattr("PIL.ImageFile.ImageFile.load", None)
    document = odd.web({"bytes": None, "path": str(path)})
    lengths = measure_lengths(source_of([document]), processor, tmp_path / "lengths")
    assert lengths.images.tolist() == [1]


def test_saved_lengths_come_back(tmp_path):
    made = DocumentLengths.from_runs([[(144, 1), (20, 0)], [], [(700, 0)]], fingerprint="f")
    made.save(tmp_path / "lengths")
    assert same(made, DocumentLengths.open(tmp_path / "lengths", fingerprint="f"))
    with pytest.raises(ValueError, match="stale"):
        DocumentLengths.open(tmp_path / "lengths", fingerprint="g")
    with pytest.raises(ValueError, match="no finished lengths"):
        DocumentLengths.open(tmp_path / "nowhere")


def test_a_document_too_long_for_the_types_is_an_error():
    with pytest.raises(ValueError, match="images is 70,000"):
        DocumentLengths.from_runs([[(1, 1)] * 70_000])
