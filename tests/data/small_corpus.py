"""Three small sources on disk (tar, JSONL with a folder, parquet), a processor and a model."""

import io
import json
import tarfile
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import torch
from PIL import Image
from tokenizers import Tokenizer, models, pre_tokenizers, trainers
from transformers import PreTrainedTokenizerFast

from mm1_hf import (
    MM1Config,
    MM1ConnectorConfig,
    MM1ForConditionalGeneration,
    MM1Processor,
    MM1TextConfig,
    MM1VisionConfig,
)
from mm1_hf.data import JsonlSource, Mixture, ParquetSource, TarSource

SIDE = 28
TOKENS_PER_TILE = 4
SEQUENCE_LENGTH = 96


def picture(seed: int, *, kind: str = "JPEG") -> bytes:
    """An encoded picture of some size."""
    random = np.random.default_rng(seed)
    height, width = random.integers(20, 50, 2)
    pixels = random.integers(0, 256, (height, width, 3), dtype=np.uint8)
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, kind)
    return file.getvalue()


def make_processor(**image_kwargs) -> MM1Processor:
    """A byte-level processor whose tile makes four tokens."""
    backend = Tokenizer(models.BPE())
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    trainer = trainers.BpeTrainer(
        special_tokens=["<pad>", "</s>"],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    backend.train_from_iterator(["a b c"], trainer)
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=backend, pad_token="<pad>", eos_token="</s>"
    )
    return MM1Processor.from_parts(tokenizer=tokenizer, config=make_config(), **image_kwargs)


def make_config(**text: Any) -> MM1Config:
    """The smallest MM1 that fits the processor; keywords are fields of its decoder."""
    return MM1Config(
        vision_config=MM1VisionConfig(
            hidden_size=16,
            intermediate_size=16,
            num_hidden_layers=1,
            num_attention_heads=2,
            image_size=SIDE,
            patch_size=7,
        ),
        connector_config=MM1ConnectorConfig(
            connector_type="average_pool", num_image_tokens=TOKENS_PER_TILE
        ),
        text_config=MM1TextConfig(
            vocab_size=300,
            hidden_size=16,
            intermediate_size=16,
            num_hidden_layers=1,
            num_attention_heads=2,
            num_key_value_heads=2,
            pad_token_id=0,
            eos_token_id=1,
            **text,
        ),
    )


def make_model(processor: MM1Processor, **text: Any) -> MM1ForConditionalGeneration:
    """A model with the same weights in every process; keywords are fields of its decoder."""
    torch.manual_seed(0)
    config = make_config(**text)
    config.image_token_id = processor.image_token_id
    return MM1ForConditionalGeneration(config)


def write_corpus(folder: Path, *, documents: int = 40) -> None:
    """Write the files of all three sources."""
    folder.mkdir(parents=True, exist_ok=True)
    with tarfile.open(folder / "captions.tar", "w") as tar:
        for number in range(documents):
            _add(tar, f"{number:04d}.jpg", picture(number))
            _add(tar, f"{number:04d}.txt", f"caption {number}".encode())
    pages = folder / "pages"
    pages.mkdir()
    with (folder / "pages.jsonl").open("w") as lines:
        for number in range(documents):
            names = [f"{number}-{nth}.png" for nth in range(number % 4)]
            texts: list[str | None] = [f"page {number} "]
            images: list[str | None] = [None]
            for nth, name in enumerate(names):
                (pages / name).write_bytes(picture(1000 + 10 * number + nth, kind="PNG"))
                texts += [None, f"part {nth} "]
                images += [name, None]
            lines.write(json.dumps({"key": f"page-{number}", "texts": texts, "images": images}))
            lines.write("\n")
    texts = [f"text {number} " * (1 + number % 9) for number in range(documents)]
    pq.write_table(pa.table({"text": texts}), folder / "texts.parquet", row_group_size=8)


def open_mixture(folder: Path, *, unit: str = "sequence", seed: int = 0) -> Mixture:
    """The mixture of the three sources."""
    captions = TarSource(folder / "captions.tar", name="captions")
    pages = JsonlSource(folder / "pages.jsonl", name="pages", images=folder / "pages")
    texts = ParquetSource(folder / "texts.parquet", name="texts")
    return Mixture({captions: 45, pages: 45, texts: 10}, unit=unit, seed=seed)


def open_picture(image: dict) -> Image.Image:
    """The picture of an `ImageSource`."""
    content = image["bytes"] if image["bytes"] is not None else Path(image["path"]).read_bytes()
    return Image.open(io.BytesIO(content))


def documents_of(item: dict, processor: MM1Processor) -> list[dict]:
    """The documents of a pack, each as a pack of its own."""
    starts = np.flatnonzero(item["position_ids"] == 0)[1:]
    ids, labels, positions = (
        np.split(item[name], starts) for name in ("input_ids", "labels", "position_ids")
    )
    tiles = [int((part == processor.image_token_id).sum()) // TOKENS_PER_TILE for part in ids]
    tile_edges = np.cumsum(tiles)[:-1]
    pixels = np.split(item["pixel_values"], tile_edges)
    image_edges = np.searchsorted(np.cumsum(item["tiles_per_image"]), tile_edges, side="right")
    images = np.split(item["tiles_per_image"], image_edges)
    own = ([[name] for name in item[of]] for of in ("document_keys", "sources"))
    columns = {
        "input_ids": ids,
        "labels": labels,
        "position_ids": positions,
        "pixel_values": pixels,
        "tiles_per_image": images,
        **dict(zip(("document_keys", "sources"), own, strict=True)),
    }
    return [dict(zip(columns, row, strict=True)) for row in zip(*columns.values(), strict=True)]


def _add(tar: tarfile.TarFile, name: str, content: bytes) -> None:
    info = tarfile.TarInfo(name)
    info.size = len(content)
    tar.addfile(info, io.BytesIO(content))
