import multiprocessing
import pickle

import numpy as np
import pytest
import torch
from torch.utils.data import DataLoader

from mm1_hf.data import (
    ErrorPolicy,
    JsonlSource,
    MemorySource,
    Mixture,
    MM1Collator,
    PackedDataset,
)
from mm1_hf.data.collators import IGNORED
from mm1_hf.data.documents import Document, Image, Text
from mm1_hf.data.lengths import DocumentLengths
from mm1_hf.model.packed_attention_mm1 import PACKED_SDPA, register_packed_sdpa

from . import small_corpus as corpus


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("corpus")
    corpus.write_corpus(folder)
    return folder


@pytest.fixture(scope="module")
def processor():
    return corpus.make_processor()


def open_dataset(folder, processor, *, unit="sequence", **changes) -> PackedDataset:
    settings = {
        "num_sequences": 16,
        "cache_folder": folder / "cache",
        "sequence_length": corpus.SEQUENCE_LENGTH,
        "max_images": 8,
    }
    return PackedDataset(
        corpus.open_mixture(folder, unit=unit), processor, **{**settings, **changes}
    )


def equal(first: dict, second: dict) -> bool:
    arrays = ("input_ids", "labels", "position_ids", "pixel_values", "tiles_per_image")
    return (
        all(np.array_equal(first[name], second[name]) for name in arrays)
        and all(first[name].dtype == second[name].dtype for name in arrays)
        and first["document_keys"] == second["document_keys"]
        and first["sources"] == second["sources"]
    )


def by_processor(document, processor) -> tuple[list[int], torch.Tensor | None]:
    """Ids and pixels of one document as the processor alone makes them."""
    parts = [
        corpus.open_picture(s.image) if isinstance(s, Image) else s.text for s in document.segments
    ]
    text, images = processor.interleave(parts)
    inputs = processor(text=text, images=images or None)
    ids = [*inputs["input_ids"][0], processor.tokenizer.eos_token_id]
    return ids, inputs.get("pixel_values")


@pytest.mark.parametrize("unit", ["sequence", "document", "token"])
def test_a_pack_holds_what_the_processor_makes_of_each_document_alone(folder, processor, unit):
    dataset = open_dataset(folder, processor, unit=unit, pixels="float")
    sources = {leaf.name: leaf.source for leaf in corpus.open_mixture(folder).leaves}
    for index in range(4):
        item, planned = dataset[index], dataset.plan[index]
        alone = [
            by_processor(sources[piece.source][piece.document], processor)
            for piece in planned.pieces
        ]
        ids = [token for ids, _ in alone for token in ids]
        pixels = [torch.as_tensor(pixels) for _, pixels in alone if pixels is not None]
        assert item["input_ids"].tolist() == ids
        assert len(ids) == planned.tokens
        tiles = torch.cat(pixels).numpy() if pixels else np.empty((0, 3, 28, 28), np.float32)
        assert np.array_equal(item["pixel_values"], tiles)
        assert item["sources"] == [piece.source for piece in planned.pieces]


def test_labels_leave_out_images_and_the_first_token_of_each_document(folder, processor):
    dataset = open_dataset(folder, processor)
    for item in (dataset[index] for index in range(len(dataset))):
        ids, labels, positions = (item[n] for n in ("input_ids", "labels", "position_ids"))
        begins = positions == 0
        assert int(begins.sum()) == len(item["document_keys"])
        assert np.array_equal(np.diff(positions)[~begins[1:]], np.ones((~begins).sum()))
        left_out = begins | (ids == processor.image_token_id)
        assert np.array_equal(labels, np.where(left_out, IGNORED, ids))
        placeholders = int((ids == processor.image_token_id).sum())
        assert placeholders == len(item["pixel_values"]) * corpus.TOKENS_PER_TILE


def test_a_pack_depends_on_its_index_only(folder, processor):
    first, second = open_dataset(folder, processor), open_dataset(folder, processor)
    forward = [first[index] for index in range(len(first))]
    for index in reversed(range(len(second))):
        assert equal(second[index], forward[index])
    assert equal(first[-1], forward[-1])
    with pytest.raises(IndexError):
        first[len(first)]


def test_a_longer_run_begins_with_the_shorter_one(folder, processor):
    short = open_dataset(folder, processor, num_sequences=6)
    long = open_dataset(folder, processor, num_sequences=30)
    assert all(equal(short[index], long[index]) for index in range(6))


def test_a_pickled_dataset_is_small_and_reads_the_same(folder, processor):
    dataset = open_dataset(folder, processor)
    expected = dataset[3]
    content = pickle.dumps(dataset)
    assert len(content) < 100_000
    assert not pickle.loads(content)._lengths, "arrays are opened by the worker"
    assert equal(pickle.loads(content)[3], expected)


def test_bytes_in_the_worker_and_normalised_in_the_model_are_the_same_pixels(folder, processor):
    as_bytes = open_dataset(folder, processor)
    as_floats = open_dataset(folder, processor, pixels="float")
    model = corpus.make_model(processor).eval()
    collate = MM1Collator(processor)
    index = next(i for i in range(16) if len(as_bytes[i]["pixel_values"]))
    batches = [collate([dataset[index]]) for dataset in (as_bytes, as_floats)]
    assert [batch["pixel_values"].dtype for batch in batches] == [torch.uint8, torch.float32]
    with torch.no_grad():
        losses = [model(**batch).loss for batch in batches]
    torch.testing.assert_close(losses[0], losses[1], atol=1e-5, rtol=0)


def test_the_pieces_of_a_split_document_join_to_the_whole(folder, processor):
    mixture = Mixture({corpus.open_mixture(folder).leaves[1].source: 1.0})
    dataset = PackedDataset(
        mixture,
        processor,
        num_sequences=60,
        cache_folder=folder / "split",
        sequence_length=16,
        max_images=2,
    )
    pieces: dict[str, dict[int, tuple]] = {}
    for index in range(len(dataset)):
        item = dataset[index]
        begins = item["position_ids"] == 0
        assert (item["labels"][begins] == IGNORED).all()
        ids = np.split(item["input_ids"], np.flatnonzero(begins)[1:])
        for piece, key, part in zip(
            dataset.plan[index].pieces, item["document_keys"], ids, strict=True
        ):
            pieces.setdefault(key, {}).setdefault(piece.start, part)
    source = mixture.leaves[0].source
    whole = 0
    for document in (source[n] for n in range(len(source))):
        expected, _ = by_processor(document, processor)
        parts = pieces.get(document.key, {})
        joined = [token for start in sorted(parts) for token in parts[start].tolist()]
        if len(joined) == len(expected):
            whole += len(parts) > 1
            assert joined == expected
    assert whole >= 5


def test_rows_of_the_collator_have_the_loss_of_the_documents_alone(folder, processor):
    register_packed_sdpa()
    dataset = open_dataset(folder, processor, pixels="float", unit="document")
    model = corpus.make_model(processor).eval()
    collate = MM1Collator(processor)
    items = [dataset[index] for index in range(3)]
    with torch.no_grad():
        packed = model(**collate(items), num_items_in_batch=1).loss
        alone = sum(
            model(**collate([part]), num_items_in_batch=1).loss
            for item in items
            for part in corpus.documents_of(item, processor)
        )
        model.set_attn_implementation({"text_config": PACKED_SDPA})
        per_document = model(**collate(items), num_items_in_batch=1).loss
    torch.testing.assert_close(packed, alone, rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(per_document, alone, rtol=1e-5, atol=1e-5)


@pytest.mark.filterwarnings("ignore:This DataLoader will create:UserWarning")
@pytest.mark.parametrize("num_workers", [1, 4])
def test_workers_change_nothing(folder, processor, num_workers):
    dataset = open_dataset(folder, processor)
    collate = MM1Collator(processor)
    expected = [collate([dataset[i], dataset[i + 1]]) for i in range(0, 16, 2)]
    loader = DataLoader(
        dataset,
        batch_size=2,
        num_workers=num_workers,
        collate_fn=collate,
        multiprocessing_context="fork",
    )
    for found, wanted in zip(loader, expected, strict=True):
        assert set(found) == set(wanted)
        assert all(torch.equal(found[name], wanted[name]) for name in wanted)


def _measure_and_plan(folder, cache_folder) -> None:
    open_dataset(folder, corpus.make_processor(), cache_folder=cache_folder)


# Python 3.12 warns of forks beside threads; these children use none of the parent's.
@pytest.mark.filterwarnings("ignore:This process:DeprecationWarning")
def test_ranks_that_start_together_measure_once(folder, tmp_path):
    context = multiprocessing.get_context("fork")
    ranks = [
        context.Process(target=_measure_and_plan, args=(folder, tmp_path / "cache"))
        for _ in range(3)
    ]
    for rank in ranks:
        rank.start()
    for rank in ranks:
        rank.join(60)
    assert [rank.exitcode for rank in ranks] == [0, 0, 0]
    assert len(list((tmp_path / "cache" / "plans").iterdir())) == 1


def test_names_without_sources_cannot_be_read(processor, tmp_path):
    with pytest.raises(ValueError, match="'web' without a source"):
        PackedDataset(Mixture({"web": 1}), processor, num_sequences=1, cache_folder=tmp_path)


def test_lengths_of_other_tiling_are_refused(folder, processor):
    open_dataset(folder, processor)
    with pytest.raises(ValueError, match="stale"):
        open_dataset(folder, corpus.make_processor(tiling="static"))


def test_sources_of_names_with_slashes_have_folders_of_their_own(folder, processor, tmp_path):
    source = JsonlSource(folder / "pages.jsonl", name="../web/pages", images=folder / "pages")
    dataset = PackedDataset(
        Mixture({source: 1}), processor, num_sequences=2, cache_folder=tmp_path / "cache"
    )
    assert dataset[0]["sources"][0] == "../web/pages"
    assert [path.name for path in tmp_path.iterdir()] == ["cache"]


def test_what_could_not_be_measured_counts_in_the_base_of_the_budget_too(tmp_path, processor):
    documents = [
        Document(
            segments=(Text("a "), Image(content), Text(" b")),
            key=str(n),
            source="web",
            kind="interleaved",
        )
        for n, content in enumerate([corpus.picture(1), b"no picture", b"", corpus.picture(2)])
    ]
    source = MemorySource(documents, name="web")
    dataset = PackedDataset(
        Mixture({source: 1}),
        processor,
        num_sequences=1,
        cache_folder=tmp_path,
        sequence_length=200,
        # Two of four images and four pieces.
        errors=ErrorPolicy(mode="skip", budget_per_source=0.25),
    )
    report = dataset.plan.report["web"]
    assert (report.pieces, report.images, report.unmeasured_images) == (4, 2, 2)
    assert report.attempted == 8
    assert len(dataset[0]["tiles_per_image"]) == 2
    assert dataset.errors.counts() == {"web": {"empty": 1, "not_an_image": 1}}
    reopened = DocumentLengths.open(tmp_path / "lengths" / "web")
    assert reopened.unmeasured_images().tolist() == [1, 2]
