"""How long does it take to reach any pack after a restart, and is anything lost or repeated?

A plan of many packs is made once, as before a run. Then, for positions from the first to the last,
the dataset is opened anew, as a resumed run opens it, and the time is taken from the opened dataset
to the documents of that pack (`seek_ms`, the slowest position; opening is a figure of its own). The
`Trainer` also counts through the indices it skips, which no dataset can spare it
(`trainer_skip_ms`). Lost and repeated are counted by cutting an epoch through `accelerate`'s
skipping at many steps and comparing document by document with the uncut one.
"""

import json
import os
import tempfile
import time
from collections import Counter
from pathlib import Path

# Read when torch is imported.
os.environ.update(OMP_NUM_THREADS="1", TOKENIZERS_PARALLELISM="false", HF_HUB_OFFLINE="1")

import pyarrow as pa
import pyarrow.parquet as pq
from accelerate import skip_first_batches
from harness import print_result, quick_asked
from tokenizers import Tokenizer, models, pre_tokenizers, trainers
from torch.utils.data import DataLoader
from transformers import PreTrainedTokenizerFast

from mm1_hf import MM1Config, MM1Processor, MM1TextConfig
from mm1_hf.data import JsonlSource, Mixture, PackedDataset, ParquetSource

DOCUMENTS = 2000
BATCH = 8


def make_processor() -> MM1Processor:
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
    config = MM1Config(text_config=MM1TextConfig(vocab_size=1000))
    return MM1Processor.from_parts(tokenizer=tokenizer, config=config)


def write_corpus(folder: Path) -> None:
    texts = [f"document {number} " * (1 + number % 40) for number in range(DOCUMENTS)]
    with (folder / "notes.jsonl").open("w") as lines:
        lines.writelines(json.dumps({"text": text}) + "\n" for text in texts)
    pq.write_table(pa.table({"text": texts}), folder / "books.parquet", row_group_size=64)


def open_dataset(folder: Path, processor: MM1Processor, num_sequences: int) -> PackedDataset:
    notes = JsonlSource(folder / "notes.jsonl", name="notes")
    books = ParquetSource(folder / "books.parquet", name="books")
    return PackedDataset(
        Mixture({notes: 60, books: 40}),
        processor,
        num_sequences=num_sequences,
        cache_folder=folder / "cache",
        sequence_length=1024,
    )


def seek(dataset: PackedDataset, index: int) -> float:
    """Milliseconds until the documents of a pack are read."""
    start = time.perf_counter()
    for piece in dataset.plan[index].pieces:
        dataset._sources[piece.source][piece.document]
    return 1000 * (time.perf_counter() - start)


def keys_of_batches(loader) -> list[list[str]]:
    return [[key for item in batch for key in item["document_keys"]] for batch in loader]


def count_differences(dataset: PackedDataset, cuts: list[int]) -> tuple[int, int]:
    """Documents lost and repeated, over all cuts."""

    def load() -> DataLoader:
        return DataLoader(dataset, batch_size=BATCH, collate_fn=list)

    whole = keys_of_batches(load())
    lost = repeated = 0
    for cut in cuts:
        found = Counter(key for keys in whole[:cut] for key in keys)
        rest = keys_of_batches(skip_first_batches(load(), cut))
        assert rest == whole[cut:], f"order differs behind step {cut}"
        found.update(key for keys in rest for key in keys)
        wanted = Counter(key for keys in whole for key in keys)
        lost += (wanted - found).total()
        repeated += (found - wanted).total()
    return lost, repeated


def trainer_skip(dataset: PackedDataset, step: int) -> float:
    """Milliseconds that skipping to a step costs a `Trainer`, without the batch itself."""
    loader = DataLoader(dataset, batch_size=BATCH, collate_fn=list)

    def first_batch(loader) -> float:
        start = time.perf_counter()
        next(iter(loader))
        return time.perf_counter() - start

    dataset[step * BATCH]
    return 1000 * (first_batch(skip_first_batches(loader, step)) - first_batch(loader))


def main() -> None:
    quick = quick_asked(__doc__, help="a shorter plan")
    num_sequences = 20_000 if quick else 400_000
    processor = make_processor()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        write_corpus(folder)
        start = time.perf_counter()
        documents = open_dataset(folder, processor, num_sequences).plan.report
        planning = time.perf_counter() - start
        places = [int(share * (num_sequences - 1)) for share in (0, 0.01, 0.25, 0.5, 0.99, 1)]
        opening, seeking = {}, {}
        for place in places:
            start = time.perf_counter()
            dataset = open_dataset(folder, processor, num_sequences)
            opening[place] = 1000 * (time.perf_counter() - start)
            seeking[place] = seek(dataset, place)
            print(
                f"pack {place:>7}: opened in {opening[place]:.1f} ms, found in {seeking[place]:.2f}"
            )
        steps = num_sequences // BATCH
        skipped = trainer_skip(dataset, steps - 1)
        lost, repeated = count_differences(
            open_dataset(folder, processor, 40 * BATCH), cuts=[1, 2, 7, 20, 39]
        )
    ratios = {"seek_ms": round(max(seeking.values()), 2), "lost": lost, "repeated": repeated}
    figures = {
        "packs": num_sequences,
        "documents": sum(entry.documents for entry in documents.values()),
        "measuring_and_planning_seconds": round(planning, 1),
        "opening_ms": round(max(opening.values()), 1),
        "seek_ms": {place: round(value, 2) for place, value in seeking.items()},
        "trainer_skip_ms": {"steps": steps - 1, "ms": round(skipped, 1)},
    }
    print_result("resume", ratios=ratios, figures=figures)


if __name__ == "__main__":
    main()
