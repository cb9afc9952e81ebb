"""TRL's `SFTTrainer`, unchanged, trains an MM1 on conversations about pictures."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

trl = pytest.importorskip("trl", reason="trl is not installed")

from datasets import Dataset  # noqa: E402

from mm1_hf import MM1ForConditionalGeneration  # noqa: E402
from mm1_hf.training.adapters import adapter_config  # noqa: E402

from ..data import small_corpus as corpus  # noqa: E402

pytestmark = [
    pytest.mark.slow,
    # TRL, and PEFT under it, ask transformers in its older words.
    pytest.mark.filterwarnings("ignore:.*is deprecated.*:FutureWarning"),
]
COLOURS = {"red": (220, 30, 40), "green": (30, 190, 60), "blue": (20, 60, 210)}


def conversations() -> Dataset:
    """Twelve questions about the colour of a picture; two of them show two."""
    rows: dict[str, list[Any]] = {"images": [], "messages": []}
    for number in range(12):
        names = list(COLOURS)[number % 3 :][: 1 + (number % 6 == 0)]
        rows["images"].append([Image.new("RGB", (30, 20), COLOURS[name]) for name in names])
        content = [*({"type": "image"} for _ in names), {"type": "text", "text": "Colour?"}]
        answer = [{"type": "text", "text": " and ".join(names)}]
        messages = [{"role": "user", "content": content}, {"role": "assistant", "content": answer}]
        rows["messages"].append(messages)
    return Dataset.from_dict(rows)


def make_trainer(folder: Path, *, lora: bool = False, **arguments: Any) -> Any:
    processor = corpus.make_processor()
    model = corpus.make_model(processor)
    settings = {
        "output_dir": str(folder),
        "max_steps": 4,
        "per_device_train_batch_size": 4,
        "learning_rate": 1e-2,
        "logging_steps": 1,
        "max_length": None,
        "train_sampling_strategy": "sequential",
        "save_strategy": "no",
        "report_to": "none",
        "disable_tqdm": True,
        "use_cpu": True,
        "bf16": False,
        "gradient_checkpointing": False,
        **arguments,
    }
    return trl.SFTTrainer(
        model=model,
        args=trl.SFTConfig(**settings),
        train_dataset=conversations(),
        processing_class=processor,
        peft_config=adapter_config(model, r=4) if lora else None,
    )


def losses_of(trainer: Any) -> list[float]:
    return [entry["loss"] for entry in trainer.state.log_history if "loss" in entry]


@pytest.mark.parametrize(
    "arguments",
    [
        {},
        {"assistant_only_loss": True},
        {"assistant_only_loss": True, "lora": True, "gradient_checkpointing": True},
    ],
    ids=["whole text", "answers only", "LoRA with checkpointing"],
)
def test_it_learns(tmp_path, arguments):
    trainer = make_trainer(tmp_path, **arguments)
    trainer.train()
    losses = losses_of(trainer)
    assert all(np.isfinite(losses))
    assert losses[-1] < losses[0]
    if arguments.get("lora"):
        trained = {n for n, one in trainer.model.named_parameters() if one.requires_grad}
        assert trained and all("language_model" in name and "lora_" in name for name in trained)


def test_its_loss_is_ours_on_the_answers_alone(tmp_path):
    trainer = make_trainer(tmp_path, assistant_only_loss=True, max_steps=1)
    batch = next(iter(trainer.get_train_dataloader()))
    model = corpus.make_model(corpus.make_processor()).eval()
    tokenizer = corpus.make_processor().tokenizer
    for row in batch["labels"]:
        pieces = tokenizer.convert_ids_to_tokens(row[row != -100])
        answer = "".join(pieces).replace("Ġ", " ")
        assert answer.endswith("</s>")
        assert set(answer.removesuffix("</s>").split()) <= {*COLOURS, "and"}
    with torch.no_grad():
        expected = model(**{name: one for name, one in batch.items() if torch.is_tensor(one)}).loss
    trainer.train()
    assert losses_of(trainer) == pytest.approx([expected.item()], rel=1e-4)


def test_what_it_saves_loads_with_its_processor(tmp_path):
    from transformers import AutoProcessor

    trainer = make_trainer(tmp_path, max_steps=1)
    trainer.train()
    trainer.save_model(str(tmp_path / "saved"))
    again = MM1ForConditionalGeneration.from_pretrained(tmp_path / "saved").state_dict()
    assert all(torch.equal(again[name], one) for name, one in trainer.model.state_dict().items())
    processor = AutoProcessor.from_pretrained(tmp_path / "saved")
    assert processor.image_token_id == trainer.model.config.image_token_id
