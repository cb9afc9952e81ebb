"""A trainer of four steps on text, with noise that shows whether random numbers were kept."""

from pathlib import Path
from typing import Any

import torch
from transformers import Trainer, TrainingArguments

from . import small_tasks as small


def make_trainer(processor: Any, folder: Path, **changes: Any) -> Trainer:
    """The stock `Trainer`; keywords are fields of `TrainingArguments`, or `processing_class`."""
    model = small.model(processor).train()
    model.model.language_model.embed_tokens.register_forward_hook(_add_noise)
    settings = {
        "output_dir": str(folder),
        "max_steps": 4,
        "per_device_train_batch_size": 2,
        "learning_rate": 1e-3,
        "use_cpu": True,
        "report_to": "none",
        "disable_tqdm": True,
        "logging_steps": 1,
        "save_strategy": "no",
    }
    processing_class = changes.pop("processing_class", processor)
    torch.manual_seed(1)
    rows = [{"input_ids": row, "labels": row} for row in torch.randint(4, 300, (8, 12))]
    return Trainer(
        model,
        TrainingArguments(**{**settings, **changes}),
        train_dataset=rows,
        eval_dataset=rows[:2],
        processing_class=processing_class,
        data_collator=lambda batch: {
            name: torch.stack([row[name] for row in batch]) for name in batch[0]
        },
    )


def _add_noise(module: Any, _: Any, output: torch.Tensor) -> torch.Tensor:
    return output + 0.1 * torch.randn_like(output) if module.training else output
