"""The documents of `step.py`: as packs of ours, and as rows padded to the longest."""

import io
import tempfile
from collections.abc import Callable
from typing import NamedTuple

import numpy as np
import torch
from PIL import Image as Pillow
from tokenizers import Tokenizer, models, pre_tokenizers, trainers
from transformers import PreTrainedTokenizerFast
from transformers.loss.loss_utils import ForCausalLMLoss

from mm1_hf import (
    MM1Config,
    MM1ConnectorConfig,
    MM1ForConditionalGeneration,
    MM1Processor,
    MM1TextConfig,
    MM1VisionConfig,
)
from mm1_hf.data import Document, Image, MemorySource, Mixture, MM1Collator, PackedDataset, Text
from mm1_hf.model.packed_attention_mm1 import PACKED_SDPA

VOCABULARY, ROWS, DOCUMENTS = 8192, 8, 200


class Contest(NamedTuple):
    """Training on the same documents by each method, and the number of their supervised tokens."""

    works: dict[str, Callable[[], None]]
    targets: int
    figures: dict[str, float]


def make_config() -> MM1Config:
    """Small towers, the decoder much the larger of the two, as in MM1."""
    return MM1Config(
        vision_config=MM1VisionConfig(
            hidden_size=128,
            intermediate_size=512,
            num_hidden_layers=2,
            num_attention_heads=2,
            image_size=378,
            patch_size=14,
        ),
        connector_config=MM1ConnectorConfig(connector_type="average_pool"),
        text_config=MM1TextConfig(
            vocab_size=VOCABULARY,
            hidden_size=256,
            intermediate_size=704,
            num_hidden_layers=4,
            num_attention_heads=4,
            num_key_value_heads=4,
        ),
    )


def make_processor(config: MM1Config) -> MM1Processor:
    backend = Tokenizer(models.BPE())
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(
        special_tokens=["<pad>", "</s>"], initial_alphabet=alphabet, show_progress=False
    )
    backend.train_from_iterator(["a"], trainer)
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=backend, pad_token="<pad>", eos_token="</s>"
    )
    return MM1Processor.from_parts(tokenizer=tokenizer, config=config)


def make_mixture() -> Mixture:
    """45 % captions, 45 % interleaved documents, 10 % text, with the lengths of `packing.py`."""
    random = np.random.default_rng(0)
    file = io.BytesIO()
    Pillow.fromarray(random.integers(0, 256, (64, 64, 3), dtype=np.uint8)).save(file, "PNG")
    picture = Image(file.getvalue())

    def words(median: float, spread: float, most: int = 3500) -> Text:
        length = int(np.clip(random.lognormal(np.log(median), spread), 2, most))
        return Text("".join(random.choice(list("abcdefgh "), length)))

    def segments(kind: str) -> tuple:
        if kind == "text":
            return (words(1000, 0.9),)
        if kind == "caption":
            return (picture, words(34, 0.6))
        images = min(int(random.geometric(1 / 2.8)), 10)
        return tuple(part for _ in range(images) for part in (picture, words(485 / images, 0.8)))

    weights = {"caption": 45, "interleaved": 45, "text": 10}
    sources = {}
    for kind, weight in weights.items():
        documents = [
            Document(segments=segments(kind), key=str(number), source=kind, kind=kind)
            for number in range(DOCUMENTS)
        ]
        sources[MemorySource(documents, name=kind)] = weight
    return Mixture(sources, unit="document", seed=0)


def split_documents(item: dict, processor: MM1Processor) -> list[dict[str, torch.Tensor]]:
    """The documents of a pack, without its padding."""
    starts = np.flatnonzero(np.asarray(item["position_ids"]) == 0)[1:]
    ids, labels = (
        [torch.as_tensor(part) for part in np.split(np.asarray(item[name]), starts)]
        for name in ("input_ids", "labels")
    )
    per_tile = processor.num_image_tokens
    tiles = [int((part == processor.image_token_id).sum()) // per_tile for part in ids]
    pixels = torch.as_tensor(item["pixel_values"]).split(tiles)
    rows = zip(ids, labels, pixels, strict=True)
    return [
        {"input_ids": own_ids, "labels": own_labels, "pixel_values": own_pixels}
        for own_ids, own_labels, own_pixels in rows
        if (own_labels != -100).any()
    ]


def pad(rows: list[dict[str, torch.Tensor]]) -> dict[str, torch.Tensor]:
    """A batch as a stock collator makes it: rows padded to the longest, with a mask."""

    def padded(name: str, value: int) -> torch.Tensor:
        tensors = [row[name] for row in rows]
        return torch.nn.utils.rnn.pad_sequence(tensors, batch_first=True, padding_value=value)

    lengths = torch.tensor([len(row["input_ids"]) for row in rows])
    ids = padded("input_ids", 0)
    return {
        "input_ids": ids,
        "labels": padded("labels", -100),
        "attention_mask": (torch.arange(ids.shape[1]) < lengths[:, None]).long(),
        "pixel_values": torch.cat([row["pixel_values"] for row in rows]),
    }


def contestants(*, num_packs: int) -> Contest:
    """Packs through our loss, and padded rows through whole logits, or through our loss."""
    config = make_config()
    processor = make_processor(config)
    torch.manual_seed(0)
    model = MM1ForConditionalGeneration(config).train()
    with tempfile.TemporaryDirectory() as folder:
        dataset = PackedDataset(
            make_mixture(), processor, num_sequences=num_packs, cache_folder=folder
        )
        items = [dataset[index] for index in range(num_packs)]
    collate = MM1Collator(processor)
    packs = [dict(collate([item])) for item in items]
    documents = [document for item in items for document in split_documents(item, processor)]
    order = np.random.default_rng(1).permutation(len(documents))
    padded = [
        pad([documents[number] for number in order[start : start + ROWS]])
        for start in range(0, len(order), ROWS)
    ]

    def train(batches: list[dict], attention: str, loss: Callable[[dict], torch.Tensor]) -> None:
        model.set_attn_implementation({"text_config": attention})
        for batch in batches:
            loss(batch).backward()

    def stock_loss(batch: dict) -> torch.Tensor:
        inputs = {name: value for name, value in batch.items() if name != "labels"}
        logits = model(**inputs, use_cache=False).logits
        return ForCausalLMLoss(logits, batch["labels"], vocab_size=VOCABULARY)

    def our_loss(batch: dict) -> torch.Tensor:
        return model(**batch).loss

    def supervised(batches: list[dict]) -> int:
        return sum(int((batch["labels"][:, 1:] != -100).sum()) for batch in batches)

    assert supervised(packs) == supervised(padded), "the two train different tokens"
    slots = {
        "packs": sum(batch["input_ids"].numel() for batch in packs),
        "padded": sum(batch["input_ids"].numel() for batch in padded),
    }
    works = {
        "packs": lambda: train(packs, PACKED_SDPA, our_loss),
        "padded": lambda: train(padded, "sdpa", stock_loss),
        "padded_our_loss": lambda: train(padded, "sdpa", our_loss),
    }
    return Contest(works, supervised(packs), {"slots": slots, "documents": len(documents)})
