"""Small trainers in this process, on the corpus of the data tests."""

from functools import cache
from pathlib import Path
from typing import Any

from transformers import Trainer, TrainingArguments

from mm1_hf.data import MM1Collator, PackedDataset
from mm1_hf.data.dataset import PackItem
from mm1_hf.training.trainer import MM1Trainer

from ..data import small_corpus as corpus


@cache
def packs(folder: Path) -> list[PackItem]:
    """Sixteen packs."""
    corpus.write_corpus(folder / "corpus")
    dataset = PackedDataset(
        corpus.open_mixture(folder / "corpus"),
        corpus.make_processor(),
        num_sequences=16,
        cache_folder=folder / "cache",
        sequence_length=corpus.SEQUENCE_LENGTH,
        max_images=8,
    )
    return [dataset[index] for index in range(len(dataset))]


def arguments(folder: Path, **changes: Any) -> TrainingArguments:
    settings = {
        "output_dir": str(folder),
        "max_steps": 2,
        "per_device_train_batch_size": 4,
        "learning_rate": 1e-2,
        "weight_decay": 0.1,
        "train_sampling_strategy": "sequential",
        "remove_unused_columns": False,
        "use_cpu": True,
        "report_to": "none",
        "disable_tqdm": True,
        "logging_steps": 1,
        "save_strategy": "no",
    }
    return TrainingArguments(**{**settings, **changes})


def trainer(
    rows: list[PackItem], folder: Path, kind: type[Trainer] = MM1Trainer, **changes: Any
) -> Trainer:
    """A trainer; fields of `TrainingArguments` under `args`."""
    processor = corpus.make_processor()
    settings = {
        "model": corpus.make_model(processor),
        "args": arguments(folder, **changes.pop("args", {})),
        "train_dataset": rows,
        "data_collator": MM1Collator(processor),
        "processing_class": processor,
    }
    return kind(**{**settings, **changes})


def logs(run: Trainer, name: str) -> list[float]:
    """An entry of the logs, step by step."""
    return [entry[name] for entry in run.state.log_history if name in entry]
