import copy
import pickle
from itertools import chain
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from accelerate.utils import send_to_device

from mm1_hf.data.collators import IGNORED, MM1Collator, PackedBatch, PackOrigin, PieceOrigin

PAD = 7
PROCESSOR = SimpleNamespace(tokenizer=SimpleNamespace(pad_token_id=PAD), image_token_id=3)


def make_pack(*lengths: int, tiles: int = 0, dtype=np.uint8, sources=None) -> dict:
    """A pack of documents of the given lengths."""
    total = sum(lengths)
    return {
        "input_ids": np.arange(100, 100 + total),
        "labels": np.arange(100, 100 + total),
        "position_ids": np.concatenate([np.arange(n) for n in lengths] or [np.zeros(0, int)]),
        "pixel_values": np.full((tiles, 3, 2, 2), total, dtype=dtype),
        "document_keys": [f"key-{n}" for n in lengths],
        "sources": sources or ["web"] * len(lengths),
    }


def test_a_batch_never_has_an_attention_mask_and_only_what_forward_takes():
    batch = MM1Collator(PROCESSOR)([make_pack(3, 2, tiles=1), make_pack(4)])
    assert set(batch) == {"input_ids", "labels", "position_ids", "pixel_values"}


def test_padding_is_one_last_document_without_labels():
    batch = MM1Collator(PROCESSOR)([make_pack(3, 2), make_pack(9)])
    assert batch["position_ids"][0].tolist() == [0, 1, 2, 0, 1, 0, 1, 2, 3]
    assert batch["labels"][0, 5:].tolist() == [IGNORED] * 4
    assert batch["input_ids"][0, 5:].tolist() == [PAD] * 4
    assert batch["input_ids"][1].tolist() == list(range(100, 109))
    assert {batch[name].dtype for name in batch} == {torch.int64}


def test_rows_of_fixed_length_do_not_depend_on_their_batch():
    collate = MM1Collator(PROCESSOR, pad_to="sequence_length", sequence_length=12)
    first, second = make_pack(3, 2), make_pack(9, 3)
    together, alone = collate([first, second]), collate([first])
    assert together["input_ids"].shape == (2, 12)
    assert all(torch.equal(together[name][:1], alone[name]) for name in alone)


def test_tiles_follow_each_other_in_the_order_of_the_packs():
    packs = [make_pack(3, tiles=2), make_pack(4), make_pack(5, tiles=1)]
    pixels = MM1Collator(PROCESSOR)(packs)["pixel_values"]
    assert pixels.dtype == torch.uint8
    assert pixels[:, 0, 0, 0].tolist() == [3, 3, 5]


def test_a_batch_without_images_has_no_pixels():
    assert "pixel_values" not in MM1Collator(PROCESSOR)([make_pack(3), make_pack(4)])


def test_varlen_says_where_documents_end_and_pads_nothing():
    batch = MM1Collator(PROCESSOR, varlen=True)([make_pack(3, 2), make_pack(1, 1, 4)])
    assert batch["input_ids"].shape == (1, 11)
    assert batch["cu_seq_lens_q"].tolist() == [0, 3, 5, 6, 7, 11]
    assert batch["cu_seq_lens_q"].dtype == batch["cu_seq_lens_k"].dtype == torch.int32
    assert torch.equal(batch["cu_seq_lens_q"], batch["cu_seq_lens_k"])
    assert type(batch["max_length_q"]) is int
    assert batch["max_length_q"] == batch["max_length_k"] == 4


def test_varlen_counts_the_padding_of_each_pack_as_a_document():
    collate = MM1Collator(PROCESSOR, pad_to="sequence_length", sequence_length=6, varlen=True)
    batch = collate([make_pack(3, 2), make_pack(6)])
    assert batch["input_ids"].shape == (1, 12)
    assert batch["cu_seq_lens_q"].tolist() == [0, 3, 5, 6, 12]


@pytest.mark.parametrize("varlen", [False, True])
def test_a_pack_in_which_nothing_was_readable_is_a_row_of_padding(varlen):
    batch = MM1Collator(PROCESSOR, varlen=varlen)([make_pack()])
    assert batch["input_ids"].tolist() == [[PAD]]
    assert batch["labels"].tolist() == [[IGNORED]]


def test_a_pack_longer_than_the_row_is_an_error_that_names_it():
    collate = MM1Collator(PROCESSOR, pad_to="sequence_length", sequence_length=4)
    with pytest.raises(ValueError, match=r"Pack 1 .*'key-5'.* has 5 tokens, but rows have 4"):
        collate([make_pack(3), make_pack(5)])


def test_pixels_of_two_kinds_are_an_error():
    with pytest.raises(ValueError, match="2 kinds"):
        MM1Collator(PROCESSOR)([make_pack(3, tiles=1), make_pack(3, tiles=1, dtype=np.float32)])


@pytest.mark.parametrize(
    "arguments",
    [{"pad_to": "max"}, {"pad_to": "sequence_length"}, {"sequence_length": 8}],
)
def test_arguments_that_contradict_each_other_are_refused(arguments):
    with pytest.raises(ValueError, match="pad_to is"):
        MM1Collator(PROCESSOR, **arguments)


@pytest.mark.parametrize("pad_token_id", [None, 3])
def test_padding_must_not_look_like_an_image(pad_token_id):
    tokenizer = SimpleNamespace(pad_token_id=pad_token_id)
    with pytest.raises(ValueError, match="pad token"):
        MM1Collator(SimpleNamespace(tokenizer=tokenizer, image_token_id=3))


def make_origin(*pieces: tuple[str, str, int, int], **more) -> PackOrigin:
    tokens = sum(piece[2] for piece in pieces)
    return PackOrigin(pieces=tuple(PieceOrigin(*piece) for piece in pieces), tokens=tokens, **more)


def test_a_batch_says_beside_its_tensors_where_its_tokens_come_from():
    packs = [
        make_pack(3, 2, sources=["web", "books"]) | {"index": 8, "tiles_per_image": [2, 1, 1]},
        make_pack(4),
    ]
    packs[0]["labels"][[0, 3]] = IGNORED
    batch = MM1Collator(PROCESSOR)(packs)
    assert batch.origins == (
        make_origin(("web", "key-3", 3, 2), ("books", "key-2", 2, 1), index=8, images=3),
        make_origin(("web", "key-4", 4, 4)),
    )


def test_what_is_said_beside_survives_workers_pinning_and_accelerate():
    batch = MM1Collator(PROCESSOR, varlen=True)([make_pack(3, 2, tiles=1)])
    for again in (
        pickle.loads(pickle.dumps(batch)),
        copy.copy(batch),
        send_to_device(batch, "cpu"),
    ):
        assert type(again) is PackedBatch
        assert again.origins == batch.origins
        assert set(again) == set(batch)
        assert all(np.array_equal(again[name], batch[name]) for name in batch)


@pytest.mark.parametrize("varlen", [False, True])
@pytest.mark.parametrize("length", [None, 8])
def test_every_token_knows_its_source_and_padding_has_none(varlen, length):
    pad_to = {} if length is None else {"pad_to": "sequence_length", "sequence_length": length}
    packs = [make_pack(3, 2, sources=["web", "books"]), make_pack(), make_pack(4, sources=["far"])]
    ids = MM1Collator(PROCESSOR, varlen=varlen, **pad_to)(packs).source_ids(["books", "web"])
    told = [[1, 1, 1, 0, 0], [], [-1] * 4]
    if varlen and length is None:
        assert ids.tolist() == [list(chain(*told))]
        return
    width = length or 5
    rows = [row + [-1] * (width - len(row)) for row in told]
    assert ids.tolist() == ([list(chain(*rows))] if varlen else rows)


def test_packs_that_do_not_say_where_they_come_from_make_a_batch_all_the_same():
    pack = {name: entry for name, entry in make_pack(3).items() if name != "sources"}
    (origin,) = MM1Collator(PROCESSOR)([pack]).origins
    assert (origin.pieces, origin.tokens) == ((), 3)
