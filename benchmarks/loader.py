"""How fast do JPEG shards become batches, against `datasets` streaming and WebDataset, on one core?

Every contestant reads the same pictures and captions from its own kind of shard, in one process
with one thread, and ends with uint8 pixels of 378 x 378 and token ids as tensors. The peers decode
and resize with Pillow, as their users do; how much of the difference is resizing is shown by giving
them our image processor (`figures.peers_with_our_pixels`). Times are CPU seconds, the least of
several rounds in which all take turns. WebDataset is left out where it is not installed.
"""

import importlib.util
import io
import os
import tarfile
import tempfile
import time
import warnings
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path

# Read when torch is imported.
os.environ.update(OMP_NUM_THREADS="1", TOKENIZERS_PARALLELISM="false", HF_HUB_OFFLINE="1")

import datasets
import numpy as np
import torch
from harness import print_result, quick_asked
from PIL import Image
from tokenizers import Tokenizer, models, pre_tokenizers, trainers
from torch.utils.data import DataLoader
from transformers import PreTrainedTokenizerFast

from mm1_hf import MM1Config, MM1Processor, MM1TextConfig, MM1VisionConfig
from mm1_hf.data import (
    Mixture,
    MM1Collator,
    PackedDataset,
    ParquetSource,
    TarSource,
)

SIDE = 378
IMAGES_PER_SHARD = 200
IMAGES_PER_BATCH = 16


def make_picture(random: np.random.Generator) -> bytes:
    """A JPEG of about 75 KiB and at most 512 pixels: soft shapes under noise."""
    height, width = random.integers(340, 513, 2)
    shapes = random.integers(0, 256, (height // 8, width // 8, 3), dtype=np.uint8)
    soft = np.asarray(Image.fromarray(shapes).resize((int(width), int(height)), Image.BICUBIC))
    noisy = soft + random.normal(0, 10, soft.shape)
    file = io.BytesIO()
    Image.fromarray(noisy.clip(0, 255).astype(np.uint8)).save(file, "JPEG", quality=88)
    return file.getvalue()


def write_shards(folder: Path, count: int) -> float:
    """Tar and parquet shards of the same samples; mean KiB of a picture."""
    random = np.random.default_rng(0)
    features = datasets.Features({"image": datasets.Image(), "text": datasets.Value("string")})
    total = 0
    for shard in range(0, count, IMAGES_PER_SHARD):
        rows = []
        with tarfile.open(folder / f"{shard:06d}.tar", "w") as tar:
            for number in range(shard, min(shard + IMAGES_PER_SHARD, count)):
                content, text = make_picture(random), f"a picture of {number} soft things " * 2
                total += len(content)
                rows.append({"image": {"bytes": content, "path": None}, "text": text})
                for extension, part in (("jpg", content), ("txt", text.encode())):
                    info = tarfile.TarInfo(f"{number:06d}.{extension}")
                    info.size = len(part)
                    tar.addfile(info, io.BytesIO(part))
        table = datasets.Dataset.from_list(rows, features=features)
        table.to_parquet(folder / f"{shard:06d}.parquet", batch_size=16)
    return total / count / 1024


def make_processor() -> MM1Processor:
    backend = Tokenizer(models.BPE())
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    trainer = trainers.BpeTrainer(
        vocab_size=400,
        special_tokens=["<pad>", "</s>"],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    backend.train_from_iterator(["a picture of soft things"], trainer)
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=backend, pad_token="<pad>", eos_token="</s>"
    )
    config = MM1Config(
        vision_config=MM1VisionConfig(image_size=SIDE, patch_size=14),
        text_config=MM1TextConfig(vocab_size=1000),
    )
    return MM1Processor.from_parts(tokenizer=tokenizer, config=config)


def ours(source, processor: MM1Processor, cache: Path, num_sequences: int) -> Callable[[], int]:
    dataset = PackedDataset(
        Mixture({source: 1}), processor, num_sequences=num_sequences, cache_folder=cache
    )

    def run() -> int:
        loader = DataLoader(dataset, batch_size=1, collate_fn=MM1Collator(processor))
        return sum(len(batch["pixel_values"]) for batch in loader)

    return run


def with_pillow(images: list[Image.Image]) -> torch.Tensor:
    """What peers' users write: Pillow resizes, numpy stacks."""
    resized = [image.convert("RGB").resize((SIDE, SIDE), Image.BICUBIC) for image in images]
    return torch.from_numpy(np.stack([np.asarray(image) for image in resized])).movedim(3, 1)


def peer(
    samples: Callable[[], Iterable[tuple[Image.Image, str]]],
    processor: MM1Processor,
    make_pixels: Callable[[list[Image.Image]], torch.Tensor],
) -> Callable[[], int]:
    def run() -> int:
        done = 0
        for chunk in chunks(samples()):
            images, texts = zip(*chunk, strict=True)
            pixels = make_pixels(list(images)).contiguous()
            processor.tokenizer(list(texts), padding=True, return_tensors="pt")
            done += len(pixels)
        return done

    return run


def chunks(samples: Iterable[tuple]) -> Iterator[list[tuple]]:
    chunk = []
    for sample in samples:
        chunk.append(sample)
        if len(chunk) == IMAGES_PER_BATCH:
            yield chunk
            chunk = []
    if chunk:
        yield chunk


def stream_datasets(folder: Path) -> Iterable[tuple[Image.Image, str]]:
    files = sorted(str(path) for path in folder.glob("*.parquet"))
    stream = datasets.load_dataset(
        "parquet", data_files=files, streaming=True, split="train", cache_dir=str(folder / "hf")
    )
    return ((row["image"], row["text"]) for row in stream)


def stream_webdataset(folder: Path) -> Iterable[tuple[Image.Image, str]]:
    import webdataset

    shards = sorted(str(path) for path in folder.glob("*.tar"))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of shuffling, which is not asked for
        return (
            webdataset.WebDataset(shards, shardshuffle=False).decode("pil").to_tuple("jpg", "txt")
        )


def measure(contestants: dict[str, Callable[[], int]], rounds: int) -> dict[str, float]:
    """Images per CPU second of each contestant, its best round."""
    best = dict.fromkeys(contestants, 0.0)
    for _ in range(rounds):
        for name, run in contestants.items():
            start = time.process_time()
            done = run()
            best[name] = max(best[name], done / (time.process_time() - start))
    return {name: round(value, 1) for name, value in best.items()}


def main() -> None:
    quick = quick_asked(__doc__, help="fewer pictures and rounds")
    datasets.config.SLEEP_TIME_ON_THREADS_SHUTDOWN = 0
    datasets.disable_progress_bars()
    has_webdataset = importlib.util.find_spec("webdataset") is not None
    processor = make_processor()

    def our_pixels(images: list[Image.Image]) -> torch.Tensor:
        settings = {"do_rescale": False, "do_normalize": False, "return_tensors": "pt"}
        return processor.image_processor(images, **settings)["pixel_values"]

    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        count = 200 if quick else 1000
        kib = write_shards(folder, count)
        sequences = -(-count // IMAGES_PER_BATCH)
        tar = TarSource(folder, name="tar")
        parquet = ParquetSource(folder, name="parquet")
        start = time.process_time()
        contestants = {
            "ours": ours(tar, processor, folder / "tar-cache", sequences),
            "ours_parquet": ours(parquet, processor, folder / "parquet-cache", sequences),
        }
        planned = time.process_time() - start
        streams = {"datasets_streaming": lambda: stream_datasets(folder)}
        if has_webdataset:
            streams["webdataset"] = lambda: stream_webdataset(folder)
        for peer_name, stream in streams.items():
            contestants[peer_name] = peer(stream, processor, with_pillow)
            contestants[f"{peer_name}+our_pixels"] = peer(stream, processor, our_pixels)
        speed = measure(contestants, rounds=2 if quick else 4)
    for contestant, images in speed.items():
        print(f"{contestant:>30}: {images:7.1f} images/s")
    report(speed, planned / count / 2 * 1e6, kib)


def report(speed: dict[str, float], measuring: float, kib: float) -> None:
    peers = [name for name in ("datasets_streaming", "webdataset") if name in speed]
    figures = {
        "images_per_second": speed,
        "peers_with_our_pixels": {
            f"vs_{name}": round(speed["ours"] / speed[f"{name}+our_pixels"], 2) for name in peers
        },
        "measuring_and_planning_microseconds_per_document": round(measuring, 1),
        "kib_per_picture": round(kib, 1),
    }
    print_result(
        "loader",
        ratios={f"vs_{name}": round(speed["ours"] / speed[name], 2) for name in peers},
        figures=figures,
        packages=("torch", "datasets", "pillow"),
    )


if __name__ == "__main__":
    main()
