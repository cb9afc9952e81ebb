"""Documents of every odd kind go all the way: measured, planned, read, joined to a batch."""

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from mm1_hf.data import ErrorPolicy, MemorySource, Mixture, MM1Collator, PackedDataset
from mm1_hf.data.collators import IGNORED
from mm1_hf.data.encoding import encode

from . import odd_documents as odd
from . import small_corpus as corpus

GOOD = [corpus.picture(seed) for seed in range(3)]
KINDS = {
    "nothing": odd.web(),
    "no text": odd.web(GOOD[0]),
    "only images": odd.web(*GOOD),
    "200 images": odd.web(*(GOOD[n % 3] for n in range(200))),
    "200 images and texts": odd.web(*(part for n in range(200) for part in (GOOD[n % 3], f"{n}"))),
    "empty strings": odd.web("", GOOD[0], "", GOOD[1], ""),
    "literal placeholder": odd.web("<image>", GOOD[0], "a <image> b<image>"),
    "right to left": odd.web("שלום", GOOD[0], "مرحبا \u202eabc\u202c"),
    "emoji": odd.web("👩‍👩‍👧‍👦", GOOD[0], "🇫🇷 👋🏽"),
    "control characters": odd.web("nul \x00 inside\r\n", GOOD[0], "\ufeff</s><s>[INST]"),
    "long text": odd.web("word " * 100),
    "zero bytes": odd.web("before ", b"", " after"),
    "not an image": odd.web("before ", b"\x89PNG", " after"),
    "missing file": odd.web("x", {"bytes": None, "path": "gone.jpg"}, "y"),
    "cut off": odd.web("x", GOOD[0][: len(GOOD[0]) // 2], "y"),
}
USABLE_IMAGES = {name: len(d.images) for name, d in KINDS.items()}
for name in ("zero bytes", "not an image", "missing file", "cut off"):
    USABLE_IMAGES[name] = 0


@pytest.fixture(scope="module")
def processor():
    return corpus.make_processor()


def open_all(documents, processor, folder, **settings) -> PackedDataset:
    source = MemorySource(documents, name="web")
    arguments = {"num_sequences": 60, "sequence_length": 64, "max_images": 5, "window": 4}
    policy = ErrorPolicy(mode="skip", budget_per_source=1.0)
    return PackedDataset(
        Mixture({source: 1}),
        processor,
        cache_folder=folder,
        errors=policy,
        **{**arguments, **settings},
    )


def check_batch(items, processor) -> None:
    """What every batch keeps, whatever was in it."""
    batch = MM1Collator(processor)(items)
    placeholders = batch["input_ids"] == processor.image_token_id
    tiles = sum(len(item["pixel_values"]) for item in items)
    assert int(placeholders.sum()) == tiles * processor.num_image_tokens
    assert not (placeholders & (batch["labels"] != IGNORED)).any()
    assert not ((batch["position_ids"] == 0) & (batch["labels"] != IGNORED)).any()
    for item in items:
        assert item["tiles_per_image"].sum() == len(item["pixel_values"])
        assert len(item["input_ids"]) <= 64


@pytest.mark.parametrize("name", KINDS)
def test_a_document_of_every_odd_kind_reaches_the_batch_whole(name, processor, tmp_path):
    document = KINDS[name]
    dataset = open_all([document], processor, tmp_path)
    found = {}
    for pack in range(len(dataset)):
        item = dataset[pack]
        check_batch([item], processor)
        pieces = corpus.documents_of(item, processor)
        for planned, piece in zip(dataset.plan[pack].pieces, pieces, strict=True):
            found[planned.start] = piece
    placeholder = processor.image_token_id
    read = [
        token
        for start in sorted(found)
        for token in found[start]["input_ids"].tolist()
        if token != placeholder
    ]
    written = encode(document, processor).input_ids.tolist()
    assert read == [token for token in written if token != placeholder]
    assert sum(len(piece["tiles_per_image"]) for piece in found.values()) == USABLE_IMAGES[name]


def test_all_kinds_together_lose_nothing_but_what_is_broken(processor, tmp_path):
    documents = [replace(d, key=name) for name, d in KINDS.items()]
    dataset = open_all(documents, processor, tmp_path, num_sequences=400)
    items = [dataset[n] for n in range(len(dataset))]
    check_batch(items, processor)
    met = {key for item in items for key in item["document_keys"]}
    assert met == set(KINDS)
    skipped = dataset.errors.counts()["web"]
    assert {"empty", "not_an_image", "missing"} <= set(skipped)


drawn = st.lists(odd.documents, min_size=1, max_size=6)


@settings(
    max_examples=8, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(drawn)
def test_documents_drawn_at_random_reach_the_batch(processor, tmp_path_factory, documents):
    folder = tmp_path_factory.mktemp("drawn")
    try:
        dataset = open_all(documents, processor, folder, num_sequences=4)
    except ValueError as error:
        assert "none fits" in str(error)
        return
    check_batch([dataset[n] for n in range(4)], processor)
    assert all(np.isfinite(dataset[0]["labels"]))
